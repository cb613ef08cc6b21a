#include "kernels/cuda/cuda_decode.h"

#include <algorithm>
#include <array>
#include <functional>

#include "kernels/cuda/cuda_decode_product.h"
#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/cuda/cuda_step_program.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

class CudaDecode final : public DecodeOps {
 public:
  explicit CudaDecode(std::shared_ptr<CudaContext> context)
      : context_(context), program_(std::move(context)) {}

  bool is_faster(const AttentionShape& shape) const override {
    return shape.head_dim % 8 == 0 && shape.head_dim <= cuda::kMaxDecodeHeadDim;
  }

  void together(const std::function<void()>& operations) override {
    D2Q_CHECK(!together_, "operations in operations");
    together_ = true;
    try {
      operations();
      program_.launch();
    } catch (...) {
      together_ = false;
      program_.forget();
      throw;
    }
    together_ = false;
  }

  void embed(const Tensor& tokens, const Linear& table, const Tensor& y) override {
    check_decode_embed(tokens, table, y);
    program_.launch();
    const auto n = static_cast<int>(tokens.size());
    const cuda::Launch launch = decode_launch(*context_);
    if (table.packed) {
      check_cuda(
          cuda::launch_decode_embed_packed(tokens.data<int32_t>(), n, packed_weights(*table.packed),
                                           y.data<float>(), launch),
          "embed");
      return;
    }
    check_cuda(cuda::launch_decode_embed(tokens.data<int32_t>(), n, values_of(table.dense),
                                         table.dense.rows(), y.cols(), y.data<float>(), launch),
               "embed");
  }

  void project(const Tensor& x, const NormParams* norm, std::span<const Linear* const> linears,
               const Tensor& y, DType products) override {
    check_projections(x, linears, y);
    int64_t column = 0;
    for (size_t first = 0; first < linears.size();) {
      const size_t count = use_codes(x, products) ? fusable(linears.subspan(first)) : 0;
      const auto run = linears.subspan(first, std::max<size_t>(count, 1));
      if (count > 0) {
        multiply_codes(x, norm, run, cuda::ProductOutput::kStore, Activation::kSilu, y, column);
      } else {
        program_.launch();
        const Tensor part =
            linears.size() == 1 ? y : context_->allocate(x.rows(), run[0]->rows(), DType::kF32);
        multiply_plainly(normed(x, norm), *run[0], part, products);
        if (linears.size() > 1) copy_columns(part, y, column);
      }
      for (const Linear* linear : run) column += linear->rows();
      first += run.size();
    }
  }

  void add_projection(const Tensor& x, const Linear& linear, const Tensor& y,
                      DType products) override {
    const std::array<const Linear*, 1> one{&linear};
    check_projections(x, one, y);
    if (use_codes(x, products) && fusable(one) == 1) {
      multiply_codes(x, nullptr, one, cuda::ProductOutput::kAdd, Activation::kSilu, y, 0);
      return;
    }
    program_.launch();
    const Tensor sum = context_->allocate(y.rows(), y.cols(), DType::kF32);
    multiply_plainly(x, linear, sum, products);
    add_cuda(*context_, y, sum);
  }

  void project_gated(const Tensor& x, const NormParams& norm, const Linear& gate, const Linear& up,
                     Activation act, const Tensor& y, DType products) override {
    const std::array<const Linear*, 2> both{&gate, &up};
    const bool gated = gate.rows() > 0;
    check_projections(x, std::span(both).last(1), y);
    if (gated) check_projections(x, std::span(both).first(1), y);
    if (gated && use_codes(x, products) && fusable(both) == 2) {
      multiply_codes(x, &norm, both, cuda::ProductOutput::kGated, act, y, 0);
      return;
    }
    const Tensor up_part = context_->allocate(y.rows(), y.cols(), DType::kF32);
    project(x, &norm, std::span(both).last(1), up_part, products);
    program_.launch();
    if (!gated) {
      gated_activation_cuda(*context_, act, up_part, Tensor(), y);
      return;
    }
    const Tensor gate_part = context_->allocate(y.rows(), y.cols(), DType::kF32);
    project(x, &norm, std::span(both).first(1), gate_part, products);
    program_.launch();
    gated_activation_cuda(*context_, act, gate_part, up_part, y);
  }

  void attend(const Tensor& projections, const Tensor& positions, const AttentionShape& shape,
              const DecodeAttention& attention, const Tensor& keys, const Tensor& values,
              const Tensor& y) override {
    check_decode_attention(projections, positions, shape, attention, keys, values, y);
    D2Q_CHECK(is_faster(shape), "heads of {} values", shape.head_dim);
    const auto gain = [](const NormParams* norm) -> const float* {
      return norm != nullptr ? norm->gain.data<float>() : nullptr;
    };
    cuda::DecodeAttentionProblem p;
    p.projections = projections.data<float>();
    p.positions = positions.data<int32_t>();
    p.keys = &keys.data<Half>()->bits;
    p.values = &values.data<Half>()->bits;
    p.y = y.data<float>();
    p.cos = attention.cos.data<float>();
    p.sin = attention.sin.data<float>();
    p.query_gain = gain(attention.q_norm);
    p.key_gain = gain(attention.k_norm);
    const NormParams* norm = attention.q_norm != nullptr ? attention.q_norm : attention.k_norm;
    p.norm_epsilon = norm != nullptr ? norm->epsilon : 0.0f;
    p.n_sequences = static_cast<int>(y.rows());
    p.n_heads = static_cast<int>(shape.n_heads);
    p.n_kv_heads = static_cast<int>(shape.n_kv_heads);
    p.head_dim = static_cast<int>(shape.head_dim);
    p.half = static_cast<int>(attention.cos.cols());
    p.capacity = static_cast<int>(keys.rows() / y.rows());
    p.window = static_cast<int>(shape.window);
    p.scale = shape.scale;
    if (program_.takes(p)) {
      program_.add(p);
      if (!together_) program_.launch();
      return;
    }
    program_.launch();
    const cuda::Launch launch = decode_launch(*context_);
    p.n_splits = cuda::decode_attention_splits(p.n_sequences, p.n_heads, p.n_kv_heads, p.capacity,
                                               launch.n_processors);
    if (p.n_splits > 1) {
      p.partial = static_cast<float*>(partial_.reserve(
          *context_,
          static_cast<int64_t>(sizeof(float)) *
              cuda::decode_attention_partials(p.n_sequences, p.n_heads, p.head_dim, p.n_splits)));
      p.arrived = static_cast<unsigned*>(arrived_.reserve(
          *context_, static_cast<int64_t>(sizeof(unsigned)) *
                         cuda::decode_attention_panels(p.n_sequences, p.n_heads, p.n_kv_heads)));
    }
    check_cuda(cuda::launch_decode_attention(p, launch), "decoding attention");
  }

  void choose_most_likely(const Tensor& logits, const Tensor& tokens) override {
    D2Q_CHECK(tokens.size() == logits.rows() && logits.cols() < (int64_t{1} << 31),
              "{} tokens for {} rows of {}", tokens.size(), logits.rows(), logits.cols());
    check_cuda(
        cuda::launch_most_likely(logits.data<float>(), static_cast<int>(logits.rows()),
                                 logits.cols(), tokens.data<int32_t>(), decode_launch(*context_)),
        "choosing tokens");
  }

  void advance(const Tensor& positions) override {
    program_.launch();
    check_cuda(cuda::launch_advance(positions.data<int32_t>(), static_cast<int>(positions.size()),
                                    decode_launch(*context_)),
               "advancing");
  }

 private:
  static bool use_codes(const Tensor& x, DType products) {
    return products == DType::kBF16 && x.rows() <= kMaxQuantizedTokens;
  }

  void multiply_codes(const Tensor& x, const NormParams* norm, std::span<const Linear* const> run,
                      cuda::ProductOutput output, Activation act, const Tensor& y, int64_t column) {
    for (int64_t begin = 0; begin < x.rows(); begin += cuda::kMaxDecodeTokens) {
      const int64_t count = std::min<int64_t>(cuda::kMaxDecodeTokens, x.rows() - begin);
      const cuda::DecodeProduct product =
          decode_product(x.row_range(begin, count), norm, run, output, curve_of(act),
                         y.row_range(begin, count), column);
      if (x.rows() == 1 && program_.takes(product)) {
        program_.add(product, y.cols(), column > 0);
        if (!together_) program_.launch();
        continue;
      }
      program_.launch();
      launch_product(*context_, product, input_.reserve(*context_, product_input_bytes(product)));
    }
  }

  Tensor normed(const Tensor& x, const NormParams* norm) {
    if (norm == nullptr) return x;
    const Tensor y = context_->allocate(x.rows(), x.cols(), DType::kF32);
    norm_cuda(*context_, x, *norm, y);
    return y;
  }

  void multiply_plainly(const Tensor& x, const Linear& linear, const Tensor& y, DType products) {
    if (linear.packed) {
      packed_linear_cuda(*context_, x, *linear.packed, linear.bias, y, products);
    } else {
      linear_cuda(*context_, x, linear.dense, linear.bias, y);
    }
  }

  /// y[:, column : column + part.cols()] = part.
  void copy_columns(const Tensor& part, const Tensor& y, int64_t column) {
    const auto row_bytes = [](const Tensor& t) {
      return static_cast<size_t>(t.cols() * size_of(DType::kF32));
    };
    check_cuda(cudaMemcpy2DAsync(y.data<float>() + column, row_bytes(y), part.raw(),
                                 row_bytes(part), row_bytes(part), static_cast<size_t>(part.rows()),
                                 cudaMemcpyDeviceToDevice, context_->stream()),
               "copying on the GPU");
  }

  std::shared_ptr<CudaContext> context_;
  CudaStepProgram program_;
  bool together_ = false;
  CudaWorkspace input_{false};
  CudaWorkspace partial_{false};
  CudaWorkspace arrived_{true};
};

}  // namespace

std::unique_ptr<DecodeOps> make_cuda_decode(std::shared_ptr<CudaContext> context) {
  return std::make_unique<CudaDecode>(std::move(context));
}

}  // namespace d2q
