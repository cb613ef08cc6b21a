#include "quant/block_quantizer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "codec/packed_matrix.h"
#include "kernels/host_copy.h"
#include "quant/absorb.h"
#include "quant/linear_settings.h"

namespace d2q {
namespace {

using Clock = std::chrono::steady_clock;

/// Windows are taken several at a time until a chunk has about this many tokens.
constexpr int64_t kChunkTokens = 2048;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Rows of a cache, or nothing of a cache that the options do not need.
Tensor rows_of(const Tensor& tensor, int64_t begin, int64_t count) {
  return tensor.empty() ? Tensor{} : tensor.row_range(begin, count);
}

/// H and C of one input set (METHOD.md §3), accumulated chunk by chunk; D = C − H.
class InputStatistics {
 public:
  InputStatistics(Device& device, int64_t n, int64_t n_samples, bool with_cross)
      : device_(device),
        scale_(2.0f / static_cast<float>(n_samples)),
        gram_(device.allocate(n, n, DType::kF32)) {
    device_.fill_zero(gram_);
    if (!with_cross) return;
    cross_ = device.allocate(n, n, DType::kF32);
    device_.fill_zero(cross_);
  }

  /// x, x_fp: [T, n]; x_fp is read only when the cross term is wanted.
  void add(const Tensor& x, const Tensor& x_fp) {
    device_.accumulate_gram(x, scale_, gram_);
    if (!cross_.empty()) device_.accumulate_cross(x_fp, x, scale_, cross_);
  }

  InputSetSolver solver(ThreadPool& pool, const QuantizeOptions& options,
                        const std::string& subject) {
    device_.mirror_lower(gram_);
    return {device_,
            pool,
            to_host<float>(device_, gram_),
            cross_.empty() ? Matrix<float>() : to_host<float>(device_, cross_),
            {options.alpha, options.damping,
             options.refine && options.method == QuantMethod::kD2Quant, options.refine_rounds},
            subject};
  }

 private:
  Device& device_;
  float scale_;
  Tensor gram_;
  Tensor cross_;
};

/// Moments of teacher − student (METHOD.md §6).
class Deviation {
 public:
  Deviation(Device& device, int64_t n)
      : device_(device), moments_(device.allocate(2, n, DType::kF64)) {
    device_.fill_zero(moments_);
  }
  void add(const Tensor& teacher, const Tensor& student) {
    device_.accumulate_difference(teacher, student, moments_);
  }
  DeviationShift shift(int64_t n_tokens, const ShiftGate& gate) {
    return deviation_shift(to_host<double>(device_, moments_), n_tokens, gate);
  }

 private:
  Device& device_;
  Tensor moments_;
};

}  // namespace

/// The inputs of each linear of the block in hand for all tokens, in the dtype of the products. The
/// fp stream's come first; attention_result and mlp_hidden are then overwritten by the quantized
/// stream's, chunk by chunk, once their statistics are taken.
struct BlockQuantizer::Caches {
  Tensor attention_input;   // [T, hidden]
  Tensor attention_result;  // [T, n_heads * head_dim], the input of o_proj
  Tensor mlp_input;         // [T, hidden]
  Tensor mlp_hidden;        // [T, intermediate], the input of down_proj
  Tensor teacher;           // [T, hidden], output of a norm of the uncorrected block
  // One chunk of each.
  Tensor residual;   // [chunk, hidden] f32
  Tensor input;      // [chunk, hidden]
  Tensor attention;  // [chunk, n_heads * head_dim]
  Tensor hidden;     // [chunk, intermediate]
};

BlockQuantizer::BlockQuantizer(Device& device, ThreadPool& pool, const WeightSource& source,
                               const QuantizeOptions& options, const RopeTables& rope)
    : device_(device),
      pool_(pool),
      source_(source),
      options_(options),
      rope_(rope),
      stages_(device, source.config(), rope_, options.products) {
  if (needs_statistics(options)) allocate_caches();
}

BlockQuantizer::~BlockQuantizer() = default;

bool BlockQuantizer::needs_statistics(const QuantizeOptions& options) {
  return options.method != QuantMethod::kRtn;
}

bool BlockQuantizer::needs_fp_stream(const QuantizeOptions& options) {
  const bool asymmetric =
      options.method == QuantMethod::kGptaq || options.method == QuantMethod::kD2Quant;
  return asymmetric && options.alpha != 0.0;
}

bool BlockQuantizer::corrects_deviation(const QuantizeOptions& options) {
  return options.method == QuantMethod::kD2Quant && options.deviation_correction;
}

void BlockQuantizer::for_chunks(
    const std::function<void(int64_t begin, int64_t count)>& body) const {
  const int64_t length = options_.sequence_length;
  const int64_t step = std::max<int64_t>(1, kChunkTokens / length) * length;
  const int64_t total = options_.samples * length;
  for (int64_t begin = 0; begin < total; begin += step) body(begin, std::min(step, total - begin));
}

void BlockQuantizer::allocate_caches() {
  const ModelConfig& config = source_.config();
  const int64_t tokens = options_.samples * options_.sequence_length;
  const DType type = options_.products;
  const int64_t attention_width = config.n_heads * config.head_dim;
  caches_ = std::make_unique<Caches>();
  caches_->attention_result = device_.allocate(tokens, attention_width, type);
  caches_->mlp_hidden = device_.allocate(tokens, config.intermediate_size, type);
  if (needs_fp_stream(options_)) {
    caches_->attention_input = device_.allocate(tokens, config.hidden_size, type);
    caches_->mlp_input = device_.allocate(tokens, config.hidden_size, type);
  }
  if (corrects_deviation(options_))
    caches_->teacher = device_.allocate(tokens, config.hidden_size, type);
  int64_t chunk = 0;
  for_chunks([&](int64_t, int64_t count) { chunk = std::max(chunk, count); });
  caches_->residual = device_.allocate(chunk, config.hidden_size, DType::kF32);
  caches_->input = device_.allocate(chunk, config.hidden_size, type);
  caches_->attention = device_.allocate(chunk, attention_width, type);
  caches_->hidden = device_.allocate(chunk, config.intermediate_size, type);
}

void BlockQuantizer::run_block(const BlockWeights& weights, const Tensor& stream,
                               bool keep_inputs) {
  for_chunks([&](int64_t begin, int64_t count) {
    const auto place = [&](const Tensor& kept, const Tensor& scratch) {
      return keep_inputs ? kept.row_range(begin, count) : scratch.row_range(0, count);
    };
    const Tensor x = stream.row_range(begin, count);
    const Tensor h = place(caches_->attention_input, caches_->input);
    stages_.attention_input(weights, x, h);
    const Tensor a = place(caches_->attention_result, caches_->attention);
    stages_.attention(weights, h, options_.sequence_length, a);
    stages_.attention_output(weights, a, x);
    const Tensor h2 = place(caches_->mlp_input, caches_->input);
    stages_.mlp_input(weights, x, h2);
    const Tensor m = place(caches_->mlp_hidden, caches_->hidden);
    stages_.mlp(weights, h2, m);
    stages_.mlp_output(weights, m, x);
  });
}

void BlockQuantizer::check_finite(int64_t layer, const char* what, const Tensor& stream) {
  const int64_t row = device_.first_non_finite_row(stream);
  if (row < 0) return;
  fail(ErrorCode::kNumeric,
       "block {}: the {} stream holds NaN or Inf after it (window {}, token {}); the weights or "
       "activations overflow",
       layer, what, row / options_.sequence_length, row % options_.sequence_length);
}

Linear densify(Device& device, const Linear& linear, DType dtype) {
  if (!linear.packed) return linear;
  const PackedLayout& layout = linear.packed->layout;
  Matrix<float> weights(layout.rows, layout.cols);
  dequantize(*linear.packed, weights.span());
  Linear dense;
  dense.bias = linear.bias;
  dense.dense = to_device(device, weights, dtype);
  return dense;
}

Linear BlockQuantizer::stream_linear(const StoredLinear& stored) const {
  Linear linear;
  if (!stored.bias.empty())
    linear.bias = to_device(device_, stored.bias, 1, static_cast<int64_t>(stored.bias.size()));
  if (stored.solution) {
    const PackedLinear packed = pack_solution(*stored.solution);
    linear.packed = packed.view();
    return densify(device_, linear, options_.products);
  }
  linear.dense = to_device(device_, stored.dense, options_.products);
  return linear;
}

StoredLinear BlockQuantizer::solve_linear(InputSetSolver& solver, int64_t layer,
                                          const char* projection) {
  const Clock::time_point start = Clock::now();
  StoredLinear stored;
  stored.name = linear_name(source_.config(), layer, projection);
  Matrix<float> weight = source_.load(stored.name + ".weight");
  if (source_.has(stored.name + ".bias")) {
    const Matrix<float> bias = source_.load(stored.name + ".bias");
    stored.bias.assign(bias.data(), bias.data() + bias.size());
  }
  const LinearSettings settings =
      linear_settings(options_, stored.name, std::string_view(projection) == "down_proj");
  if (settings.keep) {
    // What the file will hold: f16.
    for (float& value : weight.span()) value = to_float(to_half(value));
    stored.dense = std::move(weight);
  } else {
    stored.solution = solver.solve(weight, settings.grid, settings.group_size);
  }
  stored.seconds = seconds_since(start);
  return stored;
}

QuantizedBlock BlockQuantizer::quantize(int64_t layer, const Streams& streams,
                                        const NormParams* final_norm,
                                        const std::function<void(const StoredLinear&)>& on_linear) {
  const ModelConfig& config = source_.config();
  const bool statistics = needs_statistics(options_);
  const bool correct = corrects_deviation(options_);
  const bool with_fp = needs_fp_stream(options_);
  const int64_t n_tokens = options_.samples * options_.sequence_length;
  const int64_t length = options_.sequence_length;
  const int64_t attention_width = config.n_heads * config.head_dim;

  QuantizedBlock result;
  const BlockWeights fp = load_block(device_, source_, layer, options_.products);
  result.weights = fp;
  BlockWeights& current = result.weights;
  const bool gated = !fp.gate.dense.empty();

  Clock::time_point stage_start = Clock::now();
  const auto statistics_for = [&](int64_t n) {
    return InputStatistics(device_, statistics ? n : 1, options_.samples, with_fp && statistics);
  };
  const auto solver_for = [&](InputStatistics& sums, int64_t n, const char* projection) {
    result.stream_seconds += seconds_since(stage_start);
    return statistics ? sums.solver(pool_, options_, linear_name(config, layer, projection))
                      : InputSetSolver(device_, pool_, n);
  };
  const auto solve = [&](InputSetSolver& solver, const char* projection, Linear& linear) {
    StoredLinear stored = solve_linear(solver, layer, projection);
    // A column scale is first absorbed: until then the down-projection is not as it will be stored.
    if (!stored.solution || !stored.solution->has_column_scale) linear = stream_linear(stored);
    if (on_linear) on_linear(stored);
    result.linears.push_back(std::move(stored));
    stage_start = Clock::now();
  };

  if (with_fp) {
    run_block(fp, streams.fp, true);
    check_finite(layer, "full-precision", streams.fp);
  }

  {  // q, k, v; and the teacher of the post-attention norm from the unquantized block.
    InputStatistics sums = statistics_for(config.hidden_size);
    if (statistics) {
      for_chunks([&](int64_t begin, int64_t count) {
        const Tensor x = streams.quantized.row_range(begin, count);
        const Tensor h = caches_->input.row_range(0, count);
        stages_.attention_input(fp, x, h);
        sums.add(h, rows_of(caches_->attention_input, begin, count));
        if (!correct) return;
        const Tensor a = caches_->attention.row_range(0, count);
        const Tensor after = caches_->residual.row_range(0, count);
        stages_.attention(fp, h, length, a);
        device_.convert(x, after);
        stages_.attention_output(fp, a, after);
        stages_.mlp_input(fp, after, caches_->teacher.row_range(begin, count));
      });
    }
    InputSetSolver solver = solver_for(sums, config.hidden_size, "q_proj");
    solve(solver, "k_proj", current.k);
    solve(solver, "v_proj", current.v);
    solve(solver, "q_proj", current.q);
  }
  {  // o
    InputStatistics sums = statistics_for(attention_width);
    if (statistics) {
      for_chunks([&](int64_t begin, int64_t count) {
        const Tensor h = caches_->input.row_range(0, count);
        const Tensor a = caches_->attention.row_range(0, count);
        const Tensor kept = caches_->attention_result.row_range(begin, count);
        stages_.attention_input(current, streams.quantized.row_range(begin, count), h);
        stages_.attention(current, h, length, a);
        sums.add(a, kept);
        device_.convert(a, kept);
      });
    }
    InputSetSolver solver = solver_for(sums, attention_width, "o_proj");
    solve(solver, "o_proj", current.o);
  }
  {  // up, gate, behind the corrected norm
    InputStatistics sums = statistics_for(config.hidden_size);
    if (statistics) {
      Deviation deviation(device_, config.hidden_size);
      for_chunks([&](int64_t begin, int64_t count) {
        const Tensor x = streams.quantized.row_range(begin, count);
        stages_.attention_output(current, caches_->attention_result.row_range(begin, count), x);
        if (!correct) return;
        const Tensor student = caches_->input.row_range(0, count);
        stages_.mlp_input(current, x, student);
        deviation.add(caches_->teacher.row_range(begin, count), student);
      });
      if (correct) {
        result.deviation = deviation.shift(n_tokens, options_.shift_gate);
        current.mlp_norm.shift = to_device(device_, result.deviation->shift, 1, config.hidden_size);
        if (!fp.mlp_norm.shift.empty()) device_.add(current.mlp_norm.shift, fp.mlp_norm.shift);
      }
      for_chunks([&](int64_t begin, int64_t count) {
        const Tensor h = caches_->input.row_range(0, count);
        stages_.mlp_input(current, streams.quantized.row_range(begin, count), h);
        sums.add(h, rows_of(caches_->mlp_input, begin, count));
      });
    }
    InputSetSolver solver = solver_for(sums, config.hidden_size, "up_proj");
    solve(solver, "up_proj", current.up);
    if (gated) solve(solver, "gate_proj", current.gate);
  }
  {  // down
    InputStatistics sums = statistics_for(config.intermediate_size);
    if (statistics) {
      for_chunks([&](int64_t begin, int64_t count) {
        const Tensor x = streams.quantized.row_range(begin, count);
        const Tensor h = caches_->input.row_range(0, count);
        const Tensor m = caches_->hidden.row_range(0, count);
        const Tensor kept = caches_->mlp_hidden.row_range(begin, count);
        stages_.mlp_input(current, x, h);
        stages_.mlp(current, h, m);
        sums.add(m, kept);
        device_.convert(m, kept);
        if (final_norm == nullptr || !correct) return;
        // The final norm's teacher: this block's MLP still unquantized.
        const Tensor after = caches_->residual.row_range(0, count);
        device_.convert(x, after);
        stages_.mlp(fp, h, m);
        stages_.mlp_output(fp, m, after);
        device_.norm(after, *final_norm, caches_->teacher.row_range(begin, count));
      });
    }
    InputSetSolver solver = solver_for(sums, config.intermediate_size, "down_proj");
    solve(solver, "down_proj", current.down);
  }

  StoredLinear& down = result.linears.back();
  const bool absorbs = down.solution && down.solution->has_column_scale;
  if (absorbs) {
    const auto up =
        std::find_if(result.linears.begin(), result.linears.end(), [&](const StoredLinear& linear) {
          return linear.name == linear_name(config, layer, "up_proj");
        });
    D2Q_CHECK(up != result.linears.end(), "no up_proj in block {}", layer);
    if (up->solution) {
      absorb_column_scale(*down.solution, *up->solution, up->bias);
    } else {
      absorb_column_scale(*down.solution, up->dense, up->bias);
      for (float& value : up->dense.span()) value = to_float(to_half(value));
    }
    current.up = stream_linear(*up);
    current.down = stream_linear(down);
  }
  if (!statistics) return result;

  Deviation deviation(device_, config.hidden_size);
  for_chunks([&](int64_t begin, int64_t count) {
    const Tensor x = streams.quantized.row_range(begin, count);
    // Without absorption the kept input of down_proj is what the stored weights give.
    const Tensor m = caches_->mlp_hidden.row_range(begin, count);
    if (absorbs) {
      const Tensor h = caches_->input.row_range(0, count);
      stages_.mlp_input(current, x, h);
      stages_.mlp(current, h, m);
    }
    stages_.mlp_output(current, m, x);
    if (final_norm == nullptr || !correct) return;
    const Tensor student = caches_->input.row_range(0, count);
    device_.norm(x, *final_norm, student);
    deviation.add(caches_->teacher.row_range(begin, count), student);
  });
  if (final_norm != nullptr && correct)
    result.final_deviation = deviation.shift(n_tokens, options_.shift_gate);
  check_finite(layer, "quantized", streams.quantized);
  result.stream_seconds += seconds_since(stage_start);
  return result;
}

void BlockQuantizer::replay(int64_t layer, const BlockWeights& stored, const Streams& streams) {
  if (!needs_statistics(options_)) return;
  if (needs_fp_stream(options_))
    run_block(load_block(device_, source_, layer, options_.products), streams.fp, false);
  BlockWeights weights = stored;
  for (Linear* linear : {&weights.q, &weights.k, &weights.v, &weights.o, &weights.gate, &weights.up,
                         &weights.down}) {
    *linear = densify(device_, *linear, options_.products);
  }
  run_block(weights, streams.quantized, false);
}

}  // namespace d2q
