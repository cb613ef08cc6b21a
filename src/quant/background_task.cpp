#include "quant/background_task.h"

#include <utility>

namespace d2q {

void BackgroundTask::start(std::function<void()> task) {
  wait();
  if (!concurrent_) return task();
  running_ = std::async(std::launch::async, std::move(task));
}

void BackgroundTask::wait() {
  if (running_.valid()) running_.get();
}

}  // namespace d2q
