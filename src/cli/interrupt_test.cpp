#include "cli/interrupt.h"

#include <gtest/gtest.h>

#include <csignal>

#include "base/testing/expect_error.h"

namespace d2q::cli {
namespace {

TEST(Interrupt, TheFirstOneIsRememberedOnAStackOfItsOwn) {
  handle_interrupts();
  EXPECT_FALSE(interrupted());
  stack_t stack = {};
  ASSERT_EQ(sigaltstack(nullptr, &stack), 0);
  EXPECT_EQ(stack.ss_flags & SS_DISABLE, 0);
  struct sigaction action = {};
  ASSERT_EQ(sigaction(SIGINT, nullptr, &action), 0);
  EXPECT_NE(action.sa_flags & SA_ONSTACK, 0);
  std::raise(SIGINT);
  EXPECT_TRUE(interrupted());
  D2Q_EXPECT_ERROR(throw_if_interrupted(), ErrorCode::kInterrupted, "interrupted");
  handle_interrupts();
  EXPECT_FALSE(interrupted());
  throw_if_interrupted();
  leave_interrupts_alone();
  ASSERT_EQ(sigaction(SIGINT, nullptr, &action), 0);
  EXPECT_EQ(action.sa_handler, SIG_DFL);
}

}  // namespace
}  // namespace d2q::cli
