// What the operations of the CUDA device share: one stream on which everything is ordered, cuBLAS
// on it, and stream-ordered memory. Kernels live in .cu files behind launchers that take plain
// pointers and a stream (cuda_launch.h), so that nvcc never sees the rest of the library.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/cuda/cuda_host_rows.h"
#include "kernels/cuda/cuda_transfer.h"
#include "kernels/tensor.h"

namespace d2q {

/// Throws Error{kUnsupported | kIo} or std::bad_alloc, naming the call, when `status` is a failure.
void check_cuda(cudaError_t status, const char* what);
void check_cublas(cublasStatus_t status, const char* what);

/// Constants of recorded kernels. Nothing can be copied while a stream is captured: memory is had
/// in an ordinary run before, in the same order, and filled afterwards.
struct RecordedConstants {
  struct Piece {
    std::shared_ptr<void> memory;
    std::vector<std::byte> bytes;
  };
  std::vector<Piece> pieces;
  bool is_captured = false;
  size_t n_captured = 0;
};

class CudaContext : public std::enable_shared_from_this<CudaContext> {
 public:
  /// The current device. Error{kUnsupported} saying what is missing when there is none that works.
  static std::shared_ptr<CudaContext> create();
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  cudaStream_t stream() const noexcept { return stream_; }
  cublasHandle_t blas() const noexcept { return blas_; }
  const cudaDeviceProp& properties() const noexcept { return properties_; }

  /// Uninitialised, in the order of the stream. The buffer keeps the context alive.
  /// Error{kUnsupported} where a limit would be exceeded.
  std::shared_ptr<void> allocate_bytes(int64_t n_bytes);
  Tensor allocate(int64_t rows, int64_t cols, DType dtype);
  /// Host memory may be pageable; it is free for reuse on return.
  void upload(const void* host, void* device, int64_t n_bytes);
  /// Waits for everything before it in the stream.
  void download(const void* device, void* host, int64_t n_bytes);
  /// On a stream and a thread of their own, once what the stream has now is done.
  std::future<void> download_beside(const Tensor& source, void* host);
  void synchronize();
  /// A copy of what kernels read, for as long as they or a recording of them are there.
  std::shared_ptr<void> constants(const void* host, int64_t n_bytes);
  /// Until null is set, constants() are those of a recording.
  void set_recording(RecordedConstants* recording) noexcept { recording_ = recording; }
  /// Memory of the host for load() and store() of host_rows(). Keeps the context alive.
  Tensor allocate_on_host(int64_t rows, int64_t cols, DType dtype);
  HostRows& host_rows() noexcept { return *host_rows_; }
  /// The most that allocate_bytes() has had in use, and cuBLAS's workspace.
  int64_t peak_memory_bytes() const noexcept { return peak_; }
  /// What peak_memory_bytes() may come to: the limit, or what was free at the start but for a share
  /// that fragments and other libraries take.
  int64_t memory_budget() const noexcept { return limit_.value_or(free_at_start_); }
  /// Kernels of GPU `peer` may read and write what allocate_bytes() gives.
  void open_memory_to(int peer);
  void limit_memory(int64_t n_bytes) noexcept { limit_ = n_bytes; }

 private:
  CudaContext() = default;
  /// Adds to what is in use; the pool gives back what lies unused where a limit leaves no room.
  void count(int64_t n_bytes);

  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
  std::unique_ptr<StagedTransfer> transfer_;
  std::unique_ptr<HostRows> host_rows_;
  std::atomic<int64_t> in_use_ = 0;
  std::atomic<int64_t> peak_ = 0;
  std::optional<int64_t> limit_;
  int64_t free_at_start_ = 0;
  cudaStream_t beside_stream_ = nullptr;
  std::unique_ptr<StagedTransfer> beside_;
  std::mutex beside_mutex_;  // of beside_
  cudaDeviceProp properties_{};
  RecordedConstants* recording_ = nullptr;
};

/// Row-major product c[m, n] = alpha·op(a)·op(b) + beta·c. a, b of one dtype: f32 (true f32
/// products), bf16, both with f32 sums, or f64. c of the same dtype, or f32 where a and
/// b are bf16. The leading dimensions are row strides in elements. Deterministic on one device.
struct CudaGemm {
  bool transpose_a = false;
  bool transpose_b = false;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  DType input = DType::kF32;
  void* c = nullptr;
  int64_t ldc = 0;
  DType output = DType::kF32;
  double alpha = 1.0;
  double beta = 0.0;
};
void run_gemm(CudaContext& context, const CudaGemm& gemm);

}  // namespace d2q
