// Devices of one host that work on one thing together, each from a thread of its own that runs the
// same code on its share. What they hand each other they hand at meetings.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace d2q {

/// Of one kind, so that equal operations give equal bits; each reads and writes the others' memory
/// in its operations.
class DeviceGroup {
 public:
  /// The devices outlive the group.
  explicit DeviceGroup(std::vector<Device*> devices);
  virtual ~DeviceGroup();
  DeviceGroup(const DeviceGroup&) = delete;
  DeviceGroup& operator=(const DeviceGroup&) = delete;

  int size() const noexcept { return static_cast<int>(devices_.size()); }
  /// "2 x cuda (NVIDIA H200, 139 GiB)".
  std::string name() const;
  /// The most that any of the devices has taken.
  int64_t peak_memory_bytes() const;
  Device& device(int rank) const { return *devices_[static_cast<size_t>(rank)]; }

  /// body(rank) on a thread for each device, the first one's on the caller's; returns when all are
  /// done and their devices idle. What one throws the others hear of at their next meeting, and it
  /// is thrown here.
  void run(const std::function<void(int rank)>& body);

 protected:
  friend class GroupMember;
  /// The calling thread is `rank`'s from here on.
  virtual void bind(int /*rank*/) {}
  /// GroupMember's sum() and share(), after a meeting.
  virtual void sum(int rank, const Tensor& tensor) = 0;
  virtual void broadcast(int rank, int from, const Tensor& tensor) = 0;
  void meet();
  /// What each rank has put there before a meeting, for all until the next one.
  std::vector<const void*>& posted() noexcept { return posted_; }

 private:
  struct Stopped {};  // thrown in the others when one has failed

  std::vector<Device*> devices_;
  std::vector<const void*> posted_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  int n_waiting_ = 0;
  int64_t n_meetings_ = 0;
  bool failed_ = false;
};

/// One device's part in what a group does; by itself where there is no group. All members call the
/// same functions in the same order, in DeviceGroup::run().
class GroupMember {
 public:
  GroupMember() = default;
  GroupMember(DeviceGroup& group, int rank)
      : group_(group.size() > 1 ? &group : nullptr), rank_(rank) {}

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return group_ == nullptr ? 1 : group_->size(); }
  bool is_first() const noexcept { return rank_ == 0; }

  /// `tensor`, f32 or f64, becomes the sum of all members'; the same bits for each.
  void sum(const Tensor& tensor) const;
  /// `tensor` becomes the first member's, whose shape and dtype it has.
  void share(const Tensor& tensor) const { share_from(0, tensor); }
  /// Rows [begins[i], begins[i + 1]) become those of member i.
  void share_rows(const Tensor& tensor, std::span<const int64_t> begins) const;
  /// body(all members' values) while none of them changes.
  template <typename T, typename Body>
  void exchange(const T& mine, Body&& body) const {
    if (group_ == nullptr) {
      const T* const only = &mine;
      return body(std::span<const T* const>(&only, 1));
    }
    group_->posted()[static_cast<size_t>(rank_)] = &mine;
    group_->meet();
    std::vector<const T*> all;
    for (const void* one : group_->posted()) all.push_back(static_cast<const T*>(one));
    body(std::span<const T* const>(all));
    group_->meet();
  }

 private:
  void share_from(int from, const Tensor& tensor) const;

  DeviceGroup* group_ = nullptr;
  int rank_ = 0;
};

/// A group of one, which outlives it.
std::unique_ptr<DeviceGroup> make_single_group(Device& device);

/// The first `n` GPUs, at least 2. Throws Error{kUnsupported} saying what is missing: CUDA, GPUs,
/// NCCL, or a way from one GPU's memory to another's.
std::unique_ptr<DeviceGroup> make_cuda_group(int n);

}  // namespace d2q
