/* Buffers: reference counted; what is released is kept by size class for the next run's exits. Those of middling size share large pages: the
 * gradients of a transformer are hundreds of buffers of 64 KiB to 4 MiB, and small pages cost a fault for each 4 KiB of them in the first
 * step. The lock is taken when a buffer is made or dies, never inside a run's tasks. */
#include "engine/native/native.h"
#include <string.h>

enum { CACHED_AT_LEAST = 256 << 20, PAGES = 8 << 20, SHARE_FROM = 64 << 10, SHARE_BELOW = 4 << 20 };

/* Eight classes an octave: at most an eighth of a buffer is unused. Sets *bytes to the size of the class. */
static int size_class(int64_t *bytes) {
    int64_t size = *bytes < 512 ? 512 : *bytes;
    int octave = 63 - __builtin_clzll((unsigned long long)size);
    int64_t step = (int64_t)1 << (octave - 3);
    int64_t eighth = (size - ((int64_t)1 << octave) + step - 1) / step; /* 8: the next octave's first */
    *bytes = ((int64_t)1 << octave) + eighth * step;
    return octave * 8 + (int)eighth;
}

static void close_pages(mth__pages *p) {
    mth__free(p->memory);
    mth__free(p);
}

static void *take_room(mth__buffers *all, int64_t size, mth__pages **pages) {
    mth__pages *p = all->open;
    if (!p || p->used + size > PAGES) return NULL;
    *pages = p;
    p->used += size;
    p->buffers++;
    return p->memory + p->used - size;
}

static void *allocate(mth__buffers *all, int64_t size, mth__pages **pages) {
    *pages = NULL;
    if (size < SHARE_FROM || size >= SHARE_BELOW) return mth__malloc((size_t)size);
    pthread_mutex_lock(&all->lock);
    void *data = take_room(all, size, pages);
    pthread_mutex_unlock(&all->lock);
    if (data) return data;
    mth__pages *p = mth__calloc(1, sizeof *p);
    char *memory = mth__malloc(PAGES);
    if (!p || !memory) { /* there may be less than that */
        mth__free(p);
        mth__free(memory);
        return mth__malloc((size_t)size);
    }
    p->memory = memory;
    pthread_mutex_lock(&all->lock);
    mth__pages *before = all->open; /* goes with the last of its buffers */
    bool empty = before && before->buffers == 0;
    all->open = p;
    data = take_room(all, size, pages);
    pthread_mutex_unlock(&all->lock);
    if (empty) close_pages(before);
    return data;
}

static void deallocate(mth__buffers *all, mth__buffer *b) {
    mth__pages *p = b->pages;
    if (!p) mth__free(b->data);
    else {
        pthread_mutex_lock(&all->lock);
        bool empty = --p->buffers == 0, open = p == all->open;
        if (empty) p->used = 0;
        pthread_mutex_unlock(&all->lock);
        if (empty && !open) close_pages(p);
    }
    mth__free(b);
}

static mth__buffer *take_cached(mth__buffers *b, int class, int64_t size) {
    pthread_mutex_lock(&b->lock);
    mth__buffer *found = b->free[class];
    if (found) {
        b->free[class] = found->next;
        b->cached -= size;
        b->live += size;
    }
    pthread_mutex_unlock(&b->lock);
    return found;
}

mth_status mth__native_buffer_new(mth__engine *e, int device, int64_t bytes, mth__buffer **out) {
    int64_t size = bytes;
    if (bytes > (int64_t)1 << 61)
        return FAIL(MTH_ERROR_MEMORY, F("a buffer of %lld bytes", (long long)bytes), F("split the tensor over more devices"));
    int class = size_class(&size);
    mth__buffer *b = take_cached(&e->buffers, class, size);
    if (!b) {
        b = mth__calloc(1, sizeof *b);
        if (b) b->data = allocate(&e->buffers, size, &b->pages);
        if (b && !b->data) { /* what the cache holds may be what is missing */
            mth__buffers_trim(&e->buffers);
            b->data = allocate(&e->buffers, size, &b->pages);
        }
        if (!b || !b->data) {
            mth__free(b);
            return FAIL(MTH_ERROR_MEMORY, F("no memory for a buffer of %lld bytes of device %d", (long long)bytes, device),
                        F("use smaller inputs, or split them over more devices"));
        }
        b->size_class = class;
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

mth_status mth__native_buffer_borrow(mth__engine *e, int device, const void *data, int64_t bytes, void (*release)(void *), void *context, mth__buffer **out) {
    mth__buffer *b = mth__calloc(1, sizeof *b);
    if (!b) return FAIL(MTH_ERROR_MEMORY, F("no memory for a buffer"), F("free arrays or models that are no longer needed"));
    *b = (mth__buffer){.engine = e, .device = device, .size_class = MTH__BORROWED, .bytes = bytes, .data = (void *)data, .release = release, .context = context};
    atomic_init(&b->references, 1);
    atomic_fetch_add(&e->references, 1);
    *out = b;
    return NULL;
}

void mth__native_buffer_retain(mth__buffer *b) { atomic_fetch_add_explicit(&b->references, 1, memory_order_relaxed); }

void mth__native_buffer_release(mth__buffer *b) {
    if (!b || atomic_fetch_sub(&b->references, 1) > 1) return;
    mth__engine *e = b->engine;
    if (b->size_class == MTH__BORROWED) {
        b->release(b->context);
        mth__free(b);
        mth__engine_native.close(e);
        return;
    }
    mth__buffers *all = &e->buffers;
    int64_t size = b->bytes;
    size_class(&size);
    pthread_mutex_lock(&all->lock);
    all->live -= size;
    /* a step's exits come back as the next step's: keep as much as is in use */
    bool keep = all->cached + size <= (all->live > CACHED_AT_LEAST ? all->live : CACHED_AT_LEAST);
    if (keep) {
        b->next = all->free[b->size_class];
        all->free[b->size_class] = b;
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
    pthread_mutex_lock(&all->lock);
    mth__pages *empty = all->open && all->open->buffers == 0 ? all->open : NULL;
    if (empty) all->open = NULL;
    pthread_mutex_unlock(&all->lock);
    if (empty) close_pages(empty);
}
