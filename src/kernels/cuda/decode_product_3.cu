// Decoding products of 3 bits.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

template cudaError_t launch_decode_format<DecodeFormat<true, 3>>(const DecodeProduct&,
                                                                 const Launch&, const ProductCut&);
template cudaError_t launch_decode_format<DecodeFormat<false, 3>>(const DecodeProduct&,
                                                                  const Launch&, const ProductCut&);

}  // namespace d2q::cuda
