/* auto_sharding: layouts for the parameters that nobody placed, and axes that share the batch, such that a step takes
 * the least time by the cost model; of equal times the one with less memory. A trial is no estimate: shard and reshard
 * plan the model with the layouts at hand, and what comes out is summed. Coordinate descent from several starts: one
 * group of parameters after the other, then pairs of neighbours, whose gain shows only together (columns before rows),
 * until nothing gets better or the trials are used up. The step goes forward and backward, whatever is planned first:
 * layouts outlive the plan that they are found for. */
#include "base/table.h"
#include "distribute/fold.h"
#include <math.h>
#include <string.h>

/* PAIRED candidates of each of two groups, which are at most REACH apart, are tried together. All groups are swept
 * ROUNDS times at most. */
enum { PAIRED = 4, REACH = 2, ROUNDS = 4 };
static const int64_t EFFORT = 60000; /* nodes planned in all trials together */
static const double EQUAL = 1e-9;    /* relative: costs that differ by less do not */

typedef struct {
    double seconds, bytes;
    int changes; /* choices that are not 0 */
} price;
typedef struct {
    uint8_t *choice;
    price price;
} tried;
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
    VEC(tried) tried; /* choices whose plan has a price, by number in `table` */
    mth__table table;
    int64_t effort;
    mth_status status; /* of the first trial that failed */
} search_pass;

/* ---------------------------------------------------------------- a trial */
static void remember(search_pass *pass) {
    mth__graph *graph = pass->graph;
    pass->nodes = graph->node.n;
    pass->node = NEW_ARRAY(pass->arena, mth__node *, pass->nodes);
    pass->in = NEW_ARRAY(pass->arena, mth__value **, pass->nodes);
    if (pass->nodes) memcpy(pass->node, graph->node.at, sizeof *pass->node * pass->nodes);
    for (size_t i = 0; i < pass->nodes; i++) {
        pass->in[i] = NEW_ARRAY(pass->arena, mth__value *, pass->node[i]->nin);
        if (pass->node[i]->nin) memcpy(pass->in[i], pass->node[i]->in, sizeof **pass->in * (size_t)pass->node[i]->nin);
    }
    pass->output = NEW_ARRAY(pass->arena, mth__value *, graph->output.n);
    for (size_t i = 0; i < graph->output.n; i++) pass->output[i] = graph->output.at[i].value;
    pass->parameter = NEW_ARRAY(pass->arena, mth__sharding, graph->parameter.n);
    for (size_t i = 0; i < graph->parameter.n; i++) pass->parameter[i] = graph->parameter.at[i]->sharding;
    pass->seed = NEW_ARRAY(pass->arena, mth__sharding, graph->seed.n);
    for (size_t i = 0; i < graph->seed.n; i++) pass->seed[i] = graph->seed.at[i]->sharding;
}

static void restore(search_pass *pass, int values) {
    mth__graph *graph = pass->graph;
    graph->values = values;
    graph->node.at = pass->node;
    graph->node.n = pass->nodes;
    graph->node.room = 0; /* a list that is not the graph's to grow */
    for (size_t i = 0; i < pass->nodes; i++)
        for (int j = 0; j < pass->node[i]->nin; j++) pass->node[i]->in[j] = pass->in[i][j];
    mth__graph_number(graph);
    for (size_t i = 0; i < graph->output.n; i++) graph->output.at[i].value = pass->output[i];
    for (size_t i = 0; i < graph->parameter.n; i++) graph->parameter.at[i]->sharding = pass->parameter[i];
    for (size_t i = 0; i < graph->seed.n; i++) graph->seed.at[i]->sharding = pass->seed[i];
}

static mth__sharding on(const mth__sharding *sharding, const mth__placement *place, mth__shape shape) {
    mth__sharding moved = *sharding;
    moved.on = place;
    mth__sharding_canonical(&moved, shape);
    return moved;
}

/* How one choice of the batch proposes to split an input; NULL: it is read whole. */
static const mth__sharding *proposed_for(
    const search_pass *pass, const mth__graph *graph, int choice, const mth__value *value) {
    const mth__group *batch = &pass->group[0];
    for (size_t i = 0; i < pass->options.specs; i++)
        if (!strcmp(pass->options.spec[i].name, value->name)) return NULL;
    if (!choice || !value->shape.rank || value->shape.dim[0] != batch->shape.dim[0]) return NULL;
    mth__sharding split = on(&batch->candidate[choice], graph->mesh->whole, value->shape);
    if (value->sharding.on != split.on) split = mth__sharding_carry(&split, value->shape, value->sharding.on);
    if (!mth__sharding_axes(&split, value->shape.rank)) return NULL;
    mth__sharding *lasting = NEW(graph->arena, mth__sharding);
    *lasting = split;
    return lasting;
}

static void apply(search_pass *pass, const uint8_t *choice) {
    mth__graph *graph = pass->graph;
    for (size_t i = 0; pass->batch && i < graph->input.n; i++)
        graph->input.at[i]->proposed = proposed_for(pass, graph, choice[0], graph->input.at[i]);
    for (int k = pass->batch; k < pass->groups; k++)
        for (int i = 0; i < pass->group[k].parameters; i++) {
            mth__value *value = pass->group[k].parameter[i];
            value->pinned = choice[k] != 0;
            if (value->pinned)
                value->sharding = on(&pass->group[k].candidate[choice[k]], value->sharding.on, value->shape);
        }
}

static bool allowed(const search_pass *pass, const mth__value *value) {
    int split = 0;
    for (int d = 0; d < value->shape.rank; d++) split += value->sharding.dim[d].naxes > 0;
    return !pass->options.partition_dims || split <= pass->options.partition_dims;
}

static price sum(const search_pass *pass) {
    const mth__graph *graph = pass->graph;
    price cost = {0, 0, 0};
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        cost.seconds += mth__cost_node(node) * mth__folded_weight(pass->folding, node->label.module);
    }
    for (int k = pass->batch; k < pass->groups; k++) {
        mth__group *group = &pass->group[k];
        group->found = group->parameter[0]->sharding;
        group->alike = true;
        for (int i = 0; i < group->parameters; i++) {
            const mth__value *value = group->parameter[i];
            group->alike &= mth__sharding_equal(&value->sharding, &group->found, value->shape.rank);
            cost.bytes += (double)mth__local_size(value->shape, &value->sharding) *
                (double)mth_dtype_size(value->dtype) * group->weight / group->parameters;
            if (!allowed(pass, value)) cost.seconds = INFINITY;
        }
    }
    return cost;
}

static price plan(search_pass *pass, const uint8_t *choice) {
    mth__graph *graph = pass->graph;
    mth__arena *own = graph->arena;
    int values = graph->values;
    price cost = {INFINITY, INFINITY, 0};
    graph->arena = mth__arena_new(); /* what a trial makes goes with it */
    restore(pass, values);
    apply(pass, choice);
    for (size_t i = 0; i < graph->parameter.n; i++) graph->parameter.at[i]->origin = (mth__origin){0};
    mth_status status = mth__distribute(graph, &pass->options, MTH__PASS_SHARD, MTH__PASS_RESHARD);
    if (!status) {
        cost = sum(pass);
        for (int k = 0; k < pass->groups; k++) cost.changes += choice[k] != 0;
    } else if (!pass->status)
        pass->status = status;
    else
        mth_error_free(status);
    restore(pass, values);
    mth__arena_free(graph->arena);
    graph->arena = own;
    pass->effort -= (int64_t)pass->nodes;
    return cost;
}

typedef struct {
    const search_pass *pass;
    const uint8_t *choice;
} choice_key;
static bool is_choice(const void *key, int number) {
    const choice_key *sought = key;
    return !memcmp(sought->pass->tried.at[number].choice, sought->choice, (size_t)sought->pass->groups);
}

static price evaluate(search_pass *pass, const uint8_t *choice) {
    const uint64_t hash = mth__hash_text((const char *)choice, (size_t)pass->groups);
    const choice_key key = {pass, choice};
    const int known = mth__table_find(&pass->table, hash, is_choice, &key);
    if (known >= 0) return pass->tried.at[known].price;
    if (pass->effort <= 0) return (price){INFINITY, INFINITY, 0};
    tried made = {NEW_ARRAY(pass->arena, uint8_t, pass->groups), plan(pass, choice)};
    memcpy(made.choice, choice, (size_t)pass->groups);
    mth__table_add(pass->arena, &pass->table, hash, is_choice, &key, (int)pass->tried.n);
    PUSH(pass->arena, pass->tried, made);
    return made.price;
}

static bool better(price a, price b) {
    if (!isfinite(a.seconds)) return false;
    if (!isfinite(b.seconds)) return true;
    double apart = EQUAL * (a.seconds + b.seconds);
    if (a.seconds < b.seconds - apart || a.seconds > b.seconds + apart) return a.seconds < b.seconds;
    if (a.bytes < b.bytes * (1 - EQUAL) || a.bytes > b.bytes * (1 + EQUAL)) return a.bytes < b.bytes;
    return a.changes < b.changes;
}

/* ---------------------------------------------------------------- descent */
/* Tries all candidates of group k; `first`: its PAIRED best, in order. */
static bool move(search_pass *pass, uint8_t *choice, int k, price *best, uint8_t *first) {
    uint8_t had = choice[k], take = had;
    price of[PAIRED];
    int n = 0;
    for (int candidate = 0; candidate < pass->group[k].candidates; candidate++) {
        choice[k] = (uint8_t)candidate;
        price cost = evaluate(pass, choice);
        if (better(cost, *best)) *best = cost, take = (uint8_t)candidate;
        int at = n;
        while (at > 0 && better(cost, of[at - 1])) at--;
        if (at == PAIRED) continue;
        n += n < PAIRED;
        for (int i = n - 1; i > at; i--) of[i] = of[i - 1], first[i] = first[i - 1];
        of[at] = cost;
        first[at] = (uint8_t)candidate;
    }
    choice[k] = take;
    return take != had;
}

static bool move_pair(
    search_pass *pass, uint8_t *choice, int k, int j, price *best, const uint8_t *first_k, const uint8_t *first_j) {
    uint8_t had[] = {choice[k], choice[j]}, take[] = {choice[k], choice[j]};
    for (int x = 0; x < PAIRED && x < pass->group[k].candidates; x++)
        for (int y = 0; y < PAIRED && y < pass->group[j].candidates; y++) {
            choice[k] = first_k[x];
            choice[j] = first_j[y];
            price cost = evaluate(pass, choice);
            if (better(cost, *best)) *best = cost, take[0] = first_k[x], take[1] = first_j[y];
        }
    choice[k] = take[0];
    choice[j] = take[1];
    return take[0] != had[0] || take[1] != had[1];
}

static bool move_pairs(search_pass *pass, uint8_t *choice, price *best, uint8_t (*first)[PAIRED]) {
    bool better_pair = false;
    for (int apart = 1; apart <= REACH; apart++)
        for (int k = 0; k + apart < pass->groups && pass->effort > 0; k++)
            better_pair |= move_pair(pass, choice, k, k + apart, best, first[k], first[k + apart]);
    return better_pair;
}

static price descend(search_pass *pass, uint8_t *choice) {
    price best = evaluate(pass, choice);
    uint8_t(*first)[PAIRED] = mth__alloc_array(pass->arena, (size_t)pass->groups, sizeof *first);
    bool better_pair = true;
    while (better_pair && pass->effort > 0) {
        bool changed = true;
        for (int round = 0; changed && round < ROUNDS; round++) {
            changed = false;
            for (int i = 0; i < pass->groups; i++)
                changed |= move(pass, choice, pass->order[i], &best, first[pass->order[i]]);
        }
        better_pair = move_pairs(pass, choice, &best, first);
    }
    return best;
}

static double size_of(const mth__group *group) {
    return group->parameters ? group->weight * (double)mth__shape_size(group->shape) : 0;
}
static void find_order(search_pass *pass) {
    pass->order = NEW_ARRAY(pass->arena, int, pass->groups);
    for (int k = 0; k < pass->groups; k++) {
        int at = k;
        for (; at > 0 && size_of(&pass->group[pass->order[at - 1]]) < size_of(&pass->group[k]); at--)
            pass->order[at] = pass->order[at - 1];
        pass->order[at] = k;
    }
}

/* From propagation's own layout, then from each sharing of the batch. */
static void search(search_pass *pass, uint8_t *least) {
    uint8_t *choice = NEW_ARRAY(pass->arena, uint8_t, pass->groups);
    int starts = pass->batch ? pass->group[0].candidates : 1;
    int64_t left = pass->effort;
    price best = {INFINITY, INFINITY, 0};
    for (int start = 0; start < starts; start++) {
        memset(choice, 0, (size_t)pass->groups);
        if (pass->batch) choice[0] = (uint8_t)start;
        pass->effort = left / (starts - start);
        left -= pass->effort;
        price cost = descend(pass, choice);
        left += pass->effort;
        if (!better(cost, best)) continue;
        best = cost;
        memcpy(least, choice, (size_t)pass->groups);
    }
}

/* What propagation made of groups that were left to it is said, where that changes nothing: the layout then hangs on no
 * plan. */
static void settle(search_pass *pass, uint8_t *choice) {
    price best = plan(pass, choice);
    for (int k = pass->batch; k < pass->groups && isfinite(best.seconds); k++) {
        const mth__group *group = &pass->group[k];
        if (choice[k] || !group->alike) continue;
        for (int candidate = 1; candidate < group->candidates && !choice[k]; candidate++) {
            mth__sharding would = on(&group->candidate[candidate], group->found.on, group->shape);
            if (mth__sharding_equal(&would, &group->found, group->shape.rank)) choice[k] = (uint8_t)candidate;
        }
        price cost = plan(pass, choice);
        if (cost.seconds <= best.seconds * (1 + EQUAL)) continue;
        choice[k] = 0;
        plan(pass, choice);
    }
}

/* ---------------------------------------------------------------- the decision */
static void decide(const search_pass *pass, mth__graph *graph, const uint8_t *choice) {
    for (size_t i = 0; pass->batch && i < graph->input.n; i++)
        graph->input.at[i]->proposed = proposed_for(pass, graph, choice[0], graph->input.at[i]);
    mth__role_walk walk = {0};
    for (size_t i = 0; i < graph->parameter.n; i++) {
        mth__value *value = graph->parameter.at[i];
        if (!mth__searched(value)) continue;
        uint64_t role = mth__group_role(&walk, value);
        int k = pass->batch;
        while (k < pass->groups && pass->group[k].role != role) k++;
        if (k == pass->groups || !choice[k]) continue;
        value->sharding = on(&pass->group[k].candidate[choice[k]], value->sharding.on, value->shape);
        value->pinned = true;
        value->origin.said = "auto_sharding";
    }
}

mth_status mth__search(
    mth__graph *graph, mth__graph *trial, const mth__folding *folding, const mth__distribute_options *options) {
    search_pass pass = {
        .graph = trial, .folding = folding, .options = *options, .arena = mth__arena_new(), .effort = EFFORT};
    pass.options.store_sharded = false;
    pass.groups = mth__groups(pass.arena, trial, folding, options, &pass.group, &pass.batch);
    if (pass.groups) {
        uint8_t *choice = NEW_ARRAY(pass.arena, uint8_t, pass.groups);
        remember(&pass);
        find_order(&pass);
        search(&pass, choice);
        settle(&pass, choice);
        if (!pass.status) decide(&pass, graph, choice);
    }
    mth__arena_free(pass.arena);
    return pass.status;
}
