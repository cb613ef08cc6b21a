#include "cli/model_contents.h"

#include "format/gguf.h"
#include "format/packed_container.h"
#include "format/safetensors.h"

namespace d2q::cli {
namespace {

std::vector<TensorEntry> list_gguf(const std::filesystem::path& path) {
  std::vector<TensorEntry> entries;
  const GgufFile file(path);
  for (const GgufTensor& tensor : file.tensors()) {
    entries.push_back({tensor.name, std::string(to_string(tensor.type)), tensor.shape,
                       static_cast<int64_t>(tensor.bytes.size()), std::nullopt});
  }
  return entries;
}

std::vector<TensorEntry> list_folder(const std::filesystem::path& path) {
  std::vector<TensorEntry> entries;
  const SafetensorsFolder folder(path);
  const std::string codes_suffix = packed_codes_name("");
  const std::string scales_suffix = packed_scales_name("");
  for (const auto& file : folder.files()) {
    for (const SafetensorsTensor& tensor : file->tensors()) {
      if (tensor.name.ends_with(codes_suffix)) {
        const std::string weight = tensor.name.substr(0, tensor.name.size() - codes_suffix.size());
        if (const auto packed = find_packed(folder, weight)) {
          const auto n_bytes =
              static_cast<int64_t>(packed->codes.size() + packed->scales.size_bytes());
          entries.push_back({weight,
                             "packed",
                             {packed->layout.rows, packed->layout.cols},
                             n_bytes,
                             packed->layout});
          continue;
        }
      }
      if (tensor.name.ends_with(scales_suffix) &&
          folder.find(packed_codes_name(
              tensor.name.substr(0, tensor.name.size() - scales_suffix.size())))) {
        continue;
      }
      entries.push_back({tensor.name, std::string(to_string(tensor.type)), tensor.shape,
                         static_cast<int64_t>(tensor.bytes.size()), std::nullopt});
    }
  }
  return entries;
}

}  // namespace

std::vector<TensorEntry> list_tensors(const WeightSource& source,
                                      const std::filesystem::path& path) {
  return source.format() == "gguf" ? list_gguf(path) : list_folder(path);
}

TensorTotals block_linears(const std::vector<TensorEntry>& entries) {
  TensorTotals totals;
  for (const TensorEntry& entry : entries) {
    const bool in_block =
        entry.name.starts_with("blk.") || entry.name.find(".layers.") != std::string::npos;
    if (in_block && entry.shape.size() == 2) totals.add(entry);
  }
  return totals;
}

int64_t size_on_disk(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path))
    return static_cast<int64_t>(std::filesystem::file_size(path));
  int64_t total = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.is_regular_file()) total += static_cast<int64_t>(entry.file_size());
  }
  return total;
}

}  // namespace d2q::cli
