#include "format/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/checked.h"

namespace d2q {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF" as a little-endian word
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kLastValueType = 12;
constexpr uint32_t kArrayType = 9;

/// Bytes of a metadata item, indexed by ValueType; 0 for strings and arrays.
constexpr uint64_t kItemBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

bool is_known(uint32_t type) {
  return to_string(static_cast<GgufType>(type)) != std::string_view();
}

}  // namespace

GgufParser::GgufParser(GgufFile& file)
    : file_(file), bytes_(file.file_.bytes()), subject_(file.path().string()) {}

std::span<const std::byte> GgufParser::take(uint64_t n_bytes, const char* what) {
  if (n_bytes > bytes_.size() - position_) {
    fail(ErrorCode::kCorrupt,
         "{}: {} needs {} bytes at offset {}, file ends at {}; incomplete download?", subject_,
         what, n_bytes, position_, bytes_.size());
  }
  const auto taken = bytes_.subspan(position_, n_bytes);
  position_ += n_bytes;
  return taken;
}

template <typename T>
T GgufParser::read(const char* what) {
  T value;
  std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
  return value;
}

std::string_view GgufParser::read_string(uint64_t limit, const char* what) {
  const auto length = read<uint64_t>(what);
  if (length > limit) {
    fail(ErrorCode::kCorrupt,
         "{}: {} of {} bytes at offset {}, at most {} are allowed; corrupt file?", subject_, what,
         length, position_, limit);
  }
  const auto text = take(length, what);
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

void GgufParser::parse() {
  parse_header();
  for (uint64_t i = 0; i < n_keys_; ++i) parse_metadata();
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < n_tensors_; ++i) parse_tensor(offsets);
  place_tensors(offsets);
}

void GgufParser::parse_header() {
  if (read<uint32_t>("magic number") != kMagic) {
    fail(ErrorCode::kCorrupt, "{}: does not start with 'GGUF'; not a GGUF file?", subject_);
  }
  file_.version_ = read<uint32_t>("version");
  if (file_.version_ != 2 && file_.version_ != 3) {
    const bool swapped = (file_.version_ & 0xffffu) == 0;
    fail(ErrorCode::kUnsupported, "{}: GGUF version {}, versions 2 and 3 are read{}", subject_,
         file_.version_, swapped ? "; a big-endian file?" : "");
  }
  n_tensors_ = read<uint64_t>("tensor count");
  n_keys_ = read<uint64_t>("metadata count");
  if (n_tensors_ > kMaxGgufTensors || n_keys_ > kMaxGgufKeys) {
    fail(ErrorCode::kCorrupt,
         "{}: {} tensors and {} metadata keys, at most {} and {} are allowed; corrupt file?",
         subject_, n_tensors_, n_keys_, kMaxGgufTensors, kMaxGgufKeys);
  }
}

void GgufParser::skip_items(GgufFile::ValueType type, uint64_t count, const std::string& key) {
  if (type == GgufFile::ValueType::kString) {
    for (uint64_t i = 0; i < count; ++i) read_string(kMaxGgufStringBytes, "metadata string");
    return;
  }
  const uint64_t item_bytes = kItemBytes[static_cast<size_t>(type)];
  take(checked_mul(count, item_bytes, subject_), "metadata value");
  if (type != GgufFile::ValueType::kBool) return;
  for (const std::byte value : bytes_.subspan(position_ - count, count)) {
    if (std::to_integer<unsigned>(value) > 1) {
      fail(ErrorCode::kCorrupt, "{}: key '{}': boolean with value {}; corrupt file?", subject_, key,
           std::to_integer<unsigned>(value));
    }
  }
}

void GgufParser::parse_metadata() {
  std::string key(read_string(kMaxGgufKeyBytes, "metadata key"));
  auto type = read<uint32_t>("metadata type");
  GgufFile::Value value;
  if (type == kArrayType) {
    value.is_array = true;
    type = read<uint32_t>("array type");
    value.count = read<uint64_t>("array length");
    if (type == kArrayType) {
      fail(ErrorCode::kUnsupported, "{}: key '{}': an array of arrays, which is not handled",
           subject_, key);
    }
    if (value.count > kMaxGgufArrayItems) {
      fail(ErrorCode::kCorrupt,
           "{}: key '{}': array of {} items, at most {} are allowed; corrupt file?", subject_, key,
           value.count, kMaxGgufArrayItems);
    }
  }
  if (type > kLastValueType) {
    fail(ErrorCode::kCorrupt,
         "{}: key '{}': value type {}, the last known one is {}; corrupt file?", subject_, key,
         type, kLastValueType);
  }
  value.type = static_cast<GgufFile::ValueType>(type);
  const uint64_t begin = position_;
  skip_items(value.type, value.count, key);
  value.bytes = bytes_.subspan(begin, position_ - begin);
  if (!file_.values_.emplace(key, value).second) {
    fail(ErrorCode::kCorrupt, "{}: metadata key '{}' appears twice; corrupt file?", subject_, key);
  }
  file_.keys_.push_back(std::move(key));
}

void GgufParser::parse_tensor(std::vector<uint64_t>& offsets) {
  GgufTensor tensor;
  tensor.name = read_string(kMaxGgufKeyBytes, "tensor name");
  const auto n_dimensions = read<uint32_t>("tensor dimensions");
  if (n_dimensions == 0 || n_dimensions > kMaxGgufDimensions) {
    fail(ErrorCode::kCorrupt, "{}: tensor '{}' has {} dimensions, expected 1 to {}; corrupt file?",
         subject_, tensor.name, n_dimensions, kMaxGgufDimensions);
  }
  uint64_t n_elements = 1;
  for (uint32_t i = 0; i < n_dimensions; ++i) {
    const auto length = read<uint64_t>("tensor shape");
    n_elements = checked_mul(n_elements, length, subject_ + ": tensor '" + tensor.name + "'");
    tensor.shape.push_back(static_cast<int64_t>(length));
  }
  if (n_elements == 0 || n_elements > static_cast<uint64_t>(INT64_MAX)) {
    fail(ErrorCode::kCorrupt, "{}: tensor '{}' has {} elements; corrupt file?", subject_,
         tensor.name, n_elements);
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());  // the file has the innermost first
  const auto type = read<uint32_t>("tensor type");
  if (!is_known(type)) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor '{}' has quantization type {}, which is not handled; convert the model to "
         "Q8_0 or F16",
         subject_, tensor.name, type);
  }
  tensor.type = static_cast<GgufType>(type);
  if (tensor.row_length() % block_weights(tensor.type) != 0) {
    fail(ErrorCode::kCorrupt,
         "{}: tensor '{}' has rows of {} weights, type {} needs a multiple of {}; corrupt file?",
         subject_, tensor.name, tensor.row_length(), to_string(tensor.type),
         block_weights(tensor.type));
  }
  offsets.push_back(read<uint64_t>("tensor offset"));
  if (!file_.index_.emplace(tensor.name, file_.tensors_.size()).second) {
    fail(ErrorCode::kCorrupt, "{}: tensor '{}' appears twice; corrupt file?", subject_,
         tensor.name);
  }
  file_.tensors_.push_back(std::move(tensor));
}

uint64_t GgufParser::alignment() const {
  const auto stored = file_.integer("general.alignment");
  if (!stored) return kDefaultAlignment;
  const auto value = static_cast<uint64_t>(*stored);
  if (*stored <= 0 || value > kMaxGgufAlignment || !std::has_single_bit(value)) {
    fail(ErrorCode::kCorrupt,
         "{}: general.alignment is {}, expected a power of two up to {}; corrupt file?", subject_,
         *stored, kMaxGgufAlignment);
  }
  return value;
}

void GgufParser::place_tensors(const std::vector<uint64_t>& offsets) {
  const uint64_t unit = alignment();
  const uint64_t data_begin = checked_add(position_, unit - 1, subject_) / unit * unit;
  for (size_t i = 0; i < offsets.size(); ++i) {
    GgufTensor& tensor = file_.tensors_[i];
    const std::string context = fmt::format("{}: tensor '{}'", subject_, tensor.name);
    const uint64_t n_blocks =
        static_cast<uint64_t>(tensor.n_elements() / block_weights(tensor.type));
    const uint64_t n_bytes =
        checked_mul(n_blocks, static_cast<uint64_t>(block_bytes(tensor.type)), context);
    const uint64_t begin = checked_add(data_begin, offsets[i], context);
    if (offsets[i] % unit != 0 || checked_add(begin, n_bytes, context) > bytes_.size()) {
      fail(ErrorCode::kCorrupt,
           "{}: {} bytes at offset {}, file ends at {} (alignment {}); incomplete "
           "download?",
           context, n_bytes, begin, bytes_.size(), unit);
    }
    tensor.bytes = bytes_.subspan(begin, n_bytes);
  }
  std::vector<size_t> order(offsets.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return offsets[a] < offsets[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& before = file_.tensors_[order[i - 1]];
    const GgufTensor& after = file_.tensors_[order[i]];
    if (before.bytes.data() + before.bytes.size() > after.bytes.data()) {
      fail(ErrorCode::kCorrupt, "{}: tensors '{}' and '{}' overlap; corrupt file?", subject_,
           before.name, after.name);
    }
  }
}

}  // namespace d2q
