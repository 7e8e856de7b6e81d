/* Runs the network in an unpacked artifact on arrays in files, and prints the greatest number of its first output.

       specc compile examples/digits.specc -o digits.artifact
       specc unpack digits.artifact -o digits
       gcc -O2 -Idigits examples/deploy/c/classify.c -Ldigits -lnetwork -Wl,-rpath,'$ORIGIN/digits' -o classify
       ./classify digits/weights.bin digits/sample/image.bin

   The inputs are dense float32 arrays in the network's order. Weights are mapped, not read: processes share them. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "specc.h"

static const void *map(const char *path, uint64_t *bytes) {
  int file = open(path, O_RDONLY);
  struct stat about;
  if (file < 0 || fstat(file, &about)) {
    perror(path);
    exit(1);
  }
  *bytes = (uint64_t)about.st_size;
  void *memory = *bytes ? mmap(0, *bytes, PROT_READ, MAP_PRIVATE, file, 0) : 0;
  close(file);
  if (memory == MAP_FAILED) {
    perror(path);
    exit(1);
  }
  return memory;
}

static void check(int problem) {
  if (problem) {
    fprintf(stderr, "classify: %s\n", specc_message(problem));
    exit(1);
  }
}

int main(int count, char **words) {
  const specc_interface *about = specc_describe();
  if (count != 2 + about->input_count) {
    fprintf(stderr, "usage: %s weights.bin", words[0]);
    for (int i = 0; i < about->input_count; i++) fprintf(stderr, " %s.bin", about->inputs[i].name);
    fprintf(stderr, "\n");
    return 2;
  }
  uint64_t bytes;
  const void *weights = map(words[1], &bytes);
  specc_model *model;
  check(specc_open(weights, bytes, &model));
  check(specc_set_threads(model, 2));

  const void **inputs = malloc((size_t)about->input_count * sizeof *inputs);
  void **outputs = malloc((size_t)about->output_count * sizeof *outputs);
  for (int i = 0; i < about->input_count; i++) {
    inputs[i] = map(words[2 + i], &bytes);
    if (bytes != about->inputs[i].bytes) {
      fprintf(stderr, "classify: %s has %llu bytes, and `%s` takes %llu\n", words[2 + i], (unsigned long long)bytes,
              about->inputs[i].name, (unsigned long long)about->inputs[i].bytes);
      return 1;
    }
  }
  for (int i = 0; i < about->output_count; i++) outputs[i] = malloc(about->outputs[i].bytes);
  check(specc_run(model, inputs, outputs));

  const float *scores = outputs[0];
  uint64_t best = 0, classes = about->outputs[0].bytes / sizeof *scores;
  if (strcmp(about->outputs[0].dtype, "float32")) {
    fprintf(stderr, "classify: `%s` is %s\n", about->outputs[0].name, about->outputs[0].dtype);
    return 1;
  }
  for (uint64_t i = 1; i < classes; i++)
    if (scores[i] > scores[best]) best = i;
  printf("%s: class %llu of %llu, %.6f\n", about->network, (unsigned long long)best, (unsigned long long)classes,
         (double)scores[best]);
  for (int i = 0; i < about->output_count; i++) free(outputs[i]);
  free(outputs);
  free(inputs);
  specc_close(model);
  return 0;
}
