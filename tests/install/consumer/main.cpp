#include <d2quant/language_model.h>
#include <d2quant/version.h>

#include <cstdio>
#include <stdexcept>

// Prints the version, and proves that the library links by asking for a model that is not there.
int main() {
  std::puts(d2q::kVersion);
  try {
    const d2q::LanguageModel model("missing-model");
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
    return 0;
  }
  return 1;
}
