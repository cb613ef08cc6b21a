// Any bytes as a tokenizer: a GGUF file by its first bytes, else a tokenizer.json, a NUL, and a
// text to encode. An Error, or ids of the vocabulary whose text is what their bytes say.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "format/json_file.h"
#include "input_file.h"
#include "text/pipeline_tokenizer.h"

namespace {

constexpr std::string_view kText =
    "It's 123 \xE4\xBD\xA0\xE5\xA5\xBD e\xCC\x81  <|s|>\r\n\t\xF0\x9F\x98\x80 \xFF word";

void check(const d2q::Tokenizer& tokenizer, std::string_view text) {
  for (const int32_t id : tokenizer.encode(text, false)) {
    if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
  }
  const auto ids = tokenizer.encode(text, true);
  const std::string decoded = tokenizer.decode(ids, true);
  d2q::Utf8Stream stream;
  if (stream.push(decoded) + stream.finish() != decoded) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    if (bytes.starts_with("GGUF")) {
      const d2q::fuzz::InputFile input(data, size);
      check(*d2q::load_tokenizer(input.path()), kText);
    } else {
      const size_t end = bytes.find('\0');
      const d2q::PipelineTokenizer tokenizer(
          d2q::read_tokenizer_json(d2q::parse_json(bytes.substr(0, end), "input"), "input"));
      check(tokenizer, end == std::string_view::npos ? kText : bytes.substr(end + 1));
    }
  } catch (const d2q::Error&) {
  }
  return 0;
}
