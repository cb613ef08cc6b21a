#include "cli/generate_options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>
#include <vector>

namespace d2q::cli {
namespace {

/// "ID=BIAS"; BIAS may be -inf.
std::pair<int32_t, double> parse_bias(const std::string& text) {
  const size_t equals = text.find('=');
  int32_t id = 0;
  const char* begin = text.data();
  const char* const end = begin + text.size();
  const auto parsed_id = std::from_chars(begin, begin + std::min(equals, text.size()), id);
  double bias = 0.0;
  bool valid =
      equals != std::string::npos && parsed_id.ec == std::errc() && parsed_id.ptr == begin + equals;
  if (valid) {
    const auto parsed = std::from_chars(begin + equals + 1, end, bias);
    valid = parsed.ec == std::errc() && parsed.ptr == end;
  }
  if (!valid) throw CLI::ValidationError("--logit-bias", "'" + text + "' is not ID=BIAS");
  return {id, bias};
}

}  // namespace

void add_generate_options(CLI::App& command, GenerateOptions& options) {
  SamplingOptions& sampling = options.sampling;
  command.add_option("-n,--max-tokens", options.max_tokens, "Tokens to generate at most")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  command
      .add_option("--temp", sampling.temperature,
                  "Temperature; 0 always takes the most likely token")
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Keep the K most likely tokens; 0 is all")
      ->capture_default_str();
  command
      .add_option("--top-p", sampling.top_p,
                  "Keep the fewest tokens whose probabilities reach P; 1 is all")
      ->capture_default_str();
  command
      .add_option("--min-p", sampling.min_p,
                  "Keep tokens with at least P times the best one's probability")
      ->capture_default_str();
  command
      .add_option("--repeat-penalty", sampling.repetition_penalty,
                  "Make tokens of the last --repeat-window less likely; 1 is off")
      ->capture_default_str();
  command
      .add_option("--frequency-penalty", sampling.frequency_penalty,
                  "Subtract from a logit for each time that the window has the token")
      ->capture_default_str();
  command
      .add_option("--presence-penalty", sampling.presence_penalty,
                  "Subtract from a logit once when the window has the token")
      ->capture_default_str();
  command
      .add_option("--repeat-window", sampling.repetition_window, "Tokens that count as repeated")
      ->capture_default_str();
  command
      .add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [&sampling](const std::vector<std::string>& biases) {
            for (const std::string& bias : biases) sampling.logit_bias.push_back(parse_bias(bias));
          },
          "ID=BIAS: add to the logit of a token, -inf forbids it; may be given again")
      ->take_all()
      ->expected(1);
  command.add_option("--seed", sampling.seed, "Seed of the sampling")->capture_default_str();
  command.add_option("--stop", options.stop_texts, "Text that ends the output; may be given again")
      ->take_all()
      ->expected(1);
}

}  // namespace d2q::cli
