/* Loops of one to some microseconds, shared out as kernels do it: every piece is computed once, by whichever thread, and
   what one loop wrote is seen in the next one. Arguments: threads, loops. */
#define _POSIX_C_SOURCE 200809L
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void *aligned_memory(uint64_t bytes) {
  void *memory = 0;
  return posix_memalign(&memory, 64, bytes) ? 0 : memory;
}
#include "threads.h"

enum { MOST = 64, ROOM = 1 << 16 };
static int64_t sums[2][MOST], wrong;
static int threads;

/* Each piece adds up all sums of the loop before, which are all alike, and fails in every thousandth loop. */
static int piece_of(int number, task_group *group, void *data) {
  int64_t loop = *(int64_t *)data, sum = 1;
  volatile char *memory = scratch(1, 0, 256, 0, 8);
  memory[0] = (char)number;
  for (int i = 0; i < group->tasks; i++) sum += sums[loop & 1][i];
  for (volatile int i = 0; i < (int)(loop % 7) * 100; i++) continue;
  if (memory[0] != (char)number) __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
  free_scratch(1, 0, (void *)memory);
  sums[!(loop & 1)][number] = sum % 1000003;
  return loop % 1000 == 999 && number == (int)(loop / 1000) % group->tasks;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  threads = atoi(arguments[1]);
  int64_t loops = atoll(arguments[2]), expected = 0;
  workspace *workspaces = make_workspaces(threads);
  char *room = aligned_memory(ROOM);
  team made = {.workspaces = workspaces};
#pragma omp parallel num_threads(threads)
  if (omp_get_thread_num()) {
    follow(&made, omp_get_thread_num());
  } else {
    made.threads = omp_get_num_threads();
    leads = &made;
    workspace_now = workspaces;
    for (int64_t loop = 0; loop < loops; loop++) {
      stack_now = (stack){room, room, room + ROOM};
      expected = (made.threads * expected + 1) % 1000003;
      wrong += !!launch((task *)piece_of, &loop, 0) != (loop % 1000 == 999);
      for (int i = 0; i < made.threads; i++) wrong += sums[!(loop & 1)][i] != expected;
    }
    atomic_store(&made.over, 1);
  }
  free_workspaces(workspaces, threads);
  free(room);
  printf("%d threads, %lld wrong\n", made.threads, (long long)wrong);
  return wrong != 0;
}
