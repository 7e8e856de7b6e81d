/* Runs the network in an unpacked artifact: compute weights.bin INPUT.bin... OUTPUT.bin..., in the network's order. */
#include <stdio.h>
#include <stdlib.h>
#include "specc.h"

static void stop(const char *message) {
  fprintf(stderr, "compute: %s\n", message);
  exit(1);
}

/* The file `path`, which has `bytes` bytes, in memory that is aligned to 64. */
static void *load(const char *path, uint64_t bytes) {
  void *memory = aligned_alloc(64, (bytes / 64 + 1) * 64);
  FILE *file = fopen(path, "rb");
  if (!memory || !file || fread(memory, 1, bytes, file) != bytes || fgetc(file) != EOF) stop(path);
  fclose(file);
  return memory;
}

int main(int count, char **words) {
  const specc_interface *about = specc_describe();
  if (count != 2 + about->input_count + about->output_count) stop("a file for each input and output, please");
  const void *inputs[256];
  void *outputs[256];
  if (about->input_count > 256 || about->output_count > 256) stop("that is a large interface");
  const specc_tensor *taken = about->sizes[0].inputs, *given = about->sizes[0].outputs;
  specc_model *model;
  int problem = specc_open(load(words[1], about->weight_bytes), about->weight_bytes, &model);
  if (problem) stop(specc_message(problem));
  words += 2;
  for (int i = 0; i < about->input_count; i++) inputs[i] = load(*words++, taken[i].bytes);
  for (int i = 0; i < about->output_count; i++) outputs[i] = malloc(given[i].bytes);
  if ((problem = specc_run(model, inputs, outputs))) stop(specc_message(problem));
  for (int i = 0; i < about->output_count; i++) {
    FILE *file = fopen(*words++, "wb");
    if (!file || fwrite(outputs[i], 1, given[i].bytes, file) != given[i].bytes || fclose(file))
      stop("an output cannot be written");
  }
  specc_close(model);
  return 0;
}
