#include "model/transformer.h"

namespace d2q {

KvCache::KvCache(Device& device, const ModelConfig& config, int64_t capacity)
    : capacity_(capacity) {
  D2Q_CHECK(capacity > 0, "capacity {}", capacity);
  const int64_t width = config.n_kv_heads * config.head_dim;
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    keys_.push_back(device.allocate(capacity, width, DType::kF16));
    values_.push_back(device.allocate(capacity, width, DType::kF16));
  }
}

void KvCache::truncate(int64_t length) {
  D2Q_CHECK(length >= 0 && length <= length_, "length {} of {}", length, length_);
  length_ = length;
}

}  // namespace d2q
