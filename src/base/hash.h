// Fingerprints of inputs and outputs (XXH3, 128 bits): equal content on every machine and run.
// Not cryptographic: they find accidents, not attackers.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace d2q {

/// Incremental hash. Not thread-safe.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  /// 32 hex digits of everything so far, most significant first.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// 32 hex digits of the bytes.
std::string hash_hex(std::span<const std::byte> bytes);

/// Files up to this size are hashed whole by sampled_file_hash_hex().
inline constexpr size_t kWholeHashBytes = size_t{4} << 20;

/// 32 hex digits of a file's size and, above kWholeHashBytes, of its first and last MiB and 64
/// evenly spaced pieces of 16 KiB: at most 3 MiB are read, however large the file. Tells one set of
/// weights from another, not a file from a copy with a few bytes changed. Throws as MmapFile does.
std::string sampled_file_hash_hex(const std::filesystem::path& path);

}  // namespace d2q
