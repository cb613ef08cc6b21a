// The solver's inner loops compiled for the AVX-512 instruction set.
#include <cstdint>

#include "kernels/solver_kernels.h"

namespace d2q {
namespace {

#include "kernels/solver_lanes_inl.h"

}  // namespace

extern const SolverKernels kSolverAvx512;
const SolverKernels kSolverAvx512 = {"avx512",   clip_errors,       plane_sums,
                                     flip_codes, plane_column_sums, assign_codes,
                                     walk,       descend,           dot};

}  // namespace d2q
