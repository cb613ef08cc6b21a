#include "kernels/cpu/matrix_ops.h"

#include <array>
#include <vector>

#include "base/error.h"
#include "base/matrix.h"
#include "codec/packed_geometry.h"
#include "kernels/cpu/forward_ops.h"
#include "kernels/cpu/gemm.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kValuesPerTask = 1 << 14;

Tensor host_tensor(int64_t rows, int64_t cols) {
  auto values = std::make_shared<Matrix<float>>(rows, cols);
  float* data = values->data();
  return {std::move(values), data, rows, cols, DType::kF32};
}

template <typename T>
void gather(CpuContext& context, const Tensor& source, std::span<const int64_t> columns,
            const Tensor& destination) {
  const auto n = static_cast<int64_t>(columns.size());
  context.for_blocks(source.rows(), kRowsPerTask, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = source.data<T>() + i * source.cols();
      T* to = destination.data<T>() + i * n;
      for (int64_t j = 0; j < n; ++j) {
        const int64_t column = columns[static_cast<size_t>(j)];
        to[j] = column < 0 ? T{} : from[column];
      }
    }
  });
}

/// Σ_i left_i · (right_i M), rows of left and right [rows, n], M [n, n], f32. f32 products, sums
/// across tasks in f64; 2·rows·n² flops; same result on any thread count.
double quadratic_form(ThreadPool& pool, const float* left, const float* m, const float* right,
                      int64_t rows, int64_t n) {
  const int64_t n_tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<double> sums(static_cast<size_t>(n_tasks), 0.0);
  pool.parallel_for(n_tasks, [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    const int64_t count = std::min(kRowsPerTask, rows - begin);
    Matrix<float> product(count, n);
    gemm_f32(false, false, count, n, n, right + begin * n, n, m, n, 0.0f, product.data(), n);
    double sum = 0.0;
    for (int64_t i = 0; i < count * n; ++i) {
      sum += static_cast<double>(left[begin * n + i]) * static_cast<double>(product.data()[i]);
    }
    sums[static_cast<size_t>(task)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

class CpuMatrixOps final : public MatrixOps {
 public:
  explicit CpuMatrixOps(CpuContext& context) : context_(context) {}

  std::vector<float> diagonal(const Tensor& matrix) override {
    check_square(matrix, DType::kF32);
    std::vector<float> values(static_cast<size_t>(matrix.rows()));
    for (size_t j = 0; j < values.size(); ++j)
      values[j] = matrix.data<float>()[j * (values.size() + 1)];
    return values;
  }

  void subtract_gram(const Tensor& gram, const Tensor& cross) override {
    check_square(gram, DType::kF32);
    check_square(cross, DType::kF32, gram.rows());
    const int64_t n = gram.rows();
    const float* sums = gram.data<float>();
    const std::vector<float> of_inputs = diagonal(gram);
    context_.for_blocks(n, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        float* row = cross.data<float>() + i * n;
        for (int64_t j = 0; j < n; ++j)
          row[j] = of_inputs[static_cast<size_t>(j)] == 0.0f ? 0.0f : row[j] - sums[i * n + j];
      }
    });
  }

  void permute(const Tensor& source, std::span<const int64_t> order,
               const Tensor& destination) override {
    check_permutation(source, order, destination);
    const int64_t n = source.rows();
    context_.for_blocks(n, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const float* from = source.data<float>() + order[static_cast<size_t>(i)] * n;
        double* to = destination.data<double>() + i * n;
        for (int64_t j = 0; j < n; ++j)
          to[j] = static_cast<double>(from[order[static_cast<size_t>(j)]]);
      }
    });
  }

  void gather_columns(const Tensor& source, std::span<const int64_t> columns,
                      const Tensor& destination) override {
    check_gather(source, columns, destination);
    if (source.dtype() == DType::kF32) {
      gather<float>(context_, source, columns, destination);
    } else {
      gather<uint8_t>(context_, source, columns, destination);
    }
  }

  void shift_diagonal(const Tensor& matrix, double value) override {
    check_square(matrix, DType::kF64);
    const int64_t n = matrix.rows();
    for (int64_t i = 0; i < n; ++i) {
      double& x = matrix.data<double>()[i * n + i];
      x = (x == 0.0 ? 1.0 : x) + value;
    }
  }

  void expand(const PackedLayout& layout, const Tensor& codes, const Tensor& params,
              const Tensor& weight) override {
    check_expansion(layout, codes, params, weight);
    const int64_t n_groups = layout.n_groups();
    const int n_params = layout.n_params();
    context_.for_blocks(layout.rows, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
      std::array<float, 256> levels;
      for (int64_t task = begin * n_groups; task < end * n_groups; ++task) {
        const GroupColumns columns = columns_of(layout, task % n_groups);
        const int64_t place = task / n_groups * layout.cols + columns.begin;
        for (int code = 0; code < 1 << layout.bits; ++code) {
          levels[static_cast<size_t>(code)] =
              weight_of(layout.kind, layout.bits, params.data<float>() + task * n_params, code);
        }
        for (int64_t j = place; j < place + columns.size; ++j)
          weight.data<float>()[j] = levels[codes.data<uint8_t>()[j]];
      }
    });
  }

  bool inverse_factor(const Tensor& hessian, double damping, const Tensor& factor) override {
    check_square(hessian, DType::kF64);
    check_square(factor, DType::kF64, hessian.rows());
    return inverse_factor_cpu(hessian, damping, factor);
  }

  void asymmetry_matrix(const Tensor& deviation, const Tensor& factor, double alpha,
                        const Tensor& result) override {
    check_square(deviation, DType::kF64);
    check_square(factor, DType::kF64, deviation.rows());
    check_square(result, DType::kF32, deviation.rows());
    asymmetry_matrix_cpu(context_.pool, deviation, factor, alpha, result);
  }

  TargetMap target_map(const Tensor& deviation, const Tensor& factor, double alpha) override {
    check_square(deviation, DType::kF64);
    check_square(factor, DType::kF64, deviation.rows());
    TargetMap result;
    result.map = host_tensor(deviation.rows(), deviation.rows());
    target_map_cpu(context_.pool, deviation, factor, alpha, result.map);
    return result;
  }

  void apply_target_map(const TargetMap& map, const Tensor& weight, const Tensor& target) override {
    D2Q_CHECK(!map.map.empty(), "a target map of another device");
    linear_cpu(context_, weight, map.map, Tensor{}, target);
    add_cpu(context_, target, weight);
  }

  void multiply_symmetric(const Tensor& weight, const Tensor& hessian,
                          const Tensor& product) override {
    linear_cpu(context_, weight, hessian, Tensor{}, product);
  }

  ErrorReport errors(const Tensor& weight, std::span<const Tensor> candidates, const Tensor& gram,
                     const Tensor& deviation) override {
    check_errors(weight, candidates, gram, deviation);
    const int64_t rows = weight.rows();
    const int64_t n = weight.cols();
    const float* w = weight.data<float>();
    const float* g = gram.data<float>();
    ErrorReport report;
    report.energy = quadratic_form(context_.pool, w, g, w, rows, n);
    if (!(report.energy > 0.0)) return report;
    Matrix<float> delta(rows, n);
    for (const Tensor& candidate : candidates) {
      subtract(candidate, weight, delta);
      WeightErrors errors;
      errors.symmetric = quadratic_form(context_.pool, delta.data(), g, delta.data(), rows, n);
      if (!deviation.empty()) {
        errors.asymmetric =
            quadratic_form(context_.pool, delta.data(), deviation.data<float>(), w, rows, n);
      }
      report.errors.push_back(errors);
    }
    return report;
  }

  double squared_distance(const Tensor& a, const Tensor& b, const Tensor& gram) override {
    check_errors(b, {&a, 1}, gram, {});
    Matrix<float> delta(a.rows(), a.cols());
    subtract(a, b, delta);
    return quadratic_form(context_.pool, delta.data(), gram.data<float>(), delta.data(), a.rows(),
                          a.cols());
  }

 private:
  void subtract(const Tensor& a, const Tensor& b, Matrix<float>& difference) const {
    const float* x = a.data<float>();
    const float* y = b.data<float>();
    context_.for_blocks(a.size(), kValuesPerTask, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) difference.data()[i] = x[i] - y[i];
    });
  }

  CpuContext& context_;
};

}  // namespace

std::unique_ptr<MatrixOps> make_cpu_matrix_ops(CpuContext& context) {
  return std::make_unique<CpuMatrixOps>(context);
}

}  // namespace d2q
