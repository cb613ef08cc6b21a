// A fixed set of workers for parallel loops. Work is cut into tasks by the caller, never by the
// number of threads, so results are the same on any thread count.
#pragma once

#include <cstdint>
#include <memory>

#include "base/function_ref.h"

namespace d2q {

class ThreadPool {
 public:
  /// n_threads >= 1, the calling thread included; 0 means one per available core.
  explicit ThreadPool(int n_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const noexcept;

  /// Calls body(task, worker) once for every task in [0, n_tasks), worker in [0, n_threads), and
  /// returns when all are done. The first exception of a body is rethrown here after the others
  /// have finished. One loop at a time: a nested call runs its tasks in the calling thread.
  /// Consecutive tasks mostly run in one thread. Allocates nothing.
  void parallel_for(int64_t n_tasks, FunctionRef<void(int64_t task, int worker)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace d2q
