/* Disjoint byte ranges in order of their start: what of a slab is free (memory.c), what of it is live (verify_bytes.c).
   A tree whose subtrees differ in height by one at most (Adelson-Velsky, Landis 1962): every operation takes
   logarithmic time and depth. */
#ifndef MTH__RANGES_H
#define MTH__RANGES_H
#include "base/arena.h"

typedef struct {
    int64_t start, size, largest; /* largest: of this node and those below it */
    int left, right, height, tag;
} mth__range;
typedef struct {
    mth__arena *arena;
    VEC(mth__range) node;
    int root, spare;
} mth__ranges;

mth__ranges mth__ranges_new(mth__arena *);
/* overlaps none that is there; size > 0 */
void mth__ranges_insert(mth__ranges *, int64_t start, int64_t size, int tag);
void mth__ranges_erase(mth__ranges *, int64_t start); /* of one that is there */
/* What they return is valid until the next insertion; NULL: none. */
/* one that shares a byte */
const mth__range *mth__ranges_overlapping(const mth__ranges *, int64_t start, int64_t size);
/* the first of at least this size */
const mth__range *mth__ranges_fit(const mth__ranges *, int64_t size);
#endif
