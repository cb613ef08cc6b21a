// METHOD.md §5.2 for one row, spread over kLanes threads. The codes are never kept: they follow
// from the values, c and the r that they were assigned with.
#pragma once

#include "kernels/cuda/solver_math.cuh"

namespace d2q::cuda {

/// How a row's codes follow from its values: by the nearest level of r, or by the greedy start,
/// sign of the residual plane after plane.
template <int kPlanes>
struct PlaneCoder {
  float r[kPlanes];
  float level[1 << kPlanes];
  bool greedy = false;

  __device__ void set_levels() {
#pragma unroll
    for (int code = 0; code < 1 << kPlanes; ++code) {
      float sum = 0.0f;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) sum += (code >> p & 1) != 0 ? r[p] : -r[p];
      level[code] = sum;
    }
  }
  __device__ int code_of(float x, float c) const {
    int code = 0;
    if (greedy) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        const bool positive = x >= 0.0f;
        code |= positive ? 1 << p : 0;
        x -= positive ? c * r[p] : -c * r[p];
      }
      return code;
    }
    float distance = fabsf(x - c * level[0]);
#pragma unroll
    for (int k = 1; k < 1 << kPlanes; ++k) {
      const float d = fabsf(x - c * level[k]);
      code = d < distance ? k : code;
      distance = fminf(d, distance);
    }
    return code;
  }
};

/// Σ c² of a group.
template <int kLanes>
__device__ double squared_scale(const float* c, int cols, int lane) {
  double total = 0.0;
  for (int j = lane; j < cols; j += kLanes)
    total += static_cast<double>(c[j]) * static_cast<double>(c[j]);
  return lane_sum<kLanes>(total);
}

/// Greedy start: plane after plane, sign of the residual and its least-squares factor.
template <int kPlanes, int kLanes>
__device__ void start_row(const float* x, const float* c, int cols, int lane, double total,
                          float (&r)[kPlanes]) {
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    double numerator = 0.0;
    for (int j = lane; j < cols; j += kLanes) {
      float left = x[j];
#pragma unroll
      for (int q = 0; q < p; ++q) left -= left >= 0.0f ? c[j] * r[q] : -c[j] * r[q];
      numerator += static_cast<double>(fabsf(left)) * static_cast<double>(c[j]);
    }
    numerator = lane_sum<kLanes>(numerator);
    r[p] = total > 0.0 ? static_cast<float>(numerator / total) : 0.0f;
  }
}

/// Solves the symmetric n x n system a·x = b by Gaussian elimination; a singular direction (two
/// equal sign planes) gets x = 0 through a small ridge.
template <int n>
__device__ void solve_small(double (&a)[n][n], double (&b)[n], double (&x)[n]) {
  double trace = 0.0;
#pragma unroll
  for (int i = 0; i < n; ++i) trace += a[i][i];
#pragma unroll
  for (int i = 0; i < n; ++i) a[i][i] += 1e-9 * trace + 1e-30;
#pragma unroll
  for (int i = 0; i < n; ++i) {
#pragma unroll
    for (int row = i + 1; row < n; ++row) {
      const double factor = a[row][i] / a[i][i];
#pragma unroll
      for (int k = i; k < n; ++k) a[row][k] -= factor * a[i][k];
      b[row] -= factor * b[i];
    }
  }
#pragma unroll
  for (int i = n - 1; i >= 0; --i) {
    double sum = b[i];
#pragma unroll
    for (int k = i + 1; k < n; ++k) sum -= a[i][k] * x[k];
    x[i] = sum / a[i][i];
  }
}

/// (1) of §5.2: joint least squares of r with the codes as `coder` gives them. A negative r stands
/// for a flipped plane.
template <int kPlanes, int kLanes>
__device__ void fit_row(const float* x, const float* c, int cols, int lane, double total,
                        const PlaneCoder<kPlanes>& coder, double (&solved)[kPlanes]) {
  float product[kPlanes] = {};
  float unequal[kPlanes][kPlanes] = {};
  for (int j = lane; j < cols; j += kLanes) {
    const int code = coder.code_of(x[j], c[j]);
    const float cx = c[j] * x[j];
    const float c2 = c[j] * c[j];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      product[p] += (code >> p & 1) != 0 ? cx : -cx;
#pragma unroll
      for (int q = 0; q < p; ++q) unequal[p][q] += ((code >> p ^ code >> q) & 1) != 0 ? c2 : 0.0f;
    }
  }
  double a[kPlanes][kPlanes];
  double b[kPlanes];
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    b[p] = static_cast<double>(lane_sum<kLanes>(product[p]));
    a[p][p] = total;
#pragma unroll
    for (int q = 0; q < p; ++q) {
      a[p][q] = a[q][p] = total - 2.0 * static_cast<double>(lane_sum<kLanes>(unequal[p][q]));
    }
  }
  solve_small(a, b, solved);
}

}  // namespace d2q::cuda
