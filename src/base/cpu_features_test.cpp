#include "base/cpu_features.h"

#include <gtest/gtest.h>

#include <fstream>
#include <initializer_list>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

namespace d2q {
namespace {

/// The flags that the kernel lists for the first processor; empty when there is no such list.
std::set<std::string> kernel_flags() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
  }
  return {};
}

TEST(CpuFeaturesTest, AgreesWithTheKernel) {
  const std::set<std::string> flags = kernel_flags();
  if (flags.empty()) GTEST_SKIP() << "no processor flags listed";
  const auto all = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (!flags.contains(name)) return false;
    }
    return true;
  };
  const CpuFeatures& features = cpu_features();
  EXPECT_EQ(features.avx2, all({"avx2", "fma", "f16c"}));
  EXPECT_EQ(features.avx512, all({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq",
                                  "avx512vl", "avx512_vnni"}));
  EXPECT_EQ(features.avx512bf16, features.avx512 && all({"avx512_bf16"}));
}

TEST(CpuFeaturesTest, WiderSetsIncludeTheNarrowerOnes) {
  const CpuFeatures& features = cpu_features();
  EXPECT_TRUE(!features.avx512bf16 || features.avx512);
  EXPECT_TRUE(!features.avx512 || features.avx2);
}

}  // namespace
}  // namespace d2q
