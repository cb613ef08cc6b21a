#include "export/encode_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace d2q {
namespace {

constexpr size_t kQ8Block = 32;

Half checked_half(float value, const std::string& name) {
  const Half half = to_half(value);
  if (!std::isfinite(to_float(half))) {
    fail(ErrorCode::kNumeric, "{}: value {} does not fit f16; export as bf16 or f32", name, value);
  }
  return half;
}

/// Blocks of a f16 scale d and 32 signed bytes: d = max|x| / 127.
std::vector<std::byte> encode_q8(std::span<const float> values, const std::string& name) {
  D2Q_CHECK(values.size() % kQ8Block == 0, "{}: {} values in blocks of {}", name, values.size(),
            kQ8Block);
  std::vector<std::byte> bytes(values.size() / kQ8Block * (sizeof(Half) + kQ8Block));
  std::byte* out = bytes.data();
  for (size_t begin = 0; begin < values.size(); begin += kQ8Block) {
    float largest = 0.0f;
    for (size_t i = 0; i < kQ8Block; ++i) largest = std::max(largest, std::abs(values[begin + i]));
    const float scale = largest / 127.0f;
    const Half stored = checked_half(scale, name);
    std::memcpy(out, &stored.bits, sizeof(stored.bits));
    out += sizeof(stored.bits);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (size_t i = 0; i < kQ8Block; ++i)
      *out++ =
          static_cast<std::byte>(static_cast<int8_t>(std::lround(values[begin + i] * inverse)));
  }
  return bytes;
}

}  // namespace

std::vector<std::byte> encode_tensor(std::span<const float> values, GgufType type,
                                     const std::string& name) {
  if (type == GgufType::kQ8_0) return encode_q8(values, name);
  if (type == GgufType::kF32) {
    const auto bytes = std::as_bytes(values);
    return {bytes.begin(), bytes.end()};
  }
  D2Q_CHECK(type == GgufType::kF16 || type == GgufType::kBF16, "{}: no encoder for {}", name,
            to_string(type));
  std::vector<std::byte> bytes(values.size() * sizeof(uint16_t));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits =
        type == GgufType::kF16 ? checked_half(values[i], name).bits : to_bfloat16(values[i]).bits;
    std::memcpy(bytes.data() + i * sizeof(bits), &bits, sizeof(bits));
  }
  return bytes;
}

}  // namespace d2q
