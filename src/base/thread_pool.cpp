#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"

namespace d2q {
namespace {

thread_local bool inside_loop = false;

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable start;
  std::condition_variable done;
  uint64_t generation = 0;
  int running = 0;
  bool stopping = false;
  int64_t n_tasks = 0;
  const std::function<void(int64_t, int)>* body = nullptr;
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    start.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void drain(int worker) {
    inside_loop = true;
    for (;;) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= n_tasks) break;
      try {
        (*body)(task, worker);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
    inside_loop = false;
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex);
        start.wait(lock, [&] { return stopping || generation != seen; });
        if (stopping) return;
        seen = generation;
      }
      drain(worker);
      const std::lock_guard lock(mutex);
      if (--running == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  if (n_threads < 0 || n_threads > 1024) {
    fail(ErrorCode::kInvalidArgument, "threads: {} is not between 0 (all cores) and 1024",
         n_threads);
  }
  if (n_threads == 0) n_threads = available_cores();
  try {
    for (int worker = 1; worker < n_threads; ++worker) {
      state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
    }
  } catch (const std::system_error& error) {
    fail(ErrorCode::kIo, "threads: {} cannot be started ({}); a limit of the system?", n_threads,
         error.what());
  }
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::n_threads() const noexcept { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::parallel_for(int64_t n_tasks,
                              const std::function<void(int64_t task, int worker)>& body) {
  if (n_tasks <= 0) return;
  if (inside_loop || state_->workers.empty() || n_tasks == 1) {
    const bool outer = inside_loop;
    inside_loop = true;
    try {
      for (int64_t task = 0; task < n_tasks; ++task) body(task, 0);
    } catch (...) {
      inside_loop = outer;
      throw;
    }
    inside_loop = outer;
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->n_tasks = n_tasks;
    state_->body = &body;
    state_->next.store(0, std::memory_order_relaxed);
    state_->failure = nullptr;
    state_->running = static_cast<int>(state_->workers.size());
    ++state_->generation;
  }
  state_->start.notify_all();
  state_->drain(0);
  std::unique_lock lock(state_->mutex);
  state_->done.wait(lock, [&] { return state_->running == 0; });
  if (state_->failure) std::rethrow_exception(state_->failure);
}

}  // namespace d2q
