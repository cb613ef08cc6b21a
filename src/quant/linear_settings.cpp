#include "quant/linear_settings.h"

#include <regex>

namespace d2q {

LinearSettings linear_settings(const QuantizeOptions& options, const std::string& name,
                               bool is_down) {
  LinearSettings settings;
  settings.grid.bits = options.bits;
  settings.group_size = options.group_size;
  for (const LayerOverride& layer : options.layers) {
    if (!std::regex_search(name, std::regex(layer.pattern))) continue;
    if (layer.bits != 0) settings.grid.bits = layer.bits;
    if (layer.group_size != 0) settings.group_size = layer.group_size;
  }
  for (const std::string& pattern : options.keep) {
    settings.keep = settings.keep || std::regex_search(name, std::regex(pattern));
  }
  const bool has_planes = settings.grid.bits == 2 || settings.grid.bits == 3;
  if (is_down && has_planes && options.method == QuantMethod::kD2Quant && options.dual_scale) {
    settings.grid.kind = GridKind::kSignPlanes;
    settings.grid.column_scale = true;
  }
  if (has_planes && options.sign_planes && options.method == QuantMethod::kD2Quant)
    settings.grid.kind = GridKind::kSignPlanes;
  return settings;
}

}  // namespace d2q
