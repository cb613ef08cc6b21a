#include <limits>

#include "kernels/cuda/cuda_attention_kernels.h"
#include "kernels/cuda/cuda_forward_ops.h"

namespace d2q {

void attention_cuda(CudaContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                    const AttentionShape& shape, const Tensor& y, DType products) {
  D2Q_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
            "{} heads share {} kv heads", shape.n_heads, shape.n_kv_heads);
  D2Q_CHECK(shape.sequence_length > 0 && q.rows() % shape.sequence_length == 0,
            "{} rows in sequences of {}", q.rows(), shape.sequence_length);
  const int64_t n_sequences = q.rows() / shape.sequence_length;
  const int64_t n_keys = shape.past_length + shape.sequence_length;
  const int64_t width = shape.n_heads * shape.head_dim,
                kv_width = shape.n_kv_heads * shape.head_dim;
  D2Q_CHECK(q.cols() == width && y.cols() == width && y.rows() == q.rows(), "q {}x{}, y {}x{}",
            q.rows(), q.cols(), y.rows(), y.cols());
  D2Q_CHECK(k.rows() == n_sequences * n_keys && v.rows() == k.rows() && k.cols() == kv_width &&
                v.cols() == kv_width && k.dtype() == v.dtype(),
            "k {}x{}, v {}x{}, expected {}x{}", k.rows(), k.cols(), v.rows(), v.cols(),
            n_sequences * n_keys, kv_width);
  D2Q_CHECK(y.dtype() == DType::kF32 || y.dtype() == DType::kBF16, "y dtype {}",
            static_cast<int>(y.dtype()));
  D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products in dtype {}",
            static_cast<int>(products));
  D2Q_CHECK(n_keys < std::numeric_limits<int32_t>::max(), "{} keys", n_keys);
  if (shape.head_dim > cuda::kMaxHeadDim) {
    fail(ErrorCode::kUnsupported,
         "device 'cuda': attention heads of {} values, at most {} are handled; use --device cpu",
         shape.head_dim, cuda::kMaxHeadDim);
  }
  if (y.empty()) return;
  // Many rows meet the same keys: they are rounded once, not by every one.
  const bool round_keys = products == DType::kBF16 && k.dtype() == DType::kF32;
  const Tensor keys = round_keys ? in_dtype(context, k, DType::kBF16) : k;
  const Tensor values = round_keys ? in_dtype(context, v, DType::kBF16) : v;
  const cuda::AttentionProblem problem{.q = q.data<float>(),
                                       .k = values_of(keys),
                                       .v = values_of(values),
                                       .y = values_of(y),
                                       .n_sequences = n_sequences,
                                       .n_heads = shape.n_heads,
                                       .n_kv_heads = shape.n_kv_heads,
                                       .head_dim = shape.head_dim,
                                       .sequence_length = shape.sequence_length,
                                       .past_length = shape.past_length,
                                       .window = shape.window,
                                       .scale = shape.scale};
  check_cuda(products == DType::kBF16 ? cuda::launch_attention_bf16(problem, context.stream())
                                      : cuda::launch_attention_f32(problem, context.stream()),
             "attention");
}

}  // namespace d2q
