// How fast a model decodes: whole steps, their stages one by one, and what the device's memory
// could do at best.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace d2q {

struct DecodeBenchOptions {
  int64_t batch = 1;      // sequences
  int64_t context = 128;  // tokens that each has already
  int64_t steps = 64;     // timed ones
  CacheType cache = CacheType::kF16;
};

struct DecodeStageTime {
  std::string name;
  double seconds = 0.0;  // of all layers
};

struct DecodeBenchResult {
  double step_seconds = 0.0;
  double tokens_per_second = 0.0;  // of all sequences together
  int64_t weight_bytes = 0;        // that a step reads
  int64_t cache_bytes = 0;
  double copy_bytes_per_second = 0.0;   // read and written, of a large copy in the device's memory
  std::vector<DecodeStageTime> stages;  // each by itself, so their sum is not the step's time

  double bytes_per_second() const {
    return static_cast<double>(weight_bytes + cache_bytes) / step_seconds;
  }
};

/// Keys and values of the context are random. Throws Error{kInvalidArgument} for options below 1,
/// Error{kUnsupported} for models that Decoder does not support.
DecodeBenchResult bench_decode(Device& device, Transformer& transformer,
                               const DecodeBenchOptions& options);

}  // namespace d2q
