/* Instructions of AVX512_FP16 that kernels are made of: multiply-adds of float16, rounded once, and moves of one element.

   A product of two float16 has 22 significant bits. Its sum with a third one, in float64, is exact, or so far from a
   number in the middle between two float16 that it rounds as the exact one does; on the way it is a float32, rounded to
   an odd one where it is none, which rounds as the float64 does. Denormals are numbers like others here. */
#include "processor.h"

enum { NO_EXCEPTIONS = _MM_FROUND_NO_EXC, PARTS = 4 };

static __m512d widened(__m512i halves, int part) {
  __m128i eight = _mm_loadu_si128((__m128i *)&halves + part);
  return _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_cvtph_ps(_mm256_castsi128_si256(eight))));
}

static __m128i narrowed(__m512d numbers) {
  __m256 cut = _mm512_cvt_roundpd_ps(numbers, _MM_FROUND_TO_ZERO | NO_EXCEPTIONS);
  __mmask8 inexact = _mm512_cmp_pd_mask(_mm512_cvtps_pd(cut), numbers, _CMP_NEQ_UQ);
  __m512i bits = _mm512_castps_si512(_mm512_castps256_ps512(cut));
  bits = _mm512_mask_or_epi32(bits, inexact, bits, _mm512_set1_epi32(1));
  __m256i made = _mm512_cvtps_ph(_mm512_castsi512_ps(bits), _MM_FROUND_TO_NEAREST_INT | NO_EXCEPTIONS);
  return _mm256_castsi256_si128(made);
}

/* The operands are those of the instruction, in its order: of several NaNs, which of them goes on depends on the form. */
__m512i multiply_add_halves(int form, __m512i goal, __m512i left, __m512i right) {
  __m512i made = goal;
  for (int i = 0; i < PARTS; i++) {
    __m512d sum = widened(goal, i), x = widened(left, i), y = widened(right, i);
    if (form == 0x98) __asm__("vfmadd132pd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    if (form == 0xa8) __asm__("vfmadd213pd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    if (form == 0xb8) __asm__("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    _mm_storeu_si128((__m128i *)&made + i, narrowed(sum));
  }
  return made;
}
