#include "engine/decode_bench.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "model/random_weights.h"

namespace d2q {
namespace {

class DecodeBench : public ::testing::Test {
 protected:
  Transformer make(ModelConfig config) {
    config.n_layers = 2;
    config.vocab_size = 320;
    return {*device_, random_weights(config, {}), DType::kF32};
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(DecodeBench, counts_what_a_step_reads_and_times_its_stages) {
  Transformer transformer = make(config_of_shape("smollm2-135m"));
  const DecodeBenchResult result =
      bench_decode(*device_, transformer, {.batch = 3, .context = 10, .steps = 2});
  EXPECT_GT(result.step_seconds, 0.0);
  EXPECT_DOUBLE_EQ(result.tokens_per_second, 3.0 / result.step_seconds);
  EXPECT_GT(result.copy_bytes_per_second, 0.0);
  // A group of 128 columns and 2 planes: 2.25 bits, padded to 5 groups for 576 columns; the head
  // has 4 bits and as many groups.
  const int64_t wide = (576 + 2 * 192 + 2 * 1536) * (576 / 4 + 5 * 4) + 576 * (576 / 4 + 5 * 4);
  const int64_t down = 576 * (1536 / 4 + 12 * 4), head = 320 * (576 / 2 + 5 * 4);
  EXPECT_EQ(result.weight_bytes, 2 * (wide + down) + head);
  EXPECT_EQ(result.cache_bytes, 3 * 10 * 2 * 2 * 192 * 2);
  EXPECT_EQ(result.stages.size(), kDecodeStages.size());
  for (const DecodeStageTime& stage : result.stages) EXPECT_GT(stage.seconds, 0.0) << stage.name;
}

TEST_F(DecodeBench, refuses_what_it_cannot_do) {
  Transformer transformer = make(config_of_shape("smollm2-135m"));
  EXPECT_THROW(bench_decode(*device_, transformer, {.batch = 0}), Error);
  ModelConfig config = config_of_shape("smollm2-135m");
  config.rope_scaling.kind = RopeScaling::Kind::kDynamic;
  Transformer dynamic = make(config);
  try {
    bench_decode(*device_, dynamic, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  }
}

}  // namespace
}  // namespace d2q
