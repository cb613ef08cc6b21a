// BlockQuantizer on every device of a group, each with the streams of its calibration windows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/device_group.h"
#include "quant/block_quantizer.h"

namespace d2q {

/// Throws Error{kInvalidArgument} when there are fewer calibration windows than devices.
void check_windows(const QuantizeOptions& options, int n_devices);

class GroupQuantizer {
 public:
  /// `source` is the prepared model. All references must outlive the object. At least as many
  /// windows as devices.
  GroupQuantizer(DeviceGroup& group, const WeightSource& source, const QuantizeOptions& options,
                 const StreamPlacement& placement);
  ~GroupQuantizer();

  /// fill(rows, first) writes tokens [first, first + rows.rows()) of a stream, on the first device.
  using Fill = std::function<void(const TokenRows& rows, int64_t first)>;
  void start_fp_stream(const Fill& fill) { start(&Streams::fp, TokenMatrix::kFpStream, fill); }
  void start_quantized_stream(const Fill& fill) {
    start(&Streams::quantized, TokenMatrix::kQuantizedStream, fill);
  }
  void drop_quantized_stream();
  /// The streams of all members, for the first device to read.
  TokenRows fp_stream() const;
  /// Ends quantizing: only the full-precision stream stays.
  void finish();

  /// As BlockQuantizer has it. `final_norm` and `stored` are on the first device.
  QuantizedBlock quantize(int64_t layer, const NormParams* final_norm,
                          const std::function<void(const StoredLinear&)>& on_linear,
                          const std::function<void(int64_t step, double loss)>& on_tune_step = {});
  void replay(int64_t layer, const BlockWeights& stored);

 private:
  struct Member {
    RopeTables rope;
    std::unique_ptr<BlockQuantizer> quantizer;
    Streams streams;
  };
  void start(TokenRows Streams::*stream, TokenMatrix matrix, const Fill& fill);
  void for_members(const std::function<void(Member& member, const GroupMember& place)>& body);

  DeviceGroup& group_;
  const WeightSource& source_;
  const QuantizeOptions& options_;
  StreamPlacement placement_;
  std::vector<Member> members_;
};

}  // namespace d2q
