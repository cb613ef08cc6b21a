// What tests of whole quantization runs share: a model of two small blocks and runs of it. Included
// by tests only.
#pragma once

#include <signal.h>
#include <sys/resource.h>

#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/file_io.h"
#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "model/transformer.h"
#include "quant/pipeline.h"
#include "quant/testing/tiny_model.h"

namespace d2q::test {

namespace fs = std::filesystem;

/// The same model with every packed linear expanded, as the streams run it.
class Expanded final : public WeightSource {
 public:
  explicit Expanded(std::shared_ptr<const WeightSource> base) : base_(std::move(base)) {}
  const ModelConfig& config() const override { return base_->config(); }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override { return base_->has(name); }
  Matrix<float> load(const std::string& name) const override { return base_->load(name); }
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

 private:
  std::shared_ptr<const WeightSource> base_;
};

/// The same model without the shifts of the norms before attention.
class WithoutInputShifts final : public WeightSource {
 public:
  explicit WithoutInputShifts(std::shared_ptr<const WeightSource> base) : base_(std::move(base)) {}
  const ModelConfig& config() const override { return base_->config(); }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override {
    return !name.ends_with("input_layernorm.bias") && base_->has(name);
  }
  Matrix<float> load(const std::string& name) const override { return base_->load(name); }
  std::optional<PackedView> packed(const std::string& name) const override {
    return base_->packed(name);
  }

 private:
  std::shared_ptr<const WeightSource> base_;
};

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() {
    write_tiny_model(model_, tiny_config());
    options_.calibration = folder_.write("text.txt", tiny_text(4000)).string();
    options_.group_size = 16;
    options_.samples = 6;
    options_.sequence_length = 32;
  }

  nlohmann::json run(const std::string& name, const QuantizeOptions& options,
                     const ProgressSink& progress = {}) {
    return quantize(model_, out(name), options, *device_, pool_, progress);
  }
  fs::path out(const std::string& name) const { return folder_.path() / name; }

  /// The bytes of every file by name.
  std::map<std::string, std::string> files(const std::string& name) const {
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::directory_iterator(out(name))) {
      result[entry.path().filename().string()] = read_file(entry.path(), 1 << 24);
    }
    return result;
  }

  Tensor logits(std::shared_ptr<const WeightSource> source) {
    const auto ids = random_ids(2 * 24, source->config().vocab_size);
    return Transformer(*device_, std::move(source), DType::kF32).forward(ids, 24);
  }
  double distance_from_model(const std::string& name) {
    return relative_difference(logits(open_model(out(name))), logits(open_model(model_)));
  }

  /// Throws when the run would start block `layer`.
  static ProgressSink stop_at_block(int64_t layer) {
    return [layer](const ProgressEvent& event) {
      if (event.stage == "quantize" && event.done == layer)
        fail(ErrorCode::kInterrupted, "stopped");
    };
  }

  testing::TempFolder folder_;
  fs::path model_ = folder_.path() / "model";
  QuantizeOptions options_;
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

}  // namespace d2q::test
