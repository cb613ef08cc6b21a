// A model ready to use: open, tokenize, continue a prompt, measure.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace d2q {

struct LanguageModelOptions {
  int threads = 0;             ///< 0 = one per core; results do not depend on it
  std::string isa = "auto";    ///< "auto", "scalar", "avx2" or "avx512"
  bool bf16_products = false;  ///< dense products in bf16 with f32 sums
};

struct ContinuationOptions {
  int64_t max_tokens = 128;  ///< at least 0; the model's context ends the text, too
  double temperature = 0.8;  ///< 0 = always the most likely token
  double top_p = 0.95;
  uint64_t seed = 0;
};

/// A model on the CPU. Used from one thread at a time. Wrong files and arguments throw an exception
/// derived from std::runtime_error whose what() is one sentence. A signal handler of the program
/// has to run on a stack of its own (sigaltstack, SA_ONSTACK): dense products use the stack pointer
/// for something else.
class LanguageModel {
 public:
  /// `path`: a Hugging Face folder, a GGUF file or a d2quant folder.
  explicit LanguageModel(const std::string& path, const LanguageModelOptions& options = {});
  ~LanguageModel();
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;

  /// Token ids of `text`; `add_special` adds what the model's tokenizer puts around a text.
  std::vector<int32_t> tokenize(std::string_view text, bool add_special) const;

  /// The text that follows `prompt`, UTF-8. `on_text`, when given, sees each piece as it comes and
  /// returns false to stop.
  std::string continue_text(std::string_view prompt, const ContinuationOptions& options = {},
                            const std::function<bool(std::string_view piece)>& on_text = nullptr);

  /// Perplexity over windows of `ctx` tokens without overlap, no BOS, the remainder dropped.
  double perplexity(std::string_view text, int64_t ctx);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace d2q
