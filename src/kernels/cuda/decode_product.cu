// Decoding products: which layouts there are, and the quantization of inputs for several tokens.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

#define D2Q_DECODE_FORMAT(planes, bits)                                         \
  extern template cudaError_t launch_decode_format<DecodeFormat<planes, bits>>( \
      const DecodeProduct&, const Launch&, const ProductCut&)
D2Q_DECODE_FORMAT(true, 2);
D2Q_DECODE_FORMAT(false, 2);
D2Q_DECODE_FORMAT(true, 3);
D2Q_DECODE_FORMAT(false, 3);
D2Q_DECODE_FORMAT(false, 4);
D2Q_DECODE_FORMAT(false, 8);
#undef D2Q_DECODE_FORMAT

namespace {

/// A block of threads a token.
__global__ __launch_bounds__(kThreads) void quantize_input(const float* x,
                                                           const __grid_constant__ InputNorm norm,
                                                           int cols, int n_blocks,
                                                           QuantizedInput input) {
  extern __shared__ __align__(16) float raw[];
  __shared__ float scratch[kThreads / 32];
  const int token = static_cast<int>(blockIdx.x), n_tokens = static_cast<int>(gridDim.x);
  let_next_kernel_start();
  wait_for_kernels_before();
  quantize_row(x + static_cast<int64_t>(token) * cols, norm, cols, n_blocks, raw, scratch,
               [&](int block) -> QuantizedInput {
                 const int64_t place = static_cast<int64_t>(block) * n_tokens + token;
                 return {input.words + 64 * place, input.steps + place, input.totals + 2 * place};
               });
}

}  // namespace

bool is_decodable(const PackedWeights& weights) {
  // A row of the widest input has to fit into shared memory beside its quantized form.
  return (weights.group_size % (kInputBlock / 2) == 0 || weights.n_groups == 1) &&
         weights.cols <= 32768 && weights.rows < (int64_t{1} << 30);
}

cudaError_t launch_decode_product(const DecodeProduct& product, const Launch& launch,
                                  const ProductCut& cut) {
  if (product.sign_planes) {
    return product.bits == 2 ? launch_decode_format<DecodeFormat<true, 2>>(product, launch, cut)
                             : launch_decode_format<DecodeFormat<true, 3>>(product, launch, cut);
  }
  switch (product.bits) {
    case 2:
      return launch_decode_format<DecodeFormat<false, 2>>(product, launch, cut);
    case 3:
      return launch_decode_format<DecodeFormat<false, 3>>(product, launch, cut);
    case 4:
      return launch_decode_format<DecodeFormat<false, 4>>(product, launch, cut);
    default:
      return launch_decode_format<DecodeFormat<false, 8>>(product, launch, cut);
  }
}

cudaError_t launch_quantize_input(const float* x, const InputNorm& norm, int n_tokens, int cols,
                                  const QuantizedInput& input, const Launch& launch) {
  const int n_blocks = (cols + kInputBlock - 1) / kInputBlock;
  const size_t bytes =
      norm.gain != nullptr ? sizeof(float) * static_cast<size_t>(n_blocks * kInputBlock) : 0;
  const cudaError_t status = cudaFuncSetAttribute(
      quantize_input, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  return launch_overlapped(quantize_input, launch, dim3(static_cast<unsigned>(n_tokens)), kThreads,
                           bytes, x, norm, cols, n_blocks, input);
}

}  // namespace d2q::cuda
