// The normal equations of the scale refit: N[(a,k),(b,l)] = Σ s_k[i] H'[i,j] s_l[j] over the
// columns i of group a and j of group b, s the codes' bases (±1, or code and 1: exact in bf16) and
// H' the Hessian with the column scale folded in, as the sum of two bf16 values. The products stay
// in registers: they are met by the other group's bases there.
//
// A block works on kTileRows rows and all pairs (a, b) of one group b, a warp on 16 of the rows.
// The left operand, the bases of b, stays in registers; tiles of H' come through shared memory,
// laid out as the registers of the right operand want them.
#include "kernels/cuda/mma_fragments.cuh"
#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_refit_kernels.h"

namespace d2q::cuda {
namespace {

constexpr int kTileRows = 128;
constexpr int kThreads = 256;
constexpr int kDepth = 16;                          // of one product of fragments
constexpr int kMaxSteps = kMaxChunkWidth / kDepth;  // of a tile
constexpr int kPanel = 32;                          // result columns at a time
/// Codes of a row in shared memory: the words of eight rows then lie in different banks, and rows
/// on multiples of 16 bytes.
constexpr int kCodeStride = kMaxChunkWidth + 16;
constexpr int kCodeBytes = kTileRows * kCodeStride;

/// Of a tile, in uint4: two pieces of width x width bf16.
__host__ __device__ constexpr int tile_words(int width) { return width * width / 4; }

/// Word of a tile: the right operands of 16 columns, for rows kDepth·step on, of one lane.
__device__ int tile_word(int width, int step, int columns, int piece, int lane) {
  return ((step * (width / 16) + columns) * 2 + piece) * kWarp + lane;
}

/// One thread a lane of the right operands of 16 x 16 elements.
__global__ void __launch_bounds__(kThreads)
    split_hessian_kernel(const RefitBatch batch, const float* hessian) {
  const ColumnChunk below = batch.chunks[blockIdx.y];
  const GroupSpan group = batch.groups[below.group];
  const int width = batch.chunk_width;
  const int squares = width / 16;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int lane = static_cast<int>(task % kWarp);
  const auto square = static_cast<int>(task / kWarp % (squares * squares));
  const auto a = static_cast<int>(task / kWarp / (squares * squares));
  if (a >= group.first_chunk + group.n_chunks) return;
  const ColumnChunk beside = batch.chunks[a];
  const int first_row = square / squares * kDepth + lane % 4 * 2;
  const int first_column = square % squares * 16 + lane / 4;
  unsigned high[4];
  unsigned low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int column = first_column + i / 2 * 8;
    float x[2] = {};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = first_row + i % 2 * 8 + e;
      if (row >= below.size || column >= beside.size) continue;
      const int64_t from = below.begin + row;
      const int64_t to = beside.begin + column;
      x[e] = hessian[from * batch.stride + to];
      if (!batch.uniform) x[e] *= batch.column_scale[from] * batch.column_scale[to];
    }
    high[i] = packed(x[0], x[1]);
    const auto parts = *reinterpret_cast<const __nv_bfloat162*>(&high[i]);
    low[i] = packed(x[0] - __low2float(parts), x[1] - __high2float(parts));
  }
  uint4* tile = batch.tiles + (static_cast<int64_t>(below.first_tile) + a) * tile_words(width);
  const int step = square / squares, columns = square % squares;
  tile[tile_word(width, step, columns, 0, lane)] = {high[0], high[1], high[2], high[3]};
  tile[tile_word(width, step, columns, 1, lane)] = {low[0], low[1], low[2], low[3]};
}

__device__ void copy_16_bytes(void* shared, const void* source) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(source) : "memory");
}

/// Starts to copy a tile.
__device__ void load_tile(const RefitBatch& batch, const ColumnChunk& below, int a, uint4* tile) {
  const int words = tile_words(batch.chunk_width);
  const uint4* source = batch.tiles + (static_cast<int64_t>(below.first_tile) + a) * words;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads)
    copy_16_bytes(tile + i, source + i);
}

/// Starts to copy a chunk's codes of the block's rows.
__device__ void load_codes(const RefitBatch& batch, int64_t first_row, const ColumnChunk& chunk,
                           uint8_t* codes) {
  const int thread = static_cast<int>(threadIdx.x);
  if (batch.aligned_codes) {
    const int pieces = batch.chunk_width / 16;
    for (int i = thread; i < kTileRows * pieces; i += kThreads) {
      const int row = i / pieces, column = i % pieces * 16;
      const int64_t from = min(first_row + row, batch.rows - 1);
      copy_16_bytes(codes + row * kCodeStride + column,
                    batch.codes + from * batch.stride + chunk.begin + column);
    }
    return;
  }
  for (int i = thread; i < kTileRows * batch.chunk_width; i += kThreads) {
    const int row = i / batch.chunk_width, column = i % batch.chunk_width;
    const int64_t from = first_row + row;
    codes[row * kCodeStride + column] =
        from < batch.rows && column < chunk.size
            ? batch.codes[from * batch.stride + chunk.begin + column]
            : uint8_t{0};
  }
}

/// Codes of two neighbouring columns; `codes` is a row's.
__device__ int two_codes(const uint8_t* codes, int column) {
  return *reinterpret_cast<const uint16_t*>(codes + column);
}

template <bool kUniform>
__device__ float unscaled_basis(int k, int code) {
  if (kUniform) return k == 0 ? static_cast<float>(code) : 1.0f;
  return (code >> k & 1) != 0 ? 1.0f : -1.0f;
}

/// A chunk's bases as left operands; `codes` are those of the thread's first row, the other one is
/// 8 below.
template <int kParams, bool kUniform>
__device__ void load_left(const uint8_t* codes, int lane, unsigned (&left)[kParams][kMaxSteps][4]) {
#pragma unroll
  for (int step = 0; step < kMaxSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int two =
          two_codes(codes + i % 2 * 8 * kCodeStride, step * kDepth + i / 2 * 8 + lane % 4 * 2);
#pragma unroll
      for (int k = 0; k < kParams; ++k)
        left[k][step][i] =
            packed(unscaled_basis<kUniform>(k, two & 0xff), unscaled_basis<kUniform>(k, two >> 8));
    }
  }
}

/// Adds to sums[half][k][l] what a tile gives: its products with the left operands, met by the
/// bases of the codes in shared memory.
template <int kParams, bool kUniform>
__device__ void add_tile(const unsigned (&left)[kParams][kMaxSteps][4], const uint4* tile,
                         const uint8_t* codes, int width, int lane,
                         float (&sums)[2][kParams][kParams]) {
  for (int panel = 0; panel < width; panel += kPanel) {
    float products[kParams][kPanel / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kMaxSteps; ++step) {
      if (step * kDepth >= width) break;
#pragma unroll
      for (int columns = 0; columns < kPanel / 16; ++columns) {
#pragma unroll
        for (int piece = 0; piece < 2; ++piece) {
          const uint4 right = tile[tile_word(width, step, panel / 16 + columns, piece, lane)];
#pragma unroll
          for (int l = 0; l < kParams; ++l) {
            multiply(left[l][step], right.x, right.y, products[l][2 * columns]);
            multiply(left[l][step], right.z, right.w, products[l][2 * columns + 1]);
          }
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kPanel / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int two = two_codes(codes + half * 8 * kCodeStride, panel + 8 * n + lane % 4 * 2);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int code = two >> 8 * c & 0xff;
#pragma unroll
          for (int k = 0; k < kParams; ++k) {
            const float value = unscaled_basis<kUniform>(k, code);
#pragma unroll
            for (int l = 0; l < kParams; ++l)
              sums[half][k][l] += value * products[l][n][2 * half + c];
          }
        }
      }
    }
  }
}

/// The K x K block (a, b) of two rows' systems, and its mirror image, from the sums of the four
/// threads that share the rows, which start anew. `first`: nothing is there to be added to.
template <int kParams>
__device__ void store_sums(const RefitBatch& batch, int64_t first_row, int a, int b, bool first,
                           int lane, float (&sums)[2][kParams][kParams]) {
  const int64_t n = batch.unknowns(), stride = batch.system_stride();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first_row + 8 * half;
#pragma unroll
    for (int k = 0; k < kParams; ++k) {
#pragma unroll
      for (int l = 0; l < kParams; ++l) {
        const float sum = lane_sum<4>(sums[half][k][l]);
        sums[half][k][l] = 0.0f;
        // The block on the diagonal is symmetric but for rounding: its upper half stands for both.
        if (lane % 4 != 0 || row >= batch.rows || (a == b && k > l)) continue;
        float* system = batch.systems + row * n * stride;
        const int64_t i = static_cast<int64_t>(a) * kParams + k;
        const int64_t j = static_cast<int64_t>(b) * kParams + l;
        const float total = first ? sum : system[i * stride + j] + sum;
        system[i * stride + j] = total;
        system[j * stride + i] = total;
      }
    }
  }
}

template <int kParams, bool kUniform>
__global__ void __launch_bounds__(kThreads, 1) normal_equations_kernel(const RefitBatch batch) {
  extern __shared__ uint4 shared[];
  const int words = tile_words(batch.chunk_width);
  auto* codes = reinterpret_cast<uint8_t*>(shared + 2 * words);
  uint8_t* left_codes = codes + 2 * kCodeBytes;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;

  // Groups with the most pairs first.
  const int64_t n_row_tiles = (batch.rows + kTileRows - 1) / kTileRows;
  const int b = batch.n_groups - 1 - static_cast<int>(blockIdx.x / n_row_tiles);
  const int64_t first_row = blockIdx.x % n_row_tiles * kTileRows;
  const int own_row = warp * 16 + lane / 4;
  const int own_codes = own_row * kCodeStride;
  const int64_t row = first_row + own_row;
  const GroupSpan group = batch.groups[b];
  const int n_beside = group.first_chunk + group.n_chunks;
  const int n_tiles = group.n_chunks * n_beside;

  unsigned left[kParams][kMaxSteps][4];
  float sums[2][kParams][kParams] = {};
  const auto load = [&](int i) {
    const ColumnChunk below = batch.chunks[group.first_chunk + i / n_beside];
    const int a = i % n_beside;
    if (a == 0) load_codes(batch, first_row, below, left_codes);
    load_tile(batch, below, a, shared + i % 2 * words);
    load_codes(batch, first_row, batch.chunks[a], codes + i % 2 * kCodeBytes);
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  load(0);
  for (int i = 0; i < n_tiles; ++i) {
    const int a = i % n_beside;
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();  // the tile is there, and the other one has been used
    // A group of several chunks has several of them beside it: nobody reads `left_codes` any more
    // when they are loaded anew.
    if (i + 1 < n_tiles) load(i + 1);
    if (a == 0) load_left<kParams, kUniform>(left_codes + own_codes, lane, left);
    add_tile<kParams, kUniform>(left, shared + i % 2 * words,
                                codes + i % 2 * kCodeBytes + own_codes, batch.chunk_width, lane,
                                sums);
    const int group_a = batch.chunks[a].group;
    if (a + 1 == n_beside || batch.chunks[a + 1].group != group_a)
      store_sums<kParams>(batch, row, group_a, b, i < n_beside, lane, sums);
  }
}

template <int kParams, bool kUniform>
cudaError_t launch_normal_equations(const RefitBatch& batch, cudaStream_t stream) {
  const auto kernel = normal_equations_kernel<kParams, kUniform>;
  const size_t bytes = 2 * sizeof(uint4) * static_cast<size_t>(tile_words(batch.chunk_width)) +
                       3 * static_cast<size_t>(kCodeBytes);
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  const int64_t n_blocks = (batch.rows + kTileRows - 1) / kTileRows * batch.n_groups;
  if (n_blocks == 0) return cudaSuccess;
  kernel<<<static_cast<unsigned>(n_blocks), kThreads, bytes, stream>>>(batch);
  return cudaGetLastError();
}

}  // namespace

cudaError_t split_hessian(const RefitBatch& batch, const float* hessian, cudaStream_t stream) {
  const int64_t squares = batch.chunk_width / 16;
  const int64_t tasks = batch.n_chunks * squares * squares * kWarp;
  const dim3 grid(static_cast<unsigned>((tasks + kThreads - 1) / kThreads),
                  static_cast<unsigned>(batch.n_chunks));
  split_hessian_kernel<<<grid, kThreads, 0, stream>>>(batch, hessian);
  return cudaGetLastError();
}

cudaError_t add_normal_equations(const RefitBatch& batch, cudaStream_t stream) {
  if (batch.uniform) {
    return batch.n_params == 2 ? launch_normal_equations<2, true>(batch, stream)
                               : cudaErrorInvalidValue;
  }
  switch (batch.n_params) {
    case 1:
      return launch_normal_equations<1, false>(batch, stream);
    case 2:
      return launch_normal_equations<2, false>(batch, stream);
    case 3:
      return launch_normal_equations<3, false>(batch, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace d2q::cuda
