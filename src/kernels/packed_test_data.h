// Random packed matrices for the kernel tests.
#pragma once

#include <cstdint>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "codec/packed_matrix.h"

namespace d2q {

/// A packed matrix with its storage.
struct PackedStorage {
  PackedLayout layout;
  std::vector<uint8_t> codes;
  std::vector<Half> scales;

  PackedView view() const { return {layout, codes, scales}; }
};

/// Random codes; parameters like those of Gaussian weights (sign planes near 1 and 0.5, uniform
/// zeros near the middle code).
inline PackedStorage random_packed(const PackedLayout& layout, uint64_t seed) {
  Rng rng(seed);
  std::vector<uint8_t> codes(static_cast<size_t>(layout.rows * layout.cols));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(rng.below(1u << layout.bits));
  const auto n_params = static_cast<size_t>(layout.n_params());
  std::vector<float> params(static_cast<size_t>(layout.rows * layout.n_groups()) * n_params);
  for (size_t i = 0; i < params.size(); ++i) {
    const bool zero = layout.kind == PackedKind::kUniform && i % n_params == 1;
    params[i] = zero ? static_cast<float>(rng.below(1u << layout.bits))
                     : static_cast<float>((0.02 + 0.01 * rng.uniform()) /
                                          static_cast<double>(1 << (i % n_params)));
  }
  PackedStorage storage;
  storage.layout = layout;
  storage.codes.resize(static_cast<size_t>(codes_bytes(layout)));
  storage.scales.resize(static_cast<size_t>(scales_count(layout)));
  pack(layout, codes, params, storage.codes, storage.scales);
  return storage;
}

}  // namespace d2q
