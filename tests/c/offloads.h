/* A program in which values are brought to the host's pool and back, at random places, and some are the engine's own:
 * what is to be emitted for offloading, before offsets are given. */
#ifndef OFFLOADS_H
#define OFFLOADS_H
#include "emit/program.h"
#include "pick.h"
#include <string.h>

static bool offload_reads(const mth__instr *instruction, int value) {
    for (int j = 0; j < instruction->nin; j++)
        if (instruction->in[j] == value) return true;
    return false;
}

/* The instruction from which on a value can be read: its writer, or the WAIT for that. */
static int offload_ready(const mth__role *role, int value) {
    int writer = 0;
    while (writer < (int)role->instr.n && !(role->instr.at[writer].nout && role->instr.at[writer].out[0] == value))
        writer++;
    if (writer == (int)role->instr.n || !mth__is_started(&role->instr.at[writer])) return writer;
    for (int i = writer + 1; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i], *by = &role->instr.at[writer];
        if (instruction->kind == MTH__WAIT &&
            (by->channel >= 0 ? instruction->channel == by->channel : instruction->awaited == value))
            return i;
    }
    return (int)role->instr.n;
}

static void offload_insert(mth__arena *arena, mth__role *role, int at, mth__instr instruction) {
    PUSH(arena, role->instr, instruction);
    memmove(&role->instr.at[at + 1], &role->instr.at[at], (role->instr.n - 1 - (size_t)at) * sizeof instruction);
    role->instr.at[at] = instruction;
}

/* A COPY of `value` to another space, before instruction `at`, and its WAIT before instruction `wait`; returns what it
 * brings. */
static int offload_copy(mth__arena *arena, mth__role *role, int value, mth__space to, int at, int wait, bool started) {
    mth__program_value copy = role->value.at[value];
    copy.name = mth__format(arena, "%s~%d", copy.name, (int)role->value.n);
    copy.storage = MTH__IN_SLAB;
    copy.space = to;
    copy.offset = -1;
    PUSH(arena, role->value, copy);
    int *operands = NEW_ARRAY(arena, int, 2);
    operands[0] = value;
    operands[1] = (int)role->value.n - 1;
    mth__instr instruction = {.kind = MTH__COPY,
        .channel = -1,
        .awaited = -1,
        .nin = 1,
        .nout = 1,
        .in = operands,
        .out = operands + 1,
        .scratch = -1,
        .stream = started ? 2 : 0,
        .label = mth__label_outside("m", MTH__FORWARD)};
    mth__instr waits = {
        .kind = MTH__WAIT, .channel = -1, .awaited = operands[1], .scratch = -1, .label = instruction.label};
    if (started) offload_insert(arena, role, wait, waits);
    offload_insert(arena, role, at, instruction);
    return operands[1];
}

static bool offload_value(mth__arena *arena, mth__role *role) {
    const int value = pick(role->value.n), n = (int)role->instr.n;
    if (value < 0 || role->value.at[value].storage != MTH__IN_SLAB || role->value.at[value].space) return false;
    const int ready = offload_ready(role, value);
    int reader = n - 1;
    while (reader > ready && !offload_reads(&role->instr.at[reader], value)) reader--;
    if (reader <= ready || ready == n) return false;
    /* before these: offload <= its wait <= reload <= its wait <= reader; inserted from the last to the first */
    int at[4];
    for (int i = 0; i < 4; i++) at[i] = ready + 1 + pick((size_t)(reader - ready));
    for (int i = 0; i < 4; i++)
        for (int j = i + 1; j < 4; j++)
            if (at[j] < at[i]) {
                int t = at[i];
                at[i] = at[j];
                at[j] = t;
            }
    const bool first = pick(4) != 0, second = pick(4) != 0;
    const int host = offload_copy(arena, role, value, MTH__HOST, at[0], at[1], first), shift = 1 + first;
    const int back = offload_copy(arena, role, host, MTH__DEVICE, at[2] + shift, at[3] + shift, second);
    mth__instr *last = &role->instr.at[reader + shift + 1 + second];
    for (int j = 0; j < last->nin; j++)
        if (last->in[j] == value) last->in[j] = back;
    return true;
}

/* A value of the slab that is no sum becomes the engine's own. */
static void make_own(mth__role *role) {
    const int value = pick(role->value.n);
    if (value < 0 || role->value.at[value].storage != MTH__IN_SLAB) return;
    for (size_t i = 0; i < role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int j = 0; instruction->accumulates && j < instruction->nout; j++)
            if (instruction->out[j] == value ||
                instruction->in[mth__accumulator(instruction->op, instruction->nin, j)] == value)
                return;
    }
    role->value.at[value].storage = MTH__IN_OWN;
}

/* Returns how many values go to the host and back. */
static int add_offloads(mth__arena *arena, mth__program *program, unsigned seed) {
    int made = 0;
    state = seed * 2246822519u + 7;
    for (size_t role_number = 0; role_number < program->role.n; role_number++)
        for (int tries = 0; tries < 24; tries++) made += offload_value(arena, &program->role.at[role_number]);
    for (size_t role_number = 0; role_number < program->role.n && seed % 2; role_number++)
        for (int tries = 0; tries < 3; tries++) make_own(&program->role.at[role_number]);
    return made;
}
#endif
