// For the tests of the CPU device: random tensors, reading them back, one device per ISA.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/device.h"
#include "kernels/isa.h"

namespace d2q::test {

/// Uninitialised host memory, for operations that are tested without a device.
inline Tensor host_tensor(int64_t rows, int64_t cols, DType dtype) {
  const std::shared_ptr<void> buffer(
      ::operator new(static_cast<size_t>(rows * cols * size_of(dtype))),
      [](void* p) { ::operator delete(p); });
  return {buffer, buffer.get(), rows, cols, dtype};
}

/// Gaussian values, rounded to `dtype`.
inline Tensor random_tensor(Device& device, int64_t rows, int64_t cols, DType dtype, uint64_t seed,
                            double deviation = 1.0) {
  Rng rng(seed);
  const Tensor wide = device.allocate(rows, cols, DType::kF32);
  for (int64_t i = 0; i < wide.size(); ++i) {
    wide.data<float>()[i] = static_cast<float>(deviation * rng.gaussian());
  }
  if (dtype == DType::kF32) return wide;
  const Tensor result = device.allocate(rows, cols, dtype);
  device.convert(wide, result);
  return result;
}

inline double at(const Tensor& x, int64_t row, int64_t col) {
  const int64_t i = row * x.cols() + col;
  switch (x.dtype()) {
    case DType::kBF16:
      return static_cast<double>(to_float(x.data<BFloat16>()[i]));
    case DType::kF16:
      return static_cast<double>(to_float(x.data<Half>()[i]));
    case DType::kF64:
      return x.data<double>()[i];
    default:
      return static_cast<double>(x.data<float>()[i]);
  }
}

/// The bytes of a tensor, for comparisons bit by bit.
inline std::string bytes_of(const Tensor& x) {
  return {static_cast<const char*>(x.raw()), static_cast<size_t>(x.n_bytes())};
}

inline double bf16_rounded(double value) {
  return static_cast<double>(to_float(to_bfloat16(static_cast<float>(value))));
}

/// Half a unit in the last place of bf16 and f32, relative.
inline constexpr double kBf16Unit = 1.0 / 256.0;
inline constexpr double kF32Unit = 1.0 / 16777216.0;

/// body(device) once for every ISA of this machine.
inline void on_every_isa(const std::function<void(Device&)>& body) {
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) body(*make_cpu_device(pool, name_of(isa)));
}

/// Runs `compute` on 1, 2 and 3 threads and returns whether all results agree to the last bit.
inline bool same_on_any_thread_count(const std::function<Tensor(Device&)>& compute) {
  std::vector<std::string> results;
  for (const int n_threads : {1, 2, 3}) {
    ThreadPool pool(n_threads);
    const auto device = make_cpu_device(pool);
    results.push_back(bytes_of(compute(*device)));
  }
  return results[0] == results[1] && results[0] == results[2];
}

}  // namespace d2q::test
