/* What consumers would like their operands to be: from specs of outputs and fixed weights backward through the chain,
 * so that a node may choose the split that the next ones need anyway. Only proposals: shard.c weighs them by cost. */
#include "distribute/choice.h"
#include <string.h>

/* A fixed parameter's splits, those that the user fixed. */
static mth__sharding fixed_part(const mth__value *value) {
    mth__sharding sharding = value->sharding;
    for (int d = 0; d < value->shape.rank && !value->pinned; d++)
        if (!value->fixed[d]) memset(&sharding.dim[d], 0, sizeof sharding.dim[d]);
    return sharding;
}

static void wish(const mth__propagation *pass, const mth__node *node) {
    mth__proposal source[MTH__SOURCES];
    mth__rule rule;
    int sources = 0;
    bool any = false;
    for (int j = 0; j < node->nin; j++) {
        const mth__value *value = node->in[j];
        any |= value->kind == MTH__VALUE_PARAMETER && mth__sharding_axes(&value->sharding, value->shape.rank);
    }
    for (int k = 0; k < node->nout && !any; k++) any = mth__info_of(pass, node->out[k])->wish != NULL;
    if (!any) return;
    mth__op_rule(node, &rule);
    for (int j = 0; j < node->nin; j++)
        if (node->in[j]->kind == MTH__VALUE_PARAMETER &&
            (node->in[j]->sharding.on == node->on || node->in[j]->copied)) {
            mth__sharding sharding = fixed_part(node->in[j]);
            if (sharding.on != node->on) sharding = mth__sharding_carry(&sharding, node->in[j]->shape, node->on);
            mth__propose(&rule, rule.in[j], rule.in_unit[j], &sharding, node->in[j], source, &sources);
        }
    for (int k = 0; k < node->nout; k++) {
        const mth__sharding *wished = mth__info_of(pass, node->out[k])->wish;
        if (wished && wished->on == node->on)
            mth__propose(&rule, rule.out[k], rule.out_unit[k], wished, node->out[k], source, &sources);
    }
    if (!sources) return;
    mth__assignment assignment;
    memset(&assignment, 0, sizeof assignment);
    unsigned used = 0;
    for (int i = 0; i < sources; i++) { /* earlier proposals bind */
        unsigned axes = 0;
        for (int k = 0; k < source[i].split.naxes; k++) axes |= 1u << source[i].split.axis[k];
        if ((axes & used) || assignment.of[source[i].factor].naxes) continue;
        assignment.of[source[i].factor] = source[i].split;
        used |= axes;
    }
    for (int j = 0; j < node->nin; j++) {
        mth__value *value = node->in[j];
        if (value->kind != MTH__VALUE_NODE) continue;
        mth__sharding sharding = mth__assigned(&rule, rule.in[j], rule.in_unit[j], &assignment, value->shape, node->on);
        if (!mth__sharding_axes(&sharding, value->shape.rank)) continue;
        if (value->sharding.on != node->on) {
            sharding = mth__sharding_carry(&sharding, value->shape, value->sharding.on);
            if (!mth__sharding_axes(&sharding, value->shape.rank)) continue;
        }
        mth__sharding *lasting = NEW(pass->arena, mth__sharding);
        *lasting = sharding;
        mth__info_of(pass, value)->wish = lasting;
    }
}

void mth__shard_wishes(const mth__propagation *pass) {
    for (size_t i = pass->graph->node.n; i-- > 0;)
        if (pass->graph->node.at[i]->on->count > 1) wish(pass, pass->graph->node.at[i]);
}
