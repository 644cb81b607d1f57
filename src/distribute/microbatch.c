/* Each Pipeline region's batch is cut into microbatches: the nodes that the batch runs through are cloned, one clone a
 * microbatch; what does not depend on it is computed once. How the batch runs through a node is read from the node's
 * rule, as if the microbatches were one more mesh axis: a value carries it in one dimension, or is a term of a sum over
 * microbatches (which linear rows pass on), or is independent. What fits none of these is refused. Values used behind
 * the region are joined again: concat, or a chain of adds. Where the user splits the batch over k devices (data
 * parallelism), microbatch m is the m-th part of each device's rows, not m-th of all: each device cuts what it has, and
 * nothing moves. */
#include "distribute/decide.h"
#include <string.h>

typedef enum { COMMON, BATCH, PARTIAL } part_kind;
typedef struct { /* of a value that a region makes */
    part_kind kind;
    int region, dim;   /* BATCH: the dimension that carries the batch, */
    int64_t unit;      /* with this many elements a batch element */
    mth__value **at;   /* by microbatch */
    mth__value *whole; /* for those outside; made on demand */
} value_part;
/* of a value from outside, or of an independent one */
typedef struct {
    mth__value *of;
    int dim, stage;
    mth__value *rows, **at;
} sliced_value;

typedef struct {
    mth__graph *graph;
    mth__arena *arena; /* of the pass */
    const mth__distribute_options *options;
    mth__rewrite rewrite;
    BY_VALUE(value_part *) parts;
    int64_t *batch_parts; /* by region: the parts of the batch that are cut each by itself */
    mth__region *region;  /* of the node at hand */
    int index;
    VEC(sliced_value) cuts; /* of this region */
} microbatch_pass;

static int64_t start_of(const mth__region *region, int m) { return (int64_t)m * region->microbatch_size; }
static int64_t size_of(const mth__region *region, int m) {
    int64_t left = region->batch - start_of(region, m);
    return left < region->microbatch_size ? left : region->microbatch_size;
}

static mth__builder builder_like(const microbatch_pass *pass, const mth__node *node, int microbatch) {
    mth__builder builder = {.graph = pass->graph, .label = node->label, .on = node->on};
    builder.label.microbatch = microbatch;
    return builder;
}

static mth_status refuse(const microbatch_pass *pass, const mth__node *node, const mth__value *value, char *what) {
    mth_status status = FAIL(MTH_ERROR_VALUE, what,
        F("give pipeline '%s' a microbatch_size of at least the batch, %lld, or move this operator behind the pipeline",
            pass->region->name ? pass->region->name : "", (long long)pass->region->batch));
    mth__error_operator(status, node->label.module ? node->label.module : node->op->name);
    if (node->label.source) mth__error_source(status, node->label.source);
    return mth__error_tensor(status, mth__value_text(value));
}

/* ---------------------------------------------------------------- values from and to the outside */
/* Dimension `dim` of the value as (parts, the rest of it), or back. */
static mth_status fold(
    mth__builder *builder, mth__value *value, int dim, int64_t parts, bool unfold, mth__value **out) {
    mth__attrs attrs = {.rank = value->shape.rank + (unfold ? 1 : -1)};
    *out = value;
    if (parts == 1) return NULL;
    for (int d = 0, m = 0; d < value->shape.rank; d++) {
        if (d != dim)
            attrs.shape[m++] = value->shape.dim[d];
        else if (unfold) {
            attrs.shape[m++] = parts;
            attrs.shape[m++] = value->shape.dim[d] / parts;
        } else
            attrs.shape[m++] = parts * value->shape.dim[++d];
    }
    return mth__build(builder, MTH__ROW_reshape, &attrs, 1, &value, out);
}

static mth_status join(microbatch_pass *pass, const value_part *part, mth__builder *builder, mth__value **out) {
    const mth__region *region = pass->graph->region.at[part->region];
    int64_t parts = pass->batch_parts[part->region];
    mth__value **at = NEW_ARRAY(pass->arena, mth__value *, region->microbatches);
    mth__attrs attrs = {.dimension = part->dim + (parts > 1)};
    for (int m = 0; m < region->microbatches; m++) {
        builder->label = mth__label_at(builder->label, &part->at[m]->node->label);
        builder->label.microbatch = m; /* unfolds with its microbatch */
        TRY(fold(builder, part->at[m], part->dim, parts, true, &at[m]));
    }
    builder->label.region = builder->label.stage = builder->label.microbatch = -1;
    for (int n = region->microbatches; n > 1;) { /* concat takes MTH__MAX_IN operands at once */
        int made = 0;
        for (int m = 0; m < n; m += MTH__MAX_IN) {
            int k = n - m < MTH__MAX_IN ? n - m : MTH__MAX_IN;
            if (k > 1)
                TRY(mth__build(builder, MTH__ROW_concat, &attrs, k, at + m, &at[made]));
            else
                at[made] = at[m];
            made++;
        }
        n = made;
    }
    return fold(builder, at[0], part->dim, parts, false, out);
}

static value_part *part_of(microbatch_pass *pass, const mth__value *value) {
    return *AT_VALUE(pass->arena, pass->parts, value);
}

static mth_status whole(microbatch_pass *pass, mth__value *value, mth__value **out) {
    value_part *part = part_of(pass, value);
    *out = value;
    if (!part) return NULL;
    if (!part->whole) {
        mth__builder builder = builder_like(pass, value->node, -1);
        builder.label.region = builder.label.stage = -1;
        if (part->kind == PARTIAL) {
            part->whole = part->at[0];
            for (int m = 1; m < pass->graph->region.at[part->region]->microbatches; m++) {
                builder = builder_like(pass, part->at[m]->node, m); /* adds with its microbatch */
                TRY(mth__build(
                    &builder, MTH__ROW_add, NULL, 2, (mth__value *[]){part->whole, part->at[m]}, &part->whole));
            }
        } else
            TRY(join(pass, part, &builder, &part->whole));
        if (!part->whole->name) part->whole->name = value->name;
    }
    *out = part->whole;
    return NULL;
}

static mth_status cut_of(
    microbatch_pass *pass, const mth__node *node, mth__value *value, int dim, int64_t unit, int m, mth__value **out) {
    const mth__region *region = pass->region;
    int64_t parts = pass->batch_parts[pass->index];
    int stage =
        value->kind == MTH__VALUE_INPUT ? node->label.stage : -1; /* an input is fed to each stage, and cut there */
    sliced_value *sliced = NULL;
    for (size_t i = 0; i < pass->cuts.n && !sliced; i++)
        if (pass->cuts.at[i].of == value && pass->cuts.at[i].dim == dim && pass->cuts.at[i].stage == stage)
            sliced = &pass->cuts.at[i];
    if (!sliced) {
        mth__builder builder = builder_like(pass, node, -1);
        sliced_value made = {value, dim, stage, NULL, NEW_ARRAY(pass->arena, mth__value *, region->microbatches)};
        TRY(fold(&builder, value, dim, parts, true, &made.rows));
        PUSH(pass->arena, pass->cuts, made);
        sliced = &pass->cuts.at[pass->cuts.n - 1];
    }
    if (!sliced->at[m]) {
        mth__builder builder = builder_like(pass, node, m);
        int64_t start = start_of(region, m) * unit / parts, size = size_of(region, m) * unit / parts;
        mth__attrs attrs = {.dimension = dim + (parts > 1), .start = start, .stop = start + size};
        TRY(mth__build(&builder, MTH__ROW_slice, &attrs, 1, &sliced->rows, &sliced->at[m]));
        TRY(fold(&builder, sliced->at[m], dim, parts, false, &sliced->at[m]));
    }
    *out = sliced->at[m];
    return NULL;
}

/* ---------------------------------------------------------------- how the batch runs through a node */
typedef struct {
    part_kind kind;
    int dim;
    int64_t unit;
    value_part *made;
} operand;

static operand look(microbatch_pass *pass, mth__value *value) {
    value_part *part = part_of(pass, value);
    if (part && part->region == pass->index) return (operand){part->kind, part->dim, part->unit, part};
    const mth__region *region = pass->region;
    if (value->kind != MTH__VALUE_PARAMETER && value->shape.rank > 0 && value->shape.dim[0] == region->batch)
        for (int i = 0; i < region->nin; i++)
            if (region->in[i] == value) return (operand){BATCH, 0, 1, NULL};
    return (operand){COMMON, 0, 0, NULL};
}

/* The one factor that the batch is, and how many of its elements one batch element is. */
static mth_status factor_of(const microbatch_pass *pass, const mth__node *node, const mth__rule *rule,
    const operand *source, int *factor, int64_t *each) {
    *factor = -1;
    for (int j = 0; j < node->nin; j++) {
        if (source[j].kind == PARTIAL)
            return refuse(pass, node, node->in[j],
                F("%s needs the sum over the whole batch and a part of the batch at once", node->op->name));
        if (source[j].kind != BATCH) continue;
        int own = rule->in[j][source[j].dim];
        int64_t unit = own < 0 ? 1 : rule->in_unit[j][source[j].dim];
        if (own >= 0 && rule->factor[own].kind == MTH__MAX)
            return refuse(
                pass, node, node->in[j], F("%s over the batch can't be accumulated over microbatches", node->op->name));
        if (own < 0 || rule->factor[own].kind == MTH__WHOLE || rule->factor[own].positional)
            return refuse(pass, node, node->in[j],
                F("%s needs all of dimension %d at once, which carries the batch", node->op->name, source[j].dim));
        if (source[j].unit % unit)
            return refuse(
                pass, node, node->in[j], F("%s takes the batch of dimension %d apart", node->op->name, source[j].dim));
        if (*factor >= 0 && (own != *factor || source[j].unit / unit != *each))
            return refuse(
                pass, node, node->in[j], F("%s combines each element of the batch with the others", node->op->name));
        *factor = own;
        *each = source[j].unit / unit;
    }
    return NULL;
}

static bool passes_partial(const mth__node *node, const operand *source) {
    int partial = 0, linear = 0;
    for (int j = 0; j < node->nin; j++) {
        bool is_linear = node->op->linear_args >> j & 1;
        linear += is_linear;
        partial += source[j].kind == PARTIAL;
        if (source[j].kind == PARTIAL && !is_linear) return false;
    }
    return (node->op->linear == MTH__LINEAR_EACH && partial == 1) ||
        (node->op->linear == MTH__LINEAR_JOINT && partial == linear);
}

/* A row that goes by the indices of the whole batch (dropout's mask): the microbatch is a box of it. */
static mth_status clone_box(microbatch_pass *pass, mth__builder *builder, const mth__node *node, const value_part *made,
    int microbatch, mth__value *whole_batch, mth__value **out) {
    const mth__region *region = pass->region;
    int64_t parts = pass->batch_parts[pass->index];
    mth__attrs attrs = node->attrs;
    node->op->box(&attrs, made->dim + (parts > 1), start_of(region, microbatch) * made->unit / parts,
        region->batch * made->unit / parts);
    TRY(fold(builder, whole_batch, made->dim, parts, true, out));
    TRY(mth__build(builder, node->op->row, &attrs, 1, out, out));
    return fold(builder, *out, made->dim, parts, false, out);
}

static mth_status clone(
    microbatch_pass *pass, mth__node *node, const operand *source, const mth__rule *rule, int factor, int64_t each) {
    const mth__region *region = pass->region;
    value_part *made[MTH__MAX_OUT];
    for (int k = 0; k < node->nout; k++) {
        value_part *part = made[k] = NEW(pass->arena, value_part);
        *part = (value_part){
            .kind = PARTIAL, .region = pass->index, .at = NEW_ARRAY(pass->arena, mth__value *, region->microbatches)};
        for (int d = 0; d < node->out[k]->shape.rank && factor >= 0; d++)
            if (rule->out[k][d] == factor) {
                part->kind = BATCH;
                part->dim = d;
                part->unit = each * rule->out_unit[k][d];
            }
        if (part->kind == PARTIAL && factor >= 0 && rule->factor[factor].kind != MTH__SUM)
            return refuse(
                pass, node, node->out[k], F("result %d of %s belongs to no part of the batch", k, node->op->name));
        *AT_VALUE(pass->arena, pass->parts, node->out[k]) = part;
    }
    for (int m = 0; m < region->microbatches; m++) {
        mth__value *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
        for (int j = 0; j < node->nin; j++) {
            mth__value *value = node->in[j];
            if (source[j].made)
                in[j] = source[j].made->kind == COMMON ? source[j].made->whole : source[j].made->at[m];
            else
                TRY(whole(pass, value, &in[j]));
            if (source[j].kind == BATCH && !source[j].made) TRY(cut_of(pass, node, in[j], 0, 1, m, &in[j]));
            for (int d = 0; d < value->shape.rank && source[j].kind == COMMON && factor >= 0; d++)
                if (rule->in[j][d] == factor) TRY(cut_of(pass, node, in[j], d, each * rule->in_unit[j][d], m, &in[j]));
        }
        mth__attrs attrs = node->attrs;
        mth__builder builder = builder_like(pass, node, m);
        const bool batch = made[0]->kind == BATCH;
        if (batch && node->op->resize) node->op->resize(&attrs, made[0]->dim, made[0]->unit * size_of(region, m));
        if (batch && node->op->box)
            TRY(clone_box(pass, &builder, node, made[0], m, in[0], out));
        else
            TRY(mth__build(&builder, node->op->row, &attrs, node->nin, in, out));
        for (int k = 0; k < node->nout; k++) {
            mth__shape expected = node->out[k]->shape;
            if (made[k]->kind == BATCH) expected.dim[made[k]->dim] = made[k]->unit * size_of(region, m);
            if (!mth__shape_equal(expected, out[k]->shape))
                return INTERNAL("a microbatch of %s in %s has another shape than its rule says", node->op->name,
                    node->label.module ? node->label.module : "");
            made[k]->at[m] = out[k];
        }
    }
    return NULL;
}

static mth_status unroll(microbatch_pass *pass, mth__node *node) {
    operand source[MTH__MAX_IN];
    bool batch = false, partial = false;
    for (int j = 0; j < node->nin; j++) {
        source[j] = look(pass, node->in[j]);
        batch |= source[j].kind == BATCH;
        partial |= source[j].kind == PARTIAL;
    }
    if (!batch && !partial) {
        for (int j = 0; j < node->nin; j++) TRY(whole(pass, node->in[j], &node->in[j]));
        for (int k = 0; k < node->nout; k++) {
            value_part *part = *AT_VALUE(pass->arena, pass->parts, node->out[k]) = NEW(pass->arena, value_part);
            *part = (value_part){.kind = COMMON, .region = pass->index, .whole = node->out[k]};
        }
        mth__rewrite_push(&pass->rewrite, node);
        return NULL;
    }
    mth__rule rule;
    int factor = -1;
    int64_t each = 1;
    mth__op_rule(node, &rule);
    if (batch)
        TRY(factor_of(pass, node, &rule, source, &factor, &each));
    else if (!passes_partial(node, source)) {
        int j = 0;
        while (source[j].kind != PARTIAL) j++;
        return refuse(pass, node, node->in[j],
            F("%s is not linear in a sum over the batch, which is complete only behind the last microbatch",
                node->op->name));
    }
    return clone(pass, node, source, &rule, factor, each);
}

/* ---------------------------------------------------------------- the pass */
static mth_status measure(mth__region *region) {
    if (!region->nin || region->in[0]->shape.rank < 1) {
        mth_status status =
            FAIL(MTH_ERROR_VALUE, F("the input of a pipeline needs a batch dimension to be cut into microbatches"),
                F("give an input of at least one dimension"));
        mth__error_operator(status, region->name ? region->name : "pipeline");
        return region->nin ? mth__error_tensor(status, mth__value_text(region->in[0])) : status;
    }
    region->batch = region->in[0]->shape.dim[0];
    int64_t n = region->batch <= region->microbatch_size ? 1 : mth__ceil_div(region->batch, region->microbatch_size);
    if (n > MTH__MOST_MICROBATCHES) {
        int64_t fits = mth__ceil_div(region->batch, MTH__MOST_MICROBATCHES);
        mth_status status = FAIL(MTH_ERROR_VALUE,
            F("a batch of %lld in microbatches of %d makes %lld microbatches, and a plan has at most %d",
                (long long)region->batch, region->microbatch_size, (long long)n, MTH__MOST_MICROBATCHES),
            F("give microbatch_size=%lld or more", (long long)fits));
        return mth__error_operator(status, region->name ? region->name : "pipeline");
    }
    region->microbatches = (int)n;
    return NULL;
}

/* Over how many devices the user splits the batch; 1 where microbatches don't divide by it. */
static int64_t lanes_of(const microbatch_pass *pass, int index) {
    const mth__graph *graph = pass->graph;
    const mth__region *region = graph->region.at[index];
    for (size_t i = 0; pass->options && i < pass->options->specs; i++)
        for (size_t k = 0; k < graph->input.n; k++) {
            const mth__split *split = &pass->options->spec[i].sharding.dim[0];
            const mth__shape *shape = &graph->input.at[k]->shape;
            if (strcmp(graph->input.at[k]->name, pass->options->spec[i].name)) continue;
            if (shape->rank == 0 || shape->dim[0] != region->batch || !split->naxes) continue;
            int64_t parts = 1;
            bool within = true; /* the stages have the axes */
            for (int a = 0; a < split->naxes; a++) {
                bool has = false;
                for (int b = 0; b < region->stage_on[0]->naxes; b++)
                    has |= region->stage_on[0]->mesh_axis[b] == split->axis[a];
                parts *= graph->mesh->dim[split->axis[a]];
                within &= has;
            }
            if (!within || region->batch % parts || region->microbatch_size % parts) continue;
            for (size_t n = 0; n < graph->node.n; n++) /* room for one more dimension */
                for (int j = 0; j < graph->node.at[n]->nin && graph->node.at[n]->label.region == index; j++)
                    if (graph->node.at[n]->in[j]->shape.rank == MTH__RANK) return 1;
            return parts;
        }
    return 1;
}

static mth_status cut_regions(microbatch_pass *pass) {
    mth__graph *graph = pass->graph;
    pass->batch_parts = NEW_ARRAY(pass->arena, int64_t, graph->region.n);
    for (size_t i = 0; i < graph->region.n; i++) pass->batch_parts[i] = lanes_of(pass, (int)i);
    pass->rewrite = mth__rewrite_begin(pass->arena, graph);
    for (size_t i = 0; i < pass->rewrite.nodes; i++) {
        mth__node *node = pass->rewrite.old[i];
        mth__region *region = node->label.region >= 0 ? graph->region.at[node->label.region] : NULL;
        if (region && region->microbatches > 1) {
            if (pass->index != node->label.region) {
                pass->index = node->label.region;
                pass->region = region;
                pass->cuts.n = 0;
            }
            TRY(unroll(pass, node));
            continue;
        }
        if (region) node->label.microbatch = 0;
        for (int j = 0; j < node->nin; j++) TRY(whole(pass, node->in[j], &node->in[j]));
        mth__rewrite_push(&pass->rewrite, node);
    }
    for (size_t i = 0; i < graph->output.n; i++)
        TRY(whole(pass, graph->output.at[i].value, &graph->output.at[i].value));
    mth__rewrite_end(&pass->rewrite);
    return NULL;
}

mth_status mth__microbatch(mth__graph *graph, const mth__distribute_options *options) {
    microbatch_pass pass = {.graph = graph, .options = options, .index = -1};
    for (size_t i = 0; i < graph->region.n; i++) TRY(measure(graph->region.at[i]));
    if (graph->region.n) {
        pass.arena = mth__arena_new();
        mth_status status = cut_regions(&pass);
        mth__arena_free(pass.arena);
        TRY(status);
    }
    mth__place_nodes(graph);
    return NULL;
}
