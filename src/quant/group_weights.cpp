#include "quant/group_weights.h"

#include <algorithm>
#include <future>
#include <optional>
#include <utility>
#include <vector>

#include "model/block_backward.h"

namespace d2q {
namespace {

constexpr int64_t kRowUnit = 16;  // boundaries between members: whole tiles of rows

template <typename Use>
void for_tensors(BlockWeights& weights, Use&& use) {
  const auto norm = [&](NormParams& params) {
    use(params.gain);
    use(params.shift);
  };
  norm(weights.attention_norm);
  norm(weights.mlp_norm);
  for (std::optional<NormParams>* params : {&weights.q_norm, &weights.k_norm}) {
    if (*params) norm(**params);
  }
  for (const BlockLinear& of_block : kBlockLinears) {
    Linear& linear = weights.*of_block.member;
    D2Q_CHECK(!linear.packed, "packed weights of a group");
    use(linear.dense);
    use(linear.bias);
  }
}

std::vector<int64_t> row_boundaries(int64_t rows, int size, bool shares_columns) {
  std::vector<int64_t> begins = {0};
  for (int rank = 1; rank < size; ++rank)
    begins.push_back(
        shares_columns ? rows
                       : std::min(rows, (rows * rank / size + kRowUnit - 1) / kRowUnit * kRowUnit));
  begins.push_back(rows);
  return begins;
}

/// A solution's figures over all rows: its own are shares of its rows' energy.
void add_figures(const LinearSolution& part, LinearSolution& whole) {
  const double total = whole.output_energy + part.output_energy;
  const double share = total > 0.0 ? part.output_energy / total : 0.0;
  const auto add = [&](double figure, double& mean) { mean += share * (figure - mean); };
  add(part.objective_before, whole.objective_before);
  add(part.objective_after, whole.objective_after);
  add(part.relative_error, whole.relative_error);
  add(part.target_error, whole.target_error);
  D2Q_CHECK(part.stages.size() == whole.stages.size(), "{} stages beside {}", part.stages.size(),
            whole.stages.size());
  for (size_t i = 0; i < part.stages.size(); ++i)
    add(part.stages[i].objective, whole.stages[i].objective);
  whole.output_energy = total;
}

/// Everything but codes, parameters and weight, which depend on the rows.
LinearSolution figures_of(const LinearSolution& part, int64_t rows) {
  LinearSolution result;
  result.layout = part.layout;
  result.layout.rows = rows;
  result.column_scale = part.column_scale;
  result.has_column_scale = part.has_column_scale;
  result.objective_before = part.objective_before;
  result.objective_after = part.objective_after;
  result.output_energy = part.output_energy;
  result.relative_error = part.relative_error;
  result.target_error = part.target_error;
  result.damping = part.damping;
  result.stages = part.stages;
  result.rounded_only = part.rounded_only;
  return result;
}

/// What a member hands over.
struct Handed {
  const LinearSolution* part;
  std::vector<uint8_t>* codes;  // the first member's, for all rows
  std::vector<float>* params;
};

}  // namespace

void share_weights(Device& device, const GroupMember& member, BlockWeights& weights) {
  if (member.size() == 1) return;
  member.exchange(weights, [&](std::span<const BlockWeights* const> all) {
    if (member.is_first()) return;
    weights = *all[0];
    for_tensors(weights, [&](Tensor& tensor) {
      if (!tensor.empty()) tensor = device.allocate(tensor.rows(), tensor.cols(), tensor.dtype());
    });
  });
  for_tensors(weights, [&](Tensor& tensor) { member.share(tensor); });
}

LinearSolution solve_rows(Device& device, const GroupMember& member, const Tensor& weight,
                          bool shares_columns,
                          const std::function<LinearSolution(const Tensor& rows)>& solve) {
  if (member.size() == 1) return solve(weight);
  const std::vector<int64_t> begins = row_boundaries(weight.rows(), member.size(), shares_columns);
  const auto rank = static_cast<size_t>(member.rank());
  const int64_t begin = begins[rank];
  const int64_t count = begins[rank + 1] - begin;
  // New memory is cleared while the devices solve.
  std::future<std::vector<uint8_t>> room =
      std::async(std::launch::async, [n_codes = member.is_first() && !shares_columns
                                                    ? static_cast<size_t>(weight.size())
                                                    : 0] { return std::vector<uint8_t>(n_codes); });
  LinearSolution part;
  if (count > 0) part = solve(weight.row_range(begin, count));
  std::vector<uint8_t> codes = room.get();
  std::vector<float> params;
  if (member.is_first() && !shares_columns)
    params.resize(part.params.size() / static_cast<size_t>(count) *
                  static_cast<size_t>(weight.rows()));
  LinearSolution whole;
  member.exchange(Handed{&part, &codes, &params}, [&](std::span<const Handed* const> all) {
    whole = figures_of(*all[0]->part, weight.rows());
    if (shares_columns || count == 0) return;
    const auto place = [&](const auto& mine, auto& target) {
      std::copy(mine.begin(), mine.end(),
                target.begin() + static_cast<int64_t>(mine.size()) / count * begin);
    };
    place(part.codes, *all[0]->codes);
    place(part.params, *all[0]->params);
    if (!member.is_first()) return;
    for (size_t i = 1; i < all.size(); ++i) {
      if (!all[i]->part->codes.empty()) add_figures(*all[i]->part, whole);
    }
  });
  if (shares_columns) return member.is_first() ? std::move(part) : std::move(whole);
  whole.codes = std::move(codes);
  whole.params = std::move(params);
  whole.weight = device.allocate(weight.rows(), weight.cols(), DType::kF32);
  if (count > 0) device.convert(part.weight, whole.weight.row_range(begin, count));
  member.share_rows(whole.weight, begins);
  return whole;
}

}  // namespace d2q
