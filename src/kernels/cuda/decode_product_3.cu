// Decoding products of 3 bits.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

template cudaError_t launch_decode_format<Format<true, 3>>(const DecodeProduct&, const Launch&);
template cudaError_t launch_decode_format<Format<false, 3>>(const DecodeProduct&, const Launch&);

}  // namespace d2q::cuda
