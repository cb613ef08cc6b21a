// The solver's inner loops on 16-lane vectors of the compiler, included inside the anonymous
// namespace of each ISA's file, whose flags decide how a vector is cut into registers. Being in an
// anonymous namespace, nothing here can be merged by the linker with another ISA's copy. No include
// guard and no includes on purpose.

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntLanes __attribute__((vector_size(64), aligned(4), may_alias));

#define D2Q_LANES_INLINE static inline __attribute__((always_inline))

D2Q_LANES_INLINE Lanes load_lanes(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
D2Q_LANES_INLINE IntLanes load_lanes(const int32_t* p) {
  return *reinterpret_cast<const IntLanes*>(p);
}
D2Q_LANES_INLINE void store_lanes(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }
D2Q_LANES_INLINE void store_lanes(int32_t* p, IntLanes v) { *reinterpret_cast<IntLanes*>(p) = v; }
D2Q_LANES_INLINE IntLanes bits_of(Lanes v) { return reinterpret_cast<IntLanes&>(v); }
D2Q_LANES_INLINE Lanes lanes_of(IntLanes v) { return reinterpret_cast<Lanes&>(v); }
/// mask lanes are all ones or all zeros.
D2Q_LANES_INLINE Lanes select_lanes(IntLanes mask, Lanes a, Lanes b) {
  return lanes_of((mask & bits_of(a)) | (~mask & bits_of(b)));
}
D2Q_LANES_INLINE Lanes absolute(Lanes v) { return lanes_of(bits_of(v) & 0x7fffffff); }

/// Nearest integer, ties to even, for |x| < 2^22.
D2Q_LANES_INLINE Lanes round_even(Lanes x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

/// |x|^2.4 to 2e-5 relative: 2^(2.4·log2|x|), log2 of the mantissa in [1/√2, √2) by an odd series
/// in (m−1)/(m+1), 2^f by its Taylor polynomial on [−1/2, 1/2].
D2Q_LANES_INLINE Lanes power_2_4(Lanes x) {
  const IntLanes bits = bits_of(x) & 0x7fffffff;
  const IntLanes shifted = bits - 0x3f3504f3;
  const Lanes exponent = __builtin_convertvector(shifted >> 23, Lanes);
  const Lanes m = lanes_of((shifted & 0x007fffff) + 0x3f3504f3);
  const Lanes t = (m - 1.0f) / (m + 1.0f);
  const Lanes t2 = t * t;
  const Lanes log2_m =
      t * (2.88539008f + t2 * (0.961796694f + t2 * (0.577078016f + t2 * 0.412198583f)));
  Lanes y = 2.4f * (exponent + log2_m);
  y = select_lanes(y < -126.0f, y * 0.0f - 126.0f, y);
  const Lanes whole = round_even(y);
  const Lanes f = y - whole;
  const Lanes two_f =
      1.0f + f * (0.693147181f +
                  f * (0.240226507f +
                       f * (0.0555041087f +
                            f * (0.00961812911f + f * (0.00133335581f + f * 1.54035304e-4f)))));
  const Lanes power = lanes_of(bits_of(two_f) + (__builtin_convertvector(whole, IntLanes) << 23));
  return select_lanes(bits == 0, power * 0.0f, power);
}

void clip_errors(const float* values, int64_t n, const float* scales, const float* zeros,
                 float max_code, float* errors) noexcept {
  const Lanes scale = load_lanes(scales);
  const Lanes zero = load_lanes(zeros);
  const Lanes inverse = 1.0f / scale;
  const Lanes largest = scale * 0.0f + max_code;
  Lanes total = scale * 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float w = values[i];
    Lanes q = round_even(w * inverse) + zero;
    q = select_lanes(q < 0.0f, q * 0.0f, q);
    q = select_lanes(q > largest, largest, q);
    total += power_2_4(w - scale * (q - zero));
  }
  store_lanes(errors, total);
}

void plane_sums(const float* x, const int32_t* codes, const float* c, int64_t cols, int planes,
                float* products, float* differing) noexcept {
  const Lanes zero = load_lanes(x) * 0.0f;
  Lanes product[kSolverMaxPlanes] = {zero, zero, zero};
  Lanes unequal[kSolverMaxPlanes] = {zero, zero, zero};  // pairs (1,0), (2,0), (2,1)
  for (int64_t j = 0; j < cols; ++j) {
    const float c_j = c[j];
    const IntLanes code = load_lanes(codes + j * kSolverLanes);
    const Lanes cx = c_j * load_lanes(x + j * kSolverLanes);
    const Lanes c2 = zero + c_j * c_j;
    for (int p = 0; p < planes; ++p) {
      // A clear bit flips the sign of the product.
      product[p] += lanes_of(bits_of(cx) ^ (~(code >> p) << 31));
      for (int q = 0; q < p; ++q) {
        const IntLanes mask = -(((code >> p) ^ (code >> q)) & 1);
        unequal[p + q - 1] += lanes_of(mask & bits_of(c2));
      }
    }
  }
  for (int p = 0; p < planes; ++p) {
    store_lanes(products + p * kSolverLanes, product[p]);
    for (int q = 0; q < p; ++q)
      store_lanes(differing + (p * planes + q) * kSolverLanes, unequal[p + q - 1]);
  }
}

void flip_codes(int32_t* codes, int64_t cols, const int32_t* mask) noexcept {
  const IntLanes flips = load_lanes(mask);
  for (int64_t j = 0; j < cols; ++j)
    store_lanes(codes + j * kSolverLanes, load_lanes(codes + j * kSolverLanes) ^ flips);
}

void plane_column_sums(const float* x, const int32_t* codes, const float* levels, int n_levels,
                       int64_t cols, int64_t n_lanes, float* numerators,
                       float* denominators) noexcept {
  for (int64_t j = 0; j < cols; ++j) {
    const IntLanes code = load_lanes(codes + j * kSolverLanes);
    Lanes s = load_lanes(levels);
    for (int k = 1; k < n_levels; ++k)
      s = select_lanes(code == k, load_lanes(levels + k * kSolverLanes), s);
    float xs[kSolverLanes];
    float ss[kSolverLanes];
    store_lanes(xs, load_lanes(x + j * kSolverLanes) * s);
    store_lanes(ss, s * s);
    for (int64_t lane = 0; lane < n_lanes; ++lane) {
      numerators[j] += xs[lane];
      denominators[j] += ss[lane];
    }
  }
}

void assign_codes(const float* x, const float* c, const float* levels, int n_levels, int64_t cols,
                  int32_t* codes) noexcept {
  for (int64_t j = 0; j < cols; ++j) {
    const Lanes value = load_lanes(x + j * kSolverLanes);
    const float c_j = c[j];
    Lanes distance = absolute(value - c_j * load_lanes(levels));
    IntLanes code = bits_of(value) ^ bits_of(value);
    for (int k = 1; k < n_levels; ++k) {
      const Lanes d = absolute(value - c_j * load_lanes(levels + k * kSolverLanes));
      const IntLanes nearer = d < distance;
      code = (nearer & k) | (~nearer & code);
      distance = select_lanes(nearer, d, distance);
    }
    store_lanes(codes + j * kSolverLanes, code);
  }
}

/// Nearest level of a grid to w.
D2Q_LANES_INLINE void nearest_level(const LaneGrid& grid, float c, Lanes w, Lanes& q, Lanes& code) {
  const Lanes zero = w * 0.0f;
  if (grid.n_levels == 0) {
    const Lanes scale = load_lanes(grid.scale);
    const Lanes zero_code = load_lanes(grid.zero);
    const Lanes largest = zero + grid.max_code;
    code = round_even(w / scale + zero_code);
    code = select_lanes(code < 0.0f, zero, code);
    code = select_lanes(code > largest, largest, code);
    q = scale * (code - zero_code);
    return;
  }
  q = c * load_lanes(grid.levels[0]);
  code = zero;
  Lanes distance = absolute(w - q);
  for (int k = 1; k < grid.n_levels; ++k) {
    const Lanes level = c * load_lanes(grid.levels[k]);
    const Lanes d = absolute(w - level);
    const IntLanes nearer = d < distance;
    q = select_lanes(nearer, level, q);
    code = select_lanes(nearer, zero + static_cast<float>(k), code);
    distance = select_lanes(nearer, d, distance);
  }
}

void walk(const WalkLanes& lanes) noexcept {
  const Lanes zero = load_lanes(lanes.columns) * 0.0f;
  for (int64_t j = 0; j < lanes.n_columns; ++j) {
    const Lanes w = load_lanes(lanes.columns + j * kSolverLanes);
    Lanes q;
    Lanes code;
    nearest_level(lanes.grid, lanes.grid.column_scale[j], w, q, code);
    Lanes e = zero;
    if (lanes.factor != nullptr) {
      const float* u = lanes.factor + j * lanes.stride;
      e = (w - q) * (1.0f / u[j]);
      if (lanes.asymmetry == nullptr) {
        for (int64_t k = j + 1; k < lanes.width; ++k) {
          float* column = lanes.columns + k * kSolverLanes;
          store_lanes(column, load_lanes(column) - e * u[k]);
        }
      } else {
        const float* p = lanes.asymmetry + j * lanes.stride;
        for (int64_t k = j + 1; k < lanes.width; ++k) {
          float* column = lanes.columns + k * kSolverLanes;
          store_lanes(column, load_lanes(column) - e * u[k] + w * p[k]);
        }
      }
    }
    store_lanes(lanes.columns + j * kSolverLanes, q);
    store_lanes(lanes.codes + j * kSolverLanes, code);
    store_lanes(lanes.errors + j * kSolverLanes, e);
  }
}

void descend(const DescentLanes& lanes) noexcept {
  for (int64_t j = 0; j < lanes.n_columns; ++j) {
    const float* h = lanes.hessian + j * lanes.stride;
    float* weight = lanes.weights + j * kSolverLanes;
    const Lanes old = load_lanes(weight);
    const Lanes minimum = old - load_lanes(lanes.gradient + j * kSolverLanes) * (1.0f / h[j]);
    Lanes q;
    Lanes code;
    nearest_level(lanes.grid, lanes.grid.column_scale[j], minimum, q, code);
    // Rounding must not trade a level for an equally good one: J would wander without falling.
    const IntLanes nearer = absolute(minimum - q) < absolute(minimum - old);
    q = select_lanes(nearer, q, old);
    code = select_lanes(nearer, code, load_lanes(lanes.codes + j * kSolverLanes));
    const Lanes change = q - old;
    store_lanes(weight, q);
    store_lanes(lanes.codes + j * kSolverLanes, code);
    store_lanes(lanes.change + j * kSolverLanes, change);
    for (int64_t k = 0; k < lanes.n_columns; ++k) {
      float* gradient = lanes.gradient + k * kSolverLanes;
      store_lanes(gradient, load_lanes(gradient) + change * h[k]);
    }
  }
}

float dot(const float* a, const float* b, int64_t n) noexcept {
  Lanes sums = {};
  int64_t i = 0;
  for (; i + kSolverLanes <= n; i += kSolverLanes) sums += load_lanes(a + i) * load_lanes(b + i);
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += a[i] * b[i];
  for (int half = kSolverLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

#undef D2Q_LANES_INLINE
