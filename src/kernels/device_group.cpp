#include "kernels/device_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

namespace d2q {
namespace {

class SingleGroup final : public DeviceGroup {
 public:
  using DeviceGroup::DeviceGroup;

 protected:
  void sum(int, const Tensor&) override {}
  void broadcast(int, int, const Tensor&) override {}
};

}  // namespace

DeviceGroup::DeviceGroup(std::vector<Device*> devices)
    : devices_(std::move(devices)), posted_(devices_.size()) {
  D2Q_CHECK(!devices_.empty(), "a group of no devices");
}

DeviceGroup::~DeviceGroup() = default;

std::string DeviceGroup::name() const {
  return size() == 1 ? device(0).name() : fmt::format("{} x {}", size(), device(0).name());
}

int64_t DeviceGroup::peak_memory_bytes() const {
  int64_t most = 0;
  for (const Device* device : devices_) most = std::max(most, device->peak_memory_bytes());
  return most;
}

void DeviceGroup::run(const std::function<void(int rank)>& body) {
  if (size() == 1) return body(0);
  failed_ = false;
  n_waiting_ = 0;
  std::vector<std::exception_ptr> failures(devices_.size());
  const auto work = [&](int rank) {
    try {
      bind(rank);
      body(rank);
      device(rank).synchronize();
    } catch (const Stopped&) {
      return;
    } catch (...) {
      failures[static_cast<size_t>(rank)] = std::current_exception();
    }
    if (!failures[static_cast<size_t>(rank)]) return;
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  };
  std::vector<std::thread> threads;
  for (int rank = 1; rank < size(); ++rank) threads.emplace_back(work, rank);
  work(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

void DeviceGroup::meet() {
  std::unique_lock lock(mutex_);
  if (failed_) throw Stopped{};
  const int64_t meeting = n_meetings_;
  if (++n_waiting_ == size()) {
    n_waiting_ = 0;
    ++n_meetings_;
    changed_.notify_all();
    return;
  }
  changed_.wait(lock, [&] { return n_meetings_ != meeting || failed_; });
  if (n_meetings_ == meeting) throw Stopped{};
}

void GroupMember::sum(const Tensor& tensor) const {
  if (group_ == nullptr || tensor.empty()) return;
  D2Q_CHECK(tensor.dtype() == DType::kF32 || tensor.dtype() == DType::kF64, "a sum in dtype {}",
            static_cast<int>(tensor.dtype()));
  group_->meet();
  group_->sum(rank_, tensor);
}

void GroupMember::share_from(int from, const Tensor& tensor) const {
  if (group_ == nullptr || tensor.empty()) return;
  group_->meet();
  group_->broadcast(rank_, from, tensor);
}

void GroupMember::share_rows(const Tensor& tensor, std::span<const int64_t> begins) const {
  D2Q_CHECK(static_cast<int>(begins.size()) == size() + 1 && begins.back() == tensor.rows(),
            "{} boundaries for {} members", begins.size(), size());
  for (int from = 0; from < size(); ++from) {
    const auto i = static_cast<size_t>(from);
    share_from(from, tensor.row_range(begins[i], begins[i + 1] - begins[i]));
  }
}

std::unique_ptr<DeviceGroup> make_single_group(Device& device) {
  return std::make_unique<SingleGroup>(std::vector<Device*>{&device});
}

}  // namespace d2q
