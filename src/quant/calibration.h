// METHOD.md §2: windows of tokens at random offsets of a text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace d2q {

struct CalibrationSet {
  std::vector<int32_t> ids;  // [samples * sequence_length]
  int64_t sequence_length = 0;
  int64_t samples = 0;
  std::string hash;  // of the ids, in hex
};

/// The text of a file: as it is, or for .jsonl the "text" (or "content") of every line joined with
/// "\n\n". Throws Error{kNotFound, kCorrupt, kInvalidArgument} for a missing, malformed or empty
/// file.
std::string read_calibration_text(const std::string& path);

/// `samples` windows at offsets drawn with `seed`. Throws Error{kInvalidArgument} when the text has
/// no more than sequence_length tokens.
CalibrationSet sample_windows(const std::string& text, const std::string& subject,
                              const Tokenizer& tokenizer, int64_t samples, int64_t sequence_length,
                              uint64_t seed);

/// Windows for checking a result: from tokens that sample_windows() with the same arguments leaves
/// out, as far as there are any.
struct HeldOutWindows {
  std::vector<int32_t> ids;  // [n * length]
  int64_t length = 0;
  bool unseen = false;  // none of their tokens was calibrated on
};

/// `n_windows` windows of at most `max_length` tokens, spread over the text; shorter or seen ones
/// where calibration covers it all. The text must have been enough for sample_windows().
HeldOutWindows held_out_windows(const std::string& text, const Tokenizer& tokenizer,
                                int64_t samples, int64_t sequence_length, uint64_t seed,
                                int64_t n_windows, int64_t max_length);

/// Fills in the hash of ids that came from elsewhere.
CalibrationSet make_calibration_set(std::vector<int32_t> ids, int64_t samples,
                                    int64_t sequence_length);

}  // namespace d2q
