#include "observe/report.h"
#include "emit/traffic.h"
#include "emit/uses.h"
#include <stdlib.h>
#include <string.h>

/* The largest sum of bytes of one kind that are live in the slab at once, by first and last use. */
static int64_t peak_of(const mth__role *role, mth__memory_kind memory, mth__arena *arena) {
    size_t n = role->instr.n;
    int64_t *change = NEW_ARRAY(arena, int64_t, n + 2);
    const mth__uses uses = mth__role_uses(arena, role);
    for (size_t id = 0; id < role->value.n; id++) {
        const mth__program_value *value = &role->value.at[id];
        if (value->storage != MTH__IN_SLAB || value->space != MTH__DEVICE || value->memory != memory ||
            uses.first[id] < 0)
            continue;
        change[uses.first[id]] += value->bytes;
        change[uses.last[id] + 1] -= value->bytes;
    }
    int64_t live = 0, peak = 0;
    for (size_t i = 0; i <= n; i++) {
        live += change[i];
        if (live > peak) peak = live;
    }
    return peak < role->slab[MTH__DEVICE] ? peak : role->slab[MTH__DEVICE];
}

/* Entries and exits. */
static mth_memory_usage external_memory(
    const mth__program *program, const mth__role *role, bool padded, mth__arena *arena) {
    mth_memory_usage usage = {0};
    int exits = 0;
    for (size_t id = 0; id < role->value.n; id++)
        if (role->value.at[id].storage == MTH__IN_EXIT && role->value.at[id].index >= exits)
            exits = role->value.at[id].index + 1;
    /* A sum over microbatches is many values in one exit: the exit is counted once. */
    bool *counted = NEW_ARRAY(arena, bool, exits);
    for (size_t id = 0; id < role->value.n; id++) {
        const mth__program_value *value = &role->value.at[id];
        if (value->storage != MTH__IN_ENTRY && value->storage != MTH__IN_EXIT) continue;
        if (value->storage == MTH__IN_EXIT && counted[value->index]) continue;
        if (value->storage == MTH__IN_EXIT) counted[value->index] = true;
        /* A successor lies in the bytes of its entry, which are counted. */
        if (value->storage == MTH__IN_EXIT && program->exit.at[value->index].kind == MTH__EXIT_SUCCESSOR) continue;
        const int64_t bytes = padded
            ? mth__shape_size(mth__largest_part(value->shape, &value->sharding)) * (int64_t)mth_dtype_size(value->dtype)
            : value->bytes;
        int64_t *of_kind = value->memory == MTH__MEMORY_WEIGHT ? &usage.weights
            : value->memory == MTH__MEMORY_GRADIENT            ? &usage.gradients
            : value->memory == MTH__MEMORY_OPTIMIZER           ? &usage.optimizer
                                                               : &usage.activations;
        *of_kind = mth__size_sum(*of_kind, bytes); /* padding may be more than the plan's own bytes, which fit */
    }
    return usage;
}

/* What the program reserves besides. */
static void add_reserved(
    const mth__program *program, const mth__role *role, mth__keeps *keeps, mth__arena *arena, mth_memory_usage *usage) {
    usage->communication = peak_of(role, MTH__MEMORY_COMMUNICATION, arena);
    usage->activations = mth__size_sum(usage->activations, role->slab[MTH__DEVICE] - usage->communication);
    usage->activations = mth__size_sum(usage->activations, mth__own_peak(program, role, MTH__DEVICE, true));
    for (size_t i = 0; keeps && i < role->instr.n; i++)
        usage->activations = mth__size_sum(usage->activations, keeps(role, &role->instr.at[i]));
    usage->host = mth__size_sum(role->slab[MTH__HOST], mth__own_peak(program, role, MTH__HOST, true));
}

static void add_up(mth_memory_usage *usage) {
    const int64_t part[] = {
        usage->weights, usage->gradients, usage->optimizer, usage->activations, usage->communication};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) usage->total = mth__size_sum(usage->total, part[i]);
}

typedef struct {
    const mth__program *program;
    bool padded;
    mth__keeps *keeps;
    const int64_t *working, *moving;
    mth_memory_usage *device;
} memory_call;

static mth_status memory_body(void *context) {
    memory_call *call = context;
    memset(call->device, 0, (size_t)call->program->mesh->count * sizeof *call->device);
    for (size_t k = 0; k < call->program->role.n; k++) {
        const mth__role *role = &call->program->role.at[k];
        mth__arena *arena = mth__arena_new();
        const mth_memory_usage external = external_memory(call->program, role, call->padded, arena);
        mth_memory_usage reserved = external;
        add_reserved(call->program, role, call->keeps, arena, &reserved);
        mth__arena_free(arena);
        for (int d = 0; d < role->ndevice; d++) {
            const int device = role->device[d];
            const bool own = call->working && call->working[device] >= 0;
            mth_memory_usage *usage = &call->device[device];
            *usage = own ? external : reserved;
            if (own) {
                usage->activations = mth__size_sum(usage->activations, call->working[device]);
                usage->communication = call->moving[device];
            }
            add_up(usage);
        }
    }
    return NULL;
}

mth_status mth__report_memory(const mth__program *program, bool padded, mth__keeps *keeps, const int64_t *working,
    const int64_t *moving, mth_memory_usage *device) {
    memory_call call = {program, padded, keeps, working, moving, device};
    return mth__guard(memory_body, &call);
}

typedef struct {
    const mth__program *program;
    mth_communication_usage *device;
} communication_call;

static mth_status communication_body(void *context) {
    communication_call *call = context;
    const mth__program *program = call->program;
    mth__arena *arena = mth__arena_new();
    mth__traffic *traffic = NEW_ARRAY(arena, mth__traffic, program->mesh->count);
    TRY(mth__program_traffic(program, traffic, NULL));
    for (int d = 0; d < program->mesh->count; d++)
        call->device[d] = (mth_communication_usage){
            .received = traffic[d].received, .sent = traffic[d].sent, .messages = traffic[d].messages};
    mth__arena_free(arena);
    return NULL;
}

mth_status mth__report_communication(const mth__program *program, mth_communication_usage *device) {
    communication_call call = {program, device};
    return mth__guard(communication_body, &call);
}

typedef struct {
    const char *module;
    uint64_t *device;
} runs;

void mth__report_placement(mth__text *text, const mth__program *program) {
    VEC(runs) all = {0};
    size_t words = ((size_t)program->mesh->count + 63) / 64;
    for (size_t k = 0; k < program->role.n; k++) {
        const mth__role *role = &program->role.at[k];
        size_t hint = 0;
        for (size_t i = 0; i < role->instr.n; i++) {
            const mth__instr *instruction = &role->instr.at[i];
            if (instruction->kind != MTH__COMPUTE || !instruction->label.module ||
                mth__follows_forward(instruction->label.phase))
                continue;
            size_t at = hint; /* instructions of one module stand together */
            for (size_t earlier = 0;
                earlier < all.n && (at >= all.n || strcmp(all.at[at].module, instruction->label.module)); earlier++)
                at = earlier;
            if (at >= all.n || strcmp(all.at[at].module, instruction->label.module)) {
                at = all.n;
                PUSH(text->arena, all, ((runs){instruction->label.module, NEW_ARRAY(text->arena, uint64_t, words)}));
            }
            hint = at;
            for (int d = 0; d < role->ndevice; d++)
                all.at[at].device[role->device[d] / 64] |= 1ull << role->device[d] % 64;
        }
    }
    for (size_t m = 0; m < all.n; m++) {
        mth__text_add(text, "%s\t", all.at[m].module);
        bool first = true;
        for (int d = 0; d < program->mesh->count; d++)
            if (all.at[m].device[d / 64] >> d % 64 & 1) {
                mth__text_add(text, first ? "%d" : ",%d", d);
                first = false;
            }
        mth__text_add(text, "\n");
    }
}
