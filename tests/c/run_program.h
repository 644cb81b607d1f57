/* Runs any program that verifies on an engine: entries are filled with small numbers, ids within 2; what comes out is
 * let go. For texts that somebody has spoilt: the promise is that an engine then needs no check of its own. */
#ifndef RUN_PROGRAM_H
#define RUN_PROGRAM_H
#include "open_engine.h"
#include <string.h>

/* What running it takes, saturating: values of all devices in 8 bytes each, slabs, exits, and channels by device. */
static int64_t program_weight(const mth__program *program) {
    int64_t all = mth__size_product(
        (int64_t)program->mesh->count, (int64_t)(program->entry.n + program->exit.n + program->channel.n));
    for (size_t role_number = 0; role_number < program->role.n; role_number++) {
        const mth__role *role = &program->role.at[role_number];
        int64_t one =
            mth__size_sum(mth__size_sum(role->slab[MTH__DEVICE], role->slab[MTH__HOST]), (int64_t)role->instr.n);
        for (size_t number = 0; number < role->value.n; number++)
            one = mth__size_sum(one, mth__size_product(8, role->value.at[number].bytes));
        all = mth__size_sum(all, mth__size_product(one, role->ndevice));
    }
    for (size_t channel_number = 0; channel_number < program->channel.n;
        channel_number++) /* the reference engine lays the whole tensor out */
        all = mth__size_sum(all, mth__size_product(16, mth__shape_size(program->channel.at[channel_number].shape)));
    return all;
}

static void fill_entry(void *data, mth_dtype dtype, int64_t elements) {
    for (int64_t i = 0; i < elements; i++)
        mth__dtype_store(dtype, data, i, dtype == MTH_FLOAT32 || dtype == MTH_FLOAT64 ? (double)(i % 5) - 2 : i % 2);
}

static mth_status make_entries(
    const mth__engine_vtable *vt, mth__engine *engine, const mth__program *program, mth__buffer **entry) {
    for (size_t i = 0; i < program->entry.n; i++) {
        const mth__entry *x = &program->entry.at[i];
        for (int rank = 0; rank < x->sharding.on->count; rank++) {
            int d = x->sharding.on->device[rank];
            int64_t elements = mth__shape_size(mth__local_shape(x->shape, &x->sharding, rank, NULL, NULL));
            TRY(vt->memory.new(engine, d, elements * (int64_t)mth_dtype_size(x->dtype), entry));
            fill_entry(vt->memory.host(*entry++), x->dtype, elements);
        }
    }
    return NULL;
}

static void let_go(const mth__engine_vtable *vtable, mth__buffer **buffer, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (buffer[i]) vtable->memory.release(buffer[i]);
}

/* Any error but of memory or of a value that the program computes is a fault of the proof. */
static mth_status run_program(mth__arena *arena, const mth__engine_vtable *vt, const mth__program *program) {
    const mth__offsets offset = mth__buffer_offsets(arena, program);
    const size_t entries = (size_t)offset.entry[program->entry.n], exits = (size_t)offset.exit[program->exit.n];
    mth__buffer **entry = NEW_ARRAY(arena, mth__buffer *, entries + 1),
                **exit = NEW_ARRAY(arena, mth__buffer *, exits + 1);
    mth__engine *engine;
    mth__executable *executable = NULL;
    TRY(open_engine(vt, program->mesh, &engine));
    mth_status status = vt->load(engine, program, NULL, &executable);
    if (!status) status = make_entries(vt, engine, program, entry);
    if (!status) status = vt->run(executable, entry, exit, NULL);
    let_go(vt, exit, exits);
    let_go(vt, entry, entries);
    if (executable) vt->unload(executable);
    vt->close(engine);
    return status;
}
#endif
