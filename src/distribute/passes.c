/* The passes of this folder in a row, and what holds of a graph after each. */
#include "distribute/decide.h"

static mth_status reshard(mth__graph *graph, const mth__distribute_options *options) {
    (void)options;
    return mth__reshard(graph);
}
static mth_status accumulate(mth__graph *graph, const mth__distribute_options *options) {
    (void)options;
    return mth__accumulate(graph);
}
static mth_status overlap(mth__graph *graph, const mth__distribute_options *options) {
    return options->overlap ? mth__overlap(graph, options) : NULL;
}
static mth_status (*const run[])(mth__graph *, const mth__distribute_options *) = {
    [MTH__PASS_PARTITION] = mth__partition,
    [MTH__PASS_MICROBATCH] = mth__microbatch,
    [MTH__PASS_PLACE] = mth__place,
    [MTH__PASS_SHARD] = mth__shard,
    [MTH__PASS_RESHARD] = reshard,
    [MTH__PASS_COMMUNICATION] = mth__communication,
    [MTH__PASS_SCHEDULE] = mth__schedule,
    [MTH__PASS_OVERLAP] = overlap,
    [MTH__PASS_ACCUMULATE] = accumulate,
};

mth_status mth__distribute(
    mth__graph *graph, const mth__distribute_options *options, mth__distribute_pass first, mth__distribute_pass last) {
    for (int pass = (int)first; pass <= (int)last; pass++) {
        TRY(run[pass](graph, options));
#ifndef NDEBUG
        TRY(mth__distribute_check(graph, (mth__distribute_pass)pass));
#endif
    }
    return NULL;
}

/* ---------------------------------------------------------------- invariants */
static bool canonical(const mth__sharding *sharding, mth__shape shape) {
    mth__sharding same = *sharding;
    mth__sharding_canonical(&same, shape);
    return mth__sharding_equal(&same, sharding, shape.rank);
}

static mth_status check_value(const mth__value *value, mth__distribute_pass after) {
    if (!value->sharding.on) return INTERNAL("value %%%d has no placement", value->id);
    if (after >= MTH__PASS_SHARD && !canonical(&value->sharding, value->shape))
        return mth__error_tensor(
            INTERNAL("the sharding of value %%%d is not canonical", value->id), mth__value_text(value));
    return NULL;
}

static mth_status check_operand(const mth__node *node, int j, mth__distribute_pass after) {
    const mth__value *value = node->in[j];
    const mth__sharding *need = node->need ? &node->need[j] : NULL;
    if (!need) return INTERNAL("node %d, %s, does not say how it takes its operands", node->id, node->op->name);
    if (!mth__is_comm(node) && need->on != node->on)
        return INTERNAL("node %d, %s, takes operand %d elsewhere than it runs", node->id, node->op->name, j);
    if (!canonical(need, value->shape))
        return INTERNAL(
            "node %d, %s, takes operand %d in a sharding that is not canonical", node->id, node->op->name, j);
    bool as_it_is = value->sharding.on == need->on && mth__sharding_equal(&value->sharding, need, value->shape.rank);
    if (after >= MTH__PASS_RESHARD && !as_it_is)
        return mth__error_tensor(
            INTERNAL("node %d, %s, takes operand %d otherwise than it is", node->id, node->op->name, j),
            mth__value_text(value));
    return NULL;
}

mth_status mth__distribute_check(const mth__graph *graph, mth__distribute_pass after) {
    TRY(mth__graph_check(graph));
    if (after < MTH__PASS_PLACE) return NULL;
    for (size_t i = 0; i < mth__graph_sources(graph); i++) TRY(check_value(mth__graph_source(graph, i), after));
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        if (!node->on) return INTERNAL("node %d, %s, has no placement", node->id, node->op->name);
        for (int k = 0; k < node->nout; k++) {
            TRY(check_value(node->out[k], after));
            if (node->out[k]->sharding.on != node->on)
                return INTERNAL("node %d, %s, makes result %d elsewhere than it runs", node->id, node->op->name, k);
        }
        for (int j = 0; j < node->nin && after >= MTH__PASS_SHARD; j++) TRY(check_operand(node, j, after));
    }
    for (size_t i = 0; i < graph->output.n && after >= MTH__PASS_RESHARD; i++) {
        const mth__output *output = &graph->output.at[i];
        const mth__sharding *sharding = &output->value->sharding;
        if (sharding->partial || !mth__sharding_equal(sharding, &output->leaves, output->value->shape.rank))
            return mth__error_tensor(
                INTERNAL("output %s leaves otherwise than it is to", output->name), mth__value_text(output->value));
    }
    return NULL;
}
