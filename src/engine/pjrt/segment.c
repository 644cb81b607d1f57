#include "engine/pjrt/segment.h"
#include "base/table.h"
#include <string.h>

/* ---------------------------------------------------------------- parts */
mth__shape mth__xla_part(const mth__program_value *value, mth__shape *whole) {
    mth__shape part = value->shape;
    for (int d = 0; d < part.rank; d++) {
        int64_t k = 1;
        for (int axis = 0; axis < value->sharding.dim[d].naxes; axis++)
            k *= value->sharding.on->dim[value->sharding.dim[d].axis[axis]];
        part.dim[d] = mth__ceil_div(part.dim[d], k);
        if (whole) whole->dim[d] = part.dim[d] * k;
    }
    if (whole) whole->rank = part.rank;
    return part;
}

mth__hlo_part *mth__part_of(mth__arena *arena, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding,
    int count, const int32_t *device) {
    mth__hlo_part *part = NEW(arena, mth__hlo_part);
    typedef int64_t coordinates[MTH__RANK];
    *part = (mth__hlo_part){.dtype = dtype,
        .shape = shape,
        .local = mth__largest_part(shape, sharding),
        .sharding = sharding,
        .start = NEW_ARRAY(arena, coordinates, count),
        .size = NEW_ARRAY(arena, coordinates, count),
        .step = NEW_ARRAY(arena, coordinates, count)};
    for (int i = 0; i < count; i++) {
        int rank = sharding->on->rank_of[device[i]];
        for (int d = 0; d < MTH__RANK; d++) part->step[i][d] = 1;
        if (rank >= 0)
            memcpy(part->size[i], mth__local_shape(shape, sharding, rank, part->start[i], part->step[i]).dim,
                sizeof part->size[i]);
        for (int d = 0; d < shape.rank; d++) part->padded[d] |= part->size[i][d] < part->local.dim[d];
    }
    return part;
}

/* ---------------------------------------------------------------- slots */
typedef struct {
    int key;
    size_t members; /* of its roles: whose next instruction it is */
} wanted_key;
typedef struct {
    mth__segments *segments;
    mth__arena *arena; /* scratch */
    const mth__program *program;
    mth__table names; /* of slots */
    /* Keys: what makes instructions of several roles one. A slot: the computation that makes it; behind them two a
       channel: who takes part or receives, who sends. */
    int keys;
    VEC(int) * member;      /* by key: roles */
    bool *done;             /* by key */
    size_t *at;             /* by role: the instruction that is next */
    mth__segment **open;    /* by role: the segment that may go on; NULL: none */
    VEC(wanted_key) wanted; /* each waits for the one behind it */
} merging;

typedef struct {
    const mth__segments *segments;
    const mth__program_value *value;
} slot_key;

/* An input that two placements use has a value, of one name, for each. Where else a value lies is each role's own
   matter: sizes of parts decide what is written in place. */
static bool is_slot(const void *key, int number) {
    const mth__program_value *wanted = ((const slot_key *)key)->value,
                             *known = ((const slot_key *)key)->segments->slot.at[number].any;
    const bool entry = wanted->storage == MTH__IN_ENTRY;
    return !strcmp(known->name, wanted->name) && entry == (known->storage == MTH__IN_ENTRY) &&
        (!entry || known->index == wanted->index);
}

static int slot_named(merging *pass, const mth__program_value *value) {
    const int next = (int)pass->segments->slot.n,
              number = mth__table_add(pass->arena, &pass->names, mth__hash_text(value->name, strlen(value->name)),
                  is_slot, &(slot_key){pass->segments, value}, next);
    if (number == next)
        PUSH(pass->segments->arena, pass->segments->slot,
            ((mth__slot){.any = value,
                .view_of = number,
                .local = pass->segments->global ? value->shape : mth__largest_part(value->shape, &value->sharding),
                .last_read = MTH__NEVER}));
    return number;
}

static void make_slots(merging *pass) {
    pass->segments->slot_of = NEW_ARRAY(pass->segments->arena, int *, pass->program->role.n);
    pass->segments->entry_slot = NEW_ARRAY(pass->segments->arena, int, pass->program->entry.n);
    memset(pass->segments->entry_slot, -1, pass->program->entry.n * sizeof *pass->segments->entry_slot);
    for (size_t k = 0; k < pass->program->role.n; k++) {
        const mth__role *role = &pass->program->role.at[k];
        int *of = pass->segments->slot_of[k] = NEW_ARRAY(pass->segments->arena, int, role->value.n);
        for (size_t id = 0; id < role->value.n; id++) {
            const mth__program_value *value = &role->value.at[id];
            of[id] = slot_named(pass, value);
            if (value->storage == MTH__IN_ALIAS) pass->segments->slot.at[of[id]].view_of = of[value->index];
            if (value->storage == MTH__IN_ENTRY) pass->segments->entry_slot[value->index] = of[id];
        }
    }
}

/* ---------------------------------------------------------------- merging the roles' lists */
static bool is_move(const mth__channel *channel) {
    return channel->kind == MTH__TRANSFER ? !mth__is_exchange(channel)
                                          : channel->kind == MTH__BROADCAST && channel->algorithm == MTH__DIRECT;
}

/* -1: a WAIT, which the order of buffers makes needless */
static int key_of(const merging *pass, int role_number, const mth__instr *instruction) {
    if (instruction->kind == MTH__WAIT) return -1;
    if (instruction->kind == MTH__COMPUTE) return pass->segments->slot_of[role_number][instruction->out[0]];
    return (int)pass->segments->slot.n + 2 * instruction->channel + (instruction->kind == MTH__SEND);
}

static const mth__instr *head(merging *pass, int role_number) {
    const mth__role *at = &pass->program->role.at[role_number];
    while (pass->at[role_number] < at->instr.n && at->instr.at[pass->at[role_number]].kind == MTH__WAIT)
        pass->at[role_number]++;
    return pass->at[role_number] < at->instr.n ? &at->instr.at[pass->at[role_number]] : NULL;
}

/* Do both belong to one microbatch on its way through one stage, or both to no microbatch? */
static bool same_unit(const mth__instr *a, const mth__instr *b) {
    return a->label.microbatch == b->label.microbatch &&
        (a->label.microbatch < 0 || mth__same_unit(&a->label, &b->label));
}

static mth__segment *segment_for(merging *pass, int key, const mth__instr *instruction) {
    mth__segment *last = pass->open[pass->member[key].at[0]];
    int devices = 0;
    bool same = last && (pass->segments->global || same_unit(last->instr.at[0].instr, instruction));
    for (size_t i = 0; i < pass->member[key].n; i++) {
        same &= pass->open[pass->member[key].at[i]] == last;
        devices += pass->program->role.at[pass->member[key].at[i]].ndevice;
    }
    if (same && last->count == devices) return last;
    mth__segment *segment = NEW(pass->segments->arena, mth__segment);
    bool *in = NEW_ARRAY(pass->arena, bool, pass->program->mesh->count);
    for (size_t i = 0; i < pass->member[key].n; i++) {
        const mth__role *role = &pass->program->role.at[pass->member[key].at[i]];
        for (int k = 0; k < role->ndevice; k++) in[role->device[k]] = true;
        pass->open[pass->member[key].at[i]] = segment;
    }
    int32_t *device = NEW_ARRAY(pass->segments->arena, int32_t, devices);
    for (int d = 0; d < pass->program->mesh->count; d++)
        if (in[d]) device[segment->count++] = d;
    segment->device = device;
    PUSH(pass->segments->arena, pass->segments->work, ((mth__work){.segment = segment}));
    return segment;
}

/* The operand and the result of a channel: some roles may have one of them alone. */
static void channel_slots(const merging *pass, int key, int *from, int *to) {
    int channel_number = (key - (int)pass->segments->slot.n) / 2;
    for (int sends = 0; sends < 2; sends++) {
        int k = (int)pass->segments->slot.n + 2 * channel_number + sends;
        for (size_t i = 0; i < pass->member[k].n; i++) {
            int role_number = pass->member[k].at[i];
            const mth__role *at = &pass->program->role.at[role_number];
            for (size_t j = 0; j < at->instr.n; j++) { /* as a rule the head */
                const mth__instr *instruction =
                    &at->instr.at[pass->at[role_number] + j < at->instr.n ? pass->at[role_number] + j
                                                                          : pass->at[role_number] + j - at->instr.n];
                if (instruction->kind == MTH__COMPUTE || instruction->kind == MTH__WAIT ||
                    instruction->channel != channel_number || (instruction->kind == MTH__SEND) != sends)
                    continue;
                if (instruction->nin) *from = pass->segments->slot_of[role_number][instruction->in[0]];
                if (instruction->nout) *to = pass->segments->slot_of[role_number][instruction->out[0]];
                break;
            }
        }
    }
}

static bool is_cut(const mth__segments *segments, int slot) {
    return segments->slot.at[segments->slot.at[slot].view_of].cut;
}

static void put(merging *pass, int key, int role_number, const mth__instr *instruction) {
    const bool channel = instruction->kind != MTH__COMPUTE;
    const mth__channel *of = channel ? &pass->program->channel.at[instruction->channel] : NULL;
    if (instruction->kind == MTH__SEND || (channel && is_move(of))) {
        int from = -1, to = -1;
        if (instruction->kind != MTH__SEND) {
            channel_slots(pass, key, &from, &to);
            pass->segments->slot.at[to].cut = is_cut(pass->segments, from);
            PUSH(pass->segments->arena, pass->segments->work, ((mth__work){.hop = {of, from, to}}));
        }
        for (size_t k = 0; k < pass->member[key].n; k++) pass->open[pass->member[key].at[k]] = NULL;
        return;
    }
    mth__segment *segment = segment_for(pass, key, instruction);
    mth__seg_instr step = {.instr = instruction,
        .role = &pass->program->role.at[role_number],
        .nin = instruction->nin,
        .nout = instruction->nout};
    if (channel) step.nin = step.nout = 1;
    step.in = NEW_ARRAY(pass->segments->arena, int, step.nin + step.nout);
    step.out = step.in + step.nin;
    if (channel) channel_slots(pass, key, &step.in[0], &step.out[0]);
    for (int j = 0; j < instruction->nin && !channel; j++)
        step.in[j] = pass->segments->slot_of[role_number][instruction->in[j]];
    for (int j = 0; j < instruction->nout && !channel; j++)
        step.out[j] = pass->segments->slot_of[role_number][instruction->out[j]];
    bool cut = false;
    for (int j = 0; j < step.nin; j++) cut |= is_cut(pass->segments, step.in[j]);
    const bool takes = !channel && instruction->label.microbatch >= 0 &&
        ((instruction->op->row == MTH__ROW_slice && !cut) || instruction->op->row == MTH__ROW_dropout);
    step.by_microbatch = takes && !pass->segments->global;
    for (int j = 0; j < step.nout; j++) pass->segments->slot.at[step.out[j]].cut = cut || takes;
    PUSH(pass->segments->arena, segment->instr, step);
}

/* The key that must be put before `wanted` can be: that of its sender, or of what one of its roles has before it; -1:
   none. */
static mth_status next_before(merging *pass, wanted_key *wanted, int *before) {
    const int key = wanted->key, channel_number = (key - (int)pass->segments->slot.n) / 2;
    const bool takes = key >= (int)pass->segments->slot.n && !((key - (int)pass->segments->slot.n) & 1);
    *before = key + 1;
    if (takes && pass->member[key + 1].n && !pass->done[key + 1]) return NULL;
    for (; wanted->members < pass->member[key].n; wanted->members++) {
        int role_number = pass->member[key].at[wanted->members];
        const mth__instr *instruction = head(pass, role_number);
        if (!instruction) return INTERNAL("an instruction of channel %d is missing on a role", channel_number);
        *before = key_of(pass, role_number, instruction);
        if (*before != key) return NULL;
    }
    *before = -1;
    return NULL;
}

/* Puts what `key` names, after all that its roles have before it. All roles' lists follow one order, so this ends. */
static mth_status bring(merging *pass, int key) {
    pass->wanted.n = 0;
    PUSH(pass->arena, pass->wanted, ((wanted_key){key, 0}));
    while (pass->wanted.n) {
        wanted_key *last = &pass->wanted.at[pass->wanted.n - 1];
        int before = -1;
        if (pass->wanted.n > 2 * pass->program->role.n + 3)
            return INTERNAL("the lists of a program's roles follow no common order");
        if (!pass->done[last->key]) TRY(next_before(pass, last, &before));
        if (before >= 0) {
            PUSH(pass->arena, pass->wanted, ((wanted_key){before, 0}));
            continue;
        }
        key = last->key;
        pass->wanted.n--;
        if (pass->done[key]) continue;
        pass->done[key] = true;
        int first = pass->member[key].at[0];
        put(pass, key, first, head(pass, first));
        for (size_t i = 0; i < pass->member[key].n; i++) pass->at[pass->member[key].at[i]]++;
    }
    return NULL;
}

static mth_status merge(merging *pass) {
    const mth__program *program = pass->program;
    pass->keys = (int)(pass->segments->slot.n + 2 * program->channel.n);
    pass->member = (void *)NEW_ARRAY(pass->arena, VEC(int), pass->keys + 1);
    pass->done = NEW_ARRAY(pass->arena, bool, pass->keys + 1);
    pass->at = NEW_ARRAY(pass->arena, size_t, program->role.n);
    pass->open = NEW_ARRAY(pass->arena, mth__segment *, program->role.n);
    for (size_t k = 0; k < program->role.n; k++)
        for (size_t i = 0; i < program->role.at[k].instr.n; i++) {
            int key = key_of(pass, (int)k, &program->role.at[k].instr.at[i]);
            if (key >= 0) PUSH(pass->arena, pass->member[key], (int)k);
        }
    for (size_t k = 0; k < program->role.n; k++)
        for (const mth__instr *instruction; (instruction = head(pass, (int)k));)
            TRY(bring(pass, key_of(pass, (int)k, instruction)));
    return NULL;
}

/* ---------------------------------------------------------------- what comes in and goes out */
static void read_at(mth__segments *segments, int slot, int work) {
    int *last = &segments->slot.at[segments->slot.at[slot].view_of].last_read;
    if (work > *last) *last = work;
}

static void find_lives(mth__segments *segments) {
    const mth__program *program = segments->program;
    segments->exit_slot = NEW_ARRAY(segments->arena, int, program->exit.n);
    memset(segments->exit_slot, -1, program->exit.n * sizeof *segments->exit_slot);
    for (size_t k = 0; k < segments->work.n; k++) {
        mth__segment *segment = segments->work.at[k].segment;
        if (!segment) {
            mth__hop *hop = &segments->work.at[k].hop;
            read_at(segments, hop->from, (int)k);
            segments->slot.at[segments->slot.at[hop->from].view_of].shared = segments->slot.at[hop->to].shared = true;
        }
        for (size_t i = 0; segment && i < segment->instr.n; i++)
            for (int j = 0; j < segment->instr.at[i].nin; j++) read_at(segments, segment->instr.at[i].in[j], (int)k);
        /* of several values of an exit the one written last is what leaves */
        for (size_t i = 0; segment && i < segment->instr.n; i++)
            for (int j = 0; j < segment->instr.at[i].nout; j++) {
                const mth__program_value *value = segments->slot.at[segment->instr.at[i].out[j]].any;
                if (value->storage == MTH__IN_EXIT) segments->exit_slot[value->index] = segment->instr.at[i].out[j];
            }
        if (!segment && segments->slot.at[segments->work.at[k].hop.to].any->storage == MTH__IN_EXIT)
            segments->exit_slot[segments->slot.at[segments->work.at[k].hop.to].any->index] =
                segments->work.at[k].hop.to;
    }
    for (size_t entry_number = 0; entry_number < program->exit.n; entry_number++)
        if (segments->exit_slot[entry_number] >= 0) read_at(segments, segments->exit_slot[entry_number], MTH__AT_EXIT);
}

static void find_ports(mth__segments *segments, mth__arena *scratch) {
    /* 1 + the work */
    int *made = NEW_ARRAY(scratch, int, segments->slot.n), *taken = NEW_ARRAY(scratch, int, segments->slot.n);
    for (size_t k = 0; k < segments->work.n; k++) {
        mth__segment *segment = segments->work.at[k].segment;
        int mark = (int)k + 1;
        for (size_t i = 0; segment && i < segment->instr.n; i++) {
            const mth__seg_instr *step = &segment->instr.at[i];
            for (int j = 0; j < step->nin; j++) {
                int slot = segments->slot.at[step->in[j]].view_of;
                if (made[slot] == mark || taken[slot] == mark) continue;
                taken[slot] = mark;
                PUSH(segments->arena, segment->in, slot);
            }
            for (int j = 0; j < step->nout; j++) {
                made[step->out[j]] = mark;
                if (segments->slot.at[step->out[j]].last_read > (int)k)
                    PUSH(segments->arena, segment->out, step->out[j]);
            }
        }
        if (!segment) continue;
        segment->donated = NEW_ARRAY(segments->arena, bool, segment->in.n);
        for (size_t i = 0; i < segment->in.n; i++) {
            const mth__slot *slot = &segments->slot.at[segment->in.at[i]];
            segment->donated[i] = slot->last_read == (int)k && slot->any->storage != MTH__IN_ENTRY && !slot->shared &&
                !segments->global && slot->any->sharding.on->count == segment->count;
        }
    }
}

mth_status mth__segments_make(mth__arena *arena, const mth__program *program, bool global, mth__segments **out) {
    mth__segments *segments = NEW(arena, mth__segments);
    segments->arena = arena;
    segments->global = global;
    segments->program = program;
    merging pass = {.segments = segments, .arena = mth__arena_new(), .program = program};
    make_slots(&pass);
    mth_status status = merge(&pass);
    if (!status) {
        find_lives(segments);
        find_ports(segments, pass.arena);
        *out = segments;
    }
    mth__arena_free(pass.arena);
    return status;
}
