// The JSON header of a safetensors file, checked against the data that follows it.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/safetensors.h"

namespace d2q {

inline constexpr std::string_view kSafetensorsPaddingPrefix = "__padding__.";
inline constexpr std::string_view kSafetensorsMetadataKey = "__metadata__";

bool is_safetensors_padding(std::string_view name);
/// nullopt for a name that is none.
std::optional<SafetensorsType> parse_safetensors_type(std::string_view name);

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // in the order of their bytes, padding included
  std::map<std::string, std::string> metadata;
};

/// Throws Error{kCorrupt} naming `subject` on anything that does not fit `data` or a limit.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::span<const std::byte> data,
                                           const std::string& subject);

/// The header bytes, length word included, padded with spaces so that the data starts aligned. The
/// tensors lie one after another from offset 0.
std::string make_safetensors_header(const std::vector<SafetensorsSpec>& tensors,
                                    const std::map<std::string, std::string>& metadata);

/// Bytes of a tensor; overflow is Error{kCorrupt}.
uint64_t safetensors_bytes(SafetensorsType type, const std::vector<int64_t>& shape,
                           const std::string& subject);

}  // namespace d2q
