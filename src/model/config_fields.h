// Checks that HF and GGUF configurations share.
#pragma once

#include <cstdint>
#include <string>

#include "model/config.h"

namespace d2q {

/// `value` when it lies in [low, high], else Error{kCorrupt} naming subject and field.
int64_t in_range(int64_t value, int64_t low, int64_t high, const std::string& subject,
                 const std::string& field);
double in_range(double value, double low, double high, const std::string& subject,
                const std::string& field);

/// The limits on every field and between fields; throws Error{kCorrupt}.
void check_config(const ModelConfig& config, const std::string& subject);

/// What LLaMA 3's scaling divides frequency i by.
double llama3_divisor(const ModelConfig& config, const RopeScaling& rope, int64_t i);

/// Adds a token id that may be the end of a text, once.
void add_eos_token(ModelConfig& config, int64_t token, const std::string& subject);

}  // namespace d2q
