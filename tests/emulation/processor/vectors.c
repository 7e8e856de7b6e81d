/* vdpbf16ps and vpdpbusd: each lane of float32 gets two products of bfloat16, the second one first; or each lane of
   int32 four products of bytes without a sign and bytes with one.

   An instruction is 62 P0 P1 P2 opcode ModRM [SIB] [displacement], with opcode 52 and 50. Vectors lie in the signal's frame as XSAVE puts them
   there: the first 128 bits of registers 0 to 15, the next 128, the other 256, and registers 16 to 31. */
#include "processor.h"

static void move(const machine *from, int number, void *vector, int store) {
  char *parts[3] = {component(from, SSE) + 16 * number, component(from, YMM) + 16 * number,
                    component(from, ZMM) + 32 * number};
  int sizes[3] = {16, 16, 32}, count = 3;
  if (number >= 16) parts[0] = component(from, HIGH) + 64 * (number - 16), sizes[0] = 64, count = 1;
  char *at = vector;
  for (int i = 0; i < count; at += sizes[i++]) memcpy(store ? parts[i] : at, store ? at : parts[i], sizes[i]);
}

const uint8_t *run_vectors(const machine *from) {
  const uint8_t *at = from->code, *behind = at + 6;
  if (at[0] != 0x62 || (at[1] & 15) != 2 || (at[2] & 0x84) != 4 || at[3] & 0x87) return 0; /* W, masks */
  int bytes = at[4] == 0x50 && (at[2] & 3) == 1, pairs = at[4] == 0x52 && (at[2] & 3) == 2;
  if (!bytes && !pairs) return 0;
  int length = at[3] >> 5 & 3, broadcast = at[3] >> 4 & 1, lanes = 4 << length;
  int r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20), r2 = !(at[1] & 0x10), v2 = !(at[3] & 8);
  int goal = (at[5] >> 3 & 7) | r << 3 | r2 << 4;
  __m512i sum, left, right = _mm512_setzero_si512();
  for (int i = 0; i < 4; i++) complete(from, (int[]){SSE, YMM, ZMM, HIGH}[i]);
  move(from, goal, &sum, 0);
  move(from, (~at[2] >> 3 & 15) | v2 << 4, &left, 0);
  if (at[5] >> 6 == 3) {
    move(from, (at[5] & 7) | b << 3 | x << 4, &right, 0);
  } else {
    memory found = operand(from, at + 5, x, b, broadcast ? 4 : 4 * lanes);
    const char *source = (const char *)(found.address + found.index);
    for (int i = 0; i < lanes; i++) memcpy((char *)&right + 4 * i, source + (broadcast ? 0 : 4 * i), 4);
    behind = found.behind;
  }
  if (pairs)
    sum = _mm512_castps_si512(add_firsts(add_seconds(_mm512_castsi512_ps(sum), left, right), left, right));
  else
    sum = add_fours(sum, left, right, 0, 1);
  sum = _mm512_maskz_mov_epi32((1 << lanes) - 1, sum);
  move(from, goal, &sum, 1);
  return behind;
}
