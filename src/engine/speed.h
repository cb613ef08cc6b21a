// How fast a model decodes and reads prompts, beside what the machine could do at most.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/device.h"
#include "model/transformer.h"

namespace d2q {

/// Repeated measurements of one thing.
struct Samples {
  std::vector<double> values;
  double median() const;
  double lowest() const;
  double highest() const;
  double deviation() const;  // standard, of the sample; 0 of a single value
};

struct SpeedOptions {
  int64_t tokens = 64;  // decoded, or of the prompt
  int64_t past = 0;     // tokens already in the cache
  CacheType cache = CacheType::kF16;
  int repeats = 5;
};

struct ModelSpeed {
  Samples seconds;               // of options.tokens
  int64_t bytes_per_token = 0;   // weights that decoding a token reads
  double flops_per_token = 0.0;  // of the linears (without the head) that a prompt's token takes
  Samples read_bandwidth;        // bytes/s of the CPU's read loop over as many bytes; decode only
  Samples gemm_flops;            // operations/s of the CPU's plain products; prefill only
};

/// Decodes options.tokens tokens one at a time, after options.past others; a read loop over as many
/// bytes as a token's weights, on the pool's threads, runs in turns with it.
ModelSpeed measure_decode(Device& device, ThreadPool& pool, Transformer& transformer,
                          const SpeedOptions& options);

/// Reads prompts of options.tokens tokens. With `with_products`, plain products in `precision` on
/// the pool's threads run in turns with it.
ModelSpeed measure_prefill(Device& device, ThreadPool& pool, Transformer& transformer,
                           const SpeedOptions& options, DType precision, bool with_products);

}  // namespace d2q
