// The forward's operations on the GPU's tensors; Device in kernels/device.h says what each one
// computes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_forward_kernels.h"
#include "kernels/device.h"

namespace d2q {

/// A tensor's elements for a launcher; its dtype is a floating-point one.
cuda::Values values_of(const Tensor& tensor);
/// The activation, for a launcher.
cuda::Curve curve_of(Activation act);
/// `x` itself, or a rounded or widened copy.
Tensor in_dtype(CudaContext& context, const Tensor& x, DType dtype);

/// Small integers (ids, positions) on the GPU. The last ones stay there, because every layer asks
/// for the same positions again.
class DeviceIntegers {
 public:
  const int32_t* upload(CudaContext& context, std::span<const int32_t> values);

 private:
  std::vector<int32_t> values_;
  Tensor copy_;
};

void convert_cuda(CudaContext& context, const Tensor& source, const Tensor& destination);
void embed_cuda(CudaContext& context, DeviceIntegers& integers, std::span<const int32_t> ids,
                const Tensor& table, const Tensor& y);
void norm_cuda(CudaContext& context, const Tensor& x, const NormParams& params, const Tensor& y);
void rope_cuda(CudaContext& context, DeviceIntegers& integers, const Tensor& x, int64_t n_heads,
               std::span<const int32_t> positions, const Tensor& cos, const Tensor& sin);
/// `up` may be empty.
void gated_activation_cuda(CudaContext& context, Activation act, const Tensor& gate,
                           const Tensor& up, const Tensor& y);
void add_cuda(CudaContext& context, const Tensor& x, const Tensor& y);
void cross_entropy_cuda(CudaContext& context, DeviceIntegers& integers, const Tensor& logits,
                        std::span<const int32_t> targets, std::span<double> losses);
void compare_logits_cuda(CudaContext& context, DeviceIntegers& integers, const Tensor& reference,
                         const Tensor& logits, std::span<const int32_t> targets,
                         std::span<LogitComparison> comparisons);

void linear_cuda(CudaContext& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                 const Tensor& y);
/// kF32: up to eight tokens run on the codes with f32 products. kBF16: up to 64 run on the codes
/// with 16-bit inputs (cuda_decode_kernels.h), where the groups allow it. More expand panels of
/// rows in `products`, in a workspace of at most about 64 MB.
void packed_linear_cuda(CudaContext& context, const Tensor& x, const PackedTensor& w,
                        const Tensor& bias, const Tensor& y, DType products);
void attention_cuda(CudaContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                    const AttentionShape& shape, const Tensor& y, DType products);

void accumulate_gram_cuda(CudaContext& context, const Tensor& x, float scale, const Tensor& sum);
void accumulate_cross_cuda(CudaContext& context, const Tensor& a, const Tensor& b, float scale,
                           const Tensor& sum);
void mirror_lower_cuda(CudaContext& context, const Tensor& matrix);
void accumulate_difference_cuda(CudaContext& context, const Tensor& a, const Tensor& b,
                                const Tensor& moments);
int64_t first_non_finite_row_cuda(CudaContext& context, const Tensor& x);

}  // namespace d2q
