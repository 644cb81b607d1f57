#include "base/cores.h"
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

/* ---------------------------------------------------------------- segments */
/* Global ids of the devices. What is local already runs as replicas: XLA's partitioner is for the global program. */
static void assign(mth__executable *executable, const int32_t *device, int count, mth__xla_options *options) {
    const mth__engine *engine = executable->engine;
    int32_t *id = NEW_ARRAY(executable->arena, int32_t, count);
    for (int i = 0; i < count; i++) id[i] = engine->global_id[device[i]];
    options->partitions = options->spmd ? count : 1;
    options->replicas = options->spmd ? 1 : count;
    options->device = id;
}

/* The mesh on the first chips of a topology, a copy of it on the next ones: replicas of partitions, or partitions of
 * replicas. */
static void fill_slice(mth__executable *executable, mth__module *module) {
    const mth__engine *engine = executable->engine;
    const int n = mth__module_devices(module), all = engine->slice, times = all / n;
    if (engine->client || module->slice || all == n || all % n) return;
    int32_t *id = NEW_ARRAY(executable->arena, int32_t, all);
    for (int i = 0; i < all; i++) id[module->options.spmd ? i : i % n * times + i / n] = engine->global_id[i];
    module->slice = id;
    module->copies = times - 1;
}

/* From the last on: microbatches come in order. */
static int number_index(mth__executable *executable, int64_t number) {
    for (size_t i = executable->number.n; i-- > 0;)
        if (executable->number.at[i] == number) return (int)i;
    PUSH(executable->arena, executable->number, number);
    return (int)executable->number.n - 1;
}

static void load_segment(mth__executable *executable, mth__job *job, const mth__module_text *text) {
    const mth__segment *segment = job->segment;
    const bool global = executable->segments->global;
    const int32_t *device = global ? executable->program->mesh->whole->device : segment->device;
    const int count = global ? executable->program->mesh->count : segment->count;
    mth__xla_options options = {.partitions = 1, .replicas = 1, .spmd = global};
    if (text->devices > 1 || !executable->engine->client) assign(executable, device, text->devices, &options);
    job->module = mth__module_add(executable, text, &options);
    fill_slice(executable, job->module);
    job->together = text->devices;
    job->args = (int)segment->in.n + text->numbers;
    job->number = NEW_ARRAY(executable->arena, int, text->numbers);
    for (int i = 0; i < text->numbers; i++) job->number[i] = number_index(executable, text->number[i]);
    job->results = (int)segment->out.n + (text->checks > 0);
    job->argument = NEW_ARRAY(executable->arena, PJRT_Buffer *, count * job->args);
    job->arguments = (void *)NEW_ARRAY(executable->arena, PJRT_Buffer *const *, count);
    job->result = NEW_ARRAY(executable->arena, PJRT_Buffer *, count * job->results);
    job->results_of = NEW_ARRAY(executable->arena, PJRT_Buffer **, count);
    job->complete = NEW_ARRAY(executable->arena, PJRT_Event *, count);
    for (int i = 0; i < count; i++) {
        job->arguments[i] = job->argument + i * job->args;
        job->results_of[i] = job->result + i * job->results;
    }
}

static void find_drops(mth__executable *executable) {
    mth__segments *segments = executable->segments;
    for (size_t k = 0; k < executable->job.n; k++) {
        mth__job *job = &executable->job.at[k];
        job->drop = NEW_ARRAY(executable->arena, int, job->segment ? job->segment->in.n : 1);
        for (size_t i = 0; job->segment && i < job->segment->in.n; i++)
            if (segments->slot.at[job->segment->in.at[i]].last_read == (int)k)
                job->drop[job->drops++] = job->segment->in.at[i];
        int from = job->segment ? -1 : segments->slot.at[job->hop.from].view_of;
        if (from >= 0 && segments->slot.at[from].last_read == (int)k) job->drop[job->drops++] = from;
    }
}

/* What each device holds of the entries, or of the exits. */
static mth__part_shape *ports(const mth__executable *executable, bool exits) {
    const mth__program *program = executable->program;
    const size_t count = exits ? program->exit.n : program->entry.n;
    const int64_t *offset = exits ? executable->offset.exit : executable->offset.entry;
    mth__part_shape *port = NEW_ARRAY(executable->arena, mth__part_shape, offset[count]);
    for (size_t k = 0; k < count; k++) {
        int slot = exits ? executable->segments->exit_slot[k] : executable->segments->entry_slot[k];
        if (slot < 0) continue;
        const mth__program_value *value = executable->segments->slot.at[slot].any;
        const mth__placement *on = value->sharding.on;
        const mth__shape padded =
            executable->segments->global ? mth__xla_part(value, NULL) : executable->segments->slot.at[slot].local;
        const int32_t *rank_of = (exits ? &program->exit.at[k].sharding : &program->entry.at[k].sharding)->on->rank_of;
        for (int rank = 0; rank < on->count; rank++)
            port[offset[k] + rank_of[on->device[rank]]] =
                (mth__part_shape){mth__local_shape(value->shape, &value->sharding, rank, NULL, NULL), padded};
    }
    return port;
}

/* One cell for each slot and device that has a part of it. */
static void make_cells(mth__executable *executable) {
    const size_t slots = executable->segments->slot.n;
    executable->first = NEW_ARRAY(executable->arena, int64_t, slots + 1);
    for (size_t i = 0; i < slots; i++)
        executable->first[i + 1] = executable->first[i] + executable->segments->slot.at[i].any->sharding.on->count;
    executable->at = NEW_ARRAY(executable->arena, mth__cell *, executable->first[slots]);
    executable->cell = NEW_ARRAY(executable->arena, mth__cell, executable->first[slots]);
    executable->unused = NEW_ARRAY(executable->arena, mth__cell *, executable->first[slots]);
    for (int64_t i = 0; i < executable->first[slots]; i++)
        executable->unused[executable->unuseds++] = &executable->cell[i];
}

/* Room for the zeros of devices that pass a value to their module without having a part of it. */
static void make_zeros(mth__executable *executable) {
    executable->zeros = NEW_ARRAY(executable->arena, PJRT_Buffer **, executable->segments->slot.n);
    for (size_t k = 0; k < executable->job.n; k++) {
        const mth__segment *segment = executable->job.at[k].segment;
        for (size_t i = 0; segment && i < segment->in.n; i++) {
            const int slot = segment->in.at[i];
            for (int d = 0; d < segment->count && !executable->zeros[slot]; d++)
                if (!mth__cell_of(executable, slot, segment->device[d]))
                    executable->zeros[slot] =
                        NEW_ARRAY(executable->arena, PJRT_Buffer *, executable->program->mesh->count);
        }
    }
}

static mth_status load_body(void *context) {
    mth__executable *executable = context;
    mth__arena *arena = mth__arena_new();
    const mth__program *program = executable->global ? executable->global : executable->program;
    executable->arena = arena;
    TRY(mth__segments_make(arena, program, executable->global != NULL, &executable->segments));
    const mth__shardy_mesh mesh = {executable->engine->spmd_axes, executable->engine->spmd_dim};
    for (size_t i = 0; i < executable->segments->work.n; i++) {
        const mth__work *work = &executable->segments->work.at[i];
        mth__job job = {.segment = work->segment, .hop = work->hop};
        if (work->segment) {
            mth__module_text text;
            TRY(mth__module_write(
                arena, executable->segments, work->segment, executable->global ? &mesh : NULL, &text));
            load_segment(executable, &job, &text);
        } else
            mth__hop_plan(executable, &job);
        PUSH(arena, executable->job, job);
    }
    find_drops(executable);
    make_cells(executable);
    make_zeros(executable);
    executable->flying = NEW_ARRAY(arena, int, program->mesh->count);
    executable->number_buffer = NEW_ARRAY(arena, PJRT_Buffer *, executable->number.n * (size_t)program->mesh->count);
    executable->pieces = NEW_ARRAY(arena, PJRT_Buffer *, executable->most_pieces);
    executable->offset = mth__buffer_offsets(arena, executable->program);
    executable->entry_port = ports(executable, false);
    executable->exit_port = ports(executable, true);
    mth__arena_keep(arena);
    return NULL;
}

mth_status mth__pjrt_load(
    mth__engine *engine, const mth__program *program, const mth__program *global, mth__executable **out) {
    TRY(mth__pjrt_check_program(program));
    mth__executable *executable = mth__calloc(1, sizeof *executable);
    if (!executable) return mth__lacks_memory("an executable", 0);
    executable->engine = engine;
    executable->program = program;
    executable->global = global;
    mth_status status = mth__guard(load_body, executable);
    if (status) {
        mth__free(executable);
        return status;
    }
    pthread_mutex_init(&executable->lock, NULL);
    atomic_fetch_add(&engine->references, 1);
    *out = executable;
    return NULL;
}

void mth__pjrt_unload(mth__executable *executable) {
    mth__engine *engine = executable->engine;
    const size_t devices = (size_t)executable->program->mesh->count;
    for (size_t i = 0; i < executable->segments->slot.n; i++)
        for (size_t d = 0; executable->zeros[i] && d < devices; d++)
            if (executable->zeros[i][d]) mth_error_free(mth__buffer_destroy(engine, executable->zeros[i][d]));
    for (size_t i = 0; i < executable->number.n * devices; i++)
        if (executable->number_buffer[i]) mth_error_free(mth__buffer_destroy(engine, executable->number_buffer[i]));
    for (size_t i = 0; i < executable->module.n; i++)
        if (executable->module.at[i]->xla) mth__xla_release(executable->module.at[i]->xla);
    pthread_mutex_destroy(&executable->lock);
    mth__arena_free(executable->arena);
    mth__free(executable);
    mth__pjrt_close(engine);
}

/* ---------------------------------------------------------------- compiling */
/* The instruction at a line of the text, 1-based, and the lines that XLA points at. */
static mth_status dress(const mth__module *module, int line, mth_status status) {
    if (line < 1 || line > module->text.lines || !module->text.instr_of_line || !module->text.instr_of_line[line - 1])
        return status;
    const mth__seg_instr *step = module->text.instr_of_line[line - 1];
    status = mth__error_source(mth__error_operator(status, step->instr->label.module), step->instr->label.source);
    const char *at = module->text.text, *end;
    for (int k = 1; k < line; k++) at = strchr(at, '\n') + 1;
    end = strchr(at, '\n');
    return mth__error_tensor(status, F("StableHLO, line %d: %.*s", line, end ? (int)(end - at) : (int)strlen(at), at));
}

/* Some topologies want every chip of the slice in a program: the rest of them then run copies. */
static bool wants_slice(const mth__module *module, mth_status status) {
    const char *text = mth_error_get_message(status);
    return module->slice && !module->replicated &&
        (strstr(text, "evice assignment") || strstr(text, "nexpected device_id"));
}

static mth_status compile_module(const mth__executable *executable, mth__module *module) {
    int line = 0;
    if (module->xla) return NULL;
    mth_status status = mth__xla_compile(
        executable->engine, module->text.text, module->text.bytes, &module->options, &module->xla, &line);
    if (status && wants_slice(module, status)) {
        mth_error_free(status);
        *(module->options.spmd ? &module->options.replicas : &module->options.partitions) = module->copies + 1;
        module->options.device = module->slice;
        module->replicated = true;
        status = mth__xla_compile(
            executable->engine, module->text.text, module->text.bytes, &module->options, &module->xla, &line);
    }
    return status ? dress(module, line, status) : NULL;
}

/* Several modules are compiled side by side: XLA uses one core for most of a compilation. `stop`: of the thread that
   asked for all of it. */
typedef struct {
    mth__executable *executable;
    atomic_size_t next;
    mth_status *status;
    const mth__stop *stop;
} module_compilation;

static void *compile_some(void *context) {
    module_compilation *work = context;
    for (size_t i; (i = atomic_fetch_add(&work->next, 1)) < work->executable->module.n;)
        work->status[i] = mth__stop_asked(work->stop)
            ? mth__interrupted()
            : compile_module(work->executable, work->executable->module.at[i]);
    return NULL;
}

enum { COMPILERS = 16 };

mth_status mth__executable_compile(mth__executable *executable) {
    if (executable->compiled) return NULL;
    module_compilation work = {.executable = executable,
        .status = mth__calloc(executable->module.n + 1, sizeof *work.status),
        .stop = mth__thread_stop()};
    if (!work.status) return mth__lacks_memory("an executable", 0);
    pthread_t helper[COMPILERS];
    int helpers = 0, wanted = mth__core_count() < COMPILERS ? mth__core_count() - 1 : COMPILERS;
    if (wanted > (int)executable->module.n - 1) wanted = (int)executable->module.n - 1;
    /* fewer is only slower */
    while (helpers < wanted && !pthread_create(&helper[helpers], NULL, compile_some, &work)) helpers++;
    compile_some(&work);
    for (int i = 0; i < helpers; i++) pthread_join(helper[i], NULL);
    mth_status status = NULL;
    for (size_t i = 0; i < executable->module.n; i++) { /* the first of the program is told */
        if (!status)
            status = work.status[i];
        else
            mth_error_free(work.status[i]);
    }
    mth__free(work.status);
    executable->compiled = !status;
    return status;
}

mth_status mth__executable_read(mth__executable *executable, mth_status (*body)(void *context), void *context) {
    /* before the lock: in a child process its holder may not exist */
    TRY(mth__plugin_check_process(executable->engine->plugin));
    pthread_mutex_lock(&executable->lock);
    mth_status status = mth__executable_compile(executable);
    if (!status) status = mth__guard(body, context);
    pthread_mutex_unlock(&executable->lock);
    return status;
}

mth_status mth__pjrt_stablehlo(mth__executable *executable, mth__text *text) {
    for (size_t i = 0; i < executable->module.n; i++) {
        const mth__module *module = executable->module.at[i];
        mth__text_add(text, "// module %zu of %zu: %d device%s", i + 1, executable->module.n,
            mth__module_devices(module), mth__module_devices(module) == 1 ? "" : "s");
        const char *sign = ", on devices ";
        for (size_t k = 0; k < executable->job.n; k++) { /* where it runs */
            const mth__job *job = &executable->job.at[k];
            if (job->module != module) continue;
            mth__text_add(text, "%s", sign);
            for (int d = 0; d < job->segment->count && !executable->segments->global; d++)
                mth__text_add(text, "%s%d", !d ? "" : job->together == 1 ? "; " : ",", job->segment->device[d]);
            if (executable->segments->global) mth__text_add(text, "0..%d", executable->program->mesh->count - 1);
            sign = "; ";
        }
        mth__text_add(text, "\n%s", module->text.text);
    }
    return NULL;
}
