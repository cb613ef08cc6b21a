// GGUF versions 2 and 3: typed metadata, tensor descriptions, and block-quantized tensor data that
// is dequantized to f32 on demand. Little-endian only. Not handled: split files, types not listed
// below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mmap_file.h"

namespace d2q {

inline constexpr uint64_t kMaxGgufTensors = 100'000;
inline constexpr uint64_t kMaxGgufKeys = 100'000;
inline constexpr uint64_t kMaxGgufKeyBytes = 65'535;
inline constexpr uint64_t kMaxGgufStringBytes = uint64_t{1} << 26;
inline constexpr uint64_t kMaxGgufArrayItems = uint64_t{1} << 26;
inline constexpr uint32_t kMaxGgufDimensions = 4;
inline constexpr uint64_t kMaxGgufAlignment = uint64_t{1} << 20;

/// Tensor encodings; the values are the file's.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
  kQ2_0 = 42,
};

/// "Q4_1", ...; "" for a value that is not listed above.
std::string_view to_string(GgufType type);
/// Weights in a block and bytes of a block. Rows are a whole number of blocks.
int64_t block_weights(GgufType type);
int64_t block_bytes(GgufType type);

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;        // outermost first, as in HF: a weight is [out, in]
  std::span<const std::byte> bytes;  // into the mapping

  int64_t n_elements() const;
  int64_t row_length() const { return shape.back(); }
  int64_t n_rows() const { return n_elements() / row_length(); }
};

/// One mapped file. Immutable after construction; thread-safe.
class GgufFile {
 public:
  /// Throws Error{kNotFound, kIo}; Error{kCorrupt} on any size that does not fit the file or a
  /// limit above; Error{kUnsupported} on another version or tensor type.
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  uint32_t version() const noexcept { return version_; }
  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }
  const GgufTensor* find(const std::string& name) const;

  /// Keys in the order of the file.
  const std::vector<std::string>& keys() const noexcept { return keys_; }
  bool has_key(const std::string& key) const { return values_.contains(key); }

  // Metadata: nullopt when the key is absent; Error{kCorrupt} when its value has another type,
  // Error{kUnsupported} when it is an array in place of a single value.
  // Views stay valid while the file lives.
  std::optional<bool> boolean(const std::string& key) const;
  std::optional<int64_t> integer(const std::string& key) const;  // any integer type
  std::optional<double> number(const std::string& key) const;    // any integer or float type
  std::optional<std::string_view> string(const std::string& key) const;
  std::optional<std::vector<std::string_view>> strings(const std::string& key) const;
  std::optional<std::vector<int64_t>> integers(const std::string& key) const;
  std::optional<std::vector<double>> numbers(const std::string& key) const;

  /// Rows [first_row, first_row + count) of `tensor` as f32; `out` holds count * row_length().
  void dequantize_rows(const GgufTensor& tensor, int64_t first_row, int64_t count,
                       std::span<float> out) const;

 private:
  friend class GgufParser;
  enum class ValueType : uint32_t {
    kU8,
    kI8,
    kU16,
    kI16,
    kU32,
    kI32,
    kF32,
    kBool,
    kString,
    kArray,
    kU64,
    kI64,
    kF64,
  };
  struct Value {
    ValueType type = ValueType::kU8;  // of the item, for an array
    bool is_array = false;
    uint64_t count = 1;
    std::span<const std::byte> bytes;  // the items as they lie in the file
  };
  /// nullptr when absent; an array in place of a scalar is Error{kUnsupported} (some models have
  /// one value a layer), the reverse Error{kCorrupt}.
  const Value* value(const std::string& key, bool is_array) const;
  /// Item `i`; false when it is no such number or does not fit.
  static bool as_integer(const Value& value, uint64_t i, int64_t& out);
  static bool as_number(const Value& value, uint64_t i, double& out);
  [[noreturn]] void wrong_type(const std::string& key, const char* expected) const;

  MmapFile file_;
  uint32_t version_ = 0;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, Value> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

/// Decodes whole blocks: out.size() weights from out.size() / block_weights(type) blocks.
void dequantize_blocks(GgufType type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace d2q
