// The walk over a GGUF file's header. Used by GgufFile's constructor alone.
#pragma once

#include <string>

#include "format/gguf.h"

namespace d2q {

/// Fills a GgufFile whose bytes are mapped. Every read is checked against the end of the file
/// before it happens, every count against its limit.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file);
  void parse();

 private:
  template <typename T>
  T read(const char* what);
  std::span<const std::byte> take(uint64_t n_bytes, const char* what);
  std::string_view read_string(uint64_t limit, const char* what);
  void skip_items(GgufFile::ValueType type, uint64_t count, const std::string& key);
  void parse_header();
  void parse_metadata();
  void parse_tensor(std::vector<uint64_t>& offsets);
  void place_tensors(const std::vector<uint64_t>& offsets);
  uint64_t alignment() const;

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  std::string subject_;
  uint64_t position_ = 0;
  uint64_t n_tensors_ = 0;
  uint64_t n_keys_ = 0;
};

}  // namespace d2q
