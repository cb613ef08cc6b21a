#include "quant/block_quantizer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "codec/packed_matrix.h"
#include "kernels/host_copy.h"
#include "model/load_weights.h"
#include "quant/block_pass.h"
#include "quant/group_weights.h"
#include "quant/linear_settings.h"

namespace d2q {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// ŵ f32 of a solution without a column scale.
Tensor expanded(Device& device, const LinearSolution& solution) {
  if (!solution.weight.empty()) return solution.weight;
  const PackedLayout& layout = solution.layout;
  const Tensor codes = device.allocate(layout.rows, layout.cols, DType::kU8);
  device.upload(solution.codes.data(), codes);
  const Tensor params =
      to_device(device, solution.params, layout.rows, layout.n_groups() * layout.n_params());
  const Tensor weight = device.allocate(layout.rows, layout.cols, DType::kF32);
  device.matrices().expand(layout, codes, params, weight);
  return weight;
}

/// The weights that packed codes stand for, on the device in `dtype`.
Tensor expand(Device& device, const PackedView& packed, DType dtype) {
  Matrix<float> weights(packed.layout.rows, packed.layout.cols);
  dequantize(packed, weights.span());
  return to_device(device, weights, dtype);
}

}  // namespace

BlockQuantizer::BlockQuantizer(Device& device, const WeightSource& source,
                               const QuantizeOptions& options, const RopeTables& rope,
                               const StreamPlacement& placement, const GroupMember& member)
    : device_(device),
      source_(source),
      options_(options),
      rope_(rope),
      stages_(device, source.config(), rope_, options.products),
      member_(member) {
  caches_ = std::make_unique<Caches>();
  if (needs_statistics(options)) allocate_caches(placement);
}

BlockQuantizer::~BlockQuantizer() = default;

WindowRange window_range(const QuantizeOptions& options, const GroupMember& member) {
  const int64_t first = options.samples * member.rank() / member.size();
  return {first, options.samples * (member.rank() + 1) / member.size() - first};
}

bool BlockQuantizer::needs_statistics(const QuantizeOptions& options) {
  return options.method != QuantMethod::kRtn;
}

bool BlockQuantizer::needs_fp_stream(const QuantizeOptions& options) {
  const bool asymmetric =
      options.method == QuantMethod::kGptaq || options.method == QuantMethod::kD2Quant;
  const bool tuned =
      options.method == QuantMethod::kD2Quant && options.tune_steps + options.end_tune_steps > 0;
  return (asymmetric && options.alpha != 0.0) || tuned;
}

bool BlockQuantizer::corrects_deviation(const QuantizeOptions& options) {
  return options.method == QuantMethod::kD2Quant && options.deviation_correction;
}

void BlockQuantizer::for_chunks(std::initializer_list<RowAccess> accesses,
                                const std::function<void(Chunks chunks)>& body) const {
  const int64_t length = options_.sequence_length;
  const int64_t step = std::max<int64_t>(1, device_.chunk_tokens() / length) * length;
  for_row_chunks(device_, n_tokens(), step, std::span(accesses.begin(), accesses.size()),
                 [&](int64_t, Chunks chunks) { body(chunks); });
}

void BlockQuantizer::allocate_caches(const StreamPlacement& placement) {
  const ModelConfig& config = source_.config();
  const int64_t tokens = n_tokens();
  const DType type = options_.products;
  const int64_t attention_width = config.n_heads * config.head_dim;
  const auto rows = [&](TokenMatrix matrix, int64_t cols, DType dtype) {
    return TokenRows(device_, tokens, cols, dtype, placement.on_host(matrix));
  };
  caches_->attention_result = rows(TokenMatrix::kAttentionResult, attention_width, type);
  caches_->mlp_hidden = rows(TokenMatrix::kMlpHidden, config.intermediate_size, type);
  if (needs_fp_stream(options_)) {
    caches_->attention_input = rows(TokenMatrix::kAttentionInput, config.hidden_size, type);
    caches_->mlp_input = rows(TokenMatrix::kMlpInput, config.hidden_size, type);
  }
  if (corrects_deviation(options_))
    caches_->teacher = rows(TokenMatrix::kTeacher, config.hidden_size, type);
  bool tunes = false;
  for (int64_t layer = 0; layer < config.n_layers; ++layer)
    tunes = tunes || tunes_block(options_, config, layer);
  if (tunes) caches_->block_input = rows(TokenMatrix::kBlockInput, config.hidden_size, DType::kF32);
  const int64_t length = options_.sequence_length;
  const int64_t chunk =
      std::min(tokens, std::max<int64_t>(1, device_.chunk_tokens() / length) * length);
  caches_->residual = device_.allocate(chunk, config.hidden_size, DType::kF32);
  caches_->input = device_.allocate(chunk, config.hidden_size, type);
  caches_->attention = device_.allocate(chunk, attention_width, type);
  caches_->hidden = device_.allocate(chunk, config.intermediate_size, type);
}

void BlockQuantizer::run_block(const BlockWeights& weights, const TokenRows& stream,
                               bool keep_inputs) {
  const TokenRows nothing;
  const auto kept = [&](const TokenRows& rows) {
    return RowAccess{keep_inputs ? rows : nothing, RowUse::kWrite};
  };
  for_chunks({{stream, RowUse::kUpdate},
              kept(caches_->attention_input),
              kept(caches_->attention_result),
              kept(caches_->mlp_input),
              kept(caches_->mlp_hidden)},
             [&](Chunks chunks) {
               const auto place = [&](size_t i, const Tensor& scratch) {
                 return chunks[i].empty() ? scratch.row_range(0, chunks[0].rows()) : chunks[i];
               };
               stages_.forward(weights, chunks[0], options_.sequence_length,
                               {place(1, caches_->input), place(2, caches_->attention),
                                place(3, caches_->input), place(4, caches_->hidden)});
             });
}

void BlockQuantizer::copy_rows(const TokenRows& source, const TokenRows& destination) {
  for_chunks({{source, RowUse::kRead}, {destination, RowUse::kWrite}},
             [&](Chunks chunks) { device_.convert(chunks[0], chunks[1]); });
}

void BlockQuantizer::check_finite(int64_t layer, const char* what, const TokenRows& stream) {
  // Row of the chunk.
  int64_t first = window_range(options_, member_).first * options_.sequence_length;
  for_chunks({{stream, RowUse::kRead}}, [&](Chunks chunks) {
    const int64_t found = device_.first_non_finite_row(chunks[0]);
    if (found >= 0) {
      const int64_t row = first + found;
      fail(ErrorCode::kNumeric,
           "block {}: the {} stream holds NaN or Inf after it (window {}, token {}); the weights "
           "or activations overflow",
           layer, what, row / options_.sequence_length, row % options_.sequence_length);
    }
    first += chunks[0].rows();
  });
}

Linear densify(Device& device, const Linear& linear, DType dtype) {
  if (!linear.packed) return linear;
  const Matrix<uint8_t> codes = to_host<uint8_t>(device, linear.packed->codes);
  const Matrix<Half> scales = to_host<Half>(device, linear.packed->scales);
  Linear dense;
  dense.bias = linear.bias;
  dense.dense = expand(device, {linear.packed->layout, codes.span(), scales.span()}, dtype);
  return dense;
}

Linear BlockQuantizer::stream_linear(const StoredLinear& stored) const {
  Linear linear;
  if (!stored.bias.empty())
    linear.bias = to_device(device_, stored.bias, 1, static_cast<int64_t>(stored.bias.size()));
  linear.dense = in_dtype(
      device_,
      stored.solution ? expanded(device_, *stored.solution) : to_device(device_, stored.dense),
      options_.products);
  return linear;
}

BlockWeights BlockQuantizer::load(int64_t layer, DType dtype) const {
  BlockWeights weights;
  if (member_.is_first()) weights = load_block(device_, source_, layer, dtype);
  share_weights(device_, member_, weights);
  return weights;
}

StoredLinear BlockQuantizer::solve_linear(InputSetSolver& solver, int64_t layer,
                                          const char* projection, const Linear& linear) {
  StoredLinear stored;
  stored.name = linear_name(source_.config(), layer, projection);
  stored.bias.resize(static_cast<size_t>(linear.bias.size()));
  device_.download(linear.bias, stored.bias.data());
  // The Gram matrix sums over all tokens, times 2 / samples.
  stored.inputs =
      input_range(solver.input_energies(), 0.5 / static_cast<double>(options_.sequence_length));
  const LinearSettings settings =
      linear_settings(options_, stored.name, absorbs_column_scale(source_.config(), projection));
  if (settings.keep) {
    stored.dense = to_host<float>(device_, linear.dense);
    // What the file will hold: f16.
    for (float& value : stored.dense.span()) value = to_float(to_half(value));
  } else {
    stored.solution = solve_rows(
        device_, member_, linear.dense, settings.grid.column_scale, [&](const Tensor& rows) {
          return solver.solve(rows, settings.grid, settings.group_size, settings.middle_zero);
        });
  }
  return stored;
}

InputSetSolver BlockQuantizer::collect(Pass& pass, int64_t n_inputs, const char* projection,
                                       std::initializer_list<RowAccess> accesses,
                                       const AddChunk& add_chunk) {
  if (!needs_statistics(options_)) return {device_, n_inputs};
  pass.clock.enter("statistics");
  InputStatistics sums(device_, n_inputs, options_.samples, needs_fp_stream(options_));
  for_chunks(accesses, [&](Chunks chunks) { add_chunk(chunks, sums); });
  sums.sum_over(member_);
  pass.clock.enter("factorise");
  return sums.solver(options_, linear_name(source_.config(), pass.layer, projection), pass.clock);
}

void BlockQuantizer::solve(Pass& pass, InputSetSolver& solver, Projection projection) {
  const BlockLinear& linear = block_linear(projection);
  const Clock::time_point start = Clock::now();
  pass.clock.enter("solve");
  Linear& exact = pass.exact.*linear.member;
  StoredLinear stored = solve_linear(solver, pass.layer, linear.name, exact);
  exact.dense = {};
  pass.clock.enter("quantized stream");
  stored.seconds = seconds_since(start);
  // A column scale is first absorbed: until then the down-projection is not as it will be stored.
  if (!stored.solution || !stored.solution->has_column_scale) {
    pass.result.weights.*linear.member = stream_linear(stored);
    if (stored.solution) stored.solution->weight = {};
  }
  if (pass.on_linear) pass.on_linear(stored);
  pass.result.linears.push_back(std::move(stored));
}

QuantizedBlock BlockQuantizer::quantize(
    int64_t layer, const Streams& streams, const NormParams* final_norm,
    const std::function<void(const StoredLinear&)>& on_linear,
    const std::function<void(int64_t step, double loss)>& on_tune_step) {
  Pass pass{layer, streams, final_norm, on_linear, StageClock(device_), {}, {}, {}};
  pass.clock.enter("load");
  pass.exact = load(layer, DType::kF32);
  pass.fp = in_dtype(device_, pass.exact, options_.products);
  pass.result.weights = pass.fp;
  if (member_.is_first() && layer + 1 < source_.config().n_layers)
    source_.prefetch(block_tensors(source_, layer + 1));
  if (needs_fp_stream(options_)) {
    pass.clock.enter("full-precision stream");
    run_block(pass.fp, streams.fp, true);
    check_finite(layer, "full-precision", streams.fp);
  }
  if (tunes_block(options_, source_.config(), layer))
    copy_rows(streams.quantized, caches_->block_input);
  quantize_qkv(pass);
  quantize_o(pass);
  correct_mlp_norm(pass);
  quantize_up_and_gate(pass);
  quantize_down(pass);
  const bool absorbed = absorb_down_scale(pass);
  tune(pass, on_tune_step);
  if (needs_statistics(options_)) leave_block(pass, absorbed);
  pass.clock.stop();
  pass.result.stage_seconds = pass.clock.seconds();
  return std::move(pass.result);
}

void BlockQuantizer::replay(int64_t layer, const BlockWeights& stored, const Streams& streams) {
  if (!needs_statistics(options_)) return;
  if (needs_fp_stream(options_)) run_block(load(layer, options_.products), streams.fp, false);
  if (streams.quantized.empty()) return;
  BlockWeights weights = stored;
  if (member_.is_first()) {
    for (const BlockLinear& of_block : kBlockLinears) {
      Linear& linear = weights.*of_block.member;
      linear = densify(device_, linear, options_.products);
    }
  }
  share_weights(device_, member_, weights);
  run_block(weights, streams.quantized, false);
}

}  // namespace d2q
