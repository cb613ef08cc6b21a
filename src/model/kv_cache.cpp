#include "model/transformer.h"

namespace d2q {

KvCache::KvCache(Device& device, const ModelConfig& config, int64_t capacity, CacheType type)
    : layers_(make_decoder_cache(device, config, 1, capacity, type)) {}

void KvCache::truncate(int64_t length) {
  D2Q_CHECK(length >= 0 && length <= length_, "length {} of {}", length, length_);
  length_ = length;
}

}  // namespace d2q
