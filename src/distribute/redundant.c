/* communication_optimization: what need not travel. Reshard looks at one value at a time; but a value may be a view of
 * another (a slice, a transposed tensor), and that other one may be where this one is going: made there for its own
 * consumers, or because it came from there (from placement A to B and back). The view is then taken there, where that
 * costs less than the transfer. And where a value on A has one gradient from A and one from B, the two are added on A:
 * on B, the first would have to travel there, and the sum back. */
#include "distribute/choice.h"
#include <math.h>
#include <string.h>

enum { DEPTH = 4 };
typedef struct value_version {
    mth__value *value;
    struct value_version *next;
} value_version;
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    mth__node **back;                   /* by node: of a sum on B, what moves it to A; of that, the sum */
    BY_VALUE(mth__value *) root;        /* what communication brought, as its maker made it */
    BY_VALUE(value_version *) versions; /* of a root: it, and all that communication has made of it so far */
    BY_VALUE(value_version *) reshaped; /* of a root: results of reshapes of it */
    mth__phase phase;                   /* of the transfer at hand */
    mth__rewrite rewrite;
} redundant_pass;

static mth__value *root_of(redundant_pass *pass, const mth__value *value) {
    return *AT_VALUE(pass->arena, pass->root, value);
}

static bool is_view(const mth__node *node) { return node && (node->op->flags & MTH__VIEW); }

/* What one side of the view must be so that the other is laid out as `to`. `back`: its result, for its operand. */
static bool other_side(const mth__node *view, bool back, const mth__sharding *to, mth__sharding *need) {
    mth__proposal source[MTH__SOURCES];
    mth__rule rule;
    mth__assignment assignment;
    int sources = 0;
    memset(&assignment, 0, sizeof assignment);
    mth__op_rule(view, &rule);
    const mth__value *at = back ? view->in[0] : view->out[0], *other = back ? view->out[0] : view->in[0];
    const int8_t *of = back ? rule.in[0] : rule.out[0], *other_of = back ? rule.out[0] : rule.in[0];
    const int32_t *unit = back ? rule.in_unit[0] : rule.out_unit[0],
                  *other_unit = back ? rule.out_unit[0] : rule.in_unit[0];
    mth__propose(&rule, of, unit, to, at, source, &sources);
    for (int i = 0; i < sources; i++) assignment.of[source[i].factor] = source[i].split;
    *need = mth__assigned(&rule, other_of, other_unit, &assignment, other->shape, to->on);
    mth__sharding result = mth__assigned(&rule, of, unit, &assignment, at->shape, to->on);
    return mth__sharding_equal(&result, to, at->shape.rank);
}

static mth__value *at_hand(redundant_pass *pass, const mth__value *root, const mth__sharding *to) {
    for (value_version *moved = *AT_VALUE(pass->arena, pass->versions, root); moved; moved = moved->next)
        if (!moved->value->sharding.partial &&
            (moved->value == root ||
                mth__version_lasts(root, &moved->value->sharding, moved->value->node->label.phase, pass->phase)) &&
            mth__cost_reshard(root, &moved->value->sharding, to) == 0)
            return moved->value;
    return NULL;
}

/* A reshaped value that is at hand, of which this one is a view as well; NULL: none. */
static mth__value *reshaped(
    redundant_pass *pass, const mth__value *root, const mth__sharding *to, mth__sharding *need) {
    for (value_version *moved = *AT_VALUE(pass->arena, pass->reshaped, root); moved; moved = moved->next) {
        mth__value *from = other_side(moved->value->node, true, to, need) ? at_hand(pass, moved->value, need) : NULL;
        if (from && from->sharding.on == need->on && mth__sharding_equal(&from->sharding, need, from->shape.rank))
            return from;
    }
    return NULL;
}

static double view_cost(const mth__node *view, const mth__sharding *need, const mth__sharding *to) {
    mth__shape in = mth__local_shape(view->in[0]->shape, need, 0, NULL, NULL);
    mth__shape out = mth__local_shape(view->out[0]->shape, to, 0, NULL, NULL);
    return mth__cost_compute(view->on->mesh->model, view, &in, &out);
}

/* Seconds to make the value there from what is there; infinite where that can't be. */
static double price(redundant_pass *pass, const mth__value *value, const mth__sharding *to, int depth) {
    const mth__value *root = root_of(pass, value);
    mth__sharding need;
    if (root->read_as) return INFINITY; /* gathered anew with a purpose */
    if (at_hand(pass, root, to) || reshaped(pass, root, to, &need)) return 0;
    if (depth == DEPTH || !is_view(root->node) || !other_side(root->node, false, to, &need)) return INFINITY;
    double below = price(pass, root->node->in[0], &need, depth + 1);
    return below == INFINITY ? below : below + view_cost(root->node, &need, to);
}

static void know(redundant_pass *pass, mth__value *value, mth__value *root) {
    value_version *made = NEW(pass->arena, value_version), **list = AT_VALUE(pass->arena, pass->versions, root);
    *made = (value_version){value, *list};
    *list = made;
    *AT_VALUE(pass->arena, pass->root, value) = root;
}

static mth_status make(
    redundant_pass *pass, const mth__node *like, mth__value *value, const mth__sharding *to, mth__value **out) {
    mth__value *root = root_of(pass, value), *from = at_hand(pass, root, to);
    bool moved = from && (from->sharding.on != to->on || !mth__sharding_equal(&from->sharding, to, root->shape.rank));
    if (from && !moved) return *out = from, NULL;
    mth__sharding need;
    if (moved)
        TRY(mth__node_like(pass->graph, like, MTH__ROW_keep, NULL, 1, &from, &from->sharding, to, out));
    else if ((from = reshaped(pass, root, to, &need))) {
        mth__attrs attrs = mth__attrs_of_shape(root->shape);
        TRY(mth__node_like(pass->graph, like, MTH__ROW_reshape, &attrs, 1, &from, &need, to, out));
    } else {
        const mth__node *view = root->node;
        other_side(view, false, to, &need);
        TRY(make(pass, like, view->in[0], &need, &from));
        TRY(mth__node_like(pass->graph, like, view->op->row, &view->attrs, 1, &from, &need, to, out));
    }
    (*out)->origin = root->origin;
    know(pass, *out, root);
    return NULL;
}

/* ---------------------------------------------------------------- sums */

/* Which operand of a sum on B came from the placement to which `home` moves the sum: the other one can be moved there
 * instead. -1: none. */
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
    const mth__value *value = sum->out[0];
    if (!mth__makes_gradients(sum->label.phase) || sum->op->row != MTH__ROW_add || uses[value->id] != 1 ||
        home->out[0]->sharding.partial)
        return false;
    for (int j = 0; j < 2; j++) {
        const mth__value *term = sum->in[j];
        if (!mth__shape_equal(term->shape, value->shape) ||
            !mth__sharding_equal(&term->sharding, &value->sharding, value->shape.rank))
            return false;
    }
    int came = came_from(sum, home);
    return came >= 0 && uses[sum->in[came]->id] == 1;
}

static void find_sums(redundant_pass *pass) {
    const mth__graph *graph = pass->graph;
    const int *uses = mth__graph_uses(pass->arena, graph);
    pass->back = NEW_ARRAY(pass->arena, mth__node *, graph->node.n);
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *home = graph->node.at[i], *sum = home->nin ? home->in[0]->node : NULL;
        if (!mth__communicates(home) || !sum || !goes_home(sum, home, uses)) continue;
        pass->back[sum->id] = home;
        pass->back[home->id] = sum;
    }
}

/* The sum, made where it is wanted, takes the place of the node that would have moved it there. */
static mth_status add_at_home(redundant_pass *pass, mth__node *sum, mth__node *home) {
    mth__sharding to = home->out[0]->sharding;
    int stays = came_from(sum, home);
    if (stays < 0) return pass->back[home->id] = NULL, NULL; /* the transfer of that term has been taken out since */
    mth__value *other = sum->in[1 - stays], *moved;
    TRY(mth__node_like(pass->graph, home, home->op->row, &home->attrs, 1, &other, &other->sharding, &to, &moved));
    sum->in[stays] = sum->in[stays]->node->in[0];
    sum->in[1 - stays] = moved;
    sum->on = to.on;
    sum->need[0] = sum->need[1] = sum->out[0]->sharding = to;
    mth__rewrite_replace(&pass->rewrite, home->out[0], sum->out[0]);
    know(pass, moved, root_of(pass, other));
    return NULL;
}

/* ---------------------------------------------------------------- the pass */
static mth_status drop_redundant(redundant_pass *pass) {
    mth__graph *graph = pass->graph;
    find_sums(pass);
    for (size_t i = 0; i < mth__graph_sources(graph); i++)
        know(pass, mth__graph_source(graph, i), mth__graph_source(graph, i));
    pass->rewrite = mth__rewrite_begin(pass->arena, graph);
    for (size_t i = 0; i < pass->rewrite.nodes; i++) {
        mth__node *node = pass->rewrite.old[i], *partner = pass->back[i];
        mth__rewrite_operands(&pass->rewrite, node);
        if (partner && mth__communicates(node)) continue; /* its sum is there */
        if (partner) TRY(add_at_home(pass, node, partner));
        mth__value *operand = node->nin ? node->in[0] : NULL, *there;
        const mth__sharding *to = &node->out[0]->sharding;
        pass->phase = node->label.phase;
        bool whole = mth__communicates(node) && !operand->sharding.partial && !to->partial;
        if (whole && price(pass, operand, to, 0) < mth__cost_reshard(operand, &operand->sharding, to)) {
            TRY(make(pass, node, operand, to, &there));
            mth__rewrite_replace(&pass->rewrite, node->out[0], there);
            continue;
        }
        mth__rewrite_push(&pass->rewrite, node);
        for (int k = 0; k < node->nout; k++)
            know(pass, node->out[k], mth__is_comm(node) ? root_of(pass, operand) : node->out[k]);
        if (node->op->row != MTH__ROW_reshape) continue;
        value_version *view = NEW(pass->arena, value_version),
                      **list = AT_VALUE(pass->arena, pass->reshaped, root_of(pass, operand));
        *view = (value_version){node->out[0], *list};
        *list = view;
    }
    mth__rewrite_end(&pass->rewrite);
    mth__prune(graph); /* what only made a value to send */
    return NULL;
}

mth_status mth__drop_redundant(mth__graph *graph) {
    mth__arena *arena = mth__arena_new();
    redundant_pass pass = {.graph = graph, .arena = arena};
    mth_status status = drop_redundant(&pass);
    mth__arena_free(arena);
    return status;
}
