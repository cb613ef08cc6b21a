// Decoding products of 2 bits.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

template cudaError_t launch_decode_format<DecodeFormat<true, 2>>(const DecodeProduct&,
                                                                 const Launch&, const ProductCut&);
template cudaError_t launch_decode_format<DecodeFormat<false, 2>>(const DecodeProduct&,
                                                                  const Launch&, const ProductCut&);

}  // namespace d2q::cuda
