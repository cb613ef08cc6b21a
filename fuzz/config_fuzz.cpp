// Any bytes as a model configuration, GGUF (by its first bytes) or JSON: an Error, or a
// configuration whose config.json gives the same again.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "format/json_file.h"
#include "input_file.h"
#include "model/config.h"

namespace {

d2q::ModelConfig read_config(std::string_view text, const d2q::fuzz::InputFile& input) {
  if (text.starts_with("GGUF")) return d2q::config_from_gguf(d2q::GgufFile(input.path()));
  const nlohmann::json json = d2q::parse_json(text, "input");
  return d2q::config_from_hf(json, json, "input");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const d2q::fuzz::InputFile input(data, size);
  nlohmann::json written;
  try {
    written = d2q::config_to_hf(read_config({reinterpret_cast<const char*>(data), size}, input));
  } catch (const d2q::Error&) {
    return 0;
  }
  if (d2q::config_to_hf(d2q::config_from_hf(written, nullptr, "written")) != written) std::abort();
  return 0;
}
