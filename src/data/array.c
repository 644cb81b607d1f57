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
static bool splits(const mth_array *array, int axis) {
    return mth__sharding_axes(&array->sharding, array->shape.rank) >> axis & 1;
}

static int part_of(const mth_array *array, int rank) {
    const mth__placement *on = array->sharding.on;
    int coordinate[MTH__AXES], part = 0;
    mth__placement_coordinates(on, rank, coordinate);
    for (int axis = 0; axis < on->naxes; axis++)
        if (splits(array, axis)) part = part * on->dim[axis] + coordinate[axis];
    return part;
}

/* The first rank that has the part: its coordinates are 0 on the axes that split nothing. */
static int leader_of(const mth_array *array, int part) {
    const mth__placement *on = array->sharding.on;
    int leader = 0, stride = 1;
    for (int axis = on->naxes - 1; axis >= 0; stride *= on->dim[axis], axis--) {
        if (!splits(array, axis)) continue;
        leader += part % on->dim[axis] * stride;
        part /= on->dim[axis];
    }
    return leader;
}

mth__held mth__array_held(const mth_array *array, int rank) {
    mth__held held = {.device = array->sharding.on->device[rank]};
    mth__shape local = mth__local_shape(array->shape, &array->sharding, rank, held.start, held.step);
    memcpy(held.size, local.dim, sizeof held.size);
    return held;
}

mth__buffer *mth__array_buffer(const mth_array *array, int rank) {
    return array->buffer ? array->buffer[array->apart ? rank : part_of(array, rank)] : NULL;
}

static int64_t bytes_of(const mth_array *array, const mth__held *held) {
    return mth__held_elements(array, held) * (int64_t)mth_dtype_size(array->dtype);
}

/* ---------------------------------------------------------------- making */
typedef enum { NO_BUFFERS, ONE_A_PART, ONE_A_DEVICE } buffers;

/* The array with room for its buffers, which are not there yet. */
static mth_status array_shell(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    buffers room, mth_array **out) {
    TRY(mth__shape_check(shape, dtype));
    mth_array *array = mth__calloc(1, sizeof *array);
    if (!array) return mth__lacks_memory("an array", sizeof *array);
    array->references = 1;
    array->devices = mth__devices_retain(devices);
    array->dtype = dtype;
    array->shape = shape;
    array->sharding = *sharding;
    mth__sharding_canonical(&array->sharding, shape);
    array->count = sharding->on->count;
    array->parts = 1;
    for (int axis = 0; axis < sharding->on->naxes; axis++)
        if (splits(array, axis)) array->parts *= sharding->on->dim[axis];
    array->apart = room == ONE_A_DEVICE;
    const int n = array->apart ? array->count : array->parts;
    if (room != NO_BUFFERS) array->buffer = mth__calloc((size_t)n, sizeof *array->buffer);
    if (room != NO_BUFFERS && !array->buffer) {
        mth_array_free(array);
        return mth__lacks_memory("an array", (int64_t)sizeof *array->buffer * n);
    }
    *out = array;
    return NULL;
}

mth_status mth__array_new(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    bool with_data, mth_array **out) {
    mth_array *array = NULL;
    const buffers room = !with_data ? NO_BUFFERS : devices->memory->host ? ONE_A_PART : ONE_A_DEVICE;
    TRY(array_shell(devices, dtype, shape, sharding, room, &array));
    for (int i = 0; with_data && i < (array->apart ? array->count : array->parts); i++) {
        if (i % MTH__STOP_EVERY == 0 && mth__thread_stopped()) {
            mth_array_free(array);
            return mth__interrupted();
        }
        const mth__held held = mth__array_held(array, array->apart ? i : leader_of(array, i));
        mth_status status =
            devices->memory->new(devices->engine, held.device, bytes_of(array, &held), &array->buffer[i]);
        if (status) {
            mth_array_free(array);
            return status;
        }
    }
    *out = array;
    return NULL;
}

mth_status mth__array_wrap(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    mth__buffer **buffer, mth_array **out) {
    mth_array *array = NULL;
    TRY(array_shell(devices, dtype, shape, sharding, ONE_A_DEVICE, &array));
    memcpy(array->buffer, buffer, (size_t)array->count * sizeof *buffer);
    memset(buffer, 0, (size_t)array->count * sizeof *buffer);
    *out = array;
    return NULL;
}

mth_status mth__array_borrow(mth__devices *devices, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    const void *data, void (*release)(void *), void *context, mth_array **out) {
    mth_array *array = NULL;
    TRY(array_shell(devices, dtype, shape, sharding, ONE_A_PART, &array));
    const mth__held held = mth__array_held(array, 0);
    mth_status status = devices->memory->borrow(
        devices->engine, held.device, data, bytes_of(array, &held), release, context, &array->buffer[0]);
    if (status) {
        mth_array_free(array);
        return status;
    }
    array->lent = true;
    *out = array;
    return NULL;
}

mth_status mth__array_fill(mth_array *array, mth__fill *fill, void *context) {
    const mth__memory_vtable *memory = array->devices->memory;
    for (int i = 0; i < (array->apart ? array->count : array->parts); i++) {
        const mth__held held = mth__array_held(array, array->apart ? i : leader_of(array, i));
        const int64_t bytes = bytes_of(array, &held);
        if (!bytes) continue;
        TRY(mth__stop_check());
        void *host = memory->host ? memory->fill(array->buffer[i]) : mth__malloc((size_t)bytes);
        if (!host) return mth__lacks_memory("an array", bytes);
        mth_status status = fill(context, array, &held, host);
        if (!memory->host) {
            if (!status) status = memory->write(array->buffer[i], 0, host, bytes);
            mth__free(host);
        }
        TRY(status);
    }
    return NULL;
}

/* ---------------------------------------------------------------- contents */
mth_status mth__array_initialise(mth_array *array, int init, double scale, uint64_t seed, uint64_t stream) {
    mth__random random = {seed, stream, init, scale, 0, 0};
    return mth__array_fill(array, mth__fill_random, &random);
}

/* ---------------------------------------------------------------- layouts */
static mth_status need_data(const mth_array *array) {
    if (array->buffer) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("the array is a layout: it has no data"),
        F("use what mth_get_parameters gives, or read it from a file"));
}

mth_status mth_array_gather(const mth_array *array, void *data) {
    TRY(mth__given(array, "the array"));
    TRY(need_data(array));
    if (mth__shape_size(array->shape)) TRY(mth__given(data, "the memory for the values"));
    const mth__memory_vtable *memory = array->devices->memory;
    for (int part = 0; part < array->parts; part++) {
        const int rank = leader_of(array, part);
        const mth__held held = mth__array_held(array, rank);
        mth__buffer *buffer = mth__array_buffer(array, rank);
        const int64_t bytes = bytes_of(array, &held);
        if (!bytes) continue;
        void *host = memory->host ? memory->host(buffer) : mth__malloc((size_t)bytes);
        if (!host) return mth__lacks_memory("an array", bytes);
        mth_status status = memory->host ? NULL : memory->read(buffer, 0, host, bytes);
        if (!status) status = mth__held_copy(array, &held, host, data, true);
        if (!memory->host) mth__free(host);
        TRY(status);
    }
    return NULL;
}

/* The buffer on the host that is all of the array; NULL: there is none. */
static mth__buffer *whole_buffer(const mth_array *array) {
    if (!array->devices->memory->host || !array->buffer || !array->count) return NULL;
    const mth__held held = mth__array_held(array, 0);
    return memcmp(held.size, array->shape.dim, (size_t)array->shape.rank * sizeof(int64_t)) ? NULL : array->buffer[0];
}

const void *mth_array_get_whole(const mth_array *array) {
    mth__buffer *whole = array ? whole_buffer(array) : NULL;
    return whole ? array->devices->memory->host(whole) : NULL;
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
static mth_status convert(
    const mth_array *array, const char *kind, const char *name, const void *from, mth_dtype dtype, void *to) {
    enum { AT_ONCE = 1 << 17 };
    const int64_t n = mth__shape_size(array->shape), size = (int64_t)mth_dtype_size(array->dtype);
    for (int64_t i = 0; i < n; i += AT_ONCE) {
        TRY(mth__stop_check());
        const char *piece = (const char *)from + i * size;
        const int64_t some = n - i < AT_ONCE ? n - i : AT_ONCE,
                      lost = mth__dtype_convert_checked(
                          array->dtype, piece, dtype, (char *)to + i * (int64_t)mth_dtype_size(dtype), some);
        if (lost < 0) continue;
        char *what = F("%s '%s'", kind, name);
        mth_status status = mth__misfit(what, array->dtype, piece + lost * size, array->shape, i + lost, dtype);
        mth__free(what);
        return status;
    }
    return NULL;
}

mth_status mth__array_as(mth_array *a, const char *kind, const char *name, mth__devices *on, mth_dtype dtype,
    const mth__sharding *sharding, mth_array **out) {
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
    mth_status status = NULL;
    const int64_t n = mth__shape_size(a->shape);
    if (!whole) {
        int64_t bytes = n * (int64_t)mth_dtype_size(a->dtype);
        gathered = whole = mth__malloc((size_t)bytes);
        status = gathered ? mth_array_gather(a, gathered) : mth__lacks_memory("an array", bytes);
    }
    if (!status && a->dtype != dtype) {
        int64_t bytes = n * (int64_t)mth_dtype_size(dtype);
        cast = mth__malloc((size_t)bytes);
        status = cast ? convert(a, kind, name, whole, dtype, cast) : mth__lacks_memory("an array", bytes);
    }
    if (!status) status = mth__array_fill(b, mth__fill_from_whole, cast ? cast : whole);
    mth__free(cast);
    mth__free(gathered);
    if (status) {
        mth_array_free(b);
        return status;
    }
    *out = b;
    return NULL;
}

mth_status mth__array_unlend(const mth_array *array, mth__buffer **buffer, size_t count) {
    if (!array->lent) return NULL;
    const mth__memory_vtable *memory = array->devices->memory;
    const mth__held held = mth__array_held(array, 0);
    mth__buffer *lent = array->buffer[0], *copy = NULL;
    const int64_t bytes = bytes_of(array, &held);
    for (size_t i = 0; i < count; i++) {
        if (buffer[i] != lent) continue;
        if (copy)
            memory->retain(copy);
        else {
            TRY(memory->new(array->devices->engine, held.device, bytes, &copy));
            mth_status status = memory->write(copy, 0, memory->host(lent), bytes);
            if (status) {
                memory->release(copy);
                return status;
            }
        }
        buffer[i] = copy;
        memory->release(lent);
    }
    return NULL;
}

/* ---------------------------------------------------------------- public: reading */
void mth_array_retain(mth_array *array) {
    if (array) atomic_fetch_add(&array->references, 1);
}

void mth_array_free(mth_array *array) {
    if (!array || atomic_fetch_sub(&array->references, 1) != 1) return;
    for (int i = 0; array->buffer && i < (array->apart ? array->count : array->parts); i++)
        if (array->buffer[i]) array->devices->memory->release(array->buffer[i]);
    mth__free(array->buffer);
    mth__free(array->sharding_text);
    mth__devices_release(array->devices);
    mth__free(array);
}

mth_dtype mth_array_get_dtype(const mth_array *array) { return array ? array->dtype : (mth_dtype)0; }
int mth_array_get_rank(const mth_array *array) { return array ? array->shape.rank : 0; }
const int64_t *mth_array_get_shape(const mth_array *array) { return array ? array->shape.dim : NULL; }

static mth_status sharding_text_body(void *context) {
    mth_array *array = context;
    mth__arena *arena = mth__arena_new();
    mth__text written = mth__text_new(arena);
    mth__text_add(&written, "%s", mth__where_text(arena, &array->sharding, array->shape.rank));
    char *text = mth__text_publish(&written), *expected = NULL;
    mth__arena_free(arena);
    /* another thread was first */
    if (!atomic_compare_exchange_strong(&array->sharding_text, &expected, text)) mth__free(text);
    return NULL;
}

const char *mth_array_get_sharding(const mth_array *array) {
    if (!array) return "";
    if (!array->sharding_text) mth_error_free(mth__guard(sharding_text_body, (mth_array *)array));
    const char *text = atomic_load(&array->sharding_text);
    return text ? text : "";
}

size_t mth_array_get_shard_count(const mth_array *array) { return array ? (size_t)array->count : 0; }

mth_shard mth_array_get_shard(const mth_array *array, size_t i) {
    if (i >= mth_array_get_shard_count(array)) return (mth_shard){.device_id = -1};
    const mth__held held = mth__array_held(array, (int)i);
    mth__buffer *buffer = mth__array_buffer(array, (int)i);
    mth_shard shard = {.device_id = held.device};
    memcpy(shard.start, held.start, sizeof shard.start);
    memcpy(shard.size, held.size, sizeof shard.size);
    memcpy(shard.step, held.step, sizeof shard.step);
    shard.data = buffer && array->devices->memory->host ? array->devices->memory->host(buffer) : NULL;
    return shard;
}
