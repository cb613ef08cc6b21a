// What a run costs, counted before it starts: sizes from the packed layouts, memory from the
// formula of docs/architecture.md, and the floor of floating-point work of METHOD.md §3.
#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "codec/packed_matrix.h"
#include "model/block.h"
#include "model/family.h"
#include "model/weight_source.h"
#include "quant/block_quantizer.h"
#include "quant/block_tuner.h"
#include "quant/end_tuner.h"
#include "quant/linear_settings.h"
#include "quant/pipeline.h"
#include "quant/window_order.h"

namespace d2q {
namespace {

/// Of a budget that tuning at the end leaves alone: its estimate is a sum of many terms.
constexpr int64_t kSpareShare = 16;
constexpr int64_t kRoundedRows = 16384;  // of the embedding at a time (round_to_packed)
constexpr int64_t kCheckedWindows = 4;   // that a result is checked on
constexpr int64_t kCheckedLength = 512;  // of one of them, at most

struct LinearShape {
  const char* projection;
  int64_t rows;
  int64_t cols;
  int64_t size() const { return rows * cols; }
};

std::vector<LinearShape> block_linears(const ModelConfig& c, bool gated) {
  const int64_t attention = c.n_heads * c.head_dim;
  const int64_t key_value = c.n_kv_heads * c.head_dim;
  std::vector<LinearShape> linears{{"q_proj", attention, c.hidden_size},
                                   {"k_proj", key_value, c.hidden_size},
                                   {"v_proj", key_value, c.hidden_size},
                                   {"o_proj", c.hidden_size, attention},
                                   {"up_proj", c.intermediate_size, c.hidden_size},
                                   {"down_proj", c.hidden_size, c.intermediate_size}};
  if (gated) linears.push_back({"gate_proj", c.intermediate_size, c.hidden_size});
  return linears;
}

/// One token's way through a block: its linears and attention.
struct ForwardFlops {
  double linear = 0.0;
  double attention = 0.0;  // causal: half of the T x T products, q kᵀ and p v
  double total() const { return linear + attention; }
};
ForwardFlops forward_flops(const ModelConfig& c, const QuantizeOptions& options, bool gated) {
  ForwardFlops flops;
  for (const LinearShape& shape : block_linears(c, gated))
    flops.linear += 2.0 * static_cast<double>(shape.size());
  flops.attention = 2.0 * static_cast<double>(options.sequence_length * c.n_heads * c.head_dim);
  return flops;
}

/// Floating-point operations of one token in one block: streams, teacher, statistics.
double flops_per_token(const ModelConfig& c, const QuantizeOptions& options, bool gated) {
  const ForwardFlops forward = forward_flops(c, options, gated);
  double attention_part = forward.attention;
  for (const LinearShape& shape : block_linears(c, gated)) {
    const std::string_view name(shape.projection);
    if (name == "q_proj" || name == "k_proj" || name == "v_proj" || name == "o_proj")
      attention_part += 2.0 * static_cast<double>(shape.size());
  }
  const auto square = [](int64_t n) { return static_cast<double>(n) * static_cast<double>(n); };
  const double gram =
      2.0 * square(c.hidden_size) + square(c.n_heads * c.head_dim) + square(c.intermediate_size);
  double total = forward.total() + gram;  // quantized stream, H
  if (BlockQuantizer::needs_fp_stream(options)) total += forward.total() + 2.0 * gram;  // fp, C
  if (BlockQuantizer::corrects_deviation(options)) total += attention_part;             // teacher
  return total;
}

/// Bytes that one token takes between the forward and the backward of a block.
int64_t tuned_token_bytes(const ModelConfig& c, DType products) {
  const int64_t attention = c.n_heads * c.head_dim;
  const int64_t projections = attention + 2 * c.n_kv_heads * c.head_dim;
  return 4 * (6 * c.hidden_size + projections + 5 * c.intermediate_size) +
         size_of(products) * (2 * c.hidden_size + attention + c.intermediate_size);
}

/// Bytes of one token that the backward of a block reads, beside the block's input.
int64_t kept_token_bytes(const ModelConfig& c, DType products) {
  const int64_t attention = c.n_heads * c.head_dim;
  const int64_t key_value = c.n_kv_heads * c.head_dim;
  // Queries and keys before their norms, too, where they have some.
  const int64_t plain = family_named(c.family).qk_norm ? attention + key_value : 0;
  return 4 * (c.hidden_size + attention + 2 * key_value + plain + 2 * c.intermediate_size) +
         size_of(products) * (2 * c.hidden_size + attention + c.intermediate_size);
}

/// Tokens of a step on `windows` windows.
int64_t batch_tokens(const QuantizeOptions& options, int64_t windows) {
  const int64_t training = options.samples - held_out_windows(options.samples);
  return std::min(windows, training) * options.sequence_length;
}

/// What tuning one block costs (METHOD.md §9).
class TuningCost {
 public:
  void add(const LinearShape& shape, const LinearSettings& settings) {
    weights_ += shape.size();
    if (!has_tuned_scales(settings)) return;
    const int64_t group = std::min(settings.group_size, shape.cols);
    tuned_ += shape.size();
    scales_ += shape.rows * ((shape.cols + group - 1) / group) * settings.grid.n_params();
    largest_ = std::max(largest_, shape.size());
  }

  double flops(const ModelConfig& c, const QuantizeOptions& options, bool gated) const {
    const ForwardFlops forward = forward_flops(c, options, gated);
    // Forward, gradients of inputs and of the tuned weights; attention's backward is five products
    // to the forward's two.
    const double step =
        2.0 * forward.linear + 2.0 * static_cast<double>(tuned_) + 3.5 * forward.attention;
    // The held-out windows twice, and the quantized stream's second way through the block.
    const auto forwards = static_cast<double>(
        (2 * held_out_windows(options.samples) + options.samples) * options.sequence_length);
    return static_cast<double>(options.tune_steps * batch_tokens(options, options.tune_windows)) *
               step +
           forwards * forward.total();
  }

  int64_t bytes(const ModelConfig& c, const QuantizeOptions& options) const {
    const int64_t element = size_of(options.products);
    // The block original, quantized and tuned; codes, one linear's gradient; of the scales start,
    // value, factor, its two moments and both gradients.
    return batch_tokens(options, options.tune_windows) * tuned_token_bytes(c, options.products) +
           3 * weights_ * element + tuned_ + 4 * largest_ + 4 * 7 * scales_;
  }

 private:
  int64_t weights_ = 0;
  int64_t tuned_ = 0;    // weights whose scales are tuned
  int64_t scales_ = 0;   // those scales
  int64_t largest_ = 0;  // weights of the largest linear among them
};

/// What tuning the whole model at the end costs (METHOD.md §9.2).
class EndTuningCost {
 public:
  void add(const LinearShape& shape, const LinearSettings& settings, DType products) {
    const PackedLayout layout = packed_layout(settings, shape.rows, shape.cols);
    if (settings.keep || !TunedScales::takes(layout)) {
      model_bytes_ += size_of(products) * shape.size();
      return;
    }
    const bool is_uniform = layout.kind == PackedKind::kUniform;
    const int64_t groups = layout.rows * layout.n_groups();
    const int64_t planes = is_uniform ? layout.bits + 1 : layout.n_params();
    tuned_ += shape.size();
    largest_ = std::max(largest_, shape.size());
    // Codes; of each plane start and value; of each factor its value and two moments.
    model_bytes_ += shape.size() + 4 * groups * (2 * planes + 3 * (is_uniform ? 1 : planes));
  }

  double flops(const ModelConfig& c, const QuantizeOptions& options, bool gated,
               int64_t kept_blocks) const {
    const ForwardFlops block = forward_flops(c, options, gated);
    const auto layers = static_cast<double>(c.n_layers);
    const double head = 2.0 * static_cast<double>(c.vocab_size * c.hidden_size);
    // A forward, another one of the blocks that are not kept, and the gradients of inputs and of
    // tuned weights; the head of both models, and the gradient of its input.
    const double step = layers * (2.0 * block.linear + 3.5 * block.attention) +
                        static_cast<double>(c.n_layers - kept_blocks) * block.total() +
                        2.0 * static_cast<double>(tuned_) + 3.0 * head;
    const double measured = layers * block.total() + 2.0 * head;
    return static_cast<double>(options.end_tune_steps *
                               batch_tokens(options, options.end_tune_windows)) *
               step +
           static_cast<double>(2 * held_out_windows(options.samples) * options.sequence_length) *
               measured;
  }

  int64_t bytes(const ModelConfig& c, const QuantizeOptions& options, int64_t block_weights) const {
    const int64_t element = size_of(options.products);
    const int64_t d = c.hidden_size;
    // The teacher's stream; each block's input; stream, gradient and final norm's output.
    const int64_t stream = 4 * d * options.samples * options.sequence_length;
    const int64_t token_bytes = 4 * d * (c.n_layers + 3) + tuned_token_bytes(c, options.products);
    const int64_t logits = 2 * 4 * c.vocab_size * logit_rows(c.vocab_size, options.sequence_length);
    // The embedding in f16, both heads; a dense block, one linear's gradient.
    return stream + batch_tokens(options, options.end_tune_windows) * token_bytes + logits +
           model_bytes_ + (2 + 2 * element) * c.vocab_size * d + element * block_weights +
           4 * largest_;
  }

 private:
  int64_t model_bytes_ = 0;
  int64_t tuned_ = 0;    // weights whose scales are tuned
  int64_t largest_ = 0;  // weights of the largest linear among them
};

/// The embedding or the head in the packed folder.
int64_t rest_bytes(const ModelConfig& c, int bits, const QuantizeOptions& options) {
  if (bits == 16) return 2 * c.vocab_size * c.hidden_size;
  const PackedLayout layout{PackedKind::kUniform, bits, c.vocab_size, c.hidden_size,
                            std::min(options.group_size, c.hidden_size)};
  return packed_bytes(layout);
}

/// The memory of a run on a device but for the tuning of blocks and at the end. `block_weights` are
/// a block's.
MemoryNeeds memory_needs(const ModelConfig& c, const QuantizeOptions& options,
                         int64_t block_weights) {
  const Family& family = family_named(c.family);
  const int64_t d = c.hidden_size, a = c.n_heads * c.head_dim, f = c.intermediate_size;
  const int64_t k = c.n_kv_heads * c.head_dim;
  const int64_t element = size_of(options.products);
  const int64_t positions = family.positions == Positions::kLearned ? c.max_positions * d : 0;
  const int64_t embedding = c.vocab_size * d + positions;
  MemoryNeeds needs;
  needs.tokens = options.samples * options.sequence_length;
  needs.sequence_length = options.sequence_length;
  const auto set = [&](TokenMatrix matrix, int64_t bytes) {
    needs.row_bytes[static_cast<size_t>(matrix)] = bytes;
  };
  if (BlockQuantizer::needs_statistics(options)) {
    set(TokenMatrix::kQuantizedStream, 4 * d);
    set(TokenMatrix::kAttentionResult, element * a);
    set(TokenMatrix::kMlpHidden, element * f);
    set(TokenMatrix::kBlockInput, 4 * d);
    needs.chunk_token_bytes = 4 * d + element * (d + a + f);
    needs.attention_token_bytes =
        std::max(4 * (family.qk_norm ? 2 : 1) * (a + 2 * k) + element * 2 * k, 4 * d);
    needs.mlp_token_bytes = 4 * std::max((family.gated_mlp ? 2 : 1) * f, d);
    if (BlockQuantizer::needs_fp_stream(options)) {
      set(TokenMatrix::kFpStream, 4 * d);
      set(TokenMatrix::kAttentionInput, element * d);
      set(TokenMatrix::kMlpInput, element * d);
    }
    if (BlockQuantizer::corrects_deviation(options)) set(TokenMatrix::kTeacher, element * d);
  }
  // The embedding in f32 and as it is stored, or rounded a slice at a time.
  const bool rounds = options.embed_bits != 16 || options.head_bits != 16;
  const int64_t slice = rounds ? 20 * std::min<int64_t>(c.vocab_size, kRoundedRows) * d : 0;
  needs.start_bytes = 6 * embedding + (rounds ? std::max(4 * embedding, slice) : 0);
  if (options.calibration == "self")
    needs.start_bytes = std::max(
        needs.start_bytes, element * (c.n_layers * block_weights + 2 * embedding) + 4 * embedding);
  needs.pass_bytes = 8 * block_weights + 8 * std::max({d * d, a * a, f * f});
  needs.block_bytes = 0;
  for (const LinearShape& shape : block_linears(c, family.gated_mlp)) {
    // Gram matrix, factors and target map; the walk's matrices of a linear's size.
    const int64_t square = shape.cols * shape.cols;
    needs.block_bytes = std::max(
        needs.block_bytes, 8 * block_weights + std::max(40 * square, 32 * (square + shape.size())));
  }
  const int64_t checked = kCheckedWindows * std::min(options.sequence_length, kCheckedLength);
  // The result is checked on a few windows: embedding, head, a block, logits of one window.
  needs.end_bytes = std::max(slice, (4 + element) * embedding + 8 * block_weights +
                                        checked * (c.vocab_size + 24 * d + 12 * f));
  return needs;
}

}  // namespace

QuantizePlan plan_quantization(const std::filesystem::path& model, const QuantizeOptions& options,
                               const MemoryBudget& budget) {
  return plan_quantization(open_model(model)->config(), options, budget);
}

QuantizePlan plan_quantization(const ModelConfig& c, const QuantizeOptions& options,
                               const MemoryBudget& budget) {
  validate(options);
  check_patterns(c, options);
  const bool gated = family_named(c.family).gated_mlp;
  QuantizePlan plan;
  double weights = 0.0;
  int64_t linear_bytes = 0;
  int64_t block_weights = 0;
  int64_t tuning_bytes = 0;
  double tuning_flops = 0.0;
  EndTuningCost end_tuning;
  for (int64_t layer = 0; layer < c.n_layers; ++layer) {
    block_weights = 0;
    TuningCost tuning;
    for (const LinearShape& shape : block_linears(c, gated)) {
      const std::string name = linear_name(c, layer, shape.projection);
      const LinearSettings settings =
          linear_settings(options, name, absorbs_column_scale(c, shape.projection));
      block_weights += shape.size();
      tuning.add(shape, settings);
      end_tuning.add(shape, settings, options.products);
      if (settings.keep) {
        plan.output_bytes += shape.size() * 2;
        continue;
      }
      linear_bytes += packed_bytes(packed_layout(settings, shape.rows, shape.cols));
      weights += static_cast<double>(shape.size());
    }
    if (!tunes_block(options, c, layer)) continue;
    tuning_bytes = std::max(tuning_bytes, tuning.bytes(c, options));
    tuning_flops += tuning.flops(c, options, gated);
  }
  // Before the bits are allocated no more is known than what they may come to.
  if (options.target_bits > 0.0 && options.allocated_bits.empty())
    linear_bytes = static_cast<int64_t>(options.target_bits * weights / 8.0);
  plan.bits_per_weight = weights > 0.0 ? 8.0 * static_cast<double>(linear_bytes) / weights : 16.0;
  const bool untied = !c.tied_embeddings || options.rotation != RotationKind::kNone;
  const bool learned = family_named(c.family).positions == Positions::kLearned;
  const int64_t embedding = c.vocab_size * c.hidden_size;
  const int64_t positions = learned ? c.max_positions * c.hidden_size : 0;
  plan.output_bytes += linear_bytes + 2 * positions + rest_bytes(c, options.embed_bits, options) +
                       (untied ? rest_bytes(c, options.head_bits, options) : 0) +
                       8 * c.hidden_size * (2 * c.n_layers + 1);

  MemoryNeeds needs = memory_needs(c, options, block_weights);
  const int64_t all_tokens = needs.tokens;
  needs.tokens =
      (options.samples + budget.n_devices - 1) / budget.n_devices * options.sequence_length;
  needs.block_bytes = std::max(needs.block_bytes, tuning_bytes);
  const int64_t check_bytes = options.calibration.empty() ? 0 : needs.end_bytes;
  if (!BlockQuantizer::needs_statistics(options)) {
    plan.placement = place_streams(needs, budget.chunk_tokens, budget.bytes);
    plan.peak_memory_bytes = std::max(6 * (embedding + positions), check_bytes);
    return plan;
  }
  const bool tunes = tuning_bytes > 0;
  if (!tunes) needs.row_bytes[static_cast<size_t>(TokenMatrix::kBlockInput)] = 0;
  int64_t streams = 0;  // of a token
  int64_t caches = 0;
  for (size_t i = 0; i < kTokenMatrices; ++i) {
    const auto matrix = static_cast<TokenMatrix>(i);
    const bool is_stream = matrix == TokenMatrix::kFpStream || matrix == TokenMatrix::kBlockInput ||
                           matrix == TokenMatrix::kQuantizedStream;
    (is_stream ? streams : caches) += needs.row_bytes[i];
  }
  const int64_t largest = std::max({c.hidden_size, c.intermediate_size, c.n_heads * c.head_dim});
  const int64_t solving = 8 * block_weights + 40 * largest * largest;
  const int64_t blocks_memory =
      needs.tokens * streams + std::max(4 * (embedding + positions),
                                        needs.tokens * caches + std::max(solving, tuning_bytes));
  // The embedding while it is read, in the host's memory and the device's, and beside the streams
  // that it begins; the head while it is written.
  plan.peak_memory_bytes =
      std::max({blocks_memory, 8 * (embedding + positions),
                needs.tokens * streams + 6 * (embedding + positions), check_bytes});
  plan.floor_flops = static_cast<double>(all_tokens) * static_cast<double>(c.n_layers) *
                         flops_per_token(c, options, gated) +
                     tuning_flops;
  // Of the teacher's stream a device has its windows'.
  const int64_t teacher_row = needs.row_bytes[static_cast<size_t>(TokenMatrix::kFpStream)];
  const int64_t teacher_stream = needs.tokens * teacher_row;
  const int64_t end_memory = tunes_end(options) ? end_tuning.bytes(c, options, block_weights) -
                                                      all_tokens * teacher_row + teacher_stream
                                                : int64_t{0};
  plan.peak_memory_bytes = std::max(plan.peak_memory_bytes, end_memory);
  needs.end_bytes = std::max(needs.end_bytes, end_memory - teacher_stream);
  plan.placement = place_streams(needs, budget.chunk_tokens, budget.bytes);
  if (plan.placement.host_bytes > 0) plan.peak_memory_bytes = plan.placement.device_bytes;
  if (!tunes_end(options)) return plan;
  int64_t room = blocks_memory - end_memory;
  if (plan.placement.host_bytes > 0) {
    const int64_t stream = plan.placement.on_host(TokenMatrix::kFpStream) ? 0 : teacher_stream;
    room = *budget.bytes - *budget.bytes / kSpareShare - (end_memory - teacher_stream + stream);
  }
  const int64_t kept_bytes =
      batch_tokens(options, options.end_tune_windows) * kept_token_bytes(c, options.products);
  plan.end_tune_kept_blocks = std::clamp<int64_t>(room / kept_bytes, 0, c.n_layers);
  plan.floor_flops += end_tuning.flops(c, options, gated, plan.end_tune_kept_blocks);
  return plan;
}

}  // namespace d2q
