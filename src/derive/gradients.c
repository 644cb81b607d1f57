/* Reverse mode on the graph, in one walk from the last node to the first. Each value collects the gradients that its
   consumers send it; when the walk reaches its maker all of them are there, are summed, and go through the maker's row.
   The cost is linear in the nodes. */
#include "derive/derive.h"
#include "base/rewrite.h"
#include "base/names.h"
#include "catalog/rows.h"
#include <stdlib.h>
#include <string.h>

/* One gradient sent to a value. A `piece` is that of a slice of the value: pieces that together tile it are joined by
   one concat, where padding each to the full size and adding them would cost the square of their number (a batch cut
   into microbatches, Split). */
typedef struct contribution {
    mth__value *value;
    const mth__node *from;     /* the node differentiated; NULL: the user's seed */
    struct contribution *next; /* the one sent before */
    int arrival;
    bool piece;
} contribution;

typedef struct {
    mth__graph *graph;
    mth__arena *scratch;
    BY_VALUE(bool) listed; /* leaves the program as a gradient */
    mth__builder builder;
    contribution **sent; /* by value id: the latest */
    bool *wanted;        /* by value id: a gradient can flow from it to something whose gradient is asked for */
    mth__value **total;  /* by value id, of parameters and inputs: the sum */
    /* by value id, of those: the first node that reads it, behind which its gradient is complete */
    int *first;
    int values; /* ids of the forward graph */
    int arrivals;
} gradient_walk;

static void send(gradient_walk *walk, const mth__value *to, mth__value *gradient, const mth__node *from, bool piece) {
    contribution *sent = NEW(walk->scratch, contribution);
    *sent = (contribution){gradient, from, walk->sent[to->id], walk->arrivals++, piece};
    walk->sent[to->id] = sent;
    /* An add sends the gradient of its result on to its operands: it stays the gradient of the result. */
    if (!piece && !gradient->gradient_of) gradient->gradient_of = to;
}

static void stand_at(gradient_walk *walk, const mth__node *node) {
    mth__builder *builder = &walk->builder;
    builder->label = node->label;
    builder->label.phase = MTH__BACKWARD;
    builder->on = node->on;
}

/* ---------------------------------------------------------------- sums */
static bool in_microbatch(const mth__value *value) { return value->node && value->node->label.microbatch >= 0; }
static int microbatch_of(const contribution *term) { return term->from ? term->from->label.microbatch : -1; }
static int by_microbatch(const void *a, const void *b) {
    const contribution *x = a, *y = b;
    int mx = microbatch_of(x), my = microbatch_of(y);
    return mx != my ? (mx > my) - (mx < my) : (x->arrival > y->arrival) - (x->arrival < y->arrival);
}
static int by_start(const void *a, const void *b) {
    int64_t x = ((const contribution *)a)->from->attrs.start, y = ((const contribution *)b)->from->attrs.start;
    return x != y ? (x > y) - (x < y) : by_microbatch(a, b);
}

/* Where all terms are pieces of one dimension that don't overlap, *out becomes their concat, with gaps padded with
 * zeros. Else *out stays NULL. */
static mth_status join(gradient_walk *walk, contribution *term, int n, const mth__value *of, mth__value **out) {
    for (int k = 0; k < n; k++)
        if (!term[k].piece || term[k].from->attrs.dimension != term[0].from->attrs.dimension) return NULL;
    qsort(term, (size_t)n, sizeof *term, by_start);
    for (int k = 1; k < n; k++)
        if (term[k].from->attrs.start < term[k - 1].from->attrs.stop) return NULL;
    int64_t dimension = term[0].from->attrs.dimension, size = of->shape.dim[dimension];
    const mth__node *last = term[0].from; /* of the latest microbatch */
    mth__value **part = NEW_ARRAY(walk->scratch, mth__value *, n);
    for (int k = 0; k < n; k++) {
        int64_t before = k ? 0 : term[0].from->attrs.start, end = k + 1 < n ? term[k + 1].from->attrs.start : size,
                after = end - term[k].from->attrs.stop;
        part[k] = term[k].value;
        if (term[k].from->label.microbatch > last->label.microbatch) last = term[k].from;
        if (!before && !after) continue;
        stand_at(walk, term[k].from);
        TRY(mth__build1(&walk->builder, MTH__ROW_pad,
            &(mth__attrs){.dimension = dimension, .before = before, .after = after}, part[k], &part[k]));
    }
    stand_at(walk, last);
    for (int m; n > 1; n = m) { /* more parts than a node has operands: concats of concats */
        m = 0;
        for (int k = 0; k < n; k += MTH__MAX_IN) {
            int count = n - k < MTH__MAX_IN ? n - k : MTH__MAX_IN;
            mth__value *joined = part[k];
            if (count > 1)
                TRY(mth__build(
                    &walk->builder, MTH__ROW_concat, &(mth__attrs){.dimension = dimension}, count, part + k, &joined));
            part[m++] = joined;
        }
    }
    *out = part[0];
    return NULL;
}

/* Pads a piece to the size of the whole value, by the gradient rule of the slice that it came from. */
static mth_status whole(gradient_walk *walk, contribution *term) {
    if (!term->piece) return NULL;
    mth__value *din = NULL;
    stand_at(walk, term->from);
    walk->builder.wanted = 1;
    TRY(term->from->op->grad(&walk->builder, term->from, &term->value, &din));
    term->value = din;
    if (!din->gradient_of) din->gradient_of = term->from->in[0];
    return NULL;
}

/* A parameter that several placements read has a sum on each of them, and these are added once: terms of one placement
 * come together, otherwise in their order. */
static void group_by_place(gradient_walk *walk, contribution *term, int n) {
    VEC(const mth__placement *) place = {0};
    contribution *sorted = NEW_ARRAY(walk->scratch, contribution, n);
    int *group = NEW_ARRAY(walk->scratch, int, n), at = 0;
    for (int k = 0; k < n; k++) {
        const mth__placement *on = term[k].from ? term[k].from->on : NULL;
        while ((size_t)group[k] < place.n && place.at[group[k]] != on) group[k]++;
        if ((size_t)group[k] == place.n) PUSH(walk->scratch, place, on);
    }
    if (place.n < 2) return;
    for (int number = 0; (size_t)number < place.n; number++)
        for (int k = 0; k < n; k++)
            if (group[k] == number) sorted[at++] = term[k];
    memcpy(term, sorted, (size_t)n * sizeof *term);
}

static bool same_place(const contribution *a, const contribution *b) {
    return (a->from ? a->from->on : NULL) == (b->from ? b->from->on : NULL);
}

/* *sum += term, where the node that sent `from` stands, or where `of` is made. */
static mth_status add_term(gradient_walk *walk, const mth__value *of, mth__value *term, const mth__node *from,
    bool comes_home, mth__value **sum) {
    if (!*sum) return *sum = term, NULL;
    if (comes_home)
        stand_at(walk, of->node);
    else if (from)
        stand_at(walk, from);
    TRY(mth__build(&walk->builder, MTH__ROW_add, NULL, 2, (mth__value *[]){*sum, term}, sum));
    (*sum)->gradient_of = of;
    return NULL;
}

/* The sum of all that was sent to a value, NULL where nothing was. */
static mth_status sum(gradient_walk *walk, const mth__value *of, mth__value **out) {
    int n = 0;
    for (contribution *term = walk->sent[of->id]; term; term = term->next) n++;
    *out = NULL;
    if (n == 0) return NULL;
    contribution one, *term = n == 1 ? &one : NEW_ARRAY(walk->scratch, contribution, n);
    int k = n;
    for (const contribution *sent = walk->sent[of->id]; sent; sent = sent->next) term[--k] = *sent;
    TRY(join(walk, term, n, of, out));
    if (*out) {
        if (!(*out)->gradient_of) (*out)->gradient_of = of;
        return NULL;
    }
    qsort(term, (size_t)n, sizeof *term, by_microbatch);
    if (n > 1 && of->kind == MTH__VALUE_PARAMETER) group_by_place(walk, term, n);
    /* see `bring_home`: the first stands there, so all do */
    const bool comes_home = in_microbatch(of) && microbatch_of(&term[0]) < 0;
    mth__value *here = NULL; /* of one placement */
    for (k = 0; k < n; k++) {
        TRY(whole(walk, &term[k]));
        TRY(add_term(walk, of, term[k].value, term[k].from, comes_home, &here));
        if (k + 1 < n && (of->kind != MTH__VALUE_PARAMETER || same_place(&term[k], &term[k + 1]))) continue;
        TRY(add_term(walk, of, here, term[k].from, comes_home, out));
        here = NULL;
    }
    return NULL;
}

/* ---------------------------------------------------------------- the walk */
/* The gradient of a joined output is cut into slices, which are sent back into the pipeline. Each slice belongs to the
 * microbatch of the value whose gradient it is. */
static void bring_home(const mth__value *to, mth__value *din, int nodes) {
    mth__node *made = din->node;
    if (!in_microbatch(to) || !made || made->id < nodes || made->label.microbatch >= 0) return;
    made->label = mth__label_at(made->label, &to->node->label);
    made->on = to->node->on;
}

static mth_status differentiate(gradient_walk *walk, const mth__node *node) {
    mth__value *dout[MTH__MAX_OUT], *din[MTH__MAX_IN];
    uint64_t wanted = 0;
    bool flows = false;
    for (int j = 0; j < node->nin; j++) {
        wanted |= (uint64_t)walk->wanted[node->in[j]->id] << j;
        din[j] = NULL;
    }
    if (!wanted) return NULL;
    for (int k = 0; k < node->nout; k++) {
        stand_at(walk, node); /* for the sum of two seeds, which come from no node */
        TRY(sum(walk, node->out[k], &dout[k]));
        flows |= dout[k] != NULL;
    }
    if (!flows) return NULL;
    if (node->op->row == MTH__ROW_slice) {
        send(walk, node->in[0], dout[0], node, true);
        return NULL;
    }
    if (!node->op->grad) {
        const mth__value *of = node->in[__builtin_ctzll(wanted)];
        mth_status status = FAIL(MTH_ERROR_UNSUPPORTED,
            F("%s has no gradient, and one of '%s' is asked for", node->op->name, of->name ? of->name : "its operand"),
            F("take the gradient of outputs that don't depend on it, or pass its operand through stop"));
        return mth__error_tensor(
            mth__error_operator(status, node->label.module ? node->label.module : node->op->name), mth__value_text(of));
    }
    stand_at(walk, node);
    walk->builder.wanted = wanted;
    const int nodes = (int)walk->graph->node.n;
    TRY(node->op->grad(&walk->builder, node, dout, din));
    for (int j = 0; j < node->nin; j++) {
        if (!din[j] || !(wanted >> j & 1)) continue;
        if (!mth__shape_equal(din[j]->shape, node->in[j]->shape) || din[j]->dtype != node->in[j]->dtype)
            return INTERNAL("the gradient of operand %d of %s (%s) doesn't have its shape and dtype", j, node->op->name,
                node->label.module ? node->label.module : "");
        if (node->label.microbatch < 0) bring_home(node->in[j], din[j], nodes);
        send(walk, node->in[j], din[j], node, false);
    }
    return NULL;
}

static mth_status backward(gradient_walk *walk, int nodes) {
    for (int i = nodes - 1; i >= 0; i--) {
        const mth__node *node = walk->graph->node.at[i];
        TRY(differentiate(walk, node));
        for (int j = 0; j < node->nin; j++) {
            const mth__value *value = node->in[j];
            if (!walk->wanted[value->id] || value->node || walk->first[value->id] != i || walk->total[value->id])
                continue;
            TRY(sum(walk, value, &walk->total[value->id]));
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- results */
/* Parameters carry the name of their module: "linear_0.weight". */
static void stand_at_value(gradient_walk *walk, const mth__value *value, int nodes) {
    mth__builder *builder = &walk->builder;
    const char *dot = strrchr(value->name, '.');
    const char *module =
        dot ? mth__format(walk->graph->arena, "%.*s", (int)(dot - value->name), value->name) : value->name;
    *builder = (mth__builder){.graph = walk->graph, .label = mth__label_outside(module, MTH__BACKWARD)};
    if (walk->first[value->id] < nodes) {
        const mth__node *node = walk->graph->node.at[walk->first[value->id]];
        builder->on = node->on;
        builder->label = mth__label_at(builder->label, &node->label);
        builder->label.microbatch = -1;
    }
}
/* Every gradient is a value of its own, made by a node: two tensors of one gradient (a + b) may be laid out
 * differently. */
static mth_status publish(gradient_walk *walk, mth__value *value, int nodes) {
    mth__value *gradient = walk->total[value->id];
    if (!gradient || !gradient->node || *AT_VALUE(walk->scratch, walk->listed, gradient)) {
        stand_at_value(walk, value, nodes);
        if (!gradient) TRY(sum(walk, value, &gradient)); /* read by no node: an output itself, or unused */
        TRY(gradient ? mth__build1(&walk->builder, MTH__ROW_copy, NULL, gradient, &gradient)
                     : mth__build1(&walk->builder, MTH__ROW_scale, NULL, value, &gradient));
    }
    *AT_VALUE(walk->scratch, walk->listed, gradient) = true;
    PUSH(walk->graph->arena, walk->graph->output,
        (mth__output){.name = value->name, .value = gradient, .is_gradient = true, .of = value->name});
    return NULL;
}

static mth_status find_input(gradient_walk *walk, const mth__names *inputs, const char *name, mth__value **out) {
    const int at = mth__names_find(inputs, name);
    if (at < 0) {
        const char *near = mth__nearest(name, inputs->name.at, inputs->name.n);
        return FAIL(MTH_ERROR_KEY, F("the gradient of '%s' is asked for, and the model has no such input", name),
            near                 ? F("did you mean '%s'?", near)
                : inputs->name.n ? F("name an input of the model, such as '%s'", inputs->name.at[0])
                                 : F("ask for no input's gradient: the model has no input"));
    }
    mth__value *value = *out = walk->graph->input.at[at];
    if (mth__is_float(value->dtype)) return NULL;
    return mth__error_tensor(
        FAIL(MTH_ERROR_TYPE, F("the gradient of '%s' is asked for, which is %s", name, mth_dtype_name(value->dtype)),
            F("ask for gradients of floating inputs alone")),
        mth__value_text(value));
}

static mth_status walk_back(gradient_walk *walk, const mth__gradient_options *options) {
    mth__graph *graph = walk->graph;
    int nodes = (int)graph->node.n;
    size_t outputs = graph->output.n;
    walk->values = graph->values;
    walk->sent = NEW_ARRAY(walk->scratch, contribution *, walk->values);
    walk->wanted = NEW_ARRAY(walk->scratch, bool, walk->values);
    walk->total = NEW_ARRAY(walk->scratch, mth__value *, walk->values);
    walk->first = NEW_ARRAY(walk->scratch, int, walk->values);
    mth__value **input = NEW_ARRAY(walk->scratch, mth__value *, options->input_count);
    mth__names inputs = {0};
    for (size_t i = 0; i < graph->input.n; i++) mth__names_add(walk->scratch, &inputs, graph->input.at[i]->name);
    for (size_t i = 0; i < options->input_count; i++) {
        TRY(find_input(walk, &inputs, options->inputs[i], &input[i]));
        walk->wanted[input[i]->id] = true;
    }
    for (size_t i = 0; i < graph->parameter.n; i++)
        walk->wanted[graph->parameter.at[i]->id] = mth__is_float(graph->parameter.at[i]->dtype);
    for (int id = 0; id < walk->values; id++) walk->first[id] = nodes;
    for (int i = nodes - 1; i >= 0; i--)
        for (int j = 0; j < graph->node.at[i]->nin; j++) walk->first[graph->node.at[i]->in[j]->id] = i;
    for (int i = 0; i < nodes; i++) {
        const mth__node *node = graph->node.at[i];
        bool any = false;
        for (int j = 0; j < node->nin && !any && node->op->grad != mth__grad_none; j++)
            any = walk->wanted[node->in[j]->id];
        for (int k = 0; any && k < node->nout; k++) walk->wanted[node->out[k]->id] = mth__is_float(node->out[k]->dtype);
    }
    walk->builder = (mth__builder){.graph = graph, .label = mth__label_outside(NULL, MTH__BACKWARD)};
    for (size_t i = 0; i < outputs; i++) {
        mth__value *value = graph->output.at[i].value;
        if (!options->seeded[i] || !mth__is_float(value->dtype)) continue;
        mth__value *seed =
            mth__graph_value(graph, MTH__VALUE_SEED, graph->output.at[i].name, value->dtype, value->shape);
        send(walk, value, seed, NULL, false);
    }
    TRY(backward(walk, nodes));
    for (size_t i = 0; i < graph->parameter.n; i++)
        if (mth__is_float(graph->parameter.at[i]->dtype)) TRY(publish(walk, graph->parameter.at[i], nodes));
    for (size_t i = 0; i < options->input_count; i++) TRY(publish(walk, input[i], nodes));
    return NULL;
}

mth_status mth__gradients(mth__graph *graph, const mth__gradient_options *options) {
    mth__arena *scratch = mth__arena_new();
    gradient_walk walk = {.graph = graph, .scratch = scratch};
    mth_status status = walk_back(&walk, options);
    mth__arena_free(scratch);
    return status;
}
