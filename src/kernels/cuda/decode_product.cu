// Decoding products: which layouts there are, and the quantization of inputs for several tokens.
#include "kernels/cuda/decode_input.cuh"
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

extern template cudaError_t launch_decode_format<Format<true, 2>>(const DecodeProduct&,
                                                                  const Launch&);
extern template cudaError_t launch_decode_format<Format<false, 2>>(const DecodeProduct&,
                                                                   const Launch&);
extern template cudaError_t launch_decode_format<Format<true, 3>>(const DecodeProduct&,
                                                                  const Launch&);
extern template cudaError_t launch_decode_format<Format<false, 3>>(const DecodeProduct&,
                                                                   const Launch&);
extern template cudaError_t launch_decode_format<Format<false, 4>>(const DecodeProduct&,
                                                                   const Launch&);
extern template cudaError_t launch_decode_format<Format<false, 8>>(const DecodeProduct&,
                                                                   const Launch&);

namespace {

constexpr int kQuantizeThreads = 1024;

/// Values that other kernels have written.
struct PlainRow {
  const float* row;
  int cols;
  float asked[8];

  __device__ void ask(int first) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      // Past L1: the row may have been written while this kernel was already running.
      const int column = first + PairColumns<kQuantizeThreads / 32>::offset(k);
      asked[k] = column < cols ? __ldcg(row + column) : 0.0f;
    }
  }
  __device__ void settle(int, float (&values)[8]) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] = asked[k];
  }
};

/// A block of threads a token.
__global__ __launch_bounds__(kQuantizeThreads) void quantize_input(
    const float* x, const __grid_constant__ InputNorm norm, int cols, QuantizedBlock* blocks) {
  constexpr int kWarps = kQuantizeThreads / 32;
  __shared__ float scratch[2 * kWarps];
  const int token = static_cast<int>(blockIdx.x), n_tokens = static_cast<int>(gridDim.x);
  let_next_kernel_start();
  wait_for_kernels_before();
  PlainRow row = {x + static_cast<int64_t>(token) * cols, cols, {}};
  const ThreadPlace me = place_of_thread();
  quantize_row<kWarps, false>(
      me, row, norm, cols, scratch, [&](int block, const BlockValues& values, bool there) {
        if (there)
          store_bytes(me.lane, values, blocks[static_cast<int64_t>(block) * n_tokens + token]);
      });
}

}  // namespace

cudaError_t launch_decode_product(const DecodeProduct& product, const Launch& launch) {
  return with_format(product.sign_planes, product.bits, [&](auto format) {
    return launch_decode_format<decltype(format)>(product, launch);
  });
}

cudaError_t launch_quantize_input(const float* x, const InputNorm& norm, int n_tokens, int cols,
                                  QuantizedBlock* blocks, const Launch& launch) {
  return launch_overlapped(quantize_input, launch, dim3(static_cast<unsigned>(n_tokens)),
                           kQuantizeThreads, 0, x, norm, cols, blocks);
}

}  // namespace d2q::cuda
