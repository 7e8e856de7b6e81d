/* Threads and scratch memory for kernels that are machine code. A part of driver.c.

   The threads of a run are one team of OpenMP's from its beginning to its end. The leader calls the kernels. A kernel
   hands it a loop in as many pieces as the team has threads; each thread takes its own piece, and then such as nobody
   has taken. So the leader waits for what others have begun, and never for a thread that the system gives no core at
   that moment or that still has to wake up: it computes that thread's piece itself. */
#include <stdatomic.h>
#ifdef _OPENMP
#include <sched.h>
#endif

/* ---- scratch memory ---------------------------------------------------------------------------------------------- */

/* It lies where the arena is free at the call, as a stack; the threads of a loop share what is left of it evenly. What
   finds no place there stays for the next kernel: a model has some pieces for each thread, which grow to what is asked
   for at most. Taken from malloc each time, pieces of many sizes would scatter over the heaps of all threads. */
typedef struct { char *begin, *next, *end; } stack;
static _Thread_local stack stack_now;

enum { PIECES = 4 };
typedef struct { void *memory; uint64_t bytes; int taken; } piece;
typedef struct {
  _Alignas(64) piece pieces[PIECES];
  _Alignas(64) atomic_uint loop; /* the last loop of which this thread's piece was taken, by whomever */
} workspace;
static _Thread_local workspace *workspace_now;

static void *scratch(int device, int number, uint64_t bytes, int code, int bits) {
  (void)device, (void)number, (void)code, (void)bits;
  uint64_t whole = (bytes + 63) / 64 * 64;
  if (whole <= (uint64_t)(stack_now.end - stack_now.next)) {
    stack_now.next += whole;
    return stack_now.next - whole;
  }
  piece *best = 0; /* the smallest that suffices, else the largest */
  for (int i = 0; workspace_now && i < PIECES; i++) {
    piece *one = &workspace_now->pieces[i];
    if (one->taken) continue;
    if (!best || (one->bytes >= bytes ? best->bytes < bytes || one->bytes < best->bytes : best->bytes < one->bytes))
      best = one;
  }
  if (!best) return aligned_memory(bytes);
  if (best->bytes < bytes) {
    free(best->memory);
    best->memory = aligned_memory(bytes);
    best->bytes = best->memory ? bytes : 0;
  }
  best->taken = best->memory != 0;
  return best->memory;
}

static int free_scratch(int device, int number, void *memory) {
  (void)device, (void)number;
  if ((char *)memory >= stack_now.begin && (char *)memory < stack_now.end) {
    stack_now.next = memory;
    return 0;
  }
  for (int i = 0; workspace_now && i < PIECES; i++) {
    if (workspace_now->pieces[i].memory == memory) {
      workspace_now->pieces[i].taken = 0;
      return 0;
    }
  }
  free(memory);
  return 0;
}

static void free_workspaces(workspace *workspaces, int threads) {
  for (int i = 0; workspaces && i < threads; i++)
    for (int j = 0; j < PIECES; j++) free(workspaces[i].pieces[j].memory);
  free(workspaces);
}

static workspace *make_workspaces(int threads) {
  workspace *made = aligned_memory((uint64_t)threads * sizeof *made);
  if (made) memset(made, 0, (uint64_t)threads * sizeof *made);
  return made;
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct { void *barrier; int32_t tasks; } task_group;
typedef int task(int number, task_group *group, void *data);

typedef struct {
  int threads;
  workspace *workspaces; /* one for each */
  task *body;            /* of the loop that is shared out */
  void *data;
  stack room; /* scratch memory of all of them */
  _Alignas(64) atomic_uint loop; /* its number, from 1 on; 0 before the first one */
  atomic_int over;               /* whether the run has ended */
  _Alignas(64) atomic_int open, unfinished; /* its pieces that nobody has taken, that are not computed */
  atomic_int failed;
} team;
static _Thread_local team *leads; /* whose leader this thread is */

#ifdef _OPENMP
enum { SPINS = 2000, YIELDS = 20000 }; /* some 0.1 ms on x86, some 10 ms */

/* Waits a little, the longer the more often: then others may have the core. */
static void pause_for(int *times) {
  if (*times < SPINS) {
#if defined __x86_64__
    __builtin_ia32_pause();
#elif defined __aarch64__ || defined __arm__
    __asm__ volatile("yield");
#endif
  } else if (*times < YIELDS) {
    sched_yield();
  } else {
    nanosleep(&(struct timespec){0, 50000}, 0);
  }
  if (*times < YIELDS) ++*times;
}

/* Computes pieces of the loop of that number: the thread's own, then others, as long as there are any. Where the loop is
   over, all are taken, and nothing is read of the next one's. */
static void take(team *of, int this, unsigned loop) {
  task_group group = {0, of->threads};
  for (int i = 0; i < of->threads; i++) {
    int number = (this + i) % of->threads;
    atomic_uint *taken = &of->workspaces[number].loop;
    unsigned last = atomic_load_explicit(taken, memory_order_relaxed);
    if ((int)(loop - last) <= 0 || !atomic_compare_exchange_strong(taken, &last, loop)) continue;
    int left = atomic_fetch_sub(&of->open, 1) - 1;
    uint64_t share = (uint64_t)(of->room.end - of->room.next) / 64 / (uint64_t)of->threads * 64;
    char *begin = of->room.next + (uint64_t)this * share;
    stack_now = (stack){begin, begin, begin + share};
    if (of->body(number, &group, of->data)) atomic_store(&of->failed, 1);
    if (left > 0) left = atomic_load_explicit(&of->open, memory_order_relaxed);
    atomic_fetch_sub_explicit(&of->unfinished, 1, memory_order_release); /* from here on, the loop may be over */
    if (left <= 0) return;
  }
}

/* What the threads but the leader do in a run. */
static void follow(team *of, int this) {
  unsigned known = 0;
  workspace_now = &of->workspaces[this];
  for (int times = 0; !atomic_load_explicit(&of->over, memory_order_acquire); pause_for(&times)) {
    unsigned loop = atomic_load_explicit(&of->loop, memory_order_acquire);
    if (loop == known) continue;
    take(of, this, loop);
    known = loop;
    times = 0;
  }
}
#endif

static int launch(task *body, void *data, int tasks) {
  (void)tasks; /* as many as there are threads: kernels ask for no number */
#ifdef _OPENMP
  team *of = leads;
  if (of) {
    of->body = body;
    of->data = data;
    of->room = stack_now;
    atomic_store_explicit(&of->open, of->threads, memory_order_relaxed);
    atomic_store_explicit(&of->unfinished, of->threads, memory_order_relaxed);
    unsigned loop = atomic_load_explicit(&of->loop, memory_order_relaxed) + 1;
    atomic_store_explicit(&of->loop, loop, memory_order_release);
    take(of, 0, loop);
    for (int times = 0; atomic_load_explicit(&of->unfinished, memory_order_acquire); pause_for(&times)) continue;
    stack_now = of->room;
    return atomic_exchange(&of->failed, 0);
  }
#endif
  task_group alone = {0, 1};
  return body(0, &alone, data);
}
