// oneDNN runs both products: its single-threaded kernels measured 200-220 GFLOP/s (bf16) and 95-114
// (f32) a Zen 4 core on our tile sizes, where OpenBLAS gave 81-96 in f32.
#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <array>
#include <dnnl.hpp>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"

// From libgomp, which oneDNN runs on; <omp.h> is not there for every compiler.
extern "C" {
void omp_set_num_threads(int n_threads);
int omp_get_max_threads(void);
}

namespace d2q {
namespace {

/// oneDNN starts as many threads as the calling thread's OpenMP setting says; we want one, and the
/// setting back afterwards.
class OneThread {
 public:
  OneThread() : saved_(omp_get_max_threads()) {
    if (saved_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (saved_ != 1) omp_set_num_threads(saved_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int saved_;
};

using Key = std::array<int64_t, 7>;

struct KeyHash {
  size_t operator()(const Key& key) const noexcept {
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (const int64_t value : key) {
      h = (h ^ static_cast<uint64_t>(value)) * 0xbf58476d1ce4e5b9ull;
      h ^= h >> 29;
    }
    return static_cast<size_t>(h);
  }
};

struct Product {
  dnnl::matmul primitive;
  dnnl::memory a, b, c;
  std::unordered_map<int, dnnl::memory> arguments;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// One thread's primitives. Building one takes about 0.1 ms, so they are kept; a model has a few
/// dozen shapes, and a caller with unbounded shapes makes the cache start over.
class ProductCache {
 public:
  Product& find(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, int64_t lda,
                int64_t ldb, int64_t ldc, bool add) {
    const Key key = {m, n, k, lda, ldb, ldc, (trans_a ? 1 : 0) + (trans_b ? 2 : 0) + (add ? 4 : 0)};
    const auto found = products_.find(key);
    if (found != products_.end()) return *found->second;
    if (products_.size() >= kMaxProducts) products_.clear();
    return *(products_[key] = build(trans_a, trans_b, m, n, k, lda, ldb, ldc, add));
  }

  dnnl::stream& stream() { return stream_; }

 private:
  static constexpr size_t kMaxProducts = 256;

  static std::unique_ptr<Product> build(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                                        int64_t lda, int64_t ldb, int64_t ldc, bool add) {
    // oneDNN hands out what another thread has built, guarded in code that ThreadSanitizer does not
    // see: one builds at a time.
    static std::mutex building;
    const std::lock_guard lock(building);
    using Desc = dnnl::memory::desc;
    using Dims = dnnl::memory::dims;
    constexpr auto kBf16 = dnnl::memory::data_type::bf16;
    const Desc a({m, k}, kBf16, trans_a ? Dims{1, lda} : Dims{lda, 1});
    const Desc b({k, n}, kBf16, trans_b ? Dims{1, ldb} : Dims{ldb, 1});
    const Desc c({m, n}, dnnl::memory::data_type::f32, Dims{ldc, 1});
    dnnl::primitive_attr attributes;
    if (add) {
      dnnl::post_ops post;
      post.append_sum(1.0f);
      attributes.set_post_ops(post);
    }
    auto product = std::make_unique<Product>();
    product->primitive = dnnl::matmul(
        dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attributes, cpu_engine()));
    product->a = dnnl::memory(a, cpu_engine(), nullptr);
    product->b = dnnl::memory(b, cpu_engine(), nullptr);
    product->c = dnnl::memory(c, cpu_engine(), nullptr);
    product->arguments = {
        {DNNL_ARG_SRC, product->a}, {DNNL_ARG_WEIGHTS, product->b}, {DNNL_ARG_DST, product->c}};
    return product;
  }

  std::unordered_map<Key, std::unique_ptr<Product>, KeyHash> products_;
  dnnl::stream stream_{cpu_engine()};
};

ProductCache& product_cache() {
  thread_local ProductCache cache;
  return cache;
}

void scale_rows(float beta, float* c, int64_t m, int64_t n, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == 0.0f ? 0.0f : beta * c[i * ldc + j];
  }
}

/// Rows [0, rows) x columns [0, cols) of a strided bf16 matrix as dense f32.
void widen(const BFloat16* source, int64_t stride, int64_t rows, int64_t cols, float* destination) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) destination[i * cols + j] = to_float(source[i * stride + j]);
  }
}

}  // namespace

bool cpu_has_bf16_products() { return cpu_features().avx512bf16; }

void gemm_f32(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(beta, c, m, n, ldc);
  const OneThread one_thread;
  const dnnl_status_t status = dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f,
                                          a, lda, b, ldb, beta, c, ldc);
  D2Q_CHECK(status == dnnl_success, "sgemm {}x{}x{}: status {}", m, n, k, static_cast<int>(status));
}

void gemm_bf16(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const BFloat16* a,
               int64_t lda, const BFloat16* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  D2Q_CHECK(beta == 0.0f || beta == 1.0f, "beta {}", beta);
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(beta, c, m, n, ldc);
  if (!cpu_has_bf16_products()) {
    return gemm_bf16_widened(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
  }
  const OneThread one_thread;
  ProductCache& cache = product_cache();
  Product& product = cache.find(trans_a, trans_b, m, n, k, lda, ldb, ldc, beta == 1.0f);
  // oneDNN takes inputs as non-const but only reads them.
  product.a.set_data_handle(const_cast<BFloat16*>(a));
  product.b.set_data_handle(const_cast<BFloat16*>(b));
  product.c.set_data_handle(c);
  product.primitive.execute(cache.stream(), product.arguments);
}

void gemm_bf16_widened(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                       const BFloat16* a, int64_t lda, const BFloat16* b, int64_t ldb, float beta,
                       float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(beta, c, m, n, ldc);
  constexpr int64_t kSlice = 512;
  thread_local std::vector<float> wide_a;
  thread_local std::vector<float> wide_b;
  for (int64_t begin = 0; begin < k; begin += kSlice) {
    const int64_t size = std::min(kSlice, k - begin);
    wide_a.resize(static_cast<size_t>(m * size));
    wide_b.resize(static_cast<size_t>(n * size));
    if (trans_a)
      widen(a + begin * lda, lda, size, m, wide_a.data());
    else
      widen(a + begin, lda, m, size, wide_a.data());
    if (trans_b)
      widen(b + begin, ldb, n, size, wide_b.data());
    else
      widen(b + begin * ldb, ldb, size, n, wide_b.data());
    gemm_f32(trans_a, trans_b, m, n, size, wide_a.data(), trans_a ? m : size, wide_b.data(),
             trans_b ? size : n, begin == 0 ? beta : 1.0f, c, ldc);
  }
}

}  // namespace d2q
