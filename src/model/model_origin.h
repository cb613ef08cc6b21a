// What a model's files say about where it comes from.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace d2q {

struct ModelOrigin {
  std::string name;                    // what the files call it, else the file's or folder's name
  std::optional<std::string> license;  // as the files write it, e.g. "apache-2.0"
  std::vector<std::filesystem::path> license_files;  // LICENSE, NOTICE and the like, in a folder
};

/// From a GGUF file's general.* keys, or a folder's README.md (its YAML heading) and config.json.
/// Throws what opening a GGUF file does.
ModelOrigin read_model_origin(const std::filesystem::path& model);

}  // namespace d2q
