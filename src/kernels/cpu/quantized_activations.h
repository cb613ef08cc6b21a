// Activations as the integers that meet packed codes (kernels/packed_kernels.h).
#pragma once

#include "base/thread_pool.h"
#include "codec/packed_geometry.h"
#include "kernels/cpu/scratch_buffer.h"
#include "kernels/packed_kernels.h"
#include "kernels/tensor.h"

namespace d2q {

/// All tokens' digits, padded and cut into blocks like the weights' columns. Keeps its memory from
/// one assign() to the next.
class QuantizedActivations {
 public:
  struct Options {
    bool low_digits = true;  // a16; false: a8
    int table_planes = 0;    // tables for lookups in matrices of at most so many planes
  };

  /// x [T, layout.cols], f32 or bf16. Equal for every layout of the same columns and group size.
  void assign(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
              const PackedLayout& layout, const Options& options);

  /// Tokens [first, first + count), valid until the next assign().
  QuantizedTokens tokens(int64_t first, int64_t count) const;

 private:
  void quantize_groups(const PackedKernels& kernels, const Tensor& x, const PackedLayout& layout,
                       int64_t token, int64_t first_group, int64_t last_group);

  PackedGeometry geometry_;
  int64_t padded_ = 0;
  int64_t n_blocks_ = 0;
  int8_t* high_ = nullptr;
  int8_t* low_ = nullptr;
  float* scale_ = nullptr;
  float* sum_ = nullptr;
  int table_planes_ = 0;
  int64_t table_stride_ = 0;  // of a step
  uint8_t* tables_ = nullptr;
  float* table_offset_ = nullptr;
  ScratchBuffer high_memory_, low_memory_, scale_memory_, sum_memory_, table_memory_,
      offset_memory_;
};

}  // namespace d2q
