#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cpu/eight_bit_heads.h"
#include "kernels/cpu/test_support.h"

namespace d2q {
namespace {

using test::at;
using test::random_tensor;

/// softmax(scale q kᵀ + mask) v for one query row and head, in double.
std::vector<double> reference(const Tensor& q, const Tensor& k, const Tensor& v,
                              const AttentionShape& s, int64_t row, int64_t head, bool round) {
  const auto value = [&](const Tensor& x, int64_t r, int64_t c) {
    return round ? test::bf16_rounded(at(x, r, c)) : at(x, r, c);
  };
  const int64_t n_keys = s.past_length + s.sequence_length;
  const int64_t first_row = row / s.sequence_length * n_keys;
  const int64_t position = s.past_length + row % s.sequence_length;
  const int64_t kv_head = head / (s.n_heads / s.n_kv_heads);
  std::vector<double> scores(static_cast<size_t>(n_keys), -INFINITY);
  double top = -INFINITY, sum = 0.0;
  for (int64_t key = 0; key <= position; ++key) {
    if (s.window > 0 && position - key >= s.window) continue;
    double score = 0.0;
    for (int64_t i = 0; i < s.head_dim; ++i) {
      score += value(q, row, head * s.head_dim + i) *
               value(k, first_row + key, kv_head * s.head_dim + i);
    }
    scores[static_cast<size_t>(key)] = score * static_cast<double>(s.scale);
    top = std::max(top, scores[static_cast<size_t>(key)]);
  }
  std::vector<double> result(static_cast<size_t>(s.head_dim));
  for (int64_t key = 0; key < n_keys; ++key) {
    const double p = std::exp(scores[static_cast<size_t>(key)] - top);
    sum += p;
    for (int64_t i = 0; i < s.head_dim; ++i) {
      result[static_cast<size_t>(i)] += p * value(v, first_row + key, kv_head * s.head_dim + i);
    }
  }
  for (double& x : result) x /= sum;
  return result;
}

AttentionShape shape(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t length,
                     int64_t past, int64_t window) {
  return {.n_heads = heads,
          .n_kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .sequence_length = length,
          .past_length = past,
          .window = window};
}

/// x as rows of an 8-bit cache, and what those rows say in `values`.
Tensor stored_in_bytes(Device& device, const Tensor& x, int64_t head_dim, Tensor& values) {
  const int64_t n_heads = x.cols() / head_dim;
  const Tensor rows =
      device.allocate(x.rows(), device.cache_row_bytes(n_heads, head_dim), DType::kU8);
  device.store_cache(x, head_dim, rows);
  values = device.allocate(x.rows(), x.cols(), DType::kF32);
  for (int64_t head = 0; head < x.rows() * n_heads; ++head) {
    dequantize_head(rows.data<uint8_t>() + head * eight_bit_head_bytes(head_dim), head_dim,
                    values.data<float>() + head * head_dim);
  }
  return rows;
}

void check_attention(Device& device, const AttentionShape& s, int64_t n_sequences, DType kv_type,
                     DType y_type, DType products) {
  const int64_t rows = n_sequences * s.sequence_length;
  const int64_t kv_rows = n_sequences * (s.past_length + s.sequence_length);
  const Tensor q = random_tensor(device, rows, s.n_heads * s.head_dim, DType::kF32, 1);
  const bool in_bytes = kv_type == DType::kU8;
  const DType random_type = in_bytes ? DType::kF32 : kv_type;
  Tensor k = random_tensor(device, kv_rows, s.n_kv_heads * s.head_dim, random_type, 2);
  Tensor v = random_tensor(device, kv_rows, s.n_kv_heads * s.head_dim, random_type, 3);
  const Tensor y = device.allocate(rows, s.n_heads * s.head_dim, y_type);
  if (in_bytes) {
    const Tensor keys = stored_in_bytes(device, k, s.head_dim, k);
    const Tensor values = stored_in_bytes(device, v, s.head_dim, v);
    device.attention(q, keys, values, s, y, products);
  } else {
    device.attention(q, k, v, s, y, products);
  }
  // f32: a score is off by at most head_dim roundings of about |score| + 1 <= 8, probabilities
  // by e^that; sums over at most 700 keys add less. bf16: probabilities rounded, |v| <= 5.
  double tolerance = 8.0 * static_cast<double>(s.head_dim) * 2.0 * test::kF32Unit * 5.0;
  if (products == DType::kBF16) tolerance += test::kBf16Unit * 5.0 / 2.0;
  if (y_type == DType::kBF16) tolerance += test::kBf16Unit * 5.0 / 2.0;
  const int64_t step = rows > 200 ? 37 : 1;
  for (int64_t row = 0; row < rows; row += step) {
    for (int64_t head = 0; head < s.n_heads; ++head) {
      const auto expected = reference(q, k, v, s, row, head, products == DType::kBF16);
      for (int64_t i = 0; i < s.head_dim; ++i) {
        ASSERT_NEAR(at(y, row, head * s.head_dim + i), expected[static_cast<size_t>(i)], tolerance)
            << device.name() << " row " << row << " head " << head << " length "
            << s.sequence_length << " past " << s.past_length << " window " << s.window;
      }
    }
  }
}

TEST(Attention, equals_softmax_in_double) {
  test::on_every_isa([](Device& device) {
    for (const DType products : {DType::kF32, DType::kBF16}) {
      check_attention(device, shape(1, 1, 8, 1, 0, 0), 1, DType::kF32, DType::kF32, products);
      check_attention(device, shape(3, 1, 64, 65, 0, 0), 2, DType::kF32, DType::kF32, products);
      check_attention(device, shape(4, 2, 10, 17, 0, 0), 3, DType::kBF16, DType::kBF16, products);
      check_attention(device, shape(2, 2, 128, 300, 0, 0), 1, DType::kF32, DType::kF32, products);
      check_attention(device, shape(9, 3, 64, 5, 290, 0), 1, DType::kF16, DType::kF32, products);
    }
  });
}

TEST(Attention, masks_keys_outside_the_sliding_window) {
  test::on_every_isa([](Device& device) {
    for (const DType products : {DType::kF32, DType::kBF16}) {
      check_attention(device, shape(2, 1, 16, 40, 0, 1), 1, DType::kF32, DType::kF32, products);
      check_attention(device, shape(2, 1, 16, 40, 0, 7), 2, DType::kF32, DType::kF32, products);
      check_attention(device, shape(2, 1, 16, 700, 0, 300), 1, DType::kF32, DType::kF32, products);
      check_attention(device, shape(2, 1, 16, 3, 600, 257), 1, DType::kF16, DType::kF32, products);
    }
  });
}

TEST(Attention, decodes_one_token_after_a_long_past) {
  test::on_every_isa([](Device& device) {
    for (const int64_t past : {1, 63, 64, 255, 256, 511}) {
      check_attention(device, shape(6, 2, 64, 1, past, 0), 2, DType::kF16, DType::kF32,
                      DType::kF32);
    }
  });
}

TEST(Attention, decodes_with_windows_odd_heads_and_many_queries_a_key_head) {
  test::on_every_isa([](Device& device) {
    for (const auto& s : {shape(6, 2, 64, 1, 700, 300), shape(9, 1, 10, 1, 300, 0),
                          shape(5, 5, 80, 1, 1030, 0), shape(2, 1, 16, 1, 0, 0)}) {
      check_attention(device, s, 1, DType::kF16, DType::kF32, DType::kF32);
    }
  });
}

TEST(Attention, reads_caches_in_8_bits) {
  test::on_every_isa([](Device& device) {
    for (const auto& s : {shape(6, 2, 64, 1, 511, 0), shape(6, 2, 64, 1, 700, 300),
                          shape(9, 1, 10, 1, 300, 0), shape(5, 5, 80, 1, 1030, 0)}) {
      check_attention(device, s, 2, DType::kU8, DType::kF32, DType::kF32);
    }
    for (const DType products : {DType::kF32, DType::kBF16})
      check_attention(device, shape(9, 3, 64, 5, 290, 0), 1, DType::kU8, DType::kF32, products);
  });
}

TEST(Attention, heads_in_8_bits_are_within_half_a_step) {
  test::on_every_isa([](Device& device) {
    const Tensor x = random_tensor(device, 33, 3 * 20, DType::kF32, 4);
    std::fill_n(x.data<float>() + 60, 20, 0.0f);
    Tensor values;
    stored_in_bytes(device, x, 20, values);
    for (int64_t head = 0; head < 33 * 3; ++head) {
      const float* original = x.data<float>() + head * 20;
      float largest = 0.0f;
      for (int64_t i = 0; i < 20; ++i) largest = std::max(largest, std::fabs(original[i]));
      for (int64_t i = 0; i < 20; ++i) {
        // Half a step, and three roundings of f32.
        EXPECT_NEAR(values.data<float>()[head * 20 + i], original[i],
                    largest * (0.5 / 127 + 4 * test::kF32Unit));
      }
    }
  });
}

TEST(Attention, a_head_in_8_bits_with_inf_or_nan_is_nan) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    const Tensor x = random_tensor(*device, 1, 32, DType::kF32, 4);
    x.data<float>()[5] = bad;
    Tensor values;
    stored_in_bytes(*device, x, 16, values);
    EXPECT_TRUE(std::isnan(values.data<float>()[0]));
    EXPECT_TRUE(std::isfinite(values.data<float>()[16]));
  }
}

TEST(Attention, survives_scores_whose_exponentials_overflow) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  AttentionShape s = shape(1, 1, 16, 300, 0, 0);
  const Tensor q = random_tensor(*device, 300, 16, DType::kF32, 1, 100.0);
  const Tensor v = random_tensor(*device, 300, 16, DType::kF32, 2);
  const Tensor y = device->allocate(300, 16, DType::kF32);
  device->attention(q, q, v, s, y, DType::kF32);
  EXPECT_EQ(device->first_non_finite_row(y), -1);
  // A row's own key scores |q|²/4, far above any other: it gets all the weight.
  EXPECT_NEAR(at(y, 299, 3), at(v, 299, 3), 1e-6);
}

TEST(Attention, decoding_does_not_depend_on_the_number_of_threads) {
  EXPECT_TRUE(test::same_on_any_thread_count([&](Device& device) {
    const Tensor q = random_tensor(device, 1, 128, DType::kF32, 1);
    const Tensor k = random_tensor(device, 1500, 64, DType::kF16, 2);
    const Tensor y = device.allocate(1, 128, DType::kF32);
    device.attention(q, k, k, shape(4, 2, 32, 1, 1499, 0), y, DType::kF32);
    return y;
  }));
}

TEST(Attention, decoding_in_8_bits_does_not_depend_on_the_number_of_threads) {
  EXPECT_TRUE(test::same_on_any_thread_count([&](Device& device) {
    const Tensor q = random_tensor(device, 1, 128, DType::kF32, 1);
    Tensor unused;
    const Tensor k =
        stored_in_bytes(device, random_tensor(device, 1500, 64, DType::kF32, 2), 32, unused);
    const Tensor y = device.allocate(1, 128, DType::kF32);
    device.attention(q, k, k, shape(4, 2, 32, 1, 1499, 0), y, DType::kF32);
    return y;
  }));
}

TEST(Attention, does_not_depend_on_the_number_of_threads) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    EXPECT_TRUE(test::same_on_any_thread_count([&](Device& device) {
      const Tensor q = random_tensor(device, 600, 128, DType::kF32, 1);
      const Tensor k = random_tensor(device, 600, 64, DType::kF32, 2);
      const Tensor y = device.allocate(600, 128, DType::kF32);
      device.attention(q, k, k, shape(4, 2, 32, 300, 0, 0), y, products);
      return y;
    }));
  }
}

}  // namespace
}  // namespace d2q
