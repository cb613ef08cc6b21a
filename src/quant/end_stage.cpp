#include "quant/end_stage.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "model/weight_source.h"

namespace d2q {

nlohmann::json tune_end(Device& device, ThreadPool& pool, const QuantizeOptions& options,
                        const RopeTables& rope, const EndTeacher& teacher,
                        std::span<const int32_t> ids, int64_t kept_blocks, OutputFolder& folder,
                        const ProgressSink& progress) {
  const auto report_progress = [&](int64_t step, const std::string& detail) {
    if (progress) progress({"tune", step, options.end_tune_steps, detail});
  };
  report_progress(0, "the whole model");
  folder.write_index();
  const std::shared_ptr<const WeightSource> stored = open_model(folder.working_path());
  const TunedModel model(device, pool, *stored, options, end_tune_rates(options));
  const EndTuner tuner(device, stored->config(), rope, options, model, teacher, kept_blocks);
  const EndTuning tuning = tuner.tune(ids, [&](int64_t step, double divergence) {
    report_progress(step, fmt::format("divergence {:.4g}", divergence));
  });
  nlohmann::json report{{"steps", tuning.steps},
                        {"divergence_before", tuning.divergence_before},
                        {"divergence_after", tuning.divergence_after},
                        {"accepted", tuning.accepted}};
  folder.write_tuned(
      tuning.accepted ? model.changed_tensors() : std::vector<std::vector<ShardTensor>>(), report);
  return report;
}

}  // namespace d2q
