// Attention of a decoding step as a kernel of its own, for any number of sequences. The last block
// of threads of a sequence and key head to finish adds up the parts, in their order, so that the
// sums never depend on the timing.
#include "kernels/cuda/decode_attention.cuh"
#include "kernels/cuda/kernel_overlap.cuh"

namespace d2q::cuda {
namespace {

constexpr int kAttentionWarps = kThreads / 32;
constexpr int kMostHeads = 4;
constexpr int kSmallestPart = 64;
constexpr int kKeysAhead = 2;

template <int kDim, int kHeads>
__global__ __launch_bounds__(kThreads) void decode_attention(
    const __grid_constant__ DecodeAttentionProblem p) {
  __shared__ __align__(16) AttentionMemory<kDim, kHeads, kAttentionWarps> memory;
  __shared__ bool is_last;
  let_next_kernel_start();
  wait_for_kernels_before();

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int panel = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z);
  const int dim = p.head_dim, position = p.positions[sequence];
  const bool in_cache = position >= 0 && position < p.capacity;
  const AttentionPart part =
      attention_part<kHeads>(p, in_cache ? position : 0, panel, split, kSmallestPart);
  float* y = p.y + (static_cast<int64_t>(sequence) * p.n_heads + part.first_head) * dim;
  if (!in_cache) {
    if (split == 0) {
      for (int i = thread; i < kHeads * dim; i += kThreads) y[i] = NAN;
    }
    return;
  }
  const int n_parts = part.n_parts;
  if (split >= n_parts) return;  // the graph's blocks are fixed, so some may have nothing to do
  const float* projections =
      p.projections + static_cast<int64_t>(sequence) * (p.n_heads + 2 * p.n_kv_heads) * dim;
  const int64_t turn = static_cast<int64_t>(position) * p.half;
  attend_part<kKeysAhead>(p, part, sequence, p.cos + turn, p.sin + turn, memory,
                          [&](int head, float(&values)[kDim / 32]) {
#pragma unroll
                            for (int k = 0; k < kDim / 32; ++k) {
                              const int i = lane + 32 * k;
                              values[k] = i < dim ? __ldcg(projections + head * dim + i) : 0.0f;
                            }
                          });

  const int64_t panels = gridDim.x;
  const int64_t record = kHeads * (kDim + 2);
  float* records = p.partial + (sequence * panels + panel) * p.n_splits * record;
  for (int i = thread; i < kHeads * kDim; i += kThreads) {
    const int h = i / kDim, c = i % kDim;
    float top, sum, output;
    memory.join(lane, h, c, top, sum, output);
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
cudaError_t launch_heads(DecodeAttentionProblem p, const Launch& launch) {
  const int heads = heads_together(p.n_heads, p.n_kv_heads, kMostHeads);
  set_heads(p, heads);
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

}  // namespace

int64_t decode_attention_panels(int n_sequences, int n_heads, int n_kv_heads) {
  return static_cast<int64_t>(n_sequences) * n_heads /
         heads_together(n_heads, n_kv_heads, kMostHeads);
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
