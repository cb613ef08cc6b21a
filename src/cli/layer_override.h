// `--layer REGEX=bits=4,group=64` as an option's value.
#pragma once

#include <string>

#include "quant/options.h"

namespace d2q::cli {

/// Throws UsageError saying what was expected. The pattern may hold '=' itself: the settings begin
/// at the last "=bits=" or "=group=".
LayerOverride parse_layer_override(const std::string& text);

}  // namespace d2q::cli
