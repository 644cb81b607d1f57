/* Each Pipeline region's batch is cut into microbatches: the nodes that the batch runs through are cloned, one clone a
 * microbatch; what does not depend on it is computed once. How the batch runs through a node is read from the node's
 * rule, as if the microbatches were one more mesh axis: a value carries it in one dimension, or is a term of a sum over
 * microbatches (which linear rows pass on), or is independent. What fits none of these is refused. Values used behind
 * the region are joined again: concat, or a chain of adds. Where the user splits the batch over k devices (data
 * parallelism), microbatch m is the m-th part of each device's rows, not m-th of all: each device cuts what it has, and
 * nothing moves. */
#include "distribute/decide.h"
#include <string.h>

typedef enum { COMMON, BATCH, PARTIAL } part_kind;
typedef struct { /* of a value that a region makes */
    part_kind kind;
    int region, dim;   /* BATCH: the dimension that carries the batch, */
    int64_t unit;      /* with this many elements a batch element */
    mth__value **at;   /* by microbatch */
    mth__value *whole; /* for those outside; made on demand */
} part;
/* of a value from outside, or of an independent one */
typedef struct {
    mth__value *of;
    int dim, stage;
    mth__value *rows, **at;
} sliced_value;

typedef struct {
    mth__graph *graph;
    mth__arena *arena; /* of the pass */
    const mth__distribute_options *options;
    mth__rewrite rewrite;
    BY_VALUE(part *) parts;
    int64_t *lanes;      /* by region: the parts of the batch that are cut each by itself */
    mth__region *region; /* of the node at hand */
    int index;
    VEC(sliced_value) cuts; /* of this region */
} microbatch_pass;

static int64_t start_of(const mth__region *r, int m) { return (int64_t)m * r->microbatch_size; }
static int64_t size_of(const mth__region *r, int m) {
    int64_t left = r->batch - start_of(r, m);
    return left < r->microbatch_size ? left : r->microbatch_size;
}

static mth__builder builder_like(const microbatch_pass *s, const mth__node *n, int microbatch) {
    mth__builder builder = {.graph = s->graph, .label = n->label, .on = n->on};
    builder.label.microbatch = microbatch;
    return builder;
}

static mth_status refuse(const microbatch_pass *s, const mth__node *n, const mth__value *v, char *what) {
    mth_status e = FAIL(MTH_ERROR_VALUE, what,
        F("give pipeline '%s' a microbatch_size of at least the batch, %lld, or move this operator behind the pipeline",
            s->region->name ? s->region->name : "", (long long)s->region->batch));
    mth__error_operator(e, n->label.module ? n->label.module : n->op->name);
    if (n->label.source) mth__error_source(e, n->label.source);
    return mth__error_tensor(e, mth__value_text(v));
}

/* ---------------------------------------------------------------- values from and to the outside */
/* Dimension `dim` of v as (lanes, the rest of it), or back. */
static mth_status fold(mth__builder *b, mth__value *v, int dim, int64_t lanes, bool unfold, mth__value **out) {
    mth__attrs a = {.rank = v->shape.rank + (unfold ? 1 : -1)};
    *out = v;
    if (lanes == 1) return NULL;
    for (int d = 0, e = 0; d < v->shape.rank; d++) {
        if (d != dim)
            a.shape[e++] = v->shape.dim[d];
        else if (unfold) {
            a.shape[e++] = lanes;
            a.shape[e++] = v->shape.dim[d] / lanes;
        } else
            a.shape[e++] = lanes * v->shape.dim[++d];
    }
    return mth__build(b, mth__row_op(MTH__ROW_reshape), &a, 1, &v, out);
}

static mth_status join(microbatch_pass *s, const part *p, mth__builder *b, mth__value **out) {
    const mth__region *r = s->graph->region.at[p->region];
    int64_t lanes = s->lanes[p->region];
    mth__value **at = NEW_ARRAY(s->arena, mth__value *, r->microbatches);
    mth__attrs attrs = {.dimension = p->dim + (lanes > 1)};
    for (int m = 0; m < r->microbatches; m++) {
        b->label = mth__label_at(b->label, &p->at[m]->node->label);
        b->label.microbatch = m; /* unfolds with its microbatch */
        TRY(fold(b, p->at[m], p->dim, lanes, true, &at[m]));
    }
    b->label.region = b->label.stage = b->label.microbatch = -1;
    for (int n = r->microbatches; n > 1;) { /* concat takes MTH__MAX_IN operands at once */
        int made = 0;
        for (int m = 0; m < n; m += MTH__MAX_IN) {
            int k = n - m < MTH__MAX_IN ? n - m : MTH__MAX_IN;
            if (k > 1)
                TRY(mth__build(b, mth__row_op(MTH__ROW_concat), &attrs, k, at + m, &at[made]));
            else
                at[made] = at[m];
            made++;
        }
        n = made;
    }
    return fold(b, at[0], p->dim, lanes, false, out);
}

static part *part_of(microbatch_pass *s, const mth__value *value) { return *AT_VALUE(s->arena, s->parts, value); }

static mth_status whole(microbatch_pass *s, mth__value *v, mth__value **out) {
    part *p = part_of(s, v);
    *out = v;
    if (!p) return NULL;
    if (!p->whole) {
        mth__builder b = builder_like(s, v->node, -1);
        b.label.region = b.label.stage = -1;
        if (p->kind == PARTIAL) {
            p->whole = p->at[0];
            for (int m = 1; m < s->graph->region.at[p->region]->microbatches; m++) {
                b = builder_like(s, p->at[m]->node, m); /* adds with its microbatch */
                TRY(mth__build(
                    &b, mth__row_op(MTH__ROW_add), NULL, 2, (mth__value *[]){p->whole, p->at[m]}, &p->whole));
            }
        } else
            TRY(join(s, p, &b, &p->whole));
        if (!p->whole->name) p->whole->name = v->name;
    }
    *out = p->whole;
    return NULL;
}

static mth_status cut_of(
    microbatch_pass *s, const mth__node *n, mth__value *v, int dim, int64_t unit, int m, mth__value **out) {
    const mth__region *r = s->region;
    int64_t lanes = s->lanes[s->index];
    int stage = v->kind == MTH__VALUE_INPUT ? n->label.stage : -1; /* an input is fed to each stage, and cut there */
    sliced_value *c = NULL;
    for (size_t i = 0; i < s->cuts.n && !c; i++)
        if (s->cuts.at[i].of == v && s->cuts.at[i].dim == dim && s->cuts.at[i].stage == stage) c = &s->cuts.at[i];
    if (!c) {
        mth__builder b = builder_like(s, n, -1);
        sliced_value made = {v, dim, stage, NULL, NEW_ARRAY(s->arena, mth__value *, r->microbatches)};
        TRY(fold(&b, v, dim, lanes, true, &made.rows));
        PUSH(s->arena, s->cuts, made);
        c = &s->cuts.at[s->cuts.n - 1];
    }
    if (!c->at[m]) {
        mth__builder b = builder_like(s, n, m);
        int64_t start = start_of(r, m) * unit / lanes, size = size_of(r, m) * unit / lanes;
        mth__attrs attrs = {.dimension = dim + (lanes > 1), .start = start, .stop = start + size};
        TRY(mth__build(&b, mth__row_op(MTH__ROW_slice), &attrs, 1, &c->rows, &c->at[m]));
        TRY(fold(&b, c->at[m], dim, lanes, false, &c->at[m]));
    }
    *out = c->at[m];
    return NULL;
}

/* ---------------------------------------------------------------- how the batch runs through a node */
typedef struct {
    part_kind kind;
    int dim;
    int64_t unit;
    part *made;
} operand;

static operand look(microbatch_pass *s, mth__value *v) {
    part *p = part_of(s, v);
    if (p && p->region == s->index) return (operand){p->kind, p->dim, p->unit, p};
    const mth__region *r = s->region;
    if (v->kind != MTH__VALUE_PARAMETER && v->shape.rank > 0 && v->shape.dim[0] == r->batch)
        for (int i = 0; i < r->nin; i++)
            if (r->in[i] == v) return (operand){BATCH, 0, 1, NULL};
    return (operand){COMMON, 0, 0, NULL};
}

/* The one factor that the batch is, and how many of its elements one batch element is. */
static mth_status factor_of(
    const microbatch_pass *s, const mth__node *n, const mth__rule *r, const operand *o, int *factor, int64_t *each) {
    *factor = -1;
    for (int j = 0; j < n->nin; j++) {
        if (o[j].kind == PARTIAL)
            return refuse(s, n, n->in[j],
                F("%s needs the sum over the whole batch and a part of the batch at once", n->op->name));
        if (o[j].kind != BATCH) continue;
        int f = r->in[j][o[j].dim];
        int64_t unit = f < 0 ? 1 : r->in_unit[j][o[j].dim];
        if (f >= 0 && r->factor[f].kind == MTH__MAX)
            return refuse(s, n, n->in[j], F("%s over the batch can't be accumulated over microbatches", n->op->name));
        if (f < 0 || r->factor[f].kind == MTH__WHOLE || r->factor[f].positional)
            return refuse(s, n, n->in[j],
                F("%s needs all of dimension %d at once, which carries the batch", n->op->name, o[j].dim));
        if (o[j].unit % unit)
            return refuse(s, n, n->in[j], F("%s takes the batch of dimension %d apart", n->op->name, o[j].dim));
        if (*factor >= 0 && (f != *factor || o[j].unit / unit != *each))
            return refuse(s, n, n->in[j], F("%s combines each element of the batch with the others", n->op->name));
        *factor = f;
        *each = o[j].unit / unit;
    }
    return NULL;
}

static bool passes_partial(const mth__node *n, const operand *o) {
    int partial = 0, linear = 0;
    for (int j = 0; j < n->nin; j++) {
        bool is_linear = n->op->linear_args >> j & 1;
        linear += is_linear;
        partial += o[j].kind == PARTIAL;
        if (o[j].kind == PARTIAL && !is_linear) return false;
    }
    return (n->op->linear == MTH__LINEAR_EACH && partial == 1) ||
        (n->op->linear == MTH__LINEAR_JOINT && partial == linear);
}

/* A row that goes by the indices of the whole batch (dropout's mask): the microbatch is a box of it. */
static mth_status clone_box(microbatch_pass *s, mth__builder *builder, const mth__node *node, const part *made,
    int microbatch, mth__value *whole_batch, mth__value **out) {
    const mth__region *region = s->region;
    int64_t lanes = s->lanes[s->index];
    mth__attrs attrs = node->attrs;
    node->op->box(&attrs, made->dim + (lanes > 1), start_of(region, microbatch) * made->unit / lanes,
        region->batch * made->unit / lanes);
    TRY(fold(builder, whole_batch, made->dim, lanes, true, out));
    TRY(mth__build(builder, node->op, &attrs, 1, out, out));
    return fold(builder, *out, made->dim, lanes, false, out);
}

static mth_status clone(
    microbatch_pass *s, mth__node *n, const operand *o, const mth__rule *rule, int f, int64_t each) {
    const mth__region *r = s->region;
    part *made[MTH__MAX_OUT];
    for (int k = 0; k < n->nout; k++) {
        part *p = made[k] = NEW(s->arena, part);
        *p = (part){.kind = PARTIAL, .region = s->index, .at = NEW_ARRAY(s->arena, mth__value *, r->microbatches)};
        for (int d = 0; d < n->out[k]->shape.rank && f >= 0; d++)
            if (rule->out[k][d] == f) {
                p->kind = BATCH;
                p->dim = d;
                p->unit = each * rule->out_unit[k][d];
            }
        if (p->kind == PARTIAL && f >= 0 && rule->factor[f].kind != MTH__SUM)
            return refuse(s, n, n->out[k], F("result %d of %s belongs to no part of the batch", k, n->op->name));
        *AT_VALUE(s->arena, s->parts, n->out[k]) = p;
    }
    for (int m = 0; m < r->microbatches; m++) {
        mth__value *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
        for (int j = 0; j < n->nin; j++) {
            mth__value *v = n->in[j];
            if (o[j].made)
                in[j] = o[j].made->kind == COMMON ? o[j].made->whole : o[j].made->at[m];
            else
                TRY(whole(s, v, &in[j]));
            if (o[j].kind == BATCH && !o[j].made) TRY(cut_of(s, n, in[j], 0, 1, m, &in[j]));
            for (int d = 0; d < v->shape.rank && o[j].kind == COMMON && f >= 0; d++)
                if (rule->in[j][d] == f) TRY(cut_of(s, n, in[j], d, each * rule->in_unit[j][d], m, &in[j]));
        }
        mth__attrs attrs = n->attrs;
        mth__builder b = builder_like(s, n, m);
        const bool batch = made[0]->kind == BATCH;
        if (batch && n->op->resize) n->op->resize(&attrs, made[0]->dim, made[0]->unit * size_of(r, m));
        if (batch && n->op->box)
            TRY(clone_box(s, &b, n, made[0], m, in[0], out));
        else
            TRY(mth__build(&b, n->op, &attrs, n->nin, in, out));
        for (int k = 0; k < n->nout; k++) {
            mth__shape want = n->out[k]->shape;
            if (made[k]->kind == BATCH) want.dim[made[k]->dim] = made[k]->unit * size_of(r, m);
            if (!mth__shape_equal(want, out[k]->shape))
                return INTERNAL("a microbatch of %s in %s has another shape than its rule says", n->op->name,
                    n->label.module ? n->label.module : "");
            made[k]->at[m] = out[k];
        }
    }
    return NULL;
}

static mth_status unroll(microbatch_pass *s, mth__node *n) {
    operand o[MTH__MAX_IN];
    bool batch = false, partial = false;
    for (int j = 0; j < n->nin; j++) {
        o[j] = look(s, n->in[j]);
        batch |= o[j].kind == BATCH;
        partial |= o[j].kind == PARTIAL;
    }
    if (!batch && !partial) {
        for (int j = 0; j < n->nin; j++) TRY(whole(s, n->in[j], &n->in[j]));
        for (int k = 0; k < n->nout; k++) {
            part *p = *AT_VALUE(s->arena, s->parts, n->out[k]) = NEW(s->arena, part);
            *p = (part){.kind = COMMON, .region = s->index, .whole = n->out[k]};
        }
        mth__rewrite_push(&s->rewrite, n);
        return NULL;
    }
    mth__rule rule;
    int f = -1;
    int64_t each = 1;
    mth__op_rule(n, &rule);
    if (batch)
        TRY(factor_of(s, n, &rule, o, &f, &each));
    else if (!passes_partial(n, o)) {
        int j = 0;
        while (o[j].kind != PARTIAL) j++;
        return refuse(s, n, n->in[j],
            F("%s is not linear in a sum over the batch, which is complete only behind the last microbatch",
                n->op->name));
    }
    return clone(s, n, o, &rule, f, each);
}

/* ---------------------------------------------------------------- the pass */
enum { MOST_MICROBATCHES = 1 << 15 }; /* A plan has nodes for each of them: planning this many takes seconds. */
static mth_status measure(mth__region *r) {
    if (!r->nin || r->in[0]->shape.rank < 1) {
        mth_status e =
            FAIL(MTH_ERROR_VALUE, F("the input of a pipeline needs a batch dimension to be cut into microbatches"),
                F("give an input of at least one dimension"));
        mth__error_operator(e, r->name ? r->name : "pipeline");
        return r->nin ? mth__error_tensor(e, mth__value_text(r->in[0])) : e;
    }
    r->batch = r->in[0]->shape.dim[0];
    int64_t n = r->batch <= r->microbatch_size ? 1 : mth__ceil_div(r->batch, r->microbatch_size);
    if (n > MOST_MICROBATCHES) {
        int64_t fits = mth__ceil_div(r->batch, MOST_MICROBATCHES);
        mth_status e = FAIL(MTH_ERROR_VALUE,
            F("a batch of %lld in microbatches of %d makes %lld microbatches, and a plan has at most %d",
                (long long)r->batch, r->microbatch_size, (long long)n, MOST_MICROBATCHES),
            F("give microbatch_size=%lld or more", (long long)fits));
        return mth__error_operator(e, r->name ? r->name : "pipeline");
    }
    r->microbatches = (int)n;
    return NULL;
}

/* Over how many devices the user splits the batch; 1 where microbatches don't divide by it. */
static int64_t lanes_of(const microbatch_pass *s, int index) {
    const mth__graph *g = s->graph;
    const mth__region *r = g->region.at[index];
    for (size_t i = 0; s->options && i < s->options->specs; i++)
        for (size_t k = 0; k < g->input.n; k++) {
            const mth__split *split = &s->options->spec[i].sharding.dim[0];
            const mth__shape *shape = &g->input.at[k]->shape;
            if (strcmp(g->input.at[k]->name, s->options->spec[i].name)) continue;
            if (shape->rank == 0 || shape->dim[0] != r->batch || !split->naxes) continue;
            int64_t lanes = 1;
            bool within = true; /* the stages have the axes */
            for (int a = 0; a < split->naxes; a++) {
                bool has = false;
                for (int b = 0; b < r->stage_on[0]->naxes; b++) has |= r->stage_on[0]->mesh_axis[b] == split->axis[a];
                lanes *= g->mesh->dim[split->axis[a]];
                within &= has;
            }
            if (!within || r->batch % lanes || r->microbatch_size % lanes) continue;
            for (size_t n = 0; n < g->node.n; n++) /* room for one more dimension */
                for (int j = 0; j < g->node.at[n]->nin && g->node.at[n]->label.region == index; j++)
                    if (g->node.at[n]->in[j]->shape.rank == MTH__RANK) return 1;
            return lanes;
        }
    return 1;
}

static mth_status run(microbatch_pass *s) {
    mth__graph *g = s->graph;
    s->lanes = NEW_ARRAY(s->arena, int64_t, g->region.n);
    for (size_t i = 0; i < g->region.n; i++) s->lanes[i] = lanes_of(s, (int)i);
    s->rewrite = mth__rewrite_begin(s->arena, g);
    for (size_t i = 0; i < s->rewrite.nodes; i++) {
        mth__node *node = s->rewrite.old[i];
        mth__region *r = node->label.region >= 0 ? g->region.at[node->label.region] : NULL;
        if (r && r->microbatches > 1) {
            if (s->index != node->label.region) {
                s->index = node->label.region;
                s->region = r;
                s->cuts.n = 0;
            }
            TRY(unroll(s, node));
            continue;
        }
        if (r) node->label.microbatch = 0;
        for (int j = 0; j < node->nin; j++) TRY(whole(s, node->in[j], &node->in[j]));
        mth__rewrite_push(&s->rewrite, node);
    }
    for (size_t i = 0; i < g->output.n; i++) TRY(whole(s, g->output.at[i].value, &g->output.at[i].value));
    mth__rewrite_end(&s->rewrite);
    return NULL;
}

mth_status mth__microbatch(mth__graph *g, const mth__distribute_options *o) {
    microbatch_pass s = {.graph = g, .options = o, .index = -1};
    for (size_t i = 0; i < g->region.n; i++) TRY(measure(g->region.at[i]));
    if (g->region.n) {
        s.arena = mth__arena_new();
        mth_status status = run(&s);
        mth__arena_free(s.arena);
        TRY(status);
    }
    mth__place_nodes(g);
    return NULL;
}
