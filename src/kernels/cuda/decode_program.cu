// One kernel for a step: every multiprocessor has one block of threads that walks through the
// operations with all others. What one hands to the next are marked values (marked_values.cuh), so
// there is no barrier between them, and the weights of the next operations are on their way while
// the warps still wait for their input. Blocks of threads wait for each other, so all have to run
// at once.
#include "kernels/cuda/cell_products.cuh"
#include "kernels/cuda/cuda_decode_program.h"
#include "kernels/cuda/decode_attention.cuh"
#include "kernels/cuda/decode_input.cuh"
#include "kernels/cuda/decode_tiles.cuh"
#include "kernels/cuda/marked_values.cuh"
#include "kernels/cuda/weight_ring.cuh"

namespace d2q::cuda {
namespace {

constexpr int kWorkers = 32 * kDecodeWarps;  // threads of all but the feeders
constexpr int kFeeders = 4;                  // warps
constexpr int kProgramThreads = kWorkers + 32 * kFeeders;
constexpr int kStages = 4;
constexpr int kMostHeads = 2;      // of queries in a block of threads
constexpr int kSmallestPart = 64;  // of the keys
constexpr int kKeysAhead = 2;      // of a lane
constexpr int kPartsTogether = 3;  // of which results are read at a time

/// Operations in shared memory: the one at hand, and the next one while it is copied.
constexpr int kHeldOperations = 2;
constexpr int kOperationWords = sizeof(ProgramOperation) / 4;
static_assert(sizeof(ProgramOperation) % 8 == 0 && kOperationWords <= kWorkers);
static_assert(sizeof(QuantizedBlock) % 16 == 0);

using Rings = WeightRings<kDecodeWarps, kStages>;

/// The token's position, and the rotation there.
struct HeldTurn {
  float cos[64], sin[64];
  int position;
};

/// Where things lie in a block of threads' shared memory. Computed anew from a kernel's parameters
/// where it is needed, so that it takes no registers and the compiler knows what memory it is.
struct ProgramShared {
  ProgramMemory sizes;

  __host__ __device__ int rings() const { return 0; }
  /// Attention's memory, too.
  __host__ __device__ int input() const {
    return rings() + kDecodeWarps * kStages * sizes.stage_bytes;
  }
  __host__ __device__ int barriers() const { return input() + sizes.input_bytes; }
  __host__ __device__ int held() const { return barriers() + Rings::kBarriers * 8; }
  __host__ __device__ int turn() const {
    return held() + kHeldOperations * static_cast<int>(sizeof(ProgramOperation));
  }
  __host__ __device__ int scratch() const { return turn() + static_cast<int>(sizeof(HeldTurn)); }
  __host__ __device__ int parts() const { return scratch() + 2 * kDecodeWarps * 4; }
  __host__ __device__ int end() const { return parts() + sizes.part_bytes; }
};

extern __shared__ __align__(128) unsigned char shared_memory[];

template <typename T>
__device__ T* in_shared(int offset) {
  return reinterpret_cast<T*>(shared_memory + offset);
}

__device__ MarkedValues marked(unsigned* words, const MarkedPlace& place, const float* plain) {
  if (place.mark < 0) return {reinterpret_cast<unsigned*>(const_cast<float*>(plain)), -1};
  return {words + place.offset, place.mark};
}

/// A feeder's lane: the pieces of its warp, operation after operation.
class ProgramPieces {
 public:
  __device__ ProgramPieces(const DecodeProgram& program, int warp)
      : operations_(program.operations), count_(program.count), warp_(warp) {}

  __device__ bool next(const unsigned char*& from, int& bytes) {
    while (chunks_.is_done()) {
      if (next_ == count_) return false;
      const ProgramOperation& operation = operations_[next_++];
      if (operation.is_attention) continue;
      chunks_.start(operation.product, operation.cut, warp_);
    }
    const ProgramOperation& operation = operations_[next_ - 1];
    chunks_.next(operation.product, operation.cut, from, bytes);
    return true;
  }

 private:
  const ProgramOperation* operations_;
  int count_;
  int warp_;
  int next_ = 0;
  ChunkRequests chunks_;
};

/// The input of an operation.
template <bool kRegular>
struct MarkedRow {
  MarkedValues from;
  int cols;
  MarkedPair<PairColumns<kDecodeWarps>::kApart, kRegular> pair;

  __device__ void ask(int first) { pair.ask(from, first, cols); }
  __device__ void settle(int first, float (&values)[8]) { pair.settle(from, first, cols, values); }
};

/// Waits for the input of a product and leaves it in `blocks`; a warp has every kDecodeWarps-th.
template <bool kRegular>
__device__ void take_input(const ThreadPlace& me, const DecodeProduct& p, const MarkedValues& from,
                           QuantizedBlock* blocks, float* scratch) {
  MarkedRow<kRegular> row = {from, p.cols, {}};
  quantize_row<kDecodeWarps, kRegular>(me, row, p.norm, p.cols, scratch,
                                       [&](int block, const BlockValues& values, bool there) {
                                         store_integers(me.lane, values, blocks + block, there);
                                       });
  spread_bits<kDecodeWarps>(me, blocks, p.n_blocks);
}

/// A block of threads that has nothing to do waits with the others all the same: it would not know
/// later rounds' marks from this one's.
__device__ void keep_step(unsigned* words, const MarkedPlace& input) {
  if (threadIdx.x == 0 && input.mark >= 0) marked(words, input, nullptr).read(0);
}

/// hold_next(): called by all threads once none of them reads the operation before this one.
template <typename Ring, typename HoldNext>
__device__ void multiply(const ProgramOperation& operation, unsigned* words,
                         const ProgramShared& shared, Ring& ring, const HoldNext& hold_next) {
  const ThreadPlace me = place_of_thread();
  const DecodeProduct& p = operation.product;
  const TileRun run = tile_run(p, operation.cut);
  const WarpRun of_warp(p, operation.cut, run, me.warp);
  const RowPlace row = row_place(p, run, operation.cut, me.thread());
  const MarkedValues before = marked(words, operation.before, p.y);
  const bool adds = p.output == ProductOutput::kAdd && row.column >= 0;
  const unsigned own_before = adds ? before.ask(row.column) : 0;  // needed late
  if (run.n_tiles == 0) {
    keep_step(words, operation.input);
  } else {
    const MarkedValues input = marked(words, operation.input, p.x);
    auto* blocks = in_shared<QuantizedBlock>(shared.input());
    auto* scratch = in_shared<float>(shared.scratch());
    operation.is_regular ? take_input<true>(me, p, input, blocks, scratch)
                         : take_input<false>(me, p, input, blocks, scratch);
  }
  sync_warps<kDecodeWarps>();
  hold_next();

  const ThreadPlace now = place_of_thread();
  const int lane = now.lane, warp = now.warp;
  with_cells(p, [&](auto format, auto groups) {
    using F = decltype(format);
    constexpr int kGroups = decltype(groups)::value;
    using Chunk = DecodeChunk<F, kGroups>;
    float sums[1][2] = {};
    const auto add_cell = [&](const unsigned char* cells, int block, int i) {
      add_bits<F, kGroups>(cells + i * Chunk::kCellBytes,
                           in_shared<QuantizedBlock>(shared.input())[block + i], lane, sums);
    };
    const auto add = [&](const unsigned char* cells, int block, int n_cells) {
      if (n_cells == Chunk::kCells) {
#pragma unroll
        for (int i = 0; i < Chunk::kCells; ++i) add_cell(cells, block, i);
      } else {
#pragma unroll 1
        for (int i = 0; i < n_cells; ++i) add_cell(cells, block, i);
      }
    };
    const auto finish = [&](int tile) {
      float* target = in_shared<float>(shared.parts()) + (warp + tile) * kTileRows + lane / 4;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& sum = sums[0][i];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) target[8 * i] = F::kPlanes ? 2.0f * sum : sum;
        sum = 0.0f;
      }
    };
    multiply_run(
        of_warp, operation.cut, p.n_blocks, lane, ring, add, [] {}, finish);
  });
  sync_warps<kDecodeWarps>();
  const MarkedValues output = marked(words, operation.output, nullptr);
  write_rows(p, run, operation.cut, in_shared<float>(shared.parts()), me.thread(), row,
             [&](const RowPlace& place, float value) {
               if (p.output == ProductOutput::kAdd) {
                 const bool is_own = place.column == row.column && before.is_there(own_before);
                 value += is_own ? __uint_as_float(own_before) : before.read(place.column);
               }
               if (output.mark >= 0) output.write(place.column, value);
               if (operation.stores) p.y[place.column] = value;
             });
}

template <int kDim, int kHeads>
using ProgramAttention = AttentionMemory<kDim, kHeads, kDecodeWarps>;

/// A block of threads has one part of the keys of one set of heads, or, where there are more sets
/// than blocks of threads, several sets. Not inlined: it would take the products' registers.
template <int kDim, int kHeads>
__device__ __noinline__ void attend(int operation_offset, unsigned* words, int memory_offset,
                                    int turn_offset) {
  const ProgramOperation& operation = *in_shared<ProgramOperation>(operation_offset);
  const DecodeAttentionProblem& p = operation.attention;
  auto& memory = *in_shared<ProgramAttention<kDim, kHeads>>(memory_offset);
  const auto& turn = *in_shared<HeldTurn>(turn_offset);
  const int thread = static_cast<int>(threadIdx.x), lane = static_cast<int>(threadIdx.x % 32);
  const int n_panels = p.n_heads / kHeads, dim = p.head_dim, position = turn.position;
  const bool in_cache = position >= 0 && position < p.capacity;
  const MarkedValues projections = marked(words, operation.input, p.projections);
  const MarkedValues output = marked(words, operation.output, nullptr);
  const auto write = [&](const AttentionPart& part, int h, int c, float value) {
    const int i = (part.first_head + h) * dim + c;
    if (output.mark >= 0) output.write(i, value);
    if (operation.stores) p.y[i] = value;
  };
  if (static_cast<int>(blockIdx.x) >= n_panels * p.n_splits) keep_step(words, operation.input);
  for (int unit = static_cast<int>(blockIdx.x); unit < n_panels * p.n_splits;
       unit += static_cast<int>(gridDim.x)) {
    const int panel = divide(unit, p.per_split), split = unit - panel * p.n_splits;
    const AttentionPart part =
        attention_part<kHeads>(p, in_cache ? position : 0, panel, split, kSmallestPart);
    if (split >= part.n_parts) {
      keep_step(words, operation.input);
      continue;
    }
    if (!in_cache) {
      if (split == 0) {
        for (int i = thread; i < kHeads * dim; i += kWorkers) {
          write(part, i / dim, i % dim, NAN);
        }
      }
      keep_step(words, operation.input);
      continue;
    }
    attend_part<kKeysAhead>(
        p, part, 0, turn.cos, turn.sin, memory, [&](int head, float(&values)[kDim / 32]) {
          const int first = head * dim;
          read_marked(
              projections, first + lane, first + dim, [](int k) { return 32 * k; }, values);
        });

    // The first part's block of threads adds up all of them, in their order.
    constexpr int kValues = kHeads * kDim;
    const MarkedValues records = {
        words + operation.partial.offset + panel * p.n_splits * 3 * kValues,
        operation.partial.mark};
    for (int i = thread; i < kValues; i += kWorkers) {
      const int h = i / kDim, c = i % kDim;
      float top, sum, value;
      memory.join(lane, h, c, top, sum, value);
      if (split > 0) {
        const int mine = split * 3 * kValues + i;
        records.write(mine, value);
        records.write(mine + kValues, top);
        records.write(mine + 2 * kValues, sum);
        continue;
      }
      for (int first = 1; first < part.n_parts; first += kPartsTogether) {
        float others[3 * kPartsTogether];  // value, top and sum of each
        read_marked(
            records, first * 3 * kValues + i, part.n_parts * 3 * kValues,
            [](int k) { return k * kValues; }, others);
#pragma unroll
        for (int s = 0; s < kPartsTogether; ++s) {
          if (first + s >= part.n_parts) break;
          const float largest = fmaxf(top, others[3 * s + 1]);
          const float left = exp2f(top - largest), right = exp2f(others[3 * s + 1] - largest);
          top = largest;
          sum = sum * left + others[3 * s + 2] * right;
          value = value * left + others[3 * s] * right;
        }
      }
      if (c < dim) write(part, h, c, __fdividef(value, sum));
    }
    sync_warps<kDecodeWarps>();  // the memory is another operation's now
  }
}

__global__ __launch_bounds__(kProgramThreads,
                             1) void run_program(const __grid_constant__ DecodeProgram program) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const ProgramShared shared = {program.memory};
  unsigned* const held = in_shared<unsigned>(shared.held());
  const auto* operations = reinterpret_cast<const unsigned*>(program.operations);
  for (int i = thread; i < kOperationWords; i += kProgramThreads) held[i] = operations[i];
  const Rings rings = {in_shared<unsigned char>(shared.rings()),
                       in_shared<uint64_t>(shared.barriers()), program.memory.stage_bytes};
  rings.prepare();
  __syncthreads();
  if (warp >= kDecodeWarps) {
    const Feeder<kFeeders, kDecodeWarps, kStages> feeder(rings);
    ProgramPieces pieces(program, feeder.served_warp());
    feeder.run([&](const unsigned char*& from, int& bytes) { return pieces.next(from, bytes); });
    return;
  }
  // Read after other barriers only.
  const ProgramPosition& place = program.position;
  if (thread < 64 && place.positions != nullptr) {
    HeldTurn& turn = *in_shared<HeldTurn>(shared.turn());
    const int position = *place.positions;
    turn.position = position;
    if (thread < place.half && position >= 0 && position < place.capacity) {
      const int64_t i = static_cast<int64_t>(position) * place.half + thread;
      turn.cos[thread] = place.cos[i], turn.sin[thread] = place.sin[i];
    }
  }
  WeightRing<kDecodeWarps, kStages, true> ring(rings, place_of_thread().warp);
  for (int i = 0; i < program.count; ++i) {
    const ProgramOperation& operation =
        in_shared<ProgramOperation>(shared.held())[i % kHeldOperations];
    const bool holds = i + 1 < program.count && thread < kOperationWords;
    const unsigned next_word =
        holds ? __ldg(operations + static_cast<int64_t>(i + 1) * kOperationWords + thread) : 0;
    const auto hold_next = [&] {
      if (holds) held[(i + 1) % kHeldOperations * kOperationWords + thread] = next_word;
    };
    if (!operation.is_attention) {
      multiply(operation, program.words, shared, ring, hold_next);
      continue;
    }
    const DecodeAttentionProblem& p = operation.attention;
    sync_warps<kDecodeWarps>();
    hold_next();
    const int at = shared.held() + i % kHeldOperations * static_cast<int>(sizeof(ProgramOperation));
    const bool single = (p.n_heads / p.n_kv_heads) % kMostHeads != 0;
    if (p.head_dim <= 64) {
      single ? attend<64, 1>(at, program.words, shared.input(), shared.turn())
             : attend<64, 2>(at, program.words, shared.input(), shared.turn());
    } else {
      single ? attend<128, 1>(at, program.words, shared.input(), shared.turn())
             : attend<128, 2>(at, program.words, shared.input(), shared.turn());
    }
    sync_warps<kDecodeWarps>();
  }
}

}  // namespace

bool fits_program(const DecodeAttentionProblem& attention) {
  return attention.n_sequences == 1 && attention.head_dim <= 128;
}

int64_t prepare_attention(DecodeAttentionProblem& p, int n_processors) {
  const int heads = heads_together(p.n_heads, p.n_kv_heads, kMostHeads);
  const int n_panels = p.n_heads / heads;
  const int most = n_processors / n_panels,
            useful = (p.capacity + kSmallestPart - 1) / kSmallestPart;
  p.n_splits = most < 1 ? 1 : most < useful ? most : useful;
  set_heads(p, heads);
  return p.n_splits == 1 ? 0 : int64_t{3} * p.n_heads * p.n_splits * padded_head(p.head_dim);
}

ProgramMemory prepare_program(ProgramOperation* operations, int count, int n_processors) {
  ProgramMemory memory;
  for (int i = 0; i < count; ++i) {
    ProgramOperation& operation = operations[i];
    if (operation.is_attention) {
      const size_t bytes = operation.attention.head_dim <= 64
                               ? sizeof(ProgramAttention<64, kMostHeads>)
                               : sizeof(ProgramAttention<128, kMostHeads>);
      memory = larger_of(memory, {0, static_cast<int>(bytes), 0});
      continue;
    }
    const DecodeProduct& p = operation.product;
    operation.cut = cut_product(p, n_processors);
    operation.is_regular = is_regular(p.norm, p.cols);
    const size_t part_bytes =
        (kDecodeWarps + most_tiles(p, operation.cut)) * kTileRows * sizeof(float);
    memory = larger_of(memory, {chunk_cells(p.cell_bytes) * p.cell_bytes,
                                p.n_blocks * static_cast<int>(sizeof(QuantizedBlock)),
                                static_cast<int>(part_bytes)});
  }
  return memory;
}

ProgramMemory larger_of(const ProgramMemory& a, const ProgramMemory& b) {
  const auto larger = [](int x, int y) { return x < y ? y : x; };
  return {larger(a.stage_bytes, b.stage_bytes), larger(a.input_bytes, b.input_bytes),
          larger(a.part_bytes, b.part_bytes)};
}

size_t shared_bytes(const ProgramMemory& memory) {
  return static_cast<size_t>(ProgramShared{memory}.end());
}

cudaError_t launch_decode_program(const DecodeProgram& program, const Launch& launch) {
  const size_t bytes = shared_bytes(program.memory);
  const cudaError_t status = cudaFuncSetAttribute(
      run_program, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.n_processors));
  config.blockDim = dim3(kProgramThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = launch.stream;
  config.attrs = &together;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, run_program, program);
}

}  // namespace d2q::cuda
