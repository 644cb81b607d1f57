/* The threads. See native.h for what a stream, a task and a ticket are.
 *
 * Progress needs no wake-up: whoever makes work visible looks for work himself before he sleeps. Wake-ups bring the
 * others in. A thread of the pool that finds nothing for a while leaves the run and sleeps; the caller stays. So when
 * the caller is alone, nothing is claimed and no task is ready, none will ever be: the run is stuck, which is reported
 * instead of hanging. */
#include "base/futex.h"
#include "base/number.h"
#include "engine/native/native.h"
#include <sched.h>
#include <signal.h>
#include <string.h>

enum { SPINS = 800 /* of looking at a few streams: some 50 us */, LOOKS = 1 << 14 };

/* There is work for `count` more threads. */
static void wake(mth__engine *engine, int count) {
    if (count > 0 && atomic_load(&engine->caller_sleeps) && atomic_exchange(&engine->caller_sleeps, 0)) {
        mth__futex_wake(&engine->caller_sleeps, 1);
        count--;
    }
    if (count > 0 && atomic_load(&engine->sleepers) > 0) {
        atomic_fetch_add(&engine->event, 1);
        mth__futex_wake(&engine->event, count);
    }
}

static void end(mth__engine *engine) {
    atomic_store(&engine->run.over, 1);
    if (atomic_exchange(&engine->caller_sleeps, 0)) mth__futex_wake(&engine->caller_sleeps, 1);
}
static void fail(mth__engine *engine, int why, int stream, int task) {
    int none = 0;
    if (atomic_compare_exchange_strong(&engine->run.failure, &none, why)) {
        engine->run.at_stream = stream;
        engine->run.at_task = task;
    }
    end(engine);
}

static bool ready(const mth__run *run, const mth__stream *stream) {
    int at = atomic_load_explicit(&stream->done, memory_order_acquire);
    if (at >= stream->tasks) return false;
    const mth__task *task = &stream->task[at];
    for (int i = 0; i < task->waits; i++)
        if (atomic_load_explicit(&run->stream[task->wait[i].stream].done, memory_order_acquire) < task->wait[i].count)
            return false;
    return !task->awaits || atomic_load_explicit(&task->awaits->arrived, memory_order_acquire) == task->awaits->n;
}

/* ---- tickets */
typedef unsigned long long ticket;
static int ticket_next(ticket number) { return (int)(number & (MTH__CHUNKS_MOST - 1)); }
static int ticket_chunks(ticket number) { return (int)(number >> 20 & (MTH__CHUNKS_MOST - 1)); }
static void ticket_offer(mth__stream *stream, int phase, int chunks, int taken) {
    ticket sequence = (atomic_load_explicit(&stream->ticket, memory_order_relaxed) >> 40) + 1;
    atomic_store_explicit(&stream->finished, 0, memory_order_relaxed);
    atomic_store_explicit(&stream->phase, phase, memory_order_relaxed);
    atomic_store(&stream->ticket, sequence << 40 | (ticket)chunks << 20 | (ticket)taken);
}
/* The next chunk, or -1. While the ticket's value stands, so do its task and phase: the sequence changes before they
 * do. */
static int ticket_take(mth__stream *stream, const mth__task **task, int *phase) {
    ticket number = atomic_load_explicit(&stream->ticket, memory_order_acquire);
    for (;;) {
        if (ticket_next(number) >= ticket_chunks(number)) return -1;
        *task = &stream->task[atomic_load_explicit(&stream->done, memory_order_relaxed)];
        *phase = atomic_load_explicit(&stream->phase, memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(
                &stream->ticket, &number, number + 1, memory_order_acq_rel, memory_order_acquire))
            return ticket_next(number);
    }
}

static void run_chunk(const mth__task *task, int phase, int chunk, void *scratch) {
    switch (task->kind) {
    case MTH__TASK_CALL: task->run(task->work.call, phase, chunk, scratch); break;
    case MTH__TASK_MOVES: mth__moves_run(task->work.moves.all, *task->work.moves.dst, chunk); break;
    case MTH__TASK_EXCHANGE: mth__exchange_run(task->work.exchange, chunk); break;
    case MTH__TASK_REDUCTION: {
        const mth__reduction *reduction = task->work.reduction;
        const int n = reduction->group->n;
        const void **src = scratch;
        void **dst = (void **)scratch + n;
        int64_t at = (int64_t)chunk * reduction->piece,
                count = reduction->count - at < reduction->piece ? reduction->count - at : reduction->piece;
        size_t bytes = (size_t)(reduction->start + at) * mth_dtype_size(reduction->dtype);
        for (int i = 0; i < n; i++) {
            src[i] = (const char *)reduction->group->memory[MTH__MOVE_OPERAND][i] + bytes;
            dst[i] = (char *)reduction->group->memory[MTH__MOVE_RESULT][i] + bytes;
        }
        mth__reduce_to_all(reduction->op, reduction->dtype, count, n, src, n, dst, reduction->count * n);
        break;
    }
    case MTH__TASK_SYNC: break;
    }
}

/* Runs chunks of the offered phase, the first of them `chunk`. True: this thread ended the phase's last one. */
static bool take_part(
    mth__engine *engine, mth__stream *stream, const mth__task *task, int phase, int chunk, void *scratch) {
    int chunks = task->chunks[phase], mine = 0;
    do {
        run_chunk(task, phase, chunk, scratch);
        mine++;
        if (atomic_load_explicit(&engine->run.over, memory_order_relaxed)) return false;
    } while ((chunk = ticket_take(stream, &task, &phase)) >= 0);
    return atomic_fetch_add_explicit(&stream->finished, mine, memory_order_acq_rel) + mine == chunks;
}

/* Runs a task of a claimed stream from a phase on. False: others still run chunks of it; the last of them goes on. */
static bool run_phases(mth__engine *engine, mth__stream *stream, const mth__task *task, int phase, void *scratch) {
    for (; phase < task->phases; phase++) {
        int chunks = task->chunks[phase];
        if (atomic_load_explicit(&engine->run.over, memory_order_relaxed)) return false;
        if (chunks == 1) run_chunk(task, phase, 0, scratch);
        if (chunks <= 1) continue;
        ticket_offer(stream, phase, chunks, 1);
        wake(engine, chunks - 1);
        if (!take_part(engine, stream, task, phase, 0, scratch)) return false;
    }
    return true;
}

/* Wakes a thread for each of the streams that is ready now, if any thread sleeps. */
static void wake_ready(mth__engine *engine, const int32_t *stream, int n) {
    if (!atomic_load(&engine->sleepers) && !atomic_load(&engine->caller_sleeps)) return;
    int count = 0;
    for (int i = 0; i < n; i++) count += ready(&engine->run, &engine->run.stream[stream[i]]);
    wake(engine, count);
}

/* Records a task; called by the thread that ended its last chunk. Tasks that only wait are left out. */
static void record(const mth__engine *engine, const mth__stream *stream, const mth__task *task) {
    if (task->kind == MTH__TASK_SYNC) return;
    mth__record(engine->run.recorder,
        &(mth__recorded){.device = stream->device,
            .stream = (int32_t)((stream - engine->run.stream) % engine->run.each),
            .first = task->instr,
            .last = task->instr,
            .begin = stream->begin,
            .end = mth__record_now()});
}

static void complete(mth__engine *engine, mth__stream *stream, const mth__task *task) {
    if (task->kind == MTH__TASK_CALL && atomic_load_explicit(&stream->fault.set, memory_order_acquire)) {
        fail(engine, MTH__RUN_FAULT, (int)(stream - engine->run.stream), (int)(task - stream->task));
        return;
    }
    if (engine->run.recorder) record(engine, stream, task);
    bool last = task->signals && atomic_fetch_add(&task->signals->arrived, 1) + 1 == task->signals->n;
    int now = atomic_fetch_add(&stream->done, 1) + 1;
    if (last && task->signals->n > 1) wake_ready(engine, task->signals->stream, task->signals->n);
    if (task->dependents) wake_ready(engine, task->dependent, task->dependents);
    if (now == stream->tasks && atomic_fetch_sub(&engine->run.left, 1) == 1) end(engine);
}

static bool stopped(mth__engine *engine) {
    if (mth__stop_asked(engine->run.stop)) fail(engine, MTH__RUN_STOPPED, -1, -1);
    return atomic_load_explicit(&engine->run.over, memory_order_relaxed);
}

/* Runs a claimed stream until it must wait. `task`: one whose phases before `phase` are done, or NULL. */
static void run_stream(mth__engine *engine, mth__stream *stream, const mth__task *task, int phase, void *scratch) {
    for (;; task = NULL, phase = 0) {
        if (!task) {
            if (stopped(engine)) return; /* still claimed: the run is over */
            int at = atomic_load_explicit(&stream->done, memory_order_relaxed);
            if (at == stream->tasks) return; /* claimed for good */
            if (!ready(&engine->run, stream)) {
                atomic_store_explicit(&stream->claimed, 0, memory_order_release);
                return;
            }
            task = &stream->task[at];
            if (engine->run.recorder) stream->begin = mth__record_now();
            if (task->kind == MTH__TASK_CALL) {
                task->work.call->shared = stream->shared;
                task->work.call->fault = &stream->fault;
            }
        }
        if (!run_phases(engine, stream, task, phase, scratch)) return;
        complete(engine, stream, task);
    }
}

static bool claim(const mth__run *run, mth__stream *stream) {
    if (atomic_load_explicit(&stream->claimed, memory_order_relaxed) || !ready(run, stream)) return false;
    int free = 0;
    if (!atomic_compare_exchange_strong_explicit(
            &stream->claimed, &free, 1, memory_order_acq_rel, memory_order_relaxed))
        return false;
    return true; /* run_stream looks again whether it is ready */
}

/* Does some work, beginning the search at stream *at. False: there is none. */
static bool find_work(mth__engine *engine, int *at, void *scratch) {
    mth__run *run = &engine->run;
    for (int i = 0, k = *at; i < run->streams; i++, k = k + 1 == run->streams ? 0 : k + 1)
        if (claim(run, &run->stream[k])) {
            *at = k;
            run_stream(engine, &run->stream[k], NULL, 0, scratch);
            return true;
        }
    for (int i = 0, k = *at; i < run->streams; i++, k = k + 1 == run->streams ? 0 : k + 1) {
        mth__stream *stream = &run->stream[k];
        const mth__task *task;
        int phase, chunk = ticket_take(stream, &task, &phase);
        if (chunk < 0) continue;
        *at = k;
        if (take_part(engine, stream, task, phase, chunk, scratch))
            run_stream(engine, stream, task, phase + 1, scratch);
        return true;
    }
    return false;
}
/* The same without doing it. */
static bool is_work(const mth__run *run) {
    for (int k = 0; k < run->streams; k++) {
        const mth__stream *stream = &run->stream[k];
        ticket number = atomic_load(&stream->ticket);
        if (ticket_next(number) < ticket_chunks(number) || (!atomic_load(&stream->claimed) && ready(run, stream)))
            return true;
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
static void work(mth__engine *engine, int *at, void *scratch) {
    const int most = spins(&engine->run);
    for (int idle = 0; idle < most && !stopped(engine);) {
        if (find_work(engine, at, scratch))
            idle = 0;
        else {
            idle++;
            mth__pause();
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
        const mth__stream *stream = &run->stream[k];
        if (atomic_load(&stream->done) < stream->tasks && atomic_load(&stream->claimed)) return false;
    }
    return true;
}
static void report_stuck(mth__engine *engine) {
    for (int k = 0; k < engine->run.streams; k++) {
        int at = atomic_load(&engine->run.stream[k].done);
        if (at < engine->run.stream[k].tasks) {
            fail(engine, MTH__RUN_STUCK, k, at);
            return;
        }
    }
}
static void caller_sleep(mth__engine *engine) {
    atomic_store(&engine->caller_sleeps, 1);
    int64_t before = progress(&engine->run);
    if (!is_work(&engine->run) && !atomic_load(&engine->run.over)) {
        bool alone = all_unclaimed(&engine->run) && atomic_load(&engine->gate) == 3;
        if (alone && progress(&engine->run) == before && !atomic_load(&engine->run.over))
            report_stuck(engine);
        else
            mth__futex_wait(&engine->caller_sleeps, 1, 0); /* a signal ends it too: then `stop` is looked at */
    }
    atomic_store(&engine->caller_sleeps, 0);
}

void mth__pool_run(mth__engine *engine) {
    mth__run *run = &engine->run;
    int left = 0, at = 0, begin = 0;
    for (int k = 0; k < run->streams; k++) {
        mth__stream *stream = &run->stream[k];
        atomic_store_explicit(&stream->done, 0, memory_order_relaxed);
        atomic_store_explicit(&stream->claimed, stream->tasks == 0, memory_order_relaxed);
        atomic_store_explicit(&stream->fault.set, 0, memory_order_relaxed);
        ticket_offer(stream, 0, 0, 0);
        left += stream->tasks > 0;
    }
    for (size_t k = 0; k < run->events; k++)
        atomic_store_explicit(&run->event[k]->arrived, run->event[k]->there, memory_order_relaxed);
    for (int k = 0; k < run->streams; k++) begin += ready(run, &run->stream[k]);
    atomic_store(&run->left, left);
    atomic_store(&run->failure, 0);
    atomic_store(&run->over, left == 0);
    atomic_store(&engine->gate, 3); /* open, the caller inside */
    wake(engine, begin - 1);
    for (;;) {
        work(engine, &at, engine->worker[0].scratch);
        if (atomic_load(&run->over)) break;
        caller_sleep(engine);
    }
    int inside = atomic_fetch_sub(&engine->gate, 3) - 3; /* shut, the caller outside: nobody comes in any more */
    for (int spins = 0; inside; inside = atomic_load(&engine->gate))
        if (++spins < SPINS)
            mth__pause();
        else
            sched_yield(); /* they end a chunk */
}

/* ---- the pool */
static bool enter(mth__engine *engine) {
    int gate = atomic_load(&engine->gate);
    while (gate & 1)
        if (atomic_compare_exchange_weak(&engine->gate, &gate, gate + 2)) return true;
    return false;
}
static void leave(mth__engine *engine) {
    atomic_fetch_sub(&engine->gate, 2);
    if (atomic_exchange(&engine->caller_sleeps, 0))
        mth__futex_wake(&engine->caller_sleeps, 1); /* he may be alone now */
}

static void *thread_main(void *argument) {
    mth__worker *worker = argument;
    mth__engine *engine = worker->engine;
    int at = worker->index;
    while (!atomic_load(&engine->quit)) {
        unsigned seen;
        bool sleep;
        if (enter(engine)) {
            at %= engine->run.streams;
            work(engine, &at, worker->scratch);
            atomic_fetch_add(&engine->sleepers, 1); /* from here on who makes work visible changes `event` */
            seen = atomic_load(&engine->event);
            sleep = !atomic_load(&engine->run.over) && !is_work(&engine->run);
            leave(engine);
        } else {
            for (int i = 0; i < SPINS && !(atomic_load_explicit(&engine->gate, memory_order_relaxed) & 1); i++)
                mth__pause();
            atomic_fetch_add(&engine->sleepers, 1);
            seen = atomic_load(&engine->event);
            sleep = !(atomic_load(&engine->gate) & 1);
        }
        if (sleep && !atomic_load(&engine->quit)) mth__futex_wait(&engine->event, seen, 0);
        atomic_fetch_sub(&engine->sleepers, 1);
    }
    return NULL;
}

mth_status mth__pool_start(mth__engine *engine) {
    if (engine->started == engine->threads - 1) return NULL;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
    int error = 0;
    for (; engine->started < engine->threads - 1 && !error; engine->started += !error) {
        mth__worker *worker = &engine->worker[engine->started + 1];
        error = pthread_create(&worker->thread, NULL, thread_main, worker);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return FAIL(MTH_ERROR_MEMORY,
            F("thread %d of %d can't be made: %s", engine->started + 1, engine->threads, mth__errno_text(error)),
            F("open the backend with threads=%d", engine->started + 1));
    return NULL;
}
void mth__pool_forget(mth__engine *engine) {
    engine->started = 0;
    atomic_store(&engine->quit, 0);
    atomic_store(&engine->gate, 0);
    atomic_store(&engine->sleepers, 0);
    atomic_store(&engine->caller_sleeps, 0);
}
void mth__pool_stop(mth__engine *engine) {
    atomic_store(&engine->quit, 1);
    atomic_fetch_add(&engine->event, 1);
    mth__futex_wake(&engine->event, engine->threads);
    for (; engine->started; engine->started--) pthread_join(engine->worker[engine->started].thread, NULL);
    atomic_store(&engine->quit, 0);
}
