// Test support, included by tests only: the files that tools/make_tokenizer_golden.py makes.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "format/json_file.h"

namespace d2q::testing {

inline std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(D2Q_TEST_DATA) / name;
}

inline nlohmann::json golden_json(const std::string& name) {
  return read_json_file(golden_path(name));
}

inline std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

}  // namespace d2q::testing
