/* Runs the program of a network on an NVIDIA GPU: launches its kernels, one after the other, on tensors whose places
   were planned.

   What is the network's own stands in "network.h", which the compiler writes: the interface, the calls, their launches
   and where the operands lie; the kernels are "kernels.cubin", which becomes a part of the library. CUDA's driver is
   looked for when a model is opened, so the library needs nothing of CUDA where it is made or loaded.

   A model has one run of the GPU's memory: weights, arena, and room for inputs and outputs that the caller has in memory
   of the processor. What the caller has in the GPU's memory is used where it lies. Runs on the same addresses as the run
   before are one CUDA graph. The stream is one that waits for the default stream, and is waited for. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include "specc.h"

#define EXPORT __attribute__((visibility("default")))

typedef enum { INPUT, OUTPUT, WEIGHT, ARENA } space;
typedef struct { space space; int32_t number; uint64_t offset; } operand; /* which input or output; in bytes */
typedef struct { int32_t function, blocks, threads, first, count; } launch; /* its arguments, among all operands */
typedef struct { int32_t first, count; } call;                              /* its launches, among all of them */
typedef struct { int32_t output; operand from; } copy;

typedef struct { /* what is run at one size */
  const call *calls;
  const launch *launches;
  const operand *operands;
  const copy *copies;
  int32_t copy_count;
} program;

#include "network.h"

__asm__(".pushsection .rodata\n.balign 64\nspecc_kernels:\n.incbin \"kernels.cubin\"\n.popsection\n");
extern const char specc_kernels[];

/* ---- CUDA's driver ----------------------------------------------------------------------------------------------- */

typedef uint64_t address;
typedef void *handle;

enum { OUT_OF_MEMORY = 2 };                              /* CUresult */
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };   /* CUdevice_attribute */
enum { POINTER_MEMORY_TYPE = 2, MEMORY_OF_DEVICE = 2 };  /* CUpointer_attribute, CUmemorytype */
enum { CAPTURE_THREAD_LOCAL = 1 };                       /* CUstreamCaptureMode */

/* What is used of the driver: the name in the library, the name here, the parameters. */
#define DRIVER(X)                                                                                                      \
  X("cuInit", init, (unsigned))                                                                                        \
  X("cuDeviceGetCount", device_count, (int *))                                                                         \
  X("cuDeviceGet", device_get, (int *, int))                                                                           \
  X("cuDeviceGetAttribute", device_attribute, (int *, int, int))                                                       \
  X("cuDevicePrimaryCtxRetain", context_retain, (handle *, int))                                                       \
  X("cuDevicePrimaryCtxRelease_v2", context_release, (int))                                                            \
  X("cuCtxGetCurrent", context_current, (handle *))                                                                    \
  X("cuCtxGetDevice", context_device, (int *))                                                                         \
  X("cuCtxPushCurrent_v2", context_push, (handle))                                                                     \
  X("cuCtxPopCurrent_v2", context_pop, (handle *))                                                                     \
  X("cuModuleLoadData", module_load, (handle *, const void *))                                                         \
  X("cuModuleUnload", module_unload, (handle))                                                                         \
  X("cuModuleGetFunction", module_function, (handle *, handle, const char *))                                          \
  X("cuMemAlloc_v2", allocate, (address *, size_t))                                                                    \
  X("cuMemFree_v2", release, (address))                                                                                \
  X("cuMemcpyAsync", copy_memory, (address, address, size_t, handle))                                                  \
  X("cuPointerGetAttribute", pointer_attribute, (void *, int, address))                                                \
  X("cuStreamCreate", stream_create, (handle *, unsigned))                                                             \
  X("cuStreamDestroy_v2", stream_destroy, (handle))                                                                    \
  X("cuStreamSynchronize", stream_wait, (handle))                                                                      \
  X("cuStreamBeginCapture_v2", capture_begin, (handle, int))                                                           \
  X("cuStreamEndCapture", capture_end, (handle, handle *))                                                             \
  X("cuGraphInstantiateWithFlags", graph_instantiate, (handle *, handle, unsigned long long))                          \
  X("cuGraphLaunch", graph_launch, (handle, handle))                                                                   \
  X("cuGraphDestroy", graph_destroy, (handle))                                                                         \
  X("cuGraphExecDestroy", graph_forget, (handle))                                                                      \
  X("cuEventCreate", event_create, (handle *, unsigned))                                                               \
  X("cuEventDestroy_v2", event_destroy, (handle))                                                                      \
  X("cuEventRecord", event_record, (handle, handle))                                                                   \
  X("cuEventElapsedTime", event_elapsed, (float *, handle, handle))                                                    \
  X("cuLaunchKernel", launch_kernel,                                                                                   \
    (handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, handle, void **, void **))

#define MEMBER(name, member, parameters) int(*member) parameters;
#define LOOK_UP(name, member, parameters)                                                                              \
  *(void **)&found->member = dlsym(library, name);                                                                     \
  if (!found->member) return SPECC_NO_DRIVER;

typedef struct { DRIVER(MEMBER) } driver;

/* Finds the driver. It stays loaded for as long as the process lives: others in it may use it, too. */
static int find_driver(driver *found) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return SPECC_NO_DRIVER;
  DRIVER(LOOK_UP)
  return found->init(0) ? SPECC_NO_DRIVER : SPECC_OK;
}

static int problem_of(int result) {
  return !result ? SPECC_OK : result == OUT_OF_MEMORY ? SPECC_NO_MEMORY : SPECC_FAILED;
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

struct specc_model {
  driver cuda;
  int device, retained, size; /* `size` is the number of the one at which it computes */
  handle context, module, stream, functions[FUNCTIONS + 1];
  address memory, arena, inputs[INPUTS + 1], outputs[OUTPUTS + 1]; /* the weights come first */
  address last[INPUTS + OUTPUTS + 1]; /* where the tensors of the last run lay, and its size */
  handle graph;                       /* of such a run; NULL before the second one */
};

EXPORT const specc_interface *specc_describe(void) { return &network; }

EXPORT const char *specc_message(int problem) {
  static const char *const words[] = {
      "no problem",
      "there is not enough memory on the GPU",
      "these are not the weights that the network was compiled with",
      "this processor lacks an extension that the network was compiled for",
      "an argument is null or out of its range",
      "the GPU's driver reports a failure",
      "the network was not compiled for inputs of these shapes",
      "there is no NVIDIA driver of CUDA 11.4 or later (libcuda.so.1), or it finds no GPU",
      "no GPU here runs code for " GPU,
  };
  int known = problem >= 0 && problem < (int)(sizeof words / sizeof *words);
  return known ? words[problem] : "an unknown problem";
}

/* Whether a GPU runs the kernels: one of the same generation that is not older. */
static int fits(const driver *cuda, int device) {
  int major = 0, minor = 0;
  if (cuda->device_attribute(&major, CAPABILITY_MAJOR, device)) return 0;
  if (cuda->device_attribute(&minor, CAPABILITY_MINOR, device)) return 0;
  return major == GPU_MAJOR && minor >= GPU_MINOR;
}

/* The context that the caller's thread has, else that of the first GPU that fits; it is current afterwards. */
static int find_context(specc_model *model) {
  driver *cuda = &model->cuda;
  if (!cuda->context_current(&model->context) && model->context) {
    if (cuda->context_device(&model->device)) return SPECC_FAILED;
    if (!fits(cuda, model->device)) return SPECC_BAD_GPU;
  } else {
    int count = 0, number = 0;
    if (cuda->device_count(&count)) return SPECC_NO_DRIVER;
    while (number < count && (cuda->device_get(&model->device, number) || !fits(cuda, model->device))) number++;
    if (number == count) return count ? SPECC_BAD_GPU : SPECC_NO_DRIVER;
    int problem = problem_of(cuda->context_retain(&model->context, model->device));
    if (problem) return problem;
    model->retained = 1;
  }
  return problem_of(cuda->context_push(model->context));
}

static uint64_t aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

/* Room for an input or an output at every size. */
static uint64_t room(int is_input, int number) {
  uint64_t most = 0;
  for (int i = 0; i < SIZES; i++) {
    uint64_t bytes = (is_input ? sizes[i].inputs : sizes[i].outputs)[number].bytes;
    if (bytes > most) most = bytes;
  }
  return aligned(most);
}

/* The memory of a model, the weights in it, and its kernels; the context is current. */
static int fill(specc_model *model, const void *weights) {
  driver *cuda = &model->cuda;
  uint64_t bytes = aligned(network.weight_bytes), arena = bytes;
  bytes += aligned(network.arena_bytes);
  for (int i = 0; i < INPUTS; i++) model->inputs[i] = bytes, bytes += room(1, i);
  for (int i = 0; i < OUTPUTS; i++) model->outputs[i] = bytes, bytes += room(0, i);
  int problem = cuda->allocate(&model->memory, bytes ? bytes : 1);
  if (problem) return model->memory = 0, problem_of(problem);
  model->arena = model->memory + arena;
  for (int i = 0; i < INPUTS; i++) model->inputs[i] += model->memory;
  for (int i = 0; i < OUTPUTS; i++) model->outputs[i] += model->memory;
  problem = cuda->stream_create(&model->stream, 0);
  if (!problem && FUNCTIONS) problem = cuda->module_load(&model->module, specc_kernels);
  for (int i = 0; i < FUNCTIONS && !problem; i++)
    problem = cuda->module_function(&model->functions[i], model->module, functions[i]);
  if (!problem && network.weight_bytes)
    problem = cuda->copy_memory(model->memory, (uintptr_t)weights, network.weight_bytes, model->stream);
  if (!problem) problem = cuda->stream_wait(model->stream);
  return problem_of(problem);
}

/* Gives back what a model has; its context is current. */
static void empty(specc_model *model) {
  driver *cuda = &model->cuda;
  if (model->graph) cuda->graph_forget(model->graph);
  if (model->module) cuda->module_unload(model->module);
  if (model->stream) cuda->stream_destroy(model->stream);
  if (model->memory) cuda->release(model->memory);
}

static void leave(specc_model *model) {
  handle left;
  model->cuda.context_pop(&left);
}

EXPORT int specc_open(const void *weights, uint64_t bytes, specc_model **model) {
  if (!model) return SPECC_BAD_ARGUMENT;
  *model = 0;
  if (bytes != network.weight_bytes || (bytes && !weights)) return SPECC_BAD_WEIGHTS;
  specc_model *made = calloc(1, sizeof *made);
  if (!made) return SPECC_NO_MEMORY;
  int problem = find_driver(&made->cuda);
  if (!problem) {
    problem = find_context(made);
    if (!problem) {
      problem = fill(made, weights);
      if (problem) empty(made);
      leave(made);
    }
    if (problem && made->retained) made->cuda.context_release(made->device);
  }
  if (problem) {
    free(made);
    return problem;
  }
  *model = made;
  return SPECC_OK;
}

EXPORT void specc_close(specc_model *model) {
  if (!model) return;
  if (!model->cuda.context_push(model->context)) {
    empty(model);
    leave(model);
  }
  if (model->retained) model->cuda.context_release(model->device);
  free(model);
}

EXPORT int specc_set_threads(specc_model *model, int32_t threads) {
  return model && threads >= 1 ? SPECC_OK : SPECC_BAD_ARGUMENT;
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
      return SPECC_OK;
    }
  }
  return SPECC_BAD_SHAPE;
}

EXPORT const specc_size *specc_get_size(const specc_model *model) { return model ? &sizes[model->size] : 0; }

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* Where the tensors of a run lie on the GPU. */
typedef struct { address inputs[INPUTS + 1], outputs[OUTPUTS + 1]; } tensors;

/* Whether memory is the GPU's, and aligned as kernels want it. */
static int on_device(const specc_model *model, const void *memory) {
  unsigned type = 0;
  if (model->cuda.pointer_attribute(&type, POINTER_MEMORY_TYPE, (uintptr_t)memory)) return 0;
  return type == MEMORY_OF_DEVICE && (uintptr_t)memory % 64 == 0;
}

static address address_of(const specc_model *model, const tensors *at, operand of) {
  switch (of.space) {
    case INPUT: return at->inputs[of.number] + of.offset;
    case OUTPUT: return at->outputs[of.number] + of.offset;
    case WEIGHT: return model->memory + of.offset;
    default: return model->arena + of.offset;
  }
}

/* Gives all launches to the stream; with `events`, one event before each call and one behind the last. */
static int launch_all(const specc_model *model, const tensors *at, handle *events) {
  const driver *cuda = &model->cuda;
  address arguments[MOST_ARGUMENTS + 1];
  void *pointers[MOST_ARGUMENTS + 1];
  for (int i = 0; i < MOST_ARGUMENTS; i++) pointers[i] = &arguments[i];
  const program *run = &programs[model->size];
  int problem = 0, count = sizes[model->size].call_count;
  for (int i = 0; i < count && !problem; i++) {
    if (events) problem = cuda->event_record(events[i], model->stream);
    for (int j = 0; j < run->calls[i].count && !problem; j++) {
      const launch *one = &run->launches[run->calls[i].first + j];
      for (int k = 0; k < one->count; k++) arguments[k] = address_of(model, at, run->operands[one->first + k]);
      problem = cuda->launch_kernel(model->functions[one->function], one->blocks, 1, 1, one->threads, 1, 1, 0,
                                    model->stream, pointers, 0);
    }
  }
  if (events && !problem) problem = cuda->event_record(events[count], model->stream);
  for (int i = 0; i < run->copy_count && !problem; i++) {
    const copy *one = &run->copies[i];
    problem = cuda->copy_memory(at->outputs[one->output], address_of(model, at, one->from),
                                sizes[model->size].outputs[one->output].bytes, model->stream);
  }
  return problem;
}

/* As launch_all; what is done a second time on the same addresses becomes a graph. */
static int launch_graph(specc_model *model, const tensors *at) {
  const driver *cuda = &model->cuda;
  address now[INPUTS + OUTPUTS + 1] = {0};
  memcpy(now, at->inputs, INPUTS * sizeof *now);
  memcpy(now + INPUTS, at->outputs, OUTPUTS * sizeof *now);
  now[INPUTS + OUTPUTS] = model->size;
  if (memcmp(now, model->last, sizeof now)) {
    if (model->graph) cuda->graph_forget(model->graph);
    model->graph = 0;
    memcpy(model->last, now, sizeof now);
    return launch_all(model, at, 0);
  }
  if (!model->graph) {
    handle recorded = 0;
    int problem = cuda->capture_begin(model->stream, CAPTURE_THREAD_LOCAL);
    if (problem) return problem;
    problem = launch_all(model, at, 0);
    int ended = cuda->capture_end(model->stream, &recorded);
    if (!problem) problem = ended;
    if (!problem) problem = cuda->graph_instantiate(&model->graph, recorded, 0);
    if (recorded) cuda->graph_destroy(recorded);
    if (problem) return model->graph = 0, problem;
  }
  return cuda->graph_launch(model->graph, model->stream);
}

/* As launch_all, and the time that each call takes. */
static int launch_timed(const specc_model *model, const tensors *at, double *seconds) {
  const driver *cuda = &model->cuda;
  handle events[MOST_CALLS + 1] = {0};
  int problem = 0, count = sizes[model->size].call_count;
  for (int i = 0; i <= count && !problem; i++) problem = cuda->event_create(&events[i], 0);
  if (!problem) problem = launch_all(model, at, events);
  if (!problem) problem = cuda->stream_wait(model->stream);
  for (int i = 0; i < count && !problem; i++) {
    float milliseconds = 0;
    problem = cuda->event_elapsed(&milliseconds, events[i], events[i + 1]);
    seconds[i] = 1e-3 * milliseconds;
  }
  for (int i = 0; i <= count; i++)
    if (events[i]) cuda->event_destroy(events[i]);
  return problem;
}

static int run(specc_model *model, const void *const *inputs, void *const *outputs, double *seconds) {
  if (!model || (INPUTS && !inputs) || (OUTPUTS && !outputs)) return SPECC_BAD_ARGUMENT;
  for (int i = 0; i < INPUTS; i++)
    if (!inputs[i]) return SPECC_BAD_ARGUMENT;
  for (int i = 0; i < OUTPUTS; i++)
    if (!outputs[i]) return SPECC_BAD_ARGUMENT;
  const driver *cuda = &model->cuda;
  const specc_size *size = &sizes[model->size];
  if (cuda->context_push(model->context)) return SPECC_FAILED;
  tensors at;
  int problem = 0;
  for (int i = 0; i < INPUTS && !problem; i++) {
    int there = on_device(model, inputs[i]);
    at.inputs[i] = there ? (uintptr_t)inputs[i] : model->inputs[i];
    if (!there)
      problem = cuda->copy_memory(at.inputs[i], (uintptr_t)inputs[i], size->inputs[i].bytes, model->stream);
  }
  for (int i = 0; i < OUTPUTS; i++)
    at.outputs[i] = on_device(model, outputs[i]) ? (uintptr_t)outputs[i] : model->outputs[i];
  if (!problem) problem = seconds ? launch_timed(model, &at, seconds) : launch_graph(model, &at);
  for (int i = 0; i < OUTPUTS && !problem; i++)
    if (at.outputs[i] == model->outputs[i])
      problem = cuda->copy_memory((uintptr_t)outputs[i], at.outputs[i], size->outputs[i].bytes, model->stream);
  int ended = cuda->stream_wait(model->stream);
  leave(model);
  return problem_of(problem ? problem : ended);
}

EXPORT int specc_run(specc_model *model, const void *const *inputs, void *const *outputs) {
  return run(model, inputs, outputs, 0);
}

EXPORT int specc_profile(specc_model *model, const void *const *inputs, void *const *outputs, double *seconds) {
  return seconds ? run(model, inputs, outputs, seconds) : SPECC_BAD_ARGUMENT;
}
