#include "quant/output_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <span>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file_io.h"
#include "format/json_file.h"
#include "format/packed_container.h"
#include "format/safetensors.h"
#include "kernels/host_copy.h"
#include "model/family.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kIdentityFile = "run.json";
constexpr const char* kReportKey = "d2quant.block";
constexpr const char* kTunedFile = "end_tuning.safetensors";
constexpr const char* kTunedReportKey = "d2quant.end_tuning";

std::vector<std::byte> to_half_bytes(const Matrix<float>& matrix, const std::string& name) {
  std::vector<std::byte> bytes(static_cast<size_t>(matrix.size()) * sizeof(Half));
  for (int64_t i = 0; i < matrix.size(); ++i) {
    const Half half = to_half(matrix.data()[i]);
    if (!std::isfinite(to_float(half))) {
      fail(ErrorCode::kNumeric, "{}: value {} at {} does not fit fp16", name, matrix.data()[i], i);
    }
    std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(Half), &half, sizeof(Half));
  }
  return bytes;
}

void add_packed(const std::string& weight, const PackedLinear& packed,
                std::vector<ShardTensor>& tensors, std::map<std::string, std::string>& metadata) {
  const std::vector<SafetensorsSpec> specs = packed_specs(weight, packed.layout);
  tensors.push_back({specs[0], to_bytes(std::span<const uint8_t>(packed.codes))});
  tensors.push_back({specs[1], to_bytes(std::span<const Half>(packed.scales))});
  metadata[packed_layout_key(weight)] = packed_layout_to_string(packed.layout);
}

void write_shard(const fs::path& path, const std::vector<ShardTensor>& tensors,
                 const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsSpec> specs;
  for (const ShardTensor& tensor : tensors) specs.push_back(tensor.spec);
  SafetensorsWriter writer(path, specs, metadata);
  for (const ShardTensor& tensor : tensors) writer.write(tensor.spec.name, tensor.bytes);
  writer.finish();
}

ShardTensor copy_of(const SafetensorsTensor& tensor) {
  return {{tensor.name, tensor.type, tensor.shape}, to_bytes(tensor.bytes)};
}

/// The JSON object that the file's metadata holds under `key`.
nlohmann::json report_in(const SafetensorsFile& file, const char* key) {
  const auto entry = file.metadata().find(key);
  nlohmann::json report;
  if (entry != file.metadata().end()) report = parse_json(entry->second, file.path().string());
  if (!report.is_object()) {
    fail(ErrorCode::kCorrupt, "{}: has no {} report; was it written by this program?",
         file.path().string(), key);
  }
  return report;
}

/// "out/" names the same folder as "out"; the unfinished one lies beside it, not inside.
fs::path folder_name(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

fs::path partial_name(const fs::path& path) {
  fs::path partial = folder_name(path);
  partial += ".partial";
  return partial;
}

int64_t bytes_of_files(const fs::path& folder) {
  int64_t total = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file()) total += static_cast<int64_t>(entry.file_size());
  }
  return total;
}

/// Whether --overwrite may remove `path`: nothing but what this program wrote, however it was
/// named.
bool is_replaceable(const fs::path& path) {
  std::error_code error;
  return fs::exists(path / "d2quant.json", error) ||
         (fs::is_directory(path, error) && fs::is_empty(path, error));
}

/// Whether `path` is an unfinished run's folder: with its identity, or stopped before it had one.
bool is_unfinished_run(const fs::path& path) {
  if (!fs::is_directory(path)) return false;
  if (fs::exists(path / kIdentityFile)) return true;
  return std::all_of(fs::directory_iterator(path), fs::directory_iterator(),
                     [](const fs::directory_entry& entry) {
                       return entry.path().filename().string().starts_with(kConfigFile);
                     });
}

void remove_folder(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be removed: {}", path.string(), error.message());
}

}  // namespace

void check_output_name(const fs::path& output, bool resume, bool overwrite) {
  const fs::path path = folder_name(output);
  const fs::path partial = partial_name(output);
  if (fs::exists(path) && !overwrite) {
    fail(ErrorCode::kInvalidArgument,
         "{}: exists already; choose another --output or pass --overwrite", path.string());
  }
  if (fs::exists(path) && !is_replaceable(path)) {
    fail(ErrorCode::kInvalidArgument,
         "{}: is not a d2quant folder, and --overwrite replaces no other; choose another --output",
         path.string());
  }
  if (fs::exists(partial) && !is_unfinished_run(partial)) {
    fail(ErrorCode::kInvalidArgument,
         "{}: is in the way and no unfinished run; remove it or choose another --output",
         partial.string());
  }
  if (fs::exists(partial) && !resume && !overwrite) {
    fail(ErrorCode::kInvalidArgument,
         "{}: holds an unfinished run; pass --resume to go on with it or --overwrite to start anew",
         partial.string());
  }
}

OutputFolder::OutputFolder(const fs::path& path, const nlohmann::json& identity,
                           const nlohmann::json& config, int64_t n_blocks, bool resume,
                           bool overwrite)
    : path_(folder_name(path)),
      partial_(partial_name(path)),
      n_blocks_(n_blocks),
      overwrite_(overwrite) {
  check_output_name(path_, resume, overwrite);
  if (!resume) remove_folder(partial_);
  const fs::path identity_path = partial_ / kIdentityFile;
  if (fs::exists(identity_path)) {
    const nlohmann::json found = read_json_file(identity_path);
    if (found != identity) {
      std::string differing;
      for (const auto& [key, value] : identity.items()) {
        if (!found.is_object() || !found.contains(key) || found[key] != value)
          differing += (differing.empty() ? "" : ", ") + key;
      }
      fail(ErrorCode::kInvalidArgument,
           "{}: the unfinished run differs in {}; pass the same settings, or --overwrite without "
           "--resume to start anew",
           partial_.string(), differing.empty() ? "its identity file" : differing);
    }
    remove_temporaries(partial_);  // of a killed run
  } else {
    std::error_code error;
    fs::create_directories(partial_, error);
    if (error)
      fail(ErrorCode::kIo, "{}: cannot be created: {}", partial_.string(), error.message());
    write_file_atomically(partial_ / kConfigFile, config.dump(2) + "\n");
    write_file_atomically(identity_path, identity.dump(2) + "\n");
  }
  while (blocks_done_ < n_blocks_ && fs::exists(partial_ / shard_name(blocks_done_)))
    ++blocks_done_;
}

std::string OutputFolder::shard_name(int64_t index) const {
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, n_blocks_ + 1);
}

std::function<void()> OutputFolder::block_writer(Device& device, ThreadPool& pool,
                                                 const ModelConfig& config, int64_t layer,
                                                 std::shared_ptr<const QuantizedBlock> block,
                                                 const nlohmann::json& report) {
  const ModuleNames& modules = family_named(config.family).modules;
  std::vector<ShardTensor> before, after;  // the linears
  add_norm(device, module_name(modules.attention_norm.hf, layer), block->weights.attention_norm,
           before);
  if (block->weights.q_norm)
    add_norm(device, module_name(modules.q_norm.hf, layer), *block->weights.q_norm, before);
  if (block->weights.k_norm)
    add_norm(device, module_name(modules.k_norm.hf, layer), *block->weights.k_norm, before);
  add_norm(device, module_name(modules.mlp_norm.hf, layer), block->weights.mlp_norm, after);
  return [this, &pool, layer, tensors = std::move(before), after = std::move(after),
          block = std::move(block), report = report.dump()]() mutable {
    std::map<std::string, std::string> metadata{{kReportKey, report}};
    for (const StoredLinear& linear : block->linears) {
      const std::string weight = linear.name + ".weight";
      if (linear.solution) {
        add_packed(weight, pack_solution(*linear.solution, pool), tensors, metadata);
      } else {
        tensors.push_back(
            {{weight, SafetensorsType::kF16, {linear.dense.rows(), linear.dense.cols()}},
             to_half_bytes(linear.dense, weight)});
      }
      if (!linear.bias.empty()) {
        tensors.push_back({{linear.name + ".bias",
                            SafetensorsType::kF32,
                            {static_cast<int64_t>(linear.bias.size())}},
                           to_bytes(std::span<const float>(linear.bias))});
      }
    }
    std::move(after.begin(), after.end(), std::back_inserter(tensors));
    write_shard(partial_ / shard_name(layer), tensors, metadata);
    blocks_done_ = layer + 1;
  };
}

nlohmann::json OutputFolder::block_report(int64_t layer) const {
  return report_in(SafetensorsFile(partial_ / shard_name(layer)), kReportKey);
}

void OutputFolder::write_index_of_finished_blocks() const {
  std::vector<std::string> shards;
  for (int64_t layer = 0; layer < blocks_done_; ++layer) shards.push_back(shard_name(layer));
  write_safetensors_index(partial_, shards);
}

void OutputFolder::write_rest(const std::vector<RestTensor>& rest) {
  std::vector<SafetensorsSpec> specs;
  std::map<std::string, std::string> metadata;
  for (const RestTensor& tensor : rest) {
    if (!tensor.packed) {
      specs.push_back(tensor.spec);
      continue;
    }
    std::ranges::copy(packed_specs(tensor.spec.name, tensor.packed->layout),
                      std::back_inserter(specs));
    metadata[packed_layout_key(tensor.spec.name)] = packed_layout_to_string(tensor.packed->layout);
  }
  SafetensorsWriter writer(partial_ / shard_name(n_blocks_), specs, metadata);
  size_t next = 0;
  for (const RestTensor& tensor : rest) {
    const std::string& name = specs[next++].name;
    if (tensor.packed) {
      writer.write(name, std::as_bytes(std::span(tensor.packed->codes)));
      writer.write(specs[next++].name, std::as_bytes(std::span(tensor.packed->scales)));
      continue;
    }
    const Matrix<float> values = tensor.load();
    if (tensor.spec.type == SafetensorsType::kF16) {
      writer.write(name, to_half_bytes(values, name));
    } else {
      writer.write(name, std::as_bytes(values.span()));
    }
  }
  writer.finish();
}

void OutputFolder::write_index() const {
  std::vector<std::string> shards;
  for (int64_t index = 0; index <= n_blocks_; ++index) shards.push_back(shard_name(index));
  write_safetensors_index(partial_, shards);
}

void OutputFolder::write_tuned(const std::vector<std::vector<ShardTensor>>& shards,
                               const nlohmann::json& report) {
  std::vector<ShardTensor> tensors;
  std::map<std::string, std::string> metadata{{kTunedReportKey, report.dump()}};
  for (size_t index = 0; index < shards.size(); ++index) {
    for (const ShardTensor& tensor : shards[index]) {
      tensors.push_back(tensor);
      metadata[tensor.spec.name] = shard_name(static_cast<int64_t>(index));
    }
  }
  write_shard(partial_ / kTunedFile, tensors, metadata);
}

std::optional<nlohmann::json> OutputFolder::tuned_report() const {
  if (!fs::exists(partial_ / kTunedFile)) return std::nullopt;
  return report_in(SafetensorsFile(partial_ / kTunedFile), kTunedReportKey);
}

void OutputFolder::apply_tuned() const {
  const SafetensorsFile tuned(partial_ / kTunedFile);
  const auto shard_of = [&](const SafetensorsTensor& tensor) {
    const auto entry = tuned.metadata().find(tensor.name);
    return entry == tuned.metadata().end() ? std::string() : entry->second;
  };
  for (int64_t index = 0; index <= n_blocks_; ++index) {
    const std::string name = shard_name(index);
    const SafetensorsFile shard(partial_ / name);
    std::vector<ShardTensor> tensors;
    for (const SafetensorsTensor& tensor : shard.tensors()) {
      const SafetensorsTensor* newer = tuned.find(tensor.name);
      tensors.push_back(copy_of(newer == nullptr ? tensor : *newer));
    }
    for (const SafetensorsTensor& tensor : tuned.tensors()) {
      if (shard_of(tensor) == name && shard.find(tensor.name) == nullptr)
        tensors.push_back(copy_of(tensor));
    }
    write_shard(partial_ / name, tensors, shard.metadata());
  }
}

void OutputFolder::write_report(const nlohmann::json& report) const {
  write_index();
  write_file_atomically(partial_ / "d2quant.json", report.dump(2) + "\n");
}

void OutputFolder::publish() {
  std::error_code error;
  if (overwrite_ && fs::exists(path_)) {
    // Not "<path>.old", which may be somebody's copy.
    fs::path old = partial_;
    old += ".old";
    remove_folder(old);
    fs::rename(path_, old, error);
    if (!error) fs::rename(partial_, path_, error);
    if (!error) remove_folder(old);
  } else {
    fs::rename(partial_, path_, error);
  }
  if (error)
    fail(ErrorCode::kIo, "{}: cannot be given its final name: {}", path_.string(), error.message());
  // Not before: an unfinished folder without its identity could be resumed with other settings.
  fs::remove(path_ / kIdentityFile, error);
  // Nor this one: the tuned shards would be tuned again.
  fs::remove(path_ / kTunedFile, error);
  const fs::path parent = path_.parent_path();
  sync_directory(parent.empty() ? fs::path(".") : parent);
}

int64_t OutputFolder::total_bytes() const { return bytes_of_files(path_); }

void OutputFolder::check_space(int64_t output_bytes) const {
  std::error_code error;
  const fs::space_info space = fs::space(partial_, error);
  const int64_t missing = output_bytes - bytes_of_files(partial_);
  if (error || missing <= 0 || space.available >= static_cast<uintmax_t>(missing)) return;
  fail(ErrorCode::kIo, "{}: {} bytes are still to be written, its disk has {} free",
       partial_.string(), missing, space.available);
}

}  // namespace d2q
