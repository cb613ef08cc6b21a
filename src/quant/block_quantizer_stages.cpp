// The stages of BlockQuantizer::quantize(), in their order.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "kernels/host_copy.h"
#include "model/family.h"
#include "quant/absorb.h"
#include "quant/block_pass.h"
#include "quant/group_weights.h"
#include "quant/linear_settings.h"

namespace d2q {

void BlockQuantizer::quantize_qkv(Pass& pass) {
  const BlockWeights& fp = pass.fp;
  const auto add_chunk = [&](Chunks chunks, InputStatistics& sums) {
    const Tensor& x = chunks[0];
    const int64_t count = x.rows();
    const Tensor h = caches_->input.row_range(0, count);
    stages_.attention_input(fp, x, h);
    sums.add(h, chunks[1]);
    if (!corrects_deviation(options_)) return;
    // The teacher of the post-attention norm: the attention still unquantized.
    const Tensor a = caches_->attention.row_range(0, count);
    const Tensor after = caches_->residual.row_range(0, count);
    stages_.attention(fp, h, options_.sequence_length, a);
    device_.convert(x, after);
    stages_.attention_output(fp, a, after);
    stages_.mlp_input(fp, after, chunks[2]);
  };
  InputSetSolver solver = collect(pass, source_.config().hidden_size, "q_proj",
                                  {{pass.streams.quantized, RowUse::kRead},
                                   {caches_->attention_input, RowUse::kRead},
                                   {caches_->teacher, RowUse::kWrite}},
                                  add_chunk);
  solve(pass, solver, Projection::kK);
  solve(pass, solver, Projection::kV);
  solve(pass, solver, Projection::kQ);
}

void BlockQuantizer::quantize_o(Pass& pass) {
  const ModelConfig& config = source_.config();
  BlockWeights& current = pass.result.weights;
  const auto add_chunk = [&](Chunks chunks, InputStatistics& sums) {
    const Tensor h = caches_->input.row_range(0, chunks[0].rows());
    const Tensor a = caches_->attention.row_range(0, chunks[0].rows());
    stages_.attention_input(current, chunks[0], h);
    stages_.attention(current, h, options_.sequence_length, a);
    sums.add(a, chunks[1]);
    device_.convert(a, chunks[1]);
  };
  InputSetSolver solver = collect(
      pass, config.n_heads * config.head_dim, "o_proj",
      {{pass.streams.quantized, RowUse::kRead}, {caches_->attention_result, kept_input_use()}},
      add_chunk);
  solve(pass, solver, Projection::kO);
  if (!needs_statistics(options_)) return;
  for_chunks(
      {{caches_->attention_result, RowUse::kRead}, {pass.streams.quantized, RowUse::kUpdate}},
      [&](Chunks chunks) { stages_.attention_output(current, chunks[0], chunks[1]); });
}

void BlockQuantizer::correct_mlp_norm(Pass& pass) {
  if (!corrects_deviation(options_)) return;
  const int64_t hidden_size = source_.config().hidden_size;
  NormParams& norm = pass.result.weights.mlp_norm;
  DeviationStatistics deviation(device_, hidden_size);
  for_chunks({{pass.streams.quantized, RowUse::kRead}, {caches_->teacher, RowUse::kRead}},
             [&](Chunks chunks) {
               const Tensor student = caches_->input.row_range(0, chunks[0].rows());
               stages_.mlp_input(pass.result.weights, chunks[0], student);
               deviation.add(chunks[1], student);
             });
  deviation.sum_over(member_);
  pass.result.deviation = deviation.shift(all_tokens(), options_.shift_gate);
  norm.shift = to_device(device_, pass.result.deviation->shift, 1, hidden_size);
  if (!pass.fp.mlp_norm.shift.empty()) device_.add(norm.shift, pass.fp.mlp_norm.shift);
}

void BlockQuantizer::quantize_up_and_gate(Pass& pass) {
  BlockWeights& current = pass.result.weights;
  const auto add_chunk = [&](Chunks chunks, InputStatistics& sums) {
    const Tensor h = caches_->input.row_range(0, chunks[0].rows());
    stages_.mlp_input(current, chunks[0], h);
    sums.add(h, chunks[1]);
  };
  InputSetSolver solver = collect(
      pass, source_.config().hidden_size, "up_proj",
      {{pass.streams.quantized, RowUse::kRead}, {caches_->mlp_input, RowUse::kRead}}, add_chunk);
  solve(pass, solver, Projection::kUp);
  if (!pass.fp.gate.dense.empty()) solve(pass, solver, Projection::kGate);
}

void BlockQuantizer::quantize_down(Pass& pass) {
  BlockWeights& current = pass.result.weights;
  const bool corrects_final = pass.final_norm != nullptr && corrects_deviation(options_);
  const TokenRows nothing;
  const auto add_chunk = [&](Chunks chunks, InputStatistics& sums) {
    const Tensor& x = chunks[0];
    const int64_t count = x.rows();
    const Tensor h = caches_->input.row_range(0, count);
    const Tensor m = caches_->hidden.row_range(0, count);
    stages_.mlp_input(current, x, h);
    stages_.mlp(current, h, m);
    sums.add(m, chunks[1]);
    device_.convert(m, chunks[1]);
    if (!corrects_final) return;
    // The final norm's teacher: this block's MLP still unquantized.
    const Tensor after = caches_->residual.row_range(0, count);
    device_.convert(x, after);
    stages_.mlp(pass.fp, h, m);
    stages_.mlp_output(pass.fp, m, after);
    device_.norm(after, *pass.final_norm, chunks[2]);
  };
  InputSetSolver solver = collect(pass, source_.config().intermediate_size, "down_proj",
                                  {{pass.streams.quantized, RowUse::kRead},
                                   {caches_->mlp_hidden, kept_input_use()},
                                   {corrects_final ? caches_->teacher : nothing, RowUse::kWrite}},
                                  add_chunk);
  solve(pass, solver, Projection::kDown);
}

bool BlockQuantizer::absorb_down_scale(Pass& pass) {
  std::vector<StoredLinear>& linears = pass.result.linears;
  StoredLinear& down = linears.back();
  if (!down.solution || !down.solution->has_column_scale) return false;
  const std::string up_name = linear_name(source_.config(), pass.layer, "up_proj");
  const auto up = std::find_if(linears.begin(), linears.end(),
                               [&](const StoredLinear& linear) { return linear.name == up_name; });
  D2Q_CHECK(up != linears.end(), "no up_proj in block {}", pass.layer);
  if (member_.is_first()) {
    if (up->solution) {
      absorb_column_scale(*down.solution, *up->solution, up->bias);
    } else {
      absorb_column_scale(*down.solution, up->dense, up->bias);
      for (float& value : up->dense.span()) value = to_float(to_half(value));
    }
    pass.result.weights.up = stream_linear(*up);
    pass.result.weights.down = stream_linear(down);
  }
  share_weights(device_, member_, pass.result.weights);
  return true;
}

void BlockQuantizer::tune(Pass& pass,
                          const std::function<void(int64_t step, double loss)>& on_step) {
  const ModelConfig& config = source_.config();
  if (!tunes_block(options_, config, pass.layer)) return;
  pass.clock.enter("tune");
  // The windows are drawn from all members'.
  device_.synchronize();
  const Streams mine{pass.streams.fp, caches_->block_input};
  member_.exchange(mine, [&](std::span<const Streams* const> all) {
    if (!member_.is_first()) return;
    std::vector<TokenRows> inputs, targets;
    for (const Streams* one : all) {
      inputs.push_back(one->quantized);
      targets.push_back(one->fp);
    }
    tune_first(pass, TokenRows::joined(std::move(inputs)), TokenRows::joined(std::move(targets)),
               on_step);
    device_.synchronize();
  });
  member_.exchange(pass.result.tuning, [&](std::span<const std::optional<BlockTuning>* const> all) {
    if (!member_.is_first()) pass.result.tuning = *all[0];
  });
  if (pass.result.tuning->accepted) share_weights(device_, member_, pass.result.weights);
}

void BlockQuantizer::tune_first(Pass& pass, const TokenRows& input, const TokenRows& target,
                                const std::function<void(int64_t step, double loss)>& on_step) {
  const ModelConfig& config = source_.config();
  BlockWeights& current = pass.result.weights;
  TunedSolutions solutions{};
  std::array<StoredLinear*, kBlockLinears.size()> tuned{};
  for (size_t i = 0; i < kBlockLinears.size(); ++i) {
    if ((current.*kBlockLinears[i].member).dense.empty()) continue;
    const std::string name = linear_name(config, pass.layer, kBlockLinears[i].name);
    for (StoredLinear& stored : pass.result.linears) {
      if (stored.name != name || !stored.solution) continue;
      if (stored.solution->layout.kind != PackedKind::kSignPlanes) continue;
      solutions[i] = &*stored.solution;
      tuned[i] = &stored;
    }
  }
  const BlockTuner tuner(device_, config, rope_, options_);
  pass.result.tuning = tuner.tune(pass.layer, input, target, current, solutions, on_step);
  if (pass.result.tuning->accepted) {
    for (size_t i = 0; i < kBlockLinears.size(); ++i) {
      if (tuned[i] != nullptr) current.*kBlockLinears[i].member = stream_linear(*tuned[i]);
    }
  }
}

void BlockQuantizer::leave_block(Pass& pass, bool absorbed) {
  pass.clock.enter("quantized stream");
  const BlockWeights& current = pass.result.weights;
  const TokenRows& stream = pass.streams.quantized;
  if (pass.result.tuning && pass.result.tuning->accepted) {
    // The attention is another one now, too.
    copy_rows(caches_->block_input, stream);
    run_block(current, stream, false);
  } else {
    // Without absorption the kept input of down_proj is what the stored weights give.
    for_chunks({{stream, RowUse::kUpdate},
                {caches_->mlp_hidden, absorbed ? RowUse::kWrite : RowUse::kRead}},
               [&](Chunks chunks) {
                 if (absorbed) {
                   const Tensor h = caches_->input.row_range(0, chunks[0].rows());
                   stages_.mlp_input(current, chunks[0], h);
                   stages_.mlp(current, h, chunks[1]);
                 }
                 stages_.mlp_output(current, chunks[1], chunks[0]);
               });
  }
  if (pass.final_norm != nullptr && corrects_deviation(options_)) {
    DeviationStatistics deviation(device_, source_.config().hidden_size);
    for_chunks({{stream, RowUse::kRead}, {caches_->teacher, RowUse::kRead}}, [&](Chunks chunks) {
      const Tensor student = caches_->input.row_range(0, chunks[0].rows());
      device_.norm(chunks[0], *pass.final_norm, student);
      deviation.add(chunks[1], student);
    });
    deviation.sum_over(member_);
    pass.result.final_deviation = deviation.shift(all_tokens(), options_.shift_gate);
  }
  check_finite(pass.layer, "quantized", pass.streams.quantized);
}

}  // namespace d2q
