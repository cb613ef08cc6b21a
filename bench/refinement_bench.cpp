// Speed of the solver's refinement (METHOD.md §8.3, §8.4): `d2q_refinement_bench [threads] [out]
// [in] [group_size]`. Prints GFLOP/s of scale refit, code descent and column-scale refit, and their
// share of what f32 products of the same shapes reach in the same run. Counted: refit K·out·in²,
// descent 3·out·in² (gradient 2, what lies outside the groups 1), column scale 2·out·in².
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/matrix.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/device.h"
#include "kernels/solver_ops.h"

namespace d2q {
namespace {

constexpr int kRepeats = 7;

/// Median seconds.
template <typename Work>
double seconds_of(const Work& work) {
  std::vector<double> times;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Tensor random_tensor(Device& device, int64_t rows, int64_t cols, float scale, Rng& rng) {
  Matrix<float> values(rows, cols);
  for (float& value : values.span()) value = scale * static_cast<float>(rng.gaussian());
  const Tensor tensor = device.allocate(rows, cols, DType::kF32);
  device.upload(values.data(), tensor);
  return tensor;
}

void run(int threads, int64_t out, int64_t in, int64_t group_size) {
  ThreadPool pool(threads);
  const auto device = make_cpu_device(pool);
  Rng rng(1);
  Refinement r;
  r.grid = {GridKind::kSignPlanes, 2, false, true, 15};
  std::vector<ColumnGroup> groups;
  for (int64_t begin = 0; begin < in; begin += group_size)
    groups.push_back({begin, std::min(group_size, in - begin), begin / group_size});
  r.groups = groups;
  const Tensor x = random_tensor(*device, 2 * in, in, 1.0f, rng);
  r.hessian = device->allocate(in, in, DType::kF32);
  device->fill_zero(r.hessian);
  device->accumulate_gram(x, 1.0f, r.hessian);
  device->mirror_lower(r.hessian);
  r.target = random_tensor(*device, out, in, 0.05f, rng);
  r.target_product = device->allocate(out, in, DType::kF32);
  device->linear(r.target, r.hessian, Tensor{}, r.target_product);
  ColumnWalk walk;
  walk.weight = device->allocate(out, in, DType::kF32);
  device->convert(r.target, walk.weight);
  walk.grid = r.grid;
  walk.groups = r.groups;
  walk.codes = device->allocate(out, in, DType::kU8);
  walk.params = device->allocate(out, static_cast<int64_t>(groups.size()) * 2, DType::kF32);
  walk.column_scale = device->allocate(1, in, DType::kF32);
  device->solver().column_walk(walk);
  r.codes = walk.codes;
  r.params = walk.params;
  r.weight = walk.weight;
  r.column_scale = walk.column_scale;

  const double unit =
      1e-9 * static_cast<double>(out) * static_cast<double>(in) * static_cast<double>(in);
  const Tensor product = device->allocate(out, in, DType::kF32);
  const double peak =
      2.0 * unit / seconds_of([&] { device->linear(r.target, r.hessian, Tensor{}, product); });
  fmt::print("{} threads, {} x {}, groups of {}: f32 products {:.0f} GFLOP/s\n", threads, out, in,
             group_size, peak);
  const auto report = [&](const char* name, double flops, double seconds) {
    fmt::print("{:<13} {:7.2f} ms  {:6.1f} GFLOP/s  {:4.0f}% of products\n", name, 1e3 * seconds,
               flops * unit / seconds, 100.0 * flops * unit / seconds / peak);
  };
  const double refit = seconds_of([&] { device->solver().refit_scales(r); });
  const double descent = seconds_of([&] { device->solver().refine_codes(r); });
  const double columns = seconds_of([&] { device->solver().refit_column_scale(r); });
  report("scale refit", 2.0, refit);
  report("code descent", 3.0, descent);
  report("both", 5.0, refit + descent);
  report("column scale", 2.0, columns);
}

}  // namespace
}  // namespace d2q

int main(int argc, char** argv) {
  const auto argument = [&](int i, int64_t fallback) {
    return argc > i ? static_cast<int64_t>(std::atoll(argv[i])) : fallback;
  };
  const int threads = static_cast<int>(argument(1, 0));
  d2q::run(threads, argument(2, 576), argument(3, 1536), argument(4, 64));
  if (argc <= 2) d2q::run(threads, 1536, 576, 64);
  return 0;
}
