#include "kernels/cpu/packed_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "kernels/isa.h"
#include "kernels/packed_test_data.h"

namespace d2q {
namespace {

template <typename T>
Tensor make_tensor(int64_t rows, int64_t cols) {
  auto buffer = std::make_shared<std::vector<T>>(static_cast<size_t>(rows * cols));
  return Tensor(buffer, buffer->data(), rows, cols, dtype_of<T>());
}

Tensor gaussian_tensor(int64_t rows, int64_t cols, uint64_t seed) {
  Tensor tensor = make_tensor<float>(rows, cols);
  Rng rng(seed);
  for (int64_t i = 0; i < tensor.size(); ++i) {
    tensor.data<float>()[i] = static_cast<float>(rng.gaussian());
  }
  return tensor;
}

Tensor rounded_tensor(const Tensor& x) {
  Tensor result = make_tensor<BFloat16>(x.rows(), x.cols());
  for (int64_t i = 0; i < x.size(); ++i) {
    result.data<BFloat16>()[i] = to_bfloat16(x.data<float>()[i]);
  }
  return result;
}

double value_at(const Tensor& x, int64_t i) {
  return x.dtype() == DType::kF32 ? x.data<float>()[i] : to_float(x.data<BFloat16>()[i]);
}

/// The reference, in f64 over dequantize(), with each output's Σ |x w|: what errors are measured
/// by.
struct Reference {
  std::vector<double> y;
  std::vector<double> magnitude;
};

Reference reference(const Tensor& x, const PackedView& w, const Tensor& bias) {
  const int64_t rows = w.layout.rows;
  const int64_t cols = w.layout.cols;
  std::vector<float> weights(static_cast<size_t>(rows * cols));
  dequantize(w, weights);
  Reference result;
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (int64_t c = 0; c < cols; ++c) {
        const double product =
            value_at(x, t * cols + c) * weights[static_cast<size_t>(r * cols + c)];
        sum += product;
        magnitude += std::fabs(product);
      }
      if (!bias.empty()) sum += bias.data<float>()[r];
      result.y.push_back(sum);
      result.magnitude.push_back(magnitude);
    }
  }
  return result;
}

double relative_error(const Tensor& y, const Reference& expected) {
  double error = 0.0;
  double norm = 0.0;
  for (int64_t i = 0; i < y.size(); ++i) {
    const double difference = y.data<float>()[i] - expected.y[static_cast<size_t>(i)];
    error += difference * difference;
    norm += expected.y[static_cast<size_t>(i)] * expected.y[static_cast<size_t>(i)];
  }
  return std::sqrt(error / norm);
}

/// Codes in the order that the multiplier likes best.
std::vector<uint8_t> arranged_codes(PackedMultiplier& multiplier, const PackedView& w) {
  std::vector<uint8_t> codes(w.codes.begin(), w.codes.end());
  if (multiplier.arranges(w.layout)) multiplier.arrange(w, codes.data());
  return codes;
}

void multiply(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x, const PackedView& w,
              const Tensor& bias, const Tensor& y, DType precision) {
  PackedMultiplier multiplier(pool, kernels);
  const std::vector<uint8_t> codes = arranged_codes(multiplier, w);
  const PackedProductView product{
      {w.layout, codes, w.scales}, bias, y, multiplier.arranges(w.layout)};
  multiplier.multiply(x, {&product, 1}, precision);
}

Tensor run(int n_threads, Isa isa, const Tensor& x, const PackedStorage& w, const Tensor& bias,
           DType products) {
  ThreadPool pool(n_threads);
  Tensor y = make_tensor<float>(x.rows(), w.layout.rows);
  std::memset(y.raw(), 0xff, static_cast<size_t>(y.n_bytes()));  // NaN: every element is written
  multiply(pool, packed_kernels(isa), x, w.view(), bias, y, products);
  return y;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.n_bytes())) == 0;
}

constexpr int64_t kTokenCounts[] = {1, 2, 3, 7, 8, 9, 16, 17, 33, 48, 49};

std::vector<PackedLayout> layouts() {
  std::vector<PackedLayout> result;
  const std::pair<PackedKind, int> formats[] = {
      {PackedKind::kUniform, 2},   {PackedKind::kUniform, 3}, {PackedKind::kUniform, 4},
      {PackedKind::kUniform, 6},   {PackedKind::kUniform, 8}, {PackedKind::kSignPlanes, 2},
      {PackedKind::kSignPlanes, 3}};
  for (const auto& [kind, bits] : formats) {
    for (const auto& [rows, cols, group_size] :
         {std::tuple<int64_t, int64_t, int64_t>{16, 128, 128},
          {15, 127, 64},
          {17, 129, 32},
          {65, 384, 128},
          {33, 200, 100},
          {1, 40, 1},
          {100, 300, 300}}) {
      result.push_back({kind, bits, rows, cols, group_size});
    }
  }
  return result;
}

class PackedLinearTest : public testing::TestWithParam<Isa> {};

TEST_P(PackedLinearTest, MatchesTheDequantizedProduct) {
  for (const PackedLayout& layout : layouts()) {
    const PackedStorage w = random_packed(layout, 5);
    const Tensor bias = gaussian_tensor(1, layout.rows, 6);
    for (const int64_t n_tokens : kTokenCounts) {
      const Tensor x = gaussian_tensor(n_tokens, layout.cols, 7 + static_cast<uint64_t>(n_tokens));
      const Reference expected = reference(x, w.view(), bias);
      for (const DType products : {DType::kF32, DType::kBF16}) {
        const Tensor y = run(2, GetParam(), x, w, bias, products);
        // Against Σ|x w| of each output. Integers: x is off by at most max|x| / 65278 each, with
        // max|x| < 5 and the mean |x| near 0.8: 1e-4 at worst. f32: n eps / 2 < 300 * 6e-8. bf16:
        // two roundings of 2^-9 a product.
        const bool panel = n_tokens > max_mat_vec_tokens(layout.kind);
        const double bound = !panel ? 2e-4 : products == DType::kF32 ? 2e-5 : 2.1 / 512;
        for (int64_t i = 0; i < y.size(); ++i) {
          const auto at = static_cast<size_t>(i);
          ASSERT_NEAR(y.data<float>()[i], expected.y[at],
                      bound * expected.magnitude[at] + 1e-6 * (1.0 + std::fabs(expected.y[at])))
              << "bits " << layout.bits << " kind " << static_cast<int>(layout.kind) << " "
              << layout.rows << "x" << layout.cols << " group " << layout.group_size << " tokens "
              << n_tokens << " products " << static_cast<int>(products);
        }
      }
    }
  }
}

TEST_P(PackedLinearTest, SmallBatchHasARelativeErrorBelow3e5) {
  for (const int bits : {2, 3}) {
    const PackedStorage w = random_packed({PackedKind::kSignPlanes, bits, 64, 2048, 128}, 5);
    const Tensor x = gaussian_tensor(4, 2048, 9);
    const Tensor y = run(1, GetParam(), x, w, Tensor(), DType::kF32);
    EXPECT_LT(relative_error(y, reference(x, w.view(), Tensor())), 3e-5);
  }
}

TEST_P(PackedLinearTest, EightBitActivationsHaveARelativeErrorBelow1e2AndTheScalarBits) {
  for (const PackedKind kind : {PackedKind::kSignPlanes, PackedKind::kUniform}) {
    const PackedStorage w = random_packed({kind, 2, 50, 2048, 128}, 5);
    const Tensor x = gaussian_tensor(3, 2048, 9);
    const auto product_of = [&](Isa isa) {
      ThreadPool pool(2);
      const PackedProductView product{w.view(), Tensor(), make_tensor<float>(3, 50)};
      PackedMultiplier(pool, packed_kernels(isa), ActivationBits::k8)
          .multiply(x, {&product, 1}, DType::kF32);
      return product.y;
    };
    const Tensor y = product_of(GetParam());
    // Rounding to steps of max|x| / 127 with max|x| near 2.7 deviations: 2.7 / 127 / sqrt(12).
    EXPECT_LT(relative_error(y, reference(x, w.view(), Tensor())), 1e-2);
    EXPECT_TRUE(same_bits(y, product_of(Isa::kScalar)));
  }
}

TEST_P(PackedLinearTest, ArrangedCodesHaveTheBitsOfStoredOnes) {
  for (const int bits : {2, 3}) {
    const PackedStorage w = random_packed({PackedKind::kSignPlanes, bits, 90, 300, 128}, 5);
    for (const ActivationBits activations : {ActivationBits::k8, ActivationBits::k16}) {
      ThreadPool pool(3);
      PackedMultiplier multiplier(pool, packed_kernels(GetParam()), activations);
      if (!multiplier.arranges(w.layout)) GTEST_SKIP() << "codes stay as they are stored";
      const std::vector<uint8_t> codes = arranged_codes(multiplier, w.view());
      EXPECT_NE(codes, w.codes);
      const PackedView arranged{w.layout, codes, w.scales};
      for (const int64_t n_tokens : {1, 2, 7, 40}) {
        const Tensor x = gaussian_tensor(n_tokens, 300, 9);
        const PackedProductView products[] = {
            {w.view(), Tensor(), make_tensor<float>(n_tokens, 90)},
            {arranged, Tensor(), make_tensor<float>(n_tokens, 90), true}};
        multiplier.multiply(x, products, DType::kF32);
        EXPECT_TRUE(same_bits(products[0].y, products[1].y)) << n_tokens << " tokens";
      }
      std::vector<float> expected(300), found(300);
      for (int64_t row = 0; row < 90; ++row) {
        dequantize_row(w.view(), row, expected);
        multiplier.dequantize_arranged_row(arranged, row, found);
        EXPECT_EQ(found, expected) << "row " << row;
      }
    }
  }
}

TEST_P(PackedLinearTest, SeveralMatricesAtOnceHaveTheBitsOfEachAlone) {
  const PackedStorage weights[] = {random_packed({PackedKind::kSignPlanes, 2, 70, 300, 128}, 1),
                                   random_packed({PackedKind::kSignPlanes, 3, 16, 300, 128}, 2),
                                   random_packed({PackedKind::kUniform, 4, 33, 300, 128}, 3),
                                   random_packed({PackedKind::kUniform, 2, 40, 300, 64}, 4),
                                   random_packed({PackedKind::kSignPlanes, 2, 90, 300, 128}, 5)};
  const Tensor bias = gaussian_tensor(1, 16, 6);
  ThreadPool pool(3);
  PackedMultiplier multiplier(pool, packed_kernels(GetParam()));
  for (const int64_t n_tokens : {1, 5, 20, 60}) {
    const Tensor x = gaussian_tensor(n_tokens, 300, 9);
    std::vector<PackedProductView> products;
    std::vector<std::vector<uint8_t>> codes;
    for (size_t i = 0; i < std::size(weights); ++i) {
      const PackedLayout& layout = weights[i].layout;
      codes.push_back(arranged_codes(multiplier, weights[i].view()));
      products.push_back({{layout, codes.back(), weights[i].scales},
                          i == 1 ? bias : Tensor(),
                          make_tensor<float>(n_tokens, layout.rows),
                          multiplier.arranges(layout)});
    }
    multiplier.multiply(x, products, DType::kF32);
    for (size_t i = 0; i < std::size(weights); ++i) {
      EXPECT_TRUE(same_bits(
          products[i].y, run(1, GetParam(), x, weights[i], i == 1 ? bias : Tensor(), DType::kF32)))
          << i << " of " << n_tokens << " tokens";
    }
  }
}

TEST_P(PackedLinearTest, TakesBf16Activations) {
  const PackedStorage w = random_packed({PackedKind::kSignPlanes, 2, 40, 200, 64}, 5);
  for (const int64_t n_tokens : {1, 5, 40}) {
    const Tensor x = rounded_tensor(gaussian_tensor(n_tokens, 200, 9));
    const Reference expected = reference(x, w.view(), Tensor());
    EXPECT_LT(relative_error(run(2, GetParam(), x, w, Tensor(), DType::kF32), expected), 3e-5);
    EXPECT_LT(relative_error(run(2, GetParam(), x, w, Tensor(), DType::kBF16), expected), 4e-3);
  }
}

TEST_P(PackedLinearTest, ResultDoesNotDependOnTheNumberOfThreads) {
  const PackedStorage w = random_packed({PackedKind::kSignPlanes, 3, 333, 1000, 128}, 5);
  for (const int64_t n_tokens : {1, 6, 33}) {
    const Tensor x = gaussian_tensor(n_tokens, 1000, 9);
    const Tensor one = run(1, GetParam(), x, w, Tensor(), DType::kBF16);
    for (const int n_threads : {2, 3, 7}) {
      EXPECT_TRUE(same_bits(one, run(n_threads, GetParam(), x, w, Tensor(), DType::kBF16)));
    }
  }
}

TEST_P(PackedLinearTest, SmallBatchHasTheBitsOfTheScalarKernels) {
  for (const PackedLayout& layout : layouts()) {
    const PackedStorage w = random_packed(layout, 8);
    const Tensor x = gaussian_tensor(9, layout.cols, 9);
    EXPECT_TRUE(same_bits(run(1, Isa::kScalar, x, w, Tensor(), DType::kF32),
                          run(2, GetParam(), x, w, Tensor(), DType::kF32)));
  }
}

TEST_P(PackedLinearTest, ATokenInABatchHasTheBitsOfTheTokenAlone) {
  const PackedStorage w = random_packed({PackedKind::kUniform, 3, 50, 700, 128}, 8);
  const Tensor x = gaussian_tensor(7, 700, 9);
  const Tensor together = run(2, GetParam(), x, w, Tensor(), DType::kF32);
  for (int64_t t = 0; t < 7; ++t) {
    EXPECT_TRUE(same_bits(together.row_range(t, 1),
                          run(2, GetParam(), x.row_range(t, 1), w, Tensor(), DType::kF32)));
  }
}

TEST_P(PackedLinearTest, UnalignedCodesAreFine) {
  const PackedStorage w = random_packed({PackedKind::kSignPlanes, 3, 40, 300, 128}, 5);
  std::vector<uint8_t> shifted(w.codes.size() + 1);
  std::memcpy(shifted.data() + 1, w.codes.data(), w.codes.size());
  const PackedView view{w.layout, std::span(shifted).subspan(1), w.scales};
  ThreadPool pool(2);
  for (const int64_t n_tokens : {1, 20}) {
    const Tensor x = gaussian_tensor(n_tokens, 300, 9);
    Tensor y = make_tensor<float>(n_tokens, 40);
    multiply(pool, packed_kernels(GetParam()), x, view, Tensor(), y, DType::kF32);
    EXPECT_TRUE(same_bits(y, run(2, GetParam(), x, w, Tensor(), DType::kF32)));
  }
}

TEST_P(PackedLinearTest, NanInATokenReachesThatTokensOutputsOnly) {
  const PackedStorage w = random_packed({PackedKind::kSignPlanes, 2, 20, 256, 128}, 5);
  const Tensor x = gaussian_tensor(2, 256, 9);
  x.data<float>()[256 + 200] = std::numeric_limits<float>::quiet_NaN();
  const Tensor y = run(1, GetParam(), x, w, Tensor(), DType::kF32);
  for (int64_t r = 0; r < 20; ++r) {
    EXPECT_FALSE(std::isnan(y.data<float>()[r]));
    EXPECT_TRUE(std::isnan(y.data<float>()[20 + r]));
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, PackedLinearTest, testing::ValuesIn(available_isas()),
                         [](const auto& instance) { return std::string(name_of(instance.param)); });

int64_t n_spied_calls = 0;

void spying_mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  ++n_spied_calls;
  kPackedKernelsScalar.mat_vec[kUniform4](tile, x, y);
}

TEST(PackedLinearDispatchTest, RunsTheTableThatItIsGiven) {
  PackedKernels spy = kPackedKernelsScalar;
  spy.mat_vec[kUniform4] = spying_mat_vec;
  const PackedStorage w = random_packed({PackedKind::kUniform, 4, 48, 64, 32}, 5);
  ThreadPool pool(1);
  const Tensor x = gaussian_tensor(5, 64, 9);
  Tensor y = make_tensor<float>(5, 48);
  n_spied_calls = 0;
  multiply(pool, spy, x, w.view(), Tensor(), y, DType::kF32);
  EXPECT_EQ(n_spied_calls, 3 * 2);  // three row tiles, passes of four tokens and one
}

TEST(PackedLinearDispatchTest, WrongShapesAreOurBug) {
  const PackedStorage w = random_packed({PackedKind::kUniform, 4, 48, 64, 32}, 5);
  ThreadPool pool(1);
  Tensor y = make_tensor<float>(1, 48);
  EXPECT_THROW(multiply(pool, kPackedKernelsScalar, gaussian_tensor(1, 63, 9), w.view(), Tensor(),
                        y, DType::kF32),
               InternalError);
  PackedView cut = w.view();
  cut.codes = cut.codes.first(cut.codes.size() - 1);
  EXPECT_THROW(multiply(pool, kPackedKernelsScalar, gaussian_tensor(1, 64, 9), cut, Tensor(), y,
                        DType::kF32),
               InternalError);
}

}  // namespace
}  // namespace d2q
