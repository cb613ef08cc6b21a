// Linears that a file holds as rows of one matrix (Phi-3's qkv_proj and gate_up_proj).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"

namespace d2q {

/// Rows [first, first + count) of the tensor `name`, HF's name.
struct FusedRows {
  std::string name;
  int64_t first = 0;
  int64_t count = 0;
};

/// Where the family's files may hold the tensor `name` ("model.layers.3.self_attn.k_proj.weight")
/// together with others; nullopt for tensors that always stand alone.
std::optional<FusedRows> fused_rows(const ModelConfig& config, const std::string& name);

/// The tensors whose rows make up `name`, in their order: the parts of a fused matrix, or `name`
/// alone.
std::vector<std::string> parts_of(const ModelConfig& config, const std::string& name);

}  // namespace d2q
