#include "observe/report.h"
#include "emit/traffic.h"
#include <stdlib.h>
#include <string.h>

/* The largest sum of bytes of one kind that are live in the slab at once, by first and last use. */
static int64_t peak_of(const mth__role *role, mth__memory_kind memory, mth__arena *arena) {
    size_t n = role->instr.n;
    int64_t *change = NEW_ARRAY(arena, int64_t, n + 2);
    int32_t *first = NEW_ARRAY(arena, int32_t, role->value.n), *last = NEW_ARRAY(arena, int32_t, role->value.n);
    memset(first, -1, role->value.n * sizeof *first);
    for (size_t i = 0; i < n; i++) {
        const mth__instr *k = &role->instr.at[i];
        for (int j = 0; j < k->nin + k->nout + (k->scratch >= 0); j++) {
            int v = j < k->nin ? k->in[j] : j < k->nin + k->nout ? k->out[j - k->nin] : k->scratch;
            if (first[v] < 0) first[v] = (int32_t)i;
            last[v] = (int32_t)i;
        }
    }
    for (size_t v = 0; v < role->value.n; v++) {
        const mth__pvalue *p = &role->value.at[v];
        if (p->storage != MTH__IN_SLAB || p->space != MTH__DEVICE || p->memory != memory || first[v] < 0) continue;
        change[first[v]] += p->bytes;
        change[last[v] + 1] -= p->bytes;
    }
    int64_t live = 0, peak = 0;
    for (size_t i = 0; i <= n; i++) {
        live += change[i];
        if (live > peak) peak = live;
    }
    return peak < role->slab[MTH__DEVICE] ? peak : role->slab[MTH__DEVICE];
}

static mth_memory_usage role_memory(
    const mth__program *program, const mth__role *role, bool padded, mth__arena *arena) {
    mth_memory_usage u = {0};
    int exits = 0;
    for (size_t v = 0; v < role->value.n; v++)
        if (role->value.at[v].storage == MTH__IN_EXIT && role->value.at[v].index >= exits)
            exits = role->value.at[v].index + 1;
    /* a sum over microbatches runs in one exit under many names */
    bool *counted = NEW_ARRAY(arena, bool, exits);
    for (size_t v = 0; v < role->value.n; v++) {
        const mth__pvalue *p = &role->value.at[v];
        if (p->storage != MTH__IN_ENTRY && p->storage != MTH__IN_EXIT) continue;
        if (p->storage == MTH__IN_EXIT && counted[p->index]) continue;
        if (p->storage == MTH__IN_EXIT) counted[p->index] = true;
        /* the entry's bytes */
        if (p->storage == MTH__IN_EXIT && program->exit.at[p->index].kind == MTH__EXIT_SUCCESSOR) continue;
        const int64_t bytes = padded
            ? mth__shape_size(mth__largest_part(p->shape, &p->sharding)) * (int64_t)mth_dtype_size(p->dtype)
            : p->bytes;
        int64_t *of_kind = p->memory == MTH__MEMORY_WEIGHT ? &u.weights
            : p->memory == MTH__MEMORY_GRADIENT            ? &u.gradients
            : p->memory == MTH__MEMORY_OPTIMIZER           ? &u.optimizer
                                                           : &u.activations;
        *of_kind = mth__size_sum(*of_kind, bytes); /* padding may be more than the plan's own bytes, which fit */
    }
    u.communication = peak_of(role, MTH__MEMORY_COMMUNICATION, arena);
    u.activations = mth__size_sum(u.activations, role->slab[MTH__DEVICE] - u.communication);
    u.activations = mth__size_sum(u.activations, mth__own_peak(program, role, MTH__DEVICE));
    u.host = mth__size_sum(role->slab[MTH__HOST], mth__own_peak(program, role, MTH__HOST));
    const int64_t part[] = {u.weights, u.gradients, u.optimizer, u.activations, u.communication};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) u.total = mth__size_sum(u.total, part[i]);
    return u;
}

typedef struct {
    const mth__program *program;
    bool padded;
    mth_memory_usage *device;
} memory_call;

static mth_status memory_body(void *context) {
    memory_call *m = context;
    memset(m->device, 0, (size_t)m->program->mesh->count * sizeof *m->device);
    for (size_t r = 0; r < m->program->role.n; r++) {
        const mth__role *role = &m->program->role.at[r];
        mth__arena *arena = mth__arena_new();
        mth_memory_usage u = role_memory(m->program, role, m->padded, arena);
        mth__arena_free(arena);
        for (int d = 0; d < role->ndevice; d++) m->device[role->device[d]] = u;
    }
    return NULL;
}

mth_status mth__report_memory(const mth__program *p, bool padded, mth_memory_usage *device) {
    memory_call m = {p, padded, device};
    return mth__guard(memory_body, &m);
}

typedef struct {
    const mth__program *program;
    mth_communication_usage *device;
} communication_call;

static mth_status communication_body(void *context) {
    communication_call *m = context;
    const mth__program *p = m->program;
    mth__arena *arena = mth__arena_new();
    mth__traffic *traffic = NEW_ARRAY(arena, mth__traffic, p->mesh->count);
    TRY(mth__program_traffic(p, traffic, NULL));
    for (int d = 0; d < p->mesh->count; d++)
        m->device[d] = (mth_communication_usage){
            .received = traffic[d].received, .sent = traffic[d].sent, .messages = traffic[d].messages};
    mth__arena_free(arena);
    return NULL;
}

mth_status mth__report_communication(const mth__program *p, mth_communication_usage *device) {
    communication_call m = {p, device};
    return mth__guard(communication_body, &m);
}

typedef struct {
    const char *module;
    uint64_t *device;
} runs;

void mth__report_placement(mth__text *t, const mth__program *p) {
    VEC(runs) all = {0};
    size_t words = ((size_t)p->mesh->count + 63) / 64;
    for (size_t r = 0; r < p->role.n; r++) {
        const mth__role *role = &p->role.at[r];
        size_t hint = 0;
        for (size_t i = 0; i < role->instr.n; i++) {
            const mth__instr *k = &role->instr.at[i];
            if (k->kind != MTH__COMPUTE || !k->label.module || mth__follows_forward(k->label.phase)) continue;
            size_t at = hint; /* instructions of one module stand together */
            for (size_t s = 0; s < all.n && (at >= all.n || strcmp(all.at[at].module, k->label.module)); s++) at = s;
            if (at >= all.n || strcmp(all.at[at].module, k->label.module)) {
                at = all.n;
                PUSH(t->arena, all, ((runs){k->label.module, NEW_ARRAY(t->arena, uint64_t, words)}));
            }
            hint = at;
            for (int d = 0; d < role->ndevice; d++)
                all.at[at].device[role->device[d] / 64] |= 1ull << role->device[d] % 64;
        }
    }
    for (size_t m = 0; m < all.n; m++) {
        mth__text_add(t, "%s\t", all.at[m].module);
        bool first = true;
        for (int d = 0; d < p->mesh->count; d++)
            if (all.at[m].device[d / 64] >> d % 64 & 1) {
                mth__text_add(t, first ? "%d" : ",%d", d);
                first = false;
            }
        mth__text_add(t, "\n");
    }
}
