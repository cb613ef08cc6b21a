#include "linalg/rotation.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kColumnsPerTask = 16;

/// Gram-Schmidt on Gaussian rows, twice for orthogonality to rounding; m is small (the odd part of
/// a width, 9 for 576).
std::vector<double> random_orthogonal(int64_t m, Rng& rng) {
  std::vector<double> q(static_cast<size_t>(m * m));
  for (int64_t i = 0; i < m; ++i) {
    double* row = q.data() + i * m;
    for (int64_t j = 0; j < m; ++j) row[j] = rng.gaussian();
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t p = 0; p < i; ++p) {
        const double* other = q.data() + p * m;
        double dot = 0.0;
        for (int64_t j = 0; j < m; ++j) dot += row[j] * other[j];
        for (int64_t j = 0; j < m; ++j) row[j] -= dot * other[j];
      }
    }
    double norm = 0.0;
    for (int64_t j = 0; j < m; ++j) norm += row[j] * row[j];
    norm = std::sqrt(norm);
    for (int64_t j = 0; j < m; ++j) row[j] /= norm;
  }
  return q;
}

}  // namespace

Rotation::Rotation(int64_t dimension, int64_t block, uint64_t seed)
    : dimension_(dimension),
      block_(block),
      hadamard_(block & -block),
      odd_(block / (block & -block)) {
  D2Q_CHECK(dimension > 0 && block > 0 && dimension % block == 0, "block {} of {}", block,
            dimension);
  Rng rng(seed);
  signs_.resize(static_cast<size_t>(block));
  for (double& sign : signs_) sign = (rng.next_u64() & 1u) != 0 ? 1.0 : -1.0;
  odd_part_ = odd_ == 1 ? std::vector<double>{1.0} : random_orthogonal(odd_, rng);
}

Rotation Rotation::block_diagonal(int64_t dimension, int64_t block, uint64_t seed) {
  D2Q_CHECK((block & (block - 1)) == 0, "block {} is not a power of two", block);
  return {dimension, block, seed};
}

Rotation Rotation::full(int64_t dimension, uint64_t seed) { return {dimension, dimension, seed}; }

int64_t Rotation::block_for(int64_t dimension, int64_t group_size) {
  int64_t block = 1;
  while (block * 2 <= group_size && dimension % (block * 2) == 0) block *= 2;
  return block;
}

Rotation Rotation::keeping_mean() const {
  Rotation result = *this;
  result.keeps_mean_ = true;
  // R·(I − 2 v vᵀ) keeps 1 when the reflection exchanges 1 and Rᵀ·1, so v is along their
  // difference.
  std::vector<double> image(static_cast<size_t>(dimension_), 1.0);
  rotate_row(image.data());
  result.reflection_.assign(static_cast<size_t>(block_), 0.0);
  double norm = 0.0;
  for (size_t i = 0; i < result.reflection_.size(); ++i) {
    result.reflection_[i] = image[i] - 1.0;
    norm += result.reflection_[i] * result.reflection_[i];
  }
  // Below that, R keeps the ones already.
  if (norm < 1e-20 * static_cast<double>(block_)) {
    result.reflection_.clear();
    return result;
  }
  for (double& v : result.reflection_) v /= std::sqrt(norm);
  return result;
}

void Rotation::rotate_row(double* row) const {
  const double norm = 1.0 / std::sqrt(static_cast<double>(hadamard_));
  std::vector<double> mixed(static_cast<size_t>(odd_));
  for (int64_t begin = 0; begin < dimension_; begin += block_) {
    double* v = row + begin;  // seen as [hadamard_, odd_]
    for (int64_t i = 0; i < block_; ++i) v[i] *= signs_[static_cast<size_t>(i)] * norm;
    for (int64_t half = odd_; half < block_; half *= 2) {
      for (int64_t i = 0; i < block_; i += 2 * half) {
        for (int64_t j = i; j < i + half; ++j) {
          const double a = v[j];
          const double b = v[j + half];
          v[j] = a + b;
          v[j + half] = a - b;
        }
      }
    }
    for (int64_t i = 0; odd_ > 1 && i < hadamard_; ++i) {
      double* part = v + i * odd_;
      std::fill(mixed.begin(), mixed.end(), 0.0);
      for (int64_t p = 0; p < odd_; ++p) {
        for (int64_t j = 0; j < odd_; ++j) {
          mixed[static_cast<size_t>(j)] += part[p] * odd_part_[static_cast<size_t>(p * odd_ + j)];
        }
      }
      std::copy(mixed.begin(), mixed.end(), part);
    }
    double dot = 0.0;
    for (size_t i = 0; i < reflection_.size(); ++i) dot += v[i] * reflection_[i];
    for (size_t i = 0; i < reflection_.size(); ++i) v[i] -= 2.0 * dot * reflection_[i];
  }
}

void Rotation::rotate_rows(Matrix<float>& matrix, ThreadPool& pool) const {
  D2Q_CHECK(matrix.cols() == dimension_, "{} columns, rotation of {}", matrix.cols(), dimension_);
  const int64_t n_tasks = (matrix.rows() + kRowsPerTask - 1) / kRowsPerTask;
  pool.parallel_for(n_tasks, [&](int64_t task, int) {
    std::vector<double> buffer(static_cast<size_t>(dimension_));
    const int64_t end = std::min(matrix.rows(), (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      float* row = matrix.row(r);
      std::copy(row, row + dimension_, buffer.begin());
      rotate_row(buffer.data());
      for (int64_t j = 0; j < dimension_; ++j)
        row[j] = static_cast<float>(buffer[static_cast<size_t>(j)]);
    }
  });
}

void Rotation::rotate_columns(Matrix<float>& matrix, ThreadPool& pool) const {
  D2Q_CHECK(matrix.rows() == dimension_, "{} rows, rotation of {}", matrix.rows(), dimension_);
  const int64_t n_tasks = (matrix.cols() + kColumnsPerTask - 1) / kColumnsPerTask;
  pool.parallel_for(n_tasks, [&](int64_t task, int) {
    const int64_t begin = task * kColumnsPerTask;
    const int64_t count = std::min(kColumnsPerTask, matrix.cols() - begin);
    std::vector<double> buffer(static_cast<size_t>(dimension_ * count));
    for (int64_t i = 0; i < dimension_; ++i) {
      for (int64_t c = 0; c < count; ++c)
        buffer[static_cast<size_t>(c * dimension_ + i)] = matrix(i, begin + c);
    }
    for (int64_t c = 0; c < count; ++c) rotate_row(buffer.data() + c * dimension_);
    for (int64_t i = 0; i < dimension_; ++i) {
      for (int64_t c = 0; c < count; ++c) {
        matrix(i, begin + c) = static_cast<float>(buffer[static_cast<size_t>(c * dimension_ + i)]);
      }
    }
  });
}

}  // namespace d2q
