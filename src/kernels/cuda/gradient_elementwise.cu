// Backward of norms, rope, activations and biases, and what tuning does beside it: bound by memory,
// one or two passes. No atomic sums: the order of additions is fixed.
#include <cmath>

#include "kernels/cuda/cuda_gradient_kernels.h"
#include "kernels/cuda/cuda_softmax.cuh"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {
namespace {

/// kRowThreads threads a row: d_x += ..., and the row's mean and 1 / deviation to statistics.
template <int kRowThreads>
__global__ void norm_rows(NormGradient norm) {
  const int lane = static_cast<int>(threadIdx.x) % kRowThreads;
  const int64_t row = element_index() / kRowThreads;
  if (row >= norm.rows) return;  // whole warps; with kRowThreads = kThreads no block has such a row
  const int64_t width = norm.width;
  const auto count = static_cast<float>(width);
  const float* x = norm.x + row * width;
  const float* d_y = norm.d_y + row * width;
  float mean = 0.0f;
  if (norm.subtract_mean) {
    float sum = 0.0f;
    for (int64_t i = lane; i < width; i += kRowThreads) sum += x[i];
    mean = reduce_threads<kRowThreads>(sum, Sum()) / count;
  }
  float squares = 0.0f;
  for (int64_t i = lane; i < width; i += kRowThreads) squares += (x[i] - mean) * (x[i] - mean);
  const float variance = reduce_threads<kRowThreads>(squares, Sum()) / count;
  const float factor = 1.0f / sqrtf(variance + norm.epsilon);
  float along = 0.0f;  // Σ gain d_y x̂
  float level = 0.0f;  // Σ gain d_y
  for (int64_t i = lane; i < width; i += kRowThreads) {
    const float slope = norm.gain[i] * d_y[i];
    along += slope * ((x[i] - mean) * factor);
    level += slope;
  }
  along = reduce_threads<kRowThreads>(along, Sum()) / count;
  level = reduce_threads<kRowThreads>(level, Sum()) / count;
  if (!norm.subtract_mean) level = 0.0f;
  for (int64_t i = lane; i < width; i += kRowThreads) {
    const float normal = (x[i] - mean) * factor;
    norm.d_x[row * width + i] += factor * (norm.gain[i] * d_y[i] - level - normal * along);
  }
  if (lane == 0) {
    norm.statistics[2 * row] = mean;
    norm.statistics[2 * row + 1] = factor;
  }
}

/// One thread a column and slice of rows. partial[slice] = Σ d_y x̂ (zero without x), Σ d_y.
__global__ void sum_columns(const float* x, const float* statistics, const float* d_y, int64_t rows,
                            int64_t width, int64_t rows_per_slice, float* partial) {
  const int64_t column = element_index();
  if (column >= width) return;
  const int64_t slice = blockIdx.y;
  const int64_t end = min(rows, (slice + 1) * rows_per_slice);
  float along = 0.0f;
  float level = 0.0f;
  for (int64_t row = slice * rows_per_slice; row < end; ++row) {
    const float gradient = d_y[row * width + column];
    level += gradient;
    if (x != nullptr) {
      const float centred = x[row * width + column] - statistics[2 * row];
      along += gradient * (centred * statistics[2 * row + 1]);
    }
  }
  partial[2 * slice * width + column] = along;
  partial[(2 * slice + 1) * width + column] = level;
}

/// One warp a column: sums += the slices of partial, those of kind `which`.
__global__ void add_slices(const float* partial, int which, int64_t n_slices, int64_t width,
                           float* sums) {
  const int64_t column = element_index() / 32;
  if (column >= width) return;
  double sum = 0.0;
  for (int64_t slice = threadIdx.x % 32; slice < n_slices; slice += 32) {
    sum += static_cast<double>(partial[(2 * slice + which) * width + column]);
  }
  sum = reduce_threads<32>(sum, Sum());
  if (threadIdx.x % 32 == 0) {
    sums[column] = static_cast<float>(static_cast<double>(sums[column]) + sum);
  }
}

__global__ void rope_gradient(float* d_x, int64_t n, int64_t n_heads, int64_t head_dim,
                              int64_t half, const int32_t* positions, const float* cos,
                              const float* sin) {
  const int64_t i = element_index();
  if (i >= n) return;
  const int64_t head = i / half;  // over all rows
  const int64_t column = i - head * half;
  const int64_t angle = positions[head / n_heads] * half + column;
  float* pair = d_x + head * head_dim + column;
  const float a = pair[0];
  const float b = pair[half];
  pair[0] = a * cos[angle] + b * sin[angle];
  pair[half] = b * cos[angle] - a * sin[angle];
}

struct Activated {
  float value;
  float slope;
};

__device__ Activated activated(Curve curve, float x) {
  switch (curve) {
    case Curve::kSilu: {
      const float gate = 1.0f / (1.0f + expf(-x));
      return {x * gate, gate + x * gate * (1.0f - gate)};
    }
    case Curve::kGelu: {
      const float below = 0.5f * (1.0f + erff(x * 0.70710678f));
      return {x * below, below + x * 0.39894228f * expf(-0.5f * x * x)};
    }
    case Curve::kGeluTanh: {
      constexpr float kRootTwoOverPi = 0.7978845608028654f;
      const float t = tanhf(kRootTwoOverPi * (x + 0.044715f * x * x * x));
      const float inner_slope = kRootTwoOverPi * (1.0f + 3.0f * 0.044715f * x * x);
      return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner_slope};
    }
    case Curve::kRelu:
      break;
  }
  return {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f};
}

__global__ void activation_gradient(Curve curve, const float* gate, const float* up,
                                    const float* d_y, int64_t n, float* d_gate, float* d_up) {
  const int64_t i = element_index();
  if (i >= n) return;
  const Activated act = activated(curve, gate[i]);
  const float gradient = d_y[i];
  const float factor = up != nullptr ? gradient * up[i] : gradient;
  if (up != nullptr) d_up[i] = gradient * act.value;
  d_gate[i] = factor * act.slope;
}

__global__ void reconstruct(SignedLinear linear, Values w) {
  const int64_t i = element_index();
  if (i >= linear.rows * linear.cols) return;
  const int64_t row = i / linear.cols;
  const int64_t column = i - row * linear.cols;
  const float* params =
      linear.params + (row * linear.n_groups + column / linear.group_size) * linear.planes;
  const unsigned code = linear.codes[i];
  float level = 0.0f;
  for (int plane = 0; plane < linear.planes; ++plane) {
    level += ((code >> plane) & 1u) != 0 ? params[plane] : -params[plane];
  }
  store_value(w, i, linear.column_scale[column] * level);
}

/// One warp a row and group.
__global__ void scale_gradients(SignedLinear linear, const float* d_w, float* d_params) {
  const int64_t i = element_index() / 32;
  if (i >= linear.rows * linear.n_groups) return;
  const int64_t row = i / linear.n_groups;
  const int64_t begin = (i - row * linear.n_groups) * linear.group_size;
  const int64_t end = min(linear.cols, begin + linear.group_size);
  float sums[kMaxPlanes] = {};
  for (int64_t column = begin + threadIdx.x % 32; column < end; column += 32) {
    const unsigned code = linear.codes[row * linear.cols + column];
    const float value = d_w[row * linear.cols + column] * linear.column_scale[column];
#pragma unroll
    for (int plane = 0; plane < kMaxPlanes; ++plane) {
      sums[plane] += ((code >> plane) & 1u) != 0 ? value : -value;
    }
  }
#pragma unroll
  for (int plane = 0; plane < kMaxPlanes; ++plane) {
    if (plane >= linear.planes) break;  // alike in the whole warp
    const float sum = reduce_threads<32>(sums[plane], Sum());
    if (threadIdx.x % 32 == 0) d_params[i * linear.planes + plane] = sum;
  }
}

constexpr int64_t kValuesPerPart = 8192;

/// One block a part.
__global__ void square_differences(Values y, Values target, float factor, int64_t n, float* d_y,
                                   double* partial) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kValuesPerPart;
  const int64_t end = min(n, begin + kValuesPerPart);
  double sum = 0.0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const double difference =
        static_cast<double>(load_value(y, i)) - static_cast<double>(load_value(target, i));
    d_y[i] = factor * static_cast<float>(difference);
    sum += difference * difference;
  }
  sum = reduce_threads<kThreads>(sum, Sum());
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// One block.
__global__ void add_parts(const double* partial, int64_t n_parts, double* total) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < n_parts; i += kThreads) sum += partial[i];
  sum = reduce_threads<kThreads>(sum, Sum());
  if (threadIdx.x == 0) *total = sum;
}

__global__ void adam(float* parameter, const float* gradient, float* first_moment,
                     float* second_moment, int64_t n, AdamUpdate update) {
  const int64_t i = element_index();
  if (i >= n) return;
  const float slope = gradient[i];
  const float first = update.beta1 * first_moment[i] + (1.0f - update.beta1) * slope;
  const float second = update.beta2 * second_moment[i] + (1.0f - update.beta2) * slope * slope;
  first_moment[i] = first;
  second_moment[i] = second;
  parameter[i] -= update.rate * (first * update.first_correction) /
                  (sqrtf(second * update.second_correction) + update.epsilon);
}

// Up to this width a warp works on a row: the rows are heads then, and many.
constexpr int64_t kWarpRowWidth = 512;
constexpr int64_t kSliceRows = 64;
constexpr int64_t kMaxSlices = 1024;  // bounds the workspace

int64_t rows_per_slice(int64_t rows) {
  const int64_t needed = (rows + kMaxSlices - 1) / kMaxSlices;
  return needed > kSliceRows ? needed : kSliceRows;
}

cudaError_t launch_sum_columns(const float* x, const float* statistics, const float* d_y,
                               int64_t rows, int64_t width, float* partial, cudaStream_t stream) {
  const dim3 blocks(blocks_for(width), static_cast<unsigned>(column_sum_slices(rows)));
  sum_columns<<<blocks, kThreads, 0, stream>>>(x, statistics, d_y, rows, width,
                                               rows_per_slice(rows), partial);
  return cudaGetLastError();
}

cudaError_t launch_add_slices(const float* partial, int which, int64_t rows, int64_t width,
                              float* sums, cudaStream_t stream) {
  add_slices<<<blocks_for(width * 32), kThreads, 0, stream>>>(partial, which,
                                                              column_sum_slices(rows), width, sums);
  return cudaGetLastError();
}

/// One block a row. d_logits may be `logits`: each element is written by the thread that has read
/// it last.
__global__ void divergence(const float* reference, const float* logits, int64_t vocabulary,
                           float factor, float* d_logits, double* divergences) {
  const int64_t row = blockIdx.x;
  const float* expected = reference + row * vocabulary;
  const float* found = logits + row * vocabulary;
  const RowSums a = sum_row(expected, vocabulary);
  const RowSums b = sum_row(found, vocabulary);
  const auto a_share = static_cast<float>(1.0 / a.sum), b_share = static_cast<float>(1.0 / b.sum);
  double weighted = 0.0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) {
    const float wanted = expf(expected[i] - a.top);
    const float given = expf(found[i] - b.top);
    weighted += static_cast<double>(wanted) *
                (static_cast<double>(expected[i]) - static_cast<double>(found[i]));
    d_logits[row * vocabulary + i] = factor * (given * b_share - wanted * a_share);
  }
  weighted = reduce_threads<kThreads>(weighted, Sum());
  if (threadIdx.x == 0) {
    divergences[row] = weighted / a.sum - (log(a.sum) + static_cast<double>(a.top)) + log(b.sum) +
                       static_cast<double>(b.top);
  }
}

}  // namespace

int64_t column_sum_slices(int64_t rows) {
  const int64_t per_slice = rows_per_slice(rows);
  return (rows + per_slice - 1) / per_slice;
}

cudaError_t launch_norm_gradient(const NormGradient& norm, cudaStream_t stream) {
  if (norm.rows == 0 || norm.width == 0) return cudaSuccess;
  if (norm.width <= kWarpRowWidth) {
    norm_rows<32><<<blocks_for(norm.rows * 32), kThreads, 0, stream>>>(norm);
  } else {
    norm_rows<kThreads><<<static_cast<unsigned>(norm.rows), kThreads, 0, stream>>>(norm);
  }
  cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess || (norm.d_gain == nullptr && norm.d_shift == nullptr)) return status;
  status = launch_sum_columns(norm.x, norm.statistics, norm.d_y, norm.rows, norm.width,
                              norm.partial, stream);
  if (status == cudaSuccess && norm.d_gain != nullptr) {
    status = launch_add_slices(norm.partial, 0, norm.rows, norm.width, norm.d_gain, stream);
  }
  if (status == cudaSuccess && norm.d_shift != nullptr) {
    status = launch_add_slices(norm.partial, 1, norm.rows, norm.width, norm.d_shift, stream);
  }
  return status;
}

cudaError_t launch_column_sums(const float* d_y, int64_t rows, int64_t width, float* partial,
                               float* sums, cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  const cudaError_t status =
      launch_sum_columns(nullptr, nullptr, d_y, rows, width, partial, stream);
  if (status != cudaSuccess) return status;
  return launch_add_slices(partial, 1, rows, width, sums, stream);
}

cudaError_t launch_rope_gradient(float* d_x, int64_t rows, int64_t n_heads, int64_t head_dim,
                                 int64_t half, const int32_t* positions, const float* cos,
                                 const float* sin, cudaStream_t stream) {
  const int64_t n = rows * n_heads * half;
  if (n == 0) return cudaSuccess;
  rope_gradient<<<blocks_for(n), kThreads, 0, stream>>>(d_x, n, n_heads, head_dim, half, positions,
                                                        cos, sin);
  return cudaGetLastError();
}

cudaError_t launch_activation_gradient(Curve curve, const float* gate, const float* up,
                                       const float* d_y, int64_t n, float* d_gate, float* d_up,
                                       cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  activation_gradient<<<blocks_for(n), kThreads, 0, stream>>>(curve, gate, up, d_y, n, d_gate,
                                                              d_up);
  return cudaGetLastError();
}

cudaError_t launch_reconstruct(const SignedLinear& linear, const Values& w, cudaStream_t stream) {
  const int64_t n = linear.rows * linear.cols;
  if (n == 0) return cudaSuccess;
  reconstruct<<<blocks_for(n), kThreads, 0, stream>>>(linear, w);
  return cudaGetLastError();
}

cudaError_t launch_scale_gradients(const SignedLinear& linear, const float* d_w, float* d_params,
                                   cudaStream_t stream) {
  const int64_t n = linear.rows * linear.n_groups;
  if (n == 0) return cudaSuccess;
  scale_gradients<<<blocks_for(n * 32), kThreads, 0, stream>>>(linear, d_w, d_params);
  return cudaGetLastError();
}

int64_t squared_error_parts(int64_t n) { return (n + kValuesPerPart - 1) / kValuesPerPart; }

cudaError_t launch_squared_error(const Values& y, const Values& target, float factor, int64_t n,
                                 float* d_y, double* partial, double* sum, cudaStream_t stream) {
  const int64_t n_parts = squared_error_parts(n);
  if (n_parts > 0) {
    square_differences<<<static_cast<unsigned>(n_parts), kThreads, 0, stream>>>(y, target, factor,
                                                                                n, d_y, partial);
    const cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) return status;
  }
  add_parts<<<1, kThreads, 0, stream>>>(partial, n_parts, sum);
  return cudaGetLastError();
}

cudaError_t launch_divergence(const float* reference, const float* logits, int64_t rows,
                              int64_t vocabulary, float factor, float* d_logits,
                              double* divergences, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  divergence<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      reference, logits, vocabulary, factor, d_logits, divergences);
  return cudaGetLastError();
}

cudaError_t launch_adam(float* parameter, const float* gradient, float* first_moment,
                        float* second_moment, int64_t n, const AdamUpdate& update,
                        cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  adam<<<blocks_for(n), kThreads, 0, stream>>>(parameter, gradient, first_moment, second_moment, n,
                                               update);
  return cudaGetLastError();
}

}  // namespace d2q::cuda
