#include "format/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/checked.h"

namespace d2q {
namespace {

using nlohmann::json;

// header -> tensor -> shape: no value lies deeper.
constexpr int kMaxDepth = 3;

/// Watches the parser. A plain parse would keep the last of two equal keys, and would build
/// whatever nesting or array length a hostile header asks for before anyone looks at it.
class HeaderGuard {
 public:
  explicit HeaderGuard(const std::string& subject) : subject_(subject) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) {
      fail(ErrorCode::kCorrupt, "{}: header nested deeper than {} levels; corrupt file?", subject_,
           kMaxDepth);
    }
    switch (event) {
      case json::parse_event_t::object_start:
        n_items_ = 0;
        (depth == 0 ? names_ : fields_).clear();
        break;
      case json::parse_event_t::array_start:
        n_items_ = 0;
        break;
      case json::parse_event_t::key: {
        auto& seen = depth == 1 ? names_ : fields_;
        if (!seen.insert(parsed.get<std::string>()).second) {
          fail(ErrorCode::kCorrupt, "{}: '{}' appears twice in the header; corrupt file?", subject_,
               parsed.get<std::string>());
        }
        if (seen.size() > kMaxSafetensorsTensors) {
          fail(ErrorCode::kCorrupt, "{}: more than {} entries in the header; corrupt file?",
               subject_, kMaxSafetensorsTensors);
        }
        break;
      }
      case json::parse_event_t::value:
        if (++n_items_ > kMaxSafetensorsTensors) {
          fail(ErrorCode::kCorrupt, "{}: list of more than {} values in the header; corrupt file?",
               subject_, kMaxSafetensorsTensors);
        }
        break;
      default:
        break;
    }
    return true;
  }

 private:
  const std::string& subject_;
  std::set<std::string> names_;   // of the header
  std::set<std::string> fields_;  // of the tensor or of the metadata being read
  size_t n_items_ = 0;
};

json parse_guarded(std::string_view text, const std::string& subject) {
  HeaderGuard guard(subject);
  try {
    json header = json::parse(text, [&](int depth, json::parse_event_t event, json& parsed) {
      return guard(depth, event, parsed);
    });
    if (header.is_object()) return header;
  } catch (const json::exception&) {
  }
  fail(ErrorCode::kCorrupt, "{}: the header is not a JSON object; corrupt file?", subject);
}

int64_t read_count(const json& value, const std::string& context) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    fail(ErrorCode::kCorrupt, "{}: a size that is not a whole number below 2^63; corrupt file?",
         context);
  }
  return value.get<int64_t>();
}

const json& read_list(const json& entry, const char* field, size_t max_items,
                      const std::string& context) {
  const auto found = entry.find(field);
  if (found == entry.end() || !found->is_array() || found->size() > max_items) {
    fail(ErrorCode::kCorrupt, "{}: '{}' is not a list of at most {} numbers; corrupt file?",
         context, field, max_items);
  }
  return *found;
}

SafetensorsTensor read_tensor(const std::string& name, const json& entry,
                              std::span<const std::byte> data, const std::string& subject) {
  const std::string context = subject + ": tensor '" + name + "'";
  SafetensorsTensor tensor;
  tensor.name = name;
  if (!entry.is_object())
    fail(ErrorCode::kCorrupt, "{}: not described by an object; corrupt file?", context);
  const auto type_name = entry.find("dtype");
  if (type_name == entry.end() || !type_name->is_string()) {
    fail(ErrorCode::kCorrupt, "{}: no 'dtype'; corrupt file?", context);
  }
  const auto type = parse_safetensors_type(type_name->get_ref<const std::string&>());
  if (!type) {
    fail(ErrorCode::kUnsupported, "{}: dtype '{}' is not handled", context,
         type_name->get_ref<const std::string&>());
  }
  tensor.type = *type;
  for (const json& length : read_list(entry, "shape", kMaxSafetensorsDimensions, context)) {
    tensor.shape.push_back(read_count(length, context));
  }
  const json& offsets = read_list(entry, "data_offsets", 2, context);
  if (offsets.size() != 2) {
    fail(ErrorCode::kCorrupt, "{}: {} 'data_offsets', expected 2; corrupt file?", context,
         offsets.size());
  }
  const auto begin = static_cast<uint64_t>(read_count(offsets[0], context));
  const auto end = static_cast<uint64_t>(read_count(offsets[1], context));
  if (begin > end || end > data.size()) {
    fail(ErrorCode::kCorrupt, "{}: bytes {} to {}, the data ends at {}; incomplete download?",
         context, begin, end, data.size());
  }
  const uint64_t n_bytes = safetensors_bytes(tensor.type, tensor.shape, context);
  if (n_bytes != end - begin) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes for a shape that needs {}; corrupt file?", context,
         end - begin, n_bytes);
  }
  tensor.bytes = data.subspan(begin, n_bytes);
  return tensor;
}

}  // namespace

uint64_t safetensors_bytes(SafetensorsType type, const std::vector<int64_t>& shape,
                           const std::string& subject) {
  auto n_bytes = static_cast<uint64_t>(size_of(type));
  for (const int64_t length : shape)
    n_bytes = checked_mul(n_bytes, static_cast<uint64_t>(length), subject);
  return n_bytes;
}

SafetensorsHeader parse_safetensors_header(std::string_view text, std::span<const std::byte> data,
                                           const std::string& subject) {
  const json header = parse_guarded(text, subject);
  SafetensorsHeader result;
  for (const auto& [name, entry] : header.items()) {
    if (name != kSafetensorsMetadataKey) {
      result.tensors.push_back(read_tensor(name, entry, data, subject));
      continue;
    }
    if (!entry.is_object())
      fail(ErrorCode::kCorrupt, "{}: __metadata__ is not an object; corrupt file?", subject);
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) {
        fail(ErrorCode::kCorrupt, "{}: __metadata__ entry '{}' is not a string; corrupt file?",
             subject, key);
      }
      result.metadata.emplace(key, value.get<std::string>());
    }
  }
  // Empty tensors first among those that start at one byte, so that they do not count as overlaps.
  std::stable_sort(result.tensors.begin(), result.tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  for (size_t i = 1; i < result.tensors.size(); ++i) {
    const SafetensorsTensor& before = result.tensors[i - 1];
    const SafetensorsTensor& after = result.tensors[i];
    if (before.bytes.data() + before.bytes.size() > after.bytes.data()) {
      fail(ErrorCode::kCorrupt, "{}: tensors '{}' and '{}' overlap; corrupt file?", subject,
           before.name, after.name);
    }
  }
  return result;
}

std::string make_safetensors_header(const std::vector<SafetensorsSpec>& tensors,
                                    const std::map<std::string, std::string>& metadata) {
  // Written piece by piece: the order is the caller's, and an ordered map would be quadratic.
  std::string text = "{";
  if (!metadata.empty()) {
    text += fmt::format("{}:{}", json(kSafetensorsMetadataKey).dump(), json(metadata).dump());
  }
  uint64_t offset = 0;
  for (const SafetensorsSpec& tensor : tensors) {
    const uint64_t n_bytes = safetensors_bytes(tensor.type, tensor.shape, tensor.name);
    const uint64_t end = checked_add(offset, n_bytes, tensor.name);
    text += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        text.size() > 1 ? "," : "", json(tensor.name).dump(),
                        to_string(tensor.type), fmt::join(tensor.shape, ","), offset, end);
    offset = end;
  }
  text += "}";
  const uint64_t unpadded = sizeof(uint64_t) + text.size();
  text.append((kSafetensorsAlignment - unpadded % kSafetensorsAlignment) % kSafetensorsAlignment,
              ' ');
  const uint64_t length = text.size();
  std::string result(sizeof(length), '\0');
  std::memcpy(result.data(), &length, sizeof(length));
  return result + text;
}

}  // namespace d2q
