// The dense algebra around the solver: the GPU's against the CPU's and against definitions.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cuda/cuda_test_support.h"

namespace d2q {
namespace {

class CudaMatrixOpsTest : public test::CudaTest {
 protected:
  MatrixOps& ops() { return gpu_->matrices(); }

  Tensor widened(const Tensor& matrix) {
    const Tensor wide = cpu_->allocate(matrix.rows(), matrix.cols(), DType::kF64);
    cpu_->convert(matrix, wide);
    return wide;
  }
  std::vector<int64_t> shuffled(int64_t n) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    Rng rng(seed_++);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
    return order;
  }
  /// Bit by bit.
  void expect_equal(const Tensor& gpu, const Tensor& cpu) {
    EXPECT_EQ(test::bytes_of(to_cpu(gpu)), test::bytes_of(cpu));
  }
};

const int64_t kWidths[] = {1, 31, 130, 257, 600};

TEST_F(CudaMatrixOpsTest, MovesElementsAsTheCpuDoes) {
  for (const int64_t n : kWidths) {
    const Tensor g = gram(n);
    const int64_t dead = n / 2;
    for (int64_t i = 0; i < n; ++i)
      g.data<float>()[i * n + dead] = g.data<float>()[dead * n + i] = 0.0f;
    const Tensor c = random(n, n, DType::kF32);
    const Tensor gpu_gram = to_gpu(g), gpu_cross = to_gpu(c);
    EXPECT_EQ(ops().diagonal(gpu_gram), cpu_->matrices().diagonal(g));
    ops().subtract_gram(gpu_gram, gpu_cross);
    cpu_->matrices().subtract_gram(g, c);
    expect_equal(gpu_cross, c);

    const std::vector<int64_t> order = shuffled(n);
    const Tensor expected = cpu_->allocate(n, n, DType::kF64);
    const Tensor permuted = poisoned(*gpu_, n, n, DType::kF64);
    cpu_->matrices().permute(g, order, expected);
    ops().permute(gpu_gram, order, permuted);
    cpu_->matrices().shift_diagonal(expected, 0.25);
    ops().shift_diagonal(permuted, 0.25);
    expect_equal(permuted, expected);

    std::vector<int64_t> columns = order;
    columns[static_cast<size_t>(dead)] = -1;
    for (const DType dtype : {DType::kF32, DType::kU8}) {
      const int64_t rows = 37;
      const Tensor source = cpu_->allocate(rows, n, dtype);
      for (int64_t i = 0; i < source.n_bytes(); ++i)
        static_cast<uint8_t*>(source.raw())[i] = static_cast<uint8_t>(i * 37 % 119);
      const Tensor gathered = cpu_->allocate(rows, n, dtype);
      const Tensor gpu_gathered = poisoned(*gpu_, rows, n, dtype);
      cpu_->matrices().gather_columns(source, columns, gathered);
      ops().gather_columns(to_gpu(source), columns, gpu_gathered);
      expect_equal(gpu_gathered, gathered);
    }
  }
}

TEST_F(CudaMatrixOpsTest, ExpandsCodesToTheSameBits) {
  for (const PackedLayout& layout : {PackedLayout{PackedKind::kUniform, 2, 19, 100, 48},
                                     PackedLayout{PackedKind::kUniform, 8, 5, 70, 70},
                                     PackedLayout{PackedKind::kSignPlanes, 2, 33, 96, 32},
                                     PackedLayout{PackedKind::kSignPlanes, 3, 130, 65, 16}}) {
    const Tensor codes = cpu_->allocate(layout.rows, layout.cols, DType::kU8);
    Rng rng(seed_++);
    for (int64_t i = 0; i < codes.size(); ++i)
      codes.data<uint8_t>()[i] = static_cast<uint8_t>(rng.below(1u << layout.bits));
    const Tensor params = random(layout.rows, layout.n_groups() * layout.n_params(), DType::kF32);
    const Tensor expected = cpu_->allocate(layout.rows, layout.cols, DType::kF32);
    const Tensor weight = poisoned(*gpu_, layout.rows, layout.cols, DType::kF32);
    cpu_->matrices().expand(layout, codes, params, expected);
    ops().expand(layout, to_gpu(codes), to_gpu(params), weight);
    expect_equal(weight, expected);
  }
}

TEST_F(CudaMatrixOpsTest, FactorsAndTheirProductsAgree) {
  for (const int64_t n : kWidths) {
    const Tensor hessian = widened(gram(n));
    const Tensor deviation = widened(random(n, n, DType::kF32, 30.0));
    const Tensor factor = cpu_->allocate(n, n, DType::kF64);
    ASSERT_TRUE(cpu_->matrices().inverse_factor(hessian, 0.01, factor));
    const Tensor gpu_factor = poisoned(*gpu_, n, n, DType::kF64);
    ASSERT_TRUE(ops().inverse_factor(to_gpu(hessian), 0.01, gpu_factor));
    EXPECT_LT(difference_to_gpu(gpu_factor, factor), 1e-10) << n;

    const Tensor asymmetry = cpu_->allocate(n, n, DType::kF32);
    const Tensor gpu_asymmetry = poisoned(*gpu_, n, n, DType::kF32);
    cpu_->matrices().asymmetry_matrix(deviation, factor, 0.25, asymmetry);
    ops().asymmetry_matrix(to_gpu(deviation), to_gpu(factor), 0.25, gpu_asymmetry);
    EXPECT_LT(difference_to_gpu(gpu_asymmetry, asymmetry), 1e-6) << n;

    const Tensor weight = random(40, n, DType::kF32);
    const Tensor target = cpu_->allocate(40, n, DType::kF32);
    const Tensor gpu_target = poisoned(*gpu_, 40, n, DType::kF32);
    cpu_->matrices().apply_target_map(cpu_->matrices().target_map(deviation, factor, 0.25), weight,
                                      target);
    ops().apply_target_map(ops().target_map(to_gpu(deviation), to_gpu(factor), 0.25),
                           to_gpu(weight), gpu_target);
    // f32 in place of f64 in front of a factor of condition ~1e2.
    EXPECT_LT(difference_to_gpu(gpu_target, target), 1e-4) << n;
  }
}

TEST_F(CudaMatrixOpsTest, WideTargetMapsLeaveOutZerosOnly) {
  // Three panels of columns, the last one ragged; rows enough for split operands.
  const int64_t rows = 70, n = 4200;
  const double alpha = 0.4;
  const Tensor weight = random(rows, n, DType::kF32);
  const Tensor deviation = widened(random(n, n, DType::kF32)),
               factor = widened(random(n, n, DType::kF32));
  for (int64_t i = 0; i < n; ++i) std::fill_n(factor.data<double>() + i * n, i, 0.0);
  const Tensor target = poisoned(*gpu_, rows, n, DType::kF32);
  ops().apply_target_map(ops().target_map(to_gpu(deviation), to_gpu(factor), alpha), to_gpu(weight),
                         target);
  const Tensor result = to_cpu(target);
  for (const int64_t row : {int64_t{0}, rows - 1}) {
    std::vector<double> first(static_cast<size_t>(n)), second = first, third = first;
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t j = 0; j < n; ++j)
        first[static_cast<size_t>(j)] += test::at(weight, row, k) * test::at(deviation, k, j);
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = j; k < n; ++k)
        second[static_cast<size_t>(j)] += first[static_cast<size_t>(k)] * test::at(factor, j, k);
    }
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t j = k; j < n; ++j)
        third[static_cast<size_t>(j)] += second[static_cast<size_t>(k)] * test::at(factor, k, j);
    }
    double error = 0.0, size = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      const double expected = test::at(weight, row, j) + alpha * third[static_cast<size_t>(j)];
      error += std::pow(test::at(result, row, j) - expected, 2.0);
      size += expected * expected;
    }
    EXPECT_LT(std::sqrt(error / size), 1e-4) << row;
  }
}

TEST_F(CudaMatrixOpsTest, RefusesAMatrixThatIsNotPositiveDefinite) {
  const Tensor bad = cpu_->allocate(2, 2, DType::kF64);
  const double values[] = {1.0, 2.0, 2.0, 1.0};
  cpu_->upload(values, bad);
  const Tensor factor = gpu_->allocate(2, 2, DType::kF64);
  EXPECT_FALSE(ops().inverse_factor(to_gpu(bad), 0.01, factor));
  bad.data<double>()[0] = std::nan("");
  EXPECT_FALSE(ops().inverse_factor(to_gpu(bad), 0.01, factor));
  bad.data<double>()[0] = 8.0;
  EXPECT_TRUE(ops().inverse_factor(to_gpu(bad), 0.01, factor));
}

TEST_F(CudaMatrixOpsTest, ErrorsAgree) {
  for (const int64_t n : {31, 600}) {
    const int64_t rows = 75;
    const Tensor weight = random(rows, n, DType::kF32);
    const Tensor candidates[] = {random(rows, n, DType::kF32), random(rows, n, DType::kF32)};
    const Tensor gpu_candidates[] = {to_gpu(candidates[0]), to_gpu(candidates[1])};
    const Tensor g = gram(n), d = random(n, n, DType::kF32);
    const ErrorReport expected = cpu_->matrices().errors(weight, candidates, g, d);
    const ErrorReport report = ops().errors(to_gpu(weight), gpu_candidates, to_gpu(g), to_gpu(d));
    // x·Gx lacks what the rest of x gives by itself, 2^-18 for independent x; two parts of G and
    // f32 sums lose as much again each.
    const double square = 0x1p-16;
    EXPECT_NEAR(report.energy, expected.energy, square * expected.energy);
    // W is rounded by 2^-9 of itself, at random: half a dozen deviations.
    const double tolerance = 0x1p-7 / std::sqrt(static_cast<double>(rows * n));
    ASSERT_EQ(report.errors.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_NEAR(report.errors[i].symmetric, expected.errors[i].symmetric,
                  square * expected.errors[i].symmetric);
      EXPECT_NEAR(report.errors[i].asymmetric, expected.errors[i].asymmetric,
                  tolerance * expected.energy);
    }
    EXPECT_EQ(ops().errors(to_gpu(weight), gpu_candidates, to_gpu(g), {}).errors[0].asymmetric,
              0.0);
    EXPECT_NEAR(ops().squared_distance(gpu_candidates[1], to_gpu(weight), to_gpu(g)),
                expected.errors[1].symmetric, square * expected.errors[1].symmetric);
  }
}

TEST_F(CudaMatrixOpsTest, LargeProductsAreNearlyF32) {
  // Ragged, and above the size from which operands are split over tensor cores.
  const int64_t rows = 1303, n = 1301;
  const Tensor weight = random(rows, n, DType::kF32), hessian = gram(n);
  const Tensor product = poisoned(*gpu_, rows, n, DType::kF32);
  ops().multiply_symmetric(to_gpu(weight), to_gpu(hessian), product);
  const Tensor result = to_cpu(product);
  for (int64_t i = 0; i < rows; i += 61) {
    for (int64_t j = 0; j < n; j += 43) {
      double sum = 0.0, size = 0.0;
      for (int64_t p = 0; p < n; ++p) {
        const double term = test::at(weight, i, p) * test::at(hessian, p, j);
        sum += term;
        size += std::abs(term);
      }
      // Three products of bf16 parts lose 3 · 2^-18 of each term at most; f32 sums of 3903 terms
      // less.
      EXPECT_NEAR(test::at(result, i, j), sum, 0x1p-16 * size) << i << " " << j;
    }
  }
}

}  // namespace
}  // namespace d2q
