/* A COMPUTE against its row of the catalog: shapes and dtypes as the row infers them; every factor cut alike on all
 * operands and results that have it; whole where it must be; and partial sums exactly where they arise or pass. */
#include "catalog/rows.h"
#include "emit/verify.h"
#include <string.h>

typedef struct {
    bool set;
    mth__cut as;
} cut; /* of a factor */
typedef struct {
    mth__verification *v;
    int i;
    const mth__instr *k;
    mth__rule rule;
    cut cut[MTH__FACTORS];
} row;

/* The node that this instruction would be in a graph, with results yet to be inferred. */
static mth__node *node_of(mth__verification *v, const mth__instr *k) {
    mth__node *n = &v->node;
    n->out = n->in + k->nin;
    n->op = k->op;
    n->attrs = *k->attrs;
    n->nin = k->nin;
    n->nout = k->nout;
    n->accumulates = k->accumulates;
    n->label = k->label;
    for (int j = 0; j < k->nin + k->nout; j++) {
        const mth__pvalue *p = &v->r->value.at[j < k->nin ? k->in[j] : k->out[j - k->nin]];
        n->in[j] = &v->value[j];
        v->value[j] = (mth__value){.id = j,
            .name = p->name,
            .dtype = p->dtype,
            .shape = p->shape,
            .sharding = p->sharding,
            .node = n,
            .index = j - k->nin};
    }
    return n;
}

/* One dimension that belongs to factor f, in units of `unit`. */
static mth_status check_cut(row *w, int f, int32_t unit, int d, int x) {
    const mth__pvalue *p = &w->v->r->value.at[x];
    const mth__split *s = &p->sharding.dim[d];
    if (f < 0)
        return s->naxes ? mth__refuse(w->v, w->i, x, F("dimension %d of %s is split, and can't be", d, p->name)) : NULL;
    cut *c = &w->cut[f];
    if (w->rule.factor[f].kind == MTH__WHOLE && s->naxes)
        return mth__refuse(w->v, w->i, x, F("dimension %d of %s is split, and must be whole", d, p->name));
    if (w->rule.factor[f].kind == MTH__WHOLE) return NULL; /* its sizes may differ: concat, slice */
    if (p->local.dim[d] % unit)
        return mth__refuse(w->v, w->i, x, F("dimension %d of %s is split inside a unit of %d", d, p->name, unit));
    const mth__cut as = {.n = p->shape.dim[d], .unit = unit, .split = *s};
    if (!c->set) *c = (cut){true, as};
    if (mth__verify_same_cut(p->sharding.on, &c->as, &as)) return NULL;
    return mth__refuse(
        w->v, w->i, x, F("dimension %d of %s is split otherwise than in the other operands and results", d, p->name));
}

static mth_status check_cuts(row *w) {
    const mth__instr *k = w->k;
    for (int j = 0; j < k->nin; j++)
        for (int d = 0; d < w->v->r->value.at[k->in[j]].shape.rank; d++)
            TRY(check_cut(w, w->rule.in[j][d], w->rule.in_unit[j][d], d, k->in[j]));
    for (int j = 0; j < k->nout; j++)
        for (int d = 0; d < w->v->r->value.at[k->out[j]].shape.rank; d++)
            TRY(check_cut(w, w->rule.out[j][d], w->rule.out_unit[j][d], d, k->out[j]));
    return NULL;
}

/* The axes over which the operands are partial, where the row lets that pass. */
static mth_status incoming(const row *w, unsigned *axes) {
    const mth__instr *k = w->k;
    const mth__op *op = k->op;
    int first = -1; /* of the operands of a JOINT row */
    *axes = 0;
    for (int j = 0; j < mth__row_operands(op, k->nin, k->accumulates); j++) {
        const mth__pvalue *p = &w->v->r->value.at[k->in[j]];
        bool linear = op->linear != MTH__LINEAR_NONE && op->linear_args >> j & 1;
        if (op->linear == MTH__LINEAR_JOINT && linear) {
            if (first < 0) first = k->in[j];
            if (p->sharding.partial != w->v->r->value.at[first].sharding.partial)
                return mth__refuse(
                    w->v, w->i, k->in[j], F("%s and the other operands are partial sums over different axes", p->name));
        } else if (p->sharding.partial && !linear) {
            return mth__refuse(w->v, w->i, k->in[j], F("uses %s, a partial sum, as a value", p->name));
        } else if (*axes & p->sharding.partial) {
            return mth__refuse(
                w->v, w->i, k->in[j], F("multiplies %s with another partial sum over the same axis", p->name));
        }
        if (p->sharding.partial && p->sharding.reduce != MTH__REDUCE_SUM)
            return mth__refuse(w->v, w->i, k->in[j], F("uses %s, a partial maximum, as a value", p->name));
        *axes |= p->sharding.partial;
    }
    return NULL;
}

static unsigned axes_of(const mth__split *s) {
    unsigned axes = 0;
    for (int i = 0; i < s->naxes; i++) axes |= 1u << s->axis[i];
    return axes;
}

static mth_status check_partial(const row *w) {
    const mth__instr *k = w->k;
    unsigned in, split = 0;
    TRY(incoming(w, &in));
    for (int f = 0; f < w->rule.n; f++) split |= axes_of(&w->cut[f].as.split);
    if (in & split)
        return mth__refuse(
            w->v, w->i, k->in[0], F("an axis splits a dimension, and an operand is a partial sum over it"));
    for (int j = 0; j < k->nout; j++) {
        const mth__pvalue *p = &w->v->r->value.at[k->out[j]];
        unsigned sum = in, max = 0, has = 0;
        for (int d = 0; d < p->shape.rank; d++)
            if (w->rule.out[j][d] >= 0) has |= 1u << w->rule.out[j][d];
        for (int f = 0; f < w->rule.n; f++) {
            if (has >> f & 1) continue;
            unsigned axes = axes_of(&w->cut[f].as.split);
            if (axes && w->rule.factor[f].kind == MTH__PASS)
                return mth__refuse(
                    w->v, w->i, k->out[j], F("%s lacks a dimension over which its operands are split", p->name));
            *(w->rule.factor[f].kind == MTH__MAX ? &max : &sum) |= axes;
        }
        if (sum && max)
            return mth__refuse(
                w->v, w->i, k->out[j], F("%s would be both a partial sum and a partial maximum", p->name));
        if (p->sharding.partial != (sum | max) ||
            (p->sharding.partial && p->sharding.reduce != (max ? MTH__REDUCE_MAX : MTH__REDUCE_SUM)))
            return mth__refuse(w->v, w->i, k->out[j],
                F("%s is said to be %s, and is %s", p->name,
                    p->sharding.partial ? "a partial sum over some axes" : "whole",
                    sum | max ? "a partial sum over others" : "no partial sum"));
    }
    return NULL;
}

/* What is added to a partial sum is one over the same axes. */
static mth_status check_accumulators(const row *w) {
    const mth__instr *k = w->k;
    for (int j = 0; k->accumulates && j < k->nout; j++) {
        const int sum = mth__accumulator(k->op, k->nin, j);
        if (sum < 0) continue;
        const mth__pvalue *from = &w->v->r->value.at[k->in[sum]], *to = &w->v->r->value.at[k->out[j]];
        bool same = from->sharding.partial == to->sharding.partial && from->sharding.reduce == to->sharding.reduce;
        if (same || (!from->sharding.partial && !to->sharding.partial)) continue;
        return mth__refuse(w->v, w->i, k->in[sum],
            F("adds to %s, which is a partial sum over other axes than %s", from->name, to->name));
    }
    return NULL;
}

static bool is_inside(mth__extent part, mth__extent whole) {
    int64_t low = part.start - whole.start, last = low + (part.size - 1) * part.step;
    return low >= 0 && low % whole.step == 0 && last <= (whole.size - 1) * whole.step &&
        (part.size == 1 || part.step % whole.step == 0);
}

static mth__extent extent_on(
    const mth__verification *v, int64_t n, const mth__split *split, const mth__placement *on, int i) {
    int coordinate[MTH__AXES];
    mth__placement_coordinates(on, on->rank_of[v->r->device[i]], coordinate);
    return mth__split_extent(n, split, on, coordinate);
}

/* A device of the role on which dimension d of x is neither empty nor in its part of `in`; -1: none. */
static mth_status find_unkept(mth__verification *v, int in, int x, int d, int *device) {
    const mth__pvalue *a = &v->r->value.at[in], *b = &v->r->value.at[x];
    const mth__kept k = {a->shape.dim[d], a->sharding.dim[d], b->sharding.dim[d], a->sharding.on, b->sharding.on};
    bool kept = k.from.naxes == 0 || (k.from_on == k.to_on && mth__split_begins(k.n, &k.from, &k.to, k.from_on));
    *device = -1;
    for (int i = 0; i < MTH__KEPT && !kept; i++) {
        const mth__kept *known = &v->kept[i];
        kept = known->n == k.n && known->from_on == k.from_on && known->to_on == k.to_on &&
            mth__split_equal(&known->from, &k.from) && mth__split_equal(&known->to, &k.to);
    }
    if (kept) return NULL;
    TRY(mth__verify_look(v, x));
    for (int i = 0; i < v->r->ndevice; i++) {
        mth__extent part = extent_on(v, k.n, &k.to, k.to_on, i);
        if (!part.size || is_inside(part, extent_on(v, k.n, &k.from, k.from_on, i))) continue;
        *device = v->r->device[i];
        return NULL;
    }
    v->kept[v->kept_next] = k;
    v->kept_next = (v->kept_next + 1) % MTH__KEPT;
    return NULL;
}

/* keep: each device's part of the result lies in its part of the operand. */
static mth_status check_keep(mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const mth__pvalue *in = &v->r->value.at[k->in[0]], *out = &v->r->value.at[k->out[0]];
    const mth__sharding *a = &in->sharding, *b = &out->sharding;
    if (a->partial != b->partial || (a->partial && (a->on != b->on || a->reduce != b->reduce)))
        return mth__refuse(v, i, k->out[0], F("keeps a part of another partial sum"));
    for (int d = 0; d < in->shape.rank; d++) {
        int device;
        TRY(find_unkept(v, k->in[0], k->out[0], d, &device));
        if (device >= 0)
            return mth__refuse(v, i, k->out[0],
                F("device %d does not hold in %s all that it keeps as %s", device, in->name, out->name));
    }
    return NULL;
}

/* The results are what the row infers. *out: the node that the instruction would be. */
static mth_status check_shapes(mth__verification *v, int i, mth__node **out) {
    const mth__instr *k = &v->r->instr.at[i];
    if (k->op->flags & MTH__ALIAS) return mth__refuse(v, i, -1, F("moves nothing: it is a view, no instruction"));
    if (k->op->flags & MTH__COMM && k->op->row != MTH__ROW_keep)
        return mth__refuse(v, i, -1, F("is communication, which needs a channel"));
    mth__node *n = node_of(v, k);
    mth_status bad = mth__op_infer(n);
    if (bad) return mth__refuse_for(v, i, k->nin ? k->in[0] : -1, bad);
    for (int j = 0; j < k->nout; j++) {
        const mth__pvalue *p = &v->r->value.at[k->out[j]];
        if (n->out[j]->dtype != p->dtype || !mth__shape_equal(n->out[j]->shape, p->shape))
            return mth__refuse(v, i, k->out[j], F("its result %s has another shape or dtype", p->name));
    }
    *out = n;
    return NULL;
}

mth_status mth__verify_layouts(mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    mth__node *n;
    TRY(check_shapes(v, i, &n));
    for (int j = 0; j < k->nin + k->nout; j++) {
        const int x = j < k->nin ? k->in[j] : k->out[j - k->nin];
        const mth__sharding *layout = k->layouts ? &k->layouts[j] : &v->r->value.at[x].sharding;
        if (layout->on != v->p->mesh->whole)
            return mth__refuse(v, i, x, F("%s is laid out on a part of the mesh", v->r->value.at[x].name));
        mth_status bad = mth__sharding_check(layout, v->r->value.at[x].shape);
        if (bad) return mth__refuse_for(v, i, x, bad);
    }
    return NULL;
}

mth_status mth__verify_row(mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    mth__node *n;
    TRY(check_shapes(v, i, &n));
    if (k->op->row == MTH__ROW_keep) return check_keep(v, i);
    for (int j = 0; j < k->nin; j++)
        if (v->r->value.at[k->in[j]].sharding.on != v->r->value.at[k->out[0]].sharding.on)
            return mth__refuse(
                v, i, k->in[j], F("%s lies on another placement than the result", v->r->value.at[k->in[j]].name));
    for (int j = 1; j < k->nout; j++)
        if (v->r->value.at[k->out[j]].sharding.on != v->r->value.at[k->out[0]].sharding.on)
            return mth__refuse(v, i, k->out[j], F("its results lie on several placements"));
    row w = {.v = v, .i = i, .k = k};
    mth__op_rule(n, &w.rule);
    TRY(check_cuts(&w));
    TRY(check_partial(&w));
    return check_accumulators(&w);
}
