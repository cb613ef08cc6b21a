#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "counted_malloc.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "kernels/isa.h"
#include "model/random_weights.h"

namespace d2q {
namespace {

class DecodeAllocation : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::counts_allocations()) GTEST_SKIP() << "a sanitizer's allocator is in use";
  }
};

TEST_F(DecodeAllocation, IsSeenByTheCounter) {
  const int64_t before = test::allocations();
  const auto one = std::make_unique<std::array<char, 100>>();
  const std::vector<int> two(1000);
  const std::unique_ptr<void, decltype(&std::free)> three(std::aligned_alloc(64, 128), &std::free);
  EXPECT_GE(test::allocations() - before, 3);
  EXPECT_NE(static_cast<void*>(one.get()), three.get());
}

struct Setup {
  std::string isa = "auto";
  ActivationBits activations = ActivationBits::k16;
  CacheType cache = CacheType::kF16;
  RandomFormat format;
};

/// Allocations of 40 tokens, sampling included, after some that have found all sizes.
int64_t allocations_of_tokens(const Setup& setup) {
  ModelConfig config = config_of_shape("smollm2-135m");
  config.n_layers = 2;
  config.vocab_size = 512;
  ThreadPool pool(2);
  const auto device = make_cpu_device(pool, setup.isa, setup.activations);
  Transformer transformer(*device, random_weights(config, setup.format), DType::kF32);
  const auto sequence = make_sequence(*device, transformer, 400, setup.cache);
  Sampler sampler({.top_k = 40, .repetition_penalty = 1.1, .seed = 1});
  const std::vector<int32_t> prompt(250, 7);  // 256 keys, a piece of attention's, are passed below
  std::span<const float> logits = sequence->append(prompt);
  const auto generate = [&](int n) {
    for (int i = 0; i < n; ++i) {
      const int32_t token = sampler.sample(logits, sequence->tokens());
      logits = sequence->append(std::span(&token, 1));
    }
  };
  generate(10);
  const int64_t before = test::allocations();
  generate(40);
  return test::allocations() - before;
}

TEST_F(DecodeAllocation, ATokenNeedsNoneInAnyFormatAndInstructionSet) {
  for (const Isa isa : available_isas()) {
    for (const RandomFormat& format : {RandomFormat{PackedKind::kSignPlanes, 2, 64, 4},
                                       RandomFormat{PackedKind::kSignPlanes, 3, 64, 6},
                                       RandomFormat{PackedKind::kUniform, 2, 64, 8},
                                       RandomFormat{PackedKind::kUniform, 4, 64, 4}}) {
      EXPECT_EQ(allocations_of_tokens({.isa = std::string(name_of(isa)), .format = format}), 0)
          << name_of(isa) << ", " << format.bits << " bits";
    }
  }
}

TEST_F(DecodeAllocation, ATokenNeedsNoneWithEightBitActivationsAndCache) {
  const RandomFormat format{PackedKind::kSignPlanes, 2, 64, 4};
  EXPECT_EQ(allocations_of_tokens(
                {.activations = ActivationBits::k8, .cache = CacheType::kInt8, .format = format}),
            0);
}

}  // namespace
}  // namespace d2q
