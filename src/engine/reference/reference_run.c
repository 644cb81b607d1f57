/* A run: entries become doubles, the walk does the rest by the calls below, exits become bytes again. */
#include "engine/reference/reference_run.h"
#include <math.h>

static mth_status compute(void *context, int device, const mth__instr *in) {
    const mth__executable *executable = context;
    mth__ref_device *ref = executable->by_id[device];
    mth__ref_call call = {.op = in->op, .attrs = in->attrs, .nout = in->nout};
    call.nin = mth__row_operands(in->op, in->nin, in->accumulates);
    for (int i = 0; i < call.nin; i++) call.in[i] = &ref->value[in->in[i]];
    for (int i = 0; i < call.nout; i++) call.out[i] = &ref->value[in->out[i]];
    mth__ref_row *row = mth__ref_rows[in->op->row];
    if (!row) return INTERNAL("%s is no computation", in->op->name);
    mth_status status = row(&call);
    if (status) return mth__error_source(mth__error_operator(status, in->label.module), in->label.source);
    for (int k = 0; in->accumulates && k < in->nout; k++) {
        int sum = mth__accumulator(in->op, in->nin, k);
        for (int64_t j = 0, n = sum < 0 ? 0 : mth__shape_size(call.out[k]->local); j < n; j++)
            /* floating, as the row's check says */
            call.out[k]->data[j].real += ref->value[in->in[sum]].data[j].real;
    }
    return NULL;
}

static mth_status copy(void *context, int device, const mth__instr *in) {
    const mth__executable *executable = context;
    const mth__ref_value *value = executable->by_id[device]->value, *from = &value[in->in[0]], *to = &value[in->out[0]];
    const int64_t elements = mth__shape_size(from->local);
    if (elements) memcpy(to->data, from->data, (size_t)elements * sizeof *to->data);
    return NULL;
}

/* Element by element. */
static void follow(const mth__executable *executable, const mth__walk_move *move, bool reduce) {
    const mth__strided_copy *copy = move->copy;
    mth__ref_element *to = executable->by_id[move->device]->value[move->to].data + copy->to;
    const mth__ref_element *from = executable->by_id[move->peer]->value[move->from].data + copy->from;
    mth__shape box = {.rank = copy->rank};
    for (int d = 0; d < box.rank; d++) box.dim[d] = copy->size[d];
    FOR_EACH(at, box) {
        int64_t there = 0, here = 0;
        for (int d = 0; d < box.rank; d++) {
            here += at[d] * copy->to_stride[d];
            there += at[d] * copy->from_stride[d];
        }
        to[here] =
            reduce ? mth__ref_combine(move->channel->dtype, move->channel->reduce, to[here], from[there]) : from[there];
    }
}
static mth_status move_box(void *context, const mth__walk_move *move) {
    follow(context, move, false);
    return NULL;
}
static mth_status reduce_box(void *context, const mth__walk_move *move) {
    follow(context, move, true);
    return NULL;
}

static mth_status read_box(void *context, const mth__walk_move *move, void *data) {
    const mth__executable *executable = context;
    const mth__strided_copy *copy = move->copy;
    const mth__ref_element *from = executable->by_id[move->peer]->value[move->from].data + copy->from;
    const mth_dtype dtype = move->channel->dtype;
    const size_t size = mth_dtype_size(dtype);
    char *to = data;
    mth__shape box = {.rank = copy->rank};
    for (int d = 0; d < box.rank; d++) box.dim[d] = copy->size[d];
    FOR_EACH(at, box) {
        int64_t there = 0;
        for (int d = 0; d < box.rank; d++) there += at[d] * copy->from_stride[d];
        mth__dtype_convert(mth__is_float(dtype) ? MTH_FLOAT64 : MTH_INT64, &from[there], dtype, to, 1);
        to += size;
    }
    return NULL;
}

/* ---------------------------------------------------------------- entries and exits */
static mth_status begin(mth__executable *executable, mth__buffer *const *entry) {
    const mth__program *program = executable->program;
    for (int i = 0; i < executable->count; i++) {
        mth__ref_device *device = &executable->device[i];
        /* what is read before it is written shows */
        for (int64_t j = 0; j < device->elements; j++) device->memory[j].real = NAN;
        for (size_t number = 0; number < device->role->value.n; number++) {
            const mth__program_value *value = &device->role->value.at[number];
            if (value->storage != MTH__IN_ENTRY || mth__shape_size(device->value[number].local) == 0 ||
                !device->value[number].here)
                continue;
            const int rank = program->entry.at[value->index].sharding.on->rank_of[device->device];
            mth__buffer *buffer = rank < 0 ? NULL : entry[executable->offset.entry[value->index] + rank];
            if (!buffer) return INTERNAL("%s: device %d has no buffer", value->name, device->device);
            mth__ref_widen(&device->value[number], buffer->data);
        }
    }
    return NULL;
}

static mth_status leave(mth__executable *executable, size_t exit_number, mth__ref_device *device,
    mth__buffer *const *entry, mth__buffer **made) {
    const mth__exit *exit = &executable->program->exit.at[exit_number];
    int rank = exit->sharding.on->rank_of[device->device];
    if (rank < 0) return NULL;
    mth__buffer **out = &made[executable->offset.exit[exit_number] + rank];
    mth__shape local = mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL);
    if (device->leaves[exit_number] < 0 && mth__shape_size(local) > 0)
        return INTERNAL("%s: device %d never writes it", exit->name, device->device);
    if (exit->kind == MTH__EXIT_SUCCESSOR) {
        *out = entry[executable->offset.entry[exit->entry] +
            executable->program->entry.at[exit->entry].sharding.on->rank_of[device->device]];
        mth__ref_buffer_retain(*out);
    } else {
        TRY(mth__ref_buffer_new(
            executable->engine, device->device, mth__shape_size(local) * (int64_t)mth_dtype_size(exit->dtype), out));
    }
    if (device->leaves[exit_number] >= 0) mth__ref_narrow(&device->value[device->leaves[exit_number]], (*out)->data);
    return NULL;
}

static const mth__walk_calls calls = {
    .compute = compute, .copy = copy, .move = move_box, .reduce = reduce_box, .read = read_box};

mth_status mth__ref_run(
    mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    const size_t exits = executable->program->exit.n, results = (size_t)executable->offset.exit[exits];
    mth__buffer **made = mth__calloc(results + 1, sizeof *made);
    if (!made) return mth__lacks_memory("a run of the reference engine", 0);
    mth_status status = mth__lock_run(&executable->lock, mth__control_stop(control));
    if (!status) {
        status = begin(executable, entry);
        if (!status) status = mth__walk_run(executable->walk, &calls, executable, executable->engine->crew, control);
        for (size_t exit_number = 0; exit_number < exits && !status; exit_number++)
            for (int i = 0; i < executable->count && !status; i++)
                status = leave(executable, exit_number, &executable->device[i], entry, made);
        pthread_mutex_unlock(&executable->lock);
    }
    for (size_t i = 0; i < results; i++) {
        if (status)
            mth__ref_buffer_release(made[i]);
        else
            exit[i] = made[i];
    }
    mth__free(made);
    return status;
}
