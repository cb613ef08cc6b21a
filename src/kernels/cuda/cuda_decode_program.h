// A decoding step's products and attention for one token as a single kernel. Read by nvcc too:
// CUDA's headers only.
#pragma once

#include "kernels/cuda/cuda_decode_kernels.h"

namespace d2q::cuda {

/// Where values lie among a program's marked words (marked_values.cuh); mark -1: nowhere.
struct MarkedPlace {
  int offset = 0;
  int mark = -1;
};

/// A product, or attention of one sequence.
struct ProgramOperation {
  bool is_attention = false;
  bool stores = true;  // y; not when only operations of the program read it
  DecodeProduct product;
  DecodeAttentionProblem attention;  // partial and arrived are not used
  MarkedPlace input;                 // in place of x or the projections
  MarkedPlace before;                // with kAdd, in place of y's value before
  MarkedPlace output;
  MarkedPlace partial;
  // By prepare_program().
  DecodeCut cut;
  bool is_regular = false;  // decode_input.cuh
};

/// Whether a program takes such attention.
bool fits_program(const DecodeAttentionProblem& attention);
/// Marked words that attention needs for partial results; sets n_splits.
int64_t prepare_attention(DecodeAttentionProblem& attention, int n_processors);

/// What the operations of a program need of a block of threads' shared memory.
struct ProgramMemory {
  int stage_bytes = 0;
  int input_bytes = 0;
  int part_bytes = 0;
};
ProgramMemory prepare_program(ProgramOperation* operations, int count, int n_processors);
ProgramMemory larger_of(const ProgramMemory& a, const ProgramMemory& b);
/// All of it, in bytes.
size_t shared_bytes(const ProgramMemory& memory);

/// What attention of all operations has in common.
struct ProgramPosition {
  const int32_t* positions = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  int half = 0;
  int capacity = 0;

  ProgramPosition() = default;
  explicit ProgramPosition(const DecodeAttentionProblem& p)
      : positions(p.positions), cos(p.cos), sin(p.sin), half(p.half), capacity(p.capacity) {}
  bool operator==(const ProgramPosition& other) const {
    return positions == other.positions && cos == other.cos && sin == other.sin &&
           half == other.half && capacity == other.capacity;
  }
};

struct DecodeProgram {
  const ProgramOperation* operations = nullptr;  // in the GPU's memory
  int count = 0;
  unsigned* words = nullptr;  // marked ones; all bits set before every launch
  ProgramMemory memory;
  ProgramPosition position;  // where there is attention
};
cudaError_t launch_decode_program(const DecodeProgram& program, const Launch& launch);

}  // namespace d2q::cuda
