#include "quant/calibration.h"

#include <algorithm>
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

/// Where sample_windows() takes its windows from.
std::vector<int64_t> window_offsets(int64_t n_tokens, int64_t samples, int64_t sequence_length,
                                    uint64_t seed) {
  Rng rng(seed);
  std::vector<int64_t> offsets;
  for (int64_t sample = 0; sample < samples; ++sample) {
    offsets.push_back(
        static_cast<int64_t>(rng.below(static_cast<uint64_t>(n_tokens - sequence_length))));
  }
  return offsets;
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
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(samples * sequence_length));
  for (const int64_t offset : window_offsets(n_tokens, samples, sequence_length, seed)) {
    ids.insert(ids.end(), tokens.begin() + offset, tokens.begin() + offset + sequence_length);
  }
  return make_calibration_set(std::move(ids), samples, sequence_length);
}

HeldOutWindows held_out_windows(const std::string& text, const Tokenizer& tokenizer,
                                int64_t samples, int64_t sequence_length, uint64_t seed,
                                int64_t n_windows, int64_t max_length) {
  // Shorter windows would compare little but how the models begin.
  constexpr int64_t kMinLength = 64;
  const std::vector<int32_t> tokens = tokenizer.encode(text, false);
  const auto n_tokens = static_cast<int64_t>(tokens.size());
  D2Q_CHECK(n_tokens > sequence_length && n_windows > 0 && max_length > 1,
            "{} windows of {} from {} tokens", n_windows, max_length, n_tokens);
  std::vector<bool> seen(tokens.size(), false);
  for (const int64_t offset : window_offsets(n_tokens, samples, sequence_length, seed))
    std::fill_n(seen.begin() + offset, sequence_length, true);
  HeldOutWindows result;
  for (result.length = max_length; result.length >= kMinLength && !result.unseen;) {
    std::vector<int64_t> starts;
    int64_t run = 0;
    for (int64_t t = 0; t < n_tokens; ++t) {
      run = seen[static_cast<size_t>(t)] ? 0 : run + 1;
      if (run == result.length) {
        starts.push_back(t + 1 - run);
        run = 0;
      }
    }
    result.unseen = static_cast<int64_t>(starts.size()) >= n_windows;
    if (!result.unseen) {
      result.length /= 2;
      continue;
    }
    for (int64_t i = 0; i < n_windows; ++i) {
      const auto index = static_cast<int64_t>(starts.size()) * i / n_windows;
      const auto begin = tokens.begin() + starts[static_cast<size_t>(index)];
      result.ids.insert(result.ids.end(), begin, begin + result.length);
    }
  }
  if (result.unseen) return result;
  // Calibration covers the text: windows spread over it then, as many as fit.
  result.length = std::min(max_length, n_tokens);
  n_windows = std::min(n_windows, n_tokens / result.length);
  for (int64_t i = 0; i < n_windows; ++i) {
    const auto begin =
        tokens.begin() + (n_tokens - result.length) * i / std::max<int64_t>(1, n_windows - 1);
    result.ids.insert(result.ids.end(), begin, begin + result.length);
  }
  return result;
}

}  // namespace d2q
