/* Threads of a GPU on a processor, and what goes wrong among them.

   A block's threads take turns, each with a stack of its own; one runs until it reaches a barrier, an instruction of its
   warp, or its end: in the order of their numbers, in the other one, or in a random one, a new one each time. So what a
   thread reads before others have written it is wrong here, too. A barrier that some threads of a block do not reach is
   an error; so is an instruction of a warp that some of its threads do not reach, or at which they name another one.

   Where kernels are compiled with -fsanitize=thread, every access to memory is a call of one of the functions at the
   end of this file (this file takes the place of the sanitizer's library). A *shadow* beside memory knows for each word
   who wrote and read it last, and between which barriers. So these are found in whatever order threads run:
     - a word that one thread writes and another one reads or writes, with no barrier of both between;
     - a word of memory that another block of the same launch writes;
     - shared memory that is read though no thread of the block has written it;
     - a place outside of the launch's memory, of the shared arrays (-fsanitize=bounds), of the thread's own stack. */
#include "threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <map>
#include <numeric>
#include <random>
#include <unordered_map>

place threadIdx, blockIdx;

namespace emulated {

turn turns[THREADS];
int current;

namespace {

enum { PAGE = 4096, SEVERAL = 0xffff };

jmp_buf scheduler;
ucontext_t all, fresh;
char *stacks;
void (*body)(void **);
void **passed;
unsigned warp_turns[THREADS / WARP];

/* Barriers that any block has passed so far; as of the launch's first block, and of this block. */
uint32_t era = 1, launch_begins, block_begins;
char trouble[256];

/* Lets the others go on: setjmp is a switch without the system calls of swapcontext. */
void wait_as(state as) {
  turns[current].now = as;
  if (!_setjmp(turns[current].where)) _longjmp(scheduler, 1);
}

void start() {
  body(passed);
  turns[current].now = ENDED;
  _longjmp(scheduler, 1);
}

/* Runs thread `number` until it waits or ends. */
void run(int number, bool begins) {
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
bool step(turn *first) {
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
bool run_block(std::vector<int> &numbers, std::minstd_rand *random) {
  int threads = numbers.size();
  block_begins = ++era;
  for (int i = 0; i < threads; i++) {
    turns[i].now = READY;
    turns[i].open.clear(), turns[i].groups.clear();
  }
  for (bool begins = true;; begins = false) {
    bool goes_on = false;
    int ended = 0, waiting = 0;
    if (random) std::shuffle(numbers.begin(), numbers.end(), *random);
    for (int number : numbers)
      if (turns[number].now == READY) run(number, begins), goes_on = true;
    for (int i = 0; i + WARP <= threads; i += WARP) goes_on |= turns[i].now == IN_WARP && step(turns + i);
    for (int i = 0; i < threads; i++) ended += turns[i].now == ENDED, waiting += turns[i].now == AT_BARRIER;
    if (ended == threads) return true;
    if (waiting == threads) {
      for (int i = 0; i < threads; i++) turns[i].now = READY;
      era++;
    } else if (!goes_on) {
      return false;
    }
  }
}

}  // namespace

void barrier() { wait_as(AT_BARRIER); }

void together(void (*operation)(turn *const *), void *to, const void *left, const void *right) {
  turn &own = turns[current];
  own.operation = operation, own.to = to, own.left = left, own.right = right;
  wait_as(IN_WARP);
}

void warp_has_met(int thread) { warp_turns[thread / WARP]++; }

void complain(const char *what, const void *address) {
  if (!trouble[0])
    snprintf(trouble, sizeof trouble, "%s at %p, by thread %d of block %u", what, address, current, blockIdx.x);
}

/* Runs all blocks; not 0 where something is wrong, which emulate_trouble tells. `order` is 0, 1 for the reverse, or a
   seed. */
int launch(void (*kernel)(void **), int blocks, int threads, void **with, int order) {
  if (!stacks) stacks = (char *)malloc((size_t)THREADS * STACK);
  body = kernel, passed = with, trouble[0] = 0;
  launch_begins = ++era;
  std::vector<int> numbers(threads);
  std::iota(numbers.begin(), numbers.end(), 0);
  if (order == 1) std::reverse(numbers.begin(), numbers.end());
  std::minstd_rand random(order);
  for (int number = 0; number < blocks; number++) {
    blockIdx.x = order == 1 ? blocks - 1 - number : number;
    if (run_block(numbers, order > 1 ? &random : nullptr)) continue;
    complain("threads part at a barrier", nullptr);
    return 1;
  }
  return trouble[0] != 0;
}

// ---- what is watched

namespace {

/* The last thread that wrote a word, and the last one that read it or SEVERAL: when, in which turn of its warp, and
   which bytes. */
struct word {
  uint32_t written, read, write_turn, read_turn;
  uint16_t writer, reader;
  uint8_t write_mask, read_mask;
};

std::map<uintptr_t, size_t> memory, arrays;
std::unordered_map<uintptr_t, word *> shadow;

word *word_of(uintptr_t address) {
  static uintptr_t last = 0;
  static word *found;
  if (address / PAGE != last) {
    word *&page = shadow[address / PAGE];
    if (!page) page = (word *)calloc(PAGE / 4, sizeof(word));
    last = address / PAGE, found = page;
  }
  return found + address % PAGE / 4;
}

bool lies_in(const std::map<uintptr_t, size_t> &regions, uintptr_t address, size_t bytes) {
  auto above = regions.upper_bound(address);
  if (above == regions.begin()) return false;
  --above;
  return address + bytes <= above->first + above->second;
}

/* Whether what a thread did in that turn of its warp comes before what the current one does now. */
bool ordered(uint16_t thread, uint32_t turn) {
  return thread == current || (thread / WARP == current / WARP && turn < warp_turns[current / WARP]);
}

void look(uintptr_t address, uint8_t mask, bool writes, bool is_shared) {
  word *at = word_of(address);
  const void *where = (const void *)address;
  bool own_block = at->written >= block_begins;
  if (is_shared && !writes && !own_block) complain("shared memory is read that nobody wrote", where);
  if (at->written >= launch_begins && at->write_mask & mask) {
    if (!own_block && !is_shared) complain("two blocks use what one of them writes", where);
    if (at->written == era && !ordered(at->writer, at->write_turn))
      complain(writes ? "two threads write" : "a thread reads what another one writes, and no barrier between", where);
  }
  if (writes && at->read >= launch_begins && at->read_mask & mask) {
    if (at->read < block_begins && !is_shared) complain("a block writes what another one reads", where);
    if (at->read == era && (at->reader == SEVERAL || !ordered(at->reader, at->read_turn)))
      complain("a thread writes what another one reads, and no barrier between", where);
  }
  uint32_t turn = warp_turns[current / WARP];
  if (writes) {
    bool more = at->written == era && at->writer == current;
    at->write_mask = more ? at->write_mask | mask : mask;
    at->written = era, at->writer = current, at->write_turn = turn;
  } else {
    bool others = at->read == era && at->reader != current;
    at->read_mask = at->read == era ? at->read_mask | mask : mask;
    at->reader = others && !ordered(at->reader, at->read_turn) ? SEVERAL : current;
    at->read = era, at->read_turn = turn;
  }
}

}  // namespace

void access(int thread, const void *place, size_t bytes, bool writes) {
  current = thread;
  uintptr_t address = (uintptr_t)place;
  if (place >= &threadIdx && place < &threadIdx + 1) return;
  if (place >= &blockIdx && place < &blockIdx + 1) return;
  uintptr_t stack = (uintptr_t)(stacks + (size_t)current * STACK);
  if (address >= stack && address < stack + STACK) return;
  bool is_shared = lies_in(arrays, address, bytes);
  if (!is_shared && !lies_in(memory, address, bytes)) {
    complain("a place outside of all memory", place);
    return;
  }
  for (size_t done = 0; done < bytes;) {
    size_t part = std::min(bytes - done, 4 - (address + done) % 4);
    look((address + done) & ~(uintptr_t)3, ((1 << part) - 1) << (address + done) % 4, writes, is_shared);
    done += part;
  }
}

void shared(const void *array, size_t bytes) { arrays[(uintptr_t)array] = bytes; }

}  // namespace emulated

using namespace emulated;

extern "C" {

const char *emulate_trouble() { return trouble; }

/* Tells of memory that kernels may use; of none any more, if there are no bytes. */
void emulate_memory(const void *begin, size_t bytes) {
  if (bytes) memory[(uintptr_t)begin] = bytes;
  else memory.erase((uintptr_t)begin);
}

void __ubsan_handle_out_of_bounds(void *, uintptr_t) { complain("an index outside of its array", nullptr); }
void __tsan_init() {}

#define ACCESS(bytes) \
  void __tsan_read##bytes(void *place) { access(current, place, bytes, false); } \
  void __tsan_write##bytes(void *place) { access(current, place, bytes, true); } \
  void __tsan_unaligned_read##bytes(void *place) { access(current, place, bytes, false); } \
  void __tsan_unaligned_write##bytes(void *place) { access(current, place, bytes, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void *place, size_t bytes) { access(current, place, bytes, false); }
void __tsan_write_range(void *place, size_t bytes) { access(current, place, bytes, true); }

}  // extern "C"
