// The README.md of a packed folder: what the model is, how it was made, what it measures, how to
// run it. Its heading is the YAML that model hubs read.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace d2q {

struct ModelCardFacts {
  std::string name;  // of the packed folder
  std::string base_model;
  std::optional<std::string> license;
  std::vector<std::string> license_files;  // names of those in the folder
};

/// `report`: what quantize --json writes, its check ("sanity") included where there was one.
/// Nothing that differs between two runs of the same settings goes in.
std::string make_model_card(const ModelCardFacts& facts, const nlohmann::json& report);

}  // namespace d2q
