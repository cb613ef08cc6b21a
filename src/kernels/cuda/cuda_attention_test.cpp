// Attention on the GPU against the CPU's, which has its own test against softmax in double.
#include "kernels/cuda/cuda_test_support.h"

namespace d2q {
namespace {

struct Case {
  int64_t heads, kv_heads, head_dim, length, past, window, sequences;
};

class CudaAttention : public test::CudaTest {
 protected:
  void check(const Case& c, DType kv_type, DType y_type, DType products) {
    const AttentionShape shape{.n_heads = c.heads,
                               .n_kv_heads = c.kv_heads,
                               .head_dim = c.head_dim,
                               .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                               .sequence_length = c.length,
                               .past_length = c.past,
                               .window = c.window};
    const int64_t rows = c.sequences * c.length, kv_rows = c.sequences * (c.past + c.length);
    const Tensor q = random(rows, c.heads * c.head_dim, DType::kF32);
    const Tensor k = random(kv_rows, c.kv_heads * c.head_dim, kv_type);
    const Tensor v = random(kv_rows, c.kv_heads * c.head_dim, kv_type);
    const Tensor expected = cpu_->allocate(rows, c.heads * c.head_dim, y_type);
    cpu_->attention(q, k, v, shape, expected, products);
    const Tensor y = poisoned(*gpu_, rows, c.heads * c.head_dim, y_type);
    gpu_->attention(to_gpu(q), to_gpu(k), to_gpu(v), shape, y, products);
    // f32: scores of at most head_dim roundings. bf16: a probability is rounded once, to 2^-9, on
    // either side, around maxima that differ; the largest output is near the largest |v|.
    double bound = 2e-5;
    if (products == DType::kBF16) bound += test::kBf16Unit;
    // The CPU attends from a single token in f32, so that q, k and v are rounded on one side only.
    if (products == DType::kBF16 && c.length == 1) bound += test::kBf16Unit;
    if (y_type == DType::kBF16) bound += 2.0 * test::kBf16Unit;  // neighbouring bf16 values
    EXPECT_LE(difference_to_gpu(y, expected), bound)
        << "heads " << c.heads << "/" << c.kv_heads << " of " << c.head_dim << " length "
        << c.length << " past " << c.past << " window " << c.window << " products "
        << static_cast<int>(products);
  }
};

TEST_F(CudaAttention, equals_the_cpus_at_every_head_size) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    for (const int64_t head_dim : {8, 10, 64, 80, 96, 128, 200, 256}) {
      check({2, 1, head_dim, 70, 0, 0, 2}, DType::kF32, DType::kF32, products);
      check({2, 2, head_dim, 33, 0, 0, 1}, DType::kBF16, DType::kBF16, products);
    }
  }
}

TEST_F(CudaAttention, equals_the_cpus_at_ragged_lengths) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    for (const int64_t length : {1, 15, 16, 17, 63, 64, 65, 200}) {
      check({9, 3, 64, length, 0, 0, 3}, DType::kF32, DType::kF32, products);
      check({4, 4, 128, length, 0, 0, 1}, DType::kBF16, DType::kF32, products);
    }
  }
}

TEST_F(CudaAttention, shares_keys_among_any_number_of_heads) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    check({7, 1, 64, 20, 0, 0, 1}, DType::kF32, DType::kF32, products);
    check({64, 1, 32, 3, 0, 0, 2}, DType::kF32, DType::kF32, products);
    check({100, 1, 16, 5, 9, 0, 1}, DType::kF32, DType::kF32, products);
  }
}

TEST_F(CudaAttention, equals_the_cpus_with_more_rows_than_multiprocessors_take_at_once) {
  for (const int64_t head_dim : {64, 96, 128}) {
    for (const DType kv_type : {DType::kF32, DType::kF16})
      check({16, 4, head_dim, 700, 0, 0, 3}, kv_type, DType::kF32, DType::kBF16);
    check({16, 4, head_dim, 690, 37, 150, 3}, DType::kBF16, DType::kBF16, DType::kBF16);
  }
}

TEST_F(CudaAttention, decodes_after_a_past) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    for (const int64_t past : {1, 31, 63, 64, 65, 511, 2000}) {
      check({6, 2, 64, 1, past, 0, 2}, DType::kF16, DType::kF32, products);
      check({8, 8, 128, 5, past, 0, 1}, DType::kF16, DType::kF32, products);
    }
  }
}

TEST_F(CudaAttention, masks_keys_outside_the_sliding_window) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    check({2, 1, 16, 40, 0, 1, 1}, DType::kF32, DType::kF32, products);
    check({2, 1, 16, 150, 0, 7, 2}, DType::kF32, DType::kF32, products);
    check({2, 1, 64, 700, 0, 300, 1}, DType::kF32, DType::kF32, products);
    check({2, 1, 64, 3, 600, 257, 1}, DType::kF16, DType::kF32, products);
    check({2, 1, 64, 100, 30, 64, 1}, DType::kF32, DType::kF32, products);
  }
}

TEST_F(CudaAttention, survives_scores_whose_exponentials_overflow) {
  const AttentionShape shape{.n_heads = 1,
                             .n_kv_heads = 1,
                             .head_dim = 16,
                             .scale = 0.25f,
                             .sequence_length = 300,
                             .past_length = 0,
                             .window = 0};
  const Tensor q = random(300, 16, DType::kF32, 100.0), v = random(300, 16, DType::kF32);
  for (const DType products : {DType::kF32, DType::kBF16}) {
    const Tensor y = poisoned(*gpu_, 300, 16, DType::kF32);
    gpu_->attention(to_gpu(q), to_gpu(q), to_gpu(v), shape, y, products);
    EXPECT_EQ(gpu_->first_non_finite_row(y), -1);
    // A row's own key scores |q|²/4, far above any other: it gets all the weight.
    EXPECT_NEAR(test::at(to_cpu(y), 299, 3), test::at(v, 299, 3), 4.0 * test::kBf16Unit);
  }
}

}  // namespace
}  // namespace d2q
