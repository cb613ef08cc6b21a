// One self-contained page: its style inside, no scripts, no network; light or dark as the reader's
// system asks, readable on a phone.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/table.h"

namespace d2q {

/// For text and attribute values; malformed UTF-8 and control characters become "?".
std::string escape_html(const std::string& text);

/// A whole document; `body` is HTML.
std::string html_page(const std::string& title, const std::string& body);

/// The figures at the top: a value with its name below each.
std::string html_glance(const std::vector<std::pair<std::string, std::string>>& figures);

/// Two columns, names and values.
std::string html_facts(const std::vector<std::pair<std::string, std::string>>& facts);

std::string html_table(const Table& table);

}  // namespace d2q
