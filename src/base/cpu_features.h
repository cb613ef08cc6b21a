// What this processor and this operating system can run: CPUID says what the chip has, XCR0 which
// registers the system saves. Both are needed; a flag below is set only when both agree.
#pragma once

#include <string>

namespace d2q {

struct CpuFeatures {
  bool avx2 = false;        // with FMA and F16C: what avx2/ is compiled with
  bool avx512 = false;      // F, BW, DQ, VL and VNNI, and avx2: what avx512/ is compiled with
  bool avx512bf16 = false;  // avx512 and BF16
  bool avx512vbmi = false;  // avx512, VBMI and GFNI: what avx512vbmi/ is compiled with
  bool amx_bf16 = false;    // tiles; used by oneDNN, never by our own code
  std::string name;         // the processor's brand string, "" when it has none
};

/// Found once, at the first call; thread-safe. All false on processors other than x86-64.
const CpuFeatures& cpu_features();

}  // namespace d2q
