#include "kernels/cuda/cuda_decode.h"

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/cuda/cuda_decode_product.h"
#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

/// Memory between the kernels of an operation. Recordings point into it, so what it once gave stays
/// allocated.
class Workspace {
 public:
  explicit Workspace(bool zeroed) : zeroed_(zeroed) {}
  void* reserve(CudaContext& context, int64_t n_bytes) {
    if (buffers_.empty() || n_bytes > size_) {
      size_ = std::max(n_bytes, 2 * size_);
      buffers_.push_back(context.allocate_bytes(std::max<int64_t>(size_, 256)));
      if (zeroed_) {
        check_cuda(
            cudaMemsetAsync(buffers_.back().get(), 0, static_cast<size_t>(size_), context.stream()),
            "filling");
      }
    }
    return buffers_.back().get();
  }

 private:
  bool zeroed_;
  int64_t size_ = 0;
  std::vector<std::shared_ptr<void>> buffers_;
};

class CudaDecode final : public DecodeOps {
 public:
  explicit CudaDecode(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  bool is_faster(const AttentionShape& shape) const override {
    return shape.head_dim % 8 == 0 && shape.head_dim <= cuda::kMaxDecodeHeadDim;
  }

  void embed(const Tensor& tokens, const Linear& table, const Tensor& y) override {
    check_decode_embed(tokens, table, y);
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
    if (!gated) {
      gated_activation_cuda(*context_, act, up_part, Tensor(), y);
      return;
    }
    const Tensor gate_part = context_->allocate(y.rows(), y.cols(), DType::kF32);
    project(x, &norm, std::span(both).first(1), gate_part, products);
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
      const ProductInput input(
          *context_, x.row_range(begin, count), norm,
          input_.reserve(*context_, ProductInput::input_bytes(count, x.cols())));
      input.multiply(run, output, curve_of(act), y.row_range(begin, count), column);
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
  Workspace input_{false};
  Workspace partial_{false};
  Workspace arrived_{true};
};

}  // namespace

std::unique_ptr<DecodeOps> make_cuda_decode(std::shared_ptr<CudaContext> context) {
  return std::make_unique<CudaDecode>(std::move(context));
}

}  // namespace d2q
