#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "base/cpu_features.h"
#include "base/error.h"

namespace d2q {
namespace {

/// Sets D2Q_ISA for one test and puts the old value back.
class IsaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("D2Q_ISA")) saved_ = value;
  }
  void TearDown() override {
    if (saved_)
      setenv("D2Q_ISA", saved_->c_str(), 1);
    else
      unsetenv("D2Q_ISA");
  }

 private:
  std::optional<std::string> saved_;
};

TEST_F(IsaTest, ScalarIsAlwaysThereAndTheLastIsTheFastest) {
  unsetenv("D2Q_ISA");
  EXPECT_EQ(available_isas().front(), Isa::kScalar);
  EXPECT_EQ(choose_isa(), available_isas().back());
  if (cpu_features().avx512) {
    EXPECT_EQ(choose_isa(), Isa::kAvx512);
  }
}

TEST_F(IsaTest, EveryAvailableIsaCanBeForcedAndBringsItsOwnTable) {
  for (const Isa isa : available_isas()) {
    EXPECT_EQ(choose_isa(name_of(isa)), isa);
    EXPECT_STREQ(packed_kernels(isa).name, name_of(isa));
    setenv("D2Q_ISA", name_of(isa), 1);
    EXPECT_EQ(choose_isa(), isa);
    EXPECT_EQ(choose_isa("scalar"), Isa::kScalar) << "the argument goes before the environment";
  }
}

TEST_F(IsaTest, EmptyEnvironmentIsNoChoice) {
  setenv("D2Q_ISA", "", 1);
  EXPECT_EQ(choose_isa(), available_isas().back());
}

ErrorCode failure_of(const std::string& request) {
  try {
    choose_isa(request);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << request << " accepted";
  return ErrorCode::kIo;
}

TEST_F(IsaTest, UnknownNamesAreRefused) {
  EXPECT_EQ(failure_of("sse9"), ErrorCode::kInvalidArgument);
  setenv("D2Q_ISA", "AVX2", 1);
  EXPECT_EQ(failure_of("auto"), ErrorCode::kInvalidArgument);
}

TEST_F(IsaTest, AbsentIsaIsRefused) {
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    if (is_available(isa)) continue;
    EXPECT_EQ(failure_of(name_of(isa)), ErrorCode::kUnsupported);
  }
}

}  // namespace
}  // namespace d2q
