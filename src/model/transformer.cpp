#include "model/transformer.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

#include "model/attention_projections.h"
#include "model/input_embedding.h"
#include "model/load_weights.h"

namespace d2q {
namespace {

// Rows that run through all blocks together (whole sequences, so at least one): enough to keep
// products busy, and the stages' matrices stay in tens of megabytes.
constexpr int64_t kBatchRows = 4096;
// Tokens of a long prompt that go through the cache at once.
constexpr int64_t kPrefillTokens = 1024;

std::array<const Linear*, 7> linears_of(const BlockWeights& w) {
  return {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down};
}

}  // namespace

struct Transformer::Impl {
  Device& device;
  std::shared_ptr<const WeightSource> source;
  const ModelConfig& config;
  DType products;
  InputEmbedding embedding;
  BlockResidency residency;
  std::vector<BlockWeights> blocks;  // empty when streamed
  NormParams final_norm;
  Linear output;
  RopeTables rope;                      // grown by rope_for()
  std::vector<int32_t> next_positions;  // of run_blocks_cached(); kept for its memory

  Impl(Device& target, std::shared_ptr<const WeightSource> weights, DType precision,
       BlockResidency where)
      : device(target),
        source(std::move(weights)),
        config(source->config()),
        products(precision),
        residency(where) {
    D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products in dtype {}",
              static_cast<int>(products));
    const Family& family = family_named(config.family);
    const ModuleNames& names = family.modules;
    const std::string embedding_module(names.embedding.hf);
    embedding = InputEmbedding(device, *source, products);
    for (int64_t layer = 0; residency == BlockResidency::kLoaded && layer < config.n_layers;
         ++layer) {
      blocks.push_back(load_block(device, *source, layer, products));
    }
    final_norm = load_norm(device, *source, std::string(names.final_norm.hf), family.norm);
    if (!config.tied_embeddings) {
      output = load_linear(device, *source, std::string(names.head.hf), products);
    } else {
      const auto packed = source->packed(embedding_module + ".weight");
      if (embedding.packed_tokens()) {
        output.packed = embedding.packed_tokens();
      } else if (packed && device.runs_packed(packed->layout)) {
        output.packed = device.upload_packed(*packed);
      } else {
        output.dense = embedding.tokens();
      }
    }
  }

  /// Shares the loaded tensors, or loads them.
  BlockWeights block(size_t layer) const {
    return residency == BlockResidency::kLoaded
               ? blocks[layer]
               : load_block(device, *source, static_cast<int64_t>(layer), products);
  }
  size_t n_blocks() const { return static_cast<size_t>(config.n_layers); }

  /// Tables for a sequence of `length` tokens. Dynamic scaling beyond the trained length depends on
  /// the length itself, so those tables are made anew each time; LongRoPE has two kinds of tables.
  const RopeTables& rope_for(int64_t length) {
    const RopeScaling& scaling = config.rope_scaling;
    const bool is_dynamic = scaling.kind == RopeScaling::Kind::kDynamic;
    const int64_t trained = is_dynamic ? config.max_positions : scaling.original_max_positions;
    const int64_t rows = rope.cos.rows();
    const bool is_long = scaling.depends_on_length() && length > trained;
    const bool other_kind = scaling.depends_on_length() && is_long != (rows > trained);
    if (is_dynamic && (is_long || rows > trained)) {
      rope = make_rope_tables(device, config, length);
    } else if (other_kind || rows < length) {
      int64_t wanted = std::max<int64_t>(length, 2 * rows);
      if (scaling.depends_on_length() && !is_long) wanted = std::min(wanted, trained);
      rope = make_rope_tables(device, config, wanted);
    }
    return rope;
  }

  /// Whether single tokens are decoded by a Decoder: it pays where steps are recorded.
  bool decodes_in_steps() const {
    return Decoder::supports(config) && device.decoding().is_faster(attention_shape(config, 1, 0));
  }

  void check_ids(std::span<const int32_t> ids) const {
    for (const int32_t id : ids) {
      if (id < 0 || id >= config.vocab_size) {
        fail(ErrorCode::kInvalidArgument,
             "token id {} is outside the model's vocabulary of {}; does the tokenizer belong to "
             "this model?",
             id, config.vocab_size);
      }
    }
  }

  /// Activations between stages: bf16 where they feed dense bf16 linears only.
  DType activation_dtype(const BlockWeights& w) const {
    return products == DType::kBF16 && !w.q.packed && !w.o.packed && !w.up.packed && !w.down.packed
               ? DType::kBF16
               : DType::kF32;
  }

  /// The MLP half of a block, x in place.
  void run_mlp(const BlockStages& stages, const BlockWeights& w, const Tensor& x, const Tensor& h) {
    stages.mlp_input(w, x, h);
    const Tensor m = device.allocate(x.rows(), config.intermediate_size, h.dtype());
    stages.mlp(w, h, m);
    stages.mlp_output(w, m, x);
  }

  /// All blocks on whole sequences, x in place.
  void run_blocks(const Tensor& x, int64_t sequence_length) {
    const BlockStages stages(device, config, rope_for(sequence_length), products);
    run_blocks_with(stages, x,
                    [&](size_t, const BlockWeights& w, const Tensor& h, const Tensor& a) {
                      stages.attention(w, h, sequence_length, a);
                    });
  }

  /// `past` rows of parents[i] before those of sequence i in `own`, for every sequence: what
  /// attention reads. [n_sequences * (length + sequence_length), width].
  Tensor join_past(const Tensor& past, int64_t length, std::span<const int32_t> parents,
                   const Tensor& own, int64_t sequence_length) {
    const Tensor both = device.allocate(past.rows() + own.rows(), own.cols(), DType::kF32);
    device.convert(past, both.row_range(0, past.rows()));
    device.convert(own, both.row_range(past.rows(), own.rows()));
    std::vector<int32_t> rows;
    for (size_t i = 0; i < parents.size(); ++i) {
      const int64_t begin = parents[i] * length;
      for (int64_t t = 0; t < length; ++t) rows.push_back(static_cast<int32_t>(begin + t));
      const int64_t own_begin = past.rows() + static_cast<int64_t>(i) * sequence_length;
      for (int64_t t = 0; t < sequence_length; ++t)
        rows.push_back(static_cast<int32_t>(own_begin + t));
    }
    const Tensor joined =
        device.allocate(static_cast<int64_t>(rows.size()), own.cols(), DType::kF32);
    device.embed(rows, both, joined);  // a gather of rows
    return joined;
  }

  /// All blocks on sequences that continue `past`, or begin where it is null, x in place. `kept`,
  /// where given, gets their keys and values.
  void run_blocks_after(const Tensor& x, int64_t sequence_length, const PrefixStates* past,
                        std::span<const int32_t> parents, PrefixStates* kept) {
    const int64_t past_length = past == nullptr ? 0 : past->length_;
    std::vector<int32_t> positions;
    for (int64_t row = 0; row < x.rows(); ++row)
      positions.push_back(static_cast<int32_t>(past_length + row % sequence_length));
    const AttentionShape shape = attention_shape(config, sequence_length, past_length);
    const auto attend = [&](size_t layer, const AttentionProjections& p, const Tensor& a) {
      Tensor keys = p.k;
      Tensor values = p.v;
      if (past != nullptr) {
        keys = join_past(past->keys_[layer], past_length, parents, p.k, sequence_length);
        values = join_past(past->values_[layer], past_length, parents, p.v, sequence_length);
      }
      device.attention(p.q, keys, values, shape, a, products);
      if (kept != nullptr) {
        kept->keys_.push_back(p.k);
        kept->values_.push_back(p.v);
      }
    };
    run_projected_blocks(x, rope_for(past_length + sequence_length), positions, attend);
  }

  /// All blocks, x in place; attend(layer, weights, h, a) writes the layer's attention over `h`,
  /// its normalised input, to `a`.
  template <typename Attend>
  void run_blocks_with(const BlockStages& stages, const Tensor& x, const Attend& attend) {
    for (size_t layer = 0; layer < n_blocks(); ++layer) {
      const BlockWeights w = block(layer);
      const DType dtype = activation_dtype(w);
      const Tensor h = device.allocate(x.rows(), config.hidden_size, dtype);
      const Tensor a = device.allocate(x.rows(), config.n_heads * config.head_dim, dtype);
      stages.attention_input(w, x, h);
      attend(layer, w, h, a);
      stages.attention_output(w, a, x);
      run_mlp(stages, w, x, h);
    }
  }

  /// The same for attention that needs the keys and values: attend(layer, projections, a).
  template <typename Attend>
  void run_projected_blocks(const Tensor& x, const RopeTables& tables,
                            std::span<const int32_t> positions, const Attend& attend) {
    const BlockStages stages(device, config, tables, products);
    run_blocks_with(
        stages, x, [&](size_t layer, const BlockWeights& w, const Tensor& h, const Tensor& a) {
          attend(layer, project_attention(device, config, tables, w, h, positions, products), a);
        });
  }

  /// All blocks on the next x.rows() tokens of a cached sequence, x in place. `keys`, `values`: the
  /// cache's layers.
  void run_blocks_cached(const Tensor& x, int64_t past, std::vector<Tensor>& keys,
                         std::vector<Tensor>& values) {
    const int64_t length = past + x.rows();
    next_positions.resize(static_cast<size_t>(x.rows()));
    std::iota(next_positions.begin(), next_positions.end(), static_cast<int32_t>(past));
    const AttentionShape shape = attention_shape(config, x.rows(), past);
    const auto attend = [&](size_t layer, const AttentionProjections& p, const Tensor& a) {
      device.store_cache(p.k, config.head_dim, keys[layer].row_range(past, x.rows()));
      device.store_cache(p.v, config.head_dim, values[layer].row_range(past, x.rows()));
      device.attention(p.q, keys[layer].row_range(0, length), values[layer].row_range(0, length),
                       shape, a, products);
    };
    run_projected_blocks(x, rope_for(length), next_positions, attend);
  }
};

Transformer::Transformer(Device& device, std::shared_ptr<const WeightSource> source, DType products,
                         BlockResidency residency)
    : impl_(std::make_unique<Impl>(device, std::move(source), products, residency)) {}

Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const noexcept { return impl_->config; }

int64_t Transformer::block_weights() const noexcept {
  int64_t total = 0;
  for (const BlockWeights& w : impl_->blocks) {
    for (const Linear* linear : linears_of(w)) {
      total += linear->packed ? linear->packed->layout.rows * linear->packed->layout.cols
                              : linear->dense.size();
    }
  }
  return total;
}

Tensor Transformer::forward(std::span<const int32_t> ids, int64_t sequence_length) {
  const Tensor hidden = forward_hidden(ids, sequence_length);
  const Tensor logits =
      impl_->device.allocate(hidden.rows(), impl_->config.vocab_size, DType::kF32);
  head(hidden, logits);
  return logits;
}

Tensor Transformer::forward_hidden(std::span<const int32_t> ids, int64_t sequence_length) {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(sequence_length > 0 && n % sequence_length == 0, "{} ids in sequences of {}", n,
            sequence_length);
  impl_->check_ids(ids);
  const Tensor hidden = impl_->device.allocate(n, impl_->config.hidden_size, DType::kF32);
  const int64_t batch = std::max<int64_t>(1, kBatchRows / sequence_length) * sequence_length;
  for (int64_t begin = 0; begin < n; begin += batch) {
    const int64_t count = std::min(batch, n - begin);
    const Tensor x = hidden.row_range(begin, count);
    impl_->embedding.embed(impl_->device,
                           ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                           sequence_length, 0, x);
    impl_->run_blocks(x, sequence_length);
    impl_->device.norm(x, impl_->final_norm, x);
  }
  return hidden;
}

PrefixStates Transformer::run_prefixes(std::span<const int32_t> ids, int64_t length) {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(length > 0 && n > 0 && n % length == 0, "{} ids in sequences of {}", n, length);
  impl_->check_ids(ids);
  PrefixStates states;
  states.count_ = n / length;
  states.length_ = length;
  const Tensor x = impl_->device.allocate(n, impl_->config.hidden_size, DType::kF32);
  impl_->embedding.embed(impl_->device, ids, length, 0, x);
  impl_->run_blocks_after(x, length, nullptr, {}, &states);
  return states;
}

Tensor Transformer::forward_hidden(std::span<const int32_t> ids, int64_t sequence_length,
                                   const PrefixStates& prefixes, std::span<const int32_t> parents) {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(
      sequence_length > 0 && n > 0 && n == static_cast<int64_t>(parents.size()) * sequence_length,
      "{} ids in {} sequences of {}", n, parents.size(), sequence_length);
  for (const int32_t parent : parents)
    D2Q_CHECK(parent >= 0 && parent < prefixes.count(), "prefix {} of {}", parent,
              prefixes.count());
  impl_->check_ids(ids);
  const Tensor x = impl_->device.allocate(n, impl_->config.hidden_size, DType::kF32);
  impl_->embedding.embed(impl_->device, ids, sequence_length, prefixes.length(), x);
  impl_->run_blocks_after(x, sequence_length, &prefixes, parents, nullptr);
  impl_->device.norm(x, impl_->final_norm, x);
  return x;
}

void Transformer::head(const Tensor& hidden, const Tensor& logits) {
  apply(impl_->device, impl_->output, hidden, logits, impl_->products);
}

std::unique_ptr<Decoder> Transformer::make_decoder(DecoderCache cache) {
  D2Q_CHECK(impl_->residency == BlockResidency::kLoaded, "a decoder reads loaded blocks");
  const DecoderWeights weights{.config = &impl_->config,
                               .embedding = {.dense = impl_->embedding.tokens(),
                                             .packed = impl_->embedding.packed_tokens(),
                                             .bias = {}},
                               .blocks = &impl_->blocks,
                               .final_norm = &impl_->final_norm,
                               .output = &impl_->output};
  return std::make_unique<Decoder>(impl_->device, weights, std::move(cache), impl_->products);
}

int64_t Transformer::decoded_bytes() const {
  int64_t bytes = 0;
  const auto add = [&](const Linear& linear) {
    bytes += linear.packed ? linear.packed->codes.n_bytes() + linear.packed->scales.n_bytes()
                           : linear.dense.n_bytes();
  };
  for (const BlockWeights& w : impl_->blocks) {
    for (const Linear* linear : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) add(*linear);
  }
  add(impl_->output);
  return bytes;
}

Tensor Transformer::decode(std::span<const int32_t> ids, KvCache& cache) {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(n > 0, "no tokens to decode");
  impl_->check_ids(ids);
  if (n > cache.capacity() - cache.length_) {
    fail(ErrorCode::kInvalidArgument,
         "context: {} tokens after {} do not fit into the cache's {}; ask for a longer context", n,
         cache.length_, cache.capacity());
  }
  if (n == 1 && impl_->decodes_in_steps()) {
    if (!cache.decoder_) cache.decoder_ = make_decoder(cache.layers_);
    const auto position = static_cast<int32_t>(cache.length_);
    cache.decoder_->set(ids, std::span(&position, 1));
    cache.decoder_->step();
    ++cache.length_;
    return cache.decoder_->logits();
  }
  Tensor x;
  for (int64_t begin = 0; begin < n; begin += kPrefillTokens) {
    const int64_t count = std::min(kPrefillTokens, n - begin);
    x = impl_->device.allocate(count, impl_->config.hidden_size, DType::kF32);
    impl_->embedding.embed(impl_->device,
                           ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                           count, cache.length_, x);
    impl_->run_blocks_cached(x, cache.length_, cache.layers_.keys, cache.layers_.values);
    cache.length_ += count;
  }
  const Tensor last = x.row_range(x.rows() - 1, 1);
  impl_->device.norm(last, impl_->final_norm, last);
  const Tensor logits = impl_->device.allocate(1, impl_->config.vocab_size, DType::kF32);
  head(last, logits);
  return logits;
}

}  // namespace d2q
