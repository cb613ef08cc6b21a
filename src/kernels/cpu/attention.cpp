// Causal attention tile by tile (online softmax). The query heads that share a key head are stacked
// into one tall tile, so that both products run as matrix products of useful size.
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu/attention_panels.h"

namespace d2q {
namespace {

constexpr int64_t kStackedRows = 192;

/// Everything about one call that its tasks need. T: the type of products, float or BFloat16.
template <typename T>
struct Job {
  CpuContext& context;
  const Tensor& q;
  const Tensor& y;
  const AttentionShape& shape;
  const T* keys;    // [n_sequences, n_kv_heads, padded_keys, head_dim]
  const T* values;  // the same
  int64_t n_keys;
  int64_t padded_keys;
  int64_t group;       // query heads a key head
  int64_t query_tile;  // queries a task, of each head of the group
};

float exponentials(const ForwardKernels& kernels, const float* x, int64_t n, float scale,
                   float shift, float* y) {
  return kernels.exp_sum(x, n, scale, shift, y);
}
float exponentials(const ForwardKernels& kernels, const float* x, int64_t n, float scale,
                   float shift, BFloat16* y) {
  return kernels.exp_sum_bf16(x, n, scale, shift, &y->bits);
}

/// Running state of the softmax of one row of the stacked tile.
struct RowState {
  float top = -std::numeric_limits<float>::infinity();  // largest scaled score so far
  float sum = 0.0f;
};

/// Probabilities of one row over keys [begin, begin + count), zeros where masked; rescales the
/// row's output when its maximum grows.
template <typename T>
void softmax_row(const Job<T>& job, const float* scores, int64_t begin, int64_t count,
                 const Visible& visible, RowState& state, T* probabilities, float* output) {
  const ForwardKernels& kernels = job.context.kernels;
  const int64_t from = std::clamp<int64_t>(visible.first - begin, 0, count);
  const int64_t to = std::clamp<int64_t>(visible.last - begin, from, count);
  std::fill(probabilities, probabilities + from, T{});
  std::fill(probabilities + to, probabilities + count, T{});
  if (from == to) return;
  const float scale = job.shape.scale;
  const float top = std::max(state.top, scale * kernels.maximum(scores + from, to - from));
  if (top > state.top) {
    const float factor = std::exp(state.top - top);
    state.sum *= factor;
    kernels.scale(output, factor, job.shape.head_dim);
    state.top = top;
  }
  state.sum += exponentials(kernels, scores + from, to - from, scale, top, probabilities + from);
}

template <typename T>
void attend(const Job<T>& job, int64_t sequence, int64_t kv_head, int64_t first_query, int worker) {
  const AttentionShape& shape = job.shape;
  const int64_t head_dim = shape.head_dim;
  const int64_t n_queries = std::min(job.query_tile, shape.sequence_length - first_query);
  const int64_t n_rows = job.group * n_queries;
  WorkerScratch& scratch = job.context.scratch(worker);
  T* queries = scratch.first.reserve<T>(n_rows * head_dim);
  float* scores = scratch.second.reserve<float>(n_rows * kKeyTile);
  T* probabilities = scratch.third.reserve<T>(n_rows * kKeyTile);
  float* output = scratch.fourth.reserve<float>(n_rows * head_dim);
  std::fill(output, output + n_rows * head_dim, 0.0f);
  std::vector<RowState> states(static_cast<size_t>(n_rows));

  const int64_t q_row = sequence * shape.sequence_length + first_query;
  for (int64_t row = 0; row < n_rows; ++row) {
    const int64_t head = kv_head * job.group + row / n_queries;
    to_panel(
        job.context.kernels,
        job.q.template data<float>() + (q_row + row % n_queries) * job.q.cols() + head * head_dim,
        queries + row * head_dim, head_dim);
  }

  const int64_t position = shape.past_length + first_query;
  const int64_t first_key = visible_keys(shape, position).first / kKeyTile * kKeyTile;
  const int64_t last_key = visible_keys(shape, position + n_queries - 1).last;
  const int64_t panel = (sequence * shape.n_kv_heads + kv_head) * job.padded_keys * head_dim;
  for (int64_t begin = first_key; begin < last_key; begin += kKeyTile) {
    const int64_t wanted = (last_key - begin + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
    const int64_t count = std::min({kKeyTile, wanted, job.padded_keys - begin});
    multiply(job.context, false, true, n_rows, count, head_dim, queries, head_dim,
             job.keys + panel + begin * head_dim, head_dim, 0.0f, scores, count);
    for (int64_t row = 0; row < n_rows; ++row) {
      softmax_row(job, scores + row * count, begin, count,
                  visible_keys(shape, position + row % n_queries), states[static_cast<size_t>(row)],
                  probabilities + row * count, output + row * head_dim);
    }
    multiply(job.context, false, false, n_rows, head_dim, count, probabilities, count,
             job.values + panel + begin * head_dim, head_dim, 1.0f, output, head_dim);
  }

  for (int64_t row = 0; row < n_rows; ++row) {
    const int64_t head = kv_head * job.group + row / n_queries;
    const int64_t offset = (q_row + row % n_queries) * job.y.cols() + head * head_dim;
    float* result = output + row * head_dim;
    job.context.kernels.scale(result, 1.0f / states[static_cast<size_t>(row)].sum, head_dim);
    if (job.y.dtype() == DType::kF32) {
      std::copy(result, result + head_dim, job.y.template data<float>() + offset);
    } else {
      job.context.kernels.f32_to_bf16(result, &job.y.template data<BFloat16>()[offset].bits,
                                      head_dim);
    }
  }
}

template <typename T>
void run(CpuContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
         const AttentionShape& shape, const Tensor& y) {
  const int64_t n_sequences = q.rows() / shape.sequence_length;
  const int64_t n_keys = shape.past_length + shape.sequence_length;
  const int64_t padded_keys = (n_keys + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
  const int64_t panel_size = n_sequences * shape.n_kv_heads * padded_keys * shape.head_dim;
  T* keys = context.keys.reserve<T>(panel_size);
  T* values = context.values.reserve<T>(panel_size);
  make_panels(context, k, shape, n_keys, padded_keys, keys);
  make_panels(context, v, shape, n_keys, padded_keys, values);

  const int64_t group = shape.n_heads / shape.n_kv_heads;
  const int64_t query_tile = std::max<int64_t>(16, kStackedRows / group / 16 * 16);
  const Job<T> job{context, q, y, shape, keys, values, n_keys, padded_keys, group, query_tile};
  const int64_t n_tiles = (shape.sequence_length + query_tile - 1) / query_tile;
  context.pool.parallel_for(
      n_sequences * shape.n_kv_heads * n_tiles, [&](int64_t task, int worker) {
        // Last tiles first: they see the most keys, and short tasks at the end even out the cores.
        const int64_t tile = n_tiles - 1 - task / (n_sequences * shape.n_kv_heads);
        const int64_t panel = task % (n_sequences * shape.n_kv_heads);
        attend(job, panel / shape.n_kv_heads, panel % shape.n_kv_heads, tile * query_tile, worker);
      });
}

}  // namespace

void attention_cpu(CpuContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionShape& shape, const Tensor& y, DType products) {
  D2Q_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
            "{} heads share {} kv heads", shape.n_heads, shape.n_kv_heads);
  D2Q_CHECK(shape.sequence_length > 0 && q.rows() % shape.sequence_length == 0,
            "{} rows in sequences of {}", q.rows(), shape.sequence_length);
  const int64_t n_key_rows =
      q.rows() / shape.sequence_length * (shape.past_length + shape.sequence_length);
  const auto kv_width = [&](const Tensor& rows) {
    return shape.n_kv_heads *
           (rows.dtype() == DType::kU8 ? eight_bit_head_bytes(shape.head_dim) : shape.head_dim);
  };
  const int64_t width = shape.n_heads * shape.head_dim;
  D2Q_CHECK(q.cols() == width && y.cols() == width && y.rows() == q.rows(), "q {}x{}, y {}x{}",
            q.rows(), q.cols(), y.rows(), y.cols());
  D2Q_CHECK(k.rows() == n_key_rows && v.rows() == n_key_rows && k.cols() == kv_width(k) &&
                v.cols() == kv_width(v),
            "k {}x{}, v {}x{}, expected {}x{}", k.rows(), k.cols(), v.rows(), v.cols(), n_key_rows,
            kv_width(k));
  D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products in dtype {}",
            static_cast<int>(products));
  if (y.empty()) return;
  if (runs_as_decode(k, v, shape, y)) return decode_attention_cpu(context, q, k, v, shape, y);
  if (products == DType::kBF16) return run<BFloat16>(context, q, k, v, shape, y);
  run<float>(context, q, k, v, shape, y);
}

}  // namespace d2q
