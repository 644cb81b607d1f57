/* The order of issue. A graph without pipelines keeps the order in which it was composed. With one, nodes form units:
 * those of one (pipeline, stage, microbatch, direction); nodes outside are units of their own. A list scheduler runs
 * the units in simulated time, each device one unit at a time, over the true dependencies, so any number of stages may
 *   share a device: GPipe  forward before backward (Huang et al. 2019)
 *   1F1B   backward before forward; stage s of n has at most n - s microbatches in flight (PipeDream-Flush, Narayanan
 *   et al. 2021)
 * A transfer between stages belongs to no unit: see settle_transfer. */
#include "distribute/decide.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int region, stage, microbatch;   /* region -1: one node */
    bool backward, travels;          /* a transfer */
    const mth__placement *on, *also; /* where it runs; `also`: another placement of some of its nodes */
    double seconds, ready, start;
    int waits;        /* operands not made yet */
    int nodes, first; /* in `order` */
    int group;        /* of its key: 0 transfers, 1 units */
    int sequence;     /* -1: not begun */
    mth__node *node;  /* of a single */
} unit;

typedef struct {
    int n;
    const int *at;
} atoms; /* devices that the same placements hold are one atom */

typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    unit *unit;
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
} schedule_pass;

/* ---------------------------------------------------------------- devices */
static void find_atoms(schedule_pass *s) {
    const mth__graph *g = s->graph;
    const mth__mesh *mesh = g->mesh;
    int *atom = NEW_ARRAY(s->arena, int, mesh->count), count = 1;
    bool *seen = NEW_ARRAY(s->arena, bool, mesh->placements.n);
    VEC(const mth__placement *) used = {0};
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__placement *p = g->node.at[i]->on;
        if (!seen[p->id]) PUSH(s->arena, used, p);
        seen[p->id] = true;
    }
    int *size = NEW_ARRAY(s->arena, int, mesh->count), *inside = NEW_ARRAY(s->arena, int, mesh->count);
    int *moved = NEW_ARRAY(s->arena, int, mesh->count);
    size[0] = mesh->count;
    for (size_t i = 0; i < used.n; i++) { /* splits the atoms that are partly in the placement */
        const mth__placement *p = used.at[i];
        if (p->count == mesh->count) continue;
        for (int k = 0; k < p->count; k++) inside[atom[p->device[k]]]++;
        for (int k = 0; k < p->count; k++) {
            int a = atom[p->device[k]];
            if (!inside[a]) { /* met before: split or not */
                atom[p->device[k]] = moved[a];
                continue;
            }
            moved[a] = a;
            if (inside[a] < size[a]) {
                moved[a] = count;
                size[count] = inside[a];
                size[a] -= inside[a];
                count++;
            }
            inside[a] = 0;
            atom[p->device[k]] = moved[a];
        }
    }
    s->free = NEW_ARRAY(s->arena, double, count);
    s->begun = NEW_ARRAY(s->arena, double, count);
    s->atoms = NEW_ARRAY(s->arena, atoms, mesh->placements.n);
    int *mark = NEW_ARRAY(s->arena, int, count);
    for (size_t i = 0; i < used.n; i++) {
        const mth__placement *p = used.at[i];
        VEC(int) v = {0};
        for (int k = 0; k < p->count; k++) {
            int a = atom[p->device[k]];
            if (mark[a] != (int)i + 1) PUSH(s->arena, v, a);
            mark[a] = (int)i + 1;
        }
        s->atoms[p->id] = (atoms){(int)v.n, v.at};
    }
}

/* ---------------------------------------------------------------- units */
static bool crosses(const mth__node *n) { return mth__is_comm(n) && n->in[0]->sharding.on != n->on; }
/* Moves data that is there from the start: goes with its first consumer, so that it does not lie about. */
static bool idle_mover(const mth__node *node) {
    return (node->op->flags & MTH__VIEW) || (mth__is_comm(node) && !mth__communicates(node));
}

static void make_units(schedule_pass *s) {
    mth__graph *g = s->graph;
    int n = (int)g->node.n, grid = 0, *base = NEW_ARRAY(s->arena, int, g->region.n + 1);
    for (size_t r = 0; r < g->region.n; r++) {
        base[r] = grid;
        grid += g->region.at[r]->stages * g->region.at[r]->microbatches * 2;
    }
    s->unit = NEW_ARRAY(s->arena, unit, grid + n);
    s->unit_of = NEW_ARRAY(s->arena, int, n);
    bool *idle = NEW_ARRAY(s->arena, bool, n);
    s->units = s->grid = grid;
    for (int i = 0; i < n; i++) {
        mth__node *x = g->node.at[i];
        const mth__region *r = x->label.region >= 0 ? g->region.at[x->label.region] : NULL;
        int u = -1;
        if (r && x->label.microbatch >= 0 && x->label.microbatch < r->microbatches && x->label.stage >= 0 &&
            x->label.stage < r->stages) {
            u = base[x->label.region] + (x->label.stage * r->microbatches + x->label.microbatch) * 2 +
                mth__is_backward_time(x->label.phase);
            bool single = crosses(x) && !(x->in[0]->node && s->unit_of[x->in[0]->node->id] == u);
            if (single)
                u = -1;
            else if (s->unit[u].on)
                s->unit[u].also = x->on == s->unit[u].on ? s->unit[u].also : x->on;
            else
                s->unit[u] = (unit){.region = x->label.region,
                    .stage = x->label.stage,
                    .microbatch = x->label.microbatch,
                    .backward = mth__is_backward_time(x->label.phase),
                    .on = x->on};
        }
        if (u < 0) {
            idle[i] = idle_mover(x);
            for (int j = 0; j < x->nin && idle[i]; j++) idle[i] = !x->in[j]->node || idle[x->in[j]->node->id];
            u = s->units++;
            s->unit[u] = (unit){.region = -1,
                .stage = -1,
                .microbatch = -1,
                .backward = mth__is_backward_time(x->label.phase),
                .travels = crosses(x),
                .on = x->on,
                .node = x};
        }
        s->unit_of[i] = u;
    }
    int *first = NEW_ARRAY(s->arena, int, n); /* of an idle mover: its first consumer + 1 */
    for (int i = n; i-- > 0;) {
        mth__node *x = g->node.at[i];
        if (idle[i] && first[i] && !s->unit[s->unit_of[first[i] - 1]].travels) s->unit_of[i] = s->unit_of[first[i] - 1];
        for (int j = 0; j < x->nin; j++)
            if (x->in[j]->node) first[x->in[j]->node->id] = i + 1;
    }
}

static void link_units(schedule_pass *s) {
    mth__graph *g = s->graph;
    int n = (int)g->node.n, edges = 0, at = 0;
    s->edge_first = NEW_ARRAY(s->arena, int, s->units + 2);
    s->order = NEW_ARRAY(s->arena, int, n);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < n; i++) {
            mth__node *x = g->node.at[i];
            unit *u = &s->unit[s->unit_of[i]];
            if (pass == 0) {
                u->nodes++;
                u->seconds += mth__cost_node(x);
            } else
                s->order[u->first + u->nodes++] = i;
            for (int j = 0; j < x->nin; j++) {
                if (!x->in[j]->node) continue;
                int from = s->unit_of[x->in[j]->node->id];
                if (from == s->unit_of[i]) continue;
                if (pass == 0) {
                    s->edge_first[from + 1]++;
                    u->waits++;
                    edges++;
                } else
                    s->edge[s->edge_first[from]++] = s->unit_of[i];
            }
        }
        /* a stage goes forward in order, so that few units are ready at once */
        for (int u = 2; u < s->grid; u++) {
            if (s->unit[u].backward || !s->unit[u].microbatch || !s->unit[u].on || !s->unit[u - 2].on) continue;
            if (pass)
                s->edge[s->edge_first[u - 2]++] = u;
            else
                s->edge_first[u - 1]++, s->unit[u].waits++, edges++;
        }
        if (pass) break;
        for (int u = 0; u < s->units; u++) {
            s->unit[u].first = at;
            at += s->unit[u].nodes;
            s->unit[u].nodes = 0;
            s->unit[u].sequence = -1;
            s->unit[u].group = s->unit[u].travels ? 0 : 1;
            s->edge_first[u + 1] += s->edge_first[u];
        }
        s->edge = NEW_ARRAY(s->arena, int, edges + 1);
    }
    /* undo the walk of the second pass */
    for (int u = s->units; u > 0; u--) s->edge_first[u] = s->edge_first[u - 1];
    s->edge_first[0] = 0;
}

/* ---------------------------------------------------------------- simulated time */
static const double LEAST = 1e-7; /* no unit takes no time, so that order in time is order of dependencies */

static double available(const schedule_pass *s, const mth__placement *on) {
    const atoms *a = &s->atoms[on->id];
    double t = 0;
    for (int k = 0; k < a->n; k++)
        if (s->free[a->at[k]] > t) t = s->free[a->at[k]];
    return t;
}
static void occupy(schedule_pass *s, const mth__placement *on, double start, double end) {
    const atoms *a = &s->atoms[on->id];
    for (int k = 0; k < a->n; k++) {
        s->begun[a->at[k]] = start;
        s->free[a->at[k]] = end;
    }
}

static bool held(const schedule_pass *s, const unit *u) {
    if (u->region < 0) return false;
    if (s->graph->region.at[u->region]->schedule == MTH__GPIPE) return u->backward && s->left[u->region][u->stage];
    return !u->backward && s->flight[u->region][u->stage] >= s->limit[u->region][u->stage];
}

/* Of two units that could begin at once. */
static bool before(const schedule_pass *s, const unit *a, const unit *b) {
    if (a->region != b->region || a->region < 0)
        return a->region < b->region || (a->region == b->region && a->node->id < b->node->id);
    if (a->backward != b->backward) return a->backward == (s->graph->region.at[a->region]->schedule == MTH__1F1B);
    if (a->microbatch != b->microbatch) return a->microbatch < b->microbatch;
    return a->backward ? a->stage > b->stage : a->stage < b->stage;
}

static int choose(const schedule_pass *s, bool limited, double *start) {
    int best = -1;
    for (size_t i = 0; i < s->ready.n; i++) {
        const unit *u = &s->unit[s->ready.at[i]];
        if (limited && held(s, u)) continue;
        double t = available(s, u->on), other = u->also ? available(s, u->also) : 0;
        if (other > t) t = other;
        if (u->ready > t) t = u->ready;
        if (best < 0 || t < *start || (t == *start && before(s, u, &s->unit[s->ready.at[best]]))) {
            best = (int)i;
            *start = t;
        }
    }
    return best;
}

/* A transfer to a unit that begins at `t` stands behind the unit that its receiver runs before, so that nothing is held
 * early, and from there on as early as what it sends is made, so that the sender posts at once. */
static void settle_transfer(schedule_pass *s, const mth__value *v, double t) {
    unit *u = v->node ? &s->unit[s->unit_of[v->node->id]] : NULL;
    if (!u || !u->travels || u->sequence >= 0) return;
    const atoms *a = &s->atoms[u->on->id];
    double at = u->ready;
    for (int k = 0; k < a->n; k++)
        if (s->free[a->at[k]] > 0 && s->begun[a->at[k]] + LEAST / 2 > at) at = s->begun[a->at[k]] + LEAST / 2;
    if (at > t) at = t;
    settle_transfer(s, u->node->in[0], at);
    u->start = at;
    u->sequence = s->sequence++;
}

static void finish(schedule_pass *s, int id, double end) {
    for (int e = s->edge_first[id]; e < s->edge_first[id + 1]; e++) {
        unit *to = &s->unit[s->edge[e]];
        if (to->ready < end) to->ready = end;
        if (--to->waits) continue;
        if (to->travels)
            finish(s, s->edge[e], to->ready + to->seconds);
        else
            PUSH(s->arena, s->ready, s->edge[e]);
    }
}

static void begin(schedule_pass *s, int id, double start) {
    unit *u = &s->unit[id];
    for (int k = 0; k < u->nodes; k++) {
        const mth__node *x = s->graph->node.at[s->order[u->first + k]];
        for (int j = 0; j < x->nin; j++) settle_transfer(s, x->in[j], start);
    }
    u->start = start;
    u->sequence = s->sequence++;
    double end = start + (u->seconds > LEAST ? u->seconds : LEAST);
    occupy(s, u->on, start, end);
    if (u->also) occupy(s, u->also, start, end);
    if (u->region >= 0) {
        s->flight[u->region][u->stage] += u->backward ? -1 : 1;
        s->left[u->region][u->stage] -= !u->backward;
    }
    finish(s, id, end);
}

static void simulate(schedule_pass *s) {
    const mth__graph *g = s->graph;
    s->flight = NEW_ARRAY(s->arena, int *, g->region.n);
    s->limit = NEW_ARRAY(s->arena, int *, g->region.n);
    s->left = NEW_ARRAY(s->arena, int *, g->region.n);
    for (size_t r = 0; r < g->region.n; r++) {
        int stages = g->region.at[r]->stages;
        s->flight[r] = NEW_ARRAY(s->arena, int, stages);
        s->limit[r] = NEW_ARRAY(s->arena, int, stages);
        s->left[r] = NEW_ARRAY(s->arena, int, stages);
        for (int k = 0; k < stages; k++) s->limit[r][k] = INT_MAX;
    }
    for (int u = 0; u < s->units; u++) { /* a stage that never goes backward has no limit */
        const unit *b = &s->unit[u];
        if (b->region < 0 || !b->nodes) continue;
        if (b->backward)
            s->limit[b->region][b->stage] = g->region.at[b->region]->stages - b->stage;
        else
            s->left[b->region][b->stage]++;
    }
    for (int u = 0; u < s->units; u++) {
        if (s->unit[u].waits || !s->unit[u].nodes) continue;
        if (s->unit[u].travels)
            finish(s, u, s->unit[u].seconds);
        else
            PUSH(s->arena, s->ready, u);
    }
    while (s->ready.n) {
        double start = 0;
        int at = choose(s, true, &start);
        /* nothing goes backward yet: a loss behind the pipeline, or no gradients */
        if (at < 0) at = choose(s, false, &start);
        int id = s->ready.at[at];
        s->ready.at[at] = s->ready.at[--s->ready.n];
        begin(s, id, start);
    }
    for (int u = 0; u < s->units; u++) /* transfers that nothing consumes: outputs */
        if (s->unit[u].travels && s->unit[u].nodes && s->unit[u].sequence < 0)
            settle_transfer(s, s->unit[u].node->out[0], s->unit[u].ready);
}

static int by_key(const void *x, const void *y) {
    const unit *a = *(unit *const *)x, *b = *(unit *const *)y;
    if (a->start != b->start) return a->start < b->start ? -1 : 1;
    if (a->group != b->group) return a->group - b->group;
    return a->sequence < b->sequence ? -1 : 1;
}

static void write_order(schedule_pass *s) {
    mth__graph *g = s->graph;
    int n = (int)g->node.n, sorted = 0, at = 0;
    unit **units = NEW_ARRAY(s->arena, unit *, s->units);
    for (int u = 0; u < s->units; u++) {
        if (!s->unit[u].nodes) continue;
        if (s->unit[u].sequence < 0) return; /* units that wait for each other: the composed order stands */
        units[sorted++] = &s->unit[u];
    }
    qsort(units, (size_t)sorted, sizeof *units, by_key);
    mth__node **order = NEW_ARRAY(s->arena, mth__node *, n);
    int *position = NEW_ARRAY(s->arena, int, n);
    for (int u = 0; u < sorted; u++)
        for (int k = 0; k < units[u]->nodes; k++) {
            position[s->order[units[u]->first + k]] = at;
            order[at++] = g->node.at[s->order[units[u]->first + k]];
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < order[i]->nin; j++)
            if (order[i]->in[j]->node && position[order[i]->in[j]->node->id] >= i) return;
    memcpy(g->node.at, order, sizeof *order * (size_t)n);
}

mth_status mth__schedule(mth__graph *g, const mth__distribute_options *o) {
    (void)o;
    if (g->region.n && g->node.n) {
        schedule_pass s = {.graph = g, .arena = mth__arena_new()};
        find_atoms(&s);
        make_units(&s);
        link_units(&s);
        simulate(&s);
        write_order(&s);
        mth__arena_free(s.arena);
    }
    mth__graph_number(g);
    return NULL;
}
