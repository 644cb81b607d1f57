/* The vtable, and the loading of programs. */
#include "base/cores.h"
#include "engine/reference/reference_run.h"
#include <stddef.h>

typedef struct {
    bool device_threads;
} reference_options;
static const mth__opt options[] = {
    {"device_threads", MTH__OPT_BOOL, "False", "Each device has a thread of its own, in place of one for all.",
        .read = mth__read_bool, .at = offsetof(reference_options, device_threads)},
    {0}};
static const mth__opt *const tables[] = {mth__mesh_options, options, mth__machine_options, NULL};

static mth_status open_engine(const mth__engine_setup *setup, mth__engine **out) {
    reference_options given;
    TRY(mth__options_hand_out(setup->tables, setup->value, options, &given));
    mth__engine *e = mth__calloc(1, sizeof *e);
    if (!e) return mth__lacks_memory("an engine", sizeof *e);
    atomic_init(&e->references, 1);
    e->devices = setup->mesh->count;
    e->threads = given.device_threads;
    *out = e;
    return NULL;
}

static mth_status describe(mth__engine *e, mth__text *t) {
    mth__text_add(t, "reference engine: %d devices on %s, double precision and int64 inside\n", e->devices,
        e->threads ? "a thread each" : "one thread");
    return NULL;
}

static const char *lacks(const mth__node *node, int *at) {
    *at = -1;
    return mth__ref_rows[node->op->row] || node->op->flags & MTH__COMM
        ? NULL
        : "the reference engine has no loop for this row";
}

/* ---------------------------------------------------------------- loading */
static mth_status place_value(const mth__program_value *p, int device, mth__ref_value *v) {
    *v = (mth__ref_value){.dtype = p->dtype, .global = p->shape, .local = {.rank = p->shape.rank}};
    int rank = p->sharding.on->rank_of[device];
    for (int d = 0; d < MTH__RANK; d++) v->step[d] = 1;
    v->here = rank >= 0;
    if (v->here) v->local = mth__local_shape(p->shape, &p->sharding, rank, v->start, v->step);
    if (v->here && !mth__shape_equal(v->local, p->local))
        return INTERNAL("%s: device %d holds another shape than its role", p->name, device);
    return NULL;
}

static mth_status place_role(mth__executable *x, const mth__role *role, mth__ref_device *d) {
    const mth__program *p = x->program;
    d->role = role;
    d->value = NEW_ARRAY(x->arena, mth__ref_value, role->value.n);
    d->leaves = NEW_ARRAY(x->arena, int, p->exit.n);
    for (size_t i = 0; i < role->value.n; i++) {
        TRY(place_value(&role->value.at[i], d->device, &d->value[i]));
        if (role->value.at[i].storage != MTH__IN_ALIAS)
            d->elements = mth__size_sum(d->elements, mth__shape_size(d->value[i].local));
    }
    for (size_t e = 0; e < p->exit.n; e++) d->leaves[e] = -1;
    for (size_t i = 0; i < role->instr.n; i++)
        for (int k = 0; k < role->instr.at[i].nout; k++) {
            int v = role->instr.at[i].out[k];
            if (role->value.at[v].storage == MTH__IN_ALIAS) v = role->value.at[v].index;
            if (role->value.at[v].storage == MTH__IN_EXIT) d->leaves[role->value.at[v].index] = v;
        }
    return NULL;
}

/* A run of the parent's leaves nothing behind that the next one reads. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth__executable *x = object;
    if (moment == MTH__FORK_CHILD) pthread_mutex_init(&x->lock, NULL);
}

typedef struct {
    mth__engine *engine;
    const mth__program *program;
    mth__executable **out;
} loading;
static mth_status load_body(void *arguments) {
    const loading *l = arguments;
    const mth__program *p = l->program;
    mth__arena *arena = mth__arena_new();
    mth__executable *x = NEW(arena, mth__executable);
    x->arena = arena;
    x->engine = l->engine;
    x->program = p;
    x->offset = mth__buffer_offsets(arena, p);
    x->by_id = NEW_ARRAY(arena, mth__ref_device *, p->mesh->count);
    TRY(mth__walk_new(arena, p, &x->walk));
    for (size_t r = 0; r < p->role.n; r++) x->count += p->role.at[r].ndevice;
    x->device = NEW_ARRAY(arena, mth__ref_device, x->count);
    int n = 0;
    for (size_t r = 0; r < p->role.n; r++)
        for (int i = 0; i < p->role.at[r].ndevice; i++) {
            mth__ref_device *d = &x->device[n++];
            d->device = p->role.at[r].device[i];
            x->by_id[d->device] = d;
            TRY(place_role(x, &p->role.at[r], d));
        }
    mth__arena_keep(arena);
    *l->out = x;
    return NULL;
}

mth_status mth__ref_load(mth__engine *e, const mth__program *p, const mth__program *global, mth__executable **out) {
    (void)global;
    mth__executable *x;
    TRY(mth__guard(load_body, &(loading){e, p, &x}));
    pthread_mutex_init(&x->lock, NULL);
    mth__fork_watch_add(&x->watch, around_fork, x);
    atomic_fetch_add(&e->references, 1);
    for (int i = 0; i < x->count; i++) {
        mth__ref_device *d = &x->device[i];
        d->memory = mth__calloc((size_t)d->elements + 1, sizeof *d->memory);
        if (!d->memory) {
            mth__ref_unload(x);
            return FAIL(MTH_ERROR_MEMORY,
                F("no memory for the %lld values of device %d, of 8 bytes each", (long long)d->elements, d->device),
                F("use smaller shapes, or the native engine"));
        }
        mth__ref_element *next = d->memory;
        for (size_t v = 0; v < d->role->value.n; v++)
            if (d->role->value.at[v].storage != MTH__IN_ALIAS) {
                d->value[v].data = next;
                next += mth__shape_size(d->value[v].local);
            }
        for (size_t v = 0; v < d->role->value.n; v++) {
            const mth__program_value *a = &d->role->value.at[v];
            if (a->storage == MTH__IN_ALIAS)
                d->value[v].data = d->value[a->index].data + a->offset / (int64_t)mth_dtype_size(a->dtype);
        }
    }
    *out = x;
    return NULL;
}

void mth__ref_unload(mth__executable *x) {
    if (!x) return;
    mth__engine *e = x->engine;
    for (int i = 0; i < x->count; i++) mth__free(x->device[i].memory);
    mth__fork_watch_remove(&x->watch);
    pthread_mutex_destroy(&x->lock);
    mth__arena_free(x->arena);
    mth__ref_close(e);
}

static int cores(mth__engine *e) { return e->threads ? mth__core_count() : 1; }

const mth__engine_vtable mth__engine_reference = {
    .name = "reference",
    .options = tables,
    .traits = {.streams = MTH__STREAMS, .views = true, .crossings = true, .doubles = true},
    .cores = cores,
    .open = open_engine,
    .close = mth__ref_close,
    .describe = describe,
    .lacks = lacks,
    .memory =
        {
            .new = mth__ref_buffer_new,
            .retain = mth__ref_buffer_retain,
            .release = mth__ref_buffer_release,
            .host = mth__ref_buffer_host,
            .fill = mth__ref_buffer_host,
            .write = mth__ref_buffer_write,
            .read = mth__ref_buffer_read,
        },
    .load = mth__ref_load,
    .unload = mth__ref_unload,
    .run = mth__ref_run,
};
