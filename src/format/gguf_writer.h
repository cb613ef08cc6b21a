// Writes GGUF version 3: metadata and tensor descriptions first, then the tensors' bytes in the
// declared order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"
#include "format/gguf.h"

namespace d2q {

/// Equal calls give equal bytes. Nothing is left under `path` unless finish() returned. Wrong order
/// or sizes are InternalError, a full disk is Error{kIo}.
class GgufWriter {
 public:
  explicit GgufWriter(const std::filesystem::path& path) : file_(path) {}

  // Metadata and tensors are declared before the first write().
  void add_string(const std::string& key, std::string_view value);
  void add_u32(const std::string& key, uint32_t value);
  void add_f32(const std::string& key, float value);
  void add_bool(const std::string& key, bool value);
  void add_strings(const std::string& key, std::span<const std::string> values);
  void add_i32s(const std::string& key, std::span<const int32_t> values);
  void add_f32s(const std::string& key, std::span<const float> values);
  /// `shape` is outermost first: a weight is [out, in].
  void add_tensor(const std::string& name, GgufType type, const std::vector<int64_t>& shape);

  /// The whole of the next tensor in the declared order.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Gives the file its name and returns its size.
  uint64_t finish();

 private:
  struct Tensor {
    std::string name;
    uint64_t n_bytes = 0;
  };

  void begin_value(const std::string& key, uint32_t type);
  void begin_array(const std::string& key, uint32_t type, size_t count);
  void write_header();

  AtomicFile file_;
  std::string metadata_;  // encoded
  uint64_t n_keys_ = 0;
  std::string descriptions_;  // encoded
  std::vector<Tensor> tensors_;
  uint64_t data_size_ = 0;  // offset of the next tensor in the data section
  size_t next_ = 0;
  bool started_ = false;
};

}  // namespace d2q
