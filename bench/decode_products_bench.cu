// Products of packed weights with a few tokens on a GPU, at the shapes of an 8B model, against a
// device-to-device copy in the same run: every way of cutting them, with and without kernels that
// overlap. Weights rotate through a pool larger than the L2 cache; launches are replayed as a
// graph.
//   d2q_decode_products_bench [pool MiB, default 600]
// A line for each measurement, then the best cut of each case.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_decode_kernels.h"

namespace {

using namespace d2q::cuda;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

/// Random bits, or f16 values from 0.01 to 0.02.
__global__ void fill(unsigned* words, size_t n, bool scales) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned v = static_cast<unsigned>(i) * 2654435761u + 12345u;
  v ^= v >> 15, v *= 2246822519u, v ^= v >> 13, v *= 3266489917u, v ^= v >> 16;
  words[i] = scales ? (v & 0x03ff03ffu) | 0x20002000u : v;
}

/// Reads all of it: what a product could reach that did nothing else.
__global__ void read_all(const uint4* words, size_t n, unsigned* out) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  unsigned sum = 0;
#pragma unroll 8
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const uint4 v = __ldcs(words + i);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *out = sum;
}

struct Shape {
  const char* name;
  std::vector<int> rows;
  int cols;
  ProductOutput output;
  bool normed;
};
struct Format {
  const char* name;
  bool sign_planes;
  int bits;
  int group;
};

struct Bench {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  int n_processors = 0;
  bool can_overlap = false;
  unsigned char* codes = nullptr;
  unsigned char* scales = nullptr;
  size_t pool = 0, scale_pool = 0;
  float* x = nullptr;
  float* y = nullptr;
  float* gain = nullptr;
  QuantizedInput input;
  double copy = 0.0;  // bytes a second

  template <typename Work>
  double seconds(int n_times, const Work& work) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    work();
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    double best = 1e9;
    for (int time = 0; time < n_times; ++time) {
      check(cudaEventRecord(begin, stream), "event");
      check(cudaGraphLaunch(exec, stream), "launch");
      check(cudaEventRecord(end, stream), "event");
      check(cudaEventSynchronize(end), "run");
      float ms = 0.0f;
      check(cudaEventElapsedTime(&ms, begin, end), "event");
      if (time > 0 && ms * 1e-3 < best) best = ms * 1e-3;
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return best;
  }

  void measure_copy() {
    const size_t half = pool / 2;
    const double t = seconds(6, [&] {
      for (int i = 0; i < 4; ++i) {
        check(cudaMemcpyAsync(codes + half, codes, half, cudaMemcpyDeviceToDevice, stream), "copy");
      }
    });
    copy = 4 * 2.0 * static_cast<double>(half) / t;
    const double r = seconds(6, [&] {
      for (int i = 0; i < 4; ++i) {
        read_all<<<static_cast<unsigned>(4 * n_processors), 512, 0, stream>>>(
            reinterpret_cast<const uint4*>(codes), pool / 16, reinterpret_cast<unsigned*>(y));
      }
    });
    std::printf("copy %.0f GB/s (read and written), read only %.0f GB/s\n", copy * 1e-9,
                4.0 * static_cast<double>(pool) / r * 1e-9);
    fill<<<static_cast<unsigned>(pool / 4 / 256), 256, 0, stream>>>(
        reinterpret_cast<unsigned*>(codes), pool / 4, false);
  }

  /// Seconds of one product, and its bytes of weights.
  double measure(const Shape& shape, const Format& format, int tokens, const ProductCut& cut,
                 bool overlap, double& bytes) {
    DecodeProduct p;
    p.n_parts = static_cast<int>(shape.rows.size());
    p.sign_planes = format.sign_planes;
    p.bits = format.bits;
    p.cols = shape.cols;
    p.n_blocks = (shape.cols + kInputBlock - 1) / kInputBlock;
    p.tile_steps = (shape.cols + 31) / 32;
    p.n_groups = (shape.cols + format.group - 1) / format.group;
    p.group_halves = format.group / 64;
    p.n_tokens = tokens;
    p.output = shape.output;
    p.y = y;
    if (tokens == 1) p.x = x;
    if (tokens == 1 && shape.normed) p.norm = {gain, nullptr, 1e-5f, false};
    p.input = input;
    const Launch launch = {stream, n_processors, overlap && can_overlap};
    const int n_params = format.sign_planes ? format.bits : 2;
    size_t code_bytes = 0, scale_bytes = 0, total_rows = 0;
    for (const int rows : shape.rows) total_rows += static_cast<size_t>(rows);
    code_bytes =
        total_rows * static_cast<size_t>(shape.cols) * static_cast<size_t>(format.bits) / 8;
    scale_bytes = total_rows * static_cast<size_t>(p.n_groups) * static_cast<size_t>(n_params) * 2;
    bytes = static_cast<double>(code_bytes + scale_bytes);
    p.y_stride =
        shape.output == ProductOutput::kGated ? shape.rows[0] : static_cast<int64_t>(total_rows);
    const size_t slots = pool / code_bytes, scale_slots = scale_pool / scale_bytes;
    const int n = static_cast<int>(slots < 4 ? 4 : slots > 256 ? 256 : slots);
    const double t = seconds(4, [&] {
      for (int i = 0; i < n; ++i) {
        const unsigned char* c = codes + static_cast<size_t>(i) % slots * code_bytes;
        const unsigned char* s = scales + static_cast<size_t>(i) % scale_slots * scale_bytes;
        int column = 0;
        for (size_t part = 0; part < shape.rows.size(); ++part) {
          const auto rows = static_cast<size_t>(shape.rows[part]);
          p.parts[part] = {c, reinterpret_cast<const unsigned short*>(s), nullptr,
                           static_cast<int>(rows), column};
          c += rows * static_cast<size_t>(shape.cols) * static_cast<size_t>(format.bits) / 8;
          s += rows * static_cast<size_t>(p.n_groups) * static_cast<size_t>(n_params) * 2;
          column += static_cast<int>(rows);
        }
        if (tokens > 1) {
          check(launch_quantize_input(x, {gain, nullptr, 1e-5f, false}, tokens, shape.cols, input,
                                      launch),
                "quantize");
        }
        check(launch_decode_product(p, launch, cut), "product");
      }
    });
    return t / n;
  }
};

const Shape kShapes[] = {
    {"q,k,v 6144x4096", {4096, 1024, 1024}, 4096, ProductOutput::kStore, true},
    {"o 4096x4096", {4096}, 4096, ProductOutput::kAdd, false},
    {"k 1024x4096", {1024}, 4096, ProductOutput::kStore, true},
    {"gate,up 2x14336x4096", {14336, 14336}, 4096, ProductOutput::kGated, true},
    {"down 4096x14336", {4096}, 14336, ProductOutput::kAdd, false},
    {"head 128256x4096", {128256}, 4096, ProductOutput::kStore, true},
};
const Format kFormats[] = {{"planes2 g128", true, 2, 128},
                           {"planes2 g64", true, 2, 64},
                           {"uniform2 g128", false, 2, 128},
                           {"planes3 g128", true, 3, 128},
                           {"uniform4 g128", false, 4, 128}};
const ProductCut kCuts[] = {{16, 1}, {8, 2}, {8, 1}, {4, 4}};

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  bench.pool = static_cast<size_t>(argc > 1 ? std::atoi(argv[1]) : 600) << 20;
  bench.scale_pool = bench.pool / 4;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "device");
  bench.n_processors = properties.multiProcessorCount;
  bench.can_overlap = properties.major >= 9;
  std::printf("%s, %d multiprocessors, L2 %d MiB\n", properties.name, bench.n_processors,
              properties.l2CacheSize >> 20);
  check(cudaStreamCreateWithFlags(&bench.stream, cudaStreamNonBlocking), "stream");
  check(cudaEventCreate(&bench.begin), "event");
  check(cudaEventCreate(&bench.end), "event");
  constexpr size_t kFloats = 16 * 131072;
  check(cudaMalloc(&bench.codes, bench.pool), "memory");
  check(cudaMalloc(&bench.scales, bench.scale_pool), "memory");
  check(cudaMalloc(&bench.x, kFloats * 4), "memory");
  check(cudaMalloc(&bench.y, kFloats * 4), "memory");
  check(cudaMalloc(&bench.gain, kFloats * 4), "memory");
  check(cudaMalloc(&bench.input.words, 16 * 16384 * 2), "memory");
  check(cudaMalloc(&bench.input.steps, 16 * 128 * 4), "memory");
  check(cudaMalloc(&bench.input.totals, 16 * 128 * 8), "memory");
  const auto random = [&](void* words, size_t bytes) {
    fill<<<static_cast<unsigned>((bytes / 4 + 255) / 256), 256, 0, bench.stream>>>(
        static_cast<unsigned*>(words), bytes / 4, true);
  };
  random(bench.scales, bench.scale_pool);
  random(bench.x, kFloats * 4);  // two f16 as one f32: small positive numbers
  random(bench.gain, kFloats * 4);
  check(cudaMemsetAsync(bench.y, 0, kFloats * 4, bench.stream), "memory");
  bench.measure_copy();
  check(cudaStreamSynchronize(bench.stream), "filling");

  std::map<std::string, std::string> best;
  std::map<std::string, double> best_seconds;
  std::vector<std::string> order;
  for (const int tokens : {1, 2, 4, 8, 16}) {
    for (const Format& format : kFormats) {
      for (const Shape& shape : kShapes) {
        const bool is_head = shape.rows[0] > 100000;
        if (is_head != (format.bits == 4) || (tokens > 1 && shape.rows[0] == 1024)) continue;
        if (tokens > 1 && format.group == 64) continue;
        for (const ProductCut& cut : kCuts) {
          if (cut.n_warps == 16 && tokens > 8) continue;
          for (const bool overlap : {false, true}) {
            double bytes = 0.0;
            const double t = bench.measure(shape, format, tokens, cut, overlap, bytes);
            char line[200];
            std::snprintf(line, sizeof(line),
                          "%-14s %-21s batch %2d  %2d warps x %d %s %7.2f us %5.0f GB/s %3.0f %%",
                          format.name, shape.name, tokens, cut.n_warps, cut.blocks_per_processor,
                          overlap ? "overlapped" : "plain     ", t * 1e6, bytes / t * 1e-9,
                          100.0 * bytes / t / bench.copy);
            std::puts(line);
            const std::string key = std::string(format.name) + shape.name + std::to_string(tokens);
            if (!best.count(key)) order.push_back(key);
            if (!best.count(key) || t < best_seconds[key]) best[key] = line, best_seconds[key] = t;
          }
        }
      }
    }
  }
  std::puts("\nbest:");
  for (const std::string& key : order) std::puts(best[key].c_str());
  return 0;
}
