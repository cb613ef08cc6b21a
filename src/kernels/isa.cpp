#include "kernels/isa.h"

#include <cstdlib>

#include "base/cpu_features.h"
#include "base/error.h"

namespace d2q {
namespace {

constexpr Isa kAllIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};

Isa parse_isa(const std::string& name, const char* subject) {
  for (const Isa isa : kAllIsas) {
    if (name == name_of(isa)) {
      if (!is_available(isa)) {
        fail(ErrorCode::kUnsupported,
             "{}: '{}' needs instructions that this machine lacks ({}), use '{}'", subject, name,
             cpu_features().name.empty() ? "unnamed processor" : cpu_features().name,
             name_of(available_isas().back()));
      }
      return isa;
    }
  }
  fail(ErrorCode::kInvalidArgument,
       "{}: unknown instruction set '{}', expected scalar, avx2 or avx512", subject, name);
}

/// The AVX-512 table with what only some of its processors have.
const PackedKernels& packed_kernels_avx512() {
  static const PackedKernels kernels = [] {
    PackedKernels result = kPackedKernelsAvx512;
    if (cpu_features().avx512vbmi) result.lookup = &kLookupKernelsAvx512Vbmi;
    return result;
  }();
  return kernels;
}

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

bool is_available(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return cpu_features().avx2;
    case Isa::kAvx512:
      return cpu_features().avx512;
  }
  return false;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (is_available(isa)) isas.push_back(isa);
  }
  return isas;
}

Isa choose_isa(const std::string& request) {
  if (request != "auto") return parse_isa(request, "--isa");
  const char* environment = std::getenv("D2Q_ISA");
  if (environment != nullptr && *environment != '\0' && std::string(environment) != "auto") {
    return parse_isa(environment, "D2Q_ISA");
  }
  return available_isas().back();
}

const PackedKernels& packed_kernels(Isa isa) {
  D2Q_CHECK(is_available(isa), "{} kernels on a machine without it", name_of(isa));
  switch (isa) {
    case Isa::kAvx2:
      return kPackedKernelsAvx2;
    case Isa::kAvx512:
      return packed_kernels_avx512();
    case Isa::kScalar:
      break;
  }
  return kPackedKernelsScalar;
}

const ForwardKernels& forward_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kForwardAvx2;
    case Isa::kAvx512:
      return kForwardAvx512;
    case Isa::kScalar:
      break;
  }
  return kForwardScalar;
}

const GradientKernels& gradient_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kGradientAvx2;
    case Isa::kAvx512:
      return kGradientAvx512;
    case Isa::kScalar:
      break;
  }
  return kGradientScalar;
}

const SolverKernels& solver_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kSolverAvx2;
    case Isa::kAvx512:
      return kSolverAvx512;
    case Isa::kScalar:
      break;
  }
  return kSolverScalar;
}

}  // namespace d2q
