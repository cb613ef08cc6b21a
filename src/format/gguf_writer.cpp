#include "format/gguf_writer.h"

#include <cstring>

#include "base/checked.h"
#include "base/error.h"

namespace d2q {
namespace {

constexpr uint64_t kAlignment = 32;  // the format's default
constexpr uint32_t kVersion = 3;

// Value types of the file.
constexpr uint32_t kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;

template <typename T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void append_string(std::string& out, std::string_view text) {
  append<uint64_t>(out, text.size());
  out.append(text);
}

uint64_t padded(uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufWriter::begin_value(const std::string& key, uint32_t type) {
  D2Q_CHECK(!started_ && !key.empty() && key.size() <= kMaxGgufKeyBytes, "key '{}'", key);
  append_string(metadata_, key);
  append(metadata_, type);
  ++n_keys_;
}

void GgufWriter::begin_array(const std::string& key, uint32_t type, size_t count) {
  begin_value(key, kArray);
  append(metadata_, type);
  append<uint64_t>(metadata_, count);
}

void GgufWriter::add_string(const std::string& key, std::string_view value) {
  begin_value(key, kString);
  append_string(metadata_, value);
}
void GgufWriter::add_u32(const std::string& key, uint32_t value) {
  begin_value(key, kU32);
  append(metadata_, value);
}
void GgufWriter::add_f32(const std::string& key, float value) {
  begin_value(key, kF32);
  append(metadata_, value);
}
void GgufWriter::add_bool(const std::string& key, bool value) {
  begin_value(key, kBool);
  append<uint8_t>(metadata_, value ? 1 : 0);
}
void GgufWriter::add_strings(const std::string& key, std::span<const std::string> values) {
  begin_array(key, kString, values.size());
  for (const std::string& value : values) append_string(metadata_, value);
}
void GgufWriter::add_i32s(const std::string& key, std::span<const int32_t> values) {
  begin_array(key, kI32, values.size());
  for (const int32_t value : values) append(metadata_, value);
}
void GgufWriter::add_f32s(const std::string& key, std::span<const float> values) {
  begin_array(key, kF32, values.size());
  for (const float value : values) append(metadata_, value);
}

void GgufWriter::add_tensor(const std::string& name, GgufType type,
                            const std::vector<int64_t>& shape) {
  D2Q_CHECK(!started_ && !shape.empty() && shape.size() <= kMaxGgufDimensions, "tensor '{}'", name);
  append_string(descriptions_, name);
  append<uint32_t>(descriptions_, static_cast<uint32_t>(shape.size()));
  uint64_t n = 1;
  for (size_t i = shape.size(); i-- > 0;) {  // innermost first
    append<uint64_t>(descriptions_, static_cast<uint64_t>(shape[i]));
    n = checked_mul(n, static_cast<uint64_t>(shape[i]), name);
  }
  append(descriptions_, static_cast<uint32_t>(type));
  append(descriptions_, data_size_);
  const auto block = static_cast<uint64_t>(block_weights(type));
  D2Q_CHECK(static_cast<uint64_t>(shape.back()) % block == 0,
            "tensor '{}': rows of {} in blocks of {}", name, shape.back(), block);
  tensors_.push_back(
      {name, checked_mul(n / block, static_cast<uint64_t>(block_bytes(type)), name)});
  data_size_ += padded(tensors_.back().n_bytes);
}

void GgufWriter::write_header() {
  std::string header = "GGUF";
  append(header, kVersion);
  append<uint64_t>(header, tensors_.size());
  append(header, n_keys_);
  header += metadata_;
  header += descriptions_;
  header.append(padded(header.size()) - header.size(), '\0');
  file_.write(header);
  started_ = true;
}

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  if (!started_) write_header();
  D2Q_CHECK(next_ < tensors_.size() && tensors_[next_].name == name &&
                tensors_[next_].n_bytes == bytes.size(),
            "{}: tensor '{}' of {} bytes is not the next one", file_.path().string(), name,
            bytes.size());
  ++next_;
  file_.write(bytes);
  file_.write(std::string(padded(bytes.size()) - bytes.size(), '\0'));
}

uint64_t GgufWriter::finish() {
  D2Q_CHECK(next_ == tensors_.size(), "{}: {} of {} tensors written", file_.path().string(), next_,
            tensors_.size());
  if (!started_) write_header();
  const uint64_t size = file_.size();
  file_.finish();
  return size;
}

}  // namespace d2q
