/* Factors and mesh axes: proposals, assignments, and what they mean for operands and results. */
#include "distribute/choice.h"
#include <string.h>

void mth__propose(const mth__rule *rule, const int8_t *of, const int32_t *unit, const mth__sharding *sharding,
    const mth__value *value, mth__proposal *out, int *n) {
    for (int d = 0; d < value->shape.rank; d++) {
        const mth__split *have = &sharding->dim[d];
        int factor = of[d];
        if (!have->naxes || factor < 0 || rule->factor[factor].kind == MTH__WHOLE || *n == MTH__SOURCES) continue;
        mth__split split = *have;
        if (split.cyclic && unit[d] > 1) continue;
        if (split.grain > 1) split.grain = split.grain > unit[d] ? split.grain / unit[d] : 1;
        out[(*n)++] = (mth__proposal){(int8_t)factor, split, value};
    }
}

mth__split mth__compose_split(const mth__proposal *source, int n, int factor, unsigned axes) {
    mth__split split;
    memset(&split, 0, sizeof split);
    if (!axes) return split;
    /* first a proposal of just these axes, then all that have some of them */
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n; i++) {
            const mth__split *proposed = &source[i].split;
            unsigned has = 0;
            if (source[i].factor != factor) continue;
            for (int k = 0; k < proposed->naxes; k++) has |= 1u << proposed->axis[k];
            if (pass == 0) {
                if (has == axes) return *proposed;
                continue;
            }
            for (int k = 0; k < proposed->naxes; k++)
                if (axes >> proposed->axis[k] & 1) {
                    if (!split.naxes) split.grain = proposed->grain;
                    split.axis[split.naxes++] = proposed->axis[k];
                    axes &= ~(1u << proposed->axis[k]);
                    split.cyclic = proposed->cyclic && split.naxes == 1;
                }
        }
    return split;
}

mth__sharding mth__assigned(const mth__rule *rule, const int8_t *of, const int32_t *unit,
    const mth__assignment *assignment, mth__shape shape, const mth__placement *on) {
    mth__sharding sharding;
    memset(&sharding, 0, sizeof sharding);
    sharding.on = on;
    bool any = false;
    for (int d = 0; d < shape.rank; d++) {
        int factor = of[d];
        if (factor < 0 || !assignment->of[factor].naxes || rule->factor[factor].kind == MTH__WHOLE) continue;
        sharding.dim[d] = assignment->of[factor];
        sharding.dim[d].grain = (sharding.dim[d].grain > 1 ? sharding.dim[d].grain : 1) * unit[d];
        any = true;
    }
    if (any) mth__sharding_canonical(&sharding, shape);
    return sharding;
}

unsigned mth__partial_of(
    const mth__rule *rule, const mth__node *node, int k, const mth__assignment *assignment, uint8_t *reduce) {
    unsigned axes = 0;
    *reduce = MTH__REDUCE_SUM;
    for (int factor = 0; factor < rule->n; factor++) {
        if (!assignment->of[factor].naxes ||
            (rule->factor[factor].kind != MTH__SUM && rule->factor[factor].kind != MTH__MAX))
            continue;
        bool has = false;
        for (int d = 0; d < node->out[k]->shape.rank && !has; d++) has = rule->out[k][d] == factor;
        if (has) continue;
        for (int i = 0; i < assignment->of[factor].naxes; i++) axes |= 1u << assignment->of[factor].axis[i];
        if (rule->factor[factor].kind == MTH__MAX) *reduce = MTH__REDUCE_MAX;
    }
    return axes;
}

double mth__fraction(const mth__rule *rule, const mth__assignment *assignment, const mth__placement *on) {
    double part = 1;
    for (int factor = 0; factor < rule->n; factor++)
        if (assignment->of[factor].naxes && rule->factor[factor].size > 0)
            part *= (double)mth__split_size(rule->factor[factor].size, &assignment->of[factor], on) /
                (double)rule->factor[factor].size;
    return part;
}

unsigned mth__pass_axes(const mth__propagation *pass, const mth__node *node) {
    if (node->op->linear == MTH__LINEAR_NONE) return 0;
    unsigned axes = 0;
    int partial = 0, linear = 0;
    for (int j = 0; j < node->nin; j++) {
        const mth__sharding *sharding = &node->in[j]->sharding;
        bool is_linear = node->op->linear_args >> j & 1;
        linear += is_linear;
        if (!sharding->partial) continue;
        if (!is_linear || sharding->reduce != MTH__REDUCE_SUM || sharding->on != node->on ||
            mth__info_of(pass, node->in[j])->uses > 1)
            return 0;
        if (partial++ && axes != sharding->partial) return 0;
        axes = sharding->partial;
    }
    if (node->op->linear == MTH__LINEAR_EACH ? partial != 1 : partial != linear) return 0;
    return axes;
}
