// METHOD.md §4 on the linears that share one input: order, damp, factorise once, walk each.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "codec/packed_matrix.h"
#include "kernels/device.h"
#include "quant/column_order.h"
#include "quant/stage_clock.h"

namespace d2q {

/// J of METHOD.md §8 relative to tr(W H Wᵀ) after a stage: "walk", "scales", "codes", "column
/// scale".
struct StageObjective {
  std::string stage;
  double objective = 0.0;
};

/// What a solved linear is made of. ŵ[i, j] = column_scale[j] · level(codes[i, j]; params of i's
/// group).
struct LinearSolution {
  PackedLayout layout;
  std::vector<uint8_t> codes;       // [out, in] row-major
  std::vector<float> params;        // [out, n_groups * n_params] row-major, exact in fp16
  std::vector<float> column_scale;  // [in]; all 1 unless a column scale was fitted
  bool has_column_scale = false;
  /// ŵ [out, in] f32 on the device as solved; empty once codes or scales have changed.
  Tensor weight;
  // ‖ŴX − WX̃‖² relative to ‖WX‖², up to the same constant before (round to nearest on a
  // uniform grid of the same bits and groups) and after; 0 without statistics.
  double objective_before = 0.0;
  double objective_after = 0.0;
  double output_energy = 0.0;   // ‖WX‖², scaled as the Gram matrix is
  double relative_error = 0.0;  // ‖(Ŵ − W)X‖² / ‖WX‖²
  double target_error = 0.0;    // ‖(Ŵ − W*)X‖² / ‖WX‖², W* of §8.1: no damping in it
  double damping = 0.0;         // share of the mean diagonal that the factorisation needed
  std::vector<StageObjective> stages;  // of the refinement, in order; empty without it
  bool rounded_only = false;           // every rung of the damping ladder failed: plain rounding
};

/// Codes and fp16 scales in file order.
struct PackedLinear {
  PackedLayout layout;
  std::vector<uint8_t> codes;
  std::vector<Half> scales;
  PackedView view() const { return {layout, codes, scales}; }
};
/// In parallel over row tiles.
PackedLinear pack_solution(const LinearSolution& solution, ThreadPool& pool);
/// The layout, codes and params of a solution that was packed; likewise.
LinearSolution unpack_solution(const PackedView& packed, ThreadPool& pool);

/// How the linears of an input set are solved.
struct SolveOptions {
  double alpha = 0.25;    // weight of the asymmetric term
  double damping = 0.01;  // first rung of the ladder
  bool refine = false;    // METHOD.md §8: exact target, scale refit; else §4
  int refine_rounds = 0;  // rounds of §8.3 and §8.4 before the last refit
};

/// Solver for one input set. Not thread-safe; works on the device.
class InputSetSolver {
 public:
  /// Plain rounding: no statistics.
  InputSetSolver(Device& device, int64_t n_inputs);
  /// gram = Σ x xᵀ (scaled), cross = Σ x̃ xᵀ or empty; both [in, in] f32 on the device, and the
  /// solver's from now on. Throws Error{kNumeric} naming `subject` when they are not finite.
  /// `clock`, if any, hears of the stages "factorise", "solve" and "report".
  InputSetSolver(Device& device, Tensor gram, Tensor cross, const SolveOptions& options,
                 const std::string& subject, StageClock* clock = nullptr);
  ~InputSetSolver();

  /// weight [out, in] f32 on the device. A group size larger than `in` means one group.
  /// `middle_zero`, for a uniform grid of 2 bits only: every zero becomes 1 or 2, which is what
  /// other formats hold exactly; the refinement then leaves the scales as the walk fitted them.
  LinearSolution solve(const Tensor& weight, const Grid& grid, int64_t group_size,
                       bool middle_zero = false);

  /// Σ x² of each input, scaled as the Gram matrix is; empty without statistics.
  std::vector<double> input_energies() const;

 private:
  struct Factorised;
  void enter(const char* stage) const;
  const Factorised& factorised(int64_t group_size);
  void factorise(Factorised& parts);
  /// What is asked of one walk.
  struct Request {
    Grid grid;
    bool middle_zero;
    bool plain_rounding;
  };
  struct Walked {
    ColumnWalk walk;
    Tensor target;  // W* in the order of the walk; empty without a refinement
    std::vector<StageObjective> stages;
  };
  Walked walk(const Tensor& weight, const Request& wanted, const Factorised& parts);
  void refine(const ColumnWalk& walk, bool middle_zero, const Tensor& target,
              const Factorised& parts, std::vector<StageObjective>& stages);
  void centre_zeros(const ColumnWalk& walk);
  LinearSolution collect(const ColumnWalk& walk, int64_t group_size, const Factorised& parts);
  void measure(const Tensor& weight, const Tensor& rounded, const Tensor& target,
               LinearSolution& solution) const;

  Device& device_;
  int64_t n_inputs_;
  Tensor gram_;
  Tensor deviation_;  // D = cross − gram; empty without a cross term
  SolveOptions options_;
  StageClock* clock_ = nullptr;
  std::vector<double> diagonal_;  // of gram_, 1 where it is 0; empty without statistics
  std::vector<bool> dead_;
  std::map<int64_t, std::unique_ptr<Factorised>> factorised_;  // by group size
};

}  // namespace d2q
