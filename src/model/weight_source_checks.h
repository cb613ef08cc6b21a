// What every weight source checks about a tensor before it hands it out.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/config.h"

namespace d2q {

/// The shape that `config` demands of an HF tensor name ([out, in], or [n] for vectors); empty for
/// names that the family does not have.
std::vector<int64_t> expected_shape(const ModelConfig& config, const std::string& name);

/// Throws Error{kCorrupt} unless `found` is what expected_shape() says (unknown names pass if they
/// have one or two dimensions).
void check_shape(const ModelConfig& config, const std::string& name,
                 const std::vector<int64_t>& found, const std::string& subject);

/// Throws Error{kNumeric} naming `name` and the first index with a NaN or Inf. `offset` is the
/// index of values[0] in the tensor.
void check_finite(std::span<const float> values, size_t offset, const std::string& name,
                  const std::string& subject);

/// The error for a tensor that is not in the file.
[[noreturn]] void fail_missing_tensor(const std::string& name, const std::string& subject);

}  // namespace d2q
