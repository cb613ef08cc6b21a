#include "report/table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace d2q {
namespace {

/// Characters that a terminal shows, of UTF-8.
size_t width(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0u) != 0x80u; }));
}

std::string escape_markdown(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|' || c == '\\') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result;
}

std::string quote_csv(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"') result += '"';
    result += c;
  }
  return result + "\"";
}

void check(const Table& table) {
  for (const auto& row : table.rows) {
    D2Q_CHECK(row.size() == table.titles.size(), "{} cells under {} titles", row.size(),
              table.titles.size());
  }
}

}  // namespace

std::string to_text(const Table& table) {
  check(table);
  std::vector<size_t> widths;
  for (size_t c = 0; c < table.titles.size(); ++c) {
    widths.push_back(width(table.titles[c]));
    for (const auto& row : table.rows) widths[c] = std::max(widths[c], width(row[c].text));
  }
  std::string result;
  const auto add = [&](size_t c, const std::string& text) {
    const std::string padding(widths[c] - width(text), ' ');
    if (c > 0) result += "  ";
    result += c == 0 ? text + padding : padding + text;
    if (c + 1 == widths.size()) result += '\n';
  };
  for (size_t c = 0; c < widths.size(); ++c) add(c, table.titles[c]);
  for (const auto& row : table.rows)
    for (size_t c = 0; c < widths.size(); ++c) add(c, row[c].text);
  return result;
}

std::string to_markdown(const Table& table) {
  check(table);
  std::string result = "|";
  std::string rule = "|";
  for (size_t c = 0; c < table.titles.size(); ++c) {
    result += fmt::format(" {} |", escape_markdown(table.titles[c]));
    rule += c == 0 ? "---|" : "---:|";
  }
  result += "\n" + rule + "\n";
  for (const auto& row : table.rows) {
    result += "|";
    for (const TableCell& cell : row) result += fmt::format(" {} |", escape_markdown(cell.text));
    result += "\n";
  }
  return result;
}

std::string to_csv(const Table& table) {
  check(table);
  std::string result;
  const auto end_cell = [&](size_t c) { result += c + 1 == table.titles.size() ? "\r\n" : ","; };
  for (size_t c = 0; c < table.titles.size(); ++c) {
    result += quote_csv(table.titles[c]);
    end_cell(c);
  }
  for (const auto& row : table.rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      result += quote_csv(row[c].exact);
      end_cell(c);
    }
  }
  return result;
}

}  // namespace d2q
