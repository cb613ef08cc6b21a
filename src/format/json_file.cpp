#include "format/json_file.h"

#include <algorithm>

#include "base/error.h"
#include "base/file_io.h"

namespace d2q {

nlohmann::json parse_json(std::string_view text, const std::string& subject) {
  const auto limit_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxJsonDepth) {
      fail(ErrorCode::kCorrupt, "{}: JSON nested deeper than {} levels", subject, kMaxJsonDepth);
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, limit_depth);
  } catch (const nlohmann::json::parse_error& error) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON at byte {}; incomplete download?", subject,
         error.byte);
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON: {}", subject, error.what());
  }
}

void for_each_json_line(
    std::string_view content, const std::string& subject,
    const std::function<void(const nlohmann::json& record, const std::string& place)>& body) {
  int64_t number = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view line = content.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}: line {}", subject, number);
    const nlohmann::json record = parse_json(line, place);
    if (!record.is_object()) fail(ErrorCode::kCorrupt, "{} is not a JSON object", place);
    body(record, place);
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxJsonBytes), path.string());
}

}  // namespace d2q
