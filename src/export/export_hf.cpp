#include "export/export_hf.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "export/encode_tensor.h"
#include "export/portable_model.h"
#include "export/staged_folder.h"
#include "model/family.h"
#include "text/tokenizer_files.h"

namespace d2q {
namespace {

using nlohmann::json;

GgufType encoding_of(SafetensorsType dtype) {
  switch (dtype) {
    case SafetensorsType::kF32:
      return GgufType::kF32;
    case SafetensorsType::kBF16:
      return GgufType::kBF16;
    default:
      return GgufType::kF16;
  }
}

const char* torch_name(SafetensorsType dtype) {
  switch (dtype) {
    case SafetensorsType::kF32:
      return "float32";
    case SafetensorsType::kBF16:
      return "bfloat16";
    default:
      return "float16";
  }
}

/// The model's own configuration, changed in what the export changes.
json exported_config(const std::filesystem::path& path, const PortableModel& model,
                     SafetensorsType dtype) {
  json config = read_hf_config(path);
  config.erase("quantization_config");
  const Family& family = family_named(model.config().family);
  config["architectures"] = {family.hf_architecture};
  config["model_type"] = family.hf_model_type;
  config["torch_dtype"] = torch_name(dtype);
  config.erase("dtype");
  config["tie_word_embeddings"] = model.config().tied_embeddings;
  const auto announce = [&](const char* key, bool biased) {
    if (*key != '\0') config[key] = biased;
  };
  announce(family.bias_switches.attention, model.attention_bias());
  announce(family.bias_switches.mlp, model.mlp_bias());
  return config;
}

/// The tensors of each file.
std::vector<std::vector<PortableTensor>> cut_shards(const std::vector<PortableTensor>& tensors,
                                                    const HfExportOptions& options) {
  std::vector<std::vector<PortableTensor>> shards(1);
  int64_t bytes = 0;
  for (const PortableTensor& tensor : tensors) {
    int64_t size = size_of(options.dtype);
    for (const int64_t extent : tensor.shape) size *= extent;
    if (bytes > 0 && bytes + size > options.shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(tensor);
    bytes += size;
  }
  return shards;
}

}  // namespace

json export_hf(const std::filesystem::path& path, const std::filesystem::path& output,
               const HfExportOptions& options, const ProgressSink& progress) {
  check_is_not_the_model(output, path);
  const std::shared_ptr<const WeightSource> source = open_model(path);
  const PortableModel model(source, ExportTarget::kHuggingFace, options.drop_shifts);
  StagedFolder folder(output, options.overwrite);
  const auto shards = cut_shards(model.tensors(), options);
  const auto n_tensors = static_cast<int64_t>(model.tensors().size());
  std::vector<std::string> names;
  int64_t done = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    names.push_back(shards.size() == 1 ? "model.safetensors"
                                       : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1,
                                                     shards.size()));
    std::vector<SafetensorsSpec> specs;
    for (const PortableTensor& tensor : shards[shard])
      specs.push_back({tensor.name, options.dtype, tensor.shape});
    SafetensorsWriter writer(folder.path() / names.back(), specs, {{"format", "pt"}},
                             SafetensorsPadding::kNone);
    for (const PortableTensor& tensor : shards[shard]) {
      if (progress) progress({"export", done++, n_tensors, tensor.name});
      const Matrix<float> values = model.load(tensor.name);
      writer.write(tensor.name,
                   encode_tensor(values.span(), encoding_of(options.dtype), tensor.name));
    }
    writer.finish();
  }
  if (shards.size() > 1) write_safetensors_index(folder.path(), names);
  write_file_atomically(folder.path() / "config.json",
                        exported_config(path, model, options.dtype).dump(2) + "\n");
  write_tokenizer_files(path, folder.path());
  const int64_t bytes = folder.commit();
  return {{"output", output.string()},
          {"format", "hf"},
          {"dtype", torch_name(options.dtype)},
          {"family", model.config().family},
          {"tensors", n_tensors},
          {"files", names.size()},
          {"bytes", bytes},
          {"shifts_moved", model.moved_shifts()},
          {"shifts_dropped", model.dropped_shifts()}};
}

}  // namespace d2q
