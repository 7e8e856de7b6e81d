/* libcuda.so.1 without a GPU: the functions of CUDA's driver that the C driver of networks uses, on the processor.

   Kernels are those of the library EMULATED_KERNELS, by name; the cubin must have each of them, too. Memory is the
   processor's, filled with ones when it is given: what a kernel reads before it was written is no number.

     EMULATED_GPU      the compute capability, as in 90; or "none"
     EMULATED_MEMORY   bytes that can be allocated
     EMULATED_LOG      a file that gets a line for what is called
     EMULATED_ORDER    "reverse": blocks and threads run in the other order; or a number above 1: threads in a random one
     EMULATED_FAILURE  the name of a function that fails */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

typedef int (*emulation)(int blocks, int threads, void **arguments, int order);

namespace {

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

struct module {
  std::string image;
};
struct function {
  std::string name;
  emulation run;
  int arguments;
};
struct graph {
  std::vector<std::function<int()>> nodes;
};
struct stream {
  graph *recording = nullptr;
};

std::map<uintptr_t, size_t> allocated;
int contexts;

const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value ? value : otherwise;
}

/* Writes a line to the log; whether the function of that name is to fail. */
int told(const char *name, const char *format = "", ...) {
  if (const char *path = getenv("EMULATED_LOG")) {
    FILE *log = fopen(path, "a");
    fprintf(log, "%s", name);
    va_list words;
    va_start(words, format);
    vfprintf(log, format, words);
    va_end(words);
    fputc('\n', log);
    fclose(log);
  }
  return !strcmp(setting("EMULATED_FAILURE", ""), name) ? LAUNCH_FAILED : 0;
}

void *kernels() {
  static void *library = dlopen(setting("EMULATED_KERNELS", ""), RTLD_NOW | RTLD_LOCAL);
  return library;
}

/* Tells the kernels of memory that they may use: of none any more, if there are no bytes. */
void tell_of_memory(uintptr_t begin, size_t bytes) {
  auto told_of = kernels() ? (void (*)(uintptr_t, size_t))dlsym(kernels(), "emulate_memory") : nullptr;
  if (told_of) told_of(begin, bytes);
}

int done(stream *on, std::function<int()> what) {
  if (!on->recording) return what();
  on->recording->nodes.push_back(what);
  return 0;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return told("cuInit"); }

int cuDeviceGetCount(int *count) {
  *count = strcmp(setting("EMULATED_GPU", "90"), "none") != 0;
  return 0;
}

int cuDeviceGet(int *device, int number) {
  *device = number;
  return number ? INVALID_VALUE : 0;
}

int cuDeviceGetName(char *name, int length, int) {
  snprintf(name, length, "Emulated %s", setting("EMULATED_GPU", "90"));
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int) {
  int capability = atoi(setting("EMULATED_GPU", "90"));
  if (attribute != 75 && attribute != 76) return INVALID_VALUE;
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int) {
  contexts++;
  *context = &contexts;
  return told("cuDevicePrimaryCtxRetain");
}

int cuDevicePrimaryCtxRelease_v2(int) {
  contexts--;
  size_t left = 0;
  for (auto &[begin, bytes] : allocated) left += bytes;
  return told("cuDevicePrimaryCtxRelease_v2", " %d contexts, %zu bytes left", contexts, left);
}

static std::vector<void *> &current() {
  static std::vector<void *> stack;
  return stack;
}

int cuCtxGetCurrent(void **context) {
  *context = current().empty() ? nullptr : current().back();
  return 0;
}

int cuCtxGetDevice(int *device) { return *device = 0; }

int cuCtxPushCurrent_v2(void *context) {
  current().push_back(context);
  return 0;
}

int cuCtxPopCurrent_v2(void **context) {
  if (current().empty()) return INVALID_VALUE;
  *context = current().back();
  current().pop_back();
  return 0;
}

int cuModuleLoadData(void **made, const void *image) {
  const uint8_t *bytes = (const uint8_t *)image;
  uint64_t sections, count;
  if (memcmp(bytes, "\177ELF\2", 5) || *(const uint16_t *)(bytes + 18) != 190) return INVALID_IMAGE;
  memcpy(&sections, bytes + 40, 8);
  count = *(const uint16_t *)(bytes + 60);
  *made = new module{std::string((const char *)bytes, sections + 64 * count)};
  return told("cuModuleLoadData");
}

int cuModuleUnload(void *unloaded) {
  delete (module *)unloaded;
  return told("cuModuleUnload");
}

int cuModuleGetFunction(void **made, void *from, const char *name) {
  std::string section = std::string("\0.text.", 7) + name + '\0';
  if (((module *)from)->image.find(section) == std::string::npos || !kernels()) return NOT_FOUND;
  emulation run = (emulation)dlsym(kernels(), (std::string("emulate_") + name).c_str());
  const int *arguments = (const int *)dlsym(kernels(), (std::string("arguments_of_") + name).c_str());
  if (!run || !arguments) return NOT_FOUND;
  *made = new function{name, run, *arguments};
  return 0;
}

int cuMemAlloc_v2(uintptr_t *memory, size_t bytes) {
  size_t most = strtoull(setting("EMULATED_MEMORY", "1000000000000"), nullptr, 10);
  for (auto &[begin, taken] : allocated) most -= taken;
  if (told("cuMemAlloc_v2", " %zu", bytes)) return LAUNCH_FAILED;
  if (bytes > most) return OUT_OF_MEMORY;
  *memory = (uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset((void *)*memory, 0xff, bytes);
  allocated[*memory] = bytes;
  tell_of_memory(*memory, bytes);
  return 0;
}

int cuMemFree_v2(uintptr_t memory) {
  if (!allocated.erase(memory)) return INVALID_VALUE;
  tell_of_memory(memory, 0);
  free((void *)memory);
  return told("cuMemFree_v2");
}

int cuPointerGetAttribute(void *value, int attribute, uintptr_t memory) {
  auto above = allocated.upper_bound(memory);
  if (attribute != 2 || above == allocated.begin()) return INVALID_VALUE;
  --above;
  if (memory >= above->first + above->second) return INVALID_VALUE;
  *(unsigned *)value = 2;
  return 0;
}

int cuMemcpyAsync(uintptr_t to, uintptr_t from, size_t bytes, void *on) {
  if (told("cuMemcpyAsync", " %zu", bytes)) return LAUNCH_FAILED;
  return done((stream *)on, [=] { return memcpy((void *)to, (const void *)from, bytes), 0; });
}

int cuStreamCreate(void **made, unsigned) {
  *made = new stream;
  return told("cuStreamCreate");
}

int cuStreamDestroy_v2(void *on) {
  delete (stream *)on;
  return told("cuStreamDestroy_v2");
}

int cuStreamSynchronize(void *on) { return ((stream *)on)->recording ? INVALID_VALUE : told("cuStreamSynchronize"); }

int cuStreamBeginCapture_v2(void *on, int) {
  ((stream *)on)->recording = new graph;
  return told("cuStreamBeginCapture_v2");
}

int cuStreamEndCapture(void *on, void **made) {
  *made = ((stream *)on)->recording;
  ((stream *)on)->recording = nullptr;
  return told("cuStreamEndCapture");
}

int cuGraphInstantiateWithFlags(void **made, void *from, unsigned long long) {
  *made = new graph(*(graph *)from);
  return told("cuGraphInstantiateWithFlags");
}

int cuGraphDestroy(void *of) {
  delete (graph *)of;
  return told("cuGraphDestroy");
}

int cuGraphExecDestroy(void *of) {
  delete (graph *)of;
  return told("cuGraphExecDestroy");
}

int cuGraphLaunch(void *of, void *) {
  if (told("cuGraphLaunch")) return LAUNCH_FAILED;
  for (auto &node : ((graph *)of)->nodes)
    if (int problem = node()) return problem;
  return 0;
}

int cuEventCreate(void **made, unsigned) {
  *made = new double(0);
  return 0;
}

int cuEventDestroy_v2(void *event) {
  delete (double *)event;
  return 0;
}

int cuEventRecord(void *event, void *) {
  static double times;
  *(double *)event = ++times;
  return 0;
}

int cuEventElapsedTime(float *milliseconds, void *from, void *to) {
  *milliseconds = (float)(*(double *)to - *(double *)from);
  return 0;
}

int cuLaunchKernel(void *of, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void *on, void **arguments, void **extra) {
  function *kernel = (function *)of;
  if (y != 1 || z != 1 || ty != 1 || tz != 1 || shared || extra || !x || !threads || threads > 1024) return INVALID_VALUE;
  if (told("cuLaunchKernel", " %s %u %u", kernel->name.c_str(), x, threads)) return LAUNCH_FAILED;
  std::vector<uintptr_t> values;
  for (int i = 0; i < kernel->arguments; i++) values.push_back(*(uintptr_t *)arguments[i]);
  const char *wanted = setting("EMULATED_ORDER", "");
  int order = !strcmp(wanted, "reverse") ? 1 : atoi(wanted);
  return done((stream *)on, [=]() mutable -> int {
    std::vector<void *> pointers;
    for (auto &value : values) pointers.push_back(&value);
    if (!kernel->run(x, threads, pointers.data(), order)) return 0;
    fprintf(stderr, "%s: %s\n", kernel->name.c_str(), ((const char *(*)())dlsym(kernels(), "emulate_trouble"))());
    return LAUNCH_FAILED;
  });
}

}  // extern "C"
