// The layer objectives of METHOD.md §8 are sums of quadratic forms over rows.
#pragma once

#include "base/matrix.h"
#include "base/thread_pool.h"

namespace d2q {

/// Σ_i left_i · (right_i M), rows of left and right [rows, n], M [n, n]. f32 products, sums across
/// tasks in f64; 2·rows·n² flops; same result on any thread count.
double quadratic_form(const Matrix<float>& left, const Matrix<float>& m, const Matrix<float>& right,
                      ThreadPool& pool);

}  // namespace d2q
