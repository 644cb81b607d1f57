/* What consumers would like their operands to be: from specs of outputs and fixed weights backward through the chain,
 * so that a node may choose the split that the next ones need anyway. Only proposals: shard.c weighs them by cost. */
#include "distribute/choice.h"
#include <string.h>

/* A fixed parameter's splits, those that the user fixed. */
static mth__sharding fixed_part(const mth__value *v) {
    mth__sharding s = v->sharding;
    for (int d = 0; d < v->shape.rank && !v->pinned; d++)
        if (!v->fixed[d]) memset(&s.dim[d], 0, sizeof s.dim[d]);
    return s;
}

static void wish(const mth__propagation *pass, const mth__node *n) {
    mth__proposal source[MTH__SOURCES];
    mth__rule rule;
    int sources = 0;
    bool any = false;
    for (int j = 0; j < n->nin; j++) {
        const mth__value *v = n->in[j];
        any |= v->kind == MTH__VALUE_PARAMETER && mth__sharding_axes(&v->sharding, v->shape.rank);
    }
    for (int k = 0; k < n->nout && !any; k++) any = mth__info_of(pass, n->out[k])->wish != NULL;
    if (!any) return;
    mth__op_rule(n, &rule);
    for (int j = 0; j < n->nin; j++)
        if (n->in[j]->kind == MTH__VALUE_PARAMETER && (n->in[j]->sharding.on == n->on || n->in[j]->copied)) {
            mth__sharding s = fixed_part(n->in[j]);
            if (s.on != n->on) s = mth__sharding_carry(&s, n->in[j]->shape, n->on);
            mth__propose(&rule, rule.in[j], rule.in_unit[j], &s, n->in[j], source, &sources);
        }
    for (int k = 0; k < n->nout; k++) {
        const mth__sharding *w = mth__info_of(pass, n->out[k])->wish;
        if (w && w->on == n->on) mth__propose(&rule, rule.out[k], rule.out_unit[k], w, n->out[k], source, &sources);
    }
    if (!sources) return;
    mth__assignment a;
    memset(&a, 0, sizeof a);
    unsigned used = 0;
    for (int i = 0; i < sources; i++) { /* earlier proposals bind */
        unsigned axes = 0;
        for (int k = 0; k < source[i].split.naxes; k++) axes |= 1u << source[i].split.axis[k];
        if ((axes & used) || a.of[source[i].factor].naxes) continue;
        a.of[source[i].factor] = source[i].split;
        used |= axes;
    }
    for (int j = 0; j < n->nin; j++) {
        mth__value *v = n->in[j];
        if (v->kind != MTH__VALUE_NODE) continue;
        mth__sharding s = mth__assigned(&rule, rule.in[j], rule.in_unit[j], &a, v->shape, n->on);
        if (!mth__sharding_axes(&s, v->shape.rank)) continue;
        if (v->sharding.on != n->on) {
            s = mth__sharding_carry(&s, v->shape, v->sharding.on);
            if (!mth__sharding_axes(&s, v->shape.rank)) continue;
        }
        mth__sharding *kept = NEW(pass->arena, mth__sharding);
        *kept = s;
        mth__info_of(pass, v)->wish = kept;
    }
}

void mth__shard_wishes(const mth__propagation *pass) {
    for (size_t i = pass->graph->node.n; i-- > 0;)
        if (pass->graph->node.at[i]->on->count > 1) wish(pass, pass->graph->node.at[i]);
}
