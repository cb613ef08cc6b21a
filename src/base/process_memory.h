// This process's resident memory, as Linux counts it.
#pragma once

#include <cstdint>

namespace d2q {

/// Now, mapped files included; 0 where the system does not tell.
int64_t resident_bytes();

/// The most so far: since the process began or since the last reset_peak_resident().
int64_t peak_resident_bytes();

/// Makes peak_resident_bytes() begin anew; false where the system refuses.
bool reset_peak_resident();

}  // namespace d2q
