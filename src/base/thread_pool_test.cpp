#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/testing/expect_error.h"

namespace d2q {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryTaskExactlyOnceWithAValidWorker) {
  ThreadPool pool(GetParam());
  for (const int64_t n_tasks : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(n_tasks));
    std::atomic<bool> workers_valid = true;
    pool.parallel_for(n_tasks, [&](int64_t task, int worker) {
      ++calls[static_cast<size_t>(task)];
      if (worker < 0 || worker >= pool.n_threads()) workers_valid = false;
    });
    EXPECT_TRUE(workers_valid);
    for (const auto& count : calls) EXPECT_EQ(count, 1);
  }
}

TEST_P(ThreadPoolTest, ScratchOfAWorkerIsNeverSharedByTwoTasksAtOnce) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<bool>> busy(static_cast<size_t>(pool.n_threads()));
  std::atomic<bool> shared = false;
  pool.parallel_for(500, [&](int64_t, int worker) {
    if (busy[static_cast<size_t>(worker)].exchange(true)) shared = true;
    std::this_thread::yield();
    busy[static_cast<size_t>(worker)] = false;
  });
  EXPECT_FALSE(shared);
}

TEST_P(ThreadPoolTest, RethrowsAnExceptionAfterTheOtherTasksAndGoesOnWorking) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> done = 0;
  const auto body = [&](int64_t task, int) {
    if (task == 17) throw std::runtime_error("task 17");
    ++done;
  };
  EXPECT_THROW(pool.parallel_for(100, body), std::runtime_error);
  // Without workers the loop stops at the exception.
  EXPECT_EQ(done, pool.n_threads() > 1 ? 99 : 17);
  done = 0;
  pool.parallel_for(10, body);
  EXPECT_EQ(done, 10);
}

TEST_P(ThreadPoolTest, SurvivesAnExceptionInEveryTask) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(pool.parallel_for(50, [](int64_t, int) { throw std::out_of_range("every task"); }),
                 std::out_of_range);
  }
}

TEST_P(ThreadPoolTest, NestedLoopsRunEveryInnerTask) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> calls(20 * 30);
  pool.parallel_for(20, [&](int64_t outer, int) {
    const auto thread = std::this_thread::get_id();
    pool.parallel_for(30, [&](int64_t inner, int) {
      if (std::this_thread::get_id() == thread) ++calls[static_cast<size_t>(outer * 30 + inner)];
    });
  });
  for (const auto& count : calls) EXPECT_EQ(count, 1);
}

TEST_P(ThreadPoolTest, AnExceptionInANestedLoopReachesTheOuterCaller) {
  ThreadPool pool(GetParam());
  const auto outer = [&](int64_t task, int) {
    pool.parallel_for(4, [&](int64_t inner, int) {
      if (task == 3 && inner == 2) throw std::runtime_error("inner");
    });
  };
  EXPECT_THROW(pool.parallel_for(8, outer), std::runtime_error);
  // The thread must not believe that it is still inside a loop.
  std::vector<std::atomic<int>> calls(64);
  pool.parallel_for(64, [&](int64_t task, int) { ++calls[static_cast<size_t>(task)]; });
  for (const auto& count : calls) EXPECT_EQ(count, 1);
}

TEST_P(ThreadPoolTest, ManyShortLoopsInARowLoseNoTask) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> sum = 0;
  for (int round = 0; round < 2000; ++round) {
    pool.parallel_for(3, [&](int64_t task, int) { sum += task; });
  }
  EXPECT_EQ(sum, 2000 * 3);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPoolConstructionTest, ZeroMeansAtLeastOneThread) {
  EXPECT_GE(ThreadPool(0).n_threads(), 1);
}

TEST(ThreadPoolConstructionTest, RefusesImpossibleCounts) {
  D2Q_EXPECT_ERROR(ThreadPool(-1), ErrorCode::kInvalidArgument, "threads");
  D2Q_EXPECT_ERROR(ThreadPool(5000), ErrorCode::kInvalidArgument, "5000");
}

TEST(ThreadPoolSignals, ItsThreadsLeaveSignalsToTheCallers) {
  sigset_t before = {};
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &before), 0);
  ThreadPool pool(3);
  std::atomic<int> with_signals = 0;
  std::atomic<int> without = 0;
  // Until one of its own threads has had a task.
  for (int round = 0; round < 1000 && without == 0; ++round) {
    pool.parallel_for(64, [&](int64_t, int worker) {
      sigset_t mask = {};
      pthread_sigmask(SIG_BLOCK, nullptr, &mask);
      // Leaves the others time to wake up.
      if (worker == 0) return std::this_thread::sleep_for(std::chrono::microseconds(100));
      ++(sigismember(&mask, SIGINT) == 1 ? without : with_signals);
    });
  }
  EXPECT_GT(without, 0);
  EXPECT_EQ(with_signals, 0);
  sigset_t after = {};
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &after), 0);
  EXPECT_EQ(sigismember(&after, SIGINT), sigismember(&before, SIGINT));
}

}  // namespace
}  // namespace d2q
