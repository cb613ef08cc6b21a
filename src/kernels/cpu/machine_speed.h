// What this machine can do at most, measured: the yardsticks of `d2quant bench`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "kernels/tensor.h"

namespace d2q {

/// Seconds that all threads take to read `bytes` once, in tasks of 256 KiB.
double read_seconds(ThreadPool& pool, std::span<const std::byte> bytes);

/// Floating-point operations a second of the products that the CPU device is built on, every thread
/// on matrices of its own that stay in its caches. precision: kF32 or kBF16.
double gemm_flops(ThreadPool& pool, DType precision);

}  // namespace d2q
