#include "quant/self_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "model/transformer.h"

namespace d2q {
namespace {

/// One draw from softmax(logits).
int32_t draw(const std::vector<float>& logits, Rng& rng) {
  float largest = logits[0];
  for (const float value : logits) largest = std::max(largest, value);
  double total = 0.0;
  for (const float value : logits) total += std::exp(static_cast<double>(value - largest));
  double left = rng.uniform() * total;
  for (size_t i = 0; i < logits.size(); ++i) {
    left -= std::exp(static_cast<double>(logits[i] - largest));
    if (left < 0.0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(logits.size() - 1);
}

}  // namespace

CalibrationSet generate_calibration_set(Device& device, std::shared_ptr<const WeightSource> source,
                                        int64_t samples, int64_t sequence_length, uint64_t seed,
                                        DType products, const ProgressSink& progress) {
  const ModelConfig config = source->config();
  Transformer model(device, std::move(source), products);
  KvCache cache(device, config, sequence_length);
  Rng rng(seed);
  std::vector<float> logits(static_cast<size_t>(config.vocab_size));
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(samples * sequence_length));
  for (int64_t sample = 0; sample < samples; ++sample) {
    if (progress)
      progress(
          {"calibrate", sample, samples, fmt::format("writing window {}/{}", sample + 1, samples)});
    cache.truncate(0);
    int32_t token = config.bos_token
                        ? *config.bos_token
                        : static_cast<int32_t>(rng.below(static_cast<uint64_t>(config.vocab_size)));
    for (int64_t position = 0; position < sequence_length; ++position) {
      ids.push_back(token);
      if (position + 1 == sequence_length) break;
      const int32_t step[] = {token};
      device.download(model.decode(step, cache), logits.data());
      token = draw(logits, rng);
    }
  }
  return make_calibration_set(std::move(ids), samples, sequence_length);
}

}  // namespace d2q
