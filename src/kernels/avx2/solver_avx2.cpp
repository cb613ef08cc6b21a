// The solver's inner loops compiled for the AVX2 instruction set.
#include <cstdint>

#include "kernels/solver_kernels.h"

namespace d2q {
namespace {

#include "kernels/solver_lanes_inl.h"

}  // namespace

extern const SolverKernels kSolverAvx2;
const SolverKernels kSolverAvx2 = {"avx2",     clip_errors,       plane_sums,
                                   flip_codes, plane_column_sums, assign_codes,
                                   walk,       descend,           dot};

}  // namespace d2q
