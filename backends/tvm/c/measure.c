/* What the tuner calls: runs of a network, timed call by call, behind a function of the kind that TVM's runtime calls.

   So it can be reached where TVM's RPC server runs, and without. Linked with driver.c; no artifact holds it. */
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "specc.h"

typedef struct {
  int32_t kind, zero;
  union { int64_t integer; void *pointer; };
} argument;

enum { INTEGER = 1, TENSOR_OBJECT = 70, OBJECT_HEADER = 24 };

/* The memory of a tensor: the first member of what DLPack describes it by, which in an object stands behind a header. */
static char *memory_of(argument of) {
  return *(char **)((char *)of.pointer + (of.kind == TENSOR_OBJECT ? OBJECT_HEADER : 0));
}

static void places(const specc_tensor *tensors, int count, char *memory, void **found) {
  for (int i = 0; i < count; i++) {
    found[i] = memory;
    memory += (tensors[i].bytes + 63) / 64 * 64;
  }
}

/* (weights, inputs, outputs, seconds, runs, threads): each of the first three is one tensor, whose parts begin at
   multiples of 64 bytes; `seconds` takes runs x calls float64. A run that is not timed stands in front. Below 1,
   `threads` are as many as there are cores. Returns what specc_run returns, or the number of threads, negative. */
__attribute__((visibility("default"))) int __tvm_ffi_measure(void *self, const argument *given, int32_t count,
                                                             argument *result) {
  (void)self, (void)count;
  const specc_interface *about = specc_describe();
  const specc_size *size = about->sizes;
  double *seconds = (double *)memory_of(given[3]);
  int64_t runs = given[4].integer, threads = given[5].integer;
#ifdef _OPENMP
  if (threads < 1) threads = omp_get_num_procs();
#endif
  if (threads < 1) threads = 1;
  void **inputs = malloc(sizeof(void *) * (size_t)(about->input_count + about->output_count + 1));
  void **outputs = inputs + about->input_count;
  specc_model *model = 0;
  int problem = inputs ? specc_open(memory_of(given[0]), about->weight_bytes, &model) : SPECC_NO_MEMORY;
  if (!problem) {
    places(size->inputs, about->input_count, memory_of(given[1]), inputs);
    places(size->outputs, about->output_count, memory_of(given[2]), outputs);
    problem = specc_set_threads(model, (int32_t)threads);
    if (!problem) problem = specc_run(model, (const void *const *)inputs, outputs);
    for (int64_t i = 0; i < runs && !problem; i++)
      problem = specc_profile(model, (const void *const *)inputs, outputs, seconds + i * size->call_count);
  }
  specc_close(model);
  free(inputs);
  result->kind = INTEGER;
  result->integer = problem ? problem : -threads;
  return 0;
}
