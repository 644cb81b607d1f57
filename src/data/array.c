/* Arrays: the parts that devices hold, other layouts of the same values, and what is read of an array. */
#include "data/array.h"
#include "base/number.h"
#include "base/status.h"
#include "base/stop.h"
#include "base/text.h"
#include "data/box.h"
#include "data/fill.h"
#include <stdio.h>
#include <string.h>

/* The rank that stands for all with the same part: its coordinates are 0 on the axes that split nothing. */
static int leader_of(const mth__placement *on, uint8_t axes, int rank) {
    int coordinate[MTH__AXES], leader = 0;
    mth__placement_coordinates(on, rank, coordinate);
    for (int a = 0; a < on->naxes; a++) leader = leader * on->dim[a] + (axes >> a & 1 ? coordinate[a] : 0);
    return leader;
}

/* The array without its buffers. */
static mth_status array_shell(
    mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding, mth_array **out) {
    TRY(mth__shape_check(shape, dtype));
    mth_array *a = mth__calloc(1, sizeof *a);
    if (!a) return mth__lacks_memory("an array", sizeof *a);
    a->references = 1;
    a->devices = mth__devices_retain(devices);
    a->dtype = dtype;
    a->shape = shape;
    a->sharding = *sharding;
    mth__sharding_canonical(&a->sharding, shape);
    a->count = sharding->on->count;
    a->held = mth__calloc((size_t)a->count, sizeof *a->held);
    if (!a->held) {
        mth_array_free(a);
        return mth__lacks_memory("an array", (int64_t)sizeof(mth__held) * sharding->on->count);
    }
    uint8_t axes = mth__sharding_axes(&a->sharding, shape.rank);
    for (int r = 0; r < a->count; r++) {
        mth__held *h = &a->held[r];
        h->device = sharding->on->device[r];
        h->leader = devices->memory->host ? leader_of(sharding->on, axes, r) : r;
        mth__shape local = mth__local_shape(shape, &a->sharding, r, h->start, h->step);
        memcpy(h->size, local.dim, sizeof h->size);
    }
    *out = a;
    return NULL;
}

mth_status mth__array_new(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    bool with_data, mth_array **out) {
    mth_array *a;
    TRY(array_shell(devices, dtype, shape, sharding, &a));
    for (int r = 0; with_data && r < a->count; r++) {
        mth__held *h = &a->held[r];
        if (h->leader != r) {
            h->buffer = a->held[h->leader].buffer;
            devices->memory->retain(h->buffer);
            continue;
        }
        mth_status s = devices->memory->new(
            devices->engine, h->device, mth__held_elements(a, h) * (int64_t)mth_dtype_size(dtype), &h->buffer);
        if (s) {
            mth_array_free(a);
            return s;
        }
    }
    *out = a;
    return NULL;
}

mth_status mth__array_wrap(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    mth__buffer *const *buffer, mth_array **out) {
    mth_array *a;
    TRY(array_shell(devices, dtype, shape, sharding, &a));
    for (int r = 0; r < a->count; r++) {
        a->held[r].leader = r; /* a run's results are one buffer a device */
        a->held[r].buffer = buffer[r];
    }
    *out = a;
    return NULL;
}

mth_status mth__array_borrow(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    const void *data, void (*release)(void *), void *context, mth_array **out) {
    mth_array *a;
    TRY(array_shell(devices, dtype, shape, sharding, &a));
    mth_status s = devices->memory->borrow(devices->engine, a->held[0].device, data,
        mth__held_elements(a, &a->held[0]) * (int64_t)mth_dtype_size(dtype), release, context, &a->held[0].buffer);
    if (s) {
        mth_array_free(a);
        return s;
    }
    a->lent = true;
    for (int r = 1; r < a->count; r++) {
        a->held[r].buffer = a->held[0].buffer;
        devices->memory->retain(a->held[0].buffer);
    }
    *out = a;
    return NULL;
}

mth_status mth__array_fill(mth_array *a, mth__fill *fill, void *context) {
    const mth__memory_vtable *memory = a->devices->memory;
    for (int r = 0; r < a->count; r++) {
        mth__held *h = &a->held[r];
        int64_t bytes = mth__held_elements(a, h) * (int64_t)mth_dtype_size(a->dtype);
        if (h->leader != r || !bytes) continue;
        TRY(mth__stop_check());
        void *host = memory->host ? memory->fill(h->buffer) : mth__malloc((size_t)bytes);
        if (!host) return mth__lacks_memory("an array", bytes);
        mth_status s = fill(context, a, h, host);
        if (!memory->host) {
            if (!s) s = memory->write(h->buffer, 0, host, bytes);
            mth__free(host);
        }
        TRY(s);
    }
    return NULL;
}

/* ---------------------------------------------------------------- contents */
mth_status mth__array_initialise(mth_array *a, int init, double scale, uint64_t seed, uint64_t stream) {
    mth__random f = {seed, stream, init, scale, 0, 0};
    return mth__array_fill(a, mth__fill_random, &f);
}

/* ---------------------------------------------------------------- layouts */
static mth_status need_data(const mth_array *a) {
    if (a->held[0].buffer) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("the array is a layout: it has no data"),
        F("use what mth_get_parameters gives, or read it from a file"));
}

mth_status mth_array_gather(const mth_array *a, void *data) {
    TRY(mth__given(a, "the array"));
    TRY(need_data(a));
    if (mth__shape_size(a->shape)) TRY(mth__given(data, "the memory for the values"));
    const mth__memory_vtable *memory = a->devices->memory;
    for (int r = 0; r < a->count; r++) {
        const mth__held *h = &a->held[r];
        int64_t bytes = mth__held_elements(a, h) * (int64_t)mth_dtype_size(a->dtype), local[MTH__RANK],
                global[MTH__RANK], offset;
        if (leader_of(a->sharding.on, mth__sharding_axes(&a->sharding, a->shape.rank), r) != r || !bytes) continue;
        void *host = memory->host ? memory->host(h->buffer) : mth__malloc((size_t)bytes);
        if (!host) return mth__lacks_memory("an array", bytes);
        mth_status s = memory->host ? NULL : memory->read(h->buffer, 0, host, bytes);
        if (!s) {
            mth__held_strides(a, h, local, global, &offset);
            mth__box_copy(a->dtype, a->shape.rank, h->size, (char *)data + offset * (int64_t)mth_dtype_size(a->dtype),
                global, host, local);
        }
        if (!memory->host) mth__free(host);
        TRY(s);
    }
    return NULL;
}

static bool is_whole(const mth_array *a, const mth__held *h) {
    return memcmp(h->size, a->shape.dim, (size_t)a->shape.rank * sizeof(int64_t)) == 0;
}

const void *mth_array_get_whole(const mth_array *a) {
    if (!a || !a->devices->memory->host || !a->count || !a->held[0].buffer || !is_whole(a, &a->held[0])) return NULL;
    return a->devices->memory->host(a->held[0].buffer);
}

/* Where one buffer on the host holds all, a device that needs all shares it. */
static mth_status share_whole(mth_array *a, const mth__sharding *sharding, mth_array **out) {
    mth_array *b;
    TRY(array_shell(a->devices, a->dtype, a->shape, sharding, &b));
    b->lent = a->lent;
    for (int r = 0; r < b->count; r++) {
        b->held[r].buffer = a->held[0].buffer;
        a->devices->memory->retain(b->held[r].buffer);
    }
    *out = b;
    return NULL;
}

mth_status mth__misfit(
    const char *what, mth_dtype from, const void *element, mth__shape shape, int64_t at, mth_dtype to) {
    const mth__dtype_facts *facts = &mth__dtypes[to];
    mth__shape index = shape;
    char where[256], value[32];
    for (int d = shape.rank - 1; d >= 0; at /= shape.dim[d], d--) index.dim[d] = at % shape.dim[d];
    mth__shape_write(where, sizeof where, index);
    if (mth__is_float(from))
        mth__print(value, sizeof value, "%.9g", mth__dtype_load(from, element, 0));
    else {
        int64_t integer;
        mth__dtype_convert(from, element, MTH_INT64, &integer, 1);
        snprintf(value, sizeof value, "%lld", (long long)integer);
    }
    const bool real = mth__is_float(to);
    return FAIL(MTH_ERROR_VALUE,
        F("%s holds %s at index %s, which does not fit in %s%s", what, value, where, facts->name,
            real ? ": it would become infinite" : ""),
        real ? F("scale the numbers first, or cut them off at %.8g in magnitude", facts->largest)
             : F("give numbers from %lld to %lld", (long long)facts->least, (long long)facts->most));
}

mth_status mth__array_as(
    mth_array *a, const char *what, mth__devices *on, mth_dtype dtype, const mth__sharding *sharding, mth_array **out) {
    mth__sharding to = *sharding;
    mth__sharding_canonical(&to, a->shape);
    TRY(need_data(a));
    const bool same = a->devices == on && a->dtype == dtype;
    if (same && mth__sharding_equal(&a->sharding, &to, a->shape.rank)) {
        mth_array_retain(a);
        *out = a;
        return NULL;
    }
    void *whole = (void *)mth_array_get_whole(a), *gathered = NULL, *cast = NULL;
    if (same && whole && !mth__sharding_axes(&to, a->shape.rank)) return share_whole(a, &to, out);
    mth_array *b;
    TRY(mth__array_new(on, dtype, a->shape, &to, true, &b));
    mth_status s = NULL;
    const int64_t n = mth__shape_size(a->shape);
    if (!whole) {
        int64_t bytes = n * (int64_t)mth_dtype_size(a->dtype);
        gathered = whole = mth__malloc((size_t)bytes);
        s = gathered ? mth_array_gather(a, gathered) : mth__lacks_memory("an array", bytes);
    }
    if (!s && a->dtype != dtype) {
        int64_t bytes = n * (int64_t)mth_dtype_size(dtype);
        cast = mth__malloc((size_t)bytes);
        const int64_t lost = mth__dtype_first_lost(a->dtype, whole, dtype, n);
        if (!cast) s = mth__lacks_memory("an array", bytes);
        if (!s && lost >= 0)
            s = mth__misfit(
                what, a->dtype, (const char *)whole + lost * (int64_t)mth_dtype_size(a->dtype), a->shape, lost, dtype);
        if (!s) mth__dtype_convert(a->dtype, whole, dtype, cast, n);
    }
    if (!s) s = mth__array_fill(b, mth__fill_from_whole, cast ? cast : whole);
    mth__free(cast);
    mth__free(gathered);
    if (s) {
        mth_array_free(b);
        return s;
    }
    *out = b;
    return NULL;
}

mth_status mth__array_unlend(const mth_array *a, mth__buffer **buffer, size_t count) {
    if (!a->lent) return NULL;
    const mth__memory_vtable *memory = a->devices->memory;
    mth__buffer *lent = a->held[0].buffer, *copy = NULL;
    int64_t bytes = mth__held_elements(a, &a->held[0]) * (int64_t)mth_dtype_size(a->dtype);
    for (size_t i = 0; i < count; i++) {
        if (buffer[i] != lent) continue;
        if (copy)
            memory->retain(copy);
        else {
            TRY(memory->new(a->devices->engine, a->held[0].device, bytes, &copy));
            mth_status s = memory->write(copy, 0, memory->host(lent), bytes);
            if (s) {
                memory->release(copy);
                return s;
            }
        }
        buffer[i] = copy;
        memory->release(lent);
    }
    return NULL;
}

/* ---------------------------------------------------------------- public: reading */
void mth_array_retain(mth_array *a) {
    if (a) atomic_fetch_add(&a->references, 1);
}

void mth_array_free(mth_array *a) {
    if (!a || atomic_fetch_sub(&a->references, 1) != 1) return;
    for (int r = 0; a->held && r < a->count; r++)
        if (a->held[r].buffer) a->devices->memory->release(a->held[r].buffer);
    mth__free(a->held);
    mth__free(a->sharding_text);
    mth__devices_release(a->devices);
    mth__free(a);
}

mth_dtype mth_array_get_dtype(const mth_array *a) { return a ? a->dtype : (mth_dtype)0; }
int mth_array_get_rank(const mth_array *a) { return a ? a->shape.rank : 0; }
const int64_t *mth_array_get_shape(const mth_array *a) { return a ? a->shape.dim : NULL; }

static mth_status sharding_text_body(void *context) {
    mth_array *a = context;
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    mth__text_add(&t, "%s", mth__where_text(arena, &a->sharding, a->shape.rank));
    char *text = mth__text_publish(&t), *expected = NULL;
    mth__arena_free(arena);
    /* another thread was first */
    if (!atomic_compare_exchange_strong(&a->sharding_text, &expected, text)) mth__free(text);
    return NULL;
}

const char *mth_array_get_sharding(const mth_array *a) {
    if (!a) return "";
    if (!a->sharding_text) mth_error_free(mth__guard(sharding_text_body, (mth_array *)a));
    const char *text = atomic_load(&a->sharding_text);
    return text ? text : "";
}

size_t mth_array_get_shard_count(const mth_array *a) { return a ? (size_t)a->count : 0; }

mth_shard mth_array_get_shard(const mth_array *a, size_t i) {
    if (i >= mth_array_get_shard_count(a)) return (mth_shard){.device_id = -1};
    const mth__held *h = &a->held[i];
    mth_shard s = {.device_id = h->device};
    memcpy(s.start, h->start, sizeof s.start);
    memcpy(s.size, h->size, sizeof s.size);
    memcpy(s.step, h->step, sizeof s.step);
    s.data = h->buffer && a->devices->memory->host ? a->devices->memory->host(h->buffer) : NULL;
    return s;
}
