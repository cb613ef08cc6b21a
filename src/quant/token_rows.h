// Matrices with a row for each calibration token: in the device's memory, or in the host's where
// that is too small, and then in the device's a few windows at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/device.h"

namespace d2q {

/// A handle, as Tensor is.
class TokenRows {
 public:
  TokenRows() = default;
  /// In the device's memory.
  TokenRows(Tensor tensor) : tensor_(std::move(tensor)) {}  // NOLINT: either place will do
  TokenRows(Device& device, int64_t rows, int64_t cols, DType dtype, bool on_host);

  /// One part after the other, to read() and copy_to() only: the first on the device that reads,
  /// the others on their own or on the host.
  static TokenRows joined(std::vector<TokenRows> parts);

  int64_t rows() const noexcept;
  int64_t cols() const noexcept { return parts_.empty() ? tensor_.cols() : parts_[0].cols(); }
  bool empty() const noexcept { return parts_.empty() && tensor_.empty(); }
  bool on_host() const noexcept { return on_host_; }
  /// All rows, wherever they are. Operations of the device take it only where it is not on_host().
  const Tensor& tensor() const noexcept { return tensor_; }

  /// Rows to be read, [count, cols] in the device's memory: themselves, or a copy.
  Tensor read(Device& device, int64_t begin, int64_t count) const;
  /// The same rows into `destination`.
  void copy_to(Device& device, int64_t begin, const Tensor& destination) const;

 private:
  Tensor tensor_;
  bool on_host_ = false;
  std::vector<TokenRows> parts_;
};

enum class RowUse { kRead, kWrite, kUpdate };

/// Rows that a loop over chunks works on.
struct RowAccess {
  const TokenRows& rows;  // empty: so is its chunk
  RowUse use;
};

/// body(first row, chunks) over chunks of `step` of `n_rows` rows; chunks[i] are the rows of
/// accesses[i] in the device's memory, for the time of the call. Rows on the host are copied there
/// and, unless they are only read, back, beside the work on other chunks: two chunks of each are in
/// the device's memory at a time.
void for_row_chunks(Device& device, int64_t n_rows, int64_t step,
                    std::span<const RowAccess> accesses,
                    const std::function<void(int64_t begin, std::span<const Tensor> chunks)>& body);

}  // namespace d2q
