// Decoding products: which layouts there are, and the quantization of inputs for several tokens.
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

/// A block of threads a token.
template <int kHeld>
__global__ __launch_bounds__(kQuantizeThreads) void quantize_input(
    const float* x, const __grid_constant__ InputNorm norm, int cols, QuantizedBlock* blocks) {
  __shared__ float scratch[2 * kQuantizeThreads / 32];
  const int token = static_cast<int>(blockIdx.x), n_tokens = static_cast<int>(gridDim.x);
  let_next_kernel_start();
  quantize_row<kHeld>(x + static_cast<int64_t>(token) * cols, norm, cols, scratch,
                      wait_for_kernels_before, [&](int block, const float(&values)[4]) {
                        store_bytes(values, blocks[static_cast<int64_t>(block) * n_tokens + token]);
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
  // Widths up to 32768, kMaxDecodeColumns of the caller.
  const auto kernel = cols <= 4096    ? quantize_input<1>
                      : cols <= 16384 ? quantize_input<4>
                                      : quantize_input<8>;
  return launch_overlapped(kernel, launch, dim3(static_cast<unsigned>(n_tokens)), kQuantizeThreads,
                           0, x, norm, cols, blocks);
}

}  // namespace d2q::cuda
