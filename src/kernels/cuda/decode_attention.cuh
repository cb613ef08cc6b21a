// What attention of a decoding step does for one part of one sequence's keys: a block of threads
// has a key head with some of its query heads; its warps take keys in turn, eight values of a key a
// lane, and keep running maxima, sums and outputs in registers.
#pragma once

#include <cuda_fp16.h>

#include <cmath>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

constexpr int kLaneValues = 8;  // of a key
constexpr float kLog2 = 1.44269504f;

/// Query heads that share a block of threads, up to `most`.
inline int heads_together(int n_heads, int n_kv_heads, int most) {
  const int group = n_heads / n_kv_heads;
  for (int heads = most; heads > 1; --heads) {
    if (group % heads == 0) return heads;
  }
  return 1;
}

/// Completes the problem for blocks of threads with `heads` query heads.
inline void set_heads(DecodeAttentionProblem& p, int heads) {
  p.n_sets = p.n_heads / p.n_kv_heads / heads;
  p.per_set = 1.0f / static_cast<float>(p.n_sets);
  p.per_split = 1.0f / static_cast<float>(p.n_splits);
}

inline int padded_head(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }

/// The part of the keys and the heads of a block of threads.
struct AttentionPart {
  int position;  // of the new key, the last one
  int first_head;
  int kv_head;
  bool first_of_kv_head;  // among the blocks of threads that share it
  int n_parts;            // of the keys in all
  int begin, end;         // without the new key
  bool has_new;
};
/// Part `split` of at most p.n_splits; none of them is tiny, so there may be fewer, and n_parts <=
/// split then. The position has to lie in the capacity.
template <int kHeads>
__device__ AttentionPart attention_part(const DecodeAttentionProblem& p, int position, int panel,
                                        int split, int smallest_part) {
  const int first_seen = p.window > 0 && position + 1 > p.window ? position + 1 - p.window : 0;
  const int n_keys = position + 1 - first_seen;
  const int size = max(divide(n_keys + p.n_splits - 1, p.per_split), smallest_part);
  AttentionPart part;
  part.position = position;
  part.kv_head = divide(panel, p.per_set);
  part.first_head = panel * kHeads;
  part.first_of_kv_head = panel == part.kv_head * p.n_sets;
  part.n_parts = divide(n_keys + size - 1, __fdividef(1.0f, static_cast<float>(size)));
  part.begin = first_seen + split * size;
  part.end = min(part.begin + size, position);
  part.has_new = split == part.n_parts - 1;
  return part;
}

/// A block of threads' shared memory; afterwards what its warps have of each query head.
template <int kDim, int kHeads, int kWarps>
struct AttentionMemory {
  float outputs[kWarps][kHeads][kDim];
  float queries[kHeads][kDim];
  float new_key[kDim], new_value[kDim];
  float tops[kWarps][kHeads], sums[kWarps][kHeads];

  /// All warps' together, for value c of query head h, the same one in all of the warp's lanes.
  __device__ void join(int lane, int h, int c, float& top, float& sum, float& output) const {
    const int of_lane = lane % kWarps;
    const float own_top = tops[of_lane][h];
    top = own_top;
#pragma unroll
    for (int offset = kWarps / 2; offset > 0; offset /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    }
    const float factor = exp2f(own_top - top);  // some warp has a key, so top is finite
    sum = sums[of_lane][h] * factor;
#pragma unroll
    for (int offset = kWarps / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    output = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      output = fmaf(outputs[w][h][c], __shfl_sync(0xffffffffu, factor, w), output);
    }
  }
};

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

/// A lane's part of the rotation at a position: pairs lane, lane + 32 and so on.
template <int kDim>
struct Rotation {
  static constexpr int kPairs = kDim / 64, kLaneCount = kDim / 32;
  float cos[kPairs], sin[kPairs];

  /// cosines, sines: [half], of the position.
  __device__ Rotation(const float* cosines, const float* sines, int half) {
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const int i = static_cast<int>(threadIdx.x % 32) + 32 * k;
      cos[k] = i < half ? cosines[i] : 0.0f;
      sin[k] = i < half ? sines[i] : 0.0f;
    }
  }

  /// A warp normalises (when there is a gain) and rotates a head, values lane + 32 k of it.
  /// scratch: kDim floats of shared memory.
  __device__ void apply(const DecodeAttentionProblem& p, const float* gain, float factor,
                        float (&head)[kLaneCount], float* scratch) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (gain != nullptr) {
      float squares = 0.0f;
#pragma unroll
      for (int k = 0; k < kLaneCount; ++k) squares += head[k] * head[k];
      squares = reduce_threads<32>(squares, Sum());
      const float scale = rsqrtf(squares / static_cast<float>(p.head_dim) + p.norm_epsilon);
#pragma unroll
      for (int k = 0; k < kLaneCount; ++k) {
        if (lane + 32 * k < p.head_dim) head[k] *= gain[lane + 32 * k] * scale;
      }
    }
    if (2 * p.half == kDim) {  // both of a pair are the lane's
#pragma unroll
      for (int k = 0; k < kPairs; ++k) turn(k, factor, head[k], head[k + kPairs]);
      return;
    }
#pragma unroll
    for (int k = 0; k < kLaneCount; ++k) scratch[lane + 32 * k] = head[k];
    __syncwarp();
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const int i = lane + 32 * k;
      if (i < p.half) turn(k, factor, scratch[i], scratch[i + p.half]);
    }
    for (int i = 2 * p.half + lane; i < p.head_dim; i += 32) scratch[i] *= factor;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < kLaneCount; ++k) head[k] = scratch[lane + 32 * k];
  }

 private:
  __device__ void turn(int k, float factor, float& a, float& b) const {
    const float first = a, second = b;
    a = factor * (first * cos[k] - second * sin[k]);
    b = factor * (second * cos[k] + first * sin[k]);
  }
};

/// Appends the new key and value to the cache and attends. cosines, sines: [half], of the position.
/// load_head(index, values): values lane + 32 k of head `index` of the sequence's q, k, v, zeros
/// beyond it. All threads call; they are synchronised at the end. kAhead: keys of a lane at a time,
/// while as many are on their way.
template <int kAhead, int kDim, int kHeads, int kWarps, typename LoadHead>
__device__ void attend_part(const DecodeAttentionProblem& p, const AttentionPart& part,
                            int sequence, const float* cosines, const float* sines,
                            AttentionMemory<kDim, kHeads, kWarps>& memory,
                            const LoadHead& load_head) {
  constexpr int kKeyLanes = kDim / kLaneValues;
  constexpr int kKeys = 32 / kKeyLanes;   // a warp's at a time
  constexpr int kRound = kWarps * kKeys;  // of all warps
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int dim = p.head_dim, position = part.position;
  const int64_t width = static_cast<int64_t>(p.n_kv_heads) * dim;
  const int64_t cache = static_cast<int64_t>(sequence) * p.capacity * width + part.kv_head * dim;
  const int column = lane % kKeyLanes * kLaneValues, slot = lane / kKeyLanes;
  const unsigned short* keys = p.keys + cache + column;
  const unsigned short* values = p.values + cache + column;
  struct Keys {
    uint4 keys[kAhead], values[kAhead];
  };
  const auto fetch = [&](int first) {
    Keys words;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int key = first + i * kRound + warp * kKeys + slot;
      words.keys[i] = words.values[i] = {0, 0, 0, 0};
      if (key < part.end && column < dim) {
        words.keys[i] = __ldcg(reinterpret_cast<const uint4*>(keys + key * width));
        words.values[i] = __ldcg(reinterpret_cast<const uint4*>(values + key * width));
      }
    }
    return words;
  };
  // Before the wait for the new token's heads.
  Keys next = fetch(part.begin);
  const Rotation<kDim> rotation(cosines, sines, p.half);

  for (int head = warp; head < kHeads + 2; head += kWarps) {
    const bool is_query = head < kHeads, is_key = head == kHeads;
    if (!is_query && !part.has_new) continue;
    float* target = is_query ? memory.queries[head] : is_key ? memory.new_key : memory.new_value;
    float mine[kDim / 32];
    load_head(
        is_query ? part.first_head + head : p.n_heads + (is_key ? 0 : p.n_kv_heads) + part.kv_head,
        mine);
    if (is_query || is_key) {
      rotation.apply(p, is_query ? p.query_gain : p.key_gain, is_query ? p.scale * kLog2 : 1.0f,
                     mine, target);
    }
    unsigned short* row = (is_key ? p.keys : p.values) + cache + position * width;
#pragma unroll
    for (int k = 0; k < kDim / 32; ++k) {
      const int i = lane + 32 * k;
      if (!is_query) {
        // As later tokens will see it: rounded to the cache's f16.
        const __half rounded = __float2half_rn(mine[k]);
        if (i < dim && part.first_of_kv_head) row[i] = __half_as_ushort(rounded);
        mine[k] = __half2float(rounded);
      }
      target[i] = mine[k];
    }
  }
  sync_warps<kWarps>();

  float query[kHeads][kLaneValues];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) query[h][i] = memory.queries[h][column + i];
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
  if (part.has_new && warp == 0) {
    float key[kLaneValues], value[kLaneValues];
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) {
      key[i] = memory.new_key[column + i], value[i] = memory.new_value[column + i];
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float dot = score(h, key);
      if (slot == 0) merge(state[h], dot, 1.0f, value);
    }
  }

#pragma unroll 1
  for (int first = part.begin; first < part.end; first += kAhead * kRound) {
    const Keys words = next;
    next = fetch(first + kAhead * kRound);
    float scores[kHeads][kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      float key[kLaneValues];
      widen(words.keys[i], key);
      const bool there = first + i * kRound + warp * kKeys + slot < part.end;
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
      for (int i = 0; i < kAhead; ++i) largest = fmaxf(largest, scores[h][i]);
      shifts[h] = largest == -INFINITY ? 0.0f : largest;
      const float factor = exp2f(state[h].top - shifts[h]);
      state[h].top = largest;
      state[h].sum *= factor;
#pragma unroll
      for (int c = 0; c < kLaneValues; ++c) state[h].output[c] *= factor;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      float value[kLaneValues];
      widen(words.values[i], value);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float weight = exp2f(scores[h][i] - shifts[h]);
        state[h].sum += weight;
#pragma unroll
        for (int c = 0; c < kLaneValues; ++c) state[h].output[c] += weight * value[c];
      }
    }
  }

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
      for (int i = 0; i < kLaneValues; ++i)
        memory.outputs[warp][h][column + i] = state[h].output[i];
    }
    if (lane == 0) memory.tops[warp][h] = state[h].top, memory.sums[warp][h] = state[h].sum;
  }
  sync_warps<kWarps>();
}

}  // namespace d2q::cuda
