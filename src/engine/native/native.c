#include "base/cores.h"
#include "engine/fault.h"
#include "engine/native/native.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- engine */
/* A run in the parent may be under way: here it is not, and the next one begins anew. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth__engine *engine = object;
    if (moment == MTH__FORK_BEFORE) pthread_mutex_lock(&engine->buffers.lock);
    if (moment == MTH__FORK_CHILD) {
        pthread_mutex_init(&engine->running, NULL);
        mth__pool_forget(engine);
        engine->generation++; /* an executable may be bound to the slabs by half */
    }
    if (moment != MTH__FORK_BEFORE) pthread_mutex_unlock(&engine->buffers.lock);
}

static void engine_free(mth__engine *engine) {
    mth__pool_stop(engine);
    mth__fork_watch_remove(&engine->watch);
    mth__buffers_trim(&engine->buffers);
    for (int i = 0; engine->worker && i < engine->threads; i++) mth__free(engine->worker[i].scratch);
    for (int k = 0; engine->shared && k < MTH__STREAMS * engine->devices; k++) mth__free(engine->shared[k]);
    for (int d = 0; engine->slab && d < MTH__SPACES * engine->devices; d++) mth__free(engine->slab[d]);
    mth__free(engine->slab);
    mth__free(engine->slab_size);
    mth__free(engine->worker);
    mth__free(engine->shared);
    mth__free(engine->shared_size);
    pthread_mutex_destroy(&engine->running);
    pthread_mutex_destroy(&engine->buffers.lock);
    mth__free(engine);
}

typedef struct {
    int64_t threads; /* 0: as many as there are cores */
} native_options;
static const mth__opt options[] = {
    {"threads", MTH__OPT_SIZE, "None",
        "Threads of the native engine, the calling one included; the number of cores unless said.",
        .read = mth__read_int, .at = offsetof(native_options, threads)},
    {0}};
static const mth__opt *const tables[] = {
    mth__mesh_options, mth__communication_options, mth__placement_options, options, mth__machine_options, NULL};
enum { THREADS_MOST = 1024 };

static mth_status native_open(const mth__engine_setup *setup, mth__engine **out) {
    const int devices = setup->mesh->count;
    native_options given;
    TRY(mth__options_hand_out(setup->tables, setup->value, options, &given));
    if (given.threads > THREADS_MOST)
        return FAIL(MTH_ERROR_VALUE, F("threads=%lld is more than the engine takes", (long long)given.threads),
            F("give threads from 1 to %d", THREADS_MOST));
    mth__engine *engine = mth__calloc_aligned(1, sizeof *engine);
    if (!engine) return mth__lacks_memory("an engine", sizeof *engine);
    atomic_init(&engine->references, 1);
    engine->devices = devices;
    engine->threads = given.threads ? (int)given.threads : mth__core_count();
    pthread_mutex_init(&engine->running, NULL);
    pthread_mutex_init(&engine->buffers.lock, NULL);
    engine->worker = mth__calloc_aligned((size_t)engine->threads, sizeof *engine->worker);
    engine->slab = mth__calloc(MTH__SPACES * (size_t)devices, sizeof *engine->slab);
    engine->slab_size = mth__calloc(MTH__SPACES * (size_t)devices, sizeof *engine->slab_size);
    engine->shared = mth__calloc(MTH__STREAMS * (size_t)devices, sizeof *engine->shared);
    engine->shared_size = mth__calloc(MTH__STREAMS * (size_t)devices, sizeof *engine->shared_size);
    if (!engine->worker || !engine->slab || !engine->slab_size || !engine->shared || !engine->shared_size) {
        engine_free(engine);
        return mth__lacks_memory("an engine", 0);
    }
    for (int i = 0; i < engine->threads; i++) {
        engine->worker[i].engine = engine;
        engine->worker[i].index = i;
    }
    mth__kernels_open();
    mth__fork_watch_add(&engine->watch, around_fork, engine);
    *out = engine;
    return NULL;
}
static void native_close(mth__engine *engine) {
    if (engine && atomic_fetch_sub(&engine->references, 1) == 1) engine_free(engine);
}
static mth_status native_describe(mth__engine *engine, mth__text *text) {
    mth__text_add(text, "%d device%s on %d thread%s of %d cores\n", engine->devices, engine->devices == 1 ? "" : "s",
        engine->threads, engine->threads == 1 ? "" : "s", mth__core_count());
    return NULL;
}

/* ---- load */
static void executable_free(mth__executable *executable) {
    mth__free(executable->stream);
    mth__arena_free(executable->arena);
    mth__free(executable);
}

enum { LEAST_LENT = 64 << 10 }; /* bytes: less is not worth a plan that is harder to read */

static mth_status allocate(mth__executable *executable) {
    const mth__program *program = executable->program;
    executable->each = 1;
    for (size_t role_number = 0; role_number < program->role.n; role_number++)
        for (size_t i = 0; i < program->role.at[role_number].instr.n; i++)
            if (program->role.at[role_number].instr.at[i].stream >= executable->each)
                executable->each = program->role.at[role_number].instr.at[i].stream + 1;
    executable->streams = executable->each * program->mesh->count;
    executable->stream = mth__calloc_aligned((size_t)executable->streams, sizeof *executable->stream);
    return executable->stream
        ? NULL
        : mth__lacks_memory("the streams", executable->streams * (int64_t)sizeof *executable->stream);
}

static mth_status load_body(void *argument) {
    mth__executable *executable = argument;
    mth__arena *arena = mth__arena_new();
    executable->shared_scratch = NEW_ARRAY(arena, size_t, executable->streams);
    mth__loader loader = {.executable = executable,
        .arena = arena,
        .program = executable->program,
        .devices = executable->program->mesh->count,
        .templates = {.arena = arena}};
    TRY(mth__load_streams(&loader));
    executable->event = loader.event.at;
    executable->events = loader.event.n;
    executable->slab_fixup = loader.slab.at;
    executable->slab_fixups = loader.slab.n;
    executable->entry_fixup = loader.entry.fixup.at;
    executable->entry_fixups = loader.entry.fixup.n;
    executable->exit_fixup = loader.exit.fixup.at;
    executable->exit_fixups = loader.exit.fixup.n;
    executable->entry = loader.entry.held.at;
    executable->entries = loader.entry.held.n;
    executable->exit = loader.exit.held.at;
    executable->exits = loader.exit.held.n;
    mth__arena_keep(arena);
    executable->arena = arena;
    return NULL;
}

static void replace(mth__engine *engine, void **memory, void *larger, size_t *size, size_t bytes) {
    void *before = *memory;
    pthread_mutex_lock(&engine->buffers.lock);
    *memory = larger;
    *size = bytes;
    pthread_mutex_unlock(&engine->buffers.lock);
    mth__free(before);
}
static mth_status grow(mth__engine *engine, void **memory, size_t *size, size_t need) {
    if (*size >= need) return NULL;
    void *larger = mth__malloc(need);
    if (!larger) return mth__lacks_memory("scratch", (int64_t)need);
    replace(engine, memory, larger, size, need);
    return NULL;
}
/* What kernels need beside their operands belongs to the engine: executables run one at a time. */
static mth_status grow_scratch(mth__engine *engine, const mth__executable *executable) {
    for (int i = 0; i < engine->threads; i++)
        TRY(grow(engine, &engine->worker[i].scratch, &engine->worker[i].scratch_size, executable->thread_scratch));
    for (int k = 0; k < executable->streams; k++)
        TRY(grow(engine, &engine->shared[k], &engine->shared_size[k], executable->shared_scratch[k]));
    return NULL;
}

static mth_status grow_slabs(mth__engine *engine, const mth__executable *executable) {
    for (int d = 0; d < MTH__SPACES * engine->devices; d++) {
        const int role_number = executable->program->role_of[d % engine->devices];
        size_t bytes = role_number < 0 ? 0 : (size_t)executable->memory[role_number][d / engine->devices];
        if (bytes <= engine->slab_size[d]) continue;
        void *larger = mth__malloc(bytes);
        if (!larger) { /* what the cache of buffers holds may be what is missing */
            mth__buffers_trim(&engine->buffers);
            larger = mth__malloc(bytes);
        }
        if (!larger)
            return mth__lacks_memory(
                d < engine->devices ? "the slab of a device" : "a device's part of the host's pool", (int64_t)bytes);
        engine->generation++;
        replace(engine, &engine->slab[d], larger, &engine->slab_size[d], bytes);
    }
    return NULL;
}

static void native_unload(mth__executable *executable) {
    mth__engine *engine = executable->engine;
    executable_free(executable);
    native_close(engine);
}

static mth_status native_load(
    mth__engine *engine, const mth__program *program, const mth__program *global, mth__executable **out) {
    (void)global;
    if (program->mesh->count != engine->devices)
        return INTERNAL("a program for %d devices on an engine of %d", program->mesh->count, engine->devices);
    mth__executable *executable = mth__calloc(1, sizeof *executable);
    if (!executable) return mth__lacks_memory("an executable", sizeof *executable);
    executable->engine = engine;
    executable->program = program;
    mth_status status = allocate(executable);
    if (!status) status = mth__guard(load_body, executable);
    if (!status) {
        pthread_mutex_lock(&engine->running);
        status = grow_scratch(engine, executable);
        if (!status) status = grow_slabs(engine, executable);
        executable->generation = engine->generation - 1; /* bound to no slab yet */
        if (!status) status = mth__kernels_start();
        if (!status) status = mth__pool_start(engine);
        pthread_mutex_unlock(&engine->running);
    }
    if (status) {
        executable_free(executable);
        return status;
    }
    atomic_fetch_add(&engine->references, 1);
    *out = executable;
    return NULL;
}

/* ---- run */
static const char *task_name(const mth__executable *executable, int stream_number, int task, const mth__instr **out) {
    const mth__stream *stream = &executable->stream[stream_number];
    const mth__instr *instruction = *out =
        &executable->program->role.at[executable->program->role_of[stream->device]].instr.at[stream->task[task].instr];
    return instruction->kind == MTH__COMPUTE ? instruction->op->name
        : instruction->channel >= 0          ? executable->program->channel.at[instruction->channel].label
                                             : "a copy between spaces";
}

typedef struct {
    const mth__executable *executable;
    mth_status status;
} dress;
static mth_status fault_tensors(void *argument) {
    dress *context = argument;
    const mth__run *running = &context->executable->engine->run;
    const mth__instr *instruction;
    task_name(context->executable, running->at_stream, running->at_task, &instruction);
    const mth__role *role =
        &context->executable->program->role
             .at[context->executable->program->role_of[context->executable->stream[running->at_stream].device]];
    mth__arena *arena = mth__arena_new();
    for (int k = 0; k < instruction->nin; k++) {
        const mth__program_value *value = &role->value.at[instruction->in[k]];
        context->status = mth__error_tensor(context->status,
            F("%s: %s %s, sharded %s", value->name, mth_dtype_name(value->dtype), mth__shape_text(arena, value->shape),
                mth__where_text(arena, &value->sharding, value->shape.rank)));
    }
    mth__arena_free(arena);
    return NULL;
}
static mth_status fault_error(const mth__executable *executable) {
    const mth__run *running = &executable->engine->run;
    const mth__stream *stream = &executable->stream[running->at_stream];
    const mth__instr *instruction;
    task_name(executable, running->at_stream, running->at_task, &instruction);
    char where[32];
    snprintf(where, sizeof where, " on device %d", stream->device);
    dress context = {
        executable, mth__fault_error(instruction->op, stream->fault.value, "", stream->fault.limit, where)};
    context.status =
        mth__error_source(mth__error_operator(context.status, instruction->label.module), instruction->label.source);
    mth_status lost = mth__guard(fault_tensors, &context); /* without memory the error has fewer tensors */
    mth_error_free(lost);
    return context.status;
}
static mth_status stuck_error(const mth__executable *executable) {
    const mth__run *running = &executable->engine->run;
    const mth__stream *stream = &executable->stream[running->at_stream];
    const mth__task *task = &stream->task[running->at_task];
    const mth__instr *instruction, *peer_instr;
    const char *name = task_name(executable, running->at_stream, running->at_task, &instruction);
    for (int k = 0; k < task->waits; k++) {
        const mth__stream *peer = &executable->stream[task->wait[k].stream];
        int done = atomic_load(&peer->done);
        if (done < task->wait[k].count)
            return mth__error_operator(INTERNAL("no instruction can run: on device %d instruction %d (%s) waits for "
                                                "device %d, which is at instruction %d (%s)",
                                           stream->device, task->instr, name, peer->device, peer->task[done].instr,
                                           task_name(executable, task->wait[k].stream, done, &peer_instr)),
                instruction->label.module);
    }
    for (int m = 0; task->awaits && m < task->awaits->n; m++) {
        const mth__stream *peer = &executable->stream[task->awaits->stream[m]];
        for (int done = atomic_load(&peer->done), k = done; k < peer->tasks; k++)
            if (peer->task[k].signals == task->awaits)
                return mth__error_operator(INTERNAL("no instruction can run: on device %d instruction %d (%s) waits "
                                                    "for device %d, which is at instruction %d (%s)",
                                               stream->device, task->instr, name, peer->device, peer->task[done].instr,
                                               task_name(executable, task->awaits->stream[m], done, &peer_instr)),
                    instruction->label.module);
    }
    return INTERNAL("no instruction can run: device %d is at instruction %d (%s)", stream->device, task->instr, name);
}

/* Of an exit: new memory, or that of the entry whose successor it is. */
static mth_status exit_new(
    mth__executable *executable, const mth__external *held, mth__buffer *const *entry, mth__buffer **out) {
    if (held->entry < 0) return mth__native_buffer_new(executable->engine, held->device, held->bytes, out);
    mth__buffer *before = entry[held->entry];
    if (before->size == MTH__BORROWED)
        return INTERNAL("entry %s has a successor on device %d, and its buffer is the caller's own memory",
            executable->program->entry.at[held->number].name, held->device);
    mth__native_buffer_retain(before);
    *out = before;
    return NULL;
}
static mth_status exits_new(mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit) {
    for (size_t i = 0; i < executable->exits; i++) {
        mth_status status = exit_new(executable, &executable->exit[i], entry, &exit[executable->exit[i].index]);
        if (!status) continue;
        while (i--) {
            mth__native_buffer_release(exit[executable->exit[i].index]);
            exit[executable->exit[i].index] = NULL;
        }
        return status;
    }
    return NULL;
}
static void bind_slabs(mth__executable *executable) {
    /* a device whose values are all empty may have no slab: nobody reads here, but the address can be computed with */
    static char nothing[64];
    if (executable->generation == executable->engine->generation) return;
    for (size_t i = 0; i < executable->slab_fixups; i++) {
        const mth__fixup *fixup = &executable->slab_fixup[i];
        char *slab = executable->engine->slab[fixup->index];
        *fixup->slot = slab ? slab + fixup->offset : nothing;
    }
    executable->generation = executable->engine->generation;
}
static void bind(const mth__fixup *fixup, size_t n, mth__buffer *const *buffer) {
    for (size_t i = 0; i < n; i++) *fixup[i].slot = (char *)buffer[fixup[i].index]->data + fixup[i].offset;
}

#ifndef NDEBUG
/* Signalling NaNs, also as the halves of float64: what is read before it is written shows in the results. */
static void poison(void *data, int64_t bytes) {
    uint32_t *word = data;
    for (int64_t i = 0; i < bytes / 4; i++) word[i] = 0x7fa7fa7f;
}

static void poison_memory(const mth__executable *x, mth__buffer *const *exit) {
    for (int d = 0; d < MTH__SPACES * x->engine->devices; d++)
        poison(x->engine->slab[d], (int64_t)x->engine->slab_size[d]);
    for (size_t i = 0; i < x->exits; i++)
        if (x->exit[i].entry < 0) poison(exit[x->exit[i].index]->data, x->exit[i].bytes);
}
#else
static void poison_memory(const mth__executable *executable, mth__buffer *const *exit) { (void)executable, (void)exit; }
#endif

static mth_status run_locked(
    mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    mth__engine *engine = executable->engine;
    TRY(mth__pool_start(engine)); /* after a fork there are no threads */
    bind_slabs(executable);
    bind(executable->entry_fixup, executable->entry_fixups, entry);
    bind(executable->exit_fixup, executable->exit_fixups, exit);
    poison_memory(executable, exit);
    for (int k = 0; k < executable->streams; k++) executable->stream[k].shared = engine->shared[k];
    engine->run.stream = executable->stream;
    engine->run.streams = executable->streams;
    engine->run.each = executable->each;
    engine->run.event = executable->event;
    engine->run.events = executable->events;
    engine->run.stop = mth__control_stop(control);
    engine->run.recorder = mth__control_recorder(control);
    mth__pool_run(engine);
    switch (atomic_load(&engine->run.failure)) {
    case MTH__RUN_STOPPED: return mth__interrupted();
    case MTH__RUN_FAULT: return fault_error(executable);
    case MTH__RUN_STUCK: return stuck_error(executable);
    default: return NULL;
    }
}

static mth_status native_run(
    mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    mth__engine *engine = executable->engine;
    TRY(mth__control_uncrossed(control));
    for (size_t i = 0; i < executable->entries; i++) {
        const mth__buffer *buffer = entry[executable->entry[i].index];
        if (!buffer || buffer->bytes < executable->entry[i].bytes)
            return INTERNAL("entry %s has no buffer of %lld bytes on device %d",
                executable->program->entry.at[executable->entry[i].number].name, (long long)executable->entry[i].bytes,
                executable->entry[i].device);
    }
    TRY(exits_new(executable, entry, exit));
    mth_status status = mth__lock_run(&engine->running, mth__control_stop(control));
    if (!status) {
        status = run_locked(executable, entry, exit, control);
        pthread_mutex_unlock(&engine->running);
    }
    for (size_t i = 0; status && i < executable->exits; i++) {
        mth__native_buffer_release(exit[executable->exit[i].index]);
        exit[executable->exit[i].index] = NULL;
    }
    return status;
}

static int cores(mth__engine *engine) {
    const int all = mth__core_count();
    return engine->threads < all ? engine->threads : all;
}

const mth__engine_vtable mth__engine_native = {
    .name = "native",
    .options = tables,
    .traits = {.streams = MTH__STREAMS, .least_lent = LEAST_LENT, .views = true},
    .cores = cores,
    .open = native_open,
    .close = native_close,
    .describe = native_describe,
    .lacks = mth__kernel_lacks,
    .memory =
        {
            .new = mth__native_buffer_new,
            .retain = mth__native_buffer_retain,
            .release = mth__native_buffer_release,
            .host = mth__native_buffer_host,
            .fill = mth__native_buffer_host,
            .write = mth__native_buffer_write,
            .read = mth__native_buffer_read,
            .borrow = mth__native_buffer_borrow,
        },
    .load = native_load,
    .unload = native_unload,
    .run = native_run,
};
