/* What threads of a warp do together, and copies to shared memory, as `device.cuh` has them.

   A copy to shared memory is made when the thread waits for its group, and no earlier: until then, there are no numbers
   in its place. So neither a missing wait goes unseen, nor a copy to what others still read. */
#include "threads.h"

namespace emulated {
namespace {

void load(turn *const *warp, bool transposed) {
  for (int lane = 0; lane < WARP; lane++) {
    if ((uintptr_t)warp[lane]->left % 16) complain("a row of a matrix is not aligned", warp[lane]->left);
    access(warp[lane] - turns, warp[lane]->left, 16, false);
  }
  for (int lane = 0; lane < WARP; lane++) {
    unsigned short *to = (unsigned short *)warp[lane]->to;
    for (int matrix = 0; matrix < 4; matrix++)
      for (int i = 0; i < 2; i++) {
        int row = transposed ? 2 * (lane % 4) + i : lane / 4, column = transposed ? lane / 4 : 2 * (lane % 4) + i;
        const void *from = warp[8 * matrix + row]->left;
        to[2 * matrix + i] = ((const unsigned short *)from)[column];
      }
  }
}

void load_straight(turn *const *warp) { load(warp, false); }
void load_transposed(turn *const *warp) { load(warp, true); }
void meet(turn *const *warp) { warp_has_met(warp[0] - turns); }

void exchange(turn *const *warp) {
  for (int lane = 0; lane < WARP; lane++) memcpy(warp[lane]->to, warp[lane ^ (uintptr_t)warp[lane]->right]->left, 4);
}

template <float number(unsigned short)> void multiply(turn *const *warp) {
  float left[16][16], right[16][8];
  for (int lane = 0; lane < WARP; lane++) {
    const unsigned short *a = (const unsigned short *)warp[lane]->left, *b = (const unsigned short *)warp[lane]->right;
    int group = lane / 4, pair = 2 * (lane % 4);
    for (int i = 0; i < 8; i++) left[group + (i & 2 ? 8 : 0)][pair + (i & 1) + (i & 4 ? 8 : 0)] = number(a[i]);
    for (int i = 0; i < 4; i++) right[pair + (i & 1) + (i & 2 ? 8 : 0)][group] = number(b[i]);
  }
  float sums[16][8] = {};
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++) sums[row][column] += left[row][k] * right[k][column];
  for (int lane = 0; lane < WARP; lane++)
    for (int i = 0; i < 4; i++)
      ((float *)warp[lane]->to)[i] += sums[lane / 4 + (i & 2 ? 8 : 0)][2 * (lane % 4) + (i & 1)];
}

void copy_later(void *to, const void *from, int bytes, int there) {
  if ((uintptr_t)to % bytes || (there && (uintptr_t)from % bytes)) complain("a copy is not aligned", to);
  access(current, to, bytes, true);
  if (there) access(current, from, bytes, false);
  memset(to, 0xff, bytes);
  turns[current].open.push_back({to, there ? from : nullptr, bytes});
}

}  // namespace

void wait(size_t most) {
  auto &groups = turns[current].groups;
  for (; groups.size() > most; groups.pop_front())
    for (const copy &one : groups.front()) {
      access(current, one.to, one.bytes, true);
      if (one.from)
        memcpy(one.to, one.from, one.bytes);
      else
        memset(one.to, 0, one.bytes);
    }
}

}  // namespace emulated

using namespace emulated;

void specc_copy_4(void *to, const void *from, int there) { copy_later(to, from, 4, there); }
void specc_copy_8(void *to, const void *from, int there) { copy_later(to, from, 8, there); }
void specc_copy_16(void *to, const void *from, int there) { copy_later(to, from, 16, there); }
void specc_copies_end() {
  turn &own = turns[current];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
void specc_matrices(unsigned *to, const void *row) { together(load_straight, to, row, nullptr); }
void specc_matrices_transposed(unsigned *to, const void *row) { together(load_transposed, to, row, nullptr); }
void specc_multiply_float16(float *sums, const unsigned *left, const unsigned *right) {
  together(multiply<from_float16>, sums, left, right);
}
void specc_multiply_bfloat16(float *sums, const unsigned *left, const unsigned *right) {
  together(multiply<from_bfloat16>, sums, left, right);
}
void specc_warp_barrier() { together(meet, nullptr, nullptr, nullptr); }
float specc_exchanged(float value, int lanes) {
  float found;
  together(exchange, &found, &value, (const void *)(uintptr_t)lanes);
  return found;
}
