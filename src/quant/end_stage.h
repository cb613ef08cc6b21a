// The last stage of a run: METHOD.md §9.2 on the packed folder that the others have written.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>

#include "base/progress.h"
#include "quant/end_tuner.h"
#include "quant/output_folder.h"

namespace d2q {

/// Tunes the model whose shards all lie in `folder` and puts what has changed into them. `ids` are
/// the calibration windows of the teacher's stream, `kept_blocks` as EndTuner has it. Returns what
/// the report says; a run that was stopped meanwhile starts the stage anew, with the same result.
nlohmann::json tune_end(Device& device, ThreadPool& pool, const QuantizeOptions& options,
                        const RopeTables& rope, const EndTeacher& teacher,
                        std::span<const int32_t> ids, int64_t kept_blocks, OutputFolder& folder,
                        const ProgressSink& progress);

}  // namespace d2q
