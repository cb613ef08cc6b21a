#include "engine/speed.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "engine/kernel_speed.h"
#include "kernels/isa.h"
#include "model/fake_weights.h"

namespace d2q {
namespace {

TEST(Samples, MedianAndDeviationAreTheUsualOnes) {
  EXPECT_DOUBLE_EQ((Samples{{3.0, 1.0, 2.0}}.median()), 2.0);
  EXPECT_DOUBLE_EQ((Samples{{4.0, 1.0, 2.0, 3.0}}.median()), 2.5);
  EXPECT_DOUBLE_EQ((Samples{{1.0, 3.0}}.deviation()), std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(Samples{{5.0}}.deviation(), 0.0);
  EXPECT_DOUBLE_EQ((Samples{{3.0, 1.0, 2.0}}.lowest()), 1.0);
  EXPECT_DOUBLE_EQ((Samples{{3.0, 1.0, 2.0}}.highest()), 3.0);
  EXPECT_THROW(Samples{}.median(), InternalError);
}

class ModelSpeedTest : public testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
  std::shared_ptr<const WeightSource> source_ =
      std::make_shared<test::FakeWeights>(test::small_config());
  Transformer transformer_{*device_, source_, DType::kF32};
};

TEST_F(ModelSpeedTest, DecodingIsMeasuredBesideAReadLoop) {
  const ModelSpeed speed =
      measure_decode(*device_, pool_, transformer_, {.tokens = 4, .past = 3, .repeats = 3});
  EXPECT_EQ(speed.seconds.values.size(), 3u);
  EXPECT_EQ(speed.read_bandwidth.values.size(), 3u);
  EXPECT_GT(speed.seconds.lowest(), 0.0);
  EXPECT_GT(speed.read_bandwidth.lowest(), 0.0);
  // Two layers of q, k, v, o, gate, up and down, and the head, in f32.
  const int64_t block = 48 * 96 + 2 * 48 * 32 + 96 * 48 + 3 * 48 * 80;
  EXPECT_EQ(speed.bytes_per_token, 4 * (2 * block + 90 * 48));
  EXPECT_EQ(speed.flops_per_token, 2.0 * 2.0 * static_cast<double>(block));
}

TEST_F(ModelSpeedTest, PromptsAreMeasuredBesideProducts) {
  const ModelSpeed speed = measure_prefill(
      *device_, pool_, transformer_, {.tokens = 20, .past = 2, .repeats = 2}, DType::kF32, true);
  EXPECT_EQ(speed.seconds.values.size(), 2u);
  EXPECT_EQ(speed.gemm_flops.values.size(), 2u);
  EXPECT_GT(speed.gemm_flops.lowest(), 0.0);
  EXPECT_TRUE(speed.read_bandwidth.values.empty());
}

TEST(KernelSpeed, CoversEveryFormatAndVectorIsa) {
  ThreadPool pool(1);
  KernelSpeedOptions options;
  options.tokens = {1, 3};
  options.megabytes = 1;
  options.columns = 512;
  options.repeats = 2;
  const auto results = measure_kernels(pool, options);
  EXPECT_EQ(results.size(), 7u * 2u * (available_isas().size() - 1));
  for (const KernelSpeed& result : results) {
    EXPECT_EQ(result.seconds.values.size(), 2u);
    EXPECT_EQ(result.gemm_flops.values.empty(), result.tokens == 1);
    EXPECT_GT(result.bytes, 1 << 20);
  }
}

}  // namespace
}  // namespace d2q
