/* What arrays are filled with: elements one by one, numbers drawn, constants, the values of a whole array. */
#ifndef MTH__FILL_H
#define MTH__FILL_H
#include "data/array.h"

int64_t mth__held_elements(const mth_array *, const mth__held *);
/* Strides in elements of a part in its own memory and in the whole; `offset`: of its first element in the whole. */
void mth__held_strides(
    const mth_array *, const mth__held *, int64_t local[MTH__RANK], int64_t global[MTH__RANK], int64_t *offset);

/* Copies a part, which lies row-major, to its place in the memory of the whole, or from there. Ends where the thread's
 * caller wants. */
mth_status mth__held_copy(const mth_array *, const mth__held *, void *part, void *whole, bool to_whole);

/* range 0: floating, as init says; else int32 */
typedef struct {
    uint64_t seed, stream;
    int init;
    double scale;
    int64_t low, range;
} mth__random;
mth__fill mth__fill_random;     /* context: mth__random */
mth__fill mth__fill_constant;   /* context: double */
mth__fill mth__fill_from_whole; /* context: memory of the whole array, row-major */
#endif
