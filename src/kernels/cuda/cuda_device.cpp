// Owns the context and hands every operation to its file.
#include "kernels/cuda/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/cuda/cuda_decode.h"
#include "kernels/cuda/cuda_decode_product.h"
#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/cuda/cuda_gradients.h"
#include "kernels/cuda/cuda_matrix_ops.h"
#include "kernels/cuda/cuda_solver.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

/// A few hundred tiles of a product for each multiprocessor; 1.4 GB for an MLP of 28672 inputs.
constexpr int64_t kChunkTokens = 8192;

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(std::shared_ptr<CudaContext> context)
      : context_(std::move(context)),
        decode_(make_cuda_decode(context_)),
        solver_(make_cuda_solver(context_)),
        matrices_(make_cuda_matrix_ops(context_)),
        gradients_(make_cuda_gradients(context_)) {}

  std::string name() const override {
    const cudaDeviceProp& properties = context_->properties();
    return fmt::format("cuda ({}, {} GiB)", properties.name, properties.totalGlobalMem >> 30);
  }
  bool has_fast_bf16() const override { return true; }
  int64_t chunk_tokens() const override { return chunk_tokens_; }
  void limit_chunk_tokens(int64_t tokens) override {
    D2Q_CHECK(tokens >= 1, "chunks of {} tokens", tokens);
    chunk_tokens_ = std::min(kChunkTokens, tokens);
  }
  bool is_asynchronous() const override { return true; }
  int64_t peak_memory_bytes() const override { return context_->peak_memory_bytes(); }

  std::optional<int64_t> memory_budget() const override { return context_->memory_budget(); }
  void limit_memory(int64_t n_bytes) override { context_->limit_memory(n_bytes); }
  Tensor allocate(int64_t rows, int64_t cols, DType dtype) override {
    return context_->allocate(rows, cols, dtype);
  }
  void upload(const void* host, const Tensor& destination) override {
    if (!destination.empty()) context_->upload(host, destination.raw(), destination.n_bytes());
  }
  void download(const Tensor& source, void* host) override {
    if (!source.empty()) context_->download(source.raw(), host, source.n_bytes());
  }
  Tensor allocate_on_host(int64_t rows, int64_t cols, DType dtype) override {
    return context_->allocate_on_host(rows, cols, dtype);
  }
  void load(const Tensor& host, const Tensor& destination) override {
    check_transfer(host, destination);
    check_cuda(context_->host_rows().copy(host.raw(), destination.raw(), host.n_bytes(),
                                          cudaMemcpyHostToDevice),
               "copying to the GPU");
  }
  void store(const Tensor& source, const Tensor& host) override {
    check_transfer(source, host);
    check_cuda(context_->host_rows().copy(source.raw(), host.raw(), source.n_bytes(),
                                          cudaMemcpyDeviceToHost),
               "copying from the GPU");
  }
  void join_transfers() override { check_cuda(context_->host_rows().join(), "waiting for copies"); }
  std::future<void> download_beside(const Tensor& source, void* host) override {
    if (source.n_bytes() < kStagedTransferBytes) return Device::download_beside(source, host);
    return context_->download_beside(source, host);
  }
  PackedTensor upload_packed(const PackedView& packed) override {
    return upload_packed_cuda(*context_, packed);
  }
  void convert(const Tensor& source, const Tensor& destination) override {
    convert_cuda(*context_, source, destination);
  }
  void fill_zero(const Tensor& tensor) override {
    if (tensor.empty()) return;
    check_cuda(
        cudaMemsetAsync(tensor.raw(), 0, static_cast<size_t>(tensor.n_bytes()), context_->stream()),
        "filling");
  }

  void linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) override {
    linear_cuda(*context_, x, w, bias, y);
  }
  void packed_linear(const Tensor& x, const PackedTensor& w, const Tensor& bias, const Tensor& y,
                     DType products) override {
    packed_linear_cuda(*context_, x, w, bias, y, products);
  }
  void embed(std::span<const int32_t> ids, const Tensor& table, const Tensor& y) override {
    embed_cuda(*context_, ids_, ids, table, y);
  }
  void norm(const Tensor& x, const NormParams& params, const Tensor& y) override {
    norm_cuda(*context_, x, params, y);
  }
  void rope(const Tensor& x, int64_t n_heads, std::span<const int32_t> positions, const Tensor& cos,
            const Tensor& sin) override {
    rope_cuda(*context_, positions_, x, n_heads, positions, cos, sin);
  }
  void attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                 const Tensor& y, DType products) override {
    attention_cuda(*context_, q, k, v, shape, y, products);
  }
  void gated_activation(Activation act, const Tensor& gate, const Tensor& up,
                        const Tensor& y) override {
    gated_activation_cuda(*context_, act, gate, up, y);
  }
  void activation(Activation act, const Tensor& x, const Tensor& y) override {
    gated_activation_cuda(*context_, act, x, Tensor(), y);
  }
  void add(const Tensor& x, const Tensor& y) override { add_cuda(*context_, x, y); }
  void cross_entropy(const Tensor& logits, std::span<const int32_t> targets,
                     std::span<double> losses) override {
    cross_entropy_cuda(*context_, ids_, logits, targets, losses);
  }
  void compare_logits(const Tensor& reference, const Tensor& logits,
                      std::span<const int32_t> targets,
                      std::span<LogitComparison> comparisons) override {
    compare_logits_cuda(*context_, ids_, reference, logits, targets, comparisons);
  }

  DecodeOps& decoding() override { return *decode_; }
  std::unique_ptr<Repeatable> repeatable(std::function<void()> work) override {
    return make_cuda_repeatable(context_, std::move(work));
  }
  void synchronize() override { context_->synchronize(); }

  void accumulate_gram(const Tensor& x, float scale, const Tensor& sum) override {
    accumulate_gram_cuda(*context_, x, scale, sum);
  }
  void accumulate_cross(const Tensor& a, const Tensor& b, float scale, const Tensor& sum) override {
    accumulate_cross_cuda(*context_, a, b, scale, sum);
  }
  void mirror_lower(const Tensor& matrix) override { mirror_lower_cuda(*context_, matrix); }
  void accumulate_difference(const Tensor& a, const Tensor& b, const Tensor& moments) override {
    accumulate_difference_cuda(*context_, a, b, moments);
  }
  int64_t first_non_finite_row(const Tensor& x) override {
    return first_non_finite_row_cuda(*context_, x);
  }

  SolverOps& solver() override { return *solver_; }
  MatrixOps& matrices() override { return *matrices_; }
  GradientOps& gradients() override { return *gradients_; }

 private:
  std::shared_ptr<CudaContext> context_;
  int64_t chunk_tokens_ = kChunkTokens;
  DeviceIntegers ids_;
  DeviceIntegers positions_;
  std::unique_ptr<DecodeOps> decode_;
  std::unique_ptr<SolverOps> solver_;
  std::unique_ptr<MatrixOps> matrices_;
  std::unique_ptr<GradientOps> gradients_;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(std::shared_ptr<CudaContext> context) {
  return std::make_unique<CudaDevice>(std::move(context));
}

std::unique_ptr<Device> make_cuda_device() { return make_cuda_device(CudaContext::create()); }

}  // namespace d2q
