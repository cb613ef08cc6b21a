// Products of packed weights with a few tokens on a GPU, at the shapes of an 8B model, against a
// device-to-device copy in the same run: one token as a program of products that do not wait for
// each other, more with and without kernels that overlap. Weights rotate through a pool larger than
// the L2 cache; launches are replayed as a graph.
//   d2q_decode_products_bench [pool MiB, default 600]
// A line for each measurement.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/cuda_decode_program.h"

namespace {

using namespace d2q::cuda;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

/// Random f16 values from 0.01 to 0.02: scales, and as codes no better or worse than others.
__global__ void fill(unsigned* words, size_t n) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned v = static_cast<unsigned>(i) * 2654435761u + 12345u;
  v ^= v >> 15, v *= 2246822519u, v ^= v >> 13, v *= 3266489917u, v ^= v >> 16;
  words[i] = (v & 0x03ff03ffu) | 0x20002000u;
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
  unsigned char* cells = nullptr;
  size_t pool = 0;
  float* x = nullptr;
  float* y = nullptr;
  float* gain = nullptr;
  QuantizedBlock* input = nullptr;
  ProgramOperation* program_memory = nullptr;  // for 256 operations
  double copy = 0.0;                           // bytes a second

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
        check(cudaMemcpyAsync(cells + half, cells, half, cudaMemcpyDeviceToDevice, stream), "copy");
      }
    });
    copy = 4 * 2.0 * static_cast<double>(half) / t;
    const double r = seconds(6, [&] {
      for (int i = 0; i < 4; ++i) {
        read_all<<<static_cast<unsigned>(4 * n_processors), 512, 0, stream>>>(
            reinterpret_cast<const uint4*>(cells), pool / 16, reinterpret_cast<unsigned*>(y));
      }
    });
    std::printf("copy %.0f GB/s (read and written), read only %.0f GB/s\n", copy * 1e-9,
                4.0 * static_cast<double>(pool) / r * 1e-9);
  }

  /// Seconds of one product, and its bytes of weights.
  double measure(const Shape& shape, const Format& format, int tokens, bool overlap,
                 double& bytes) {
    PackedWeights weights;
    weights.sign_planes = format.sign_planes;
    weights.bits = format.bits;
    weights.group_size = format.group;
    weights.n_groups = shape.cols / format.group;
    DecodeProduct p;
    p.n_parts = static_cast<int>(shape.rows.size());
    p.sign_planes = format.sign_planes;
    p.bits = format.bits;
    p.cols = shape.cols;
    p.n_blocks = shape.cols / kInputBlock;
    p.cell_bytes = cell_bytes(weights);
    p.n_tokens = tokens;
    p.output = shape.output;
    p.y = y;
    const InputNorm norm = shape.normed ? InputNorm{gain, nullptr, 1e-5f, false} : InputNorm{};
    p.x = x, p.norm = norm;
    p.input = input;
    const Launch launch = {stream, n_processors, overlap && can_overlap};
    const auto bytes_of = [&](int rows) {
      return static_cast<size_t>(rows / 16) * static_cast<size_t>(p.n_blocks) *
             static_cast<size_t>(p.cell_bytes);
    };
    size_t product_bytes = 0;
    int total_rows = 0;
    for (const int rows : shape.rows) product_bytes += bytes_of(rows), total_rows += rows;
    bytes = static_cast<double>(product_bytes);
    p.y_stride = shape.output == ProductOutput::kGated ? shape.rows[0] : total_rows;
    const size_t slots = pool / product_bytes;
    const int n = static_cast<int>(slots < 4 ? 4 : slots > 256 ? 256 : slots);
    const auto with_weights = [&](int i) {
      DecodeProduct result = p;
      const unsigned char* next = cells + static_cast<size_t>(i) % slots * product_bytes;
      int column = 0;
      for (size_t part = 0; part < shape.rows.size(); ++part) {
        result.parts[part] = {next, nullptr, shape.rows[part], column};
        next += bytes_of(shape.rows[part]);
        column += shape.rows[part];
      }
      return result;
    };
    if (tokens == 1) {
      std::vector<ProgramOperation> operations(static_cast<size_t>(n));
      for (int i = 0; i < n; ++i) operations[static_cast<size_t>(i)].product = with_weights(i);
      DecodeProgram program;
      program.memory = prepare_program(operations.data(), n, n_processors);
      program.operations = program_memory;
      program.count = n;
      check(cudaMemcpy(program_memory, operations.data(), sizeof(operations[0]) * operations.size(),
                       cudaMemcpyHostToDevice),
            "copying");
      return seconds(4, [&] { check(launch_decode_program(program, launch), "program"); }) / n;
    }
    const double t = seconds(4, [&] {
      for (int i = 0; i < n; ++i) {
        check(launch_quantize_input(x, norm, tokens, shape.cols, input, launch), "quantize");
        check(launch_decode_product(with_weights(i), launch), "product");
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

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  bench.pool = static_cast<size_t>(argc > 1 ? std::atoi(argv[1]) : 600) << 20;
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
  check(cudaMalloc(&bench.cells, bench.pool), "memory");
  check(cudaMalloc(&bench.x, kFloats * 4), "memory");
  check(cudaMalloc(&bench.y, kFloats * 4), "memory");
  check(cudaMalloc(&bench.gain, kFloats * 4), "memory");
  check(cudaMalloc(&bench.input, 16 * 128 * sizeof(QuantizedBlock)), "memory");
  check(cudaMalloc(&bench.program_memory, 256 * sizeof(ProgramOperation)), "memory");
  const auto random = [&](void* words, size_t bytes) {
    fill<<<static_cast<unsigned>((bytes / 4 + 255) / 256), 256, 0, bench.stream>>>(
        static_cast<unsigned*>(words), bytes / 4);
  };
  random(bench.cells, bench.pool);
  random(bench.x, kFloats * 4);  // two f16 as one f32: small positive numbers
  random(bench.gain, kFloats * 4);
  check(cudaMemsetAsync(bench.y, 0, kFloats * 4, bench.stream), "memory");
  bench.measure_copy();
  check(cudaStreamSynchronize(bench.stream), "filling");

  for (const int tokens : {1, 2, 4, 8, 16}) {
    for (const Format& format : kFormats) {
      for (const Shape& shape : kShapes) {
        const bool is_head = shape.rows[0] > 100000;
        if (is_head != (format.bits == 4) || (tokens > 1 && shape.rows[0] == 1024)) continue;
        if (tokens > 1 && format.group == 64) continue;
        for (const bool overlap : {false, true}) {
          if (tokens == 1 && !overlap) continue;  // a program is one kernel
          double bytes = 0.0;
          const double t = bench.measure(shape, format, tokens, overlap, bytes);
          std::printf("%-14s %-21s batch %2d %s %7.2f us %5.0f GB/s %3.0f %%\n", format.name,
                      shape.name, tokens, overlap ? "overlapped" : "plain     ", t * 1e6,
                      bytes / t * 1e-9, 100.0 * bytes / t / bench.copy);
        }
      }
    }
  }
  return 0;
}
