/* Reverse mode on the graph, in one walk from the last node to the first. Each value collects the gradients that its
   consumers send it; when the walk reaches its maker all of them are there, are summed, and go through the maker's row.
   The cost is linear in the nodes. */
#include "derive/derive.h"
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
    mth__builder builder;
    contribution **sent; /* by value id: the latest */
    bool *wanted;        /* by value id: depends on something whose gradient is asked for */
    mth__value **total;  /* by value id, of parameters and inputs: the sum */
    /* by value id, of those: the first node that reads it, behind which its gradient is complete */
    int *first;
    int values; /* ids of the forward graph */
    int arrivals;
} gradient_walk;

static void send(gradient_walk *w, const mth__value *to, mth__value *gradient, const mth__node *from, bool piece) {
    contribution *c = NEW(w->scratch, contribution);
    *c = (contribution){gradient, from, w->sent[to->id], w->arrivals++, piece};
    w->sent[to->id] = c;
    /* one that an add passes on belongs to the result first */
    if (!piece && !gradient->primal) gradient->primal = to;
}

static void stand_at(gradient_walk *w, const mth__node *n) {
    mth__builder *b = &w->builder;
    b->label = n->label;
    b->label.phase = MTH__BACKWARD;
    b->on = n->on;
}

/* ---------------------------------------------------------------- sums */
static bool in_microbatch(const mth__value *v) { return v->node && v->node->label.microbatch >= 0; }
static int microbatch_of(const contribution *c) { return c->from ? c->from->label.microbatch : -1; }
static int by_microbatch(const void *a, const void *b) {
    const contribution *x = a, *y = b;
    int mx = microbatch_of(x), my = microbatch_of(y);
    return mx != my ? (mx > my) - (mx < my) : (x->arrival > y->arrival) - (x->arrival < y->arrival);
}
static int by_start(const void *a, const void *b) {
    int64_t x = ((const contribution *)a)->from->attrs.start, y = ((const contribution *)b)->from->attrs.start;
    return x != y ? (x > y) - (x < y) : by_microbatch(a, b);
}

/* Where all contributions are pieces of one dimension that don't overlap: their concat, gaps padded with zeros. Else
 * *out stays NULL. */
static mth_status join(gradient_walk *w, contribution *c, int n, const mth__value *of, mth__value **out) {
    for (int k = 0; k < n; k++)
        if (!c[k].piece || c[k].from->attrs.dimension != c[0].from->attrs.dimension) return NULL;
    qsort(c, (size_t)n, sizeof *c, by_start);
    for (int k = 1; k < n; k++)
        if (c[k].from->attrs.start < c[k - 1].from->attrs.stop) return NULL;
    int64_t dimension = c[0].from->attrs.dimension, size = of->shape.dim[dimension];
    const mth__node *last = c[0].from; /* of the latest microbatch */
    mth__value **part = NEW_ARRAY(w->scratch, mth__value *, n);
    for (int k = 0; k < n; k++) {
        int64_t before = k ? 0 : c[0].from->attrs.start, end = k + 1 < n ? c[k + 1].from->attrs.start : size,
                after = end - c[k].from->attrs.stop;
        part[k] = c[k].value;
        if (c[k].from->label.microbatch > last->label.microbatch) last = c[k].from;
        if (!before && !after) continue;
        stand_at(w, c[k].from);
        TRY(mth__build1(&w->builder, "pad", &(mth__attrs){.dimension = dimension, .before = before, .after = after},
            part[k], &part[k]));
    }
    stand_at(w, last);
    for (int m; n > 1; n = m) { /* more parts than a node has operands: concats of concats */
        m = 0;
        for (int k = 0; k < n; k += MTH__MAX_IN) {
            int count = n - k < MTH__MAX_IN ? n - k : MTH__MAX_IN;
            mth__value *joined = part[k];
            if (count > 1)
                TRY(mth__build(&w->builder, mth__op_at(MTH__ROW_concat), &(mth__attrs){.dimension = dimension}, count,
                    part + k, &joined));
            part[m++] = joined;
        }
    }
    *out = part[0];
    return NULL;
}

/* A piece at the size of the whole value: its row's own gradient. */
static mth_status whole(gradient_walk *w, contribution *c) {
    if (!c->piece) return NULL;
    mth__value *din = NULL;
    stand_at(w, c->from);
    w->builder.wanted = 1;
    TRY(c->from->op->grad(&w->builder, c->from, &c->value, &din));
    c->value = din;
    if (!din->primal) din->primal = c->from->in[0];
    return NULL;
}

/* The sum of all that was sent to a value, NULL where nothing was. */
static mth_status sum(gradient_walk *w, const mth__value *of, mth__value **out) {
    int n = 0;
    for (contribution *c = w->sent[of->id]; c; c = c->next) n++;
    *out = NULL;
    if (n == 0) return NULL;
    contribution one, *c = n == 1 ? &one : NEW_ARRAY(w->scratch, contribution, n);
    int k = n;
    for (const contribution *s = w->sent[of->id]; s; s = s->next) c[--k] = *s;
    TRY(join(w, c, n, of, out));
    if (*out) {
        if (!(*out)->primal) (*out)->primal = of;
        return NULL;
    }
    qsort(c, (size_t)n, sizeof *c, by_microbatch);
    /* see `bring_home`: the first stands there, so all do */
    const bool comes_home = in_microbatch(of) && microbatch_of(&c[0]) < 0;
    for (k = 0; k < n; k++) {
        TRY(whole(w, &c[k]));
        if (k == 0) {
            *out = c[0].value;
            continue;
        }
        if (comes_home)
            stand_at(w, of->node);
        else if (c[k].from)
            stand_at(w, c[k].from);
        TRY(mth__build(&w->builder, mth__op_at(MTH__ROW_add), NULL, 2, (mth__value *[]){*out, c[k].value}, out));
        (*out)->primal = of;
    }
    return NULL;
}

/* ---------------------------------------------------------------- the walk */
/* What is sent back into a pipeline (the slice of a joined output's gradient) belongs to the microbatch of what it is
 * the gradient of. */
static void bring_home(const mth__value *to, mth__value *din, int nodes) {
    mth__node *made = din->node;
    if (!in_microbatch(to) || !made || made->id < nodes || made->label.microbatch >= 0) return;
    made->label = mth__label_at(made->label, &to->node->label);
    made->on = to->node->on;
}

static mth_status differentiate(gradient_walk *w, const mth__node *n) {
    mth__value *dout[MTH__MAX_OUT], *din[MTH__MAX_IN];
    uint64_t wanted = 0;
    bool flows = false;
    for (int j = 0; j < n->nin; j++) {
        wanted |= (uint64_t)w->wanted[n->in[j]->id] << j;
        din[j] = NULL;
    }
    if (!wanted) return NULL;
    for (int k = 0; k < n->nout; k++) {
        stand_at(w, n); /* for the sum of two seeds, which come from no node */
        TRY(sum(w, n->out[k], &dout[k]));
        flows |= dout[k] != NULL;
    }
    if (!flows) return NULL;
    if (n->op->row == MTH__ROW_slice) {
        send(w, n->in[0], dout[0], n, true);
        return NULL;
    }
    if (!n->op->grad) {
        const mth__value *of = n->in[__builtin_ctzll(wanted)];
        mth_status s = FAIL(MTH_ERROR_UNSUPPORTED,
            F("%s has no gradient, and one of '%s' is asked for", n->op->name, of->name ? of->name : "its operand"),
            F("take the gradient of outputs that don't depend on it, or pass its operand through stop"));
        return mth__error_tensor(
            mth__error_operator(s, n->label.module ? n->label.module : n->op->name), mth__value_text(of));
    }
    stand_at(w, n);
    w->builder.wanted = wanted;
    const int nodes = (int)w->graph->node.n;
    TRY(n->op->grad(&w->builder, n, dout, din));
    for (int j = 0; j < n->nin; j++) {
        if (!din[j] || !(wanted >> j & 1)) continue;
        if (!mth__shape_equal(din[j]->shape, n->in[j]->shape) || din[j]->dtype != n->in[j]->dtype)
            return INTERNAL("the gradient of operand %d of %s (%s) doesn't have its shape and dtype", j, n->op->name,
                n->label.module ? n->label.module : "");
        if (n->label.microbatch < 0) bring_home(n->in[j], din[j], nodes);
        send(w, n->in[j], din[j], n, false);
    }
    return NULL;
}

static mth_status backward(gradient_walk *w, int nodes) {
    for (int i = nodes - 1; i >= 0; i--) {
        const mth__node *n = w->graph->node.at[i];
        TRY(differentiate(w, n));
        for (int j = 0; j < n->nin; j++) {
            const mth__value *v = n->in[j];
            if (!w->wanted[v->id] || v->node || w->first[v->id] != i || w->total[v->id]) continue;
            TRY(sum(w, v, &w->total[v->id]));
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- results */
/* Parameters carry the name of their module: "linear_0.weight". */
static void stand_at_value(gradient_walk *w, const mth__value *v, int nodes) {
    mth__builder *b = &w->builder;
    const char *dot = strrchr(v->name, '.');
    const char *module = dot ? mth__format(w->graph->arena, "%.*s", (int)(dot - v->name), v->name) : v->name;
    *b = (mth__builder){.graph = w->graph, .label = mth__label_outside(module, MTH__BACKWARD)};
    if (w->first[v->id] < nodes) {
        const mth__node *n = w->graph->node.at[w->first[v->id]];
        b->on = n->on;
        b->label = mth__label_at(b->label, &n->label);
        b->label.microbatch = -1;
    }
}
/* Every gradient is a value of its own, made by a node: two tensors of one gradient (a + b) may be laid out
 * differently. */
static mth_status publish(gradient_walk *w, mth__value *v, int nodes) {
    mth__value *d = w->total[v->id];
    if (!d || !d->node || d->scratch) {
        stand_at_value(w, v, nodes);
        if (!d) TRY(sum(w, v, &d)); /* read by no node: an output itself, or unused */
        TRY(d ? mth__build1(&w->builder, "copy", NULL, d, &d) : mth__build1(&w->builder, "scale", NULL, v, &d));
    }
    d->scratch = w; /* listed */
    PUSH(w->graph->arena, w->graph->output,
        (mth__output){.name = v->name, .value = d, .is_gradient = true, .of = v->name});
    return NULL;
}

static mth_status find_input(gradient_walk *w, const mth__names *inputs, const char *name, mth__value **out) {
    const int at = mth__names_find(inputs, name);
    if (at < 0) {
        const char *near = mth__nearest(name, inputs->name.at, inputs->name.n);
        return FAIL(MTH_ERROR_KEY, F("the gradient of '%s' is asked for, and the model has no such input", name),
            near                 ? F("did you mean '%s'?", near)
                : inputs->name.n ? F("name an input of the model, such as '%s'", inputs->name.at[0])
                                 : F("ask for no input's gradient: the model has no input"));
    }
    mth__value *v = *out = w->graph->input.at[at];
    if (mth__is_float(v->dtype)) return NULL;
    return mth__error_tensor(
        FAIL(MTH_ERROR_TYPE, F("the gradient of '%s' is asked for, which is %s", name, mth_dtype_name(v->dtype)),
            F("ask for gradients of floating inputs alone")),
        mth__value_text(v));
}

static mth_status run(gradient_walk *w, const mth__gradient_options *o) {
    mth__graph *g = w->graph;
    int nodes = (int)g->node.n;
    size_t outputs = g->output.n;
    w->values = g->values;
    w->sent = NEW_ARRAY(w->scratch, contribution *, w->values);
    w->wanted = NEW_ARRAY(w->scratch, bool, w->values);
    w->total = NEW_ARRAY(w->scratch, mth__value *, w->values);
    w->first = NEW_ARRAY(w->scratch, int, w->values);
    mth__value **input = NEW_ARRAY(w->scratch, mth__value *, o->input_count);
    mth__names inputs = {0};
    for (size_t i = 0; i < g->input.n; i++) mth__names_add(w->scratch, &inputs, g->input.at[i]->name);
    for (size_t i = 0; i < o->input_count; i++) {
        TRY(find_input(w, &inputs, o->inputs[i], &input[i]));
        w->wanted[input[i]->id] = true;
    }
    for (size_t i = 0; i < g->parameter.n; i++)
        w->wanted[g->parameter.at[i]->id] = mth__is_float(g->parameter.at[i]->dtype);
    for (int v = 0; v < w->values; v++) w->first[v] = nodes;
    for (int i = nodes - 1; i >= 0; i--)
        for (int j = 0; j < g->node.at[i]->nin; j++) w->first[g->node.at[i]->in[j]->id] = i;
    for (int i = 0; i < nodes; i++) {
        const mth__node *n = g->node.at[i];
        bool any = false;
        for (int j = 0; j < n->nin && !any; j++) any = w->wanted[n->in[j]->id];
        for (int k = 0; any && k < n->nout; k++) w->wanted[n->out[k]->id] = mth__is_float(n->out[k]->dtype);
    }
    w->builder = (mth__builder){.graph = g, .label = mth__label_outside(NULL, MTH__BACKWARD)};
    for (size_t i = 0; i < outputs; i++) {
        mth__value *v = g->output.at[i].value;
        if (!o->seeded[i] || !mth__is_float(v->dtype)) continue;
        mth__value *seed = mth__graph_value(g, MTH__VALUE_SEED, g->output.at[i].name, v->dtype, v->shape);
        send(w, v, seed, NULL, false);
    }
    TRY(backward(w, nodes));
    for (size_t i = 0; i < g->parameter.n; i++)
        if (mth__is_float(g->parameter.at[i]->dtype)) TRY(publish(w, g->parameter.at[i], nodes));
    for (size_t i = 0; i < o->input_count; i++) TRY(publish(w, input[i], nodes));
    for (size_t i = outputs; i < g->output.n; i++) g->output.at[i].value->scratch = NULL;
    return NULL;
}

mth_status mth__gradients(mth__graph *g, const mth__gradient_options *o) {
    mth__arena *scratch = mth__arena_new();
    gradient_walk w = {.graph = g, .scratch = scratch};
    mth_status s = run(&w, o);
    mth__arena_free(scratch);
    return s;
}
