#include <fmt/format.h>

#include <set>
#include <utility>

#include "base/error.h"
#include "format/safetensors.h"
#include "format/safetensors_header.h"

namespace d2q {
namespace {

/// The tensors with padding between them where the next would start unaligned.
std::vector<SafetensorsSpec> with_padding(std::vector<SafetensorsSpec> tensors,
                                          SafetensorsPadding padding) {
  std::set<std::string> names;
  std::vector<SafetensorsSpec> result;
  uint64_t offset = 0;
  for (SafetensorsSpec& tensor : tensors) {
    D2Q_CHECK(!is_safetensors_padding(tensor.name) && tensor.name != kSafetensorsMetadataKey,
              "tensor name '{}' is reserved", tensor.name);
    D2Q_CHECK(names.insert(tensor.name).second, "tensor '{}' declared twice", tensor.name);
    const uint64_t excess = offset % kSafetensorsAlignment;
    if (padding == SafetensorsPadding::kAligned && excess != 0) {
      const uint64_t n_bytes = kSafetensorsAlignment - excess;
      result.push_back({fmt::format("{}{}", kSafetensorsPaddingPrefix, result.size()),
                        SafetensorsType::kU8,
                        {static_cast<int64_t>(n_bytes)}});
      offset += n_bytes;
    }
    offset += safetensors_bytes(tensor.type, tensor.shape, tensor.name);
    result.push_back(std::move(tensor));
  }
  return result;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<SafetensorsSpec> tensors,
                                     const std::map<std::string, std::string>& metadata,
                                     SafetensorsPadding padding)
    : file_(path), tensors_(with_padding(std::move(tensors), padding)) {
  file_.write(make_safetensors_header(tensors_, metadata));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  if (next_ < tensors_.size() && is_safetensors_padding(tensors_[next_].name)) {
    file_.write(std::string(static_cast<size_t>(tensors_[next_].shape[0]), '\0'));
    ++next_;
  }
  D2Q_CHECK(next_ < tensors_.size() && tensors_[next_].name == name,
            "{}: tensor '{}' written, '{}' is next", file_.path().string(), name,
            next_ < tensors_.size() ? tensors_[next_].name : "none");
  const uint64_t expected = safetensors_bytes(tensors_[next_].type, tensors_[next_].shape, name);
  D2Q_CHECK(bytes.size() == expected, "tensor '{}': {} bytes, declared {}", name, bytes.size(),
            expected);
  file_.write(bytes);
  ++next_;
}

void SafetensorsWriter::finish() {
  D2Q_CHECK(next_ == tensors_.size(), "{}: {} of {} tensors written", file_.path().string(), next_,
            tensors_.size());
  file_.finish();
}

}  // namespace d2q
