/* Factors and mesh axes: proposals, assignments, and what they mean for operands and results. */
#include "distribute/choice.h"
#include <string.h>

void mth__propose(const mth__rule *r, const int8_t *of, const int32_t *unit, const mth__sharding *s,
    const mth__value *v, mth__proposal *out, int *n) {
    for (int d = 0; d < v->shape.rank; d++) {
        const mth__split *have = &s->dim[d];
        int f = of[d];
        if (!have->naxes || f < 0 || r->factor[f].kind == MTH__WHOLE || *n == MTH__SOURCES) continue;
        mth__split split = *have;
        if (split.cyclic && unit[d] > 1) continue;
        if (split.grain > 1) split.grain = split.grain > unit[d] ? split.grain / unit[d] : 1;
        out[(*n)++] = (mth__proposal){(int8_t)f, split, v};
    }
}

mth__split mth__compose_split(const mth__proposal *source, int n, int f, unsigned axes) {
    mth__split split;
    memset(&split, 0, sizeof split);
    if (!axes) return split;
    /* first a proposal of just these axes, then all that have some of them */
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n; i++) {
            const mth__split *s = &source[i].split;
            unsigned has = 0;
            if (source[i].factor != f) continue;
            for (int k = 0; k < s->naxes; k++) has |= 1u << s->axis[k];
            if (pass == 0) {
                if (has == axes) return *s;
                continue;
            }
            for (int k = 0; k < s->naxes; k++)
                if (axes >> s->axis[k] & 1) {
                    if (!split.naxes) split.grain = s->grain;
                    split.axis[split.naxes++] = s->axis[k];
                    axes &= ~(1u << s->axis[k]);
                    split.cyclic = s->cyclic && split.naxes == 1;
                }
        }
    return split;
}

mth__sharding mth__assigned(const mth__rule *r, const int8_t *of, const int32_t *unit, const mth__assignment *a,
    mth__shape shape, const mth__placement *on) {
    mth__sharding s;
    memset(&s, 0, sizeof s);
    s.on = on;
    bool any = false;
    for (int d = 0; d < shape.rank; d++) {
        int f = of[d];
        if (f < 0 || !a->of[f].naxes || r->factor[f].kind == MTH__WHOLE) continue;
        s.dim[d] = a->of[f];
        s.dim[d].grain = (s.dim[d].grain > 1 ? s.dim[d].grain : 1) * unit[d];
        any = true;
    }
    if (any) mth__sharding_canonical(&s, shape);
    return s;
}

unsigned mth__partial_of(const mth__rule *r, const mth__node *n, int k, const mth__assignment *a, uint8_t *reduce) {
    unsigned axes = 0;
    *reduce = MTH__REDUCE_SUM;
    for (int f = 0; f < r->n; f++) {
        if (!a->of[f].naxes || (r->factor[f].kind != MTH__SUM && r->factor[f].kind != MTH__MAX)) continue;
        bool has = false;
        for (int d = 0; d < n->out[k]->shape.rank && !has; d++) has = r->out[k][d] == f;
        if (has) continue;
        for (int i = 0; i < a->of[f].naxes; i++) axes |= 1u << a->of[f].axis[i];
        if (r->factor[f].kind == MTH__MAX) *reduce = MTH__REDUCE_MAX;
    }
    return axes;
}

double mth__fraction(const mth__rule *r, const mth__assignment *a, const mth__placement *on) {
    double part = 1;
    for (int f = 0; f < r->n; f++)
        if (a->of[f].naxes && r->factor[f].size > 0)
            part *= (double)mth__split_size(r->factor[f].size, &a->of[f], on) / (double)r->factor[f].size;
    return part;
}

unsigned mth__pass_axes(const mth__propagation *pass, const mth__node *n) {
    if (n->op->linear == MTH__LINEAR_NONE) return 0;
    unsigned axes = 0;
    int partial = 0, linear = 0;
    for (int j = 0; j < n->nin; j++) {
        const mth__sharding *s = &n->in[j]->sharding;
        bool is_linear = n->op->linear_args >> j & 1;
        linear += is_linear;
        if (!s->partial) continue;
        if (!is_linear || s->reduce != MTH__REDUCE_SUM || s->on != n->on || mth__info_of(pass, n->in[j])->uses > 1)
            return 0;
        if (partial++ && axes != s->partial) return 0;
        axes = s->partial;
    }
    if (n->op->linear == MTH__LINEAR_EACH ? partial != 1 : partial != linear) return 0;
    return axes;
}
