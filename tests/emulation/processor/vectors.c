/* Instructions on vectors, 62 P0 P1 P2 opcode ModRM [SIB] [displacement], by map, prefix and opcode:
   2 66 50      vpdpbusd     each lane of int32 gets four products of bytes without a sign and bytes with one
   2 F3 52      vdpbf16ps    each lane of float32 gets two products of bfloat16, the second one first
   2 F3 72      vcvtneps2bf16  the bfloat16 nearest to each float32, in half of the vector
   6 66 98..B8  vfmadd*ph    in lanes of float16 (halves.c)
   5 66 6E, 7E  vmovw        one element from a general register or memory, and to it
   5 F3 10, 11  vmovsh       one element from memory, and to it

   Vectors lie in the signal's frame as XSAVE puts them there: the first 128 bits of registers 0 to 15, the next 128, the
   other 256, and registers 16 to 31. */
#include "processor.h"

enum { LONGEST = 64 };

static void move(const machine *from, int number, void *vector, int store) {
  char *parts[3] = {component(from, SSE) + 16 * number, component(from, YMM) + 16 * number,
                    component(from, ZMM) + 32 * number};
  int sizes[3] = {16, 16, 32}, count = 3;
  if (number >= 16) parts[0] = component(from, HIGH) + 64 * (number - 16), sizes[0] = 64, count = 1;
  char *at = vector;
  for (int i = 0; i < count; at += sizes[i++]) memcpy(store ? parts[i] : at, store ? at : parts[i], sizes[i]);
}

/* Moves an element of 16 bits; the rest of its register becomes zero. */
static const uint8_t *move_element(const machine *from, int stored, int general, int goal, int x, int b) {
  const uint8_t *modrm = from->code + 5;
  uint16_t vector[LONGEST / 2] = {0};
  if (stored) move(from, goal, vector, 0);
  if (*modrm >> 6 == 3) {
    if (!general) return 0;
    greg_t *other = general_register(from, (*modrm & 7) | b << 3);
    if (stored) *other = *vector;
    else *vector = (uint16_t)*other;
    modrm++;
  } else {
    memory at = operand(from, modrm, x, b, 2);
    void *place = (void *)(at.address + at.index);
    memcpy(stored ? place : vector, stored ? vector : place, 2);
    modrm = at.behind;
  }
  if (!stored) move(from, goal, vector, 1);
  return modrm;
}

/* The bfloat16 nearest to each float32, of two the even one. Numbers below 2^-126 become 0, and what is no number stays
   none, a quiet one. */
static __m512i nearest_halves(__m512i words) {
  const __m512i half = _mm512_set1_epi32(0x7fff), one = _mm512_set1_epi32(1), sign = _mm512_set1_epi32(0x8000);
  __m512i magnitude = _mm512_and_si512(words, _mm512_set1_epi32(0x7fffffff)), upper = _mm512_srli_epi32(words, 16);
  __m512i made = _mm512_add_epi32(words, _mm512_add_epi32(half, _mm512_and_si512(upper, one)));
  made = _mm512_srli_epi32(made, 16);
  __mmask16 tiny = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(0x00800000));
  __mmask16 none = _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  made = _mm512_mask_and_epi32(made, tiny, upper, sign);
  made = _mm512_mask_or_epi32(made, none, upper, _mm512_set1_epi32(0x40));
  return _mm512_zextsi256_si512(_mm512_cvtepi32_epi16(made));
}

const uint8_t *run_vectors(const machine *from) {
  const uint8_t *at = from->code, *behind = at + 6;
  if (at[0] != 0x62 || at[1] & 8 || (at[2] & 0x84) != 4 || at[3] & 0x87) return 0; /* W, masks */
  int kind = (at[1] & 7) << 16 | (at[2] & 3) << 8 | at[4];
  int length = at[3] >> 5 & 3, every = at[3] >> 4 & 1, bytes = 16 << length;
  int r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20), r2 = !(at[1] & 0x10), v2 = !(at[3] & 8);
  int goal = (at[5] >> 3 & 7) | r << 3 | r2 << 4, unit = at[1] & 4 ? 2 : 4;
  for (int i = 0; i < 4; i++) complete(from, (int[]){SSE, YMM, ZMM, HIGH}[i]);
  switch (kind) {
  case 0x5016e: case 0x5017e: case 0x50210: case 0x50211:
    return move_element(from, kind == 0x5017e || kind == 0x50211, !(kind & 0x200), goal, x, b);
  case 0x20272:
    if ((at[2] & 0x78) != 0x78 || v2) return 0; /* a third operand */
    break;
  case 0x20150: case 0x20252: case 0x60198: case 0x601a8: case 0x601b8: break;
  default: return 0;
  }
  __m512i sum, left, right = _mm512_setzero_si512();
  move(from, goal, &sum, 0);
  move(from, (~at[2] >> 3 & 15) | v2 << 4, &left, 0);
  if (at[5] >> 6 == 3) {
    if (every) return 0; /* a rounding of its own */
    move(from, (at[5] & 7) | b << 3 | x << 4, &right, 0);
  } else {
    memory found = operand(from, at + 5, x, b, every ? unit : bytes);
    const char *source = (const char *)(found.address + found.index);
    for (int i = 0; i < bytes; i += unit) memcpy((char *)&right + i, source + (every ? 0 : i), unit);
    behind = found.behind;
  }
  if (kind == 0x20150)
    sum = add_fours(sum, left, right, 0, 1);
  else if (kind == 0x20252)
    sum = _mm512_castps_si512(add_firsts(add_seconds(_mm512_castsi512_ps(sum), left, right), left, right));
  else if (kind == 0x20272)
    sum = nearest_halves(right), bytes /= 2;
  else
    sum = multiply_add_halves(at[4], sum, left, right);
  sum = _mm512_maskz_mov_epi32((1 << bytes / 4) - 1, sum);
  move(from, goal, &sum, 1);
  return behind;
}
