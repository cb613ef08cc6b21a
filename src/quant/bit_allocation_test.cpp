#include "quant/bit_allocation.h"

#include <gtest/gtest.h>

#include "base/testing/expect_error.h"
#include "kernels/device.h"
#include "model/fake_weights.h"
#include "quant/testing/tiny_model.h"

namespace d2q {
namespace {

/// A linear of 100 weights at 2, 3 and 4 bits a weight.
LinearSensitivity linear(const std::string& name, double at_2, double at_3, double at_4) {
  return {name, 100, {{2, 200, at_2}, {3, 300, at_3}, {4, 400, at_4}}};
}

TEST(BitAllocation, SpendsTheBudgetWhereTheErrorFallsMost) {
  const std::vector<LinearSensitivity> linears = {linear("calm", 1.0, 0.3, 0.1),
                                                  linear("loud", 9.0, 2.5, 0.7),
                                                  linear("middle", 3.0, 0.8, 0.2)};
  const auto bits = allocate_bits(linears, 3.0);
  // Steps in order of gain: loud 6.5, middle 2.2, loud 1.8; then 900 bits are spent.
  EXPECT_EQ(bits.at("loud"), 4);
  EXPECT_EQ(bits.at("middle"), 3);
  EXPECT_EQ(bits.at("calm"), 2);
}

TEST(BitAllocation, CountsBitsAndNotLinears) {
  const LinearSensitivity large{"large", 1000, {{2, 2000, 8.0}, {3, 3000, 2.0}}};
  const LinearSensitivity small{"small", 100, {{2, 200, 1.0}, {3, 300, 0.2}}};
  // Large falls by 6 for 1000 bits, small by 0.8 for 100.
  const auto bits = allocate_bits(std::vector{large, small}, 2300.0 / 1100.0);
  EXPECT_EQ(bits.at("small"), 3);
  EXPECT_EQ(bits.at("large"), 2);
}

TEST(BitAllocation, TakesASmallerStepWhereTheBestDoesNotFit) {
  const LinearSensitivity large{"large", 1000, {{2, 2000, 90.0}, {3, 3000, 2.0}}};
  const LinearSensitivity small{"small", 100, {{2, 200, 1.0}, {3, 300, 0.2}}};
  const auto bits = allocate_bits(std::vector{large, small}, 2300.0 / 1100.0);
  EXPECT_EQ(bits.at("large"), 2);
  EXPECT_EQ(bits.at("small"), 3);
}

TEST(BitAllocation, NeverTakesMoreThanTheTarget) {
  std::vector<LinearSensitivity> linears;
  for (int i = 0; i < 7; ++i)
    linears.push_back(linear("l" + std::to_string(i), 1.0 + i, 0.3 + 0.1 * i, 0.1));
  for (const double target : {2.0, 2.2, 2.71, 3.5, 8.0}) {
    int64_t used = 0;
    for (const auto& [name, bits] : allocate_bits(linears, target)) used += 100 * bits;
    EXPECT_LE(static_cast<double>(used), target * 700.0);
    EXPECT_GT(static_cast<double>(used), std::min(target, 4.0) * 700.0 - 100.0);
  }
}

TEST(BitAllocation, RefusesATargetBelowTheFewestBits) {
  const std::vector<LinearSensitivity> linears = {linear("only", 1.0, 0.5, 0.2)};
  D2Q_EXPECT_ERROR(allocate_bits(linears, 1.99), ErrorCode::kInvalidArgument, "--group");
}

class Sensitivity : public ::testing::Test {
 protected:
  Sensitivity() {
    options_.group_size = 16;
    options_.sequence_length = 8;
    options_.method = QuantMethod::kD2Quant;
  }
  std::vector<LinearSensitivity> measure() {
    ThreadPool pool(2);
    const auto device = make_cpu_device(pool);
    const RopeTables rope = make_rope_tables(*device, config_, 8);
    const std::vector<int32_t> ids = test::random_ids(16, config_.vocab_size);
    return measure_sensitivity(*device, test::FakeWeights(config_), options_, rope, ids, {});
  }
  const LinearSensitivity& of(const std::vector<LinearSensitivity>& all, const std::string& name) {
    for (const LinearSensitivity& entry : all) {
      if (entry.name == name) return entry;
    }
    throw std::out_of_range(name);
  }
  ModelConfig config_ = test::tiny_config();
  QuantizeOptions options_;
};

TEST_F(Sensitivity, FallsWithEveryBitOfEveryLinear) {
  const auto all = measure();
  ASSERT_EQ(all.size(), static_cast<size_t>(7 * config_.n_layers));
  for (const LinearSensitivity& entry : all) {
    ASSERT_EQ(entry.choices.size(), 3u) << entry.name;
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(entry.choices[i].bits, 2 + static_cast<int>(i));
    EXPECT_GT(entry.choices[0].error, entry.choices[1].error) << entry.name;
    EXPECT_GT(entry.choices[1].error, entry.choices[2].error) << entry.name;
    EXPECT_GT(entry.choices[2].error, 0.0) << entry.name;
  }
}

TEST_F(Sensitivity, OfABlockSeesTheOriginalBlocksBeforeIt) {
  // Rounding anything in block 0 must not reach block 1: its figures are those of a measurement in
  // which block 0 is kept.
  const auto all = measure();
  options_.keep = {"layers\\.0\\."};
  const auto second = measure();
  ASSERT_EQ(second.size(), static_cast<size_t>(7 * (config_.n_layers - 1)));
  for (const LinearSensitivity& entry : second)
    EXPECT_EQ(entry.choices[0].error, of(all, entry.name).choices[0].error) << entry.name;
}

TEST_F(Sensitivity, LeavesWhatAnOverrideDecides) {
  options_.layers = {{"down_proj", 4, 0}};
  const auto all = measure();
  const LinearSensitivity& down = of(all, "model.layers.1.mlp.down_proj");
  ASSERT_EQ(down.choices.size(), 1u);
  EXPECT_EQ(down.choices[0].bits, 4);
  EXPECT_EQ(of(all, "model.layers.1.mlp.up_proj").choices.size(), 3u);
}

}  // namespace
}  // namespace d2q
