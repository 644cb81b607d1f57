/* Loading: what can be known before a run. Each device gets its slab, and for each value its shapes, its place in the
   whole tensor and when its memory is given back. */
#include "engine/torch/torch_run.h"

static mth_status place_value(const mth__program_value *described, int device, mth__torch_operand *out) {
    *out = (mth__torch_operand){.dtype = described->dtype, .global = described->shape};
    const int rank = described->sharding.on->rank_of[device];
    for (int d = 0; d < MTH__RANK; d++) out->step[d] = 1;
    out->shape = (mth__shape){.rank = described->shape.rank};
    if (rank >= 0) out->shape = mth__local_shape(described->shape, &described->sharding, rank, out->start, out->step);
    if (rank >= 0 && !mth__shape_equal(out->shape, described->local))
        return INTERNAL("%s: device %d holds another shape than its role", described->name, device);
    return NULL;
}

/* By instruction, the values whose tensors nobody needs behind it: those of torch's memory, and views of them. */
static void find_drops(
    mth__arena *arena, const mth__program *program, const mth__role *role, int **begins, int **values) {
    int *last = NEW_ARRAY(arena, int, role->value.n + 1), *begin = NEW_ARRAY(arena, int, role->instr.n + 2);
    mth__last_uses(arena, program, role, last);
    int *list = NEW_ARRAY(arena, int, role->value.n + 1);
    const int instructions = (int)role->instr.n;
    for (size_t number = 0; number < role->value.n; number++) {
        const int base = mth__base_of(role, (int)number);
        if (role->value.at[base].storage == MTH__IN_OWN && last[base] >= 0) begin[last[base] + 1]++;
    }
    for (int i = 0; i < instructions; i++) begin[i + 1] += begin[i];
    int *next = NEW_ARRAY(arena, int, role->instr.n + 2);
    for (int i = 0; i <= instructions; i++) next[i] = begin[i];
    for (size_t number = 0; number < role->value.n; number++) {
        const int base = mth__base_of(role, (int)number);
        if (role->value.at[base].storage == MTH__IN_OWN && last[base] >= 0) list[next[last[base]]++] = (int)number;
    }
    *begins = begin;
    *values = list;
}

static mth_status place_role(mth__executable *executable, const mth__role *role, mth__torch_device *device) {
    const mth__program *program = executable->program;
    device->executable = executable;
    device->role = role;
    device->operand = NEW_ARRAY(executable->arena, mth__torch_operand, role->value.n);
    device->exit = NEW_ARRAY(executable->arena, mth__tensor, program->exit.n);
    device->kept = NEW_ARRAY(executable->arena, mth__tensor, role->instr.n * MTH__TORCH_KEPT);
    for (size_t i = 0; i < role->value.n; i++) {
        TRY(place_value(&role->value.at[i], device->device, &device->operand[i]));
        if (role->value.at[i].storage == MTH__IN_LENT || mth__space_of(role, (int)i) == MTH__HOST)
            return FAIL(MTH_ERROR_UNSUPPORTED,
                F("%s lies in %s, which the torch engine does not have", role->value.at[i].name,
                    role->value.at[i].storage == MTH__IN_LENT ? "bytes that an exit lends" : "the host's pool"),
                F("plan for the torch engine, or run this program on the native engine"));
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
} program_loading;
static mth_status load_body(void *arguments) {
    const program_loading *load = arguments;
    const mth__program *program = load->program;
    mth__arena *arena = mth__arena_new();
    mth__executable *executable = NEW(arena, mth__executable);
    executable->arena = arena;
    executable->engine = load->engine;
    executable->program = program;
    executable->offset = mth__buffer_offsets(arena, program);
    executable->by_id = NEW_ARRAY(arena, mth__torch_device *, program->mesh->count);
    TRY(mth__walk_new(arena, program, &executable->walk));
    for (size_t number = 0; number < program->role.n; number++) executable->count += program->role.at[number].ndevice;
    executable->device = NEW_ARRAY(arena, mth__torch_device, executable->count);
    int n = 0;
    for (size_t number = 0; number < program->role.n; number++) {
        const mth__role *role = &program->role.at[number];
        int *begins, *values;
        find_drops(arena, program, role, &begins, &values);
        for (int i = 0; i < role->ndevice; i++) {
            mth__torch_device *device = &executable->device[n++];
            device->device = role->device[i];
            device->drop_begins = begins;
            device->drops = values;
            executable->by_id[device->device] = device;
            TRY(place_role(executable, role, device));
        }
    }
    mth__arena_keep(arena);
    *load->out = executable;
    return NULL;
}

mth_status mth__torch_load(
    mth__engine *engine, const mth__program *program, const mth__program *global, mth__executable **out) {
    (void)global;
    mth__executable *executable;
    const mth__torch_library *library = engine->library;
    TRY(mth__guard(load_body, &(program_loading){engine, program, &executable}));
    pthread_mutex_init(&executable->lock, NULL);
    mth__fork_watch_add(&executable->watch, around_fork, executable);
    atomic_fetch_add(&engine->references, 1);
    for (int i = 0; i < executable->count; i++) {
        mth__torch_device *device = &executable->device[i];
        const int64_t stride = 1, slab = device->role->slab[MTH__DEVICE], bytes = slab ? slab : MTH__ALIGNMENT;
        if (library->aoti_torch_empty_strided(
                1, &bytes, &stride, library->aoti_torch_dtype_uint8(), library->cpu, -1, &device->slab)) {
            device->slab = NULL;
            mth__torch_unload(executable);
            return mth__lacks_memory("the activations of a device", bytes);
        }
    }
    *out = executable;
    return NULL;
}

void mth__torch_unload(mth__executable *executable) {
    if (!executable) return;
    mth__engine *engine = executable->engine;
    for (int i = 0; i < executable->count; i++) {
        mth__torch_device *device = &executable->device[i];
        for (size_t number = 0; number < device->role->value.n; number++)
            mth__torch_free(engine->library, &device->operand[number].tensor);
        for (size_t k = 0; k < device->role->instr.n * MTH__TORCH_KEPT; k++)
            mth__torch_free(engine->library, &device->kept[k]);
        for (int k = 0; k < device->constants; k++) mth__torch_free(engine->library, &device->constant[k].tensor);
        mth__free(device->constant);
        mth__free(device->temporary);
        mth__torch_free(engine->library, &device->slab);
    }
    mth__fork_watch_remove(&executable->watch);
    pthread_mutex_destroy(&executable->lock);
    mth__arena_free(executable->arena);
    mth__torch_close(engine);
}
