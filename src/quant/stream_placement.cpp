#include "quant/stream_placement.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "base/error.h"

namespace d2q {
namespace {

constexpr int64_t kFewestTokens = 256;  // products of fewer leave a device idle
/// Workspaces of libraries and kernels, vectors, tables.
constexpr int64_t kOtherBytes = int64_t{96} << 20;
constexpr int64_t kSlots = 2;  // chunks of for_row_chunks() at a time

/// Matrices that one loop over the tokens works on.
const std::vector<std::vector<TokenMatrix>> kLoops = {
    {TokenMatrix::kFpStream, TokenMatrix::kAttentionInput, TokenMatrix::kAttentionResult,
     TokenMatrix::kMlpInput, TokenMatrix::kMlpHidden},
    {TokenMatrix::kQuantizedStream, TokenMatrix::kAttentionInput, TokenMatrix::kTeacher},
    {TokenMatrix::kQuantizedStream, TokenMatrix::kAttentionResult},
    {TokenMatrix::kQuantizedStream, TokenMatrix::kMlpInput, TokenMatrix::kTeacher},
    {TokenMatrix::kQuantizedStream, TokenMatrix::kMlpHidden, TokenMatrix::kTeacher},
    {TokenMatrix::kQuantizedStream, TokenMatrix::kBlockInput},
};

void count_bytes(const MemoryNeeds& needs, StreamPlacement& placement) {
  const auto row = [&](TokenMatrix matrix) { return needs.row_bytes[static_cast<size_t>(matrix)]; };
  const int64_t window_tokens =
      std::min(needs.tokens, std::max<int64_t>(1, placement.chunk_tokens / needs.sequence_length) *
                                 needs.sequence_length);
  const int64_t slice_tokens = std::min(needs.tokens, placement.chunk_tokens);
  int64_t resident = 0;
  placement.host_bytes = 0;
  for (size_t i = 0; i < kTokenMatrices; ++i)
    (placement.host[i] ? placement.host_bytes : resident) += needs.tokens * needs.row_bytes[i];
  int64_t slot_token_bytes = 0;
  for (const std::vector<TokenMatrix>& loop : kLoops) {
    int64_t sum = 0;
    for (const TokenMatrix matrix : loop) sum += placement.on_host(matrix) ? row(matrix) : 0;
    slot_token_bytes = std::max(slot_token_bytes, kSlots * sum);
  }
  const int64_t stage =
      std::max(window_tokens * needs.attention_token_bytes, slice_tokens * needs.mlp_token_bytes);
  const int64_t block =
      std::max(needs.pass_bytes + window_tokens * slot_token_bytes + stage, needs.block_bytes);
  const int64_t start = needs.start_bytes + window_tokens * slot_token_bytes;
  const int64_t end = needs.end_bytes == 0 || placement.on_host(TokenMatrix::kFpStream)
                          ? needs.end_bytes
                          : needs.end_bytes + needs.tokens * row(TokenMatrix::kFpStream);
  placement.device_bytes =
      kOtherBytes +
      std::max(resident + window_tokens * needs.chunk_token_bytes + std::max(start, block), end);
}

}  // namespace

StreamPlacement place_streams(const MemoryNeeds& needs, int64_t chunk_tokens,
                              std::optional<int64_t> budget) {
  StreamPlacement placement;
  placement.chunk_tokens = chunk_tokens;
  count_bytes(needs, placement);
  const auto fits = [&] { return !budget || placement.device_bytes <= *budget; };
  for (size_t i = 0; i < kTokenMatrices && !fits(); ++i) {
    placement.host[i] = needs.row_bytes[i] > 0;
    count_bytes(needs, placement);
  }
  while (!fits() && placement.chunk_tokens > kFewestTokens) {
    placement.chunk_tokens = std::max(kFewestTokens, placement.chunk_tokens / 2);
    count_bytes(needs, placement);
  }
  if (!fits()) {
    fail(
        ErrorCode::kUnsupported,
        "GPU memory: this run takes at least {:.2f} GB with all activations in the host's memory, "
        "but {:.2f} GB are free or allowed (--gpu-mem); shorter windows (--seq), --end-tune off or "
        "--device cpu take less",
        1e-9 * static_cast<double>(placement.device_bytes), 1e-9 * static_cast<double>(*budget));
  }
  return placement;
}

}  // namespace d2q
