#include "quant/packed_rest.h"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/host_copy.h"
#include "model/family.h"

namespace d2q {

PackedLinear round_to_packed(Device& device, ThreadPool& pool, const Matrix<float>& weight,
                             int bits, int64_t group_size) {
  // Whole row tiles, so that the slices' codes and scales are the matrix's one after another. A
  // slice's work takes about 20 bytes a weight.
  constexpr int64_t kSliceRows = 1024 * kTileRows;
  InputSetSolver solver(device, weight.cols());
  const Grid grid{GridKind::kUniform, bits};
  PackedLinear result;
  for (int64_t begin = 0; begin < weight.rows(); begin += kSliceRows) {
    const int64_t rows = std::min(kSliceRows, weight.rows() - begin);
    const Tensor slice = device.allocate(rows, weight.cols(), DType::kF32);
    device.upload(weight.row(begin), slice);
    const PackedLinear part = pack_solution(solver.solve(slice, grid, group_size), pool);
    result.layout = part.layout;
    result.codes.insert(result.codes.end(), part.codes.begin(), part.codes.end());
    result.scales.insert(result.scales.end(), part.scales.begin(), part.scales.end());
  }
  result.layout.rows = weight.rows();
  return result;
}

InputEmbedding stored_embedding(Device& device, ThreadPool& pool, const InputEmbedding& fp,
                                const QuantizeOptions& options) {
  const InputEmbedding stored = fp.converted(device, DType::kF16);
  if (options.embed_bits == 16) return stored;
  Matrix<float> values = to_host<float>(device, fp.tokens());
  const PackedLinear packed =
      round_to_packed(device, pool, values, options.embed_bits, options.group_size);
  dequantize(packed.view(), values.span());
  return stored.with_tokens(to_device(device, values, DType::kF32));
}

std::vector<OutputFolder::RestTensor> packed_rest(Device& device, ThreadPool& pool,
                                                  const WeightSource& source,
                                                  const QuantizeOptions& options,
                                                  const std::vector<float>& final_shift) {
  const auto stored = [&](const std::string& name, int bits) {
    OutputFolder::RestTensor tensor{name, source.load(name), true, std::nullopt};
    if (bits != 16) {
      tensor.packed = round_to_packed(device, pool, tensor.values, bits, options.group_size);
      tensor.values = Matrix<float>();
    }
    return tensor;
  };
  const ModuleNames& modules = family_named(source.config().family).modules;
  const std::string final_norm(modules.final_norm.hf);
  std::vector<OutputFolder::RestTensor> rest;
  const std::string embedding = std::string(modules.embedding.hf) + ".weight";
  rest.push_back(stored(embedding, options.embed_bits));
  if (!modules.positions.hf.empty()) {
    const std::string positions = std::string(modules.positions.hf) + ".weight";
    rest.push_back({positions, source.load(positions), true, {}});
  }
  rest.push_back({final_norm + ".weight", source.load(final_norm + ".weight"), false, {}});
  const std::string bias = final_norm + ".bias";
  if (!final_shift.empty()) {
    Matrix<float> values = source.has(bias)
                               ? source.load(bias)
                               : Matrix<float>(1, static_cast<int64_t>(final_shift.size()), true);
    for (size_t j = 0; j < final_shift.size(); ++j) values.data()[j] += final_shift[j];
    rest.push_back({bias, std::move(values), false, {}});
  } else if (source.has(bias)) {
    rest.push_back({bias, source.load(bias), false, {}});
  }
  if (!source.config().tied_embeddings) {
    const std::string head = std::string(modules.head.hf) + ".weight";
    rest.push_back(stored(head, options.head_bits));
  }
  return rest;
}

}  // namespace d2q
