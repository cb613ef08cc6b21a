// From the blocks' output to what a model gives the tokens that follow, in slices of the head.
#pragma once

#include <span>

#include "model/transformer.h"

namespace d2q {

/// Rows whose logits are made at once: at most 64 MiB of them, and at most 1024 rows.
int64_t head_slice_rows(int64_t vocab_size);

/// losses[t] = -log p(targets[t]) after hidden's row t, in nats. hidden [T, hidden], T targets.
void token_losses(Device& device, Transformer& transformer, const Tensor& hidden,
                  std::span<const int32_t> targets, std::span<double> losses);

}  // namespace d2q
