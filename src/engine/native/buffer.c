/* Buffers: reference counted; what is released is kept by size class for the next run's exits. Those of middling size
 * lie side by side in
 * spans: the gradients of a transformer are hundreds of buffers of 64 KiB to 4 MiB, and small pages cost a fault for
 * each 4 KiB of them in the first step. Large pages are asked for where buffers cover them, so that the memory that is
 * taken is that of the buffers: the rest of a span is addresses alone. The lock is taken when a buffer is made or dies,
 *   never inside a run's tasks. */
#include "engine/native/native.h"
#include <string.h>

enum {
    CACHED_AT_LEAST = 256 << 20,
    SPAN_LEAST = 8 << 20,
    SPAN_MOST = 64 << 20,
    SHARE_FROM = 64 << 10,
    SHARE_BELOW = 4 << 20
};

static int64_t round_up(int64_t bytes) {
    return bytes <= 0 ? MTH__ALIGNMENT : mth__ceil_div(bytes, MTH__ALIGNMENT) * MTH__ALIGNMENT;
}

/* Eight classes an octave: what serves a smaller buffer of its class has at most an eighth unused. */
static int size_class(int64_t size) {
    if (size < 512) return 9 * 8;
    int octave = 63 - __builtin_clzll((unsigned long long)size);
    int64_t step = (int64_t)1 << (octave - 3);
    /* 8 more: the next octave's first */
    return octave * 8 + (int)mth__ceil_div(size - ((int64_t)1 << octave), step);
}

/* ---------------------------------------------------------------- spans */
static void *take_from_span(mth__buffers *all, int64_t size, mth__span **span) {
    for (mth__span *a = all->spans; a; a = a->next) {
        if (a->used + size > a->size) continue;
        char *data = a->memory + a->used;
        a->used += size;
        a->buffers++;
        mth__memory_covered(a->memory, (size_t)(a->used - size), (size_t)a->used);
        *span = a;
        return data;
    }
    return NULL;
}

static void *allocate(mth__buffers *all, int64_t size, mth__span **span) {
    *span = NULL;
    if (size < SHARE_FROM || size >= SHARE_BELOW) return mth__malloc((size_t)size);
    pthread_mutex_lock(&all->lock);
    void *data = take_from_span(all, size, span);
    int64_t addresses = 0; /* as many again as there are */
    for (mth__span *a = all->spans; a; a = a->next) addresses += a->size;
    pthread_mutex_unlock(&all->lock);
    if (data) return data;
    mth__span *a = mth__calloc(1, sizeof *a);
    if (a) a->size = addresses < SPAN_LEAST ? SPAN_LEAST : addresses < SPAN_MOST ? addresses : SPAN_MOST;
    if (a) a->memory = mth__malloc_bare((size_t)a->size);
    if (!a || !a->memory) { /* there may be less than that */
        mth__free(a);
        return mth__malloc((size_t)size);
    }
    pthread_mutex_lock(&all->lock);
    a->next = all->spans;
    all->spans = a;
    data = take_from_span(all, size, span);
    pthread_mutex_unlock(&all->lock);
    return data;
}

/* A span goes with the last of its buffers; a buffer that dies before gives back its pages. */
static void deallocate(mth__buffers *all, mth__buffer *b) {
    mth__span *a = b->span;
    if (!a)
        mth__free(b->data);
    else {
        mth__memory_uncovered(b->data, (size_t)b->size);
        pthread_mutex_lock(&all->lock);
        bool empty = --a->buffers == 0;
        if (empty) {
            mth__span **at = &all->spans;
            while (*at != a) at = &(*at)->next;
            *at = a->next;
        }
        pthread_mutex_unlock(&all->lock);
        if (empty) {
            mth__free(a->memory);
            mth__free(a);
        }
    }
    mth__free(b);
}

/* ---------------------------------------------------------------- buffers */
/* The smallest that serves, as a rule one of the very size: a step's buffers are those of the step before. */
static mth__buffer *take_cached(mth__buffers *all, int64_t size) {
    pthread_mutex_lock(&all->lock);
    mth__buffer **best = NULL;
    for (mth__buffer **at = &all->free[size_class(size)]; *at && !(best && (*best)->size == size); at = &(*at)->next)
        if ((*at)->size >= size && (!best || (*at)->size < (*best)->size)) best = at;
    mth__buffer *found = best ? *best : NULL;
    if (found) {
        *best = found->next;
        all->cached -= found->size;
        all->live += found->size;
    }
    pthread_mutex_unlock(&all->lock);
    return found;
}

mth_status mth__native_buffer_new(mth__engine *e, int device, int64_t bytes, mth__buffer **out) {
    const int64_t size = round_up(bytes);
    if (bytes > (int64_t)1 << 61)
        return FAIL(
            MTH_ERROR_MEMORY, F("a buffer of %lld bytes", (long long)bytes), F("split the tensor over more devices"));
    mth__buffer *b = take_cached(&e->buffers, size);
    if (!b) {
        b = mth__calloc(1, sizeof *b);
        if (b) b->data = allocate(&e->buffers, size, &b->span);
        if (b && !b->data) { /* what the cache holds may be what is missing */
            mth__buffers_trim(&e->buffers);
            b->data = allocate(&e->buffers, size, &b->span);
        }
        if (!b || !b->data) {
            mth__free(b);
            return FAIL(MTH_ERROR_MEMORY,
                F("no memory for a buffer of %lld bytes of device %d", (long long)bytes, device),
                F("use smaller inputs, or split them over more devices"));
        }
        b->size = size;
        b->engine = e;
        pthread_mutex_lock(&e->buffers.lock);
        e->buffers.live += size;
        pthread_mutex_unlock(&e->buffers.lock);
    }
    b->device = device;
    b->bytes = bytes;
    b->next = NULL;
    atomic_init(&b->references, 1);
    atomic_fetch_add(&e->references, 1);
    *out = b;
    return NULL;
}

mth_status mth__native_buffer_borrow(mth__engine *e, int device, const void *data, int64_t bytes,
    void (*release)(void *), void *context, mth__buffer **out) {
    mth__buffer *b = mth__calloc(1, sizeof *b);
    if (!b)
        return FAIL(
            MTH_ERROR_MEMORY, F("no memory for a buffer"), F("free arrays or models that are no longer needed"));
    *b = (mth__buffer){.engine = e,
        .device = device,
        .size = MTH__BORROWED,
        .bytes = bytes,
        .data = (void *)data,
        .release = release,
        .context = context};
    atomic_init(&b->references, 1);
    atomic_fetch_add(&e->references, 1);
    *out = b;
    return NULL;
}

void mth__native_buffer_retain(mth__buffer *b) { atomic_fetch_add_explicit(&b->references, 1, memory_order_relaxed); }

void mth__native_buffer_release(mth__buffer *b) {
    if (!b || atomic_fetch_sub(&b->references, 1) > 1) return;
    mth__engine *e = b->engine;
    if (b->size == MTH__BORROWED) {
        b->release(b->context);
        mth__free(b);
        mth__engine_native.close(e);
        return;
    }
    mth__buffers *all = &e->buffers;
    const int64_t size = b->size;
    pthread_mutex_lock(&all->lock);
    all->live -= size;
    /* a step's exits come back as the next step's: keep as much as is in use */
    bool keep = all->cached + size <= (all->live > CACHED_AT_LEAST ? all->live : CACHED_AT_LEAST);
    if (keep) {
        b->next = all->free[size_class(size)];
        all->free[size_class(size)] = b;
        all->cached += size;
    }
    pthread_mutex_unlock(&all->lock);
    if (!keep) deallocate(all, b);
    mth__engine_native.close(e);
}

void *mth__native_buffer_host(mth__buffer *b) { return b->data; }
mth_status mth__native_buffer_write(mth__buffer *b, int64_t offset, const void *data, int64_t bytes) {
    if (bytes) memcpy((char *)b->data + offset, data, (size_t)bytes);
    return NULL;
}
mth_status mth__native_buffer_read(mth__buffer *b, int64_t offset, void *data, int64_t bytes) {
    if (bytes) memcpy(data, (const char *)b->data + offset, (size_t)bytes);
    return NULL;
}

void mth__buffers_trim(mth__buffers *all) {
    mth__buffer *dead = NULL;
    pthread_mutex_lock(&all->lock);
    for (int c = 0; c < MTH__SIZE_CLASSES; c++)
        while (all->free[c]) {
            mth__buffer *b = all->free[c];
            all->free[c] = b->next;
            b->next = dead;
            dead = b;
        }
    all->cached = 0;
    pthread_mutex_unlock(&all->lock);
    while (dead) {
        mth__buffer *next = dead->next;
        deallocate(all, dead);
        dead = next;
    }
}
