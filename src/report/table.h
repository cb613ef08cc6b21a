// A table of text and numbers, for terminals, Markdown and spreadsheets.
#pragma once

#include <string>
#include <vector>

namespace d2q {

struct TableCell {
  std::string text;   // as shown
  std::string exact;  // for CSV: the number unrounded, or the text
};

struct Table {
  std::vector<std::string> titles;
  std::vector<std::vector<TableCell>> rows;  // as many cells as titles; the first is a name
};

/// Columns aligned with spaces, the first to the left.
std::string to_text(const Table& table);
std::string to_markdown(const Table& table);
/// RFC 4180: commas, quotes where needed, exact values.
std::string to_csv(const Table& table);

}  // namespace d2q
