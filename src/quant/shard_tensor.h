// A tensor on its way into a safetensors file.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "format/safetensors.h"
#include "kernels/device.h"

namespace d2q {

struct ShardTensor {
  SafetensorsSpec spec;
  std::vector<std::byte> bytes;
};

template <typename T>
std::vector<std::byte> to_bytes(std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

/// Gain and, where there is one, shift of the norm `name`, f32.
void add_norm(Device& device, const std::string& name, const NormParams& norm,
              std::vector<ShardTensor>& tensors);

}  // namespace d2q
