// A group of CPU devices, for tests of what several devices do together. Included by tests only.
#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/device_group.h"

namespace d2q::test {

class HostGroup final : public DeviceGroup {
 public:
  /// `n` devices of a thread each.
  explicit HostGroup(int n) : HostGroup(make_owned(n)) {}

 protected:
  void sum(int rank, const Tensor& tensor) override {
    if (tensor.dtype() == DType::kF32) return add_up<float>(rank, tensor);
    add_up<double>(rank, tensor);
  }
  void broadcast(int rank, int from, const Tensor& tensor) override {
    posted()[static_cast<size_t>(rank)] = tensor.raw();
    meet();
    if (rank != from) {
      std::memcpy(tensor.raw(), posted()[static_cast<size_t>(from)],
                  static_cast<size_t>(tensor.n_bytes()));
    }
    meet();
  }

 private:
  struct Owned {
    std::vector<std::unique_ptr<ThreadPool>> pools;
    std::vector<std::unique_ptr<Device>> devices;
    std::vector<Device*> list() const {
      std::vector<Device*> result;
      for (const auto& device : devices) result.push_back(device.get());
      return result;
    }
  };
  static Owned make_owned(int n) {
    Owned owned;
    for (int i = 0; i < n; ++i) {
      owned.pools.push_back(std::make_unique<ThreadPool>(1));
      owned.devices.push_back(make_cpu_device(*owned.pools.back()));
    }
    return owned;
  }
  explicit HostGroup(Owned owned) : DeviceGroup(owned.list()), owned_(std::move(owned)) {}

  template <typename T>
  void add_up(int rank, const Tensor& tensor) {
    posted()[static_cast<size_t>(rank)] = tensor.raw();
    meet();
    std::vector<T> total(static_cast<size_t>(tensor.size()));
    for (const void* values : posted()) {
      for (size_t i = 0; i < total.size(); ++i) total[i] += static_cast<const T*>(values)[i];
    }
    meet();
    std::memcpy(tensor.raw(), total.data(), static_cast<size_t>(tensor.n_bytes()));
  }

  Owned owned_;
};

}  // namespace d2q::test
