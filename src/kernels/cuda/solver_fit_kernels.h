// Launchers of the grid fits of METHOD.md §5 for one group of columns. Every pointer is device
// memory; a launcher returns the status of its launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// A group's columns of a matrix, element (i, j) at data[i * stride + j], and where its parameters
/// go: row i's at params[i * params_stride].
struct FitGroup {
  const float* data = nullptr;
  int64_t rows = 0;
  int cols = 0;
  int64_t stride = 0;
  float* params = nullptr;
  int64_t params_stride = 0;
};

/// §5.1: {scale, zero} of every row.
cudaError_t fit_uniform(const FitGroup& group, float max_code, bool clip_search,
                        cudaStream_t stream);

/// §5.2 with a given c [cols]: rows do not depend on each other. planes: 1 to 3.
cudaError_t fit_planes(const FitGroup& group, const float* column_scale, int planes, int iterations,
                       cudaStream_t stream);

/// §5.2 with a column scale, in steps that the host enqueues: column_magnitudes, update_columns,
/// start_rows, then in each round fit_rows and update_columns, at last normalise_columns and
/// store_rows.
struct ColumnFit {
  FitGroup group;
  int planes = 2;
  float* column_scale = nullptr;  // [cols]
  float* r = nullptr;             // [rows, planes]
  float* numerators = nullptr;    // [column_fit_parts(rows), cols]
  float* denominators = nullptr;  // the same
  double* factor = nullptr;       // [1] what normalising c moved into r
  int* arrived = nullptr;         // [1] 0 between launches
};
int64_t column_fit_parts(int64_t rows);
cudaError_t column_magnitudes(const ColumnFit& fit, cudaStream_t stream);
cudaError_t start_rows(const ColumnFit& fit, cudaStream_t stream);
/// `first`: the codes are still the greedy start's.
cudaError_t fit_rows(const ColumnFit& fit, bool first, cudaStream_t stream);
enum class ColumnUpdate { kMeanMagnitude, kLeastSquares };
/// c from the parts' sums.
cudaError_t update_columns(const ColumnFit& fit, ColumnUpdate update, cudaStream_t stream);
/// c to geometric mean 1, and the factor.
cudaError_t normalise_columns(const ColumnFit& fit, cudaStream_t stream);
/// params = r · factor, rounded to fp16.
cudaError_t store_rows(const ColumnFit& fit, cudaStream_t stream);

}  // namespace d2q::cuda
