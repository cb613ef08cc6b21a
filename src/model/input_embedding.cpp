#include "model/input_embedding.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/family.h"
#include "model/load_weights.h"

namespace d2q {
namespace {

// Tokens whose positions are looked up at once: bounds the second matrix.
constexpr int64_t kChunkTokens = 4096;

}  // namespace

InputEmbedding::InputEmbedding(Device& device, const WeightSource& source, DType dtype) {
  const Family& family = family_named(source.config().family);
  const std::string name = std::string(family.modules.embedding.hf) + ".weight";
  const auto packed = source.packed(name);
  if (packed && device.embeds_packed()) {
    packed_tokens_ = device.upload_packed(*packed);
  } else {
    tokens_ = load_tensor(device, source, name, dtype);
  }
  if (family.positions != Positions::kLearned) return;
  positions_ =
      load_tensor(device, source, std::string(family.modules.positions.hf) + ".weight", dtype);
  position_offset_ = family.position_offset;
}

InputEmbedding InputEmbedding::converted(Device& device, DType dtype) const {
  InputEmbedding result = *this;
  for (Tensor* table : {&result.tokens_, &result.positions_}) {
    if (table->empty()) continue;
    const Tensor rounded = device.allocate(table->rows(), table->cols(), dtype);
    device.convert(*table, rounded);
    *table = rounded;
  }
  return result;
}

InputEmbedding InputEmbedding::with_tokens(const Tensor& tokens) const {
  InputEmbedding result = *this;
  result.tokens_ = tokens;
  result.packed_tokens_.reset();
  return result;
}

void InputEmbedding::embed(Device& device, std::span<const int32_t> ids, int64_t sequence_length,
                           int64_t first_position, const Tensor& x) const {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(n == x.rows() && sequence_length > 0, "{} ids for {} rows", n, x.rows());
  const int64_t n_positions = positions_.rows() - position_offset_;
  if (!positions_.empty() && first_position + std::min(sequence_length, n) > n_positions) {
    fail(ErrorCode::kInvalidArgument,
         "a sequence of {} tokens is longer than the {} positions that the model has learned",
         first_position + std::min(sequence_length, n), n_positions);
  }
  for (int64_t begin = 0; begin < n; begin += kChunkTokens) {
    const int64_t count = std::min(kChunkTokens, n - begin);
    const Tensor rows = x.row_range(begin, count);
    const auto part = ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    if (packed_tokens_) {
      device.embed_packed(part, *packed_tokens_, rows);
    } else {
      device.embed(part, tokens_, rows);
    }
    if (positions_.empty()) continue;
    std::vector<int32_t> positions(static_cast<size_t>(count));
    for (int64_t t = 0; t < count; ++t) {
      positions[static_cast<size_t>(t)] =
          static_cast<int32_t>(position_offset_ + first_position + (begin + t) % sequence_length);
    }
    const Tensor shift = device.allocate(count, x.cols(), DType::kF32);
    device.embed(positions, positions_, shift);
    device.add(rows, shift);
  }
}

}  // namespace d2q
