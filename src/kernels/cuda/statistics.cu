// Sums over tokens that are not matrix products. No atomic sums: the order of additions is fixed.
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {
namespace {

constexpr int kMirrorTile = 32;
constexpr int kMirrorRows = 8;  // rows of a tile that a block moves at once

/// Block (x, y) writes the tile at row y, column x of the upper triangle, and nobody reads there:
/// off the diagonal the source lies below it, on the diagonal only the block itself reads.
__global__ void mirror_lower(float* matrix, int64_t n) {
  __shared__ float tile[kMirrorTile][kMirrorTile + 1];
  if (blockIdx.x < blockIdx.y) return;
  const int64_t source_row = static_cast<int64_t>(blockIdx.x) * kMirrorTile;
  const int64_t source_column = static_cast<int64_t>(blockIdx.y) * kMirrorTile;
  for (int row = static_cast<int>(threadIdx.y); row < kMirrorTile; row += kMirrorRows) {
    const int64_t i = source_row + row;
    const int64_t j = source_column + threadIdx.x;
    tile[row][threadIdx.x] = i < n && j < n ? matrix[i * n + j] : 0.0f;
  }
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.y); row < kMirrorTile; row += kMirrorRows) {
    const int64_t i = source_column + row;
    const int64_t j = source_row + threadIdx.x;
    if (i < n && j < n && j > i) matrix[i * n + j] = tile[threadIdx.x][row];
  }
}

/// One thread a column and slice of rows.
__global__ void sum_differences(Values a, Values b, int64_t rows, int64_t width,
                                int64_t rows_per_slice, double* partial) {
  const int64_t column = element_index();
  if (column >= width) return;
  const int64_t slice = blockIdx.y;
  const int64_t begin = slice * rows_per_slice;
  const int64_t end = min(rows, begin + rows_per_slice);
  double sum = 0.0;
  double squares = 0.0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t i = row * width + column;
    const double difference =
        static_cast<double>(load_value(a, i)) - static_cast<double>(load_value(b, i));
    sum += difference;
    squares += difference * difference;
  }
  partial[2 * slice * width + column] = sum;
  partial[(2 * slice + 1) * width + column] = squares;
}

__global__ void sum_slices(const double* partial, int64_t n_slices, int64_t n, double* moments) {
  const int64_t i = element_index();
  if (i >= n) return;
  double sum = 0.0;
  for (int64_t slice = 0; slice < n_slices; ++slice) sum += partial[slice * n + i];
  moments[i] += sum;
}

/// The minimum of integers does not depend on the order of the atomics.
__global__ void first_non_finite_row(Values x, int64_t n, int64_t width,
                                     unsigned long long* first) {
  const int64_t i = element_index();
  if (i < n && !isfinite(load_value(x, i))) {
    atomicMin(first, static_cast<unsigned long long>(i / width));
  }
}

/// The same of four elements a thread; n is a multiple of four.
__global__ void first_non_finite_row_of_fours(Values x, int64_t n, int64_t width,
                                              unsigned long long* first) {
  const int64_t i = element_index() * 4;
  if (i >= n) return;
  const FourValues values = load_four(x, i);
  for (int k = 0; k < 4; ++k) {
    if (isfinite(values.of[k])) continue;
    atomicMin(first, static_cast<unsigned long long>((i + k) / width));
    return;
  }
}

constexpr int64_t kSliceRows = 64;    // short ones: a block of threads for each fills the GPU
constexpr int64_t kMaxSlices = 1024;  // bounds the workspace

int64_t rows_per_slice(int64_t rows) {
  const int64_t needed = (rows + kMaxSlices - 1) / kMaxSlices;
  return needed > kSliceRows ? needed : kSliceRows;
}

}  // namespace

cudaError_t launch_mirror_lower(float* matrix, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const unsigned tiles = blocks_for(n, kMirrorTile);
  mirror_lower<<<dim3(tiles, tiles), dim3(kMirrorTile, kMirrorRows), 0, stream>>>(matrix, n);
  return cudaGetLastError();
}

int64_t difference_slices(int64_t rows) {
  const int64_t per_slice = rows_per_slice(rows);
  return (rows + per_slice - 1) / per_slice;
}

cudaError_t launch_accumulate_difference(const Values& a, const Values& b, int64_t rows,
                                         int64_t width, double* partial, double* moments,
                                         cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  const int64_t n_slices = difference_slices(rows);
  sum_differences<<<dim3(blocks_for(width), static_cast<unsigned>(n_slices)), kThreads, 0,
                    stream>>>(a, b, rows, width, rows_per_slice(rows), partial);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  sum_slices<<<blocks_for(2 * width), kThreads, 0, stream>>>(partial, n_slices, 2 * width, moments);
  return cudaGetLastError();
}

cudaError_t launch_first_non_finite_row(const Values& x, int64_t rows, int64_t width,
                                        unsigned long long* first, cudaStream_t stream) {
  const int64_t n = rows * width;
  if (n == 0) return cudaSuccess;
  if (n % 4 == 0 && aligned_for_four(x)) {
    first_non_finite_row_of_fours<<<blocks_for(n / 4), kThreads, 0, stream>>>(x, n, width, first);
  } else {
    first_non_finite_row<<<blocks_for(n), kThreads, 0, stream>>>(x, n, width, first);
  }
  return cudaGetLastError();
}

}  // namespace d2q::cuda
