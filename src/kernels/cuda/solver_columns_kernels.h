// Launchers of the column-scale refit. Every pointer is device memory; a launcher returns the
// status of its launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// A whole linear layer on sign planes, columns in walking order.
struct ColumnScaleParts {
  int64_t rows = 0;
  int64_t columns = 0;
  int n_planes = 0;
  const uint8_t* codes = nullptr;  // [rows, columns]
  const float* params = nullptr;   // [rows, params_stride]
  int64_t params_stride = 0;
  const int32_t* first_param = nullptr;   // [columns] place of a column's first parameter
  const float* target_product = nullptr;  // [rows, columns] W*·H
  const float* hessian = nullptr;         // [columns, columns]
  float* levels = nullptr;                // [rows, columns] V
  float* matrix = nullptr;                // [columns, columns] Vᵀ V, then A
  double* right = nullptr;                // [columns] b
  double* diagonal = nullptr;             // [columns] of A
};

/// levels from codes and params; right from levels.
cudaError_t prepare_column_scale(const ColumnScaleParts& parts, cudaStream_t stream);
/// matrix ← matrix ⊙ hessian, and its diagonal.
cudaError_t weigh_by_hessian(const ColumnScaleParts& parts, cudaStream_t stream);
/// result[i] = Σ_j matrix[i, j] x[j] in f64; x, result [n].
cudaError_t multiply_vector(const float* matrix, int64_t n, const double* x, double* result,
                            cudaStream_t stream);
/// weight[i, j] = scale[j] · levels[i, j].
cudaError_t scale_levels(const ColumnScaleParts& parts, const float* scale, float* weight,
                         cudaStream_t stream);

/// Conjugate gradients on A·x = right with the diagonal as preconditioner, as
/// kernels/column_scale_solve.cpp has them. All vectors [n] f64.
struct ColumnScaleGradients {
  const float* matrix = nullptr;  // A [n, n]
  int64_t n = 0;
  const double* right = nullptr;
  const double* diagonal = nullptr;
  double* x = nullptr;         // in: the start; out: the minimum
  double* residual = nullptr;  // workspace, as are the rest
  double* direction = nullptr;
  double* image = nullptr;
  double* scalars = nullptr;  // [3]: size of the residual, at the start, and whether to stop
};
cudaError_t minimise_column_scale(const ColumnScaleGradients& gradients, int max_steps,
                                  double tolerance, cudaStream_t stream);

}  // namespace d2q::cuda
