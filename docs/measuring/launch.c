/* Runs a program and writes, as JSON, the milliseconds from its start to the first byte that it prints, those to its end,
   and the most memory that it had resident. It is small itself: the peak of a process begins with that of its parent. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

int main(int count, char **words) {
  int ends[2], status;
  char printed[4096];
  struct rusage usage;
  if (count < 2 || pipe(ends)) return 2;
  double start = now();
  pid_t child = fork();
  if (child < 0) return 2;
  if (child == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    execvp(words[1], words + 1);
    _exit(127);
  }
  close(ends[1]);
  ssize_t length = read(ends[0], printed, sizeof printed);
  double first = now();
  while (length > 0) length = read(ends[0], printed, sizeof printed);
  if (wait4(child, &status, 0, &usage) != child || status) {
    fprintf(stderr, "launch: %s fails\n", words[1]);
    return 1;
  }
  printf("{\"first_ms\": %.3f, \"end_ms\": %.3f, \"peak_bytes\": %ld}\n", first - start, now() - start,
         usage.ru_maxrss * 1024);
  return 0;
}
