#include "quant/packed_rest.h"

#include <algorithm>

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

}  // namespace d2q
