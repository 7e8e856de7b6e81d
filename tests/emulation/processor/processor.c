/* Instructions that a processor with AVX-512 lacks, or that the system keeps from a process: what the processor refuses,
   a signal's handler computes, as Intel's manual says, and goes on behind it.

   Where `ud2` stands in front of an instruction, it is computed here whatever the processor: so both can be compared. */
#include "processor.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FLUSH_AND_ROUND_TO_NEAREST = 0x9fc0 }; /* MXCSR: denormals are zero, no exceptions */
enum { ASK = 0x1023, TILEDATA = 18 };         /* ARCH_REQ_XCOMP_PERM and its argument */
static const int general[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
static unsigned place[COMPONENTS], extent[COMPONENTS];
static struct sigaction before;
static long seen[2];
static int users;

greg_t *general_register(const machine *from, int number) { return from->registers + general[number]; }

memory operand(const machine *from, const uint8_t *modrm, int x, int b, int unit) {
  int mode = *modrm >> 6, rm = *modrm & 7, based = 1, base = rm | b << 3, beside = !mode && rm == 5;
  memory found = {0, 0, modrm + 1};
  int32_t far;
  if (rm == 4) {
    int sib = *found.behind++, index = (sib >> 3 & 7) | x << 3;
    if (index != 4) found.index = *general_register(from, index) << (sib >> 6);
    base = (sib & 7) | b << 3;
    based = mode || (base & 7) != 5;
  }
  if (based && !beside) found.address = *general_register(from, base);
  if (mode == 1) {
    found.address += *(const int8_t *)found.behind++ * unit;
  } else if (mode == 2 || beside || !based) {
    memcpy(&far, found.behind, 4);
    found.behind += 4;
    found.address += far + (beside ? (int64_t)found.behind : 0); /* of the next instruction */
  }
  return found;
}

/* The frame's own words on it stand in the last 48 of its first 512 bytes: its features behind 8, its size behind 16. */
int kept(const machine *from, int number) {
  uint64_t features;
  uint32_t size;
  memcpy(&features, from->state + 464 + 8, 8);
  memcpy(&size, from->state + 464 + 16, 4);
  return features >> number & 1 && place[number] + extent[number] <= size;
}

char *component(const machine *from, int number) { return from->state + place[number]; }

void complete(const machine *from, int number) {
  uint64_t *present = (uint64_t *)(from->state + 512);
  if (!(*present & 1ul << number)) memset(component(from, number), 0, extent[number]);
  *present |= 1ul << number;
}

/* Computes one, and gives what stands behind it, or 0. */
static const uint8_t *compute(mcontext_t *thread) {
  const uint8_t *at = (const uint8_t *)thread->gregs[REG_RIP], *behind;
  int marked = at[0] == 0x0f && at[1] == 0x0b, tiles = 0;
  machine from = {thread->gregs, (char *)thread->fpregs, at + 2 * marked, marked};
  behind = run_vectors(&from);
  if (!behind) tiles = 1, behind = run_tiles(&from);
  if (behind) __atomic_add_fetch(&seen[tiles], 1, __ATOMIC_RELAXED);
  return behind;
}

static void handle(int number, siginfo_t *info, void *context) {
  (void)number, (void)info;
  mcontext_t *thread = &((ucontext_t *)context)->uc_mcontext;
  _mm_setcsr(FLUSH_AND_ROUND_TO_NEAREST); /* the thread gets its own one back */
  const uint8_t *behind = compute(thread);
  if (!behind) sigaction(SIGILL, &before, 0); /* which meets the same instruction again */
  while (behind) { /* and those that follow: a signal takes longer than they do */
    thread->gregs[REG_RIP] = (greg_t)behind;
    behind = compute(thread);
  }
}

/* Begins to compute them; may be called again, and ends as often. */
void start(void) {
  unsigned unused;
  place[SSE] = 160, extent[SSE] = 256; /* in the first 512 bytes */
  for (int i = YMM; i < COMPONENTS; i++) __get_cpuid_count(13, i, extent + i, place + i, &unused, &unused);
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
  if (!users++) sigaction(SIGILL, &action, &before);
}

void stop(void) {
  if (!--users) sigaction(SIGILL, &before, 0);
}

/* How many there were, of those on vectors (0) or on tiles (1). */
long computed(int tiles) { return __atomic_load_n(&seen[tiles], __ATOMIC_RELAXED); }

/* From now on Linux gives nobody the tiles, in this process or in one that it starts, as on a processor that has none. */
int forbid(void) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ASK, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ? errno : 0;
}
