#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdint>
#include <cstring>

namespace d2q {
namespace {

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);  // zeros beyond the last leaf
  return r;
}

constexpr bool bit(uint32_t word, int index) { return ((word >> index) & 1u) != 0; }

/// Which register sets the operating system saves. Only with OSXSAVE. Inline assembly, since the
/// intrinsic needs a compiler flag that this file must not have.
uint64_t read_xcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

std::string brand_string() {
  if (cpuid(0x80000000u, 0).eax < 0x80000004u) return "";
  char text[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i, 0);
    const uint32_t words[4] = {r.eax, r.ebx, r.ecx, r.edx};
    std::memcpy(text + 16 * i, words, 16);
  }
  std::string name(text);
  const size_t first = name.find_first_not_of(' ');
  if (first == std::string::npos) return "";
  return name.substr(first, name.find_last_not_of(' ') - first + 1);
}

CpuFeatures detect() {
  CpuFeatures features;
  features.name = brand_string();
  const Registers leaf1 = cpuid(1, 0);
  const bool osxsave = bit(leaf1.ecx, 27);
  if (!osxsave) return features;
  const uint64_t xcr0 = read_xcr0();
  constexpr uint64_t kYmm = 0x6;          // SSE and AVX state
  constexpr uint64_t kZmm = 0xe0 | kYmm;  // and mask registers, ZMM0-15 high halves, ZMM16-31
  constexpr uint64_t kTiles = 0x60000;    // tile configuration and data
  const Registers leaf7 = cpuid(7, 0);
  const Registers leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : Registers{};

  const bool avx = bit(leaf1.ecx, 28);
  const bool fma = bit(leaf1.ecx, 12);
  const bool f16c = bit(leaf1.ecx, 29);
  features.avx2 = (xcr0 & kYmm) == kYmm && avx && fma && f16c && bit(leaf7.ebx, 5);
  features.avx512 = features.avx2 && (xcr0 & kZmm) == kZmm && bit(leaf7.ebx, 16) /* F */ &&
                    bit(leaf7.ebx, 17) /* DQ */ && bit(leaf7.ebx, 30) /* BW */ &&
                    bit(leaf7.ebx, 31) /* VL */ && bit(leaf7.ecx, 11) /* VNNI */;
  features.avx512bf16 = features.avx512 && bit(leaf7_1.eax, 5);
  features.avx512vbmi =
      features.avx512 && bit(leaf7.ecx, 1) /* VBMI */ && bit(leaf7.ecx, 8) /* GFNI */;
  features.amx_bf16 = (xcr0 & kTiles) == kTiles && bit(leaf7.edx, 24) && bit(leaf7.edx, 22);
  return features;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace d2q
