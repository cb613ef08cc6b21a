// How long quantization takes at a model's real sizes, measured on a few blocks of random weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "kernels/device_group.h"
#include "model/config.h"
#include "quant/options.h"
#include "quant/stream_placement.h"

namespace d2q {

/// One block's seconds. Stages are BlockQuantizer's and "pack".
struct BlockSeconds {
  double total = 0.0;
  std::map<std::string, double> stages;
};

struct QuantizeBenchResult {
  std::vector<BlockSeconds> blocks;
  double setup_seconds = 0.0;        // the streams' first tokens and memory
  double floor_flops = 0.0;          // counted for one block (QuantizePlan)
  double product_rate = 0.0;         // FLOP/s of one large dense product in the streams' precision
  double projected_seconds = 0.0;    // the whole model: blocks after the first stand for the rest
  int64_t peak_memory_bytes = 0;     // of the device; on a CPU of the whole process
  int64_t planned_memory_bytes = 0;  // QuantizePlan's formula for the whole model
  StreamPlacement placement;         // of the activations
  /// Seconds of a block that stands for the others.
  double block_seconds() const;
};

/// Quantizes the first `n_blocks` blocks of random weights in the shape of `config` from random
/// tokens, and writes nothing. options.calibration is not read. Throws as quantize() does.
QuantizeBenchResult bench_quantize(const ModelConfig& config, const QuantizeOptions& options,
                                   int64_t n_blocks, DeviceGroup& group, ThreadPool& pool,
                                   const ProgressSink& progress);

}  // namespace d2q
