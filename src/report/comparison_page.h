// The page that compare --report writes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace d2q {

/// `models`: the array that make_comparison_table() takes.
std::string make_comparison_page(const nlohmann::json& models);

}  // namespace d2q
