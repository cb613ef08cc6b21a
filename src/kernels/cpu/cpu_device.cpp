// The CPU's Device: owns host memory and hands every operation to its file.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "base/checked.h"
#include "kernels/cpu/cpu_solver.h"
#include "kernels/cpu/decode.h"
#include "kernels/cpu/eight_bit_heads.h"
#include "kernels/cpu/forward_ops.h"
#include "kernels/cpu/gradients.h"
#include "kernels/cpu/matrix_ops.h"
#include "kernels/cpu/memory_pool.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/isa.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

/// Keeps a stage's intermediate results in the last-level cache.
constexpr int64_t kChunkTokens = 2048;
/// Freed tensors kept for reuse: about the temporaries of one block's stage.
constexpr uint64_t kPoolBytes = 256u << 20;

/// There is nothing to record: operations run when they are called.
class RepeatedCall final : public Repeatable {
 public:
  explicit RepeatedCall(std::function<void()> work) : work_(std::move(work)) {}
  void run() override { work_(); }

 private:
  std::function<void()> work_;
};

/// Nothing writes through it: packed matrices are read only.
template <typename T>
Tensor view_of(std::span<const T> values) {
  return {nullptr, const_cast<T*>(values.data()), 1, static_cast<int64_t>(values.size()),
          dtype_of<T>()};
}

PackedView view_of(const PackedTensor& w) {
  return {w.layout,
          {w.codes.data<uint8_t>(), static_cast<size_t>(w.codes.size())},
          {w.scales.data<Half>(), static_cast<size_t>(w.scales.size())}};
}

class CpuDevice final : public Device {
 public:
  CpuDevice(ThreadPool& pool, Isa isa, ActivationBits activations)
      : context_(pool, forward_kernels(isa), isa == Isa::kAvx512 && cpu_has_bf16_products()),
        packed_(pool, packed_kernels(isa), activations),
        solver_(make_cpu_solver(pool, solver_kernels(isa))),
        matrices_(make_cpu_matrix_ops(context_)),
        gradients_(make_cpu_gradients(context_, gradient_kernels(isa))) {}

  std::string name() const override {
    return fmt::format("cpu ({}, {} thread{})", context_.kernels.name, context_.pool.n_threads(),
                       context_.pool.n_threads() == 1 ? "" : "s");
  }
  bool has_fast_bf16() const override { return context_.has_bf16_products; }
  int64_t chunk_tokens() const override { return chunk_tokens_; }
  void limit_chunk_tokens(int64_t tokens) override {
    D2Q_CHECK(tokens >= 1, "chunks of {} tokens", tokens);
    chunk_tokens_ = std::min(kChunkTokens, tokens);
  }
  bool is_asynchronous() const override { return false; }
  int64_t peak_memory_bytes() const override {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<int64_t>(usage.ru_maxrss) * 1024;
  }

  Tensor allocate(int64_t rows, int64_t cols, DType dtype) override {
    D2Q_CHECK(rows >= 0 && cols >= 0, "{}x{}", rows, cols);
    const uint64_t count =
        checked_mul(static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), "tensor");
    std::shared_ptr<void> buffer =
        memory_->allocate(checked_mul(count, static_cast<uint64_t>(size_of(dtype)), "tensor"));
    void* data = buffer.get();
    return {std::move(buffer), data, rows, cols, dtype};
  }
  void upload(const void* host, const Tensor& destination) override {
    if (!destination.empty()) {
      std::memcpy(destination.raw(), host, static_cast<size_t>(destination.n_bytes()));
    }
  }
  void download(const Tensor& source, void* host) override {
    if (!source.empty()) std::memcpy(host, source.raw(), static_cast<size_t>(source.n_bytes()));
  }
  Tensor allocate_on_host(int64_t rows, int64_t cols, DType dtype) override {
    return allocate(rows, cols, dtype);
  }
  void load(const Tensor& host, const Tensor& destination) override {
    check_transfer(host, destination);
    upload(host.raw(), destination);
  }
  void store(const Tensor& source, const Tensor& host) override {
    check_transfer(source, host);
    download(source, host.raw());
  }
  void join_transfers() override {}
  PackedTensor upload_packed(const PackedView& packed) override {
    PackedTensor result{packed.layout, view_of(packed.codes), view_of(packed.scales)};
    if (packed_.arranges(packed.layout)) {
      result.codes = allocate(1, result.codes.size(), DType::kU8);
      packed_.arrange(packed, result.codes.data<uint8_t>());
    }
    return result;
  }
  void convert(const Tensor& source, const Tensor& destination) override {
    convert_cpu(context_, source, destination);
  }
  int64_t cache_row_bytes(int64_t n_heads, int64_t head_dim) const override {
    return n_heads * eight_bit_head_bytes(head_dim);
  }
  void store_cache(const Tensor& x, int64_t head_dim, const Tensor& rows) override {
    if (rows.dtype() == DType::kU8) return quantize_heads(context_, x, head_dim, rows);
    convert(x, rows);
  }
  void fill_zero(const Tensor& tensor) override {
    if (!tensor.empty()) std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.n_bytes()));
  }

  void linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) override {
    linear_cpu(context_, x, w, bias, y);
  }
  void packed_linear(const Tensor& x, const PackedTensor& w, const Tensor& bias, const Tensor& y,
                     DType precision) override {
    const PackedProductView product{view_of(w), bias, y, packed_.arranges(w.layout)};
    packed_.multiply(x, {&product, 1}, precision);
  }
  void packed_linears(const Tensor& x, std::span<const PackedProduct> products,
                      DType precision) override {
    constexpr size_t kAtOnce = 4;
    for (size_t begin = 0; begin < products.size(); begin += kAtOnce) {
      const auto part = products.subspan(begin, std::min(kAtOnce, products.size() - begin));
      std::array<PackedProductView, kAtOnce> views;
      for (size_t i = 0; i < part.size(); ++i)
        views[i] = {view_of(*part[i].w), *part[i].bias, *part[i].y,
                    packed_.arranges(part[i].w->layout)};
      packed_.multiply(x, std::span(views).first(part.size()), precision);
    }
  }
  bool runs_packed(const PackedLayout& /*layout*/) const override { return true; }
  bool embeds_packed() const override { return true; }
  void embed_packed(std::span<const int32_t> ids, const PackedTensor& table,
                    const Tensor& y) override {
    const auto n = static_cast<int64_t>(ids.size());
    D2Q_CHECK(y.rows() == n && y.cols() == table.layout.cols && y.dtype() == DType::kF32,
              "{} ids of width {} into {}x{}", n, table.layout.cols, y.rows(), y.cols());
    const PackedView view = view_of(table);
    const bool arranged = packed_.arranges(table.layout);
    context_.pool.parallel_for(n, [&](int64_t i, int) {
      const int64_t row = ids[static_cast<size_t>(i)];
      const std::span<float> out(y.data<float>() + i * y.cols(), static_cast<size_t>(y.cols()));
      if (arranged) return packed_.dequantize_arranged_row(view, row, out);
      dequantize_row(view, row, out);
    });
  }
  void embed(std::span<const int32_t> ids, const Tensor& table, const Tensor& y) override {
    embed_cpu(context_, ids, table, y);
  }
  void norm(const Tensor& x, const NormParams& params, const Tensor& y) override {
    norm_cpu(context_, x, params, y);
  }
  void rope(const Tensor& x, int64_t n_heads, std::span<const int32_t> positions, const Tensor& cos,
            const Tensor& sin) override {
    rope_cpu(context_, x, n_heads, positions, cos, sin);
  }
  void attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                 const Tensor& y, DType products) override {
    attention_cpu(context_, q, k, v, shape, y, products);
  }
  void gated_activation(Activation act, const Tensor& gate, const Tensor& up,
                        const Tensor& y) override {
    gated_activation_cpu(context_, act, gate, up, y);
  }
  void activation(Activation act, const Tensor& x, const Tensor& y) override {
    activation_cpu(context_, act, x, y);
  }
  void add(const Tensor& x, const Tensor& y) override { add_cpu(context_, x, y); }
  void cross_entropy(const Tensor& logits, std::span<const int32_t> targets,
                     std::span<double> losses) override {
    cross_entropy_cpu(context_, logits, targets, losses);
  }
  void compare_logits(const Tensor& reference, const Tensor& logits,
                      std::span<const int32_t> targets,
                      std::span<LogitComparison> comparisons) override {
    compare_logits_cpu(context_, reference, logits, targets, comparisons);
  }

  DecodeOps& decoding() override { return *decode_; }
  std::unique_ptr<Repeatable> repeatable(std::function<void()> work) override {
    return std::make_unique<RepeatedCall>(std::move(work));
  }
  void synchronize() override {}

  void accumulate_gram(const Tensor& x, float scale, const Tensor& sum) override {
    accumulate_gram_cpu(context_, x, scale, sum);
  }
  void accumulate_cross(const Tensor& a, const Tensor& b, float scale, const Tensor& sum) override {
    accumulate_cross_cpu(context_, a, b, scale, sum);
  }
  void mirror_lower(const Tensor& matrix) override { mirror_lower_cpu(context_, matrix); }
  void accumulate_difference(const Tensor& a, const Tensor& b, const Tensor& moments) override {
    accumulate_difference_cpu(context_, a, b, moments);
  }
  int64_t first_non_finite_row(const Tensor& x) override {
    return first_non_finite_row_cpu(context_, x);
  }

  SolverOps& solver() override { return *solver_; }
  MatrixOps& matrices() override { return *matrices_; }
  GradientOps& gradients() override { return *gradients_; }

 private:
  CpuContext context_;
  int64_t chunk_tokens_ = kChunkTokens;
  std::shared_ptr<MemoryPool> memory_ = std::make_shared<MemoryPool>(kPoolBytes);
  PackedMultiplier packed_;
  std::unique_ptr<SolverOps> solver_;
  std::unique_ptr<MatrixOps> matrices_;
  std::unique_ptr<GradientOps> gradients_;
  std::unique_ptr<DecodeOps> decode_ = make_cpu_decode(*this);
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(ThreadPool& pool, const std::string& isa,
                                        ActivationBits activations) {
  return std::make_unique<CpuDevice>(pool, choose_isa(isa), activations);
}

}  // namespace d2q
