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
    const mth__instr *instr = &proof->role->instr.at[i];
    const mth__channel *channel = &proof->program->channel.at[instr->channel];
    const int device = proof->role->device[0];
    bool gives = channel->from.on->rank_of[device] >= 0, takes = channel->to.on->rank_of[device] >= 0;
    bool apart = channel->kind == MTH__TRANSFER && channel->from.on != channel->to.on;
    bool in = gives, out = takes; /* what the instruction must have */
    if (!gives && !takes) return mth__refuse(proof, i, -1, F("the role takes no part in this channel"));
    if (apart) {
        if (instr->kind == MTH__COLLECTIVE)
            return mth__refuse(proof, i, -1, F("between placements a transfer is sent and received"));
        if (instr->kind == MTH__RECV && mth__is_started(instr) && gives)
            return mth__refuse(proof, i, -1, F("a role that sends receives on stream 0"));
        in = instr->kind == MTH__SEND;
        out = !in;
        if ((in && !gives) || (out && !takes))
            return mth__refuse(proof, i, -1, F("the role does not %s on this channel", in ? "send" : "receive"));
        if (out && gives && proof->sent_role[instr->channel] != proof->number)
            return mth__refuse(proof, i, -1, F("it receives before it has sent its own part"));
    } else if (instr->kind == MTH__SEND || instr->kind == MTH__RECV) {
        return mth__refuse(
            proof, i, -1, F("%s is done by all at once, not sent and received", mth__channel_names[channel->kind]));
    }
    if (instr->nin != in || instr->nout != out)
        return mth__refuse(proof, i, -1,
            F("it has %d operands and %d results, and needs %d and %d", instr->nin, instr->nout, in, out));
    if (in) {
        TRY(check_side(proof, i, instr->in[0], channel, &channel->from, "gives"));
        if (proof->sent_role[instr->channel] == proof->number)
            return mth__refuse(proof, i, -1, F("the role gives to the channel twice"));
        proof->sent_role[instr->channel] = proof->number;
        proof->sent[instr->channel] += proof->role->ndevice;
    }
    if (out) {
        TRY(check_side(proof, i, instr->out[0], channel, &channel->to, "takes"));
        if (proof->taken_role[instr->channel] == proof->number)
            return mth__refuse(proof, i, -1, F("the role takes from the channel twice"));
        proof->taken_role[instr->channel] = proof->number;
        proof->taken[instr->channel] += proof->role->ndevice;
    }
    int64_t scratch = apart ? 0 : mth__channel_scratch(channel, device);
    if (scratch > 0 && (instr->scratch < 0 || proof->role->value.at[instr->scratch].bytes < scratch))
        return mth__refuse(proof, i, instr->scratch,
            F("%s needs %lld bytes of scratch", mth__algorithm_names[channel->algorithm], (long long)scratch));
    return NULL;
}

/* ---------------------------------------------------------------- everyone's */
static bool gives_part(const mth__role *role, const mth__instr *instr, int channel) {
    (void)role;
    return mth__has_channel(instr) && instr->channel == channel && instr->nin > 0;
}
static bool takes_part(const mth__role *role, const mth__instr *instr, int channel) {
    (void)role;
    return mth__has_channel(instr) && instr->channel == channel && instr->nout > 0;
}

/* Names a device of the placement that has no such instruction. */
static mth_status absent(mth__verification *proof, size_t channel, const mth__placement *on, bool gives) {
    const mth__channel *record = &proof->program->channel.at[channel];
    int d = mth__verify_lacking(proof, on, gives ? gives_part : takes_part, (int)channel);
    if (d < 0) return INTERNAL("channel c%zu: devices are counted wrongly", channel);
    return mth__error_operator(
        FAIL(MTH_ERROR_VALUE,
            F("channel c%zu, %s: device %d (role %d) must %s and does not", channel, mth__channel_names[record->kind],
                d, proof->program->role_of[d], gives ? "give its part" : "take its part"),
            F("let every device of the channel's placements take part in it")),
        record->label);
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

static const mth__instr *instr_at(const race *pass, int role, int i) {
    return &pass->proof->program->role.at[role].instr.at[i];
}

static void wake(race *pass, int role) {
    if (pass->stand[role].queued) return;
    pass->stand[role].queued = true;
    pass->queue[(pass->head + pass->n++) % pass->proof->program->role.n] = role;
}

static void count(race *pass, int channel, int64_t given, int64_t taken) {
    const mth__channel *record = &pass->proof->program->channel.at[channel];
    channel_state *state = &pass->state[channel];
    state->given += given;
    state->taken += taken;
    if (!(given && state->given == record->from.on->count) && !(taken && state->taken == record->to.on->count)) return;
    for (int k = state->waiting; k; k = pass->waiter.at[k - 1].next) wake(pass, pass->waiter.at[k - 1].role);
    state->waiting = 0;
}

static void wait_on(race *pass, int role, int channel) {
    PUSH(pass->proof->arena, pass->waiter, ((waiter){role, pass->state[channel].waiting}));
    pass->state[channel].waiting = (int)pass->waiter.n;
}

/* A part in a channel, on one of the role's streams: true when it is done. */
static bool pass_part(race *pass, int role, const mth__instr *instruction, bool *arrived) {
    const mth__channel *channel = &pass->proof->program->channel.at[instruction->channel];
    const int64_t devices = pass->proof->program->role.at[role].ndevice;
    const channel_state *state = &pass->state[instruction->channel];
    bool apart = channel->kind == MTH__TRANSFER && channel->from.on != channel->to.on;
    if (!*arrived) {
        *arrived = true;
        count(pass, instruction->channel, instruction->nin ? devices : 0, instruction->nout && !apart ? devices : 0);
    }
    if (instruction->kind != MTH__SEND &&
        (state->given < channel->from.on->count || (!apart && state->taken < channel->to.on->count))) {
        wait_on(pass, role, instruction->channel);
        return false;
    }
    if (apart && instruction->nout) count(pass, instruction->channel, 0, devices);
    *arrived = false;
    return true;
}

static bool pass_wait(race *pass, int role, int i) {
    int by = pass->link[role][i];
    const mth__instr *opener = instr_at(pass, role, by);
    if (mth__is_started(opener)) return pass->link[role][by] < pass->stand[role].done[opener->stream];
    if (pass->state[opener->channel].taken == pass->proof->program->channel.at[opener->channel].to.on->count)
        return true;
    wait_on(pass, role, opener->channel);
    return false;
}

/* As far as the role comes. */
static void run_role(race *pass, int role) {
    stand *state = &pass->stand[role];
    const int n = (int)pass->proof->program->role.at[role].instr.n;
    for (bool progress = true; progress;) {
        progress = false;
        for (int on = 1; on < MTH__STREAMS; on++)
            while (state->done[on] < state->started[on]) {
                const mth__instr *instr = instr_at(pass, role, pass->start[role][on][state->done[on]]);
                if (mth__has_channel(instr) && !pass_part(pass, role, instr, &state->arrived[on])) break;
                state->done[on]++;
                progress = true;
            }
        while (state->next < n) {
            const mth__instr *instr = instr_at(pass, role, state->next);
            if (instr->kind == MTH__WAIT && !pass_wait(pass, role, state->next)) break;
            if (mth__has_channel(instr) && !mth__is_started(instr) && !pass_part(pass, role, instr, &state->arrived[0]))
                break;
            if (mth__is_started(instr)) state->started[instr->stream]++;
            state->next++;
            progress = true;
        }
    }
}

static void link_role(race *pass, int role) {
    const mth__role *record = &pass->proof->program->role.at[role];
    int started[MTH__STREAMS] = {0}, *begun = NULL;
    pass->link[role] = NEW_ARRAY(pass->proof->arena, int, record->instr.n);
    for (size_t i = 0; i < record->instr.n; i++) started[record->instr.at[i].stream]++;
    for (int on = 1; on < MTH__STREAMS; on++) {
        pass->start[role][on] = NEW_ARRAY(pass->proof->arena, int, started[on]);
        if (on != 1 && started[on]) begun = NEW_ARRAY(pass->proof->arena, int, record->value.n);
        started[on] = 0;
    }
    for (int i = 0; i < (int)record->instr.n; i++) {
        const mth__instr *instr = &record->instr.at[i];
        const bool opens = instr->kind == MTH__SEND || mth__is_started(instr);
        if (opens) *(instr->channel >= 0 ? &pass->proof->opened_by[instr->channel] : &begun[instr->out[0]]) = i;
        if (instr->kind == MTH__WAIT)
            pass->link[role][i] = instr->channel >= 0 ? pass->proof->opened_by[instr->channel] : begun[instr->awaited];
        if (!mth__is_started(instr)) continue;
        pass->link[role][i] = started[instr->stream];
        pass->start[role][instr->stream][started[instr->stream]++] = i;
    }
}

static bool is_through(const race *pass, int role) {
    const stand *state = &pass->stand[role];
    bool through = state->next == (int)pass->proof->program->role.at[role].instr.n;
    for (int on = 1; on < MTH__STREAMS; on++) through &= state->done[on] == state->started[on];
    return through;
}

/* The instruction at which a role that is not through stands. */
static int stuck_at(const race *pass, int role) {
    const stand *state = &pass->stand[role];
    int at = state->next, n = (int)pass->proof->program->role.at[role].instr.n;
    for (int on = 1; on < MTH__STREAMS && at == n; on++)
        if (state->done[on] < state->started[on]) at = pass->start[role][on][state->done[on]];
    return at;
}

static mth_status deadlock(race *pass, int role) {
    enum { NAMED = 3 };
    mth__text others = mth__text_new(pass->proof->arena);
    int named = 0;
    for (size_t other = (size_t)role + 1; other < pass->proof->program->role.n && named <= NAMED; other++) {
        if (is_through(pass, (int)other)) continue;
        int i = stuck_at(pass, (int)other);
        if (named < NAMED)
            mth__text_add(&others, "%s role %zu at instruction %d (c%d)", named ? "," : "; so do", other, i,
                instr_at(pass, (int)other, i)->channel);
        else
            mth__text_add(&others, " and others");
        named++;
    }
    pass->proof->role = &pass->proof->program->role.at[role];
    pass->proof->number = role;
    return mth__refuse(
        pass->proof, stuck_at(pass, role), -1, F("a deadlock: it waits for ever%s", named ? others.at : ""));
}

mth_status mth__verify_channels(mth__verification *proof) {
    const mth__program *program = proof->program;
    const size_t roles = program->role.n;
    for (size_t channel = 0; channel < program->channel.n; channel++) {
        if (proof->sent[channel] != program->channel.at[channel].from.on->count)
            return absent(proof, channel, program->channel.at[channel].from.on, true);
        if (proof->taken[channel] != program->channel.at[channel].to.on->count)
            return absent(proof, channel, program->channel.at[channel].to.on, false);
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
        int role = pass.queue[pass.head];
        pass.head = (pass.head + 1) % roles;
        pass.n--;
        pass.stand[role].queued = false;
        TRY(mth__stop_check());
        run_role(&pass, role);
    }
    for (size_t i = 0; i < roles; i++)
        if (!is_through(&pass, (int)i)) return deadlock(&pass, (int)i);
    return NULL;
}
