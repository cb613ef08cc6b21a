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

/// x [T, cols] f32 for products, T <= kMaxDecodeTokens: as it is for one token, else quantized
/// once.
class ProductInput {
 public:
  /// `memory`: input_bytes() of the GPU's memory.
  ProductInput(const CudaContext& context, const Tensor& x, const NormParams* norm, void* memory);
  static int64_t input_bytes(int64_t n_tokens, int64_t cols);

  /// y[:, column...] = the linears of a run, side by side, y += them, or the first one's activation
  /// times the second one. y has x's rows.
  void multiply(std::span<const Linear* const> run, cuda::ProductOutput output, cuda::Curve curve,
                const Tensor& y, int64_t column) const;

 private:
  const CudaContext& context_;
  Tensor x_;
  cuda::InputNorm norm_;
  cuda::QuantizedBlock* quantized_ = nullptr;
};

}  // namespace d2q
