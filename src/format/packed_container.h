// How a packed linear lies in the safetensors of a d2quant folder:
//   "<linear>.weight.codes"   U8,  [codes_bytes(layout)]
//   "<linear>.weight.scales"  F16, [scales_count(layout)]
//   __metadata__["<linear>.weight.layout"] = "planes b=2 rows=576 cols=1536 group=64" ("uniform
//   ...")
// The folder's config.json says quantization_config: {quant_method: "d2quant", format_version: 1,
// ...}.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "codec/packed_matrix.h"
#include "format/safetensors.h"

namespace d2q {

inline constexpr int kPackedFormatVersion = 1;
inline constexpr const char* kPackedQuantMethod = "d2quant";

std::string packed_codes_name(const std::string& weight);   // "<weight>.codes"
std::string packed_scales_name(const std::string& weight);  // "<weight>.scales"
std::string packed_layout_key(const std::string& weight);   // "<weight>.layout"

/// The metadata value of a layout, e.g. "planes b=2 rows=576 cols=1536 group=64".
std::string packed_layout_to_string(const PackedLayout& layout);
/// The inverse. Throws Error{kCorrupt} naming `subject` on anything else, or on an invalid layout.
PackedLayout parse_packed_layout(std::string_view text, const std::string& subject);

/// The packed matrix of `weight` ("<linear>.weight"), a view into the mapping, or nullopt when it
/// is not stored packed. Throws Error{kCorrupt} when codes, scales and layout do not fit together.
std::optional<PackedView> find_packed(const SafetensorsFolder& folder, const std::string& weight);

/// The two tensors that a packed matrix becomes, for SafetensorsWriter.
std::vector<SafetensorsSpec> packed_specs(const std::string& weight, const PackedLayout& layout);

}  // namespace d2q
