// Launchers of the scale refit (METHOD.md §8.3) for a batch of rows. Every pointer is device
// memory; a launcher returns the status of its launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// A column group in walking order.
struct GroupSpan {
  int32_t begin = 0;
  int32_t size = 0;
  int32_t first_param = 0;  // of its parameters in a row
  int32_t first_chunk = 0;  // of its columns
  int32_t n_chunks = 0;
};

/// Columns of one group that are multiplied at once. Tiles of H' lie in the order of the chunks
/// below them, and for each one of all chunks up to the end of its group.
constexpr int kMaxChunkWidth = 128;
struct ColumnChunk {
  int32_t begin = 0;
  int32_t size = 0;
  int32_t group = 0;
  int32_t first_tile = 0;  // of the chunk's row of tiles
};

/// A batch of rows; the pointers of matrices are those of its first row. Unknown (group, k) of a
/// row is at group·K + k, K = n_params. A row's system is kept in one [unknowns, system_stride()]
/// matrix: the normal matrix, whose upper half the factorisation overwrites, and the right-hand
/// side as the column after it. Its elements are sums in f32.
struct RefitBatch {
  int64_t rows = 0;
  int64_t stride = 0;  // columns of the whole matrix
  bool uniform = false;
  int n_params = 0;
  int n_groups = 0;
  const GroupSpan* groups = nullptr;         // [n_groups]
  const int32_t* group_of_column = nullptr;  // [stride] place in `groups`
  const float* column_scale = nullptr;       // [stride]
  const float* target_product = nullptr;     // [rows, stride]
  uint8_t* codes = nullptr;                  // [rows, stride], in and out
  float* params = nullptr;                   // [rows, params_stride], in and out
  int64_t params_stride = 0;
  float* weight = nullptr;              // [rows, stride], in and out
  const ColumnChunk* chunks = nullptr;  // [n_chunks]
  int n_chunks = 0;
  int chunk_width = 0;         // of a tile, a multiple of 32; at least every chunk's size
  bool aligned_codes = false;  // chunks are chunk_width wide and lie on multiples of 16 bytes
  uint4* tiles = nullptr;      // Hessian and column scale, two bf16 pieces of width x width a tile
  float* systems = nullptr;    // [rows, unknowns, system_stride()]
  double* vectors = nullptr;   // [rows, kRefitVectors, unknowns]
  double* changes = nullptr;   // [rows] of J; set where a row's parameters change

  __host__ __device__ int unknowns() const { return n_groups * n_params; }
  /// Rows lie on multiples of 16 bytes.
  __host__ __device__ int64_t system_stride() const { return (unknowns() + 4) / 4 * 4; }
};
/// Vectors that a row's solution needs: old unknowns, the normal matrix's diagonal, the step, the
/// solution.
constexpr int kRefitVectors = 4;

/// The right-hand side W*H·basis and the old unknowns.
cudaError_t prepare_refit(const RefitBatch& batch, cudaStream_t stream);
/// `tiles` from H [stride, stride]; the batch's rows take no part.
cudaError_t split_hessian(const RefitBatch& batch, const float* hessian, cudaStream_t stream);
/// The normal matrices.
cudaError_t add_normal_equations(const RefitBatch& batch, cudaStream_t stream);
/// Solves every row's system and stores parameters, codes and ŵ of the rows whose J falls.
cudaError_t solve_refit(const RefitBatch& batch, cudaStream_t stream);

}  // namespace d2q::cuda
