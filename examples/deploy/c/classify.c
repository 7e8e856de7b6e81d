/* Runs the network in an unpacked artifact on arrays in files, and prints the greatest number of its first output.

       specc compile examples/digits.specc -o digits.artifact
       specc unpack digits.artifact -o digits
       gcc -O2 -Idigits examples/deploy/c/classify.c -Ldigits -lnetwork -Wl,-rpath,'$ORIGIN/digits' -o classify
       ./classify digits/weights.bin digits/sample/image.bin

   The inputs are dense arrays in the network's order. Weights are mapped, not read: processes share them. Where the
   network was compiled at several sizes, the first one is taken whose inputs have as many bytes as the files. */
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

/* The first size whose inputs have these numbers of bytes; says what they could be where there is none. */
static const specc_size *fitting(const specc_interface *about, char *const *paths, const uint64_t *bytes) {
  for (int number = 0; number < about->size_count; number++) {
    const specc_size *size = &about->sizes[number];
    int fits = 1;
    for (int i = 0; i < about->input_count; i++) fits &= bytes[i] == size->inputs[i].bytes;
    if (fits) return size;
  }
  for (int i = 0; i < about->input_count; i++) {
    fprintf(stderr, "classify: %s has %llu bytes, and `%s` takes", paths[i], (unsigned long long)bytes[i],
            about->sizes[0].inputs[i].name);
    for (int number = 0; number < about->size_count; number++)
      fprintf(stderr, "%s %llu", number ? " or" : "", (unsigned long long)about->sizes[number].inputs[i].bytes);
    fprintf(stderr, "\n");
  }
  exit(1);
}

int main(int count, char **words) {
  const specc_interface *about = specc_describe();
  if (count != 2 + about->input_count) {
    fprintf(stderr, "usage: %s weights.bin", words[0]);
    for (int i = 0; i < about->input_count; i++) fprintf(stderr, " %s.bin", about->sizes[0].inputs[i].name);
    fprintf(stderr, "\n");
    return 2;
  }
  uint64_t bytes;
  const void *weights = map(words[1], &bytes);
  specc_model *model;
  check(specc_open(weights, bytes, &model));
  check(specc_set_threads(model, 2));

  const void **inputs = malloc((size_t)about->input_count * sizeof *inputs);
  const int64_t **shapes = malloc((size_t)about->input_count * sizeof *shapes);
  uint64_t *given = malloc((size_t)about->input_count * sizeof *given);
  void **outputs = malloc((size_t)about->output_count * sizeof *outputs);
  for (int i = 0; i < about->input_count; i++) inputs[i] = map(words[2 + i], &given[i]);
  const specc_size *size = fitting(about, words + 2, given);
  for (int i = 0; i < about->input_count; i++) shapes[i] = size->inputs[i].shape;
  check(specc_set_shapes(model, shapes));
  for (int i = 0; i < about->output_count; i++) outputs[i] = malloc(size->outputs[i].bytes);
  check(specc_run(model, inputs, outputs));

  const float *scores = outputs[0];
  uint64_t best = 0, classes = size->outputs[0].bytes / sizeof *scores;
  if (strcmp(size->outputs[0].dtype, "float32")) {
    fprintf(stderr, "classify: `%s` is %s\n", size->outputs[0].name, size->outputs[0].dtype);
    return 1;
  }
  for (uint64_t i = 1; i < classes; i++)
    if (scores[i] > scores[best]) best = i;
  printf("%s: class %llu of %llu, %.6f\n", about->network, (unsigned long long)best, (unsigned long long)classes,
         (double)scores[best]);
  for (int i = 0; i < about->output_count; i++) free(outputs[i]);
  free(outputs);
  free(given);
  free(shapes);
  free(inputs);
  specc_close(model);
  return 0;
}
