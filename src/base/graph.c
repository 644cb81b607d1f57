#include "base/graph.h"
#include <stdio.h>

mth__graph *mth__graph_new(mth__arena *arena, mth__mesh *mesh) {
    mth__graph *g = NEW(arena, mth__graph);
    g->arena = arena;
    g->mesh = mesh;
    return g;
}

mth__value *mth__graph_value(mth__graph *g, mth__value_kind kind, const char *name, mth_dtype dtype, mth__shape shape) {
    mth__value *v = NEW(g->arena, mth__value);
    v->id = g->values++;
    v->kind = kind;
    v->name = name ? mth__copy_text(g->arena, name) : NULL;
    v->dtype = dtype;
    v->shape = shape;
    switch (kind) {
    case MTH__VALUE_INPUT: PUSH(g->arena, g->input, v); break;
    case MTH__VALUE_PARAMETER: PUSH(g->arena, g->parameter, v); break;
    case MTH__VALUE_SEED: PUSH(g->arena, g->seed, v); break;
    case MTH__VALUE_NODE: break;
    }
    return v;
}

char *mth__value_text(const mth__value *v) {
    char number[24], shape[256], where[512];
    mth__shape_write(shape, sizeof shape, v->shape);
    mth__sink s = mth__sink_new(where, sizeof where);
    if (v->sharding.on) {
        bool split = mth__sharding_axes(&v->sharding, v->shape.rank), single = v->sharding.on->count == 1;
        mth__sink_add(&s, "%s", split ? ", sharded " : single ? ", whole " : ", replicated ");
        mth__where_write(where + s.n, sizeof where - s.n, &v->sharding, v->shape.rank);
    }
    const char *name = v->name ? v->name : v->wire;
    if (!name && v->node && v->node->label.module)
        return F("a value inside %s: %s %s%s", v->node->label.module, mth_dtype_name(v->dtype), shape, where);
    mth__print(number, sizeof number, "%%%d", v->id);
    return F("%s: %s %s%s", name ? name : number, mth_dtype_name(v->dtype), shape, where);
}

const char *mth__value_label(mth__arena *arena, const mth__value *v) {
    return v->name ? v->name : mth__format(arena, "%%%d", v->id);
}

/* ---------------------------------------------------------------- invariants */
static mth_status check_value(const mth__graph *g, const mth__value *v) {
    if (v->id < 0 || v->id >= g->values) return INTERNAL("value %%%d: ids end at %d", v->id, g->values);
    if (!mth_dtype_size(v->dtype)) return INTERNAL("value %%%d has no dtype", v->id);
    if (v->shape.rank < 0 || v->shape.rank > MTH__RANK) return INTERNAL("value %%%d has rank %d", v->id, v->shape.rank);
    unsigned used = 0;
    const mth__placement *on = v->sharding.on;
    for (int d = 0; on && d < v->shape.rank; d++)
        for (int i = 0; i < v->sharding.dim[d].naxes; i++) {
            int axis = v->sharding.dim[d].axis[i];
            if (axis < 0 || axis >= on->naxes || used >> axis & 1)
                return INTERNAL("value %%%d: axis %d of dimension %d is unknown or split twice", v->id, axis, d);
            used |= 1u << axis;
        }
    if (on && (used & v->sharding.partial))
        return INTERNAL("value %%%d is split and partial over the same axis", v->id);
    return NULL;
}

/* made: by id, as far as the walk has come */
static mth_status check(const mth__graph *g, const mth__value **made) {
    const struct {
        mth__value *const *at;
        size_t n;
        mth__value_kind kind;
    } sources[] = {{g->input.at, g->input.n, MTH__VALUE_INPUT}, {g->parameter.at, g->parameter.n, MTH__VALUE_PARAMETER},
        {g->seed.at, g->seed.n, MTH__VALUE_SEED}};
    for (size_t k = 0; k < sizeof sources / sizeof *sources; k++)
        for (size_t i = 0; i < sources[k].n; i++) {
            const mth__value *v = sources[k].at[i];
            TRY(check_value(g, v));
            if (v->kind != sources[k].kind || v->node || !v->name)
                return INTERNAL("value %%%d is listed as what it is not", v->id);
            if (made[v->id]) return INTERNAL("value %%%d is listed twice", v->id);
            made[v->id] = v;
        }
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__node *n = g->node.at[i];
        if (!n->op || n->nin < 0 || n->nin > MTH__MAX_IN || n->nout < 1 || n->nout > MTH__MAX_OUT)
            return INTERNAL("node %d has %d operands and %d results", n->id, n->nin, n->nout);
        for (int j = 0; j < n->nin; j++) {
            const mth__value *v = n->in[j];
            if (!v || v->id < 0 || v->id >= g->values || made[v->id] != v)
                return INTERNAL("node %d uses %%%d, operand %d, before it is made", n->id, v ? v->id : -1, j);
        }
        for (int j = 0; j < n->nout; j++) {
            const mth__value *v = n->out[j];
            if (!v || v->node != n || v->index != j || v->kind != MTH__VALUE_NODE)
                return INTERNAL("node %d: result %d has another maker", n->id, j);
            TRY(check_value(g, v));
            if (made[v->id]) return INTERNAL("value %%%d is made twice", v->id);
            made[v->id] = v;
        }
    }
    for (size_t i = 0; i < g->output.n; i++) {
        const mth__value *v = g->output.at[i].value;
        if (!v || v->id < 0 || v->id >= g->values || made[v->id] != v)
            return INTERNAL("output %s is not made", g->output.at[i].name);
    }
    return NULL;
}

mth_status mth__graph_check(const mth__graph *g) {
    mth__arena *scratch = mth__arena_new();
    mth_status status = check(g, NEW_ARRAY(scratch, const mth__value *, g->values + 1));
    mth__arena_free(scratch);
    return status;
}
