#include "eval/continuation_scorer.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "eval/token_losses.h"
#include "model/fake_weights.h"

namespace d2q {
namespace {

class ContinuationScorer : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
  Transformer model_{*device_, std::make_shared<test::FakeWeights>(test::small_config()),
                     DType::kF32};
  Rng rng_{7};

  std::vector<int32_t> random_ids(int64_t n) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng_.below(90)));
    return ids;
  }

  ContinuationRequest request(std::vector<int32_t> context, int64_t n_scored, int64_t family) {
    const auto continuation = random_ids(n_scored);
    context.insert(context.end(), continuation.begin(), continuation.end());
    return {std::move(context), n_scored, family};
  }

  /// The request alone, whole.
  double expected(const ContinuationRequest& request) {
    const auto n = static_cast<int64_t>(request.tokens.size()) - 1;
    const Tensor hidden =
        model_.forward_hidden(std::span(request.tokens).first(static_cast<size_t>(n)), n);
    std::vector<double> losses(static_cast<size_t>(n));
    token_losses(*device_, model_, hidden, std::span(request.tokens).subspan(1), losses);
    return -std::accumulate(losses.end() - request.n_scored, losses.end(), 0.0);
  }

  void check(const std::vector<ContinuationRequest>& requests) {
    const auto scores = score_continuations(*device_, model_, requests, {});
    ASSERT_EQ(scores.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      const double score = expected(requests[i]);
      // f32 sums in another order, over two layers: a few 1e-6 of the logits' size a token.
      EXPECT_NEAR(scores[i], score, 1e-4 * static_cast<double>(requests[i].n_scored)) << i;
    }
  }
};

TEST_F(ContinuationScorer, batches_and_shared_prefixes_score_as_each_request_alone) {
  std::vector<ContinuationRequest> requests;
  for (int64_t family = 0; family < 12; ++family) {
    const auto context = random_ids(1 + 3 * family);
    for (const int64_t n : {1, 4, 9}) requests.push_back(request(context, n, family));
  }
  check(requests);
}

TEST_F(ContinuationScorer, one_run_serves_continuations_of_one_token) {
  const auto context = random_ids(20);
  check({request(context, 1, 0), request(context, 1, 0), request(context, 1, 0)});
}

TEST_F(ContinuationScorer, a_long_shared_beginning_runs_once_for_many_questions) {
  const auto examples = random_ids(150);
  std::vector<ContinuationRequest> requests;
  for (int64_t question = 0; question < 40; ++question) {
    auto context = examples;
    const auto more = random_ids(5 + question % 7);
    context.insert(context.end(), more.begin(), more.end());
    requests.push_back(request(context, 1, 3));
  }
  check(requests);
}

TEST_F(ContinuationScorer, more_than_one_batch_is_scored_in_the_order_of_the_requests) {
  std::vector<ContinuationRequest> requests;
  for (int64_t i = 0; i < 90; ++i) requests.push_back(request(random_ids(60 + i), 2, i));
  check(requests);
}

TEST_F(ContinuationScorer, an_id_outside_the_vocabulary_is_refused) {
  const std::vector<ContinuationRequest> requests = {{{1, 2, 1000000}, 1, 0}};
  EXPECT_THROW(score_continuations(*device_, model_, requests, {}), Error);
}

}  // namespace
}  // namespace d2q
