/* What stands in front of all kernels: names of integers, since NVRTC brings no header along, and what C++ has no words
   for. Each of the functions is one instruction of PTX or two; `tests/emulation/threads.h` has them in C++ for a
   processor. See "Parallel Thread Execution ISA": 9.7.14 for matrices, 9.7.9.25 for copies.

   Numbers of 16 bits are their bits, in `unsigned short`; two of them are an `unsigned`. */
#ifdef __CUDACC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define SPECC static __device__ __forceinline__

/* The names by which TVM prints what has no digits. */
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0x7ff8000000000000ll)
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fc00000)

SPECC unsigned specc_shared(const void *memory) { return (unsigned)__cvta_generic_to_shared(memory); }

/* Numbers of 16 bits, rounded to the nearest, of two the even one. */
SPECC float specc_from_float16(unsigned short bits) {
  float number;
  asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
  return number;
}
SPECC unsigned short specc_to_float16(float number) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
  return bits;
}
SPECC float specc_from_bfloat16(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }
SPECC unsigned short specc_to_bfloat16(float number) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(number));
  return bits;
}
/* Two of them, `low` in the lower half of the word. */
SPECC unsigned specc_pair_float16(float low, float high) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
SPECC unsigned specc_pair_bfloat16(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/* 2 to the power of a number, with an error of 2^-22; what would be below 2^-126 is 0. */
SPECC float specc_power_of_two(float exponent) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  return power;
}

/* NaN where one of both is NaN: `fmaxf` would give the other one. */
#define SPECC_EXTREME(name)                                                                                            \
  SPECC float specc_##name(float a, float b) {                                                                         \
    float found;                                                                                                       \
    asm(#name ".NaN.f32 %0, %1, %2;" : "=f"(found) : "f"(a), "f"(b));                                                  \
    return found;                                                                                                      \
  }
SPECC_EXTREME(max)
SPECC_EXTREME(min)

/* Writes 4, 8 or 16 bytes at once. */
SPECC void specc_put_4(void *to, const void *from) { *(uint *)to = *(const uint *)from; }
SPECC void specc_put_8(void *to, const void *from) { *(uint2 *)to = *(const uint2 *)from; }
SPECC void specc_put_16(void *to, const void *from) { *(uint4 *)to = *(const uint4 *)from; }

/* Copies 4, 8 or 16 bytes to shared memory, or fills these with zeros, some time between here and the wait for them.
   16 bytes go past the first-level cache. */
SPECC void specc_copy_4(void *to, const void *from, int there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(specc_shared(to)), "l"(from), "r"(there ? 4 : 0)
               : "memory");
}
SPECC void specc_copy_8(void *to, const void *from, int there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(specc_shared(to)), "l"(from), "r"(there ? 8 : 0)
               : "memory");
}
SPECC void specc_copy_16(void *to, const void *from, int there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(specc_shared(to)), "l"(from), "r"(there ? 16 : 0)
               : "memory");
}
/* The copies since the last call are a group. */
SPECC void specc_copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits until no more than so many of this thread's groups are on their way. */
template <int groups> SPECC void specc_copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

/* Four matrices of 8 x 8 numbers of 16 bits: thread i says where row i % 8 of matrix i / 8 is, 16 bytes in shared memory,
   and gets of each the numbers 2 * (i % 4) and the next one of row i / 4; transposed, of column i / 4. */
SPECC void specc_matrices(unsigned *to, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(specc_shared(row)) : "memory");
}
SPECC void specc_matrices_transposed(unsigned *to, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(specc_shared(row)) : "memory");
}

/* sums[16 x 8] += left[16 x 16] * right[16 x 8], by a warp: of each, a thread holds what the fragments of
   mma.m16n8k16 say. Thread i has the sums (i / 4, 2 * (i % 4)), the next one, and both 8 rows below. */
#define SPECC_MULTIPLY(type, name)                                                                                     \
  SPECC void specc_multiply_##name(float *sums, const unsigned *left, const unsigned *right) {                         \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "   \
        "{%0, %1, %2, %3};"                                                                                            \
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                                   \
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));                       \
  }
SPECC_MULTIPLY("f16", float16)
SPECC_MULTIPLY("bf16", bfloat16)

/* Threads of a warp wait for each other, and see what the others have written. */
SPECC void specc_warp_barrier() { __syncwarp(); }
/* What the thread of the warp has whose number differs from this one's in the bits `lanes`. */
SPECC float specc_exchanged(float value, int lanes) { return __shfl_xor_sync(0xffffffff, value, lanes); }
#endif
