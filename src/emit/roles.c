/* Roles: the coarsest partition of the devices in which the devices of a part are in the same placements and hold equal
 * local shapes of every value. Found by refinement: for each placement that is used, and each way in which some
 * dimension is split unevenly, parts fall apart by membership or by local size. Costs what these cost together,
 * whatever the number of nodes. */
#include "base/table.h"
#include "emit/emit.h"
#include <stdlib.h>
#include <string.h>

/* of one step: devices of `part` with local `size` go to part `to` */
typedef struct {
    int64_t size;
    int part, to;
} cell;
typedef struct {
    int64_t n;
    mth__split split;
    int on;
} uneven; /* seen: this dimension, split so */
typedef struct {
    mth__arena *arena;
    int *part, parts; /* by device; -1: in no placement yet */
    cell *cell;       /* of the step, as many as there are devices at most */
    int64_t *size;    /* by rank: of the step */
    mth__table table; /* of indices in `cell` */
    bool *placed;     /* by placement id */
    VEC(uneven) seen;
    mth__table seen_table;
} refinement;

typedef struct {
    const cell *all, *wanted;
} cell_key;

static bool is_cell(const void *key, int number) {
    const cell_key *at = key;
    return at->all[number].part == at->wanted->part && at->all[number].size == at->wanted->size;
}

/* size: by rank, or NULL for membership alone. */
static void refine(refinement *pass, const mth__placement *on, const int64_t *size) {
    int cells = 0;
    pass->table.count = 0;
    if (pass->table.slots) memset(pass->table.slot, 0, pass->table.slots * sizeof *pass->table.slot);
    for (int i = 0; i < on->count; i++) {
        int *part = &pass->part[on->device[i]];
        const cell wanted = {size ? size[i] : 0, *part, pass->parts};
        const uint64_t hash = mth__hash_add(mth__hash_add(mth__hash_key(), (uint64_t)*part), (uint64_t)wanted.size);
        const int at =
            mth__table_add(pass->arena, &pass->table, hash, is_cell, &(cell_key){pass->cell, &wanted}, cells);
        if (at == cells) {
            pass->cell[cells++] = wanted;
            pass->parts++;
        }
        *part = pass->cell[at].to;
    }
}

typedef struct {
    const refinement *refinement;
    const uneven *uneven;
} uneven_key;

static bool is_uneven(const void *key, int number) {
    const uneven *wanted = ((const uneven_key *)key)->uneven,
                 *seen = &((const uneven_key *)key)->refinement->seen.at[number];
    return seen->n == wanted->n && seen->on == wanted->on && mth__split_equal(&seen->split, &wanted->split);
}

static bool first_time(refinement *pass, const uneven *dims) {
    uint64_t hash = mth__hash_add(mth__hash_add(mth__hash_key(), (uint64_t)dims->n), (uint64_t)dims->on);
    hash = mth__hash_add(hash, (uint64_t)dims->split.grain << 1 | dims->split.cyclic);
    for (int i = 0; i < dims->split.naxes; i++) hash = mth__hash_add(hash, (uint64_t)dims->split.axis[i]);
    const int next = (int)pass->seen.n;
    if (mth__table_add(pass->arena, &pass->seen_table, hash, is_uneven, &(uneven_key){pass, dims}, next) != next)
        return false;
    PUSH(pass->arena, pass->seen, *dims);
    return true;
}

static void by_placement(refinement *pass, const mth__placement *on) {
    if (pass->placed[on->id]) return;
    pass->placed[on->id] = true;
    refine(pass, on, NULL);
}

static void by_value(refinement *pass, const mth__value *value) {
    const mth__sharding *sharding = &value->sharding;
    by_placement(pass, sharding->on);
    for (int d = 0; d < value->shape.rank; d++) {
        if (sharding->dim[d].naxes == 0) continue;
        uneven dims = {value->shape.dim[d], sharding->dim[d], sharding->on->id};
        if (!first_time(pass, &dims)) continue;
        if (mth__split_even(dims.n, &dims.split, sharding->on)) continue;
        const mth__shape line = {1, {dims.n}};
        const mth__sharding alone = {.on = sharding->on, .dim = {dims.split}};
        for (int i = 0; i < sharding->on->count; i++)
            pass->size[i] = mth__local_shape(line, &alone, i, NULL, NULL).dim[0];
        refine(pass, sharding->on, pass->size);
    }
}

static int ascending(const void *a, const void *b) {
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

/* Roles in order of their lowest device. */
static void number(const refinement *pass, mth__program *program) {
    int devices = program->mesh->count, roles = 0;
    int *role = NEW_ARRAY(pass->arena, int, pass->parts + 1), *count = NEW_ARRAY(pass->arena, int, devices + 1);
    int32_t *role_of = NEW_ARRAY(program->arena, int32_t, devices);
    for (int d = 0; d < devices; d++) {
        int part = pass->part[d];
        if (part >= 0 && role[part] == 0) role[part] = ++roles;
        role_of[d] = part < 0 ? -1 : role[part] - 1;
        if (part >= 0) count[role_of[d]]++;
    }
    program->role_of = role_of;
    program->role.at = NEW_ARRAY(program->arena, mth__role, roles);
    program->role.n = program->role.room = (size_t)roles;
    int32_t **device = NEW_ARRAY(pass->arena, int32_t *, roles);
    for (int i = 0; i < roles; i++)
        program->role.at[i].device = device[i] = NEW_ARRAY(program->arena, int32_t, count[i]);
    for (int d = 0; d < devices; d++)
        if (role_of[d] >= 0) device[role_of[d]][program->role.at[role_of[d]].ndevice++] = d;
}

mth__role_list *mth__emit_roles(mth__arena *scratch, const mth__graph *graph, mth__program *program) {
    size_t devices = (size_t)graph->mesh->count, placements = graph->mesh->placements.n;
    refinement pass = {.arena = scratch,
        .part = NEW_ARRAY(scratch, int, devices),
        .cell = NEW_ARRAY(scratch, cell, devices),
        .placed = NEW_ARRAY(scratch, bool, placements),
        .size = NEW_ARRAY(scratch, int64_t, devices)};
    memset(pass.part, -1, devices * sizeof *pass.part);
    for (size_t i = 0; i < graph->input.n; i++) by_value(&pass, graph->input.at[i]);
    for (size_t i = 0; i < graph->parameter.n; i++) by_value(&pass, graph->parameter.at[i]);
    for (size_t i = 0; i < graph->seed.n; i++) by_value(&pass, graph->seed.at[i]);
    for (size_t i = 0; i < graph->node.n; i++) {
        by_placement(&pass, graph->node.at[i]->on);
        for (int k = 0; k < graph->node.at[i]->nout; k++) by_value(&pass, graph->node.at[i]->out[k]);
    }
    number(&pass, program);

    mth__role_list *list = NEW_ARRAY(scratch, mth__role_list, placements);
    int *taken = NEW_ARRAY(scratch, int, program->role.n + 1); /* by role: 1 + the last placement that has it */
    for (size_t k = 0; k < placements; k++) {
        const mth__placement *on = graph->mesh->placements.at[k];
        if (!pass.placed[k]) continue;
        list[k].role = NEW_ARRAY(scratch, int, on->count < (int)program->role.n ? on->count : (int)program->role.n);
        for (int i = 0; i < on->count; i++) {
            int role_number = program->role_of[on->device[i]];
            if (taken[role_number] == (int)k + 1) continue;
            taken[role_number] = (int)k + 1;
            list[k].role[list[k].n++] = role_number;
        }
        qsort(list[k].role, (size_t)list[k].n, sizeof *list[k].role, ascending);
    }
    return list;
}

mth__role_list *mth__emit_one_role(mth__arena *scratch, const mth__graph *graph, mth__program *program) {
    int devices = program->mesh->count;
    int32_t *device = NEW_ARRAY(program->arena, int32_t, 1), *role_of = NEW_ARRAY(program->arena, int32_t, devices);
    memset(role_of, -1, sizeof *role_of * (size_t)devices);
    role_of[0] = 0;
    program->role_of = role_of;
    PUSH(program->arena, program->role, ((mth__role){.ndevice = 1, .device = device}));
    mth__role_list *list = NEW_ARRAY(scratch, mth__role_list, graph->mesh->placements.n);
    list[graph->mesh->whole->id] = (mth__role_list){1, NEW_ARRAY(scratch, int, 1)};
    return list;
}
