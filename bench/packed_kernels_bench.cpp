// Speed of the packed kernels: `d2q_packed_kernels_bench [mat-vec|cache|batch|panel] [threads]
// [repeats]`.
//
// mat-vec: one token against a matrix of about 70 MB (larger than the last-level cache), in GB/s of
// packed bytes and as a share of a plain read loop over the same bytes and tasks. cache: a matrix
// that fits the L2 cache, which shows the instructions alone. batch: tokens 1 to 32 on one matrix,
// to see where the panel path takes over. panel: 2048 tokens, GFLOP/s, and the share of the time
// that dequantizing takes. Times are the best of the repeats, taken in turns, so that a busy
// machine disturbs all alike.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "codec/packed_geometry.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/isa.h"

namespace d2q {
namespace {

struct Format {
  const char* name;
  PackedKind kind;
  int bits;
};

constexpr Format kFormats[] = {
    {"sign planes 2", PackedKind::kSignPlanes, 2}, {"sign planes 3", PackedKind::kSignPlanes, 3},
    {"uniform 2", PackedKind::kUniform, 2},        {"uniform 3", PackedKind::kUniform, 3},
    {"uniform 4", PackedKind::kUniform, 4},        {"uniform 8", PackedKind::kUniform, 8}};

template <typename Work>
double seconds_of(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Random codes and plausible scales, written without pack(): any bytes are codes.
struct Weights {
  PackedLayout layout;
  Matrix<uint8_t> codes;
  Matrix<Half> scales;

  explicit Weights(const PackedLayout& wanted)
      : layout(wanted), codes(1, codes_bytes(wanted)), scales(1, scales_count(wanted)) {
    Rng rng(1);
    for (int64_t i = 0; i < codes.size(); ++i)
      codes.data()[i] = static_cast<uint8_t>(rng.next_u64());
    const Half scale = to_half(0.02f);
    std::fill_n(scales.data(), scales.size(), scale);
  }

  PackedView view() const { return {layout, codes.span(), scales.span()}; }
  double n_bytes() const { return static_cast<double>(codes.size() + 2 * scales.size()); }
};

Tensor make_tensor(int64_t rows, int64_t cols) {
  auto buffer = std::make_shared<Matrix<float>>(rows, cols);
  Rng rng(2);
  for (int64_t i = 0; i < buffer->size(); ++i) {
    buffer->data()[i] = static_cast<float>(rng.gaussian());
  }
  return Tensor(buffer, buffer->data(), rows, cols, DType::kF32);
}

uint64_t sum_words(const uint8_t* bytes, int64_t n_bytes) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i + 64 <= n_bytes; i += 64) {
    uint64_t words[8];
    std::memcpy(words, bytes + i, 64);
    for (int k = 0; k < 8; ++k) sums[k] += words[k];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

/// Reads codes and scales in tasks of 256 KB.
void read_all(ThreadPool& pool, const Weights& weights, std::vector<uint64_t>& sums) {
  constexpr int64_t kTask = 256 << 10;
  const auto* scales = reinterpret_cast<const uint8_t*>(weights.scales.data());
  for (const auto& [bytes, size] : {std::pair{weights.codes.data(), weights.codes.size()},
                                    std::pair{scales, 2 * weights.scales.size()}}) {
    const auto* begin = bytes;
    const int64_t n_bytes = size;
    pool.parallel_for((n_bytes + kTask - 1) / kTask, [&](int64_t task, int worker) {
      sums[static_cast<size_t>(worker) * 8] +=
          sum_words(begin + task * kTask, std::min(kTask, n_bytes - task * kTask));
    });
  }
}

void bench_mat_vec(ThreadPool& pool, int repeats) {
  fmt::print("{} threads; 1 token, group 128, ~70 MB a matrix\n", pool.n_threads());
  for (const Format& format : kFormats) {
    const int64_t cols = 8192;
    const int64_t rows = (int64_t{64} << 20) * 8 / format.bits / cols / 16 * 16;
    const Weights weights({format.kind, format.bits, rows, cols, 128});
    const Tensor x = make_tensor(1, cols);
    const Tensor y = make_tensor(1, rows);
    std::vector<Isa> isas = available_isas();
    isas.erase(isas.begin());  // the scalar specification
    std::vector<double> best(isas.size(), 1e9);
    double best_read = 1e9;
    std::vector<uint64_t> sums(static_cast<size_t>(pool.n_threads()) * 8);
    for (int repeat = 0; repeat < repeats; ++repeat) {
      best_read = std::min(best_read, seconds_of([&] { read_all(pool, weights, sums); }));
      for (size_t i = 0; i < isas.size(); ++i) {
        best[i] = std::min(best[i], seconds_of([&] {
                             packed_linear_cpu(pool, packed_kernels(isas[i]), x, weights.view(),
                                               Tensor(), y, DType::kF32);
                           }));
      }
    }
    const double giga_bytes = weights.n_bytes() * 1e-9;
    fmt::print("{:14} read {:5.1f} GB/s", format.name, giga_bytes / best_read);
    for (size_t i = 0; i < isas.size(); ++i) {
      fmt::print("   {} {:5.1f} GB/s ({:3.0f}%)", name_of(isas[i]), giga_bytes / best[i],
                 100.0 * best_read / best[i]);
    }
    fmt::print("{}\n", sums[0] == 1 ? " " : "");  // keeps the sums alive
  }
}

void bench_cache(ThreadPool& pool, int repeats) {
  fmt::print("{} threads; 1 token, group 128, 512 x 4096 from the L2 cache\n", pool.n_threads());
  for (const Format& format : kFormats) {
    const Weights weights({format.kind, format.bits, 512, 4096, 128});
    const Tensor x = make_tensor(1, 4096);
    const Tensor y = make_tensor(1, 512);
    fmt::print("{:14}", format.name);
    for (const Isa isa : available_isas()) {
      if (isa == Isa::kScalar) continue;
      double best = 1e9;
      for (int repeat = 0; repeat < 100 * repeats; ++repeat) {
        best = std::min(best, seconds_of([&] {
                          packed_linear_cpu(pool, packed_kernels(isa), x, weights.view(), Tensor(),
                                            y, DType::kF32);
                        }));
      }
      fmt::print("   {} {:5.1f} GB/s {:5.1f} Gweights/s", name_of(isa),
                 weights.n_bytes() * 1e-9 / best, 512 * 4096e-9 / best);
    }
    fmt::print("\n");
  }
}

void bench_batch(ThreadPool& pool, int repeats) {
  const PackedKernels& kernels = packed_kernels(choose_isa());
  fmt::print("{} threads, {}; ms for a 4096 x 4096 matrix by tokens\n", pool.n_threads(),
             kernels.name);
  for (const Format& format : kFormats) {
    const Weights weights({format.kind, format.bits, 4096, 4096, 128});
    fmt::print("{:14}", format.name);
    for (const int64_t n_tokens : {1, 2, 4, 8, 12, 16, 17, 24, 32}) {
      const Tensor x = make_tensor(n_tokens, 4096);
      const Tensor y = make_tensor(n_tokens, 4096);
      double best = 1e9;
      for (int repeat = 0; repeat < repeats; ++repeat) {
        best = std::min(best, seconds_of([&] {
                          packed_linear_cpu(pool, kernels, x, weights.view(), Tensor(), y,
                                            DType::kBF16);
                        }));
      }
      fmt::print("  {}: {:.2f}", n_tokens, best * 1e3);
    }
    fmt::print("\n");
  }
}

void bench_panel(ThreadPool& pool, int repeats) {
  constexpr int64_t kTokens = 2048;
  constexpr int64_t kSize = 4096;
  const PackedKernels& kernels = packed_kernels(choose_isa());
  fmt::print("{} threads, {}; {} tokens, {} x {}\n", pool.n_threads(), kernels.name, kTokens, kSize,
             kSize);
  const Tensor x = make_tensor(kTokens, kSize);
  const Tensor y = make_tensor(kTokens, kSize);
  for (const Format& format : kFormats) {
    const Weights weights({format.kind, format.bits, kSize, kSize, 128});
    const PackedGeometry geometry = geometry_of(weights.layout);
    const int index = format.kind == PackedKind::kSignPlanes
                          ? (format.bits == 2 ? kSignPlanes2 : kSignPlanes3)
                          : (format.bits == 2   ? kUniform2
                             : format.bits == 3 ? kUniform3
                             : format.bits == 4 ? kUniform4
                                                : kUniform8);
    Matrix<uint16_t> panel(pool.n_threads(), 16 * kSize);
    double best = 1e9;
    double best_decode = 1e9;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      best =
          std::min(best, seconds_of([&] {
                     packed_linear_cpu(pool, kernels, x, weights.view(), Tensor(), y, DType::kBF16);
                   }));
      best_decode =
          std::min(best_decode, seconds_of([&] {
                     pool.parallel_for(geometry.n_row_tiles, [&](int64_t tile, int worker) {
                       for (int64_t g = 0; g < geometry.n_groups; ++g) {
                         kernels.dequantize_bf16[index](
                             weights.codes.data() + tile * geometry.tile_code_bytes +
                                 g * 4 * step_bytes(format.bits),
                             &weights.scales.data()->bits + tile * geometry.tile_scales +
                                 g * weights.layout.n_params() * 16,
                             4, panel.row(worker) + g * 128, kSize);
                       }
                     });
                   }));
    }
    fmt::print("{:14} {:6.1f} GFLOP/s   dequantizing {:.1f}% of the time\n", format.name,
               2e-9 * kTokens * kSize * kSize / best, 100.0 * best_decode / best);
  }
}

}  // namespace
}  // namespace d2q

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "mat-vec";
  d2q::ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 10;
  if (what == "mat-vec")
    d2q::bench_mat_vec(pool, repeats);
  else if (what == "cache")
    d2q::bench_cache(pool, repeats);
  else if (what == "batch")
    d2q::bench_batch(pool, repeats);
  else if (what == "panel")
    d2q::bench_panel(pool, repeats);
  else
    fmt::print(stderr,
               "usage: d2q_packed_kernels_bench [mat-vec|cache|batch|panel] [threads] [repeats]\n");
  return 0;
}
