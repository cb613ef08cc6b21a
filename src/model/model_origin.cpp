#include "model/model_origin.h"

#include <algorithm>

#include "base/file_io.h"
#include "format/gguf.h"
#include "format/json_file.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxCardBytes = uint64_t{4} << 20;
constexpr uint64_t kMaxLicenseBytes = uint64_t{1} << 20;
constexpr size_t kMaxLicenseFiles = 8;

/// The value of `key` in the lines between the first two "---" of a Markdown file.
std::optional<std::string> heading_value(std::string_view card, std::string_view key) {
  if (!card.starts_with("---")) return std::nullopt;
  for (size_t at = card.find('\n'); at != std::string_view::npos;) {
    const size_t end = std::min(card.find('\n', at + 1), card.size());
    std::string_view line = card.substr(at + 1, end - at - 1);
    if (line.starts_with("---")) break;
    if (line.starts_with(key) && line.substr(key.size()).starts_with(":")) {
      line.remove_prefix(key.size() + 1);
      const size_t begin = line.find_first_not_of(" \t\"'");
      const size_t last = line.find_last_not_of(" \t\r\"'");
      if (begin != std::string_view::npos) return std::string(line.substr(begin, last - begin + 1));
    }
    at = end < card.size() ? end : std::string_view::npos;
  }
  return std::nullopt;
}

bool is_license_file(const fs::directory_entry& entry) {
  std::string name = entry.path().filename().string();
  std::ranges::transform(name, name.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  });
  const bool named = name.starts_with("LICENSE") || name.starts_with("LICENCE") ||
                     name.starts_with("NOTICE") || name.starts_with("COPYING") ||
                     name.starts_with("USE_POLICY");
  return named && entry.is_regular_file() && entry.file_size() <= kMaxLicenseBytes;
}

std::string own_name(fs::path path) {
  if (!path.has_filename()) path = path.parent_path();
  return fs::is_directory(path) ? path.filename().string() : path.stem().string();
}

ModelOrigin origin_of_gguf(const fs::path& path) {
  const GgufFile file(path);
  ModelOrigin origin{own_name(path), std::nullopt, {}};
  if (const auto license = file.string("general.license")) origin.license = std::string(*license);
  if (const auto name = file.string("general.name")) origin.name = std::string(*name);
  return origin;
}

ModelOrigin origin_of_folder(const fs::path& folder) {
  ModelOrigin origin{own_name(folder), std::nullopt, {}};
  const auto config = read_json_file(folder / "config.json");
  const auto name = config.is_object() ? config.find("_name_or_path") : config.end();
  if (name != config.end() && name->is_string() && !name->get_ref<const std::string&>().empty())
    origin.name = name->get<std::string>();
  if (fs::exists(folder / "README.md"))
    origin.license = heading_value(read_file(folder / "README.md", kMaxCardBytes), "license");
  for (const auto& entry : fs::directory_iterator(folder))
    if (is_license_file(entry)) origin.license_files.push_back(entry.path());
  std::sort(origin.license_files.begin(), origin.license_files.end());
  if (origin.license_files.size() > kMaxLicenseFiles) origin.license_files.resize(kMaxLicenseFiles);
  return origin;
}

}  // namespace

ModelOrigin read_model_origin(const fs::path& model) {
  return fs::is_directory(model) ? origin_of_folder(model) : origin_of_gguf(model);
}

}  // namespace d2q
