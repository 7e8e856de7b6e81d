/* A network that specc compiled, as a library: needs libc, and OpenMP's runtime where it uses threads. For a GPU it needs
   libc, and the GPU's driver when a model is opened.

       const specc_interface *about = specc_describe();
       specc_model *model;
       int problem = specc_open(weights, bytes, &model);    // NULL, 0 where the library holds its weights
       const void *inputs[] = {image};                       // as about->sizes[0].inputs says: dense, row-major
       void *outputs[] = {logits};
       problem = specc_run(model, inputs, outputs);
       specc_close(model);

   A network that was compiled at several sizes (batches, resolutions) has one set of weights for them. A model begins
   with the first size; specc_set_shapes chooses another one:

       const int64_t shape[] = {8, 3, 224, 224}, *shapes[] = {shape};
       problem = specc_set_shapes(model, shapes);            // SPECC_BAD_SHAPE where it was compiled for no such size

   Where dimensions stay open, their extents are -1 in specc_describe(), and specc_get_size() says what they are now.

   Functions return SPECC_OK (0) or what went wrong; specc_message() puts it into words. A model is used by one thread
   at a time; several models, also of one library, can be used at the same time. Nothing is printed, no signal is
   caught, no file is opened. */
#ifndef SPECC_H
#define SPECC_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  SPECC_OK = 0,
  SPECC_NO_MEMORY = 1,    /* malloc gave none, or the GPU's driver */
  SPECC_BAD_WEIGHTS = 2,  /* there are none, or not as many bytes as specc_describe() says, or not aligned to 64 */
  SPECC_BAD_CPU = 3,      /* the processor lacks an extension that the kernels use; none of them was run */
  SPECC_BAD_ARGUMENT = 4, /* a null pointer, or one that is not aligned, or a number of threads below 1 */
  SPECC_FAILED = 5,       /* a kernel could not get memory, or the GPU's driver reports a failure */
  SPECC_BAD_SHAPE = 6,    /* the network was not compiled for inputs of these shapes */
  SPECC_NO_DRIVER = 7,    /* for a GPU: its driver is not installed, is too old, or finds no GPU */
  SPECC_BAD_GPU = 8       /* no GPU here runs the kernels, or the one whose context is current does not */
};

typedef struct {
  const char *name;
  const char *dtype;    /* as numpy calls it: "float32", "int64", "bool", ... */
  int32_t rank;
  const int64_t *shape; /* `rank` extents; -1 is open */
  uint64_t bytes;       /* 0 where an extent is open */
} specc_tensor;

typedef struct {
  const char *kernel; /* the operators that it computes */
  const char *scope;  /* where in the network: the prefix of the state_dict's keys */
} specc_call;

typedef struct { /* the network at one size */
  const specc_tensor *inputs, *outputs; /* of every size: the same names and element types */
  const specc_call *calls;              /* in the order in which they run */
  int32_t call_count;
  uint64_t arena_bytes;                 /* what the tensors in between take */
} specc_size;

typedef struct {
  const char *network, *target;
  int32_t input_count, output_count, size_count;
  const specc_size *sizes; /* no two of them take inputs of the same shapes */
  uint64_t weight_bytes;   /* the packed weights, of which specc_open wants a pointer */
  uint64_t arena_bytes;    /* what a model allocates for the tensors in between: enough for every size */
} specc_interface;

typedef struct specc_model specc_model;

const specc_interface *specc_describe(void);

/* A model on `bytes` bytes of packed weights, which are not copied and must outlive it. It has one thread. */
int specc_open(const void *weights, uint64_t bytes, specc_model **model);
void specc_close(specc_model *model);

/* How many threads specc_run uses from now on. Without OpenMP it is one, whatever is asked for. */
int specc_set_threads(specc_model *model, int32_t threads);

/* Chooses the size for inputs of these shapes, each of as many extents as the input has: specc_run computes at it from
   now on. Sizes without open dimensions go first. Memory is allocated only where open dimensions need more than ever;
   where there is none (SPECC_NO_MEMORY), the model computes at the size that it had. */
int specc_set_shapes(specc_model *model, const int64_t *const *shapes);

/* The size at which specc_run computes. One with open dimensions stands there until the next specc_set_shapes. */
const specc_size *specc_get_size(const specc_model *model);

/* Computes the outputs. Memory that is not aligned to 64 bytes is copied first. For a GPU, tensors may lie in its memory,
   and are used there; what lies in the processor's memory is copied. When the call returns, the outputs are there. */
int specc_run(specc_model *model, const void *const *inputs, void *const *outputs);

/* As specc_run; `seconds[i]` becomes the time that call number i took. */
int specc_profile(specc_model *model, const void *const *inputs, void *const *outputs, double *seconds);

const char *specc_message(int problem);

#ifdef __cplusplus
}
#endif
#endif
