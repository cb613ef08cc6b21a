// Backward of causal attention. The query heads that share a key head are stacked into one tall
// tile as in the forward, and every query tile meets all its keys: five products, the scores of one
// tile in memory. d_k and d_v of a chunk of queries are summed apart, and the chunks in order.
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_panels.h"
#include "kernels/cpu/gradients.h"

namespace d2q {
namespace {

constexpr int64_t kStackedRows = 192;
// More chunks keep more cores busy where there are few sequences and heads; each costs one more
// copy of d_k and d_v.
constexpr int64_t kMaxChunks = 4;
constexpr int64_t kMinChunkQueries = 256;

/// Everything about one call that its tasks need. T: the type of products, float or BFloat16.
template <typename T>
struct Job {
  GradientContext& context;
  const Tensor& q;
  const Tensor& y;
  const Tensor& d_y;
  const Tensor& d_q;
  const AttentionShape& shape;
  const T* keys;    // [n_sequences, n_kv_heads, padded_keys, head_dim]
  const T* values;  // the same
  int64_t padded_keys;
  int64_t score_stride;  // distance of the scores' rows
  int64_t group;         // query heads a key head
  int64_t query_tile;    // queries a tile, of each head of the group
  int64_t chunk;         // queries a task
  int64_t n_chunks;
};

/// The padded range of keys that queries [first, first + count) see.
template <typename T>
Visible keys_of(const Job<T>& job, int64_t first, int64_t count) {
  const int64_t begin = visible_keys(job.shape, first).first / kKeyTile * kKeyTile;
  const int64_t end = (first + count + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
  return {begin, std::min(end, job.padded_keys)};
}

void softmax_gradient(const GradientKernels& kernels, const float* scores, const float* d_p,
                      int64_t n, float scale, float log_sum, float delta, float* p,
                      float* d_scores) {
  kernels.softmax(scores, d_p, n, scale, log_sum, delta, p, d_scores);
}
void softmax_gradient(const GradientKernels& kernels, const float* scores, const float* d_p,
                      int64_t n, float scale, float log_sum, float delta, BFloat16* p,
                      BFloat16* d_scores) {
  kernels.softmax_bf16(scores, d_p, n, scale, log_sum, delta, &p->bits, &d_scores->bits);
}

/// One query tile's stacked rows: row r is query r % n_queries of the group's head r / n_queries.
template <typename T>
struct Tile {
  int64_t first_query;  // in its sequence
  int64_t n_queries;
  int64_t n_rows;
  T* queries;        // [n_rows, head_dim]
  T* d_outputs;      // the same
  float* scores;     // [n_rows, score_stride]
  float* d_p;        // [n_rows, kKeyTile]
  T* p;              // the same
  T* d_scores;       // the same
  float* d_queries;  // [n_rows, head_dim]
};

/// Loads the tile's rows of q and d_y, and returns rowsum(d_y ⊙ y).
template <typename T>
std::vector<float> load_tile(const Job<T>& job, int64_t sequence, int64_t kv_head,
                             const Tile<T>& tile, int worker) {
  const ForwardKernels& kernels = job.context.forward.kernels;
  const int64_t head_dim = job.shape.head_dim;
  WorkerScratch& scratch = job.context.forward.scratch(worker);
  float* query = scratch.first.reserve<float>(head_dim);
  float* output = scratch.second.reserve<float>(head_dim);
  float* d_output = scratch.third.reserve<float>(head_dim);
  std::vector<float> deltas(static_cast<size_t>(tile.n_rows));
  for (int64_t r = 0; r < tile.n_rows; ++r) {
    const int64_t row =
        sequence * job.shape.sequence_length + tile.first_query + r % tile.n_queries;
    const int64_t begin = (kv_head * job.group + r / tile.n_queries) * head_dim;
    const int64_t end = begin + head_dim;
    to_panel(kernels, row_as_f32(kernels, job.q, row, begin, end, query),
             tile.queries + r * head_dim, head_dim);
    const float* gradient = row_as_f32(kernels, job.d_y, row, begin, end, d_output);
    to_panel(kernels, gradient, tile.d_outputs + r * head_dim, head_dim);
    deltas[static_cast<size_t>(r)] =
        kernels.dot_f32(gradient, row_as_f32(kernels, job.y, row, begin, end, output), head_dim);
  }
  return deltas;
}

/// log Σ exp(scale score) of each row of the tile over the keys that it sees.
template <typename T>
std::vector<float> log_sums(const Job<T>& job, const Tile<T>& tile, int64_t first_key) {
  const ForwardKernels& kernels = job.context.forward.kernels;
  std::vector<float> result(static_cast<size_t>(tile.n_rows));
  for (int64_t r = 0; r < tile.n_rows; ++r) {
    const Visible seen = visible_keys(job.shape, tile.first_query + r % tile.n_queries);
    const float* scores = tile.scores + r * job.score_stride + seen.first - first_key;
    const int64_t n = seen.last - seen.first;
    const float top = job.shape.scale * kernels.maximum(scores, n);
    result[static_cast<size_t>(r)] =
        top + std::log(kernels.exp_sum(scores, n, job.shape.scale, top, nullptr));
  }
  return result;
}

/// Adds one query tile's part to d_keys and d_values [padded_keys, head_dim], and writes its d_q.
template <typename T>
void run_tile(const Job<T>& job, int64_t sequence, int64_t kv_head, int64_t first_query,
              int64_t n_queries, float* d_keys, float* d_values, int worker) {
  const CpuContext& forward = job.context.forward;
  const int64_t head_dim = job.shape.head_dim, n_rows = job.group * n_queries;
  AttentionGradientScratch& scratch = job.context.attention[static_cast<size_t>(worker)];
  const Tile<T> tile{first_query,
                     n_queries,
                     n_rows,
                     scratch.queries.reserve<T>(n_rows * head_dim),
                     scratch.d_outputs.reserve<T>(n_rows * head_dim),
                     scratch.scores.reserve<float>(n_rows * job.score_stride),
                     scratch.d_probabilities.reserve<float>(n_rows * kKeyTile),
                     scratch.probabilities.reserve<T>(n_rows * kKeyTile),
                     scratch.d_scores.reserve<T>(n_rows * kKeyTile),
                     scratch.d_queries.reserve<float>(n_rows * head_dim)};
  const std::vector<float> deltas = load_tile(job, sequence, kv_head, tile, worker);

  const int64_t panel = (sequence * job.shape.n_kv_heads + kv_head) * job.padded_keys * head_dim;
  const T* keys = job.keys + panel;
  const T* values = job.values + panel;
  const Visible range = keys_of(job, first_query, n_queries);
  for (int64_t begin = range.first; begin < range.last; begin += kKeyTile) {
    multiply(forward, false, true, n_rows, std::min(kKeyTile, range.last - begin), head_dim,
             tile.queries, head_dim, keys + begin * head_dim, head_dim, 0.0f,
             tile.scores + begin - range.first, job.score_stride);
  }
  const std::vector<float> sums = log_sums(job, tile, range.first);

  for (int64_t begin = range.first; begin < range.last; begin += kKeyTile) {
    const int64_t count = std::min(kKeyTile, range.last - begin);
    multiply(forward, false, true, n_rows, count, head_dim, tile.d_outputs, head_dim,
             values + begin * head_dim, head_dim, 0.0f, tile.d_p, kKeyTile);
    for (int64_t r = 0; r < n_rows; ++r) {
      const Visible seen = visible_keys(job.shape, first_query + r % n_queries);
      const int64_t from = std::clamp<int64_t>(seen.first - begin, 0, count);
      const int64_t to = std::clamp<int64_t>(seen.last - begin, from, count);
      T* p = tile.p + r * kKeyTile;
      T* d_scores = tile.d_scores + r * kKeyTile;
      for (T* row : {p, d_scores}) {
        std::fill(row, row + from, T{});
        std::fill(row + to, row + count, T{});
      }
      if (from == to) continue;
      softmax_gradient(
          job.context.kernels, tile.scores + r * job.score_stride + begin - range.first + from,
          tile.d_p + r * kKeyTile + from, to - from, job.shape.scale, sums[static_cast<size_t>(r)],
          deltas[static_cast<size_t>(r)], p + from, d_scores + from);
    }
    multiply(forward, true, false, count, head_dim, n_rows, tile.p, kKeyTile, tile.d_outputs,
             head_dim, 1.0f, d_values + begin * head_dim, head_dim);
    multiply(forward, true, false, count, head_dim, n_rows, tile.d_scores, kKeyTile, tile.queries,
             head_dim, 1.0f, d_keys + begin * head_dim, head_dim);
    multiply(forward, false, false, n_rows, head_dim, count, tile.d_scores, kKeyTile,
             keys + begin * head_dim, head_dim, begin == range.first ? 0.0f : 1.0f, tile.d_queries,
             head_dim);
  }
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t row = sequence * job.shape.sequence_length + first_query + r % n_queries;
    const int64_t column = (kv_head * job.group + r / n_queries) * head_dim;
    std::copy_n(tile.d_queries + r * head_dim, head_dim,
                job.d_q.template data<float>() + row * job.d_q.cols() + column);
  }
}

/// Writes the sum over chunks of each panel's partial sums [n_panels, n_chunks, padded_keys,
/// head_dim] to the rows of d_k or d_v.
template <typename T>
void add_chunks(const Job<T>& job, const float* partial, const Tensor& result) {
  const int64_t head_dim = job.shape.head_dim, length = job.shape.sequence_length;
  CpuContext& forward = job.context.forward;
  forward.for_blocks(result.rows(), kKeyPadding, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t key = row % length;
      for (int64_t head = 0; head < job.shape.n_kv_heads; ++head) {
        float* target = result.data<float>() + row * result.cols() + head * head_dim;
        std::fill_n(target, head_dim, 0.0f);
        for (int64_t chunk = 0; chunk < job.n_chunks; ++chunk) {
          const int64_t first = chunk * job.chunk;
          const Visible range = keys_of(job, first, std::min(job.chunk, length - first));
          if (key < range.first || key >= range.last) continue;
          const int64_t panel = (row / length * job.shape.n_kv_heads + head) * job.n_chunks + chunk;
          forward.kernels.add(target, partial + (panel * job.padded_keys + key) * head_dim,
                              head_dim);
        }
      }
    }
  });
}

template <typename T>
void run(GradientContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
         const Tensor& y, const Tensor& d_y, const AttentionShape& shape, const Tensor& d_q,
         const Tensor& d_k, const Tensor& d_v) {
  CpuContext& forward = context.forward;
  const int64_t length = shape.sequence_length;
  const int64_t n_panels = q.rows() / length * shape.n_kv_heads;
  const int64_t padded_keys = (length + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
  const int64_t panel_size = padded_keys * shape.head_dim;
  T* keys = forward.keys.reserve<T>(n_panels * panel_size);
  T* values = forward.values.reserve<T>(n_panels * panel_size);
  make_panels(forward, k, shape, length, padded_keys, keys);
  make_panels(forward, v, shape, length, padded_keys, values);

  const int64_t group = shape.n_heads / shape.n_kv_heads;
  const int64_t query_tile = std::max<int64_t>(16, kStackedRows / group / 16 * 16);
  const int64_t n_tiles = (length + query_tile - 1) / query_tile;
  const int64_t wanted =
      std::clamp<int64_t>((length + kMinChunkQueries - 1) / kMinChunkQueries, 1, kMaxChunks);
  const int64_t chunk = (n_tiles + wanted - 1) / wanted * query_tile;
  const int64_t n_chunks = (length + chunk - 1) / chunk;
  // Rows a power of two apart would compete for the same lines of the cache.
  const Job<T> job{context, q,          y,      d_y,         d_q,
                   shape,   keys,       values, padded_keys, padded_keys + 16,
                   group,   query_tile, chunk,  n_chunks};
  float* d_keys = context.partial_keys.reserve<float>(n_panels * n_chunks * panel_size);
  float* d_values = context.partial_values.reserve<float>(n_panels * n_chunks * panel_size);
  forward.pool.parallel_for(n_panels * n_chunks, [&](int64_t task, int worker) {
    // Last chunks first: they see the most keys, and short tasks at the end even out the cores.
    const int64_t index = n_chunks - 1 - task / n_panels, panel = task % n_panels;
    const int64_t first = index * chunk, count = std::min(chunk, length - first);
    float* task_keys = d_keys + (panel * n_chunks + index) * panel_size;
    float* task_values = d_values + (panel * n_chunks + index) * panel_size;
    const Visible range = keys_of(job, first, count);
    for (float* sums : {task_keys, task_values}) {
      std::fill(sums + range.first * shape.head_dim, sums + range.last * shape.head_dim, 0.0f);
    }
    for (int64_t query = first; query < first + count; query += query_tile) {
      run_tile(job, panel / shape.n_kv_heads, panel % shape.n_kv_heads, query,
               std::min(query_tile, first + count - query), task_keys, task_values, worker);
    }
  });
  add_chunks(job, d_keys, d_k);
  add_chunks(job, d_values, d_v);
}

}  // namespace

void attention_gradient(GradientContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& y, const Tensor& d_y, const AttentionShape& shape,
                        const Tensor& d_q, const Tensor& d_k, const Tensor& d_v, DType products) {
  D2Q_CHECK(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
            "{} heads share {} kv heads", shape.n_heads, shape.n_kv_heads);
  D2Q_CHECK(shape.sequence_length > 0 && q.rows() % shape.sequence_length == 0,
            "{} rows in sequences of {}", q.rows(), shape.sequence_length);
  D2Q_CHECK(shape.past_length == 0, "{} keys in a cache", shape.past_length);
  for (const Tensor* x : {&q, &y, &d_y, &d_q}) {
    D2Q_CHECK(x->rows() == q.rows() && x->cols() == shape.n_heads * shape.head_dim,
              "{}x{} for {} heads of {} in {} rows", x->rows(), x->cols(), shape.n_heads,
              shape.head_dim, q.rows());
  }
  for (const Tensor* x : {&k, &v, &d_k, &d_v}) {
    D2Q_CHECK(x->rows() == q.rows() && x->cols() == shape.n_kv_heads * shape.head_dim,
              "{}x{} for {} kv heads of {} in {} rows", x->rows(), x->cols(), shape.n_kv_heads,
              shape.head_dim, q.rows());
  }
  D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products in dtype {}",
            static_cast<int>(products));
  if (q.empty()) return;
  if (products == DType::kBF16)
    return run<BFloat16>(context, q, k, v, y, d_y, shape, d_q, d_k, d_v);
  run<float>(context, q, k, v, y, d_y, shape, d_q, d_k, d_v);
}

}  // namespace d2q
