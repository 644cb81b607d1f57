/* The order of issue. A graph without pipelines keeps the order in which it was composed. With one, nodes form units:
 * those of one (pipeline, stage, microbatch, direction); nodes outside are units of their own. A list scheduler runs
 * the units in simulated time, each device one unit at a time, over the true dependencies, so any number of stages may
 * share a device. Which of the units that are ready begins first:
 *   GPipe  forward before backward (Huang et al. 2019)
 *   1F1B   backward before forward; stage s of n has at most n - s microbatches in flight (PipeDream-Flush, Narayanan
 *          et al. 2021)
 * A transfer between stages belongs to no unit: see settle_transfer. */
#include "distribute/decide.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int region, stage, microbatch; /* region -1: one node */
    bool backward, travels;        /* a transfer */
    const mth__placement *on,
        *second_on; /* where it runs; second_on: another placement of some of its nodes, or NULL */
    double seconds, ready, start;
    int waits;        /* operands not made yet */
    int nodes, first; /* in `order` */
    int group;        /* of its key: 0 transfers, 1 units */
    int sequence;     /* -1: not begun */
    mth__node *node;  /* of a single */
} schedule_unit;

typedef struct {
    int n;
    const int *at;
} atoms; /* devices that the same placements hold are one atom */

typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    schedule_unit *unit;
    int units, grid;        /* those of pipelines come first: (stage, microbatch, direction) */
    int *unit_of;           /* by position in graph->node */
    int *order;             /* positions, unit by unit */
    int *edge_first, *edge; /* consumers of a unit's values, with repetition */
    atoms *atoms;           /* by placement id */
    double *free, *begun;   /* by atom: when its last unit ends, began */
    /* by region and stage: microbatches forward and not yet backward; at most; not yet forward */
    int **flight, **limit, **left;
    VEC(int) ready;
    int sequence;
    double least; /* seconds of a unit */
} schedule_pass;

/* ---------------------------------------------------------------- devices */
static void find_atoms(schedule_pass *pass) {
    const mth__graph *graph = pass->graph;
    const mth__mesh *mesh = graph->mesh;
    int *atom = NEW_ARRAY(pass->arena, int, mesh->count), count = 1;
    bool *seen = NEW_ARRAY(pass->arena, bool, mesh->placements.n);
    VEC(const mth__placement *) used = {0};
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__placement *placement = graph->node.at[i]->on;
        if (!seen[placement->id]) PUSH(pass->arena, used, placement);
        seen[placement->id] = true;
    }
    int *size = NEW_ARRAY(pass->arena, int, mesh->count), *inside = NEW_ARRAY(pass->arena, int, mesh->count);
    int *moved = NEW_ARRAY(pass->arena, int, mesh->count);
    size[0] = mesh->count;
    for (size_t i = 0; i < used.n; i++) { /* splits the atoms of which the placement holds only a part */
        const mth__placement *placement = used.at[i];
        if (placement->count == mesh->count) continue;
        for (int k = 0; k < placement->count; k++) inside[atom[placement->device[k]]]++;
        for (int k = 0; k < placement->count; k++) {
            int id = atom[placement->device[k]];
            if (!inside[id]) { /* met before: split or not */
                atom[placement->device[k]] = moved[id];
                continue;
            }
            moved[id] = id;
            if (inside[id] < size[id]) {
                moved[id] = count;
                size[count] = inside[id];
                size[id] -= inside[id];
                count++;
            }
            inside[id] = 0;
            atom[placement->device[k]] = moved[id];
        }
    }
    pass->free = NEW_ARRAY(pass->arena, double, count);
    pass->begun = NEW_ARRAY(pass->arena, double, count);
    pass->atoms = NEW_ARRAY(pass->arena, atoms, mesh->placements.n);
    int *mark = NEW_ARRAY(pass->arena, int, count);
    for (size_t i = 0; i < used.n; i++) {
        const mth__placement *placement = used.at[i];
        VEC(int) found = {0};
        for (int k = 0; k < placement->count; k++) {
            int id = atom[placement->device[k]];
            if (mark[id] != (int)i + 1) PUSH(pass->arena, found, id);
            mark[id] = (int)i + 1;
        }
        pass->atoms[placement->id] = (atoms){(int)found.n, found.at};
    }
}

/* ---------------------------------------------------------------- units */
static bool crosses(const mth__node *node) { return mth__is_comm(node) && node->in[0]->sharding.on != node->on; }
/* Moves data that is there from the start: goes with its first consumer, so that it does not lie about. */
static bool idle_mover(const mth__node *node) {
    return (node->op->flags & MTH__VIEW) || (mth__is_comm(node) && !mth__communicates(node));
}

static void make_units(schedule_pass *pass) {
    mth__graph *graph = pass->graph;
    int n = (int)graph->node.n, grid = 0, *base = NEW_ARRAY(pass->arena, int, graph->region.n + 1);
    for (size_t region_number = 0; region_number < graph->region.n; region_number++) {
        base[region_number] = grid;
        grid += graph->region.at[region_number]->stages * graph->region.at[region_number]->microbatches * 2;
    }
    pass->unit = NEW_ARRAY(pass->arena, schedule_unit, grid + n);
    pass->unit_of = NEW_ARRAY(pass->arena, int, n);
    bool *idle = NEW_ARRAY(pass->arena, bool, n);
    pass->units = pass->grid = grid;
    for (int i = 0; i < n; i++) {
        mth__node *node = graph->node.at[i];
        const mth__region *region = node->label.region >= 0 ? graph->region.at[node->label.region] : NULL;
        int id = -1;
        if (region && node->label.microbatch >= 0 && node->label.microbatch < region->microbatches &&
            node->label.stage >= 0 && node->label.stage < region->stages) {
            id = base[node->label.region] + (node->label.stage * region->microbatches + node->label.microbatch) * 2 +
                mth__is_backward_time(node->label.phase);
            bool single = crosses(node) && !(node->in[0]->node && pass->unit_of[node->in[0]->node->id] == id);
            if (single)
                id = -1;
            else if (pass->unit[id].on)
                pass->unit[id].second_on = node->on == pass->unit[id].on ? pass->unit[id].second_on : node->on;
            else
                pass->unit[id] = (schedule_unit){.region = node->label.region,
                    .stage = node->label.stage,
                    .microbatch = node->label.microbatch,
                    .backward = mth__is_backward_time(node->label.phase),
                    .on = node->on};
        }
        if (id < 0) {
            idle[i] = idle_mover(node);
            for (int j = 0; j < node->nin && idle[i]; j++) idle[i] = !node->in[j]->node || idle[node->in[j]->node->id];
            id = pass->units++;
            pass->unit[id] = (schedule_unit){.region = -1,
                .stage = -1,
                .microbatch = -1,
                .backward = mth__is_backward_time(node->label.phase),
                .travels = crosses(node),
                .on = node->on,
                .node = node};
        }
        pass->unit_of[i] = id;
    }
    int *first = NEW_ARRAY(pass->arena, int, n); /* of an idle mover: its first consumer + 1 */
    for (int i = n; i-- > 0;) {
        mth__node *node = graph->node.at[i];
        if (idle[i] && first[i] && !pass->unit[pass->unit_of[first[i] - 1]].travels)
            pass->unit_of[i] = pass->unit_of[first[i] - 1];
        for (int j = 0; j < node->nin; j++)
            if (node->in[j]->node) first[node->in[j]->node->id] = i + 1;
    }
}

static void link_units(schedule_pass *pass) {
    mth__graph *graph = pass->graph;
    int n = (int)graph->node.n, edges = 0, at = 0;
    pass->edge_first = NEW_ARRAY(pass->arena, int, pass->units + 2);
    pass->order = NEW_ARRAY(pass->arena, int, n);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < n; i++) {
            mth__node *node = graph->node.at[i];
            schedule_unit *unit = &pass->unit[pass->unit_of[i]];
            if (round == 0) {
                unit->nodes++;
                unit->seconds += mth__cost_node(node);
            } else
                pass->order[unit->first + unit->nodes++] = i;
            for (int j = 0; j < node->nin; j++) {
                if (!node->in[j]->node) continue;
                int from = pass->unit_of[node->in[j]->node->id];
                if (from == pass->unit_of[i]) continue;
                if (round == 0) {
                    pass->edge_first[from + 1]++;
                    unit->waits++;
                    edges++;
                } else
                    pass->edge[pass->edge_first[from]++] = pass->unit_of[i];
            }
        }
        /* a stage goes forward in order, so that few units are ready at once */
        for (int id = 2; id < pass->grid; id++) {
            if (pass->unit[id].backward || !pass->unit[id].microbatch || !pass->unit[id].on || !pass->unit[id - 2].on)
                continue;
            if (round)
                pass->edge[pass->edge_first[id - 2]++] = id;
            else
                pass->edge_first[id - 1]++, pass->unit[id].waits++, edges++;
        }
        if (round) break;
        for (int id = 0; id < pass->units; id++) {
            pass->unit[id].first = at;
            at += pass->unit[id].nodes;
            pass->unit[id].nodes = 0;
            pass->unit[id].sequence = -1;
            pass->unit[id].group = pass->unit[id].travels ? 0 : 1;
            pass->edge_first[id + 1] += pass->edge_first[id];
        }
        pass->edge = NEW_ARRAY(pass->arena, int, edges + 1);
    }
    /* undo the walk of the second pass */
    for (int id = pass->units; id > 0; id--) pass->edge_first[id] = pass->edge_first[id - 1];
    pass->edge_first[0] = 0;
}

/* ---------------------------------------------------------------- simulated time */
/* No unit takes less time than its memory takes for so many bytes, so that order in time is order of dependencies. */
static const double LEAST_BYTES = 1000;

static double available(const schedule_pass *pass, const mth__placement *on) {
    const atoms *held = &pass->atoms[on->id];
    double time = 0;
    for (int k = 0; k < held->n; k++)
        if (pass->free[held->at[k]] > time) time = pass->free[held->at[k]];
    return time;
}
static void occupy(schedule_pass *pass, const mth__placement *on, double start, double end) {
    const atoms *held = &pass->atoms[on->id];
    for (int k = 0; k < held->n; k++) {
        pass->begun[held->at[k]] = start;
        pass->free[held->at[k]] = end;
    }
}

static bool held(const schedule_pass *pass, const schedule_unit *unit) {
    if (unit->region < 0) return false;
    if (pass->graph->region.at[unit->region]->schedule == MTH__GPIPE)
        return unit->backward && pass->left[unit->region][unit->stage];
    return !unit->backward && pass->flight[unit->region][unit->stage] >= pass->limit[unit->region][unit->stage];
}

/* Of two units that could begin at once. */
static bool before(const schedule_pass *pass, const schedule_unit *a, const schedule_unit *b) {
    if (a->region != b->region || a->region < 0)
        return a->region < b->region || (a->region == b->region && a->node->id < b->node->id);
    if (a->backward != b->backward) return a->backward == (pass->graph->region.at[a->region]->schedule == MTH__1F1B);
    if (a->microbatch != b->microbatch) return a->microbatch < b->microbatch;
    return a->backward ? a->stage > b->stage : a->stage < b->stage;
}

static int choose(const schedule_pass *pass, bool limited, double *start) {
    int best = -1;
    for (size_t i = 0; i < pass->ready.n; i++) {
        const schedule_unit *unit = &pass->unit[pass->ready.at[i]];
        if (limited && held(pass, unit)) continue;
        double time = available(pass, unit->on), other = unit->second_on ? available(pass, unit->second_on) : 0;
        if (other > time) time = other;
        if (unit->ready > time) time = unit->ready;
        if (best < 0 || time < *start || (time == *start && before(pass, unit, &pass->unit[pass->ready.at[best]]))) {
            best = (int)i;
            *start = time;
        }
    }
    return best;
}

/* A transfer to a unit that begins at `time` is placed behind the unit that its receiver runs before that one, so that
 * the receiver does not hold the data early. From there on it is placed as early as its data is made, so that the
 * sender posts at once. */
static void settle_transfer(schedule_pass *pass, const mth__value *value, double time) {
    schedule_unit *unit = value->node ? &pass->unit[pass->unit_of[value->node->id]] : NULL;
    if (!unit || !unit->travels || unit->sequence >= 0) return;
    const atoms *held = &pass->atoms[unit->on->id];
    double at = unit->ready;
    for (int k = 0; k < held->n; k++)
        if (pass->free[held->at[k]] > 0 && pass->begun[held->at[k]] + pass->least / 2 > at)
            at = pass->begun[held->at[k]] + pass->least / 2;
    if (at > time) at = time;
    settle_transfer(pass, unit->node->in[0], at);
    unit->start = at;
    unit->sequence = pass->sequence++;
}

static void finish(schedule_pass *pass, int id, double end) {
    for (int edge_number = pass->edge_first[id]; edge_number < pass->edge_first[id + 1]; edge_number++) {
        schedule_unit *to = &pass->unit[pass->edge[edge_number]];
        if (to->ready < end) to->ready = end;
        if (--to->waits) continue;
        if (to->travels)
            finish(pass, pass->edge[edge_number], to->ready + to->seconds);
        else
            PUSH(pass->arena, pass->ready, pass->edge[edge_number]);
    }
}

static void begin(schedule_pass *pass, int id, double start) {
    schedule_unit *unit = &pass->unit[id];
    for (int k = 0; k < unit->nodes; k++) {
        const mth__node *node = pass->graph->node.at[pass->order[unit->first + k]];
        for (int j = 0; j < node->nin; j++) settle_transfer(pass, node->in[j], start);
    }
    unit->start = start;
    unit->sequence = pass->sequence++;
    double end = start + (unit->seconds > pass->least ? unit->seconds : pass->least);
    occupy(pass, unit->on, start, end);
    if (unit->second_on) occupy(pass, unit->second_on, start, end);
    if (unit->region >= 0) {
        pass->flight[unit->region][unit->stage] += unit->backward ? -1 : 1;
        pass->left[unit->region][unit->stage] -= !unit->backward;
    }
    finish(pass, id, end);
}

static void simulate(schedule_pass *pass) {
    const mth__graph *graph = pass->graph;
    pass->flight = NEW_ARRAY(pass->arena, int *, graph->region.n);
    pass->limit = NEW_ARRAY(pass->arena, int *, graph->region.n);
    pass->left = NEW_ARRAY(pass->arena, int *, graph->region.n);
    for (size_t region_number = 0; region_number < graph->region.n; region_number++) {
        int stages = graph->region.at[region_number]->stages;
        pass->flight[region_number] = NEW_ARRAY(pass->arena, int, stages);
        pass->limit[region_number] = NEW_ARRAY(pass->arena, int, stages);
        pass->left[region_number] = NEW_ARRAY(pass->arena, int, stages);
        for (int k = 0; k < stages; k++) pass->limit[region_number][k] = INT_MAX;
    }
    for (int number = 0; number < pass->units; number++) { /* a stage that never goes backward has no limit */
        const schedule_unit *unit = &pass->unit[number];
        if (unit->region < 0 || !unit->nodes) continue;
        if (unit->backward)
            pass->limit[unit->region][unit->stage] = graph->region.at[unit->region]->stages - unit->stage;
        else
            pass->left[unit->region][unit->stage]++;
    }
    for (int number = 0; number < pass->units; number++) {
        if (pass->unit[number].waits || !pass->unit[number].nodes) continue;
        if (pass->unit[number].travels)
            finish(pass, number, pass->unit[number].seconds);
        else
            PUSH(pass->arena, pass->ready, number);
    }
    while (pass->ready.n) {
        double start = 0;
        int at = choose(pass, true, &start);
        /* nothing goes backward yet: a loss behind the pipeline, or no gradients */
        if (at < 0) at = choose(pass, false, &start);
        int id = pass->ready.at[at];
        pass->ready.at[at] = pass->ready.at[--pass->ready.n];
        begin(pass, id, start);
    }
    for (int number = 0; number < pass->units; number++) /* transfers that nothing consumes: outputs */
        if (pass->unit[number].travels && pass->unit[number].nodes && pass->unit[number].sequence < 0)
            settle_transfer(pass, pass->unit[number].node->out[0], pass->unit[number].ready);
}

static int by_key(const void *x, const void *y) {
    const schedule_unit *a = *(schedule_unit *const *)x, *b = *(schedule_unit *const *)y;
    if (a->start != b->start) return a->start < b->start ? -1 : 1;
    if (a->group != b->group) return a->group - b->group;
    return a->sequence < b->sequence ? -1 : 1;
}

static void write_order(schedule_pass *pass) {
    mth__graph *graph = pass->graph;
    int n = (int)graph->node.n, sorted = 0, at = 0;
    schedule_unit **units = NEW_ARRAY(pass->arena, schedule_unit *, pass->units);
    for (int id = 0; id < pass->units; id++) {
        if (!pass->unit[id].nodes) continue;
        if (pass->unit[id].sequence < 0) return; /* units that wait for each other: the composed order stands */
        units[sorted++] = &pass->unit[id];
    }
    qsort(units, (size_t)sorted, sizeof *units, by_key);
    mth__node **order = NEW_ARRAY(pass->arena, mth__node *, n);
    int *position = NEW_ARRAY(pass->arena, int, n);
    for (int id = 0; id < sorted; id++)
        for (int k = 0; k < units[id]->nodes; k++) {
            position[pass->order[units[id]->first + k]] = at;
            order[at++] = graph->node.at[pass->order[units[id]->first + k]];
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < order[i]->nin; j++)
            if (order[i]->in[j]->node && position[order[i]->in[j]->node->id] >= i) return;
    memcpy(graph->node.at, order, sizeof *order * (size_t)n);
}

mth_status mth__schedule(mth__graph *graph, const mth__distribute_options *options) {
    (void)options;
    if (graph->region.n && graph->node.n) {
        schedule_pass pass = {
            .graph = graph, .arena = mth__arena_new(), .least = LEAST_BYTES / graph->mesh->model->memory_rate};
        find_atoms(&pass);
        make_units(&pass);
        link_units(&pass);
        simulate(&pass);
        write_order(&pass);
        mth__arena_free(pass.arena);
    }
    mth__graph_number(graph);
    return NULL;
}
