/* Runs a network on a Cortex-M7 without an operating system: weights in flash, tensors in static arrays, no heap.

       specc compile examples/digits.specc --emit c --target cortex-m7 -o digits
       cp examples/deploy/microcontroller/main.c examples/deploy/microcontroller/mps2.ld digits
       cd digits
       arm-none-eabi-gcc -std=gnu11 -O3 -mcpu=cortex-m7 -mthumb -mfpu=fpv5-sp-d16 -mfloat-abi=hard -ffunction-sections -DSPECC_EMBED='"weights.bin"' main.c network.c -nostartfiles --specs=nosys.specs -T mps2.ld -Wl,--gc-sections -lm -o digits.elf
       qemu-system-arm -M mps2-an500 -nographic -semihosting-config enable=on,target=native -kernel digits.elf

   It reads sample/image.bin and writes output.bin through the debugger (Arm's semihosting, which qemu understands as
   well), for want of a camera. What a board of your own has in its place is `read_image` and `write_scores`. */
#include <stddef.h>
#include "specc.h"

/* ---- the debugger as a file system ------------------------------------------------------------------------------ */

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, SYS_EXIT = 0x18 };
enum { READ_BINARY = 1, WRITE_BINARY = 5 };

static int semihosting(int operation, const void *argument) {
  register int number __asm__("r0") = operation;
  register const void *block __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(number) : "r"(block) : "memory");
  return number;
}

static void say(const char *text) { semihosting(SYS_WRITE0, text); }

static void leave(int failed) {
  enum { STOPPED = 0x20026, INTERNAL_ERROR = 0x20024 };
  for (;;) semihosting(SYS_EXIT, (const void *)(failed ? INTERNAL_ERROR : STOPPED));
}

/* How many bytes of `size` were left when the file ended or was full; -1 where it could not be opened. */
static int transfer(int operation, int mode, const char *path, size_t length, void *memory, size_t size) {
  int file = semihosting(SYS_OPEN, (const void *[]){path, (void *)mode, (void *)length});
  if (file < 0) return -1;
  int left = semihosting(operation, (const void *[]){(void *)file, memory, (void *)size});
  semihosting(SYS_CLOSE, (const void *[]){(void *)file});
  return left;
}

static int read_image(void *memory, size_t size) {
  static const char path[] = "sample/image.bin";
  return transfer(SYS_READ, READ_BINARY, path, sizeof path - 1, memory, size);
}

static int write_scores(void *memory, size_t size) {
  static const char path[] = "output.bin";
  return transfer(SYS_WRITE, WRITE_BINARY, path, sizeof path - 1, memory, size);
}

/* ---- the network ------------------------------------------------------------------------------------------------ */

enum { ROOM = 4096 }; /* floats for the input, and for the output */

static void check(int problem) {
  if (!problem) return;
  say(specc_message(problem));
  say("\n");
  leave(1);
}

static void say_number(int number) {
  char digits[12], *at = digits + sizeof digits - 1;
  *at = 0;
  do *--at = (char)('0' + number % 10);
  while ((number /= 10));
  say(at);
}

int main(void) {
  static float image[ROOM], scores[ROOM];
  const specc_interface *about = specc_describe();
  specc_model *model;
  check(specc_open(NULL, 0, &model));
  const specc_size *size = specc_get_size(model);
  const uint64_t taken = size->inputs[0].bytes, given = size->outputs[0].bytes;
  if (about->input_count != 1 || about->output_count != 1 || taken > sizeof image || given > sizeof scores) {
    say("this program has room for one image and its scores\n");
    return 1;
  }
  if (read_image(image, taken)) {
    say("sample/image.bin cannot be read\n");
    return 1;
  }
  check(specc_run(model, (const void *[]){image}, (void *[]){scores}));
  int best = 0, classes = (int)(given / sizeof *scores);
  for (int i = 1; i < classes; i++)
    if (scores[i] > scores[best]) best = i;
  say(about->network);
  say(": class ");
  say_number(best);
  say(" of ");
  say_number(classes);
  say("\n");
  specc_close(model);
  return write_scores(scores, given);
}

/* ---- from reset to main ----------------------------------------------------------------------------------------- */

extern char stack_top[], data_in_flash[], data_begin[], data_end[], bss_begin[], bss_end[];

static void fault(void) {
  say("the processor faults\n");
  leave(1);
}

__attribute__((noreturn)) void reset(void) {
  volatile uint32_t *coprocessors = (uint32_t *)0xe000ed88; /* the floating-point unit is off at reset */
  *coprocessors |= 0xfu << 20;
  __asm__ volatile("dsb\nisb" ::: "memory");
  for (char *to = data_begin, *from = data_in_flash; to < data_end;) *to++ = *from++;
  for (char *to = bss_begin; to < bss_end;) *to++ = 0;
  leave(main());
  for (;;) continue;
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
