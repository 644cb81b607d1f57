/* A sharding for every value and what every node needs of its operands. Nodes are visited in order. Each mesh axis may
 * split one factor of the node: those that an operand, a fixed weight or a wish behind the result propose, or none. Of
 * all combinations the cheapest is taken; its cost is that of bringing the operands there, of computing, and of
 * bringing the results to where they are wanted. A SUM or MAX factor that is split leaves the results partial. Weights
 * that the user laid out stay where they are unless nothing else works. */
#include "distribute/choice.h"
#include <string.h>

static const double GATHERED_WEIGHT = 16; /* times dearer: a weight stays where it was laid */

/* Preferences come before seconds, whatever the machine: an assignment is better that goes against fewer of them. What
 * is FORBIDDEN goes against more than there are; the assignment that splits nothing never is. */
enum { FORBIDDEN = 1 << 16 };
typedef struct {
    int against;
    double seconds;
} assignment_price;
static bool cheaper(assignment_price a, assignment_price b) {
    return a.against < b.against || (a.against == b.against && a.seconds < b.seconds);
}

typedef struct {
    mth__propagation pass;
    mth__node *node;
    mth__rule rule;
    mth__proposal source[MTH__SOURCES];
    int sources;
    double compute, memory_in[MTH__MAX_IN], memory_out[MTH__MAX_OUT];
    int rows;
    mth__sharding need[MTH__MAX_IN];
} shard_pass;

/* ---------------------------------------------------------------- what an assignment costs */
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

static double bring(const shard_pass *shard, int j, const mth__sharding *need) {
    const mth__value *value = shard->node->in[j];
    const mth__info *info = mth__info_of(&shard->pass, value);
    if (value->sharding.on == need->on && mth__sharding_equal(&value->sharding, need, value->shape.rank)) return 0;
    double cost = mth__cost_reshard(value, &value->sharding, need);
    for (size_t k = 0; k < info->versions.n && cost > 0; k++) {
        const mth__version *version = &info->versions.at[k];
        if (!mth__version_lasts(value, &version->sharding, version->phase, shard->node->label.phase)) continue;
        if (version->sharding.on == need->on && mth__sharding_equal(&version->sharding, need, value->shape.rank))
            return 0;
        double seconds = mth__cost_reshard(value, &version->sharding, need);
        if (seconds < cost) cost = seconds;
    }
    if (value->kind == MTH__VALUE_PARAMETER && lies_on(value, need->on)) cost *= GATHERED_WEIGHT;
    bool gathers = mth__local_size(value->shape, need) > mth__local_size(value->shape, &value->sharding);
    return gathers && mth__is_backward_time(shard->node->label.phase) ? cost / sharers(shard, j) : cost;
}

/* A parameter not settled yet takes what the node needs, but for the dimensions that the user fixed. */
static mth__sharding settled(const mth__value *value, const mth__sharding *need) {
    mth__sharding sharding = value->copied ? mth__sharding_carry(need, value->shape, value->sharding.on) : *need;
    unsigned used = 0;
    for (int d = 0; d < value->shape.rank; d++)
        if (value->fixed[d]) {
            sharding.dim[d] = value->sharding.dim[d];
            for (int k = 0; k < sharding.dim[d].naxes; k++) used |= 1u << sharding.dim[d].axis[k];
        }
    for (int d = 0; d < value->shape.rank; d++)
        for (int k = 0; k < sharding.dim[d].naxes && !value->fixed[d]; k++)
            if (used >> sharding.dim[d].axis[k] & 1) memset(&sharding.dim[d], 0, sizeof sharding.dim[d]);
    mth__sharding_canonical(&sharding, value->shape);
    return sharding;
}

/* The two preferences: rows are named where their blocks are, and tokens are exchanged, not gathered. */
static assignment_price operand_price(shard_pass *shard, int j, const mth__assignment *assignment, unsigned pass) {
    const mth__node *node = shard->node;
    const mth__value *value = node->in[j];
    mth__sharding need =
        mth__assigned(&shard->rule, shard->rule.in[j], shard->rule.in_unit[j], assignment, value->shape, node->on);
    if (assignment->pass && value->sharding.partial) {
        need.partial = (uint8_t)pass;
        /* a partial sum passes as it is or not at all */
        if (!mth__sharding_equal(&need, &value->sharding, value->shape.rank)) return (assignment_price){FORBIDDEN, 0};
    }
    shard->need[j] = need;
    if (mth__info_of(&shard->pass, value)->free && lies_on(value, node->on)) {
        mth__sharding sharding = settled(value, &need);
        bool equal = mth__sharding_equal(&sharding, &need, value->shape.rank);
        return (assignment_price){0, equal ? 0 : GATHERED_WEIGHT * mth__cost_reshard(value, &sharding, &need)};
    }
    assignment_price cost = {0, bring(shard, j, &need)};
    const mth__info *info = mth__info_of(&shard->pass, value);
    bool hinted = info->hint && info->hint->on == node->on && info->hint->dim[0].naxes;
    if (hinted && (node->op->flags & MTH__NAMES_ROWS) && !need.dim[0].naxes) cost.against++;
    if (shard->rows < 0) return cost;
    if (j == shard->rows) { /* rows name tokens of the blocks in which they were made: whole, or those blocks */
        if (need.dim[1].naxes && !mth__split_equal(&need.dim[1], &value->sharding.dim[1]))
            return (assignment_price){FORBIDDEN, 0};
    } else if (value->shape.rank == 3)
        cost.seconds *= filled(node, shard->rows);
    else if (j == 0 && cost.seconds > 0 && value->sharding.dim[0].naxes && !need.dim[0].naxes)
        cost.against++;
    return cost;
}

static mth__sharding result_of(const shard_pass *shard, int k, const mth__assignment *assignment, unsigned pass) {
    const mth__value *value = shard->node->out[k];
    mth__sharding sharding = mth__assigned(
        &shard->rule, shard->rule.out[k], shard->rule.out_unit[k], assignment, value->shape, shard->node->on);
    sharding.partial = (uint8_t)(mth__partial_of(&shard->rule, shard->node, k, assignment, &sharding.reduce) |
        (assignment->pass ? pass : 0));
    if (!sharding.partial) sharding.reduce = 0;
    return sharding;
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

static assignment_price evaluate(
    shard_pass *shard, const mth__assignment *assignment, unsigned pass, assignment_price best) {
    const mth__node *node = shard->node;
    assignment_price cost = {0, 0};
    double memory = 0;
    for (int j = 0; j < node->nin; j++) {
        assignment_price operand = operand_price(shard, j, assignment, pass);
        cost.against += operand.against;
        cost.seconds += operand.seconds;
        if (!cheaper(cost, best)) return cost;
        if (shard->memory_in[j] > 0)
            memory += shard->memory_in[j] * (double)mth__local_size(node->in[j]->shape, &shard->need[j]);
    }
    double compute = shard->compute * mth__fraction(&shard->rule, assignment, node->on);
    for (int k = 0; k < node->nout; k++) {
        mth__sharding sharding = result_of(shard, k, assignment, pass);
        memory += shard->memory_out[k] * (double)mth__local_size(node->out[k]->shape, &sharding);
        const mth__info *info = mth__info_of(&shard->pass, node->out[k]);
        mth__sharding final = sharding;
        if (info->parameter && info->parameter->sharding.on == node->on)
            final = *kept(shard, info->parameter);
        else if (info->wish && info->wish->on == node->on)
            final = *info->wish;
        else if (info->output)
            final = (mth__sharding){.on = node->on};
        else if (info->uses == 0)
            continue;
        final.partial = final.reduce = 0;
        if (sharding.partial || !mth__sharding_equal(&sharding, &final, node->out[k]->shape.rank))
            cost.seconds +=
                mth__cost_reshard(node->out[k], &sharding, &final) / terms_of(shard->pass.graph, node, node->out[k]);
    }
    cost.seconds += compute > memory ? compute : memory;
    return cost;
}

/* ---------------------------------------------------------------- proposals and their combinations */
static void propose_like(shard_pass *shard, int j, const mth__sharding *like) { /* for operand j */
    mth__propose(&shard->rule, shard->rule.in[j], shard->rule.in_unit[j], like, shard->node->in[j], shard->source,
        &shard->sources);
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
static void propose_rows(shard_pass *shard) {
    const mth__node *node = shard->node;
    const mth__rule *rule = &shard->rule;
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
    for (int axis = 0; axis < node->on->naxes && rows >= 0 && shard->sources < MTH__SOURCES; axis++)
        if (node->on->dim[axis] > 1)
            shard->source[shard->sources++] =
                (mth__proposal){(int8_t)rows, {.naxes = 1, .axis = {(int8_t)axis}}, node->out[0]};
}

static void propose(shard_pass *shard) {
    const mth__node *node = shard->node;
    shard->sources = 0;
    for (int parameters = 1; parameters >= 0; parameters--) /* fixed weights first: their grain counts */
        for (int j = 0; j < node->nin; j++)
            if ((node->in[j]->kind == MTH__VALUE_PARAMETER) == parameters) propose_operand(shard, j);
    for (int k = 0; k < node->nout; k++) {
        const mth__info *info = mth__info_of(&shard->pass, node->out[k]);
        const mth__sharding *wish[] = {info->wish, info->parameter ? kept(shard, info->parameter) : NULL};
        for (int i = 0; i < 2; i++)
            if (wish[i] && wish[i]->on == node->on)
                mth__propose(&shard->rule, shard->rule.out[k], shard->rule.out_unit[k], wish[i], node->out[k],
                    shard->source, &shard->sources);
    }
    if (shard->sources && node->on->naxes > 1 && (node->op->flags & MTH__PRODUCT)) propose_rows(shard);
    mth__when sequence = shard->pass.options->sequence;
    if (sequence != MTH__WHEN_FALSE && shard->sources < MTH__SOURCES &&
        mth__propose_sequence(&shard->pass, node, &shard->rule, shard->pass.graph->seed.n > 0,
            sequence == MTH__WHEN_TRUE, &shard->source[shard->sources]))
        shard->sources++;
}

enum { CHOICES = 6 };
typedef struct {
    int n;
    int8_t factor[CHOICES];
} axis_choices; /* the last is -1: none */

static void choices_of(const shard_pass *shard, axis_choices choice[MTH__AXES]) {
    const mth__placement *on = shard->node->on;
    for (int axis = 0; axis < on->naxes; axis++) {
        choice[axis].n = 0;
        for (int i = 0; i < shard->sources; i++) {
            const mth__proposal *proposal = &shard->source[i];
            bool has = false, known = false;
            for (int k = 0; k < proposal->split.naxes; k++) has |= proposal->split.axis[k] == axis;
            for (int k = 0; k < choice[axis].n; k++) known |= choice[axis].factor[k] == proposal->factor;
            if (has && !known && choice[axis].n < CHOICES - 1) choice[axis].factor[choice[axis].n++] = proposal->factor;
        }
        choice[axis].factor[choice[axis].n++] = -1;
    }
}

static void compose(const shard_pass *shard, const axis_choices choice[MTH__AXES], const int pick[MTH__AXES],
    mth__assignment *assignment) {
    memset(assignment, 0, sizeof *assignment);
    for (int x = 0; x < shard->node->on->naxes; x++) {
        int factor = choice[x].factor[pick[x]];
        if (factor < 0 || assignment->of[factor].naxes) continue;
        unsigned axes = 0;
        for (int y = 0; y < shard->node->on->naxes; y++)
            if (choice[y].factor[pick[y]] == factor) axes |= 1u << y;
        assignment->of[factor] = mth__compose_split(shard->source, shard->sources, factor, axes);
    }
}

static void search(shard_pass *shard, mth__assignment *best) {
    const mth__placement *on = shard->node->on;
    axis_choices choice[MTH__AXES];
    choices_of(shard, choice);
    unsigned pass = mth__pass_axes(&shard->pass, shard->node);
    assignment_price least = {FORBIDDEN, 0};
    memset(best, 0, sizeof *best);
    for (int through = pass != 0; through >= 0; through--) {
        int pick[MTH__AXES] = {0};
        for (bool more = true; more;) {
            bool clash = false;
            for (int axis = 0; axis < on->naxes; axis++)
                clash |= through && (pass >> axis & 1) && choice[axis].factor[pick[axis]] >= 0;
            if (!clash) {
                mth__assignment assignment;
                compose(shard, choice, pick, &assignment);
                assignment.pass = through != 0;
                assignment_price cost = evaluate(shard, &assignment, pass, least);
                if (cheaper(cost, least)) {
                    least = cost;
                    *best = assignment;
                }
            }
            more = false;
            for (int axis = 0; axis < on->naxes && !more; axis++) {
                if (++pick[axis] < choice[axis].n)
                    more = true;
                else
                    pick[axis] = 0;
            }
        }
    }
}

/* ---------------------------------------------------------------- the decision */
static const char *origin_of(const shard_pass *shard, const mth__assignment *assignment) {
    mth__arena *arena = shard->pass.graph->arena;
    for (int factor = 0; factor < shard->rule.n; factor++) {
        if (!assignment->of[factor].naxes) continue;
        for (int i = 0; i < shard->sources; i++)
            if (shard->source[i].factor == factor)
                return mth__format(arena, "from %s by factor %c", mth__value_label(arena, shard->source[i].from),
                    shard->rule.factor[factor].letter);
    }
    return NULL;
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
    mth__assignment assignment;
    memset(&assignment, 0, sizeof assignment);
    unsigned pass = 0;
    bool alone = node->on->count == 1;
    if (!alone) {
        mth__op_rule(node, &shard->rule);
        shard->rows = node->op->row_args ? __builtin_ctzll(node->op->row_args) : -1;
        propose(shard);
        pass = mth__pass_axes(&shard->pass, node);
        if (shard->sources || pass) {
            const mth__device_model *model = node->on->mesh->model;
            mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
            bool costs = !(node->op->flags & (MTH__ALIAS | MTH__FREE));
            for (int j = 0; j < node->nin; j++) {
                in[j] = node->in[j]->shape;
                shard->memory_in[j] = costs ? (double)mth_dtype_size(node->in[j]->dtype) / model->memory_rate : 0;
            }
            for (int k = 0; k < node->nout; k++) {
                out[k] = node->out[k]->shape;
                shard->memory_out[k] = costs ? (double)mth_dtype_size(node->out[k]->dtype) / model->memory_rate : 0;
            }
            shard->compute = costs ? mth__op_flops(node, in, out) / mth__flops_rate(node) : 0;
            search(shard, &assignment);
        }
    }
    for (int j = 0; j < node->nin; j++) {
        mth__value *value = node->in[j];
        mth__sharding need = {.on = node->on};
        if (!alone) {
            need = mth__assigned(
                &shard->rule, shard->rule.in[j], shard->rule.in_unit[j], &assignment, value->shape, node->on);
            if (assignment.pass && value->sharding.partial) need.partial = (uint8_t)pass;
        }
        node->need[j] = need;
        mth__info *info = mth__info_of(&shard->pass, value);
        if (info->free && lies_on(value, node->on)) {
            value->sharding = settled(value, &need);
            info->free = false;
            if (!value->origin)
                value->origin = mth__sharding_axes(&value->sharding, value->shape.rank)
                    ? origin_of(shard, &assignment)
                    : "whole: nothing asks for less";
        }
        note(shard, value, &node->need[j]);
    }
    const char *origin = alone ? NULL : origin_of(shard, &assignment);
    for (int k = 0; k < node->nout; k++) {
        mth__value *value = node->out[k];
        value->sharding = alone ? (mth__sharding){.on = node->on} : result_of(shard, k, &assignment, pass);
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
            parameter->sharding = settled(parameter, &whole);
            if (!parameter->origin) parameter->origin = "whole: nothing uses it";
        }
        mth__sharding parts;
        if (options->store_sharded && mth__store_parts(parameter, &parameter->sharding, &parts)) {
            mth__sharding *read = NEW(graph->arena, mth__sharding);
            *read = parameter->sharding;
            parameter->read_as = read;
            parameter->sharding = parts;
            parameter->origin = "memory_optimization: in parts, gathered where it is read";
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
