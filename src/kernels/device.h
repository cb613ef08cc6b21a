// The coarse operations that the forward and the quantization loop are written over, once for every
// device. Shapes: T = tokens, rows of x; a weight is [out, in]; all matrices are row-major.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/thread_pool.h"
#include "codec/packed_matrix.h"
#include "kernels/linear_weights.h"
#include "kernels/matrix_ops.h"
#include "kernels/solver_ops.h"
#include "kernels/tensor.h"

namespace d2q {

class DecodeOps;
class GradientOps;
class Repeatable;

enum class NormKind { kRms, kLayer };
enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

/// y = gain ⊙ normalise(x) + shift (METHOD.md §6). gain, shift: [1, n] f32; shift may be empty.
struct NormParams {
  NormKind kind = NormKind::kRms;
  Tensor gain;
  Tensor shift;
  float epsilon = 1e-5f;
};

/// Causal attention over sequences packed one after another in the rows of q.
struct AttentionShape {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;  // divides n_heads
  int64_t head_dim = 0;
  float scale = 0.0f;
  int64_t sequence_length = 0;  // queries a sequence; q has n_sequences * sequence_length rows
  int64_t past_length = 0;      // keys of each sequence that precede its first query (kv cache)
  int64_t window = 0;           // sliding window in tokens; 0 = unlimited
};

/// One of several products with the same x: y [T, out] f32 = x wᵀ + bias.
struct PackedProduct {
  const PackedTensor* w = nullptr;
  const Tensor* bias = nullptr;  // the tensor may be empty
  const Tensor* y = nullptr;
};

/// Bits of the integers that stand for activations where few tokens meet packed codes on the CPU:
/// relative error 2.9e-5 or 6e-3 on Gaussian activations.
enum class ActivationBits : uint8_t { k8 = 8, k16 = 16 };

/// How one token's prediction differs from a reference's; p is the softmax of a row of logits.
struct LogitComparison {
  double divergence = 0.0;      // Σ p_reference log(p_reference / p), in nats
  double reference_loss = 0.0;  // -log p_reference(target)
  double loss = 0.0;            // -log p(target)
  bool same_top = false;        // the largest logit is at the same index (the first of equals)
};

/// One device. Methods are called from one thread; they use all cores or the whole GPU themselves.
/// Results do not depend on the number of threads. Shape or dtype mistakes are InternalError.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  /// True when bf16 products run faster than f32 ones here.
  virtual bool has_fast_bf16() const = 0;
  /// Tokens that a stage takes at a time where nothing else decides: enough to fill the device,
  /// little enough to keep intermediate results small or in cache.
  virtual int64_t chunk_tokens() const = 0;
  /// chunk_tokens() is at most this from here on: less memory. At least 1.
  virtual void limit_chunk_tokens(int64_t tokens) = 0;
  /// True when operations return before they are done, so that the host can prepare what follows.
  virtual bool is_asynchronous() const = 0;
  /// The most memory that tensors have taken so far; on the CPU what the whole process has.
  virtual int64_t peak_memory_bytes() const = 0;

  // --- memory ---------------------------------------------------------------------------------
  /// Bytes that tensors may take: the limit that was set, else what the device had free when it was
  /// opened, short of what others need of it. Absent where the device's memory is the host's.
  virtual std::optional<int64_t> memory_budget() const { return std::nullopt; }
  /// From here on allocate() throws Error{kUnsupported} where tensors would take more than
  /// `n_bytes`. Error{kInvalidArgument} on a device whose memory is the host's.
  virtual void limit_memory(int64_t /*n_bytes*/) {
    fail(ErrorCode::kInvalidArgument,
         "a limit on the GPU's memory (--gpu-mem) needs --device cuda: this run computes on {}",
         name());
  }
  /// Uninitialised. Throws std::bad_alloc.
  virtual Tensor allocate(int64_t rows, int64_t cols, DType dtype) = 0;
  virtual void upload(const void* host, const Tensor& destination) = 0;
  virtual void download(const Tensor& source, void* host) = 0;
  /// Uninitialised memory of the host that load() and store() copy at the bus's full speed. No
  /// other operation takes it.
  virtual Tensor allocate_on_host(int64_t rows, int64_t cols, DType dtype) = 0;
  /// Copies between such memory and the device's, same shape and dtype, one after another beside
  /// the operations: each begins when the operations enqueued before it are done, and later
  /// operations do not wait for it.
  virtual void load(const Tensor& host, const Tensor& destination) = 0;
  virtual void store(const Tensor& source, const Tensor& host) = 0;
  /// Operations enqueued from here on wait for the copies so far.
  virtual void join_transfers() = 0;
  /// download() beside the operations enqueued later, none of which may write to `source`: get() of
  /// the result waits for it and throws what went wrong.
  virtual std::future<void> download_beside(const Tensor& source, void* host) {
    download(source, host);
    std::promise<void> done;
    done.set_value();
    return done.get_future();
  }
  /// A packed matrix for packed_linear(). The CPU's is a view of `packed`, which has to outlive it
  /// (a model's mapped file does), except for sign planes under AVX2, which it copies in an order
  /// that is faster there; other devices copy.
  virtual PackedTensor upload_packed(const PackedView& packed) = 0;
  /// Whether upload_packed() and packed_linear() take the layout; others are held dense.
  virtual bool runs_packed(const PackedLayout& layout) const { return layout.bits != 6; }
  /// Element-wise dtype change between f32, bf16, f16 and f64 (nearest even); same shape.
  virtual void convert(const Tensor& source, const Tensor& destination) = 0;
  virtual void fill_zero(const Tensor& tensor) = 0;

  // --- forward --------------------------------------------------------------------------------
  /// y[T, out] f32 = x[T, in] wᵀ + bias. w f32: f32 products (x f32). w bf16: bf16 products with
  /// f32 sums (x f32 is rounded, x bf16 taken as it is). bias [1, out] f32 or empty.
  virtual void linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) = 0;
  /// The same with packed codes, never expanding the whole matrix. `products` chooses the precision
  /// of the expanded panels for large T (kF32 or kBF16); small T runs on the codes themselves.
  virtual void packed_linear(const Tensor& x, const PackedTensor& w, const Tensor& bias,
                             const Tensor& y, DType products) = 0;
  /// packed_linear() with each of the products; a device may do what they share only once.
  virtual void packed_linears(const Tensor& x, std::span<const PackedProduct> products,
                              DType precision) {
    for (const PackedProduct& product : products)
      packed_linear(x, *product.w, *product.bias, *product.y, precision);
  }
  /// y[i, :] = row ids[i] of the weights that `table` stands for; y f32. Only where
  /// embeds_packed().
  virtual bool embeds_packed() const { return false; }
  virtual void embed_packed(std::span<const int32_t> /*ids*/, const PackedTensor& /*table*/,
                            const Tensor& /*y*/) {
    D2Q_CHECK(false, "{} embeds dense tables only", name());
  }
  /// y[i, :] = table[ids[i], :]; table f32, f16 or bf16; y f32.
  virtual void embed(std::span<const int32_t> ids, const Tensor& table, const Tensor& y) = 0;
  /// y = norm(x); x f32 [T, n], y f32 or bf16; in place when y is x.
  virtual void norm(const Tensor& x, const NormParams& params, const Tensor& y) = 0;
  /// Rotates halves (HF convention) of each head in place. x [T, n_heads*head_dim] f32; row t uses
  /// row positions[t] of cos, sin: [n_positions, rotary_dim/2] f32, rotary_dim <= head_dim.
  virtual void rope(const Tensor& x, int64_t n_heads, std::span<const int32_t> positions,
                    const Tensor& cos, const Tensor& sin) = 0;
  /// y[T, n_heads*head_dim] = softmax(scale q kᵀ + causal mask) v, tile by tile: no T x T matrix.
  /// q, y f32 (y may be bf16); k, v [n_sequences*(past_length+sequence_length),
  /// n_kv_heads*head_dim] f32 or bf16 or f16, or rows of store_cache() in 8 bits. `products` kF32:
  /// f32 products; kBF16: q, k, v and the probabilities rounded to bf16, f32 sums; the CPU computes
  /// a single query on an f16 or 8-bit cache in f32 all the same.
  virtual void attention(const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionShape& shape, const Tensor& y, DType products) = 0;
  /// y = act(gate) ⊙ up; gate, up f32 [T, f]; y f32 or bf16.
  virtual void gated_activation(Activation act, const Tensor& gate, const Tensor& up,
                                const Tensor& y) = 0;
  /// y = act(x); y f32 or bf16.
  virtual void activation(Activation act, const Tensor& x, const Tensor& y) = 0;
  /// x += y, f32 (y may be bf16).
  virtual void add(const Tensor& x, const Tensor& y) = 0;
  /// losses[t] = -log softmax(logits[t, :])[targets[t]], in f64; logits [T, vocabulary] f32.
  virtual void cross_entropy(const Tensor& logits, std::span<const int32_t> targets,
                             std::span<double> losses) = 0;
  /// Each row of `logits` against the same row of `reference`, both [T, vocabulary] f32; sums in
  /// f64.
  virtual void compare_logits(const Tensor& reference, const Tensor& logits,
                              std::span<const int32_t> targets,
                              std::span<LogitComparison> comparisons) = 0;

  /// Bytes of a row of an 8-bit cache for n_heads heads, a kU8 tensor's columns; 0: none here.
  virtual int64_t cache_row_bytes(int64_t /*n_heads*/, int64_t /*head_dim*/) const { return 0; }
  /// Keys or values x [T, n_heads * head_dim] f32 into rows of a cache: of f16, rounded to nearest
  /// even, or of kU8 and cache_row_bytes(), each head in 8 bits with a scale.
  virtual void store_cache(const Tensor& x, int64_t /*head_dim*/, const Tensor& rows) {
    convert(x, rows);
  }

  // --- decoding -------------------------------------------------------------------------------
  virtual DecodeOps& decoding() = 0;
  /// `work` as something to run many times. Its first run is an ordinary one; then a device may
  /// record what it enqueues and replay that, so work must enqueue the same operations on the same
  /// tensors every time and neither read nor wait for results. What it refers to outlives it.
  virtual std::unique_ptr<Repeatable> repeatable(std::function<void()> work) = 0;
  /// Waits for all operations enqueued so far.
  virtual void synchronize() = 0;

  // --- statistics -----------------------------------------------------------------------------
  /// sum[n, n] f32 += scale * xᵀ x; x [T, n] f32 or bf16 (products exact, f32 sums). Only tiles on
  /// or below the diagonal are touched; mirror_lower() completes the matrix.
  virtual void accumulate_gram(const Tensor& x, float scale, const Tensor& sum) = 0;
  /// sum[n, n] f32 += scale * aᵀ b; a, b [T, n] of one dtype, f32 or bf16.
  virtual void accumulate_cross(const Tensor& a, const Tensor& b, float scale,
                                const Tensor& sum) = 0;
  /// Copies the lower triangle of a square f32 matrix over its upper one.
  virtual void mirror_lower(const Tensor& matrix) = 0;
  /// moments[0, j] += Σ_t (a-b)[t, j], moments[1, j] += Σ_t (a-b)²; a, b [T, n] f32 or bf16;
  /// moments [2, n] f64.
  virtual void accumulate_difference(const Tensor& a, const Tensor& b, const Tensor& moments) = 0;
  /// Index of the first row with a NaN or Inf, or -1. f32 or bf16.
  virtual int64_t first_non_finite_row(const Tensor& x) = 0;

  // --- solver (METHOD.md §4, §5) --------------------------------------------------------------
  virtual SolverOps& solver() = 0;
  virtual MatrixOps& matrices() = 0;

  // --- gradients (METHOD.md §9) -----------------------------------------------------------------
  virtual GradientOps& gradients() = 0;
};

/// The CPU device. `isa`: "auto", "scalar", "avx2", "avx512"; an ISA that this machine lacks throws
/// Error{kUnsupported}. The pool outlives the device.
std::unique_ptr<Device> make_cpu_device(ThreadPool& pool, const std::string& isa = "auto",
                                        ActivationBits activations = ActivationBits::k16);

/// The CUDA device, or Error{kUnsupported} saying what is missing.
std::unique_ptr<Device> make_cuda_device();

}  // namespace d2q
