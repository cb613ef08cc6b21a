// What a packed folder holds beside the blocks. Embedding and head may be packed codes: rounded,
// since no error of theirs is passed on by a solver.
#pragma once

#include <cstdint>
#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "model/input_embedding.h"
#include "quant/options.h"
#include "quant/output_folder.h"

namespace d2q {

/// weight [rows, cols] rounded to a uniform grid (METHOD.md §5.1, with the clip search) of `bits`
/// and `group_size` columns, a slice of rows at a time.
PackedLinear round_to_packed(Device& device, ThreadPool& pool, const Matrix<float>& weight,
                             int bits, int64_t group_size);

/// The embedding `fp` as the packed folder has it.
InputEmbedding stored_embedding(Device& device, ThreadPool& pool, const InputEmbedding& fp,
                                const QuantizeOptions& options);

/// Embedding, learned positions, final norm and, where it is not tied, the head of the prepared
/// model, whose values are read from `source` when they are written. `final_shift` is added to the
/// final norm's shift; may be empty.
std::vector<OutputFolder::RestTensor> packed_rest(Device& device, ThreadPool& pool,
                                                  const WeightSource& source,
                                                  const QuantizeOptions& options,
                                                  const std::vector<float>& final_shift);

}  // namespace d2q
