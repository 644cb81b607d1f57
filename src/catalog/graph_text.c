/* The dump of a graph, one node a line, in columns that a diff keeps apart:
 *     %7 = matmul(%4, linear_0.weight) axis=1    | float32 (8, 64) (None, 0) over mesh (4,) | linear_0 stage 0 | from
 *     %4 by factor o */
#include "catalog/op.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_COLUMN = 56 };

static void add_type(mth__text *text, const mth__value *value) {
    mth__text_add(text, "%s %s", mth_dtype_name(value->dtype), mth__shape_text(text->arena, value->shape));
    if (value->sharding.on)
        mth__text_add(text, " %s", mth__where_text(text->arena, &value->sharding, value->shape.rank));
}

static void add_origin(mth__text *text, const mth__value *value) {
    const char *origin = mth__origin_text(text->arena, &value->origin);
    if (origin) mth__text_add(text, " | %s", origin);
}

static void add_source(mth__text *text, const char *kind, const mth__value *value) {
    mth__text_add(text, "%s %s", kind, mth__value_label(text->arena, value));
    mth__text_pad(text, TYPE_COLUMN);
    mth__text_add(text, " | ");
    add_type(text, value);
    if (value->kind == MTH__VALUE_PARAMETER) {
        static const char *const names[] = {"zero", "one", "normal", "uniform"};
        mth__text_add(text, " | %s", names[value->init]);
        if (value->init >= MTH__INIT_NORMAL) mth__text_add(text, " %g", value->init_scale);
    }
    add_origin(text, value);
    mth__text_add(text, "\n");
}

/* What is 0 is left out, as in the text of a program. */
static void add_attrs(mth__text *text, const mth__node *node) {
    mth__attrs attrs = node->attrs;
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(node->op, k)); k++) {
        if (mth__attribute_is_zero(&attrs, attribute)) continue;
        mth__text_add(text, " %s=", attribute->name);
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER: mth__text_add(text, "%" PRId64, *mth__attribute_integer(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_REAL: mth__text_add(text, "%.9g", *mth__attribute_real(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_TEXT: mth__text_add(text, "%s", *mth__attribute_text(&attrs, attribute)); break;
        }
    }
}

static void add_node(mth__text *text, const mth__node *node) {
    for (int i = 0; i < node->nout; i++)
        mth__text_add(text, "%s%s", i ? ", " : "", mth__value_label(text->arena, node->out[i]));
    mth__text_add(text, " = %s(", node->op->name);
    const int own = mth__row_operands(node->op, node->nin, node->accumulates);
    for (int i = 0; i < node->nin; i++)
        mth__text_add(text, "%s%s", i == own ? " into " : i ? ", " : "", mth__value_label(text->arena, node->in[i]));
    mth__text_add(text, ")");
    add_attrs(text, node);
    mth__text_pad(text, TYPE_COLUMN);
    for (int i = 0; i < node->nout; i++) {
        mth__text_add(text, i ? ", " : " | ");
        add_type(text, node->out[i]);
    }
    const mth_dtype sums = mth__op_sum_dtype(node);
    if (sums && sums != node->out[0]->dtype) mth__text_add(text, " | sums in %s", mth_dtype_name(sums));
    mth__text_add(text, " | %s", node->label.module ? node->label.module : "");
    if (node->label.region >= 0) mth__text_add(text, " region %d stage %d", node->label.region, node->label.stage);
    if (node->label.microbatch >= 0) mth__text_add(text, " microbatch %d", node->label.microbatch);
    if (node->label.phase) mth__text_add(text, " %s", mth__phase_words[node->label.phase]);
    if (node->on && node->on != node->out[0]->sharding.on)
        mth__text_add(text, " on %s", mth__placement_text(text->arena, node->on));
    add_origin(text, node->out[0]);
    for (int i = 0; node->need && i < node->nin; i++)
        if (!node->in[i]->sharding.on ||
            !mth__sharding_equal(&node->need[i], &node->in[i]->sharding, node->in[i]->shape.rank))
            mth__text_add(text, " | wants %s %s", mth__value_label(text->arena, node->in[i]),
                mth__where_text(text->arena, &node->need[i], node->in[i]->shape.rank));
    mth__text_add(text, "\n");
}

void mth__graph_print(mth__text *text, const mth__graph *graph) {
    mth__text_add(text, "%s: %zu nodes, %d values\n", mth__placement_text(text->arena, mth__place_whole(graph->mesh)),
        graph->node.n, graph->values);
    for (size_t i = 0; i < graph->input.n; i++) add_source(text, "input", graph->input.at[i]);
    for (size_t i = 0; i < graph->parameter.n; i++) add_source(text, "parameter", graph->parameter.at[i]);
    for (size_t i = 0; i < graph->seed.n; i++) add_source(text, "seed", graph->seed.at[i]);
    for (size_t i = 0; i < graph->region.n; i++) {
        const mth__region *region = graph->region.at[i];
        mth__text_add(text, "region %zu %s: %d stages, %s, microbatch size %d", i, region->name, region->stages,
            region->schedule == MTH__1F1B ? "1f1b" : "gpipe", region->microbatch_size);
        for (int stage = 0; region->stage_on && stage < region->stages; stage++)
            mth__text_add(text, "%s%s", stage ? "; " : ", on ",
                region->stage_on[stage] ? mth__placement_text(text->arena, region->stage_on[stage]) : "?");
        mth__text_add(text, "\n");
    }
    for (size_t i = 0; i < graph->node.n; i++) add_node(text, graph->node.at[i]);
    for (size_t i = 0; i < graph->output.n; i++) {
        const mth__output *output = &graph->output.at[i];
        mth__text_add(text, "%s %s = %s\n", output->is_gradient ? "gradient" : "output",
            output->is_gradient && output->of ? output->of : output->name,
            mth__value_label(text->arena, output->value));
    }
}
