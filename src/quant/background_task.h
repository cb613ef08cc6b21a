// One task of the host at a time, beside a device that works on what follows.
#pragma once

#include <functional>
#include <future>

namespace d2q {

class BackgroundTask {
 public:
  /// `concurrent` false: tasks run where they are started. A task in hand is waited for in the end,
  /// and what it throws then is lost.
  explicit BackgroundTask(bool concurrent) : concurrent_(concurrent) {}

  /// Waits for the task before.
  void start(std::function<void()> task);
  /// Throws what the task has thrown.
  void wait();

 private:
  bool concurrent_;
  std::future<void> running_;
};

}  // namespace d2q
