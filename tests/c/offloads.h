/* A program in which values are brought to the host's pool and back, at random places, and some are the engine's own:
 * what is to be emitted for offloading, before offsets are given. */
#ifndef OFFLOADS_H
#define OFFLOADS_H
#include "emit/program.h"
#include "pick.h"
#include <string.h>

static bool offload_reads(const mth__instr *k, int value) {
    for (int j = 0; j < k->nin; j++)
        if (k->in[j] == value) return true;
    return false;
}

/* The instruction from which on a value can be read: its writer, or the WAIT for that. */
static int offload_ready(const mth__role *r, int value) {
    int writer = 0;
    while (writer < (int)r->instr.n && !(r->instr.at[writer].nout && r->instr.at[writer].out[0] == value)) writer++;
    if (writer == (int)r->instr.n || !mth__is_started(&r->instr.at[writer])) return writer;
    for (int i = writer + 1; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i], *by = &r->instr.at[writer];
        if (k->kind == MTH__WAIT && (by->channel >= 0 ? k->channel == by->channel : k->awaited == value)) return i;
    }
    return (int)r->instr.n;
}

static void offload_insert(mth__arena *a, mth__role *r, int at, mth__instr k) {
    PUSH(a, r->instr, k);
    memmove(&r->instr.at[at + 1], &r->instr.at[at], (r->instr.n - 1 - (size_t)at) * sizeof k);
    r->instr.at[at] = k;
}

/* A COPY of `value` to another space, before instruction `at`, and its WAIT before instruction `wait`; returns what it
 * brings. */
static int offload_copy(mth__arena *a, mth__role *r, int value, mth__space to, int at, int wait, bool started) {
    mth__program_value copy = r->value.at[value];
    copy.name = mth__format(a, "%s~%d", copy.name, (int)r->value.n);
    copy.storage = MTH__IN_SLAB;
    copy.space = to;
    copy.offset = -1;
    PUSH(a, r->value, copy);
    int *operands = NEW_ARRAY(a, int, 2);
    operands[0] = value;
    operands[1] = (int)r->value.n - 1;
    mth__instr k = {.kind = MTH__COPY,
        .channel = -1,
        .awaited = -1,
        .nin = 1,
        .nout = 1,
        .in = operands,
        .out = operands + 1,
        .scratch = -1,
        .stream = started ? 2 : 0,
        .label = mth__label_outside("m", MTH__FORWARD)};
    mth__instr waits = {.kind = MTH__WAIT, .channel = -1, .awaited = operands[1], .scratch = -1, .label = k.label};
    if (started) offload_insert(a, r, wait, waits);
    offload_insert(a, r, at, k);
    return operands[1];
}

static bool offload_value(mth__arena *a, mth__role *r) {
    const int value = pick(r->value.n), n = (int)r->instr.n;
    if (value < 0 || r->value.at[value].storage != MTH__IN_SLAB || r->value.at[value].space) return false;
    const int ready = offload_ready(r, value);
    int reader = n - 1;
    while (reader > ready && !offload_reads(&r->instr.at[reader], value)) reader--;
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
    const int host = offload_copy(a, r, value, MTH__HOST, at[0], at[1], first), shift = 1 + first;
    const int back = offload_copy(a, r, host, MTH__DEVICE, at[2] + shift, at[3] + shift, second);
    mth__instr *last = &r->instr.at[reader + shift + 1 + second];
    for (int j = 0; j < last->nin; j++)
        if (last->in[j] == value) last->in[j] = back;
    return true;
}

/* A value of the slab that is no sum becomes the engine's own. */
static void make_own(mth__role *r) {
    const int value = pick(r->value.n);
    if (value < 0 || r->value.at[value].storage != MTH__IN_SLAB) return;
    for (size_t i = 0; i < r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0; k->accumulates && j < k->nout; j++)
            if (k->out[j] == value || k->in[mth__accumulator(k->op, k->nin, j)] == value) return;
    }
    r->value.at[value].storage = MTH__IN_OWN;
}

/* Returns how many values go to the host and back. */
static int add_offloads(mth__arena *a, mth__program *p, unsigned seed) {
    int made = 0;
    state = seed * 2246822519u + 7;
    for (size_t r = 0; r < p->role.n; r++)
        for (int tries = 0; tries < 24; tries++) made += offload_value(a, &p->role.at[r]);
    for (size_t r = 0; r < p->role.n && seed % 2; r++)
        for (int tries = 0; tries < 3; tries++) make_own(&p->role.at[r]);
    return made;
}
#endif
