/* One run: all work is enqueued, in an order in which every buffer is made before it is read; XLA's own dependencies do
 * the rest. Then everything is awaited: when a run returns, nothing of it goes on.
 *
 * Modules whose devices wait for each other hold a thread a device while they do. CPU plugins have a bounded pool of
 * them, and abort the process when the last one waits for a partner that finds none: so few such modules are under way
 * at a time, and runs of an engine exclude each other. They launch modules of several devices from that pool too, where
 * a launch holds its thread while 32 executions of its device are under way: so far fewer are when such a module is
 *   launched. */
#include "engine/fault.h"
#include "engine/pjrt/pjrt_job.h"
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- segments */
static mth_status fill(
    mth__executable *x, int device, mth_dtype dtype, mth__shape shape, const void *data, PJRT_Buffer **out) {
    MTH__ARGS(PJRT_Client_BufferFromHostBuffer, put);
    put.client = x->engine->client;
    put.data = data;
    put.type = (PJRT_Buffer_Type)mth__pjrt_type(dtype);
    put.dims = shape.dim;
    put.num_dims = (size_t)shape.rank;
    put.host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableOnlyDuringCall;
    put.device = x->engine->device[device];
    TRY(mth__pjrt_status(
        x->engine->plugin, x->engine->plugin->api->PJRT_Client_BufferFromHostBuffer(&put), "fill a buffer"));
    *out = put.buffer;
    return mth__pjrt_await(x->engine, put.done_with_host_buffer, "fill a buffer");
}

/* A device that has no part of a value still passes a buffer to its module: the root's operand of a broadcast. */
static mth_status zeros(mth__executable *x, int slot, int device, PJRT_Buffer **out) {
    PJRT_Buffer **made = &x->zeros[slot][device];
    if (!*made) {
        const mth__slot *s = &x->segments->slot.at[slot];
        const int64_t bytes = mth__shape_size(s->local) * (int64_t)mth_dtype_size(s->any->dtype);
        void *data = mth__calloc(bytes > 64 ? (size_t)bytes : 64, 1);
        if (!data) return mth__lacks_memory("zeros", bytes);
        mth_status status = fill(x, device, s->any->dtype, s->local, data, made);
        mth__free(data);
        TRY(status);
    }
    *out = *made;
    return NULL;
}

static mth_status number(mth__executable *x, int index, int device, PJRT_Buffer **out) {
    PJRT_Buffer **made = &x->number_buffer[(size_t)index * (size_t)x->program->mesh->count + (size_t)device];
    const int32_t value = (int32_t)x->number.at[index];
    if (!*made) TRY(fill(x, device, MTH_INT32, (mth__shape){0}, &value, made));
    *out = *made;
    return NULL;
}

static const int32_t *devices_of(const mth__executable *x, const mth__job *job, int *count) {
    *count = x->segments->global ? x->program->mesh->count : job->segment->count;
    return x->segments->global ? x->program->mesh->whole->device : job->segment->device;
}

/* On the devices from the job's `first` on that run together. */
static mth_status launch(mth__executable *x, mth__job *job, int first, const int32_t *device) {
    const mth__segment *g = job->segment;
    MTH__ARGS(PJRT_LoadedExecutable_Execute, execute);
    PJRT_ExecuteOptions options = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    execute.executable = job->module->xla->loaded;
    execute.options = &options;
    execute.argument_lists = job->arguments + first;
    execute.num_devices = (size_t)job->together;
    execute.num_args = (size_t)job->args;
    execute.output_lists = job->results_of + first;
    execute.device_complete_events = job->complete + first;
    if (!job->module->options.device) execute.execute_device = x->engine->device[device[0]];
    mth_status s =
        mth__pjrt_status(x->engine->plugin, x->engine->plugin->api->PJRT_LoadedExecutable_Execute(&execute), "run");
    if (s) {
        memset(job->complete + first, 0, (size_t)job->together * sizeof *job->complete);
        return g->instr.n ? mth__error_operator(s, g->instr.at[0].instr->label.module) : s;
    }
    for (int d = 0; d < job->together; d++) x->flying[device[d]]++;
    for (int d = 0; d < job->together; d++)
        for (size_t i = 0; i < g->out.n; i++) {
            PJRT_Buffer *made = job->result[(first + d) * job->results + (int)i];
            if (x->segments->slot.at[g->out.at[i]].any->sharding.on->rank_of[device[d]] >= 0)
                mth__cell_put(x, g->out.at[i], device[d], made, false);
            else
                mth_error_free(mth__buffer_destroy(x->engine, made));
        }
    return NULL;
}

static mth_status call(mth__executable *x, mth__job *job) {
    const mth__segment *g = job->segment;
    int count;
    const int32_t *device = devices_of(x, job, &count);
    if (x->recorder) job->begin = mth__record_now();
    for (int d = 0; d < count; d++)
        for (int i = 0; i < job->args; i++) {
            PJRT_Buffer **argument = &job->argument[d * job->args + i];
            mth__cell **cell = i < (int)g->in.n ? mth__cell_of(x, g->in.at[i], device[d]) : NULL;
            if (cell)
                *argument = (*cell)->buffer;
            else if (i < (int)g->in.n)
                TRY(zeros(x, g->in.at[i], device[d], argument));
            else
                TRY(number(x, job->number[i - (int)g->in.n], device[d], argument));
        }
    for (int d = 0; d < count; d += job->together) TRY(launch(x, job, d, device + d));
    return NULL;
}

/* ---------------------------------------------------------------- checks of ids */
static mth_status check_error(const mth__executable *x, const mth__id_check *c, int64_t id) {
    const mth__instr *i = c->instr->instr;
    /* modules tell no more than 32 bits */
    const char *more = id == INT32_MAX ? " or above" : id == INT32_MIN + 1 ? " or below" : "";
    char value[64];
    snprintf(value, sizeof value, "%lld%s", (long long)id, more);
    mth_status s = mth__fault_error(i->op, value, c->limit, "");
    s = mth__error_source(mth__error_operator(s, i->label.module), i->label.source);
    for (int k = 0; k < c->instr->nin; k++) {
        const mth__program_value *v = x->segments->slot.at[c->instr->in[k]].any;
        char shape[256], where[256];
        mth__shape_write(shape, sizeof shape, v->shape);
        mth__where_write(where, sizeof where, &v->sharding, v->shape.rank);
        s = mth__error_tensor(s, F("%s: %s %s, sharded %s", v->name, mth_dtype_name(v->dtype), shape, where));
    }
    return s;
}

static mth_status read_checks(mth__executable *x, mth__job *job, PJRT_Buffer *from) {
    const int n = job->module->text.checks;
    int32_t small[64], *values = 2 * n <= 64 ? small : mth__calloc(2 * (size_t)n, sizeof *values);
    if (!values) return mth__lacks_memory("a check of ids", 0);
    MTH__ARGS(PJRT_Buffer_ToHostBuffer, get);
    get.src = from;
    get.dst = values;
    get.dst_size = 2 * (size_t)n * sizeof *values;
    mth_status s =
        mth__pjrt_status(x->engine->plugin, x->engine->plugin->api->PJRT_Buffer_ToHostBuffer(&get), "check ids");
    if (!s) s = mth__pjrt_await(x->engine, get.event, "check ids");
    for (int i = 0; i < n && !s; i++)
        if (values[2 * i]) s = check_error(x, &job->module->text.check[i], values[2 * i + 1]);
    if (values != small) mth__free(values);
    return s;
}

/* ---------------------------------------------------------------- the run */
static mth_status keep_first(mth_status first, mth_status next) {
    if (!first) return next;
    mth_error_free(next);
    return first;
}

/* Waits until the module is done on every device, whatever went wrong meanwhile: buffers of the caller are read by it.
 */
/* From the launch of a module until its end was awaited on the device, which may be later than it came. Of another role
 * than the segment's first, and of XLA's own partitioning, the instructions' numbers aren't known. */
static void record(const mth__executable *x, const mth__job *job, int device) {
    const size_t n = job->segment->instr.n;
    mth__recorded event = {.device = device, .first = -1, .last = -1, .begin = job->begin, .end = mth__record_now()};
    const mth__seg_instr *first = n ? &job->segment->instr.at[0] : NULL, *last = n ? first + (n - 1) : NULL;
    const int role = x->program->role_of[device];
    if (n && !x->segments->global && role >= 0 && first->role == &x->program->role.at[role] &&
        last->role == first->role) {
        event.first = (int32_t)(first->instr - first->role->instr.at);
        event.last = (int32_t)(last->instr - last->role->instr.at);
    }
    mth__record(x->recorder, &event);
}

static mth_status finish_job(mth__executable *x, mth__job *job, mth_status s) {
    if (!job->segment) return mth__hop_finish(x, job, s);
    int count;
    const int32_t *device = devices_of(x, job, &count);
    for (int d = 0; d < count; d++) {
        if (!job->complete[d]) continue;
        x->flying[device[d]]--;
        mth_status done = mth__pjrt_await(x->engine, job->complete[d], "run");
        if (x->recorder) record(x, job, device[d]);
        if (done && job->segment->instr.n)
            done = mth__error_operator(done, job->segment->instr.at[0].instr->label.module);
        job->complete[d] = NULL;
        s = keep_first(s, done);
        if (!job->module->text.checks) continue;
        PJRT_Buffer *flags = job->result[d * job->results + job->results - 1];
        if (!s) s = read_checks(x, job, flags);
        mth_error_free(mth__buffer_destroy(x->engine, flags));
    }
    return s;
}

static mth_status finish(mth__executable *x, mth_status s) {
    for (size_t w = 0; w < x->job.n; w++) s = finish_job(x, &x->job.at[w], s);
    return s;
}

static mth_status enter(mth__executable *x, mth__buffer *const *entry) {
    const mth__program *p = x->segments->program;
    for (size_t e = 0; e < p->entry.n; e++) {
        int slot = x->segments->entry_slot[e];
        if (slot < 0) continue;
        const mth__slot *s = &x->segments->slot.at[slot];
        const mth__placement *on = s->any->sharding.on;
        const int32_t *rank_of = x->program->entry.at[e].sharding.on->rank_of;
        if (s->last_read == MTH__NEVER) continue;
        for (int r = 0; r < on->count; r++) {
            const int64_t i = x->entry_offset[e] + rank_of[on->device[r]];
            PJRT_Buffer *view;
            if (!entry[i]) return INTERNAL("%s: device %d has no buffer", p->entry.at[e].name, on->device[r]);
            mth_status status = mth__pjrt_view(
                entry[i], on->device[r], s->any->dtype, x->entry_port[i].real, x->entry_port[i].padded, &view);
            if (status) return mth__error_operator(status, p->entry.at[e].name);
            mth__cell_put(x, slot, on->device[r], view, true);
        }
    }
    return NULL;
}

static mth_status await_buffer(mth__engine *e, PJRT_Buffer *buffer) {
    MTH__ARGS(PJRT_Buffer_ReadyEvent, ready);
    ready.buffer = buffer;
    TRY(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Buffer_ReadyEvent(&ready), "move a value between devices"));
    return mth__pjrt_await(e, ready.event, "move a value between devices");
}

static mth_status leave(mth__executable *x, mth__buffer **exit) {
    const mth__program *p = x->segments->program;
    for (size_t e = 0; e < p->exit.n; e++) {
        int slot = x->segments->exit_slot[e];
        if (slot < 0) return INTERNAL("nothing writes %s", p->exit.at[e].name);
        const mth__slot *s = &x->segments->slot.at[slot];
        const mth__placement *on = s->any->sharding.on;
        const int32_t *rank_of = x->program->exit.at[e].sharding.on->rank_of;
        for (int r = 0; r < on->count; r++) {
            const int64_t i = x->exit_offset[e] + rank_of[on->device[r]];
            mth__cell *c = *mth__cell_of(x, slot, on->device[r]);
            /* a hop made it: no module's end has been awaited behind it */
            if (c && s->shared) TRY(await_buffer(x->engine, c->buffer));
            if (!c || c->lent || c->references != 1)
                return INTERNAL("%s: device %d has no buffer of its own", p->exit.at[e].name, on->device[r]);
            TRY(mth__pjrt_adopt(x->engine, on->device[r], s->any->dtype, x->exit_port[i].real, x->exit_port[i].padded,
                c->buffer, &exit[i]));
            c->lent = true; /* it is the array's now */
        }
    }
    return NULL;
}

enum {
    MEETINGS = 2 /* modules under way whose devices wait for each other */,
    FLYING = 16 /* executions of a device, when several launch */
};

static bool is_busy(const mth__executable *x, const mth__job *job) {
    int count;
    const int32_t *device = devices_of(x, job, &count);
    for (int d = 0; d < count && job->together > 1; d++)
        if (x->flying[device[d]] >= FLYING) return true;
    return false;
}

static mth_status enqueue(mth__executable *x, const mth__stop *stop) {
    size_t met = 0, oldest = 0;
    int meetings = 0;
    for (size_t w = 0; w < x->job.n; w++) {
        mth__job *job = &x->job.at[w];
        if (mth__stop_asked(stop)) return mth__interrupted();
        const bool meets = job->segment && job->module->text.meets;
        if (meets && meetings == MEETINGS) {
            while (!x->job.at[met].segment || !x->job.at[met].module->text.meets) met++;
            TRY(finish_job(x, &x->job.at[met++], NULL));
            meetings--;
        }
        meetings += meets;
        while (job->segment && oldest < w && is_busy(x, job)) TRY(finish_job(x, &x->job.at[oldest++], NULL));
        if (job->segment)
            TRY(call(x, job));
        else {
            mth_status s = mth__hop_run(x, job);
            if (s) return mth__error_operator(s, job->hop.channel->label);
        }
        for (int i = 0; i < job->drops; i++) {
            const mth__placement *on = x->segments->slot.at[job->drop[i]].any->sharding.on;
            for (int r = 0; r < on->count; r++) mth__cell_drop(x, job->drop[i], on->device[r]);
        }
    }
    return NULL;
}

static void clear(mth__executable *x) {
    for (size_t s = 0; s < x->segments->slot.n; s++) {
        const mth__placement *on = x->segments->slot.at[s].any->sharding.on;
        for (int r = 0; r < on->count; r++) mth__cell_drop(x, (int)s, on->device[r]);
    }
}

static mth_status not_here(const mth__engine *e) {
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("no %s is here: this backend plans and compiles for the topology %s, and can't run", e->platform,
            e->topology_name),
        F("run on a machine with a %s and leave topology out; read mth_explain and mth_plan_print here", e->platform));
}

static mth_status run_locked(mth__executable *x, mth__buffer *const *entry, mth__buffer **exit, const mth__stop *stop) {
    const int64_t exits = x->exit_offset[x->program->exit.n];
    mth_status s = enter(x, entry);
    if (!s) s = enqueue(x, stop);
    s = finish(x, s);
    if (!s) s = leave(x, exit);
    clear(x);
    for (int64_t i = 0; s && i < exits; i++) {
        mth__pjrt_buffer_release(exit[i]);
        exit[i] = NULL;
    }
    return s;
}

mth_status mth__pjrt_run(
    mth__executable *x, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    const mth__stop *stop = mth__control_stop(control);
    if (!x->engine->client) return not_here(x->engine);
    TRY(mth__control_uncrossed(control));
    TRY(mth__plugin_check_process(x->engine->plugin)); /* before any lock: who held it may not be here */
    TRY(mth__lock_run(&x->lock, stop));
    mth_status s = mth__executable_compile(x);
    if (!s && !(s = mth__lock_run(&x->engine->running, stop))) {
        x->recorder = mth__control_recorder(control);
        s = run_locked(x, entry, exit, stop);
        pthread_mutex_unlock(&x->engine->running);
    }
    pthread_mutex_unlock(&x->lock);
    return s;
}
