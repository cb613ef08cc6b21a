#include "engine/decode_bench.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/rng.h"

namespace d2q {
namespace {

/// Warm-up: the first run is ordinary, the second may be recorded.
constexpr int64_t kWarmUp = 3;
constexpr int64_t kCopyBytes = 256 << 20;
constexpr int kCopies = 8;

template <typename Work>
double seconds_of(Device& device, int64_t times, const Work& work) {
  for (int64_t i = 0; i < kWarmUp; ++i) work();
  device.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < times; ++i) work();
  device.synchronize();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count() / static_cast<double>(times);
}

double measure_copy(Device& device) {
  const Tensor from = device.allocate(1024, kCopyBytes / 4096, DType::kF32);
  const Tensor to = device.allocate(from.rows(), from.cols(), DType::kF32);
  device.fill_zero(from);
  const double seconds = seconds_of(device, kCopies, [&] { device.convert(from, to); });
  return 2.0 * static_cast<double>(kCopyBytes) / seconds;
}

void fill_cache(Device& device, const ModelConfig& config, const DecoderCache& cache) {
  Rng rng(3);
  const Tensor& first = cache.keys.front();
  const int64_t width = config.n_kv_heads * config.head_dim;
  std::vector<float> values(static_cast<size_t>(first.rows() * width));
  // Uniform in [-1, 1): cheap to make for long contexts.
  for (float& value : values) value = static_cast<float>(2.0 * rng.uniform() - 1.0);
  const Tensor random = device.allocate(first.rows(), width, DType::kF32);
  device.upload(values.data(), random);
  for (const auto* tensors : {&cache.keys, &cache.values}) {
    for (const Tensor& tensor : *tensors) device.store_cache(random, config.head_dim, tensor);
  }
}

}  // namespace

DecodeBenchResult bench_decode(Device& device, Transformer& transformer,
                               const DecodeBenchOptions& options) {
  const ModelConfig& config = transformer.config();
  if (options.batch < 1 || options.context < 1 || options.steps < 1) {
    fail(ErrorCode::kInvalidArgument,
         "decoding benchmark: batch {}, context {} and {} steps; each must be at least 1",
         options.batch, options.context, options.steps);
  }
  if (!Decoder::supports(config)) {
    fail(ErrorCode::kUnsupported,
         "decoding benchmark: family '{}' with its positions is not decoded in recorded steps",
         config.family);
  }
  DecodeBenchResult result;
  result.copy_bytes_per_second = measure_copy(device);
  const DecoderCache cache = make_decoder_cache(
      device, config, options.batch, options.context + kWarmUp + options.steps, options.cache);
  fill_cache(device, config, cache);
  const auto decoder = transformer.make_decoder(cache);
  Rng rng(4);
  std::vector<int32_t> tokens, positions;
  for (int64_t i = 0; i < options.batch; ++i) {
    tokens.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(config.vocab_size))));
    positions.push_back(static_cast<int32_t>(options.context));
  }
  decoder->set(tokens, positions);
  result.step_seconds = seconds_of(device, options.steps, [&] { decoder->step(); });
  result.tokens_per_second = static_cast<double>(options.batch) / result.step_seconds;
  result.weight_bytes = transformer.decoded_bytes();
  // What the context has of every row, keys and values.
  result.cache_bytes = 2 * options.batch * options.context * config.n_layers *
                       cache.keys.front().cols() * size_of(cache.keys.front().dtype());
  for (const DecodeStage stage : kDecodeStages) {
    decoder->set(tokens, positions);  // the steps have moved on
    const auto repeated = decoder->stage(stage);
    const double seconds = seconds_of(device, options.steps, [&] { repeated->run(); });
    result.stages.push_back({std::string(to_string(stage)), seconds});
  }
  return result;
}

}  // namespace d2q
