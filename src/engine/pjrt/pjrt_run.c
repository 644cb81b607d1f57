/* One run: all work is enqueued, in an order in which every buffer is made before it is read; XLA's own dependencies do
 * the rest. Then everything is awaited: when a run returns, nothing of it goes on.
 *
 * Modules whose devices wait for each other hold a thread a device while they do. CPU plugins have a bounded pool of
 * them, and abort the process when the last one waits for a partner that finds none: so few such modules are under way
 * at a time, and runs of an engine exclude each other. They launch modules of several devices from that pool too, where
 * a launch holds its thread while 32 executions of its device are under way: so far fewer are when such a module is
 * launched. */
#include "engine/fault.h"
#include "engine/pjrt/pjrt_job.h"
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- segments */
static mth_status fill_slots(
    mth__executable *executable, int device, mth_dtype dtype, mth__shape shape, const void *data, PJRT_Buffer **out) {
    MTH__ARGS(PJRT_Client_BufferFromHostBuffer, put);
    put.client = executable->engine->client;
    put.data = data;
    put.type = (PJRT_Buffer_Type)mth__pjrt_type(dtype);
    put.dims = shape.dim;
    put.num_dims = (size_t)shape.rank;
    put.host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableOnlyDuringCall;
    put.device = executable->engine->device[device];
    TRY(mth__pjrt_status(executable->engine->plugin,
        executable->engine->plugin->api->PJRT_Client_BufferFromHostBuffer(&put), "fill a buffer"));
    *out = put.buffer;
    return mth__pjrt_await(executable->engine, put.done_with_host_buffer, "fill a buffer");
}

/* A device that has no part of a value still passes a buffer to its module: the root's operand of a broadcast. */
static mth_status zeros(mth__executable *executable, int slot, int device, PJRT_Buffer **out) {
    PJRT_Buffer **made = &executable->zeros[slot][device];
    if (!*made) {
        const mth__slot *from = &executable->segments->slot.at[slot];
        const int64_t bytes = mth__shape_size(from->local) * (int64_t)mth_dtype_size(from->any->dtype);
        void *data = mth__calloc_aligned(bytes > 64 ? (size_t)bytes : 64, 1);
        if (!data) return mth__lacks_memory("zeros", bytes);
        mth_status status = fill_slots(executable, device, from->any->dtype, from->local, data, made);
        mth__free(data);
        TRY(status);
    }
    *out = *made;
    return NULL;
}

static mth_status number(mth__executable *executable, int index, int device, PJRT_Buffer **out) {
    PJRT_Buffer **made =
        &executable->number_buffer[(size_t)index * (size_t)executable->program->mesh->count + (size_t)device];
    const int32_t value = (int32_t)executable->number.at[index];
    if (!*made) TRY(fill_slots(executable, device, MTH_INT32, (mth__shape){0}, &value, made));
    *out = *made;
    return NULL;
}

static const int32_t *devices_of(const mth__executable *executable, const mth__job *job, int *count) {
    *count = executable->segments->global ? executable->program->mesh->count : job->segment->count;
    return executable->segments->global ? executable->program->mesh->whole->device : job->segment->device;
}

/* On the devices from the job's `first` on that run together. */
static mth_status launch(mth__executable *executable, mth__job *job, int first, const int32_t *device) {
    const mth__segment *segment = job->segment;
    MTH__ARGS(PJRT_LoadedExecutable_Execute, execute);
    PJRT_ExecuteOptions options = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    execute.executable = job->module->xla->loaded;
    execute.options = &options;
    execute.argument_lists = job->arguments + first;
    execute.num_devices = (size_t)job->together;
    execute.num_args = (size_t)job->args;
    execute.output_lists = job->results_of + first;
    execute.device_complete_events = job->complete + first;
    if (!job->module->options.device) execute.execute_device = executable->engine->device[device[0]];
    mth_status status = mth__pjrt_status(
        executable->engine->plugin, executable->engine->plugin->api->PJRT_LoadedExecutable_Execute(&execute), "run");
    if (status) {
        memset(job->complete + first, 0, (size_t)job->together * sizeof *job->complete);
        return segment->instr.n ? mth__error_operator(status, segment->instr.at[0].instr->label.module) : status;
    }
    for (int d = 0; d < job->together; d++) executable->flying[device[d]]++;
    for (int d = 0; d < job->together; d++)
        for (size_t i = 0; i < segment->out.n; i++) {
            PJRT_Buffer *made = job->result[(first + d) * job->results + (int)i];
            if (executable->segments->slot.at[segment->out.at[i]].any->sharding.on->rank_of[device[d]] >= 0)
                mth__cell_put(executable, segment->out.at[i], device[d], made, false);
            else
                mth_error_free(mth__buffer_destroy(executable->engine, made));
        }
    return NULL;
}

static mth_status call(mth__executable *executable, mth__job *job) {
    const mth__segment *segment = job->segment;
    int count;
    const int32_t *device = devices_of(executable, job, &count);
    if (executable->recorder) job->begin = mth__record_now();
    for (int d = 0; d < count; d++)
        for (int i = 0; i < job->args; i++) {
            PJRT_Buffer **argument = &job->argument[d * job->args + i];
            mth__cell **cell = i < (int)segment->in.n ? mth__cell_of(executable, segment->in.at[i], device[d]) : NULL;
            if (cell)
                *argument = (*cell)->buffer;
            else if (i < (int)segment->in.n)
                TRY(zeros(executable, segment->in.at[i], device[d], argument));
            else
                TRY(number(executable, job->number[i - (int)segment->in.n], device[d], argument));
        }
    for (int d = 0; d < count; d += job->together) TRY(launch(executable, job, d, device + d));
    return NULL;
}

/* ---------------------------------------------------------------- checks of ids */
static mth_status check_error(const mth__executable *executable, const mth__id_check *check, int64_t id) {
    const mth__instr *instruction = check->instr->instr;
    /* modules tell no more than 32 bits: of a mask of floating numbers those of a float32 */
    const bool is_id = instruction->op->index_name,
               is_real = !is_id && mth__is_float(executable->segments->slot.at[check->instr->in[0]].any->dtype);
    const char *more = is_real ? "" : id == INT32_MAX ? " or above" : id == INT32_MIN + 1 ? " or below" : "";
    const int32_t bits = (int32_t)id;
    const int64_t value = is_id ? id : mth__mask_fault(is_real ? mth__dtype_load(MTH_FLOAT32, &bits, 0) : (double)id);
    mth_status status = mth__fault_error(instruction->op, value, more, check->limit, "");
    status = mth__error_source(mth__error_operator(status, instruction->label.module), instruction->label.source);
    for (int k = 0; k < check->instr->nin; k++) {
        const mth__program_value *operand = executable->segments->slot.at[check->instr->in[k]].any;
        char shape[256], where[256];
        mth__shape_write(shape, sizeof shape, operand->shape);
        mth__where_write(where, sizeof where, &operand->sharding, operand->shape.rank);
        status = mth__error_tensor(
            status, F("%s: %s %s, sharded %s", operand->name, mth_dtype_name(operand->dtype), shape, where));
    }
    return status;
}

static mth_status read_checks(mth__executable *executable, mth__job *job, PJRT_Buffer *from) {
    const int n = job->module->text.checks;
    int32_t small[64], *values = 2 * n <= 64 ? small : mth__calloc(2 * (size_t)n, sizeof *values);
    if (!values) return mth__lacks_memory("a check of ids", 0);
    MTH__ARGS(PJRT_Buffer_ToHostBuffer, get);
    get.src = from;
    get.dst = values;
    get.dst_size = 2 * (size_t)n * sizeof *values;
    mth_status status = mth__pjrt_status(
        executable->engine->plugin, executable->engine->plugin->api->PJRT_Buffer_ToHostBuffer(&get), "check ids");
    if (!status) status = mth__pjrt_await(executable->engine, get.event, "check ids");
    for (int i = 0; i < n && !status; i++)
        if (values[2 * i]) status = check_error(executable, &job->module->text.check[i], values[2 * i + 1]);
    if (values != small) mth__free(values);
    return status;
}

/* ---------------------------------------------------------------- the run */
static mth_status keep_first(mth_status first, mth_status next) {
    if (!first) return next;
    mth_error_free(next);
    return first;
}

/* From the launch of a module until its end was awaited on the device, which may be later than it came. Of another role
 * than the segment's first, and of XLA's own partitioning, the instructions' numbers aren't known. */
static void record(const mth__executable *executable, const mth__job *job, int device) {
    const size_t n = job->segment->instr.n;
    mth__recorded event = {.device = device, .first = -1, .last = -1, .begin = job->begin, .end = mth__record_now()};
    const mth__seg_instr *first = n ? &job->segment->instr.at[0] : NULL, *last = n ? first + (n - 1) : NULL;
    const int role_number = executable->program->role_of[device];
    if (n && !executable->segments->global && role_number >= 0 &&
        first->role == &executable->program->role.at[role_number] && last->role == first->role) {
        event.first = (int32_t)(first->instr - first->role->instr.at);
        event.last = (int32_t)(last->instr - last->role->instr.at);
    }
    mth__record(executable->recorder, &event);
}

/* Waits until the module is done on every device, also where something went wrong meanwhile, since the module reads
 * buffers of the caller. */
static mth_status finish_job(mth__executable *executable, mth__job *job, mth_status status) {
    if (!job->segment) return mth__hop_finish(executable, job, status);
    int count;
    const int32_t *device = devices_of(executable, job, &count);
    for (int d = 0; d < count; d++) {
        if (!job->complete[d]) continue;
        executable->flying[device[d]]--;
        mth_status done = mth__pjrt_await(executable->engine, job->complete[d], "run");
        if (executable->recorder) record(executable, job, device[d]);
        if (done && job->segment->instr.n)
            done = mth__error_operator(done, job->segment->instr.at[0].instr->label.module);
        job->complete[d] = NULL;
        status = keep_first(status, done);
        if (!job->module->text.checks) continue;
        PJRT_Buffer *flags = job->result[d * job->results + job->results - 1];
        if (!status) status = read_checks(executable, job, flags);
        mth_error_free(mth__buffer_destroy(executable->engine, flags));
    }
    return status;
}

static mth_status finish(mth__executable *executable, mth_status status) {
    for (size_t i = 0; i < executable->job.n; i++) status = finish_job(executable, &executable->job.at[i], status);
    return status;
}

static mth_status enter(mth__executable *executable, mth__buffer *const *entry) {
    const mth__program *program = executable->segments->program;
    for (size_t k = 0; k < program->entry.n; k++) {
        int slot = executable->segments->entry_slot[k];
        if (slot < 0) continue;
        const mth__slot *from = &executable->segments->slot.at[slot];
        const mth__placement *on = from->any->sharding.on;
        const int32_t *rank_of = executable->program->entry.at[k].sharding.on->rank_of;
        if (from->last_read == MTH__NEVER) continue;
        for (int rank = 0; rank < on->count; rank++) {
            const int64_t i = executable->offset.entry[k] + rank_of[on->device[rank]];
            PJRT_Buffer *view;
            if (!entry[i]) return INTERNAL("%s: device %d has no buffer", program->entry.at[k].name, on->device[rank]);
            mth_status status = mth__pjrt_view(entry[i], on->device[rank], from->any->dtype,
                executable->entry_port[i].real, executable->entry_port[i].padded, &view);
            if (status) return mth__error_operator(status, program->entry.at[k].name);
            mth__cell_put(executable, slot, on->device[rank], view, true);
        }
    }
    return NULL;
}

static mth_status await_buffer(mth__engine *engine, PJRT_Buffer *buffer) {
    MTH__ARGS(PJRT_Buffer_ReadyEvent, ready);
    ready.buffer = buffer;
    TRY(mth__pjrt_status(
        engine->plugin, engine->plugin->api->PJRT_Buffer_ReadyEvent(&ready), "move a value between devices"));
    return mth__pjrt_await(engine, ready.event, "move a value between devices");
}

static mth_status leave(mth__executable *executable, mth__buffer **exit) {
    const mth__program *program = executable->segments->program;
    for (size_t k = 0; k < program->exit.n; k++) {
        int slot = executable->segments->exit_slot[k];
        if (slot < 0) return INTERNAL("nothing writes %s", program->exit.at[k].name);
        const mth__slot *from = &executable->segments->slot.at[slot];
        const mth__placement *on = from->any->sharding.on;
        const int32_t *rank_of = executable->program->exit.at[k].sharding.on->rank_of;
        for (int rank = 0; rank < on->count; rank++) {
            const int64_t i = executable->offset.exit[k] + rank_of[on->device[rank]];
            mth__cell *cell = *mth__cell_of(executable, slot, on->device[rank]);
            /* a hop made it: no module's end has been awaited behind it */
            if (cell && from->shared) TRY(await_buffer(executable->engine, cell->buffer));
            if (!cell || cell->lent || cell->references != 1)
                return INTERNAL("%s: device %d has no buffer of its own", program->exit.at[k].name, on->device[rank]);
            TRY(mth__pjrt_adopt(executable->engine, on->device[rank], from->any->dtype, executable->exit_port[i].real,
                executable->exit_port[i].padded, cell->buffer, &exit[i]));
            cell->lent = true; /* it is the array's now */
        }
    }
    return NULL;
}

enum {
    MEETINGS = 2 /* modules under way whose devices wait for each other */,
    FLYING = 16 /* executions of a device, when several launch */
};

static bool is_busy(const mth__executable *executable, const mth__job *job) {
    int count;
    const int32_t *device = devices_of(executable, job, &count);
    for (int d = 0; d < count && job->together > 1; d++)
        if (executable->flying[device[d]] >= FLYING) return true;
    return false;
}

static mth_status enqueue(mth__executable *executable, const mth__stop *stop) {
    size_t met = 0, oldest = 0;
    int meetings = 0;
    for (size_t at = 0; at < executable->job.n; at++) {
        mth__job *job = &executable->job.at[at];
        if (mth__stop_asked(stop)) return mth__interrupted();
        const bool meets = job->segment && job->module->text.meets;
        if (meets && meetings == MEETINGS) {
            while (!executable->job.at[met].segment || !executable->job.at[met].module->text.meets) met++;
            TRY(finish_job(executable, &executable->job.at[met++], NULL));
            meetings--;
        }
        meetings += meets;
        while (job->segment && oldest < at && is_busy(executable, job))
            TRY(finish_job(executable, &executable->job.at[oldest++], NULL));
        if (job->segment)
            TRY(call(executable, job));
        else {
            mth_status status = mth__hop_run(executable, job);
            if (status) return mth__error_operator(status, job->hop.channel->label);
        }
        for (int i = 0; i < job->drops; i++) {
            const mth__placement *on = executable->segments->slot.at[job->drop[i]].any->sharding.on;
            for (int k = 0; k < on->count; k++) mth__cell_drop(executable, job->drop[i], on->device[k]);
        }
    }
    return NULL;
}

static void clear(mth__executable *executable) {
    for (size_t slot = 0; slot < executable->segments->slot.n; slot++) {
        const mth__placement *on = executable->segments->slot.at[slot].any->sharding.on;
        for (int k = 0; k < on->count; k++) mth__cell_drop(executable, (int)slot, on->device[k]);
    }
}

static mth_status not_here(const mth__engine *engine) {
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("no %s is here: this backend plans and compiles for the topology %s, and can't run", engine->platform,
            engine->topology_name),
        F("run on a machine with a %s and leave topology out; read mth_explain and mth_plan_print here",
            engine->platform));
}

static mth_status run_locked(
    mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, const mth__stop *stop) {
    const int64_t exits = executable->offset.exit[executable->program->exit.n];
    mth_status status = enter(executable, entry);
    if (!status) status = enqueue(executable, stop);
    status = finish(executable, status);
    if (!status) status = leave(executable, exit);
    clear(executable);
    for (int64_t i = 0; status && i < exits; i++) {
        mth__pjrt_buffer_release(exit[i]);
        exit[i] = NULL;
    }
    return status;
}

mth_status mth__pjrt_run(
    mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    const mth__stop *stop = mth__control_stop(control);
    if (!executable->engine->client) return not_here(executable->engine);
    TRY(mth__control_uncrossed(control));
    TRY(mth__plugin_check_process(executable->engine->plugin)); /* before any lock: who held it may not be here */
    TRY(mth__lock_run(&executable->lock, stop));
    mth_status status = mth__executable_compile(executable);
    if (!status && !(status = mth__lock_run(&executable->engine->running, stop))) {
        executable->recorder = mth__control_recorder(control);
        status = run_locked(executable, entry, exit, stop);
        pthread_mutex_unlock(&executable->engine->running);
    }
    pthread_mutex_unlock(&executable->lock);
    return status;
}
