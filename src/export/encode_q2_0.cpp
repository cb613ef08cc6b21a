#include "export/encode_q2_0.h"

#include <cstring>

#include "base/error.h"

namespace d2q {
namespace {

constexpr int64_t kBlockBytes = 2 + kQ2Block / 4;

struct Unpacked {
  std::vector<uint8_t> codes;  // [rows, cols]
  std::vector<float> params;   // [rows, n_groups * 2]
};

Unpacked unpacked(const PackedView& packed) {
  const PackedLayout& layout = packed.layout;
  Unpacked result;
  result.codes.resize(static_cast<size_t>(layout.rows * layout.cols));
  result.params.resize(static_cast<size_t>(layout.rows * layout.n_groups() * 2));
  unpack(packed, result.codes, result.params);
  return result;
}

}  // namespace

bool fits_q2_0(const PackedView& packed) {
  const PackedLayout& layout = packed.layout;
  if (layout.kind != PackedKind::kUniform || layout.bits != 2 || layout.cols % kQ2Block != 0 ||
      (layout.n_groups() > 1 && layout.group_size % kQ2Block != 0)) {
    return false;
  }
  const Unpacked parts = unpacked(packed);
  for (size_t i = 1; i < parts.params.size(); i += 2) {
    if (parts.params[i] != 1.0f && parts.params[i] != 2.0f) return false;
  }
  return true;
}

std::vector<std::byte> encode_q2_0(const PackedView& packed) {
  const PackedLayout& layout = packed.layout;
  const Unpacked parts = unpacked(packed);
  std::vector<std::byte> bytes(
      static_cast<size_t>(layout.rows * layout.cols / kQ2Block * kBlockBytes));
  std::byte* out = bytes.data();
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t begin = 0; begin < layout.cols; begin += kQ2Block) {
      const int64_t group = begin / layout.group_size;
      const float* params = parts.params.data() + (row * layout.n_groups() + group) * 2;
      const bool flipped = params[1] == 2.0f;
      D2Q_CHECK(flipped || params[1] == 1.0f, "zero {}", params[1]);
      const Half scale = to_half(flipped ? -params[0] : params[0]);
      std::memcpy(out, &scale.bits, sizeof(scale.bits));
      out += sizeof(scale.bits);
      const uint8_t* codes = parts.codes.data() + row * layout.cols + begin;
      for (int64_t j = 0; j < kQ2Block; j += 4) {
        unsigned byte = 0;
        for (int64_t k = 0; k < 4; ++k) {
          const unsigned code = codes[j + k];
          byte |= (flipped ? 3u - code : code) << 2 * k;
        }
        *out++ = static_cast<std::byte>(byte);
      }
    }
  }
  return bytes;
}

}  // namespace d2q
