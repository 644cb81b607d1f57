/* Elements of tensors by type, and of the parts of tensors that devices hold. */
#ifndef ELEMENTS_H
#define ELEMENTS_H
#include "engine/reference/reference.h"
#include <stdio.h>

static inline mth_dtype element_inside(mth_dtype dtype) { return mth__is_float(dtype) ? MTH_FLOAT64 : MTH_INT64; }
/* float32, which most elements are, is read and written directly: a call for each takes longer than what is tested. */
static inline mth__ref_element element_get(mth_dtype dtype, const void *data, int64_t i) {
    mth__ref_element x;
    if (dtype == MTH_FLOAT32) return (mth__ref_element){.real = ((const float *)data)[i]};
    mth__dtype_convert(dtype, (const char *)data + i * mth__dtypes[dtype].size, element_inside(dtype), &x, 1);
    return x;
}
static inline void element_put(mth_dtype dtype, void *data, int64_t i, mth__ref_element x) {
    if (dtype == MTH_FLOAT32) {
        ((float *)data)[i] = (float)x.real;
        return;
    }
    mth__dtype_convert(element_inside(dtype), &x, dtype, (char *)data + i * mth__dtypes[dtype].size, 1);
}
/* For messages, and where integers are small. */
static inline double element_real(mth_dtype dtype, const void *data, int64_t i) {
    return mth__ref_as_real(dtype, element_get(dtype, data, i));
}
static inline void element_put_real(mth_dtype dtype, void *data, int64_t i, double x) {
    element_put(dtype, data, i, mth__ref_from_real(dtype, x));
}
static inline const char *element_text(mth_dtype dtype, mth__ref_element x) { /* until it is called twice more */
    static char room[3][32];
    static int next;
    char *text = room[next++ % 3];
    if (mth__is_float(dtype))
        snprintf(text, sizeof *room, "%.9g", x.real);
    else
        snprintf(text, sizeof *room, "%lld", (long long)x.integer);
    return text;
}

/* what a device holds of a tensor */
typedef struct {
    mth__shape shape, local;
    int64_t start[MTH__RANK], step[MTH__RANK];
} held;
static inline held held_by(mth__shape shape, const mth__sharding *sharding, int device) {
    held part = {.shape = shape};
    part.local = mth__local_shape(shape, sharding, sharding->on->rank_of[device], part.start, part.step);
    return part;
}
static inline int64_t index_in_whole(const held *part, int64_t local) {
    int64_t stride[MTH__RANK], index = 0;
    mth__shape_strides(part->shape, stride);
    for (int d = part->local.rank - 1; d >= 0; d--) {
        index += (part->start[d] + local % part->local.dim[d] * part->step[d]) * stride[d];
        local /= part->local.dim[d];
    }
    return index;
}
#endif
