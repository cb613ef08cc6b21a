// Launchers of the inversion of a lower triangle. Every pointer is device memory; a launcher
// returns the status of its launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// Of a block on the diagonal that one launch inverts.
constexpr int kTriangleSize = 64;
/// In place in a [n, n], row-major: zeros above the diagonal, and the blocks of kTriangleSize on
/// the diagonal inverted.
cudaError_t launch_invert_triangles(double* a, int64_t n, cudaStream_t stream);

}  // namespace d2q::cuda
