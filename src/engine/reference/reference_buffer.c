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

void mth__ref_widen(const mth__ref_value *v, const void *from) {
    for (int64_t i = 0, n = mth__shape_size(v->local); i < n; i++) switch (v->dtype) {
        case MTH_FLOAT32: v->data[i].real = ((const float *)from)[i]; break;
        case MTH_FLOAT64: v->data[i].real = ((const double *)from)[i]; break;
        case MTH_INT32: v->data[i].integer = ((const int32_t *)from)[i]; break;
        case MTH_INT64: v->data[i].integer = ((const int64_t *)from)[i]; break;
        case MTH_BOOL: v->data[i].integer = ((const uint8_t *)from)[i] != 0; break;
        case MTH_BFLOAT16: { /* the upper half of a float32 */
            uint32_t bits = (uint32_t)((const uint16_t *)from)[i] << 16;
            float f;
            memcpy(&f, &bits, sizeof f);
            v->data[i].real = f;
        }
        }
}

void mth__ref_narrow(const mth__ref_value *v, void *to) {
    for (int64_t i = 0, n = mth__shape_size(v->local); i < n; i++) switch (v->dtype) {
        case MTH_FLOAT32: ((float *)to)[i] = (float)v->data[i].real; break;
        case MTH_FLOAT64: ((double *)to)[i] = v->data[i].real; break;
        case MTH_INT32: ((int32_t *)to)[i] = (int32_t)v->data[i].integer; break;
        case MTH_INT64: ((int64_t *)to)[i] = v->data[i].integer; break;
        case MTH_BOOL: ((uint8_t *)to)[i] = v->data[i].integer != 0; break;
        case MTH_BFLOAT16: {
            float f = (float)mth__ref_from_real(MTH_BFLOAT16, v->data[i].real).real;
            uint32_t bits;
            memcpy(&bits, &f, sizeof bits);
            ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
        }
        }
}
