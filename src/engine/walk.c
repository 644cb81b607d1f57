#include "engine/walk.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* The devices that a collective needs at once. */
typedef struct {
    int n;
    int32_t *member;
} circle;
/* Where a device stands with a channel. */
typedef struct {
    const mth__instr *gives, *takes; /* what has its operand, its result; NULL: none */
    mth__channel_part part;          /* of what takes */
    const circle *circle;            /* NULL: sent and received */
    int readers;                     /* of what it sends: other devices that take some of it */
    atomic_int came, rounds, taken;  /* what it gives is there; rounds done; readers that have it */
    int64_t begin;
} seat;
/* Started instructions of a stream, in order: those from `first` to `end` are not finished, the first is under way. */
typedef struct {
    int *instr;
    int first, end;
} queue;
typedef struct {
    int device;
    const mth__role *role;
    size_t at; /* the next instruction of stream 0 */
    queue stream[MTH__STREAMS];
    const int *awaited; /* by WAIT: the instruction that it waits for */
    bool *finished;     /* by instruction that was started */
} walker;
struct mth__walk {
    const mth__program *program;
    int count;
    walker *walker;
    seat *seat; /* [channel * devices + device] */
    /* of a run */
    const mth__walk_calls *calls;
    void *context;
    const mth__control *control;
    /* of threads: asleep are those that found nothing to do since the last change */
    pthread_mutex_t lock;
    pthread_cond_t change;
    unsigned long long changes;
    int alive, asleep;
    mth_status failure;
    bool over;
};

static seat *seat_of(const mth__walk *w, int channel, int device) {
    return &w->seat[(size_t)channel * (size_t)w->program->mesh->count + (size_t)device];
}

/* ---------------------------------------------------------------- loading */
static bool apart(const mth__channel *c) { return c->kind == MTH__TRANSFER && c->from.on != c->to.on; }

static void find_circle(mth__arena *arena, mth__walk *w, int channel, int device) {
    const mth__channel *c = &w->program->channel.at[channel];
    if (seat_of(w, channel, device)->circle) return;
    circle *all = NEW(arena, circle);
    all->n = c->kind == MTH__TRANSFER ? c->from.on->count : mth__channel_size(c);
    all->member = NEW_ARRAY(arena, int32_t, all->n);
    if (c->kind == MTH__TRANSFER)
        memcpy(all->member, c->from.on->device, (size_t)all->n * sizeof *all->member);
    else
        mth__channel_group(c, device, all->member);
    for (int i = 0; i < all->n; i++) seat_of(w, channel, all->member[i])->circle = all;
}

static mth_status take_seat(
    mth__arena *arena, mth__templates *templates, mth__walk *w, int device, const mth__instr *instr) {
    const mth__channel *c = &w->program->channel.at[instr->channel];
    seat *s = seat_of(w, instr->channel, device);
    if (instr->nin) s->gives = instr;
    if (instr->nout) s->takes = instr;
    if (!apart(c)) find_circle(arena, w, instr->channel, device);
    if (!apart(c) || instr->nout) TRY(mth__channel_moves(arena, templates, c, device, &s->part));
    for (int i = 0; apart(c) && i < s->part.count; i++)
        if (s->part.move[i].peer != device && (i == 0 || s->part.move[i - 1].peer != s->part.move[i].peer))
            seat_of(w, instr->channel, s->part.move[i].peer)->readers++;
    return NULL;
}

/* By WAIT the instruction that it waits for, which stands before it. */
static int *find_awaited(mth__arena *arena, const mth__role *role) {
    int *awaited = NEW_ARRAY(arena, int, role->instr.n);
    for (size_t i = 0; i < role->instr.n; i++) {
        const mth__instr *wait = &role->instr.at[i];
        if (wait->kind != MTH__WAIT) continue;
        for (int k = (int)i - 1; k >= 0; k--) {
            const mth__instr *by = &role->instr.at[k];
            const bool opens = by->kind == MTH__SEND || mth__is_started(by);
            awaited[i] = k;
            if (opens &&
                (wait->channel >= 0 ? mth__has_channel(by) && by->channel == wait->channel
                                    : !mth__has_channel(by) && by->nout && by->out[0] == wait->awaited))
                break;
        }
    }
    return awaited;
}

static mth_status place_role(
    mth__arena *arena, mth__templates *templates, mth__walk *w, const mth__role *role, walker *d) {
    const int *awaited = find_awaited(arena, role);
    for (int k = 0; k < role->ndevice; k++, d++) {
        *d = (walker){.device = role->device[k], .role = role, .awaited = awaited};
        d->finished = NEW_ARRAY(arena, bool, role->instr.n);
        int started[MTH__STREAMS] = {0};
        for (size_t i = 0; i < role->instr.n; i++) {
            const mth__instr *instr = &role->instr.at[i];
            started[instr->stream] += mth__is_started(instr);
            if (mth__has_channel(instr)) TRY(take_seat(arena, templates, w, d->device, instr));
        }
        for (int stream = 0; stream < MTH__STREAMS; stream++)
            d->stream[stream].instr = NEW_ARRAY(arena, int, started[stream]);
    }
    return NULL;
}

mth_status mth__walk_new(mth__arena *arena, const mth__program *p, mth__walk **out) {
    mth__walk *w = NEW(arena, mth__walk);
    mth__templates templates = {.arena = arena};
    w->program = p;
    w->seat = NEW_ARRAY(arena, seat, p->channel.n * (size_t)p->mesh->count);
    for (size_t r = 0; r < p->role.n; r++) w->count += p->role.at[r].ndevice;
    w->walker = NEW_ARRAY(arena, walker, w->count);
    walker *next = w->walker;
    for (size_t r = 0; r < p->role.n; next += p->role.at[r++].ndevice)
        TRY(place_role(arena, &templates, w, &p->role.at[r], next));
    *out = w;
    return NULL;
}

/* ---------------------------------------------------------------- channels */
static mth_status settle(mth__walk *w, int device) {
    return w->calls->wait ? w->calls->wait(w->context, device) : NULL;
}

static int value_in(const seat *s, mth__move_memory memory) {
    if (memory == MTH__MOVE_OPERAND) return s->gives->in[0];
    return memory == MTH__MOVE_RESULT ? s->takes->out[0] : (s->takes ? s->takes : s->gives)->scratch;
}

static mth_status do_round(mth__walk *w, int device, int channel, seat *s, int round) {
    const mth__control *control = w->control;
    for (int i = 0; i < s->part.count; i++) {
        const mth__channel_move *move = &s->part.move[i];
        if (move->round != round) continue;
        const mth__channel *c = &w->program->channel.at[channel];
        mth__walk_move m = {c, device, value_in(s, move->to), move->peer,
            value_in(seat_of(w, channel, move->peer), move->from), &move->copy};
        if (control && control->crossing && move->peer != device)
            TRY(control->crossing(
                control->crossing_context, c->label, move->peer, device, mth__channel_move_bytes(c, move)));
        TRY((move->reduce ? w->calls->reduce : w->calls->move)(w->context, &m));
    }
    TRY(settle(w, device));
    atomic_store_explicit(&s->rounds, round + 1, memory_order_release);
    return NULL;
}

/* Everyone of the circle has come and done so many rounds. */
static bool all_have(const mth__walk *w, int channel, const circle *all, int rounds) {
    for (int i = 0; i < all->n; i++) {
        const seat *s = seat_of(w, channel, all->member[i]);
        if (!atomic_load_explicit(&s->came, memory_order_acquire) ||
            atomic_load_explicit(&s->rounds, memory_order_acquire) < rounds)
            return false;
    }
    return true;
}

static bool all_sent(const mth__walk *w, int channel, const mth__channel_part *part) {
    for (int i = 0; i < part->count; i++)
        if (!atomic_load_explicit(&seat_of(w, channel, part->move[i].peer)->came, memory_order_acquire)) return false;
    return true;
}

/* A COLLECTIVE, or a START of one, as far as it gets. */
static mth_status together(mth__walk *w, int device, int channel, seat *s, bool *moved, bool *done) {
    if (!atomic_load_explicit(&s->came, memory_order_relaxed)) {
        TRY(settle(w, device));
        atomic_store_explicit(&s->came, 1, memory_order_release);
        *moved = true;
    }
    for (int round = atomic_load_explicit(&s->rounds, memory_order_relaxed); round < s->part.rounds; round++) {
        if (!all_have(w, channel, s->circle, round)) return NULL;
        TRY(do_round(w, device, channel, s, round));
        *moved = true;
    }
    *done = all_have(w, channel, s->circle, s->part.rounds); /* nobody reads its memory any more */
    return NULL;
}

/* A RECV, or a START of one. */
static mth_status receive(mth__walk *w, int device, int channel, seat *s, bool *done) {
    if (!all_sent(w, channel, &s->part)) return NULL;
    TRY(do_round(w, device, channel, s, 0));
    for (int i = 0; i < s->part.count; i++) {
        const int peer = s->part.move[i].peer;
        if (peer != device && (i == 0 || s->part.move[i - 1].peer != peer))
            atomic_fetch_add_explicit(&seat_of(w, channel, peer)->taken, 1, memory_order_acq_rel);
    }
    *done = true;
    return NULL;
}

/* ---------------------------------------------------------------- devices */
static void record(const mth__walk *w, int device, int stream, size_t instr, int64_t begin) {
    mth__recorder *recorder = mth__control_recorder(w->control);
    if (recorder)
        mth__record(
            recorder, &(mth__recorded){device, stream, (int32_t)instr, (int32_t)instr, begin, mth__record_now()});
}
static int64_t now(const mth__walk *w) { return mth__control_recorder(w->control) ? mth__record_now() : 0; }

/* A part in a channel. */
static mth_status take_part(mth__walk *w, walker *d, size_t at, bool *moved, bool *done) {
    const mth__instr *instr = &d->role->instr.at[at];
    seat *s = seat_of(w, instr->channel, d->device);
    if (!s->begin) s->begin = now(w);
    if (s->circle)
        TRY(together(w, d->device, instr->channel, s, moved, done));
    else
        TRY(receive(w, d->device, instr->channel, s, done));
    if (*done) record(w, d->device, instr->stream, at, s->begin);
    return NULL;
}

/* An instruction of any stream, as far as it gets. */
static mth_status perform(mth__walk *w, walker *d, size_t at, bool *moved, bool *done) {
    const mth__instr *instr = &d->role->instr.at[at];
    if (instr->kind == MTH__SEND) {
        TRY(settle(w, d->device));
        atomic_store_explicit(&seat_of(w, instr->channel, d->device)->came, 1, memory_order_release);
        *done = true;
        return NULL;
    }
    if (mth__has_channel(instr)) return take_part(w, d, at, moved, done);
    const int64_t begin = now(w);
    TRY((instr->kind == MTH__COPY ? w->calls->copy : w->calls->compute)(w->context, d->device, instr));
    record(w, d->device, instr->stream, at, begin);
    *done = true;
    return NULL;
}

/* Goes on with what has been started, each stream in its order. */
static mth_status advance_started(mth__walk *w, walker *d, bool *moved) {
    for (int stream = 1; stream < MTH__STREAMS; stream++)
        for (queue *q = &d->stream[stream]; q->first < q->end; q->first++) {
            bool done = false;
            TRY(perform(w, d, (size_t)q->instr[q->first], moved, &done));
            if (!done) break;
            d->finished[q->instr[q->first]] = true;
            *moved = true;
        }
    return NULL;
}

/* Has what a WAIT waits for happened? */
static bool is_over(const mth__walk *w, const walker *d, size_t wait) {
    const int by = d->awaited[wait];
    const mth__instr *instr = &d->role->instr.at[by];
    if (instr->kind != MTH__SEND) return d->finished[by];
    const seat *s = seat_of(w, instr->channel, d->device);
    return atomic_load_explicit(&s->taken, memory_order_acquire) == s->readers;
}

static mth_status advance(mth__walk *w, walker *d, bool *moved) {
    TRY(advance_started(w, d, moved));
    for (; d->at < d->role->instr.n; d->at++, *moved = true) {
        const mth__instr *instr = &d->role->instr.at[d->at];
        bool done = false;
        if (mth__stop_asked(mth__control_stop(w->control))) return mth__interrupted();
        if (mth__is_started(instr)) {
            queue *q = &d->stream[instr->stream];
            q->instr[q->end++] = (int)d->at;
            TRY(advance_started(w, d, moved));
            done = true;
        } else if (instr->kind == MTH__WAIT) {
            done = is_over(w, d, d->at);
        } else {
            TRY(perform(w, d, d->at, moved, &done));
        }
        if (!done) return NULL;
    }
    return NULL;
}

static bool at_end(const walker *d) {
    for (int stream = 1; stream < MTH__STREAMS; stream++)
        if (d->stream[stream].first < d->stream[stream].end) return false;
    return d->at == d->role->instr.n;
}

static mth_status stuck(const mth__walk *w) {
    for (int i = 0; i < w->count; i++) {
        const walker *d = &w->walker[i];
        if (d->at == d->role->instr.n) continue;
        const int channel = d->role->instr.at[d->at].channel;
        return INTERNAL("device %d waits for ever at instruction %zu, %s", d->device, d->at,
            channel < 0 ? "a copy" : w->program->channel.at[channel].label);
    }
    return INTERNAL("a device waits for ever for what it has started");
}

/* ---------------------------------------------------------------- one thread for all */
static mth_status run_together(mth__walk *w) {
    for (bool moved = true, left = true; left;) {
        if (!moved) return stuck(w);
        moved = left = false;
        for (int i = 0; i < w->count; i++) {
            TRY(advance(w, &w->walker[i], &moved));
            left |= !at_end(&w->walker[i]);
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- a thread for each device */
typedef struct {
    mth__walk *walk;
    walker *walker;
    pthread_t thread;
    bool runs;
} walking;

/* With the lock held: others may find something to do. */
static void changed(mth__walk *w) {
    w->changes++;
    w->asleep = 0;
    pthread_cond_broadcast(&w->change);
}

static void fail(mth__walk *w, mth_status why) {
    pthread_mutex_lock(&w->lock);
    if (w->failure)
        mth_error_free(why);
    else
        w->failure = why;
    w->over = true;
    changed(w);
    pthread_mutex_unlock(&w->lock);
}

/* Sleeps until something has changed since `seen`. The last who would sleep finds that nothing ever will. */
static void sleep_until_change(mth__walk *w, unsigned long long seen) {
    enum { PATIENCE = 10 * 1000 * 1000 /* ns between two looks at stop */, SECOND = 1000 * 1000 * 1000 };
    bool hopeless = false, asked = false;
    pthread_mutex_lock(&w->lock);
    if (w->changes == seen && !w->over) hopeless = ++w->asleep == w->alive;
    while (!hopeless && !asked && w->changes == seen && !w->over) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PATIENCE;
        until.tv_sec += until.tv_nsec / SECOND;
        until.tv_nsec %= SECOND;
        pthread_cond_timedwait(&w->change, &w->lock, &until);
        asked = mth__stop_asked(mth__control_stop(w->control));
    }
    pthread_mutex_unlock(&w->lock);
    if (hopeless) fail(w, stuck(w));
    if (asked) fail(w, mth__interrupted());
}

static void *walk_device(void *argument) {
    walking *own = argument;
    mth__walk *w = own->walk;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        const unsigned long long seen = w->changes;
        const bool over = w->over;
        pthread_mutex_unlock(&w->lock);
        if (over) return NULL;
        bool moved = false;
        mth_status status = advance(w, own->walker, &moved);
        if (status) {
            fail(w, status);
            return NULL;
        }
        const bool ends = at_end(own->walker);
        if (moved || ends) {
            pthread_mutex_lock(&w->lock);
            if (ends) w->alive--;
            changed(w);
            pthread_mutex_unlock(&w->lock);
        } else {
            sleep_until_change(w, seen);
        }
        if (ends) return NULL;
    }
}

static mth_status run_apart(mth__walk *w) {
    walking *all = mth__calloc((size_t)w->count, sizeof *all);
    if (!all && w->count) return mth__lacks_memory("a thread for each device", 0);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->change, NULL);
    w->changes = 0;
    w->alive = w->count;
    w->asleep = 0;
    w->failure = NULL;
    w->over = false;
    for (int i = 0; i < w->count; i++) {
        all[i] = (walking){.walk = w, .walker = &w->walker[i]};
        all[i].runs = pthread_create(&all[i].thread, NULL, walk_device, &all[i]) == 0;
        if (all[i].runs) continue;
        fail(w,
            FAIL(MTH_ERROR_MEMORY, F("the system gives no thread for device %d", w->walker[i].device),
                F("use fewer devices, or one thread for all")));
        break;
    }
    for (int i = 0; i < w->count && all[i].runs; i++) pthread_join(all[i].thread, NULL);
    pthread_cond_destroy(&w->change);
    pthread_mutex_destroy(&w->lock);
    mth__free(all);
    return w->failure;
}

mth_status mth__walk_run(
    mth__walk *w, const mth__walk_calls *calls, void *context, bool threads, const mth__control *control) {
    w->calls = calls;
    w->context = context;
    w->control = control;
    for (size_t i = 0; i < w->program->channel.n * (size_t)w->program->mesh->count; i++) {
        seat *s = &w->seat[i];
        atomic_store_explicit(&s->came, 0, memory_order_relaxed);
        atomic_store_explicit(&s->rounds, 0, memory_order_relaxed);
        atomic_store_explicit(&s->taken, 0, memory_order_relaxed);
        s->begin = 0;
    }
    for (int i = 0; i < w->count; i++) {
        walker *d = &w->walker[i];
        d->at = 0;
        memset(d->finished, 0, d->role->instr.n * sizeof *d->finished);
        for (int stream = 0; stream < MTH__STREAMS; stream++) d->stream[stream].first = d->stream[stream].end = 0;
    }
    return threads ? run_apart(w) : run_together(w);
}
