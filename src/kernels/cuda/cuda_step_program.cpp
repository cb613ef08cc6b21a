#include "kernels/cuda/cuda_step_program.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/cuda_decode_product.h"

namespace d2q {
namespace {

void unite(std::vector<bool>& set, const std::vector<bool>& other) {
  if (set.size() < other.size()) set.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) {
    if (other[i]) set[i] = true;
  }
}

bool has(const std::vector<bool>& set, size_t i) { return i < set.size() && set[i]; }

bool has_all(const std::vector<bool>& set, const std::vector<size_t>& members) {
  return std::all_of(members.begin(), members.end(), [&](size_t i) { return has(set, i); });
}

}  // namespace

bool CudaStepProgram::takes(const cuda::DecodeProduct& product) const {
  if (context_->properties().cooperativeLaunch == 0) return false;
  if (reinterpret_cast<std::uintptr_t>(product.x) % 16 != 0) return false;  // it is read in fours
  cuda::ProgramOperation operation;
  operation.product = product;
  return fits(cuda::prepare_program(&operation, 1, decode_launch(*context_).n_processors));
}

bool CudaStepProgram::fits(const cuda::ProgramMemory& memory) const {
  return cuda::shared_bytes(memory) <= context_->properties().sharedMemPerBlockOptin;
}

bool CudaStepProgram::takes(const cuda::DecodeAttentionProblem& attention) const {
  return context_->properties().cooperativeLaunch != 0 && cuda::fits_program(attention);
}

void CudaStepProgram::add(const cuda::DecodeProduct& product, int64_t y_size, bool continues) {
  Collected next;
  next.operation.product = product;
  int64_t n_written = 0;
  for (int i = 0; i < product.n_parts; ++i) n_written += product.parts[i].rows;
  if (product.output == cuda::ProductOutput::kGated) n_written = product.parts[0].rows;
  add(std::move(next), {product.x, product.cols}, {product.y, y_size}, n_written,
      product.output == cuda::ProductOutput::kAdd, continues);
}

void CudaStepProgram::add(const cuda::DecodeAttentionProblem& attention) {
  const bool is_apart = std::any_of(collected_.begin(), collected_.end(), [&](const Collected& c) {
    const cuda::DecodeAttentionProblem& before = c.operation.attention;
    const bool reads_written_keys = before.keys == attention.keys;
    return c.operation.is_attention && (reads_written_keys || !(cuda::ProgramPosition(before) ==
                                                                cuda::ProgramPosition(attention)));
  });
  if (is_apart) launch();
  Collected next;
  next.operation.is_attention = true;
  next.operation.attention = attention;
  const int64_t dim = attention.head_dim;
  add(std::move(next),
      {attention.projections, (attention.n_heads + 2 * attention.n_kv_heads) * dim},
      {attention.y, attention.n_heads * dim}, attention.n_heads * dim, false, false);
}

int CudaStepProgram::latest(const Span& place) const {
  for (size_t i = versions_.size(); i > 0; --i) {
    if (versions_[i - 1].place == place) return static_cast<int>(i - 1);
  }
  return -1;
}

/// Whether the program may have the operation too: tensors are the same or apart, what it reads has
/// been written whole or not at all, and nobody still reads from memory what it is to overwrite
/// there.
bool CudaStepProgram::may_follow(const Collected& next, const Span& input,
                                 const Span& output) const {
  const auto same_or_apart = [](const Span& a, const Span& b) { return a == b || !a.overlaps(b); };
  for (const int read : {next.input, next.before}) {
    if (read < 0) continue;
    const Version& version = versions_[static_cast<size_t>(read)];
    if (version.n_written != version.place.size) return false;
  }
  for (const Version& version : versions_) {
    if (!same_or_apart(version.place, input) || !same_or_apart(version.place, output)) return false;
  }
  for (size_t i = 0; i < collected_.size(); ++i) {
    const Span& read = collected_[i].plain_input;
    if (!same_or_apart(read, output)) return false;
    if (read == output && !has(next.known, i)) return false;
  }
  return true;
}

void CudaStepProgram::connect(Collected& next, const Span& input, const Span& output,
                              bool adds) const {
  next.input = latest(input);
  next.before = adds ? latest(output) : -1;
  next.plain_input = next.input < 0 ? input : Span();
  next.known.clear(), next.complete.clear();
  if (next.input >= 0) {
    for (const size_t writer : versions_[static_cast<size_t>(next.input)].writers) {
      // A block of threads attends to some of the heads only, but it has those.
      unite(next.known,
            next.operation.is_attention ? collected_[writer].known : collected_[writer].complete);
      unite(next.complete, collected_[writer].complete);
    }
  }
  if (next.before >= 0) {
    for (const size_t writer : versions_[static_cast<size_t>(next.before)].writers) {
      unite(next.complete, collected_[writer].complete);
    }
  }
}

void CudaStepProgram::add(Collected next, const Span& input, const Span& output, int64_t n_written,
                          bool adds, bool continues) {
  const cuda::ProgramMemory memory =
      cuda::prepare_program(&next.operation, 1, decode_launch(*context_).n_processors);
  connect(next, input, output, adds);
  if (!may_follow(next, input, output) || !fits(cuda::larger_of(memory_, memory))) {
    launch();
    continues = false;
    connect(next, input, output, adds);
  }
  memory_ = cuda::larger_of(memory_, memory);
  const size_t index = collected_.size();
  next.complete.resize(index + 1);
  next.complete[index] = true;
  if (continues && index > 0) {
    next.output = collected_.back().output;
  } else {
    if (const int old = latest(output); old >= 0) {
      versions_[static_cast<size_t>(old)].is_last = false;
    }
    next.output = static_cast<int>(versions_.size());
    versions_.push_back({.place = output});
  }
  Version& version = versions_[static_cast<size_t>(next.output)];
  version.writers.push_back(index);
  version.n_written += n_written;
  for (const int read : {next.input, next.before}) {
    if (read >= 0) versions_[static_cast<size_t>(read)].readers.push_back(index);
  }
  collected_.push_back(std::move(next));
}

/// Gives marked words to the versions that are read, and to attention's partial results; returns
/// how many there are. Words are used again, with the other mark, when all who read or wrote them
/// before are over, and those who are to read them know that they have been written since.
int64_t CudaStepProgram::place_marks() {
  struct Buffer {
    int64_t offset;
    int mark;
    const std::vector<size_t>* writers;
    const std::vector<size_t>* readers;
  };
  std::map<const float*, std::vector<Buffer>> buffers;
  int64_t n_words = 0;
  // What is over when an operation starts: every block of threads has seen values of all inputs
  // before, and knows what their writers knew.
  std::vector<std::vector<bool>> seen(collected_.size());
  for (size_t i = 0; i + 1 < collected_.size(); ++i) {
    seen[i + 1] = seen[i];
    if (collected_[i].input < 0) continue;
    for (const size_t writer : versions_[static_cast<size_t>(collected_[i].input)].writers) {
      unite(seen[i + 1], collected_[writer].known);
    }
  }
  const auto place = [&](std::vector<Buffer>& of_tensor, int64_t size,
                         const std::vector<bool>& known, const std::vector<size_t>& writers,
                         const std::vector<size_t>& readers) {
    for (Buffer& buffer : of_tensor) {
      const bool is_free = has_all(known, *buffer.writers) && has_all(known, *buffer.readers) &&
                           std::all_of(readers.begin(), readers.end(), [&](size_t reader) {
                             return has_all(seen[reader], *buffer.writers);
                           });
      if (!is_free) continue;
      buffer.mark = 1 - buffer.mark;
      buffer.writers = &writers, buffer.readers = &readers;
      return cuda::MarkedPlace{static_cast<int>(buffer.offset), buffer.mark};
    }
    // All bits are set at the start, so that 0 is news.
    of_tensor.push_back({n_words, 0, &writers, &readers});
    n_words += (size + 31) / 32 * 32;
    D2Q_CHECK(n_words <= std::numeric_limits<int>::max(), "{} words", n_words);
    return cuda::MarkedPlace{static_cast<int>(of_tensor.back().offset), 0};
  };
  const int n_processors = context_->properties().multiProcessorCount;
  std::vector<std::vector<size_t>> only(collected_.size());
  std::vector<Buffer> partials;
  for (size_t i = 0; i < collected_.size(); ++i) {
    Collected& c = collected_[i];
    Version& version = versions_[static_cast<size_t>(c.output)];
    if (version.writers[0] == i && !version.readers.empty()) {
      version.marks = place(buffers[version.place.begin], version.place.size, c.known,
                            version.writers, version.readers);
    }
    if (!c.operation.is_attention) continue;
    only[i] = {i};
    const int64_t size = cuda::prepare_attention(c.operation.attention, n_processors);
    if (size > 0) c.operation.partial = place(partials, size, c.known, only[i], only[i]);
  }
  return n_words;
}

void CudaStepProgram::forget() {
  collected_.clear();
  versions_.clear();
  memory_ = {};
}

void CudaStepProgram::launch() {
  if (collected_.empty()) return;
  const int64_t n_words = place_marks();
  cuda::DecodeProgram program;
  std::vector<cuda::ProgramOperation> operations;
  for (const Collected& c : collected_) {
    cuda::ProgramOperation operation = c.operation;
    const auto marks_of = [&](int version) {
      return version < 0 ? cuda::MarkedPlace() : versions_[static_cast<size_t>(version)].marks;
    };
    operation.input = marks_of(c.input);
    operation.before = marks_of(c.before);
    operation.output = marks_of(c.output);
    operation.stores = versions_[static_cast<size_t>(c.output)].is_last;
    if (operation.is_attention) program.position = cuda::ProgramPosition(operation.attention);
    operations.push_back(operation);
  }
  program.count = static_cast<int>(operations.size());
  program.memory = memory_;
  forget();

  const size_t n_bytes = static_cast<size_t>(n_words) * sizeof(unsigned);
  program.words = static_cast<unsigned*>(words_.reserve(*context_, static_cast<int64_t>(n_bytes)));
  const std::shared_ptr<void> constants = context_->constants(
      operations.data(), static_cast<int64_t>(operations.size() * sizeof(cuda::ProgramOperation)));
  program.operations = static_cast<const cuda::ProgramOperation*>(constants.get());
  check_cuda(cudaMemsetAsync(program.words, 0xff, n_bytes, context_->stream()), "filling");
  check_cuda(cuda::launch_decode_program(program, decode_launch(*context_)), "decoding program");
}

}  // namespace d2q
