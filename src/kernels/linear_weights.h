// The weights of a linear layer, dense or packed.
#pragma once

#include <optional>

#include "codec/packed_matrix.h"
#include "kernels/tensor.h"

namespace d2q {

/// A packed matrix in a device's memory. Copies share it.
struct PackedTensor {
  PackedLayout layout;
  Tensor codes;   // [1, codes_bytes()] u8, in the order that Device::upload_packed() gave them
  Tensor scales;  // [1, scales_count()] f16
};

/// A linear layer: exactly one of dense and packed. bias may be empty.
struct Linear {
  Tensor dense;                        // [out, in] f32 or bf16
  std::optional<PackedTensor> packed;  // on most CPUs a view of the file's mapping
  Tensor bias;                         // [1, out] f32

  int64_t rows() const { return packed ? packed->layout.rows : dense.rows(); }
};

}  // namespace d2q
