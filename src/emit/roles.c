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
static void refine(refinement *r, const mth__placement *on, const int64_t *size) {
    int cells = 0;
    r->table.count = 0;
    if (r->table.slots) memset(r->table.slot, 0, r->table.slots * sizeof *r->table.slot);
    for (int i = 0; i < on->count; i++) {
        int *part = &r->part[on->device[i]];
        const cell wanted = {size ? size[i] : 0, *part, r->parts};
        const uint64_t hash = mth__hash_add(mth__hash_add(mth__hash_key(), (uint64_t)*part), (uint64_t)wanted.size);
        const int at = mth__table_add(r->arena, &r->table, hash, is_cell, &(cell_key){r->cell, &wanted}, cells);
        if (at == cells) {
            r->cell[cells++] = wanted;
            r->parts++;
        }
        *part = r->cell[at].to;
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

static bool first_time(refinement *r, const uneven *u) {
    uint64_t h = mth__hash_add(mth__hash_add(mth__hash_key(), (uint64_t)u->n), (uint64_t)u->on);
    h = mth__hash_add(h, (uint64_t)u->split.grain << 1 | u->split.cyclic);
    for (int i = 0; i < u->split.naxes; i++) h = mth__hash_add(h, (uint64_t)u->split.axis[i]);
    const int next = (int)r->seen.n;
    if (mth__table_add(r->arena, &r->seen_table, h, is_uneven, &(uneven_key){r, u}, next) != next) return false;
    PUSH(r->arena, r->seen, *u);
    return true;
}

static void by_placement(refinement *r, const mth__placement *on) {
    if (r->placed[on->id]) return;
    r->placed[on->id] = true;
    refine(r, on, NULL);
}

static void by_value(refinement *r, const mth__value *v) {
    const mth__sharding *s = &v->sharding;
    by_placement(r, s->on);
    for (int d = 0; d < v->shape.rank; d++) {
        if (s->dim[d].naxes == 0) continue;
        uneven u = {v->shape.dim[d], s->dim[d], s->on->id};
        if (!first_time(r, &u)) continue;
        if (mth__split_even(u.n, &u.split, s->on)) continue;
        const mth__shape line = {1, {u.n}};
        const mth__sharding alone = {.on = s->on, .dim = {u.split}};
        for (int i = 0; i < s->on->count; i++) r->size[i] = mth__local_shape(line, &alone, i, NULL, NULL).dim[0];
        refine(r, s->on, r->size);
    }
}

static int ascending(const void *a, const void *b) {
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

/* Roles in order of their lowest device. */
static void number(const refinement *r, mth__program *p) {
    int devices = p->mesh->count, roles = 0;
    int *role = NEW_ARRAY(r->arena, int, r->parts + 1), *count = NEW_ARRAY(r->arena, int, devices + 1);
    int32_t *role_of = NEW_ARRAY(p->arena, int32_t, devices);
    for (int d = 0; d < devices; d++) {
        int part = r->part[d];
        if (part >= 0 && role[part] == 0) role[part] = ++roles;
        role_of[d] = part < 0 ? -1 : role[part] - 1;
        if (part >= 0) count[role_of[d]]++;
    }
    p->role_of = role_of;
    p->role.at = NEW_ARRAY(p->arena, mth__role, roles);
    p->role.n = p->role.room = (size_t)roles;
    int32_t **device = NEW_ARRAY(r->arena, int32_t *, roles);
    for (int i = 0; i < roles; i++) p->role.at[i].device = device[i] = NEW_ARRAY(p->arena, int32_t, count[i]);
    for (int d = 0; d < devices; d++)
        if (role_of[d] >= 0) device[role_of[d]][p->role.at[role_of[d]].ndevice++] = d;
}

mth__role_list *mth__emit_roles(mth__arena *scratch, const mth__graph *g, mth__program *p) {
    size_t devices = (size_t)g->mesh->count, placements = g->mesh->placements.n;
    refinement r = {.arena = scratch,
        .part = NEW_ARRAY(scratch, int, devices),
        .cell = NEW_ARRAY(scratch, cell, devices),
        .placed = NEW_ARRAY(scratch, bool, placements),
        .size = NEW_ARRAY(scratch, int64_t, devices)};
    memset(r.part, -1, devices * sizeof *r.part);
    for (size_t i = 0; i < g->input.n; i++) by_value(&r, g->input.at[i]);
    for (size_t i = 0; i < g->parameter.n; i++) by_value(&r, g->parameter.at[i]);
    for (size_t i = 0; i < g->seed.n; i++) by_value(&r, g->seed.at[i]);
    for (size_t i = 0; i < g->node.n; i++) {
        by_placement(&r, g->node.at[i]->on);
        for (int k = 0; k < g->node.at[i]->nout; k++) by_value(&r, g->node.at[i]->out[k]);
    }
    number(&r, p);

    mth__role_list *list = NEW_ARRAY(scratch, mth__role_list, placements);
    int *taken = NEW_ARRAY(scratch, int, p->role.n + 1); /* by role: 1 + the last placement that has it */
    for (size_t k = 0; k < placements; k++) {
        const mth__placement *on = g->mesh->placements.at[k];
        if (!r.placed[k]) continue;
        list[k].role = NEW_ARRAY(scratch, int, on->count < (int)p->role.n ? on->count : (int)p->role.n);
        for (int i = 0; i < on->count; i++) {
            int role = p->role_of[on->device[i]];
            if (taken[role] == (int)k + 1) continue;
            taken[role] = (int)k + 1;
            list[k].role[list[k].n++] = role;
        }
        qsort(list[k].role, (size_t)list[k].n, sizeof *list[k].role, ascending);
    }
    return list;
}

mth__role_list *mth__emit_one_role(mth__arena *scratch, const mth__graph *g, mth__program *p) {
    int devices = p->mesh->count;
    int32_t *device = NEW_ARRAY(p->arena, int32_t, 1), *role_of = NEW_ARRAY(p->arena, int32_t, devices);
    memset(role_of, -1, sizeof *role_of * (size_t)devices);
    role_of[0] = 0;
    p->role_of = role_of;
    PUSH(p->arena, p->role, ((mth__role){.ndevice = 1, .device = device}));
    mth__role_list *list = NEW_ARRAY(scratch, mth__role_list, g->mesh->placements.n);
    list[g->mesh->whole->id] = (mth__role_list){1, NEW_ARRAY(scratch, int, 1)};
    return list;
}
