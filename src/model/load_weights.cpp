#include "model/load_weights.h"

#include "kernels/host_copy.h"
#include "model/block_backward.h"

namespace d2q {

Tensor load_tensor(Device& device, const WeightSource& source, const std::string& name,
                   DType dtype) {
  return to_device(device, source.load(name), dtype);
}

Linear load_linear(Device& device, const WeightSource& source, const std::string& module,
                   DType dense_dtype) {
  Linear linear;
  const auto packed = source.packed(module + ".weight");
  if (packed && device.runs_packed(packed->layout)) {
    linear.packed = device.upload_packed(*packed);
  } else {
    linear.dense = load_tensor(device, source, module + ".weight", dense_dtype);
  }
  if (source.has(module + ".bias")) {
    linear.bias = load_tensor(device, source, module + ".bias", DType::kF32);
  }
  return linear;
}

NormParams load_norm(Device& device, const WeightSource& source, const std::string& module,
                     NormKind kind) {
  NormParams params;
  params.kind = kind;
  params.epsilon = source.config().norm_epsilon;
  params.gain = load_tensor(device, source, module + ".weight", DType::kF32);
  if (source.has(module + ".bias")) {
    params.shift = load_tensor(device, source, module + ".bias", DType::kF32);
  }
  return params;
}

std::vector<std::string> block_tensors(const WeightSource& source, int64_t layer) {
  const ModuleNames& m = family_named(source.config().family).modules;
  std::vector<std::string> names;
  for (const ModuleName& module : {m.attention_norm, m.q, m.k, m.v, m.o, m.q_norm, m.k_norm,
                                   m.mlp_norm, m.gate, m.up, m.down}) {
    if (module.hf.empty()) continue;
    for (const char* suffix : {".weight", ".bias"}) {
      const std::string name = module_name(module.hf, layer) + suffix;
      if (source.has(name)) names.push_back(name);
    }
  }
  return names;
}

BlockWeights load_block(Device& device, const WeightSource& source, int64_t layer,
                        DType dense_dtype) {
  const ModelConfig& config = source.config();
  D2Q_CHECK(layer >= 0 && layer < config.n_layers, "layer {} of {}", layer, config.n_layers);
  const Family& family = family_named(config.family);
  const ModuleNames& names = family.modules;
  const auto linear = [&](const ModuleName& name) {
    return load_linear(device, source, module_name(name.hf, layer), dense_dtype);
  };
  const auto norm = [&](const ModuleName& name) {
    return load_norm(device, source, module_name(name.hf, layer), family.norm);
  };
  BlockWeights w;
  w.attention_norm = norm(names.attention_norm);
  w.q = linear(names.q);
  w.k = linear(names.k);
  w.v = linear(names.v);
  w.o = linear(names.o);
  if (!names.q_norm.hf.empty()) w.q_norm = norm(names.q_norm);
  if (!names.k_norm.hf.empty()) w.k_norm = norm(names.k_norm);
  w.mlp_norm = norm(names.mlp_norm);
  if (!names.gate.hf.empty()) w.gate = linear(names.gate);
  w.up = linear(names.up);
  w.down = linear(names.down);
  return w;
}

BlockWeights in_dtype(Device& device, BlockWeights weights, DType dtype) {
  for (const BlockLinear& linear : kBlockLinears) {
    Tensor& dense = (weights.*linear.member).dense;
    dense = in_dtype(device, dense, dtype);
  }
  return weights;
}

}  // namespace d2q
