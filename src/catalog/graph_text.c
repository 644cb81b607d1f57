/* The dump of a graph, one node a line, in columns that a diff keeps apart:
 *     %7 = matmul(%4, linear_0.weight) axis=1    | float32 (8, 64) (None, 0) over mesh (4,) | linear_0 stage 0 | from
 *     %4 by factor o */
#include "catalog/op.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_COLUMN = 56 };

static void add_type(mth__text *t, const mth__value *v) {
    mth__text_add(t, "%s %s", mth_dtype_name(v->dtype), mth__shape_text(t->arena, v->shape));
    if (v->sharding.on) mth__text_add(t, " %s", mth__where_text(t->arena, &v->sharding, v->shape.rank));
}

static void add_origin(mth__text *t, const mth__value *v) {
    if (v->origin) mth__text_add(t, " | %s", v->origin);
}

static void add_source(mth__text *t, const char *kind, const mth__value *v) {
    mth__text_add(t, "%s %s", kind, mth__value_label(t->arena, v));
    mth__text_pad(t, TYPE_COLUMN);
    mth__text_add(t, " | ");
    add_type(t, v);
    if (v->kind == MTH__VALUE_PARAMETER) {
        static const char *const names[] = {"zero", "one", "normal", "uniform"};
        mth__text_add(t, " | %s", names[v->init]);
        if (v->init >= MTH__INIT_NORMAL) mth__text_add(t, " %g", v->init_scale);
    }
    add_origin(t, v);
    mth__text_add(t, "\n");
}

/* What is 0 is left out, as in the text of a program. */
static void add_attrs(mth__text *t, const mth__node *n) {
    mth__attrs attrs = n->attrs;
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(n->op, k)); k++) {
        if (mth__attribute_is_zero(&attrs, attribute)) continue;
        mth__text_add(t, " %s=", attribute->name);
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER: mth__text_add(t, "%" PRId64, *mth__attribute_integer(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_REAL: mth__text_add(t, "%.9g", *mth__attribute_real(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_TEXT: mth__text_add(t, "%s", *mth__attribute_text(&attrs, attribute)); break;
        }
    }
}

static void add_node(mth__text *t, const mth__node *n) {
    for (int i = 0; i < n->nout; i++) mth__text_add(t, "%s%s", i ? ", " : "", mth__value_label(t->arena, n->out[i]));
    mth__text_add(t, " = %s(", n->op->name);
    const int own = mth__row_operands(n->op, n->nin, n->accumulates);
    for (int i = 0; i < n->nin; i++)
        mth__text_add(t, "%s%s", i == own ? " into " : i ? ", " : "", mth__value_label(t->arena, n->in[i]));
    mth__text_add(t, ")");
    add_attrs(t, n);
    mth__text_pad(t, TYPE_COLUMN);
    for (int i = 0; i < n->nout; i++) {
        mth__text_add(t, i ? ", " : " | ");
        add_type(t, n->out[i]);
    }
    const mth_dtype sums = mth__op_sum_dtype(n);
    if (sums && sums != n->out[0]->dtype) mth__text_add(t, " | sums in %s", mth_dtype_name(sums));
    mth__text_add(t, " | %s", n->label.module ? n->label.module : "");
    if (n->label.region >= 0) mth__text_add(t, " region %d stage %d", n->label.region, n->label.stage);
    if (n->label.microbatch >= 0) mth__text_add(t, " microbatch %d", n->label.microbatch);
    if (n->label.phase) mth__text_add(t, " %s", mth__phase_words[n->label.phase]);
    if (n->on && n->on != n->out[0]->sharding.on) mth__text_add(t, " on %s", mth__placement_text(t->arena, n->on));
    add_origin(t, n->out[0]);
    for (int i = 0; n->need && i < n->nin; i++)
        if (!n->in[i]->sharding.on || !mth__sharding_equal(&n->need[i], &n->in[i]->sharding, n->in[i]->shape.rank))
            mth__text_add(t, " | wants %s %s", mth__value_label(t->arena, n->in[i]),
                mth__where_text(t->arena, &n->need[i], n->in[i]->shape.rank));
    mth__text_add(t, "\n");
}

void mth__graph_print(mth__text *t, const mth__graph *g) {
    mth__text_add(t, "%s: %zu nodes, %d values\n", mth__placement_text(t->arena, mth__place_whole(g->mesh)), g->node.n,
        g->values);
    for (size_t i = 0; i < g->input.n; i++) add_source(t, "input", g->input.at[i]);
    for (size_t i = 0; i < g->parameter.n; i++) add_source(t, "parameter", g->parameter.at[i]);
    for (size_t i = 0; i < g->seed.n; i++) add_source(t, "seed", g->seed.at[i]);
    for (size_t i = 0; i < g->region.n; i++) {
        const mth__region *r = g->region.at[i];
        mth__text_add(t, "region %zu %s: %d stages, %s, microbatch size %d", i, r->name, r->stages,
            r->schedule == MTH__1F1B ? "1f1b" : "gpipe", r->microbatch_size);
        for (int s = 0; r->stage_on && s < r->stages; s++)
            mth__text_add(
                t, "%s%s", s ? "; " : ", on ", r->stage_on[s] ? mth__placement_text(t->arena, r->stage_on[s]) : "?");
        mth__text_add(t, "\n");
    }
    for (size_t i = 0; i < g->node.n; i++) add_node(t, g->node.at[i]);
    for (size_t i = 0; i < g->output.n; i++) {
        const mth__output *o = &g->output.at[i];
        mth__text_add(t, "%s %s = %s\n", o->is_gradient ? "gradient" : "output",
            o->is_gradient && o->of ? o->of : o->name, mth__value_label(t->arena, o->value));
    }
}
