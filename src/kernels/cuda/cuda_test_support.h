// For the tests of the CUDA device: the same inputs on both devices, results side by side.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cpu/test_support.h"

namespace d2q::test {

/// Skips where there is no GPU.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      gpu_ = make_cuda_device();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      GTEST_SKIP() << error.what();
    }
    cpu_ = make_cpu_device(pool_);
  }

  Tensor random(int64_t rows, int64_t cols, DType dtype, double deviation = 1.0) {
    return random_tensor(*cpu_, rows, cols, dtype, seed_++, deviation);
  }
  /// All bits set: NaN in every floating-point type. What an operation forgets to write shows.
  Tensor poisoned(Device& device, int64_t rows, int64_t cols, DType dtype) {
    const Tensor result = device.allocate(rows, cols, dtype);
    const std::vector<uint8_t> ones(static_cast<size_t>(result.n_bytes()), 0xff);
    device.upload(ones.data(), result);
    return result;
  }
  Tensor to_gpu(const Tensor& host) {
    if (host.empty()) return {};
    const Tensor result = gpu_->allocate(host.rows(), host.cols(), host.dtype());
    gpu_->upload(host.raw(), result);
    return result;
  }
  Tensor to_cpu(const Tensor& device) {
    const Tensor result = cpu_->allocate(device.rows(), device.cols(), device.dtype());
    gpu_->download(device, result.raw());
    return result;
  }
  Tensor copy(const Tensor& host) {
    const Tensor result = cpu_->allocate(host.rows(), host.cols(), host.dtype());
    cpu_->convert(host, result);
    return result;
  }

  /// xᵀ x of correlated rows, f32 exact in f64, on the CPU.
  Tensor gram(int64_t n) {
    const Tensor x = random(2 * n, n, DType::kF32);
    for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] += 0.5f * x.data<float>()[i / n * n];
    const Tensor sum = cpu_->allocate(n, n, DType::kF32);
    cpu_->fill_zero(sum);
    cpu_->accumulate_gram(x, 1.0f, sum);
    cpu_->mirror_lower(sum);
    return sum;
  }

  /// Largest |a - b| over the largest |b|; infinite when a value is NaN on one side only.
  static double difference(const Tensor& a, const Tensor& b) {
    double largest = 0.0, scale = 0.0;
    for (int64_t row = 0; row < b.rows(); ++row) {
      for (int64_t col = 0; col < b.cols(); ++col) {
        const double x = at(a, row, col), y = at(b, row, col);
        if (std::isnan(x) != std::isnan(y)) return INFINITY;
        if (std::isnan(x)) continue;
        largest = std::max(largest, std::fabs(x - y));
        scale = std::max(scale, std::fabs(y));
      }
    }
    return scale > 0.0 ? largest / scale : largest;
  }
  double difference_to_gpu(const Tensor& gpu, const Tensor& cpu) {
    return difference(to_cpu(gpu), cpu);
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> cpu_;
  std::unique_ptr<Device> gpu_;
  uint64_t seed_ = 1;
};

}  // namespace d2q::test
