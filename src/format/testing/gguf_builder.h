// Test support, included by tests only: GGUF files byte by byte, lies included.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace d2q::testing {

/// Appends the bytes of a trivially copyable value.
template <typename T>
void put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

inline void put_string(std::string& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out += text;
}

class GgufBuilder {
 public:
  GgufBuilder& raw_value(std::string_view key, uint32_t type, std::string_view bytes) {
    put_string(metadata_, key);
    put(metadata_, type);
    metadata_ += bytes;
    ++n_keys;
    return *this;
  }
  template <typename T>
  GgufBuilder& value(std::string_view key, uint32_t type, T item) {
    std::string bytes;
    put(bytes, item);
    return raw_value(key, type, bytes);
  }
  GgufBuilder& u32(std::string_view key, uint32_t item) { return value(key, 4, item); }
  GgufBuilder& f32(std::string_view key, float item) { return value(key, 6, item); }
  GgufBuilder& boolean(std::string_view key, bool item) {
    return value(key, 7, static_cast<uint8_t>(item));
  }
  GgufBuilder& string(std::string_view key, std::string_view text) {
    std::string bytes;
    put_string(bytes, text);
    return raw_value(key, 8, bytes);
  }
  GgufBuilder& strings(std::string_view key, const std::vector<std::string>& items) {
    std::string bytes;
    put(bytes, uint32_t{8});
    put(bytes, uint64_t{items.size()});
    for (const std::string& item : items) put_string(bytes, item);
    return raw_value(key, 9, bytes);
  }
  GgufBuilder& i32_array(std::string_view key, const std::vector<int32_t>& items) {
    std::string bytes;
    put(bytes, uint32_t{5});
    put(bytes, uint64_t{items.size()});
    for (const int32_t item : items) put(bytes, item);
    return raw_value(key, 9, bytes);
  }
  /// `dims`: innermost first, as the file has them.
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      std::string_view bytes) {
    pad(data_, alignment);
    return tensor_at(name, dims, type, data_.size()).data(bytes);
  }
  GgufBuilder& tensor_at(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                         uint64_t offset) {
    put_string(tensors_, name);
    put(tensors_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t length : dims) put(tensors_, length);
    put(tensors_, type);
    put(tensors_, offset);
    ++n_tensors;
    return *this;
  }
  GgufBuilder& tensor_f32(std::string_view name, const std::vector<uint64_t>& dims,
                          const std::vector<float>& values) {
    return tensor(name, dims, 0,
                  {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
  GgufBuilder& data(std::string_view bytes) {
    data_ += bytes;
    return *this;
  }

  std::string build() const {
    std::string out;
    put(out, magic);
    put(out, version);
    put(out, n_tensors);
    put(out, n_keys);
    out += metadata_ + tensors_;
    pad(out, alignment);
    return out + data_;
  }

  uint32_t magic = 0x46554747;
  uint32_t version = 3;
  uint64_t n_tensors = 0;
  uint64_t n_keys = 0;
  uint64_t alignment = 32;

 private:
  static void pad(std::string& out, uint64_t unit) {
    out.append((unit - out.size() % unit) % unit, '\0');
  }

  std::string metadata_;
  std::string tensors_;
  std::string data_;
};

}  // namespace d2q::testing
