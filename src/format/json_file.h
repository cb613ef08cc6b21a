// JSON from files, with limits: the text is not trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace d2q {

inline constexpr uint64_t kMaxJsonBytes = uint64_t{64} << 20;
inline constexpr int kMaxJsonDepth = 64;

/// Throws Error{kCorrupt} naming `subject` and the place when `text` is not JSON or nests deeper
/// than kMaxJsonDepth.
nlohmann::json parse_json(std::string_view text, const std::string& subject);

/// Throws Error{kNotFound, kIo, kCorrupt}.
nlohmann::json read_json_file(const std::filesystem::path& path);

}  // namespace d2q
