#include "model/weight_source_gguf.h"

#include "base/error.h"
#include "format/gguf.h"
#include "model/family.h"
#include "model/weight_source_checks.h"

namespace d2q {
namespace {

class GgufWeightSource : public WeightSource {
 public:
  explicit GgufWeightSource(const std::filesystem::path& path)
      : file_(path), config_(config_from_gguf(file_)), family_(family_named(config_.family)) {}

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return "gguf"; }
  bool has(const std::string& name) const override { return find(name) != nullptr; }
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

  Matrix<float> load(const std::string& name) const override {
    const std::string subject = file_.path().string();
    const GgufTensor* tensor = find(name);
    if (tensor == nullptr) fail_missing_tensor(name, subject);
    check_shape(config_, name, tensor->shape, subject);
    const int64_t cols = tensor->row_length();
    Matrix<float> matrix(tensor->n_rows(), cols);
    const bool permuted = is_permuted(name);
    if (permuted && tensor->shape.size() == 1) {
      Matrix<float> stored(1, cols);
      file_.dequantize_rows(*tensor, 0, 1, stored.span());
      for (int64_t i = 0; i < cols; ++i) matrix.data()[hf_row(i)] = stored.data()[i];
      check_finite(matrix.span(), 0, name, subject);
      return matrix;
    }
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      const int64_t target = permuted ? hf_row(r) : r;
      const std::span<float> row(matrix.row(target), static_cast<size_t>(cols));
      file_.dequantize_rows(*tensor, r, 1, row);
      // Row by row, while the row is in the cache.
      check_finite(row, static_cast<size_t>(target * cols), name, subject);
    }
    return matrix;
  }

 private:
  const GgufTensor* find(const std::string& name) const {
    const std::string stored = gguf_tensor_name(family_, name);
    const GgufTensor* tensor = stored.empty() ? nullptr : file_.find(stored);
    if (tensor == nullptr && config_.tied_embeddings && name == head_name()) {
      return file_.find(std::string(family_.modules.embedding.gguf) + ".weight");
    }
    return tensor;
  }

  std::string head_name() const { return std::string(family_.modules.head.hf) + ".weight"; }

  /// The row of HF's order that row r of a permuted q or k is. GGUF interleaves the two halves of
  /// each head: its rows 2j and 2j + 1 are HF's rows j and j + head_dim/2.
  int64_t hf_row(int64_t r) const {
    const int64_t within = r % config_.head_dim;
    return r - within + within % 2 * (config_.head_dim / 2) + within / 2;
  }

  /// True for the q and k projections of a family whose GGUF rows are permuted.
  bool is_permuted(const std::string& name) const {
    if (!family_.gguf_permutes_qk) return false;
    const std::string stored = gguf_tensor_name(family_, name);
    return stored.find(".attn_q.") != std::string::npos ||
           stored.find(".attn_k.") != std::string::npos;
  }

  GgufFile file_;
  ModelConfig config_;
  const Family& family_;
};

}  // namespace

std::unique_ptr<WeightSource> open_gguf_model(const std::filesystem::path& path) {
  return std::make_unique<GgufWeightSource>(path);
}

}  // namespace d2q
