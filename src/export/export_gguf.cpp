#include "export/export_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/error.h"
#include "export/encode_q2_0.h"
#include "export/encode_tensor.h"
#include "export/gguf_tokenizer.h"
#include "export/portable_model.h"
#include "export/staged_folder.h"
#include "format/gguf_writer.h"
#include "model/config_fields.h"
#include "model/family.h"
#include "model/fused_modules.h"
#include "model/weight_source_gguf.h"
#include "text/tokenizer_files.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

/// llama.cpp's general.file_type.
uint32_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return 1;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
    case GgufType::kQ2_0:
      return 41;
    default:
      return 0;
  }
}

/// One tensor of the file: bytes that are taken as they are, or values of a tensor of the model.
struct FileTensor {
  std::string name;
  std::string source;  // PortableTensor's name; empty: `values`
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;
  bool packed = false;        // codes, not values
  std::vector<float> values;  // rope tables
};

class GgufExport {
 public:
  GgufExport(const fs::path& path, const fs::path& output, const GgufExportOptions& options)
      : path_(path),
        options_(options),
        source_(open_model(path)),
        model_(source_, ExportTarget::kGguf, options.drop_shifts),
        config_(model_.config()),
        family_(family_named(config_.family)),
        writer_(output) {}

  const PortableModel& model() const { return model_; }
  size_t n_tensors() const { return tensors_.size(); }

  uint64_t write(const fs::path& tokenizer_folder, const ProgressSink& progress) {
    add_metadata();
    add_rope();
    add_gguf_tokenizer(writer_, tokenizer_folder, config_);
    for (const PortableTensor& tensor : model_.tensors()) add(tensor);
    for (const FileTensor& tensor : tensors_)
      writer_.add_tensor(tensor.name, tensor.type, tensor.shape);
    int64_t done = 0;
    for (const FileTensor& tensor : tensors_) {
      if (progress)
        progress({"export", done++, static_cast<int64_t>(tensors_.size()), tensor.name});
      writer_.write(tensor.name, bytes_of(tensor));
    }
    return writer_.finish();
  }

 private:
  std::string key(const char* name) const {
    return fmt::format("{}.{}", family_.gguf_architecture, name);
  }
  void add_u32(const char* name, int64_t value) {
    writer_.add_u32(key(name), static_cast<uint32_t>(value));
  }
  void add_f32(const char* name, double value) {
    writer_.add_f32(key(name), static_cast<float>(value));
  }

  void add_metadata() {
    const fs::path clean = path_.has_filename() ? path_ : path_.parent_path();
    writer_.add_string("general.architecture", family_.gguf_architecture);
    writer_.add_string("general.name",
                       options_.name.empty() ? clean.stem().string() : options_.name);
    writer_.add_u32("general.file_type", file_type(options_.type));
    writer_.add_u32("general.quantization_version", 2);
    add_u32("vocab_size", config_.vocab_size);
    add_u32("context_length", config_.max_positions);
    add_u32("embedding_length", config_.hidden_size);
    add_u32("block_count", config_.n_layers);
    add_u32("feed_forward_length", config_.intermediate_size);
    add_u32("attention.head_count", config_.n_heads);
    add_u32("attention.head_count_kv", config_.n_kv_heads);
    add_u32("attention.key_length", config_.head_dim);
    add_u32("attention.value_length", config_.head_dim);
    add_f32("attention.layer_norm_rms_epsilon", static_cast<double>(config_.norm_epsilon));
    add_u32("rope.dimension_count", config_.rotated());
    add_f32("rope.freq_base", config_.rope_theta);
    if (config_.sliding_window > 0) {
      // It has none for llama and qwen2, and switches Phi-3's off.
      if (config_.sliding_window < config_.max_positions) {
        fail(ErrorCode::kUnsupported,
             "a sliding window of {} tokens, which llama.cpp does not apply to family {}; use --to "
             "hf",
             config_.sliding_window, family_.name);
      }
      add_u32("attention.sliding_window", config_.sliding_window);
    }
  }

  void add_table(const char* name, std::vector<float> values) {
    FileTensor tensor;
    tensor.name = name;
    tensor.shape = {static_cast<int64_t>(values.size())};
    tensor.values = std::move(values);
    tensors_.push_back(std::move(tensor));
  }

  void add_rope() {
    const RopeScaling& rope = config_.rope_scaling;
    switch (rope.kind) {
      case RopeScaling::Kind::kNone:
      case RopeScaling::Kind::kDynamic:  // nothing within the trained length
        return;
      case RopeScaling::Kind::kLinear:
        writer_.add_string(key("rope.scaling.type"), "linear");
        return add_f32("rope.scaling.factor", rope.factor);
      case RopeScaling::Kind::kLlama3: {
        std::vector<float> divisors;
        for (int64_t i = 0; i < config_.rotated() / 2; ++i)
          divisors.push_back(static_cast<float>(llama3_divisor(config_, rope, i)));
        return add_table("rope_freqs.weight", std::move(divisors));
      }
      case RopeScaling::Kind::kYarn:
        if (rope.attention_factor != 0.0) {
          fail(ErrorCode::kUnsupported,
               "yarn scaling with an attention factor of its own ({}) has no place in GGUF; use "
               "--to hf",
               rope.attention_factor);
        }
        writer_.add_string(key("rope.scaling.type"), "yarn");
        add_f32("rope.scaling.factor", rope.factor);
        add_f32("rope.scaling.yarn_beta_fast", rope.beta_fast);
        add_f32("rope.scaling.yarn_beta_slow", rope.beta_slow);
        return add_u32("rope.scaling.original_context_length", rope.original_max_positions);
      case RopeScaling::Kind::kLong:
        writer_.add_string(key("rope.scaling.type"), "longrope");
        add_u32("rope.scaling.original_context_length", rope.original_max_positions);
        add_f32("rope.scaling.attn_factor", rope.attention_factor);
        add_table("rope_factors_long.weight", {rope.long_factors.begin(), rope.long_factors.end()});
        return add_table("rope_factors_short.weight",
                         {rope.short_factors.begin(), rope.short_factors.end()});
    }
  }

  /// The packed linears whose rows one after another are the tensor; empty when it is dense.
  std::vector<PackedView> packed_parts(const std::string& name) const {
    std::vector<PackedView> parts;
    for (const std::string& part : parts_of(config_, name)) {
      const auto view = source_->packed(part);
      if (!view) return {};
      parts.push_back(*view);
    }
    return parts;
  }

  void add(const PortableTensor& tensor) {
    FileTensor entry;
    entry.name = gguf_tensor_name(family_, tensor.name);
    D2Q_CHECK(!entry.name.empty(), "no GGUF name for '{}'", tensor.name);
    entry.source = tensor.name;
    entry.shape = tensor.shape;
    if (tensor.shape.size() == 2) {
      entry.type = options_.type;
      const auto parts =
          options_.type == GgufType::kQ2_0 ? packed_parts(tensor.name) : std::vector<PackedView>();
      entry.packed = !parts.empty();
      if (!std::all_of(parts.begin(), parts.end(), fits_q2_0)) {
        fail(
            ErrorCode::kUnsupported,
            "{}: Q2_0 holds only what quantize --grid portable writes, with groups of whole blocks "
            "of 64; use another --type",
            tensor.name);
      }
      const bool whole_blocks = tensor.shape[1] % block_weights(entry.type) == 0;
      if ((entry.type == GgufType::kQ2_0 && !entry.packed) || !whole_blocks)
        entry.type = GgufType::kF16;
    }
    tensors_.push_back(std::move(entry));
  }

  bool is_permuted(const FileTensor& tensor) const {
    return family_.gguf_permutes_qk && (tensor.name.find(".attn_q.") != std::string::npos ||
                                        tensor.name.find(".attn_k.") != std::string::npos);
  }

  std::vector<std::byte> bytes_of(const FileTensor& tensor) const {
    if (tensor.source.empty()) return encode_tensor(tensor.values, tensor.type, tensor.name);
    std::vector<std::byte> bytes;
    if (tensor.packed) {
      for (const PackedView& part : packed_parts(tensor.source)) {
        const std::vector<std::byte> rows = encode_q2_0(part);
        bytes.insert(bytes.end(), rows.begin(), rows.end());
      }
    } else {
      const Matrix<float> values = model_.load(tensor.source);
      bytes = encode_tensor(values.span(), tensor.type, tensor.source);
    }
    if (!is_permuted(tensor)) return bytes;
    const auto n_rows = tensor.shape[0];
    const size_t row_bytes = bytes.size() / static_cast<size_t>(n_rows);
    std::vector<std::byte> permuted(bytes.size());
    for (int64_t r = 0; r < n_rows; ++r) {
      const auto from = static_cast<size_t>(hf_row_of(r, config_.head_dim)) * row_bytes;
      std::copy_n(
          bytes.begin() + static_cast<std::ptrdiff_t>(from), row_bytes,
          permuted.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(r) * row_bytes));
    }
    return permuted;
  }

  fs::path path_;
  const GgufExportOptions& options_;
  std::shared_ptr<const WeightSource> source_;
  PortableModel model_;
  const ModelConfig& config_;
  const Family& family_;
  GgufWriter writer_;
  std::vector<FileTensor> tensors_;
};

}  // namespace

nlohmann::json export_gguf(const fs::path& path, const fs::path& output,
                           const GgufExportOptions& options, const ProgressSink& progress) {
  check_is_not_the_model(output, path);
  if (fs::is_directory(output))
    fail(ErrorCode::kInvalidArgument, "{}: a folder, expected a file to write", output.string());
  if (fs::exists(output) && !options.overwrite) {
    fail(ErrorCode::kInvalidArgument,
         "{}: exists already; choose another --output or pass --overwrite", output.string());
  }
  GgufExport run(path, output, options);
  // A GGUF file's own tokenizer goes through tokenizer.json as well; the folder is never committed.
  std::optional<StagedFolder> scratch;
  fs::path tokenizer_folder = path;
  if (!fs::is_directory(path)) {
    scratch.emplace(fs::path(output.string() + ".tokenizer"), true);
    write_tokenizer_files(path, scratch->path());
    tokenizer_folder = scratch->path();
  }
  const uint64_t bytes = run.write(tokenizer_folder, progress);
  return {{"output", output.string()},
          {"format", "gguf"},
          {"dtype", std::string(to_string(options.type))},
          {"family", run.model().config().family},
          {"tensors", run.n_tensors()},
          {"files", 1},
          {"bytes", bytes},
          {"shifts_moved", run.model().moved_shifts()},
          {"shifts_dropped", run.model().dropped_shifts()}};
}

}  // namespace d2q
