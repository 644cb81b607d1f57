#include "engine/walk.h"
#include "base/cores.h"
#include "base/futex.h"
#include <string.h>

/* Counts of what happened only grow, from run to run: what happens n times in a run has happened in the r-th one when
 * its count is r * n. So a run begins without touching what has not happened yet, and whoever counts the last of
 * something, and nobody else, wakes those who sleep until then. */
typedef struct {
    int n;
    int32_t *member;
    atomic_uint *past; /* by step: members that have done it. Step 0: they came; the others are the channel's rounds */
} circle;              /* the devices that a collective needs at once */
/* Where a device stands with a channel. */
typedef struct {
    const mth__instr *gives, *takes; /* what has its operand, its result; NULL: none */
    mth__channel_part part;          /* of what takes */
    const circle *circle;            /* NULL: sent and received */
    VEC(int32_t) source, target;     /* the other devices that it takes something of, that take some of what it sends */
    atomic_uint sent, taken;         /* sources that have sent, targets that have taken */
    /* the last run that got to it, and of that run: steps and moves that are done, and when it began */
    unsigned run;
    int steps, moves;
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
    unsigned *finished; /* by instruction that was started: the last run in which it was finished */
    int spin;           /* nanoseconds */
    atomic_uint asleep;
} walker;
struct mth__walk {
    const mth__program *program;
    int count;
    walker *walker;
    int32_t *device;    /* of each walker */
    walker **walker_of; /* by device */
    seat *seat;         /* [channel * devices + device] */
    bool spins;         /* there is a core for each walker */
    /* of a run */
    unsigned run;
    bool under_way; /* so it is still where the last run failed, or goes on in the process that was forked */
    const mth__walk_calls *calls;
    void *context;
    const mth__control *control;
    /* of threads */
    atomic_int left, awake; /* walkers that are not at their end; that, and do not sleep */
    _Atomic(mth_status) failure;
    atomic_bool over;
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
    all->past = NEW_ARRAY(arena, atomic_uint, mth__channel_rounds(of) + 1);
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
    for (int i = 0; apart(channel) && i < own->part.count; i++) {
        const int peer = own->part.move[i].peer;
        if (peer == device || (i > 0 && own->part.move[i - 1].peer == peer)) continue;
        PUSH(arena, own->source, peer);
        PUSH(arena, seat_of(walk, instruction->channel, peer)->target, device);
    }
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
        state->finished = NEW_ARRAY(arena, unsigned, role->instr.n);
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
    walk->device = NEW_ARRAY(arena, int32_t, walk->count);
    walk->walker_of = NEW_ARRAY(arena, walker *, program->mesh->count);
    for (int i = 0; i < walk->count; i++) {
        walk->device[i] = walk->walker[i].device;
        walk->walker_of[walk->device[i]] = &walk->walker[i];
    }
    walk->spins = mth__core_count() >= walk->count;
    *out = walk;
    return NULL;
}

/* ---------------------------------------------------------------- what happened */
static bool happened(const mth__walk *walk, const atomic_uint *count, size_t times) {
    return atomic_load(count) == walk->run * (unsigned)times;
}
/* Whether it was the last of these times. */
static bool count_one(const mth__walk *walk, atomic_uint *count, size_t times) {
    return atomic_fetch_add(count, 1) + 1 == walk->run * (unsigned)times;
}

/* What it sleeps for may have happened. Who sleeps counts as awake before it can wake. */
static void wake(mth__walk *walk, int device) {
    walker *sleeper = walk->walker_of[device];
    if (!atomic_load(&sleeper->asleep)) return;
    atomic_fetch_add(&walk->awake, 1);
    if (atomic_exchange(&sleeper->asleep, 0))
        mth__futex_wake(&sleeper->asleep, 1);
    else
        atomic_fetch_sub(&walk->awake, 1);
}

/* ---------------------------------------------------------------- channels */
static mth_status settle(mth__walk *walk, int device) {
    return walk->calls->wait ? walk->calls->wait(walk->context, device) : NULL;
}

static int value_in(const seat *own, mth__move_memory memory) {
    if (memory == MTH__MOVE_OPERAND) return own->gives->in[0];
    return memory == MTH__MOVE_RESULT ? own->takes->out[0] : (own->takes ? own->takes : own->gives)->scratch;
}

static mth_status read_move(const mth__crossing *crossing, void *data) {
    const mth__walk *walk = crossing->engine;
    if (!walk->calls->read) return INTERNAL("%s: the engine has no call that reads what crosses", crossing->channel);
    return walk->calls->read(walk->context, crossing->move, data);
}

/* Tells what asks to know it that the move takes a piece from another device. */
static mth_status announce(
    mth__walk *walk, const seat *own, const mth__channel_move *move, const mth__walk_move *transfer) {
    const mth__control *control = walk->control;
    if (!control || !control->crossing || move->peer == transfer->device) return NULL;
    mth__crossing crossing = {.channel = transfer->channel->label,
        .label = own->takes ? &own->takes->label : &own->gives->label,
        .from = move->peer,
        .to = transfer->device,
        .dtype = transfer->channel->dtype,
        .shape = {.rank = move->copy.rank},
        .bytes = mth__channel_move_bytes(transfer->channel, move),
        .read = read_move,
        .engine = walk,
        .move = transfer};
    for (int d = 0; d < move->copy.rank; d++) crossing.shape.dim[d] = move->copy.size[d];
    return control->crossing(control->crossing_context, &crossing);
}

static mth_status do_round(mth__walk *walk, int device, int channel_number, seat *own, int round) {
    const mth__channel *of = &walk->program->channel.at[channel_number];
    for (; own->moves < own->part.count && own->part.move[own->moves].round == round; own->moves++) {
        const mth__channel_move *move = &own->part.move[own->moves];
        mth__walk_move transfer = {of, device, value_in(own, move->to), move->peer,
            value_in(seat_of(walk, channel_number, move->peer), move->from), &move->copy};
        TRY(announce(walk, own, move, &transfer));
        TRY((move->reduce ? walk->calls->reduce : walk->calls->move)(walk->context, &transfer));
    }
    return settle(walk, device);
}

/* Can a device go on with its part in a channel? In a COLLECTIVE, or a START of one, when all have done the step
 * before; its part is over when all have done the last, and nobody reads its memory any more. */
static bool may_take_part(const mth__walk *walk, const seat *own) {
    if (!own->circle) return happened(walk, &own->sent, own->source.n);
    return own->run != walk->run || own->steps == 0 ||
        happened(walk, &own->circle->past[own->steps - 1], (size_t)own->circle->n);
}

/* A COLLECTIVE, or a START of one, as far as it gets. */
static mth_status together(mth__walk *walk, int device, int channel_number, seat *own, bool *moved, bool *done) {
    while (may_take_part(walk, own)) {
        if (own->steps > own->part.rounds) {
            *done = true;
            return NULL;
        }
        TRY(own->steps ? do_round(walk, device, channel_number, own, own->steps - 1) : settle(walk, device));
        *moved = true;
        if (!count_one(walk, &own->circle->past[own->steps++], (size_t)own->circle->n)) continue;
        for (int i = 0; i < own->circle->n; i++) wake(walk, own->circle->member[i]);
    }
    return NULL;
}

static mth_status send(mth__walk *walk, int device, int channel_number) {
    const seat *own = seat_of(walk, channel_number, device);
    TRY(settle(walk, device));
    for (size_t i = 0; i < own->target.n; i++) {
        seat *other = seat_of(walk, channel_number, own->target.at[i]);
        if (count_one(walk, &other->sent, other->source.n)) wake(walk, own->target.at[i]);
    }
    return NULL;
}

/* A RECV, or a START of one. */
static mth_status receive(mth__walk *walk, int device, int channel_number, seat *own, bool *done) {
    if (!may_take_part(walk, own)) return NULL;
    TRY(do_round(walk, device, channel_number, own, 0));
    for (size_t i = 0; i < own->source.n; i++) {
        seat *other = seat_of(walk, channel_number, own->source.at[i]);
        if (count_one(walk, &other->taken, other->target.n)) wake(walk, own->source.at[i]);
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
    if (own->run != walk->run) {
        own->run = walk->run;
        own->steps = own->moves = 0;
        own->begin = now(walk);
    }
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
    if (mth__has_channel(instruction) && instruction->kind != MTH__SEND) return take_part(walk, state, at, moved, done);
    *done = true;
    if (instruction->kind == MTH__SEND) return send(walk, state->device, instruction->channel);
    const int64_t begin = now(walk);
    TRY((instruction->kind == MTH__COPY ? walk->calls->copy : walk->calls->compute)(
        walk->context, state->device, instruction));
    record(walk, state->device, instruction->stream, at, begin);
    return NULL;
}

/* Has what a WAIT waits for happened? */
static bool is_over(const mth__walk *walk, const walker *state, size_t wait) {
    const int by = state->awaited[wait];
    const mth__instr *instruction = &state->role->instr.at[by];
    if (instruction->kind != MTH__SEND) return state->finished[by] == walk->run;
    const seat *own = seat_of(walk, instruction->channel, state->device);
    return happened(walk, &own->taken, own->target.n);
}

/* Goes on with what has been started, each stream in its order. */
static mth_status advance_started(mth__walk *walk, walker *state, bool *moved) {
    for (int stream = 1; stream < MTH__STREAMS; stream++)
        for (queue *waiting = &state->stream[stream]; waiting->first < waiting->end; waiting->first++) {
            bool done = false;
            TRY(perform(walk, state, (size_t)waiting->instr[waiting->first], moved, &done));
            if (!done) break;
            state->finished[waiting->instr[waiting->first]] = walk->run;
            *moved = true;
        }
    return NULL;
}

static mth_status advance(mth__walk *walk, walker *state, bool *moved) {
    TRY(advance_started(walk, state, moved));
    for (; state->at < state->role->instr.n; state->at++, *moved = true) {
        const mth__instr *instruction = &state->role->instr.at[state->at];
        bool done = false;
        if (atomic_load_explicit(&walk->over, memory_order_relaxed)) return NULL;
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

static bool may_perform(const mth__walk *walk, const walker *state, size_t at) {
    const mth__instr *instruction = &state->role->instr.at[at];
    if (instruction->kind == MTH__WAIT) return is_over(walk, state, at);
    return instruction->kind == MTH__SEND || !mth__has_channel(instruction) ||
        may_take_part(walk, seat_of(walk, instruction->channel, state->device));
}

/* Would `advance` get anywhere? */
static bool may_advance(const mth__walk *walk, const walker *state) {
    if (state->at < state->role->instr.n && may_perform(walk, state, state->at)) return true;
    for (int stream = 1; stream < MTH__STREAMS; stream++) {
        const queue *waiting = &state->stream[stream];
        if (waiting->first < waiting->end && may_perform(walk, state, (size_t)waiting->instr[waiting->first]))
            return true;
    }
    return false;
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
enum {
    SPIN = 20000, /* nanoseconds for which a walker looks whether it may go on before it sleeps, at most */
    PATIENCE = 10 * 1000 * 1000, /* between two looks of a sleeper at `stop` */
};

/* The walk is over; the first to say why is heard. */
static void fail(mth__walk *walk, mth_status why) {
    mth_status none = NULL;
    if (!atomic_compare_exchange_strong(&walk->failure, &none, why)) mth_error_free(why);
    atomic_store(&walk->over, true);
    for (int i = 0; i < walk->count; i++) wake(walk, walk->device[i]);
}

static bool may_go_on(const mth__walk *walk, const walker *state) {
    return atomic_load(&walk->over) || may_advance(walk, state);
}

/* One walker less is awake. The last one finds that nothing will ever happen; where all are at their end, nothing
 * has to. */
static mth_status rest(mth__walk *walk) {
    return atomic_fetch_sub(&walk->awake, 1) == 1 && atomic_load(&walk->left) ? stuck(walk) : NULL;
}

/* Returns when the walker may go on. A sleeper says so before its last look, so that who makes something happen after
 * that look wakes it; only then it counts as not awake. */
static mth_status wait_for_others(mth__walk *walk, walker *state) {
    for (const int64_t until = mth__record_now() + state->spin; state->spin && mth__record_now() < until; mth__pause())
        if (may_go_on(walk, state)) return NULL;
    state->spin /= 2; /* in vain: others are slow, or other programs have their cores */
    atomic_store(&state->asleep, 1);
    if (may_go_on(walk, state)) {
        if (!atomic_exchange(&state->asleep, 0)) atomic_fetch_sub(&walk->awake, 1); /* woken before it slept */
        return NULL;
    }
    TRY(rest(walk));
    while (atomic_load(&state->asleep)) {
        mth__futex_wait(&state->asleep, 1, PATIENCE);
        if (mth__stop_asked(mth__control_stop(walk->control))) return mth__interrupted();
    }
    return NULL;
}

static void walk_device(void *context, int device) {
    mth__walk *walk = context;
    walker *state = walk->walker_of[device];
    mth_status status = NULL;
    while (!status && !at_end(state) && !atomic_load(&walk->over)) {
        bool moved = false;
        status = advance(walk, state, &moved);
        if (!status && !moved) status = wait_for_others(walk, state);
    }
    if (!status && !atomic_load(&walk->over)) {
        atomic_fetch_sub(&walk->left, 1);
        status = rest(walk);
    }
    if (status) fail(walk, status);
}

static mth_status run_apart(mth__walk *walk, mth__crew *crew) {
    atomic_store(&walk->left, walk->count);
    atomic_store(&walk->awake, walk->count);
    atomic_store(&walk->failure, NULL);
    TRY(mth__crew_run(crew, walk->device, walk->count, walk_device, walk, mth__control_stop(walk->control)));
    return atomic_load(&walk->failure);
}

/* As if there had been no run. */
static void forget_runs(mth__walk *walk) {
    for (size_t i = 0; i < walk->program->channel.n * (size_t)walk->program->mesh->count; i++) {
        seat *own = &walk->seat[i];
        own->run = 0;
        atomic_store(&own->sent, 0);
        atomic_store(&own->taken, 0);
        for (int step = 0; own->circle && step <= own->part.rounds; step++) atomic_store(&own->circle->past[step], 0);
    }
    for (int i = 0; i < walk->count; i++)
        memset(walk->walker[i].finished, 0, walk->walker[i].role->instr.n * sizeof *walk->walker[i].finished);
    walk->run = 0;
}

mth_status mth__walk_run(
    mth__walk *walk, const mth__walk_calls *calls, void *context, mth__crew *crew, const mth__control *control) {
    if (walk->under_way) forget_runs(walk);
    walk->under_way = true;
    walk->run++;
    walk->calls = calls;
    walk->context = context;
    walk->control = control;
    atomic_store(&walk->over, false);
    for (int i = 0; i < walk->count; i++) {
        walker *state = &walk->walker[i];
        state->at = 0;
        state->spin = walk->spins ? SPIN : 0;
        atomic_store(&state->asleep, 0);
        for (int stream = 0; stream < MTH__STREAMS; stream++)
            state->stream[stream].first = state->stream[stream].end = 0;
    }
    mth_status status = crew ? run_apart(walk, crew) : run_together(walk);
    walk->under_way = status != NULL;
    return status;
}
