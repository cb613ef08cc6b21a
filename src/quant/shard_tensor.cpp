#include "quant/shard_tensor.h"

#include <utility>

#include "kernels/host_copy.h"

namespace d2q {

void add_norm(Device& device, const std::string& name, const NormParams& norm,
              std::vector<ShardTensor>& tensors) {
  for (const auto& [suffix, tensor] :
       {std::pair{".weight", norm.gain}, std::pair{".bias", norm.shift}}) {
    if (tensor.empty()) continue;
    const Matrix<float> values = to_host<float>(device, tensor);
    ShardTensor& stored = tensors.emplace_back();
    stored.spec = {name + suffix, SafetensorsType::kF32, {values.size()}};
    stored.bytes = to_bytes(values.span());
  }
}

}  // namespace d2q
