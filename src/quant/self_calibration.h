// Calibration without a text: windows that the fp model writes itself.
#pragma once

#include <cstdint>
#include <memory>

#include "base/progress.h"
#include "kernels/device.h"
#include "model/weight_source.h"
#include "quant/calibration.h"

namespace d2q {

/// `samples` windows of `sequence_length` tokens, each sampled at temperature 1 from the full
/// distribution after a start token (BOS, or a random one). One decode step a token: minutes for
/// small models, so give a text where there is one.
CalibrationSet generate_calibration_set(Device& device, std::shared_ptr<const WeightSource> source,
                                        int64_t samples, int64_t sequence_length, uint64_t seed,
                                        DType products, const ProgressSink& progress);

}  // namespace d2q
