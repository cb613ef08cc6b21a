// Host memory for large arrays.
#pragma once

#include <cstdint>

namespace d2q {

/// At least n_bytes, uninitialised, at a multiple of 64 bytes; std::free() gives it back. Throws
/// std::bad_alloc. Large ones ask for huge pages: what is written once and then given back, as the
/// weights of a block are, would else spend its time on pages of 4 KiB.
void* allocate_aligned(uint64_t n_bytes);

}  // namespace d2q
