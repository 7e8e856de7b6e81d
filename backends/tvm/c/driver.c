/* Runs the program of a network: calls its kernels, one after the other, on tensors whose places were planned.

   What is the network's own stands in "network.h", which the compiler writes: the interface, the kernels, and for each
   size the calls and where their operands lie. The kernels are TVM's code, and are called as TVM's runtime would call
   them; what they want of it (threads, scratch memory) is below and in "threads.h".

   Where the kernels are C as well (SPECC_SOURCE), all of it is one file, without threads. With -DSPECC_STATIC it takes
   no memory from malloc: one model, whose tensors lie in a static array, and callers give arrays that are aligned. */
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined __linux__ && (defined __aarch64__ || defined __arm__ || defined __riscv)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#elif defined __linux__ && defined __x86_64__
#include <sys/syscall.h>
long syscall(long number, ...); /* <unistd.h> keeps it from programs of POSIX alone */
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 }; /* asm/prctl.h of Linux 5.16 and later */
#endif
#if defined __linux__ && !defined SPECC_SOURCE
int madvise(void *memory, size_t bytes, int advice); /* <sys/mman.h> keeps it from programs of POSIX alone */
enum { MADVISE_HUGE = 14 };                          /* MADV_HUGEPAGE of asm/mman.h */
#define HUGE_PAGE ((uint64_t)2 << 20)
#endif
#include "specc.h"

#define EXPORT __attribute__((visibility("default")))

#ifdef SPECC_EMBED /* the name of the file of weights, in quotation marks: they become a part of the program */
__asm__(".pushsection .rodata\n.balign 64\nspecc_embedded:\n.incbin \"" SPECC_EMBED "\"\n.popsection\n");
extern const char specc_embedded[];
#define SPECC_WEIGHTS specc_embedded
#endif

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

/* A tensor as DLPack describes it. The kernels' shapes are fixed: they read the address alone. */
typedef struct {
  void *data;
  struct { int32_t type, number; } device;
  int32_t rank;
  struct { uint8_t code, bits; uint16_t lanes; } dtype;
  int64_t *shape, *strides;
  uint64_t offset;
} tensor;

typedef struct {
  int32_t kind, zero;
  union { int64_t integer; void *pointer; };
} argument;

typedef int kernel(void *self, const argument *arguments, int32_t count, argument *result);

enum { INTEGER = 1, TENSOR = 7 }; /* an argument that is a number, or a pointer to a tensor */

typedef enum { INPUT, OUTPUT, WEIGHT, ARENA, DIMENSION } space;
typedef struct { space space; int32_t number; uint64_t offset; } operand; /* which input, output, lane; in bytes */
typedef struct { kernel *run; int32_t first, count; } call;  /* its operands, among all of them */
typedef struct { int32_t output; operand from; } copy;
#ifndef SPECC_SOURCE
typedef struct { uint64_t offset, bytes; } room; /* what is free of the arena at a call */
#endif

/* A size of which some dimensions are open: a function of their values `d`, which are extents of inputs. */
typedef struct {
  int32_t dimensions, lanes;     /* the arena is a row of lanes, in which tensors lie one after the other in time */
  int64_t most;                  /* no value is greater: nothing below overflows */
  const operand *where;          /* each dimension: which input, and which axis */
  const int64_t *first;          /* the values to begin with */
  const int32_t *element_bytes;  /* of each input, then of each output */
  int (*holds)(const int64_t *d);                      /* whether every tensor is there, and none is too large */
  void (*extents)(const int64_t *d, int64_t *extents); /* of all inputs, then of all outputs */
  void (*bytes)(const int64_t *d, uint64_t *lanes);
#ifdef SPECC_SOURCE
  uint64_t (*scratch)(const int64_t *d); /* what a kernel asks for at most */
#endif
} opening;

typedef struct { /* what is run at one size */
  const call *calls;
  const operand *operands;
#ifndef SPECC_SOURCE
  const room *rooms; /* of each call */
#endif
  const copy *copies;
  int32_t copy_count;
#ifndef SPECC_SOURCE
  int32_t alone; /* whether it is too short to wake other threads for */
#endif
  const opening *opening; /* null where all dimensions are fixed */
} program;

/* What the functions of a size with open dimensions are made of. */
static inline int64_t quotient(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
static inline void lengthen(uint64_t *lane, int64_t bytes) {
  if ((uint64_t)bytes > *lane) *lane = (uint64_t)bytes;
}

#include "network.h"

/* ---- what kernels want of a runtime ------------------------------------------------------------------------------ */

#ifdef SPECC_STATIC
#ifndef SPECC_ARENA_BYTES
#define SPECC_ARENA_BYTES (ARENA_BYTES + SCRATCH_BYTES)
#endif
_Static_assert((SPECC_ARENA_BYTES) >= ARENA_BYTES + SCRATCH_BYTES, "SPECC_ARENA_BYTES is too small for the network");
#else
static void *aligned_memory(uint64_t bytes) {
  void *memory = 0;
  return posix_memalign(&memory, 64, bytes ? bytes : 1) ? 0 : memory;
}

/* Memory for tensors, in pages of 2 MB as far as these are filled: of pages of 4 KB, some share sets of the second-level
   cache. What fills three quarters of the first page has it all the same: half a megabyte more is resident at most. So
   has a last page of which no more is left than a twentieth of the whole. */
static void *arena_memory(uint64_t bytes) {
#ifdef HUGE_PAGE
  void *memory = 0;
  uint64_t rest = bytes % HUGE_PAGE, paged = bytes - rest, left = HUGE_PAGE - rest;
  if (rest && (left <= bytes / 20 || (!paged && left <= HUGE_PAGE / 4))) paged += HUGE_PAGE;
  if (paged) {
    if (posix_memalign(&memory, HUGE_PAGE, bytes > paged ? bytes : paged)) return 0;
    madvise(memory, paged, MADVISE_HUGE); /* the system may have none */
    return memory;
  }
#endif
  return aligned_memory(bytes);
}
#endif

#if defined SPECC_SOURCE && !SCRATCH_BYTES
/* The kernels want none. */
#elif defined SPECC_STATIC
/* Kernels take scratch memory and give it back in turns: a stack, in the arena behind the tensors. */
static char *scratch_next, *scratch_end;

static void *scratch(int device, int number, uint64_t bytes, int code, int bits) {
  (void)device, (void)number, (void)code, (void)bits;
  char *memory = scratch_next;
  bytes = (bytes + 63) / 64 * 64;
  if (bytes > (uint64_t)(scratch_end - scratch_next)) return 0;
  scratch_next += bytes;
  return memory;
}

static int free_scratch(int device, int number, void *memory) {
  (void)device, (void)number;
  scratch_next = memory;
  return 0;
}
#elif defined SPECC_SOURCE
static void *scratch(int device, int number, uint64_t bytes, int code, int bits) {
  (void)device, (void)number, (void)code, (void)bits;
  return aligned_memory(bytes);
}

static int free_scratch(int device, int number, void *memory) {
  (void)device, (void)number;
  free(memory);
  return 0;
}
#else
#include "threads.h"

static void raised(const char *kind, const char *const *parts, int32_t count) { (void)kind, (void)parts, (void)count; }

/* Kernels reach these through variables of these names, which a loader of TVM's would set. */
int (*__TVMBackendParallelLaunch)(task *, void *, int) = launch;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = scratch;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = free_scratch;
void (*__TVMFFIErrorSetRaisedFromCStrParts)(const char *, const char *const *, int32_t) = raised;
#endif

/* ---- models ------------------------------------------------------------------------------------------------------ */

struct specc_model {
  const char *weights;
  char *arena;
  int threads, size;
#ifdef SPECC_STATIC
  uint64_t used; /* the bytes of the tensors in the arena; behind them is what kernels ask for */
#endif
#ifndef SPECC_SOURCE
  workspace *workspaces; /* one for each thread */
#endif
#ifdef OPEN_DIMENSIONS
  uint64_t room; /* the bytes of the arena */
  int64_t values[OPEN_DIMENSIONS], extents[OPEN_EXTENTS + 1];
  uint64_t lanes[OPEN_LANES + 1]; /* where each begins; that of a size without open dimensions begins at 0 */
  specc_tensor tensors[INPUTS + OUTPUTS + 1];
  specc_size fitted;
#endif
};

#ifdef OPEN_DIMENSIONS
static const specc_size *current(const specc_model *model) {
  return programs[model->size].opening ? &model->fitted : &sizes[model->size];
}

/* The values of open dimensions for inputs of these shapes; false for one that no dimension has. */
static int values_of(const opening *one, const int64_t *const *shapes, int64_t *values) {
  for (int i = 0; i < one->dimensions; i++) {
    values[i] = shapes[one->where[i].number][one->where[i].offset];
    if (values[i] < 1 || values[i] > one->most) return 0;
  }
  return 1;
}

/* Makes the model ready to run at size `number` with these values: the shapes that it has then, and an arena. Where
   there is no memory for it, the model stays as it was. */
static int fit(specc_model *model, int number, const int64_t *values) {
  const opening *one = programs[number].opening;
  uint64_t bytes[OPEN_LANES + 1], end = 0, begin = 0;
  one->bytes(values, bytes);
  for (int i = 0; i < one->lanes; i++) end += bytes[i] = (bytes[i] + 63) / 64 * 64;
#ifdef SPECC_STATIC
  uint64_t used = end;
  end += one->scratch(values);
  if (end > model->room) return SPECC_NO_MEMORY;
  model->used = used;
#else
  if (end > model->room) {
    char *arena = arena_memory(end);
    if (!arena) return SPECC_NO_MEMORY;
    free(model->arena);
    model->arena = arena;
    model->room = end;
  }
#endif
  for (int i = 0; i < one->lanes; begin += bytes[i++]) model->lanes[i] = begin;
  for (int i = 0; i < one->dimensions; i++) model->values[i] = values[i];
  one->extents(model->values, model->extents);
  const int64_t *extent = model->extents;
  for (int i = 0; i < INPUTS + OUTPUTS; i++) {
    specc_tensor *tensor = &model->tensors[i];
    *tensor = i < INPUTS ? sizes[number].inputs[i] : sizes[number].outputs[i - INPUTS];
    tensor->shape = extent;
    tensor->bytes = (uint64_t)one->element_bytes[i];
    for (int axis = 0; axis < tensor->rank; axis++) tensor->bytes *= (uint64_t)*extent++;
  }
  model->fitted = sizes[number];
  model->fitted.inputs = model->tensors;
  model->fitted.outputs = model->tensors + INPUTS;
  model->fitted.arena_bytes = end;
  model->size = number;
  return SPECC_OK;
}
#else
static const specc_size *current(const specc_model *model) { return &sizes[model->size]; }
#endif

EXPORT const specc_interface *specc_describe(void) { return &network; }

EXPORT const char *specc_message(int problem) {
  static const char *const words[] = {
      "no problem",
      "there is not enough memory",
      "these are not the weights that the network was compiled with",
      "this processor lacks an extension that the network was compiled for",
      "an argument is null or out of its range",
      "a kernel could not get memory",
      "the network was not compiled for inputs of these shapes",
  };
  int known = problem >= 0 && problem < (int)(sizeof words / sizeof *words);
  return known ? words[problem] : "an unknown problem";
}

EXPORT int specc_open(const void *weights, uint64_t bytes, specc_model **model) {
  if (!model) return SPECC_BAD_ARGUMENT;
  *model = 0;
  if (!processor_fits()) return SPECC_BAD_CPU;
#ifdef SPECC_WEIGHTS
  if (!weights) weights = SPECC_WEIGHTS, bytes = network.weight_bytes;
#endif
  if (bytes != network.weight_bytes || (bytes && (!weights || (uintptr_t)weights % ALIGNMENT)))
    return SPECC_BAD_WEIGHTS;
#ifdef SPECC_STATIC
  static specc_model one;
  static _Alignas(64) char arena[(SPECC_ARENA_BYTES) + 1];
  specc_model *made = &one;
  if (one.arena) return SPECC_NO_MEMORY; /* it is open */
#else
  specc_model *made = malloc(sizeof *made);
  char *arena = made ? arena_memory(network.arena_bytes) : 0;
  if (!arena) {
    free(made);
    return SPECC_NO_MEMORY;
  }
#endif
  *made = (specc_model){.weights = weights, .arena = arena};
#ifdef SPECC_STATIC
  made->used = sizes[0].arena_bytes;
#endif
  int problem = specc_set_threads(made, 1);
  if (problem) {
    specc_close(made);
    return problem;
  }
#ifdef OPEN_DIMENSIONS
#ifdef SPECC_STATIC
  made->room = SPECC_ARENA_BYTES;
#else
  made->room = network.arena_bytes;
#endif
  if (programs[0].opening) fit(made, 0, programs[0].opening->first); /* the sample's: the arena is large enough */
#endif
  *model = made;
  return SPECC_OK;
}

EXPORT void specc_close(specc_model *model) {
  if (!model) return;
#ifdef SPECC_STATIC
  model->arena = 0;
#else
#ifndef SPECC_SOURCE
  free_workspaces(model->workspaces, model->threads);
#endif
  free(model->arena);
  free(model);
#endif
}

EXPORT int specc_set_threads(specc_model *model, int32_t threads) {
  if (!model || threads < 1) return SPECC_BAD_ARGUMENT;
#ifndef SPECC_SOURCE
  workspace *made = make_workspaces(threads);
  if (!made) return SPECC_NO_MEMORY;
  free_workspaces(model->workspaces, model->threads);
  model->workspaces = made;
#endif
  model->threads = threads;
  return SPECC_OK;
}

static int takes(const specc_size *size, const int64_t *const *shapes) {
  for (int i = 0; i < INPUTS; i++)
    for (int axis = 0; axis < size->inputs[i].rank; axis++)
      if (shapes[i][axis] != size->inputs[i].shape[axis]) return 0;
  return 1;
}

EXPORT int specc_set_shapes(specc_model *model, const int64_t *const *shapes) {
  if (!model || (INPUTS && !shapes)) return SPECC_BAD_ARGUMENT;
  for (int i = 0; i < INPUTS; i++)
    if (!shapes[i] && sizes[0].inputs[i].rank) return SPECC_BAD_ARGUMENT;
  for (int i = 0; i < SIZES; i++) {
    if (takes(&sizes[i], shapes)) {
      model->size = i;
#ifdef SPECC_STATIC
      model->used = sizes[i].arena_bytes;
#endif
#ifdef OPEN_DIMENSIONS
      model->lanes[0] = 0;
#endif
      return SPECC_OK;
    }
  }
#ifdef OPEN_DIMENSIONS
  for (int i = 0; i < SIZES; i++) {
    if (!programs[i].opening) continue;
    int64_t values[OPEN_DIMENSIONS], extents[OPEN_EXTENTS + 1], *extent = extents;
    int fits = values_of(programs[i].opening, shapes, values);
    if (fits) programs[i].opening->extents(values, extents);
    for (int j = 0; j < INPUTS && fits; j++)
      for (int axis = 0; axis < sizes[i].inputs[j].rank; axis++) fits &= *extent++ == shapes[j][axis];
    if (fits && programs[i].opening->holds(values)) return fit(model, i, values);
  }
#endif
  return SPECC_BAD_SHAPE;
}

EXPORT const specc_size *specc_get_size(const specc_model *model) { return model ? current(model) : 0; }

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* The caller's tensors, each as it is where it is aligned, else memory of our own. */
typedef struct {
  void *inputs[INPUTS + 1], *outputs[OUTPUTS + 1];
} interface_memory;

static int is_aligned(const void *memory) { return (uintptr_t)memory % ALIGNMENT == 0; }

#ifdef SPECC_STATIC
static int prepare(const specc_size *size, interface_memory *memory, const void *const *inputs, void *const *outputs) {
  (void)size;
  for (int i = 0; i < INPUTS; i++) {
    memory->inputs[i] = (void *)inputs[i];
    if (!is_aligned(inputs[i])) return SPECC_BAD_ARGUMENT;
  }
  for (int i = 0; i < OUTPUTS; i++) {
    memory->outputs[i] = outputs[i];
    if (!is_aligned(outputs[i])) return SPECC_BAD_ARGUMENT;
  }
  return SPECC_OK;
}

static void release(interface_memory *memory, const void *const *inputs, void *const *outputs) {
  (void)memory, (void)inputs, (void)outputs;
}
#else
static void release(interface_memory *memory, const void *const *inputs, void *const *outputs) {
  for (int i = 0; i < INPUTS; i++)
    if (memory->inputs[i] != inputs[i]) free(memory->inputs[i]);
  for (int i = 0; i < OUTPUTS; i++)
    if (memory->outputs[i] != outputs[i]) free(memory->outputs[i]);
}

static int prepare(const specc_size *size, interface_memory *memory, const void *const *inputs, void *const *outputs) {
  int missing = 0;
  for (int i = 0; i < INPUTS; i++) {
    if (is_aligned(inputs[i])) {
      memory->inputs[i] = (void *)inputs[i];
    } else if ((memory->inputs[i] = aligned_memory(size->inputs[i].bytes))) {
      memcpy(memory->inputs[i], inputs[i], size->inputs[i].bytes);
    } else {
      missing = 1;
    }
  }
  for (int i = 0; i < OUTPUTS; i++) {
    memory->outputs[i] = is_aligned(outputs[i]) ? outputs[i] : aligned_memory(size->outputs[i].bytes);
    missing |= !memory->outputs[i];
  }
  return missing ? SPECC_NO_MEMORY : SPECC_OK;
}
#endif

static void *address(const specc_model *model, const interface_memory *memory, operand of) {
  switch (of.space) {
    case INPUT: return (char *)memory->inputs[of.number] + of.offset;
    case OUTPUT: return (char *)memory->outputs[of.number] + of.offset;
    case WEIGHT: return (char *)model->weights + of.offset;
#ifdef OPEN_DIMENSIONS
    case ARENA: return model->arena + model->lanes[of.number] + of.offset;
#endif
    default: return model->arena + of.offset;
  }
}

static double now(void) {
#ifdef CLOCK_MONOTONIC
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
#else
  return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static int run_calls(const specc_model *model, const interface_memory *memory, double *seconds) {
  tensor tensors[MOST_OPERANDS + 1];
  argument arguments[MOST_OPERANDS + 1];
  memset(tensors, 0, sizeof tensors);
  memset(arguments, 0, sizeof arguments);
  for (int i = 0; i < MOST_OPERANDS; i++) {
    tensors[i].device.type = 1;
    arguments[i].kind = TENSOR;
    arguments[i].pointer = &tensors[i];
  }
  const program *run = &programs[model->size];
#if defined SPECC_STATIC && SCRATCH_BYTES
  scratch_next = model->arena + model->used;
  scratch_end = model->arena + (SPECC_ARENA_BYTES);
#endif
  double before = seconds ? now() : 0;
  for (int i = 0; i < sizes[model->size].call_count; i++) {
    const call *one = &run->calls[i];
    argument result = {0};
    for (int j = 0; j < one->count; j++) {
      operand of = run->operands[one->first + j];
#ifdef OPEN_DIMENSIONS
      arguments[j].kind = of.space == DIMENSION ? INTEGER : TENSOR;
      arguments[j].pointer = &tensors[j];
      if (of.space == DIMENSION) arguments[j].integer = model->values[of.number];
      if (of.space == DIMENSION) continue;
#endif
      tensors[j].data = address(model, memory, of);
    }
#ifndef SPECC_SOURCE
    char *room = model->arena + run->rooms[i].offset;
    stack_now = (stack){room, room, room + run->rooms[i].bytes};
#endif
    if (one->run(0, arguments, one->count, &result)) return SPECC_FAILED;
    if (seconds) {
      double after = now();
      seconds[i] = after - before;
      before = after;
    }
  }
  return SPECC_OK;
}

/* The calls, by as many threads as the model has. */
static int run_threads(const specc_model *model, const interface_memory *memory, double *seconds) {
#ifndef SPECC_SOURCE
  workspace_now = model->workspaces;
  for (int i = 0; i < model->threads; i++) { /* a kernel that failed has given nothing back */
    for (int j = 0; j < PIECES; j++) model->workspaces[i].pieces[j].taken = 0;
    atomic_store(&model->workspaces[i].loop, 0);
  }
#ifdef _OPENMP
  if (model->threads > 1 && !programs[model->size].alone) {
    team made = {.workspaces = model->workspaces};
    int problem = SPECC_OK;
#pragma omp parallel num_threads(model->threads)
    if (omp_get_thread_num()) {
      follow(&made, omp_get_thread_num());
    } else {
      made.threads = omp_get_num_threads();
      leads = made.threads > 1 ? &made : 0;
      problem = run_calls(model, memory, seconds);
      leads = 0;
      atomic_store(&made.over, 1);
    }
    return problem;
  }
#endif
#endif
  return run_calls(model, memory, seconds);
}

static int compute(specc_model *model, const void *const *inputs, void *const *outputs, double *seconds) {
  if (!model || (INPUTS && !inputs) || (OUTPUTS && !outputs)) return SPECC_BAD_ARGUMENT;
  for (int i = 0; i < INPUTS; i++)
    if (!inputs[i]) return SPECC_BAD_ARGUMENT;
  for (int i = 0; i < OUTPUTS; i++)
    if (!outputs[i]) return SPECC_BAD_ARGUMENT;
  const specc_size *size = current(model);
  const program *run = &programs[model->size];
  interface_memory memory;
  int problem = prepare(size, &memory, inputs, outputs);
  if (!problem) {
    problem = run_threads(model, &memory, seconds);
  }
  if (!problem) {
    for (int i = 0; i < run->copy_count; i++) {
      const copy *one = &run->copies[i];
      memcpy(memory.outputs[one->output], address(model, &memory, one->from), size->outputs[one->output].bytes);
    }
    for (int i = 0; i < OUTPUTS; i++)
      if (memory.outputs[i] != outputs[i]) memcpy(outputs[i], memory.outputs[i], size->outputs[i].bytes);
  }
  release(&memory, inputs, outputs);
  return problem;
}

EXPORT int specc_run(specc_model *model, const void *const *inputs, void *const *outputs) {
  return compute(model, inputs, outputs, 0);
}

EXPORT int specc_profile(specc_model *model, const void *const *inputs, void *const *outputs, double *seconds) {
  return seconds ? compute(model, inputs, outputs, seconds) : SPECC_BAD_ARGUMENT;
}
