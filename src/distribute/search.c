/* auto_sharding: layouts for the parameters that nobody placed, and axes that share the batch, such that a step takes
 * the least time by the cost model; of equal times the one with less memory. A trial is no estimate: shard and reshard
 * plan the model with the layouts at hand, and what comes out is summed. Coordinate descent from several starts: one
 * group of parameters after the other, then pairs of neighbours, whose gain shows only together (columns before rows),
 * until nothing gets better or the trials are used up. The step goes forward and backward, whatever is planned first:
 * layouts outlive the plan that they are found for. */
#include "distribute/fold.h"
#include <math.h>
#include <string.h>

/* candidates of each that pairs try, of groups so near; sweeps over all groups */
enum { PAIRED = 4, REACH = 2, ROUNDS = 4 };
static const int64_t EFFORT = 60000; /* nodes planned in all trials together */
static const double EQUAL = 1e-9;    /* relative: costs that differ by less do not */

typedef struct {
    double seconds, bytes;
    int said; /* choices that are not 0 */
} price;
typedef struct known {
    uint64_t hash;
    uint8_t *choice;
    price price;
    struct known *next;
} known;
enum { KNOWN = 1024 };
typedef struct {
    mth__graph *graph; /* the trial */
    const mth__folding *folding;
    mth__distribute_options options;
    mth__arena *arena;
    mth__group *group;
    int groups;
    bool batch;
    int *order; /* groups: the largest parameters first, the batch last */
    mth__node **node;
    mth__value ***in;
    size_t nodes; /* the trial as it was */
    mth__value **output;
    mth__sharding *parameter, *seed;
    known *table[KNOWN];
    int64_t effort;
    mth_status status; /* of the first trial that failed */
} search_pass;

/* ---------------------------------------------------------------- a trial */
static void remember(search_pass *s) {
    mth__graph *g = s->graph;
    s->nodes = g->node.n;
    s->node = NEW_ARRAY(s->arena, mth__node *, s->nodes);
    s->in = NEW_ARRAY(s->arena, mth__value **, s->nodes);
    if (s->nodes) memcpy(s->node, g->node.at, sizeof *s->node * s->nodes);
    for (size_t i = 0; i < s->nodes; i++) {
        s->in[i] = NEW_ARRAY(s->arena, mth__value *, s->node[i]->nin);
        if (s->node[i]->nin) memcpy(s->in[i], s->node[i]->in, sizeof **s->in * (size_t)s->node[i]->nin);
    }
    s->output = NEW_ARRAY(s->arena, mth__value *, g->output.n);
    for (size_t i = 0; i < g->output.n; i++) s->output[i] = g->output.at[i].value;
    s->parameter = NEW_ARRAY(s->arena, mth__sharding, g->parameter.n);
    for (size_t i = 0; i < g->parameter.n; i++) s->parameter[i] = g->parameter.at[i]->sharding;
    s->seed = NEW_ARRAY(s->arena, mth__sharding, g->seed.n);
    for (size_t i = 0; i < g->seed.n; i++) s->seed[i] = g->seed.at[i]->sharding;
}

static void restore(search_pass *s, int values) {
    mth__graph *g = s->graph;
    g->values = values;
    g->node.at = s->node;
    g->node.n = s->nodes;
    g->node.room = 0; /* a list that is not the graph's to grow */
    for (size_t i = 0; i < s->nodes; i++)
        for (int j = 0; j < s->node[i]->nin; j++) s->node[i]->in[j] = s->in[i][j];
    mth__graph_number(g);
    for (size_t i = 0; i < g->output.n; i++) g->output.at[i].value = s->output[i];
    for (size_t i = 0; i < g->parameter.n; i++) g->parameter.at[i]->sharding = s->parameter[i];
    for (size_t i = 0; i < g->seed.n; i++) g->seed.at[i]->sharding = s->seed[i];
}

static mth__sharding on(const mth__sharding *s, const mth__placement *place, mth__shape shape) {
    mth__sharding r = *s;
    r.on = place;
    mth__sharding_canonical(&r, shape);
    return r;
}

/* The inputs' offer for one choice of the batch; NULL: they are read whole. */
static const mth__sharding *offer_of(const search_pass *s, const mth__graph *g, int choice, const mth__value *v) {
    const mth__group *batch = &s->group[0];
    for (size_t i = 0; i < s->options.specs; i++)
        if (!strcmp(s->options.spec[i].name, v->name)) return NULL;
    if (!choice || !v->shape.rank || v->shape.dim[0] != batch->shape.dim[0]) return NULL;
    mth__sharding split = on(&batch->candidate[choice], g->mesh->whole, v->shape);
    if (v->sharding.on != split.on) split = mth__sharding_carry(&split, v->shape, v->sharding.on);
    if (!mth__sharding_axes(&split, v->shape.rank)) return NULL;
    mth__sharding *kept = NEW(g->arena, mth__sharding);
    *kept = split;
    return kept;
}

static void apply(search_pass *s, const uint8_t *choice) {
    mth__graph *g = s->graph;
    for (size_t i = 0; s->batch && i < g->input.n; i++)
        g->input.at[i]->offer = offer_of(s, g, choice[0], g->input.at[i]);
    for (int k = s->batch; k < s->groups; k++)
        for (int i = 0; i < s->group[k].parameters; i++) {
            mth__value *v = s->group[k].parameter[i];
            v->pinned = choice[k] != 0;
            if (v->pinned) v->sharding = on(&s->group[k].candidate[choice[k]], v->sharding.on, v->shape);
        }
}

static bool allowed(const search_pass *s, const mth__value *v) {
    int split = 0;
    for (int d = 0; d < v->shape.rank; d++) split += v->sharding.dim[d].naxes > 0;
    return !s->options.partition_dims || split <= s->options.partition_dims;
}

static price sum(const search_pass *s) {
    const mth__graph *g = s->graph;
    price p = {0, 0, 0};
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__node *n = g->node.at[i];
        p.seconds += mth__cost_node(n) * mth__folded_weight(s->folding, n->label.module);
    }
    for (int k = s->batch; k < s->groups; k++) {
        mth__group *x = &s->group[k];
        x->found = x->parameter[0]->sharding;
        x->alike = true;
        for (int i = 0; i < x->parameters; i++) {
            const mth__value *v = x->parameter[i];
            x->alike &= mth__sharding_equal(&v->sharding, &x->found, v->shape.rank);
            p.bytes += (double)mth__local_size(v->shape, &v->sharding) * (double)mth_dtype_size(v->dtype) * x->weight /
                x->parameters;
            if (!allowed(s, v)) p.seconds = INFINITY;
        }
    }
    return p;
}

static price plan(search_pass *s, const uint8_t *choice) {
    mth__graph *g = s->graph;
    mth__arena *own = g->arena;
    int values = g->values;
    price p = {INFINITY, INFINITY, 0};
    g->arena = mth__arena_new(); /* what a trial makes goes with it */
    restore(s, values);
    apply(s, choice);
    for (size_t i = 0; i < g->parameter.n; i++) g->parameter.at[i]->origin = NULL;
    mth_status status = mth__distribute(g, &s->options, MTH__PASS_SHARD, MTH__PASS_RESHARD);
    if (!status) {
        p = sum(s);
        for (int k = 0; k < s->groups; k++) p.said += choice[k] != 0;
    } else if (!s->status)
        s->status = status;
    else
        mth_error_free(status);
    restore(s, values);
    mth__arena_free(g->arena);
    g->arena = own;
    s->effort -= (int64_t)s->nodes;
    return p;
}

static price evaluate(search_pass *s, const uint8_t *choice) {
    uint64_t h = 0;
    for (int k = 0; k < s->groups; k++) h = mth__mix(h, choice[k]);
    for (known *k = s->table[h % KNOWN]; k; k = k->next)
        if (k->hash == h && !memcmp(k->choice, choice, (size_t)s->groups)) return k->price;
    if (s->effort <= 0) return (price){INFINITY, INFINITY, 0};
    known *k = NEW(s->arena, known);
    *k = (known){h, NEW_ARRAY(s->arena, uint8_t, s->groups), plan(s, choice), s->table[h % KNOWN]};
    memcpy(k->choice, choice, (size_t)s->groups);
    s->table[h % KNOWN] = k;
    return k->price;
}

static bool better(price a, price b) {
    if (!isfinite(a.seconds)) return false;
    if (!isfinite(b.seconds)) return true;
    double apart = EQUAL * (a.seconds + b.seconds);
    if (a.seconds < b.seconds - apart || a.seconds > b.seconds + apart) return a.seconds < b.seconds;
    if (a.bytes < b.bytes * (1 - EQUAL) || a.bytes > b.bytes * (1 + EQUAL)) return a.bytes < b.bytes;
    return a.said < b.said;
}

/* ---------------------------------------------------------------- descent */
/* Tries all candidates of group k; `first`: its PAIRED best, in order. */
static bool move(search_pass *s, uint8_t *choice, int k, price *best, uint8_t *first) {
    uint8_t had = choice[k], take = had;
    price of[PAIRED];
    int n = 0;
    for (int c = 0; c < s->group[k].candidates; c++) {
        choice[k] = (uint8_t)c;
        price p = evaluate(s, choice);
        if (better(p, *best)) *best = p, take = (uint8_t)c;
        int at = n;
        while (at > 0 && better(p, of[at - 1])) at--;
        if (at == PAIRED) continue;
        n += n < PAIRED;
        for (int i = n - 1; i > at; i--) of[i] = of[i - 1], first[i] = first[i - 1];
        of[at] = p;
        first[at] = (uint8_t)c;
    }
    choice[k] = take;
    return take != had;
}

static bool move_pair(
    search_pass *s, uint8_t *choice, int k, int j, price *best, const uint8_t *first_k, const uint8_t *first_j) {
    uint8_t had[] = {choice[k], choice[j]}, take[] = {choice[k], choice[j]};
    for (int x = 0; x < PAIRED && x < s->group[k].candidates; x++)
        for (int y = 0; y < PAIRED && y < s->group[j].candidates; y++) {
            choice[k] = first_k[x];
            choice[j] = first_j[y];
            price p = evaluate(s, choice);
            if (better(p, *best)) *best = p, take[0] = first_k[x], take[1] = first_j[y];
        }
    choice[k] = take[0];
    choice[j] = take[1];
    return take[0] != had[0] || take[1] != had[1];
}

static bool move_pairs(search_pass *s, uint8_t *choice, price *best, uint8_t (*first)[PAIRED]) {
    bool better_pair = false;
    for (int apart = 1; apart <= REACH; apart++)
        for (int k = 0; k + apart < s->groups && s->effort > 0; k++)
            better_pair |= move_pair(s, choice, k, k + apart, best, first[k], first[k + apart]);
    return better_pair;
}

static price descend(search_pass *s, uint8_t *choice) {
    price best = evaluate(s, choice);
    uint8_t(*first)[PAIRED] = mth__alloc_array(s->arena, (size_t)s->groups, sizeof *first);
    bool better_pair = true;
    while (better_pair && s->effort > 0) {
        bool changed = true;
        for (int round = 0; changed && round < ROUNDS; round++) {
            changed = false;
            for (int i = 0; i < s->groups; i++) changed |= move(s, choice, s->order[i], &best, first[s->order[i]]);
        }
        better_pair = move_pairs(s, choice, &best, first);
    }
    return best;
}

static double size_of(const mth__group *g) { return g->parameters ? g->weight * (double)mth__shape_size(g->shape) : 0; }
static void find_order(search_pass *s) {
    s->order = NEW_ARRAY(s->arena, int, s->groups);
    for (int k = 0; k < s->groups; k++) {
        int at = k;
        for (; at > 0 && size_of(&s->group[s->order[at - 1]]) < size_of(&s->group[k]); at--)
            s->order[at] = s->order[at - 1];
        s->order[at] = k;
    }
}

/* From propagation's own layout, then from each sharing of the batch. */
static void search(search_pass *s, uint8_t *least) {
    uint8_t *choice = NEW_ARRAY(s->arena, uint8_t, s->groups);
    int starts = s->batch ? s->group[0].candidates : 1;
    int64_t left = s->effort;
    price best = {INFINITY, INFINITY, 0};
    for (int start = 0; start < starts; start++) {
        memset(choice, 0, (size_t)s->groups);
        if (s->batch) choice[0] = (uint8_t)start;
        s->effort = left / (starts - start);
        left -= s->effort;
        price p = descend(s, choice);
        left += s->effort;
        if (!better(p, best)) continue;
        best = p;
        memcpy(least, choice, (size_t)s->groups);
    }
}

/* What propagation made of groups that were left to it is said, where that changes nothing: the layout then hangs on no
 * plan. */
static void settle(search_pass *s, uint8_t *choice) {
    price best = plan(s, choice);
    for (int k = s->batch; k < s->groups && isfinite(best.seconds); k++) {
        const mth__group *x = &s->group[k];
        if (choice[k] || !x->alike) continue;
        for (int c = 1; c < x->candidates && !choice[k]; c++) {
            mth__sharding would = on(&x->candidate[c], x->found.on, x->shape);
            if (mth__sharding_equal(&would, &x->found, x->shape.rank)) choice[k] = (uint8_t)c;
        }
        price p = plan(s, choice);
        if (p.seconds <= best.seconds * (1 + EQUAL)) continue;
        choice[k] = 0;
        plan(s, choice);
    }
}

/* ---------------------------------------------------------------- the decision */
static void decide(const search_pass *s, mth__graph *g, const uint8_t *choice) {
    for (size_t i = 0; s->batch && i < g->input.n; i++)
        g->input.at[i]->offer = offer_of(s, g, choice[0], g->input.at[i]);
    mth__role_walk walk = {0};
    for (size_t i = 0; i < g->parameter.n; i++) {
        mth__value *v = g->parameter.at[i];
        if (!mth__searched(v)) continue;
        uint64_t role = mth__group_role(&walk, v);
        int k = s->batch;
        while (k < s->groups && s->group[k].role != role) k++;
        if (k == s->groups || !choice[k]) continue;
        v->sharding = on(&s->group[k].candidate[choice[k]], v->sharding.on, v->shape);
        v->pinned = true;
        v->origin = "auto_sharding";
    }
}

mth_status mth__search(
    mth__graph *g, mth__graph *trial, const mth__folding *folding, const mth__distribute_options *o) {
    search_pass s = {.graph = trial, .folding = folding, .options = *o, .arena = mth__arena_new(), .effort = EFFORT};
    s.options.store_sharded = false;
    s.groups = mth__groups(s.arena, trial, folding, o, &s.group, &s.batch);
    if (s.groups) {
        uint8_t *choice = NEW_ARRAY(s.arena, uint8_t, s.groups);
        remember(&s);
        find_order(&s);
        search(&s, choice);
        settle(&s, choice);
        if (!s.status) decide(&s, g, choice);
    }
    mth__arena_free(s.arena);
    return s.status;
}
