#include "format/packed_container.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "base/error.h"

namespace d2q {
namespace {

constexpr std::string_view kPlanes = "planes";
constexpr std::string_view kUniform = "uniform";

/// Takes " <key>=<digits>" off the front of `rest`.
bool take_number(std::string_view& rest, std::string_view key, int64_t& value) {
  if (!rest.starts_with(' ')) return false;
  rest.remove_prefix(1);
  if (!rest.starts_with(key) || rest.size() <= key.size() || rest[key.size()] != '=') return false;
  rest.remove_prefix(key.size() + 1);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (error != std::errc() || value < 0) return false;
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  return true;
}

void check_part(const SafetensorsTensor* tensor, const std::string& name, SafetensorsType type,
                int64_t count, const std::string& subject) {
  if (tensor == nullptr) {
    fail(ErrorCode::kCorrupt, "{}: tensor '{}' of a packed matrix is missing; incomplete folder?",
         subject, name);
  }
  if (tensor->type != type || tensor->shape.size() != 1 || tensor->shape[0] != count) {
    fail(ErrorCode::kCorrupt,
         "{}: tensor '{}' is not {}[{}], which its layout asks for; corrupt file?", subject, name,
         to_string(type), count);
  }
}

}  // namespace

std::string packed_codes_name(const std::string& weight) { return weight + ".codes"; }
std::string packed_scales_name(const std::string& weight) { return weight + ".scales"; }
std::string packed_layout_key(const std::string& weight) { return weight + ".layout"; }

std::string packed_layout_to_string(const PackedLayout& layout) {
  return fmt::format("{} b={} rows={} cols={} group={}",
                     layout.kind == PackedKind::kSignPlanes ? kPlanes : kUniform, layout.bits,
                     layout.rows, layout.cols, layout.group_size);
}

PackedLayout parse_packed_layout(std::string_view text, const std::string& subject) {
  PackedLayout layout;
  std::string_view rest = text;
  int64_t bits = 0;
  const bool planes = rest.starts_with(kPlanes);
  const bool known = planes || rest.starts_with(kUniform);
  if (known) rest.remove_prefix(planes ? kPlanes.size() : kUniform.size());
  if (!known || !take_number(rest, "b", bits) || bits > 8 ||
      !take_number(rest, "rows", layout.rows) || !take_number(rest, "cols", layout.cols) ||
      !take_number(rest, "group", layout.group_size) || !rest.empty()) {
    fail(ErrorCode::kCorrupt,
         "{}: packed layout '{}', expected e.g. 'planes b=2 rows=576 cols=1536 group=64'", subject,
         text.substr(0, 100));
  }
  layout.kind = planes ? PackedKind::kSignPlanes : PackedKind::kUniform;
  layout.bits = static_cast<int>(bits);
  try {
    validate(layout, subject);
  } catch (const Error& error) {  // a file's mistake here, not an option's
    throw Error(ErrorCode::kCorrupt, error.what());
  }
  return layout;
}

std::optional<PackedView> find_packed(const SafetensorsFolder& folder, const std::string& weight) {
  const std::string codes_name = packed_codes_name(weight);
  const std::string scales_name = packed_scales_name(weight);
  const SafetensorsTensor* codes = folder.find(codes_name);
  if (codes == nullptr) return std::nullopt;
  const std::string subject = folder.file_of(*codes).string() + ": '" + weight + "'";
  const std::string* text = folder.find_metadata(packed_layout_key(weight));
  if (text == nullptr) {
    fail(ErrorCode::kCorrupt, "{}: no metadata entry '{}'; corrupt file?", subject,
         packed_layout_key(weight));
  }
  PackedView view;
  view.layout = parse_packed_layout(*text, subject);
  const SafetensorsTensor* scales = folder.find(scales_name);
  check_part(codes, codes_name, SafetensorsType::kU8, codes_bytes(view.layout), subject);
  check_part(scales, scales_name, SafetensorsType::kF16, scales_count(view.layout), subject);
  // Files of this program are aligned; one that is not may be another's and cannot be viewed as is.
  if (reinterpret_cast<uintptr_t>(codes->bytes.data()) % kSafetensorsAlignment != 0 ||
      reinterpret_cast<uintptr_t>(scales->bytes.data()) % alignof(Half) != 0) {
    fail(ErrorCode::kUnsupported,
         "{}: the packed codes do not start at a multiple of {} bytes; rewritten by another tool?",
         subject, kSafetensorsAlignment);
  }
  view.codes = {reinterpret_cast<const uint8_t*>(codes->bytes.data()), codes->bytes.size()};
  view.scales = {reinterpret_cast<const Half*>(scales->bytes.data()),
                 scales->bytes.size() / sizeof(Half)};
  return view;
}

std::vector<SafetensorsSpec> packed_specs(const std::string& weight, const PackedLayout& layout) {
  return {{packed_codes_name(weight), SafetensorsType::kU8, {codes_bytes(layout)}},
          {packed_scales_name(weight), SafetensorsType::kF16, {scales_count(layout)}}};
}

}  // namespace d2q
