#include "support/tiny_model.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
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

void write_config(const std::filesystem::path& folder) {
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
                                 {"tie_word_embeddings", true},
                                 {"bos_token_id", 256},
                                 {"eos_token_id", 256},
                                 {"torch_dtype", "float32"}};
  std::ofstream(folder / "config.json") << config.dump(1);
}

}  // namespace

void write_tiny_model(const std::filesystem::path& folder, uint64_t seed) {
  std::filesystem::create_directories(folder);
  write_config(folder);
  write_tokenizer(folder);
  std::vector<SafetensorsSpec> specs = {
      {"model.embed_tokens.weight", SafetensorsType::kF32, {kVocabulary, kHidden}},
      {"model.norm.weight", SafetensorsType::kF32, {kHidden}}};
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
  Rng rng(seed);
  SafetensorsWriter writer(folder / "model.safetensors", specs, {{"format", "pt"}});
  for (const SafetensorsSpec& spec : specs) {
    int64_t n = 1;
    for (const int64_t extent : spec.shape) n *= extent;
    std::vector<float> values(static_cast<size_t>(n));
    const bool gain = spec.shape.size() == 1;
    const double scale = gain ? 0.1 : 1.0 / std::sqrt(static_cast<double>(spec.shape.back()));
    for (float& value : values)
      value = static_cast<float>((gain ? 1.0 : 0.0) + scale * rng.gaussian());
    writer.write(spec.name, std::as_bytes(std::span(values)));
  }
  writer.finish();
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
