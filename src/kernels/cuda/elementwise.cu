// Conversions, embedding, norms, rope, activations and sums: bound by memory, one pass over rows.
#include <cmath>

#include "kernels/cuda/cuda_softmax.cuh"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {
namespace {

/// A thread's elements: four where kFour, else one, which is the first of its four values then.
template <bool kFour>
__device__ FourValues load_some(const Values& x, int64_t i) {
  if constexpr (kFour) return load_four(x, i);
  return {{load_value(x, i)}};
}

template <bool kFour>
__device__ void store_some(const Values& y, int64_t i, const FourValues& x) {
  if constexpr (kFour) {
    store_four(y, i, x);
  } else {
    store_value(y, i, x.of[0]);
  }
}

template <bool kFour>
__global__ void convert(Values source, Values destination, int64_t n) {
  const int64_t i = element_index() * (kFour ? 4 : 1);
  if (i < n) store_some<kFour>(destination, i, load_some<kFour>(source, i));
}

__global__ void embed(const int32_t* ids, Values table, int64_t n, int64_t width, float* y) {
  const int64_t i = element_index();
  if (i >= n) return;
  const int64_t row = i / width;
  y[i] = load_value(table, ids[row] * width + (i - row * width));
}

/// kRowThreads threads a row. x and y may be the same memory: each thread reads and writes its own
/// elements.
template <int kRowThreads>
__global__ void norm(const float* x, bool subtract_mean, const float* gain, const float* shift,
                     float epsilon, int64_t rows, int64_t width, Values y) {
  const int lane = static_cast<int>(threadIdx.x) % kRowThreads;
  const int64_t row = element_index() / kRowThreads;
  if (row >= rows) return;  // whole warps; with kRowThreads = kThreads no block has such a row
  const float* values = x + row * width;
  float mean = 0.0f;
  if (subtract_mean) {
    float sum = 0.0f;
    for (int64_t i = lane; i < width; i += kRowThreads) sum += values[i];
    mean = reduce_threads<kRowThreads>(sum, Sum()) / static_cast<float>(width);
  }
  float squares = 0.0f;
  for (int64_t i = lane; i < width; i += kRowThreads) {
    const float centred = values[i] - mean;
    squares += centred * centred;
  }
  const float variance = reduce_threads<kRowThreads>(squares, Sum()) / static_cast<float>(width);
  const float factor = 1.0f / sqrtf(variance + epsilon);
  for (int64_t i = lane; i < width; i += kRowThreads) {
    const float offset = shift != nullptr ? shift[i] : 0.0f;
    store_value(y, row * width + i, gain[i] * ((values[i] - mean) * factor) + offset);
  }
}

__global__ void rope(float* x, int64_t n, int64_t n_heads, int64_t head_dim, int64_t half,
                     const int32_t* positions, const float* cos, const float* sin) {
  const int64_t i = element_index();
  if (i >= n) return;
  const int64_t head = i / half;  // over all rows
  const int64_t column = i - head * half;
  const int64_t angle = positions[head / n_heads] * half + column;
  float* pair = x + head * head_dim + column;
  const float a = pair[0];
  const float b = pair[half];
  pair[0] = a * cos[angle] - b * sin[angle];
  pair[half] = b * cos[angle] + a * sin[angle];
}

/// up.data may be null.
template <bool kFour>
__global__ void activation(Curve curve, Values x, Values up, int64_t n, Values y) {
  constexpr int kOwn = kFour ? 4 : 1;
  const int64_t i = element_index() * kOwn;
  if (i >= n) return;
  FourValues values = load_some<kFour>(x, i);
  for (int k = 0; k < kOwn; ++k) values.of[k] = activation_of(curve, values.of[k]);
  if (up.data != nullptr) {
    const FourValues factors = load_some<kFour>(up, i);
    for (int k = 0; k < kOwn; ++k) values.of[k] *= factors.of[k];
  }
  store_some<kFour>(y, i, values);
}

template <bool kFour>
__global__ void add(Values x, Values y, int64_t n) {
  constexpr int kOwn = kFour ? 4 : 1;
  const int64_t i = element_index() * kOwn;
  if (i >= n) return;
  FourValues sum = load_some<kFour>(x, i);
  const FourValues terms = load_some<kFour>(y, i);
  for (int k = 0; k < kOwn; ++k) sum.of[k] += terms.of[k];
  store_some<kFour>(x, i, sum);
}

__global__ void fill_rows(const float* row, int64_t n, int64_t width, float* y) {
  const int64_t i = element_index();
  if (i < n) y[i] = row[i % width];
}

/// One block a row. Terms in f32, their sum in f64.
__global__ void cross_entropy(const float* logits, const int32_t* targets, int64_t vocabulary,
                              double* losses) {
  const int64_t row = blockIdx.x;
  const float* values = logits + row * vocabulary;
  float top = -INFINITY;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) top = fmaxf(top, values[i]);
  top = reduce_threads<kThreads>(top, Largest());
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) {
    sum += static_cast<double>(expf(values[i] - top));
  }
  sum = reduce_threads<kThreads>(sum, Sum());
  if (threadIdx.x == 0) {
    losses[row] = log(sum) + static_cast<double>(top) - static_cast<double>(values[targets[row]]);
  }
}

/// One block a row; results [rows, 4].
__global__ void compare_logits(const float* reference, const float* logits, const int32_t* targets,
                               int64_t vocabulary, double* results) {
  const int64_t row = blockIdx.x;
  const float* expected = reference + row * vocabulary;
  const float* found = logits + row * vocabulary;
  const RowSums a = sum_row(expected, vocabulary);
  const RowSums b = sum_row(found, vocabulary);
  double weighted = 0.0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) {
    weighted += static_cast<double>(expf(expected[i] - a.top)) *
                (static_cast<double>(expected[i]) - static_cast<double>(found[i]));
  }
  weighted = reduce_threads<kThreads>(weighted, Sum());
  if (threadIdx.x != 0) return;
  const double log_a = log(a.sum) + static_cast<double>(a.top);
  const double log_b = log(b.sum) + static_cast<double>(b.top);
  double* result = results + 4 * row;
  result[0] = weighted / a.sum - log_a + log_b;
  result[1] = log_a - static_cast<double>(expected[targets[row]]);
  result[2] = log_b - static_cast<double>(found[targets[row]]);
  result[3] = a.top_index == b.top_index ? 1.0 : 0.0;
}

// Up to this width a warp normalises a row: the rows are heads then, and many.
constexpr int64_t kWarpRowWidth = 512;

}  // namespace

cudaError_t launch_convert(const Values& source, const Values& destination, int64_t n,
                           cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  if (n % 4 == 0 && aligned_for_four(source) && aligned_for_four(destination)) {
    convert<true><<<blocks_for(n / 4), kThreads, 0, stream>>>(source, destination, n);
  } else {
    convert<false><<<blocks_for(n), kThreads, 0, stream>>>(source, destination, n);
  }
  return cudaGetLastError();
}

cudaError_t launch_embed(const int32_t* ids, const Values& table, int64_t n_ids, int64_t width,
                         float* y, cudaStream_t stream) {
  const int64_t n = n_ids * width;
  if (n == 0) return cudaSuccess;
  embed<<<blocks_for(n), kThreads, 0, stream>>>(ids, table, n, width, y);
  return cudaGetLastError();
}

cudaError_t launch_norm(const float* x, bool subtract_mean, const float* gain, const float* shift,
                        float epsilon, int64_t rows, int64_t width, const Values& y,
                        cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  if (width <= kWarpRowWidth) {
    norm<32><<<blocks_for(rows * 32), kThreads, 0, stream>>>(x, subtract_mean, gain, shift, epsilon,
                                                             rows, width, y);
  } else {
    norm<kThreads><<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
        x, subtract_mean, gain, shift, epsilon, rows, width, y);
  }
  return cudaGetLastError();
}

cudaError_t launch_rope(float* x, int64_t rows, int64_t n_heads, int64_t head_dim, int64_t half,
                        const int32_t* positions, const float* cos, const float* sin,
                        cudaStream_t stream) {
  const int64_t n = rows * n_heads * half;
  if (n == 0) return cudaSuccess;
  rope<<<blocks_for(n), kThreads, 0, stream>>>(x, n, n_heads, head_dim, half, positions, cos, sin);
  return cudaGetLastError();
}

cudaError_t launch_activation(Curve curve, const float* x, const float* up, int64_t n,
                              const Values& y, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const Values gate{const_cast<float*>(x), Scalar::kF32};
  const Values factor{const_cast<float*>(up), Scalar::kF32};
  if (n % 4 == 0 && aligned_for_four(gate) && aligned_for_four(factor) && aligned_for_four(y)) {
    activation<true><<<blocks_for(n / 4), kThreads, 0, stream>>>(curve, gate, factor, n, y);
  } else {
    activation<false><<<blocks_for(n), kThreads, 0, stream>>>(curve, gate, factor, n, y);
  }
  return cudaGetLastError();
}

cudaError_t launch_add(float* x, const Values& y, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const Values sum{x, Scalar::kF32};
  if (n % 4 == 0 && aligned_for_four(sum) && aligned_for_four(y)) {
    add<true><<<blocks_for(n / 4), kThreads, 0, stream>>>(sum, y, n);
  } else {
    add<false><<<blocks_for(n), kThreads, 0, stream>>>(sum, y, n);
  }
  return cudaGetLastError();
}

cudaError_t launch_fill_rows(const float* row, int64_t rows, int64_t width, float* y,
                             cudaStream_t stream) {
  const int64_t n = rows * width;
  if (n == 0) return cudaSuccess;
  fill_rows<<<blocks_for(n), kThreads, 0, stream>>>(row, n, width, y);
  return cudaGetLastError();
}

cudaError_t launch_cross_entropy(const float* logits, const int32_t* targets, int64_t rows,
                                 int64_t vocabulary, double* losses, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  cross_entropy<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(logits, targets, vocabulary,
                                                                      losses);
  return cudaGetLastError();
}

cudaError_t launch_compare_logits(const float* reference, const float* logits,
                                  const int32_t* targets, int64_t rows, int64_t vocabulary,
                                  double* results, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  compare_logits<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(reference, logits, targets,
                                                                       vocabulary, results);
  return cudaGetLastError();
}

}  // namespace d2q::cuda
