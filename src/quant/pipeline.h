// The quantization run: block by block from a model to a packed folder (METHOD.md §3).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "kernels/device_group.h"
#include "model/config.h"
#include "quant/options.h"
#include "quant/stream_placement.h"

namespace d2q {

/// What a run will cost, before it starts (`--dry-run`).
struct QuantizePlan {
  double bits_per_weight = 0.0;  // of the quantized linears, scales included
  int64_t output_bytes = 0;
  int64_t peak_memory_bytes = 0;  // the formula of docs/architecture.md; with a budget the device's
  StreamPlacement placement;      // of the activations
  /// Blocks whose activations a step of tuning at the end keeps: as many as fit into the memory
  /// that quantizing the blocks has taken before.
  int64_t end_tune_kept_blocks = 0;
  double floor_flops = 0.0;  // counted floor (products of the streams, statistics, solver)
};
/// The memory that a run's tensors may take on each device, and the tokens that one takes at a
/// time.
struct MemoryBudget {
  std::optional<int64_t> bytes;
  int64_t chunk_tokens = 8192;
  int n_devices = 1;  // that share the windows
  static MemoryBudget of(const DeviceGroup& group);
};
/// Throws Error{kUnsupported} when the run does not fit into the budget.
QuantizePlan plan_quantization(const ModelConfig& config, const QuantizeOptions& options,
                               const MemoryBudget& budget = {});
QuantizePlan plan_quantization(const std::filesystem::path& model, const QuantizeOptions& options,
                               const MemoryBudget& budget = {});

/// What is to be done with the finished model before it gets its name, in the folder where it lies
/// until then: whatever makes it complete. It may add to the report, which d2quant.json no longer
/// follows.
using BeforePublishing =
    std::function<void(const std::filesystem::path& folder, nlohmann::json& report)>;

/// Quantizes `model` into the folder `output`, which appears under its name only when complete;
/// until then "<output>.partial" holds the finished blocks, from which `options.resume` goes on.
/// Returns the report that is also written as d2quant.json. Throws Error.
nlohmann::json quantize(const std::filesystem::path& model, const std::filesystem::path& output,
                        const QuantizeOptions& options, DeviceGroup& group, ThreadPool& pool,
                        const ProgressSink& progress,
                        const BeforePublishing& before_publishing = nullptr);
nlohmann::json quantize(const std::filesystem::path& model, const std::filesystem::path& output,
                        const QuantizeOptions& options, Device& device, ThreadPool& pool,
                        const ProgressSink& progress);

}  // namespace d2q
