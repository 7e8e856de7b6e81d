/* What CUDA's language has beyond C++, so that kernels run on a processor: included in front of their text.

   A block's threads take turns, each with a stack of its own; one runs until it reaches a barrier or its end. So what a
   thread reads before others have written it is wrong here, too: a missing barrier shows, if not with the threads in
   this order, then in the other one. A barrier that some threads of a block do not reach is an error. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>

using std::max;
using std::min;

struct place {
  unsigned x;
};
static place threadIdx, blockIdx;

#define __global__
#define __launch_bounds__(threads)
#define __restrict__ __restrict
#define __syncthreads() emulated::barrier()

namespace emulated {

enum { THREADS = 1024, STACK = 32 << 10 };
enum state { READY, WAITS, ENDED };

static ucontext_t turns[THREADS], all;
static char *stacks;
static state states[THREADS];
static int current;
static void (*body)(void **);
static void **arguments;

static void barrier() {
  states[current] = WAITS;
  swapcontext(&turns[current], &all);
}

static void start() {
  body(arguments);
  states[current] = ENDED;
  swapcontext(&turns[current], &all);
}

/* Runs all blocks; 0, or 1 where threads part at a barrier. */
static int launch(void (*kernel)(void **), int blocks, int threads, void **with, int reverse) {
  if (!stacks) stacks = (char *)malloc((size_t)THREADS * STACK);
  body = kernel, arguments = with;
  for (int number = 0; number < blocks; number++) {
    blockIdx.x = reverse ? blocks - 1 - number : number;
    for (int i = 0; i < threads; i++) {
      getcontext(&turns[i]);
      turns[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
      turns[i].uc_stack.ss_size = STACK;
      turns[i].uc_link = &all;
      makecontext(&turns[i], start, 0);
      states[i] = READY;
    }
    for (int ended = 0; ended < threads;) {
      ended = 0;
      for (int i = 0; i < threads; i++) {
        current = reverse ? threads - 1 - i : i;
        threadIdx.x = current;
        swapcontext(&all, &turns[current]);
        ended += states[current] == ENDED;
      }
      if (ended && ended < threads) return 1;
    }
  }
  return 0;
}

}  // namespace emulated
