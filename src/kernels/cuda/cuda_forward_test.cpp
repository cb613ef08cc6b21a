// The element-wise operations and statistics of the CUDA device against the CPU's.
#include <limits>

#include "kernels/cuda/cuda_test_support.h"

namespace d2q {
namespace {

class CudaForward : public test::CudaTest {};

constexpr int64_t kWidths[] = {1, 31, 64, 257, 512, 513, 1030};
// A few units in the last place: the same formula in another order of additions.
constexpr double kF32Bound = 1e-5;
// Two values that differ in f32's last place may round to neighbouring bf16 values, a whole unit
// apart.
constexpr double kBf16Bound = 2.0 * test::kBf16Unit;

double bound_of(DType type) { return type == DType::kBF16 ? kBf16Bound : kF32Bound; }

TEST_F(CudaForward, says_what_gpu_it_is) {
  EXPECT_NE(gpu_->name().find("GiB"), std::string::npos) << gpu_->name();
}

TEST_F(CudaForward, upload_and_download_keep_every_byte) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = random(37, 11, type);
    EXPECT_EQ(test::bytes_of(to_cpu(to_gpu(x))), test::bytes_of(x));
  }
  EXPECT_TRUE(gpu_->allocate(0, 5, DType::kF32).empty());
}

TEST_F(CudaForward, large_copies_through_pinned_memory_keep_every_byte) {
  // Pieces of 4 MB on eight threads with two slots each: once around and a ragged rest.
  for (const int64_t n : {int64_t{16} << 20, (int64_t{75} << 20) + 13}) {
    const Tensor bytes = cpu_->allocate(1, n, DType::kU8);
    uint64_t state = 1;
    for (int64_t i = 0; i < n; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      bytes.data<uint8_t>()[i] = static_cast<uint8_t>(state >> 56);
    }
    const Tensor there = to_gpu(bytes), again = to_gpu(bytes);
    EXPECT_TRUE(test::bytes_of(to_cpu(there)) == test::bytes_of(bytes)) << n;
    EXPECT_TRUE(test::bytes_of(to_cpu(again)) == test::bytes_of(bytes)) << n;
  }
}

TEST_F(CudaForward, a_download_beside_later_work_keeps_every_byte) {
  const int64_t rows = 5000, cols = 1301;  // 26 MB, the last piece ragged
  const Tensor first = random(rows, cols, DType::kF32), second = random(rows, cols, DType::kF32);
  const Tensor a = to_gpu(first), b = to_gpu(second), sum = to_gpu(first);
  const Tensor few = to_gpu(random(3, 5, DType::kF32));
  std::vector<float> downloads[2];
  for (std::vector<float>& values : downloads) values.resize(static_cast<size_t>(a.size()));
  std::future<void> one = gpu_->download_beside(a, downloads[0].data());
  for (int i = 0; i < 50; ++i) gpu_->add(sum, b);
  std::future<void> other = gpu_->download_beside(b, downloads[1].data());
  std::vector<float> small(static_cast<size_t>(few.size()));
  gpu_->download_beside(few, small.data()).get();
  one.get();
  other.get();
  EXPECT_TRUE(std::equal(downloads[0].begin(), downloads[0].end(), first.data<float>()));
  EXPECT_TRUE(std::equal(downloads[1].begin(), downloads[1].end(), second.data<float>()));
  EXPECT_TRUE(std::equal(small.begin(), small.end(), to_cpu(few).data<float>()));
}

TEST_F(CudaForward, conversions_round_like_the_cpu) {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64};
  for (const DType from : types) {
    for (const DType to : types) {
      for (const int64_t width : {1001, 1004}) {  // elements one by one, and in fours
        const Tensor x = random(3, width, from, 300.0);
        const Tensor expected = cpu_->allocate(3, width, to);
        cpu_->convert(x, expected);
        const Tensor y = poisoned(*gpu_, 3, width, to);
        gpu_->convert(to_gpu(x), y);
        EXPECT_EQ(test::bytes_of(to_cpu(y)), test::bytes_of(expected))
            << static_cast<int>(from) << " to " << static_cast<int>(to) << ", " << width;
      }
    }
  }
}

TEST_F(CudaForward, conversions_keep_nan_and_round_overflow_to_infinity) {
  const Tensor x = random(1, 4, DType::kF32);
  x.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  x.data<float>()[1] = 70000.0f;
  x.data<float>()[2] = -1e-7f;  // subnormal in f16
  x.data<float>()[3] = -3.4e38f;
  for (const DType to : {DType::kBF16, DType::kF16}) {
    const Tensor expected = cpu_->allocate(1, 4, to);
    cpu_->convert(x, expected);
    const Tensor y = poisoned(*gpu_, 1, 4, to);
    gpu_->convert(to_gpu(x), y);
    const Tensor host = to_cpu(y);
    EXPECT_TRUE(std::isnan(test::at(host, 0, 0)));
    for (int64_t i = 1; i < 4; ++i) EXPECT_EQ(test::at(host, 0, i), test::at(expected, 0, i));
  }
}

TEST_F(CudaForward, embed_takes_rows_of_the_table) {
  const std::vector<int32_t> ids = {4, 0, 18, 4};
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor table = random(19, 67, type);
    const Tensor expected = cpu_->allocate(4, 67, DType::kF32);
    cpu_->embed(ids, table, expected);
    const Tensor y = poisoned(*gpu_, 4, 67, DType::kF32);
    gpu_->embed(ids, to_gpu(table), y);
    EXPECT_EQ(test::bytes_of(to_cpu(y)), test::bytes_of(expected));
  }
}

TEST_F(CudaForward, norms_equal_the_cpus) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const int64_t width : kWidths) {
      for (const DType type : {DType::kF32, DType::kBF16}) {
        const Tensor x = random(9, width, DType::kF32, 3.0);
        NormParams params{kind, random(1, width, DType::kF32), Tensor(), 1e-5f};
        if (width % 2 == 1) params.shift = random(1, width, DType::kF32);
        const Tensor expected = cpu_->allocate(9, width, type);
        cpu_->norm(x, params, expected);
        const NormParams on_gpu{kind, to_gpu(params.gain), to_gpu(params.shift), 1e-5f};
        const Tensor y = poisoned(*gpu_, 9, width, type);
        gpu_->norm(to_gpu(x), on_gpu, y);
        // A layer norm of one value is its shift; the difference there is not relative to anything.
        if (kind == NormKind::kRms || width > 1) {
          EXPECT_LE(difference_to_gpu(y, expected), bound_of(type)) << width;
        }
        const Tensor in_place = to_gpu(x);
        gpu_->norm(in_place, on_gpu, in_place);
        if (type == DType::kF32) {
          EXPECT_EQ(test::bytes_of(to_cpu(in_place)), test::bytes_of(to_cpu(y))) << width;
        }
      }
    }
  }
}

TEST_F(CudaForward, rope_turns_the_same_pairs) {
  const std::vector<int32_t> positions = {0, 5, 2, 6, 6};
  for (const int64_t half : {1, 16, 20, 32}) {
    const Tensor cos = random(7, half, DType::kF32), sin = random(7, half, DType::kF32);
    const Tensor x = random(5, 3 * 64, DType::kF32);
    const Tensor expected = copy(x);
    cpu_->rope(expected, 3, positions, cos, sin);
    const Tensor y = to_gpu(x);
    gpu_->rope(y, 3, positions, to_gpu(cos), to_gpu(sin));
    EXPECT_LE(difference_to_gpu(y, expected), kF32Bound) << half;
  }
}

TEST_F(CudaForward, activations_equal_the_cpus) {
  for (const Activation act :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      for (const int64_t width : {333, 336}) {  // elements one by one, and in fours
        const Tensor x = random(5, width, DType::kF32, 4.0), up = random(5, width, DType::kF32);
        x.data<float>()[0] = -200.0f;
        x.data<float>()[1] = 200.0f;
        const Tensor plain = cpu_->allocate(5, width, type), gated = cpu_->allocate(5, width, type);
        cpu_->activation(act, x, plain);
        cpu_->gated_activation(act, x, up, gated);
        const Tensor y = poisoned(*gpu_, 5, width, type), z = poisoned(*gpu_, 5, width, type);
        gpu_->activation(act, to_gpu(x), y);
        gpu_->gated_activation(act, to_gpu(x), to_gpu(up), z);
        EXPECT_LE(difference_to_gpu(y, plain), bound_of(type)) << static_cast<int>(act);
        EXPECT_LE(difference_to_gpu(z, gated), bound_of(type)) << static_cast<int>(act);
      }
    }
  }
}

TEST_F(CudaForward, add_takes_f32_and_bf16) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : {301, 304}) {  // elements one by one, and in fours
      const Tensor x = random(7, width, DType::kF32), y = random(7, width, type);
      const Tensor expected = copy(x), sum = to_gpu(x);
      cpu_->add(expected, y);
      gpu_->add(sum, to_gpu(y));
      EXPECT_EQ(test::bytes_of(to_cpu(sum)), test::bytes_of(expected));
      // Four rows are a multiple of four elements, but the second one need not begin at 16 bytes.
      cpu_->add(expected.row_range(1, 4), y.row_range(3, 4));
      gpu_->add(sum.row_range(1, 4), to_gpu(y).row_range(3, 4));
      EXPECT_EQ(test::bytes_of(to_cpu(sum)), test::bytes_of(expected));
    }
  }
}

TEST_F(CudaForward, cross_entropy_equals_the_cpus) {
  for (const int64_t vocabulary : {2, 255, 5000}) {
    const Tensor logits = random(6, vocabulary, DType::kF32, 5.0);
    logits.data<float>()[vocabulary] = 300.0f;  // a row whose exponentials would overflow
    std::vector<int32_t> targets(6, 1);
    targets[5] = static_cast<int32_t>(vocabulary - 1);
    std::vector<double> expected(6), losses(6, -1.0);
    cpu_->cross_entropy(logits, targets, expected);
    gpu_->cross_entropy(to_gpu(logits), targets, losses);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(losses[i], expected[i], 1e-5 * (1.0 + expected[i])) << vocabulary;
    }
  }
}

TEST_F(CudaForward, comparison_of_logits_equals_the_cpus) {
  for (const int64_t vocabulary : {2, 255, 5000}) {
    const Tensor reference = random(6, vocabulary, DType::kF32, 5.0);
    const Tensor logits = random(6, vocabulary, DType::kF32, 5.0);
    logits.data<float>()[vocabulary] = 300.0f;  // a row whose exponentials would overflow
    std::copy_n(reference.data<float>() + 2 * vocabulary, vocabulary,
                logits.data<float>() + 2 * vocabulary);
    const std::vector<int32_t> targets(6, 1);
    std::vector<LogitComparison> expected(6), found(6);
    cpu_->compare_logits(reference, logits, targets, expected);
    gpu_->compare_logits(to_gpu(reference), to_gpu(logits), targets, found);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(found[i].divergence, expected[i].divergence, 1e-5 * (1 + expected[i].divergence));
      EXPECT_NEAR(found[i].loss, expected[i].loss, 1e-5 * (1.0 + expected[i].loss));
      EXPECT_NEAR(found[i].reference_loss, expected[i].reference_loss,
                  1e-5 * (1.0 + expected[i].reference_loss));
      EXPECT_EQ(found[i].same_top, expected[i].same_top) << vocabulary;
    }
    EXPECT_TRUE(found[2].same_top);
  }
}

TEST_F(CudaForward, difference_moments_equal_the_cpus) {
  // One slice of rows, just more than one, and many.
  for (const int64_t rows : {1, 512, 513, 3000}) {
    const Tensor a = random(rows, 130, DType::kBF16), b = random(rows, 130, DType::kF32);
    const Tensor expected = cpu_->allocate(2, 130, DType::kF64);
    cpu_->fill_zero(expected);
    const Tensor moments = poisoned(*gpu_, 2, 130, DType::kF64);
    gpu_->fill_zero(moments);
    for (int time = 0; time < 2; ++time) {
      cpu_->accumulate_difference(a, b, expected);
      gpu_->accumulate_difference(to_gpu(a), to_gpu(b), moments);
    }
    EXPECT_LE(difference_to_gpu(moments, expected), 1e-12) << rows;
  }
}

TEST_F(CudaForward, mirror_copies_the_lower_triangle) {
  for (const int64_t n : {1, 31, 32, 33, 100}) {
    const Tensor matrix = random(n, n, DType::kF32);
    const Tensor expected = copy(matrix), mirrored = to_gpu(matrix);
    cpu_->mirror_lower(expected);
    gpu_->mirror_lower(mirrored);
    EXPECT_EQ(test::bytes_of(to_cpu(mirrored)), test::bytes_of(expected)) << n;
  }
}

TEST_F(CudaForward, first_non_finite_row_is_found) {
  for (const int64_t rows : {700, 699}) {  // elements in fours, and one by one
    const Tensor x = random(rows, 33, DType::kF32);
    EXPECT_EQ(gpu_->first_non_finite_row(to_gpu(x)), -1);
    x.data<float>()[650 * 33 + 32] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(gpu_->first_non_finite_row(to_gpu(x)), 650);
    x.data<float>()[70 * 33] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(gpu_->first_non_finite_row(to_gpu(x)), 70);
    const Tensor narrow = gpu_->allocate(rows, 33, DType::kBF16);
    gpu_->convert(to_gpu(x), narrow);
    EXPECT_EQ(gpu_->first_non_finite_row(narrow), 70);
  }
}

}  // namespace
}  // namespace d2q
