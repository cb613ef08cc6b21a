// JSON from files, with limits: the text is not trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace d2q {

inline constexpr uint64_t kMaxJsonBytes = uint64_t{64} << 20;
inline constexpr int kMaxJsonDepth = 64;

/// Throws Error{kCorrupt} naming `subject` and the place when `text` is not JSON or nests deeper
/// than kMaxJsonDepth.
nlohmann::json parse_json(std::string_view text, const std::string& subject);

/// Calls body(record, place) for every line of `content` that is not blank; `place` is "SUBJECT:
/// line N". Throws Error{kCorrupt} naming the place of a line that is not a JSON object.
void for_each_json_line(
    std::string_view content, const std::string& subject,
    const std::function<void(const nlohmann::json& record, const std::string& place)>& body);

/// Throws Error{kNotFound, kIo, kCorrupt}.
nlohmann::json read_json_file(const std::filesystem::path& path);

}  // namespace d2q
