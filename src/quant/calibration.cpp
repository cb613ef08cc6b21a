#include "quant/calibration.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/rng.h"
#include "format/json_file.h"

namespace d2q {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 32;

std::string text_of_jsonl(const std::string& content, const std::string& path) {
  std::string text;
  for_each_json_line(content, path, [&](const nlohmann::json& record, const std::string& place) {
    const auto field = record.contains("text") ? record.find("text") : record.find("content");
    if (field == record.end() || !field->is_string())
      fail(ErrorCode::kCorrupt, "{} has no string \"text\" or \"content\"", place);
    if (!text.empty()) text += "\n\n";
    text += field->get_ref<const std::string&>();
  });
  return text;
}

}  // namespace

std::string read_calibration_text(const std::string& path) {
  std::string text = read_file(path, kMaxTextBytes);
  if (std::filesystem::path(path).extension() == ".jsonl") text = text_of_jsonl(text, path);
  if (text.empty()) fail(ErrorCode::kInvalidArgument, "{}: the calibration text is empty", path);
  return text;
}

CalibrationSet make_calibration_set(std::vector<int32_t> ids, int64_t samples,
                                    int64_t sequence_length) {
  D2Q_CHECK(static_cast<int64_t>(ids.size()) == samples * sequence_length, "{} ids for {}x{}",
            ids.size(), samples, sequence_length);
  CalibrationSet set;
  set.hash = hash_hex(std::as_bytes(std::span(ids)));
  set.ids = std::move(ids);
  set.samples = samples;
  set.sequence_length = sequence_length;
  return set;
}

CalibrationSet sample_windows(const std::string& text, const std::string& subject,
                              const Tokenizer& tokenizer, int64_t samples, int64_t sequence_length,
                              uint64_t seed) {
  const std::vector<int32_t> tokens = tokenizer.encode(text, false);
  const auto n_tokens = static_cast<int64_t>(tokens.size());
  if (n_tokens <= sequence_length) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} tokens are too few for windows of {}; give more text or a smaller --seq", subject,
         n_tokens, sequence_length);
  }
  Rng rng(seed);
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(samples * sequence_length));
  for (int64_t sample = 0; sample < samples; ++sample) {
    const auto offset =
        static_cast<int64_t>(rng.below(static_cast<uint64_t>(n_tokens - sequence_length)));
    ids.insert(ids.end(), tokens.begin() + offset, tokens.begin() + offset + sequence_length);
  }
  return make_calibration_set(std::move(ids), samples, sequence_length);
}

}  // namespace d2q
