/* The instructions of AMX: eight tiles of at most 16 rows of 64 bytes, of the extents that a configuration says.

   An instruction is C4 P0 P1 opcode ModRM [SIB] [displacement], with opcode
   49          ldtilecfg, tilerelease, sttilecfg, tilezero
   4B          tileloadd, tileloaddt1, tilestored: rows at the address, and an index apart
   5C          tdpbf16ps
   5E          tdpbuud, tdpbusd, tdpbsud, tdpbssd

   Linux gives a process no tiles before it asks for them, yet it may configure and release them: what is refused is an
   instruction with a tile. The processor then holds the configuration, and its tiles are zero as soon as one is loaded.
   So that this is seen, each configuration that was met is given a first row to start at (`MET`), which is none. */
#include "processor.h"

enum { ROWS = 16, BYTES = 64, TILES = 8, MET = 255 };

typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[TILES], reserved_bytes[TILES];
  uint8_t rows[TILES], reserved_rows[TILES];
} configuration;

/* Of each thread. */
static _Thread_local configuration set;
static _Thread_local _Alignas(64) uint8_t tiles[TILES][ROWS][BYTES];

static void configure(const configuration *by) {
  set = *by;
  memset(tiles, 0, sizeof tiles);
}

/* Whether ldtilecfg takes it. */
static int valid(const configuration *by) {
  static const uint8_t zero[16];
  if (!by->palette) return 1;
  if (by->palette > 1 || memcmp(by->reserved, zero, 14) || memcmp(by->reserved_bytes, zero, 16)) return 0;
  if (memcmp(by->reserved_rows, zero, 8)) return 0;
  for (int i = 0; i < TILES; i++)
    if (by->rows[i] > ROWS || by->bytes[i] > BYTES || !by->rows[i] != !by->bytes[i]) return 0;
  return 1;
}

/* Takes over what the processor was told. */
static void take(const machine *from) {
  if (from->marked || !kept(from, TILECFG)) return;
  complete(from, TILECFG);
  configuration *held = (configuration *)component(from, TILECFG);
  if (held->palette && held->start == MET) return;
  configure(held);
  if (held->palette) held->start = MET;
}

static int usable(int tile) { return set.palette && set.rows[tile]; }

/* Rows of whole words: others may be configured, and no more than that. */
static int whole(int tile) { return usable(tile) && set.bytes[tile] % 4 == 0; }

static const uint8_t *configuring(const machine *from, int prefix, const uint8_t *modrm, int x, int b) {
  static const configuration none;
  configuration found;
  int tile = *modrm >> 3 & 7, zeroing = *modrm >> 6 == 3 && prefix == 3;
  if (!zeroing && !from->marked && kept(from, TILECFG)) return 0; /* the processor does that itself */
  if (*modrm >> 6 == 3) {
    if (prefix == 0 && *modrm == 0xc0) {
      configure(&none);
    } else if (zeroing && !(*modrm & 7) && usable(tile)) {
      memset(tiles[tile], 0, sizeof *tiles);
      set.start = 0;
    } else {
      return 0;
    }
    return modrm + 1;
  }
  if (tile || prefix > 1) return 0;
  memory at = operand(from, modrm, x, b, 1);
  configuration *place = (configuration *)(at.address + at.index);
  if (prefix) {
    memcpy(place, &set, sizeof set);
  } else {
    memcpy(&found, place, sizeof found);
    if (!valid(&found)) return 0;
    configure(found.palette ? &found : &none);
  }
  return at.behind;
}

static const uint8_t *moving(const machine *from, int prefix, const uint8_t *modrm, int x, int b) {
  int tile = *modrm >> 3 & 7, store = prefix == 2, bytes = set.bytes[tile], rows = set.rows[tile];
  if (*modrm >> 6 == 3 || (*modrm & 7) != 4 || !prefix || !whole(tile) || set.start >= rows) return 0;
  memory at = operand(from, modrm, x, b, 1);
  for (int i = set.start; i < rows; i++) {
    uint8_t *row = tiles[tile][i], *place = (uint8_t *)(at.address + i * at.index);
    if (!store) memset(row, 0, BYTES);
    memcpy(store ? place : row, store ? row : place, bytes);
  }
  if (!store) memset(tiles[tile][rows], 0, BYTES * (ROWS - rows));
  set.start = 0;
  return at.behind;
}

/* sum + the products of a row's pairs with the columns of y; first ones and second ones meet last. */
static __m512 add_pairs(__m512 sum, const int32_t *row, const uint8_t (*y)[BYTES], int pairs) {
  __m512 firsts = _mm512_setzero_ps(), seconds = firsts;
  for (int k = 0; k < pairs; k++) {
    __m512i x = _mm512_set1_epi32(row[k]), column = _mm512_load_si512(y[k]);
    firsts = add_firsts(firsts, x, column);
    seconds = add_seconds(seconds, x, column);
  }
  return add(sum, add(firsts, seconds));
}

static const uint8_t *multiplying(int opcode, int prefix, const uint8_t *modrm, int y) {
  int sum = *modrm >> 3 & 7, x = *modrm & 7;
  if (*modrm >> 6 != 3 || y >= TILES || (opcode == 0x5c && prefix != 2)) return 0;
  if (sum == x || x == y || sum == y || !whole(sum) || !whole(x) || !whole(y)) return 0;
  if (set.rows[sum] != set.rows[x] || set.bytes[sum] != set.bytes[y] || set.bytes[x] != 4 * set.rows[y]) return 0;
  __mmask16 lanes = (1 << set.bytes[sum] / 4) - 1;
  for (int i = 0; i < set.rows[sum]; i++) {
    const int32_t *row = (const int32_t *)tiles[x][i];
    __m512i made = _mm512_load_si512(tiles[sum][i]);
    if (opcode == 0x5c) made = _mm512_castps_si512(add_pairs(_mm512_castsi512_ps(made), row, tiles[y], set.rows[y]));
    for (int k = 0; opcode == 0x5e && k < set.rows[y]; k++)
      made = add_fours(made, _mm512_set1_epi32(row[k]), _mm512_load_si512(tiles[y][k]), prefix & 2, prefix & 1);
    _mm512_store_si512(tiles[sum][i], _mm512_maskz_mov_epi32(lanes, made));
  }
  memset(tiles[sum][set.rows[sum]], 0, BYTES * (ROWS - set.rows[sum]));
  set.start = 0;
  return modrm + 1;
}

const uint8_t *run_tiles(const machine *from) {
  const uint8_t *at = from->code, *modrm = at + 4;
  if (at[0] != 0xc4 || (at[1] & 31) != 2 || at[2] & 0x84) return 0;
  int r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20), v = ~at[2] >> 3 & 15, prefix = at[2] & 3;
  take(from);
  if (at[3] == 0x5c || at[3] == 0x5e) return r || b ? 0 : multiplying(at[3], prefix, modrm, v);
  if (r || v) return 0;
  return at[3] == 0x49 ? configuring(from, prefix, modrm, x, b) : at[3] == 0x4b ? moving(from, prefix, modrm, x, b) : 0;
}
