/* Linked into a program, says that the processor has RISC-V's vectors: qemu before 8.1 has them, and tells nobody. */
#define _GNU_SOURCE
#include <dlfcn.h>

unsigned long getauxval(unsigned long type) {
  unsigned long (*real)(unsigned long) = (unsigned long (*)(unsigned long))dlsym(RTLD_NEXT, "getauxval");
  return real(type) | (type == 16 /* AT_HWCAP */ ? 1ul << ('v' - 'a') : 0);
}
