// Quantities as people read them.
#pragma once

#include <string>

namespace d2q {

/// "1.23 GB" in powers of 1000.
std::string format_bytes(double bytes);

/// "1:02:03" or "2:03".
std::string format_duration(double seconds);

}  // namespace d2q
