#include "cli/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <system_error>

#include "base/error.h"
#include "cli/progress_line.h"
#include "cli/usage.h"

namespace d2q::cli {
namespace {

/// The GPU where the options allow it, or nothing.
std::unique_ptr<Device> make_gpu_device(const GlobalOptions& options) {
  if (options.device == "cuda") return make_cuda_device();
  if (options.device == "auto") {
    try {
      return make_cuda_device();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
    }
  }
  return nullptr;
}

DType products_of(const Runtime& runtime, const std::string& precision) {
  const bool bf16 = precision == "bf16" || (precision == "auto" && runtime.on_gpu());
  return bf16 ? DType::kBF16 : DType::kF32;
}

std::shared_ptr<const WeightSource> open_existing(const std::filesystem::path& path) {
  check_model_exists(path);
  return open_model(path);
}

}  // namespace

Runtime::Runtime(const GlobalOptions& options, int n_gpus) : pool_(options.threads) {
  if (n_gpus > 1) {
    if (options.device == "cpu") throw UsageError("--gpus: --device cpu has none");
    group_ = make_cuda_group(n_gpus);
    on_gpu_ = true;
    return;
  }
  device_ = make_gpu_device(options);
  on_gpu_ = device_ != nullptr;
  if (!on_gpu_) device_ = make_cpu_device(pool_, options.isa, activations_of(options));
  group_ = make_single_group(*device_);
}

ActivationBits activations_of(const GlobalOptions& options) {
  return options.activations == "a8" ? ActivationBits::k8 : ActivationBits::k16;
}

void check_model_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    fail(ErrorCode::kNotFound,
         "{}: no such model; expected a Hugging Face folder, a GGUF file or a d2quant folder",
         path.string());
  }
  if (std::filesystem::is_directory(path, ignored) &&
      !std::filesystem::exists(path / "config.json", ignored)) {
    fail(ErrorCode::kNotFound,
         "{}: no config.json in this folder; expected a Hugging Face folder, a GGUF file or a "
         "d2quant folder",
         path.string());
  }
}

void add_gpu_memory_option(CLI::App& command, std::optional<uint64_t>& bytes) {
  CLI::Validator size = CLI::AsSizeValue(/*kb_is_1000=*/true);
  size.description("");
  command
      .add_option("--gpu-mem", bytes,
                  "Most memory of each GPU to take, as 12GB (10^9) or 12GiB: activations then stay "
                  "in the host's, beside the GPU's working memory [what is free]")
      ->transform(size)
      ->type_name("SIZE");
}

void limit_gpu_memory(Runtime& runtime, std::optional<uint64_t> bytes) {
  if (!bytes) return;
  if (*bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    throw UsageError("--gpu-mem: no GPU has that much");
  as_usage([&] {
    for (int rank = 0; rank < runtime.group().size(); ++rank)
      runtime.group().device(rank).limit_memory(static_cast<int64_t>(*bytes));
  });
}

void add_gpus_option(CLI::App& command, int& n_gpus) {
  command
      .add_option("--gpus", n_gpus,
                  "GPUs of this host to spread the work over: calibration windows, and rows of the "
                  "linears that are solved")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
}

void add_precision_option(CLI::App& command, std::string& precision,
                          const std::string& auto_meaning) {
  command
      .add_option("--precision", precision, "Precision of dense products; auto is " + auto_meaning)
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16", "auto"}));
}

void add_cache_option(CLI::App& command, CacheType& cache) {
  static const std::map<std::string, CacheType> kTypes = {{"f16", CacheType::kF16},
                                                          {"int8", CacheType::kInt8}};
  command
      .add_option_function<std::string>(
          "--kv", [&cache](const std::string& name) { cache = kTypes.at(name); },
          "Keys and values of the context: f16, or int8, on the CPU, in half the memory")
      ->default_str("f16")
      ->check(CLI::IsMember({"f16", "int8"}));
}

DType fast_products(Runtime& runtime, const std::string& precision) {
  const bool bf16 =
      precision == "bf16" || (precision == "auto" && runtime.device().has_fast_bf16());
  return bf16 ? DType::kBF16 : DType::kF32;
}

int64_t context_length(const ModelConfig& config, int64_t requested, int64_t automatic) {
  const int64_t most = config.max_positions;
  if (requested > most) {
    throw UsageError(
        fmt::format("--ctx {}: more than the model's context of {} tokens", requested, most));
  }
  return requested > 0 ? requested : std::clamp<int64_t>(automatic, 1, most);
}

void warn_beyond_context(const ModelConfig& config, int64_t tokens, const std::string& windows) {
  if (tokens <= config.max_positions) return;
  warn(fmt::format("{} of {} tokens are longer than the model's context of {}", windows, tokens,
                   config.max_positions));
}

LoadedModel::LoadedModel(Runtime& runtime, const std::filesystem::path& path,
                         const std::string& precision)
    : LoadedModel(runtime, path, products_of(runtime, precision)) {}

LoadedModel::LoadedModel(Runtime& runtime, const std::filesystem::path& path, DType products)
    : source(open_existing(path)),
      tokenizer(load_tokenizer(path)),
      transformer(runtime.device(), source, products) {}

}  // namespace d2q::cli
