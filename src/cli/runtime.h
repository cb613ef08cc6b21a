// What a command computes with: threads and a device, as the global options ask.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/thread_pool.h"
#include "cli/commands.h"
#include "kernels/device_group.h"
#include "model/transformer.h"
#include "model/weight_source.h"
#include "text/tokenizer.h"

namespace d2q::cli {

class Runtime {
 public:
  /// With more than one GPU: throws UsageError where the options want the CPU.
  explicit Runtime(const GlobalOptions& options, int n_gpus = 1);
  Device& device() noexcept { return group_->device(0); }
  /// The devices that work together, device() the first of them.
  DeviceGroup& group() noexcept { return *group_; }
  ThreadPool& pool() noexcept { return pool_; }
  bool on_gpu() const noexcept { return on_gpu_; }

 private:
  ThreadPool pool_;
  bool on_gpu_ = false;
  std::unique_ptr<Device> device_;  // where it is one
  std::unique_ptr<DeviceGroup> group_;
};

/// Throws Error{kNotFound} saying what a model may be.
void check_model_exists(const std::filesystem::path& path);

/// `--act` as the CPU device takes it.
ActivationBits activations_of(const GlobalOptions& options);

/// `--gpu-mem SIZE`: a number of bytes, or of a unit that it names.
void add_gpu_memory_option(CLI::App& command, std::optional<uint64_t>& bytes);
/// `--gpus N`.
void add_gpus_option(CLI::App& command, int& n_gpus);
/// Throws UsageError where there is no GPU.
void limit_gpu_memory(Runtime& runtime, std::optional<uint64_t> bytes);

/// `--precision f32|bf16|auto`; `auto_meaning` says what auto is in this command.
void add_precision_option(CLI::App& command, std::string& precision,
                          const std::string& auto_meaning);

/// `--kv f16|int8`.
void add_cache_option(CLI::App& command, CacheType& cache);

/// What `--precision` says where auto is the faster one: for generating, not for measuring quality.
DType fast_products(Runtime& runtime, const std::string& precision);

/// Tokens of context to make room for: `requested` (`--ctx`), or where that is 0 `automatic`, as
/// far as the model has positions. Throws UsageError when more are requested than it has.
int64_t context_length(const ModelConfig& config, int64_t requested, int64_t automatic);

/// Warns where `windows` of `tokens` tokens go beyond the positions that the model is made for:
/// figures are then those of a model out of its depth.
void warn_beyond_context(const ModelConfig& config, int64_t tokens, const std::string& windows);

/// A model with its tokenizer, ready to run; precision auto is bf16 on a GPU, else f32.
struct LoadedModel {
  LoadedModel(Runtime& runtime, const std::filesystem::path& path, DType products);
  LoadedModel(Runtime& runtime, const std::filesystem::path& path, const std::string& precision);
  std::shared_ptr<const WeightSource> source;
  std::unique_ptr<Tokenizer> tokenizer;
  Transformer transformer;
};

}  // namespace d2q::cli
