// What each linear is quantized to: the run's options with the per-layer overrides applied.
#pragma once

#include <string>

#include "kernels/solver_ops.h"
#include "quant/options.h"

namespace d2q {

struct LinearSettings {
  bool keep = false;  // stays dense, in f16
  Grid grid;
  int64_t group_size = 128;
};

/// `name` is the HF name ("model.layers.3.mlp.down_proj"); `is_down` marks the projection whose
/// column scale can be absorbed. Later overrides win.
LinearSettings linear_settings(const QuantizeOptions& options, const std::string& name,
                               bool is_down);

}  // namespace d2q
