#include "kernels/cuda/cuda_decode_product.h"

#include <algorithm>

#include "codec/packed_geometry.h"

namespace d2q {
namespace {

int64_t blocks_of(int64_t cols) { return (cols + cuda::kInputBlock - 1) / cuda::kInputBlock; }

bool is_fusable(const Linear& linear) {
  return linear.packed && cuda::is_decodable(packed_weights(*linear.packed));
}

}  // namespace

cuda::Launch decode_launch(const CudaContext& context) {
  return {.stream = context.stream(),
          .n_processors = context.properties().multiProcessorCount,
          .overlap = context.properties().major >= 9};
}

cuda::PackedWeights packed_weights(const PackedTensor& packed) {
  const PackedGeometry geometry = geometry_of(packed.layout);
  return {.codes = packed.codes.data<uint8_t>(),
          .scales = &packed.scales.data<Half>()->bits,
          .sign_planes = packed.layout.kind == PackedKind::kSignPlanes,
          .bits = packed.layout.bits,
          .rows = packed.layout.rows,
          .cols = packed.layout.cols,
          .group_size = packed.layout.group_size,
          .n_groups = geometry.n_groups,
          .group_steps = geometry.group_steps,
          .tile_steps = geometry.tile_steps};
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

int64_t ProductInput::input_bytes(int64_t n_tokens, int64_t cols) {
  return n_tokens == 1 ? 0 : n_tokens * blocks_of(cols) * (2 * cuda::kInputBlock + 12);
}

ProductInput::ProductInput(const CudaContext& context, const Tensor& x, const NormParams* norm,
                           void* memory)
    : context_(context), x_(x) {
  const int64_t n_tokens = x.rows(), n_blocks = blocks_of(x.cols());
  D2Q_CHECK(n_tokens > 0 && n_tokens <= cuda::kMaxDecodeTokens && x.dtype() == DType::kF32,
            "{} tokens", n_tokens);
  if (norm != nullptr) {
    norm_ = {.gain = norm->gain.data<float>(),
             .shift = norm->shift.empty() ? nullptr : norm->shift.data<float>(),
             .epsilon = norm->epsilon,
             .subtract_mean = norm->kind == NormKind::kLayer};
  }
  if (n_tokens == 1) return;
  quantized_.words = static_cast<unsigned*>(memory);
  quantized_.steps = reinterpret_cast<float*>(quantized_.words + n_blocks * n_tokens * 64);
  quantized_.totals = reinterpret_cast<int*>(quantized_.steps + n_blocks * n_tokens);
  check_cuda(
      cuda::launch_quantize_input(x.data<float>(), norm_, static_cast<int>(n_tokens),
                                  static_cast<int>(x.cols()), quantized_, decode_launch(context)),
      "quantizing activations");
}

void ProductInput::multiply(std::span<const Linear* const> run, cuda::ProductOutput output,
                            cuda::Curve curve, const Tensor& y, int64_t column) const {
  const cuda::PackedWeights weights = packed_weights(*run[0]->packed);
  cuda::DecodeProduct product;
  product.n_parts = static_cast<int>(run.size());
  product.sign_planes = weights.sign_planes;
  product.bits = weights.bits;
  product.cols = static_cast<int>(weights.cols);
  product.n_blocks = static_cast<int>(blocks_of(weights.cols));
  product.tile_steps = static_cast<int>(weights.tile_steps);
  product.n_groups = static_cast<int>(weights.n_groups);
  // One group: whatever its size, no block reaches a second one.
  product.group_halves = weights.n_groups == 1
                             ? 2 * product.n_blocks
                             : static_cast<int>(weights.group_size / (cuda::kInputBlock / 2));
  for (size_t i = 0; i < run.size(); ++i) {
    const cuda::PackedWeights part = packed_weights(*run[i]->packed);
    product.parts[i] = {.codes = part.codes,
                        .scales = part.scales,
                        .bias = run[i]->bias.empty() ? nullptr : run[i]->bias.data<float>(),
                        .rows = static_cast<int>(part.rows),
                        .first_column = static_cast<int>(column)};
    if (output != cuda::ProductOutput::kGated) column += part.rows;
  }
  product.n_tokens = static_cast<int>(x_.rows());
  if (product.n_tokens == 1) {
    product.x = x_.data<float>();
    product.norm = norm_;
  }
  product.input = quantized_;
  product.output = output;
  product.curve = curve;
  product.y = y.data<float>();
  product.y_stride = y.cols();
  check_cuda(cuda::launch_decode_product(product, decode_launch(context_)), "decoding product");
}

}  // namespace d2q
