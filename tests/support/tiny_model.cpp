#include "support/tiny_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "base/rng.h"
#include "format/safetensors.h"

namespace d2q::test {
namespace {

constexpr int64_t kHidden = 64;
constexpr int64_t kIntermediate = 160;
constexpr int64_t kKeyValue = 32;
constexpr int64_t kVocabulary = 257;
constexpr int64_t kLayers = 2;

void append_utf8(std::string& text, uint32_t code_point) {
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else {
    text += static_cast<char>(0xc0 | (code_point >> 6));
    text += static_cast<char>(0x80 | (code_point & 0x3f));
  }
}

/// The byte-level alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 on.
std::string byte_symbol(uint32_t byte, uint32_t& next) {
  const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  std::string symbol;
  append_utf8(symbol, printable ? byte : 256 + next++);
  return symbol;
}

void write_tokenizer(const std::filesystem::path& folder) {
  nlohmann::json vocabulary;
  uint32_t next = 0;
  for (uint32_t byte = 0; byte < 256; ++byte) vocabulary[byte_symbol(byte, next)] = byte;
  vocabulary["<|endoftext|>"] = 256;
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", true}};
  const nlohmann::json end = {
      {"id", 256},       {"content", "<|endoftext|>"}, {"single_word", false}, {"lstrip", false},
      {"rstrip", false}, {"normalized", false},        {"special", true}};
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", nlohmann::json::array({end})},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  std::ofstream(folder / "tokenizer.json") << tokenizer.dump(1);
}

void write_config(const std::filesystem::path& folder, bool tied) {
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"hidden_size", kHidden},
                                 {"intermediate_size", kIntermediate},
                                 {"num_hidden_layers", kLayers},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", 2},
                                 {"vocab_size", kVocabulary},
                                 {"max_position_embeddings", 512},
                                 {"rms_norm_eps", 1e-5},
                                 {"rope_theta", 10000.0},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", tied},
                                 {"bos_token_id", 256},
                                 {"eos_token_id", 256},
                                 {"torch_dtype", "float32"}};
  std::ofstream(folder / "config.json") << config.dump(1);
}

/// Names and shapes of the tensors.
std::vector<SafetensorsSpec> tiny_specs(bool tied) {
  std::vector<SafetensorsSpec> specs = {
      {"model.embed_tokens.weight", SafetensorsType::kF32, {kVocabulary, kHidden}},
      {"model.norm.weight", SafetensorsType::kF32, {kHidden}}};
  if (!tied) specs.push_back({"lm_head.weight", SafetensorsType::kF32, {kVocabulary, kHidden}});
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const auto add = [&](const char* name, std::vector<int64_t> shape) {
      specs.push_back({fmt::format("model.layers.{}.{}.weight", layer, name), SafetensorsType::kF32,
                       std::move(shape)});
    };
    add("input_layernorm", {kHidden});
    add("self_attn.q_proj", {kHidden, kHidden});
    add("self_attn.k_proj", {kKeyValue, kHidden});
    add("self_attn.v_proj", {kKeyValue, kHidden});
    add("self_attn.o_proj", {kHidden, kHidden});
    add("post_attention_layernorm", {kHidden});
    add("mlp.gate_proj", {kIntermediate, kHidden});
    add("mlp.up_proj", {kIntermediate, kHidden});
    add("mlp.down_proj", {kHidden, kIntermediate});
  }
  return specs;
}

using Fill = std::function<void(const SafetensorsSpec& spec, std::span<float> values)>;

void write_model(const std::filesystem::path& folder, bool tied, const Fill& fill) {
  std::filesystem::create_directories(folder);
  write_config(folder, tied);
  write_tokenizer(folder);
  const auto specs = tiny_specs(tied);
  SafetensorsWriter writer(folder / "model.safetensors", specs, {{"format", "pt"}});
  for (const SafetensorsSpec& spec : specs) {
    int64_t n = 1;
    for (const int64_t extent : spec.shape) n *= extent;
    std::vector<float> values(static_cast<size_t>(n));
    fill(spec, values);
    writer.write(spec.name, std::as_bytes(std::span(values)));
  }
  writer.finish();
}

/// Gaussian weights that keep the size of their inputs; gains near 1.
void fill_randomly(Rng& rng, const SafetensorsSpec& spec, std::span<float> values) {
  const bool gain = spec.shape.size() == 1;
  const double scale = gain ? 0.1 : 1.0 / std::sqrt(static_cast<double>(spec.shape.back()));
  for (float& value : values)
    value = static_cast<float>((gain ? 1.0 : 0.0) + scale * rng.gaussian());
}

/// log P(next byte | byte) of `text`, [kVocabulary, kHidden]: column slots[c] is what follows c.
void fill_bigrams(const std::string& text, const std::map<unsigned char, int64_t>& slots,
                  std::span<float> values) {
  std::vector<double> counts(values.size(), 0.0);
  std::vector<double> totals(kHidden, 0.0);
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const int64_t slot = slots.at(static_cast<unsigned char>(text[i]));
    const auto next = static_cast<unsigned char>(text[i + 1]);
    counts[static_cast<size_t>(next * kHidden + slot)] += 1.0;
    totals[static_cast<size_t>(slot)] += 1.0;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const double total = std::max(1.0, totals[i % kHidden]);
    // A normalised one-hot vector is sqrt(kHidden) long.
    values[i] = static_cast<float>(std::log(std::max(1e-5, counts[i] / total)) /
                                   std::sqrt(static_cast<double>(kHidden)));
  }
}

}  // namespace

void write_tiny_model(const std::filesystem::path& folder, uint64_t seed) {
  Rng rng(seed);
  write_model(folder, /*tied=*/true, [&](const SafetensorsSpec& spec, std::span<float> values) {
    fill_randomly(rng, spec, values);
  });
}

void write_fragile_model(const std::filesystem::path& folder, const std::string& text) {
  std::map<unsigned char, int64_t> slots;
  for (const char c : text)
    slots.emplace(static_cast<unsigned char>(c), static_cast<int64_t>(slots.size()));
  Rng rng(1);
  write_model(folder, /*tied=*/false, [&](const SafetensorsSpec& spec, std::span<float> values) {
    if (spec.name == "lm_head.weight") return fill_bigrams(text, slots, values);
    if (spec.shape.size() == 1) {
      std::ranges::fill(values, 1.0f);
      return;
    }
    if (spec.name == "model.embed_tokens.weight") {
      for (const auto& [byte, slot] : slots)
        values[static_cast<size_t>(byte * kHidden + slot)] = 1.0f;
      return;
    }
    fill_randomly(rng, spec, values);
    const auto cols = static_cast<size_t>(spec.shape[1]);
    if (spec.name.find("o_proj") != std::string::npos)
      for (float& value : values) value *= 1e-3f;
    for (size_t i = 0; i < values.size(); ++i) {
      // Intermediate channels come in equal pairs, whose large contributions cancel.
      const bool upper = spec.name.find("gate") != std::string::npos ||
                         spec.name.find("up_proj") != std::string::npos;
      if (upper && i / cols % 2 == 1) values[i] = values[i - cols];
      if (spec.name.find("down_proj") != std::string::npos)
        values[i] = i % 2 == 1 ? -values[i - 1] : 300.0f * values[i];
    }
  });
}

std::string tiny_text(size_t n_bytes, uint64_t seed) {
  constexpr const char* kWords[] = {"the", "cat",  "sat", "on",  "a",    "mat",
                                    "and", "then", "it",  "ran", "away", "from"};
  Rng rng(seed);
  std::string text;
  while (text.size() < n_bytes) {
    text += kWords[rng.below(std::size(kWords))];
    text += rng.below(12) == 0 ? ".\n" : " ";
  }
  return text;
}

}  // namespace d2q::test
