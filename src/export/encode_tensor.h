// f32 values as the bytes of a 16-bit or block-quantized type.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "format/gguf.h"

namespace d2q {

/// The bytes of `values` in kF32, kF16, kBF16 or kQ8_0 (whole blocks of 32), rounded to the
/// nearest. Throws Error{kNumeric} naming `name` when a value does not fit f16.
std::vector<std::byte> encode_tensor(std::span<const float> values, GgufType type,
                                     const std::string& name);

}  // namespace d2q
