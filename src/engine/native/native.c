#include "base/cores.h"
#include "engine/fault.h"
#include "engine/native/native.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- engine */
/* A run in the parent may be under way: here it is not, and the next one begins anew. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth__engine *e = object;
    if (moment == MTH__FORK_BEFORE) pthread_mutex_lock(&e->buffers.lock);
    if (moment == MTH__FORK_CHILD) {
        pthread_mutex_init(&e->running, NULL);
        mth__pool_forget(e);
        e->generation++; /* an executable may be bound to the slabs by half */
    }
    if (moment != MTH__FORK_BEFORE) pthread_mutex_unlock(&e->buffers.lock);
}

static void engine_free(mth__engine *e) {
    mth__pool_stop(e);
    mth__fork_watch_remove(&e->watch);
    mth__buffers_trim(&e->buffers);
    for (int i = 0; e->worker && i < e->threads; i++) mth__free(e->worker[i].scratch);
    for (int k = 0; e->shared && k < MTH__STREAMS * e->devices; k++) mth__free(e->shared[k]);
    for (int d = 0; e->slab && d < MTH__SPACES * e->devices; d++) mth__free(e->slab[d]);
    mth__free(e->slab);
    mth__free(e->slab_size);
    mth__free(e->worker);
    mth__free(e->shared);
    mth__free(e->shared_size);
    pthread_mutex_destroy(&e->running);
    pthread_mutex_destroy(&e->buffers.lock);
    mth__free(e);
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
    mth__mesh_options, mth__communication_options, options, mth__machine_options, NULL};
enum { THREADS_MOST = 1024 };

static mth_status native_open(const mth__engine_setup *setup, mth__engine **out) {
    const int devices = setup->mesh->count;
    native_options given;
    TRY(mth__options_hand_out(setup->tables, setup->value, options, &given));
    if (given.threads > THREADS_MOST)
        return FAIL(MTH_ERROR_VALUE, F("threads=%lld is more than the engine takes", (long long)given.threads),
            F("give threads from 1 to %d", THREADS_MOST));
    mth__engine *e = mth__calloc(1, sizeof *e);
    if (!e) return mth__lacks_memory("an engine", sizeof *e);
    atomic_init(&e->references, 1);
    e->devices = devices;
    e->threads = given.threads ? (int)given.threads : mth__core_count();
    pthread_mutex_init(&e->running, NULL);
    pthread_mutex_init(&e->buffers.lock, NULL);
    e->worker = mth__calloc((size_t)e->threads, sizeof *e->worker);
    e->slab = mth__calloc(MTH__SPACES * (size_t)devices, sizeof *e->slab);
    e->slab_size = mth__calloc(MTH__SPACES * (size_t)devices, sizeof *e->slab_size);
    e->shared = mth__calloc(MTH__STREAMS * (size_t)devices, sizeof *e->shared);
    e->shared_size = mth__calloc(MTH__STREAMS * (size_t)devices, sizeof *e->shared_size);
    if (!e->worker || !e->slab || !e->slab_size || !e->shared || !e->shared_size) {
        engine_free(e);
        return mth__lacks_memory("an engine", 0);
    }
    for (int i = 0; i < e->threads; i++) {
        e->worker[i].engine = e;
        e->worker[i].index = i;
    }
    mth__kernels_open();
    mth__fork_watch_add(&e->watch, around_fork, e);
    *out = e;
    return NULL;
}
static void native_close(mth__engine *e) {
    if (e && atomic_fetch_sub(&e->references, 1) == 1) engine_free(e);
}
static mth_status native_describe(mth__engine *e, mth__text *text) {
    mth__text_add(text, "%d device%s on %d thread%s of %d cores\n", e->devices, e->devices == 1 ? "" : "s", e->threads,
        e->threads == 1 ? "" : "s", mth__core_count());
    return NULL;
}

/* ---- load */
static void executable_free(mth__executable *x) {
    mth__free(x->stream);
    mth__arena_free(x->arena);
    mth__free(x);
}

enum { LEAST_LENT = 64 << 10 }; /* bytes: less is not worth a plan that is harder to read */

static mth_status allocate(mth__executable *x) {
    const mth__program *p = x->program;
    x->each = 1;
    for (size_t r = 0; r < p->role.n; r++)
        for (size_t i = 0; i < p->role.at[r].instr.n; i++)
            if (p->role.at[r].instr.at[i].stream >= x->each) x->each = p->role.at[r].instr.at[i].stream + 1;
    x->streams = x->each * p->mesh->count;
    x->stream = mth__calloc((size_t)x->streams, sizeof *x->stream);
    return x->stream ? NULL : mth__lacks_memory("the streams", x->streams * (int64_t)sizeof *x->stream);
}

static mth_status load_body(void *argument) {
    mth__executable *x = argument;
    mth__arena *arena = mth__arena_new();
    x->shared_scratch = NEW_ARRAY(arena, size_t, x->streams);
    mth__loader l = {.x = x,
        .arena = arena,
        .program = x->program,
        .devices = x->program->mesh->count,
        .templates = {.arena = arena}};
    TRY(mth__load_streams(&l));
    x->event = l.event.at;
    x->events = l.event.n;
    x->slab_fixup = l.slab.at;
    x->slab_fixups = l.slab.n;
    x->entry_fixup = l.entry.fixup.at;
    x->entry_fixups = l.entry.fixup.n;
    x->exit_fixup = l.exit.fixup.at;
    x->exit_fixups = l.exit.fixup.n;
    x->entry = l.entry.held.at;
    x->entries = l.entry.held.n;
    x->exit = l.exit.held.at;
    x->exits = l.exit.held.n;
    mth__arena_keep(arena);
    x->arena = arena;
    return NULL;
}

static void replace(mth__engine *e, void **memory, void *larger, size_t *size, size_t bytes) {
    void *before = *memory;
    pthread_mutex_lock(&e->buffers.lock);
    *memory = larger;
    *size = bytes;
    pthread_mutex_unlock(&e->buffers.lock);
    mth__free(before);
}
static mth_status grow(mth__engine *e, void **memory, size_t *size, size_t need) {
    if (*size >= need) return NULL;
    void *larger = mth__malloc(need);
    if (!larger) return mth__lacks_memory("scratch", (int64_t)need);
    replace(e, memory, larger, size, need);
    return NULL;
}
/* What kernels need beside their operands belongs to the engine: executables run one at a time. */
static mth_status grow_scratch(mth__engine *e, const mth__executable *x) {
    for (int i = 0; i < e->threads; i++)
        TRY(grow(e, &e->worker[i].scratch, &e->worker[i].scratch_size, x->thread_scratch));
    for (int k = 0; k < x->streams; k++) TRY(grow(e, &e->shared[k], &e->shared_size[k], x->shared_scratch[k]));
    return NULL;
}

static mth_status grow_slabs(mth__engine *e, const mth__executable *x) {
    for (int d = 0; d < MTH__SPACES * e->devices; d++) {
        const int role = x->program->role_of[d % e->devices];
        size_t bytes = role < 0 ? 0 : (size_t)x->memory[role][d / e->devices];
        if (bytes <= e->slab_size[d]) continue;
        void *larger = mth__malloc(bytes);
        if (!larger) { /* what the cache of buffers holds may be what is missing */
            mth__buffers_trim(&e->buffers);
            larger = mth__malloc(bytes);
        }
        if (!larger)
            return mth__lacks_memory(
                d < e->devices ? "the slab of a device" : "a device's part of the host's pool", (int64_t)bytes);
        e->generation++;
        replace(e, &e->slab[d], larger, &e->slab_size[d], bytes);
    }
    return NULL;
}

static void native_unload(mth__executable *x) {
    mth__engine *e = x->engine;
    executable_free(x);
    native_close(e);
}

static mth_status native_load(
    mth__engine *e, const mth__program *program, const mth__program *global, mth__executable **out) {
    (void)global;
    if (program->mesh->count != e->devices)
        return INTERNAL("a program for %d devices on an engine of %d", program->mesh->count, e->devices);
    mth__executable *x = mth__calloc(1, sizeof *x);
    if (!x) return mth__lacks_memory("an executable", sizeof *x);
    x->engine = e;
    x->program = program;
    mth_status s = allocate(x);
    if (!s) s = mth__guard(load_body, x);
    if (!s) {
        pthread_mutex_lock(&e->running);
        s = grow_scratch(e, x);
        if (!s) s = grow_slabs(e, x);
        x->generation = e->generation - 1; /* bound to no slab yet */
        if (!s) s = mth__kernels_start();
        if (!s) s = mth__pool_start(e);
        pthread_mutex_unlock(&e->running);
    }
    if (s) {
        executable_free(x);
        return s;
    }
    atomic_fetch_add(&e->references, 1);
    *out = x;
    return NULL;
}

/* ---- run */
static const char *task_name(const mth__executable *x, int stream, int task, const mth__instr **out) {
    const mth__stream *s = &x->stream[stream];
    const mth__instr *i = *out = &x->program->role.at[x->program->role_of[s->device]].instr.at[s->task[task].instr];
    return i->kind == MTH__COMPUTE ? i->op->name
        : i->channel >= 0          ? x->program->channel.at[i->channel].label
                                   : "a copy between spaces";
}

typedef struct {
    const mth__executable *x;
    mth_status status;
} dress;
static mth_status fault_tensors(void *argument) {
    dress *d = argument;
    const mth__run *r = &d->x->engine->run;
    const mth__instr *i;
    task_name(d->x, r->at_stream, r->at_task, &i);
    const mth__role *role = &d->x->program->role.at[d->x->program->role_of[d->x->stream[r->at_stream].device]];
    mth__arena *arena = mth__arena_new();
    for (int k = 0; k < i->nin; k++) {
        const mth__program_value *v = &role->value.at[i->in[k]];
        d->status = mth__error_tensor(d->status,
            F("%s: %s %s, sharded %s", v->name, mth_dtype_name(v->dtype), mth__shape_text(arena, v->shape),
                mth__where_text(arena, &v->sharding, v->shape.rank)));
    }
    mth__arena_free(arena);
    return NULL;
}
static mth_status fault_error(const mth__executable *x) {
    const mth__run *r = &x->engine->run;
    const mth__stream *s = &x->stream[r->at_stream];
    const mth__instr *i;
    task_name(x, r->at_stream, r->at_task, &i);
    char where[32];
    snprintf(where, sizeof where, " on device %d", s->device);
    dress d = {x, mth__fault_error(i->op, s->fault.value, "", s->fault.limit, where)};
    d.status = mth__error_source(mth__error_operator(d.status, i->label.module), i->label.source);
    mth_status lost = mth__guard(fault_tensors, &d); /* without memory the error has fewer tensors */
    mth_error_free(lost);
    return d.status;
}
static mth_status stuck_error(const mth__executable *x) {
    const mth__run *r = &x->engine->run;
    const mth__stream *s = &x->stream[r->at_stream];
    const mth__task *t = &s->task[r->at_task];
    const mth__instr *i, *peer_instr;
    const char *name = task_name(x, r->at_stream, r->at_task, &i);
    for (int k = 0; k < t->waits; k++) {
        const mth__stream *peer = &x->stream[t->wait[k].stream];
        int done = atomic_load(&peer->done);
        if (done < t->wait[k].count)
            return mth__error_operator(INTERNAL("no instruction can run: on device %d instruction %d (%s) waits for "
                                                "device %d, which is at instruction %d (%s)",
                                           s->device, t->instr, name, peer->device, peer->task[done].instr,
                                           task_name(x, t->wait[k].stream, done, &peer_instr)),
                i->label.module);
    }
    for (int m = 0; t->awaits && m < t->awaits->n; m++) {
        const mth__stream *peer = &x->stream[t->awaits->stream[m]];
        for (int done = atomic_load(&peer->done), k = done; k < peer->tasks; k++)
            if (peer->task[k].signals == t->awaits)
                return mth__error_operator(INTERNAL("no instruction can run: on device %d instruction %d (%s) waits "
                                                    "for device %d, which is at instruction %d (%s)",
                                               s->device, t->instr, name, peer->device, peer->task[done].instr,
                                               task_name(x, t->awaits->stream[m], done, &peer_instr)),
                    i->label.module);
    }
    return INTERNAL("no instruction can run: device %d is at instruction %d (%s)", s->device, t->instr, name);
}

/* Of an exit: new memory, or that of the entry whose successor it is. */
static mth_status exit_new(
    mth__executable *x, const mth__external *held, mth__buffer *const *entry, mth__buffer **out) {
    if (held->entry < 0) return mth__native_buffer_new(x->engine, held->device, held->bytes, out);
    mth__buffer *before = entry[held->entry];
    if (before->size == MTH__BORROWED)
        return INTERNAL("entry %s has a successor on device %d, and its buffer is the caller's own memory",
            x->program->entry.at[held->number].name, held->device);
    mth__native_buffer_retain(before);
    *out = before;
    return NULL;
}
static mth_status exits_new(mth__executable *x, mth__buffer *const *entry, mth__buffer **exit) {
    for (size_t i = 0; i < x->exits; i++) {
        mth_status s = exit_new(x, &x->exit[i], entry, &exit[x->exit[i].index]);
        if (!s) continue;
        while (i--) {
            mth__native_buffer_release(exit[x->exit[i].index]);
            exit[x->exit[i].index] = NULL;
        }
        return s;
    }
    return NULL;
}
static void bind_slabs(mth__executable *x) {
    /* a device whose values are all empty may have no slab: nobody reads here, but the address can be computed with */
    static char nothing[64];
    if (x->generation == x->engine->generation) return;
    for (size_t i = 0; i < x->slab_fixups; i++) {
        const mth__fixup *f = &x->slab_fixup[i];
        char *slab = x->engine->slab[f->index];
        *f->slot = slab ? slab + f->offset : nothing;
    }
    x->generation = x->engine->generation;
}
static void bind(const mth__fixup *f, size_t n, mth__buffer *const *buffer) {
    for (size_t i = 0; i < n; i++) *f[i].slot = (char *)buffer[f[i].index]->data + f[i].offset;
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
static void poison_memory(const mth__executable *x, mth__buffer *const *exit) { (void)x, (void)exit; }
#endif

static mth_status run_locked(
    mth__executable *x, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    mth__engine *e = x->engine;
    TRY(mth__pool_start(e)); /* after a fork there are no threads */
    bind_slabs(x);
    bind(x->entry_fixup, x->entry_fixups, entry);
    bind(x->exit_fixup, x->exit_fixups, exit);
    poison_memory(x, exit);
    for (int k = 0; k < x->streams; k++) x->stream[k].shared = e->shared[k];
    e->run.stream = x->stream;
    e->run.streams = x->streams;
    e->run.each = x->each;
    e->run.event = x->event;
    e->run.events = x->events;
    e->run.stop = mth__control_stop(control);
    e->run.recorder = mth__control_recorder(control);
    mth__pool_run(e);
    switch (atomic_load(&e->run.failure)) {
    case MTH__RUN_STOPPED: return mth__interrupted();
    case MTH__RUN_FAULT: return fault_error(x);
    case MTH__RUN_STUCK: return stuck_error(x);
    default: return NULL;
    }
}

static mth_status native_run(
    mth__executable *x, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    mth__engine *e = x->engine;
    TRY(mth__control_uncrossed(control));
    for (size_t i = 0; i < x->entries; i++) {
        const mth__buffer *b = entry[x->entry[i].index];
        if (!b || b->bytes < x->entry[i].bytes)
            return INTERNAL("entry %s has no buffer of %lld bytes on device %d",
                x->program->entry.at[x->entry[i].number].name, (long long)x->entry[i].bytes, x->entry[i].device);
    }
    TRY(exits_new(x, entry, exit));
    mth_status s = mth__lock_run(&e->running, mth__control_stop(control));
    if (!s) {
        s = run_locked(x, entry, exit, control);
        pthread_mutex_unlock(&e->running);
    }
    for (size_t i = 0; s && i < x->exits; i++) {
        mth__native_buffer_release(exit[x->exit[i].index]);
        exit[x->exit[i].index] = NULL;
    }
    return s;
}

static int cores(mth__engine *e) {
    const int all = mth__core_count();
    return e->threads < all ? e->threads : all;
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
