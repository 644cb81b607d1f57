/* A run is offered by a new `turn`, the word on which idle threads sleep; who was asked for it knows by a number of his
 * own, since a thread may sleep through runs of other devices. */
#include "engine/crew.h"
#include "base/cores.h"
#include "base/fork.h"
#include "base/futex.h"
#include "base/malloc.h"
#include "base/number.h"
#include "engine/engine.h"
#include <signal.h>
#include <stdio.h>

enum {
    CACHE_LINE = 64,
    STACK = 8 << 20,  /* bytes: what the program's first thread has by default, and libraries count on */
    NAME = 16,        /* the most that the system keeps */
    PATIENCE = 20000, /* nanoseconds that a thread looks for a run, and the caller for its end, before they sleep */
};

typedef struct {
    _Alignas(CACHE_LINE) atomic_uint asked; /* runs so far that were for it */
    unsigned begun;                         /* of them, those that it has begun */
    int device;
    mth__crew *crew;
    pthread_t thread;
} crew_member;

struct mth__crew {
    int devices, started;
    bool spins; /* there are cores enough for all threads and the caller */
    void (*begin)(void *context, int device);
    void *begin_context;
    crew_member *member;  /* by device */
    pthread_mutex_t lock; /* of a run */
    mth__fork_watch watch;
    /* of the run at hand */
    void (*work)(void *context, int device);
    void *context;
    _Alignas(CACHE_LINE) atomic_uint turn; /* changes where there is something to do */
    atomic_int sleepers;                   /* threads that sleep on it, or are about to */
    atomic_bool quit;
    _Alignas(CACHE_LINE) atomic_int left; /* that have not returned */
    atomic_uint caller_sleeps;
};

/* ---------------------------------------------------------------- a thread */
static void sleep_until_turn(mth__crew *crew, unsigned seen) {
    if (crew->spins)
        for (const int64_t begin = mth__record_now(); mth__record_now() - begin < PATIENCE; mth__pause())
            if (atomic_load_explicit(&crew->turn, memory_order_relaxed) != seen) return;
    atomic_fetch_add(&crew->sleepers, 1); /* from here on who changes `turn` wakes it */
    if (atomic_load(&crew->turn) == seen) mth__futex_wait(&crew->turn, seen, 0);
    atomic_fetch_sub(&crew->sleepers, 1);
}

static void *thread_main(void *argument) {
    crew_member *own = argument;
    mth__crew *crew = own->crew;
    char name[NAME];
    snprintf(name, sizeof name, "mithril %d", own->device);
    pthread_setname_np(pthread_self(), name);
    if (crew->begin) crew->begin(crew->begin_context, own->device);
    for (;;) {
        const unsigned seen = atomic_load(&crew->turn);
        if (atomic_load(&own->asked) != own->begun) {
            own->begun++;
            crew->work(crew->context, own->device);
            if (atomic_fetch_sub(&crew->left, 1) == 1 && atomic_exchange(&crew->caller_sleeps, 0))
                mth__futex_wake(&crew->caller_sleeps, 1);
        } else if (atomic_load(&crew->quit)) {
            return NULL;
        } else {
            sleep_until_turn(crew, seen);
        }
    }
}

static mth_status start(mth__crew *crew) {
    if (crew->started == crew->devices) return NULL;
    crew->spins = mth__core_count() > crew->devices;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (!error) error = pthread_attr_setstacksize(&attributes, STACK);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; crew->started < crew->devices && !error; crew->started += !error) {
        crew_member *next = &crew->member[crew->started];
        next->begun = atomic_load(&next->asked);
        error = pthread_create(&next->thread, &attributes, thread_main, next);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (!error) return NULL;
    return FAIL(MTH_ERROR_MEMORY,
        F("the thread of device %d of %d can't be made: %s", crew->started, crew->devices, mth__errno_text(error)),
        F("raise the limits of threads and of memory, or use a mesh of %d devices", crew->started));
}

/* ---------------------------------------------------------------- a crew */
/* The child has no threads, and no run. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth__crew *crew = object;
    if (moment != MTH__FORK_CHILD) return;
    pthread_mutex_init(&crew->lock, NULL);
    crew->started = 0;
    atomic_store(&crew->sleepers, 0);
    atomic_store(&crew->caller_sleeps, 0);
}

mth_status mth__crew_new(int devices, void (*begin)(void *context, int device), void *context, mth__crew **out) {
    mth__crew *crew = mth__calloc_aligned(1, sizeof *crew);
    crew_member *members = mth__calloc_aligned((size_t)devices, sizeof *members);
    if (!crew || !members) {
        mth__free(crew);
        mth__free(members);
        return mth__lacks_memory("a thread for each device", 0);
    }
    for (int device = 0; device < devices; device++) {
        members[device].device = device;
        members[device].crew = crew;
    }
    crew->devices = devices;
    crew->begin = begin;
    crew->begin_context = context;
    crew->member = members;
    pthread_mutex_init(&crew->lock, NULL);
    mth__fork_watch_add(&crew->watch, around_fork, crew);
    *out = crew;
    return NULL;
}

static void new_turn(mth__crew *crew) {
    atomic_fetch_add(&crew->turn, 1);
    if (atomic_load(&crew->sleepers)) mth__futex_wake(&crew->turn, INT_MAX);
}

void mth__crew_free(mth__crew *crew) {
    if (!crew) return;
    atomic_store(&crew->quit, true);
    new_turn(crew);
    for (int device = 0; device < crew->started; device++) pthread_join(crew->member[device].thread, NULL);
    mth__fork_watch_remove(&crew->watch);
    pthread_mutex_destroy(&crew->lock);
    mth__free(crew->member);
    mth__free(crew);
}

static void wait_for_all(mth__crew *crew) {
    if (crew->spins)
        for (const int64_t begin = mth__record_now(); mth__record_now() - begin < PATIENCE; mth__pause())
            if (!atomic_load(&crew->left)) return;
    while (atomic_load(&crew->left)) {
        atomic_store(&crew->caller_sleeps, 1);
        if (atomic_load(&crew->left)) mth__futex_wait(&crew->caller_sleeps, 1, 0);
        atomic_store(&crew->caller_sleeps, 0);
    }
}

mth_status mth__crew_run(mth__crew *crew, const int32_t *device, int n, void (*work)(void *context, int device),
    void *context, const mth__stop *stop) {
    TRY(mth__lock_run(&crew->lock, stop));
    mth_status status = start(crew);
    if (!status) {
        crew->work = work;
        crew->context = context;
        atomic_store(&crew->left, n);
        for (int i = 0; i < n; i++) atomic_fetch_add(&crew->member[device[i]].asked, 1);
        new_turn(crew);
        wait_for_all(crew);
    }
    pthread_mutex_unlock(&crew->lock);
    return status;
}
