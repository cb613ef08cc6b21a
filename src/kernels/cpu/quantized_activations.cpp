#include "kernels/cpu/quantized_activations.h"

#include <algorithm>
#include <array>

#include "base/half.h"

namespace d2q {
namespace {

/// Columns a task quantizes at least: about a microsecond's work, as much as a task costs.
constexpr int64_t kTaskColumns = 2048;
constexpr int64_t kBlockColumns = kBlockSteps * kStepColumns;

int64_t blocks_of(int64_t n_steps) { return (n_steps + kBlockSteps - 1) / kBlockSteps; }

void copy_as_f32(const Tensor& x, int64_t begin, int64_t size, float* out) {
  if (x.dtype() == DType::kF32) {
    std::copy_n(x.data<float>() + begin, size, out);
  } else {
    const BFloat16* source = x.data<BFloat16>() + begin;
    std::transform(source, source + size, out, [](BFloat16 value) { return to_float(value); });
  }
}

}  // namespace

void QuantizedActivations::assign(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
                                  const PackedLayout& layout, const Options& options) {
  geometry_ = geometry_of(layout);
  padded_ = geometry_.tile_steps * kStepColumns;
  n_blocks_ = (geometry_.n_groups - 1) * blocks_of(geometry_.group_steps) +
              blocks_of(geometry_.last_group_steps);
  const int64_t n_tokens = x.rows();
  high_ = high_memory_.reserve<int8_t>(n_tokens * padded_);
  low_ = options.low_digits ? low_memory_.reserve<int8_t>(n_tokens * padded_) : nullptr;
  scale_ = scale_memory_.reserve<float>(n_tokens * n_blocks_);
  sum_ = sum_memory_.reserve<float>(n_tokens * n_blocks_);
  tables_ = nullptr;
  table_planes_ = options.table_planes;
  if (table_planes_ != 0) {
    table_stride_ = kernels.lookup->table_bytes[table_planes_ - 2];
    tables_ = table_memory_.reserve<uint8_t>(n_tokens * geometry_.tile_steps * table_stride_);
    table_offset_ = offset_memory_.reserve<float>(n_tokens * n_blocks_);
  }
  const int64_t task_groups = std::max<int64_t>(1, kTaskColumns / layout.group_size);
  const int64_t n_segments = (geometry_.n_groups + task_groups - 1) / task_groups;
  pool.parallel_for(n_tokens * n_segments, [&](int64_t task, int) {
    const int64_t first = task % n_segments * task_groups;
    quantize_groups(kernels, x, layout, task / n_segments, first,
                    std::min(geometry_.n_groups, first + task_groups));
  });
}

void QuantizedActivations::quantize_groups(const PackedKernels& kernels, const Tensor& x,
                                           const PackedLayout& layout, int64_t token,
                                           int64_t first_group, int64_t last_group) {
  for (int64_t group = first_group; group < last_group; ++group) {
    const GroupColumns columns = columns_of(layout, group);
    int64_t offset = token * padded_ + group * geometry_.group_steps * kStepColumns;
    int64_t block = token * n_blocks_ + group * blocks_of(geometry_.group_steps);
    for (int64_t done = 0; done < columns.size; done += kBlockColumns) {
      const int64_t size = std::min(kBlockColumns, columns.size - done);
      const int64_t n_steps = (size + kStepColumns - 1) / kStepColumns;
      const int64_t begin = token * x.cols() + columns.begin + done;
      std::array<float, kBlockColumns> padded;
      const bool in_place = x.dtype() == DType::kF32 && size == n_steps * kStepColumns;
      if (!in_place) {
        copy_as_f32(x, begin, size, padded.data());
        std::fill(padded.begin() + size, padded.begin() + n_steps * kStepColumns, 0.0f);
      }
      int8_t* low = low_ == nullptr ? nullptr : low_ + offset;
      kernels.quantize_block(in_place ? x.data<float>() + begin : padded.data(), n_steps,
                             high_ + offset, low, scale_ + block, sum_ + block);
      if (tables_ != nullptr) {
        const int32_t excess =
            kernels.lookup->build_tables(high_ + offset, low, n_steps, table_planes_,
                                         tables_ + offset / kStepColumns * table_stride_);
        table_offset_[block] = sum_[block] + 2.0f * static_cast<float>(excess);
      }
      offset += n_steps * kStepColumns;
      ++block;
    }
  }
}

QuantizedTokens QuantizedActivations::tokens(int64_t first, int64_t count) const {
  QuantizedTokens result;
  result.n_tokens = count;
  result.high = high_ + first * padded_;
  result.low = low_ == nullptr ? nullptr : low_ + first * padded_;
  result.scale = scale_ + first * n_blocks_;
  result.sum = sum_ + first * n_blocks_;
  result.token_stride = padded_;
  result.block_stride = n_blocks_;
  if (tables_ != nullptr) {
    result.tables = tables_ + first * geometry_.tile_steps * table_stride_;
    result.table_stride = table_stride_;
    result.table_offset = table_offset_ + first * n_blocks_;
  }
  return result;
}

}  // namespace d2q
