#include "report/quantization_page.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace d2q {
namespace {

using nlohmann::json;

constexpr const char* kTitle = "Tuning at the end: held-out divergence";

json report_without_tuning() {
  return {{"model", "m.gguf"}, {"settings", {{"bits", 2}}}, {"blocks", json::array()}};
}

TEST(QuantizationPage, ShowsWhatTuningAtTheEndBrought) {
  json report = report_without_tuning();
  EXPECT_EQ(make_quantization_page(report).find("Tuning at the end"), std::string::npos);
  report["end_tuning"] = {{"steps", 30},
                          {"divergence_before", 0.74271},
                          {"divergence_after", 0.5545},
                          {"accepted", true}};
  const std::string page = make_quantization_page(report);
  EXPECT_NE(page.find(kTitle), std::string::npos);
  EXPECT_NE(page.find("Tuning at the end, 30 steps"), std::string::npos);
  EXPECT_NE(page.find("went from 0.7427 to 0.5545 nats.</p>"), std::string::npos);
  EXPECT_EQ(page.find("rejected"), std::string::npos);
}

TEST(QuantizationPage, SaysThatARejectedTuningChangedNothing) {
  json report = report_without_tuning();
  report["end_tuning"] = {
      {"steps", 5}, {"divergence_before", 0.5}, {"divergence_after", 0.75}, {"accepted", false}};
  const std::string page = make_quantization_page(report);
  EXPECT_NE(page.find("went from 0.5 to 0.75 nats. It did not fall, so the model stayed"),
            std::string::npos);
  EXPECT_NE(page.find("after, rejected"), std::string::npos);
}

}  // namespace
}  // namespace d2q
