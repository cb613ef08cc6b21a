#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file_io.h"
#include "format/json_file.h"
#include "format/safetensors.h"

namespace d2q {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxShards = 10'000;

/// tensor name -> file name, from the index.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  const nlohmann::json index = read_json_file(path);
  const auto weights = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weights == index.end() || !weights->is_object()) {
    fail(ErrorCode::kCorrupt, "{}: no object 'weight_map'; corrupt file?", path.string());
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, file] : weights->items()) {
    // A shard lies in the folder itself; anything else could reach out of it.
    if (!file.is_string() || file.get_ref<const std::string&>().empty() ||
        file.get_ref<const std::string&>().find('/') != std::string::npos) {
      fail(ErrorCode::kCorrupt,
           "{}: the file of tensor '{}' is not a plain file name; corrupt file?", path.string(),
           name);
    }
    result.emplace(name, file.get<std::string>());
  }
  return result;
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const std::filesystem::path& folder) : folder_(folder) {
  const std::filesystem::path index_path = folder / kIndexFile;
  if (!std::filesystem::exists(index_path)) {
    if (!std::filesystem::exists(folder / kSingleFile)) {
      fail(ErrorCode::kNotFound, "{}: neither {} nor {}; incomplete download?", folder.string(),
           kSingleFile, kIndexFile);
    }
    files_.push_back(std::make_unique<SafetensorsFile>(folder / kSingleFile));
    for (const auto& tensor : files_[0]->tensors())
      index_.emplace(tensor.name, std::pair(size_t{0}, &tensor));
    return;
  }
  const auto weights = read_index(index_path);
  std::map<std::string, size_t> shards;
  for (const auto& [name, file] : weights) shards.emplace(file, 0);
  if (shards.size() > kMaxShards) {
    fail(ErrorCode::kCorrupt, "{}: {} shards, at most {} are allowed; corrupt file?",
         index_path.string(), shards.size(), kMaxShards);
  }
  for (auto& [file, number] : shards) {
    number = files_.size();
    files_.push_back(std::make_unique<SafetensorsFile>(folder / file));
  }
  for (const auto& [name, file] : weights) {
    const size_t number = shards.at(file);
    const SafetensorsTensor* tensor = files_[number]->find(name);
    if (tensor == nullptr) {
      fail(ErrorCode::kCorrupt,
           "{}: tensor '{}' should be in {} but is not; files of two models mixed?",
           index_path.string(), name, file);
    }
    index_.emplace(name, std::pair(number, tensor));
  }
}

const SafetensorsTensor* SafetensorsFolder::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second.second;
}

const std::string* SafetensorsFolder::find_metadata(const std::string& key) const {
  for (const auto& file : files_) {
    const auto found = file->metadata().find(key);
    if (found != file->metadata().end()) return &found->second;
  }
  return nullptr;
}

const std::filesystem::path& SafetensorsFolder::file_of(const SafetensorsTensor& tensor) const {
  const auto found = index_.find(tensor.name);
  D2Q_CHECK(found != index_.end(), "tensor '{}' is not of this folder", tensor.name);
  return files_[found->second.first]->path();
}

void write_safetensors_index(const std::filesystem::path& folder,
                             const std::vector<std::string>& shards) {
  uint64_t total = 0;
  nlohmann::json weights = nlohmann::json::object();
  for (const std::string& shard : shards) {
    const SafetensorsFile file(folder / shard);
    for (const SafetensorsTensor& tensor : file.tensors()) {
      D2Q_CHECK(!weights.contains(tensor.name), "tensor '{}' in two shards", tensor.name);
      weights[tensor.name] = shard;
      total += tensor.bytes.size();
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weights}};
  write_file_atomically(folder / kIndexFile, index.dump(2) + "\n");
}

}  // namespace d2q
