/* What CUDA's language has beyond C++, so that kernels run on a processor: included in front of their text.

   A block's threads take turns, each with a stack of its own; one runs until it reaches a barrier or its end. So what a
   thread reads before others have written it is wrong here, too: a missing barrier shows, if not with the threads in
   this order, then in the other one. A barrier that some threads of a block do not reach is an error; so is an
   instruction of a warp that some of its threads do not reach, or at which they name another one.

   A copy to shared memory is made when the thread waits for its group, and no earlier: until then, there are no numbers
   in its place. So neither a missing wait goes unseen, nor a copy to what others still read. */
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <vector>

using std::max;
using std::min;

struct place {
  unsigned x;
};
static place threadIdx, blockIdx;

typedef unsigned char uchar;

#define __global__
#define __launch_bounds__(threads)
#define __restrict__ __restrict
#define __syncthreads() emulated::barrier()

namespace emulated {

enum { THREADS = 1024, WARP = 32, STACK = 32 << 10 };
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

static turn turns[THREADS];
static jmp_buf scheduler;
static ucontext_t all, fresh;
static char *stacks;
static int current;
static void (*body)(void **);
static void **arguments;

/* Lets the others go on: setjmp is a switch without the system calls of swapcontext. */
static void wait_as(state as) {
  turns[current].now = as;
  if (!_setjmp(turns[current].where)) _longjmp(scheduler, 1);
}

static void barrier() { wait_as(AT_BARRIER); }

static void together(void (*operation)(turn *const *), void *to, const void *left, const void *right) {
  turn &own = turns[current];
  own.operation = operation, own.to = to, own.left = left, own.right = right;
  wait_as(IN_WARP);
}

static void start() {
  body(arguments);
  turns[current].now = ENDED;
  _longjmp(scheduler, 1);
}

/* Runs thread `number` until it waits or ends. */
static void run(int number, bool begins) {
  current = threadIdx.x = number;
  if (_setjmp(scheduler)) return;
  if (!begins) _longjmp(turns[number].where, 1);
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = stacks + (size_t)number * STACK;
  fresh.uc_stack.ss_size = STACK;
  fresh.uc_link = &all;
  makecontext(&fresh, start, 0);
  setcontext(&fresh);
}

/* Lets a warp go on whose threads are all at the same instruction. */
static bool step(turn *first) {
  turn *warp[WARP];
  for (int lane = 0; lane < WARP; lane++) {
    warp[lane] = first + lane;
    if (warp[lane]->now != IN_WARP || warp[lane]->operation != first->operation) return false;
  }
  first->operation(warp);
  for (turn *lane : warp) lane->now = READY;
  return true;
}

/* Runs one block; false where threads part. */
static bool run_block(int threads, bool reverse) {
  for (int i = 0; i < threads; i++) {
    turns[i].now = READY;
    turns[i].open.clear(), turns[i].groups.clear();
  }
  for (bool begins = true;; begins = false) {
    bool goes_on = false;
    int ended = 0, waiting = 0;
    for (int i = 0; i < threads; i++) {
      int number = reverse ? threads - 1 - i : i;
      if (turns[number].now == READY) run(number, begins), goes_on = true;
    }
    for (int i = 0; i + WARP <= threads; i += WARP) goes_on |= turns[i].now == IN_WARP && step(turns + i);
    for (int i = 0; i < threads; i++) ended += turns[i].now == ENDED, waiting += turns[i].now == AT_BARRIER;
    if (ended == threads) return true;
    if (waiting == threads)
      for (int i = 0; i < threads; i++) turns[i].now = READY;
    else if (!goes_on)
      return false;
  }
}

/* Runs all blocks; 0, or 1 where threads part at a barrier. */
static int launch(void (*kernel)(void **), int blocks, int threads, void **with, int reverse) {
  if (!stacks) stacks = (char *)malloc((size_t)THREADS * STACK);
  body = kernel, arguments = with;
  for (int number = 0; number < blocks; number++) {
    blockIdx.x = reverse ? blocks - 1 - number : number;
    if (!run_block(threads, reverse)) return 1;
  }
  return 0;
}

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

static unsigned short to_bfloat16(float value) {
  unsigned word;
  memcpy(&word, &value, 4);
  if (value != value) return 0x7fff;
  return (unsigned short)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

/* ---- instructions of a warp -------------------------------------------------------------------------------------- */

static void load(turn *const *warp, bool transposed) {
  for (int lane = 0; lane < WARP; lane++) {
    unsigned short *to = (unsigned short *)warp[lane]->to;
    for (int matrix = 0; matrix < 4; matrix++)
      for (int i = 0; i < 2; i++) {
        int row = transposed ? 2 * (lane % 4) + i : lane / 4, column = transposed ? lane / 4 : 2 * (lane % 4) + i;
        const void *from = warp[8 * matrix + row]->left;
        if ((uintptr_t)from % 16) abort();
        to[2 * matrix + i] = ((const unsigned short *)from)[column];
      }
  }
}

static void load_straight(turn *const *warp) { load(warp, false); }
static void load_transposed(turn *const *warp) { load(warp, true); }
static void meet(turn *const *) {}

template <float number(unsigned short)> static void multiply(turn *const *warp) {
  float left[16][16], right[16][8];
  for (int lane = 0; lane < WARP; lane++) {
    const unsigned short *a = (const unsigned short *)warp[lane]->left, *b = (const unsigned short *)warp[lane]->right;
    int group = lane / 4, pair = 2 * (lane % 4);
    for (int i = 0; i < 8; i++) left[group + (i & 2 ? 8 : 0)][pair + (i & 1) + (i & 4 ? 8 : 0)] = number(a[i]);
    for (int i = 0; i < 4; i++) right[pair + (i & 1) + (i & 2 ? 8 : 0)][group] = number(b[i]);
  }
  float sums[16][8] = {};
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++) sums[row][column] += left[row][k] * right[k][column];
  for (int lane = 0; lane < WARP; lane++)
    for (int i = 0; i < 4; i++)
      ((float *)warp[lane]->to)[i] += sums[lane / 4 + (i & 2 ? 8 : 0)][2 * (lane % 4) + (i & 1)];
}

static void copy_later(void *to, const void *from, int bytes, int there) {
  if ((uintptr_t)to % bytes || (there && (uintptr_t)from % bytes)) abort();
  memset(to, 0xff, bytes);
  turns[current].open.push_back({to, there ? from : nullptr, bytes});
}

static void wait(size_t most) {
  auto &groups = turns[current].groups;
  for (; groups.size() > most; groups.pop_front())
    for (const copy &one : groups.front())
      if (one.from)
        memcpy(one.to, one.from, one.bytes);
      else
        memset(one.to, 0, one.bytes);
}

}  // namespace emulated

/* ---- the functions of device.cuh --------------------------------------------------------------------------------- */

static inline float specc_from_float16(unsigned short bits) { return emulated::from_float16(bits); }
static inline float specc_from_bfloat16(unsigned short bits) { return emulated::from_bfloat16(bits); }
static inline unsigned short specc_to_float16(float number) { return emulated::to_float16(number); }
static inline unsigned short specc_to_bfloat16(float number) { return emulated::to_bfloat16(number); }
static void specc_copy_4(void *to, const void *from, int there) { emulated::copy_later(to, from, 4, there); }
static void specc_copy_8(void *to, const void *from, int there) { emulated::copy_later(to, from, 8, there); }
static void specc_copy_16(void *to, const void *from, int there) { emulated::copy_later(to, from, 16, there); }
static void specc_copies_end() {
  emulated::turn &own = emulated::turns[emulated::current];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
template <int groups> static void specc_copies_wait() { emulated::wait(groups); }
static void specc_matrices(unsigned *to, const void *row) {
  emulated::together(emulated::load_straight, to, row, nullptr);
}
static void specc_matrices_transposed(unsigned *to, const void *row) {
  emulated::together(emulated::load_transposed, to, row, nullptr);
}
static void specc_multiply_float16(float *sums, const unsigned *left, const unsigned *right) {
  emulated::together(emulated::multiply<emulated::from_float16>, sums, left, right);
}
static void specc_multiply_bfloat16(float *sums, const unsigned *left, const unsigned *right) {
  emulated::together(emulated::multiply<emulated::from_bfloat16>, sums, left, right);
}
static void specc_warp_barrier() { emulated::together(emulated::meet, nullptr, nullptr, nullptr); }
