// safetensors: u64 little-endian header length, JSON header, then the tensors' bytes.
// Reading maps the file; every size in the header is checked against it before anything is handed
// out. Sharded folders are read through their index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file_io.h"
#include "base/mmap_file.h"

namespace d2q {

enum class SafetensorsType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
};

/// Bytes of one element.
int64_t size_of(SafetensorsType type);
/// The name in the header: "F16", "BF16", ...
std::string_view to_string(SafetensorsType type);

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes, as the format's own limit
inline constexpr size_t kMaxSafetensorsTensors = 1'000'000;
inline constexpr size_t kMaxSafetensorsDimensions = 8;
/// Tensors start at multiples of this within files that SafetensorsWriter writes.
inline constexpr uint64_t kSafetensorsAlignment = 64;

struct SafetensorsTensor {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // into the mapping

  int64_t n_elements() const;
};

/// One mapped file. Padding tensors of SafetensorsWriter are not listed.
class SafetensorsFile {
 public:
  /// Throws Error{kNotFound, kIo}, and Error{kCorrupt} on a header that lies: out of range,
  /// overlap, unknown dtype, shape that does not fit the bytes, duplicate name, or any limit above.
  explicit SafetensorsFile(const std::filesystem::path& path);

  /// In the order of their bytes.
  const std::vector<SafetensorsTensor>& tensors() const noexcept { return tensors_; }
  /// nullptr when there is none of that name.
  const SafetensorsTensor* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  const std::filesystem::path& path() const noexcept { return file_.path(); }

 private:
  MmapFile file_;
  std::vector<SafetensorsTensor> tensors_;
  std::unordered_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// A folder with model.safetensors, or with model.safetensors.index.json and its shards.
class SafetensorsFolder {
 public:
  /// Throws Error{kNotFound} naming the missing file, Error{kCorrupt} when the index and the shards
  /// disagree.
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  const SafetensorsTensor* find(const std::string& name) const;
  /// The value of `key` in the __metadata__ of the shards (the first shard that has it), or
  /// nullptr.
  const std::string* find_metadata(const std::string& key) const;
  /// The file that holds `tensor`, which find() returned.
  const std::filesystem::path& file_of(const SafetensorsTensor& tensor) const;
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const noexcept { return files_; }
  const std::filesystem::path& path() const noexcept { return folder_; }

 private:
  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string, std::pair<size_t, const SafetensorsTensor*>> index_;
};

/// A tensor that will be written.
struct SafetensorsSpec {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;
};

/// Whether tensors begin at multiples of kSafetensorsAlignment, by U8 tensors named
/// "__padding__.<n>" between them (readers refuse gaps); files for other software go without.
enum class SafetensorsPadding { kAligned, kNone };

/// Streams tensors to a file whose header is fixed at the start: equal calls give equal bytes.
/// Nothing is left under `path` unless finish() returned.
class SafetensorsWriter {
 public:
  /// Throws Error{kIo}; a duplicate or reserved name is InternalError.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {},
                    SafetensorsPadding padding = SafetensorsPadding::kAligned);
  ~SafetensorsWriter();

  /// The whole of the next tensor in the declared order; `name` and the size are checked
  /// (InternalError). Throws Error{kIo}.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// All tensors must have been written (InternalError).
  void finish();

 private:
  AtomicFile file_;
  std::vector<SafetensorsSpec> tensors_;
  size_t next_ = 0;
};

/// Writes model.safetensors.index.json over shards that already lie in `folder`, in this order.
void write_safetensors_index(const std::filesystem::path& folder,
                             const std::vector<std::string>& shards);

}  // namespace d2q
