#include "d2quant/language_model.h"

#include <algorithm>

#include "base/error.h"
#include "base/thread_pool.h"
#include "engine/generate.h"
#include "eval/perplexity.h"
#include "kernels/device.h"
#include "model/transformer.h"
#include "model/weight_source.h"
#include "text/tokenizer.h"

namespace d2q {

struct LanguageModel::State {
  State(const std::string& path, const LanguageModelOptions& options)
      : pool(options.threads),
        device(make_cpu_device(pool, options.isa)),
        source(open_model(path)),
        tokenizer(load_tokenizer(path)),
        transformer(*device, source, options.bf16_products ? DType::kBF16 : DType::kF32) {}

  ThreadPool pool;
  std::unique_ptr<Device> device;
  std::shared_ptr<const WeightSource> source;
  std::unique_ptr<Tokenizer> tokenizer;
  Transformer transformer;
};

LanguageModel::LanguageModel(const std::string& path, const LanguageModelOptions& options)
    : state_(std::make_unique<State>(path, options)) {}
LanguageModel::~LanguageModel() = default;
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;

std::vector<int32_t> LanguageModel::tokenize(std::string_view text, bool add_special) const {
  return state_->tokenizer->encode(text, add_special);
}

std::string LanguageModel::continue_text(std::string_view prompt,
                                         const ContinuationOptions& options,
                                         const std::function<bool(std::string_view)>& on_text) {
  if (options.max_tokens < 0)
    fail(ErrorCode::kInvalidArgument, "max_tokens: {} is negative", options.max_tokens);
  const ModelConfig& config = state_->source->config();
  GenerateOptions generate_options;
  generate_options.max_tokens = options.max_tokens;
  generate_options.sampling.temperature = options.temperature;
  generate_options.sampling.top_p = options.top_p;
  generate_options.sampling.seed = options.seed;
  generate_options.stop_tokens = config.eos_tokens;
  const auto ids = tokenize(prompt, /*add_special=*/true);
  const int64_t wanted = static_cast<int64_t>(ids.size()) +
                         std::clamp<int64_t>(options.max_tokens, 1, config.max_positions);
  const auto sequence =
      make_sequence(*state_->device, state_->transformer, std::min(wanted, config.max_positions));
  return generate(*sequence, *state_->tokenizer, ids, generate_options, on_text).text;
}

double LanguageModel::perplexity(std::string_view text, int64_t ctx) {
  WindowOptions options;
  options.ctx = ctx;
  return d2q::perplexity(*state_->device, state_->transformer, *state_->tokenizer, text, options,
                         nullptr)
      .perplexity;
}

}  // namespace d2q
