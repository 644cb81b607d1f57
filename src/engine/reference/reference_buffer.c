/* Buffers of the reference engine, which keep it alive, and what crosses their boundary: the program's dtypes outside,
   doubles and int64 inside. */
#include "engine/reference/reference_run.h"

void mth__ref_close(mth__engine *engine) {
    if (!engine || atomic_fetch_sub(&engine->references, 1) > 1) return;
    mth__crew_free(engine->crew);
    mth__free(engine);
}

mth_status mth__ref_buffer_new(mth__engine *engine, int device, int64_t bytes, mth__buffer **out) {
    mth__buffer *buffer = mth__calloc(1, sizeof *buffer);
    void *data = buffer ? mth__malloc((size_t)bytes) : NULL;
    if (!data) {
        mth__free(buffer);
        return FAIL(MTH_ERROR_MEMORY, F("no memory for a buffer of %lld bytes of device %d", (long long)bytes, device),
            F("use smaller inputs, or split them over more devices"));
    }
    buffer->data = data;
    buffer->engine = engine;
    atomic_init(&buffer->references, 1);
    atomic_fetch_add(&engine->references, 1);
    *out = buffer;
    return NULL;
}

void mth__ref_buffer_retain(mth__buffer *buffer) { atomic_fetch_add(&buffer->references, 1); }

void mth__ref_buffer_release(mth__buffer *buffer) {
    if (!buffer || atomic_fetch_sub(&buffer->references, 1) > 1) return;
    mth__engine *engine = buffer->engine;
    mth__free(buffer->data);
    mth__free(buffer);
    mth__ref_close(engine);
}

void *mth__ref_buffer_host(mth__buffer *buffer) { return buffer->data; }

mth_status mth__ref_buffer_write(mth__buffer *buffer, int64_t offset, const void *data, int64_t bytes) {
    memcpy(buffer->data + offset, data, (size_t)bytes);
    return NULL;
}

mth_status mth__ref_buffer_read(mth__buffer *buffer, int64_t offset, void *data, int64_t bytes) {
    memcpy(data, buffer->data + offset, (size_t)bytes);
    return NULL;
}

static mth_dtype inside(mth_dtype dtype) { return mth__is_float(dtype) ? MTH_FLOAT64 : MTH_INT64; }

void mth__ref_widen(const mth__ref_value *value, const void *from) {
    mth__dtype_convert(value->dtype, from, inside(value->dtype), value->data, mth__shape_size(value->local));
}

void mth__ref_narrow(const mth__ref_value *value, void *to) {
    mth__dtype_convert(inside(value->dtype), value->data, value->dtype, to, mth__shape_size(value->local));
}
