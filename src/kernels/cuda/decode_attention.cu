// Attention of a decoding step. A block of threads has one sequence, a key head with up to four of
// its query heads, and a part of the keys: its warps take keys in turn, eight values of a key a
// lane, and keep running maxima, sums and outputs in registers. The last block of a sequence and
// key head to finish adds up the parts, in their order, so that the sums never depend on the
// timing.
#include <cmath>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"
#include "kernels/cuda/kernel_overlap.cuh"

namespace d2q::cuda {
namespace {

constexpr int kAttentionWarps = kThreads / 32;
constexpr int kLaneValues = 8;  // of a key
constexpr int kKeysAhead = 4;   // loads of a lane in flight
constexpr int kSmallestPart = 64;
constexpr float kLog2 = 1.44269504f;

/// Query heads that share a block of threads.
int heads_together(int n_heads, int n_kv_heads) {
  const int group = n_heads / n_kv_heads;
  for (int heads = 4; heads > 1; --heads) {
    if (group % heads == 0) return heads;
  }
  return 1;
}

struct Running {
  float top = -INFINITY;
  float sum = 0.0f;
  float output[kLaneValues] = {};
};

/// The state after two disjoint sets of keys.
__device__ inline void merge(Running& a, float top, float sum, const float (&output)[kLaneValues]) {
  const float largest = fmaxf(a.top, top);
  const float shift = largest == -INFINITY ? 0.0f : largest;
  const float left = exp2f(a.top - shift), right = exp2f(top - shift);
  a.top = largest;
  a.sum = a.sum * left + sum * right;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) a.output[i] = a.output[i] * left + output[i] * right;
}

__device__ inline void widen(const uint4& halves, float (&values)[kLaneValues]) {
  const auto* pairs = reinterpret_cast<const __half2*>(&halves);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(pairs[i]);
    values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
  }
}

/// A warp normalises (when there is a gain) and rotates one head, from global to shared memory.
__device__ void rotate_head(const DecodeAttentionProblem& p, const float* head, const float* gain,
                            int position, float factor, float* result) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float scale = 1.0f;
  if (gain != nullptr) {
    float squares = 0.0f;
    for (int i = lane; i < p.head_dim; i += 32) {
      const float value = __ldcg(head + i);
      squares += value * value;
    }
    squares = reduce_threads<32>(squares, Sum());
    scale = 1.0f / sqrtf(squares / static_cast<float>(p.head_dim) + p.norm_epsilon);
  }
  const auto at = [&](int i) {
    const float value = __ldcg(head + i);
    return gain != nullptr ? gain[i] * (value * scale) : value;
  };
  for (int i = lane; i < p.half; i += 32) {
    const float a = at(i), b = at(i + p.half);
    const float cos = p.cos[static_cast<int64_t>(position) * p.half + i];
    const float sin = p.sin[static_cast<int64_t>(position) * p.half + i];
    result[i] = factor * (a * cos - b * sin);
    result[i + p.half] = factor * (b * cos + a * sin);
  }
  for (int i = 2 * p.half + lane; i < p.head_dim; i += 32) result[i] = factor * at(i);
}

template <int kDim, int kHeads>
__global__ __launch_bounds__(kThreads) void decode_attention(
    const __grid_constant__ DecodeAttentionProblem p) {
  constexpr int kKeyLanes = kDim / kLaneValues;
  constexpr int kKeys = 32 / kKeyLanes;  // a warp's at a time
  __shared__ float queries[kHeads][kDim];
  __shared__ float new_key[kDim], new_value[kDim];
  __shared__ float tops[kAttentionWarps][kHeads], sums[kAttentionWarps][kHeads];
  __shared__ __align__(16) float outputs[kAttentionWarps][kHeads][kDim];
  __shared__ bool is_last;
  let_next_kernel_start();
  wait_for_kernels_before();

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int panel = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z);
  const int sets = p.n_heads / p.n_kv_heads / kHeads;  // of query heads, for a key head
  const int kv_head = panel / sets;
  const int first_head = kv_head * sets * kHeads + panel % sets * kHeads;
  const int dim = p.head_dim, position = p.positions[sequence];
  float* y = p.y + (static_cast<int64_t>(sequence) * p.n_heads + first_head) * dim;
  if (position < 0 || position >= p.capacity) {
    if (split == 0) {
      for (int i = thread; i < kHeads * dim; i += kThreads) y[i] = NAN;
    }
    return;
  }
  const int first_seen = p.window > 0 && position + 1 > p.window ? position + 1 - p.window : 0;
  const int n_keys = position + 1 - first_seen;
  // Equal parts, none of them tiny; the graph's blocks are fixed, so some may have nothing to do.
  const int part = max((n_keys + p.n_splits - 1) / p.n_splits, kSmallestPart);
  const int n_parts = (n_keys + part - 1) / part;
  if (split >= n_parts) return;
  const int begin = first_seen + split * part;
  const int end = min(begin + part, position);  // the new key comes from shared memory
  const bool has_new = split == n_parts - 1;

  const int64_t width = static_cast<int64_t>(p.n_kv_heads) * dim;
  const float* projection =
      p.projections + sequence * (static_cast<int64_t>(p.n_heads) * dim + 2 * width);
  const int64_t cache = static_cast<int64_t>(sequence) * p.capacity * width + kv_head * dim;
  for (int head = warp; head < kHeads + 2; head += kAttentionWarps) {
    if (head < kHeads) {
      rotate_head(p, projection + (first_head + head) * dim, p.query_gain, position,
                  p.scale * kLog2, queries[head]);
      for (int i = dim + lane; i < kDim; i += 32) queries[head][i] = 0.0f;
    } else if (has_new) {
      // As later tokens will see it: rounded to the cache's f16.
      const bool is_key = head == kHeads;
      const float* source =
          projection + static_cast<int64_t>(p.n_heads) * dim + (is_key ? 0 : width) + kv_head * dim;
      float* target = is_key ? new_key : new_value;
      if (is_key) rotate_head(p, source, p.key_gain, position, 1.0f, target);
      __syncwarp();
      unsigned short* row = (is_key ? p.keys : p.values) + cache + position * width;
      for (int i = lane; i < kDim; i += 32) {
        const __half rounded = __float2half_rn(i >= dim ? 0.0f
                                               : is_key ? target[i]
                                                        : __ldcg(source + i));
        if (i < dim && panel % sets == 0)
          row[i] = *reinterpret_cast<const unsigned short*>(&rounded);
        target[i] = __half2float(rounded);
      }
    }
  }
  __syncthreads();

  const int column = lane % kKeyLanes * kLaneValues, slot = lane / kKeyLanes;
  float query[kHeads][kLaneValues];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) query[h][i] = queries[h][column + i];
  }
  const auto score = [&](int h, const float(&key)[kLaneValues]) {
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) dot += query[h][i] * key[i];
#pragma unroll
    for (int offset = kKeyLanes / 2; offset > 0; offset /= 2) {
      dot += __shfl_xor_sync(0xffffffffu, dot, offset);
    }
    return dot;
  };
  Running state[kHeads];
  if (has_new && warp == 0) {
    float key[kLaneValues], value[kLaneValues];
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) {
      key[i] = new_key[column + i], value[i] = new_value[column + i];
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float dot = score(h, key);
      if (slot == 0) merge(state[h], dot, 1.0f, value);
    }
  }

  const unsigned short* keys = p.keys + cache + column;
  const unsigned short* values = p.values + cache + column;
  constexpr int kRound = kAttentionWarps * kKeys;  // keys of all warps at a time
  for (int first = begin; first < end; first += kKeysAhead * kRound) {
    uint4 key_words[kKeysAhead], value_words[kKeysAhead];
#pragma unroll
    for (int i = 0; i < kKeysAhead; ++i) {
      const int key = first + i * kRound + warp * kKeys + slot;
      key_words[i] = value_words[i] = {0, 0, 0, 0};
      if (key < end && column < dim) {
        key_words[i] = __ldcg(reinterpret_cast<const uint4*>(keys + key * width));
        value_words[i] = __ldcg(reinterpret_cast<const uint4*>(values + key * width));
      }
    }
    float scores[kHeads][kKeysAhead];
#pragma unroll
    for (int i = 0; i < kKeysAhead; ++i) {
      float key[kLaneValues];
      widen(key_words[i], key);
      const bool there = first + i * kRound + warp * kKeys + slot < end;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float dot = score(h, key);
        scores[h][i] = there ? dot : -INFINITY;
      }
    }
    float shifts[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float largest = state[h].top;
#pragma unroll
      for (int i = 0; i < kKeysAhead; ++i) largest = fmaxf(largest, scores[h][i]);
      shifts[h] = largest == -INFINITY ? 0.0f : largest;
      const float factor = exp2f(state[h].top - shifts[h]);
      state[h].top = largest;
      state[h].sum *= factor;
#pragma unroll
      for (int c = 0; c < kLaneValues; ++c) state[h].output[c] *= factor;
    }
#pragma unroll
    for (int i = 0; i < kKeysAhead; ++i) {
      float value[kLaneValues];
      widen(value_words[i], value);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float weight = exp2f(scores[h][i] - shifts[h]);
        state[h].sum += weight;
#pragma unroll
        for (int c = 0; c < kLaneValues; ++c) state[h].output[c] += weight * value[c];
      }
    }
  }

  // The keys of a warp, the warps, and then the parts.
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int offset = kKeyLanes; offset < 32; offset *= 2) {
      const float top = __shfl_xor_sync(0xffffffffu, state[h].top, offset);
      const float sum = __shfl_xor_sync(0xffffffffu, state[h].sum, offset);
      float output[kLaneValues];
#pragma unroll
      for (int i = 0; i < kLaneValues; ++i) {
        output[i] = __shfl_xor_sync(0xffffffffu, state[h].output[i], offset);
      }
      merge(state[h], top, sum, output);
    }
    if (slot == 0) {
#pragma unroll
      for (int i = 0; i < kLaneValues; ++i) outputs[warp][h][column + i] = state[h].output[i];
    }
    if (lane == 0) tops[warp][h] = state[h].top, sums[warp][h] = state[h].sum;
  }
  __syncthreads();
  const int64_t panels = gridDim.x;
  const int64_t record = kHeads * (kDim + 2);
  float* records = p.partial + (sequence * panels + panel) * p.n_splits * record;
  for (int i = thread; i < kHeads * kDim; i += kThreads) {
    const int h = i / kDim, c = i % kDim;
    float top = -INFINITY, sum = 0.0f, output = 0.0f;
    for (int w = 0; w < kAttentionWarps; ++w) top = fmaxf(top, tops[w][h]);
    for (int w = 0; w < kAttentionWarps; ++w) {
      const float factor = exp2f(tops[w][h] - top);  // some warp has a key, so top is finite
      sum += sums[w][h] * factor;
      output += outputs[w][h][c] * factor;
    }
    if (n_parts == 1) {
      if (c < dim) y[h * dim + c] = output / sum;
      continue;
    }
    float* mine = records + split * record + h * (kDim + 2);
    mine[c] = output;
    if (c == 0) mine[kDim] = top, mine[kDim + 1] = sum;
  }
  if (n_parts == 1) return;
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    // Counts up to n_parts - 1 and is zero again after the last one.
    is_last = atomicInc(p.arrived + sequence * panels + panel,
                        static_cast<unsigned>(n_parts - 1)) == static_cast<unsigned>(n_parts - 1);
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int i = thread; i < kHeads * dim; i += kThreads) {
    const int h = i / dim, c = i % dim;
    const float* first = records + h * (kDim + 2);
    float top = -INFINITY, sum = 0.0f, output = 0.0f;
    for (int s = 0; s < n_parts; ++s) top = fmaxf(top, __ldcg(first + s * record + kDim));
    for (int s = 0; s < n_parts; ++s) {
      const float* one = first + s * record;
      const float factor = exp2f(__ldcg(one + kDim) - top);
      sum += __ldcg(one + kDim + 1) * factor;
      output += __ldcg(one + c) * factor;
    }
    y[i] = output / sum;
  }
}

template <int kDim>
cudaError_t launch_heads(const DecodeAttentionProblem& p, const Launch& launch) {
  const int heads = heads_together(p.n_heads, p.n_kv_heads);
  const dim3 blocks(static_cast<unsigned>(p.n_heads / heads), static_cast<unsigned>(p.n_splits),
                    static_cast<unsigned>(p.n_sequences));
  switch (heads) {
    case 4:
      return launch_overlapped(decode_attention<kDim, 4>, launch, blocks, kThreads, 0, p);
    case 3:
      return launch_overlapped(decode_attention<kDim, 3>, launch, blocks, kThreads, 0, p);
    case 2:
      return launch_overlapped(decode_attention<kDim, 2>, launch, blocks, kThreads, 0, p);
    default:
      return launch_overlapped(decode_attention<kDim, 1>, launch, blocks, kThreads, 0, p);
  }
}

int padded_head(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }

}  // namespace

int64_t decode_attention_panels(int n_sequences, int n_heads, int n_kv_heads) {
  return static_cast<int64_t>(n_sequences) * n_heads / heads_together(n_heads, n_kv_heads);
}

int decode_attention_splits(int n_sequences, int n_heads, int n_kv_heads, int capacity,
                            int n_processors) {
  const int64_t panels = decode_attention_panels(n_sequences, n_heads, n_kv_heads);
  const int64_t wanted = (n_processors + panels - 1) / panels;
  const int64_t useful = (capacity + kSmallestPart - 1) / kSmallestPart;
  return static_cast<int>(wanted < useful ? wanted : useful);
}

int64_t decode_attention_partials(int n_sequences, int n_heads, int head_dim, int n_splits) {
  return static_cast<int64_t>(n_sequences) * n_heads * n_splits * (padded_head(head_dim) + 2);
}

cudaError_t launch_decode_attention(const DecodeAttentionProblem& p, const Launch& launch) {
  if (p.n_sequences == 0) return cudaSuccess;
  switch (padded_head(p.head_dim)) {
    case 64:
      return launch_heads<64>(p, launch);
    case 128:
      return launch_heads<128>(p, launch);
    default:
      return launch_heads<256>(p, launch);
  }
}

}  // namespace d2q::cuda
