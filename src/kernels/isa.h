// The choice of instruction set: made once for a device, from what the machine has and what the
// user asks for.
#pragma once

#include <string>
#include <vector>

#include "kernels/forward_kernels.h"
#include "kernels/gradient_kernels.h"
#include "kernels/packed_kernels.h"
#include "kernels/solver_kernels.h"

namespace d2q {

enum class Isa { kScalar, kAvx2, kAvx512 };

/// "scalar", "avx2" or "avx512", the names that choose_isa() takes.
const char* name_of(Isa isa);

/// True when this processor and operating system can run it.
bool is_available(Isa isa);

/// Every ISA that is_available(), slowest first; never empty.
std::vector<Isa> available_isas();

/// "auto" is the environment's D2Q_ISA when that is set and not empty, else the fastest available
/// one. Throws Error{kInvalidArgument} for an unknown name and Error{kUnsupported} for an ISA that
/// this machine lacks.
Isa choose_isa(const std::string& request = "auto");

/// The forward's inner loops of an available ISA.
const ForwardKernels& forward_kernels(Isa isa);
/// The backward's inner loops of an available ISA.
const GradientKernels& gradient_kernels(Isa isa);
/// The packed kernels of an available ISA.
const PackedKernels& packed_kernels(Isa isa);
/// The solver's inner loops of an available ISA.
const SolverKernels& solver_kernels(Isa isa);

}  // namespace d2q
