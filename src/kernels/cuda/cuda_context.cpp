#include "kernels/cuda/cuda_context.h"

#include <limits>
#include <new>

#include "base/checked.h"
#include "base/error.h"

namespace d2q {
namespace {

/// What cuBLAS asks for on Hopper; setting it ourselves keeps results reproducible and allocation
/// out of the calls.
constexpr size_t kBlasWorkspaceBytes = 32u << 20;

/// The pool hands out memory in pieces of this size.
constexpr int64_t kGranularity = 512;
/// Of the free memory that tensors may take where no limit is set.
constexpr double kUsableShare = 0.95;

/// Up to here the runtime copies pageable memory before it returns.
constexpr int64_t kStagedBytes = 64 << 10;

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF64:
      return CUDA_R_64F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      D2Q_CHECK(dtype == DType::kF16, "product in dtype {}", static_cast<int>(dtype));
      return CUDA_R_16F;
  }
}

int blas_int(int64_t value) {
  D2Q_CHECK(value >= 0 && value <= std::numeric_limits<int>::max(), "dimension {}", value);
  return static_cast<int>(value);
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // an allocation that failed is not sticky
    throw std::bad_alloc();
  }
  fail(ErrorCode::kIo, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

void check_cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw std::bad_alloc();
  fail(ErrorCode::kIo, "cuBLAS: {} failed: {}", what, cublasGetStatusString(status));
}

std::shared_ptr<CudaContext> CudaContext::create() {
  int n_devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&n_devices);
  if (found != cudaSuccess || n_devices == 0) {
    cudaGetLastError();
    fail(ErrorCode::kUnsupported, "device 'cuda': no usable GPU ({}); use --device cpu",
         found != cudaSuccess ? cudaGetErrorString(found) : "none is visible");
  }
  std::shared_ptr<CudaContext> context(new CudaContext);
  int& device = context->device_;
  check_cuda(cudaGetDevice(&device), "choosing a device");
  check_cuda(cudaGetDeviceProperties(&context->properties_, device), "reading the device");
  if (context->properties_.major < 8) {
    fail(ErrorCode::kUnsupported,
         "device 'cuda': {} has compute capability {}.{}, at least 8.0 is needed; use --device cpu",
         context->properties_.name, context->properties_.major, context->properties_.minor);
  }
  check_cuda(cudaDeviceGetDefaultMemPool(&context->pool_, device), "the memory pool");
  // Freed memory stays with the process: blocks ask for the same sizes again and again.
  uint64_t keep = std::numeric_limits<uint64_t>::max();
  check_cuda(cudaMemPoolSetAttribute(context->pool_, cudaMemPoolAttrReleaseThreshold, &keep),
             "the memory pool");
  check_cuda(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking), "a stream");
  context->transfer_ = std::make_unique<StagedTransfer>(context->stream_);
  context->host_rows_ = std::make_unique<HostRows>(context->stream_);
  check_cuda(cudaStreamCreateWithFlags(&context->beside_stream_, cudaStreamNonBlocking),
             "a stream");
  context->beside_ = std::make_unique<StagedTransfer>(context->beside_stream_);
  check_cublas(cublasCreate(&context->blas_), "starting");
  check_cublas(cublasSetStream(context->blas_, context->stream_), "its stream");
  check_cuda(cudaMalloc(&context->blas_workspace_, kBlasWorkspaceBytes), "cuBLAS's workspace");
  check_cublas(cublasSetWorkspace(context->blas_, context->blas_workspace_, kBlasWorkspaceBytes),
               "its workspace");
  context->count(kBlasWorkspaceBytes);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "reading free memory");
  context->free_at_start_ = static_cast<int64_t>(kUsableShare * static_cast<double>(free_bytes));
  return context;
}

CudaContext::~CudaContext() {
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device_);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  if (beside_stream_ != nullptr) cudaStreamSynchronize(beside_stream_);
  transfer_.reset();
  host_rows_.reset();
  beside_.reset();
  if (blas_ != nullptr) cublasDestroy(blas_);
  if (blas_workspace_ != nullptr) cudaFree(blas_workspace_);
  if (beside_stream_ != nullptr) cudaStreamDestroy(beside_stream_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  cudaSetDevice(before);
}

void CudaContext::open_memory_to(int peer) {
  cudaMemAccessDesc access{};
  access.location.type = cudaMemLocationTypeDevice;
  access.location.id = peer;
  access.flags = cudaMemAccessFlagsProtReadWrite;
  check_cuda(cudaMemPoolSetAccess(pool_, &access, 1), "opening memory to another GPU");
}

void CudaContext::count(int64_t n_bytes) {
  const int64_t now = in_use_ + n_bytes;
  if (limit_ && now > *limit_) {
    fail(ErrorCode::kUnsupported,
         "GPU memory: {:.2f} GB are in use and {:.2f} GB more are needed, but the limit is {:.2f} "
         "GB; a larger --gpu-mem is needed here",
         1e-9 * static_cast<double>(in_use_.load()), 1e-9 * static_cast<double>(n_bytes),
         1e-9 * static_cast<double>(*limit_));
  }
  in_use_ += n_bytes;
  int64_t peak = peak_;
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
  const bool captured = recording_ != nullptr && recording_->is_captured;
  if (!limit_ || captured) return;
  // The pool keeps freed pieces, and pieces between others fit nobody.
  uint64_t reserved = 0;
  uint64_t used = 0;
  check_cuda(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved),
             "memory in use");
  check_cuda(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used), "memory in use");
  if (static_cast<int64_t>(reserved) + n_bytes <= *limit_ || reserved == used) return;
  synchronize();
  check_cuda(cudaMemPoolTrimTo(pool_, 0), "giving memory back");
}

std::shared_ptr<void> CudaContext::allocate_bytes(int64_t n_bytes) {
  if (n_bytes == 0) return nullptr;
  const int64_t counted = (n_bytes + kGranularity - 1) / kGranularity * kGranularity;
  count(counted);
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, static_cast<size_t>(n_bytes), stream_);
  if (status != cudaSuccess) in_use_ -= counted;
  check_cuda(status, "allocating");
  return {data, [self = shared_from_this(), counted](void* p) {
            cudaFreeAsync(p, self->stream_);
            self->in_use_ -= counted;
          }};
}

Tensor CudaContext::allocate_on_host(int64_t rows, int64_t cols, DType dtype) {
  D2Q_CHECK(rows >= 0 && cols >= 0, "{}x{}", rows, cols);
  const uint64_t count =
      checked_mul(static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), "tensor");
  const uint64_t bytes = checked_mul(count, static_cast<uint64_t>(size_of(dtype)), "tensor");
  if (bytes == 0) return {nullptr, nullptr, rows, cols, dtype};
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
  if (status != cudaSuccess) {
    cudaGetLastError();
    fail(ErrorCode::kUnsupported,
         "host memory: {:.2f} GB for activations that the GPU has no room for were refused ({}); "
         "fewer --samples or a larger --gpu-mem need less",
         1e-9 * static_cast<double>(bytes), cudaGetErrorString(status));
  }
  std::shared_ptr<void> buffer(data, [self = shared_from_this()](void* p) {
    self->host_rows_->finish();
    cudaFreeHost(p);
  });
  return {std::move(buffer), data, rows, cols, dtype};
}

Tensor CudaContext::allocate(int64_t rows, int64_t cols, DType dtype) {
  D2Q_CHECK(rows >= 0 && cols >= 0, "{}x{}", rows, cols);
  const uint64_t count =
      checked_mul(static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), "tensor");
  const uint64_t bytes = checked_mul(count, static_cast<uint64_t>(size_of(dtype)), "tensor");
  std::shared_ptr<void> buffer = allocate_bytes(static_cast<int64_t>(bytes));
  void* data = buffer.get();
  return {std::move(buffer), data, rows, cols, dtype};
}

void CudaContext::upload(const void* host, void* device, int64_t n_bytes) {
  if (n_bytes == 0) return;
  if (n_bytes >= kStagedTransferBytes) {
    return check_cuda(transfer_->to_device(host, device, n_bytes), "copying to the GPU");
  }
  check_cuda(
      cudaMemcpyAsync(device, host, static_cast<size_t>(n_bytes), cudaMemcpyHostToDevice, stream_),
      "copying to the GPU");
  // Small pageable memory has been copied away when the call returns: no need to wait for the GPU.
  if (n_bytes > kStagedBytes) synchronize();
}

std::shared_ptr<void> CudaContext::constants(const void* host, int64_t n_bytes) {
  const auto* bytes = static_cast<const std::byte*>(host);
  if (recording_ != nullptr && recording_->is_captured) {
    D2Q_CHECK(recording_->n_captured < recording_->pieces.size(), "{} constants",
              recording_->pieces.size());
    RecordedConstants::Piece& piece = recording_->pieces[recording_->n_captured++];
    D2Q_CHECK(static_cast<int64_t>(piece.bytes.size()) == n_bytes, "{} bytes of constants, then {}",
              piece.bytes.size(), n_bytes);
    piece.bytes.assign(bytes, bytes + n_bytes);
    return piece.memory;
  }
  std::shared_ptr<void> memory = allocate_bytes(n_bytes);
  upload(host, memory.get(), n_bytes);
  if (recording_ != nullptr) recording_->pieces.push_back({memory, {bytes, bytes + n_bytes}});
  return memory;
}

void CudaContext::download(const void* device, void* host, int64_t n_bytes) {
  if (n_bytes == 0) return;
  if (n_bytes >= kStagedTransferBytes) {
    return check_cuda(transfer_->to_host(device, host, n_bytes), "copying from the GPU");
  }
  check_cuda(
      cudaMemcpyAsync(host, device, static_cast<size_t>(n_bytes), cudaMemcpyDeviceToHost, stream_),
      "copying from the GPU");
  synchronize();
}

std::future<void> CudaContext::download_beside(const Tensor& source, void* host) {
  cudaEvent_t ready = nullptr;
  check_cuda(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming), "an event");
  cudaError_t status = cudaEventRecord(ready, stream_);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(beside_stream_, ready);
  cudaEventDestroy(ready);
  check_cuda(status, "waiting for a stream");
  int device = 0;
  check_cuda(cudaGetDevice(&device), "the current device");
  // The tensor stays until it has been read, and keeps the context.
  return std::async(std::launch::async, [this, source, host, device] {
    check_cuda(cudaSetDevice(device), "choosing a device");
    const std::lock_guard lock(beside_mutex_);
    check_cuda(beside_->to_host(source.raw(), host, source.n_bytes()), "copying from the GPU");
  });
}

void CudaContext::synchronize() { check_cuda(cudaStreamSynchronize(stream_), "a kernel"); }

void run_gemm(CudaContext& context, const CudaGemm& gemm) {
  if (gemm.m == 0 || gemm.n == 0) return;
  const bool wide = gemm.input == DType::kF64;
  D2Q_CHECK(gemm.output == gemm.input || (gemm.output == DType::kF32 && !wide),
            "dtype {} into dtype {}", static_cast<int>(gemm.input), static_cast<int>(gemm.output));
  const auto alpha = static_cast<float>(gemm.alpha);
  const auto beta = static_cast<float>(gemm.beta);
  const cublasComputeType_t compute = wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  // cuBLAS is column-major: the row-major product is the transposed one with a and b exchanged.
  check_cublas(
      cublasGemmEx(context.blas(), gemm.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                   gemm.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, blas_int(gemm.n), blas_int(gemm.m),
                   blas_int(gemm.k), wide ? static_cast<const void*>(&gemm.alpha) : &alpha, gemm.b,
                   data_type(gemm.input), blas_int(gemm.ldb), gemm.a, data_type(gemm.input),
                   blas_int(gemm.lda), wide ? static_cast<const void*>(&gemm.beta) : &beta, gemm.c,
                   data_type(gemm.output), blas_int(gemm.ldc), compute, CUBLAS_GEMM_DEFAULT),
      "a product");
}

}  // namespace d2q
