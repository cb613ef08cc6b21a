#include "engine/speed.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <span>

#include "base/matrix.h"
#include "base/rng.h"
#include "engine/sequence.h"
#include "kernels/cpu/machine_speed.h"

namespace d2q {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<int32_t> random_tokens(const Transformer& transformer, int64_t n) {
  Rng rng(1);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(transformer.config().vocab_size)));
  return ids;
}

ModelSpeed about(const Transformer& transformer) {
  ModelSpeed speed;
  speed.bytes_per_token = transformer.decoded_bytes();
  speed.flops_per_token = 2.0 * static_cast<double>(transformer.block_weights());
  return speed;
}

}  // namespace

double Samples::median() const {
  D2Q_CHECK(!values.empty(), "no samples");
  std::vector<double> sorted = values;
  std::ranges::sort(sorted);
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : 0.5 * (sorted[middle - 1] + sorted[middle]);
}

double Samples::lowest() const { return *std::ranges::min_element(values); }
double Samples::highest() const { return *std::ranges::max_element(values); }

double Samples::deviation() const {
  if (values.size() < 2) return 0.0;
  const auto n = static_cast<double>(values.size());
  double mean = 0.0;
  for (const double value : values) mean += value / n;
  double sum = 0.0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / (n - 1.0));
}

ModelSpeed measure_decode(Device& device, ThreadPool& pool, Transformer& transformer,
                          const SpeedOptions& options) {
  ModelSpeed speed = about(transformer);
  const auto ids = random_tokens(transformer, options.past + options.tokens + 1);
  const auto sequence =
      make_sequence(device, transformer, static_cast<int64_t>(ids.size()), options.cache);
  const auto past = std::max<int64_t>(1, options.past);
  sequence->append(std::span(ids).first(static_cast<size_t>(past)));
  Matrix<std::byte> bytes(1, speed.bytes_per_token);
  std::memset(bytes.data(), 1, static_cast<size_t>(bytes.size()));
  const auto read = [&] {
    return read_seconds(pool, {bytes.data(), static_cast<size_t>(bytes.size())});
  };
  for (int repeat = 0; repeat <= options.repeats; ++repeat) {
    sequence->truncate(past);
    const auto start = Clock::now();
    for (int64_t i = 0; i < options.tokens; ++i)
      sequence->append(std::span(ids).subspan(static_cast<size_t>(past + i), 1));
    const double seconds = seconds_since(start);
    if (repeat == 0) continue;  // touches the pages and fills the caches
    speed.seconds.values.push_back(seconds);
    // As many bytes, so that what else happens on the machine weighs on both alike.
    double reading = 0.0;
    for (int64_t i = 0; i < options.tokens; ++i) reading += read();
    speed.read_bandwidth.values.push_back(
        static_cast<double>(bytes.size() * options.tokens) / reading);
  }
  return speed;
}

ModelSpeed measure_prefill(Device& device, ThreadPool& pool, Transformer& transformer,
                           const SpeedOptions& options, DType precision, bool with_products) {
  ModelSpeed speed = about(transformer);
  const auto ids = random_tokens(transformer, options.past + options.tokens);
  const auto sequence =
      make_sequence(device, transformer, static_cast<int64_t>(ids.size()), options.cache);
  const auto past = static_cast<size_t>(options.past);
  if (past > 0) sequence->append(std::span(ids).first(past));
  for (int repeat = 0; repeat <= options.repeats; ++repeat) {
    sequence->truncate(options.past);
    const auto start = Clock::now();
    sequence->append(std::span(ids).subspan(past));
    const double seconds = seconds_since(start);
    if (repeat == 0) continue;
    speed.seconds.values.push_back(seconds);
    if (with_products) speed.gemm_flops.values.push_back(gemm_flops(pool, precision));
  }
  return speed;
}

}  // namespace d2q
