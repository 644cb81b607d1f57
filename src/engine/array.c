#include "engine/fill.h"
#include "base/hash.h"
#include "base/names.h"
#include "base/philox.h"
#include "engine/native/kernel.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

mth_backend *mth__backend_retain(mth_backend *b) {
    atomic_fetch_add(&b->references, 1);
    return b;
}

/* The rank that stands for all with the same part: its coordinates are 0 on the axes that split nothing. */
static int leader_of(const mth__placement *on, uint8_t axes, int rank) {
    int coordinate[MTH__AXES], leader = 0;
    mth__placement_coordinates(on, rank, coordinate);
    for (int a = 0; a < on->naxes; a++) leader = leader * on->dim[a] + (axes >> a & 1 ? coordinate[a] : 0);
    return leader;
}

static mth_status no_memory(int64_t bytes) {
    return FAIL(MTH_ERROR_MEMORY, F("no memory for %lld bytes of an array", (long long)bytes),
        F("shard the array over more devices, or free others first"));
}

/* The array without its buffers. */
static mth_status array_shell(
    mth_backend *backend, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding, mth_array **out) {
    TRY(mth__shape_check(shape, dtype));
    mth_array *a = mth__calloc(1, sizeof *a);
    if (!a) return no_memory(sizeof *a);
    a->references = 1;
    a->backend = mth__backend_retain(backend);
    a->dtype = dtype;
    a->shape = shape;
    a->sharding = *sharding;
    mth__sharding_canonical(&a->sharding, shape);
    a->count = sharding->on->count;
    a->held = mth__calloc((size_t)a->count, sizeof *a->held);
    if (!a->held) {
        mth_array_free(a);
        return no_memory((int64_t)sizeof(mth__held) * sharding->on->count);
    }
    uint8_t axes = mth__sharding_axes(&a->sharding, shape.rank);
    for (int r = 0; r < a->count; r++) {
        mth__held *h = &a->held[r];
        h->device = sharding->on->device[r];
        h->leader = backend->vtable->buffer_host ? leader_of(sharding->on, axes, r) : r;
        mth__shape local = mth__local_shape(shape, &a->sharding, r, h->start, h->step);
        memcpy(h->size, local.dim, sizeof h->size);
    }
    *out = a;
    return NULL;
}

mth_status mth__array_new(mth_backend *backend, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    bool with_data, mth_array **out) {
    mth_array *a;
    TRY(array_shell(backend, dtype, shape, sharding, &a));
    for (int r = 0; with_data && r < a->count; r++) {
        mth__held *h = &a->held[r];
        if (h->leader != r) {
            h->buffer = a->held[h->leader].buffer;
            backend->vtable->buffer_retain(h->buffer);
            continue;
        }
        mth_status s = backend->vtable->buffer_new(
            backend->engine, h->device, mth__held_elements(a, h) * (int64_t)mth_dtype_size(dtype), &h->buffer);
        if (s) {
            mth_array_free(a);
            return s;
        }
    }
    *out = a;
    return NULL;
}

mth_status mth__array_wrap(mth_backend *backend, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    mth__buffer *const *buffer, mth_array **out) {
    mth_array *a;
    TRY(array_shell(backend, dtype, shape, sharding, &a));
    for (int r = 0; r < a->count; r++) {
        a->held[r].leader = r; /* a run's results are one buffer a device */
        a->held[r].buffer = buffer[a->held[r].device];
    }
    *out = a;
    return NULL;
}

mth_status mth__array_fill(mth_array *a, mth__fill *fill, void *context) {
    const mth__engine_vtable *v = a->backend->vtable;
    for (int r = 0; r < a->count; r++) {
        mth__held *h = &a->held[r];
        int64_t bytes = mth__held_elements(a, h) * (int64_t)mth_dtype_size(a->dtype);
        if (h->leader != r || !bytes) continue;
        TRY(mth__stop_check());
        void *host = v->buffer_host ? v->buffer_fill(h->buffer) : mth__malloc((size_t)bytes);
        if (!host) return no_memory(bytes);
        mth_status s = fill(context, a, h, host);
        if (!v->buffer_host) {
            if (!s) s = v->buffer_write(h->buffer, 0, host, bytes);
            mth__free(host);
        }
        TRY(s);
    }
    return NULL;
}

/* ---------------------------------------------------------------- contents */
static mth_status fill_from_whole(void *whole, const mth_array *a, const mth__held *h, void *data) {
    int64_t local[MTH__RANK], global[MTH__RANK], offset;
    mth__held_strides(a, h, local, global, &offset);
    mth__box(MTH__BOX_COPY, a->dtype, a->shape.rank, h->size, data, local,
        (const char *)whole + offset * (int64_t)mth_dtype_size(a->dtype), global);
    return NULL;
}

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
    const mth__engine_vtable *v = a->backend->vtable;
    for (int r = 0; r < a->count; r++) {
        const mth__held *h = &a->held[r];
        int64_t bytes = mth__held_elements(a, h) * (int64_t)mth_dtype_size(a->dtype), local[MTH__RANK],
                global[MTH__RANK], offset;
        if (leader_of(a->sharding.on, mth__sharding_axes(&a->sharding, a->shape.rank), r) != r || !bytes) continue;
        void *host = v->buffer_host ? v->buffer_host(h->buffer) : mth__malloc((size_t)bytes);
        if (!host) return no_memory(bytes);
        mth_status s = v->buffer_host ? NULL : v->buffer_read(h->buffer, 0, host, bytes);
        if (!s) {
            mth__held_strides(a, h, local, global, &offset);
            mth__box(MTH__BOX_COPY, a->dtype, a->shape.rank, h->size,
                (char *)data + offset * (int64_t)mth_dtype_size(a->dtype), global, host, local);
        }
        if (!v->buffer_host) mth__free(host);
        TRY(s);
    }
    return NULL;
}

static bool is_whole(const mth_array *a, const mth__held *h) {
    return memcmp(h->size, a->shape.dim, (size_t)a->shape.rank * sizeof(int64_t)) == 0;
}

const void *mth_array_get_whole(const mth_array *a) {
    if (!a || !a->backend->vtable->buffer_host || !a->count || !a->held[0].buffer || !is_whole(a, &a->held[0]))
        return NULL;
    return a->backend->vtable->buffer_host(a->held[0].buffer);
}

/* Where one buffer on the host holds all, a device that needs all shares it. */
static mth_status share_whole(mth_array *a, const mth__sharding *sharding, mth_array **out) {
    mth_array *b;
    TRY(array_shell(a->backend, a->dtype, a->shape, sharding, &b));
    b->lent = a->lent;
    for (int r = 0; r < b->count; r++) {
        b->held[r].buffer = a->held[0].buffer;
        a->backend->vtable->buffer_retain(b->held[r].buffer);
    }
    *out = b;
    return NULL;
}

mth_status mth__array_as(
    mth_array *a, mth_backend *on, mth_dtype dtype, const mth__sharding *sharding, mth_array **out) {
    mth__sharding to = *sharding;
    mth__sharding_canonical(&to, a->shape);
    TRY(need_data(a));
    const bool same = a->backend == on && a->dtype == dtype;
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
        s = gathered ? mth_array_gather(a, gathered) : no_memory(bytes);
    }
    if (!s && a->dtype != dtype) {
        int64_t bytes = n * (int64_t)mth_dtype_size(dtype);
        cast = mth__malloc((size_t)bytes);
        if (!cast) s = no_memory(bytes);
        for (int64_t i = 0; cast && i < n; i++)
            mth__element_store(dtype, cast, i, mth__element_load(a->dtype, whole, i));
    }
    if (!s) s = mth__array_fill(b, fill_from_whole, cast ? cast : whole);
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
    const mth__engine_vtable *v = a->backend->vtable;
    mth__buffer *lent = a->held[0].buffer, *copy = NULL;
    int64_t bytes = mth__held_elements(a, &a->held[0]) * (int64_t)mth_dtype_size(a->dtype);
    for (size_t i = 0; i < count; i++) {
        if (buffer[i] != lent) continue;
        if (copy)
            v->buffer_retain(copy);
        else {
            TRY(v->buffer_new(a->backend->engine, a->held[0].device, bytes, &copy));
            mth_status s = v->buffer_write(copy, 0, v->buffer_host(lent), bytes);
            if (s) {
                v->buffer_release(copy);
                return s;
            }
        }
        buffer[i] = copy;
        v->buffer_release(lent);
    }
    return NULL;
}

/* ---------------------------------------------------------------- public: making */
typedef struct {
    mth_backend *backend;
    mth_dtype dtype;
    int rank;
    const int64_t *dim;
    const mth_arg *spec;
    mth_array **out;
} making;

static mth_status check_rank(int rank) {
    if (rank >= 0 && rank <= MTH__RANK) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("an array of %d dimensions", rank), F("use 0 to %d dimensions", MTH__RANK));
}

static mth_status read_shape(const making *m, mth__shape *shape, mth__sharding *sharding) {
    *shape = (mth__shape){.rank = m->rank};
    TRY(mth__given(m->backend, "the backend"));
    TRY(check_rank(m->rank));
    if (m->rank) TRY(mth__given(m->dim, "the shape"));
    if (m->rank) memcpy(shape->dim, m->dim, (size_t)m->rank * sizeof(int64_t));
    *sharding = (mth__sharding){.on = mth__place_whole(m->backend->mesh)};
    return m->spec && m->spec->kind != MTH_ARG_NONE ? mth__spec_read(*m->spec, sharding->on, m->rank, "array", sharding)
                                                    : NULL;
}

static mth_status make_body(void *context) {
    making *m = context;
    mth__shape shape;
    mth__sharding sharding;
    TRY(read_shape(m, &shape, &sharding));
    return mth__array_new(m->backend, m->dtype, shape, &sharding, true, m->out);
}

static mth_status array_make(mth_backend *b, mth_dtype dtype, int rank, const int64_t *dim, const mth_arg *spec,
    mth__fill *fill, void *context, mth_array **out) {
    TRY(mth__result_given(out));
    mth_array *a = NULL;
    making m = {b, dtype, rank, dim, spec, &a};
    TRY(mth__guard(make_body, &m));
    mth_status s = mth__array_fill(a, fill, context);
    if (s) {
        mth_array_free(a);
        return s;
    }
    *out = a;
    return NULL;
}

/* Data is given unless there are no elements, and truth values are 0 or 1. What is wrong with the shape is found later.
 */
static mth_status check_data(mth_dtype dtype, int rank, const int64_t *dim, const void *data) {
    mth__shape shape = {.rank = rank};
    TRY(check_rank(rank));
    if (rank && !dim) return NULL;
    for (int d = 0; d < rank; d++) {
        if (dim[d] == 0) return NULL;
        shape.dim[d] = dim[d];
    }
    TRY(mth__given(data, "the data"));
    if (dtype != MTH_BOOL) return NULL;
    TRY(mth__shape_check(shape, dtype));
    for (int64_t i = 0; i < mth__shape_size(shape); i++)
        if (((const uint8_t *)data)[i] > 1)
            return FAIL(MTH_ERROR_VALUE,
                F("element %lld of the bool data is %d", (long long)i, ((const uint8_t *)data)[i]),
                F("give bytes of 0 and 1"));
    return NULL;
}

mth_status mth_array_from_data(mth_backend *b, mth_dtype dtype, int rank, const int64_t *shape, const void *data,
    const mth_arg *spec, mth_array **out) {
    TRY(check_data(dtype, rank, shape, data));
    return array_make(b, dtype, rank, shape, spec, fill_from_whole, (void *)data, out);
}

static void keep(void *nothing) { (void)nothing; }

typedef struct {
    making making;
    const void *data;
    void (*release)(void *);
    void *context;
} borrowing;

/* One buffer stands for all devices: they share the host's memory. */
static mth_status borrow_body(void *context) {
    borrowing *w = context;
    making *m = &w->making;
    mth__shape shape;
    mth__sharding sharding;
    TRY(read_shape(m, &shape, &sharding));
    mth_array *a;
    TRY(array_shell(m->backend, m->dtype, shape, &sharding, &a));
    const mth__engine_vtable *v = m->backend->vtable;
    mth_status s = v->buffer_borrow(m->backend->engine, a->held[0].device, w->data,
        mth__held_elements(a, &a->held[0]) * (int64_t)mth_dtype_size(a->dtype), w->release ? w->release : keep,
        w->context, &a->held[0].buffer);
    if (s) {
        mth_array_free(a);
        return s;
    }
    a->lent = true;
    for (int r = 1; r < a->count; r++) {
        a->held[r].buffer = a->held[0].buffer;
        v->buffer_retain(a->held[0].buffer);
    }
    *m->out = a;
    return NULL;
}

mth_status mth_array_borrow(mth_backend *b, mth_dtype dtype, int rank, const int64_t *shape, const void *data,
    void (*release)(void *), void *context, mth_array **out) {
    TRY(mth__given(b, "the backend"));
    TRY(mth__result_given(out));
    const bool can =
        b->vtable->buffer_host && b->vtable->buffer_borrow && data && (uintptr_t)data % MTH__ALIGNMENT == 0;
    borrowing w = {{b, dtype, rank, shape, NULL, out}, data, release, context};
    if (can) {
        TRY(check_data(dtype, rank, shape, data));
        return mth__guard(borrow_body, &w);
    }
    TRY(mth_array_from_data(b, dtype, rank, shape, data, NULL, out));
    if (release) release(context);
    return NULL;
}

mth_status mth_array_full(mth_backend *b, mth_dtype dtype, double value, int rank, const int64_t *shape,
    const mth_arg *spec, mth_array **out) {
    const double limit = dtype == MTH_INT32 ? 0x1p31 : 0x1p63;
    if (dtype == MTH_BOOL && value != 0 && value != 1)
        return FAIL(MTH_ERROR_VALUE, F("%g is no bool", value), F("give 0 or 1"));
    if ((dtype == MTH_INT32 || dtype == MTH_INT64) && isfinite(value) && value != trunc(value))
        return FAIL(MTH_ERROR_VALUE, F("%g is not a whole number, as %s needs it", value, mth_dtype_name(dtype)),
            F("round it"));
    if ((dtype == MTH_INT32 || dtype == MTH_INT64) && !(value >= -limit && value < limit))
        return FAIL(MTH_ERROR_VALUE, F("%g does not fit in %s", value, mth_dtype_name(dtype)),
            F("give a value inside [%g, %g)", -limit, limit));
    return array_make(b, dtype, rank, shape, spec, mth__fill_constant, &value, out);
}

mth_status mth_array_randn(
    mth_backend *b, int rank, const int64_t *shape, uint64_t seed, const mth_arg *spec, mth_array **out) {
    mth__random f = {seed, mth__philox_stream("randn"), MTH__INIT_NORMAL, 1, 0, 0};
    return array_make(b, MTH_FLOAT32, rank, shape, spec, mth__fill_random, &f, out);
}

mth_status mth_array_randint(mth_backend *b, int64_t low, int64_t high, int rank, const int64_t *shape, uint64_t seed,
    const mth_arg *spec, mth_array **out) {
    if (low >= high || low < INT32_MIN || high > (int64_t)INT32_MAX + 1)
        return FAIL(MTH_ERROR_VALUE,
            F("randint from %lld to %lld: int32 values need low < high inside [-2^31, 2^31]", (long long)low,
                (long long)high),
            F("give low < high, both inside int32"));
    mth__random f = {seed, mth__philox_stream("randint"), 0, 0, low, high - low};
    return array_make(b, MTH_INT32, rank, shape, spec, mth__fill_random, &f, out);
}

/* ---------------------------------------------------------------- public: reading */
void mth_array_retain(mth_array *a) {
    if (a) atomic_fetch_add(&a->references, 1);
}

void mth_array_free(mth_array *a) {
    if (!a || atomic_fetch_sub(&a->references, 1) != 1) return;
    for (int r = 0; a->held && r < a->count; r++)
        if (a->held[r].buffer) a->backend->vtable->buffer_release(a->held[r].buffer);
    mth__free(a->held);
    mth__free(a->sharding_text);
    mth_backend_free(a->backend);
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
    s.data = h->buffer && a->backend->vtable->buffer_host ? a->backend->vtable->buffer_host(h->buffer) : NULL;
    return s;
}

/* ---------------------------------------------------------------- dictionaries */
static char *own_text(const char *text) {
    size_t n = strlen(text) + 1;
    char *copy = mth__malloc(n);
    if (copy) memcpy(copy, text, n);
    return copy;
}

mth_status mth__arrays_new(size_t count, mth_arrays **out) {
    mth_arrays *a = mth__calloc(1, sizeof *a);
    if (!a) return no_memory(sizeof *a);
    for (a->slots = 4; a->slots < 2 * count;) a->slots *= 2;
    a->item = mth__calloc(count ? count : 1, sizeof *a->item);
    a->slot = mth__calloc(a->slots, sizeof *a->slot);
    if (!a->item || !a->slot) {
        int64_t bytes = (int64_t)(count * sizeof *a->item + a->slots * sizeof *a->slot);
        mth_arrays_free(a);
        return no_memory(bytes);
    }
    a->count = count;
    *out = a;
    return NULL;
}

static size_t *slot_of(const mth_arrays *a, const char *name) {
    size_t i = mth__hash_text(name, strlen(name)) & (a->slots - 1);
    while (a->slot[i] && strcmp(a->item[a->slot[i] - 1].name, name)) i = (i + 1) & (a->slots - 1);
    return &a->slot[i];
}

mth_status mth__arrays_set(mth_arrays *a, size_t i, const char *name, mth_array *taken) {
    a->item[i].array = taken;
    a->item[i].name = own_text(name);
    if (!a->item[i].name) return no_memory((int64_t)strlen(name));
    size_t *slot = slot_of(a, name);
    if (!*slot) *slot = i + 1;
    return NULL;
}

mth_status mth__named_check(const mth_named *item, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++) {
        TRY(mth__given(item, what));
        if (!item[i].name)
            return FAIL(MTH_ERROR_TYPE, F("%s: the name of item %zu is NULL", what, i), F("give each a name"));
        if (!item[i].array)
            return FAIL(MTH_ERROR_TYPE, F("%s: the array of '%s' is NULL", what, item[i].name),
                F("give it one, or leave it out"));
    }
    return NULL;
}

typedef struct {
    const mth_named *item;
    size_t count;
} named_list;
static mth_status check_once(void *context) {
    const named_list *list = context;
    mth__arena *arena = mth__arena_new();
    mth__names names = {0};
    mth_status s = NULL;
    for (size_t i = 0; !s && i < list->count; i++)
        if (mth__names_add(arena, &names, list->item[i].name) != (int)i)
            s = FAIL(MTH_ERROR_KEY, F("arrays: '%s' is given twice", list->item[i].name), F("give it once"));
    mth__arena_free(arena);
    return s;
}

mth_status mth_arrays_create(const mth_named *item, size_t count, mth_arrays **out) {
    mth_arrays *a = NULL;
    TRY(mth__result_given(out));
    TRY(mth__named_check(item, count, "arrays"));
    TRY(mth__guard(check_once, &(named_list){item, count}));
    TRY(mth__arrays_new(count, &a));
    for (size_t i = 0; i < count; i++) {
        mth_array_retain(item[i].array);
        mth_status s = mth__arrays_set(a, i, item[i].name, item[i].array);
        if (s) {
            mth_arrays_free(a);
            return s;
        }
    }
    *out = a;
    return NULL;
}

void mth_arrays_free(mth_arrays *a) {
    if (!a) return;
    for (size_t i = 0; i < a->count; i++) {
        mth_array_free(a->item[i].array);
        mth__free((void *)a->item[i].name);
    }
    mth__free(a->item);
    mth__free(a->slot);
    mth__free(a);
}

size_t mth_arrays_get_count(const mth_arrays *a) { return a ? a->count : 0; }
mth_named mth_arrays_get(const mth_arrays *a, size_t i) {
    return i < mth_arrays_get_count(a) ? a->item[i] : (mth_named){NULL, NULL};
}

mth_array *mth_arrays_find(const mth_arrays *a, const char *name) {
    size_t found = a && name ? *slot_of(a, name) : 0;
    return found ? a->item[found - 1].array : NULL;
}
