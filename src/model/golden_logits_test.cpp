// Logits against transformers' f32 forward on tiny random models; tools/make_logits_golden.py made
// them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "format/safetensors.h"
#include "model/transformer.h"

namespace d2q {
namespace {

template <typename T>
std::vector<T> values_of(const SafetensorsTensor& tensor) {
  std::vector<T> values(static_cast<size_t>(tensor.n_elements()));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

/// max|a - b| / max|b|.
double relative_error(const float* actual, const float* expected, int64_t n) {
  double difference = 0.0, largest = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double value = static_cast<double>(expected[i]);
    // Written so that a NaN fails.
    const double error = std::fabs(static_cast<double>(actual[i]) - value);
    difference = error <= difference ? difference : error;
    largest = std::max(largest, std::fabs(value));
  }
  return difference / largest;
}

class GoldenLogits : public ::testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path folder_ = std::filesystem::path(D2Q_TEST_DATA) / GetParam();
  SafetensorsFile golden_{folder_ / "golden.safetensors"};
  std::vector<int32_t> ids_ = values_of<int32_t>(*golden_.find("ids"));
  std::vector<float> logits_ = values_of<float>(*golden_.find("logits"));
  int64_t length_ = golden_.find("ids")->shape[1];
  std::shared_ptr<const WeightSource> source_ = open_model(folder_);
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_P(GoldenLogits, forward_in_f32_is_within_1e_4) {
  Transformer model(*device_, source_, DType::kF32);
  const Tensor logits = model.forward(ids_, length_);
  ASSERT_EQ(logits.size(), static_cast<int64_t>(logits_.size()));
  EXPECT_LE(relative_error(logits.data<float>(), logits_.data(), logits.size()), 1e-4);
}

TEST_P(GoldenLogits, forward_in_bf16_is_within_its_rounding) {
  Transformer model(*device_, source_, DType::kBF16);
  const Tensor logits = model.forward(ids_, length_);
  // Some twenty roundings of 2^-9 on the way, and attention scores of size 10 that turn a relative
  // error of 2^-8 into a few percent of a probability.
  EXPECT_LE(relative_error(logits.data<float>(), logits_.data(), logits.size()), 0.1);
}

TEST_P(GoldenLogits, decoding_with_a_cache_is_within_its_f16_rounding) {
  // Beyond the trained length, dynamic scaling and LongRoPE turn cached keys by the angles of the
  // length at which they came, unlike one pass.
  const RopeScaling& rope = source_->config().rope_scaling;
  if (rope.depends_on_length() && length_ > rope.original_max_positions) GTEST_SKIP();
  Transformer model(*device_, source_, DType::kF32);
  KvCache cache(*device_, source_->config(), length_);
  const int64_t vocab = source_->config().vocab_size;
  const auto ids = std::span(ids_).first(static_cast<size_t>(length_));
  for (int64_t t = 0; t < length_; ++t) {
    // The first half as a prompt.
    const int64_t begin = t < length_ / 2 ? 0 : t;
    if (begin == 0) t = length_ / 2;
    const Tensor logits = model.decode(
        ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(t + 1 - begin)), cache);
    ASSERT_LE(relative_error(logits.data<float>(), logits_.data() + t * vocab, vocab), 1e-2) << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenLogits,
                         ::testing::Values("logits_llama", "logits_llama_tied",
                                           "logits_llama_linear", "logits_llama_dynamic",
                                           "logits_llama_llama3", "logits_llama_yarn",
                                           "logits_llama_yarn_factor", "logits_mistral_window",
                                           "logits_qwen2", "logits_qwen3", "logits_llama_biases",
                                           "logits_phi3", "logits_phi3_short", "logits_phi3_long",
                                           "logits_opt"),
                         [](const auto& test_case) { return std::string(test_case.param); });

}  // namespace
}  // namespace d2q
