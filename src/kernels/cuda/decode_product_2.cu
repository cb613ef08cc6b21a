// Decoding products of 2 bits.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

template cudaError_t launch_decode_format<Format<true, 2>>(const DecodeProduct&, const Launch&);
template cudaError_t launch_decode_format<Format<false, 2>>(const DecodeProduct&, const Launch&);

}  // namespace d2q::cuda
