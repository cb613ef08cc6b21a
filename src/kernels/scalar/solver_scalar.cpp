// The solver's inner loops compiled for the baseline instruction set.
#include <cstdint>

#include "kernels/solver_kernels.h"

namespace d2q {
namespace {

#include "kernels/solver_lanes_inl.h"

}  // namespace

extern const SolverKernels kSolverScalar;
const SolverKernels kSolverScalar = {"scalar",   clip_errors,       plane_sums,
                                     flip_codes, plane_column_sums, assign_codes,
                                     walk,       descend,           dot};

}  // namespace d2q
