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
#include "quant/linear_settings.h"
#include "quant/pipeline.h"

namespace d2q {
namespace {

struct LinearShape {
  const char* projection;
  int64_t rows;
  int64_t cols;
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

/// Floating-point operations of one token in one block: streams, teacher, statistics.
double flops_per_token(const ModelConfig& c, const QuantizeOptions& options, bool gated) {
  double linear = 0.0;
  double attention_part = 0.0;
  for (const LinearShape& shape : block_linears(c, gated)) {
    const double flops = 2.0 * static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
    linear += flops;
    const std::string_view name(shape.projection);
    if (name == "q_proj" || name == "k_proj" || name == "v_proj" || name == "o_proj")
      attention_part += flops;
  }
  // Causal: half of the T x T products, q kᵀ and p v.
  const double attention =
      2.0 * static_cast<double>(options.sequence_length * c.n_heads * c.head_dim);
  const auto square = [](int64_t n) { return static_cast<double>(n) * static_cast<double>(n); };
  const double gram =
      2.0 * square(c.hidden_size) + square(c.n_heads * c.head_dim) + square(c.intermediate_size);
  double total = linear + attention + gram;  // quantized stream, H
  if (BlockQuantizer::needs_fp_stream(options))
    total += linear + attention + 2.0 * gram;  // fp stream, C
  if (BlockQuantizer::corrects_deviation(options)) total += attention_part + attention;  // teacher
  return total;
}

}  // namespace

QuantizePlan plan_quantization(const std::filesystem::path& model, const QuantizeOptions& options) {
  validate(options);
  const auto source = open_model(model);
  const ModelConfig& c = source->config();
  const bool gated = family_named(c.family).gated_mlp;
  QuantizePlan plan;
  double weights = 0.0;
  int64_t packed_bytes = 0;
  int64_t block_weights = 0;
  for (int64_t layer = 0; layer < c.n_layers; ++layer) {
    block_weights = 0;
    for (const LinearShape& shape : block_linears(c, gated)) {
      const std::string name = linear_name(c, layer, shape.projection);
      const LinearSettings settings =
          linear_settings(options, name, std::string_view(shape.projection) == "down_proj");
      block_weights += shape.rows * shape.cols;
      if (settings.keep) {
        plan.output_bytes += shape.rows * shape.cols * 2;
        continue;
      }
      PackedLayout layout;
      layout.kind =
          settings.grid.kind == GridKind::kUniform ? PackedKind::kUniform : PackedKind::kSignPlanes;
      layout.bits = settings.grid.bits;
      layout.rows = shape.rows;
      layout.cols = shape.cols;
      layout.group_size = std::min(settings.group_size, shape.cols);
      packed_bytes += codes_bytes(layout) + 2 * scales_count(layout);
      weights += static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
    }
  }
  plan.bits_per_weight = weights > 0.0 ? 8.0 * static_cast<double>(packed_bytes) / weights : 16.0;
  const bool untied = !c.tied_embeddings || options.rotation != RotationKind::kNone;
  const int64_t embedding = c.vocab_size * c.hidden_size;
  plan.output_bytes +=
      packed_bytes + 2 * embedding * (untied ? 2 : 1) + 8 * c.hidden_size * (2 * c.n_layers + 1);

  const int64_t tokens = options.samples * options.sequence_length;
  const int64_t element = size_of(options.products);
  const int64_t largest = std::max({c.hidden_size, c.intermediate_size, c.n_heads * c.head_dim});
  int64_t memory = 4 * embedding;  // the embedding in hand, f32
  if (BlockQuantizer::needs_statistics(options)) {
    int64_t stream_bytes = 4 * c.hidden_size;  // X_q
    int64_t cache_bytes =
        element * (c.n_heads * c.head_dim + c.intermediate_size);  // inputs of o and down
    if (BlockQuantizer::needs_fp_stream(options)) {
      stream_bytes += 4 * c.hidden_size;           // X_fp
      cache_bytes += element * 2 * c.hidden_size;  // inputs of q,k,v and gate,up
    }
    if (BlockQuantizer::corrects_deviation(options)) cache_bytes += element * c.hidden_size;
    memory = std::max(memory,
                      tokens * cache_bytes + 2 * block_weights * element + 40 * largest * largest) +
             tokens * stream_bytes;
    plan.floor_flops = static_cast<double>(tokens) * static_cast<double>(c.n_layers) *
                       flops_per_token(c, options, gated);
  }
  plan.peak_memory_bytes = memory;
  return plan;
}

}  // namespace d2q
