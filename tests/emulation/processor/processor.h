/* What the emulated instructions have in common: the registers of the thread that met one, and its operand in memory. */
#ifndef PROCESSOR_H
#define PROCESSOR_H
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

/* Components of the state that XSAVE keeps, by their numbers. */
enum { SSE = 1, YMM = 2, ZMM = 6, HIGH = 7, TILECFG = 17, COMPONENTS = 18 };

/* A thread that met an instruction: its general registers, the rest of its state, the instruction. One that is `marked`
   stands behind ud2: the processor may have it, and keep a state of its own for it. */
typedef struct {
  greg_t *registers;
  char *state;
  const uint8_t *code;
  int marked;
} machine;

/* An operand in memory: its address without the index, the scaled index, and what stands behind the operand in the
   code. Displacements of 8 bits count in `unit` bytes; x and b extend the index and the base. */
typedef struct {
  int64_t address, index;
  const uint8_t *behind;
} memory;
greg_t *general_register(const machine *from, int number);
memory operand(const machine *from, const uint8_t *modrm, int x, int b, int unit);

/* A component's place in the state; one that is there may be all zero and left out: `complete` fills it in. */
char *component(const machine *from, int number);
int kept(const machine *from, int number);
void complete(const machine *from, int number);

/* Each computes the instruction and gives what stands behind it, or 0 for one that it does not know or that the
   processor would refuse. Denormals are flushed, and sums rounded to nearest, as the caller has set MXCSR. */
const uint8_t *run_vectors(const machine *from);
const uint8_t *run_tiles(const machine *from);

/* One of the three forms of multiply-adds, by its opcode, in lanes of float16. */
__m512i multiply_add_halves(int form, __m512i goal, __m512i left, __m512i right);

/* sum + x * y, rounded once, and x + y. Of several NaNs that of x goes on: a compiler would exchange operands. */
static inline __m512 multiply_add(__m512 sum, __m512 x, __m512 y) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
  return sum;
}
static inline __m512 add(__m512 x, __m512 y) {
  __m512 sum;
  __asm__("vaddps %2, %1, %0" : "=v"(sum) : "v"(x), "v"(y));
  return sum;
}

/* sum + the first or the second product of each lane's pairs of bfloat16. */
static inline __m512 add_firsts(__m512 sum, __m512i x, __m512i y) {
  x = _mm512_slli_epi32(x, 16), y = _mm512_slli_epi32(y, 16);
  return multiply_add(sum, _mm512_castsi512_ps(x), _mm512_castsi512_ps(y));
}
static inline __m512 add_seconds(__m512 sum, __m512i x, __m512i y) {
  const __m512i upper = _mm512_set1_epi32(0xffff0000);
  x = _mm512_and_si512(x, upper), y = _mm512_and_si512(y, upper);
  return multiply_add(sum, _mm512_castsi512_ps(x), _mm512_castsi512_ps(y));
}

/* sum + the four products of each lane's bytes, which have a sign or none. */
static inline __m512i add_fours(__m512i sum, __m512i x, __m512i y, int x_signed, int y_signed) {
  for (int i = 0; i < 4; i++) {
    __m128i before = _mm_cvtsi32_si128(24 - 8 * i);
    __m512i a = _mm512_sll_epi32(x, before), b = _mm512_sll_epi32(y, before);
    a = x_signed ? _mm512_srai_epi32(a, 24) : _mm512_srli_epi32(a, 24);
    b = y_signed ? _mm512_srai_epi32(b, 24) : _mm512_srli_epi32(b, 24);
    sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(a, b));
  }
  return sum;
}
#endif
