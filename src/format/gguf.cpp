#include "format/gguf.h"

#include <bit>
#include <cstring>

#include "base/error.h"
#include "format/gguf_parser.h"

namespace d2q {
namespace {

// The file's words are read with memcpy as they lie.
static_assert(std::endian::native == std::endian::little);

template <typename T>
T item_at(std::span<const std::byte> items, uint64_t i) {
  T value;
  std::memcpy(&value, items.data() + i * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

int64_t GgufTensor::n_elements() const {
  int64_t n = 1;
  for (const int64_t length : shape) n *= length;
  return n;
}

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) { GgufParser(*this).parse(); }

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void GgufFile::wrong_type(const std::string& key, const char* expected) const {
  fail(ErrorCode::kCorrupt, "{}: key '{}' is not {}; corrupt file?", path().string(), key,
       expected);
}

bool GgufFile::as_integer(const Value& value, uint64_t i, int64_t& out) {
  switch (value.type) {
    case ValueType::kU8:
      out = item_at<uint8_t>(value.bytes, i);
      return true;
    case ValueType::kI8:
      out = item_at<int8_t>(value.bytes, i);
      return true;
    case ValueType::kU16:
      out = item_at<uint16_t>(value.bytes, i);
      return true;
    case ValueType::kI16:
      out = item_at<int16_t>(value.bytes, i);
      return true;
    case ValueType::kU32:
      out = item_at<uint32_t>(value.bytes, i);
      return true;
    case ValueType::kI32:
      out = item_at<int32_t>(value.bytes, i);
      return true;
    case ValueType::kI64:
      out = item_at<int64_t>(value.bytes, i);
      return true;
    case ValueType::kU64: {
      const auto word = item_at<uint64_t>(value.bytes, i);
      out = static_cast<int64_t>(word);
      return word <= static_cast<uint64_t>(INT64_MAX);
    }
    default:
      return false;
  }
}

bool GgufFile::as_number(const Value& value, uint64_t i, double& out) {
  if (value.type == ValueType::kF32) {
    out = item_at<float>(value.bytes, i);
    return true;
  }
  if (value.type == ValueType::kF64) {
    out = item_at<double>(value.bytes, i);
    return true;
  }
  int64_t integer = 0;
  if (!as_integer(value, i, integer)) return false;
  out = static_cast<double>(integer);
  return true;
}

const GgufFile::Value* GgufFile::value(const std::string& key, bool is_array) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return nullptr;
  if (found->second.is_array && !is_array) {
    fail(ErrorCode::kUnsupported, "{}: key '{}' is an array, handled is a single value only",
         path().string(), key);
  }
  if (!found->second.is_array && is_array) wrong_type(key, "an array");
  return &found->second;
}

std::optional<bool> GgufFile::boolean(const std::string& key) const {
  const Value* found = value(key, false);
  if (found == nullptr) return std::nullopt;
  if (found->type != ValueType::kBool) wrong_type(key, "a boolean");
  return found->bytes[0] != std::byte{0};
}

std::optional<int64_t> GgufFile::integer(const std::string& key) const {
  const Value* found = value(key, false);
  if (found == nullptr) return std::nullopt;
  int64_t result = 0;
  if (!as_integer(*found, 0, result)) wrong_type(key, "an integer below 2^63");
  return result;
}

std::optional<double> GgufFile::number(const std::string& key) const {
  const Value* found = value(key, false);
  if (found == nullptr) return std::nullopt;
  double result = 0.0;
  if (!as_number(*found, 0, result)) wrong_type(key, "a number");
  return result;
}

std::optional<std::string_view> GgufFile::string(const std::string& key) const {
  const Value* found = value(key, false);
  if (found == nullptr) return std::nullopt;
  if (found->type != ValueType::kString) wrong_type(key, "a string");
  const auto text = found->bytes.subspan(sizeof(uint64_t));
  return std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
}

std::optional<std::vector<std::string_view>> GgufFile::strings(const std::string& key) const {
  const Value* found = value(key, true);
  if (found == nullptr) return std::nullopt;
  if (found->type != ValueType::kString) wrong_type(key, "an array of strings");
  std::vector<std::string_view> result;
  result.reserve(found->count);
  auto rest = found->bytes;  // lengths were checked when the file was opened
  for (uint64_t i = 0; i < found->count; ++i) {
    const auto length = item_at<uint64_t>(rest, 0);
    rest = rest.subspan(sizeof(uint64_t));
    result.emplace_back(reinterpret_cast<const char*>(rest.data()), length);
    rest = rest.subspan(length);
  }
  return result;
}

std::optional<std::vector<int64_t>> GgufFile::integers(const std::string& key) const {
  const Value* found = value(key, true);
  if (found == nullptr) return std::nullopt;
  std::vector<int64_t> result(found->count);
  for (uint64_t i = 0; i < found->count; ++i) {
    if (!as_integer(*found, i, result[i])) wrong_type(key, "an array of integers below 2^63");
  }
  return result;
}

std::optional<std::vector<double>> GgufFile::numbers(const std::string& key) const {
  const Value* found = value(key, true);
  if (found == nullptr) return std::nullopt;
  std::vector<double> result(found->count);
  for (uint64_t i = 0; i < found->count; ++i) {
    if (!as_number(*found, i, result[i])) wrong_type(key, "an array of numbers");
  }
  return result;
}

void GgufFile::dequantize_rows(const GgufTensor& tensor, int64_t first_row, int64_t count,
                               std::span<float> out) const {
  D2Q_CHECK(first_row >= 0 && count >= 0 && first_row <= tensor.n_rows() - count,
            "rows {}+{} of tensor '{}' with {}", first_row, count, tensor.name, tensor.n_rows());
  const int64_t row_bytes =
      tensor.row_length() / block_weights(tensor.type) * block_bytes(tensor.type);
  dequantize_blocks(tensor.type,
                    tensor.bytes.subspan(static_cast<size_t>(first_row * row_bytes),
                                         static_cast<size_t>(count * row_bytes)),
                    out);
}

}  // namespace d2q
