// The forward's inner loops over an abstract vector type, included inside the anonymous namespace
// of each vector ISA's file. That file first defines, for its width kWidth:
//   Vec; load, load_n (first n lanes, others 0), store, store_n; load_bf16[_n], load_f16[_n];
//   store_bf16[_n], store_f16[_n], store_probability (bf16 of values >= 0 whose NaN is told by
//   their sum); set, zero, vadd, vsub, vmul, vdiv, fma(a, b, c) = a b + c, vmax, reduce_add,
//   reduce_max, square_root(float), round_nearest, scale_by_power(a, n) = a 2^n.
// Being in an anonymous namespace, nothing here can be merged by the linker with another ISA's
// copy. No include guard and no includes on purpose.

/// exp with relative error below 3e-7 on [-87.3, 88.7]; smaller x give 0 or a value below 1.2e-38.
/// Cody-Waite reduction to |r| <= ln(2)/2 and the Taylor polynomial of degree 7.
inline Vec exponential(Vec x) {
  x = vmax(x, set(-88.0f));
  const Vec n = round_nearest(vmul(x, set(1.44269504088896341f)));
  Vec r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  Vec p = set(1.9841270e-4f);
  p = fma(p, r, set(1.3888889e-3f));
  p = fma(p, r, set(8.3333333e-3f));
  p = fma(p, r, set(4.1666668e-2f));
  p = fma(p, r, set(1.6666667e-1f));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return scale_by_power(p, n);
}

/// 1 / (1 + exp(-x)).
inline Vec sigmoid(Vec x) {
  const Vec e = exponential(vmin(vsub(zero(), x), set(88.0f)));
  return vdiv(set(1.0f), vadd(set(1.0f), e));
}

void f32_to_bf16(const float* x, uint16_t* y, int64_t n) noexcept {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store_bf16(y + i, load(x + i));
  if (i < n) store_bf16_n(y + i, load_n(x + i, n - i), n - i);
}

void bf16_to_f32(const uint16_t* x, float* y, int64_t n) noexcept {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, load_bf16(x + i));
  if (i < n) store_n(y + i, load_bf16_n(x + i, n - i), n - i);
}

void f32_to_f16(const float* x, uint16_t* y, int64_t n) noexcept {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store_f16(y + i, load(x + i));
  if (i < n) store_f16_n(y + i, load_n(x + i, n - i), n - i);
}

void f16_to_f32(const uint16_t* x, float* y, int64_t n) noexcept {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, load_f16(x + i));
  if (i < n) store_n(y + i, load_f16_n(x + i, n - i), n - i);
}

/// y = gain (x - mean) factor + shift.
inline void scale_and_shift(const float* x, float mean, float factor, const float* gain,
                            const float* shift, int64_t n, float* y) {
  const Vec mean_v = set(mean);
  const Vec factor_v = set(factor);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    const Vec scaled = vmul(vsub(load_n(x + i, left), mean_v), factor_v);
    const Vec offset = shift != nullptr ? load_n(shift + i, left) : zero();
    store_n(y + i, fma(scaled, load_n(gain + i, left), offset), left);
  }
}

/// Σ (x - mean)².
inline float sum_of_squares(const float* x, float mean, int64_t n) {
  const Vec mean_v = set(mean);
  Vec sum0 = zero();
  Vec sum1 = zero();
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    const Vec a = vsub(load(x + i), mean_v);
    const Vec b = vsub(load(x + i + kWidth), mean_v);
    sum0 = fma(a, a, sum0);
    sum1 = fma(b, b, sum1);
  }
  float sum = reduce_add(vadd(sum0, sum1));
  for (; i < n; ++i) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}

void rms_norm(const float* x, const float* gain, const float* shift, float epsilon, int64_t n,
              float* y) noexcept {
  const float mean_square = sum_of_squares(x, 0.0f, n) / static_cast<float>(n);
  scale_and_shift(x, 0.0f, 1.0f / square_root(mean_square + epsilon), gain, shift, n, y);
}

void layer_norm(const float* x, const float* gain, const float* shift, float epsilon, int64_t n,
                float* y) noexcept {
  Vec sum = zero();
  for (int64_t i = 0; i < n; i += kWidth) {
    sum = vadd(sum, load_n(x + i, n - i < kWidth ? n - i : kWidth));
  }
  const float mean = reduce_add(sum) / static_cast<float>(n);
  const float variance = sum_of_squares(x, mean, n) / static_cast<float>(n);
  scale_and_shift(x, mean, 1.0f / square_root(variance + epsilon), gain, shift, n, y);
}

void rotate(float* x, const float* cos, const float* sin, int64_t half) noexcept {
  for (int64_t i = 0; i < half; i += kWidth) {
    const int64_t left = half - i < kWidth ? half - i : kWidth;
    const Vec a = load_n(x + i, left);
    const Vec b = load_n(x + half + i, left);
    const Vec c = load_n(cos + i, left);
    const Vec s = load_n(sin + i, left);
    store_n(x + i, vsub(vmul(a, c), vmul(b, s)), left);
    store_n(x + half + i, fma(b, c, vmul(a, s)), left);
  }
}

float maximum(const float* x, int64_t n) noexcept {
  Vec top = set(-__builtin_inff());
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) top = vmax(top, load(x + i));
  float result = reduce_max(top);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

float exp_sum(const float* x, int64_t n, float scale, float shift, float* y) noexcept {
  const Vec scale_v = set(scale);
  const Vec shift_v = set(-shift);
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec e = exponential(fma(load(x + i), scale_v, shift_v));
    if (y != nullptr) store(y + i, e);
    sum = vadd(sum, e);
  }
  float total = reduce_add(sum);
  if (i < n) {
    float tail[kWidth] = {};
    store_n(tail, exponential(fma(load_n(x + i, n - i), scale_v, shift_v)), n - i);
    for (int64_t j = 0; j < n - i; ++j) {
      if (y != nullptr) y[i + j] = tail[j];
      total += tail[j];
    }
  }
  return total;
}

/// 2^t with relative error below 3e-6, far under bf16's rounding: least-squares polynomial of
/// degree 4 on |f| <= 1/2.
inline Vec rough_power_of_two(Vec t) {
  t = vmax(t, set(-126.0f));
  const Vec n = round_nearest(t);
  const Vec f = vsub(t, n);
  Vec p = set(9.5605102e-3f);
  p = fma(p, f, set(5.5917039e-2f));
  p = fma(p, f, set(2.4024981e-1f));
  p = fma(p, f, set(6.9312197e-1f));
  p = fma(p, f, set(0.99999919f));
  return scale_by_power(p, n);
}

float exp_sum_bf16(const float* x, int64_t n, float scale, float shift, uint16_t* y) noexcept {
  constexpr float kLog2E = 1.44269504f;
  const Vec scale_v = set(scale * kLog2E);
  const Vec shift_v = set(-shift * kLog2E);
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec e = rough_power_of_two(fma(load(x + i), scale_v, shift_v));
    store_probability(y + i, e);
    sum = vadd(sum, e);
  }
  float total = reduce_add(sum);
  if (i < n) {
    float tail[kWidth] = {};
    const Vec e = rough_power_of_two(fma(load_n(x + i, n - i), scale_v, shift_v));
    store_bf16_n(y + i, e, n - i);
    store_n(tail, e, n - i);
    for (int64_t j = 0; j < n - i; ++j) total += tail[j];
  }
  return total;
}

void scale(float* x, float factor, int64_t n) noexcept {
  const Vec factor_v = set(factor);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    store_n(x + i, vmul(load_n(x + i, left), factor_v), left);
  }
}

void silu(const float* x, const float* up, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    const Vec v = load_n(x + i, left);
    Vec result = vmul(v, sigmoid(v));
    if (up != nullptr) result = vmul(result, load_n(up + i, left));
    store_n(y + i, result, left);
  }
}

// 0.5 x (1 + tanh(u)) = x σ(2u) with u = sqrt(2/π) (x + 0.044715 x³).
void gelu_tanh(const float* x, const float* up, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    const Vec v = load_n(x + i, left);
    const Vec cubic = fma(vmul(vmul(v, v), v), set(0.044715f), v);
    Vec result = vmul(v, sigmoid(vmul(cubic, set(1.5957691216057308f))));
    if (up != nullptr) result = vmul(result, load_n(up + i, left));
    store_n(y + i, result, left);
  }
}

void add(float* x, const float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    store_n(x + i, vadd(load_n(x + i, left), load_n(y + i, left)), left);
  }
}

void multiply_add(float* x, float a, const float* y, int64_t n) noexcept {
  const Vec a_v = set(a);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    store_n(x + i, fma(a_v, load_n(y + i, left), load_n(x + i, left)), left);
  }
}

// Four sums hide the latency of the multiply-add.
#define D2Q_DOT(NAME, TYPE, LOAD, LOAD_N)                                            \
  float NAME(const TYPE* w, const float* x, int64_t n) noexcept {                    \
    Vec sum0 = zero(), sum1 = zero(), sum2 = zero(), sum3 = zero();                  \
    int64_t i = 0;                                                                   \
    for (; i + 4 * kWidth <= n; i += 4 * kWidth) {                                   \
      sum0 = fma(LOAD(w + i), load(x + i), sum0);                                    \
      sum1 = fma(LOAD(w + i + kWidth), load(x + i + kWidth), sum1);                  \
      sum2 = fma(LOAD(w + i + 2 * kWidth), load(x + i + 2 * kWidth), sum2);          \
      sum3 = fma(LOAD(w + i + 3 * kWidth), load(x + i + 3 * kWidth), sum3);          \
    }                                                                                \
    for (; i + kWidth <= n; i += kWidth) sum0 = fma(LOAD(w + i), load(x + i), sum0); \
    if (i < n) sum1 = fma(LOAD_N(w + i, n - i), load_n(x + i, n - i), sum1);         \
    return reduce_add(vadd(vadd(sum0, sum1), vadd(sum2, sum3)));                     \
  }
D2Q_DOT(dot_f32, float, load, load_n)
D2Q_DOT(dot_bf16, uint16_t, load_bf16, load_bf16_n)
#undef D2Q_DOT

// Elements of a cache, by their type.
inline Vec load_cached(const uint16_t* p) { return load_f16(p); }
inline Vec load_cached_n(const uint16_t* p, int64_t n) { return load_f16_n(p, n); }
inline Vec load_cached(const int8_t* p) { return load_i8(p); }
inline Vec load_cached_n(const int8_t* p, int64_t n) {
  int8_t lanes[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_i8(lanes);
}

/// kQueries rows of scores; each key is widened once for all of them.
template <int kQueries, typename T>
void score_keys_of(const T* keys, int64_t stride, int64_t n_keys, const float* q, int64_t head_dim,
                   float* scores) {
  for (int64_t key = 0; key < n_keys; ++key) {
    const T* row = keys + key * stride;
    Vec sums[kQueries];
    for (int j = 0; j < kQueries; ++j) sums[j] = zero();
    int64_t i = 0;
    for (; i + kWidth <= head_dim; i += kWidth) {
      const Vec values = load_cached(row + i);
      for (int j = 0; j < kQueries; ++j) sums[j] = fma(values, load(q + j * head_dim + i), sums[j]);
    }
    if (i < head_dim) {
      const Vec values = load_cached_n(row + i, head_dim - i);
      for (int j = 0; j < kQueries; ++j)
        sums[j] = fma(values, load_n(q + j * head_dim + i, head_dim - i), sums[j]);
    }
    for (int j = 0; j < kQueries; ++j) scores[j * n_keys + key] = reduce_add(sums[j]);
  }
}

template <typename T>
void score_keys(const T* keys, int64_t stride, int64_t n_keys, const float* q, int64_t n_queries,
                int64_t head_dim, float* scores) noexcept {
  int64_t j = 0;
  for (; j + 4 <= n_queries; j += 4)
    score_keys_of<4>(keys, stride, n_keys, q + j * head_dim, head_dim, scores + j * n_keys);
  for (; j < n_queries; ++j)
    score_keys_of<1>(keys, stride, n_keys, q + j * head_dim, head_dim, scores + j * n_keys);
}

template <int kQueries, typename T>
void weigh_values_of(const T* values, int64_t stride, int64_t n_keys, const float* weights,
                     int64_t head_dim, float* out) {
  for (int64_t i = 0; i < head_dim; i += kWidth) {
    const int64_t left = head_dim - i < kWidth ? head_dim - i : kWidth;
    Vec sums[kQueries];
    for (int j = 0; j < kQueries; ++j) sums[j] = zero();
    for (int64_t key = 0; key < n_keys; ++key) {
      const T* row = values + key * stride + i;
      const Vec value = left == kWidth ? load_cached(row) : load_cached_n(row, left);
      for (int j = 0; j < kQueries; ++j)
        sums[j] = fma(value, set(weights[j * n_keys + key]), sums[j]);
    }
    for (int j = 0; j < kQueries; ++j) store_n(out + j * head_dim + i, sums[j], left);
  }
}

template <typename T>
void weigh_values(const T* values, int64_t stride, int64_t n_keys, const float* weights,
                  int64_t n_queries, int64_t head_dim, float* out) noexcept {
  int64_t j = 0;
  for (; j + 4 <= n_queries; j += 4)
    weigh_values_of<4>(values, stride, n_keys, weights + j * n_keys, head_dim, out + j * head_dim);
  for (; j < n_queries; ++j)
    weigh_values_of<1>(values, stride, n_keys, weights + j * n_keys, head_dim, out + j * head_dim);
}
