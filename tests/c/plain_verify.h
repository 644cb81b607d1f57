/* The verifier's promise checked the plain way, device by device: every list is walked, every byte of a slab remembers
 * which value wrote it, and a channel lets a device pass when the devices that it really needs have come. Written apart
 * from src/emit/verify*.c, to be compared with it. */
#ifndef PLAIN_VERIFY_H
#define PLAIN_VERIFY_H
#include "emit/program.h"
#include <stdlib.h>
#include <string.h>

enum { PLAIN_ENTRY = -1 }; /* the bytes of an entry, before its successor is written */
typedef struct {
    int *owner;
    int64_t n;
} plain_memory; /* by byte: 1 + value; 0: nothing yet */
typedef struct {
    const mth__role *role;
    int device, next, started[MTH__STREAMS], done[MTH__STREAMS];
    int start[MTH__STREAMS][4096];
    bool arrived[MTH__STREAMS]; /* at the instruction where the stream stands */
    plain_memory slab[MTH__SPACES], *exit, *own;
    int *own_of; /* by value that is the engine's own: whose memory it has, its own or the sum's that it adds to */
} plain_device;
typedef struct {
    const mth__program *program;
    int n;
    plain_device *device;
    uint8_t *gave, *took; /* by channel and device */
    int32_t *member;
    const char *fault;
} plain;

static int64_t plain_base(const mth__role *role, int id, int64_t *offset) {
    const mth__program_value *value = &role->value.at[id];
    *offset = value->storage == MTH__IN_ALIAS ? value->offset : 0;
    return value->storage == MTH__IN_ALIAS ? value->index : id;
}

/* The exit that succeeds an entry; -1: none. */
static int plain_successor(const mth__program *program, int entry) {
    for (size_t k = 0; k < program->exit.n; k++)
        if (program->exit.at[k].kind == MTH__EXIT_SUCCESSOR && program->exit.at[k].entry == entry) return (int)k;
    return -1;
}

/* NULL: an entry without a successor, or a view. */
static plain_memory *plain_place(
    const mth__program *program, plain_device *device, const mth__program_value *value, int64_t *at) {
    *at = value->storage == MTH__IN_SLAB || value->storage == MTH__IN_LENT ? value->offset : 0;
    int exit = value->storage == MTH__IN_ENTRY ? plain_successor(program, value->index) : value->index;
    switch (value->storage) {
    case MTH__IN_SLAB: return &device->slab[value->space];
    case MTH__IN_OWN: return &device->own[device->own_of[value - device->role->value.at]];
    case MTH__IN_ALIAS: return NULL;
    default: return exit < 0 ? NULL : &device->exit[exit];
    }
}

static void plain_write(plain *check, plain_device *device, int id) {
    const mth__program_value *value = &device->role->value.at[id];
    int64_t at;
    plain_memory *memory = plain_place(check->program, device, value, &at);
    if (!memory || at < 0 || at + value->bytes > memory->n) {
        check->fault = "writes outside its memory";
        return;
    }
    for (int64_t i = 0; i < value->bytes; i++) memory->owner[at + i] = id + 1;
}

/* Finds a fault where a byte of the value is not the one that the value's instruction wrote. */
static void plain_read(plain *check, plain_device *device, int id) {
    int64_t offset, at;
    int base = (int)plain_base(device->role, id, &offset);
    const mth__program_value *value = &device->role->value.at[base], *view = &device->role->value.at[id];
    if (offset < 0 || offset + view->bytes > value->bytes) check->fault = "a view outside its base";
    const bool entry = value->storage == MTH__IN_ENTRY;
    if ((entry && plain_successor(check->program, value->index) < 0) || check->fault) return;
    plain_memory *memory = plain_place(check->program, device, value, &at);
    if (!memory || at < 0 || at + offset + view->bytes > memory->n) {
        check->fault = "reads outside its memory";
        return;
    }
    for (int64_t i = 0; i < view->bytes; i++)
        if (memory->owner[at + offset + i] != (entry ? PLAIN_ENTRY : base + 1)) {
            check->fault = "reads a byte that is unwritten, or that another value has overwritten";
            return;
        }
}

static uint8_t *plain_mark(plain *check, uint8_t *of, int channel, int device) {
    return &of[channel * check->program->mesh->count + device];
}

static bool plain_apart(const mth__channel *channel) {
    return channel->kind == MTH__TRANSFER && channel->from.on != channel->to.on;
}

/* Has everyone come whom this device needs, to take (or, with `gives`, to be rid of what it gave)? */
static bool plain_ready(plain *check, int channel, int device, bool gives) {
    const mth__channel *of = &check->program->channel.at[channel];
    if (!plain_apart(of)) {
        int n = of->kind == MTH__TRANSFER ? of->from.on->count : mth__channel_size(of);
        if (of->kind == MTH__TRANSFER)
            memcpy(check->member, of->from.on->device, (size_t)n * sizeof *check->member);
        else
            mth__channel_group(of, device, check->member);
        for (int i = 0; i < n; i++) {
            bool from = of->from.on->rank_of[check->member[i]] >= 0, to = of->to.on->rank_of[check->member[i]] >= 0;
            if ((from && !*plain_mark(check, check->gave, channel, check->member[i])) ||
                (to && !*plain_mark(check, check->took, channel, check->member[i])))
                return false;
        }
        return true;
    }
    mth__arena *arena = mth__arena_new();
    bool ready = true;
    for (int i = 0; i < (gives ? of->to.on->count : 1); i++) {
        int taker = gives ? of->to.on->device[i] : device;
        mth__piece *piece;
        int n = mth__transfer_pieces(arena, of, taker, &piece);
        for (int k = 0; k < n; k++) {
            if (gives && piece[k].from_device == device && !*plain_mark(check, check->took, channel, taker))
                ready = false;
            if (!gives && !*plain_mark(check, check->gave, channel, piece[k].from_device)) ready = false;
        }
    }
    mth__arena_free(arena);
    return ready;
}

static bool plain_part(plain *check, plain_device *device, const mth__instr *instruction, bool *arrived) {
    const mth__channel *channel = &check->program->channel.at[instruction->channel];
    if (!*arrived) {
        for (int j = 0; j < instruction->nin; j++) plain_read(check, device, instruction->in[j]);
        if (instruction->nin) *plain_mark(check, check->gave, instruction->channel, device->device) = 1;
        if (instruction->nout && !plain_apart(channel))
            *plain_mark(check, check->took, instruction->channel, device->device) = 1;
        if (mth__is_started(instruction)) {
            for (int j = 0; j < instruction->nout; j++) plain_write(check, device, instruction->out[j]);
            if (instruction->scratch >= 0) plain_write(check, device, instruction->scratch);
        }
        *arrived = true;
    }
    if (instruction->kind != MTH__SEND && !plain_ready(check, instruction->channel, device->device, false))
        return false;
    if (!mth__is_started(instruction)) {
        if (instruction->scratch >= 0) plain_write(check, device, instruction->scratch);
        for (int j = 0; j < instruction->nout; j++) plain_write(check, device, instruction->out[j]);
    }
    if (instruction->nout) *plain_mark(check, check->took, instruction->channel, device->device) = 1;
    *arrived = false;
    return true;
}

/* Does the WAIT wait for this instruction? */
static bool plain_opens(const mth__instr *opener, const mth__instr *wait) {
    if (opener->kind != MTH__SEND && !mth__is_started(opener)) return false;
    return wait->channel >= 0 ? opener->channel == wait->channel
                              : opener->channel < 0 && opener->out[0] == wait->awaited;
}

static bool plain_wait(plain *check, plain_device *device, const mth__instr *instruction) {
    int by = device->next - 1, order = 0;
    for (; by >= 0; by--) {
        const mth__instr *opener = &device->role->instr.at[by];
        if (plain_opens(opener, instruction)) break;
    }
    if (by < 0) {
        check->fault = "waits for nothing";
        return true;
    }
    const mth__instr *opener = &device->role->instr.at[by];
    for (int i = 0; i < by; i++) order += device->role->instr.at[i].stream == opener->stream;
    if (mth__is_started(opener) ? device->done[opener->stream] <= order
                                : !plain_ready(check, instruction->channel, device->device, true))
        return false;
    bool in_place = mth__is_started(opener) && opener->nin && opener->nout &&
        device->role->value.at[opener->in[0]].storage == device->role->value.at[opener->out[0]].storage &&
        device->role->value.at[opener->in[0]].space == device->role->value.at[opener->out[0]].space &&
        device->role->value.at[opener->in[0]].offset == device->role->value.at[opener->out[0]].offset;
    for (int j = 0; j < opener->nin && !in_place; j++) plain_read(check, device, opener->in[j]);
    for (int j = 0; j < opener->nout; j++) plain_read(check, device, opener->out[j]);
    if (mth__is_started(opener) && opener->scratch >= 0) plain_read(check, device, opener->scratch);
    return true;
}

/* A result that is added to a sum lies where the sum does, which the row reads besides nowhere. */
static void plain_sums(plain *check, plain_device *device, const mth__instr *instruction) {
    for (int j = 0, sum = mth__row_operands(instruction->op, instruction->nin, true); j < instruction->nout; j++) {
        if (!(instruction->op->accumulates >> j & 1)) continue;
        const mth__program_value *from = &device->role->value.at[instruction->in[sum]],
                                 *to = &device->role->value.at[instruction->out[j]];
        int64_t from_at, to_at, offset;
        plain_memory *here = plain_place(check->program, device, from, &from_at),
                     *there = plain_place(check->program, device, to, &to_at);
        bool apart = !here || here != there || from_at != to_at || from->bytes != to->bytes;
        if (to->bytes && apart) check->fault = "adds to bytes of no sum";
        for (int i = 0; i < instruction->nin && to->bytes; i++)
            if (i != sum && plain_base(device->role, instruction->in[i], &offset) == instruction->in[sum])
                check->fault = "reads the sum beside";
        sum++;
    }
}

/* A COMPUTE or a COPY, alone between its reads and writes. */
static void plain_compute(plain *check, plain_device *device, const mth__instr *instruction) {
    for (int j = 0; j < instruction->nin + instruction->nout && instruction->kind == MTH__COMPUTE; j++)
        if (mth__space_of(
                device->role, j < instruction->nin ? instruction->in[j] : instruction->out[j - instruction->nin]))
            check->fault = "computes in the host's pool";
    if (instruction->accumulates) plain_sums(check, device, instruction);
    for (int j = 0; j < instruction->nin; j++) plain_read(check, device, instruction->in[j]);
    for (int j = 0; j < instruction->nout; j++) plain_write(check, device, instruction->out[j]);
}

static bool plain_step(plain *check, plain_device *device) {
    bool moved = false;
    for (int on = 1; on < MTH__STREAMS; on++)
        while (device->done[on] < device->started[on] && !check->fault) {
            const mth__instr *instruction = &device->role->instr.at[device->start[on][device->done[on]]];
            if (!mth__has_channel(instruction))
                plain_compute(check, device, instruction);
            else if (!plain_part(check, device, instruction, &device->arrived[on]))
                break;
            device->done[on]++;
            moved = true;
        }
    if (device->next == (int)device->role->instr.n || check->fault) return moved;
    const mth__instr *instruction = &device->role->instr.at[device->next];
    if (instruction->stream >= MTH__STREAMS ||
        (mth__is_started(instruction) && (instruction->kind == MTH__COPY) != (instruction->stream == 2)))
        check->fault = "on a stream of another kind";
    else if (mth__is_started(instruction)) {
        device->start[instruction->stream][device->started[instruction->stream]++] = device->next;
    } else if (instruction->kind == MTH__COMPUTE || instruction->kind == MTH__COPY) {
        plain_compute(check, device, instruction);
    } else if (instruction->kind == MTH__WAIT ? !plain_wait(check, device, instruction)
                                              : !plain_part(check, device, instruction, &device->arrived[0])) {
        return moved;
    }
    device->next++;
    return true;
}

/* Is what is started read before its WAIT? The plain walk gives such a result its bytes at once: this is looked up. */
static bool plain_pending(const mth__role *role) {
    for (size_t i = 0; i < role->instr.n; i++) {
        const mth__instr *started = &role->instr.at[i];
        if (!mth__is_started(started) || !started->nout) continue;
        for (size_t k = i + 1; k < role->instr.n; k++) {
            const mth__instr *user = &role->instr.at[k];
            if (user->kind == MTH__WAIT && plain_opens(started, user)) break;
            for (int j = 0; j < user->nin; j++) {
                int64_t offset;
                if (plain_base(role, user->in[j], &offset) == started->out[0]) return true;
            }
        }
    }
    return false;
}

/* Memory for each value that is the engine's own; a result that is added to a sum has the sum's. */
static void plain_own(mth__arena *arena, plain_device *device) {
    const mth__role *role = device->role;
    device->own = NEW_ARRAY(arena, plain_memory, role->value.n);
    device->own_of = NEW_ARRAY(arena, int, role->value.n);
    for (size_t id = 0; id < role->value.n; id++) {
        device->own_of[id] = (int)id;
        if (role->value.at[id].storage == MTH__IN_OWN)
            device->own[id] =
                (plain_memory){NEW_ARRAY(arena, int, role->value.at[id].bytes + 1), role->value.at[id].bytes};
    }
    for (size_t i = 0; i < role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int j = 0, sum = instruction->accumulates ? mth__row_operands(instruction->op, instruction->nin, true) : 0;
            j < instruction->nout && sum; j++)
            if (instruction->op->accumulates >> j & 1)
                device->own_of[instruction->out[j]] = device->own_of[instruction->in[sum++]];
    }
}

/* NULL, or what goes wrong. Devices take their steps in a random order. */
static const char *plain_verify(mth__arena *arena, const mth__program *program, unsigned seed) {
    plain check = {.program = program, .n = program->mesh->count};
    size_t marks = program->channel.n * (size_t)check.n + 1;
    check.device = NEW_ARRAY(arena, plain_device, check.n);
    check.gave = NEW_ARRAY(arena, uint8_t, marks);
    check.took = NEW_ARRAY(arena, uint8_t, marks);
    check.member = NEW_ARRAY(arena, int32_t, check.n + 1);
    static const mth__role nothing;
    for (int i = 0; i < check.n; i++) {
        plain_device *device = &check.device[i];
        device->device = i;
        device->role = program->role_of[i] < 0 ? &nothing : &program->role.at[program->role_of[i]];
        for (int space = 0; space < MTH__SPACES; space++)
            device->slab[space] =
                (plain_memory){NEW_ARRAY(arena, int, device->role->slab[space] + 1), device->role->slab[space]};
        plain_own(arena, device);
        device->exit = NEW_ARRAY(arena, plain_memory, program->exit.n);
        for (size_t k = 0; k < program->exit.n; k++) {
            const mth__exit *exit = &program->exit.at[k];
            int rank = exit->sharding.on->rank_of[i];
            if (rank < 0) continue;
            device->exit[k].n = mth__shape_size(mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL)) *
                (int64_t)mth_dtype_size(exit->dtype);
            device->exit[k].owner = NEW_ARRAY(arena, int, device->exit[k].n + 1);
            for (int64_t byte = 0; byte < device->exit[k].n && exit->kind == MTH__EXIT_SUCCESSOR; byte++)
                device->exit[k].owner[byte] = PLAIN_ENTRY;
        }
        if (plain_pending(device->role)) return "reads what a START brings before its WAIT";
    }
    for (int idle = 0; idle < 4 * check.n + 8 && !check.fault;) {
        bool moved = false;
        for (int turn = 0; turn < check.n; turn++) {
            seed = seed * 1664525u + 1013904223u;
            moved |= plain_step(&check, &check.device[(seed >> 8) % (unsigned)check.n]);
        }
        idle = moved ? 0 : idle + 1;
    }
    for (int i = 0; i < check.n && !check.fault; i++) {
        const plain_device *device = &check.device[i];
        if (device->next != (int)device->role->instr.n || memcmp(device->done, device->started, sizeof device->done))
            check.fault = "a deadlock";
        for (size_t k = 0; k < program->exit.n && !check.fault; k++)
            for (int64_t byte = 0; byte < device->exit[k].n; byte++)
                if (device->exit[k].owner[byte] <= 0) check.fault = "an exit is not written";
    }
    return check.fault;
}
#endif
