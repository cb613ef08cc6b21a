// Matrices in the host's memory, and limits on the GPU's.
#include <cstring>

#include "base/testing/expect_error.h"
#include "kernels/cuda/cuda_test_support.h"

namespace d2q {
namespace {

using test::CudaTest;

class CudaHostRowsTest : public CudaTest {
 protected:
  /// `values` in memory of the host that the GPU copies.
  Tensor on_host(const Tensor& values) {
    const Tensor result = gpu_->allocate_on_host(values.rows(), values.cols(), values.dtype());
    std::memcpy(result.raw(), values.raw(), static_cast<size_t>(values.n_bytes()));
    return result;
  }
};

TEST_F(CudaHostRowsTest, WhatOneCopyStoresAnotherLoads) {
  const Tensor values = random(1000, 257, DType::kF32);
  const Tensor source = to_gpu(values);
  const Tensor host = gpu_->allocate_on_host(1000, 257, DType::kF32);
  const Tensor copy = poisoned(*gpu_, 1000, 257, DType::kF32);
  gpu_->store(source, host);
  gpu_->load(host, copy);
  gpu_->join_transfers();
  EXPECT_EQ(difference_to_gpu(copy, values), 0.0);
}

TEST_F(CudaHostRowsTest, CopiesAndOperationsKeepTheirOrderOverReusedMemory) {
  constexpr int64_t kRows = 512, kCols = 2048, kChunks = 12;
  const Tensor values = random(kChunks * kRows, kCols, DType::kF32);
  const Tensor host = on_host(values);
  // Two slots, and in each a sum that takes as long as the copies beside it.
  const Tensor slots[] = {poisoned(*gpu_, kRows, kCols, DType::kF32),
                          poisoned(*gpu_, kRows, kCols, DType::kF32)};
  const auto rows = [&](int64_t chunk) { return host.row_range(chunk * kRows, kRows); };
  for (int pass = 0; pass < 3; ++pass) {
    gpu_->load(rows(0), slots[0]);
    for (int64_t chunk = 0; chunk < kChunks; ++chunk) {
      gpu_->join_transfers();
      if (chunk > 0) gpu_->store(slots[(chunk - 1) % 2], rows(chunk - 1));
      if (chunk + 1 < kChunks) gpu_->load(rows(chunk + 1), slots[(chunk + 1) % 2]);
      gpu_->add(slots[chunk % 2], slots[chunk % 2]);
    }
    gpu_->store(slots[(kChunks - 1) % 2], rows(kChunks - 1));
    gpu_->join_transfers();
  }
  gpu_->synchronize();
  for (int64_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(host.data<float>()[i], 8.0f * values.data<float>()[i]) << i;
}

TEST_F(CudaHostRowsTest, ALimitRefusesWhatWouldExceedIt) {
  ASSERT_TRUE(gpu_->memory_budget());
  const int64_t before = gpu_->peak_memory_bytes();
  gpu_->limit_memory(before + (int64_t{10} << 20));
  EXPECT_EQ(*gpu_->memory_budget(), before + (int64_t{10} << 20));
  {
    const Tensor kept = gpu_->allocate(1, int64_t{6} << 20, DType::kU8);
    D2Q_EXPECT_ERROR(gpu_->allocate(1, int64_t{6} << 20, DType::kU8), ErrorCode::kUnsupported,
                     "--gpu-mem");
  }
  // What was freed may be taken again, any number of times.
  for (int i = 0; i < 5; ++i) gpu_->allocate(1, int64_t{9} << 20, DType::kU8);
  EXPECT_LE(gpu_->peak_memory_bytes(), *gpu_->memory_budget());
  EXPECT_GE(gpu_->peak_memory_bytes(), before + (int64_t{9} << 20));
}

}  // namespace
}  // namespace d2q
