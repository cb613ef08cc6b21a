// Any bytes as a safetensors file: an Error or tensors that lie inside the file, nothing else.
#include <cstdlib>

#include "base/error.h"
#include "format/packed_container.h"
#include "format/safetensors.h"
#include "input_file.h"

namespace {

volatile unsigned sink;

void read_all(const d2q::SafetensorsFile& file) {
  for (const d2q::SafetensorsTensor& tensor : file.tensors()) {
    const auto n_bytes = static_cast<size_t>(tensor.n_elements() * d2q::size_of(tensor.type));
    if (n_bytes != tensor.bytes.size() || file.find(tensor.name) != &tensor) std::abort();
    for (const std::byte byte : tensor.bytes) sink = sink + std::to_integer<unsigned>(byte);
  }
  for (const auto& [key, value] : file.metadata()) {
    try {
      const d2q::PackedLayout layout = d2q::parse_packed_layout(value, key);
      if (d2q::packed_layout_to_string(layout).size() > value.size()) std::abort();
    } catch (const d2q::Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const d2q::fuzz::InputFile input(data, size);
  try {
    read_all(d2q::SafetensorsFile(input.path()));
  } catch (const d2q::Error&) {
  }
  return 0;
}
