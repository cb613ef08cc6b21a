#include "quant/background_task.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>
#include <vector>

namespace d2q {
namespace {

TEST(BackgroundTask, RunsTasksOneAfterAnotherOnAnotherThread) {
  std::vector<int> order;
  std::thread::id thread;
  BackgroundTask task(true);
  for (int i = 0; i < 20; ++i) {
    task.start([&, i] {
      order.push_back(i);
      thread = std::this_thread::get_id();
    });
  }
  task.wait();
  ASSERT_EQ(order.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(BackgroundTask, RunsAtOnceWhereNothingElseRunsBeside) {
  BackgroundTask task(false);
  std::thread::id thread;
  task.start([&] { thread = std::this_thread::get_id(); });
  EXPECT_EQ(thread, std::this_thread::get_id());
}

TEST(BackgroundTask, ThrowsWhatATaskThrewOnceAndGoesOn) {
  BackgroundTask task(true);
  task.start([] { throw std::runtime_error("disk full"); });
  bool ran = false;
  EXPECT_THROW(task.start([&] { ran = true; }), std::runtime_error);
  EXPECT_FALSE(ran);
  task.start([&] { ran = true; });
  task.wait();
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace d2q
