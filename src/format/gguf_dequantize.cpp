// The block encodings of GGUF. Each block type below is the file's layout, byte for byte; weights
// come out in the order in which the formulas' loops run. All arithmetic is f32, so that the
// results are those of the format's reference decoder bit for bit.
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "format/gguf.h"

namespace d2q {
namespace {

constexpr int kBlock = 32;   // weights of a Q4_0 ... Q8_0 block
constexpr int kSuper = 256;  // weights of a K-quant super-block

struct BlockQ4_0 {  // w = d (q - 8)
  Half d;
  uint8_t q[16];  // weight j in the low, j + 16 in the high nibble
};
struct BlockQ4_1 {  // w = d q + m
  Half d, m;
  uint8_t q[16];
};
struct BlockQ5_0 {  // w = d (q - 16)
  Half d;
  uint8_t high[4];  // bit j: bit 4 of weight j
  uint8_t q[16];
};
struct BlockQ5_1 {  // w = d q + m
  Half d, m;
  uint8_t high[4];
  uint8_t q[16];
};
struct BlockQ2_0 {  // w = d (q - 1)
  Half d;
  uint8_t q[16];  // element j in bits 2 (j % 4) of byte j / 4
};
struct BlockQ8_0 {  // w = d q
  Half d;
  int8_t q[32];
};
struct BlockQ2_K {     // 16 groups of 16: w = (d s) q - (dmin m)
  uint8_t scales[16];  // s in the low, m in the high nibble
  uint8_t q[64];
  Half d, dmin;
};
struct BlockQ3_K {     // 16 groups of 16: w = d (s - 32) (q - 4)
  uint8_t high[32];    // bit 2 of q
  uint8_t q[64];       // bits 0 and 1
  uint8_t scales[12];  // 16 of 6 bits
  Half d;
};
struct BlockQ4_K {  // 8 groups of 32: w = (d s) q - (dmin m)
  Half d, dmin;
  uint8_t scales[12];  // 8 pairs (s, m) of 6 bits
  uint8_t q[128];
};
struct BlockQ5_K {
  Half d, dmin;
  uint8_t scales[12];
  uint8_t high[32];  // bit g: bit 4 of the weights of group g
  uint8_t q[128];
};
struct BlockQ6_K {  // 16 groups of 16: w = (d s) (q - 32)
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  Half d;
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210 && sizeof(BlockQ2_0) == 18);

void decode(const BlockQ4_0& block, float* out) {
  const float d = to_float(block.d);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block.q[j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block.q[j] >> 4) - 8);
  }
}

void decode(const BlockQ4_1& block, float* out) {
  const float d = to_float(block.d);
  const float m = to_float(block.m);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block.q[j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block.q[j] >> 4) + m;
  }
}

uint32_t word(const uint8_t (&bytes)[4]) {
  uint32_t value = 0;
  std::memcpy(&value, bytes, 4);
  return value;
}

/// Weights j and j + 16 of a block of 5-bit codes.
struct Pair {
  int first, second;
};
Pair unpack_5_bits(const uint8_t (&q)[16], uint32_t high, int j) {
  return {(q[j] & 15) | static_cast<int>((high >> j & 1u) << 4),
          (q[j] >> 4) | static_cast<int>((high >> (j + 16) & 1u) << 4)};
}

void decode(const BlockQ5_0& block, float* out) {
  const float d = to_float(block.d);
  const uint32_t high = word(block.high);
  for (int j = 0; j < 16; ++j) {
    const auto [first, second] = unpack_5_bits(block.q, high, j);
    out[j] = d * static_cast<float>(first - 16);
    out[j + 16] = d * static_cast<float>(second - 16);
  }
}

void decode(const BlockQ5_1& block, float* out) {
  const float d = to_float(block.d);
  const float m = to_float(block.m);
  const uint32_t high = word(block.high);
  for (int j = 0; j < 16; ++j) {
    const auto [first, second] = unpack_5_bits(block.q, high, j);
    out[j] = d * static_cast<float>(first) + m;
    out[j + 16] = d * static_cast<float>(second) + m;
  }
}

void decode(const BlockQ2_0& block, float* out) {
  const float d = to_float(block.d);
  for (int j = 0; j < 64; ++j)
    out[j] = d * static_cast<float>((block.q[j / 4] >> 2 * (j % 4) & 3) - 1);
}

void decode(const BlockQ8_0& block, float* out) {
  const float d = to_float(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(block.q[j]);
}

void decode(const BlockQ2_K& block, float* out) {
  const float d = to_float(block.d);
  const float dmin = to_float(block.dmin);
  // Group g: bits 2·((g/2) % 4) of the 16 bytes at 32·(g/8) + 16·(g%2).
  for (int g = 0; g < 16; ++g) {
    const float scale = d * static_cast<float>(block.scales[g] & 15);
    const float offset = dmin * static_cast<float>(block.scales[g] >> 4);
    const uint8_t* q = block.q + 32 * (g / 8) + 16 * (g % 2);
    const int shift = 2 * (g / 2 % 4);
    for (int j = 0; j < 16; ++j) {
      out[16 * g + j] = scale * static_cast<float>(q[j] >> shift & 3) - offset;
    }
  }
}

void decode(const BlockQ3_K& block, float* out) {
  const float d = to_float(block.d);
  // The planes of q are cut as in Q2_K; bit g/2 of high[16·(g%2) + j] belongs to group g.
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? block.scales[g] & 15 : block.scales[g - 8] >> 4;
    const int top = block.scales[8 + g % 4] >> (2 * (g / 4)) & 3;
    const float scale = d * static_cast<float>((low | top << 4) - 32);
    const uint8_t* q = block.q + 32 * (g / 8) + 16 * (g % 2);
    const uint8_t* high = block.high + 16 * (g % 2);
    const int shift = 2 * (g / 2 % 4);
    for (int j = 0; j < 16; ++j) {
      const int value = (q[j] >> shift & 3) | (high[j] >> (g / 2) & 1) << 2;
      out[16 * g + j] = scale * static_cast<float>(value - 4);
    }
  }
}

/// The 6-bit scale and offset of group g of Q4_K and Q5_K: groups 0 to 3 lie in the low six bits of
/// bytes g and g + 4; groups 4 to 7 in the nibbles of byte g + 4 and the top bits of the first
/// eight.
struct ScaleAndOffset {
  int scale, offset;
};
ScaleAndOffset unpack_k_scales(const uint8_t (&scales)[12], int g) {
  if (g < 4) return {scales[g] & 63, scales[g + 4] & 63};
  return {(scales[g + 4] & 15) | (scales[g - 4] >> 6) << 4, (scales[g + 4] >> 4) | (scales[g] >> 6)
                                                                                       << 4};
}

/// `code(g, j, nibble)` makes a code of group g from the nibble of its weight j.
template <typename Block, typename Code>
void decode_k_groups(const Block& block, float* out, Code code) {
  const float d = to_float(block.d);
  const float dmin = to_float(block.dmin);
  for (int g = 0; g < 8; ++g) {
    const auto [s, m] = unpack_k_scales(block.scales, g);
    const float scale = d * static_cast<float>(s);
    const float offset = dmin * static_cast<float>(m);
    const uint8_t* q = block.q + 32 * (g / 2);
    const int shift = 4 * (g % 2);
    for (int j = 0; j < 32; ++j) {
      const int value = code(g, j, q[j] >> shift & 15);
      out[32 * g + j] = scale * static_cast<float>(value) - offset;
    }
  }
}

void decode(const BlockQ4_K& block, float* out) {
  decode_k_groups(block, out, [](int, int, int nibble) { return nibble; });
}

void decode(const BlockQ5_K& block, float* out) {
  decode_k_groups(block, out,
                  [&](int g, int j, int nibble) { return nibble | (block.high[j] >> g & 1) << 4; });
}

void decode(const BlockQ6_K& block, float* out) {
  const float d = to_float(block.d);
  // Two halves of 128; in each, quarter k takes nibble k/2 of low[32·(k%2) + j] and bits 2k of
  // high[j].
  for (int half = 0; half < 2; ++half) {
    const uint8_t* high = block.high + 32 * half;
    for (int k = 0; k < 4; ++k) {
      const uint8_t* low = block.low + 64 * half + 32 * (k % 2);
      const int8_t* scales = block.scales + 8 * half + 2 * k;
      float* quarter = out + 128 * half + 32 * k;
      for (int j = 0; j < 32; ++j) {
        const int value = (low[j] >> (4 * (k / 2)) & 15) | (high[j] >> (2 * k) & 3) << 4;
        quarter[j] = d * static_cast<float>(scales[j / 16]) * static_cast<float>(value - 32);
      }
    }
  }
}

template <typename Block, int kWeights>
void decode_all(std::span<const std::byte> bytes, std::span<float> out) {
  const size_t n_blocks = out.size() / kWeights;
  for (size_t i = 0; i < n_blocks; ++i) {
    Block block;  // copied, since blocks of odd sizes lie unaligned in the file
    std::memcpy(&block, bytes.data() + i * sizeof(Block), sizeof(Block));
    decode(block, out.data() + i * kWeights);
  }
}

template <typename T>
void convert_all(std::span<const std::byte> bytes, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = to_float(value);
  }
}

void copy_all(std::span<const std::byte> bytes, std::span<float> out) {
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
}

struct TypeTraits {
  std::string_view name;
  int64_t weights = 0;  // of a block
  int64_t bytes = 0;
  void (*decode)(std::span<const std::byte> bytes, std::span<float> out) = nullptr;
};

template <typename Block, int kWeights>
constexpr TypeTraits blocks_of(std::string_view name) {
  return {name, kWeights, sizeof(Block), decode_all<Block, kWeights>};
}

TypeTraits traits(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return {"F32", 1, 4, copy_all};
    case GgufType::kF16:
      return {"F16", 1, 2, convert_all<Half>};
    case GgufType::kBF16:
      return {"BF16", 1, 2, convert_all<BFloat16>};
    case GgufType::kQ4_0:
      return blocks_of<BlockQ4_0, kBlock>("Q4_0");
    case GgufType::kQ4_1:
      return blocks_of<BlockQ4_1, kBlock>("Q4_1");
    case GgufType::kQ5_0:
      return blocks_of<BlockQ5_0, kBlock>("Q5_0");
    case GgufType::kQ5_1:
      return blocks_of<BlockQ5_1, kBlock>("Q5_1");
    case GgufType::kQ8_0:
      return blocks_of<BlockQ8_0, kBlock>("Q8_0");
    case GgufType::kQ2_0:
      return blocks_of<BlockQ2_0, 64>("Q2_0");
    case GgufType::kQ2_K:
      return blocks_of<BlockQ2_K, kSuper>("Q2_K");
    case GgufType::kQ3_K:
      return blocks_of<BlockQ3_K, kSuper>("Q3_K");
    case GgufType::kQ4_K:
      return blocks_of<BlockQ4_K, kSuper>("Q4_K");
    case GgufType::kQ5_K:
      return blocks_of<BlockQ5_K, kSuper>("Q5_K");
    case GgufType::kQ6_K:
      return blocks_of<BlockQ6_K, kSuper>("Q6_K");
  }
  return {};
}

}  // namespace

std::string_view to_string(GgufType type) { return traits(type).name; }
int64_t block_weights(GgufType type) { return traits(type).weights; }
int64_t block_bytes(GgufType type) { return traits(type).bytes; }

void dequantize_blocks(GgufType type, std::span<const std::byte> blocks, std::span<float> out) {
  const auto [name, weights, bytes, decode] = traits(type);
  D2Q_CHECK(decode != nullptr, "GGUF type {}", static_cast<uint32_t>(type));
  D2Q_CHECK(
      out.size() % static_cast<size_t>(weights) == 0 &&
          blocks.size() == out.size() / static_cast<size_t>(weights) * static_cast<size_t>(bytes),
      "{} bytes of {} for {} weights", blocks.size(), name, out.size());
  decode(blocks, out);
}

}  // namespace d2q
