#include "quant/prepare.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "model/family.h"

namespace d2q {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";

}  // namespace

PreparedSource::PreparedSource(std::shared_ptr<const WeightSource> base, Rotation rotation,
                               ThreadPool& pool)
    : base_(std::move(base)),
      rotation_(std::move(rotation)),
      pool_(pool),
      config_(base_->config()) {
  const Family& family = family_named(config_.family);
  if (family.norm != NormKind::kRms || family.positions != Positions::kRope) {
    fail(ErrorCode::kUnsupported,
         "family '{}' cannot be rotated (its norms subtract a mean or its positions are learned); "
         "use --rotate none",
         config_.family);
  }
  config_.tied_embeddings = false;
  const ModuleNames& modules = family.modules;
  const std::string final_norm(modules.final_norm.hf);
  places_[std::string(modules.embedding.hf)] = {Role::kEmbedding, ""};
  places_[final_norm] = {Role::kNorm, ""};
  places_[std::string(modules.head.hf)] = {Role::kReader, final_norm};
  for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
    const auto name = [&](const ModuleName& module) { return module_name(module.hf, layer); };
    for (const ModuleName& norm : {modules.attention_norm, modules.mlp_norm})
      places_[name(norm)] = {Role::kNorm, ""};
    for (const ModuleName& reader : {modules.q, modules.k, modules.v}) {
      places_[name(reader)] = {Role::kReader, name(modules.attention_norm)};
    }
    for (const ModuleName& reader : {modules.gate, modules.up}) {
      if (!reader.hf.empty()) places_[name(reader)] = {Role::kReader, name(modules.mlp_norm)};
    }
    for (const ModuleName& writer : {modules.o, modules.down})
      places_[name(writer)] = {Role::kWriter, ""};
  }
  for (const auto& [module, place] : places_) {
    if (place.role != Role::kNorm || !base_->has(module + std::string(kBias))) continue;
    fail(ErrorCode::kUnsupported,
         "{}: a norm with a bias cannot be fused into the linears behind it; use --rotate none",
         module);
  }
}

bool PreparedSource::has(const std::string& name) const {
  const std::string head =
      std::string(family_named(config_.family).modules.head.hf) + std::string(kWeight);
  return name == head || base_->has(name);
}

Matrix<float> PreparedSource::load(const std::string& name) const {
  Matrix<float> matrix = base_->load(name);
  const bool is_bias = name.ends_with(kBias);
  const size_t suffix = is_bias ? kBias.size() : name.ends_with(kWeight) ? kWeight.size() : 0;
  const auto place = places_.find(name.substr(0, name.size() - suffix));
  if (place == places_.end()) return matrix;
  switch (place->second.role) {
    case Role::kNorm:
      if (!is_bias) std::fill(matrix.data(), matrix.data() + matrix.size(), 1.0f);
      break;
    case Role::kEmbedding:
      rotation_.rotate_rows(matrix, pool_);
      break;
    case Role::kWriter:
      if (is_bias) {
        rotation_.rotate_rows(matrix, pool_);  // bᵀ R = (Rᵀ b)ᵀ
      } else {
        rotation_.rotate_columns(matrix, pool_);
      }
      break;
    case Role::kReader: {
      if (is_bias) break;
      const Matrix<float> gain = base_->load(place->second.norm + std::string(kWeight));
      D2Q_CHECK(gain.size() == matrix.cols(), "gain of {} for {} columns", gain.size(),
                matrix.cols());
      for (int64_t i = 0; i < matrix.rows(); ++i) {
        float* row = matrix.row(i);
        for (int64_t j = 0; j < matrix.cols(); ++j) row[j] *= gain.data()[j];
      }
      rotation_.rotate_rows(matrix, pool_);
      break;
    }
  }
  return matrix;
}

}  // namespace d2q
