#include "model/weight_source_gguf.h"

#include "base/error.h"
#include "format/gguf.h"
#include "model/family.h"
#include "model/fused_modules.h"
#include "model/weight_source_checks.h"

namespace d2q {
namespace {

class GgufWeightSource : public WeightSource {
 public:
  explicit GgufWeightSource(const std::filesystem::path& path)
      : file_(path), config_(config_from_gguf(file_)), family_(family_named(config_.family)) {}

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return "gguf"; }
  bool has(const std::string& name) const override { return find(name).tensor != nullptr; }
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

  Matrix<float> load(const std::string& name) const override {
    const std::string subject = file_.path().string();
    const Found found = find(name);
    if (found.tensor == nullptr) fail_missing_tensor(name, subject);
    const GgufTensor& tensor = *found.tensor;
    check_shape(config_, found.name, tensor.shape, subject);
    const bool permuted = is_permuted(name);
    if (tensor.shape.size() == 1) {
      Matrix<float> stored(1, tensor.row_length());
      file_.dequantize_rows(tensor, 0, 1, stored.span());
      const int64_t count = found.n_rows < 0 ? stored.cols() : found.n_rows;
      Matrix<float> vector(1, count);
      for (int64_t i = 0; i < count; ++i)
        vector.data()[permuted ? hf_row_of(i, config_.head_dim) : i] =
            stored.data()[found.first_row + i];
      check_finite(vector.span(), 0, name, subject);
      return vector;
    }
    const int64_t cols = tensor.row_length();
    Matrix<float> matrix(found.n_rows < 0 ? tensor.n_rows() : found.n_rows, cols);
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      const int64_t target = permuted ? hf_row_of(r, config_.head_dim) : r;
      const std::span<float> row(matrix.row(target), static_cast<size_t>(cols));
      file_.dequantize_rows(tensor, found.first_row + r, 1, row);
      // Row by row, while the row is in the cache.
      check_finite(row, static_cast<size_t>(target * cols), name, subject);
    }
    return matrix;
  }

 private:
  /// The rows of a stored tensor that a name means: all of them for n_rows -1.
  struct Found {
    const GgufTensor* tensor = nullptr;
    std::string name;  // HF's, of the whole tensor
    int64_t first_row = 0;
    int64_t n_rows = -1;
  };

  const GgufTensor* find_stored(const std::string& name) const {
    const std::string stored = gguf_tensor_name(family_, name);
    return stored.empty() ? nullptr : file_.find(stored);
  }

  Found find(const std::string& name) const {
    const auto fused = fused_rows(config_, name);
    const GgufTensor* tensor = find_stored(name);
    if (tensor == nullptr && fused)
      return {find_stored(fused->name), fused->name, fused->first, fused->count};
    if (tensor == nullptr && config_.tied_embeddings && name == head_name())
      tensor = file_.find(std::string(family_.modules.embedding.gguf) + ".weight");
    return {tensor, name, 0, -1};
  }
  std::string head_name() const { return std::string(family_.modules.head.hf) + ".weight"; }

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

int64_t hf_row_of(int64_t r, int64_t head_dim) {
  const int64_t within = r % head_dim;
  return r - within + within % 2 * (head_dim / 2) + within / 2;
}

std::unique_ptr<WeightSource> open_gguf_model(const std::filesystem::path& path) {
  return std::make_unique<GgufWeightSource>(path);
}

}  // namespace d2q
