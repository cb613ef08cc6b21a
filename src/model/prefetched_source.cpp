#include "model/prefetched_source.h"

#include <utility>

namespace d2q {

PrefetchedSource::~PrefetchedSource() { stop(); }

void PrefetchedSource::stop() const {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  stopping_ = false;
}

void PrefetchedSource::prefetch(const std::vector<std::string>& names) const {
  stop();
  entries_.clear();
  for (const std::string& name : names) entries_[name] = {};
  thread_ = std::thread([this, names] {
    for (const std::string& name : names) {
      Entry loaded;
      try {
        const std::lock_guard lock(loading_);
        loaded.values = base_->load(name);
      } catch (...) {
        loaded.failure = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      entries_[name] = std::move(loaded);
      changed_.notify_all();
    }
  });
}

Matrix<float> PrefetchedSource::load(const std::string& name) const {
  std::unique_lock lock(mutex_);
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) {
    lock.unlock();
    const std::lock_guard loading(loading_);
    return base_->load(name);
  }
  changed_.wait(lock, [&] { return entry->second.values || entry->second.failure; });
  Entry loaded = std::move(entry->second);
  entries_.erase(entry);
  lock.unlock();
  if (loaded.failure) std::rethrow_exception(loaded.failure);
  return std::move(*loaded.values);
}

}  // namespace d2q
