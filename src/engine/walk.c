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

static seat *seat_of(const mth__walk *walk, int channel_number, int device) {
    return &walk->seat[(size_t)channel_number * (size_t)walk->program->mesh->count + (size_t)device];
}

/* ---------------------------------------------------------------- loading */
static bool apart(const mth__channel *channel) {
    return channel->kind == MTH__TRANSFER && channel->from.on != channel->to.on;
}

static void find_circle(mth__arena *arena, mth__walk *walk, int channel_number, int device) {
    const mth__channel *of = &walk->program->channel.at[channel_number];
    if (seat_of(walk, channel_number, device)->circle) return;
    circle *all = NEW(arena, circle);
    all->n = of->kind == MTH__TRANSFER ? of->from.on->count : mth__channel_size(of);
    all->member = NEW_ARRAY(arena, int32_t, all->n);
    if (of->kind == MTH__TRANSFER)
        memcpy(all->member, of->from.on->device, (size_t)all->n * sizeof *all->member);
    else
        mth__channel_group(of, device, all->member);
    for (int i = 0; i < all->n; i++) seat_of(walk, channel_number, all->member[i])->circle = all;
}

static mth_status take_seat(
    mth__arena *arena, mth__templates *templates, mth__walk *walk, int device, const mth__instr *instruction) {
    const mth__channel *channel = &walk->program->channel.at[instruction->channel];
    seat *own = seat_of(walk, instruction->channel, device);
    if (instruction->nin) own->gives = instruction;
    if (instruction->nout) own->takes = instruction;
    if (!apart(channel)) find_circle(arena, walk, instruction->channel, device);
    if (!apart(channel) || instruction->nout) TRY(mth__channel_moves(arena, templates, channel, device, &own->part));
    for (int i = 0; apart(channel) && i < own->part.count; i++)
        if (own->part.move[i].peer != device && (i == 0 || own->part.move[i - 1].peer != own->part.move[i].peer))
            seat_of(walk, instruction->channel, own->part.move[i].peer)->readers++;
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
    mth__arena *arena, mth__templates *templates, mth__walk *walk, const mth__role *role, walker *state) {
    const int *awaited = find_awaited(arena, role);
    for (int k = 0; k < role->ndevice; k++, state++) {
        *state = (walker){.device = role->device[k], .role = role, .awaited = awaited};
        state->finished = NEW_ARRAY(arena, bool, role->instr.n);
        int started[MTH__STREAMS] = {0};
        for (size_t i = 0; i < role->instr.n; i++) {
            const mth__instr *instruction = &role->instr.at[i];
            started[instruction->stream] += mth__is_started(instruction);
            if (mth__has_channel(instruction)) TRY(take_seat(arena, templates, walk, state->device, instruction));
        }
        for (int stream = 0; stream < MTH__STREAMS; stream++)
            state->stream[stream].instr = NEW_ARRAY(arena, int, started[stream]);
    }
    return NULL;
}

mth_status mth__walk_new(mth__arena *arena, const mth__program *program, mth__walk **out) {
    mth__walk *walk = NEW(arena, mth__walk);
    mth__templates templates = {.arena = arena};
    walk->program = program;
    walk->seat = NEW_ARRAY(arena, seat, program->channel.n * (size_t)program->mesh->count);
    for (size_t k = 0; k < program->role.n; k++) walk->count += program->role.at[k].ndevice;
    walk->walker = NEW_ARRAY(arena, walker, walk->count);
    walker *next = walk->walker;
    for (size_t k = 0; k < program->role.n; next += program->role.at[k++].ndevice)
        TRY(place_role(arena, &templates, walk, &program->role.at[k], next));
    *out = walk;
    return NULL;
}

/* ---------------------------------------------------------------- channels */
static mth_status settle(mth__walk *walk, int device) {
    return walk->calls->wait ? walk->calls->wait(walk->context, device) : NULL;
}

static int value_in(const seat *own, mth__move_memory memory) {
    if (memory == MTH__MOVE_OPERAND) return own->gives->in[0];
    return memory == MTH__MOVE_RESULT ? own->takes->out[0] : (own->takes ? own->takes : own->gives)->scratch;
}

static mth_status do_round(mth__walk *walk, int device, int channel_number, seat *own, int round) {
    const mth__control *control = walk->control;
    for (int i = 0; i < own->part.count; i++) {
        const mth__channel_move *move = &own->part.move[i];
        if (move->round != round) continue;
        const mth__channel *of = &walk->program->channel.at[channel_number];
        mth__walk_move transfer = {of, device, value_in(own, move->to), move->peer,
            value_in(seat_of(walk, channel_number, move->peer), move->from), &move->copy};
        if (control && control->crossing && move->peer != device)
            TRY(control->crossing(
                control->crossing_context, of->label, move->peer, device, mth__channel_move_bytes(of, move)));
        TRY((move->reduce ? walk->calls->reduce : walk->calls->move)(walk->context, &transfer));
    }
    TRY(settle(walk, device));
    atomic_store_explicit(&own->rounds, round + 1, memory_order_release);
    return NULL;
}

/* Have all devices of the circle come, and done so many rounds? */
static bool all_have(const mth__walk *walk, int channel_number, const circle *all, int rounds) {
    for (int i = 0; i < all->n; i++) {
        const seat *own = seat_of(walk, channel_number, all->member[i]);
        if (!atomic_load_explicit(&own->came, memory_order_acquire) ||
            atomic_load_explicit(&own->rounds, memory_order_acquire) < rounds)
            return false;
    }
    return true;
}

static bool all_sent(const mth__walk *walk, int channel_number, const mth__channel_part *part) {
    for (int i = 0; i < part->count; i++)
        if (!atomic_load_explicit(&seat_of(walk, channel_number, part->move[i].peer)->came, memory_order_acquire))
            return false;
    return true;
}

/* A COLLECTIVE, or a START of one, as far as it gets. */
static mth_status together(mth__walk *walk, int device, int channel_number, seat *own, bool *moved, bool *done) {
    if (!atomic_load_explicit(&own->came, memory_order_relaxed)) {
        TRY(settle(walk, device));
        atomic_store_explicit(&own->came, 1, memory_order_release);
        *moved = true;
    }
    for (int round = atomic_load_explicit(&own->rounds, memory_order_relaxed); round < own->part.rounds; round++) {
        if (!all_have(walk, channel_number, own->circle, round)) return NULL;
        TRY(do_round(walk, device, channel_number, own, round));
        *moved = true;
    }
    *done = all_have(walk, channel_number, own->circle, own->part.rounds); /* nobody reads its memory any more */
    return NULL;
}

/* A RECV, or a START of one. */
static mth_status receive(mth__walk *walk, int device, int channel_number, seat *own, bool *done) {
    if (!all_sent(walk, channel_number, &own->part)) return NULL;
    TRY(do_round(walk, device, channel_number, own, 0));
    for (int i = 0; i < own->part.count; i++) {
        const int peer = own->part.move[i].peer;
        if (peer != device && (i == 0 || own->part.move[i - 1].peer != peer))
            atomic_fetch_add_explicit(&seat_of(walk, channel_number, peer)->taken, 1, memory_order_acq_rel);
    }
    *done = true;
    return NULL;
}

/* ---------------------------------------------------------------- devices */
static void record(const mth__walk *walk, int device, int stream, size_t instruction_number, int64_t begin) {
    mth__recorder *recorder = mth__control_recorder(walk->control);
    if (recorder)
        mth__record(recorder,
            &(mth__recorded){
                device, stream, (int32_t)instruction_number, (int32_t)instruction_number, begin, mth__record_now()});
}
static int64_t now(const mth__walk *walk) { return mth__control_recorder(walk->control) ? mth__record_now() : 0; }

/* A part in a channel. */
static mth_status take_part(mth__walk *walk, walker *state, size_t at, bool *moved, bool *done) {
    const mth__instr *instruction = &state->role->instr.at[at];
    seat *own = seat_of(walk, instruction->channel, state->device);
    if (!own->begin) own->begin = now(walk);
    if (own->circle)
        TRY(together(walk, state->device, instruction->channel, own, moved, done));
    else
        TRY(receive(walk, state->device, instruction->channel, own, done));
    if (*done) record(walk, state->device, instruction->stream, at, own->begin);
    return NULL;
}

/* An instruction of any stream, as far as it gets. */
static mth_status perform(mth__walk *walk, walker *state, size_t at, bool *moved, bool *done) {
    const mth__instr *instruction = &state->role->instr.at[at];
    if (instruction->kind == MTH__SEND) {
        TRY(settle(walk, state->device));
        atomic_store_explicit(&seat_of(walk, instruction->channel, state->device)->came, 1, memory_order_release);
        *done = true;
        return NULL;
    }
    if (mth__has_channel(instruction)) return take_part(walk, state, at, moved, done);
    const int64_t begin = now(walk);
    TRY((instruction->kind == MTH__COPY ? walk->calls->copy : walk->calls->compute)(
        walk->context, state->device, instruction));
    record(walk, state->device, instruction->stream, at, begin);
    *done = true;
    return NULL;
}

/* Goes on with what has been started, each stream in its order. */
static mth_status advance_started(mth__walk *walk, walker *state, bool *moved) {
    for (int stream = 1; stream < MTH__STREAMS; stream++)
        for (queue *waiting = &state->stream[stream]; waiting->first < waiting->end; waiting->first++) {
            bool done = false;
            TRY(perform(walk, state, (size_t)waiting->instr[waiting->first], moved, &done));
            if (!done) break;
            state->finished[waiting->instr[waiting->first]] = true;
            *moved = true;
        }
    return NULL;
}

/* Has what a WAIT waits for happened? */
static bool is_over(const mth__walk *walk, const walker *state, size_t wait) {
    const int by = state->awaited[wait];
    const mth__instr *instruction = &state->role->instr.at[by];
    if (instruction->kind != MTH__SEND) return state->finished[by];
    const seat *own = seat_of(walk, instruction->channel, state->device);
    return atomic_load_explicit(&own->taken, memory_order_acquire) == own->readers;
}

static mth_status advance(mth__walk *walk, walker *state, bool *moved) {
    TRY(advance_started(walk, state, moved));
    for (; state->at < state->role->instr.n; state->at++, *moved = true) {
        const mth__instr *instruction = &state->role->instr.at[state->at];
        bool done = false;
        if (mth__stop_asked(mth__control_stop(walk->control))) return mth__interrupted();
        if (mth__is_started(instruction)) {
            queue *waiting = &state->stream[instruction->stream];
            waiting->instr[waiting->end++] = (int)state->at;
            TRY(advance_started(walk, state, moved));
            done = true;
        } else if (instruction->kind == MTH__WAIT) {
            done = is_over(walk, state, state->at);
        } else {
            TRY(perform(walk, state, state->at, moved, &done));
        }
        if (!done) return NULL;
    }
    return NULL;
}

static bool at_end(const walker *state) {
    for (int stream = 1; stream < MTH__STREAMS; stream++)
        if (state->stream[stream].first < state->stream[stream].end) return false;
    return state->at == state->role->instr.n;
}

static mth_status stuck(const mth__walk *walk) {
    for (int i = 0; i < walk->count; i++) {
        const walker *state = &walk->walker[i];
        if (state->at == state->role->instr.n) continue;
        const int channel_number = state->role->instr.at[state->at].channel;
        return INTERNAL("device %d waits for ever at instruction %zu, %s", state->device, state->at,
            channel_number < 0 ? "a copy" : walk->program->channel.at[channel_number].label);
    }
    return INTERNAL("a device waits for ever for what it has started");
}

/* ---------------------------------------------------------------- one thread for all */
static mth_status run_together(mth__walk *walk) {
    for (bool moved = true, left = true; left;) {
        if (!moved) return stuck(walk);
        moved = left = false;
        for (int i = 0; i < walk->count; i++) {
            TRY(advance(walk, &walk->walker[i], &moved));
            left |= !at_end(&walk->walker[i]);
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
static void changed(mth__walk *walk) {
    walk->changes++;
    walk->asleep = 0;
    pthread_cond_broadcast(&walk->change);
}

static void fail(mth__walk *walk, mth_status why) {
    pthread_mutex_lock(&walk->lock);
    if (walk->failure)
        mth_error_free(why);
    else
        walk->failure = why;
    walk->over = true;
    changed(walk);
    pthread_mutex_unlock(&walk->lock);
}

/* Sleeps until something has changed since `seen`. The last who would sleep finds that nothing ever will. */
static void sleep_until_change(mth__walk *walk, unsigned long long seen) {
    enum { PATIENCE = 10 * 1000 * 1000 /* ns between two looks at stop */, SECOND = 1000 * 1000 * 1000 };
    bool hopeless = false, asked = false;
    pthread_mutex_lock(&walk->lock);
    if (walk->changes == seen && !walk->over) hopeless = ++walk->asleep == walk->alive;
    while (!hopeless && !asked && walk->changes == seen && !walk->over) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PATIENCE;
        until.tv_sec += until.tv_nsec / SECOND;
        until.tv_nsec %= SECOND;
        pthread_cond_timedwait(&walk->change, &walk->lock, &until);
        asked = mth__stop_asked(mth__control_stop(walk->control));
    }
    pthread_mutex_unlock(&walk->lock);
    if (hopeless) fail(walk, stuck(walk));
    if (asked) fail(walk, mth__interrupted());
}

static void *walk_device(void *argument) {
    walking *own = argument;
    mth__walk *walk = own->walk;
    for (;;) {
        pthread_mutex_lock(&walk->lock);
        const unsigned long long seen = walk->changes;
        const bool over = walk->over;
        pthread_mutex_unlock(&walk->lock);
        if (over) return NULL;
        bool moved = false;
        mth_status status = advance(walk, own->walker, &moved);
        if (status) {
            fail(walk, status);
            return NULL;
        }
        const bool ends = at_end(own->walker);
        if (moved || ends) {
            pthread_mutex_lock(&walk->lock);
            if (ends) walk->alive--;
            changed(walk);
            pthread_mutex_unlock(&walk->lock);
        } else {
            sleep_until_change(walk, seen);
        }
        if (ends) return NULL;
    }
}

static mth_status run_apart(mth__walk *walk) {
    walking *all = mth__calloc((size_t)walk->count, sizeof *all);
    if (!all && walk->count) return mth__lacks_memory("a thread for each device", 0);
    pthread_mutex_init(&walk->lock, NULL);
    pthread_cond_init(&walk->change, NULL);
    walk->changes = 0;
    walk->alive = walk->count;
    walk->asleep = 0;
    walk->failure = NULL;
    walk->over = false;
    for (int i = 0; i < walk->count; i++) {
        all[i] = (walking){.walk = walk, .walker = &walk->walker[i]};
        all[i].runs = pthread_create(&all[i].thread, NULL, walk_device, &all[i]) == 0;
        if (all[i].runs) continue;
        fail(walk,
            FAIL(MTH_ERROR_MEMORY, F("the system gives no thread for device %d", walk->walker[i].device),
                F("use fewer devices, or one thread for all")));
        break;
    }
    for (int i = 0; i < walk->count && all[i].runs; i++) pthread_join(all[i].thread, NULL);
    pthread_cond_destroy(&walk->change);
    pthread_mutex_destroy(&walk->lock);
    mth__free(all);
    return walk->failure;
}

mth_status mth__walk_run(
    mth__walk *walk, const mth__walk_calls *calls, void *context, bool threads, const mth__control *control) {
    walk->calls = calls;
    walk->context = context;
    walk->control = control;
    for (size_t i = 0; i < walk->program->channel.n * (size_t)walk->program->mesh->count; i++) {
        seat *own = &walk->seat[i];
        atomic_store_explicit(&own->came, 0, memory_order_relaxed);
        atomic_store_explicit(&own->rounds, 0, memory_order_relaxed);
        atomic_store_explicit(&own->taken, 0, memory_order_relaxed);
        own->begin = 0;
    }
    for (int i = 0; i < walk->count; i++) {
        walker *state = &walk->walker[i];
        state->at = 0;
        memset(state->finished, 0, state->role->instr.n * sizeof *state->finished);
        for (int stream = 0; stream < MTH__STREAMS; stream++)
            state->stream[stream].first = state->stream[stream].end = 0;
    }
    return threads ? run_apart(walk) : run_together(walk);
}
