// What kernels over whole rows of logits share: one block a row.
#pragma once

#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

/// What the softmax of one row needs, in every thread of its block.
struct RowSums {
  float top;
  int top_index;  // the first of equals
  double sum;     // of exp(value - top)
};

inline __device__ RowSums sum_row(const float* values, int64_t vocabulary) {
  float top = -INFINITY;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) top = fmaxf(top, values[i]);
  top = reduce_threads<kThreads>(top, Largest());
  int index = static_cast<int>(vocabulary);
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) {
    if (values[i] == top && index == static_cast<int>(vocabulary)) index = static_cast<int>(i);
    sum += static_cast<double>(expf(values[i] - top));
  }
  index = reduce_threads<kThreads>(index, Smallest());
  return {top, index, reduce_threads<kThreads>(sum, Sum())};
}

}  // namespace d2q::cuda
