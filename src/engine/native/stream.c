/* A program becomes streams of tasks. First pass: how many tasks each instruction has, so that a device can say "when
 * your third task is done" of one whose tasks are not made yet. Second pass: the tasks, with addresses and waits. */
#include "engine/native/native.h"
#include <stdio.h>
#include <string.h>

enum { MOST_STEPS = 1 << 21 }; /* of all ranks of a template; loaded, each has some hundred bytes */

/* ---- what a device holds */
static int indices(const mth__program *program, mth__storage storage) {
    int n = 0;
    for (size_t role_number = 0; role_number < program->role.n; role_number++)
        for (size_t i = 0; i < program->role.at[role_number].value.n; i++) {
            const mth__program_value *value = &program->role.at[role_number].value.at[i];
            if (value->storage == storage && value->index >= n) n = value->index + 1;
        }
    return n;
}

/* The entries and exits that a device holds: several values may lie in one. */
static void list_held(mth__loader *loader) {
    const mth__role *role = loader->role;
    size_t before[2] = {loader->entry.held.n, loader->exit.held.n};
    for (size_t i = 0; i < role->value.n; i++) {
        const mth__program_value *value = &role->value.at[i];
        if (value->storage != MTH__IN_ENTRY && value->storage != MTH__IN_EXIT) continue;
        mth__moving *moving = value->storage == MTH__IN_ENTRY ? &loader->entry : &loader->exit;
        size_t *at = &moving->at[value->index];
        if (*at <= before[value->storage == MTH__IN_EXIT]) {
            const mth__exit *exit = value->storage == MTH__IN_EXIT ? &loader->program->exit.at[value->index] : NULL;
            const int entry_number = exit && exit->kind == MTH__EXIT_SUCCESSOR ? exit->entry : -1;
            PUSH(loader->arena, moving->held,
                ((mth__external){mth__load_external(loader, value->storage, value->index, loader->device), 0,
                    entry_number < 0 ? -1 : mth__load_external(loader, MTH__IN_ENTRY, entry_number, loader->device),
                    entry_number < 0 ? value->index : entry_number, loader->device}));
            *at = moving->held.n;
        }
        mth__external *held = &moving->held.at[*at - 1];
        if (held->bytes < value->bytes) held->bytes = value->bytes;
    }
}

/* ---- who takes part in channels */
static int places(const mth__channel *channel) {
    return channel->to.on->count + (channel->from.on == channel->to.on ? 0 : channel->from.on->count);
}
static void make_parts(mth__loader *loader) {
    loader->channel = NEW_ARRAY(loader->arena, mth__parts, loader->program->channel.n);
    for (size_t i = 0; i < loader->program->channel.n; i++) {
        const int n = places(&loader->program->channel.at[i]);
        mth__parts *parts = &loader->channel[i];
        parts->receive = NEW_ARRAY(loader->arena, mth__part, n);
        parts->send = NEW_ARRAY(loader->arena, mth__part, n);
        for (int k = 0; k < n; k++) parts->receive[k].instr = parts->send[k].instr = -1;
    }
}

/* ---- instructions */
/* A view that is a value of its own: no instruction runs. */
static bool is_nothing(const mth__loader *loader, int device, const mth__instr *instruction) {
    return instruction->kind == MTH__COMPUTE && (instruction->op->flags & MTH__ALIAS) &&
        mth__load_same(loader, device, instruction->in[0], instruction->out[0]);
}

static void set_operand(mth__loader *loader, int number, mth__operand *operand) {
    const mth__program_value *value = &loader->role->value.at[number];
    operand->dtype = value->dtype;
    operand->shape = value->local;
    operand->global = value->shape;
    mth__local_shape(
        value->shape, &value->sharding, value->sharding.on->rank_of[loader->device], operand->start, operand->step);
    mth__load_bind(loader, loader->device, number, 0, &operand->data);
}

static mth_status compute(mth__loader *loader, int at) {
    const mth__instr *instruction = &loader->role->instr.at[at];
    const mth__kernel *kernel = &mth__kernels[instruction->op->row];
    if (!kernel->run)
        return mth__error_operator(
            FAIL(MTH_ERROR_UNSUPPORTED, F("the native engine can't run %s: %s", instruction->op->name, kernel->reason),
                F("use the reference engine")),
            instruction->label.module);
    mth__call *call = NEW(loader->arena, mth__call);
    *call = (mth__call){.op = instruction->op,
        .attrs = instruction->attrs,
        .accumulates = instruction->accumulates,
        .nin = mth__row_operands(instruction->op, instruction->nin, instruction->accumulates),
        .nout = instruction->nout,
        .threads = loader->executable->engine->threads,
        .peers = loader->role->ndevice};
    call->in = NEW_ARRAY(loader->arena, mth__operand, call->nin);
    call->out = NEW_ARRAY(loader->arena, mth__operand, call->nout);
    for (int k = 0; k < call->nin; k++) set_operand(loader, instruction->in[k], &call->in[k]);
    for (int k = 0; k < instruction->nout; k++) set_operand(loader, instruction->out[k], &call->out[k]);
    mth_status status = kernel->prepare(loader->arena, call);
    if (status)
        return mth__error_source(mth__error_operator(status, instruction->label.module), instruction->label.source);
    mth__task *task = mth__load_task(loader, 0, MTH__TASK_CALL, at);
    task->work.call = call;
    task->run = kernel->run;
    task->phases = call->phases;
    memcpy(task->chunks, call->chunks, sizeof task->chunks);
    for (int phase = 0; phase < task->phases; phase++)
        if (task->chunks[phase] >= MTH__CHUNKS_MOST)
            return mth__error_operator(
                INTERNAL("%s has %d chunks", instruction->op->name, task->chunks[phase]), instruction->label.module);
    if (loader->executable->thread_scratch < call->thread_scratch)
        loader->executable->thread_scratch = call->thread_scratch;
    size_t *shared = &loader->executable->shared_scratch[mth__load_stream(loader, loader->device, 0)];
    if (*shared < call->call_scratch) *shared = call->call_scratch;
    return NULL;
}

/* What a WAIT waits for: what its own device has started; the receivers of its own SEND. */
static mth_status wait_for(mth__loader *loader, int at) {
    int channel_number = loader->role->instr.at[at].channel, awaited = loader->role->instr.at[at].awaited;
    if (channel_number < 0) {
        mth__load_wait(loader, 0, mth__load_stream(loader, loader->device, 2), loader->copied[awaited]);
        mth__load_task(loader, 0, MTH__TASK_SYNC, at);
        return NULL;
    }
    const mth__part *mine = mth__load_receive(loader, channel_number, loader->device);
    if (mine->instr >= 0 && mth__is_started(&loader->role->instr.at[mine->instr]))
        mth__load_wait(loader, 0, mine->stream, mine->end);
    if (mth__load_send(loader, channel_number, loader->device)->instr >= 0) {
        const int32_t *reader;
        int readers;
        TRY(mth__load_readers(loader, channel_number, loader->device, &reader, &readers));
        for (int k = 0; k < readers; k++) {
            const mth__part *theirs = mth__load_receive(loader, channel_number, reader[k]);
            if (reader[k] != loader->device) mth__load_wait(loader, 0, theirs->stream, theirs->end);
        }
    }
    mth__load_task(loader, 0, MTH__TASK_SYNC, at);
    return NULL;
}

/* ---- the passes */
static mth_status count_tasks(mth__loader *loader, int device) {
    TRY(mth__stop_check());
    const mth__role *role = mth__load_role(loader, device);
    int count[MTH__STREAMS] = {0};
    for (size_t k = 0; role && k < role->instr.n; k++) {
        const mth__instr *instruction = &role->instr.at[k];
        if (instruction->kind == MTH__COMPUTE) {
            count[0] += !is_nothing(loader, device, instruction);
            continue;
        }
        if (instruction->kind == MTH__WAIT || instruction->kind == MTH__COPY) {
            count[instruction->stream]++;
            continue;
        }
        const int on = instruction->stream;
        const mth__channel *channel = &loader->program->channel.at[instruction->channel];
        if (channel->to.on->rank_of[device] < 0 && channel->from.on->rank_of[device] < 0)
            return INTERNAL("device %d takes part in channel %d, which is of others", device, instruction->channel);
        mth__part *part =
            (instruction->kind == MTH__SEND ? mth__load_send : mth__load_receive)(loader, instruction->channel, device);
        if (part->instr >= 0) return INTERNAL("device %d takes part in channel %d twice", device, instruction->channel);
        count[on] += on != 0; /* the arrival */
        *part = (mth__part){
            .instr = (int32_t)k, .stream = mth__load_stream(loader, device, on), .first = count[on], .end = count[on]};
        if (instruction->kind != MTH__SEND) part->end = count[on] += mth__communicate_count(channel, instruction);
    }
    for (int on = 0; on < loader->executable->each; on++) {
        mth__stream *stream = &loader->executable->stream[mth__load_stream(loader, device, on)];
        stream->device = device;
        stream->tasks = count[on];
        stream->task = NEW_ARRAY(loader->arena, mth__task, count[on]);
    }
    return NULL;
}

static mth_status fill_streams(mth__loader *loader, int device) {
    TRY(mth__stop_check());
    loader->device = device;
    loader->role = mth__load_role(loader, device);
    if (!loader->role) return NULL;
    for (int on = 0; on < MTH__STREAMS; on++) {
        loader->tasks[on] = 0;
        loader->pending[on].n = 0;
    }
    if (loader->executable->each > 2) loader->copied = NEW_ARRAY(loader->arena, int, loader->role->value.n);
    list_held(loader);
    for (size_t k = 0; k < loader->role->instr.n; k++) {
        const mth__instr *instruction = &loader->role->instr.at[k];
        int at = (int)k;
        if (k % MTH__STOP_EVERY == 0) TRY(mth__stop_check());
        /* what is started begins when all before it is done */
        if (mth__is_started(instruction))
            mth__load_wait(loader, instruction->stream, mth__load_stream(loader, device, 0), loader->tasks[0]);
        switch (instruction->kind) {
        case MTH__COMPUTE:
            if (!is_nothing(loader, device, instruction)) TRY(compute(loader, at));
            break;
        case MTH__WAIT: TRY(wait_for(loader, at)); break;
        case MTH__SEND: break; /* posted when what stands before it is done */
        case MTH__COPY: mth__load_copy(loader, at); break;
        default:
            if (mth__is_started(instruction))
                mth__load_task(loader, instruction->stream, MTH__TASK_SYNC, at); /* the arrival */
            TRY(mth__communicate(loader, at));
        }
    }
    for (int on = 0; on < loader->executable->each; on++) {
        const int counted = loader->executable->stream[mth__load_stream(loader, device, on)].tasks;
        if (loader->tasks[on] != counted)
            return INTERNAL("device %d has %d tasks, counted %d", device, loader->tasks[on], counted);
    }
    return NULL;
}

/* Inverts the waits: each task lists the streams to look at when it is done. */
static void link_dependents(mth__loader *loader) {
    mth__executable *executable = loader->executable;
    for (int pass = 0; pass < 2; pass++)
        for (int n = 0; n < executable->streams; n++)
            for (int k = 0; k < executable->stream[n].tasks; k++)
                for (int wait_number = 0; wait_number < executable->stream[n].task[k].waits; wait_number++) {
                    mth__stream_wait wait = executable->stream[n].task[k].wait[wait_number];
                    mth__task *task = &executable->stream[wait.stream].task[wait.count - 1];
                    if (pass) {
                        if (!task->dependent) {
                            task->dependent = NEW_ARRAY(loader->arena, int32_t, task->dependents);
                            task->dependents = 0;
                        }
                        task->dependent[task->dependents] = n;
                    }
                    task->dependents++;
                }
}

/* A task for each round of each rank, and a move for each step. */
static mth_status check_steps(const mth__channel *channel) {
    mth__template template = mth__template_get(channel->kind, channel->algorithm, mth__channel_size(channel));
    if (template.n == 1 || mth__template_size(&template) <= MOST_STEPS) return NULL;
    char operator[128];
    snprintf(operator, sizeof operator, "%.*s", (int)strcspn(channel->label, ":"), channel->label);
    return mth__error_operator(
        FAIL(MTH_ERROR_UNSUPPORTED,
            F("%s %s over %d devices has more than %d steps, which the native engine would keep",
                mth__channel_names[channel->kind], mth__algorithm_names[channel->algorithm], template.n, MOST_STEPS),
            F("leave %s out of collective_ops: direct takes any number of devices", mth__channel_names[channel->kind])),
        operator);
}

/* What is the engine's own lies behind the slab of its space, one behind the other; a result that is added to a sum, on
 * it. */
static void place_own(mth__loader *loader) {
    const mth__program *program = loader->program;
    loader->executable->memory = mth__alloc_array(loader->arena, program->role.n, sizeof *loader->executable->memory);
    loader->own = NEW_ARRAY(loader->arena, int64_t *, program->role.n);
    for (size_t role_number = 0; role_number < program->role.n; role_number++) {
        const mth__role *role = &program->role.at[role_number];
        int64_t *end = loader->executable->memory[role_number], *at = NULL;
        memcpy(end, role->slab, sizeof role->slab);
        for (size_t number = 0; number < role->value.n; number++) {
            const mth__program_value *value = &role->value.at[number];
            if (value->storage != MTH__IN_OWN) continue;
            if (!at) at = loader->own[role_number] = NEW_ARRAY(loader->arena, int64_t, role->value.n);
            at[number] = (end[value->space] + 63) / 64 * 64;
            end[value->space] = mth__size_sum(at[number], value->bytes);
        }
        for (size_t i = 0; at && i < role->instr.n; i++) {
            const mth__instr *instruction = &role->instr.at[i];
            for (int j = 0; instruction->accumulates && j < instruction->nout; j++) {
                const int sum = mth__accumulator(instruction->op, instruction->nin, j);
                if (sum >= 0 && role->value.at[instruction->out[j]].storage == MTH__IN_OWN)
                    at[instruction->out[j]] = at[instruction->in[sum]];
            }
        }
    }
}

mth_status mth__load_streams(mth__loader *loader) {
    for (size_t i = 0; i < loader->program->channel.n; i++)
        if (loader->program->channel.at[i].algorithm != MTH__DIRECT) TRY(check_steps(&loader->program->channel.at[i]));
    make_parts(loader);
    place_own(loader);
    const mth__offsets offset = mth__buffer_offsets(loader->arena, loader->program);
    loader->entry.offset = offset.entry;
    loader->exit.offset = offset.exit;
    loader->entry.at = NEW_ARRAY(loader->arena, size_t, indices(loader->program, MTH__IN_ENTRY));
    loader->exit.at = NEW_ARRAY(loader->arena, size_t, indices(loader->program, MTH__IN_EXIT));
    for (int on = 0; on < loader->executable->each; on++)
        loader->seen[on] = NEW_ARRAY(loader->arena, int64_t, loader->executable->streams);
    for (int d = 0; d < loader->devices; d++) TRY(count_tasks(loader, d));
    for (int d = 0; d < loader->devices; d++) TRY(fill_streams(loader, d));
    link_dependents(loader);
    return NULL;
}
