// Products of packed linears with few tokens, as cuda_decode_kernels.h has them, on tensors.
#pragma once

#include <span>

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/device.h"

namespace d2q {

/// More tokens than this run faster as expanded panels.
inline constexpr int64_t kMaxQuantizedTokens = 64;

/// How kernels of a decoding step are launched here.
cuda::Launch decode_launch(const CudaContext& context);
cuda::PackedWeights packed_weights(const PackedTensor& packed);

/// The matrix in the GPU's memory: in cells when its groups allow, without scales of its own then,
/// else as it is stored.
PackedTensor upload_packed_cuda(CudaContext& context, const PackedView& packed);
/// Whether ProductInput::multiply() takes it.
bool is_decodable(const PackedTensor& packed);

/// The longest run of leading linears (at most three) that one launch takes: packed, of one layout
/// but for their rows. 0 when the first one is not of that kind.
size_t fusable(std::span<const Linear* const> linears);

/// y[:, column...] = the linears of a run, side by side, of norm(x), or y += them, or the first
/// one's activation times the second one. x [T, cols] f32, T <= kMaxDecodeTokens, norm may be null.
cuda::DecodeProduct decode_product(const Tensor& x, const NormParams* norm,
                                   std::span<const Linear* const> run, cuda::ProductOutput output,
                                   cuda::Curve curve, const Tensor& y, int64_t column);
/// Bytes of the GPU's memory that launch_product() needs.
int64_t product_input_bytes(const cuda::DecodeProduct& product);
/// Quantizes the input and multiplies.
void launch_product(const CudaContext& context, cuda::DecodeProduct product, void* memory);

}  // namespace d2q
