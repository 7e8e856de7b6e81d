/* The instruction vdpbf16ps on a processor with AVX-512 that lacks it: what the processor refuses, a signal's handler
   computes, as Intel's manual says, and goes on behind it.

   An instruction is 62 P0 P1 P2 52 ModRM [SIB] [displacement]. Vectors lie in the signal's frame as XSAVE puts them
   there: the first 128 bits of registers 0 to 15, the next 128, the other 256, and registers 16 to 31. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { YMM = 2, ZMM = 6, HIGH = 7 };
static const int general[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
static unsigned place[8], extent[8];
static struct sigaction before;
static long seen;

/* Components of the state that are all zero may be left out of the frame. */
static void complete(char *state) {
  uint64_t *present = (uint64_t *)(state + 512);
  if (!(*present & 2)) memset(state + 160, 0, 256);
  for (int i = YMM; i <= HIGH; i++)
    if ((i == YMM || i >= ZMM) && !(*present & 1u << i)) memset(state + place[i], 0, extent[i]);
  *present |= 2 | 1 << YMM | 1 << ZMM | 1 << HIGH;
}

static void move(char *state, int number, char *vector, int store) {
  char *parts[3] = {state + 160 + 16 * number, state + place[YMM] + 16 * number, state + place[ZMM] + 32 * number};
  int sizes[3] = {16, 16, 32}, count = 3;
  if (number >= 16) parts[0] = state + place[HIGH] + 64 * (number - 16), sizes[0] = 64, count = 1;
  for (int i = 0; i < count; vector += sizes[i++]) memcpy(store ? parts[i] : vector, store ? vector : parts[i], sizes[i]);
}

static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static float widened(uint32_t pair, int second) {
  uint32_t bits = second ? pair & 0xffff0000 : pair << 16;
  float x;
  memcpy(&x, &bits, 4);
  return flushed(x);
}

static int run(ucontext_t *context) {
  greg_t *registers = context->uc_mcontext.gregs;
  const uint8_t *at = (const uint8_t *)registers[REG_RIP], *p = at + 6;
  if (at[0] != 0x62 || (at[1] & 15) != 2 || (at[2] & 0x87) != 6 || at[3] & 0x87 || at[4] != 0x52) return 0; /* masks */
  int length = at[3] >> 5 & 3, broadcast = at[3] >> 4 & 1, lanes = 4 << length;
  int r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20), r2 = !(at[1] & 0x10), v2 = !(at[3] & 8);
  int mode = at[5] >> 6, rm = at[5] & 7, goal = (at[5] >> 3 & 7) | r << 3 | r2 << 4;
  uint32_t left[16], right[16];
  float sums[16];
  char *state = (char *)context->uc_mcontext.fpregs;
  complete(state);
  move(state, goal, (char *)sums, 0);
  move(state, (~at[2] >> 3 & 15) | v2 << 4, (char *)left, 0);
  if (mode == 3) {
    move(state, rm | b << 3 | x << 4, (char *)right, 0);
  } else {
    int64_t address = 0;
    int32_t far;
    int based = 1, base = rm | b << 3;
    if (rm == 4) {
      int index = (*p >> 3 & 7) | x << 3;
      if (index != 4) address += registers[general[index]] << (*p >> 6);
      base = (*p++ & 7) | b << 3;
      based = mode || (base & 7) != 5;
    }
    int beside = !mode && rm == 5;
    if (based && !beside) address += registers[general[base]];
    if (mode == 1) {
      address += *(const int8_t *)p++ * (broadcast ? 4 : 4 * lanes);
    } else if (mode == 2 || beside || !based) {
      memcpy(&far, p, 4);
      p += 4;
      address += far + (beside ? (int64_t)p : 0);
    }
    for (int i = 0; i < lanes; i++) memcpy(right + i, (const char *)address + (broadcast ? 0 : 4 * i), 4);
  }
  for (int i = 0; i < lanes; i++)
    for (int second = 1; second >= 0; second--)
      sums[i] = flushed(fmaf(widened(left[i], second), widened(right[i], second), flushed(sums[i])));
  memset(sums + lanes, 0, sizeof *sums * (16 - lanes));
  move(state, goal, (char *)sums, 1);
  registers[REG_RIP] = (greg_t)p;
  return 1;
}

static void handle(int number, siginfo_t *info, void *context) {
  (void)number, (void)info;
  if (run(context))
    __atomic_add_fetch(&seen, 1, __ATOMIC_RELAXED);
  else
    sigaction(SIGILL, &before, 0); /* which meets the same instruction again */
}

/* Begins to compute them. */
void start(void) {
  unsigned unused;
  for (int i = YMM; i <= HIGH; i++) __get_cpuid_count(13, i, extent + i, place + i, &unused, &unused);
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
  seen = 0;
  sigaction(SIGILL, &action, &before);
}

/* Ends it, and says how many there were. */
long stop(void) {
  sigaction(SIGILL, &before, 0);
  return seen;
}
