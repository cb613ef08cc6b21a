// A packed folder must run as the same folder with its weights dequantized: same codes, other
// kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/thread_pool.h"
#include "eval/perplexity.h"
#include "kernels/device.h"
#include "model/transformer.h"
#include "support/process.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"
#include "text/tokenizer.h"

namespace d2q::test {
namespace {

/// The same model, seen through dequantized weights alone.
class DenseView final : public WeightSource {
 public:
  explicit DenseView(std::shared_ptr<const WeightSource> source) : source_(std::move(source)) {}
  const ModelConfig& config() const override { return source_->config(); }
  std::string format() const override { return source_->format(); }
  bool has(const std::string& name) const override { return source_->has(name); }
  Matrix<float> load(const std::string& name) const override { return source_->load(name); }
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

 private:
  std::shared_ptr<const WeightSource> source_;
};

/// A folder given by the environment (a real model), else a tiny one made here.
class PackedAgainstDense : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* given = std::getenv("D2Q_TEST_MODEL")) {
      path_ = given;
      return;
    }
    const auto model = folder_.path() / "model";
    write_tiny_model(model);
    path_ = (folder_.path() / "packed").string();
    const auto result = run_d2quant({"quantize", model.string(), "-o", path_, "--calib",
                                     folder_.write("text.txt", tiny_text(4000)), "--samples", "4",
                                     "--seq", "128", "--group", "32"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }

  TemporaryFolder folder_;
  std::string path_;
};

std::vector<float> logits_of(Device& device, std::shared_ptr<const WeightSource> source,
                             std::span<const int32_t> ids, bool step_by_step) {
  Transformer transformer(device, std::move(source), DType::kF32);
  const int64_t vocab_size = transformer.config().vocab_size;
  std::vector<float> logits(ids.size() * static_cast<size_t>(vocab_size));
  if (!step_by_step) {
    device.download(transformer.forward(ids, static_cast<int64_t>(ids.size())), logits.data());
    return logits;
  }
  KvCache cache(device, transformer.config(), static_cast<int64_t>(ids.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    device.download(transformer.decode(ids.subspan(i, 1), cache),
                    logits.data() + i * static_cast<size_t>(vocab_size));
  }
  return logits;
}

double relative_difference(std::span<const float> a, std::span<const float> b) {
  double difference = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

TEST_F(PackedAgainstDense, LogitsAgreeWithinAThousandth) {
  ThreadPool pool(2);
  const auto device = make_cpu_device(pool);
  const std::shared_ptr<const WeightSource> source = open_model(path_);
  const auto ids = load_tokenizer(path_)->encode(
      "The history of the cat begins with a mat, and then it ran away.", false);
  const auto packed = logits_of(*device, source, ids, false);
  const auto dense = logits_of(*device, std::make_shared<DenseView>(source), ids, false);
  EXPECT_LT(relative_difference(packed, dense), 1e-3);
  // One token at a time takes the mat-vec kernels, whose activations may be rounded: the same
  // bound.
  const auto stepped = logits_of(*device, source, ids, true);
  EXPECT_LT(relative_difference(stepped, dense), 1e-3);
}

TEST_F(PackedAgainstDense, PerplexitiesAgreeWithinAThousandth) {
  ThreadPool pool(2);
  const auto device = make_cpu_device(pool);
  const std::shared_ptr<const WeightSource> source = open_model(path_);
  const auto tokenizer = load_tokenizer(path_);
  const char* given = std::getenv("D2Q_TEST_TEXT");
  const std::string text = given != nullptr ? read_file(given, 1u << 30) : tiny_text(4000);
  WindowOptions options;
  options.ctx = 256;
  options.max_windows = 4;
  const auto perplexity_of = [&](std::shared_ptr<const WeightSource> weights) {
    Transformer transformer(*device, std::move(weights), DType::kF32);
    return perplexity(*device, transformer, *tokenizer, text, options, {}).perplexity;
  };
  const double dense = perplexity_of(std::make_shared<DenseView>(source));
  EXPECT_NEAR(perplexity_of(source), dense, 1e-3 * dense);
}

}  // namespace
}  // namespace d2q::test
