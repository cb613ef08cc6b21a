// How fast the packed kernels of each instruction set are, without a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "engine/speed.h"
#include "kernels/device.h"

namespace d2q {

struct KernelSpeedOptions {
  std::vector<int64_t> tokens = {1};  // rows of x
  int64_t megabytes = 64;             // of packed weights; more than the caches hold
  int64_t columns = 8192;
  int64_t group_size = 128;
  ActivationBits activations = ActivationBits::k16;
  DType precision = DType::kF32;  // of many tokens' products
  int repeats = 10;
};

/// One format and number of tokens under one instruction set.
struct KernelSpeed {
  std::string format;  // "planes 2", "uniform 4", ...
  std::string isa;
  int64_t tokens = 0;
  int64_t bytes = 0;     // of codes and scales
  int64_t weights = 0;   // rows * columns
  Samples seconds;       // of a product
  Samples read_seconds;  // of a read loop over the same bytes
  Samples gemm_flops;    // operations/s of plain products in options.precision
};

/// Every format and vector instruction set of this machine. A format's products and yardsticks run
/// in turns, so that a busy machine disturbs all alike.
std::vector<KernelSpeed> measure_kernels(ThreadPool& pool, const KernelSpeedOptions& options);

}  // namespace d2q
