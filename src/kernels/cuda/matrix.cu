// One thread an element throughout: all of it is bound by memory.
#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/matrix_kernels.h"

namespace d2q::cuda {
namespace {

__device__ int64_t element_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <typename T>
__global__ void diagonal(const T* matrix, int64_t n, T* values) {
  const int64_t i = element_index();
  if (i < n) values[i] = matrix[i * n + i];
}

__global__ void subtract_gram(const float* gram, int64_t n, float* cross) {
  const int64_t i = element_index();
  if (i >= n * n) return;
  const int64_t column = i % n;
  cross[i] = gram[column * n + column] == 0.0f ? 0.0f : cross[i] - gram[i];
}

__global__ void permute(const float* source, const int32_t* order, int64_t n, double* destination) {
  const int64_t i = element_index();
  if (i >= n * n) return;
  destination[i] = static_cast<double>(source[order[i / n] * n + order[i % n]]);
}

template <typename T>
__global__ void gather(const T* source, const int32_t* columns, int64_t total, int64_t width,
                       int64_t n, T* destination) {
  const int64_t i = element_index();
  if (i >= total) return;
  const int32_t column = columns[i % n];
  destination[i] = column < 0 ? T(0) : source[i / n * width + column];
}

__global__ void shift_diagonal(double* matrix, int64_t n, double value) {
  const int64_t i = element_index();
  if (i >= n) return;
  const double x = matrix[i * n + i];
  matrix[i * n + i] = (x == 0.0 ? 1.0 : x) + value;
}

__global__ void expand_codes(CodedWeights coded, float* weight) {
  const int64_t i = element_index();
  if (i >= coded.rows * coded.cols) return;
  const int64_t row = i / coded.cols;
  const int64_t group = (i - row * coded.cols) / coded.group_size;
  const float* params = coded.params + (row * coded.n_groups + group) * coded.n_params;
  const int code = coded.codes[i];
  if (coded.uniform) {
    weight[i] = params[0] * (static_cast<float>(code) - params[1]);
    return;
  }
  float level = (code & 1) != 0 ? params[0] : -params[0];
  for (int plane = 1; plane < coded.n_params; ++plane)
    level += (code >> plane & 1) != 0 ? params[plane] : -params[plane];
  weight[i] = level;
}

__global__ void reverse(const double* source, int64_t n, double shift, double* destination) {
  const int64_t i = element_index();
  if (i >= n * n) return;
  const bool on_diagonal = i / n == i % n;
  destination[i] = source[n * n - 1 - i] + (on_diagonal ? shift : 0.0);
}

__global__ void reverse_lower(const double* source, int64_t n, double* destination) {
  const int64_t i = element_index();
  if (i >= n * n) return;
  destination[i] = i % n >= i / n ? source[n * n - 1 - i] : 0.0;
}

__global__ void keep_strict_upper(double* x, int64_t rows, int64_t width) {
  const int64_t i = element_index();
  if (i < rows * width && i % width <= i / width) x[i] = 0.0;
}

__global__ void store_strict_upper(const double* x, int64_t rows, int64_t width, float* y,
                                   int64_t stride) {
  const int64_t i = element_index();
  if (i >= rows * width) return;
  const int64_t row = i / width;
  const int64_t column = i - row * width;
  y[row * stride + column] = column > row ? static_cast<float>(x[i]) : 0.0f;
}

template <typename Kernel, typename... Args>
cudaError_t run(Kernel kernel, int64_t n, cudaStream_t stream, const Args&... args) {
  if (n == 0) return cudaSuccess;
  kernel<<<blocks_for(n), kThreads, 0, stream>>>(args...);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_diagonal(const float* matrix, int64_t n, float* values, cudaStream_t stream) {
  return run(diagonal<float>, n, stream, matrix, n, values);
}

cudaError_t launch_diagonal(const double* matrix, int64_t n, double* values, cudaStream_t stream) {
  return run(diagonal<double>, n, stream, matrix, n, values);
}

cudaError_t launch_subtract_gram(const float* gram, int64_t n, float* cross, cudaStream_t stream) {
  return run(subtract_gram, n * n, stream, gram, n, cross);
}

cudaError_t launch_permute(const float* source, const int32_t* order, int64_t n,
                           double* destination, cudaStream_t stream) {
  return run(permute, n * n, stream, source, order, n, destination);
}

cudaError_t launch_gather(const float* source, const int32_t* columns, int64_t rows, int64_t width,
                          int64_t n, float* destination, cudaStream_t stream) {
  return run(gather<float>, rows * n, stream, source, columns, rows * n, width, n, destination);
}

cudaError_t launch_gather(const uint8_t* source, const int32_t* columns, int64_t rows,
                          int64_t width, int64_t n, uint8_t* destination, cudaStream_t stream) {
  return run(gather<uint8_t>, rows * n, stream, source, columns, rows * n, width, n, destination);
}

cudaError_t launch_shift_diagonal(double* matrix, int64_t n, double value, cudaStream_t stream) {
  return run(shift_diagonal, n, stream, matrix, n, value);
}

cudaError_t launch_expand_codes(const CodedWeights& coded, float* weight, cudaStream_t stream) {
  return run(expand_codes, coded.rows * coded.cols, stream, coded, weight);
}

cudaError_t launch_reverse(const double* source, int64_t n, double shift, double* destination,
                           cudaStream_t stream) {
  return run(reverse, n * n, stream, source, n, shift, destination);
}

cudaError_t launch_reverse_lower(const double* source, int64_t n, double* destination,
                                 cudaStream_t stream) {
  return run(reverse_lower, n * n, stream, source, n, destination);
}

cudaError_t launch_keep_strict_upper(double* x, int64_t rows, int64_t width, cudaStream_t stream) {
  return run(keep_strict_upper, rows * width, stream, x, rows, width);
}

cudaError_t launch_store_strict_upper(const double* x, int64_t rows, int64_t width, float* y,
                                      int64_t stride, cudaStream_t stream) {
  return run(store_strict_upper, rows * width, stream, x, rows, width, y, stride);
}

}  // namespace d2q::cuda
