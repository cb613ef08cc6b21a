// Decoding products of 4 and 8 bits.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

template cudaError_t launch_decode_format<Format<false, 4>>(const DecodeProduct&, const Launch&);
template cudaError_t launch_decode_format<Format<false, 8>>(const DecodeProduct&, const Launch&);

}  // namespace d2q::cuda
