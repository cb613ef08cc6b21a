#include "report/html_page.h"

#include <fmt/format.h>

namespace d2q {
namespace {

constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--bg:#fcfcfb;--fg:#1c1d1f;--dim:#5d6168;--line:#dcdee2;--card:#fff;--bad:#b3261e;
--c0:#2563c9;--c1:#c2410c;--c2:#15803d;--c3:#9333a8;--c4:#a16207;--c5:#0e7490;--c6:#be185d;--c7:#57534e}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--fg:#e8e8e6;--dim:#a0a5ad;--line:#363a41;--card:#1e2125;--bad:#ff8a80;
--c0:#7aa8ff;--c1:#ff9d66;--c2:#6ee79a;--c3:#dd9bf0;--c4:#f0cf65;--c5:#6cd5ea;--c6:#ff8fc0;--c7:#c9c3bd}}
*{box-sizing:border-box}
body{margin:0 auto;padding:16px;max-width:1180px;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2rem 0 .5rem}p{max-width:75ch}
.glance{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px;margin:0}
.glance div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
.glance dd{margin:0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}.glance dt{color:var(--dim);font-size:.85rem}
.glance div{display:flex;flex-direction:column-reverse;justify-content:flex-end}
.warning{border:2px solid var(--bad);border-radius:8px;padding:10px 14px;color:var(--bad);font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,360px),1fr));gap:14px}
figure{margin:0;min-width:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
figcaption{font-weight:600}.plot,.scroll{overflow-x:auto}
svg{display:block;width:100%;min-width:310px;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--fg)}svg .tick{fill:var(--dim);font-size:11px}svg .axis{stroke:var(--dim);fill:none}svg .grid{stroke:var(--line)}
svg g path{fill:none;stroke:currentColor;stroke-width:1.5}svg g circle,svg g rect{fill:currentColor}
svg g circle:hover,svg g rect:hover{stroke:var(--fg);stroke-width:2}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}
.legend{margin:.3rem 0 0;font-size:.85rem}.legend span{white-space:nowrap;margin-right:.8em}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;background:currentColor;margin-right:.35em}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--dim);font-weight:600}th:first-child,td:first-child{text-align:left}
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}.facts td:first-child{color:var(--dim);white-space:nowrap}
summary{cursor:pointer;margin:.6rem 0}footer{color:var(--dim);font-size:.85rem;margin-top:2rem}
@media print{body{max-width:none}svg{min-width:0}}
)";

}  // namespace

std::string escape_html(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    switch (byte) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default: {
        const size_t more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : byte >= 0xc2 ? 1 : 0;
        bool valid = byte < 0x80 ? byte >= 0x20 || byte == '\n' || byte == '\t'
                                 : more > 0 && byte <= 0xf4 && i + more < text.size();
        for (size_t k = 1; valid && k <= more; ++k)
          valid = (static_cast<unsigned char>(text[i + k]) & 0xc0u) == 0x80u;
        if (valid)
          result += text.substr(i, more + 1);
        else
          result += '?';
        if (valid) i += more;
      }
    }
  }
  return result;
}

std::string html_page(const std::string& title, const std::string& body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<title>{}</title><style>{}</style></head>\n<body>\n{}\n</body></html>\n",
      escape_html(title), kStyle, body);
}

std::string html_glance(const std::vector<std::pair<std::string, std::string>>& figures) {
  std::string html = "<dl class=\"glance\">";
  for (const auto& [name, value] : figures) {
    html += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape_html(name), escape_html(value));
  }
  return html + "</dl>\n";
}

std::string html_facts(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string html = "<div class=\"scroll\"><table class=\"facts\">";
  for (const auto& [name, value] : facts)
    html += fmt::format("<tr><td>{}</td><td>{}</td></tr>", escape_html(name), escape_html(value));
  return html + "</table></div>\n";
}

std::string html_table(const Table& table) {
  std::string html = "<div class=\"scroll\"><table><thead><tr>";
  for (const std::string& title : table.titles)
    html += fmt::format("<th>{}</th>", escape_html(title));
  html += "</tr></thead><tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (const TableCell& cell : row) {
      html +=
          fmt::format("<td title=\"{}\">{}</td>", escape_html(cell.exact), escape_html(cell.text));
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

}  // namespace d2q
