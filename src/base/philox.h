/* Philox4x32-10 (Salmon et al., SC 2011): counter-based random numbers, the same on any mesh since the counter is the
 * element's index. */
#ifndef MTH__PHILOX_H
#define MTH__PHILOX_H
#include <stddef.h>
#include <stdint.h>
void mth__philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]);
/* Element `index` of stream (key, stream): a standard normal (Box-Muller of words 2*(index%2) and the next, counter
   index / 2), a uniform in [0, 1) (word index%4, counter index / 4). */
float mth__philox_normal(uint64_t key, uint64_t stream, uint64_t index);
/* index, index + stride, ... */
void mth__philox_normals(uint64_t key, uint64_t stream, uint64_t index, uint64_t stride, size_t count, float *out);
float mth__philox_uniform(uint64_t key, uint64_t stream, uint64_t index);
/* in [0, range), range <= 2^32, of the same word */
int64_t mth__philox_below(uint64_t key, uint64_t stream, uint64_t index, int64_t range);
uint64_t mth__philox_stream(const char *name); /* FNV-1a of a parameter's name */
#endif
