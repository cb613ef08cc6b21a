// What each linear is quantized to: the run's options with the per-layer overrides applied.
#pragma once

#include <string>
#include <string_view>

#include "codec/packed_matrix.h"
#include "kernels/solver_ops.h"
#include "model/config.h"
#include "quant/options.h"

namespace d2q {

struct LinearSettings {
  bool keep = false;             // stays dense, in f16
  bool bits_overridden = false;  // by `--layer`
  Grid grid;
  int64_t group_size = 128;
  bool middle_zero = false;  // zeros of the uniform grid are 1 or 2
};

/// Whether the column scale of `projection` may move into the rows of up_proj (METHOD.md §5.2):
/// down_proj's, where the rows meet no nonlinearity (a gated MLP) or one with act(c·x) = c·act(x)
/// for c > 0 (ReLU).
bool absorbs_column_scale(const ModelConfig& config, std::string_view projection);

/// The levels of a linear of `bits` bits; `is_down` as below.
Grid grid_of(const QuantizeOptions& options, int bits, bool is_down);

/// `name` is the HF name ("model.layers.3.mlp.down_proj"); `is_down` marks the projection whose
/// column scale is absorbed. Later overrides win, over allocated bits too.
LinearSettings linear_settings(const QuantizeOptions& options, const std::string& name,
                               bool is_down);

/// Throws Error{kInvalidArgument} naming a pattern of options.layers or options.keep that matches
/// none of the model's linears: what it should have changed would silently stay as it is.
void check_patterns(const ModelConfig& config, const QuantizeOptions& options);

/// What a linear of these settings, not a kept one, is packed as.
PackedLayout packed_layout(const LinearSettings& settings, int64_t rows, int64_t cols);

}  // namespace d2q
