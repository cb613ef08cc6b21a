// Single-threaded matrix products, the building blocks of every dense operation of the CPU device.
// All matrices are row-major; op(a) is [m, k], op(b) is [k, n], c is [m, n]. A leading dimension is
// the distance between stored rows, in elements. Safe to call from any number of threads at once.
#pragma once

#include <cstdint>

#include "base/half.h"

namespace d2q {

/// True when the CPU and the operating system have AVX-512 BF16 instructions.
bool cpu_has_bf16_products();

/// c = op(a) op(b) + beta c in f32. a is stored [m, k], or [k, m] when trans_a; b likewise [k, n]
/// or [n, k].
void gemm_f32(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

/// The same with bf16 inputs: products exact, sums in f32 (pairs of products are summed first).
/// beta is 0 or 1. Without cpu_has_bf16_products() it runs as gemm_bf16_widened().
void gemm_bf16(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const BFloat16* a,
               int64_t lda, const BFloat16* b, int64_t ldb, float beta, float* c, int64_t ldc);

/// gemm_bf16 by widening slices along k to f32, for CPUs without bf16 instructions.
void gemm_bf16_widened(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                       const BFloat16* a, int64_t lda, const BFloat16* b, int64_t ldb, float beta,
                       float* c, int64_t ldc);

}  // namespace d2q
