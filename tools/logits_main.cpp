// Writes a model's logits on given tokens, for tools/compare_logits.py.
//   d2q_logits MODEL REFERENCE.safetensors OUT.safetensors [f32|bf16]
// REFERENCE holds `ids` [n] i32; OUT gets `logits` [n, vocab] f32.
#include <cstdio>
#include <cstring>
#include <exception>
#include <span>
#include <string>

#include "format/safetensors.h"
#include "kernels/host_copy.h"
#include "model/transformer.h"

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::fprintf(stderr, "usage: %s MODEL REFERENCE.safetensors OUT.safetensors [f32|bf16]\n",
                 argv[0]);
    return 2;
  }
  try {
    const d2q::SafetensorsFile reference(argv[2]);
    const d2q::SafetensorsTensor* stored = reference.find("ids");
    if (stored == nullptr || stored->type != d2q::SafetensorsType::kI32) {
      throw std::runtime_error(std::string(argv[2]) + ": no i32 tensor 'ids'");
    }
    std::vector<int32_t> ids(static_cast<size_t>(stored->n_elements()));
    std::memcpy(ids.data(), stored->bytes.data(), stored->bytes.size());
    const bool bf16 = argc == 5 && std::string(argv[4]) == "bf16";

    d2q::ThreadPool pool;
    const auto device = d2q::make_cpu_device(pool);
    d2q::Transformer model(*device, d2q::open_model(argv[1]),
                           bf16 ? d2q::DType::kBF16 : d2q::DType::kF32);
    const d2q::Tensor logits = model.forward(ids, static_cast<int64_t>(ids.size()));
    d2q::SafetensorsWriter writer(
        argv[3], {{"logits", d2q::SafetensorsType::kF32, {logits.rows(), logits.cols()}}});
    const d2q::Matrix<float> values = d2q::to_host<float>(*device, logits);
    writer.write("logits", std::as_bytes(values.span()));
    writer.finish();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
