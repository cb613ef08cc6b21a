#include "base/error.h"
#include "format/gguf.h"
#include "format/json_file.h"
#include "text/pipeline_tokenizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_gguf.h"

namespace d2q {
namespace {

nlohmann::json tokenizer_document(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) return read_json_file(model / "tokenizer.json");
  if (model.extension() == ".json") return read_json_file(model);
  return gguf_tokenizer_json(GgufFile(model));
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model) {
  return std::make_unique<PipelineTokenizer>(
      read_tokenizer_json(tokenizer_document(model), model.string()));
}

}  // namespace d2q
