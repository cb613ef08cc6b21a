// Instructions of the tensor cores, for warps whose 32 threads all call them.
//
// Fragments of mma.m16n8k16, with g = lane / 4 and t = lane % 4: a thread holds of the result rows
// g and g + 8, columns 2t and 2t + 1; of the left operand the same rows, columns 2t, 2t + 1, 2t + 8
// and 2t + 9; of the right operand column g, rows 2t, 2t + 1, 2t + 8 and 2t + 9. So two
// neighbouring 8-column results are the left operand of the next product.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace d2q::cuda {

/// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(const __nv_bfloat16* row, unsigned (&result)[4]) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(address)
               : "memory");
}

__device__ inline void load_transposed_matrices(const __nv_bfloat16* row, unsigned (&result)[4]) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(address)
               : "memory");
}

/// c += a b.
__device__ inline void multiply(const unsigned (&a)[4], unsigned b0, unsigned b1, float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c += a b in integers, mma.m16n8k32: unsigned bytes on the left, signed ones on the right. A
/// register holds four neighbouring values along k: of the left operand rows g, g + 8, g, g + 8 at
/// k = 4t, 4t, 4t + 16, 4t + 16; of the right one column g at k = 4t and 4t + 16.
__device__ inline void multiply_bytes(const unsigned (&a)[4], unsigned b0, unsigned b1,
                                      int (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// d = the numbers of bits that rows of a and columns of b have in common, mma.m16n8k128: a
/// register holds 32 bits along k, of the left operand rows g and g + 8 at k = 32t, of the right
/// one column g.
__device__ inline void multiply_bits(const unsigned (&a)[2], unsigned b, int (&d)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%7, %7, %7, %7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "r"(0));
}

__device__ inline unsigned packed(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

}  // namespace d2q::cuda
