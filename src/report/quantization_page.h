// The page that quantize --report writes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace d2q {

/// `report`: what quantize --json writes, its check ("sanity") included where there was one.
std::string make_quantization_page(const nlohmann::json& report);

}  // namespace d2q
