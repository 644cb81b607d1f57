/* A run: entries become operands, the walk does the rest by the calls below, exits become buffers. */
#include "engine/torch/torch_run.h"
#include <string.h>

/* ---------------------------------------------------------------- instructions */
/* Frees the tensors that the row made on its way to its results. */
static void free_temporaries(mth__torch_device *device) {
    const mth__torch_library *library = device->executable->engine->library;
    for (int i = 0; i < device->temporaries; i++) mth__torch_free(library, &device->temporary[i]);
    device->temporaries = 0;
}

/* Frees the values that torch has allocated and that no later instruction reads. */
static void free_unread(mth__torch_device *device, size_t instruction_number) {
    const mth__torch_library *library = device->executable->engine->library;
    for (int k = device->drop_begins[instruction_number]; k < device->drop_begins[instruction_number + 1]; k++)
        mth__torch_free(library, &device->operand[device->drops[k]].tensor);
}

/* The first value that is written in an exit brings the memory: the exit keeps a handle to it. */
static mth_status note_exit(mth__torch_device *device, int number) {
    const mth__program_value *value = &device->role->value.at[number];
    const mth__torch_library *library = device->executable->engine->library;
    if (value->storage != MTH__IN_EXIT || device->exit[value->index]) return NULL;
    TORCH_TRY(library, "an output",
        library->aoti_torch_new_tensor_handle(device->operand[number].tensor, &device->exit[value->index]));
    return NULL;
}

/* Results that are added to sums lie where these do. */
static void add_up(mth__torch_call *call) {
    for (int k = 0; k < call->nout; k++) {
        if (!call->sum[k]) continue;
        mth__torch_operand *out = call->out[k];
        mth__torch_add(call, call->sum[k], out->tensor, 1, call->sum[k]);
        mth__torch_free(call->library, &out->tensor);
    }
}

/* A result that has taken over a sum's memory is a tensor over it. */
static mth_status follow_sums(mth__torch_device *device, const mth__instr *in) {
    const mth__torch_library *library = device->executable->engine->library;
    for (int k = 0; in->accumulates && k < in->nout; k++) {
        const int sum = mth__accumulator(in->op, in->nin, k);
        if (sum < 0 || device->operand[in->out[k]].tensor) continue;
        TORCH_TRY(library, "a sum",
            library->aoti_torch_new_tensor_handle(
                device->operand[in->in[sum]].tensor, &device->operand[in->out[k]].tensor));
    }
    return NULL;
}

static mth_status prepare(mth__torch_device *device, const mth__instr *in, mth__torch_call *call) {
    for (int i = 0; i < call->nin; i++) TRY(mth__torch_operand_of(device, in->in[i], &call->in[i]));
    for (int k = 0; k < call->nout; k++) {
        const int sum = in->accumulates ? mth__accumulator(in->op, in->nin, k) : -1;
        if (sum >= 0) {
            mth__torch_operand *so_far;
            TRY(mth__torch_operand_of(device, in->in[sum], &so_far));
            call->sum[k] = so_far->tensor;
            call->out[k] = &device->operand[in->out[k]];
            mth__torch_free(call->library, &call->out[k]->tensor);
        } else {
            TRY(mth__torch_operand_of(device, in->out[k], &call->out[k]));
        }
    }
    return NULL;
}

static mth_status run_row(mth__torch_device *device, const mth__instr *in, size_t number) {
    mth__torch_call call = {.library = device->executable->engine->library,
        .device = device,
        .op = in->op,
        .attrs = in->attrs,
        .nin = mth__row_operands(in->op, in->nin, in->accumulates),
        .nout = in->nout,
        .kept = &device->kept[number * MTH__TORCH_KEPT]};
    const mth__torch_row *row = &mth__torch_rows[in->op->row];
    if (!row->run) return INTERNAL("%s is no computation", in->op->name);
    TRY(prepare(device, in, &call));
    row->run(&call);
    add_up(&call);
    if (call.status) return call.status;
    TRY(follow_sums(device, in));
    for (int k = 0; k < in->nout; k++)
        if (!call.out[k]->tensor) return INTERNAL("%s made no result %d", in->op->name, k);
    for (int k = 0; k < in->nout; k++) TRY(note_exit(device, in->out[k]));
    return NULL;
}

static mth_status compute(void *context, int id, const mth__instr *in) {
    const mth__executable *executable = context;
    mth__torch_device *device = executable->by_id[id];
    const size_t number = (size_t)(in - device->role->instr.at);
    mth_status status = run_row(device, in, number);
    free_temporaries(device);
    if (status) return mth__error_source(mth__error_operator(status, in->label.module), in->label.source);
    free_unread(device, number);
    return NULL;
}

static mth_status copy(void *context, int id, const mth__instr *in) {
    (void)context, (void)in;
    return INTERNAL("device %d is asked to copy between spaces, and has one", id);
}

/* ---------------------------------------------------------------- between devices */
static mth_status view(const mth__executable *executable, int id, int number, int64_t from, const int64_t *strides,
    const mth__strided_copy *box, mth__tensor *out) {
    mth__torch_device *device = executable->by_id[id];
    const mth__torch_library *library = executable->engine->library;
    const mth_dtype dtype = device->role->value.at[number].dtype;
    int64_t offset;
    mth__tensor storage = mth__torch_storage(device, number, &offset);
    if (!storage && device->role->value.at[number].storage == MTH__IN_EXIT) { /* what a channel writes first */
        mth__torch_operand *operand = &device->operand[number];
        const int exit_number = device->role->value.at[number].index;
        int64_t stride[MTH__RANK];
        mth__shape_strides(operand->shape, stride);
        TORCH_TRY(library, "an output",
            library->aoti_torch_empty_strided(operand->shape.rank, operand->shape.dim, stride, library->dtype[dtype],
                library->cpu, -1, &device->exit[exit_number]));
        storage = device->exit[exit_number];
    }
    if (!storage) return INTERNAL("%s has no memory yet on device %d", device->role->value.at[number].name, id);
    offset += from * (int64_t)mth_dtype_size(dtype);
    TORCH_TRY(library, "a view",
        library->aoti_torch__alloc_from_pool(
            storage, offset, library->dtype[dtype], box->rank, box->size, strides, out));
    return NULL;
}

static mth_status follow(const mth__executable *executable, const mth__walk_move *move, bool reduce) {
    const mth__torch_library *library = executable->engine->library;
    const mth__strided_copy *box = move->copy;
    mth__tensor to = NULL, from = NULL;
    mth_status status = view(executable, move->device, move->to, box->to, box->to_stride, box, &to);
    if (!status) status = view(executable, move->peer, move->from, box->from, box->from_stride, box, &from);
    if (!status && !reduce) {
        if (library->aoti_torch_copy_(to, from, 0)) status = mth__torch_error(library, "a copy between devices");
    } else if (!status) {
        mth__torch_call call = {.library = library, .device = executable->by_id[move->device]};
        if (move->channel->reduce == MTH__REDUCE_MAX)
            ATEN(&call, maximum_out, TENSOR(to), TENSOR(from), TENSOR(to));
        else
            mth__torch_add(&call, to, from, 1, to);
        status = call.status;
        free_temporaries(call.device);
    }
    mth__torch_free(library, &to);
    mth__torch_free(library, &from);
    return status ? mth__error_operator(status, move->channel->label) : NULL;
}
static mth_status move_box(void *context, const mth__walk_move *move) { return follow(context, move, false); }
static mth_status reduce_box(void *context, const mth__walk_move *move) { return follow(context, move, true); }

static mth_status read_box(void *context, const mth__walk_move *move, void *data) {
    const mth__executable *executable = context;
    const mth__torch_library *library = executable->engine->library;
    const mth__strided_copy *box = move->copy;
    mth__tensor to = NULL, from = NULL;
    mth__shape shape = {.rank = box->rank};
    int64_t stride[MTH__RANK];
    for (int d = 0; d < shape.rank; d++) shape.dim[d] = box->size[d];
    mth__shape_strides(shape, stride);
    mth_status status = view(executable, move->peer, move->from, box->from, box->from_stride, box, &from);
    if (!status &&
        (library->aoti_torch_create_tensor_from_blob(
             data, shape.rank, shape.dim, stride, 0, library->dtype[move->channel->dtype], library->cpu, -1, &to) ||
            library->aoti_torch_copy_(to, from, 0)))
        status = mth__torch_error(library, "what a hook is given");
    mth__torch_free(library, &to);
    mth__torch_free(library, &from);
    return status;
}

/* ---------------------------------------------------------------- entries and exits */
static mth_status begin(mth__executable *executable, mth__buffer *const *entry) {
    const mth__program *program = executable->program;
    const mth__torch_library *library = executable->engine->library;
    for (int i = 0; i < executable->count; i++) {
        mth__torch_device *device = &executable->device[i];
        for (size_t number = 0; number < device->role->value.n; number++) {
            const mth__program_value *value = &device->role->value.at[number];
            if (value->storage != MTH__IN_ENTRY) continue;
            const int rank = program->entry.at[value->index].sharding.on->rank_of[device->device];
            if (rank < 0) continue;
            mth__buffer *buffer = entry[executable->offset.entry[value->index] + rank];
            mth__torch_operand *operand = &device->operand[number];
            if (!buffer) return INTERNAL("%s: device %d has no buffer", value->name, device->device);
            TRY(mth__torch_dense(library, buffer->tensor, 0, operand->dtype, operand->shape, &operand->tensor));
        }
        for (size_t exit_number = 0; exit_number < program->exit.n; exit_number++) {
            const mth__exit *exit = &program->exit.at[exit_number];
            if (exit->kind != MTH__EXIT_SUCCESSOR) continue;
            const int rank = program->entry.at[exit->entry].sharding.on->rank_of[device->device];
            if (rank < 0) continue;
            TORCH_TRY(library, "a parameter's next value",
                library->aoti_torch_new_tensor_handle(
                    entry[executable->offset.entry[exit->entry] + rank]->tensor, &device->exit[exit_number]));
        }
    }
    return NULL;
}

static mth_status leave(mth__executable *executable, size_t exit_number, mth__torch_device *device,
    mth__buffer *const *entry, mth__buffer **made) {
    const mth__exit *exit = &executable->program->exit.at[exit_number];
    const int rank = exit->sharding.on->rank_of[device->device];
    if (rank < 0) return NULL;
    mth__buffer **out = &made[executable->offset.exit[exit_number] + rank];
    const mth__shape local = mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL);
    const int64_t bytes = mth__shape_size(local) * (int64_t)mth_dtype_size(exit->dtype);
    if (exit->kind == MTH__EXIT_SUCCESSOR) {
        *out = entry[executable->offset.entry[exit->entry] +
            executable->program->entry.at[exit->entry].sharding.on->rank_of[device->device]];
        mth__torch_buffer_retain(*out);
        return NULL;
    }
    mth__tensor tensor = device->exit[exit_number];
    device->exit[exit_number] = NULL;
    if (tensor) return mth__torch_buffer_take(executable->engine, tensor, bytes, out);
    if (bytes) return INTERNAL("%s: device %d never writes it", exit->name, device->device);
    return mth__torch_buffer_new(executable->engine, device->device, 0, out);
}

/* What a run leaves on its devices besides the slab: nothing. */
static void end(mth__executable *executable) {
    const mth__torch_library *library = executable->engine->library;
    for (int i = 0; i < executable->count; i++) {
        mth__torch_device *device = &executable->device[i];
        for (size_t number = 0; number < device->role->value.n; number++)
            if (device->role->value.at[mth__base_of(device->role, (int)number)].storage != MTH__IN_SLAB)
                mth__torch_free(library, &device->operand[number].tensor);
        for (size_t exit_number = 0; exit_number < executable->program->exit.n; exit_number++)
            mth__torch_free(library, &device->exit[exit_number]);
    }
}

static const mth__walk_calls calls = {
    .compute = compute, .copy = copy, .move = move_box, .reduce = reduce_box, .read = read_box};

mth_status mth__torch_run(
    mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    const size_t exits = executable->program->exit.n, results = (size_t)executable->offset.exit[exits];
    mth__buffer **made = mth__calloc(results + 1, sizeof *made);
    if (!made) return mth__lacks_memory("a run of the torch engine", 0);
    mth_status status = mth__lock_run(&executable->lock, mth__control_stop(control));
    if (!status) {
        status = begin(executable, entry);
        if (!status) status = mth__walk_run(executable->walk, &calls, executable, executable->engine->crew, control);
        for (size_t exit_number = 0; exit_number < exits && !status; exit_number++)
            for (int i = 0; i < executable->count && !status; i++)
                status = leave(executable, exit_number, &executable->device[i], entry, made);
        end(executable);
        pthread_mutex_unlock(&executable->lock);
    }
    for (size_t i = 0; i < results; i++) {
        if (status)
            mth__torch_buffer_release(made[i]);
        else
            exit[i] = made[i];
    }
    mth__free(made);
    return status;
}
