#include "quant/prepare.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "model/family.h"
#include "model/shifted_bias.h"

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
  D2Q_CHECK(family.norm == NormKind::kRms || rotation_.keeps_mean(),
            "norms of family '{}' subtract a mean that the rotation does not keep", family.name);
  config_.tied_embeddings = false;
  const ModuleNames& modules = family.modules;
  const std::string final_norm(modules.final_norm.hf);
  places_[std::string(modules.embedding.hf)] = {Role::kEmbedding, ""};
  if (!modules.positions.hf.empty())
    places_[std::string(modules.positions.hf)] = {Role::kEmbedding, ""};
  places_[final_norm] = {Role::kFinalNorm, ""};
  places_[std::string(modules.head.hf)] = {Role::kHead, final_norm};
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
}

const PreparedSource::Place* PreparedSource::find(const std::string& name) const {
  const size_t dot = name.rfind('.');
  const auto place = places_.find(name.substr(0, dot));
  return place == places_.end() ? nullptr : &place->second;
}

std::shared_ptr<const WeightSource> prepared(std::shared_ptr<const WeightSource> base,
                                             const QuantizeOptions& options, ThreadPool& pool) {
  if (options.rotation == RotationKind::kNone) return base;
  const int64_t width = base->config().hidden_size;
  Rotation rotation =
      options.rotation == RotationKind::kFull
          ? Rotation::full(width, options.seed)
          : Rotation::block_diagonal(width, Rotation::block_for(width, options.group_size),
                                     options.seed);
  if (family_named(base->config().family).norm == NormKind::kLayer)
    rotation = rotation.keeping_mean();
  return std::make_shared<PreparedSource>(std::move(base), std::move(rotation), pool);
}

bool PreparedSource::has(const std::string& name) const {
  if (base_->has(name)) return true;
  const Place* place = find(name);
  if (place == nullptr) return false;
  if (place->role == Role::kHead) return name.ends_with(kWeight);
  return place->role == Role::kReader && name.ends_with(kBias) &&
         base_->has(place->norm + std::string(kBias));
}

/// b + W·β of a linear whose norm has the shift β.
Matrix<float> PreparedSource::reader_bias(const std::string& name, const std::string& norm) const {
  if (!base_->has(norm + std::string(kBias))) return base_->load(name);
  return bias_with_shift(*base_, name.substr(0, name.size() - kBias.size()), norm);
}

/// (β ⊘ γ)·R: what the head's W·diag(γ)·R makes the same of as W of β.
Matrix<float> PreparedSource::final_shift(const std::string& norm) const {
  Matrix<float> shift = base_->load(norm + std::string(kBias));
  const Matrix<float> gain = base_->load(norm + std::string(kWeight));
  for (int64_t j = 0; j < shift.cols(); ++j) {
    if (gain(0, j) == 0.0f && shift(0, j) != 0.0f) {
      fail(ErrorCode::kUnsupported,
           "{}: channel {} has a bias but a gain of 0, which a rotation cannot keep apart; use "
           "--rotate none",
           norm, j);
    }
    if (shift(0, j) != 0.0f) shift(0, j) /= gain(0, j);
  }
  rotation_.rotate_rows(shift, pool_);
  return shift;
}

Matrix<float> PreparedSource::load(const std::string& name) const {
  const Place* place = find(name);
  const bool is_bias = name.ends_with(kBias);
  if (place == nullptr) return base_->load(name);
  if (is_bias && place->role == Role::kReader) return reader_bias(name, place->norm);
  if (is_bias && place->role == Role::kFinalNorm)
    return final_shift(name.substr(0, name.size() - kBias.size()));
  Matrix<float> matrix = base_->load(name);
  switch (place->role) {
    case Role::kNorm:
    case Role::kFinalNorm:
      // The readers took gain and shift.
      std::fill(matrix.data(), matrix.data() + matrix.size(), is_bias ? 0.0f : 1.0f);
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
    case Role::kReader:
    case Role::kHead: {
      if (is_bias) break;
      const Matrix<float> gain = base_->load(place->norm + std::string(kWeight));
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
