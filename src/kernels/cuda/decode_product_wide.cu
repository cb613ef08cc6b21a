// Decoding products of 4 and 8 bits.
#include "kernels/cuda/decode_product.cuh"

namespace d2q::cuda {

template cudaError_t launch_decode_format<DecodeFormat<false, 4>>(const DecodeProduct&,
                                                                  const Launch&, const ProductCut&);
template cudaError_t launch_decode_format<DecodeFormat<false, 8>>(const DecodeProduct&,
                                                                  const Launch&, const ProductCut&);

}  // namespace d2q::cuda
