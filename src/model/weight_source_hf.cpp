#include "model/weight_source_hf.h"

#include <cstring>

#include "base/error.h"
#include "format/json_file.h"
#include "format/packed_container.h"
#include "format/safetensors.h"
#include "model/family.h"
#include "model/fused_modules.h"
#include "model/weight_source_checks.h"

namespace d2q {
namespace {

constexpr const char* kWeightSuffix = ".weight";

nlohmann::json read_optional_json(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return nullptr;
  return read_json_file(path);
}

/// The format version of a d2quant folder, checked; 0 for an HF folder.
int64_t packed_version(const nlohmann::json& config, const std::string& subject) {
  if (!config.contains("quantization_config") || config["quantization_config"].is_null()) return 0;
  const nlohmann::json& quantization = config["quantization_config"];  // config_from_hf saw it
  const auto version = quantization.find("format_version");
  if (version == quantization.end() || !version->is_number_integer()) {
    fail(ErrorCode::kCorrupt, "{}: quantization_config without an integer 'format_version'",
         subject);
  }
  if (*version != kPackedFormatVersion) {
    fail(ErrorCode::kUnsupported,
         "{}: packed format version {}, this program reads {}; a newer folder?", subject,
         version->dump(), kPackedFormatVersion);
  }
  return kPackedFormatVersion;
}

void convert(const SafetensorsTensor& tensor, std::span<float> out, const std::string& subject) {
  const std::byte* bytes = tensor.bytes.data();
  switch (tensor.type) {
    case SafetensorsType::kF32:
      std::memcpy(out.data(), bytes, tensor.bytes.size());
      return;
    case SafetensorsType::kF16:
      dequantize_blocks(GgufType::kF16, tensor.bytes, out);
      return;
    case SafetensorsType::kBF16:
      dequantize_blocks(GgufType::kBF16, tensor.bytes, out);
      return;
    case SafetensorsType::kF64:
      for (size_t i = 0; i < out.size(); ++i) {
        double value = 0.0;
        std::memcpy(&value, bytes + i * sizeof(double), sizeof(double));
        out[i] = static_cast<float>(value);
      }
      return;
    default:
      fail(ErrorCode::kUnsupported,
           "{}: tensor '{}' has dtype {}, weights may be F64, F32, F16 or BF16", subject,
           tensor.name, to_string(tensor.type));
  }
}

class HfWeightSource : public WeightSource {
 public:
  explicit HfWeightSource(const std::filesystem::path& folder)
      : HfWeightSource(folder, read_json_file(folder / "config.json")) {}

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return is_packed_ ? kPackedQuantMethod : "hf"; }
  bool has(const std::string& name) const override {
    if (tensors_.find(stored_name(name)) != nullptr || packed(name).has_value()) return true;
    const auto fused = fused_rows(config_, name);
    return fused && tensors_.find(fused->name) != nullptr;
  }

  std::optional<PackedView> packed(const std::string& name) const override {
    if (!is_packed_) return std::nullopt;
    const auto view = find_packed(tensors_, stored_name(name));
    if (view) {
      check_shape(config_, name, {view->layout.rows, view->layout.cols}, tensors_.path().string());
    }
    return view;
  }

  Matrix<float> load(const std::string& name) const override {
    if (const SafetensorsTensor* tensor = tensors_.find(stored_name(name)))
      return load_rows(*tensor, name, 0, -1);
    if (const auto view = packed(name)) {
      Matrix<float> matrix(view->layout.rows, view->layout.cols);
      dequantize(*view, matrix.span());
      check_finite(matrix.span(), 0, name, tensors_.path().string());
      return matrix;
    }
    if (const auto fused = fused_rows(config_, name)) {
      if (const SafetensorsTensor* tensor = tensors_.find(fused->name))
        return load_rows(*tensor, fused->name, fused->first, fused->count);
    }
    fail_missing_tensor(name, tensors_.path().string());
  }

 private:
  HfWeightSource(const std::filesystem::path& folder, const nlohmann::json& config)
      : config_(config_from_hf(config, read_optional_json(folder / "generation_config.json"),
                               (folder / "config.json").string())),
        is_packed_(packed_version(config, (folder / "config.json").string()) != 0),
        tensors_(folder) {}

  /// Rows [first, first + count) of a dense tensor, or all of it (count -1). A vector's elements
  /// count as rows.
  Matrix<float> load_rows(const SafetensorsTensor& tensor, const std::string& name, int64_t first,
                          int64_t count) const {
    const std::string subject = tensors_.file_of(tensor).string();
    check_shape(config_, name, tensor.shape, subject);
    const bool is_vector = tensor.shape.size() == 1;
    const int64_t width = is_vector ? 1 : tensor.shape.back();
    if (count < 0) count = tensor.shape.front();
    Matrix<float> matrix(is_vector ? 1 : count, is_vector ? count : width);
    SafetensorsTensor part = tensor;
    const auto row_bytes = static_cast<size_t>(width * size_of(tensor.type));
    part.bytes = tensor.bytes.subspan(static_cast<size_t>(first) * row_bytes,
                                      static_cast<size_t>(count) * row_bytes);
    convert(part, matrix.span(), subject);
    check_finite(matrix.span(), static_cast<size_t>(first * width), name, subject);
    return matrix;
  }
  /// The head of a model with tied embeddings is the embedding.
  std::string stored_name(const std::string& name) const {
    const ModuleNames& modules = family_named(config_.family).modules;
    if (config_.tied_embeddings && name == std::string(modules.head.hf) + kWeightSuffix) {
      return std::string(modules.embedding.hf) + kWeightSuffix;
    }
    return name;
  }

  ModelConfig config_;
  bool is_packed_;
  SafetensorsFolder tensors_;
};

}  // namespace

std::unique_ptr<WeightSource> open_hf_model(const std::filesystem::path& folder) {
  return std::make_unique<HfWeightSource>(folder);
}

}  // namespace d2q
