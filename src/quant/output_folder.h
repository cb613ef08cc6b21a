// The packed folder under construction: one shard a block, each complete or absent, so that a
// killed run loses at most the block it was in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/device.h"
#include "model/config.h"
#include "quant/block_quantizer.h"
#include "quant/shard_tensor.h"

namespace d2q {

/// Throws Error{kInvalidArgument} when `output` exists and not `overwrite` or is neither empty nor
/// a packed folder, when unfinished work is there and neither `resume` nor `overwrite`, and when
/// anything else has its name.
void check_output_name(const std::filesystem::path& output, bool resume, bool overwrite);

class OutputFolder {
 public:
  /// `path` is the final name; work goes on in "<path>.partial". `identity` is what must agree for
  /// a resume: options, calibration and model. `config` is written at once, so that the finished
  /// blocks can be opened as a model. Throws as check_output_name() does, and
  /// Error{kInvalidArgument} when the identity differs.
  OutputFolder(const std::filesystem::path& path, const nlohmann::json& identity,
               const nlohmann::json& config, int64_t n_blocks, bool resume, bool overwrite);

  const std::filesystem::path& working_path() const noexcept { return partial_; }
  /// Blocks 0 .. blocks_done()-1 have their shards.
  int64_t blocks_done() const noexcept { return blocks_done_; }

  /// What writes the shard of block `layer`, on any thread, without the device: takes the norms
  /// from it at once, packs the linears later. `report` goes into the shard's metadata. `pool` and
  /// the folder must outlive the result.
  std::function<void()> block_writer(Device& device, ThreadPool& pool, const ModelConfig& config,
                                     int64_t layer, std::shared_ptr<const QuantizedBlock> block,
                                     const nlohmann::json& report);
  /// The report that block_writer() stored.
  nlohmann::json block_report(int64_t layer) const;
  /// Makes the finished blocks readable through open_model(working_path()).
  void write_index_of_finished_blocks() const;

  /// A tensor of the last shard: embedding, final norm, head.
  struct RestTensor {
    SafetensorsSpec spec;                 // kF16 or kF32; of packed weights only the name
    std::function<Matrix<float>()> load;  // its values: the embedding's need not be all in memory
    std::optional<PackedLinear> packed;   // in place of values
  };
  /// Holds the values of one tensor at a time.
  void write_rest(const std::vector<RestTensor>& tensors);

  /// Makes the whole model readable through open_model(working_path()).
  void write_index() const;

  /// The tensors, by shard, that take the place of those of their names or come behind the shard's
  /// last one, and what the report says of the tuning that made them. All are on disk at once; they
  /// stay there until the folder has its name, so that a stopped run neither repeats nor doubles
  /// what they do.
  void write_tuned(const std::vector<std::vector<ShardTensor>>& shards,
                   const nlohmann::json& report);
  /// The report of write_tuned(), by this run or the one that it resumes.
  std::optional<nlohmann::json> tuned_report() const;
  /// Puts the tensors of write_tuned() into their shards; again with the same result.
  void apply_tuned() const;

  /// Writes index and d2quant.json: open_model(working_path()) is then the finished model.
  void write_report(const nlohmann::json& report) const;
  /// Gives the folder its name; what belongs into it has to be there.
  void publish();

  /// Throws Error{kIo} when the disk has no room for a result of `output_bytes`, less what is
  /// there.
  void check_space(int64_t output_bytes) const;

  /// Bytes of all files, once published.
  int64_t total_bytes() const;

 private:
  std::string shard_name(int64_t index) const;

  std::filesystem::path path_;
  std::filesystem::path partial_;
  int64_t n_blocks_;
  int64_t blocks_done_ = 0;
  bool overwrite_;
};

}  // namespace d2q
