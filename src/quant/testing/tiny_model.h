// A model folder of a few tensors, for tests of whole quantization runs. Included by tests only.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "format/safetensors.h"
#include "kernels/tensor.h"
#include "model/config.h"
#include "model/fake_weights.h"

namespace d2q::test {

/// Two blocks whose widths are no multiples of each other's groups: hidden 48, MLP 80.
inline ModelConfig tiny_config(const std::string& family = "llama") {
  ModelConfig config = small_config(family);
  config.vocab_size = 420;  // the tokenizer's
  return config;
}

/// Every tensor of FakeWeights(config) in f32, config.json, and the byte-level tokenizer of
/// tests/data.
inline void write_tiny_model(const std::filesystem::path& folder, const ModelConfig& config) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config_to_hf(config).dump(1);
  std::filesystem::copy_file(std::filesystem::path(D2Q_TEST_DATA) / "tokenizer_smollm.json",
                             folder / "tokenizer.json");
  const FakeWeights weights(config);
  const ModuleNames& m = family_named(config.family).modules;
  std::vector<std::string> names;
  const auto add = [&](const ModuleName& module, int64_t layer) {
    for (const char* suffix : {".weight", ".bias"}) {
      const std::string name = module_name(module.hf, layer) + suffix;
      if (!module.hf.empty() && weights.has(name)) names.push_back(name);
    }
  };
  for (const ModuleName& module : {m.embedding, m.positions, m.final_norm, m.head}) add(module, 0);
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    for (const ModuleName& module : {m.attention_norm, m.q, m.k, m.v, m.o, m.q_norm, m.k_norm,
                                     m.mlp_norm, m.gate, m.up, m.down}) {
      add(module, layer);
    }
  }
  std::vector<SafetensorsSpec> specs;
  std::vector<Matrix<float>> values;
  for (const std::string& name : names) {
    values.push_back(weights.load(name));
    const Matrix<float>& tensor = values.back();
    std::vector<int64_t> shape = {tensor.cols()};
    if (tensor.rows() != 1) shape.insert(shape.begin(), tensor.rows());
    specs.push_back({name, SafetensorsType::kF32, shape});
  }
  SafetensorsWriter writer(folder / "model.safetensors", specs);
  for (size_t i = 0; i < names.size(); ++i) {
    writer.write(names[i], std::as_bytes(values[i].span()));
  }
  writer.finish();
}

/// Words in a random order, at least `n_bytes` of them.
inline std::string tiny_text(size_t n_bytes) {
  constexpr const char* kWords[] = {"the ", "values ", "does ", "matter ", "word ", "scale\n",
                                    "for ", "of 12 ",  "and ",  "little ", "at ",   "int "};
  Rng rng(3);
  std::string text;
  while (text.size() < n_bytes) text += kWords[rng.below(std::size(kWords))];
  return text;
}

inline std::vector<int32_t> random_ids(int64_t n, int64_t vocab_size) {
  Rng rng(11);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) {
    ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab_size))));
  }
  return ids;
}

/// max|a - b| / max|b| of two f32 tensors on the CPU; a NaN gives NaN.
inline double relative_difference(const Tensor& a, const Tensor& b) {
  D2Q_CHECK(a.size() == b.size(), "{} against {} elements", a.size(), b.size());
  double difference = 0.0;
  double largest = 0.0;
  for (int64_t i = 0; i < b.size(); ++i) {
    const auto expected = static_cast<double>(b.data<float>()[i]);
    const double error = std::abs(static_cast<double>(a.data<float>()[i]) - expected);
    difference = error <= difference ? difference : error;
    largest = std::max(largest, std::abs(expected));
  }
  return difference / largest;
}

}  // namespace d2q::test
