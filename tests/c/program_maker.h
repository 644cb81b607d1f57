/* Makes programs by hand, a role for each device, which is the most general case. */
#ifndef PROGRAM_MAKER_H
#define PROGRAM_MAKER_H
#include "catalog/rows.h"
#include "emit/program.h"
#include "unit.h"
#include <string.h>

typedef struct {
    mth__arena *arena;
    mth__program *p;
    mth__mesh *mesh;
} maker;

static maker maker_new(mth__arena *scratch, int naxes, const int64_t *dim) {
    maker m = {scratch, NEW(scratch, mth__program), NULL};
    CHECK_STATUS(mth__mesh_new(scratch, naxes, dim, &m.mesh));
    m.p->arena = scratch;
    m.p->mesh = m.mesh;
    int32_t *role_of = NEW_ARRAY(scratch, int32_t, m.mesh->count);
    for (int d = 0; d < m.mesh->count; d++) {
        int32_t *device = NEW(scratch, int32_t);
        *device = role_of[d] = d;
        PUSH(scratch, m.p->role, (mth__role){.ndevice = 1, .device = device});
    }
    m.p->role_of = role_of;
    return m;
}
/* A value of device d: in the slab at its end, or at the offset of value `over`. */
static int add_value(maker *m, int d, const char *name, mth_dtype dtype, mth__shape shape,
    const mth__sharding *sharding, mth__storage storage, int index, int over) {
    mth__role *role = &m->p->role.at[d];
    mth__program_value value = {
        .name = name, .dtype = dtype, .shape = shape, .sharding = *sharding, .storage = storage, .index = index};
    value.local = mth__local_shape(shape, sharding, sharding->on->rank_of[d], NULL, NULL);
    value.bytes = mth__shape_size(value.local) * (int64_t)mth_dtype_size(dtype);
    if (storage == MTH__IN_SLAB) {
        value.offset = over >= 0 ? role->value.at[over].offset : role->slab[MTH__DEVICE];
        if (over < 0) role->slab[MTH__DEVICE] += (value.bytes + 63) / 64 * 64;
    }
    PUSH(m->arena, role->value, value);
    if (storage == MTH__IN_ENTRY && (size_t)index == m->p->entry.n)
        PUSH(m->arena, m->p->entry, ((mth__entry){.name = name, .sharding = *sharding}));
    if (storage == MTH__IN_EXIT && (size_t)index == m->p->exit.n)
        PUSH(m->arena, m->p->exit, ((mth__exit){.entry = -1, .name = name, .sharding = *sharding}));
    return (int)role->value.n - 1;
}
static int add_room(maker *m, int d, int64_t bytes) { /* a scratch */
    return add_value(m, d, "scratch", MTH_BOOL, (mth__shape){1, {bytes}},
        &(mth__sharding){.on = mth__place_device(m->mesh, d)}, MTH__IN_SLAB, 0, -1);
}
static int *list(maker *m, int n, const int *v) {
    int *out = NEW_ARRAY(m->arena, int, n);
    return n ? memcpy(out, v, (size_t)n * sizeof *v) : out;
}
static void add_compute(maker *m, int d, const char *op, double f, int nin, const int *in, int out) {
    mth__attrs *attrs = NEW(m->arena, mth__attrs);
    attrs->by = f;
    PUSH(m->arena, m->p->role.at[d].instr,
        (mth__instr){.kind = MTH__COMPUTE,
            .op = mth__op_find(op),
            .attrs = attrs,
            .channel = -1,
            .awaited = -1,
            .nin = nin,
            .nout = 1,
            .in = list(m, nin, in),
            .out = list(m, 1, &out),
            .scratch = -1,
            .label = mth__label_outside("block_0", MTH__FORWARD)});
}
static void add_comm(maker *m, int d, mth__instr_kind kind, bool start, int channel, int in, int out, int scratch) {
    PUSH(m->arena, m->p->role.at[d].instr,
        (mth__instr){.kind = kind,
            .channel = channel,
            .nin = in >= 0,
            .nout = out >= 0,
            .in = list(m, 1, &in),
            .out = list(m, 1, &out),
            .scratch = scratch,
            .stream = start,
            .awaited = -1,
            .label = mth__label_outside("block_0", MTH__FORWARD)});
}
static int add_channel(maker *m, mth__channel channel) {
    channel.label = "block_0: communication";
    PUSH(m->arena, m->p->channel, channel);
    return (int)m->p->channel.n - 1;
}
#endif
