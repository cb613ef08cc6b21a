// Repeated work as a CUDA graph.
#include <utility>

#include "kernels/cuda/cuda_decode.h"

namespace d2q {
namespace {

class CudaRecording final : public Repeatable {
 public:
  CudaRecording(std::shared_ptr<CudaContext> context, std::function<void()> work)
      : context_(std::move(context)), work_(std::move(work)) {}
  ~CudaRecording() override {
    if (graph_ != nullptr) {
      cudaStreamSynchronize(context_->stream());  // it may still be running
      cudaGraphExecDestroy(graph_);
    }
  }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  void run() override {
    // Workspaces get their size and kernels are loaded in a run that is not recorded.
    if (!std::exchange(warm_, true)) {
      run_work();
      return;
    }
    if (graph_ == nullptr) record();
    check_cuda(cudaGraphLaunch(graph_, context_->stream()), "launching a graph");
  }

 private:
  void run_work() {
    context_->set_recording(&constants_);
    try {
      work_();
    } catch (...) {
      context_->set_recording(nullptr);
      throw;
    }
    context_->set_recording(nullptr);
  }

  void record() {
    constants_.is_captured = true;
    check_cuda(cudaStreamBeginCapture(context_->stream(), cudaStreamCaptureModeThreadLocal),
               "recording a graph");
    cudaGraph_t recorded = nullptr;
    try {
      run_work();
    } catch (...) {
      cudaStreamEndCapture(context_->stream(), &recorded);
      if (recorded != nullptr) cudaGraphDestroy(recorded);
      throw;
    }
    check_cuda(cudaStreamEndCapture(context_->stream(), &recorded), "recording a graph");
    const cudaError_t status = cudaGraphInstantiate(&graph_, recorded, 0);
    cudaGraphDestroy(recorded);
    check_cuda(status, "preparing a graph");
    for (const RecordedConstants::Piece& piece : constants_.pieces) {
      context_->upload(piece.bytes.data(), piece.memory.get(),
                       static_cast<int64_t>(piece.bytes.size()));
    }
  }

  std::shared_ptr<CudaContext> context_;
  std::function<void()> work_;
  cudaGraphExec_t graph_ = nullptr;
  RecordedConstants constants_;
  bool warm_ = false;
};

}  // namespace

std::unique_ptr<Repeatable> make_cuda_repeatable(std::shared_ptr<CudaContext> context,
                                                 std::function<void()> work) {
  return std::make_unique<CudaRecording>(std::move(context), std::move(work));
}

}  // namespace d2q
