#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

#include "base/mmap_file.h"

namespace d2q {
namespace {

std::string to_hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

struct Hasher::State {
  State() : xxh(XXH3_createState()) {
    if (xxh == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(xxh);
  }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  XXH3_state_t* xxh;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {}
Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

void Hasher::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

std::string Hasher::hex() const { return to_hex(XXH3_128bits_digest(state_->xxh)); }

std::string hash_hex(std::span<const std::byte> bytes) {
  return to_hex(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string sampled_file_hash_hex(const std::filesystem::path& path) {
  constexpr size_t kEndBytes = size_t{1} << 20;
  constexpr size_t kPieceBytes = size_t{16} << 10;
  constexpr size_t kPieces = 64;
  const MmapFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  Hasher hasher;
  hasher.update(std::to_string(bytes.size()) + ":");
  if (bytes.size() <= kWholeHashBytes) {
    hasher.update(bytes);
    return hasher.hex();
  }
  hasher.update(bytes.first(kEndBytes));
  const size_t stride = (bytes.size() - 2 * kEndBytes) / kPieces;  // >= 32 KiB
  for (size_t i = 0; i < kPieces; ++i)
    hasher.update(bytes.subspan(kEndBytes + i * stride, kPieceBytes));
  hasher.update(bytes.last(kEndBytes));
  return hasher.hex();
}

}  // namespace d2q
