#include "base/cores.h"
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

/* ---------------------------------------------------------------- segments */
/* Global ids of the devices. What is local already runs as replicas: XLA's partitioner is for the global program. */
static void assign(mth__executable *x, const int32_t *device, int count, mth__xla_options *o) {
    const mth__engine *e = x->engine;
    int32_t *id = NEW_ARRAY(x->arena, int32_t, count);
    for (int i = 0; i < count; i++) id[i] = e->global_id[device[i]];
    o->partitions = o->spmd ? count : 1;
    o->replicas = o->spmd ? 1 : count;
    o->device = id;
}

/* The mesh on the first chips of a topology, a copy of it on the next ones: replicas of partitions, or partitions of
 * replicas. */
static void fill_slice(mth__executable *x, mth__module *m) {
    const mth__engine *e = x->engine;
    const int n = mth__module_devices(m), all = e->slice, times = all / n;
    if (e->client || m->slice || all == n || all % n) return;
    int32_t *id = NEW_ARRAY(x->arena, int32_t, all);
    for (int i = 0; i < all; i++) id[m->options.spmd ? i : i % n * times + i / n] = e->global_id[i];
    m->slice = id;
    m->copies = times - 1;
}

/* From the last on: microbatches come in order. */
static int number_index(mth__executable *x, int64_t number) {
    for (size_t i = x->number.n; i-- > 0;)
        if (x->number.at[i] == number) return (int)i;
    PUSH(x->arena, x->number, number);
    return (int)x->number.n - 1;
}

static void load_segment(mth__executable *x, mth__job *job, const mth__module_text *text) {
    const mth__segment *g = job->segment;
    const bool global = x->segments->global;
    const int32_t *device = global ? x->program->mesh->whole->device : g->device;
    const int count = global ? x->program->mesh->count : g->count;
    mth__xla_options o = {.partitions = 1, .replicas = 1, .spmd = global};
    if (text->devices > 1 || !x->engine->client) assign(x, device, text->devices, &o);
    job->module = mth__module_add(x, text, &o);
    fill_slice(x, job->module);
    job->together = text->devices;
    job->args = (int)g->in.n + text->numbers;
    job->number = NEW_ARRAY(x->arena, int, text->numbers);
    for (int i = 0; i < text->numbers; i++) job->number[i] = number_index(x, text->number[i]);
    job->results = (int)g->out.n + (text->checks > 0);
    job->argument = NEW_ARRAY(x->arena, PJRT_Buffer *, count * job->args);
    job->arguments = (void *)NEW_ARRAY(x->arena, PJRT_Buffer *const *, count);
    job->result = NEW_ARRAY(x->arena, PJRT_Buffer *, count * job->results);
    job->results_of = NEW_ARRAY(x->arena, PJRT_Buffer **, count);
    job->complete = NEW_ARRAY(x->arena, PJRT_Event *, count);
    for (int i = 0; i < count; i++) {
        job->arguments[i] = job->argument + i * job->args;
        job->results_of[i] = job->result + i * job->results;
    }
}

static void find_drops(mth__executable *x) {
    mth__segments *s = x->segments;
    for (size_t w = 0; w < x->job.n; w++) {
        mth__job *job = &x->job.at[w];
        job->drop = NEW_ARRAY(x->arena, int, job->segment ? job->segment->in.n : 1);
        for (size_t i = 0; job->segment && i < job->segment->in.n; i++)
            if (s->slot.at[job->segment->in.at[i]].last_read == (int)w)
                job->drop[job->drops++] = job->segment->in.at[i];
        int from = job->segment ? -1 : s->slot.at[job->hop.from].view_of;
        if (from >= 0 && s->slot.at[from].last_read == (int)w) job->drop[job->drops++] = from;
    }
}

/* What each device holds of the entries, or of the exits. */
static mth__part_shape *ports(const mth__executable *x, bool exits) {
    const mth__program *p = x->program;
    const size_t count = exits ? p->exit.n : p->entry.n;
    const int64_t *offset = exits ? x->exit_offset : x->entry_offset;
    mth__part_shape *port = NEW_ARRAY(x->arena, mth__part_shape, offset[count]);
    for (size_t k = 0; k < count; k++) {
        int slot = exits ? x->segments->exit_slot[k] : x->segments->entry_slot[k];
        if (slot < 0) continue;
        const mth__program_value *v = x->segments->slot.at[slot].any;
        const mth__placement *on = v->sharding.on;
        const mth__shape padded = x->segments->global ? mth__xla_part(v, NULL) : x->segments->slot.at[slot].local;
        const int32_t *rank_of = (exits ? &p->exit.at[k].sharding : &p->entry.at[k].sharding)->on->rank_of;
        for (int r = 0; r < on->count; r++)
            port[offset[k] + rank_of[on->device[r]]] =
                (mth__part_shape){mth__local_shape(v->shape, &v->sharding, r, NULL, NULL), padded};
    }
    return port;
}

/* One cell for each slot and device that has a part of it. */
static void make_cells(mth__executable *x) {
    const size_t slots = x->segments->slot.n;
    x->first = NEW_ARRAY(x->arena, int64_t, slots + 1);
    for (size_t i = 0; i < slots; i++) x->first[i + 1] = x->first[i] + x->segments->slot.at[i].any->sharding.on->count;
    x->at = NEW_ARRAY(x->arena, mth__cell *, x->first[slots]);
    x->cell = NEW_ARRAY(x->arena, mth__cell, x->first[slots]);
    x->unused = NEW_ARRAY(x->arena, mth__cell *, x->first[slots]);
    for (int64_t i = 0; i < x->first[slots]; i++) x->unused[x->unuseds++] = &x->cell[i];
}

/* Room for the zeros of devices that pass a value to their module without having a part of it. */
static void make_zeros(mth__executable *x) {
    x->zeros = NEW_ARRAY(x->arena, PJRT_Buffer **, x->segments->slot.n);
    for (size_t w = 0; w < x->job.n; w++) {
        const mth__segment *segment = x->job.at[w].segment;
        for (size_t i = 0; segment && i < segment->in.n; i++) {
            const int slot = segment->in.at[i];
            for (int d = 0; d < segment->count && !x->zeros[slot]; d++)
                if (!mth__cell_of(x, slot, segment->device[d]))
                    x->zeros[slot] = NEW_ARRAY(x->arena, PJRT_Buffer *, x->program->mesh->count);
        }
    }
}

static mth_status load_body(void *context) {
    mth__executable *x = context;
    mth__arena *arena = mth__arena_new();
    const mth__program *p = x->global ? x->global : x->program;
    x->arena = arena;
    TRY(mth__segments_make(arena, p, x->global != NULL, &x->segments));
    const mth__shardy_mesh mesh = {x->engine->spmd_axes, x->engine->spmd_dim};
    for (size_t w = 0; w < x->segments->work.n; w++) {
        const mth__work *work = &x->segments->work.at[w];
        mth__job job = {.segment = work->segment, .hop = work->hop};
        if (work->segment) {
            mth__module_text text;
            TRY(mth__module_write(arena, x->segments, work->segment, x->global ? &mesh : NULL, &text));
            load_segment(x, &job, &text);
        } else
            mth__hop_plan(x, &job);
        PUSH(arena, x->job, job);
    }
    find_drops(x);
    make_cells(x);
    make_zeros(x);
    x->flying = NEW_ARRAY(arena, int, p->mesh->count);
    x->number_buffer = NEW_ARRAY(arena, PJRT_Buffer *, x->number.n * (size_t)p->mesh->count);
    x->pieces = NEW_ARRAY(arena, PJRT_Buffer *, x->most_pieces);
    x->entry_offset = mth__entry_offsets(arena, x->program);
    x->exit_offset = mth__exit_offsets(arena, x->program);
    x->entry_port = ports(x, false);
    x->exit_port = ports(x, true);
    mth__arena_keep(arena);
    return NULL;
}

mth_status mth__pjrt_load(
    mth__engine *e, const mth__program *program, const mth__program *global, mth__executable **out) {
    TRY(mth__pjrt_check_program(program));
    mth__executable *x = mth__calloc(1, sizeof *x);
    if (!x) return mth__lacks_memory("an executable", 0);
    x->engine = e;
    x->program = program;
    x->global = global;
    mth_status s = mth__guard(load_body, x);
    if (s) {
        mth__free(x);
        return s;
    }
    pthread_mutex_init(&x->lock, NULL);
    atomic_fetch_add(&e->references, 1);
    *out = x;
    return NULL;
}

void mth__pjrt_unload(mth__executable *x) {
    mth__engine *e = x->engine;
    const size_t devices = (size_t)x->program->mesh->count;
    for (size_t i = 0; i < x->segments->slot.n; i++)
        for (size_t d = 0; x->zeros[i] && d < devices; d++)
            if (x->zeros[i][d]) mth_error_free(mth__buffer_destroy(e, x->zeros[i][d]));
    for (size_t i = 0; i < x->number.n * devices; i++)
        if (x->number_buffer[i]) mth_error_free(mth__buffer_destroy(e, x->number_buffer[i]));
    for (size_t i = 0; i < x->module.n; i++)
        if (x->module.at[i]->xla) mth__xla_release(x->module.at[i]->xla);
    pthread_mutex_destroy(&x->lock);
    mth__arena_free(x->arena);
    mth__free(x);
    mth__pjrt_close(e);
}

/* ---------------------------------------------------------------- compiling */
/* The instruction at a line of the text, 1-based, and the lines that XLA points at. */
static mth_status dress(const mth__module *m, int line, mth_status s) {
    if (line < 1 || line > m->text.lines || !m->text.instr_of_line || !m->text.instr_of_line[line - 1]) return s;
    const mth__seg_instr *i = m->text.instr_of_line[line - 1];
    s = mth__error_source(mth__error_operator(s, i->instr->label.module), i->instr->label.source);
    const char *at = m->text.text, *end;
    for (int l = 1; l < line; l++) at = strchr(at, '\n') + 1;
    end = strchr(at, '\n');
    return mth__error_tensor(s, F("StableHLO, line %d: %.*s", line, end ? (int)(end - at) : (int)strlen(at), at));
}

/* Some topologies want every chip of the slice in a program: the rest of them then run copies. */
static bool wants_slice(const mth__module *m, mth_status s) {
    const char *text = mth_error_get_message(s);
    return m->slice && !m->replicated && (strstr(text, "evice assignment") || strstr(text, "nexpected device_id"));
}

static mth_status compile_module(const mth__executable *x, mth__module *m) {
    int line = 0;
    if (m->xla) return NULL;
    mth_status s = mth__xla_compile(x->engine, m->text.text, m->text.bytes, &m->options, &m->xla, &line);
    if (s && wants_slice(m, s)) {
        mth_error_free(s);
        *(m->options.spmd ? &m->options.replicas : &m->options.partitions) = m->copies + 1;
        m->options.device = m->slice;
        m->replicated = true;
        s = mth__xla_compile(x->engine, m->text.text, m->text.bytes, &m->options, &m->xla, &line);
    }
    return s ? dress(m, line, s) : NULL;
}

/* Several modules are compiled side by side: XLA uses one core for most of a compilation. `stop`: of the thread that
   asked for all of it. */
typedef struct {
    mth__executable *x;
    atomic_size_t next;
    mth_status *status;
    const mth__stop *stop;
} module_compilation;

static void *compile_some(void *context) {
    module_compilation *c = context;
    for (size_t i; (i = atomic_fetch_add(&c->next, 1)) < c->x->module.n;)
        c->status[i] = mth__stop_asked(c->stop) ? mth__interrupted() : compile_module(c->x, c->x->module.at[i]);
    return NULL;
}

enum { COMPILERS = 16 };

mth_status mth__executable_compile(mth__executable *x) {
    if (x->compiled) return NULL;
    module_compilation c = {
        .x = x, .status = mth__calloc(x->module.n + 1, sizeof *c.status), .stop = mth__thread_stop()};
    if (!c.status) return mth__lacks_memory("an executable", 0);
    pthread_t helper[COMPILERS];
    int helpers = 0, wanted = mth__core_count() < COMPILERS ? mth__core_count() - 1 : COMPILERS;
    if (wanted > (int)x->module.n - 1) wanted = (int)x->module.n - 1;
    /* fewer is only slower */
    while (helpers < wanted && !pthread_create(&helper[helpers], NULL, compile_some, &c)) helpers++;
    compile_some(&c);
    for (int i = 0; i < helpers; i++) pthread_join(helper[i], NULL);
    mth_status s = NULL;
    for (size_t i = 0; i < x->module.n; i++) { /* the first of the program is told */
        if (!s)
            s = c.status[i];
        else
            mth_error_free(c.status[i]);
    }
    mth__free(c.status);
    x->compiled = !s;
    return s;
}

mth_status mth__pjrt_stablehlo(mth__executable *x, mth__text *t) {
    for (size_t i = 0; i < x->module.n; i++) {
        const mth__module *m = x->module.at[i];
        mth__text_add(t, "// module %zu of %zu: %d device%s", i + 1, x->module.n, mth__module_devices(m),
            mth__module_devices(m) == 1 ? "" : "s");
        const char *sign = ", on devices ";
        for (size_t w = 0; w < x->job.n; w++) { /* where it runs */
            const mth__job *j = &x->job.at[w];
            if (j->module != m) continue;
            mth__text_add(t, "%s", sign);
            for (int d = 0; d < j->segment->count && !x->segments->global; d++)
                mth__text_add(t, "%s%d", !d ? "" : j->together == 1 ? "; " : ",", j->segment->device[d]);
            if (x->segments->global) mth__text_add(t, "0..%d", x->program->mesh->count - 1);
            sign = "; ";
        }
        mth__text_add(t, "\n%s", m->text.text);
    }
    return NULL;
}
