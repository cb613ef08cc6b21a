// Orthogonal rotations of the residual stream (METHOD.md §1): R = blockdiag(Q, ..., Q), applied in
// f64.
#pragma once

#include <cstdint>
#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"

namespace d2q {

/// R = diag(s)·(H ⊗ O) in every block: s random signs, H the normalised Walsh-Hadamard matrix of
/// size 2^k, O a random orthogonal matrix of size m (1 where the block is a power of two). Never
/// stored densely: a row costs O(block·(k + m)).
class Rotation {
 public:
  /// The same `block`-sized randomized Hadamard along the diagonal; block must be a power of two
  /// that divides dimension (InternalError otherwise). block_for() gives the one that METHOD.md §1
  /// asks for.
  static Rotation block_diagonal(int64_t dimension, int64_t block, uint64_t seed);
  /// One full-width rotation for any dimension = 2^k · m, m odd.
  static Rotation full(int64_t dimension, uint64_t seed);
  /// The largest power of two that is <= group_size and divides dimension.
  static int64_t block_for(int64_t dimension, int64_t group_size);

  /// The same followed by the reflection, in every block, that makes R keep the vector of ones: a
  /// norm that subtracts the mean then commutes with R, as one that does not commutes with any.
  Rotation keeping_mean() const;

  bool keeps_mean() const noexcept { return keeps_mean_; }

  int64_t dimension() const noexcept { return dimension_; }
  int64_t block() const noexcept { return block_; }

  /// row[dimension] ← row·R.
  void rotate_row(double* row) const;
  /// matrix [n, dimension] ← matrix·R, rows in parallel.
  void rotate_rows(Matrix<float>& matrix, ThreadPool& pool) const;
  /// matrix [dimension, n] ← Rᵀ·matrix, columns in parallel.
  void rotate_columns(Matrix<float>& matrix, ThreadPool& pool) const;

 private:
  Rotation(int64_t dimension, int64_t block, uint64_t seed);

  int64_t dimension_;
  int64_t block_;
  int64_t hadamard_;              // 2^k
  int64_t odd_;                   // m = block / 2^k
  std::vector<double> signs_;     // [block]
  std::vector<double> odd_part_;  // [m, m] orthogonal
  bool keeps_mean_ = false;
  // [block] v of the reflection I − 2 v vᵀ, |v| = 1; empty for none.
  std::vector<double> reflection_;
};

}  // namespace d2q
