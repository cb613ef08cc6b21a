#include "kernels/cpu/gradients.h"

#include "kernels/cpu/forward_ops.h"

namespace d2q {
namespace {

class CpuGradients final : public GradientOps {
 public:
  CpuGradients(CpuContext& context, const GradientKernels& kernels)
      : context_{context, kernels, {}, {}, {}, {}} {
    context_.attention.resize(context.workers.size());
  }

  void linear_input(const Tensor& d_y, const Tensor& w, const Tensor& d_x,
                    bool accumulate) override {
    linear_input_gradient(context_.forward, d_y, w, d_x, accumulate);
  }
  void linear_weight(const Tensor& d_y, const Tensor& x, const Tensor& d_w) override {
    linear_weight_gradient(context_.forward, d_y, x, d_w);
  }
  void norm(const Tensor& x, const NormParams& params, const Tensor& d_y, const Tensor& d_x,
            const Tensor& d_gain, const Tensor& d_shift) override {
    norm_gradient(context_, x, params, d_y, d_x, d_gain, d_shift);
  }
  void rope(const Tensor& d_x, int64_t n_heads, std::span<const int32_t> positions,
            const Tensor& cos, const Tensor& sin) override {
    rope_gradient(context_.forward, d_x, n_heads, positions, cos, sin);
  }
  void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                 const Tensor& d_y, const AttentionShape& shape, const Tensor& d_q,
                 const Tensor& d_k, const Tensor& d_v, DType products) override {
    attention_gradient(context_, q, k, v, y, d_y, shape, d_q, d_k, d_v, products);
  }
  void gated_activation(Activation act, const Tensor& gate, const Tensor& up, const Tensor& d_y,
                        const Tensor& d_gate, const Tensor& d_up) override {
    D2Q_CHECK(up.rows() == gate.rows() && up.cols() == gate.cols() && d_up.rows() == up.rows() &&
                  d_up.cols() == up.cols(),
              "up {}x{}, d_up {}x{}", up.rows(), up.cols(), d_up.rows(), d_up.cols());
    activation_gradient(context_, act, gate, up, d_y, d_gate, d_up);
  }
  void activation(Activation act, const Tensor& x, const Tensor& d_y, const Tensor& d_x) override {
    activation_gradient(context_, act, x, Tensor(), d_y, d_x, Tensor());
  }
  void column_sums(const Tensor& d_y, const Tensor& d_bias) override {
    add_column_sums(context_, d_y, d_bias);
  }
  void reconstruct(const TunedLinear& linear, const Tensor& w) override {
    reconstruct_linear(context_.forward, linear, w);
  }
  void scale_gradients(const TunedLinear& linear, const Tensor& d_w,
                       const Tensor& d_params) override {
    d2q::scale_gradients(context_.forward, linear, d_w, d_params);
  }
  double divergence(const Tensor& reference, const Tensor& logits, float factor,
                    const Tensor& d_logits) override {
    return divergence_cpu(context_.forward, reference, logits, factor, d_logits);
  }
  double squared_error(const Tensor& y, const Tensor& target, float factor,
                       const Tensor& d_y) override {
    return d2q::squared_error(context_.forward, y, target, factor, d_y);
  }
  void adam(const Tensor& parameter, const Tensor& gradient, const Tensor& first_moment,
            const Tensor& second_moment, const AdamStep& step) override {
    d2q::adam(context_.forward, parameter, gradient, first_moment, second_moment, step);
  }

 private:
  GradientContext context_;
};

}  // namespace

std::unique_ptr<GradientOps> make_cpu_gradients(CpuContext& context,
                                                const GradientKernels& kernels) {
  return std::make_unique<CpuGradients>(context, kernels);
}

}  // namespace d2q
