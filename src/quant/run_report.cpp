#include "quant/run_report.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/hash.h"
#include "format/packed_container.h"
#include "model/config.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const char* to_string(QuantMethod method) {
  switch (method) {
    case QuantMethod::kD2Quant:
      return "d2quant";
    case QuantMethod::kGptaq:
      return "gptaq";
    case QuantMethod::kGptq:
      return "gptq";
    case QuantMethod::kRtn:
      return "rtn";
  }
  return "";
}

const char* to_string(RotationKind rotation) {
  switch (rotation) {
    case RotationKind::kBlock:
      return "block";
    case RotationKind::kFull:
      return "full";
    case RotationKind::kNone:
      return "none";
  }
  return "";
}

}  // namespace

json describe(const QuantizeOptions& options) {
  json layers = json::array();
  for (const LayerOverride& layer : options.layers) {
    layers.push_back(
        {{"pattern", layer.pattern}, {"bits", layer.bits}, {"group_size", layer.group_size}});
  }
  return {{"bits", options.bits},
          {"group_size", options.group_size},
          {"method", to_string(options.method)},
          {"rotation", to_string(options.rotation)},
          {"dual_scale", options.dual_scale},
          {"deviation_correction", options.deviation_correction},
          {"final_correction", options.final_correction},
          {"shift_gate", static_cast<int>(options.shift_gate.kind)},
          {"shift_gate_threshold", options.shift_gate.threshold},
          {"alpha", options.alpha},
          {"refine", options.refine},
          {"refine_rounds", options.refine_rounds},
          {"sign_planes", options.sign_planes},
          {"portable_grid", options.portable_grid},
          {"tune_steps", options.tune_steps},
          {"tune_windows", options.tune_windows},
          {"end_tune_steps", options.end_tune_steps},
          {"end_tune_windows", options.end_tune_windows},
          {"end_tune_rate", options.end_tune_rate},
          {"tune_shifts", options.tune_shifts},
          {"damping", options.damping},
          {"samples", options.samples},
          {"sequence_length", options.sequence_length},
          {"seed", options.seed},
          {"products", options.products == DType::kBF16 ? "bf16" : "f32"},
          {"layers", layers},
          {"keep", options.keep},
          {"target_bits", options.target_bits},
          {"allocated_bits", options.allocated_bits},
          {"embed_bits", options.embed_bits},
          {"head_bits", options.head_bits}};
}

std::string model_fingerprint(const fs::path& model) {
  std::vector<fs::path> files;
  if (fs::is_directory(model)) {
    for (const auto& entry : fs::directory_iterator(model)) {
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(model);
  }
  Hasher hasher;
  hasher.update(read_hf_config(model).dump());
  for (const fs::path& file : files) {
    // A renamed GGUF file is the same model; shards are told apart by their names.
    if (files.size() > 1) hasher.update(file.filename().string());
    hasher.update(sampled_file_hash_hex(file) + ";");
  }
  return hasher.hex();
}

json packed_config(const fs::path& model, const QuantizeOptions& options) {
  json config = read_hf_config(model);
  if (options.rotation != RotationKind::kNone) config["tie_word_embeddings"] = false;
  config["quantization_config"] = {{"quant_method", kPackedQuantMethod},
                                   {"format_version", kPackedFormatVersion},
                                   {"bits", options.bits},
                                   {"group_size", options.group_size},
                                   {"method", to_string(options.method)}};
  return config;
}

namespace {

json describe(const DeviationShift& shift) {
  return {{"mse_before", shift.mse_before},
          {"mse_after", shift.mse_after},
          {"mean_snr", shift.mean_snr},
          {"channels", shift.corrected}};
}

json describe(const InputRange& range) {
  return {{"median_rms", range.median_rms},
          {"largest_rms", range.largest_rms},
          {"largest_channel", range.largest_channel},
          {"outliers", range.outliers}};
}

}  // namespace

json describe(const QuantizedBlock& block) {
  json linears = json::array();
  for (const StoredLinear& linear : block.linears) {
    json entry{{"name", linear.name}};
    if (linear.inputs) entry["input_range"] = describe(*linear.inputs);
    if (linear.solution) {
      const LinearSolution& s = *linear.solution;
      json stages = json::array();
      for (const StageObjective& stage : s.stages)
        stages.push_back({{"stage", stage.stage}, {"objective", stage.objective}});
      entry.update({{"bits", s.layout.bits},
                    {"group_size", s.layout.group_size},
                    {"grid", s.layout.kind == PackedKind::kUniform ? "uniform" : "planes"},
                    {"objective_before", s.objective_before},
                    {"objective_after", s.objective_after},
                    {"output_energy", s.output_energy},
                    {"relative_error", s.relative_error},
                    {"target_error", s.target_error},
                    {"stages", stages},
                    {"damping", s.damping},
                    {"rounded_only", s.rounded_only},
                    {"weights", s.layout.rows * s.layout.cols},
                    {"packed_bytes", packed_bytes(s.layout)}});
    } else {
      entry["kept"] = true;
    }
    linears.push_back(std::move(entry));
  }
  json report{{"linears", linears}};
  if (block.deviation) report["deviation"] = describe(*block.deviation);
  if (block.tuning) {
    report["tuning"] = {{"steps", block.tuning->steps},
                        {"loss_before", block.tuning->loss_before},
                        {"loss_after", block.tuning->loss_after},
                        {"accepted", block.tuning->accepted}};
  }
  if (block.final_deviation) {
    report["final_deviation"] = describe(*block.final_deviation);
    report["final_shift"] = block.final_deviation->shift;
  }
  return report;
}

double bits_per_weight(const json& blocks) {
  double bytes = 0.0;
  double weights = 0.0;
  for (const json& block : blocks) {
    for (const json& linear : block["linears"]) {
      if (linear.contains("kept")) continue;
      bytes += linear["packed_bytes"].get<double>();
      weights += linear["weights"].get<double>();
    }
  }
  return weights > 0.0 ? 8.0 * bytes / weights : 16.0;
}

}  // namespace d2q
