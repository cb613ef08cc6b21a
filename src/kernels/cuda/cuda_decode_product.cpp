#include "kernels/cuda/cuda_decode_product.h"

#include <algorithm>

#include "codec/packed_geometry.h"

namespace d2q {
namespace {

/// A quantized row of the widest input has to fit into shared memory beside the weights.
constexpr int64_t kMaxDecodeColumns = 32768;

int64_t blocks_of(int64_t cols) { return (cols + cuda::kInputBlock - 1) / cuda::kInputBlock; }

/// The sizes that a layout has.
cuda::PackedWeights packed_weights(const PackedLayout& layout) {
  const PackedGeometry geometry = geometry_of(layout);
  return {.sign_planes = layout.kind == PackedKind::kSignPlanes,
          .bits = layout.bits,
          .rows = layout.rows,
          .cols = layout.cols,
          .group_size = layout.group_size,
          .n_groups = geometry.n_groups,
          .group_steps = geometry.group_steps,
          .tile_steps = geometry.tile_steps,
          .tile_cells = blocks_of(layout.cols)};
}

bool is_fusable(const Linear& linear) { return linear.packed && is_decodable(*linear.packed); }

}  // namespace

cuda::Launch decode_launch(const CudaContext& context) {
  return {.stream = context.stream(),
          .n_processors = context.properties().multiProcessorCount,
          .overlap = context.properties().major >= 9};
}

cuda::PackedWeights packed_weights(const PackedTensor& packed) {
  cuda::PackedWeights weights = packed_weights(packed.layout);
  weights.codes = packed.codes.data<uint8_t>();
  if (packed.scales.empty()) {
    weights.cell_bytes = cuda::cell_bytes(weights);
    const int64_t n_cells = packed.layout.n_row_tiles() * weights.tile_cells;
    D2Q_CHECK(packed.codes.size() == n_cells * weights.cell_bytes, "{} bytes of cells",
              packed.codes.size());
  } else {
    D2Q_CHECK(packed.codes.size() == codes_bytes(packed.layout), "{} bytes of codes",
              packed.codes.size());
    D2Q_CHECK(packed.scales.size() == scales_count(packed.layout), "{} scales",
              packed.scales.size());
    weights.scales = &packed.scales.data<Half>()->bits;
  }
  return weights;
}

bool is_decodable(const PackedTensor& packed) {
  return packed.scales.empty() && packed.layout.cols <= kMaxDecodeColumns;
}

PackedTensor upload_packed_cuda(CudaContext& context, const PackedView& packed) {
  const auto put = [&](const void* host, size_t count, DType dtype) {
    const Tensor result = context.allocate(1, static_cast<int64_t>(count), dtype);
    if (count > 0) context.upload(host, result.raw(), result.n_bytes());
    return result;
  };
  PackedTensor as_stored{packed.layout, put(packed.codes.data(), packed.codes.size(), DType::kU8),
                         put(packed.scales.data(), packed.scales.size(), DType::kF16)};
  const cuda::PackedWeights weights = packed_weights(as_stored);
  if (!cuda::has_cells(weights)) return as_stored;
  const int64_t n_cells = packed.layout.n_row_tiles() * weights.tile_cells;
  PackedTensor cells{
      packed.layout, context.allocate(1, n_cells * cuda::cell_bytes(weights), DType::kU8), {}};
  check_cuda(cuda::launch_to_cells(weights, cells.codes.data<uint8_t>(), context.stream()),
             "rearranging packed weights");
  return cells;
}

size_t fusable(std::span<const Linear* const> linears) {
  if (linears.empty() || !is_fusable(*linears[0])) return 0;
  PackedLayout first = linears[0]->packed->layout;
  size_t count = 1;
  for (; count < std::min<size_t>(linears.size(), cuda::kMaxProductParts); ++count) {
    if (!is_fusable(*linears[count])) break;
    const PackedLayout& next = linears[count]->packed->layout;
    first.rows = next.rows;
    if (!(first == next)) break;
  }
  return count;
}

cuda::DecodeProduct decode_product(const Tensor& x, const NormParams* norm,
                                   std::span<const Linear* const> run, cuda::ProductOutput output,
                                   cuda::Curve curve, const Tensor& y, int64_t column) {
  const cuda::PackedWeights weights = packed_weights(*run[0]->packed);
  cuda::DecodeProduct product;
  product.n_parts = static_cast<int>(run.size());
  product.sign_planes = weights.sign_planes;
  product.bits = weights.bits;
  product.cols = static_cast<int>(weights.cols);
  product.n_blocks = static_cast<int>(blocks_of(weights.cols));
  product.cell_bytes = weights.cell_bytes;
  for (size_t i = 0; i < run.size(); ++i) {
    const PackedTensor& part = *run[i]->packed;
    product.parts[i] = {.cells = part.codes.data<uint8_t>(),
                        .bias = run[i]->bias.empty() ? nullptr : run[i]->bias.data<float>(),
                        .rows = static_cast<int>(part.layout.rows),
                        .first_column = static_cast<int>(column)};
    if (output != cuda::ProductOutput::kGated) column += part.layout.rows;
  }
  product.n_tokens = static_cast<int>(x.rows());
  product.x = x.data<float>();
  if (norm != nullptr) {
    product.norm = {.gain = norm->gain.data<float>(),
                    .shift = norm->shift.empty() ? nullptr : norm->shift.data<float>(),
                    .epsilon = norm->epsilon,
                    .subtract_mean = norm->kind == NormKind::kLayer};
  }
  product.output = output;
  product.curve = curve;
  product.y = y.data<float>();
  product.y_stride = y.cols();
  return product;
}

int64_t product_input_bytes(const cuda::DecodeProduct& product) {
  return int64_t{product.n_tokens} * product.n_blocks *
         static_cast<int64_t>(sizeof(cuda::QuantizedBlock));
}

void launch_product(const CudaContext& context, cuda::DecodeProduct product, void* memory) {
  D2Q_CHECK(product.n_tokens > 0 && product.n_tokens <= cuda::kMaxDecodeTokens, "{} tokens",
            product.n_tokens);
  const cuda::Launch launch = decode_launch(context);
  auto* input = static_cast<cuda::QuantizedBlock*>(memory);
  check_cuda(cuda::launch_quantize_input(product.x, product.norm, product.n_tokens, product.cols,
                                         input, launch),
             "quantizing activations");
  product.input = input;
  check_cuda(cuda::launch_decode_product(product, launch), "decoding product");
}

}  // namespace d2q
