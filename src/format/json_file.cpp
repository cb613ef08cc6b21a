#include "format/json_file.h"

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

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxJsonBytes), path.string());
}

}  // namespace d2q
