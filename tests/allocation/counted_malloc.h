// Counts what a program asks the C library's allocator for, in all of its threads.
#pragma once

#include <cstdint>

namespace d2q::test {

/// Whether this build counts: not under sanitizers, which bring allocators of their own.
bool counts_allocations();
/// Calls of malloc, calloc, realloc and their aligned kinds so far; operator new is among them.
int64_t allocations();

}  // namespace d2q::test
