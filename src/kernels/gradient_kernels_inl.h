// The backward's inner loops over an abstract vector type, included right after
// forward_kernels_inl.h in the anonymous namespace of each vector ISA's file, whose vector type and
// functions it uses. No include guard and no includes on purpose.

/// The value and the derivative of x sigmoid(z(x)).
struct Gated {
  Vec value;
  Vec slope;
};

inline Gated gated_by(Vec x, Vec z, Vec z_slope) {
  const Vec gate = sigmoid(z);
  const Vec rest = vmul(vmul(x, z_slope), vsub(set(1.0f), gate));
  return {vmul(x, gate), fma(gate, rest, gate)};
}

inline Gated silu_at(Vec x) { return gated_by(x, x, set(1.0f)); }

inline Gated gelu_tanh_at(Vec x) {
  constexpr float kTwiceRootTwoOverPi = 1.5957691216057308f;
  const Vec square = vmul(x, x);
  const Vec z = vmul(vmul(x, set(kTwiceRootTwoOverPi)), fma(square, set(0.044715f), set(1.0f)));
  const Vec z_slope =
      fma(square, set(3.0f * 0.044715f * kTwiceRootTwoOverPi), set(kTwiceRootTwoOverPi));
  return gated_by(x, z, z_slope);
}

#define D2Q_ACTIVATION_GRADIENT(NAME, FUNCTION)                                             \
  void NAME(const float* gate, const float* up, const float* d_y, int64_t n, float* d_gate, \
            float* d_up) noexcept {                                                         \
    for (int64_t i = 0; i < n; i += kWidth) {                                               \
      const int64_t left = n - i < kWidth ? n - i : kWidth;                                 \
      const Gated act = FUNCTION(load_n(gate + i, left));                                   \
      const Vec gradient = load_n(d_y + i, left);                                           \
      const Vec factor = up != nullptr ? vmul(gradient, load_n(up + i, left)) : gradient;   \
      if (up != nullptr) store_n(d_up + i, vmul(gradient, act.value), left);                \
      store_n(d_gate + i, vmul(factor, act.slope), left);                                   \
    }                                                                                       \
  }
D2Q_ACTIVATION_GRADIENT(silu_gradient, silu_at)
D2Q_ACTIVATION_GRADIENT(gelu_tanh_gradient, gelu_tanh_at)
#undef D2Q_ACTIVATION_GRADIENT

void softmax_gradient(const float* scores, const float* d_p, int64_t n, float scale, float log_sum,
                      float delta, float* p, float* d_scores) noexcept {
  const Vec scale_v = set(scale), shift_v = set(-log_sum), delta_v = set(delta);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    const Vec probability = exponential(fma(load_n(scores + i, left), scale_v, shift_v));
    const Vec slope = vmul(vmul(probability, scale_v), vsub(load_n(d_p + i, left), delta_v));
    store_n(p + i, probability, left);
    store_n(d_scores + i, slope, left);
  }
}

void softmax_gradient_bf16(const float* scores, const float* d_p, int64_t n, float scale,
                           float log_sum, float delta, uint16_t* p, uint16_t* d_scores) noexcept {
  constexpr float kLog2E = 1.44269504f;
  const Vec exponent_v = set(scale * kLog2E), shift_v = set(-log_sum * kLog2E);
  const Vec scale_v = set(scale), delta_v = set(delta);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec probability = rough_power_of_two(fma(load(scores + i), exponent_v, shift_v));
    store_probability(p + i, probability);
    store_bf16(d_scores + i, vmul(vmul(probability, scale_v), vsub(load(d_p + i), delta_v)));
  }
  if (i < n) {
    const int64_t left = n - i;
    const Vec probability = rough_power_of_two(fma(load_n(scores + i, left), exponent_v, shift_v));
    store_bf16_n(p + i, probability, left);
    store_bf16_n(d_scores + i,
                 vmul(vmul(probability, scale_v), vsub(load_n(d_p + i, left), delta_v)), left);
  }
}

void norm_gradient(const float* x, const float* gain, const float* d_y, bool centred, float epsilon,
                   int64_t n, float* d_x, float* d_gain, float* d_shift) noexcept {
  const auto count = static_cast<float>(n);
  float mean = 0.0f;
  if (centred) {
    Vec sum = zero();
    for (int64_t i = 0; i < n; i += kWidth) {
      sum = vadd(sum, load_n(x + i, n - i < kWidth ? n - i : kWidth));
    }
    mean = reduce_add(sum) / count;
  }
  const float factor = 1.0f / square_root(sum_of_squares(x, mean, n) / count + epsilon);
  const Vec mean_v = set(mean), factor_v = set(factor);
  Vec along = zero();  // Σ gain d_y x̂
  Vec level = zero();  // Σ gain d_y
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    const Vec normal = vmul(vsub(load_n(x + i, left), mean_v), factor_v);
    const Vec slope = vmul(load_n(gain + i, left), load_n(d_y + i, left));
    along = fma(slope, normal, along);
    level = vadd(level, slope);
  }
  const Vec along_v = set(reduce_add(along) / count);
  const Vec level_v = set(centred ? reduce_add(level) / count : 0.0f);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i < kWidth ? n - i : kWidth;
    const Vec normal = vmul(vsub(load_n(x + i, left), mean_v), factor_v);
    const Vec gradient = load_n(d_y + i, left);
    const Vec slope = vsub(vmul(load_n(gain + i, left), gradient), level_v);
    const Vec change = vmul(factor_v, vsub(slope, vmul(normal, along_v)));
    store_n(d_x + i, vadd(load_n(d_x + i, left), change), left);
    store_n(d_gain + i, fma(gradient, normal, load_n(d_gain + i, left)), left);
    store_n(d_shift + i, vadd(load_n(d_shift + i, left), gradient), left);
  }
}
