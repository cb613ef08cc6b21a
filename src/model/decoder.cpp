#include "model/decoder.h"

#include <utility>

#include "model/attention_projections.h"
#include "model/family.h"

namespace d2q {

DecoderCache make_decoder_cache(Device& device, const ModelConfig& config, int64_t n_sequences,
                                int64_t capacity, CacheType type) {
  D2Q_CHECK(n_sequences > 0 && capacity > 0, "{} sequences of {}", n_sequences, capacity);
  DecoderCache cache{.n_sequences = n_sequences, .capacity = capacity, .keys = {}, .values = {}};
  int64_t width = config.n_kv_heads * config.head_dim;
  DType dtype = DType::kF16;
  if (type == CacheType::kInt8) {
    width = device.cache_row_bytes(config.n_kv_heads, config.head_dim);
    dtype = DType::kU8;
    if (width == 0) {
      fail(ErrorCode::kUnsupported, "cache: {} keeps keys and values in f16 only, not in int8",
           device.name());
    }
  }
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    cache.keys.push_back(device.allocate(n_sequences * capacity, width, dtype));
    cache.values.push_back(device.allocate(n_sequences * capacity, width, dtype));
  }
  return cache;
}

std::string_view to_string(DecodeStage stage) {
  switch (stage) {
    case DecodeStage::kEmbedding:
      return "embedding";
    case DecodeStage::kProjections:
      return "q,k,v";
    case DecodeStage::kAttention:
      return "attention";
    case DecodeStage::kOutput:
      return "o";
    case DecodeStage::kMlp:
      return "gate,up";
    case DecodeStage::kDown:
      return "down";
    case DecodeStage::kHead:
      return "head";
    case DecodeStage::kChoice:
      return "choice";
  }
  return "";
}

bool Decoder::supports(const ModelConfig& config) {
  return family_named(config.family).positions == Positions::kRope &&
         config.rotated() == config.head_dim && !config.rope_scaling.depends_on_length();
}

Decoder::Decoder(Device& device, DecoderWeights weights, DecoderCache cache, DType products)
    : device_(device),
      ops_(device.decoding()),
      weights_(std::move(weights)),
      cache_(std::move(cache)),
      products_(products) {
  const ModelConfig& config = *weights_.config;
  D2Q_CHECK(supports(config), "family '{}'", config.family);
  D2Q_CHECK(static_cast<int64_t>(cache_.keys.size()) == config.n_layers, "{} layers of keys",
            cache_.keys.size());
  rope_ = make_rope_tables(device, config, cache_.capacity);
  shape_ = attention_shape(config, 1, 0);
  const int64_t n = cache_.n_sequences, heads = config.n_heads + 2 * config.n_kv_heads;
  tokens_ = device.allocate(1, n, DType::kI32);
  positions_ = device.allocate(1, n, DType::kI32);
  x_ = device.allocate(n, config.hidden_size, DType::kF32);
  projections_ = device.allocate(n, heads * config.head_dim, DType::kF32);
  attention_ = device.allocate(n, config.n_heads * config.head_dim, DType::kF32);
  mlp_ = device.allocate(n, config.intermediate_size, DType::kF32);
  logits_ = device.allocate(n, config.vocab_size, DType::kF32);
  step_ = device.repeatable([this] {
    ops_.together([this] {
      const auto n_layers = static_cast<size_t>(weights_.config->n_layers);
      run(DecodeStage::kEmbedding, 0);
      for (size_t layer = 0; layer < n_layers; ++layer) {
        run(DecodeStage::kProjections, layer);
        run(DecodeStage::kAttention, layer);
        run(DecodeStage::kOutput, layer);
        run(DecodeStage::kMlp, layer);
        run(DecodeStage::kDown, layer);
      }
      run(DecodeStage::kHead, 0);
      run(DecodeStage::kChoice, 0);
    });
  });
}

void Decoder::set(std::span<const int32_t> tokens, std::span<const int32_t> positions) {
  D2Q_CHECK(
      static_cast<int64_t>(tokens.size()) == n_sequences() && positions.size() == tokens.size(),
      "{} tokens and {} positions for {} sequences", tokens.size(), positions.size(),
      n_sequences());
  for (size_t i = 0; i < tokens.size(); ++i) {
    D2Q_CHECK(tokens[i] >= 0 && tokens[i] < weights_.config->vocab_size, "token {}", tokens[i]);
    D2Q_CHECK(positions[i] >= 0 && positions[i] < capacity(), "position {} of {}", positions[i],
              capacity());
  }
  device_.upload(tokens.data(), tokens_);
  device_.upload(positions.data(), positions_);
}

void Decoder::step() { step_->run(); }

std::vector<int32_t> Decoder::tokens() {
  std::vector<int32_t> result(static_cast<size_t>(n_sequences()));
  device_.download(tokens_, result.data());
  return result;
}

std::unique_ptr<Repeatable> Decoder::stage(DecodeStage stage) {
  const bool once = stage == DecodeStage::kEmbedding || stage == DecodeStage::kHead ||
                    stage == DecodeStage::kChoice;
  const size_t n = once ? 1 : static_cast<size_t>(weights_.config->n_layers);
  return device_.repeatable([this, stage, n] {
    for (size_t layer = 0; layer < n; ++layer) run(stage, layer);
  });
}

void Decoder::run(DecodeStage stage, size_t layer) {
  const BlockWeights& w = (*weights_.blocks)[layer];
  switch (stage) {
    case DecodeStage::kEmbedding:
      ops_.embed(tokens_, weights_.embedding, x_);
      return;
    case DecodeStage::kProjections: {
      const std::array<const Linear*, 3> linears{&w.q, &w.k, &w.v};
      ops_.project(x_, &w.attention_norm, linears, projections_, products_);
      return;
    }
    case DecodeStage::kAttention: {
      const DecodeAttention attention{.q_norm = w.q_norm ? &*w.q_norm : nullptr,
                                      .k_norm = w.k_norm ? &*w.k_norm : nullptr,
                                      .cos = rope_.cos,
                                      .sin = rope_.sin};
      ops_.attend(projections_, positions_, shape_, attention, cache_.keys[layer],
                  cache_.values[layer], attention_);
      return;
    }
    case DecodeStage::kOutput:
      ops_.add_projection(attention_, w.o, x_, products_);
      return;
    case DecodeStage::kMlp:
      ops_.project_gated(x_, w.mlp_norm, w.gate, w.up, weights_.config->activation, mlp_,
                         products_);
      return;
    case DecodeStage::kDown:
      ops_.add_projection(mlp_, w.down, x_, products_);
      return;
    case DecodeStage::kHead: {
      const std::array<const Linear*, 1> output{weights_.output};
      ops_.project(x_, weights_.final_norm, output, logits_, products_);
      return;
    }
    case DecodeStage::kChoice:
      ops_.choose_most_likely(logits_, tokens_);
      ops_.advance(positions_);
      return;
  }
}

}  // namespace d2q
