// Where a block's time goes, on devices that work behind the host's back too.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "kernels/device.h"

namespace d2q {

/// Seconds by stage. One stage runs at a time; the device is idle when the next one begins.
class StageClock {
 public:
  explicit StageClock(Device& device) : device_(device) {}

  /// Ends the stage in hand, if there is one, and begins `stage`.
  void enter(const std::string& stage);
  /// Ends the stage in hand.
  void stop() { enter({}); }
  /// Of the stages that have ended.
  const std::map<std::string, double>& seconds() const noexcept { return seconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  Device& device_;
  std::map<std::string, double> seconds_;
  std::string stage_;  // empty: none
  Clock::time_point start_;
};

}  // namespace d2q
