// Shape checks, products and launches of the backward.
#include "kernels/cuda/cuda_gradients.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/cuda/cuda_gradient_kernels.h"
#include "kernels/cuda/cuda_launch.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

// As for the Gram matrix: the error of a chain of sums on tensor cores grows with its length.
constexpr int64_t kTokenSlice = 4096;

void check_f32(const Tensor& x, int64_t rows, int64_t cols, const char* what) {
  D2Q_CHECK(x.rows() == rows && x.cols() == cols && x.dtype() == DType::kF32,
            "{} {}x{} of dtype {}, expected f32 {}x{}", what, x.rows(), x.cols(),
            static_cast<int>(x.dtype()), rows, cols);
}

/// `other` is the operand whose dtype chooses the products; returns d_y in that dtype.
Tensor operand(CudaContext& context, const Tensor& d_y, const Tensor& other) {
  D2Q_CHECK(other.dtype() == DType::kF32 || other.dtype() == DType::kBF16, "products in dtype {}",
            static_cast<int>(other.dtype()));
  D2Q_CHECK(d_y.dtype() == DType::kF32 || d_y.dtype() == other.dtype(), "d_y in dtype {}",
            static_cast<int>(d_y.dtype()));
  return in_dtype(context, d_y, other.dtype());
}

float* data_or_null(const Tensor& x) { return x.empty() ? nullptr : x.data<float>(); }

static_assert(cuda::kMaxPlanes == kMaxTunedPlanes);

cuda::SignedLinear signed_linear(const TunedLinear& linear) {
  check_tuned_linear(linear);
  return {.codes = linear.codes.data<uint8_t>(),
          .params = linear.params.data<float>(),
          .column_scale = linear.column_scale.data<float>(),
          .rows = linear.codes.rows(),
          .cols = linear.codes.cols(),
          .n_groups = linear.n_groups(),
          .group_size = linear.group_size,
          .planes = linear.planes};
}

class CudaGradients final : public GradientOps {
 public:
  explicit CudaGradients(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  void linear_input(const Tensor& d_y, const Tensor& w, const Tensor& d_x,
                    bool accumulate) override {
    const int64_t tokens = d_y.rows(), out = w.rows(), in = w.cols();
    D2Q_CHECK(d_y.cols() == out, "{} columns of d_y for {} outputs", d_y.cols(), out);
    check_f32(d_x, tokens, in, "d_x");
    const Tensor left = operand(*context_, d_y, w);
    run_gemm(*context_, {.m = tokens,
                         .n = in,
                         .k = out,
                         .a = left.raw(),
                         .lda = out,
                         .b = w.raw(),
                         .ldb = in,
                         .input = w.dtype(),
                         .c = d_x.raw(),
                         .ldc = in,
                         .beta = accumulate ? 1.0f : 0.0f});
  }

  void linear_weight(const Tensor& d_y, const Tensor& x, const Tensor& d_w) override {
    const int64_t tokens = d_y.rows(), out = d_y.cols(), in = x.cols();
    D2Q_CHECK(x.rows() == tokens, "{} rows of x, {} of d_y", x.rows(), tokens);
    check_f32(d_w, out, in, "d_w");
    const Tensor left = operand(*context_, d_y, x);
    for (int64_t begin = 0; begin < tokens; begin += kTokenSlice) {
      const int64_t count = std::min(kTokenSlice, tokens - begin);
      run_gemm(*context_, {.transpose_a = true,
                           .m = out,
                           .n = in,
                           .k = count,
                           .a = left.row_range(begin, count).raw(),
                           .lda = out,
                           .b = x.row_range(begin, count).raw(),
                           .ldb = in,
                           .input = x.dtype(),
                           .c = d_w.raw(),
                           .ldc = in,
                           .beta = begin == 0 ? 0.0f : 1.0f});
    }
  }

  void norm(const Tensor& x, const NormParams& params, const Tensor& d_y, const Tensor& d_x,
            const Tensor& d_gain, const Tensor& d_shift) override {
    const int64_t rows = x.rows(), n = x.cols();
    check_f32(x, rows, n, "x");
    check_f32(d_y, rows, n, "d_y");
    check_f32(d_x, rows, n, "d_x");
    check_launch(rows);
    D2Q_CHECK(params.gain.size() == n, "gain of {} for {}", params.gain.size(), n);
    D2Q_CHECK(d_gain.empty() || d_gain.size() == n, "d_gain of {} for {}", d_gain.size(), n);
    D2Q_CHECK(d_shift.empty() || d_shift.size() == n, "d_shift of {} for {}", d_shift.size(), n);
    D2Q_CHECK(x.empty() || d_x.raw() != d_y.raw(), "d_x is d_y");
    const Tensor statistics = context_->allocate(rows, 2, DType::kF32);
    const Tensor partial = context_->allocate(2 * cuda::column_sum_slices(rows), n, DType::kF32);
    check_cuda(cuda::launch_norm_gradient({.x = x.data<float>(),
                                           .subtract_mean = params.kind == NormKind::kLayer,
                                           .gain = params.gain.data<float>(),
                                           .epsilon = params.epsilon,
                                           .rows = rows,
                                           .width = n,
                                           .d_y = d_y.data<float>(),
                                           .d_x = d_x.data<float>(),
                                           .d_gain = data_or_null(d_gain),
                                           .d_shift = data_or_null(d_shift),
                                           .statistics = statistics.data<float>(),
                                           .partial = partial.data<float>()},
                                          context_->stream()),
               "a norm's gradient");
  }

  void rope(const Tensor& d_x, int64_t n_heads, std::span<const int32_t> positions,
            const Tensor& cos, const Tensor& sin) override {
    check_rope(d_x, n_heads, positions, cos, sin);
    const int64_t head_dim = d_x.cols() / n_heads, half = cos.cols();
    if (d_x.empty()) return;
    check_cuda(cuda::launch_rope_gradient(d_x.data<float>(), d_x.rows(), n_heads, head_dim, half,
                                          positions_.upload(*context_, positions),
                                          cos.data<float>(), sin.data<float>(), context_->stream()),
               "rope's gradient");
  }

  void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                 const Tensor& d_y, const AttentionShape& shape, const Tensor& d_q,
                 const Tensor& d_k, const Tensor& d_v, DType products) override {
    check_attention(q, k, v, y, d_y, shape, products);
    check_f32(d_q, q.rows(), q.cols(), "d_q");
    check_f32(d_k, k.rows(), k.cols(), "d_k");
    check_f32(d_v, v.rows(), v.cols(), "d_v");
    if (q.empty()) return;
    const Tensor wide_q = in_dtype(*context_, q, DType::kF32);
    const Tensor deltas = context_->allocate(q.rows(), shape.n_heads, DType::kF32);
    const Tensor log_sums = context_->allocate(q.rows(), shape.n_heads, DType::kF32);
    const cuda::AttentionGradient problem{
        .forward = {.q = wide_q.data<float>(),
                    .k = values_of(k),
                    .v = values_of(v),
                    .y = values_of(y),
                    .n_sequences = q.rows() / shape.sequence_length,
                    .n_heads = shape.n_heads,
                    .n_kv_heads = shape.n_kv_heads,
                    .head_dim = shape.head_dim,
                    .sequence_length = shape.sequence_length,
                    .past_length = 0,
                    .window = shape.window,
                    .scale = shape.scale},
        .d_y = values_of(d_y),
        .d_q = d_q.data<float>(),
        .d_k = d_k.data<float>(),
        .d_v = d_v.data<float>(),
        .deltas = deltas.data<float>(),
        .log_sums = log_sums.data<float>()};
    check_cuda(products == DType::kBF16
                   ? cuda::launch_attention_gradient_bf16(problem, context_->stream())
                   : cuda::launch_attention_gradient_f32(problem, context_->stream()),
               "attention's gradient");
  }

  void gated_activation(Activation act, const Tensor& gate, const Tensor& up, const Tensor& d_y,
                        const Tensor& d_gate, const Tensor& d_up) override {
    check_f32(up, gate.rows(), gate.cols(), "up");
    check_f32(d_up, gate.rows(), gate.cols(), "d_up");
    activate(act, gate, up, d_y, d_gate, d_up);
  }
  void activation(Activation act, const Tensor& x, const Tensor& d_y, const Tensor& d_x) override {
    activate(act, x, Tensor(), d_y, d_x, Tensor());
  }

  void column_sums(const Tensor& d_y, const Tensor& d_bias) override {
    const int64_t rows = d_y.rows(), n = d_y.cols();
    check_f32(d_y, rows, n, "d_y");
    D2Q_CHECK(d_bias.size() == n, "bias of {} for {}", d_bias.size(), n);
    const Tensor partial = context_->allocate(2 * cuda::column_sum_slices(rows), n, DType::kF32);
    check_cuda(cuda::launch_column_sums(d_y.data<float>(), rows, n, partial.data<float>(),
                                        d_bias.data<float>(), context_->stream()),
               "column sums");
  }

  void reconstruct(const TunedLinear& linear, const Tensor& w) override {
    const cuda::SignedLinear source = signed_linear(linear);
    D2Q_CHECK(w.rows() == source.rows && w.cols() == source.cols, "w {}x{} for codes {}x{}",
              w.rows(), w.cols(), source.rows, source.cols);
    D2Q_CHECK(w.dtype() == DType::kF32 || w.dtype() == DType::kBF16, "w of dtype {}",
              static_cast<int>(w.dtype()));
    check_cuda(cuda::launch_reconstruct(source, values_of(w), context_->stream()),
               "reconstructing a weight");
  }
  void scale_gradients(const TunedLinear& linear, const Tensor& d_w,
                       const Tensor& d_params) override {
    const cuda::SignedLinear source = signed_linear(linear);
    check_f32(d_w, source.rows, source.cols, "d_w");
    check_f32(d_params, source.rows, linear.params.cols(), "d_params");
    check_launch(source.rows * source.n_groups / (cuda::kThreads / 32));
    check_cuda(cuda::launch_scale_gradients(source, d_w.data<float>(), d_params.data<float>(),
                                            context_->stream()),
               "the scales' gradients");
  }

  double squared_error(const Tensor& y, const Tensor& target, float factor,
                       const Tensor& d_y) override {
    D2Q_CHECK(target.rows() == y.rows() && target.cols() == y.cols(), "y {}x{}, target {}x{}",
              y.rows(), y.cols(), target.rows(), target.cols());
    check_f32(d_y, y.rows(), y.cols(), "d_y");
    if (y.empty()) return 0.0;
    const Tensor partial = context_->allocate(1, cuda::squared_error_parts(y.size()), DType::kF64);
    const Tensor sum = context_->allocate(1, 1, DType::kF64);
    check_cuda(cuda::launch_squared_error(values_of(y), values_of(target), factor, y.size(),
                                          d_y.data<float>(), partial.data<double>(),
                                          sum.data<double>(), context_->stream()),
               "the squared error");
    double result = 0.0;
    context_->download(sum.raw(), &result, sizeof(result));
    return result;
  }

  double divergence(const Tensor& reference, const Tensor& logits, float factor,
                    const Tensor& d_logits) override {
    check_divergence(reference, logits, d_logits);
    check_launch(logits.rows());
    if (logits.empty()) return 0.0;
    const Tensor results = context_->allocate(1, logits.rows(), DType::kF64);
    check_cuda(cuda::launch_divergence(reference.data<float>(), logits.data<float>(), logits.rows(),
                                       logits.cols(), factor, d_logits.data<float>(),
                                       results.data<double>(), context_->stream()),
               "divergence of logits");
    std::vector<double> values(static_cast<size_t>(results.size()));
    context_->download(results.raw(), values.data(), results.n_bytes());
    return std::accumulate(values.begin(), values.end(), 0.0);
  }

  void adam(const Tensor& parameter, const Tensor& gradient, const Tensor& first_moment,
            const Tensor& second_moment, const AdamStep& step) override {
    for (const Tensor* tensor : {&gradient, &first_moment, &second_moment}) {
      check_f32(*tensor, parameter.rows(), parameter.cols(), "a moment or gradient");
    }
    D2Q_CHECK(step.step >= 1, "step {}", step.step);
    const auto correction = [&](float beta) {
      return static_cast<float>(
          1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step.step))));
    };
    check_cuda(
        cuda::launch_adam(parameter.data<float>(), gradient.data<float>(),
                          first_moment.data<float>(), second_moment.data<float>(), parameter.size(),
                          {.rate = step.rate,
                           .beta1 = step.beta1,
                           .beta2 = step.beta2,
                           .epsilon = step.epsilon,
                           .first_correction = correction(step.beta1),
                           .second_correction = correction(step.beta2)},
                          context_->stream()),
        "a step of Adam");
  }

 private:
  /// A launch has at most 2^31 - 1 blocks.
  static void check_launch(int64_t n_blocks) {
    D2Q_CHECK(n_blocks < std::numeric_limits<int32_t>::max(), "{} blocks", n_blocks);
  }

  static void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                              const Tensor& d_y, const AttentionShape& shape, DType products) {
    D2Q_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
              "{} heads share {} kv heads", shape.n_heads, shape.n_kv_heads);
    D2Q_CHECK(shape.sequence_length > 0 && q.rows() % shape.sequence_length == 0,
              "{} rows in sequences of {}", q.rows(), shape.sequence_length);
    D2Q_CHECK(shape.sequence_length < std::numeric_limits<int32_t>::max(), "{} tokens",
              shape.sequence_length);
    D2Q_CHECK(shape.past_length == 0, "{} keys in a cache", shape.past_length);
    for (const Tensor* x : {&q, &y, &d_y}) {
      D2Q_CHECK(x->rows() == q.rows() && x->cols() == shape.n_heads * shape.head_dim,
                "{}x{} for {} heads of {} in {} rows", x->rows(), x->cols(), shape.n_heads,
                shape.head_dim, q.rows());
    }
    for (const Tensor* x : {&k, &v}) {
      D2Q_CHECK(x->rows() == q.rows() && x->cols() == shape.n_kv_heads * shape.head_dim,
                "{}x{} for {} kv heads of {} in {} rows", x->rows(), x->cols(), shape.n_kv_heads,
                shape.head_dim, q.rows());
    }
    D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products in dtype {}",
              static_cast<int>(products));
    if (shape.head_dim > cuda::kMaxHeadDim) {
      fail(ErrorCode::kUnsupported,
           "device 'cuda': attention heads of {} values, at most {} are handled; use --device cpu",
           shape.head_dim, cuda::kMaxHeadDim);
    }
  }

  void activate(Activation act, const Tensor& gate, const Tensor& up, const Tensor& d_y,
                const Tensor& d_gate, const Tensor& d_up) {
    check_f32(gate, gate.rows(), gate.cols(), "gate");
    check_f32(d_y, gate.rows(), gate.cols(), "d_y");
    check_f32(d_gate, gate.rows(), gate.cols(), "d_gate");
    check_cuda(cuda::launch_activation_gradient(
                   curve_of(act), gate.data<float>(), data_or_null(up), d_y.data<float>(),
                   gate.size(), d_gate.data<float>(), data_or_null(d_up), context_->stream()),
               "an activation's gradient");
  }

  std::shared_ptr<CudaContext> context_;
  DeviceIntegers positions_;
};

}  // namespace

std::unique_ptr<GradientOps> make_cuda_gradients(std::shared_ptr<CudaContext> context) {
  return std::make_unique<CudaGradients>(std::move(context));
}

}  // namespace d2q
