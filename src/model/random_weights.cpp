#include "model/random_weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "model/family.h"

namespace d2q {
namespace {

constexpr int64_t kHeadGroup = 128;
/// Beyond any last-level cache: more than this is shared.
constexpr int64_t kPoolBytes = 512 << 20;

struct Shape {
  const char* name;
  ModelConfig config;
};

ModelConfig config_with(const char* family, int64_t hidden, int64_t intermediate, int64_t n_layers,
                        int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int64_t vocabulary,
                        double rope_theta, bool tied) {
  ModelConfig config;
  config.family = family;
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.n_layers = n_layers;
  config.n_heads = n_heads;
  config.n_kv_heads = n_kv_heads;
  config.head_dim = head_dim;
  config.vocab_size = vocabulary;
  config.max_positions = 131072;
  config.rope_theta = rope_theta;
  config.tied_embeddings = tied;
  return config;
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {"llama3-8b", config_with("llama", 4096, 14336, 32, 32, 8, 128, 128256, 5e5, false)},
      {"llama3-70b", config_with("llama", 8192, 28672, 80, 64, 8, 128, 128256, 5e5, false)},
      {"qwen3-8b", config_with("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, 1e6, false)},
      {"llama3.2-1b", config_with("llama", 2048, 8192, 16, 32, 8, 64, 128256, 5e5, true)},
      {"smollm2-135m", config_with("llama", 576, 1536, 30, 9, 3, 64, 49152, 1e5, true)}};
  return all;
}

/// Codes and scales of one format, from which matrices are cut.
struct Pool {
  std::vector<uint8_t> codes;
  std::vector<Half> scales;
  int64_t next_codes = 0;
  int64_t next_scales = 0;
};

class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const ModelConfig& config, const RandomFormat& format)
      : config_(config), format_(format) {
    const ModuleNames& names = family_named(config_.family).modules;
    const int64_t hidden = config_.hidden_size, mlp = config_.intermediate_size;
    const int64_t q = config_.n_heads * config_.head_dim,
                  kv = config_.n_kv_heads * config_.head_dim;
    const PackedLayout linear{format.kind, format.bits, 0, 0, format.group_size};
    const PackedLayout head{PackedKind::kUniform, format.head_bits, 0, 0, kHeadGroup};
    const bool packed_head = format.head_bits < 16;
    add_dense(names.embedding, 0, config_.vocab_size, hidden);
    add_dense(names.final_norm, 0, 1, hidden);
    for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
      add_dense(names.attention_norm, layer, 1, hidden);
      add_dense(names.mlp_norm, layer, 1, hidden);
      add_dense(names.q_norm, layer, 1, config_.head_dim);
      add_dense(names.k_norm, layer, 1, config_.head_dim);
      add_packed(names.q, layer, linear, q, hidden);
      add_packed(names.k, layer, linear, kv, hidden);
      add_packed(names.v, layer, linear, kv, hidden);
      add_packed(names.o, layer, linear, hidden, q);
      add_packed(names.gate, layer, linear, mlp, hidden);
      add_packed(names.up, layer, linear, mlp, hidden);
      add_packed(names.down, layer, linear, hidden, mlp);
    }
    const ModuleName& output = config_.tied_embeddings ? names.embedding : names.head;
    if (packed_head) {
      add_packed(output, 0, head, config_.vocab_size, hidden);
    } else {
      add_dense(output, 0, config_.vocab_size, hidden);
    }
    fill_pools();
  }

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return "random"; }
  bool has(const std::string& name) const override {
    return dense_.contains(name) || packed_.contains(name);
  }
  Matrix<float> load(const std::string& name) const override {
    const auto found = dense_.find(name);
    if (found == dense_.end()) {
      fail(ErrorCode::kNotFound, "random weights: no dense tensor '{}'", name);
    }
    Matrix<float> result(found->second[0], found->second[1]);
    const auto values = result.span();
    if (result.rows() == 1) {
      std::fill(values.begin(), values.end(), 1.0f);
      return result;
    }
    std::array<float, 4099> pattern{};  // a prime, so that rows differ
    Rng rng(1);
    for (float& value : pattern) value = static_cast<float>(0.02 * rng.gaussian());
    for (size_t i = 0; i < values.size(); i += pattern.size()) {
      std::copy_n(pattern.begin(), std::min(pattern.size(), values.size() - i),
                  values.begin() + static_cast<std::ptrdiff_t>(i));
    }
    return result;
  }
  std::optional<PackedView> packed(const std::string& name) const override {
    const auto found = packed_.find(name);
    if (found == packed_.end()) return std::nullopt;
    const Part& part = found->second;
    const Pool& pool = pools_.at(key_of(part.layout));
    const auto at = [](const auto& values, int64_t begin, int64_t count) {
      return std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    };
    return PackedView{part.layout, at(pool.codes, part.codes, codes_bytes(part.layout)),
                      at(pool.scales, part.scales, scales_count(part.layout))};
  }

 private:
  struct Part {
    PackedLayout layout;
    int64_t codes = 0;  // where they begin in the pool
    int64_t scales = 0;
  };
  static std::pair<PackedKind, int> key_of(const PackedLayout& layout) {
    return {layout.kind, layout.bits};
  }

  void add_dense(const ModuleName& module, int64_t layer, int64_t rows, int64_t cols) {
    if (!module.hf.empty()) dense_[module_name(module.hf, layer) + ".weight"] = {rows, cols};
  }
  void add_packed(const ModuleName& module, int64_t layer, PackedLayout layout, int64_t rows,
                  int64_t cols) {
    if (module.hf.empty()) return;
    layout.rows = rows, layout.cols = cols;
    const std::string name = module_name(module.hf, layer) + ".weight";
    validate(layout, name);
    packed_[name] = {layout};
    order_.push_back(name);
  }

  void fill_pools() {
    for (const bool placing : {false, true}) {
      for (const std::string& name : order_) {
        Part& part = packed_[name];
        Pool& pool = pools_[key_of(part.layout)];
        // Both are multiples of a row tile's group, so that scales keep their order.
        const int64_t n_codes = codes_bytes(part.layout), n_scales = scales_count(part.layout);
        if (placing) {
          const auto place = [](int64_t& next, int64_t count, size_t size) {
            if (next + count > static_cast<int64_t>(size)) next = 0;
            return std::exchange(next, next + count);
          };
          part.codes = place(pool.next_codes, n_codes, pool.codes.size());
          part.scales = place(pool.next_scales, n_scales, pool.scales.size());
        } else {
          const auto grow = [](auto& values, int64_t count, int64_t limit) {
            const auto size = static_cast<int64_t>(values.size());
            values.resize(static_cast<size_t>(
                std::max(std::min(size + count, limit), std::max(size, count))));
          };
          grow(pool.codes, n_codes, kPoolBytes);
          grow(pool.scales, n_scales, kPoolBytes / 4);
        }
      }
    }
    Rng rng(2);
    for (auto& [key, pool] : pools_) {
      for (size_t i = 0; i + 8 <= pool.codes.size(); i += 8) {
        const uint64_t bits = rng.next_u64();
        std::copy_n(reinterpret_cast<const uint8_t*>(&bits), 8,
                    pool.codes.begin() + static_cast<std::ptrdiff_t>(i));
      }
      // Weights near 0.02 with a mean near zero.
      const auto& [kind, bits] = key;
      const size_t n_params = kind == PackedKind::kUniform ? 2 : static_cast<size_t>(bits);
      const double levels = static_cast<double>(1 << bits);
      for (size_t i = 0; i < pool.scales.size(); ++i) {
        const size_t param = i / static_cast<size_t>(kTileRows) % n_params;
        const double jitter = 0.75 + 0.5 * rng.uniform();
        const double value = kind == PackedKind::kSignPlanes
                                 ? 0.02 * jitter / static_cast<double>(1 << param)
                             : param == 0 ? 0.07 * jitter / levels
                                          : 0.5 * (levels - 1.0);
        pool.scales[i] = to_half(static_cast<float>(value));
      }
    }
  }

  ModelConfig config_;
  RandomFormat format_;
  std::map<std::string, std::array<int64_t, 2>> dense_;
  std::map<std::string, Part> packed_;
  std::vector<std::string> order_;
  std::map<std::pair<PackedKind, int>, Pool> pools_;
};

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Shape& shape : shapes()) names.emplace_back(shape.name);
  return names;
}

ModelConfig config_of_shape(const std::string& name) {
  for (const Shape& shape : shapes()) {
    if (shape.name == name) return shape.config;
  }
  fail(ErrorCode::kInvalidArgument, "shape '{}' is not known; expected one of {}", name,
       fmt::join(shape_names(), ", "));
}

std::unique_ptr<WeightSource> random_weights(const ModelConfig& config,
                                             const RandomFormat& format) {
  return std::make_unique<RandomWeights>(config, format);
}

}  // namespace d2q
