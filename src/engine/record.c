#include "engine/record.h"
#include "base/arena.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

enum { CACHE_LINE = 64 };

/* `written` and `taken` count events and only grow; event i lies at i mod room. */
typedef struct {
    _Alignas(CACHE_LINE) atomic_size_t written; /* by its thread */
    atomic_llong dropped;
    mth__recorded *event;
    _Alignas(CACHE_LINE) atomic_size_t taken; /* by the reader */
} ring;

struct mth__recorder {
    ring *ring;
    int rings;
    size_t room; /* a power of two */
    unsigned long long serial;
    atomic_int used; /* rings that threads have claimed, or tried to */
    atomic_llong dropped;
};

mth_status mth__recorder_new(int threads, size_t events, mth__recorder **out) {
    static atomic_ullong serials;
    size_t room = 1;
    while (room < events && room < (size_t)1 << 30) room *= 2;
    mth__recorder *recorder = mth__calloc(1, sizeof *recorder);
    ring *rings = mth__calloc_aligned((size_t)threads, sizeof *rings);
    mth__recorded *event = mth__calloc((size_t)threads * room, sizeof *event);
    if (!recorder || !rings || !event) {
        mth__free(recorder);
        mth__free(rings);
        mth__free(event);
        return mth__lacks_memory("a recorder", (int64_t)((size_t)threads * room * sizeof(mth__recorded)));
    }
    for (int i = 0; i < threads; i++) rings[i].event = event + (size_t)i * room;
    recorder->ring = rings;
    recorder->rings = threads;
    recorder->room = room;
    recorder->serial = atomic_fetch_add(&serials, 1) + 1;
    *out = recorder;
    return NULL;
}

void mth__recorder_free(mth__recorder *recorder) {
    if (!recorder) return;
    if (recorder->rings) mth__free(recorder->ring[0].event);
    mth__free(recorder->ring);
    mth__free(recorder);
}

/* The calling thread's ring; NULL: there are not enough. A thread keeps the ring of the recorder that it used last:
 * with two recorders at once it would claim a new one each time. */
static ring *own_ring(mth__recorder *recorder) {
    static _Thread_local struct {
        unsigned long long serial;
        ring *ring;
    } last;
    if (last.serial != recorder->serial) {
        const int claimed = atomic_fetch_add_explicit(&recorder->used, 1, memory_order_relaxed);
        last.serial = recorder->serial;
        last.ring = claimed < recorder->rings ? &recorder->ring[claimed] : NULL;
    }
    return last.ring;
}

void mth__record(mth__recorder *recorder, const mth__recorded *event) {
    ring *own = own_ring(recorder);
    if (!own) {
        atomic_fetch_add_explicit(&recorder->dropped, 1, memory_order_relaxed);
        return;
    }
    const size_t written = atomic_load_explicit(&own->written, memory_order_relaxed);
    if (written - atomic_load_explicit(&own->taken, memory_order_acquire) == recorder->room) {
        atomic_fetch_add_explicit(&own->dropped, 1, memory_order_relaxed);
        return;
    }
    own->event[written & (recorder->room - 1)] = *event;
    atomic_store_explicit(&own->written, written + 1, memory_order_release);
}

int64_t mth__record_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

size_t mth__recorder_take(mth__recorder *recorder, mth__recorded *out, size_t most) {
    size_t n = 0;
    for (int i = 0; i < recorder->rings; i++) {
        ring *from = &recorder->ring[i];
        const size_t written = atomic_load_explicit(&from->written, memory_order_acquire);
        size_t taken = atomic_load_explicit(&from->taken, memory_order_relaxed);
        for (; taken < written && n < most; taken++) out[n++] = from->event[taken & (recorder->room - 1)];
        atomic_store_explicit(&from->taken, taken, memory_order_release);
    }
    return n;
}

int64_t mth__recorder_dropped(const mth__recorder *recorder) {
    int64_t dropped = atomic_load_explicit(&recorder->dropped, memory_order_relaxed);
    for (int i = 0; i < recorder->rings; i++)
        dropped += atomic_load_explicit(&recorder->ring[i].dropped, memory_order_relaxed);
    return dropped;
}
