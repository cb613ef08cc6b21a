#include "quant/stage_clock.h"

namespace d2q {

void StageClock::enter(const std::string& stage) {
  if (stage == stage_) return;
  device_.synchronize();
  const Clock::time_point now = Clock::now();
  if (!stage_.empty()) seconds_[stage_] += std::chrono::duration<double>(now - start_).count();
  stage_ = stage;
  start_ = now;
}

}  // namespace d2q
