#include "kernels/cpu/eight_bit_heads.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace d2q {
namespace {

constexpr float kLevels = 127.0f;
constexpr float kSmallest = 1e-30f;  // below this a head is zero: its reciprocal would overflow
constexpr int64_t kValuesPerTask = 1 << 12;

void quantize_head(const float* values, int64_t head_dim, uint8_t* head) {
  float largest = 0.0f, sum = 0.0f;  // the sum is finite or says that some value is not
  for (int64_t i = 0; i < head_dim; ++i) {
    largest = std::max(largest, std::fabs(values[i]));
    sum += values[i] * 0.0f;
  }
  const bool zero = largest < kSmallest || !std::isfinite(sum);
  float scale = zero ? 0.0f : largest * (1.0f / kLevels);
  if (!std::isfinite(sum)) scale = std::numeric_limits<float>::quiet_NaN();
  const float inverse = zero ? 0.0f : kLevels / largest;
  for (int64_t i = 0; i < head_dim; ++i) {
    const float level = zero ? 0.0f : std::nearbyint(values[i] * inverse);
    head[i] = static_cast<uint8_t>(static_cast<int8_t>(level));
  }
  std::memcpy(head + head_dim, &scale, sizeof(scale));
}

}  // namespace

void quantize_heads(CpuContext& context, const Tensor& x, int64_t head_dim, const Tensor& rows) {
  D2Q_CHECK(head_dim > 0 && x.cols() % head_dim == 0 && rows.rows() == x.rows() &&
                rows.cols() == x.cols() / head_dim * eight_bit_head_bytes(head_dim),
            "{}x{} as heads of {} in rows {}x{}", x.rows(), x.cols(), head_dim, rows.rows(),
            rows.cols());
  const float* values = x.data<float>();
  uint8_t* heads = rows.data<uint8_t>();
  const int64_t n_heads = x.size() / head_dim;
  context.for_blocks(n_heads, std::max<int64_t>(1, kValuesPerTask / head_dim),
                     [&](int64_t begin, int64_t end, int) {
                       for (int64_t head = begin; head < end; ++head) {
                         quantize_head(values + head * head_dim, head_dim,
                                       heads + head * eight_bit_head_bytes(head_dim));
                       }
                     });
}

void dequantize_head(const uint8_t* head, int64_t head_dim, float* values) {
  const float scale = eight_bit_scale(head, head_dim);
  for (int64_t i = 0; i < head_dim; ++i)
    values[i] = scale * static_cast<float>(static_cast<int8_t>(head[i]));
}

}  // namespace d2q
