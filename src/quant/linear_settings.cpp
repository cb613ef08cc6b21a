#include "quant/linear_settings.h"

#include <algorithm>
#include <regex>
#include <vector>

#include "base/error.h"
#include "model/block_backward.h"
#include "model/family.h"

namespace d2q {

Grid grid_of(const QuantizeOptions& options, int bits, bool is_down) {
  Grid grid;
  grid.bits = bits;
  if ((bits != 2 && bits != 3) || options.method != QuantMethod::kD2Quant) return grid;
  grid.column_scale = is_down && options.dual_scale;
  if (grid.column_scale || options.sign_planes) grid.kind = GridKind::kSignPlanes;
  return grid;
}

bool absorbs_column_scale(const ModelConfig& config, std::string_view projection) {
  if (projection != "down_proj") return false;
  return family_named(config.family).gated_mlp || config.activation == Activation::kRelu;
}

LinearSettings linear_settings(const QuantizeOptions& options, const std::string& name,
                               bool is_down) {
  LinearSettings settings;
  settings.grid.bits = options.bits;
  settings.group_size = options.group_size;
  const auto allocated = options.allocated_bits.find(name);
  if (allocated != options.allocated_bits.end()) settings.grid.bits = allocated->second;
  for (const LayerOverride& layer : options.layers) {
    if (!std::regex_search(name, std::regex(layer.pattern))) continue;
    if (layer.bits != 0) {
      settings.grid.bits = layer.bits;
      settings.bits_overridden = true;
    }
    if (layer.group_size != 0) settings.group_size = layer.group_size;
  }
  for (const std::string& pattern : options.keep) {
    settings.keep = settings.keep || std::regex_search(name, std::regex(pattern));
  }
  if (options.portable_grid) {
    settings.middle_zero = settings.grid.bits == 2;
    return settings;
  }
  settings.grid = grid_of(options, settings.grid.bits, is_down);
  return settings;
}

void check_patterns(const ModelConfig& config, const QuantizeOptions& options) {
  if (options.layers.empty() && options.keep.empty()) return;
  std::vector<std::string> names;
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    for (const BlockLinear& linear : kBlockLinears) {
      const bool absent =
          linear.projection == Projection::kGate && !family_named(config.family).gated_mlp;
      if (!absent) names.push_back(linear_name(config, layer, linear.name));
    }
  }
  const auto check = [&](const char* option, const std::string& pattern) {
    const std::regex regex(pattern);
    if (std::ranges::any_of(names,
                            [&](const auto& name) { return std::regex_search(name, regex); }))
      return;
    fail(ErrorCode::kInvalidArgument, "{} {}: matches none of the model's linears, {} to {}",
         option, pattern, names.front(), names.back());
  };
  for (const LayerOverride& layer : options.layers) check("--layer", layer.pattern);
  for (const std::string& pattern : options.keep) check("--keep", pattern);
}

PackedLayout packed_layout(const LinearSettings& settings, int64_t rows, int64_t cols) {
  PackedLayout layout;
  layout.kind =
      settings.grid.kind == GridKind::kUniform ? PackedKind::kUniform : PackedKind::kSignPlanes;
  layout.bits = settings.grid.bits;
  layout.rows = rows;
  layout.cols = cols;
  layout.group_size = std::min(settings.group_size, cols);
  return layout;
}

}  // namespace d2q
