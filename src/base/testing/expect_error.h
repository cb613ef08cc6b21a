// Test support, included by tests only.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

/// The statement throws d2q::Error with this code, and its message contains `text`.
#define D2Q_EXPECT_ERROR(statement, expected_code, text)                \
  try {                                                                 \
    statement;                                                          \
    ADD_FAILURE() << "no error from " #statement;                       \
  } catch (const ::d2q::Error& error) {                                 \
    EXPECT_EQ(error.code(), expected_code) << error.what();             \
    EXPECT_THAT(std::string(error.what()), ::testing::HasSubstr(text)); \
  }
