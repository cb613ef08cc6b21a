#include "kernels/matrix_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/matrix.h"
#include "kernels/cpu/matrix_ops.h"
#include "kernels/cpu/test_support.h"

namespace d2q {
namespace {

/// Σ over 2n Gaussian rows of xᵀ x.
Tensor random_gram(int64_t n, Rng& rng) {
  Matrix<double> x(2 * n, n);
  for (double& value : x.span()) value = rng.gaussian();
  const Tensor gram = test::host_tensor(n, n, DType::kF64);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < 2 * n; ++k) sum += x(k, i) * x(k, j);
      gram.data<double>()[i * n + j] = sum;
    }
  }
  return gram;
}

Tensor random_f64(int64_t n, Rng& rng) {
  const Tensor matrix = test::host_tensor(n, n, DType::kF64);
  for (int64_t i = 0; i < n * n; ++i) matrix.data<double>()[i] = rng.gaussian();
  return matrix;
}

double mean_diagonal(const Tensor& matrix) {
  double mean = 0.0;
  for (int64_t i = 0; i < matrix.rows(); ++i)
    mean += test::at(matrix, i, i) / static_cast<double>(matrix.rows());
  return mean;
}

class MatrixOpsTest : public ::testing::Test {
 protected:
  MatrixOps& ops() { return device_->matrices(); }
  Tensor factor_of(const Tensor& hessian, double damping) {
    const Tensor factor = device_->allocate(hessian.rows(), hessian.rows(), DType::kF64);
    EXPECT_TRUE(ops().inverse_factor(hessian, damping, factor));
    return factor;
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(MatrixOpsTest, UpperFactorTimesItsTransposeInvertsTheDampedHessian) {
  Rng rng(1);
  for (const int64_t n : {1, 2, 17, 130}) {
    const Tensor hessian = random_gram(n, rng);
    const double damping = 0.01;
    const Tensor factor = factor_of(hessian, damping);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) EXPECT_EQ(test::at(factor, i, j), 0.0);
    }
    // (Uᵀ U)·Hd = I
    Matrix<double> inverse(n, n, true);
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j)
          inverse(i, j) += test::at(factor, k, i) * test::at(factor, k, j);
      }
    }
    const double shift = damping * mean_diagonal(hessian);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k)
          sum += inverse(i, k) * (test::at(hessian, k, j) + (k == j ? shift : 0.0));
        EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-9) << n << " " << i << " " << j;
      }
    }
  }
}

TEST_F(MatrixOpsTest, RefusesAMatrixThatIsNotPositiveDefinite) {
  const Tensor bad = test::host_tensor(2, 2, DType::kF64);
  const Tensor factor = test::host_tensor(2, 2, DType::kF64);
  const double values[] = {1.0, 2.0, 2.0, 1.0};
  device_->upload(values, bad);
  EXPECT_FALSE(ops().inverse_factor(bad, 0.01, factor));
  bad.data<double>()[0] = std::nan("");
  EXPECT_FALSE(ops().inverse_factor(bad, 0.01, factor));
}

TEST_F(MatrixOpsTest, AsymmetryMatrixEqualsItsFormula) {
  Rng rng(2);
  for (const int64_t n : {1, 5, 128, 131, 260}) {
    const Tensor factor = factor_of(random_gram(n, rng), 0.01);
    const Tensor deviation = random_f64(n, rng);
    const Tensor p = device_->allocate(n, n, DType::kF32);
    ops().asymmetry_matrix(deviation, factor, 0.25, p);
    Matrix<double> middle(n, n, true);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) {
        for (int64_t k = 0; k < n; ++k)
          middle(i, j) += test::at(deviation, i, k) * test::at(factor, j, k);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k) sum += middle(i, k) * test::at(factor, k, j);
        const double expected = j > i ? 0.25 * sum : 0.0;
        // f64 but for the last rounding.
        EXPECT_NEAR(test::at(p, i, j), expected, 1e-9 + 1.01 * test::kF32Unit * std::abs(expected));
      }
    }
  }
}

TEST_F(MatrixOpsTest, TargetMapTimesTheDampedHessianIsTheDeviation) {
  Rng rng(5);
  const int64_t n = 140;
  const Tensor hessian = random_gram(n, rng);
  const Tensor factor = factor_of(hessian, 0.01);
  const Tensor deviation = random_f64(n, rng);
  const TargetMap map = ops().target_map(deviation, factor, 0.25);
  ASSERT_FALSE(map.empty());
  const double shift = 0.01 * mean_diagonal(hessian);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < n; ++k) {
        const double term =
            test::at(map.map, k, i) * (test::at(hessian, k, j) + (k == j ? shift : 0.0));
        sum += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(sum, 0.25 * test::at(deviation, i, j), test::kF32Unit * size + 1e-9);
    }
  }
}

TEST_F(MatrixOpsTest, ApplyingATargetMapAddsItsProduct) {
  Rng rng(6);
  const int64_t n = 70, rows = 9;
  const Tensor factor = factor_of(random_gram(n, rng), 0.01);
  const TargetMap map = ops().target_map(random_f64(n, rng), factor, 0.25);
  const Tensor weight = test::random_tensor(*device_, rows, n, DType::kF32, 7);
  const Tensor target = device_->allocate(rows, n, DType::kF32);
  ops().apply_target_map(map, weight, target);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = test::at(weight, i, j), size = std::abs(sum);
      for (int64_t k = 0; k < n; ++k) {
        const double term = test::at(weight, i, k) * test::at(map.map, j, k);
        sum += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(test::at(target, i, j), sum, 16 * test::kF32Unit * size);
    }
  }
}

TEST_F(MatrixOpsTest, PermutesRowsAndColumnsAndGathersColumns) {
  const int64_t n = 67;
  const Tensor source = test::random_tensor(*device_, n, n, DType::kF32, 3);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  Rng rng(4);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  const Tensor permuted = device_->allocate(n, n, DType::kF64);
  ops().permute(source, order, permuted);
  std::vector<int64_t> columns = order;
  columns[5] = -1;
  const Tensor gathered = device_->allocate(n, n, DType::kF32);
  ops().gather_columns(source, columns, gathered);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t row = order[static_cast<size_t>(i)];
      const int64_t column = order[static_cast<size_t>(j)];
      EXPECT_EQ(test::at(permuted, i, j), test::at(source, row, column));
      EXPECT_EQ(test::at(gathered, i, j), j == 5 ? 0.0 : test::at(source, i, column));
    }
  }
}

TEST_F(MatrixOpsTest, TheDeviationIsZeroInColumnsOfDeadInputs) {
  const int64_t n = 40;
  const Tensor gram = test::random_tensor(*device_, n, n, DType::kF32, 8);
  gram.data<float>()[7 * n + 7] = 0.0f;
  const Tensor cross = test::random_tensor(*device_, n, n, DType::kF32, 9);
  const Tensor deviation = device_->allocate(n, n, DType::kF32);
  device_->convert(cross, deviation);
  ops().subtract_gram(gram, deviation);
  EXPECT_EQ(ops().diagonal(gram)[7], 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const float expected =
          j == 7 ? 0.0f : cross.data<float>()[i * n + j] - gram.data<float>()[i * n + j];
      EXPECT_EQ(deviation.data<float>()[i * n + j], expected);
    }
  }
  const Tensor wide = device_->allocate(n, n, DType::kF64);
  device_->convert(gram, wide);
  ops().shift_diagonal(wide, 0.5);
  EXPECT_EQ(test::at(wide, 7, 7), 1.5);
  EXPECT_EQ(test::at(wide, 3, 3), test::at(gram, 3, 3) + 0.5);
  EXPECT_EQ(test::at(wide, 3, 4), test::at(gram, 3, 4));
}

TEST_F(MatrixOpsTest, ExpandedCodesHaveTheBitsOfDequantize) {
  const PackedLayout layouts[] = {{PackedKind::kUniform, 2, 19, 100, 48},
                                  {PackedKind::kUniform, 8, 5, 70, 70},
                                  {PackedKind::kSignPlanes, 2, 33, 96, 32},
                                  {PackedKind::kSignPlanes, 3, 16, 65, 16}};
  for (const PackedLayout& layout : layouts) {
    Rng rng(11);
    std::vector<uint8_t> codes(static_cast<size_t>(layout.rows * layout.cols));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(rng.below(1u << layout.bits));
    const int64_t n_params = layout.n_groups() * layout.n_params();
    std::vector<float> params(static_cast<size_t>(layout.rows * n_params));
    for (float& value : params) value = to_float(to_half(static_cast<float>(rng.gaussian())));
    std::vector<uint8_t> packed(static_cast<size_t>(codes_bytes(layout)));
    std::vector<Half> scales(static_cast<size_t>(scales_count(layout)));
    pack(layout, codes, params, packed, scales);
    Matrix<float> expected(layout.rows, layout.cols);
    dequantize({layout, packed, scales}, expected.span());

    const Tensor device_codes = device_->allocate(layout.rows, layout.cols, DType::kU8);
    device_->upload(codes.data(), device_codes);
    const Tensor device_params = device_->allocate(layout.rows, n_params, DType::kF32);
    device_->upload(params.data(), device_params);
    const Tensor weight = device_->allocate(layout.rows, layout.cols, DType::kF32);
    ops().expand(layout, device_codes, device_params, weight);
    for (int64_t i = 0; i < expected.size(); ++i)
      ASSERT_EQ(weight.data<float>()[i], expected.data()[i]) << i;
  }
}

TEST_F(MatrixOpsTest, ErrorsEqualTheirDefinitionsOnAnyNumberOfThreads) {
  const int64_t rows = 131, n = 37;
  const auto random = [&](int64_t m, uint64_t seed) {
    return test::random_tensor(*device_, m, n, DType::kF32, seed);
  };
  const Tensor weight = random(rows, 1), candidate = random(rows, 2);
  const Tensor deviation = random(n, 4);
  Rng rng(5);
  const Tensor wide = random_gram(n, rng);
  const Tensor gram = device_->allocate(n, n, DType::kF32);
  device_->convert(wide, gram);
  const auto form = [&](const auto& left, const Tensor& m, const auto& right) {
    double sum = 0.0;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) sum += left(i, b) * right(i, a) * test::at(m, a, b);
      }
    }
    return sum;
  };
  const auto w = [&](int64_t i, int64_t j) { return test::at(weight, i, j); };
  const auto delta = [&](int64_t i, int64_t j) { return test::at(candidate, i, j) - w(i, j); };
  const Tensor candidates[] = {weight, candidate};
  const ErrorReport report = ops().errors(weight, candidates, gram, deviation);
  // 180,000 products of size ~100 with f32 rounding of the 37-term inner sums.
  EXPECT_NEAR(report.energy, form(w, gram, w), 2.0);
  ASSERT_EQ(report.errors.size(), 2u);
  EXPECT_EQ(report.errors[0].symmetric, 0.0);
  EXPECT_NEAR(report.errors[1].symmetric, form(delta, gram, delta), 2.0);
  EXPECT_NEAR(report.errors[1].asymmetric, form(delta, deviation, w), 0.1);
  EXPECT_EQ(ops().squared_distance(candidate, weight, gram), report.errors[1].symmetric);
  EXPECT_EQ(ops().errors(weight, candidates, gram, Tensor{}).errors[1].asymmetric, 0.0);
  ThreadPool one(1);
  const auto single = make_cpu_device(one);
  const ErrorReport again = single->matrices().errors(weight, candidates, gram, deviation);
  EXPECT_EQ(again.energy, report.energy);
  EXPECT_EQ(again.errors[1].symmetric, report.errors[1].symmetric);
  EXPECT_EQ(again.errors[1].asymmetric, report.errors[1].asymmetric);
}

}  // namespace
}  // namespace d2q
