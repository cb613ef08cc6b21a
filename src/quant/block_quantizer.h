// METHOD.md §3: one block's way through quantization, with both activation streams, one pass per
// stream and stage.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/device_group.h"
#include "model/block.h"
#include "quant/block_tuner.h"
#include "quant/deviation.h"
#include "quant/input_statistics.h"
#include "quant/options.h"
#include "quant/ranges.h"
#include "quant/solve.h"
#include "quant/stage_clock.h"
#include "quant/stream_placement.h"
#include "quant/token_rows.h"

namespace d2q {

/// A linear as it will be stored: packed codes, or dense when it is kept.
struct StoredLinear {
  std::string name;  // "model.layers.3.mlp.up_proj"
  std::optional<LinearSolution> solution;
  Matrix<float> dense;               // when kept
  std::vector<float> bias;           // [out] or empty
  std::optional<InputRange> inputs;  // absent without statistics
  double seconds = 0.0;              // solving it
};

/// Everything of a block that goes to disk, and what the report says of it.
struct QuantizedBlock {
  std::vector<StoredLinear> linears;
  BlockWeights
      weights;  // norms as they will be stored (shift included); linears dense, ŵ as stored
  std::optional<DeviationShift> deviation;        // of the post-attention norm
  std::optional<DeviationShift> final_deviation;  // of the final norm, from the last block
  std::optional<BlockTuning> tuning;
  std::map<std::string, double> stage_seconds;
};

/// The two activation streams, [samples * sequence_length, hidden] f32.
struct Streams {
  TokenRows fp;         // what the fp model feeds the block; empty when no method needs it
  TokenRows quantized;  // what the model quantized so far feeds it; empty for plain rounding
};

/// The calibration windows whose tokens are a member's.
struct WindowRange {
  int64_t first = 0;
  int64_t count = 0;
};
WindowRange window_range(const QuantizeOptions& options, const GroupMember& member);

class BlockQuantizer {
 public:
  /// `source` is the prepared model. All references must outlive the object. `placement` says which
  /// matrices of all tokens are in the host's memory; the streams are where their owner has them.
  /// A member of a group has the streams of its windows, window_range(); all members call the same
  /// functions, and what only concerns the whole, reports and tuning, is the first one's.
  BlockQuantizer(Device& device, const WeightSource& source, const QuantizeOptions& options,
                 const RopeTables& rope, const StreamPlacement& placement = {},
                 const GroupMember& member = {});
  ~BlockQuantizer();

  /// Whether the options need each stream at all.
  static bool needs_statistics(const QuantizeOptions& options);
  static bool needs_fp_stream(const QuantizeOptions& options);
  static bool corrects_deviation(const QuantizeOptions& options);

  /// Quantizes block `layer` and moves both streams behind it. `final_norm` is given for the last
  /// block only, where that norm is to be corrected. `on_linear` hears of each solved linear,
  /// `on_tune_step` of each step of the block's tuning and its loss. Throws Error{kNumeric} naming
  /// block and stage when the activations are no longer finite.
  QuantizedBlock quantize(int64_t layer, const Streams& streams, const NormParams* final_norm,
                          const std::function<void(const StoredLinear&)>& on_linear,
                          const std::function<void(int64_t step, double loss)>& on_tune_step = {});

  /// Moves the streams behind a block that an earlier run finished: `stored` is its weights from
  /// disk. Bit for bit what quantize() did. An empty quantized stream is left alone.
  void replay(int64_t layer, const BlockWeights& stored, const Streams& streams);

 private:
  struct Caches;
  struct Pass;
  using Chunks = std::span<const Tensor>;
  using AddChunk = std::function<void(Chunks chunks, InputStatistics& sums)>;

  void allocate_caches(const StreamPlacement& placement);
  /// for_row_chunks() over whole windows.
  void for_chunks(std::initializer_list<RowAccess> accesses,
                  const std::function<void(Chunks chunks)>& body) const;
  void run_block(const BlockWeights& weights, const TokenRows& stream, bool keep_inputs);
  void copy_rows(const TokenRows& source, const TokenRows& destination);
  void check_finite(int64_t layer, const char* what, const TokenRows& stream);
  /// Of the caches that hold the fp stream's inputs, if there are any, until they are overwritten.
  RowUse kept_input_use() const {
    return needs_fp_stream(options_) ? RowUse::kUpdate : RowUse::kWrite;
  }
  /// Of this member.
  int64_t n_tokens() const {
    return window_range(options_, member_).count * options_.sequence_length;
  }
  int64_t all_tokens() const { return options_.samples * options_.sequence_length; }
  BlockWeights load(int64_t layer, DType dtype) const;

  // The stages of quantize(), in their order.
  void quantize_qkv(Pass& pass);
  void quantize_o(Pass& pass);  // and moves the quantized stream behind the attention
  void correct_mlp_norm(Pass& pass);
  void quantize_up_and_gate(Pass& pass);
  void quantize_down(Pass& pass);
  bool absorb_down_scale(Pass& pass);  // whether there was one
  void tune(Pass& pass, const std::function<void(int64_t step, double loss)>& on_step);
  void tune_first(Pass& pass, const TokenRows& input, const TokenRows& target,
                  const std::function<void(int64_t step, double loss)>& on_step);
  void leave_block(Pass& pass, bool absorbed);

  /// The solver of the input set that `projection` belongs to.
  InputSetSolver collect(Pass& pass, int64_t n_inputs, const char* projection,
                         std::initializer_list<RowAccess> accesses, const AddChunk& add_chunk);
  void solve(Pass& pass, InputSetSolver& solver, Projection projection);
  /// The members solve a part of the rows each; the first one has the result, the others its
  /// weight.
  StoredLinear solve_linear(InputSetSolver& solver, int64_t layer, const char* projection,
                            const Linear& linear);
  Linear stream_linear(const StoredLinear& stored) const;

  Device& device_;
  const WeightSource& source_;
  const QuantizeOptions& options_;
  const RopeTables& rope_;
  BlockStages stages_;
  GroupMember member_;
  std::unique_ptr<Caches> caches_;
};

/// `linear` with packed codes expanded to `dtype`, as the streams run it.
Linear densify(Device& device, const Linear& linear, DType dtype);

}  // namespace d2q
