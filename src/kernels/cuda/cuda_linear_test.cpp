// Matrix products of the CUDA device against the CPU's.
#include "kernels/cuda/cuda_test_support.h"
#include "kernels/packed_test_data.h"

namespace d2q {
namespace {

class CudaLinear : public test::CudaTest {
 protected:
  /// One product on both devices; the difference relative to the largest output.
  double packed_difference(const PackedStorage& w, const Tensor& x, const Tensor& bias,
                           DType products) {
    const int64_t rows = w.layout.rows;
    const Tensor expected = cpu_->allocate(x.rows(), rows, DType::kF32);
    cpu_->packed_linear(x, cpu_->upload_packed(w.view()), bias, expected, products);
    const Tensor y = poisoned(*gpu_, x.rows(), rows, DType::kF32);
    gpu_->packed_linear(to_gpu(x), gpu_->upload_packed(w.view()), to_gpu(bias), y, products);
    return difference_to_gpu(y, expected);
  }
};

TEST_F(CudaLinear, dense_products_equal_the_cpus) {
  for (const auto& [tokens, in, out] : {std::tuple<int64_t, int64_t, int64_t>{1, 64, 48},
                                        {3, 33, 17},
                                        {65, 130, 257},
                                        {200, 576, 192}}) {
    for (const bool with_bias : {false, true}) {
      const Tensor bias = with_bias ? random(1, out, DType::kF32) : Tensor();
      for (const auto& [x_type, w_type] : {std::pair{DType::kF32, DType::kF32},
                                           {DType::kF32, DType::kBF16},
                                           {DType::kBF16, DType::kBF16}}) {
        const Tensor x = random(tokens, in, x_type), w = random(out, in, w_type);
        const Tensor expected = cpu_->allocate(tokens, out, DType::kF32);
        cpu_->linear(x, w, bias, expected);
        const Tensor y = poisoned(*gpu_, tokens, out, DType::kF32);
        gpu_->linear(to_gpu(x), to_gpu(w), to_gpu(bias), y);
        // Both sum exact products (f32: rounded once) of at most 576 terms in f32.
        EXPECT_LE(difference_to_gpu(y, expected), 1e-5) << tokens << " " << in << " " << out;
      }
    }
  }
}

TEST_F(CudaLinear, packed_products_equal_the_cpus) {
  const std::pair<PackedKind, int> formats[] = {
      {PackedKind::kUniform, 2}, {PackedKind::kUniform, 3},    {PackedKind::kUniform, 4},
      {PackedKind::kUniform, 8}, {PackedKind::kSignPlanes, 2}, {PackedKind::kSignPlanes, 3}};
  for (const auto& [kind, bits] : formats) {
    for (const auto& [rows, cols, group_size] :
         {std::tuple<int64_t, int64_t, int64_t>{16, 128, 128},
          {15, 127, 64},
          {17, 129, 32},
          {65, 384, 128},
          {33, 200, 100},
          {1, 40, 1},
          {100, 304, 304}}) {
      const PackedStorage w = random_packed({kind, bits, rows, cols, group_size}, seed_++);
      const Tensor bias = random(1, rows, DType::kF32);
      for (const int64_t tokens : {1, 2, 7, 8, 9, 40}) {
        const Tensor x = random(tokens, cols, tokens % 2 == 0 ? DType::kBF16 : DType::kF32);
        for (const DType products : {DType::kF32, DType::kBF16}) {
          // The CPU's small batches see x in 16 bits (1e-4 of each |x w|); bf16 panels round x and
          // w (2^-8 together), and only the CPU or only the GPU may take them.
          const double bound = products == DType::kF32 ? 1e-3 : 3e-2;
          EXPECT_LE(packed_difference(w, x, bias, products), bound)
              << static_cast<int>(kind) << " bits " << bits << " " << rows << "x" << cols
              << " group " << group_size << " tokens " << tokens;
        }
      }
    }
  }
}

TEST_F(CudaLinear, packed_products_in_f32_are_exact_to_f32) {
  const PackedStorage w = random_packed({PackedKind::kSignPlanes, 2, 100, 640, 128}, 5);
  std::vector<float> dense(100 * 640);
  dequantize(w.view(), dense);
  const Tensor weights = gpu_->allocate(100, 640, DType::kF32);
  gpu_->upload(dense.data(), weights);
  for (const int64_t tokens : {1, 5, 30}) {
    const Tensor x = to_gpu(random(tokens, 640, DType::kF32));
    const Tensor expected = poisoned(*gpu_, tokens, 100, DType::kF32);
    const Tensor y = poisoned(*gpu_, tokens, 100, DType::kF32);
    gpu_->linear(x, weights, Tensor(), expected);
    gpu_->packed_linear(x, gpu_->upload_packed(w.view()), Tensor(), y, DType::kF32);
    EXPECT_LE(difference(to_cpu(y), to_cpu(expected)), 1e-5) << tokens;
  }
}

TEST_F(CudaLinear, packed_codes_may_change_after_the_upload) {
  PackedStorage w = random_packed({PackedKind::kUniform, 4, 20, 64, 32}, 5);
  const PackedTensor packed = gpu_->upload_packed(w.view());
  const Tensor x = to_gpu(random(1, 64, DType::kF32));
  const Tensor before = poisoned(*gpu_, 1, 20, DType::kF32);
  const Tensor after = poisoned(*gpu_, 1, 20, DType::kF32);
  gpu_->packed_linear(x, packed, Tensor(), before, DType::kF32);
  std::fill(w.codes.begin(), w.codes.end(), uint8_t{0});
  gpu_->packed_linear(x, packed, Tensor(), after, DType::kF32);
  EXPECT_EQ(test::bytes_of(to_cpu(before)), test::bytes_of(to_cpu(after)));
}

TEST_F(CudaLinear, gram_and_cross_equal_the_cpus) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    // Within one panel, more tokens than one slice, and more columns than one panel.
    for (const auto& [tokens, n] :
         {std::pair<int64_t, int64_t>{5, 1}, {77, 255}, {5000, 130}, {3, 4400}}) {
      const Tensor a = random(tokens, n, type), b = random(tokens, n, type);
      const Tensor gram = cpu_->allocate(n, n, DType::kF32);
      cpu_->fill_zero(gram);
      const Tensor cross = random(n, n, DType::kF32);
      const Tensor gpu_gram = poisoned(*gpu_, n, n, DType::kF32), gpu_cross = to_gpu(cross);
      gpu_->fill_zero(gpu_gram);
      for (int time = 0; time < 2; ++time) {
        cpu_->accumulate_gram(a, 0.5f, gram);
        gpu_->accumulate_gram(to_gpu(a), 0.5f, gpu_gram);
      }
      cpu_->mirror_lower(gram);
      gpu_->mirror_lower(gpu_gram);
      cpu_->accumulate_cross(a, b, 2.0f, cross);
      gpu_->accumulate_cross(to_gpu(a), to_gpu(b), 2.0f, gpu_cross);
      EXPECT_LE(difference_to_gpu(gpu_gram, gram), 3e-5) << tokens << " " << n;
      EXPECT_LE(difference_to_gpu(gpu_cross, cross), 3e-5) << tokens << " " << n;
    }
  }
}

TEST_F(CudaLinear, results_are_the_same_every_time) {
  const Tensor x = to_gpu(random(6000, 400, DType::kBF16));
  std::vector<std::string> sums;
  for (int time = 0; time < 2; ++time) {
    const Tensor sum = gpu_->allocate(400, 400, DType::kF32);
    gpu_->fill_zero(sum);
    gpu_->accumulate_gram(x, 1.0f, sum);
    gpu_->mirror_lower(sum);
    sums.push_back(test::bytes_of(to_cpu(sum)));
  }
  EXPECT_EQ(sums[0], sums[1]);
}

}  // namespace
}  // namespace d2q
