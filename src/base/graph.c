#include "base/graph.h"
#include <stdio.h>

mth__graph *mth__graph_new(mth__arena *arena, mth__mesh *mesh) {
    mth__graph *graph = NEW(arena, mth__graph);
    graph->arena = arena;
    graph->mesh = mesh;
    return graph;
}

mth__value *mth__graph_value(
    mth__graph *graph, mth__value_kind kind, const char *name, mth_dtype dtype, mth__shape shape) {
    mth__value *value = NEW(graph->arena, mth__value);
    value->id = graph->values++;
    value->kind = kind;
    value->name = name ? mth__copy_text(graph->arena, name) : NULL;
    value->dtype = dtype;
    value->shape = shape;
    switch (kind) {
    case MTH__VALUE_INPUT: PUSH(graph->arena, graph->input, value); break;
    case MTH__VALUE_PARAMETER: PUSH(graph->arena, graph->parameter, value); break;
    case MTH__VALUE_SEED: PUSH(graph->arena, graph->seed, value); break;
    case MTH__VALUE_NODE: break;
    }
    return value;
}

char *mth__value_text(const mth__value *value) {
    char number[24], shape[256], where[512];
    mth__shape_write(shape, sizeof shape, value->shape);
    mth__sink sink = mth__sink_new(where, sizeof where);
    if (value->sharding.on) {
        bool split = mth__sharding_axes(&value->sharding, value->shape.rank), single = value->sharding.on->count == 1;
        mth__sink_add(&sink, "%s", split ? ", sharded " : single ? ", whole " : ", replicated ");
        mth__where_write(where + sink.n, sizeof where - sink.n, &value->sharding, value->shape.rank);
    }
    const char *name = value->name ? value->name : value->wire;
    if (!name && value->node && value->node->label.module)
        return F("a value inside %s: %s %s%s", value->node->label.module, mth__value_dtype(value), shape, where);
    mth__print(number, sizeof number, "%%%d", value->id);
    return F("%s: %s %s%s", name ? name : number, mth__value_dtype(value), shape, where);
}

const char *mth__value_label(mth__arena *arena, const mth__value *value) {
    return value->name ? value->name : mth__format(arena, "%%%d", value->id);
}

const char *mth__origin_text(mth__arena *arena, const mth__origin *origin) {
    if (origin->said || !origin->from) return origin->said;
    return mth__format(arena, "from %s by factor %c", mth__value_label(arena, origin->from), origin->factor);
}

/* ---------------------------------------------------------------- invariants */
static mth_status check_value(const mth__graph *graph, const mth__value *value) {
    if (value->id < 0 || value->id >= graph->values)
        return INTERNAL("value %%%d: ids end at %d", value->id, graph->values);
    if (!mth_dtype_size(value->dtype)) return INTERNAL("value %%%d has no dtype", value->id);
    if (value->shape.rank < 0 || value->shape.rank > MTH__RANK)
        return INTERNAL("value %%%d has rank %d", value->id, value->shape.rank);
    unsigned used = 0;
    const mth__placement *on = value->sharding.on;
    for (int d = 0; on && d < value->shape.rank; d++)
        for (int i = 0; i < value->sharding.dim[d].naxes; i++) {
            int axis = value->sharding.dim[d].axis[i];
            if (axis < 0 || axis >= on->naxes || used >> axis & 1)
                return INTERNAL("value %%%d: axis %d of dimension %d is unknown or split twice", value->id, axis, d);
            used |= 1u << axis;
        }
    if (on && (used & value->sharding.partial))
        return INTERNAL("value %%%d is split and partial over the same axis", value->id);
    return NULL;
}

/* made: by id, as far as the walk has come */
static mth_status check(const mth__graph *graph, const mth__value **made) {
    const struct {
        mth__value *const *at;
        size_t n;
        mth__value_kind kind;
    } sources[] = {{graph->input.at, graph->input.n, MTH__VALUE_INPUT},
        {graph->parameter.at, graph->parameter.n, MTH__VALUE_PARAMETER},
        {graph->seed.at, graph->seed.n, MTH__VALUE_SEED}};
    for (size_t k = 0; k < sizeof sources / sizeof *sources; k++)
        for (size_t i = 0; i < sources[k].n; i++) {
            const mth__value *value = sources[k].at[i];
            TRY(check_value(graph, value));
            if (value->kind != sources[k].kind || value->node || !value->name)
                return INTERNAL("value %%%d is listed as what it is not", value->id);
            if (made[value->id]) return INTERNAL("value %%%d is listed twice", value->id);
            made[value->id] = value;
        }
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        if (node->id != (int)i) return INTERNAL("node %d stands at %zu", node->id, i);
        if (!node->op || node->nin < 0 || node->nin > MTH__MAX_IN || node->nout < 1 || node->nout > MTH__MAX_OUT)
            return INTERNAL("node %d has %d operands and %d results", node->id, node->nin, node->nout);
        for (int j = 0; j < node->nin; j++) {
            const mth__value *value = node->in[j];
            if (!value || value->id < 0 || value->id >= graph->values || made[value->id] != value)
                return INTERNAL(
                    "node %d uses %%%d, operand %d, before it is made", node->id, value ? value->id : -1, j);
        }
        for (int j = 0; j < node->nout; j++) {
            const mth__value *value = node->out[j];
            if (!value || value->node != node || value->index != j || value->kind != MTH__VALUE_NODE)
                return INTERNAL("node %d: result %d has another maker", node->id, j);
            TRY(check_value(graph, value));
            if (made[value->id]) return INTERNAL("value %%%d is made twice", value->id);
            made[value->id] = value;
        }
    }
    for (size_t i = 0; i < graph->output.n; i++) {
        const mth__value *value = graph->output.at[i].value;
        if (!value || value->id < 0 || value->id >= graph->values || made[value->id] != value)
            return INTERNAL("output %s is not made", graph->output.at[i].name);
    }
    return NULL;
}

mth_status mth__graph_check(const mth__graph *graph) {
    mth__arena *scratch = mth__arena_new();
    mth_status status = check(graph, NEW_ARRAY(scratch, const mth__value *, graph->values + 1));
    mth__arena_free(scratch);
    return status;
}
