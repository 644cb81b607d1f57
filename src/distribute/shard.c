/* A sharding for every value and what every node needs of its operands. Nodes are visited in order. Each mesh axis may
 * split one factor of the node: those that an operand, a fixed weight or a wish behind the result propose, or none. Of
 * all combinations the cheapest is taken (shard_search.c). A SUM or MAX factor that is split leaves the results
 * partial. Weights that the user laid out stay where they are unless nothing else works. */
#include "distribute/choice.h"
#include <string.h>

typedef struct {
    mth__propagation pass;
    mth__node *node;
    mth__question question; /* which assignment the node is to have */
    mth__answers answers;
} shard_pass;

/* ---------------------------------------------------------------- what the price of an assignment depends on */
/* The share of an expert buffer that holds tokens: each token is in one row of each expert that it chose. The rest is
 * padding, whose bytes are not counted. */
static double filled(const mth__node *node, int rows) {
    const mth__node *maker = rows >= 0 ? node->in[rows]->node : NULL;
    if (!maker || !(maker->op->flags & MTH__NAMES_ROWS)) return 1;
    double experts = (double)node->in[rows]->shape.dim[0], chosen = (double)maker->in[0]->shape.dim[1];
    return experts > chosen ? chosen / experts : 1;
}

/* Readers to come that may share what is made of operand j for this node: the weights of query, key and value have
   gradients that all take the same activation. */
static int sharers(const shard_pass *shard, int j) {
    const mth__node *node = shard->node;
    const mth__info *info = mth__info_of(&shard->pass, node->in[j]);
    int sharers = 1;
    for (size_t k = 0; k < info->reader.n; k++) {
        const mth__node *reader = info->reader.at[k];
        sharers += reader != node && reader->id >= shard->pass.at && reader->op == node->op && reader->on == node->on &&
            mth__same_unit(&reader->label, &node->label) && j < reader->nin && reader->in[j] == node->in[j];
    }
    return sharers;
}

/* Does the parameter lie on this placement, alone or among others? */
static bool lies_on(const mth__value *value, const mth__placement *on) {
    return value->sharding.on == on || (value->copied && mth__place_holds(value->sharding.on, on));
}

/* What the gradient of a parameter must end with. */
static const mth__sharding *kept(const shard_pass *shard, const mth__value *parameter) {
    mth__info *info = mth__info_of(&shard->pass, parameter);
    if (shard->pass.options->store_sharded && !info->free && !info->stored) {
        mth__sharding parts = parameter->sharding, *stored = NEW(shard->pass.arena, mth__sharding);
        mth__store_parts(parameter, &parameter->sharding, &parts);
        *stored = parts;
        info->stored = stored;
    }
    return info->stored ? info->stored : &parameter->sharding;
}

/* A weight's gradients of the microbatches are summed as they are made, and brought to where it is once, behind the
 * last. */
static double terms_of(const mth__graph *graph, const mth__node *node, const mth__value *value) {
    bool term = value->gradient_of && value->gradient_of->kind == MTH__VALUE_PARAMETER && node->label.region >= 0 &&
        node->label.microbatch >= 0;
    return term ? graph->region.at[node->label.region]->microbatches : 1;
}

static void describe_operand(shard_pass *shard, int j) {
    const mth__node *node = shard->node;
    const mth__value *value = node->in[j];
    const mth__info *info = mth__info_of(&shard->pass, value);
    const bool lies_here = value->kind == MTH__VALUE_PARAMETER && lies_on(value, node->on);
    mth__asked_operand *operand = &shard->question.operand[j];
    operand->value = value;
    operand->free = info->free && lies_here;
    operand->laid = lies_here;
    operand->hinted = info->hint && info->hint->on == node->on && info->hint->dim[0].naxes;
    operand->sharers = mth__is_backward_time(node->label.phase) ? sharers(shard, j) : 1;
    operand->version.n = 0;
    for (size_t k = 0; k < info->versions.n; k++) {
        const mth__version *version = &info->versions.at[k];
        if (mth__version_lasts(value, &version->sharding, version->phase, node->label.phase))
            PUSH(shard->pass.arena, operand->version, &version->sharding);
    }
}

/* As what result k is wanted behind the node. */
static void describe_result(shard_pass *shard, int k) {
    const mth__node *node = shard->node;
    const mth__info *info = mth__info_of(&shard->pass, node->out[k]);
    mth__asked_result *result = &shard->question.result[k];
    result->awaited = true;
    result->terms = terms_of(shard->pass.graph, node, node->out[k]);
    if (info->parameter && info->parameter->sharding.on == node->on)
        result->end = *kept(shard, info->parameter);
    else if (info->wish && info->wish->on == node->on)
        result->end = *info->wish;
    else {
        result->end = (mth__sharding){.on = node->on};
        result->awaited = info->output;
    }
    result->used = result->awaited || info->uses > 0;
    result->end.partial = result->end.reduce = 0;
}

static void describe_node(shard_pass *shard) {
    mth__question *question = &shard->question;
    question->rows = shard->node->op->row_args ? __builtin_ctzll(shard->node->op->row_args) : -1;
    question->filled = filled(shard->node, question->rows);
    for (int j = 0; j < shard->node->nin; j++) describe_operand(shard, j);
    for (int k = 0; k < shard->node->nout; k++) describe_result(shard, k);
}

/* ---------------------------------------------------------------- proposals */
static void propose_like(shard_pass *shard, int j, const mth__sharding *like) { /* for operand j */
    mth__question *question = &shard->question;
    mth__propose(&question->rule, question->rule.in[j], question->rule.in_unit[j], like, shard->node->in[j],
        question->source, &question->sources);
}

static void propose_operand(shard_pass *shard, int j) {
    const mth__value *value = shard->node->in[j];
    const mth__info *info = mth__info_of(&shard->pass, value);
    const mth__placement *on = shard->node->on;
    if (value->sharding.on == on)
        propose_like(shard, j, &value->sharding);
    else if (value->sharding.on) {
        mth__sharding carried = mth__sharding_carry(&value->sharding, value->shape, on);
        propose_like(shard, j, &carried);
    }
    for (size_t k = 0; k < info->versions.n; k++)
        if (info->versions.at[k].sharding.on == on) propose_like(shard, j, &info->versions.at[k].sharding);
    if (info->hint && info->hint->on == on) propose_like(shard, j, info->hint);
}

/* A product that is split over some axes and would be repeated over the others may share its rows among those: the
   largest factor of the result that no weight has, so that weights stay as they are. */
static void propose_rows(mth__question *question) {
    const mth__node *node = question->node;
    const mth__rule *rule = &question->rule;
    int rows = -1;
    for (int factor = 0; factor < rule->n; factor++) {
        bool weight = false;
        for (int j = 0; j < node->nin; j++)
            for (int d = 0; d < node->in[j]->shape.rank && node->in[j]->kind == MTH__VALUE_PARAMETER; d++)
                weight |= rule->in[j][d] == factor;
        if (!weight && rule->factor[factor].kind == MTH__PASS &&
            (rows < 0 || rule->factor[factor].size > rule->factor[rows].size))
            rows = factor;
    }
    for (int axis = 0; axis < node->on->naxes && rows >= 0 && question->sources < MTH__SOURCES; axis++)
        if (node->on->dim[axis] > 1)
            question->source[question->sources++] =
                (mth__proposal){(int8_t)rows, {.naxes = 1, .axis = {(int8_t)axis}}, node->out[0]};
}

static void propose(shard_pass *shard) {
    const mth__node *node = shard->node;
    mth__question *question = &shard->question;
    question->sources = 0;
    for (int parameters = 1; parameters >= 0; parameters--) /* fixed weights first: their grain counts */
        for (int j = 0; j < node->nin; j++)
            if ((node->in[j]->kind == MTH__VALUE_PARAMETER) == parameters) propose_operand(shard, j);
    for (int k = 0; k < node->nout; k++) {
        const mth__info *info = mth__info_of(&shard->pass, node->out[k]);
        const mth__sharding *wish[] = {info->wish, info->parameter ? kept(shard, info->parameter) : NULL};
        for (int i = 0; i < 2; i++)
            if (wish[i] && wish[i]->on == node->on)
                mth__propose(&question->rule, question->rule.out[k], question->rule.out_unit[k], wish[i], node->out[k],
                    question->source, &question->sources);
    }
    if (question->sources && node->on->naxes > 1 && (node->op->flags & MTH__PRODUCT)) propose_rows(question);
    mth__when sequence = shard->pass.options->sequence;
    if (sequence != MTH__WHEN_FALSE && question->sources < MTH__SOURCES &&
        mth__propose_sequence(&shard->pass, node, &question->rule, shard->pass.graph->seed.n > 0,
            sequence == MTH__WHEN_TRUE, &question->source[question->sources]))
        question->sources++;
}

/* ---------------------------------------------------------------- the decision */
static mth__origin origin_of(const mth__question *question, const mth__assignment *assignment) {
    for (int factor = 0; factor < question->rule.n; factor++) {
        if (!assignment->of[factor].naxes) continue;
        for (int i = 0; i < question->sources; i++)
            if (question->source[i].factor == factor)
                return (mth__origin){.from = question->source[i].from, .factor = question->rule.factor[factor].letter};
    }
    return (mth__origin){0};
}

static void note(shard_pass *shard, mth__value *value, const mth__sharding *need) {
    mth__info *info = mth__info_of(&shard->pass, value);
    if (value->sharding.on == need->on && mth__sharding_equal(&value->sharding, need, value->shape.rank)) return;
    for (size_t k = 0; k < info->versions.n; k++) {
        const mth__version *version = &info->versions.at[k];
        bool same =
            version->sharding.on == need->on && mth__sharding_equal(&version->sharding, need, value->shape.rank);
        if (same && mth__version_lasts(value, need, version->phase, shard->node->label.phase)) return;
    }
    PUSH(shard->pass.arena, info->versions, ((mth__version){*need, shard->node->label.phase}));
}

/* A gradient is wished in the sharding of the value that it is the gradient of, because the next step backward reads it
 * beside the operands of the step forward. That sharding is known in full, while the wishes of consumers
 * (shard_wishes.c) come from weights alone and say nothing of the batch. */
static void wish_as_forward(shard_pass *shard, const mth__value *value) {
    const mth__value *of = value->gradient_of;
    mth__info *info = mth__info_of(&shard->pass, value);
    if (!of || !of->sharding.on) return;
    mth__sharding like = of->sharding;
    like.partial = like.reduce = 0;
    if (like.on != shard->node->on) like = mth__sharding_carry(&like, of->shape, shard->node->on);
    if (!mth__sharding_axes(&like, of->shape.rank)) return;
    mth__sharding *lasting = NEW(shard->pass.arena, mth__sharding);
    *lasting = like;
    info->wish = lasting;
}

static void decide(shard_pass *shard) {
    mth__node *node = shard->node;
    for (int k = 0; k < node->nout; k++) wish_as_forward(shard, node->out[k]);
    node->need = NEW_ARRAY(shard->pass.graph->arena, mth__sharding, node->nin);
    mth__question *question = &shard->question;
    mth__assignment assignment = {0};
    const bool alone = node->on->count == 1;
    question->node = node;
    if (!alone) {
        mth__op_rule(node, &question->rule);
        propose(shard);
        question->pass = mth__pass_axes(&shard->pass, node);
        if (question->sources || question->pass) {
            describe_node(shard);
            assignment = *mth__answer(shard->pass.arena, &shard->answers, question);
        }
    }
    for (int j = 0; j < node->nin; j++) {
        mth__value *value = node->in[j];
        mth__sharding need = {.on = node->on};
        if (!alone) {
            need = mth__assigned(
                &question->rule, question->rule.in[j], question->rule.in_unit[j], &assignment, value->shape, node->on);
            if (assignment.pass && value->sharding.partial) need.partial = (uint8_t)question->pass;
        }
        node->need[j] = need;
        mth__info *info = mth__info_of(&shard->pass, value);
        if (info->free && lies_on(value, node->on)) {
            value->sharding = mth__settled(value, &need);
            info->free = false;
            if (!value->origin.said)
                value->origin = mth__sharding_axes(&value->sharding, value->shape.rank)
                    ? origin_of(question, &assignment)
                    : (mth__origin){.said = "whole: nothing asks for less"};
        }
        note(shard, value, &node->need[j]);
    }
    const mth__origin origin = alone ? (mth__origin){0} : origin_of(question, &assignment);
    for (int k = 0; k < node->nout; k++) {
        mth__value *value = node->out[k];
        value->sharding = alone ? (mth__sharding){.on = node->on} : mth__result_of(question, k, &assignment);
        value->origin = origin;
    }
    if (node->op->flags & MTH__GATHERS) mth__info_of(&shard->pass, node->out[0])->hint = &node->in[0]->sharding;
    /* An output's gradient comes in as the output is made, so that backward starts as forward ended; where nothing can
       come in so, as the output leaves. */
    for (int k = 0; k < node->nout; k++) {
        mth__value *seed = mth__info_of(&shard->pass, node->out[k])->seed;
        if (!seed ||
            (shard->pass.options->ports_in_blocks && !mth__sharding_in_blocks(&node->out[k]->sharding, seed->shape)))
            continue;
        seed->sharding = node->out[k]->sharding;
        seed->sharding.partial = seed->sharding.reduce = 0;
    }
}

/* ---------------------------------------------------------------- the pass */
static void describe(mth__propagation *pass) {
    mth__graph *graph = pass->graph;
    pass->info = NEW_ARRAY(pass->arena, mth__info, graph->values);
    for (size_t i = 0; i < mth__graph_sources(graph); i++) {
        mth__value *source = mth__graph_source(graph, i);
        mth__info *info = mth__info_of(pass, source);
        info->free = source->kind == MTH__VALUE_PARAMETER && !source->pinned;
        info->hint = source->proposed;
        mth__sharding_canonical(&source->sharding, source->shape);
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        for (int j = 0; j < node->nin; j++) {
            mth__info *info = mth__info_of(pass, node->in[j]);
            info->uses++;
            PUSH(pass->arena, info->reader, node);
        }
    }
    mth__by_name all = mth__by_name_new(pass->arena, graph, pass->options);
    for (size_t i = 0; i < graph->output.n; i++) {
        const mth__output *out = &graph->output.at[i];
        mth__info *info = mth__info_of(pass, out->value);
        info->uses++;
        int seed = mth__names_find(&all.seed, out->name);
        int parameter = out->is_gradient ? mth__names_find(&all.parameter, out->of) : -1;
        if (parameter >= 0 && !info->parameter) info->parameter = graph->parameter.at[parameter];
        if (out->is_gradient) continue;
        if (seed >= 0) info->seed = graph->seed.at[seed];
        mth__sharding need = mth__output_need(graph, &all, out);
        if (need.on == out->value->sharding.on && mth__sharding_axes(&need, out->value->shape.rank)) {
            mth__sharding *lasting = NEW(pass->arena, mth__sharding);
            *lasting = need;
            info->wish = lasting;
        }
        info->output = true;
    }
}

mth_status mth__shard(mth__graph *graph, const mth__distribute_options *options) {
    mth__arena *arena = mth__arena_new();
    shard_pass *shard = NEW(arena, shard_pass);
    shard->pass = (mth__propagation){.graph = graph, .arena = arena, .options = options};
    describe(&shard->pass);
    mth__shard_wishes(&shard->pass);
    for (; shard->pass.at < (int)graph->node.n; shard->pass.at++) {
        shard->node = graph->node.at[shard->pass.at];
        mth__shard_group_terms(&shard->pass, shard->node);
        decide(shard);
    }
    for (size_t i = 0; i < graph->parameter.n; i++) {
        mth__value *parameter = graph->parameter.at[i];
        if (mth__info_of(&shard->pass, parameter)->free) {
            mth__sharding whole = {.on = parameter->sharding.on};
            parameter->sharding = mth__settled(parameter, &whole);
            if (!parameter->origin.said) parameter->origin.said = "whole: nothing uses it";
        }
        mth__sharding parts;
        if (options->store_sharded && mth__store_parts(parameter, &parameter->sharding, &parts)) {
            mth__sharding *read = NEW(graph->arena, mth__sharding);
            *read = parameter->sharding;
            parameter->read_as = read;
            parameter->sharding = parts;
            parameter->origin = (mth__origin){.said = "memory_optimization: in parts, gathered where it is read"};
        }
    }
    const mth__by_name names = mth__by_name_new(arena, graph, options);
    for (size_t i = 0; i < graph->output.n; i++) {
        mth__output *out = &graph->output.at[i];
        out->leaves = mth__output_need(graph, &names, out);
        mth__sharding_canonical(&out->leaves, out->value->shape);
    }
    mth__arena_free(arena);
    return NULL;
}
