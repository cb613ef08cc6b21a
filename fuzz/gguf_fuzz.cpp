// Any bytes as a GGUF file: an Error, or metadata and weights that can all be read.
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "format/gguf.h"
#include "input_file.h"

namespace {

/// Runs a read that may be refused.
template <typename Read>
void attempt(Read read) {
  try {
    read();
  } catch (const d2q::Error&) {
  }
}

void read_all(const d2q::GgufFile& file) {
  for (const std::string& key : file.keys()) {
    attempt([&] { file.boolean(key); });
    attempt([&] { file.integer(key); });
    attempt([&] { file.number(key); });
    attempt([&] { file.string(key); });
    attempt([&] { file.strings(key); });
    attempt([&] { file.integers(key); });
    attempt([&] { file.numbers(key); });
  }
  for (const d2q::GgufTensor& tensor : file.tensors()) {
    const int64_t last = tensor.n_rows() - 1;
    std::vector<float> row(static_cast<size_t>(tensor.row_length()));
    file.dequantize_rows(tensor, 0, 1, row);
    file.dequantize_rows(tensor, last, 1, row);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const d2q::fuzz::InputFile input(data, size);
  attempt([&] { read_all(d2q::GgufFile(input.path())); });
  return 0;
}
