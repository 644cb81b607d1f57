/* Buffers: reference counted; what is released is kept by size class for the next run's exits. Those of middling size
 * lie side by side in spans: the gradients of a transformer are hundreds of buffers of 64 KiB to 4 MiB, and small pages
 * cost a fault for each 4 KiB of them in the first step. Large pages are asked for where buffers cover them, so that
 * the memory that is taken is that of the buffers: the rest of a span is addresses alone. The lock is taken when a
 * buffer is made or dies, never inside a run's tasks. */
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
    for (mth__span *candidate = all->spans; candidate; candidate = candidate->next) {
        if (candidate->used + size > candidate->size) continue;
        char *data = candidate->memory + candidate->used;
        candidate->used += size;
        candidate->buffers++;
        mth__memory_covered(candidate->memory, (size_t)(candidate->used - size), (size_t)candidate->used);
        *span = candidate;
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
    for (mth__span *added = all->spans; added; added = added->next) addresses += added->size;
    pthread_mutex_unlock(&all->lock);
    if (data) return data;
    mth__span *added = mth__calloc(1, sizeof *added);
    if (added) added->size = addresses < SPAN_LEAST ? SPAN_LEAST : addresses < SPAN_MOST ? addresses : SPAN_MOST;
    if (added) added->memory = mth__malloc_bare((size_t)added->size);
    if (!added || !added->memory) { /* there may be less than that */
        mth__free(added);
        return mth__malloc((size_t)size);
    }
    pthread_mutex_lock(&all->lock);
    added->next = all->spans;
    all->spans = added;
    data = take_from_span(all, size, span);
    pthread_mutex_unlock(&all->lock);
    return data;
}

/* A span goes with the last of its buffers; a buffer that dies before gives back its pages. */
static void deallocate(mth__buffers *all, mth__buffer *buffer) {
    mth__span *span = buffer->span;
    if (!span)
        mth__free(buffer->data);
    else {
        mth__memory_uncovered(buffer->data, (size_t)buffer->size);
        pthread_mutex_lock(&all->lock);
        bool empty = --span->buffers == 0;
        if (empty) {
            mth__span **at = &all->spans;
            while (*at != span) at = &(*at)->next;
            *at = span->next;
        }
        pthread_mutex_unlock(&all->lock);
        if (empty) {
            mth__free(span->memory);
            mth__free(span);
        }
    }
    mth__free(buffer);
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

mth_status mth__native_buffer_new(mth__engine *engine, int device, int64_t bytes, mth__buffer **out) {
    const int64_t size = round_up(bytes);
    if (bytes > (int64_t)1 << 61)
        return FAIL(
            MTH_ERROR_MEMORY, F("a buffer of %lld bytes", (long long)bytes), F("split the tensor over more devices"));
    mth__buffer *buffer = take_cached(&engine->buffers, size);
    if (!buffer) {
        buffer = mth__calloc(1, sizeof *buffer);
        if (buffer) buffer->data = allocate(&engine->buffers, size, &buffer->span);
        if (buffer && !buffer->data) { /* what the cache holds may be what is missing */
            mth__buffers_trim(&engine->buffers);
            buffer->data = allocate(&engine->buffers, size, &buffer->span);
        }
        if (!buffer || !buffer->data) {
            mth__free(buffer);
            return FAIL(MTH_ERROR_MEMORY,
                F("no memory for a buffer of %lld bytes of device %d", (long long)bytes, device),
                F("use smaller inputs, or split them over more devices"));
        }
        buffer->size = size;
        buffer->engine = engine;
        pthread_mutex_lock(&engine->buffers.lock);
        engine->buffers.live += size;
        pthread_mutex_unlock(&engine->buffers.lock);
    }
    buffer->device = device;
    buffer->bytes = bytes;
    buffer->next = NULL;
    atomic_init(&buffer->references, 1);
    atomic_fetch_add(&engine->references, 1);
    *out = buffer;
    return NULL;
}

mth_status mth__native_buffer_borrow(mth__engine *engine, int device, const void *data, int64_t bytes,
    void (*release)(void *), void *context, mth__buffer **out) {
    mth__buffer *buffer = mth__calloc(1, sizeof *buffer);
    if (!buffer)
        return FAIL(
            MTH_ERROR_MEMORY, F("no memory for a buffer"), F("free arrays or models that are no longer needed"));
    *buffer = (mth__buffer){.engine = engine,
        .device = device,
        .size = MTH__BORROWED,
        .bytes = bytes,
        .data = (void *)data,
        .release = release,
        .context = context};
    atomic_init(&buffer->references, 1);
    atomic_fetch_add(&engine->references, 1);
    *out = buffer;
    return NULL;
}

void mth__native_buffer_retain(mth__buffer *buffer) {
    atomic_fetch_add_explicit(&buffer->references, 1, memory_order_relaxed);
}

void mth__native_buffer_release(mth__buffer *buffer) {
    if (!buffer || atomic_fetch_sub(&buffer->references, 1) > 1) return;
    mth__engine *engine = buffer->engine;
    if (buffer->size == MTH__BORROWED) {
        buffer->release(buffer->context);
        mth__free(buffer);
        mth__engine_native.close(engine);
        return;
    }
    mth__buffers *all = &engine->buffers;
    const int64_t size = buffer->size;
    pthread_mutex_lock(&all->lock);
    all->live -= size;
    /* a step's exits come back as the next step's: keep as much as is in use */
    bool keep = all->cached + size <= (all->live > CACHED_AT_LEAST ? all->live : CACHED_AT_LEAST);
    if (keep) {
        buffer->next = all->free[size_class(size)];
        all->free[size_class(size)] = buffer;
        all->cached += size;
    }
    pthread_mutex_unlock(&all->lock);
    if (!keep) deallocate(all, buffer);
    mth__engine_native.close(engine);
}

void *mth__native_buffer_host(mth__buffer *buffer) { return buffer->data; }
mth_status mth__native_buffer_write(mth__buffer *buffer, int64_t offset, const void *data, int64_t bytes) {
    if (bytes) memcpy((char *)buffer->data + offset, data, (size_t)bytes);
    return NULL;
}
mth_status mth__native_buffer_read(mth__buffer *buffer, int64_t offset, void *data, int64_t bytes) {
    if (bytes) memcpy(data, (const char *)buffer->data + offset, (size_t)bytes);
    return NULL;
}

void mth__buffers_trim(mth__buffers *all) {
    mth__buffer *dead = NULL;
    pthread_mutex_lock(&all->lock);
    for (int size_class = 0; size_class < MTH__SIZE_CLASSES; size_class++)
        while (all->free[size_class]) {
            mth__buffer *buffer = all->free[size_class];
            all->free[size_class] = buffer->next;
            buffer->next = dead;
            dead = buffer;
        }
    all->cached = 0;
    pthread_mutex_unlock(&all->lock);
    while (dead) {
        mth__buffer *next = dead->next;
        deallocate(all, dead);
        dead = next;
    }
}
