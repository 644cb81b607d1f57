/* Arrays: the parts that devices hold, other layouts of the same values, and what is read of an array. */
#include "data/array.h"
#include "base/number.h"
#include "base/status.h"
#include "base/stop.h"
#include "base/text.h"
#include "data/fill.h"
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- parts */
/* Parts are numbered by the coordinates of their devices on the axes that split some dimension, row-major. */
static bool splits(const mth_array *a, int axis) { return mth__sharding_axes(&a->sharding, a->shape.rank) >> axis & 1; }

static int part_of(const mth_array *a, int rank) {
    const mth__placement *on = a->sharding.on;
    int coordinate[MTH__AXES], part = 0;
    mth__placement_coordinates(on, rank, coordinate);
    for (int axis = 0; axis < on->naxes; axis++)
        if (splits(a, axis)) part = part * on->dim[axis] + coordinate[axis];
    return part;
}

/* The first rank that has the part: its coordinates are 0 on the axes that split nothing. */
static int leader_of(const mth_array *a, int part) {
    const mth__placement *on = a->sharding.on;
    int leader = 0, stride = 1;
    for (int axis = on->naxes - 1; axis >= 0; stride *= on->dim[axis], axis--) {
        if (!splits(a, axis)) continue;
        leader += part % on->dim[axis] * stride;
        part /= on->dim[axis];
    }
    return leader;
}

mth__held mth__array_held(const mth_array *a, int rank) {
    mth__held h = {.device = a->sharding.on->device[rank]};
    mth__shape local = mth__local_shape(a->shape, &a->sharding, rank, h.start, h.step);
    memcpy(h.size, local.dim, sizeof h.size);
    return h;
}

mth__buffer *mth__array_buffer(const mth_array *a, int rank) {
    return a->buffer ? a->buffer[a->apart ? rank : part_of(a, rank)] : NULL;
}

static int64_t bytes_of(const mth_array *a, const mth__held *h) {
    return mth__held_elements(a, h) * (int64_t)mth_dtype_size(a->dtype);
}

/* ---------------------------------------------------------------- making */
typedef enum { NO_BUFFERS, ONE_A_PART, ONE_A_DEVICE } buffers;

/* The array with room for its buffers, which are not there yet. */
static mth_status array_shell(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    buffers room, mth_array **out) {
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
    a->parts = 1;
    for (int axis = 0; axis < sharding->on->naxes; axis++)
        if (splits(a, axis)) a->parts *= sharding->on->dim[axis];
    a->apart = room == ONE_A_DEVICE;
    const int n = a->apart ? a->count : a->parts;
    if (room != NO_BUFFERS) a->buffer = mth__calloc((size_t)n, sizeof *a->buffer);
    if (room != NO_BUFFERS && !a->buffer) {
        mth_array_free(a);
        return mth__lacks_memory("an array", (int64_t)sizeof *a->buffer * n);
    }
    *out = a;
    return NULL;
}

mth_status mth__array_new(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    bool with_data, mth_array **out) {
    mth_array *a = NULL;
    const buffers room = !with_data ? NO_BUFFERS : devices->memory->host ? ONE_A_PART : ONE_A_DEVICE;
    TRY(array_shell(devices, dtype, shape, sharding, room, &a));
    for (int i = 0; with_data && i < (a->apart ? a->count : a->parts); i++) {
        if (i % MTH__STOP_EVERY == 0 && mth__thread_stopped()) {
            mth_array_free(a);
            return mth__interrupted();
        }
        const mth__held h = mth__array_held(a, a->apart ? i : leader_of(a, i));
        mth_status s = devices->memory->new(devices->engine, h.device, bytes_of(a, &h), &a->buffer[i]);
        if (s) {
            mth_array_free(a);
            return s;
        }
    }
    *out = a;
    return NULL;
}

mth_status mth__array_wrap(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    mth__buffer **buffer, mth_array **out) {
    mth_array *a = NULL;
    TRY(array_shell(devices, dtype, shape, sharding, ONE_A_DEVICE, &a));
    memcpy(a->buffer, buffer, (size_t)a->count * sizeof *buffer);
    memset(buffer, 0, (size_t)a->count * sizeof *buffer);
    *out = a;
    return NULL;
}

mth_status mth__array_borrow(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    const void *data, void (*release)(void *), void *context, mth_array **out) {
    mth_array *a = NULL;
    TRY(array_shell(devices, dtype, shape, sharding, ONE_A_PART, &a));
    const mth__held h = mth__array_held(a, 0);
    mth_status s =
        devices->memory->borrow(devices->engine, h.device, data, bytes_of(a, &h), release, context, &a->buffer[0]);
    if (s) {
        mth_array_free(a);
        return s;
    }
    a->lent = true;
    *out = a;
    return NULL;
}

mth_status mth__array_fill(mth_array *a, mth__fill *fill, void *context) {
    const mth__memory_vtable *memory = a->devices->memory;
    for (int i = 0; i < (a->apart ? a->count : a->parts); i++) {
        const mth__held h = mth__array_held(a, a->apart ? i : leader_of(a, i));
        const int64_t bytes = bytes_of(a, &h);
        if (!bytes) continue;
        TRY(mth__stop_check());
        void *host = memory->host ? memory->fill(a->buffer[i]) : mth__malloc((size_t)bytes);
        if (!host) return mth__lacks_memory("an array", bytes);
        mth_status s = fill(context, a, &h, host);
        if (!memory->host) {
            if (!s) s = memory->write(a->buffer[i], 0, host, bytes);
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
    if (a->buffer) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("the array is a layout: it has no data"),
        F("use what mth_get_parameters gives, or read it from a file"));
}

mth_status mth_array_gather(const mth_array *a, void *data) {
    TRY(mth__given(a, "the array"));
    TRY(need_data(a));
    if (mth__shape_size(a->shape)) TRY(mth__given(data, "the memory for the values"));
    const mth__memory_vtable *memory = a->devices->memory;
    for (int part = 0; part < a->parts; part++) {
        const int rank = leader_of(a, part);
        const mth__held h = mth__array_held(a, rank);
        mth__buffer *buffer = mth__array_buffer(a, rank);
        const int64_t bytes = bytes_of(a, &h);
        if (!bytes) continue;
        void *host = memory->host ? memory->host(buffer) : mth__malloc((size_t)bytes);
        if (!host) return mth__lacks_memory("an array", bytes);
        mth_status s = memory->host ? NULL : memory->read(buffer, 0, host, bytes);
        if (!s) s = mth__held_copy(a, &h, host, data, true);
        if (!memory->host) mth__free(host);
        TRY(s);
    }
    return NULL;
}

/* The buffer on the host that is all of the array; NULL: there is none. */
static mth__buffer *whole_buffer(const mth_array *a) {
    if (!a->devices->memory->host || !a->buffer || !a->count) return NULL;
    const mth__held h = mth__array_held(a, 0);
    return memcmp(h.size, a->shape.dim, (size_t)a->shape.rank * sizeof(int64_t)) ? NULL : a->buffer[0];
}

const void *mth_array_get_whole(const mth_array *a) {
    mth__buffer *whole = a ? whole_buffer(a) : NULL;
    return whole ? a->devices->memory->host(whole) : NULL;
}

/* Where one buffer on the host holds all, the devices that need all share it. */
static mth_status share_whole(mth_array *a, const mth__sharding *sharding, mth_array **out) {
    mth_array *b;
    TRY(array_shell(a->devices, a->dtype, a->shape, sharding, ONE_A_PART, &b));
    b->lent = a->lent;
    b->buffer[0] = whole_buffer(a);
    a->devices->memory->retain(b->buffer[0]);
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

/* All values in another dtype; in pieces, so that it ends where the thread's caller wants. */
static mth_status convert(const mth_array *a, const char *what, const void *from, mth_dtype dtype, void *to) {
    enum { AT_ONCE = 1 << 17 };
    const int64_t n = mth__shape_size(a->shape), size = (int64_t)mth_dtype_size(a->dtype);
    for (int64_t i = 0; i < n; i += AT_ONCE) {
        TRY(mth__stop_check());
        const char *piece = (const char *)from + i * size;
        const int64_t some = n - i < AT_ONCE ? n - i : AT_ONCE,
                      lost = mth__dtype_convert_checked(
                          a->dtype, piece, dtype, (char *)to + i * (int64_t)mth_dtype_size(dtype), some);
        if (lost >= 0) return mth__misfit(what, a->dtype, piece + lost * size, a->shape, i + lost, dtype);
    }
    return NULL;
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
        s = cast ? convert(a, what, whole, dtype, cast) : mth__lacks_memory("an array", bytes);
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
    const mth__held h = mth__array_held(a, 0);
    mth__buffer *lent = a->buffer[0], *copy = NULL;
    const int64_t bytes = bytes_of(a, &h);
    for (size_t i = 0; i < count; i++) {
        if (buffer[i] != lent) continue;
        if (copy)
            memory->retain(copy);
        else {
            TRY(memory->new(a->devices->engine, h.device, bytes, &copy));
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
    for (int i = 0; a->buffer && i < (a->apart ? a->count : a->parts); i++)
        if (a->buffer[i]) a->devices->memory->release(a->buffer[i]);
    mth__free(a->buffer);
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
    const mth__held h = mth__array_held(a, (int)i);
    mth__buffer *buffer = mth__array_buffer(a, (int)i);
    mth_shard s = {.device_id = h.device};
    memcpy(s.start, h.start, sizeof s.start);
    memcpy(s.size, h.size, sizeof s.size);
    memcpy(s.step, h.step, sizeof s.step);
    s.data = buffer && a->devices->memory->host ? a->devices->memory->host(buffer) : NULL;
    return s;
}
