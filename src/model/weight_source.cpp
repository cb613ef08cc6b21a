#include "model/weight_source.h"

#include "base/error.h"
#include "model/weight_source_gguf.h"
#include "model/weight_source_hf.h"

namespace d2q {

std::unique_ptr<WeightSource> open_model(const std::filesystem::path& path) {
  std::error_code status;
  if (!std::filesystem::exists(path, status)) {
    fail(ErrorCode::kNotFound, "{}: no such file or folder", path.string());
  }
  if (std::filesystem::is_directory(path, status)) return open_hf_model(path);
  return open_gguf_model(path);
}

}  // namespace d2q
