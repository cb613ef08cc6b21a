#include "quant/pipeline.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/process_memory.h"
#include "format/packed_container.h"
#include "kernels/host_copy.h"
#include "model/family.h"
#include "model/input_embedding.h"
#include "model/load_weights.h"
#include "model/prefetched_source.h"
#include "model/weight_source.h"
#include "quant/background_task.h"
#include "quant/bit_allocation.h"
#include "quant/calibration.h"
#include "quant/end_stage.h"
#include "quant/group_quantizer.h"
#include "quant/output_folder.h"
#include "quant/packed_rest.h"
#include "quant/prepare.h"
#include "quant/run_report.h"
#include "quant/self_calibration.h"
#include "text/tokenizer.h"
#include "text/tokenizer_files.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr int64_t kSensitivityTokens = 4096;  // that the allocation of bits looks at

void report_progress(const ProgressSink& progress, const char* stage, int64_t done, int64_t total,
                     const std::string& detail) {
  if (progress) progress({stage, done, total, detail});
}

/// The windows that the options ask for; none where no method needs them.
CalibrationSet calibration_windows(Device& device, const fs::path& model,
                                   const std::shared_ptr<const WeightSource>& base,
                                   const QuantizeOptions& options, const ProgressSink& progress) {
  const auto tokenizer = load_tokenizer(model);
  if (!BlockQuantizer::needs_statistics(options)) return {};
  report_progress(progress, "calibrate", 0, 1, options.calibration);
  CalibrationSet calibration =
      options.calibration == "self"
          ? generate_calibration_set(device, base, options.samples, options.sequence_length,
                                     options.seed, options.products, progress)
          : sample_windows(read_calibration_text(options.calibration), options.calibration,
                           *tokenizer, options.samples, options.sequence_length, options.seed);
  for (const int32_t id : calibration.ids) {
    if (id < 0 || id >= base->config().vocab_size) {
      fail(ErrorCode::kCorrupt, "{}: the tokenizer gives id {} but the embedding has {} rows",
           model.string(), id, base->config().vocab_size);
    }
  }
  return calibration;
}

void start_streams(GroupQuantizer& quantizer, Device& device, ThreadPool& pool,
                   const WeightSource& source, const QuantizeOptions& options,
                   const std::vector<int32_t>& ids) {
  if (!BlockQuantizer::needs_statistics(options)) return;
  const int64_t length = options.sequence_length;
  const int64_t step = std::max<int64_t>(1, device.chunk_tokens() / length) * length;
  const auto embed_with = [&](const InputEmbedding& embedding) {
    return [&](const TokenRows& rows, int64_t first) {
      const RowAccess access{rows, RowUse::kWrite};
      for_row_chunks(device, rows.rows(), step, {&access, 1},
                     [&](int64_t begin, std::span<const Tensor> chunks) {
                       const auto place = static_cast<size_t>(first + begin);
                       const auto count = static_cast<size_t>(chunks[0].rows());
                       embedding.embed(device, std::span(ids).subspan(place, count), length, 0,
                                       chunks[0]);
                     });
    };
  };
  const InputEmbedding fp(device, source, DType::kF32);
  if (BlockQuantizer::needs_fp_stream(options)) quantizer.start_fp_stream(embed_with(fp));
  // The quantized model reads its embedding as stored.
  const InputEmbedding stored = stored_embedding(device, pool, fp, options);
  quantizer.start_quantized_stream(embed_with(stored));
}

/// Spends options.target_bits, if there is one, by what rounding does to the first windows.
void allocate_bits(Device& device, const WeightSource& source, const RopeTables& rope,
                   const std::vector<int32_t>& ids, QuantizeOptions& options,
                   const std::function<void(int64_t layer)>& on_block) {
  if (options.target_bits == 0.0) return;
  const int64_t windows =
      std::clamp<int64_t>(kSensitivityTokens / options.sequence_length, 1, options.samples);
  const std::span<const int32_t> first(ids.data(),
                                       static_cast<size_t>(windows * options.sequence_length));
  options.allocated_bits = allocate_bits(
      measure_sensitivity(device, source, options, rope, first, on_block), options.target_bits);
}

/// The walk over the blocks: from disk those that an earlier run finished, then the others.
struct BlockLoop {
  Device& device;
  ThreadPool& pool;
  const WeightSource& source;
  const QuantizeOptions& options;
  GroupQuantizer& quantizer;
  OutputFolder& folder;
  const ProgressSink& progress;
  json blocks = json::array();   // their reports
  json timings = json::array();  // of those that were quantized here

  void resume(int64_t done, bool tunes_at_the_end) {
    const int64_t n_layers = source.config().n_layers;
    // Behind the last block only the teacher's stream is still wanted.
    if (done == n_layers) quantizer.drop_quantized_stream();
    if (done == 0) return;
    folder.write_index_of_finished_blocks();
    const auto finished = open_model(folder.working_path());
    for (int64_t layer = 0; layer < done; ++layer) {
      report_progress(progress, "resume", layer, done,
                      fmt::format("replaying block {}/{}", layer + 1, n_layers));
      if (done < n_layers || tunes_at_the_end)
        quantizer.replay(layer, load_block(device, *finished, layer, options.products));
      blocks.push_back(folder.block_report(layer));
    }
  }

  void quantize(int64_t first, StageClock& phases) {
    const ModelConfig& config = source.config();
    const Family& family = family_named(config.family);
    const NormParams final_norm =
        load_norm(device, source, std::string(family.modules.final_norm.hf), family.norm);
    BackgroundTask writing(device.is_asynchronous());
    for (int64_t layer = first; layer < config.n_layers; ++layer) {
      const Clock::time_point start = Clock::now();
      const std::string name = fmt::format("block {}/{}", layer + 1, config.n_layers);
      const auto tell = [&](const std::string& detail) {
        report_progress(progress, "quantize", layer, config.n_layers, name + detail);
      };
      tell("");
      const auto on_linear = [&](const StoredLinear& linear) {
        tell(fmt::format(" {} error {:.4f}{}", linear.name.substr(linear.name.rfind('.') + 1),
                         linear.solution ? linear.solution->relative_error : 0.0,
                         linear.solution && linear.solution->rounded_only
                             ? " (rounded: not positive definite)"
                             : ""));
      };
      const auto on_tune_step = [&](int64_t step, double loss) {
        tell(fmt::format(" tune {}/{} loss {:.4g}", step, options.tune_steps, loss));
      };
      const bool corrects_final = options.final_correction && layer + 1 == config.n_layers;
      phases.enter("quantize");
      const auto block = std::make_shared<QuantizedBlock>(quantizer.quantize(
          layer, corrects_final ? &final_norm : nullptr, on_linear, on_tune_step));
      phases.enter("write");
      json report = describe(*block);
      report["block"] = layer;
      // The device's memory is the next block's.
      for (const BlockLinear& linear : kBlockLinears) block->weights.*linear.member = {};
      writing.start(folder.block_writer(device, pool, config, layer, block, report));
      blocks.push_back(std::move(report));
      timings.push_back(times_of(*block, layer, Clock::now() - start));
    }
    writing.wait();
  }

  /// What the last block found for the final norm's shift; may be empty.
  std::vector<float> final_shift() const {
    const json& last = blocks.back();
    return last.contains("final_shift") ? last["final_shift"].get<std::vector<float>>()
                                        : std::vector<float>();
  }

 private:
  static json times_of(const QuantizedBlock& block, int64_t layer,
                       std::chrono::duration<double> whole) {
    json seconds{{"block", layer}, {"stage_seconds", block.stage_seconds}};
    for (const StoredLinear& linear : block.linears)
      seconds["linear_seconds"][linear.name] = linear.seconds;
    if (block.tuning) seconds["tune_seconds"] = block.tuning->seconds;
    seconds["seconds"] = whole.count();
    seconds["peak_memory_bytes"] = peak_resident_bytes();
    return seconds;
  }
};

}  // namespace

MemoryBudget MemoryBudget::of(const DeviceGroup& group) {
  MemoryBudget budget;
  budget.chunk_tokens = group.device(0).chunk_tokens();
  budget.n_devices = group.size();
  for (int rank = 0; rank < group.size(); ++rank) {
    const std::optional<int64_t> bytes = group.device(rank).memory_budget();
    if (bytes) budget.bytes = std::min(*bytes, budget.bytes.value_or(*bytes));
  }
  return budget;
}

json quantize(const fs::path& model, const fs::path& output, const QuantizeOptions& requested,
              Device& device, ThreadPool& pool, const ProgressSink& progress) {
  return quantize(model, output, requested, *make_single_group(device), pool, progress);
}

json quantize(const fs::path& model, const fs::path& output, const QuantizeOptions& requested,
              DeviceGroup& group, ThreadPool& pool, const ProgressSink& progress,
              const BeforePublishing& before_publishing) {
  Device& device = group.device(0);
  const Clock::time_point start = Clock::now();
  validate(requested);
  QuantizeOptions options = requested;
  StageClock phases(device);
  phases.enter("open");
  const std::shared_ptr<const WeightSource> base = open_model(model);
  if (base->format() == "d2quant")
    fail(ErrorCode::kInvalidArgument, "{}: is quantized already", model.string());
  check_output_name(output, options.resume, options.overwrite);
  check_windows(options, group.size());
  const QuantizePlan plan = plan_quantization(base->config(), options, MemoryBudget::of(group));
  for (int rank = 0; rank < group.size(); ++rank)
    group.device(rank).limit_chunk_tokens(plan.placement.chunk_tokens);
  if (BlockQuantizer::needs_statistics(options)) phases.enter("calibrate");
  const CalibrationSet calibration = calibration_windows(device, model, base, options, progress);
  phases.enter("start");
  // A pool of its own, because it works beside everything else.
  ThreadPool loading_pool(device.is_asynchronous() ? std::max(1, pool.n_threads() / 2) : 1);
  std::shared_ptr<const WeightSource> source =
      prepared(base, options, device.is_asynchronous() ? loading_pool : pool);
  if (device.is_asynchronous()) source = std::make_shared<PrefetchedSource>(source);
  const ModelConfig& config = source->config();
  if (config.tied_embeddings && options.embed_bits != options.head_bits) {
    fail(ErrorCode::kInvalidArgument,
         "{}: the head is the embedding, so --embed-bits {} and --head-bits {} cannot differ; "
         "--rotate block or full stores both",
         model.string(), options.embed_bits, options.head_bits);
  }

  const RopeTables rope =
      make_rope_tables(device, config, std::max<int64_t>(options.sequence_length, 2));
  if (options.target_bits > 0.0) phases.enter("allocate");
  allocate_bits(device, *source, rope, calibration.ids, options, [&](int64_t layer) {
    report_progress(progress, "allocate", layer, config.n_layers,
                    fmt::format("bits of block {}/{}", layer + 1, config.n_layers));
  });

  phases.enter("start");
  json settings = describe(options);
  json identity = settings;
  identity["calibration_hash"] = calibration.hash;
  identity["model"] = model_fingerprint(model);
  identity["tool_version"] = options.tool_version;
  OutputFolder folder(output, identity, packed_config(model, options), config.n_layers,
                      options.resume, options.overwrite);
  folder.check_space(plan.output_bytes);

  std::optional<GroupQuantizer> held_quantizer;
  GroupQuantizer& quantizer = held_quantizer.emplace(group, *source, options, plan.placement);
  start_streams(quantizer, device, pool, *source, options, calibration.ids);
  const bool tunes = tunes_end(options) && !folder.tuned_report();
  BlockLoop loop{device, pool, *source, options, quantizer, folder, progress};
  const int64_t done = folder.blocks_done();
  loop.resume(done, tunes);
  loop.quantize(done, phases);
  quantizer.finish();
  report_progress(progress, "write", config.n_layers, config.n_layers, output.string());
  folder.write_rest(packed_rest(device, pool, *source, options, loop.final_shift()));
  write_tokenizer_files(model, folder.working_path());
  if (tunes) {
    phases.enter("tune");
    tune_end(device, pool, options, rope,
             {quantizer.fp_stream(), load_head(device, *source, options.products)}, calibration.ids,
             plan.end_tune_kept_blocks, folder, progress);
    phases.enter("write");
  }
  const std::optional<json> end_tuning = folder.tuned_report();
  if (end_tuning) {
    report_progress(progress, "write", config.n_layers, config.n_layers, output.string());
    folder.apply_tuned();
  }

  // What goes into the folder holds no times: the same run gives the same bytes.
  json report{{"format_version", kPackedFormatVersion},
              {"tool_version", options.tool_version},
              {"settings", settings},
              {"calibration_hash", calibration.hash},
              {"bits_per_weight", bits_per_weight(loop.blocks)},
              {"blocks", loop.blocks}};
  for (json& block : report["blocks"]) block.erase("final_shift");
  if (end_tuning) report["end_tuning"] = *end_tuning;
  folder.write_report(report);
  phases.stop();
  report["timings"] = loop.timings;
  report["phase_seconds"] = phases.seconds();
  report["model"] = model.string();
  report["model_fingerprint"] = identity["model"];
  report["device"] = group.name();
  report["threads"] = pool.n_threads();
  report["output"] = output.string();
  report["resumed_blocks"] = done;
  report["floor_flops"] = plan_quantization(base->config(), options).floor_flops;
  report["seconds"] = std::chrono::duration<double>(Clock::now() - start).count();
  report["peak_memory_bytes"] = peak_resident_bytes();
  if (device.memory_budget()) {
    report["gpu_memory"] = {{"budget_bytes", *device.memory_budget()},
                            {"peak_bytes", group.peak_memory_bytes()},
                            {"host_bytes", plan.placement.host_bytes},
                            {"chunk_tokens", plan.placement.chunk_tokens}};
  }
  held_quantizer.reset();  // its streams would stay in memory beside what comes now
  if (before_publishing) before_publishing(folder.working_path(), report);
  folder.publish();
  report["output_bytes"] = folder.total_bytes();
  report_progress(progress, "quantize", config.n_layers, config.n_layers, "done");
  return report;
}

}  // namespace d2q
