// A GGUF file as a WeightSource.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "model/weight_source.h"

namespace d2q {

/// The row of HF's order that row `r` of a q or k projection is in files that interleave the two
/// halves of each head (Family::gguf_permutes_qk): rows 2j and 2j + 1 are j and j + head_dim/2.
int64_t hf_row_of(int64_t r, int64_t head_dim);

std::unique_ptr<WeightSource> open_gguf_model(const std::filesystem::path& path);

}  // namespace d2q
