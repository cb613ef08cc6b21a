#include "quant/token_rows.h"

#include <algorithm>
#include <array>
#include <exception>
#include <vector>

namespace d2q {
namespace {

/// Later operations wait for the copies, so that their memory may be freed in turn.
class JoinAtEnd {
 public:
  explicit JoinAtEnd(Device& device) : device_(device) {}
  ~JoinAtEnd() {
    try {
      device_.join_transfers();
    } catch (const std::exception&) {  // what follows on a broken device says so itself
    }
  }
  JoinAtEnd(const JoinAtEnd&) = delete;
  JoinAtEnd& operator=(const JoinAtEnd&) = delete;

 private:
  Device& device_;
};

}  // namespace

TokenRows::TokenRows(Device& device, int64_t rows, int64_t cols, DType dtype, bool on_host)
    : tensor_(on_host ? device.allocate_on_host(rows, cols, dtype)
                      : device.allocate(rows, cols, dtype)),
      on_host_(on_host) {}

TokenRows TokenRows::joined(std::vector<TokenRows> parts) {
  if (parts.size() == 1) return parts[0];
  TokenRows result;
  result.parts_ = std::move(parts);
  return result;
}

int64_t TokenRows::rows() const noexcept {
  int64_t rows = tensor_.rows();
  for (const TokenRows& part : parts_) rows += part.rows();
  return rows;
}

Tensor TokenRows::read(Device& device, int64_t begin, int64_t count) const {
  if (!parts_.empty() && begin + count <= parts_[0].rows())
    return parts_[0].read(device, begin, count);
  if (parts_.empty() && !on_host_) return tensor_.row_range(begin, count);
  const DType dtype = parts_.empty() ? tensor_.dtype() : parts_[0].tensor().dtype();
  const Tensor copy = device.allocate(count, cols(), dtype);
  copy_to(device, begin, copy);
  return copy;
}

void TokenRows::copy_to(Device& device, int64_t begin, const Tensor& destination) const {
  if (!parts_.empty()) {
    int64_t first = 0;  // of the part
    for (const TokenRows& part : parts_) {
      const int64_t from = std::max(begin, first);
      const int64_t to = std::min(begin + destination.rows(), first + part.rows());
      if (from < to)
        part.copy_to(device, from - first, destination.row_range(from - begin, to - from));
      first += part.rows();
    }
    return;
  }
  const Tensor source = tensor_.row_range(begin, destination.rows());
  if (!on_host_) return device.convert(source, destination);
  device.load(source, destination);
  device.join_transfers();
}

void for_row_chunks(
    Device& device, int64_t n_rows, int64_t step, std::span<const RowAccess> accesses,
    const std::function<void(int64_t begin, std::span<const Tensor> chunks)>& body) {
  const int64_t n_chunks = (n_rows + step - 1) / step;
  std::vector<std::array<Tensor, 2>> slots(accesses.size());
  for (size_t i = 0; i < accesses.size(); ++i) {
    const TokenRows& rows = accesses[i].rows;
    if (rows.empty() || !rows.on_host()) continue;
    const auto slot = [&] {
      return device.allocate(std::min(step, n_rows), rows.cols(), rows.tensor().dtype());
    };
    slots[i][0] = slot();
    if (n_chunks > 1) slots[i][1] = slot();
  }
  const JoinAtEnd join(device);
  const auto count_of = [&](int64_t chunk) { return std::min(step, n_rows - chunk * step); };
  const auto rows_of = [&](size_t i, int64_t chunk) {
    return accesses[i].rows.tensor().row_range(chunk * step, count_of(chunk));
  };
  const auto slot_of = [&](size_t i, int64_t chunk) {
    return slots[i][static_cast<size_t>(chunk % 2)].row_range(0, count_of(chunk));
  };
  const auto for_host_rows = [&](RowUse unless, const auto& copy) {
    for (size_t i = 0; i < accesses.size(); ++i) {
      if (!slots[i][0].empty() && accesses[i].use != unless) copy(i);
    }
  };
  const auto load = [&](int64_t chunk) {
    for_host_rows(RowUse::kWrite,
                  [&](size_t i) { device.load(rows_of(i, chunk), slot_of(i, chunk)); });
  };
  const auto store = [&](int64_t chunk) {
    for_host_rows(RowUse::kRead,
                  [&](size_t i) { device.store(slot_of(i, chunk), rows_of(i, chunk)); });
  };
  std::vector<Tensor> chunks(accesses.size());
  if (n_chunks > 0) load(0);
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    // Of the copies, those for this chunk and those that its slots were stored by.
    device.join_transfers();
    if (chunk > 0) store(chunk - 1);
    if (chunk + 1 < n_chunks) load(chunk + 1);
    for (size_t i = 0; i < accesses.size(); ++i) {
      if (accesses[i].rows.empty()) continue;
      chunks[i] = slots[i][0].empty() ? rows_of(i, chunk) : slot_of(i, chunk);
    }
    body(chunk * step, chunks);
  }
  if (n_chunks > 0) store(n_chunks - 1);
}

}  // namespace d2q
