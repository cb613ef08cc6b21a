// METHOD.md §9.2: the whole packed model with what is tuned in it, held as codes and scales; one
// block at a time is dense.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/block_backward.h"
#include "model/input_embedding.h"
#include "quant/options.h"
#include "quant/shard_tensor.h"
#include "quant/tuned_parameters.h"

namespace d2q {

/// A head as the loss reads it: its norm, and the dense linear behind it.
struct ModelHead {
  NormParams norm;
  Linear linear;  // dense in the dtype of the products
};
/// The final norm and the head (or the embedding that stands for it) of `source`.
ModelHead load_head(Device& device, const WeightSource& source, DType products);

class TunedModel {
 public:
  /// `stored` is the packed folder. All references must outlive the object.
  TunedModel(Device& device, ThreadPool& pool, const WeightSource& stored,
             const QuantizeOptions& options, const TuneRates& rates);

  int64_t n_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  /// x [T, hidden] f32 of whole windows.
  void embed(std::span<const int32_t> ids, const Tensor& x) const;
  /// The weights of block `layer` as they stand, those of its tuned linears valid until the next
  /// call.
  const BlockWeights& block(int64_t layer) const;
  const ModelHead& head() const noexcept { return head_; }

  /// Where block `layer`'s gradients go; a linear's scales take their step as soon as its gradient
  /// is there.
  BlockGradients gradients(int64_t layer, const TuneStep& at) const;
  /// Both sums of the final norm.
  const NormGradient& final_norm_gradient() const { return final_norm_->gradient(); }
  /// The step of all norms, from the sums that gradients() and final_norm_gradient() have got.
  void update_norms(const TuneStep& at) const;
  /// Rounds all scales to what will be stored. Ends the tuning.
  void round() const;

  /// The stored tensors that are others now, by shard: a block's at its index, the final norm's
  /// behind the last.
  std::vector<std::vector<ShardTensor>> changed_tensors() const;

 private:
  struct Block {
    BlockWeights weights;
    std::array<std::optional<TunedScales>, kBlockLinears.size()> scales;
    std::optional<TunedNorm> attention_norm;
    std::optional<TunedNorm> mlp_norm;
  };
  void load_linear_of(Block& block, int64_t layer, const BlockLinear& linear,
                      const TuneRates& rates);
  LinearSolution stored_solution(int64_t layer, const BlockLinear& linear) const;
  std::string weight_name(int64_t layer, const BlockLinear& linear) const;

  Device& device_;
  ThreadPool& pool_;
  const WeightSource& stored_;
  const QuantizeOptions& options_;
  InputEmbedding embedding_;
  std::vector<Block> blocks_;
  std::array<Tensor, kBlockLinears.size()> dense_;  // by Projection, the block in hand
  ModelHead head_;
  std::optional<TunedNorm> final_norm_;
};

}  // namespace d2q
