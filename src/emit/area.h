/* Regions of a global tensor, and how they lie in the local parts of two devices. */
#ifndef MTH__AREA_H
#define MTH__AREA_H
#include "base/types.h"

/* The elements that both have; size 0: none. */
mth__extent mth__extent_common(mth__extent, mth__extent);

/* A region of a global tensor, by dimension. */
typedef struct {
    int rank;
    mth__extent dim[MTH__RANK];
} mth__area;
/* What a device holds of the tensor. */
mth__area mth__area_local(mth__shape global, const mth__sharding *, int device);
bool mth__area_intersect(const mth__area *, const mth__area *, mth__area *out); /* false: empty */
int64_t mth__area_size(const mth__area *);

/* The same elements in two memories: the first one and the strides of each, counted in elements. */
typedef struct {
    int8_t rank;
    int64_t size[MTH__RANK], to_stride[MTH__RANK], from_stride[MTH__RANK];
    int64_t to, from;
} mth__strided_copy;
/* Of the box from a memory that holds `part` row by row into one that holds `whole`; false: the box does not lie in
   both. */
bool mth__area_copy(const mth__area *box, const mth__area *whole, const mth__area *part, mth__strided_copy *out);
int64_t mth__strided_copy_size(const mth__strided_copy *); /* elements */
#endif
