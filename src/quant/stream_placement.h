// Where a run's activations are kept, so that it stays inside a device's memory: the formula of
// docs/architecture.md, matrix by matrix.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace d2q {

/// Matrices with a row for each calibration token, those whose rows move least often first.
enum class TokenMatrix : uint8_t {
  kFpStream,
  kAttentionInput,
  kMlpInput,
  kTeacher,
  kBlockInput,
  kMlpHidden,
  kAttentionResult,
  kQuantizedStream,
};
inline constexpr size_t kTokenMatrices = 8;

/// Bytes for each matrix.
using TokenMatrixBytes = std::array<int64_t, kTokenMatrices>;

/// A run's memory but for the place of its activations.
struct MemoryNeeds {
  int64_t tokens = 0;
  int64_t sequence_length = 1;
  TokenMatrixBytes row_bytes{};       // of a token; 0: not needed
  int64_t chunk_token_bytes = 0;      // of a token of the chunk in hand, over the whole block
  int64_t attention_token_bytes = 0;  // and in the attention's projections
  int64_t mlp_token_bytes = 0;        // and in the MLP
  int64_t start_bytes = 0;            // before the first block: embedding
  int64_t pass_bytes = 0;             // a block's weights and sums while the streams pass it
  int64_t block_bytes = 0;            // its weights and what solving or tuning them takes
  int64_t end_bytes = 0;              // after the last block, beside the full-precision stream
};

/// Bytes and tokens of the device and the host that a run takes.
struct StreamPlacement {
  std::array<bool, kTokenMatrices> host{};
  int64_t chunk_tokens = 0;
  int64_t device_bytes = 0;
  int64_t host_bytes = 0;
  bool on_host(TokenMatrix matrix) const { return host[static_cast<size_t>(matrix)]; }
};

/// The placement that fits into `budget` bytes of a device that takes `chunk_tokens` at a time: as
/// few matrices on the host as will do, then smaller chunks, down to 256 tokens. Without a budget
/// everything is on the device. Throws Error{kUnsupported} saying what the smallest one takes.
StreamPlacement place_streams(const MemoryNeeds& needs, int64_t chunk_tokens,
                              std::optional<int64_t> budget);

}  // namespace d2q
