#include "format/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "format/safetensors_header.h"

namespace d2q {
namespace {

static_assert(std::endian::native == std::endian::little);

struct TypeRow {
  SafetensorsType type;
  std::string_view name;
  int64_t bytes;
};

constexpr std::array kTypes = {
    TypeRow{SafetensorsType::kBool, "BOOL", 1},
    TypeRow{SafetensorsType::kU8, "U8", 1},
    TypeRow{SafetensorsType::kI8, "I8", 1},
    TypeRow{SafetensorsType::kF8E5M2, "F8_E5M2", 1},
    TypeRow{SafetensorsType::kF8E4M3, "F8_E4M3", 1},
    TypeRow{SafetensorsType::kI16, "I16", 2},
    TypeRow{SafetensorsType::kU16, "U16", 2},
    TypeRow{SafetensorsType::kF16, "F16", 2},
    TypeRow{SafetensorsType::kBF16, "BF16", 2},
    TypeRow{SafetensorsType::kI32, "I32", 4},
    TypeRow{SafetensorsType::kU32, "U32", 4},
    TypeRow{SafetensorsType::kF32, "F32", 4},
    TypeRow{SafetensorsType::kI64, "I64", 8},
    TypeRow{SafetensorsType::kU64, "U64", 8},
    TypeRow{SafetensorsType::kF64, "F64", 8},
};

const TypeRow& row_of(SafetensorsType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return row;
  }
  D2Q_CHECK(false, "safetensors type {}", static_cast<int>(type));
  return kTypes[0];
}

}  // namespace

int64_t size_of(SafetensorsType type) { return row_of(type).bytes; }
std::string_view to_string(SafetensorsType type) { return row_of(type).name; }

std::optional<SafetensorsType> parse_safetensors_type(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

bool is_safetensors_padding(std::string_view name) {
  return name.starts_with(kSafetensorsPaddingPrefix);
}

int64_t SafetensorsTensor::n_elements() const {
  // Unsigned: of an empty tensor the lengths before the 0 may overflow.
  uint64_t n = 1;
  for (const int64_t length : shape) n *= static_cast<uint64_t>(length);
  return static_cast<int64_t>(n);
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string subject = path.string();
  const auto bytes = file_.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    fail(ErrorCode::kCorrupt,
         "{}: {} bytes are too few for a safetensors file; incomplete download?", subject,
         bytes.size());
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const uint64_t rest = bytes.size() - sizeof(header_bytes);
  if (header_bytes > kMaxSafetensorsHeader || header_bytes > rest) {
    fail(ErrorCode::kCorrupt,
         "{}: header of {} bytes in a file of {} (at most {} are allowed); incomplete download or "
         "not safetensors?",
         subject, header_bytes, bytes.size(), kMaxSafetensorsHeader);
  }
  const auto header = bytes.subspan(sizeof(header_bytes), header_bytes);
  const auto data = bytes.subspan(sizeof(header_bytes) + header_bytes);
  SafetensorsHeader parsed = parse_safetensors_header(
      {reinterpret_cast<const char*>(header.data()), header.size()}, data, subject);
  metadata_ = std::move(parsed.metadata);
  tensors_ = std::move(parsed.tensors);
  std::erase_if(tensors_, [](const auto& tensor) { return is_safetensors_padding(tensor.name); });
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const SafetensorsTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace d2q
