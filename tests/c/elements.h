/* Elements of tensors by type, and of the parts of tensors that devices hold. */
#ifndef ELEMENTS_H
#define ELEMENTS_H
#include "engine/reference/reference.h"
#include <stdio.h>

static inline mth__ref_element element_get(mth_dtype t, const void *data, int64_t i) {
    switch (t) {
    case MTH_FLOAT32: return (mth__ref_element){.real = (double)((const float *)data)[i]};
    case MTH_FLOAT64: return (mth__ref_element){.real = ((const double *)data)[i]};
    case MTH_INT32: return (mth__ref_element){.integer = ((const int32_t *)data)[i]};
    case MTH_INT64: return (mth__ref_element){.integer = ((const int64_t *)data)[i]};
    default: return (mth__ref_element){.integer = ((const uint8_t *)data)[i]};
    }
}
static inline void element_put(mth_dtype t, void *data, int64_t i, mth__ref_element x) {
    switch (t) {
    case MTH_FLOAT32: ((float *)data)[i] = (float)x.real; break;
    case MTH_FLOAT64: ((double *)data)[i] = x.real; break;
    case MTH_INT32: ((int32_t *)data)[i] = (int32_t)x.integer; break;
    case MTH_INT64: ((int64_t *)data)[i] = x.integer; break;
    default: ((uint8_t *)data)[i] = x.integer != 0;
    }
}
/* For messages, and where integers are small. */
static inline double element_real(mth_dtype t, const void *data, int64_t i) {
    return mth__ref_as_real(t, element_get(t, data, i));
}
static inline void element_put_real(mth_dtype t, void *data, int64_t i, double x) {
    element_put(t, data, i, mth__ref_from_real(t, x));
}
static inline const char *element_text(mth_dtype t, mth__ref_element x) { /* until it is called twice more */
    static char room[3][32];
    static int next;
    char *text = room[next++ % 3];
    if (mth__is_float(t))
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
static inline held held_by(mth__shape shape, const mth__sharding *s, int device) {
    held h = {.shape = shape};
    h.local = mth__local_shape(shape, s, s->on->rank_of[device], h.start, h.step);
    return h;
}
static inline int64_t index_in_whole(const held *h, int64_t local) {
    int64_t stride[MTH__RANK], index = 0;
    mth__shape_strides(h->shape, stride);
    for (int d = h->local.rank - 1; d >= 0; d--) {
        index += (h->start[d] + local % h->local.dim[d] * h->step[d]) * stride[d];
        local /= h->local.dim[d];
    }
    return index;
}
#endif
