// The version of the library. CMake reads it from here.
#pragma once

namespace d2q {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace d2q
