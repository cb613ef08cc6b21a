#include "kernels/cpu/machine_speed.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/matrix.h"
#include "kernels/cpu/gemm.h"

namespace d2q {
namespace {

using Clock = std::chrono::steady_clock;

/// Vectors of the baseline instruction set: 32 bytes a cycle from L1, far above any memory.
using Words = uint64_t __attribute__((vector_size(16), aligned(1), may_alias));

uint64_t sum_words(const std::byte* bytes, int64_t n_bytes) {
  Words sums[4] = {};
  for (int64_t i = 0; i + 64 <= n_bytes; i += 64) {
    const auto* words = reinterpret_cast<const Words*>(bytes + i);
    for (int k = 0; k < 4; ++k) sums[k] += words[k];
  }
  const Words total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return total[0] + total[1];
}

template <typename T>
void multiply(const Matrix<T>& a, const Matrix<T>& b, Matrix<float>& c) {
  const int64_t m = a.rows(), n = b.rows(), k = a.cols();
  if constexpr (sizeof(T) == 2) {
    gemm_bf16(false, true, m, n, k, a.data(), k, b.data(), k, 0.0f, c.data(), n);
  } else {
    gemm_f32(false, true, m, n, k, a.data(), k, b.data(), k, 0.0f, c.data(), n);
  }
}

// The second operand is packed once for 512 rows of the first, as a prompt's tokens are.
constexpr int64_t kRows = 512, kColumns = 64, kDepth = 2048;
constexpr int64_t kTasksAThread = 12;

template <typename T>
struct Operands {
  Matrix<T> a = Matrix<T>(kRows, kDepth, true);
  Matrix<T> b = Matrix<T>(kColumns, kDepth, true);
  Matrix<float> c = Matrix<float>(kRows, kColumns, true);
};

template <typename T>
double measure_gemm(ThreadPool& pool) {
  std::vector<Operands<T>> operands(static_cast<size_t>(pool.n_threads()));
  const auto run = [&](int64_t n_tasks) {
    const auto start = Clock::now();
    pool.parallel_for(n_tasks, [&](int64_t, int worker) {
      Operands<T>& own = operands[static_cast<size_t>(worker)];
      multiply(own.a, own.b, own.c);
    });
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const int64_t n_tasks = kTasksAThread * pool.n_threads();
  run(n_tasks);  // builds what oneDNN keeps
  return 2.0 * kRows * kColumns * kDepth * static_cast<double>(n_tasks) / run(n_tasks);
}

}  // namespace

double read_seconds(ThreadPool& pool, std::span<const std::byte> bytes) {
  constexpr int64_t kTask = 256 << 10;
  const auto n_bytes = static_cast<int64_t>(bytes.size());
  std::atomic<uint64_t> total{0};
  const auto start = Clock::now();
  pool.parallel_for((n_bytes + kTask - 1) / kTask, [&](int64_t task, int) {
    const int64_t begin = task * kTask;
    total.fetch_add(sum_words(bytes.data() + begin, std::min(kTask, n_bytes - begin)),
                    std::memory_order_relaxed);
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  asm volatile("" : : "r"(total.load()));  // keeps the sums from being optimised away
  return seconds;
}

double gemm_flops(ThreadPool& pool, DType precision) {
  return precision == DType::kBF16 ? measure_gemm<BFloat16>(pool) : measure_gemm<float>(pool);
}

}  // namespace d2q
