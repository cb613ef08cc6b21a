// The decoding step's operations of the CUDA device against the CPU's.
#include <array>
#include <cstring>
#include <list>
#include <numeric>
#include <string>

#include "kernels/cuda/cuda_test_support.h"
#include "kernels/decode_ops.h"
#include "kernels/packed_test_data.h"

namespace d2q {
namespace {

struct Format {
  PackedKind kind;
  int bits;
};
constexpr Format kFormats[] = {{PackedKind::kUniform, 2},    {PackedKind::kUniform, 3},
                               {PackedKind::kUniform, 4},    {PackedKind::kUniform, 8},
                               {PackedKind::kSignPlanes, 2}, {PackedKind::kSignPlanes, 3}};

class CudaDecode : public test::CudaTest {
 protected:
  /// The same linear on both devices; `storage` outlives them.
  struct Pair {
    Linear cpu, gpu;
  };
  Pair packed(PackedStorage& storage, const PackedLayout& layout, bool with_bias) {
    storage = random_packed(layout, seed_++);
    Pair pair;
    pair.cpu.packed = cpu_->upload_packed(storage.view());
    pair.gpu.packed = gpu_->upload_packed(storage.view());
    if (with_bias) pair.cpu.bias = random(1, layout.rows, DType::kF32);
    pair.gpu.bias = to_gpu(pair.cpu.bias);
    return pair;
  }
  Pair dense(int64_t rows, int64_t cols) {
    Pair pair;
    pair.cpu.dense = random(rows, cols, DType::kBF16, 0.05);
    pair.gpu.dense = to_gpu(pair.cpu.dense);
    return pair;
  }
  NormParams norm(int64_t width, NormKind kind, bool shifted) {
    NormParams params;
    params.kind = kind;
    params.gain = random(1, width, DType::kF32);
    if (shifted) params.shift = random(1, width, DType::kF32);
    return params;
  }
  NormParams to_gpu_norm(const NormParams& params) {
    NormParams result = params;
    result.gain = to_gpu(params.gain);
    result.shift = to_gpu(params.shift);
    return result;
  }
  Tensor integers(Device& device, const std::vector<int32_t>& values) {
    const Tensor result = device.allocate(1, static_cast<int64_t>(values.size()), DType::kI32);
    device.upload(values.data(), result);
    return result;
  }

  /// Both devices round inputs to 16 bits a block of up to 128 columns, in f32 after the same norm:
  /// 2^-16 of a block's largest value each, far below 1e-4 of the largest output.
  static constexpr double kQuantized = 2e-4;
};

TEST_F(CudaDecode, projections_of_every_format_equal_the_cpus) {
  for (const Format& format : kFormats) {
    for (const auto& [rows, cols, group_size] :
         {std::tuple<int64_t, int64_t, int64_t>{16, 128, 128},
          {33, 64, 64},
          {100, 1152, 128},
          {48, 576, 64},
          {65, 448, 192},
          {17, 100, 100},
          {40, 640, 256}}) {
      PackedStorage storage;
      const Pair w = packed(storage, {format.kind, format.bits, rows, cols, group_size}, true);
      const std::array<const Linear*, 1> on_cpu{&w.cpu}, on_gpu{&w.gpu};
      const NormParams params = norm(cols, NormKind::kRms, false);
      const NormParams gpu_params = to_gpu_norm(params);
      for (const int64_t tokens : {1, 2, 5, 9, 19}) {
        const Tensor x = random(tokens, cols, DType::kF32);
        const Tensor expected = cpu_->allocate(tokens, rows, DType::kF32);
        const Tensor y = poisoned(*gpu_, tokens, rows, DType::kF32);
        cpu_->decoding().project(x, &params, on_cpu, expected, DType::kF32);
        gpu_->decoding().project(to_gpu(x), &gpu_params, on_gpu, y, DType::kBF16);
        EXPECT_LE(difference_to_gpu(y, expected), kQuantized)
            << static_cast<int>(format.kind) << " bits " << format.bits << " " << rows << "x"
            << cols << " group " << group_size << " tokens " << tokens;
      }
    }
  }
}

TEST_F(CudaDecode, groups_that_are_not_whole_half_blocks_take_the_slower_kernels) {
  PackedStorage storage;
  const Pair w = packed(storage, {PackedKind::kSignPlanes, 2, 50, 200, 40}, true);
  const Tensor x = random(3, 200, DType::kF32);
  const Tensor start = random(3, 50, DType::kF32), expected = copy(start), y = to_gpu(start);
  cpu_->decoding().add_projection(x, w.cpu, expected, DType::kF32);
  gpu_->decoding().add_projection(to_gpu(x), w.gpu, y, DType::kBF16);
  EXPECT_LE(difference_to_gpu(y, expected), kQuantized);
}

TEST_F(CudaDecode, several_linears_are_laid_side_by_side) {
  // Two that one launch takes, one of other bits, a dense one.
  PackedStorage first, second, third;
  const Pair a = packed(first, {PackedKind::kSignPlanes, 2, 40, 256, 64}, true);
  const Pair b = packed(second, {PackedKind::kSignPlanes, 2, 24, 256, 64}, false);
  const Pair c = packed(third, {PackedKind::kUniform, 4, 16, 256, 64}, false);
  const Pair d = dense(8, 256);
  const std::array<const Linear*, 4> on_cpu{&a.cpu, &b.cpu, &c.cpu, &d.cpu};
  const std::array<const Linear*, 4> on_gpu{&a.gpu, &b.gpu, &c.gpu, &d.gpu};
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    const NormParams params = norm(256, kind, true), gpu_params = to_gpu_norm(params);
    for (const int64_t tokens : {1, 3}) {
      const Tensor x = random(tokens, 256, DType::kF32);
      const Tensor expected = cpu_->allocate(tokens, 88, DType::kF32);
      const Tensor y = poisoned(*gpu_, tokens, 88, DType::kF32);
      cpu_->decoding().project(x, &params, on_cpu, expected, DType::kF32);
      gpu_->decoding().project(to_gpu(x), &gpu_params, on_gpu, y, DType::kBF16);
      EXPECT_LE(difference_to_gpu(y, expected), 1e-3) << tokens;  // bf16 inputs of the dense one
    }
  }
}

TEST_F(CudaDecode, gates_and_sums_are_applied_in_the_product) {
  for (const Activation act : {Activation::kSilu, Activation::kGeluTanh}) {
    for (const int64_t tokens : {1, 4, 16}) {
      PackedStorage first, second, third;
      const Pair gate = packed(first, {PackedKind::kSignPlanes, 2, 200, 384, 128}, false);
      const Pair up = packed(second, {PackedKind::kSignPlanes, 2, 200, 384, 128}, false);
      const Pair down = packed(third, {PackedKind::kUniform, 2, 384, 200, 64}, false);
      const NormParams params = norm(384, NormKind::kRms, false), gpu_params = to_gpu_norm(params);
      const Tensor x = random(tokens, 384, DType::kF32);
      const Tensor gpu_x = to_gpu(x);
      const Tensor m = cpu_->allocate(tokens, 200, DType::kF32);
      const Tensor gpu_m = poisoned(*gpu_, tokens, 200, DType::kF32);
      cpu_->decoding().project_gated(x, params, gate.cpu, up.cpu, act, m, DType::kF32);
      gpu_->decoding().project_gated(gpu_x, gpu_params, gate.gpu, up.gpu, act, gpu_m, DType::kBF16);
      EXPECT_LE(difference_to_gpu(gpu_m, m), 2 * kQuantized) << tokens;
      cpu_->decoding().add_projection(m, down.cpu, x, DType::kF32);
      gpu_->decoding().add_projection(gpu_m, down.gpu, gpu_x, DType::kBF16);
      EXPECT_LE(difference_to_gpu(gpu_x, x), 2 * kQuantized) << tokens;
      // Without a gate.
      cpu_->decoding().project_gated(x, params, Linear(), up.cpu, act, m, DType::kF32);
      gpu_->decoding().project_gated(to_gpu(x), gpu_params, Linear(), up.gpu, act, gpu_m,
                                     DType::kBF16);
      EXPECT_LE(difference_to_gpu(gpu_m, m), 2 * kQuantized) << tokens;
    }
  }
}

TEST_F(CudaDecode, products_in_f32_do_not_round_their_inputs) {
  PackedStorage storage;
  const Pair w = packed(storage, {PackedKind::kSignPlanes, 2, 100, 640, 128}, false);
  std::vector<float> dense_weights(100 * 640);
  dequantize(storage.view(), dense_weights);
  const Tensor weights = gpu_->allocate(100, 640, DType::kF32);
  gpu_->upload(dense_weights.data(), weights);
  const Tensor x = to_gpu(random(2, 640, DType::kF32));
  const Tensor expected = poisoned(*gpu_, 2, 100, DType::kF32);
  const Tensor y = poisoned(*gpu_, 2, 100, DType::kF32);
  gpu_->linear(x, weights, Tensor(), expected);
  const std::array<const Linear*, 1> one{&w.gpu};
  gpu_->decoding().project(x, nullptr, one, y, DType::kF32);
  EXPECT_LE(difference(to_cpu(y), to_cpu(expected)), 1e-5);
}

TEST_F(CudaDecode, infinite_and_missing_inputs_reach_the_outputs) {
  PackedStorage storage;
  const Pair w = packed(storage, {PackedKind::kSignPlanes, 2, 32, 256, 128}, false);
  const std::array<const Linear*, 1> one{&w.gpu};
  for (const float value : {INFINITY, NAN, 0.0f}) {
    for (const int64_t tokens : {1, 2}) {
      const Tensor x = cpu_->allocate(tokens, 256, DType::kF32);
      cpu_->fill_zero(x);
      x.data<float>()[200] = value;
      const Tensor y = poisoned(*gpu_, tokens, 32, DType::kF32);
      gpu_->decoding().project(to_gpu(x), nullptr, one, y, DType::kBF16);
      const Tensor result = to_cpu(y);
      for (int64_t row = 0; row < 32; ++row) {
        EXPECT_EQ(std::isfinite(result.data<float>()[row]), value == 0.0f) << value;
        if (value == 0.0f) {
          EXPECT_EQ(result.data<float>()[row], 0.0f);
        }
      }
    }
  }
}

TEST_F(CudaDecode, embeddings_equal_the_cpus) {
  const std::vector<int32_t> tokens = {3, 0, 69, 12, 70, -1};
  for (const Format& format : kFormats) {
    PackedStorage storage;
    const Pair table = packed(storage, {format.kind, format.bits, 70, 200, 64}, false);
    const Tensor expected = cpu_->allocate(6, 200, DType::kF32);
    const Tensor y = poisoned(*gpu_, 6, 200, DType::kF32);
    cpu_->decoding().embed(integers(*cpu_, tokens), table.cpu, expected);
    gpu_->decoding().embed(integers(*gpu_, tokens), table.gpu, y);
    EXPECT_EQ(difference_to_gpu(y, expected), 0.0) << format.bits;
  }
  const Pair table = dense(70, 130);
  const Tensor expected = cpu_->allocate(6, 130, DType::kF32);
  const Tensor y = poisoned(*gpu_, 6, 130, DType::kF32);
  cpu_->decoding().embed(integers(*cpu_, tokens), table.cpu, expected);
  gpu_->decoding().embed(integers(*gpu_, tokens), table.gpu, y);
  EXPECT_EQ(difference_to_gpu(y, expected), 0.0);
}

TEST_F(CudaDecode, attention_equals_the_cpus) {
  struct Case {
    int64_t heads, kv_heads, dim, half, window, capacity;
    bool normed;
    std::vector<int32_t> positions;
  };
  const Case cases[] = {{8, 2, 128, 64, 0, 700, false, {0, 5, 63, 64, 699}},
                        {3, 1, 64, 32, 0, 300, false, {299}},
                        {8, 2, 64, 32, 0, 300, false, {0}},
                        {8, 2, 128, 64, 0, 700, true, {600}},
                        {5, 5, 128, 64, 90, 700, false, {600}},
                        {4, 4, 64, 32, 100, 400, true, {99, 100, 350, 400, -1}},
                        {6, 2, 96, 32, 0, 200, true, {130, 7}},
                        {10, 2, 256, 128, 0, 150, false, {149, 64}},
                        {16, 2, 80, 40, 0, 1000, false, {998, 999}}};
  for (const Case& c : cases) {
    const auto n = static_cast<int64_t>(c.positions.size());
    const AttentionShape shape{.n_heads = c.heads,
                               .n_kv_heads = c.kv_heads,
                               .head_dim = c.dim,
                               .scale = 1.0f / std::sqrt(static_cast<float>(c.dim)),
                               .window = c.window};
    const NormParams q_norm = norm(c.dim, NormKind::kRms, false);
    const NormParams k_norm = norm(c.dim, NormKind::kRms, false);
    const NormParams gpu_q_norm = to_gpu_norm(q_norm), gpu_k_norm = to_gpu_norm(k_norm);
    DecodeAttention attention{.cos = random(c.capacity, c.half, DType::kF32, 0.5),
                              .sin = random(c.capacity, c.half, DType::kF32, 0.5)};
    DecodeAttention gpu_attention{.cos = to_gpu(attention.cos), .sin = to_gpu(attention.sin)};
    if (c.normed) {
      attention.q_norm = &q_norm, attention.k_norm = &k_norm;
      gpu_attention.q_norm = &gpu_q_norm, gpu_attention.k_norm = &gpu_k_norm;
    }
    const Tensor projections = random(n, (c.heads + 2 * c.kv_heads) * c.dim, DType::kF32);
    const Tensor keys = random(n * c.capacity, c.kv_heads * c.dim, DType::kF16);
    const Tensor values = random(n * c.capacity, c.kv_heads * c.dim, DType::kF16);
    const Tensor gpu_keys = to_gpu(keys), gpu_values = to_gpu(values);
    const Tensor expected = cpu_->allocate(n, c.heads * c.dim, DType::kF32);
    cpu_->decoding().attend(projections, integers(*cpu_, c.positions), shape, attention, keys,
                            values, expected);
    for (int time = 0; time < 2; ++time) {  // the counters are ready for the next time
      const Tensor y = poisoned(*gpu_, n, c.heads * c.dim, DType::kF32);
      gpu_->decoding().attend(to_gpu(projections), integers(*gpu_, c.positions), shape,
                              gpu_attention, gpu_keys, gpu_values, y);
      EXPECT_LE(difference_to_gpu(y, expected), 3e-5) << c.heads << " heads of " << c.dim;
      EXPECT_LE(difference_to_gpu(gpu_keys, keys), 1e-3) << c.dim;  // one f16 rounding apart
      EXPECT_EQ(difference_to_gpu(gpu_values, values), 0.0) << c.dim;
    }
  }
}

TEST_F(CudaDecode, the_most_likely_token_is_the_first_largest_one) {
  const Tensor logits = random(3, 5000, DType::kF32);
  float* values = logits.data<float>();
  values[4321] = values[77] = 9.0f;
  values[5000 + 4999] = 9.0f;
  values[10000] = NAN;
  values[10001] = 9.0f;
  const Tensor tokens = integers(*gpu_, {-1, -1, -1});
  gpu_->decoding().choose_most_likely(to_gpu(logits), tokens);
  const Tensor found = to_cpu(tokens);
  EXPECT_EQ(found.data<int32_t>()[0], 77);
  EXPECT_EQ(found.data<int32_t>()[1], 4999);
  EXPECT_EQ(found.data<int32_t>()[2], 1);
  const Tensor on_cpu = integers(*cpu_, {-1, -1, -1});
  cpu_->decoding().choose_most_likely(logits, on_cpu);
  EXPECT_EQ(test::bytes_of(found), test::bytes_of(on_cpu));
}

/// A small model's step, everything that a GPU can do as one kernel in it.
struct Step {
  int64_t n_layers, hidden, mlp, n_heads, n_kv_heads, head_dim, window;
  Format body, head;
  int64_t group_size;
  bool biased;
};

TEST_F(CudaDecode, operations_together_equal_the_cpus) {
  constexpr Format kPlanes2{PackedKind::kSignPlanes, 2}, kPlanes3{PackedKind::kSignPlanes, 3};
  constexpr Format kUniform2{PackedKind::kUniform, 2}, kUniform4{PackedKind::kUniform, 4};
  constexpr Format kUniform8{PackedKind::kUniform, 8};
  for (const Step& s : {Step{3, 512, 1408, 8, 2, 64, 0, kPlanes2, kUniform4, 128, false},
                        Step{4, 2304, 2688, 18, 6, 128, 0, kUniform2, kUniform8, 64, true},
                        Step{1, 96, 160, 3, 3, 32, 40, kPlanes3, kPlanes2, 32 * 2, true}}) {
    std::list<PackedStorage> storages;
    const auto linear = [&](const Format& format, int64_t rows, int64_t cols, bool with_bias) {
      storages.emplace_back();
      return packed(storages.back(), {format.kind, format.bits, rows, cols, s.group_size},
                    with_bias);
    };
    constexpr int64_t kVocabulary = 3001, kCapacity = 700;
    const int64_t q_rows = s.n_heads * s.head_dim, kv_rows = s.n_kv_heads * s.head_dim;
    struct Layer {
      Pair q, k, v, o, gate, up, down;
      NormParams norms[2], gpu_norms[2];
      Tensor keys, values, gpu_keys, gpu_values;
    };
    std::vector<Layer> layers(static_cast<size_t>(s.n_layers));
    for (Layer& layer : layers) {
      layer.q = linear(s.body, q_rows, s.hidden, s.biased);
      layer.k = linear(s.body, kv_rows, s.hidden, s.biased);
      layer.v = linear(s.body, kv_rows, s.hidden, s.biased);
      layer.o = linear(s.body, s.hidden, q_rows, false);
      layer.gate = linear(s.body, s.mlp, s.hidden, false);
      layer.up = linear(s.body, s.mlp, s.hidden, false);
      layer.down = linear(s.body, s.hidden, s.mlp, s.biased);
      for (size_t i = 0; i < 2; ++i) {
        layer.norms[i] = norm(s.hidden, s.biased ? NormKind::kLayer : NormKind::kRms, s.biased);
        layer.gpu_norms[i] = to_gpu_norm(layer.norms[i]);
      }
      layer.keys = random(kCapacity, kv_rows, DType::kF16);
      layer.values = random(kCapacity, kv_rows, DType::kF16);
      layer.gpu_keys = to_gpu(layer.keys), layer.gpu_values = to_gpu(layer.values);
    }
    const Pair head = linear(s.head, kVocabulary, s.hidden, false);
    const Tensor cos = random(kCapacity, s.head_dim / 2, DType::kF32);
    const Tensor sin = random(kCapacity, s.head_dim / 2, DType::kF32);
    const Tensor gpu_cos = to_gpu(cos), gpu_sin = to_gpu(sin);
    const AttentionShape shape{.n_heads = s.n_heads,
                               .n_kv_heads = s.n_kv_heads,
                               .head_dim = s.head_dim,
                               .scale = 0.002f,  // no score decides alone
                               .window = s.window};
    const auto run = [&](Device& device, bool on_gpu, const Tensor& x, const Tensor& positions,
                         const Tensor& logits) {
      DecodeOps& ops = device.decoding();
      const DType products = on_gpu ? DType::kBF16 : DType::kF32;
      const auto of = [&](const Pair& pair) { return on_gpu ? &pair.gpu : &pair.cpu; };
      const Tensor projections = device.allocate(1, q_rows + 2 * kv_rows, DType::kF32);
      const Tensor attended = device.allocate(1, q_rows, DType::kF32);
      const Tensor mlp = device.allocate(1, s.mlp, DType::kF32);
      ops.together([&] {
        for (const Layer& layer : layers) {
          const NormParams* norms = on_gpu ? layer.gpu_norms : layer.norms;
          const std::array<const Linear*, 3> qkv{of(layer.q), of(layer.k), of(layer.v)};
          ops.project(x, &norms[0], qkv, projections, products);
          const DecodeAttention attention{.q_norm = nullptr,
                                          .k_norm = nullptr,
                                          .cos = on_gpu ? gpu_cos : cos,
                                          .sin = on_gpu ? gpu_sin : sin};
          ops.attend(projections, positions, shape, attention, on_gpu ? layer.gpu_keys : layer.keys,
                     on_gpu ? layer.gpu_values : layer.values, attended);
          ops.add_projection(attended, *of(layer.o), x, products);
          ops.project_gated(x, norms[1], *of(layer.gate), *of(layer.up), Activation::kSilu, mlp,
                            products);
          ops.add_projection(mlp, *of(layer.down), x, products);
        }
        const std::array<const Linear*, 1> last{of(head)};
        ops.project(x, nullptr, last, logits, products);
      });
    };
    for (const int32_t position : {0, 7, 300, 699}) {
      const Tensor x = random(1, s.hidden, DType::kF32);
      const Tensor cpu_x = copy(x), logits = cpu_->allocate(1, kVocabulary, DType::kF32);
      run(*cpu_, false, cpu_x, integers(*cpu_, {position}), logits);
      std::string first;
      for (int time = 0; time < 20; ++time) {
        const Tensor gpu_x = to_gpu(x), gpu_logits = poisoned(*gpu_, 1, kVocabulary, DType::kF32);
        run(*gpu_, true, gpu_x, integers(*gpu_, {position}), gpu_logits);
        const std::string bytes = test::bytes_of(to_cpu(gpu_logits));
        if (time == 0) {
          first = bytes;
          const std::string what = fmt::format("{} wide at {}", s.hidden, position);
          // The cache's f16 may round differently where inputs differ in their last bits.
          EXPECT_LE(difference_to_gpu(gpu_x, cpu_x), 20 * kQuantized) << what;
          EXPECT_LE(difference_to_gpu(gpu_logits, logits), 20 * kQuantized) << what;
        }
        ASSERT_EQ(bytes, first) << time;
      }
    }
  }
}

TEST_F(CudaDecode, what_is_partly_written_elsewhere_is_read_from_memory) {
  // Of three projections the middle one is dense, and the sum overwrites what has been read.
  PackedStorage first, second, third;
  const Pair a = packed(first, {PackedKind::kSignPlanes, 2, 100, 300, 100 * 3}, false);
  const Pair b = dense(56, 300);
  const Pair c = packed(second, {PackedKind::kUniform, 4, 144, 300, 64}, false);
  const Pair back = packed(third, {PackedKind::kUniform, 3, 300, 300, 128}, false);
  const Tensor x = random(1, 300, DType::kF32), gpu_x = to_gpu(x);
  const auto run = [&](Device& device, const Tensor& stream, const auto& of, DType products) {
    const Tensor y = device.allocate(1, 300, DType::kF32);
    DecodeOps& ops = device.decoding();
    ops.together([&] {
      for (int time = 0; time < 3; ++time) {
        const std::array<const Linear*, 3> all{of(a), of(b), of(c)};
        ops.project(stream, nullptr, all, y, products);
        ops.add_projection(y, *of(back), stream, products);
        ops.add_projection(y, *of(back), stream, products);
      }
    });
  };
  run(
      *cpu_, x, [](const Pair& pair) { return &pair.cpu; }, DType::kF32);
  run(
      *gpu_, gpu_x, [](const Pair& pair) { return &pair.gpu; }, DType::kBF16);
  EXPECT_LE(difference_to_gpu(gpu_x, x), 3e-3);  // bf16 inputs of the dense one
}

TEST_F(CudaDecode, replayed_work_reads_what_the_tensors_hold_then) {
  PackedStorage storage;
  const Pair w = packed(storage, {PackedKind::kSignPlanes, 2, 70, 256, 128}, false);
  const Pair tall = dense(70, 70);
  for (const int64_t n : {1, 3}) {
    const Tensor x = gpu_->allocate(n, 256, DType::kF32), y = gpu_->allocate(n, 70, DType::kF32);
    const Tensor z = gpu_->allocate(n, 70, DType::kF32);
    const Tensor positions = integers(*gpu_, std::vector<int32_t>(static_cast<size_t>(n), 5));
    const std::array<const Linear*, 1> one{&w.gpu}, other{&tall.gpu};
    const auto work = [&] {
      gpu_->decoding().project(x, nullptr, one, y, DType::kBF16);
      gpu_->decoding().project(y, nullptr, other, z, DType::kBF16);
      gpu_->decoding().advance(positions);
    };
    const auto repeated = gpu_->repeatable(work);
    for (int time = 0; time < 4; ++time) {
      const Tensor input = random(n, 256, DType::kF32);
      gpu_->upload(input.raw(), x);
      repeated->run();
      const Tensor replayed = to_cpu(z);
      gpu_->decoding().project(x, nullptr, one, y, DType::kBF16);
      gpu_->decoding().project(y, nullptr, other, z, DType::kBF16);
      EXPECT_EQ(test::bytes_of(replayed), test::bytes_of(to_cpu(z))) << time;
    }
    EXPECT_EQ(to_cpu(positions).data<int32_t>()[n - 1], 9);
  }
}

}  // namespace
}  // namespace d2q
