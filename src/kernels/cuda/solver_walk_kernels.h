// Launchers of the column walk (METHOD.md §4) and of the code descent (§8.4) within one block of
// columns. Every pointer is device memory; a launcher returns the status of its launch.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// Columns walked by one launch at most.
constexpr int kBlockColumns = 128;

/// 0 for a uniform grid, else the number of sign-plane levels: 2, 4 or 8.
struct GridLevels {
  int n_levels = 0;
  float max_code = 0.0f;  // uniform: 2^bits - 1
};

/// Columns [begin, begin + n_columns) of one group, walked in order; those up to begin + width are
/// updated inside the block.
struct WalkPart {
  float* weight = nullptr;  // [rows, stride], in place
  int64_t rows = 0;
  int64_t stride = 0;  // columns of the whole matrix
  int64_t begin = 0;
  int n_columns = 0;
  int width = 0;                        // <= kBlockColumns
  const float* factor = nullptr;        // [stride, stride] U, or null: plain rounding
  const float* asymmetry = nullptr;     // [stride, stride] P, or null
  const float* column_scale = nullptr;  // [stride]
  const float* params = nullptr;        // of the group, row i's at i * params_stride
  int64_t params_stride = 0;
  uint8_t* codes = nullptr;         // [rows, stride]
  float* negated_errors = nullptr;  // column `begin` of row 0; rows kBlockColumns apart
  float* finished = nullptr;        // the same for the quantized columns; may be null
};
cudaError_t walk_part(const WalkPart& part, const GridLevels& levels, cudaStream_t stream);

/// One visit of each of the columns [begin, begin + n_columns), of any groups.
struct DescentPart {
  float* weight = nullptr;  // [rows, stride], in place
  // [rows, stride] (ŵ − w*) H before the visit, times row_scale / root.
  const float* gradient = nullptr;
  const float* row_scale = nullptr;  // [rows], powers of two
  const float* root = nullptr;       // [stride] of the Hessian's diagonal
  int64_t rows = 0;
  int64_t stride = 0;
  int64_t begin = 0;
  int n_columns = 0;                    // <= kBlockColumns
  const float* hessian = nullptr;       // [stride, stride]
  const float* column_scale = nullptr;  // [stride]
  const float* params = nullptr;        // [rows, params_stride]
  int64_t params_stride = 0;
  const int32_t* first_param = nullptr;  // [stride] place of a column's first parameter in a row
  uint8_t* codes = nullptr;              // [rows, stride], in place
  // Out: new ŵ − old ŵ, times row_scale · root; column `begin` of row 0.
  __half* change = nullptr;
  int64_t change_stride = 0;
  double* changes = nullptr;  // [rows] of J, added to
};
cudaError_t descend_part(const DescentPart& part, const GridLevels& levels, cudaStream_t stream);

/// x[0, n) = value.
cudaError_t fill(float* x, int64_t n, float value, cudaStream_t stream);

/// What a gradient is multiplied with, x = weight − target.
enum class DotOperand {
  kDifference,  // x
  kReflected,   // 2x − x̂, x̂ the bf16 value next to x
};
/// partial[b] = Σ operand·gradient in f64 over block b's share of n elements; kObjectiveBlocks of
/// them. The shares depend on n alone. target may be null: 0.
constexpr int kObjectiveBlocks = 512;
cudaError_t objective_partials(const float* weight, const float* target, const float* gradient,
                               int64_t n, DotOperand operand, double* partial, cudaStream_t stream);

}  // namespace d2q::cuda
