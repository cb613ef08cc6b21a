// Launchers of the kernels of a decoding step: one token for each of a few sequences. Read by nvcc
// too: CUDA's headers only.
#pragma once

#include "kernels/cuda/cuda_forward_kernels.h"
#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/cuda_packed_kernels.h"

namespace d2q::cuda {

/// Columns that share one step of the activations' quantization: those of a cell.
constexpr int kInputBlock = kCellColumns;

/// A token's activations of 128 columns in 16 bits: x ≈ step q, a power of two times a signed
/// integer, off by 2^-15 of the block's largest value at most. A single token's q are held bit by
/// bit, as the right operand of products of single bits; those of several tokens, which those
/// products would have to take one by one, in bytes.
struct QuantizedBlock {
  /// Bits: [t][g][2]: bits 4 (g / 2) + g % 2 and two more of columns 32t .. 32t + 31, so that lane
  /// 4g + t reads its operands together, and gets back the products of bits 4t .. 4t + 3.
  /// Bytes: [2][t][8]: of q = 256 high + low first high and then low, columns 32t + i, 32t + 8 + i,
  /// 32t + 16 + i and 32t + 24 + i in word i.
  unsigned words[64];
  /// x: step 16^t. y: for t = 0 and 1, -step / 2 times the sum of q over that half of the block,
  /// else 0.
  float2 scales[4];
};

/// The normalisation of an input; without a gain there is none.
struct InputNorm {
  const float* gain = nullptr;
  const float* shift = nullptr;
  float epsilon = 0.0f;
  bool subtract_mean = false;
};

/// The rows of one matrix.
struct ProductPart {
  const unsigned char* cells = nullptr;
  const float* bias = nullptr;
  int rows = 0;
  int first_column = 0;  // of y
};

constexpr int kMaxProductParts = 3;

enum class ProductOutput : int { kStore, kAdd, kGated };

/// y = W norm(x) for up to three matrices in cells, of one format, number of columns and group
/// size. kAdd: y += W norm(x). kGated: y = act(W0 norm(x)) ⊙ (W1 norm(x)), two matrices of the same
/// shape.
struct DecodeProduct {
  ProductPart parts[kMaxProductParts];
  int n_parts = 1;
  bool sign_planes = true;
  int bits = 2;
  int cols = 0;
  int n_blocks = 0;  // of 128 columns, a cell each
  int cell_bytes = 0;
  const float* x = nullptr;  // [1, cols], of a program
  InputNorm norm;
  const QuantizedBlock* input = nullptr;  // of several tokens: [n_blocks][n_tokens], norm and all
  int n_tokens = 1;
  ProductOutput output = ProductOutput::kStore;
  Curve curve = Curve::kSilu;
  float* y = nullptr;
  int64_t y_stride = 0;
};

/// How a product is divided. A unit is a row tile or, when the product is gated, one of the gate
/// and the same one of the other matrix; the first `n_larger` blocks of threads have one more.
struct DecodeCut {
  int n_blocks = 0;  // of threads
  int block_units = 0;
  int n_larger = 0;
  int chunk_cells = 1;
  float per_tile_cell = 0.0f;  // 1 / cells of a tile: divisions of small integers without dividing
};

/// Warps of a block of threads that multiplies.
constexpr int kDecodeWarps = 16;

/// The most tokens of launch_decode_product().
constexpr int kMaxDecodeTokens = 16;

/// A product with `input`.
cudaError_t launch_decode_product(const DecodeProduct& product, const Launch& launch);
/// blocks [ceil(cols / 128)][n_tokens] = norm(x) in bytes for x [n_tokens, cols].
cudaError_t launch_quantize_input(const float* x, const InputNorm& norm, int n_tokens, int cols,
                                  QuantizedBlock* blocks, const Launch& launch);

/// y[b, :] = row tokens[b] of the table, [n_rows, width]; a token outside it gives NaN.
cudaError_t launch_decode_embed(const int32_t* tokens, int n_tokens, const Values& table,
                                int64_t n_rows, int64_t width, float* y, const Launch& launch);
/// The same from a packed table.
cudaError_t launch_decode_embed_packed(const int32_t* tokens, int n_tokens,
                                       const PackedWeights& table, float* y, const Launch& launch);

/// tokens[b] = index of the largest of logits[b, :], the first of equal ones (NaN is never chosen).
cudaError_t launch_most_likely(const float* logits, int n_tokens, int64_t vocabulary,
                               int32_t* tokens, const Launch& launch);
/// positions[b] += 1.
cudaError_t launch_advance(int32_t* positions, int n_tokens, const Launch& launch);

/// Attention of one new token a sequence. q, k, v of a row of `projections` lie one after another.
struct DecodeAttentionProblem {
  const float* projections = nullptr;  // [n_sequences, (n_heads + 2 n_kv_heads) head_dim]
  const int32_t* positions = nullptr;  // of the new tokens
  unsigned short* keys = nullptr;      // f16 [n_sequences, capacity, n_kv_heads * head_dim]
  unsigned short* values = nullptr;
  float* y = nullptr;  // [n_sequences, n_heads * head_dim]
  const float* cos = nullptr;
  const float* sin = nullptr;         // [*, half]
  const float* query_gain = nullptr;  // norms of each head, or null
  const float* key_gain = nullptr;
  float norm_epsilon = 0.0f;
  float* partial = nullptr;     // decode_attention_partials() floats
  unsigned* arrived = nullptr;  // decode_attention_panels() zeros; zeros again afterwards
  int n_sequences = 1;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int half = 0;      // rotated pairs
  int capacity = 0;  // positions a sequence
  int window = 0;
  int n_splits = 1;
  float scale = 0.0f;
  // Set at the launch: sets of query heads for a key head, one for each block of threads, and
  // inverses.
  int n_sets = 1;
  float per_set = 1.0f;
  float per_split = 1.0f;
};

constexpr int kMaxDecodeHeadDim = 256;

/// Parts into which the keys are cut at most.
int decode_attention_splits(int n_sequences, int n_heads, int n_kv_heads, int capacity,
                            int n_processors);
int64_t decode_attention_panels(int n_sequences, int n_heads, int n_kv_heads);
int64_t decode_attention_partials(int n_sequences, int n_heads, int head_dim, int n_splits);
/// Normalises and rotates q and k, appends k and v to the cache, and attends over it. A sequence
/// whose position lies outside the capacity gets NaN and leaves the cache alone.
cudaError_t launch_decode_attention(const DecodeAttentionProblem& problem, const Launch& launch);

}  // namespace d2q::cuda
