#include "quant/group_quantizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"

namespace d2q {
namespace {

/// The first member's norm on this one's device.
NormParams on_device(Device& device, const GroupMember& member, const NormParams& first) {
  NormParams norm = first;
  for (Tensor* tensor : {&norm.gain, &norm.shift}) {
    if (!member.is_first() && !tensor->empty())
      *tensor = device.allocate(tensor->rows(), tensor->cols(), tensor->dtype());
    member.share(*tensor);
  }
  return norm;
}

}  // namespace

void check_windows(const QuantizeOptions& options, int n_devices) {
  if (BlockQuantizer::needs_statistics(options) && options.samples < n_devices) {
    fail(ErrorCode::kInvalidArgument, "--gpus {}: {} calibration windows cannot be split over them",
         n_devices, options.samples);
  }
}

GroupQuantizer::GroupQuantizer(DeviceGroup& group, const WeightSource& source,
                               const QuantizeOptions& options, const StreamPlacement& placement)
    : group_(group),
      source_(source),
      options_(options),
      placement_(placement),
      members_(static_cast<size_t>(group.size())) {
  for_members([&](Member& member, const GroupMember& place) {
    Device& device = group_.device(place.rank());
    member.rope =
        make_rope_tables(device, source_.config(), std::max<int64_t>(options_.sequence_length, 2));
    member.quantizer =
        std::make_unique<BlockQuantizer>(device, source_, options_, member.rope, placement_, place);
  });
}

GroupQuantizer::~GroupQuantizer() {
  try {
    for_members([](Member& member, const GroupMember&) { member = {}; });
  } catch (const std::exception&) {  // of a device that is broken: what broke it was said
  }
}

void GroupQuantizer::for_members(
    const std::function<void(Member& member, const GroupMember& place)>& body) {
  group_.run(
      [&](int rank) { body(members_[static_cast<size_t>(rank)], GroupMember(group_, rank)); });
}

void GroupQuantizer::start(TokenRows Streams::*stream, TokenMatrix matrix, const Fill& fill) {
  for_members([&](Member& member, const GroupMember& place) {
    const int64_t tokens = window_range(options_, place).count * options_.sequence_length;
    member.streams.*stream =
        TokenRows(group_.device(place.rank()), tokens, source_.config().hidden_size, DType::kF32,
                  placement_.on_host(matrix));
  });
  int64_t first = 0;
  for (const Member& member : members_) {
    fill(member.streams.*stream, first);
    first += (member.streams.*stream).rows();
  }
  if (group_.size() > 1) group_.device(0).synchronize();
}

void GroupQuantizer::drop_quantized_stream() {
  for_members([](Member& member, const GroupMember&) { member.streams.quantized = {}; });
}

TokenRows GroupQuantizer::fp_stream() const {
  std::vector<TokenRows> parts;
  for (const Member& member : members_) parts.push_back(member.streams.fp);
  return TokenRows::joined(std::move(parts));
}

void GroupQuantizer::finish() {
  for_members([](Member& member, const GroupMember&) {
    member.quantizer.reset();
    member.streams.quantized = {};
  });
}

QuantizedBlock GroupQuantizer::quantize(
    int64_t layer, const NormParams* final_norm,
    const std::function<void(const StoredLinear&)>& on_linear,
    const std::function<void(int64_t step, double loss)>& on_tune_step) {
  QuantizedBlock result;
  for_members([&](Member& member, const GroupMember& place) {
    std::optional<NormParams> norm;
    if (final_norm != nullptr) norm = on_device(group_.device(place.rank()), place, *final_norm);
    const bool is_first = place.is_first();
    QuantizedBlock block = member.quantizer->quantize(
        layer, member.streams, norm ? &*norm : nullptr,
        is_first ? on_linear : std::function<void(const StoredLinear&)>(),
        is_first ? on_tune_step : std::function<void(int64_t, double)>());
    if (is_first) result = std::move(block);
  });
  return result;
}

void GroupQuantizer::replay(int64_t layer, const BlockWeights& stored) {
  for_members([&](Member& member, const GroupMember& place) {
    member.quantizer->replay(layer, place.is_first() ? stored : BlockWeights(), member.streams);
  });
}

}  // namespace d2q
