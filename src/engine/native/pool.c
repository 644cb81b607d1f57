/* The threads. See native.h for what a stream, a task and a ticket are.
 *
 * Progress needs no wake-up: whoever makes work visible looks for work himself before he sleeps. Wake-ups bring the
 * others in. A thread of the pool that finds nothing for a while leaves the run and sleeps; the caller stays. So when
 * the caller is alone, nothing is claimed and no task is ready, none will ever be: the run is stuck, which is reported
 *   instead of hung. */
#include "engine/native/native.h"
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 800 /* of looking at a few streams: some 50 us */, LOOKS = 1 << 14, PAUSES = 8 };

static void futex_wait(atomic_uint *word, unsigned seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void futex_wake(atomic_uint *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}
static void pause_briefly(void) {
    for (int i = 0; i < PAUSES; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

/* There is work for `count` more threads. */
static void wake(mth__engine *e, int count) {
    if (count > 0 && atomic_load(&e->caller_sleeps) && atomic_exchange(&e->caller_sleeps, 0)) {
        futex_wake(&e->caller_sleeps, 1);
        count--;
    }
    if (count > 0 && atomic_load(&e->sleepers) > 0) {
        atomic_fetch_add(&e->event, 1);
        futex_wake(&e->event, count);
    }
}

static void end(mth__engine *e) {
    atomic_store(&e->run.over, 1);
    if (atomic_exchange(&e->caller_sleeps, 0)) futex_wake(&e->caller_sleeps, 1);
}
static void fail(mth__engine *e, int why, int stream, int task) {
    int none = 0;
    if (atomic_compare_exchange_strong(&e->run.failure, &none, why)) {
        e->run.at_stream = stream;
        e->run.at_task = task;
    }
    end(e);
}

static bool ready(const mth__run *run, const mth__stream *s) {
    int at = atomic_load_explicit(&s->done, memory_order_acquire);
    if (at >= s->tasks) return false;
    const mth__task *t = &s->task[at];
    for (int i = 0; i < t->waits; i++)
        if (atomic_load_explicit(&run->stream[t->wait[i].stream].done, memory_order_acquire) < t->wait[i].count)
            return false;
    return !t->awaits || atomic_load_explicit(&t->awaits->arrived, memory_order_acquire) == t->awaits->n;
}

/* ---- tickets */
typedef unsigned long long ticket;
static int ticket_next(ticket t) { return (int)(t & (MTH__CHUNKS_MOST - 1)); }
static int ticket_chunks(ticket t) { return (int)(t >> 20 & (MTH__CHUNKS_MOST - 1)); }
static void ticket_offer(mth__stream *s, int phase, int chunks, int taken) {
    ticket sequence = (atomic_load_explicit(&s->ticket, memory_order_relaxed) >> 40) + 1;
    atomic_store_explicit(&s->finished, 0, memory_order_relaxed);
    atomic_store_explicit(&s->phase, phase, memory_order_relaxed);
    atomic_store(&s->ticket, sequence << 40 | (ticket)chunks << 20 | (ticket)taken);
}
/* The next chunk, or -1. While the ticket's value stands, so do its task and phase: the sequence changes before they
 * do. */
static int ticket_take(mth__stream *s, const mth__task **task, int *phase) {
    ticket t = atomic_load_explicit(&s->ticket, memory_order_acquire);
    for (;;) {
        if (ticket_next(t) >= ticket_chunks(t)) return -1;
        *task = &s->task[atomic_load_explicit(&s->done, memory_order_relaxed)];
        *phase = atomic_load_explicit(&s->phase, memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(&s->ticket, &t, t + 1, memory_order_acq_rel, memory_order_acquire))
            return ticket_next(t);
    }
}

static void run_chunk(const mth__task *t, int phase, int chunk, void *scratch) {
    switch (t->kind) {
    case MTH__TASK_CALL: t->run(t->work.call, phase, chunk, scratch); break;
    case MTH__TASK_MOVES: mth__moves_run(t->work.moves.all, *t->work.moves.dst, chunk); break;
    case MTH__TASK_EXCHANGE: mth__exchange_run(t->work.exchange, chunk); break;
    case MTH__TASK_REDUCTION: {
        const mth__reduction *r = t->work.reduction;
        const int n = r->group->n;
        const void **src = scratch;
        void **dst = (void **)scratch + n;
        int64_t at = (int64_t)chunk * r->piece, count = r->count - at < r->piece ? r->count - at : r->piece;
        size_t bytes = (size_t)(r->start + at) * mth_dtype_size(r->dtype);
        for (int i = 0; i < n; i++) {
            src[i] = (const char *)r->group->memory[MTH__MOVE_OPERAND][i] + bytes;
            dst[i] = (char *)r->group->memory[MTH__MOVE_RESULT][i] + bytes;
        }
        mth__reduce_to_all(r->op, r->dtype, count, n, src, n, dst, r->count * n);
        break;
    }
    case MTH__TASK_SYNC: break;
    }
}

/* Runs chunks of the offered phase, the first of them `chunk`. True: this thread ended the phase's last one. */
static bool take_part(mth__engine *e, mth__stream *s, const mth__task *t, int phase, int chunk, void *scratch) {
    int chunks = t->chunks[phase], mine = 0;
    do {
        run_chunk(t, phase, chunk, scratch);
        mine++;
        if (atomic_load_explicit(&e->run.over, memory_order_relaxed)) return false;
    } while ((chunk = ticket_take(s, &t, &phase)) >= 0);
    return atomic_fetch_add_explicit(&s->finished, mine, memory_order_acq_rel) + mine == chunks;
}

/* Runs task t of a claimed stream from a phase on. False: others still run chunks of it, and the last of them goes on.
 */
static bool run_phases(mth__engine *e, mth__stream *s, const mth__task *t, int phase, void *scratch) {
    for (; phase < t->phases; phase++) {
        int chunks = t->chunks[phase];
        if (atomic_load_explicit(&e->run.over, memory_order_relaxed)) return false;
        if (chunks == 1) run_chunk(t, phase, 0, scratch);
        if (chunks <= 1) continue;
        ticket_offer(s, phase, chunks, 1);
        wake(e, chunks - 1);
        if (!take_part(e, s, t, phase, 0, scratch)) return false;
    }
    return true;
}

/* Who may be waiting now is woken, where somebody sleeps. */
static void wake_ready(mth__engine *e, const int32_t *stream, int n) {
    if (!atomic_load(&e->sleepers) && !atomic_load(&e->caller_sleeps)) return;
    int count = 0;
    for (int i = 0; i < n; i++) count += ready(&e->run, &e->run.stream[stream[i]]);
    wake(e, count);
}

/* Whoever ended the task's last chunk writes; tasks that only wait are left out. */
static void record(const mth__engine *e, const mth__stream *s, const mth__task *t) {
    if (t->kind == MTH__TASK_SYNC) return;
    mth__record(e->run.recorder,
        &(mth__recorded){.device = s->device,
            .stream = (int32_t)((s - e->run.stream) % e->run.each),
            .first = t->instr,
            .last = t->instr,
            .begin = s->begin,
            .end = mth__record_now()});
}

static void complete(mth__engine *e, mth__stream *s, const mth__task *t) {
    if (t->kind == MTH__TASK_CALL && atomic_load_explicit(&s->fault.set, memory_order_acquire)) {
        fail(e, MTH__RUN_FAULT, (int)(s - e->run.stream), (int)(t - s->task));
        return;
    }
    if (e->run.recorder) record(e, s, t);
    bool last = t->signals && atomic_fetch_add(&t->signals->arrived, 1) + 1 == t->signals->n;
    int now = atomic_fetch_add(&s->done, 1) + 1;
    if (last && t->signals->n > 1) wake_ready(e, t->signals->stream, t->signals->n);
    if (t->dependents) wake_ready(e, t->dependent, t->dependents);
    if (now == s->tasks && atomic_fetch_sub(&e->run.left, 1) == 1) end(e);
}

static bool stopped(mth__engine *e) {
    if (mth__stop_asked(e->run.stop)) fail(e, MTH__RUN_STOPPED, -1, -1);
    return atomic_load_explicit(&e->run.over, memory_order_relaxed);
}

/* Runs a claimed stream until it must wait. t: a task whose phases before `phase` are done, or NULL. */
static void run_stream(mth__engine *e, mth__stream *s, const mth__task *t, int phase, void *scratch) {
    for (;; t = NULL, phase = 0) {
        if (!t) {
            if (stopped(e)) return; /* still claimed: the run is over */
            int at = atomic_load_explicit(&s->done, memory_order_relaxed);
            if (at == s->tasks) return; /* claimed for good */
            if (!ready(&e->run, s)) {
                atomic_store_explicit(&s->claimed, 0, memory_order_release);
                return;
            }
            t = &s->task[at];
            if (e->run.recorder) s->begin = mth__record_now();
            if (t->kind == MTH__TASK_CALL) {
                t->work.call->shared = s->shared;
                t->work.call->fault = &s->fault;
            }
        }
        if (!run_phases(e, s, t, phase, scratch)) return;
        complete(e, s, t);
    }
}

static bool claim(const mth__run *run, mth__stream *s) {
    if (atomic_load_explicit(&s->claimed, memory_order_relaxed) || !ready(run, s)) return false;
    int free = 0;
    if (!atomic_compare_exchange_strong_explicit(&s->claimed, &free, 1, memory_order_acq_rel, memory_order_relaxed))
        return false;
    return true; /* run_stream looks again whether it is ready */
}

/* Does some work, beginning the search at stream *at. False: there is none. */
static bool find_work(mth__engine *e, int *at, void *scratch) {
    mth__run *run = &e->run;
    for (int i = 0, k = *at; i < run->streams; i++, k = k + 1 == run->streams ? 0 : k + 1)
        if (claim(run, &run->stream[k])) {
            *at = k;
            run_stream(e, &run->stream[k], NULL, 0, scratch);
            return true;
        }
    for (int i = 0, k = *at; i < run->streams; i++, k = k + 1 == run->streams ? 0 : k + 1) {
        mth__stream *s = &run->stream[k];
        const mth__task *t;
        int phase, chunk = ticket_take(s, &t, &phase);
        if (chunk < 0) continue;
        *at = k;
        if (take_part(e, s, t, phase, chunk, scratch)) run_stream(e, s, t, phase + 1, scratch);
        return true;
    }
    return false;
}
/* The same without doing it. */
static bool is_work(const mth__run *run) {
    for (int k = 0; k < run->streams; k++) {
        const mth__stream *s = &run->stream[k];
        ticket t = atomic_load(&s->ticket);
        if (ticket_next(t) < ticket_chunks(t) || (!atomic_load(&s->claimed) && ready(run, s))) return true;
    }
    return false;
}

/* How often a thread that finds nothing looks at all streams before it sleeps: with thousands of them a look takes long
   itself, and is taken from threads that work. */
static int spins(const mth__run *run) {
    const int n = LOOKS / (run->streams > 0 ? run->streams : 1);
    return n < 1 ? 1 : n < SPINS ? n : SPINS;
}

/* Works until the run is over, or until nothing has been found for a while. */
static void work(mth__engine *e, int *at, void *scratch) {
    const int most = spins(&e->run);
    for (int idle = 0; idle < most && !stopped(e);) {
        if (find_work(e, at, scratch))
            idle = 0;
        else {
            idle++;
            pause_briefly();
        }
    }
}

/* ---- the caller */
static int64_t progress(const mth__run *run) {
    int64_t n = 0;
    for (int k = 0; k < run->streams; k++) n += atomic_load(&run->stream[k].done);
    return n;
}
static bool all_unclaimed(const mth__run *run) {
    for (int k = 0; k < run->streams; k++) {
        const mth__stream *s = &run->stream[k];
        if (atomic_load(&s->done) < s->tasks && atomic_load(&s->claimed)) return false;
    }
    return true;
}
static void report_stuck(mth__engine *e) {
    for (int k = 0; k < e->run.streams; k++) {
        int at = atomic_load(&e->run.stream[k].done);
        if (at < e->run.stream[k].tasks) {
            fail(e, MTH__RUN_STUCK, k, at);
            return;
        }
    }
}
static void caller_sleep(mth__engine *e) {
    atomic_store(&e->caller_sleeps, 1);
    int64_t before = progress(&e->run);
    if (!is_work(&e->run) && !atomic_load(&e->run.over)) {
        bool alone = all_unclaimed(&e->run) && atomic_load(&e->gate) == 3;
        if (alone && progress(&e->run) == before && !atomic_load(&e->run.over))
            report_stuck(e);
        else
            futex_wait(&e->caller_sleeps, 1); /* a signal ends it too: then `stop` is looked at */
    }
    atomic_store(&e->caller_sleeps, 0);
}

void mth__pool_run(mth__engine *e) {
    mth__run *run = &e->run;
    int left = 0, at = 0, begin = 0;
    for (int k = 0; k < run->streams; k++) {
        mth__stream *s = &run->stream[k];
        atomic_store_explicit(&s->done, 0, memory_order_relaxed);
        atomic_store_explicit(&s->claimed, s->tasks == 0, memory_order_relaxed);
        atomic_store_explicit(&s->fault.set, 0, memory_order_relaxed);
        ticket_offer(s, 0, 0, 0);
        left += s->tasks > 0;
    }
    for (size_t k = 0; k < run->events; k++)
        atomic_store_explicit(&run->event[k]->arrived, run->event[k]->there, memory_order_relaxed);
    for (int k = 0; k < run->streams; k++) begin += ready(run, &run->stream[k]);
    atomic_store(&run->left, left);
    atomic_store(&run->failure, 0);
    atomic_store(&run->over, left == 0);
    atomic_store(&e->gate, 3); /* open, the caller inside */
    wake(e, begin - 1);
    for (;;) {
        work(e, &at, e->worker[0].scratch);
        if (atomic_load(&run->over)) break;
        caller_sleep(e);
    }
    int inside = atomic_fetch_sub(&e->gate, 3) - 3; /* shut, the caller outside: nobody comes in any more */
    for (int spins = 0; inside; inside = atomic_load(&e->gate))
        if (++spins < SPINS)
            pause_briefly();
        else
            sched_yield(); /* they end a chunk */
}

/* ---- the pool */
static bool enter(mth__engine *e) {
    int g = atomic_load(&e->gate);
    while (g & 1)
        if (atomic_compare_exchange_weak(&e->gate, &g, g + 2)) return true;
    return false;
}
static void leave(mth__engine *e) {
    atomic_fetch_sub(&e->gate, 2);
    if (atomic_exchange(&e->caller_sleeps, 0)) futex_wake(&e->caller_sleeps, 1); /* he may be alone now */
}

static void *thread_main(void *argument) {
    mth__worker *w = argument;
    mth__engine *e = w->engine;
    int at = w->index;
    while (!atomic_load(&e->quit)) {
        unsigned seen;
        bool sleep;
        if (enter(e)) {
            at %= e->run.streams;
            work(e, &at, w->scratch);
            atomic_fetch_add(&e->sleepers, 1); /* from here on who makes work visible changes `event` */
            seen = atomic_load(&e->event);
            sleep = !atomic_load(&e->run.over) && !is_work(&e->run);
            leave(e);
        } else {
            for (int i = 0; i < SPINS && !(atomic_load_explicit(&e->gate, memory_order_relaxed) & 1); i++)
                pause_briefly();
            atomic_fetch_add(&e->sleepers, 1);
            seen = atomic_load(&e->event);
            sleep = !(atomic_load(&e->gate) & 1);
        }
        if (sleep && !atomic_load(&e->quit)) futex_wait(&e->event, seen);
        atomic_fetch_sub(&e->sleepers, 1);
    }
    return NULL;
}

mth_status mth__pool_start(mth__engine *e) {
    if (e->started == e->threads - 1) return NULL;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
    int error = 0;
    for (; e->started < e->threads - 1 && !error; e->started += !error) {
        mth__worker *w = &e->worker[e->started + 1];
        error = pthread_create(&w->thread, NULL, thread_main, w);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return FAIL(MTH_ERROR_MEMORY,
            F("thread %d of %d can't be made: %s", e->started + 1, e->threads, strerror(error)),
            F("open the backend with threads=%d", e->started + 1));
    return NULL;
}
void mth__pool_forget(mth__engine *e) {
    e->started = 0;
    atomic_store(&e->quit, 0);
    atomic_store(&e->gate, 0);
    atomic_store(&e->sleepers, 0);
    atomic_store(&e->caller_sleeps, 0);
}
void mth__pool_stop(mth__engine *e) {
    atomic_store(&e->quit, 1);
    atomic_fetch_add(&e->event, 1);
    futex_wake(&e->event, e->threads);
    for (; e->started; e->started--) pthread_join(e->worker[e->started].thread, NULL);
    atomic_store(&e->quit, 0);
}
