/* Buffers of the reference engine, which keep it alive, and what crosses their boundary: the program's dtypes outside,
   doubles and int64 inside. */
#include "engine/reference/reference_run.h"

void mth__ref_close(mth__engine *e) {
    if (e && atomic_fetch_sub(&e->references, 1) == 1) mth__free(e);
}

mth_status mth__ref_buffer_new(mth__engine *e, int device, int64_t bytes, mth__buffer **out) {
    mth__buffer *b = mth__calloc(1, sizeof *b);
    void *data = b ? mth__malloc((size_t)bytes) : NULL;
    if (!data) {
        mth__free(b);
        return FAIL(MTH_ERROR_MEMORY, F("no memory for a buffer of %lld bytes of device %d", (long long)bytes, device),
            F("use smaller inputs, or split them over more devices"));
    }
    b->data = data;
    b->engine = e;
    atomic_init(&b->references, 1);
    atomic_fetch_add(&e->references, 1);
    *out = b;
    return NULL;
}

void mth__ref_buffer_retain(mth__buffer *b) { atomic_fetch_add(&b->references, 1); }

void mth__ref_buffer_release(mth__buffer *b) {
    if (!b || atomic_fetch_sub(&b->references, 1) > 1) return;
    mth__engine *e = b->engine;
    mth__free(b->data);
    mth__free(b);
    mth__ref_close(e);
}

void *mth__ref_buffer_host(mth__buffer *b) { return b->data; }

mth_status mth__ref_buffer_write(mth__buffer *b, int64_t offset, const void *data, int64_t bytes) {
    memcpy(b->data + offset, data, (size_t)bytes);
    return NULL;
}

mth_status mth__ref_buffer_read(mth__buffer *b, int64_t offset, void *data, int64_t bytes) {
    memcpy(data, b->data + offset, (size_t)bytes);
    return NULL;
}

static mth_dtype inside(mth_dtype dtype) { return mth__is_float(dtype) ? MTH_FLOAT64 : MTH_INT64; }

void mth__ref_widen(const mth__ref_value *v, const void *from) {
    mth__dtype_convert(v->dtype, from, inside(v->dtype), v->data, mth__shape_size(v->local));
}

void mth__ref_narrow(const mth__ref_value *v, void *to) {
    mth__dtype_convert(inside(v->dtype), v->data, v->dtype, to, mth__shape_size(v->local));
}
