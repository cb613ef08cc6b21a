// Models without a file: the sizes of well-known ones, and random packed weights, so that speed can
// be measured at real sizes.
#pragma once

#include <string>
#include <vector>

#include "model/weight_source.h"

namespace d2q {

/// Names that config_of_shape() knows.
std::vector<std::string> shape_names();
/// The configuration of a well-known model; an unknown name is Error{kInvalidArgument} and lists
/// the known ones.
ModelConfig config_of_shape(const std::string& name);

struct RandomFormat {
  PackedKind kind = PackedKind::kSignPlanes;
  int bits = 2;
  int64_t group_size = 128;
  int head_bits = 4;  // uniform, in groups of 128; 16: dense
};

/// Random codes and scales for every linear and the head, ones for norms, a small dense embedding's
/// values repeated. Matrices of large models share memory, but neighbouring ones never do. Throws
/// as validate(PackedLayout) does.
std::unique_ptr<WeightSource> random_weights(const ModelConfig& config, const RandomFormat& format);

}  // namespace d2q
