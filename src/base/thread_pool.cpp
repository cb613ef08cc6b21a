#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
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

// Loops follow each other within microseconds while a token is decoded, and waking a sleeping
// thread takes tens of them: a waiting thread spins for about this many pauses (some 50
// microseconds) before it sleeps.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

/// Keeps signals away from the threads that are started meanwhile: in the midst of a dense product
/// the stack pointer need not lead into a stack, and a handler would write below it.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_ = {};
};

/// Returns when `value` is seen to differ from `old`.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

/// The tasks [next, end) of a loop that one worker takes in order, and others once their own are
/// done: consecutive tasks read consecutive memory, which is what prefetching counts on.
struct alignas(64) TaskRange {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::vector<TaskRange> ranges;  // by worker
  // Of loops; its release publishes what follows. A day of decoding wraps it.
  std::atomic<uint32_t> generation{0};
  std::atomic<uint32_t> running{0};  // workers that have not finished the loop
  bool stopping = false;
  const FunctionRef<void(int64_t, int)>* body = nullptr;
  std::mutex failure_mutex;
  std::exception_ptr failure;

  explicit State(int n_threads) : ranges(static_cast<size_t>(n_threads)) {}
  ~State() {
    stopping = true;
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void share_out(int64_t n_tasks) {
    const auto n_ranges = static_cast<int64_t>(ranges.size());
    const int64_t each = n_tasks / n_ranges, longer = n_tasks % n_ranges;
    int64_t begin = 0;
    for (int64_t i = 0; i < n_ranges; ++i) {
      TaskRange& range = ranges[static_cast<size_t>(i)];
      range.next.store(begin, std::memory_order_relaxed);
      begin += each + (i < longer ? 1 : 0);
      range.end = begin;
    }
  }

  void drain(int worker) {
    inside_loop = true;
    for (size_t i = 0; i < ranges.size(); ++i) {
      TaskRange& range = ranges[(static_cast<size_t>(worker) + i) % ranges.size()];
      for (;;) {
        const int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= range.end) break;
        try {
          (*body)(task, worker);
        } catch (...) {
          const std::lock_guard lock(failure_mutex);
          if (!failure) failure = std::current_exception();
        }
      }
    }
    inside_loop = false;
  }

  void work(int worker) {
    uint32_t seen = 0;
    for (;;) {
      wait_while(generation, seen);
      ++seen;
      if (stopping) return;
      drain(worker);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads < 0 || n_threads > 1024) {
    fail(ErrorCode::kInvalidArgument, "threads: {} is not between 0 (all cores) and 1024",
         n_threads);
  }
  if (n_threads == 0) n_threads = available_cores();
  state_ = std::make_unique<State>(n_threads);
  const SignalsBlocked blocked;
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

void ThreadPool::parallel_for(int64_t n_tasks, FunctionRef<void(int64_t task, int worker)> body) {
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
  State& state = *state_;
  state.share_out(n_tasks);
  state.body = &body;
  state.failure = nullptr;
  state.running.store(static_cast<uint32_t>(state.workers.size()), std::memory_order_relaxed);
  state.generation.fetch_add(1, std::memory_order_release);
  state.generation.notify_all();
  state.drain(0);
  for (uint32_t left = state.running.load(std::memory_order_acquire); left != 0;
       left = state.running.load(std::memory_order_acquire)) {
    wait_while(state.running, left);
  }
  if (state.failure) std::rethrow_exception(state.failure);
}

}  // namespace d2q
