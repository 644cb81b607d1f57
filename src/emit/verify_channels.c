/* Channels: who takes part, with what; and that nobody waits for ever. The latter is proved by letting the roles run:
 * an instruction that would block hands over to the roles that it waits for. What a role waits for, each of its devices
 * waits for, and from all devices of those roles. So where the roles come to their end, the devices do too, in whatever
 * order they run. */
#include "emit/verify.h"

/* ---------------------------------------------------------------- one role's part */
static mth_status check_side(const mth__verification *proof, int i, int number, const mth__channel *channel,
    const mth__sharding *sharding, const char *verb) {
    const mth__program_value *value = &proof->role->value.at[number];
    if (value->dtype == channel->dtype && mth__shape_equal(value->shape, channel->shape) &&
        mth__sharding_equal(&value->sharding, sharding, channel->shape.rank))
        return NULL;
    return mth__refuse(proof, i, number, F("%s %s, which is not what the channel carries", verb, value->name));
}

mth_status mth__verify_part(mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    const mth__channel *channel = &proof->program->channel.at[instruction->channel];
    const int device = proof->role->device[0];
    bool gives = channel->from.on->rank_of[device] >= 0, takes = channel->to.on->rank_of[device] >= 0;
    bool apart = channel->kind == MTH__TRANSFER && channel->from.on != channel->to.on;
    bool in = gives, out = takes; /* what the instruction must have */
    if (!gives && !takes) return mth__refuse(proof, i, -1, F("the role takes no part in this channel"));
    if (apart) {
        if (instruction->kind == MTH__COLLECTIVE)
            return mth__refuse(proof, i, -1, F("between placements a transfer is sent and received"));
        if (instruction->kind == MTH__RECV && mth__is_started(instruction) && gives)
            return mth__refuse(proof, i, -1, F("a role that sends receives on stream 0"));
        in = instruction->kind == MTH__SEND;
        out = !in;
        if ((in && !gives) || (out && !takes))
            return mth__refuse(proof, i, -1, F("the role does not %s on this channel", in ? "send" : "receive"));
        if (out && gives && proof->sent_role[instruction->channel] != proof->number)
            return mth__refuse(proof, i, -1, F("it receives before it has sent its own part"));
    } else if (instruction->kind == MTH__SEND || instruction->kind == MTH__RECV) {
        return mth__refuse(
            proof, i, -1, F("%s is done by all at once, not sent and received", mth__channel_names[channel->kind]));
    }
    if (instruction->nin != in || instruction->nout != out)
        return mth__refuse(proof, i, -1,
            F("it has %d operands and %d results, and needs %d and %d", instruction->nin, instruction->nout, in, out));
    if (in) {
        TRY(check_side(proof, i, instruction->in[0], channel, &channel->from, "gives"));
        if (proof->sent_role[instruction->channel] == proof->number)
            return mth__refuse(proof, i, -1, F("the role gives to the channel twice"));
        proof->sent_role[instruction->channel] = proof->number;
        proof->sent[instruction->channel] += proof->role->ndevice;
    }
    if (out) {
        TRY(check_side(proof, i, instruction->out[0], channel, &channel->to, "takes"));
        if (proof->taken_role[instruction->channel] == proof->number)
            return mth__refuse(proof, i, -1, F("the role takes from the channel twice"));
        proof->taken_role[instruction->channel] = proof->number;
        proof->taken[instruction->channel] += proof->role->ndevice;
    }
    int64_t scratch = apart ? 0 : mth__channel_scratch(channel, device);
    if (scratch > 0 && (instruction->scratch < 0 || proof->role->value.at[instruction->scratch].bytes < scratch))
        return mth__refuse(proof, i, instruction->scratch,
            F("%s needs %lld bytes of scratch", mth__algorithm_names[channel->algorithm], (long long)scratch));
    return NULL;
}

/* ---------------------------------------------------------------- everyone's */
static bool gives_part(const mth__role *role, const mth__instr *instruction, int channel_number) {
    (void)role;
    return mth__has_channel(instruction) && instruction->channel == channel_number && instruction->nin > 0;
}
static bool takes_part(const mth__role *role, const mth__instr *instruction, int channel_number) {
    (void)role;
    return mth__has_channel(instruction) && instruction->channel == channel_number && instruction->nout > 0;
}

/* Names a device of the placement that has no such instruction. */
static mth_status absent(mth__verification *proof, size_t channel_number, const mth__placement *on, bool gives) {
    const mth__channel *channel = &proof->program->channel.at[channel_number];
    int d = mth__verify_lacking(proof, on, gives ? gives_part : takes_part, (int)channel_number);
    if (d < 0) return INTERNAL("channel c%zu: devices are counted wrongly", channel_number);
    return mth__error_operator(FAIL(MTH_ERROR_VALUE,
                                   F("channel c%zu, %s: device %d (role %d) must %s and does not", channel_number,
                                       mth__channel_names[channel->kind], d, proof->program->role_of[d],
                                       gives ? "give its part" : "take its part"),
                                   F("let every device of the channel's placements take part in it")),
        channel->label);
}

/* A role on its way: the next instruction of stream 0; of each other stream how many are started and done; whether
 * they have arrived where they stand. */
typedef struct {
    int next, started[MTH__STREAMS], done[MTH__STREAMS];
    bool arrived[MTH__STREAMS], queued;
} stand;
/* of a channel: devices that have; 1 + the first of a list of roles to wake */
typedef struct {
    int64_t given, taken;
    int waiting;
} channel_state;
typedef struct {
    int role, next;
} waiter;
typedef struct {
    mth__verification *proof;
    stand *stand;
    channel_state *state;
    int *queue;
    size_t head, n; /* of roles, around */
    /* by role and stream: what is started on it, in order; by role and instruction: of a WAIT what it waits for, of
       what is started its place on its stream */
    int *(*start)[MTH__STREAMS], **link;
    VEC(waiter) waiter;
} race;

static const mth__instr *instr_at(const race *pass, int role_number, int i) {
    return &pass->proof->program->role.at[role_number].instr.at[i];
}

static void wake(race *pass, int role_number) {
    if (pass->stand[role_number].queued) return;
    pass->stand[role_number].queued = true;
    pass->queue[(pass->head + pass->n++) % pass->proof->program->role.n] = role_number;
}

static void count(race *pass, int channel_number, int64_t given, int64_t taken) {
    const mth__channel *channel = &pass->proof->program->channel.at[channel_number];
    channel_state *state = &pass->state[channel_number];
    state->given += given;
    state->taken += taken;
    if (!(given && state->given == channel->from.on->count) && !(taken && state->taken == channel->to.on->count))
        return;
    for (int k = state->waiting; k; k = pass->waiter.at[k - 1].next) wake(pass, pass->waiter.at[k - 1].role);
    state->waiting = 0;
}

static void wait_on(race *pass, int role_number, int channel_number) {
    PUSH(pass->proof->arena, pass->waiter, ((waiter){role_number, pass->state[channel_number].waiting}));
    pass->state[channel_number].waiting = (int)pass->waiter.n;
}

/* A part in a channel, on one of the role's streams: true when it is done. */
static bool pass_part(race *pass, int role_number, const mth__instr *instruction, bool *arrived) {
    const mth__channel *channel = &pass->proof->program->channel.at[instruction->channel];
    const int64_t devices = pass->proof->program->role.at[role_number].ndevice;
    const channel_state *state = &pass->state[instruction->channel];
    bool apart = channel->kind == MTH__TRANSFER && channel->from.on != channel->to.on;
    if (!*arrived) {
        *arrived = true;
        count(pass, instruction->channel, instruction->nin ? devices : 0, instruction->nout && !apart ? devices : 0);
    }
    if (instruction->kind != MTH__SEND &&
        (state->given < channel->from.on->count || (!apart && state->taken < channel->to.on->count))) {
        wait_on(pass, role_number, instruction->channel);
        return false;
    }
    if (apart && instruction->nout) count(pass, instruction->channel, 0, devices);
    *arrived = false;
    return true;
}

static bool pass_wait(race *pass, int role_number, int i) {
    int by = pass->link[role_number][i];
    const mth__instr *opener = instr_at(pass, role_number, by);
    if (mth__is_started(opener)) return pass->link[role_number][by] < pass->stand[role_number].done[opener->stream];
    if (pass->state[opener->channel].taken == pass->proof->program->channel.at[opener->channel].to.on->count)
        return true;
    wait_on(pass, role_number, opener->channel);
    return false;
}

/* As far as the role comes. */
static void run_role(race *pass, int role_number) {
    stand *state = &pass->stand[role_number];
    const int n = (int)pass->proof->program->role.at[role_number].instr.n;
    for (bool progress = true; progress;) {
        progress = false;
        for (int on = 1; on < MTH__STREAMS; on++)
            while (state->done[on] < state->started[on]) {
                const mth__instr *instruction =
                    instr_at(pass, role_number, pass->start[role_number][on][state->done[on]]);
                if (mth__has_channel(instruction) && !pass_part(pass, role_number, instruction, &state->arrived[on]))
                    break;
                state->done[on]++;
                progress = true;
            }
        while (state->next < n) {
            const mth__instr *instruction = instr_at(pass, role_number, state->next);
            if (instruction->kind == MTH__WAIT && !pass_wait(pass, role_number, state->next)) break;
            if (mth__has_channel(instruction) && !mth__is_started(instruction) &&
                !pass_part(pass, role_number, instruction, &state->arrived[0]))
                break;
            if (mth__is_started(instruction)) state->started[instruction->stream]++;
            state->next++;
            progress = true;
        }
    }
}

static void link_role(race *pass, int role_number) {
    const mth__role *role = &pass->proof->program->role.at[role_number];
    int started[MTH__STREAMS] = {0}, *begun = NULL;
    pass->link[role_number] = NEW_ARRAY(pass->proof->arena, int, role->instr.n);
    for (size_t i = 0; i < role->instr.n; i++) started[role->instr.at[i].stream]++;
    for (int on = 1; on < MTH__STREAMS; on++) {
        pass->start[role_number][on] = NEW_ARRAY(pass->proof->arena, int, started[on]);
        if (on != 1 && started[on]) begun = NEW_ARRAY(pass->proof->arena, int, role->value.n);
        started[on] = 0;
    }
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        const bool opens = instruction->kind == MTH__SEND || mth__is_started(instruction);
        if (opens)
            *(instruction->channel >= 0 ? &pass->proof->opened_by[instruction->channel] : &begun[instruction->out[0]]) =
                i;
        if (instruction->kind == MTH__WAIT)
            pass->link[role_number][i] =
                instruction->channel >= 0 ? pass->proof->opened_by[instruction->channel] : begun[instruction->awaited];
        if (!mth__is_started(instruction)) continue;
        pass->link[role_number][i] = started[instruction->stream];
        pass->start[role_number][instruction->stream][started[instruction->stream]++] = i;
    }
}

static bool is_through(const race *pass, int role_number) {
    const stand *state = &pass->stand[role_number];
    bool through = state->next == (int)pass->proof->program->role.at[role_number].instr.n;
    for (int on = 1; on < MTH__STREAMS; on++) through &= state->done[on] == state->started[on];
    return through;
}

/* The instruction at which a role that is not through stands. */
static int stuck_at(const race *pass, int role_number) {
    const stand *state = &pass->stand[role_number];
    int at = state->next, n = (int)pass->proof->program->role.at[role_number].instr.n;
    for (int on = 1; on < MTH__STREAMS && at == n; on++)
        if (state->done[on] < state->started[on]) at = pass->start[role_number][on][state->done[on]];
    return at;
}

static mth_status deadlock(race *pass, int role_number) {
    enum { NAMED = 3 };
    mth__text others = mth__text_new(pass->proof->arena);
    int named = 0;
    for (size_t other = (size_t)role_number + 1; other < pass->proof->program->role.n && named <= NAMED; other++) {
        if (is_through(pass, (int)other)) continue;
        int i = stuck_at(pass, (int)other);
        if (named < NAMED)
            mth__text_add(&others, "%s role %zu at instruction %d (c%d)", named ? "," : "; so do", other, i,
                instr_at(pass, (int)other, i)->channel);
        else
            mth__text_add(&others, " and others");
        named++;
    }
    pass->proof->role = &pass->proof->program->role.at[role_number];
    pass->proof->number = role_number;
    return mth__refuse(
        pass->proof, stuck_at(pass, role_number), -1, F("a deadlock: it waits for ever%s", named ? others.at : ""));
}

mth_status mth__verify_channels(mth__verification *proof) {
    const mth__program *program = proof->program;
    const size_t roles = program->role.n;
    for (size_t channel_number = 0; channel_number < program->channel.n; channel_number++) {
        if (proof->sent[channel_number] != program->channel.at[channel_number].from.on->count)
            return absent(proof, channel_number, program->channel.at[channel_number].from.on, true);
        if (proof->taken[channel_number] != program->channel.at[channel_number].to.on->count)
            return absent(proof, channel_number, program->channel.at[channel_number].to.on, false);
    }
    race pass = {.proof = proof,
        .stand = NEW_ARRAY(proof->arena, stand, roles),
        .state = NEW_ARRAY(proof->arena, channel_state, program->channel.n),
        .queue = NEW_ARRAY(proof->arena, int, roles),
        .start = mth__alloc_array(proof->arena, roles, sizeof *pass.start),
        .link = NEW_ARRAY(proof->arena, int *, roles)};
    for (size_t i = 0; i < roles; i++) {
        link_role(&pass, (int)i);
        wake(&pass, (int)i);
    }
    while (pass.n) {
        int role_number = pass.queue[pass.head];
        pass.head = (pass.head + 1) % roles;
        pass.n--;
        pass.stand[role_number].queued = false;
        TRY(mth__stop_check());
        run_role(&pass, role_number);
    }
    for (size_t i = 0; i < roles; i++)
        if (!is_through(&pass, (int)i)) return deadlock(&pass, (int)i);
    return NULL;
}
