// Writes the token ids of a text file as little-endian int32, for comparison with other tokenizers.
//   d2q_tokenize MODEL TEXT IDS [REPEATS]
// Prints the number of ids and the speed of the best of REPEATS runs, by processor time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "text/tokenizer.h"

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::fprintf(stderr, "usage: %s MODEL TEXT IDS [REPEATS]\n", argv[0]);
    return 2;
  }
  try {
    const auto tokenizer = d2q::load_tokenizer(argv[1]);
    std::ifstream file(argv[2], std::ios::binary);
    if (!file) throw std::runtime_error(std::string(argv[2]) + ": cannot be read");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const int repeats = argc == 5 ? std::atoi(argv[4]) : 1;
    std::vector<int32_t> ids;
    double best = 1e30;
    for (int i = 0; i < repeats; ++i) {
      const std::clock_t start = std::clock();
      ids = tokenizer->encode(text, false);
      best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    }
    std::ofstream out(argv[3], std::ios::binary);
    out.write(reinterpret_cast<const char*>(ids.data()),
              static_cast<std::streamsize>(ids.size() * sizeof(int32_t)));
    if (!out.flush()) throw std::runtime_error(std::string(argv[3]) + ": cannot be written");
    std::printf("%zu ids, %.1f MB/s\n", ids.size(), static_cast<double>(text.size()) / best / 1e6);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
