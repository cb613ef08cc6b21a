// Collects operations of a decoding step for one token and runs them as one kernel
// (cuda_decode_program.h): who writes what others read, where it lies meanwhile, and when it is
// safe to write there again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_decode_program.h"
#include "kernels/cuda/cuda_workspace.h"

namespace d2q {

class CudaStepProgram {
 public:
  explicit CudaStepProgram(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  /// Whether add() takes it.
  bool takes(const cuda::DecodeProduct& product) const;
  bool takes(const cuda::DecodeAttentionProblem& attention) const;
  /// One after the other, as far as their results go. y has y_size values; `continues`: the last
  /// operation has written other ones of them.
  void add(const cuda::DecodeProduct& product, int64_t y_size, bool continues);
  void add(const cuda::DecodeAttentionProblem& attention);
  /// Launches what has been collected, if anything has.
  void launch();
  /// Drops it instead.
  void forget();

 private:
  /// Values in the GPU's memory.
  struct Span {
    const float* begin = nullptr;
    int64_t size = 0;
    bool operator==(const Span&) const = default;
    bool overlaps(const Span& other) const {
      return begin < other.begin + other.size && other.begin < begin + size;
    }
  };
  /// What one operation, or several that continue each other, make of a tensor.
  struct Version {
    Span place;
    int64_t n_written = 0;
    std::vector<size_t> writers = {};
    std::vector<size_t> readers = {};
    bool is_last = true;
    cuda::MarkedPlace marks = {};
  };
  struct Collected {
    cuda::ProgramOperation operation = {};
    int input = -1;  // versions; -1 is what the program finds in memory
    int before = -1;
    int output = -1;
    Span plain_input = {};
    std::vector<bool> known = {};     // operations that are over once this one writes
    std::vector<bool> complete = {};  // and once all of it is written
  };
  bool fits(const cuda::ProgramMemory& memory) const;
  /// n_written: values of `output` that the operation writes.
  void add(Collected next, const Span& input, const Span& output, int64_t n_written, bool adds,
           bool continues);
  void connect(Collected& next, const Span& input, const Span& output, bool adds) const;
  bool may_follow(const Collected& next, const Span& input, const Span& output) const;
  int latest(const Span& place) const;
  int64_t place_marks();

  std::shared_ptr<CudaContext> context_;
  std::vector<Collected> collected_;
  std::vector<Version> versions_;
  cuda::ProgramMemory memory_;
  CudaWorkspace words_{false};
};

}  // namespace d2q
