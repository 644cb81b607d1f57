/* Elements of tensors by type, and of the parts of tensors that devices hold. */
#ifndef ELEMENTS_H
#define ELEMENTS_H
#include "base/types.h"

static inline double element_get(mth_dtype t, const void *data, int64_t i) {
    switch (t) {
    case MTH_FLOAT32: return (double)((const float *)data)[i];
    case MTH_FLOAT64: return ((const double *)data)[i];
    case MTH_INT32: return (double)((const int32_t *)data)[i];
    case MTH_INT64: return (double)((const int64_t *)data)[i];
    default: return (double)((const uint8_t *)data)[i];
    }
}
static inline void element_put(mth_dtype t, void *data, int64_t i, double x) {
    switch (t) {
    case MTH_FLOAT32: ((float *)data)[i] = (float)x; break;
    case MTH_FLOAT64: ((double *)data)[i] = x; break;
    case MTH_INT32: ((int32_t *)data)[i] = (int32_t)x; break;
    case MTH_INT64: ((int64_t *)data)[i] = (int64_t)x; break;
    default: ((uint8_t *)data)[i] = x != 0;
    }
}

typedef struct { mth__shape shape, local; int64_t start[MTH__RANK], step[MTH__RANK]; } held; /* what a device holds of a tensor */
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
