#include "quant/stream_placement.h"

#include "base/testing/expect_error.h"
#include "quant/pipeline.h"

namespace d2q {
namespace {

constexpr int64_t kGigabyte = 1'000'000'000;

/// LLaMA 3.1 8B's shape.
ModelConfig config() {
  ModelConfig c;
  c.family = "llama";
  c.hidden_size = 4096;
  c.intermediate_size = 14336;
  c.n_layers = 32;
  c.n_heads = 32;
  c.n_kv_heads = 8;
  c.head_dim = 128;
  c.vocab_size = 128'256;
  return c;
}

QuantizePlan plan(std::optional<int64_t> bytes, bool tunes_at_the_end = false) {
  QuantizeOptions options = preset_options("best");
  if (!tunes_at_the_end) options.end_tune_steps = 0;
  options.calibration = "text";
  options.products = DType::kBF16;
  return plan_quantization(config(), options, {bytes, 8192});
}

TEST(StreamPlacement, EverythingIsOnADeviceThatIsLargeEnough) {
  for (const auto budget : {std::optional<int64_t>(), std::optional(140 * kGigabyte)}) {
    const StreamPlacement placement = plan(budget).placement;
    EXPECT_EQ(placement.host_bytes, 0);
    EXPECT_EQ(placement.chunk_tokens, 8192);
  }
  EXPECT_EQ(plan(140 * kGigabyte).peak_memory_bytes, plan(std::nullopt).peak_memory_bytes);
}

TEST(StreamPlacement, LessMemoryMovesMoreToTheHostAndThenTakesSmallerChunks) {
  int64_t host_bytes = 0;
  int64_t chunk = 8192;
  for (const int64_t gigabytes : {36, 30, 24, 16, 12}) {
    const StreamPlacement placement = plan(gigabytes * kGigabyte).placement;
    EXPECT_LE(placement.device_bytes, gigabytes * kGigabyte);
    EXPECT_GT(placement.host_bytes, host_bytes) << gigabytes;
    EXPECT_LE(placement.chunk_tokens, chunk);
    host_bytes = placement.host_bytes;
    chunk = placement.chunk_tokens;
  }
  EXPECT_TRUE(plan(36 * kGigabyte).placement.on_host(TokenMatrix::kFpStream));
  EXPECT_FALSE(plan(36 * kGigabyte).placement.on_host(TokenMatrix::kQuantizedStream));
  // All of it, T·(4·3d + 2·(a + f + 3d)) bytes, long before chunks shrink.
  const StreamPlacement smallest = plan(10'450'000'000).placement;
  EXPECT_EQ(smallest.host_bytes, int64_t{262144} * (12 * 4096 + 2 * (4 * 4096 + 14336)));
  EXPECT_LT(smallest.chunk_tokens, 8192);
  EXPECT_EQ(plan(10'450'000'000).peak_memory_bytes, smallest.device_bytes);
}

TEST(StreamPlacement, TuningAtTheEndKeepsFewerBlocksInLessMemory) {
  const int64_t most = plan(std::nullopt, true).end_tune_kept_blocks;
  EXPECT_LT(plan(24 * kGigabyte, true).end_tune_kept_blocks, most);
  EXPECT_GE(plan(20 * kGigabyte, true).end_tune_kept_blocks, 0);
}

TEST(StreamPlacement, EveryDeviceHasItsWindows) {
  QuantizeOptions options = preset_options("best");
  options.end_tune_steps = 0;
  options.calibration = "text";
  options.products = DType::kBF16;
  const QuantizePlan one = plan_quantization(config(), options);
  const QuantizePlan three = plan_quantization(config(), options, {std::nullopt, 8192, 3});
  EXPECT_DOUBLE_EQ(three.floor_flops, one.floor_flops);
  EXPECT_EQ(three.output_bytes, one.output_bytes);
  // 43 of 128 windows.
  const int64_t activations = int64_t{2048} * (12 * 4096 + 2 * (4 * 4096 + 14336));
  EXPECT_EQ(one.peak_memory_bytes - three.peak_memory_bytes, (128 - 43) * activations);
}

TEST(StreamPlacement, WhatFitsNowhereSaysWhatItTakes) {
  D2Q_EXPECT_ERROR(plan(5 * kGigabyte), ErrorCode::kUnsupported, "5.00 GB are free or allowed");
  // Codes of the whole model.
  D2Q_EXPECT_ERROR(plan(16 * kGigabyte, true), ErrorCode::kUnsupported, "--end-tune off");
}

}  // namespace
}  // namespace d2q
