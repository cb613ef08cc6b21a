// The backward on the GPU against the CPU's, which has its own tests against finite differences.
#include <fmt/format.h>

#include <array>

#include "kernels/cuda/cuda_test_support.h"
#include "kernels/gradient_ops.h"

namespace d2q {
namespace {

class CudaGradients : public test::CudaTest {
 protected:
  GradientOps& on_cpu() { return cpu_->gradients(); }
  GradientOps& on_gpu() { return gpu_->gradients(); }
  Tensor unset(int64_t rows, int64_t cols) { return poisoned(*gpu_, rows, cols, DType::kF32); }
  Tensor result(int64_t rows, int64_t cols) { return poisoned(*cpu_, rows, cols, DType::kF32); }

  struct Case {
    int64_t heads, kv_heads, head_dim, length, window, sequences;
  };
  void check_attention(const Case& c, DType type, DType y_type, DType products) {
    const AttentionShape shape{.n_heads = c.heads,
                               .n_kv_heads = c.kv_heads,
                               .head_dim = c.head_dim,
                               .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                               .sequence_length = c.length,
                               .past_length = 0,
                               .window = c.window};
    const int64_t rows = c.sequences * c.length;
    const int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
    const Tensor q = random(rows, width, DType::kF32), k = random(rows, kv_width, type);
    const Tensor v = random(rows, kv_width, type), d_y = random(rows, width, DType::kF32);
    const Tensor y = cpu_->allocate(rows, width, y_type);
    cpu_->attention(q, k, v, shape, y, products);
    const Tensor d_q = result(rows, width), d_k = result(rows, kv_width);
    const Tensor d_v = result(rows, kv_width);
    on_cpu().attention(q, k, v, y, d_y, shape, d_q, d_k, d_v, products);
    const Tensor gpu_d_q = unset(rows, width), gpu_d_k = unset(rows, kv_width);
    const Tensor gpu_d_v = unset(rows, kv_width);
    on_gpu().attention(to_gpu(q), to_gpu(k), to_gpu(v), to_gpu(y), to_gpu(d_y), shape, gpu_d_q,
                       gpu_d_k, gpu_d_v, products);
    // Of the largest gradient of all three: where a query sees one key, those of q and k are zero
    // but for rounding. f32: scores of at most head_dim roundings. bf16: the rounding of a
    // probability or of a score's gradient may fall on either side; over the terms of a sum that
    // averages out, and seldom leaves more than a few tenths of one unit.
    const double bound = products == DType::kBF16 ? test::kBf16Unit : 5e-5;
    const double scale = std::max({largest(d_q), largest(d_k), largest(d_v)});
    const std::string where =
        fmt::format("heads {}/{} of {} length {} window {} products {}", c.heads, c.kv_heads,
                    c.head_dim, c.length, c.window, static_cast<int>(products));
    const auto difference = [&](const Tensor& gpu, const Tensor& cpu) {
      return difference_to_gpu(gpu, cpu) * largest(cpu) / scale;
    };
    EXPECT_LE(difference(gpu_d_q, d_q), bound) << "d_q, " << where;
    EXPECT_LE(difference(gpu_d_k, d_k), bound) << "d_k, " << where;
    EXPECT_LE(difference(gpu_d_v, d_v), bound) << "d_v, " << where;
  }

  static double largest(const Tensor& x) {
    double result = 0.0;
    for (int64_t i = 0; i < x.size(); ++i) {
      result = std::max(result, std::fabs(test::at(x, 0, i)));
    }
    return result;
  }

  TunedLinear random_linear(int64_t rows, int64_t cols, int planes, int64_t group) {
    TunedLinear linear;
    linear.planes = planes;
    linear.group_size = group;
    linear.codes = cpu_->allocate(rows, cols, DType::kU8);
    Rng rng(seed_++);
    for (int64_t i = 0; i < linear.codes.size(); ++i) {
      linear.codes.data<uint8_t>()[i] = static_cast<uint8_t>(rng.below(uint64_t{1} << planes));
    }
    linear.params = random(rows, (cols + group - 1) / group * planes, DType::kF32);
    linear.column_scale = random(1, cols, DType::kF32);
    return linear;
  }
  TunedLinear to_gpu_linear(const TunedLinear& host) {
    TunedLinear linear = host;
    linear.codes = to_gpu(host.codes);
    linear.params = to_gpu(host.params);
    linear.column_scale = to_gpu(host.column_scale);
    return linear;
  }
};

TEST_F(CudaGradients, of_linears_equal_the_cpus) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const auto& [tokens, out, in] :
         {std::array<int64_t, 3>{1, 3, 5}, {17, 64, 70}, {270, 300, 530}, {4200, 24, 40}}) {
      const Tensor x = random(tokens, in, type), w = random(out, in, type);
      const Tensor d_y = random(tokens, out, DType::kF32);
      const Tensor d_x = random(tokens, in, DType::kF32), d_w = result(out, in);
      const Tensor gpu_d_x = to_gpu(d_x), gpu_d_w = unset(out, in), fresh = unset(tokens, in);
      on_gpu().linear_input(to_gpu(d_y), to_gpu(w), fresh, false);
      on_gpu().linear_input(to_gpu(d_y), to_gpu(w), gpu_d_x, true);
      on_gpu().linear_weight(to_gpu(d_y), to_gpu(x), gpu_d_w);
      on_cpu().linear_input(d_y, w, d_x, true);
      on_cpu().linear_weight(d_y, x, d_w);
      // Products are exact in f32 for bf16; sums of up to 4200 terms in f32.
      EXPECT_LE(difference_to_gpu(gpu_d_x, d_x), 1e-5) << tokens;
      EXPECT_LE(difference_to_gpu(gpu_d_w, d_w), 1e-4) << tokens;
      on_cpu().linear_input(d_y, w, d_x, false);
      EXPECT_LE(difference_to_gpu(fresh, d_x), 1e-5) << tokens;
    }
  }
}

TEST_F(CudaGradients, of_norms_equal_the_cpus) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const auto& [rows, n] :
         {std::array<int64_t, 2>{1, 1}, {3, 17}, {65, 64}, {200, 576}, {70000, 8}, {130, 1000}}) {
      const Tensor x = random(rows, n, DType::kF32), d_y = random(rows, n, DType::kF32);
      const Tensor gain = random(1, n, DType::kF32);
      const Tensor d_x = random(rows, n, DType::kF32), d_gain = random(1, n, DType::kF32);
      const Tensor d_shift = random(1, n, DType::kF32);
      const Tensor gpu_d_x = to_gpu(d_x), gpu_d_gain = to_gpu(d_gain);
      const Tensor gpu_d_shift = to_gpu(d_shift);
      on_gpu().norm(to_gpu(x), {kind, to_gpu(gain), Tensor(), 1e-2f}, to_gpu(d_y), gpu_d_x,
                    gpu_d_gain, gpu_d_shift);
      on_cpu().norm(x, {kind, gain, Tensor(), 1e-2f}, d_y, d_x, d_gain, d_shift);
      EXPECT_LE(difference_to_gpu(gpu_d_x, d_x), 1e-5) << rows << " x " << n;
      EXPECT_LE(difference_to_gpu(gpu_d_gain, d_gain), 1e-5) << rows << " x " << n;
      EXPECT_LE(difference_to_gpu(gpu_d_shift, d_shift), 1e-5) << rows << " x " << n;
    }
  }
}

TEST_F(CudaGradients, of_a_norm_without_its_parameters) {
  const Tensor x = random(40, 33, DType::kF32), d_x = random(40, 33, DType::kF32);
  const Tensor gain = random(1, 33, DType::kF32), gpu_d_x = to_gpu(d_x);
  on_gpu().norm(to_gpu(x), {NormKind::kRms, to_gpu(gain), Tensor(), 1e-5f}, to_gpu(x), gpu_d_x,
                Tensor(), Tensor());
  on_cpu().norm(x, {NormKind::kRms, gain, Tensor(), 1e-5f}, x, d_x, Tensor(), Tensor());
  EXPECT_LE(difference_to_gpu(gpu_d_x, d_x), 1e-5);
}

TEST_F(CudaGradients, of_rope_equal_the_cpus) {
  const Tensor d_x = random(7, 30, DType::kF32), gpu_d_x = to_gpu(d_x);
  const Tensor cos = random(9, 4, DType::kF32), sin = random(9, 4, DType::kF32);
  const std::vector<int32_t> positions = {0, 8, 3, 3, 1, 5, 7};
  on_gpu().rope(gpu_d_x, 3, positions, to_gpu(cos), to_gpu(sin));
  on_cpu().rope(d_x, 3, positions, cos, sin);
  EXPECT_LE(difference_to_gpu(gpu_d_x, d_x), 1e-6);
}

TEST_F(CudaGradients, of_activations_equal_the_cpus) {
  for (const Activation act :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    const Tensor gate = random(13, 70, DType::kF32, 3.0), up = random(13, 70, DType::kF32);
    const Tensor d_y = random(13, 70, DType::kF32);
    const Tensor d_gate = result(13, 70), d_up = result(13, 70);
    const Tensor gpu_d_gate = unset(13, 70), gpu_d_up = unset(13, 70);
    on_gpu().gated_activation(act, to_gpu(gate), to_gpu(up), to_gpu(d_y), gpu_d_gate, gpu_d_up);
    on_cpu().gated_activation(act, gate, up, d_y, d_gate, d_up);
    EXPECT_LE(difference_to_gpu(gpu_d_gate, d_gate), 5e-6) << static_cast<int>(act);
    EXPECT_LE(difference_to_gpu(gpu_d_up, d_up), 5e-6) << static_cast<int>(act);
    const Tensor gpu_d_x = unset(13, 70);
    on_gpu().activation(act, to_gpu(gate), to_gpu(d_y), gpu_d_x);
    on_cpu().activation(act, gate, d_y, d_gate);
    EXPECT_LE(difference_to_gpu(gpu_d_x, d_gate), 5e-6) << static_cast<int>(act);
  }
}

TEST_F(CudaGradients, of_biases_are_sums_of_columns) {
  for (const int64_t rows : {1, 64, 65, 300}) {
    const Tensor d_y = random(rows, 270, DType::kF32), d_bias = random(1, 270, DType::kF32);
    const Tensor gpu_d_bias = to_gpu(d_bias);
    on_gpu().column_sums(to_gpu(d_y), gpu_d_bias);
    on_cpu().column_sums(d_y, d_bias);
    EXPECT_LE(difference_to_gpu(gpu_d_bias, d_bias), 1e-6) << rows;
  }
}

TEST_F(CudaGradients, of_attention_equal_the_cpus_at_every_head_size) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    for (const int64_t head_dim : {8, 10, 64, 80, 96, 128, 200, 256}) {
      check_attention({2, 1, head_dim, 70, 0, 2}, DType::kF32, DType::kF32, products);
      check_attention({2, 2, head_dim, 33, 0, 1}, DType::kBF16, DType::kBF16, products);
    }
  }
}

TEST_F(CudaGradients, of_attention_equal_the_cpus_at_ragged_lengths) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    for (const int64_t length : {1, 15, 16, 17, 63, 64, 65, 200, 300}) {
      check_attention({9, 3, 64, length, 0, 3}, DType::kF32, DType::kF32, products);
      check_attention({4, 4, 128, length, 0, 1}, DType::kBF16, DType::kF32, products);
      check_attention({7, 1, 16, length, 0, 1}, DType::kF32, DType::kF32, products);
    }
  }
}

TEST_F(CudaGradients, of_attention_share_keys_among_any_number_of_heads) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    check_attention({7, 1, 64, 20, 0, 1}, DType::kF32, DType::kF32, products);
    check_attention({6, 2, 16, 70, 0, 1}, DType::kF32, DType::kF32, products);
    check_attention({100, 1, 16, 5, 0, 2}, DType::kBF16, DType::kF32, products);
  }
}

TEST_F(CudaGradients, of_attention_mask_keys_outside_the_sliding_window) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    check_attention({2, 1, 16, 40, 1, 1}, DType::kF32, DType::kF32, products);
    check_attention({6, 2, 16, 150, 7, 2}, DType::kF32, DType::kF32, products);
    check_attention({2, 1, 64, 200, 64, 1}, DType::kF32, DType::kF32, products);
    check_attention({2, 1, 64, 700, 300, 1}, DType::kF32, DType::kF32, products);
  }
}

TEST_F(CudaGradients, of_scales_and_the_weights_from_them_equal_the_cpus) {
  for (const int planes : {1, 2, 3}) {
    for (const int64_t group : {32, 64, 7}) {
      const TunedLinear linear = random_linear(19, 75, planes, group);
      const TunedLinear gpu_linear = to_gpu_linear(linear);
      for (const DType type : {DType::kF32, DType::kBF16}) {
        const Tensor w = poisoned(*cpu_, 19, 75, type), gpu_w = poisoned(*gpu_, 19, 75, type);
        on_gpu().reconstruct(gpu_linear, gpu_w);
        on_cpu().reconstruct(linear, w);
        EXPECT_EQ(difference_to_gpu(gpu_w, w), 0.0) << planes << " planes, groups of " << group;
      }
      const Tensor d_w = random(19, 75, DType::kF32);
      const Tensor d_params = result(19, linear.params.cols());
      const Tensor gpu_d_params = unset(19, linear.params.cols());
      on_gpu().scale_gradients(gpu_linear, to_gpu(d_w), gpu_d_params);
      on_cpu().scale_gradients(linear, d_w, d_params);
      EXPECT_LE(difference_to_gpu(gpu_d_params, d_params), 1e-6) << planes << " planes";
    }
  }
}

TEST_F(CudaGradients, squared_error_equals_the_cpus) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 40, 3000}) {
      const Tensor y = random(rows, 23, DType::kF32), target = random(rows, 23, type);
      const Tensor d_y = result(rows, 23), gpu_d_y = unset(rows, 23);
      const double found = on_gpu().squared_error(to_gpu(y), to_gpu(target), 0.25f, gpu_d_y);
      const double expected = on_cpu().squared_error(y, target, 0.25f, d_y);
      EXPECT_NEAR(found, expected, 1e-12 * expected);
      EXPECT_EQ(difference_to_gpu(gpu_d_y, d_y), 0.0);
    }
  }
}

TEST_F(CudaGradients, divergence_equals_the_cpus_also_in_place) {
  for (const int64_t vocabulary : {2, 255, 5000}) {
    const Tensor reference = random(6, vocabulary, DType::kF32);
    const Tensor logits = random(6, vocabulary, DType::kF32);
    logits.data<float>()[vocabulary] = 300.0f;  // a row whose exponentials would overflow
    const Tensor d_logits = result(6, vocabulary), gpu_logits = to_gpu(logits);
    const double expected = on_cpu().divergence(reference, logits, 0.25f, d_logits);
    const double found = on_gpu().divergence(to_gpu(reference), gpu_logits, 0.25f, gpu_logits);
    EXPECT_NEAR(found, expected, 1e-5 * (1.0 + expected)) << vocabulary;
    EXPECT_LE(difference_to_gpu(gpu_logits, d_logits), 1e-5) << vocabulary;
  }
}

TEST_F(CudaGradients, adam_equals_the_cpus) {
  const Tensor parameter = random(30, 41, DType::kF32), first = random(30, 41, DType::kF32);
  const Tensor second = cpu_->allocate(30, 41, DType::kF32);
  cpu_->fill_zero(second);
  const Tensor gpu_parameter = to_gpu(parameter), gpu_first = to_gpu(first);
  const Tensor gpu_second = to_gpu(second);
  for (int64_t t = 1; t <= 3; ++t) {
    const Tensor gradient = random(30, 41, DType::kF32);
    AdamStep step;
    step.step = t;
    on_gpu().adam(gpu_parameter, to_gpu(gradient), gpu_first, gpu_second, step);
    on_cpu().adam(parameter, gradient, first, second, step);
  }
  EXPECT_LE(difference_to_gpu(gpu_parameter, parameter), 1e-5);
  EXPECT_LE(difference_to_gpu(gpu_first, first), 1e-6);
  EXPECT_LE(difference_to_gpu(gpu_second, second), 1e-6);
}

TEST_F(CudaGradients, are_the_same_at_every_run) {
  const AttentionShape shape{.n_heads = 6,
                             .n_kv_heads = 2,
                             .head_dim = 64,
                             .scale = 0.125f,
                             .sequence_length = 300,
                             .past_length = 0,
                             .window = 0};
  const Tensor q = to_gpu(random(600, 384, DType::kF32)), k = to_gpu(random(600, 128, DType::kF32));
  const Tensor y = to_gpu(random(600, 384, DType::kF32));
  std::vector<std::string> results;
  for (int run = 0; run < 2; ++run) {
    const Tensor d_q = unset(600, 384), d_k = unset(600, 128), d_v = unset(600, 128);
    on_gpu().attention(q, k, k, y, q, shape, d_q, d_k, d_v, DType::kBF16);
    const Tensor d_w = unset(384, 128);
    on_gpu().linear_weight(d_q, k, d_w);
    results.push_back(test::bytes_of(to_cpu(d_q)) + test::bytes_of(to_cpu(d_k)) +
                      test::bytes_of(to_cpu(d_v)) + test::bytes_of(to_cpu(d_w)));
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace d2q
