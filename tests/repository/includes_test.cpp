// Which folder may include which: docs/architecture.md's arrows, held by reading every #include.
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "repository/source_files.h"

namespace d2q::test {
namespace {

using Arrows = std::map<std::string, std::set<std::string>>;

/// Written out with what follows transitively. A folder may always include itself.
const Arrows kArrows = {
    {"base", {}},
    {"codec", {"base"}},
    {"format", {"base", "codec"}},
    {"kernels", {"base", "codec"}},
    {"linalg", {"base", "codec", "kernels"}},
    {"text", {"base", "codec", "format"}},
    {"model", {"base", "codec", "format", "kernels"}},
    {"quant", {"base", "codec", "format", "kernels", "linalg", "text", "model"}},
    {"export", {"base", "codec", "format", "kernels", "text", "model"}},
    {"engine", {"base", "codec", "format", "kernels", "text", "model"}},
    {"eval", {"base", "codec", "format", "kernels", "text", "model", "engine"}},
    {"report", {"base"}},
    {"api", {"base", "codec", "format", "kernels", "text", "model", "engine", "eval", "d2quant"}},
    {"cli",
     {"base", "codec", "format", "kernels", "linalg", "text", "model", "quant", "export", "engine",
      "eval", "report", "d2quant"}},
    {"d2quant", {}},
};

/// What is wrong with the quoted includes of one file of `folder`.
std::string wrong_includes(const std::string& folder, const std::string& content) {
  static const std::regex include("^\\s*#\\s*include\\s*\"([^\"/]+)(/[^\"]*)?\"");
  const auto allowed = kArrows.find(folder);
  if (allowed == kArrows.end()) return "folder '" + folder + "' has no row in the table of arrows";
  std::istringstream lines(content);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!std::regex_search(line, match, include)) continue;
    const std::string target = match[1];
    if (!match[2].matched) return "include \"" + target + "\" does not name its folder";
    if (target != folder && !allowed->second.contains(target))
      return "arrow " + folder + " -> " + target;
  }
  return {};
}

TEST(Includes, FollowTheArrows) {
  size_t n_files = 0;
  for (const auto& file : source_files("src")) {
    const std::string folder = file.path.substr(4, file.path.find('/', 4) - 4);
    EXPECT_EQ(wrong_includes(folder, file.content), "") << file.path;
    ++n_files;
  }
  for (const auto& file : source_files("include/d2quant")) {
    EXPECT_EQ(wrong_includes("d2quant", file.content), "") << file.path;
  }
  EXPECT_GT(n_files, 50u) << "is this the source folder?";
}

TEST(Includes, AWrongArrowIsFound) {
  EXPECT_EQ(wrong_includes("kernels", "#include \"model/config.h\"\n"), "arrow kernels -> model");
  EXPECT_EQ(wrong_includes("quant", "  # include \"eval/perplexity.h\"\n"), "arrow quant -> eval");
  EXPECT_EQ(wrong_includes("base", "#include \"error.h\"\n"),
            "include \"error.h\" does not name its folder");
  EXPECT_EQ(wrong_includes("model", "#include <vector>\n#include \"kernels/device.h\"\n"), "");
  EXPECT_NE(wrong_includes("utilities", ""), "");
}

TEST(Includes, ThirdPartyHeadersStayOutOfTheInstalledOnes) {
  const std::regex third_party(
      "#\\s*include\\s*<(fmt|nlohmann|CLI|oneapi|cblas|lapacke|pcre2|utf8proc|xxhash|cuda)");
  for (const auto& file : source_files("include/d2quant")) {
    EXPECT_FALSE(std::regex_search(file.content, third_party)) << file.path;
  }
}

}  // namespace
}  // namespace d2q::test
