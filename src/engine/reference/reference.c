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
static const mth__opt *const tables[] = {
    mth__mesh_options, mth__placement_options, options, mth__machine_options, NULL};

static mth_status open_engine(const mth__engine_setup *setup, mth__engine **out) {
    reference_options given;
    TRY(mth__options_hand_out(setup->tables, setup->value, options, &given));
    mth__engine *engine = mth__calloc(1, sizeof *engine);
    if (!engine) return mth__lacks_memory("an engine", sizeof *engine);
    atomic_init(&engine->references, 1);
    engine->devices = setup->mesh->count;
    *out = engine;
    mth_status status = given.device_threads ? mth__crew_new(engine->devices, NULL, NULL, &engine->crew) : NULL;
    if (status) mth__free(engine);
    return status;
}

static mth_status describe(mth__engine *engine, mth__text *text) {
    mth__text_add(text, "reference engine: %d devices on %s, double precision and int64 inside\n", engine->devices,
        engine->crew ? "a thread each" : "one thread");
    return NULL;
}

static const char *lacks(const mth__node *node, int *at) {
    *at = -1;
    return mth__ref_rows[node->op->row] || node->op->flags & MTH__COMM
        ? NULL
        : "the reference engine has no loop for this row";
}

/* ---------------------------------------------------------------- loading */
static mth_status place_value(const mth__program_value *described, int device, mth__ref_value *out) {
    *out = (mth__ref_value){
        .dtype = described->dtype, .global = described->shape, .local = {.rank = described->shape.rank}};
    int rank = described->sharding.on->rank_of[device];
    for (int d = 0; d < MTH__RANK; d++) out->step[d] = 1;
    out->here = rank >= 0;
    if (out->here) out->local = mth__local_shape(described->shape, &described->sharding, rank, out->start, out->step);
    if (out->here && !mth__shape_equal(out->local, described->local))
        return INTERNAL("%s: device %d holds another shape than its role", described->name, device);
    return NULL;
}

static mth_status place_role(mth__executable *executable, const mth__role *role, mth__ref_device *device) {
    const mth__program *program = executable->program;
    device->role = role;
    device->value = NEW_ARRAY(executable->arena, mth__ref_value, role->value.n);
    device->leaves = NEW_ARRAY(executable->arena, int, program->exit.n);
    for (size_t i = 0; i < role->value.n; i++) {
        TRY(place_value(&role->value.at[i], device->device, &device->value[i]));
        if (role->value.at[i].storage != MTH__IN_ALIAS)
            device->elements = mth__size_sum(device->elements, mth__shape_size(device->value[i].local));
    }
    for (size_t exit_number = 0; exit_number < program->exit.n; exit_number++) device->leaves[exit_number] = -1;
    for (size_t i = 0; i < role->instr.n; i++)
        for (int k = 0; k < role->instr.at[i].nout; k++) {
            int number = role->instr.at[i].out[k];
            if (role->value.at[number].storage == MTH__IN_ALIAS) number = role->value.at[number].index;
            if (role->value.at[number].storage == MTH__IN_EXIT) device->leaves[role->value.at[number].index] = number;
        }
    return NULL;
}

/* A run of the parent's leaves nothing behind that the next one reads. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth__executable *executable = object;
    if (moment == MTH__FORK_CHILD) pthread_mutex_init(&executable->lock, NULL);
}

typedef struct {
    mth__engine *engine;
    const mth__program *program;
    mth__executable **out;
} loading;
static mth_status load_body(void *arguments) {
    const loading *load = arguments;
    const mth__program *program = load->program;
    mth__arena *arena = mth__arena_new();
    mth__executable *executable = NEW(arena, mth__executable);
    executable->arena = arena;
    executable->engine = load->engine;
    executable->program = program;
    executable->offset = mth__buffer_offsets(arena, program);
    executable->by_id = NEW_ARRAY(arena, mth__ref_device *, program->mesh->count);
    TRY(mth__walk_new(arena, program, &executable->walk));
    for (size_t number = 0; number < program->role.n; number++) executable->count += program->role.at[number].ndevice;
    executable->device = NEW_ARRAY(arena, mth__ref_device, executable->count);
    int n = 0;
    for (size_t number = 0; number < program->role.n; number++)
        for (int i = 0; i < program->role.at[number].ndevice; i++) {
            mth__ref_device *device = &executable->device[n++];
            device->device = program->role.at[number].device[i];
            executable->by_id[device->device] = device;
            TRY(place_role(executable, &program->role.at[number], device));
        }
    mth__arena_keep(arena);
    *load->out = executable;
    return NULL;
}

mth_status mth__ref_load(
    mth__engine *engine, const mth__program *program, const mth__program *global, mth__executable **out) {
    (void)global;
    mth__executable *executable;
    TRY(mth__guard(load_body, &(loading){engine, program, &executable}));
    pthread_mutex_init(&executable->lock, NULL);
    mth__fork_watch_add(&executable->watch, around_fork, executable);
    atomic_fetch_add(&engine->references, 1);
    for (int i = 0; i < executable->count; i++) {
        mth__ref_device *device = &executable->device[i];
        device->memory = mth__calloc((size_t)device->elements + 1, sizeof *device->memory);
        if (!device->memory) {
            mth__ref_unload(executable);
            return FAIL(MTH_ERROR_MEMORY,
                F("no memory for the %lld values of device %d, of 8 bytes each", (long long)device->elements,
                    device->device),
                F("use smaller shapes, or the native engine"));
        }
        mth__ref_element *next = device->memory;
        for (size_t number = 0; number < device->role->value.n; number++)
            if (device->role->value.at[number].storage != MTH__IN_ALIAS) {
                device->value[number].data = next;
                next += mth__shape_size(device->value[number].local);
            }
        for (size_t number = 0; number < device->role->value.n; number++) {
            const mth__program_value *value = &device->role->value.at[number];
            if (value->storage == MTH__IN_ALIAS)
                device->value[number].data =
                    device->value[value->index].data + value->offset / (int64_t)mth_dtype_size(value->dtype);
        }
    }
    *out = executable;
    return NULL;
}

void mth__ref_unload(mth__executable *executable) {
    if (!executable) return;
    mth__engine *engine = executable->engine;
    for (int i = 0; i < executable->count; i++) mth__free(executable->device[i].memory);
    mth__fork_watch_remove(&executable->watch);
    pthread_mutex_destroy(&executable->lock);
    mth__arena_free(executable->arena);
    mth__ref_close(engine);
}

static int cores(mth__engine *engine) { return engine->crew ? mth__core_count() : 1; }

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
