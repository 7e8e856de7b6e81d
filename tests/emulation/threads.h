/* What CUDA's language and `device.cuh` have beyond C++, so that kernels run on a processor: included in front of their
   text. What stands behind it is in `threads.cc` and `instructions.cc`. */
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <vector>

using std::max;
using std::min;
/* Of two float32 of which one is NaN, CUDA's give the other one. */
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }

struct place {
  unsigned x;
};
extern place threadIdx, blockIdx;

typedef unsigned char uchar;

#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define __global__
#define __launch_bounds__(threads)
#define __restrict__ __restrict
#define __syncthreads() emulated::barrier()

namespace emulated {

enum { THREADS = 1024, WARP = 32, STACK = 64 << 10 };
enum state { READY, AT_BARRIER, IN_WARP, ENDED };

struct copy {
  void *to;
  const void *from;
  int bytes;
};
struct turn {
  jmp_buf where;
  state now;
  void (*operation)(struct turn *const *warp); /* what the warp does together, and this thread's part in it */
  void *to;
  const void *left, *right;
  std::vector<copy> open;
  std::deque<std::vector<copy>> groups;
};
extern turn turns[THREADS];
extern int current;

/* All threads of the block come here before one goes on. */
void barrier();
/* All threads of the warp come here, with the same operation; it is done, and they go on. */
void together(void (*operation)(turn *const *), void *to, const void *left, const void *right);
/* What the threads of this thread's warp have written is seen by all of them from here on. */
void warp_has_met(int thread);
/* Tells of an array that the threads of a block share. */
void shared(const void *array, size_t bytes);
/* A thread reads or writes memory. */
void access(int thread, const void *place, size_t bytes, bool writes);
/* Says what is wrong, if nothing was so far. */
void complain(const char *what, const void *address);
int launch(void (*kernel)(void **), int blocks, int threads, void **arguments, int order);
void wait(size_t most);

/* ---- numbers of 16 bits ------------------------------------------------------------------------------------------ */

static float from_bfloat16(unsigned short bits) {
  unsigned word = (unsigned)bits << 16;
  float number;
  memcpy(&number, &word, 4);
  return number;
}

static float from_float16(unsigned short bits) {
  _Float16 number;
  memcpy(&number, &bits, 2);
  return (float)number;
}

static unsigned short to_float16(float value) {
  _Float16 number = (_Float16)value;
  unsigned short bits;
  memcpy(&bits, &number, 2);
  return bits;
}

typedef int four __attribute__((may_alias));
typedef long eight __attribute__((may_alias));
typedef __int128 sixteen __attribute__((may_alias));

/* An access that is watched, and to be aligned. */
template <typename bytes> static void put(void *to, const void *from) {
  if ((uintptr_t)to % sizeof(bytes)) complain("what is written is not aligned", to);
  *(bytes *)to = *(const bytes *)from;
}

static unsigned short to_bfloat16(float value) {
  unsigned word;
  memcpy(&word, &value, 4);
  if (value != value) return 0x7fff;
  return (unsigned short)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

}  // namespace emulated

/* ---- the functions of device.cuh --------------------------------------------------------------------------------- */

static inline float specc_from_float16(unsigned short bits) { return emulated::from_float16(bits); }
static inline float specc_from_bfloat16(unsigned short bits) { return emulated::from_bfloat16(bits); }
static inline unsigned short specc_to_float16(float number) { return emulated::to_float16(number); }
static inline unsigned short specc_to_bfloat16(float number) { return emulated::to_bfloat16(number); }
static inline unsigned specc_pair_float16(float low, float high) {
  return emulated::to_float16(low) | (unsigned)emulated::to_float16(high) << 16;
}
static inline unsigned specc_pair_bfloat16(float low, float high) {
  return emulated::to_bfloat16(low) | (unsigned)emulated::to_bfloat16(high) << 16;
}
static inline float specc_max(float a, float b) { return isnan(a) || a > b ? a : b; }
static inline float specc_min(float a, float b) { return isnan(a) || a < b ? a : b; }
static inline float specc_power_of_two(float exponent) { return exponent < -126 ? 0 : exp2f(exponent); }
static void specc_put_4(void *to, const void *from) { emulated::put<emulated::four>(to, from); }
static void specc_put_8(void *to, const void *from) { emulated::put<emulated::eight>(to, from); }
static void specc_put_16(void *to, const void *from) { emulated::put<emulated::sixteen>(to, from); }
void specc_copy_4(void *to, const void *from, int there);
void specc_copy_8(void *to, const void *from, int there);
void specc_copy_16(void *to, const void *from, int there);
void specc_copies_end();
template <int groups> void specc_copies_wait() { emulated::wait(groups); }
void specc_matrices(unsigned *to, const void *row);
void specc_matrices_transposed(unsigned *to, const void *row);
void specc_multiply_float16(float *sums, const unsigned *left, const unsigned *right);
void specc_multiply_bfloat16(float *sums, const unsigned *left, const unsigned *right);
void specc_warp_barrier();
float specc_exchanged(float value, int lanes);
