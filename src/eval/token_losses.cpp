#include "eval/token_losses.h"

#include <algorithm>

namespace d2q {

int64_t head_slice_rows(int64_t vocab_size) {
  constexpr int64_t kSliceLogits = int64_t{1} << 24;
  return std::clamp<int64_t>(kSliceLogits / vocab_size, 16, 1024);
}

void token_losses(Device& device, Transformer& transformer, const Tensor& hidden,
                  std::span<const int32_t> targets, std::span<double> losses) {
  const int64_t vocab_size = transformer.config().vocab_size;
  const auto n_rows = static_cast<int64_t>(targets.size());
  const int64_t slice = std::min(head_slice_rows(vocab_size), n_rows);
  const Tensor logits = device.allocate(slice, vocab_size, DType::kF32);
  for (int64_t begin = 0; begin < n_rows; begin += slice) {
    const int64_t count = std::min(slice, n_rows - begin);
    const Tensor part = logits.row_range(0, count);
    transformer.head(hidden.row_range(begin, count), part);
    const auto offset = static_cast<size_t>(begin);
    const auto length = static_cast<size_t>(count);
    device.cross_entropy(part, targets.subspan(offset, length), losses.subspan(offset, length));
  }
}

}  // namespace d2q
