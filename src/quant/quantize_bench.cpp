#include "quant/quantize_bench.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/host_copy.h"
#include "model/prefetched_source.h"
#include "quant/background_task.h"
#include "quant/group_quantizer.h"
#include "quant/pipeline.h"
#include "quant/prepare.h"
#include "quant/random_block_source.h"
#include "quant/stage_clock.h"

namespace d2q {
namespace {

using Clock = std::chrono::steady_clock;

/// Distinct tokens, in multiples of the hidden size: inputs then have full rank.
constexpr int64_t kTokensPerChannel = 2;
constexpr int kTimedProducts = 5;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Tensor random_matrix(Device& device, int64_t rows, int64_t cols, Rng& rng) {
  Matrix<float> values(rows, cols);
  for (float& value : values.span()) value = static_cast<float>(rng.gaussian());
  return to_device(device, values);
}

void start_random_streams(GroupQuantizer& quantizer, Device& device, const ModelConfig& config,
                          const QuantizeOptions& options) {
  if (!BlockQuantizer::needs_statistics(options)) return;
  Rng rng(options.seed);
  const int64_t n_tokens = options.samples * options.sequence_length;
  const int64_t vocabulary = kTokensPerChannel * config.hidden_size;
  const Tensor table = random_matrix(device, vocabulary, config.hidden_size, rng);
  std::vector<int32_t> ids(static_cast<size_t>(n_tokens));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocabulary)));
  const auto embed = [&](const TokenRows& rows, int64_t first) {
    const RowAccess access{rows, RowUse::kWrite};
    for_row_chunks(device, rows.rows(), device.chunk_tokens(), {&access, 1},
                   [&](int64_t begin, std::span<const Tensor> chunks) {
                     const auto count = static_cast<size_t>(chunks[0].rows());
                     device.embed({ids.data() + first + begin, count}, table, chunks[0]);
                   });
  };
  if (BlockQuantizer::needs_fp_stream(options)) quantizer.start_fp_stream(embed);
  quantizer.start_quantized_stream(embed);
}

/// Of a product as large as a chunk's through the MLP.
double product_rate(Device& device, const ModelConfig& config, DType dtype) {
  Rng rng(1);
  const int64_t tokens = device.chunk_tokens();
  const int64_t n = config.hidden_size, m = config.intermediate_size;
  const Tensor x = device.allocate(tokens, n, dtype), w = device.allocate(m, n, dtype);
  const Tensor row = random_matrix(device, 1, n, rng);
  for (const Tensor& matrix : {x, w}) {
    for (int64_t i = 0; i < matrix.rows(); ++i) device.convert(row, matrix.row_range(i, 1));
  }
  const Tensor y = device.allocate(tokens, m, DType::kF32);
  device.linear(x, w, Tensor{}, y);
  device.synchronize();
  double best = 0.0;
  for (int i = 0; i < kTimedProducts; ++i) {
    const Clock::time_point start = Clock::now();
    device.linear(x, w, Tensor{}, y);
    device.synchronize();
    const double flops =
        2.0 * static_cast<double>(tokens) * static_cast<double>(n) * static_cast<double>(m);
    best = std::max(best, flops / seconds_since(start));
  }
  return best;
}

}  // namespace

double QuantizeBenchResult::block_seconds() const {
  double sum = 0.0;
  const size_t first = blocks.size() > 1 ? 1 : 0;
  for (size_t i = first; i < blocks.size(); ++i) sum += blocks[i].total;
  return sum / static_cast<double>(blocks.size() - first);
}

QuantizeBenchResult bench_quantize(const ModelConfig& config, const QuantizeOptions& options,
                                   int64_t n_blocks, DeviceGroup& group, ThreadPool& pool,
                                   const ProgressSink& progress) {
  D2Q_CHECK(n_blocks >= 1 && n_blocks <= config.n_layers, "{} of {} blocks", n_blocks,
            config.n_layers);
  validate(options);
  check_windows(options, group.size());
  Device& device = group.device(0);
  QuantizeBenchResult result;
  MemoryBudget of_one = MemoryBudget::of(group);
  of_one.bytes.reset();
  const QuantizePlan plan = plan_quantization(config, options, of_one);
  // Only blocks are quantized here.
  QuantizeOptions of_blocks = options;
  of_blocks.end_tune_steps = 0;
  result.placement = plan_quantization(config, of_blocks, MemoryBudget::of(group)).placement;
  for (int rank = 0; rank < group.size(); ++rank)
    group.device(rank).limit_chunk_tokens(result.placement.chunk_tokens);
  result.floor_flops = plan.floor_flops / static_cast<double>(config.n_layers);
  result.planned_memory_bytes =
      result.placement.host_bytes > 0 ? result.placement.device_bytes : plan.peak_memory_bytes;
  result.product_rate = product_rate(device, config, options.products);

  const Clock::time_point start = Clock::now();
  ThreadPool loading_pool(device.is_asynchronous() ? std::max(1, pool.n_threads() / 2) : 1);
  std::shared_ptr<const WeightSource> source =
      prepared(std::make_shared<RandomBlockSource>(config, options.seed), options,
               device.is_asynchronous() ? loading_pool : pool);
  if (device.is_asynchronous()) source = std::make_shared<PrefetchedSource>(source);
  GroupQuantizer quantizer(group, *source, options, result.placement);
  start_random_streams(quantizer, device, source->config(), options);
  device.synchronize();
  result.setup_seconds = seconds_since(start);

  BackgroundTask packing(device.is_asynchronous());
  for (int64_t layer = 0; layer < n_blocks; ++layer) {
    if (progress) progress({"bench", layer, n_blocks, fmt::format("block {}", layer + 1)});
    const Clock::time_point block_start = Clock::now();
    const auto block = std::make_shared<QuantizedBlock>(quantizer.quantize(layer, nullptr, {}));
    BlockSeconds seconds;
    seconds.stages = block->stage_seconds;
    const Clock::time_point pack_start = Clock::now();
    block->weights = {};
    packing.start([block, &pool] {
      for (const StoredLinear& linear : block->linears) {
        if (linear.solution) pack_solution(*linear.solution, pool);
      }
    });
    seconds.stages["pack"] = seconds_since(pack_start);
    seconds.total = seconds_since(block_start);
    result.blocks.push_back(std::move(seconds));
  }
  const Clock::time_point end = Clock::now();
  packing.wait();
  result.projected_seconds = result.setup_seconds + result.blocks.front().total +
                             result.block_seconds() * static_cast<double>(config.n_layers - 1) +
                             seconds_since(end);
  result.peak_memory_bytes = group.peak_memory_bytes();
  if (progress) progress({"bench", n_blocks, n_blocks, "done"});
  return result;
}

}  // namespace d2q
