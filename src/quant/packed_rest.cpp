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
  const ModelConfig& config = source.config();
  const Family& family = family_named(config.family);
  const ModuleNames& modules = family.modules;
  std::vector<OutputFolder::RestTensor> rest;
  const auto add = [&](const std::string& name, SafetensorsType type, std::vector<int64_t> shape) {
    rest.push_back({{name, type, std::move(shape)},
                    [&source, name] { return source.load(name); },
                    std::nullopt});
  };
  const auto add_table = [&](std::string_view module, int64_t rows, int bits) {
    const std::string name = std::string(module) + ".weight";
    add(name, SafetensorsType::kF16, {rows, config.hidden_size});
    if (bits != 16) {
      rest.back().packed =
          round_to_packed(device, pool, source.load(name), bits, options.group_size);
    }
  };
  add_table(modules.embedding.hf, config.vocab_size, options.embed_bits);
  if (!modules.positions.hf.empty())
    add_table(modules.positions.hf, config.max_positions + family.position_offset, 16);
  const std::string final_norm(modules.final_norm.hf);
  const std::string bias = final_norm + ".bias";
  add(final_norm + ".weight", SafetensorsType::kF32, {config.hidden_size});
  if (!final_shift.empty() || source.has(bias)) {
    add(bias, SafetensorsType::kF32, {config.hidden_size});
    rest.back().load = [&source, bias, final_shift] {
      Matrix<float> values = source.has(bias) ? source.load(bias)
                                              : Matrix<float>(1, source.config().hidden_size, true);
      for (size_t j = 0; j < final_shift.size(); ++j) values.data()[j] += final_shift[j];
      return values;
    };
  }
  if (!config.tied_embeddings) add_table(modules.head.hf, config.vocab_size, options.head_bits);
  return rest;
}

}  // namespace d2q
