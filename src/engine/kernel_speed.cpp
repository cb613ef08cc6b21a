#include "engine/kernel_speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>

#include "base/matrix.h"
#include "base/rng.h"
#include "codec/packed_geometry.h"
#include "kernels/cpu/machine_speed.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/isa.h"

namespace d2q {
namespace {

struct Format {
  PackedKind kind;
  int bits;
};

constexpr Format kFormats[] = {{PackedKind::kSignPlanes, 2}, {PackedKind::kSignPlanes, 3},
                               {PackedKind::kUniform, 2},    {PackedKind::kUniform, 3},
                               {PackedKind::kUniform, 4},    {PackedKind::kUniform, 6},
                               {PackedKind::kUniform, 8}};

/// Random codes and plausible scales in one piece of memory; any bytes are codes.
class RandomWeights {
 public:
  RandomWeights(ThreadPool& pool, const PackedLayout& layout)
      : layout_(layout), n_codes_(codes_bytes(layout)), memory_(1, packed_bytes(layout)) {
    constexpr int64_t kTask = 1 << 20;
    pool.parallel_for((n_codes_ + kTask - 1) / kTask, [&](int64_t task, int) {
      Rng rng(static_cast<uint64_t>(task));
      const int64_t end = std::min(n_codes_, (task + 1) * kTask);
      for (int64_t i = task * kTask; i + 8 <= end; i += 8) {
        const uint64_t word = rng.next_u64();
        std::memcpy(memory_.data() + i, &word, 8);
      }
    });
    const Half scale = to_half(0.02f);
    std::fill_n(reinterpret_cast<Half*>(memory_.data() + n_codes_), scales_count(layout), scale);
  }

  PackedView view() const {
    return {layout_,
            {reinterpret_cast<const uint8_t*>(memory_.data()), static_cast<size_t>(n_codes_)},
            {reinterpret_cast<const Half*>(memory_.data() + n_codes_),
             static_cast<size_t>(scales_count(layout_))}};
  }
  std::span<const std::byte> bytes() const {
    return {memory_.data(), static_cast<size_t>(memory_.size())};
  }

 private:
  PackedLayout layout_;
  int64_t n_codes_;
  Matrix<std::byte> memory_;
};

Tensor gaussian_tensor(int64_t rows, int64_t cols) {
  auto buffer = std::make_shared<Matrix<float>>(rows, cols);
  Rng rng(2);
  for (float& value : buffer->span()) value = static_cast<float>(rng.gaussian());
  float* data = buffer->data();
  return {std::move(buffer), data, rows, cols, DType::kF32};
}

/// Keeps all threads reading for a while: the host of a virtual machine may put a processor that
/// has just woken up beside another on one core, and moves it later.
void warm_up(ThreadPool& pool, std::span<const std::byte> bytes) {
  for (double seconds = 0.0; seconds < 0.3;) seconds += read_seconds(pool, bytes);
}

std::vector<Isa> vector_isas() {
  std::vector<Isa> isas = available_isas();
  isas.erase(isas.begin());  // the scalar specification
  return isas;
}

}  // namespace

std::vector<KernelSpeed> measure_kernels(ThreadPool& pool, const KernelSpeedOptions& options) {
  std::vector<KernelSpeed> results;
  for (const Format& format : kFormats) {
    const int64_t rows = std::max<int64_t>(kTileRows, (options.megabytes << 20) * 8 / format.bits /
                                                          options.columns / kTileRows * kTileRows);
    const PackedLayout layout{format.kind, format.bits, rows, options.columns, options.group_size};
    const RandomWeights weights(pool, layout);
    warm_up(pool, weights.bytes());
    for (const int64_t n_tokens : options.tokens) {
      const Tensor x = gaussian_tensor(n_tokens, options.columns);
      const Tensor y = gaussian_tensor(n_tokens, rows);
      std::vector<PackedMultiplier> multipliers;
      std::vector<PackedProductView> products;
      const size_t first = results.size();
      for (const Isa isa : vector_isas()) {
        const PackedMultiplier& multiplier =
            multipliers.emplace_back(pool, packed_kernels(isa), options.activations);
        // Random bytes stand for codes in any order.
        products.push_back({weights.view(), Tensor(), y, multiplier.arranges(layout)});
        KernelSpeed& result = results.emplace_back();
        result.format = fmt::format(
            "{} {}", format.kind == PackedKind::kSignPlanes ? "planes" : "uniform", format.bits);
        result.isa = name_of(isa);
        result.tokens = n_tokens;
        result.bytes = static_cast<int64_t>(weights.bytes().size());
        result.weights = rows * options.columns;
      }
      for (int repeat = 0; repeat <= options.repeats; ++repeat) {
        const double read = read_seconds(pool, weights.bytes());
        const double flops = n_tokens == 1 ? 0.0 : gemm_flops(pool, options.precision);
        for (size_t i = 0; i < multipliers.size(); ++i) {
          const auto start = std::chrono::steady_clock::now();
          multipliers[i].multiply(x, {&products[i], 1}, options.precision);
          const double seconds =
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
          if (repeat == 0) continue;
          results[first + i].seconds.values.push_back(seconds);
          results[first + i].read_seconds.values.push_back(read);
          if (n_tokens > 1) results[first + i].gemm_flops.values.push_back(flops);
        }
      }
    }
  }
  return results;
}

}  // namespace d2q
