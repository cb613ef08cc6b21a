#include "base/process_memory.h"

#include <fstream>
#include <string>

namespace d2q {
namespace {

/// A line "NAME:  N kB" of /proc/self/status in bytes.
int64_t status_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kilobytes = 0;
    if (word == name && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace

int64_t resident_bytes() { return status_bytes("VmRSS:"); }

int64_t peak_resident_bytes() { return status_bytes("VmHWM:"); }

bool reset_peak_resident() {
  std::ofstream references("/proc/self/clear_refs");
  references << "5";
  references.flush();
  return references.good();
}

}  // namespace d2q
