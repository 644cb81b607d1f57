/* communication_optimization: what need not travel. Reshard looks at one value at a time; but a value may be a view of
 * another (a slice, a transposed tensor), and that other one may be where this one is going: made there for its own
 * consumers, or because it came from
 * there (A to B and back). The view is then taken there, where that costs less than the transfer. And the gradients of
 * a value on A, of which one comes from A and one from B, are not added on B, to where the first would travel and from
 * where the sum would come back. */
#include "distribute/choice.h"
#include <math.h>
#include <string.h>

enum { DEPTH = 4 };
typedef struct version {
    mth__value *value;
    struct version *next;
} version;
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    mth__node **back;   /* by node: of a sum on B, what moves it to A; of that, the sum */
    mth__value **root;  /* by value id: what communication brought, as its maker made it */
    version **versions; /* by root's id: it, and all that communication has made of it so far */
    version **reshaped; /* by root's id: results of reshapes of it */
    int values;
    mth__phase phase; /* of the transfer at hand */
} state;

static mth__value *now(mth__value *v) {
    while (v->scratch) v = v->scratch;
    return v;
}

static bool is_view(const mth__node *node) { return node && (node->op->flags & MTH__VIEW); }

/* What one side of the view must be so that the other is laid out as `to`. `back`: its result, for its operand. */
static bool other_side(const mth__node *view, bool back, const mth__sharding *to, mth__sharding *need) {
    mth__proposal source[MTH__SOURCES];
    mth__rule rule;
    mth__assignment a;
    int sources = 0;
    memset(&a, 0, sizeof a);
    mth__op_rule(view, &rule);
    const mth__value *at = back ? view->in[0] : view->out[0], *other = back ? view->out[0] : view->in[0];
    const int8_t *of = back ? rule.in[0] : rule.out[0], *other_of = back ? rule.out[0] : rule.in[0];
    const int32_t *unit = back ? rule.in_unit[0] : rule.out_unit[0],
                  *other_unit = back ? rule.out_unit[0] : rule.in_unit[0];
    mth__propose(&rule, of, unit, to, at, source, &sources);
    for (int i = 0; i < sources; i++) a.of[source[i].factor] = source[i].split;
    *need = mth__assigned(&rule, other_of, other_unit, &a, other->shape, to->on);
    mth__sharding result = mth__assigned(&rule, of, unit, &a, at->shape, to->on);
    return mth__sharding_equal(&result, to, at->shape.rank);
}

static mth__value *at_hand(const state *s, const mth__value *root, const mth__sharding *to) {
    for (version *k = s->versions[root->id]; k; k = k->next)
        if (!k->value->sharding.partial &&
            (k->value == root || mth__kept(root, &k->value->sharding, k->value->node->label.phase, s->phase)) &&
            mth__cost_reshard(root, &k->value->sharding, to) == 0)
            return k->value;
    return NULL;
}

/* A reshaped one is at hand, from which this one is a view as well. */
static mth__value *reshaped(const state *s, const mth__value *root, const mth__sharding *to, mth__sharding *need) {
    for (version *k = s->reshaped[root->id]; k; k = k->next) {
        mth__value *from = other_side(k->value->node, true, to, need) ? at_hand(s, k->value, need) : NULL;
        if (from && from->sharding.on == need->on && mth__sharding_equal(&from->sharding, need, from->shape.rank))
            return from;
    }
    return NULL;
}

static double view_cost(const mth__node *view, const mth__sharding *need, const mth__sharding *to) {
    mth__shape in = mth__local_shape(view->in[0]->shape, need, 0, NULL, NULL);
    mth__shape out = mth__local_shape(view->out[0]->shape, to, 0, NULL, NULL);
    return mth__cost_compute(view, &in, &out);
}

/* Seconds to make v there from what is there; infinite where that can't be. */
static double price(const state *s, const mth__value *v, const mth__sharding *to, int depth) {
    const mth__value *root = s->root[v->id];
    mth__sharding need;
    if (root->read) return INFINITY; /* gathered anew with a purpose */
    if (at_hand(s, root, to) || reshaped(s, root, to, &need)) return 0;
    if (depth == DEPTH || !is_view(root->node) || !other_side(root->node, false, to, &need)) return INFINITY;
    double below = price(s, root->node->in[0], &need, depth + 1);
    return below == INFINITY ? below : below + view_cost(root->node, &need, to);
}

static void know(state *s, mth__value *v, mth__value *root) {
    version *k = NEW(s->arena, version);
    s->root[v->id] = root;
    *k = (version){v, s->versions[root->id]};
    s->versions[root->id] = k;
}

/* Room for values made meanwhile. */
static void grow(state *s) {
    int have = s->values, n = s->graph->values;
    if (n <= have) return;
    mth__value **root = NEW_ARRAY(s->arena, mth__value *, 2 * n);
    version **versions = NEW_ARRAY(s->arena, version *, 2 * n), **other = NEW_ARRAY(s->arena, version *, 2 * n);
    if (have) {
        memcpy(other, s->reshaped, sizeof *other * (size_t)have);
        memcpy(root, s->root, sizeof *root * (size_t)have);
        memcpy(versions, s->versions, sizeof *versions * (size_t)have);
    }
    s->root = root;
    s->versions = versions;
    s->reshaped = other;
    s->values = 2 * n;
}

static mth_status make(state *s, const mth__node *like, mth__value *v, const mth__sharding *to, mth__value **out) {
    mth__value *root = s->root[v->id], *from = at_hand(s, root, to);
    bool moved = from && (from->sharding.on != to->on || !mth__sharding_equal(&from->sharding, to, root->shape.rank));
    if (from && !moved) return *out = from, NULL;
    mth__sharding need;
    if (moved)
        TRY(mth__node_like(s->graph, like, MTH__ROW_keep, NULL, 1, &from, &from->sharding, to, out));
    else if ((from = reshaped(s, root, to, &need))) {
        mth__attrs a = mth__attrs_of_shape(root->shape);
        TRY(mth__node_like(s->graph, like, MTH__ROW_reshape, &a, 1, &from, &need, to, out));
    } else {
        const mth__node *view = root->node;
        other_side(view, false, to, &need);
        TRY(make(s, like, view->in[0], &need, &from));
        TRY(mth__node_like(
            s->graph, like, (enum mth__row)mth__op_index(view->op), &view->attrs, 1, &from, &need, to, out));
    }
    (*out)->origin = root->origin;
    grow(s);
    know(s, *out, root);
    return NULL;
}

/* ---------------------------------------------------------------- sums */

/* The operand of a sum on B that came from where `home` moves the sum: the other one can go instead. -1: none. */
static int came_from(const mth__node *sum, const mth__node *home) {
    for (int j = 0; j < 2; j++) {
        const mth__node *came = sum->in[j]->node;
        if (came && mth__communicates(came) &&
            mth__sharding_equal(&came->in[0]->sharding, &home->out[0]->sharding, sum->out[0]->shape.rank))
            return j;
    }
    return -1;
}

/* `uses`: by value id. Nobody else reads the sum or what came for it. */
static bool goes_home(const mth__node *sum, const mth__node *home, const int *uses) {
    const mth__value *v = sum->out[0];
    if (!mth__makes_gradients(sum->label.phase) || sum->op != mth__row_op(MTH__ROW_add) || uses[v->id] != 1 ||
        home->out[0]->sharding.partial)
        return false;
    for (int j = 0; j < 2; j++) {
        const mth__value *term = sum->in[j];
        if (!mth__shape_equal(term->shape, v->shape) ||
            !mth__sharding_equal(&term->sharding, &v->sharding, v->shape.rank))
            return false;
    }
    int came = came_from(sum, home);
    return came >= 0 && uses[sum->in[came]->id] == 1;
}

static void find_sums(state *s) {
    const mth__graph *g = s->graph;
    int *uses = NEW_ARRAY(s->arena, int, g->values);
    s->back = NEW_ARRAY(s->arena, mth__node *, g->node.n);
    for (size_t i = 0; i < g->node.n; i++)
        for (int j = 0; j < g->node.at[i]->nin; j++) uses[g->node.at[i]->in[j]->id]++;
    for (size_t i = 0; i < g->output.n; i++) uses[g->output.at[i].value->id]++;
    for (size_t i = 0; i < g->node.n; i++) {
        mth__node *home = g->node.at[i], *sum = home->nin ? home->in[0]->node : NULL;
        if (!mth__communicates(home) || !sum || !goes_home(sum, home, uses)) continue;
        s->back[sum->id] = home;
        s->back[home->id] = sum;
    }
}

/* The sum takes the place of what would have moved it. */
static mth_status add_at_home(state *s, mth__node *sum, mth__node *home) {
    mth__sharding to = home->out[0]->sharding;
    int stays = came_from(sum, home);
    if (stays < 0) return s->back[home->id] = NULL, NULL; /* what had come need not have */
    mth__value *other = sum->in[1 - stays], *moved;
    TRY(mth__node_like(s->graph, home, (enum mth__row)mth__op_index(home->op), &home->attrs, 1, &other,
        &other->sharding, &to, &moved));
    sum->in[stays] = sum->in[stays]->node->in[0];
    sum->in[1 - stays] = moved;
    sum->on = to.on;
    sum->need[0] = sum->need[1] = sum->out[0]->sharding = to;
    home->out[0]->scratch = sum->out[0];
    grow(s);
    know(s, moved, s->root[other->id]);
    return NULL;
}

/* ---------------------------------------------------------------- the pass */
static mth_status run(state *s) {
    mth__graph *g = s->graph;
    mth__node **old = g->node.at;
    size_t n = g->node.n;
    grow(s);
    find_sums(s);
    const struct {
        mth__value **at;
        size_t n;
    } sources[] = {{g->input.at, g->input.n}, {g->parameter.at, g->parameter.n}, {g->seed.at, g->seed.n}};
    for (size_t k = 0; k < sizeof sources / sizeof *sources; k++)
        for (size_t i = 0; i < sources[k].n; i++) know(s, sources[k].at[i], sources[k].at[i]);
    g->node.at = NULL;
    g->node.n = g->node.room = 0;
    for (size_t i = 0; i < n; i++) {
        mth__node *x = old[i];
        for (int j = 0; j < x->nin; j++) x->in[j] = now(x->in[j]);
        mth__node *partner = s->back[x->id];
        if (partner && mth__communicates(x)) continue; /* its sum is there */
        if (partner) TRY(add_at_home(s, x, partner));
        mth__value *v = x->nin ? x->in[0] : NULL, *there;
        const mth__sharding *to = &x->out[0]->sharding;
        s->phase = x->label.phase;
        bool whole = mth__communicates(x) && !v->sharding.partial && !to->partial;
        if (whole && price(s, v, to, 0) < mth__cost_reshard(v, &v->sharding, to)) {
            TRY(make(s, x, v, to, &there));
            x->out[0]->scratch = there;
            continue;
        }
        PUSH(g->arena, g->node, x);
        for (int k = 0; k < x->nout; k++) know(s, x->out[k], mth__is_comm(x) ? s->root[x->in[0]->id] : x->out[k]);
        if (x->op != mth__row_op(MTH__ROW_reshape)) continue;
        version *k = NEW(s->arena, version), **list = &s->reshaped[s->root[x->in[0]->id]->id];
        *k = (version){x->out[0], *list};
        *list = k;
    }
    for (size_t i = 0; i < g->output.n; i++) g->output.at[i].value = now(g->output.at[i].value);
    mth__prune(g); /* what only made a value to send */
    return NULL;
}

mth_status mth__drop_redundant(mth__graph *g) {
    state s = {.graph = g, .arena = mth__arena_new()};
    mth_status status = run(&s);
    mth__arena_free(s.arena);
    return status;
}
