/* A sharding for every value and what every node needs of its operands. Nodes are visited in order. Each mesh axis may
 * split one factor of the node: those that an operand, a fixed weight or a wish behind the result propose, or none. Of
 *   all combinations the cheapest is
 * taken: bringing the operands + computing + bringing the results to where they are wanted. A SUM or MAX factor that is
 * split leaves the results partial. Weights that the user laid out stay where they are unless nothing else works. */
#include "distribute/choice.h"
#include <math.h>
#include <string.h>

static const double GATHERED_WEIGHT = 16; /* times dearer: a weight stays where it was laid */
static const double FORBIDDEN = 1e6;

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
/* Padding of the expert buffers is not worth its bytes: a token is in k of e rows. */
static double filled(const mth__node *n, int rows) {
    const mth__node *maker = rows >= 0 ? n->in[rows]->node : NULL;
    if (!maker || !(maker->op->flags & MTH__NAMES_ROWS)) return 1;
    double e = (double)n->in[rows]->shape.dim[0], k = (double)maker->in[0]->shape.dim[1];
    return e > k ? k / e : 1;
}

/* Readers to come that may share what is made of operand j for this node: the weights of query, key and value have
   gradients that all take the same activation. */
static int sharers(const shard_pass *s, int j) {
    const mth__node *n = s->node;
    const mth__info *info = mth__info_of(&s->pass, n->in[j]);
    int sharers = 1;
    for (size_t k = 0; k < info->reader.n; k++) {
        const mth__node *r = info->reader.at[k];
        sharers += r != n && r->id >= s->pass.at && r->op == n->op && r->on == n->on &&
            mth__same_unit(&r->label, &n->label) && j < r->nin && r->in[j] == n->in[j];
    }
    return sharers;
}

/* A parameter lies on `on`, there alone or there too. */
static bool lies_on(const mth__value *v, const mth__placement *on) {
    return v->sharding.on == on || (v->copied && mth__place_holds(v->sharding.on, on));
}

static double bring(const shard_pass *s, int j, const mth__sharding *need) {
    const mth__value *v = s->node->in[j];
    const mth__info *info = mth__info_of(&s->pass, v);
    if (v->sharding.on == need->on && mth__sharding_equal(&v->sharding, need, v->shape.rank)) return 0;
    double cost = mth__cost_reshard(v, &v->sharding, need);
    for (size_t k = 0; k < info->also.n && cost > 0; k++) {
        const mth__also *also = &info->also.at[k];
        if (!mth__kept(v, &also->sharding, also->phase, s->node->label.phase)) continue;
        if (also->sharding.on == need->on && mth__sharding_equal(&also->sharding, need, v->shape.rank)) return 0;
        double c = mth__cost_reshard(v, &also->sharding, need);
        if (c < cost) cost = c;
    }
    if (v->kind == MTH__VALUE_PARAMETER && lies_on(v, need->on)) cost *= GATHERED_WEIGHT;
    bool gathers = mth__local_size(v->shape, need) > mth__local_size(v->shape, &v->sharding);
    return gathers && mth__is_backward_time(s->node->label.phase) ? cost / sharers(s, j) : cost;
}

/* A parameter not settled yet takes what the node needs, but for the dimensions that the user fixed. */
static mth__sharding settled(const mth__value *v, const mth__sharding *need) {
    mth__sharding r = v->copied ? mth__sharding_carry(need, v->shape, v->sharding.on) : *need;
    unsigned used = 0;
    for (int d = 0; d < v->shape.rank; d++)
        if (v->fixed[d]) {
            r.dim[d] = v->sharding.dim[d];
            for (int k = 0; k < r.dim[d].naxes; k++) used |= 1u << r.dim[d].axis[k];
        }
    for (int d = 0; d < v->shape.rank; d++)
        for (int k = 0; k < r.dim[d].naxes && !v->fixed[d]; k++)
            if (used >> r.dim[d].axis[k] & 1) memset(&r.dim[d], 0, sizeof r.dim[d]);
    mth__sharding_canonical(&r, v->shape);
    return r;
}

static double operand_cost(shard_pass *s, int j, const mth__assignment *a, unsigned pass) {
    const mth__node *n = s->node;
    const mth__value *v = n->in[j];
    mth__sharding need = mth__assigned(&s->rule, s->rule.in[j], s->rule.in_unit[j], a, v->shape, n->on);
    if (a->pass && v->sharding.partial) {
        need.partial = (uint8_t)pass;
        /* a partial sum passes as it is or not at all */
        if (!mth__sharding_equal(&need, &v->sharding, v->shape.rank)) return FORBIDDEN;
    }
    s->need[j] = need;
    if (mth__info_of(&s->pass, v)->free && lies_on(v, n->on)) {
        mth__sharding r = settled(v, &need);
        return mth__sharding_equal(&r, &need, v->shape.rank) ? 0 : GATHERED_WEIGHT * mth__cost_reshard(v, &r, &need);
    }
    double cost = bring(s, j, &need);
    const mth__info *info = mth__info_of(&s->pass, v);
    bool hinted = info->hint && info->hint->on == n->on && info->hint->dim[0].naxes;
    if (hinted && (n->op->flags & MTH__NAMES_ROWS) && !need.dim[0].naxes) cost += 1;
    if (s->rows < 0) return cost;
    if (j == s->rows) { /* rows name tokens of the blocks in which they were made: whole, or those blocks */
        if (need.dim[1].naxes && !mth__split_equal(&need.dim[1], &v->sharding.dim[1])) return FORBIDDEN;
    } else if (v->shape.rank == 3)
        cost *= filled(n, s->rows);
    else if (j == 0 && cost > 0 && v->sharding.dim[0].naxes && !need.dim[0].naxes)
        cost += 1; /* tokens are exchanged */
    return cost;
}

static mth__sharding result_of(const shard_pass *s, int k, const mth__assignment *a, unsigned pass) {
    const mth__value *v = s->node->out[k];
    mth__sharding r = mth__assigned(&s->rule, s->rule.out[k], s->rule.out_unit[k], a, v->shape, s->node->on);
    r.partial = (uint8_t)(mth__partial_of(&s->rule, s->node, k, a, &r.reduce) | (a->pass ? pass : 0));
    if (!r.partial) r.reduce = 0;
    return r;
}

/* What the gradient of a parameter must end with. */
static const mth__sharding *kept(const shard_pass *s, const mth__value *parameter) {
    mth__info *info = mth__info_of(&s->pass, parameter);
    if (s->pass.options->store_sharded && !info->free && !info->stored) {
        mth__sharding parts = parameter->sharding, *stored = NEW(s->pass.arena, mth__sharding);
        mth__store_parts(parameter, &parameter->sharding, &parts);
        *stored = parts;
        info->stored = stored;
    }
    return info->stored ? info->stored : &parameter->sharding;
}

/* A weight's gradients of the microbatches are summed as they are made, and brought to where it is once, behind the
 * last. */
static double terms_of(const mth__graph *g, const mth__node *n, const mth__value *v) {
    bool term = v->gradient_of && v->gradient_of->kind == MTH__VALUE_PARAMETER && n->label.region >= 0 &&
        n->label.microbatch >= 0;
    return term ? g->region.at[n->label.region]->microbatches : 1;
}

static double evaluate(shard_pass *s, const mth__assignment *a, unsigned pass, double best) {
    const mth__node *n = s->node;
    double cost = 0, memory = 0;
    for (int j = 0; j < n->nin; j++) {
        cost += operand_cost(s, j, a, pass);
        if (cost >= best) return cost;
        if (s->memory_in[j] > 0) memory += s->memory_in[j] * (double)mth__local_size(n->in[j]->shape, &s->need[j]);
    }
    double compute = s->compute * mth__fraction(&s->rule, a, n->on);
    for (int k = 0; k < n->nout; k++) {
        mth__sharding r = result_of(s, k, a, pass);
        memory += s->memory_out[k] * (double)mth__local_size(n->out[k]->shape, &r);
        const mth__info *info = mth__info_of(&s->pass, n->out[k]);
        mth__sharding want = r;
        if (info->parameter && info->parameter->sharding.on == n->on)
            want = *kept(s, info->parameter);
        else if (info->wish && info->wish->on == n->on)
            want = *info->wish;
        else if (info->output)
            want = (mth__sharding){.on = n->on};
        else if (info->uses == 0)
            continue;
        want.partial = want.reduce = 0;
        if (r.partial || !mth__sharding_equal(&r, &want, n->out[k]->shape.rank))
            cost += mth__cost_reshard(n->out[k], &r, &want) / terms_of(s->pass.graph, n, n->out[k]);
    }
    return cost + (compute > memory ? compute : memory);
}

/* ---------------------------------------------------------------- proposals and their combinations */
static void propose_like(shard_pass *s, int j, const mth__sharding *like) { /* for operand j */
    mth__propose(&s->rule, s->rule.in[j], s->rule.in_unit[j], like, s->node->in[j], s->source, &s->sources);
}

static void propose_operand(shard_pass *s, int j) {
    const mth__value *v = s->node->in[j];
    const mth__info *info = mth__info_of(&s->pass, v);
    const mth__placement *on = s->node->on;
    if (v->sharding.on == on)
        propose_like(s, j, &v->sharding);
    else if (v->sharding.on) {
        mth__sharding carried = mth__sharding_carry(&v->sharding, v->shape, on);
        propose_like(s, j, &carried);
    }
    for (size_t k = 0; k < info->also.n; k++)
        if (info->also.at[k].sharding.on == on) propose_like(s, j, &info->also.at[k].sharding);
    if (info->hint && info->hint->on == on) propose_like(s, j, info->hint);
}

/* A product that is split over some axes and would be repeated over the others may share its rows among those: the
   largest factor of the result that no weight has, so that weights stay as they are. */
static void propose_rows(shard_pass *s) {
    const mth__node *n = s->node;
    const mth__rule *r = &s->rule;
    int rows = -1;
    for (int f = 0; f < r->n; f++) {
        bool weight = false;
        for (int j = 0; j < n->nin; j++)
            for (int d = 0; d < n->in[j]->shape.rank && n->in[j]->kind == MTH__VALUE_PARAMETER; d++)
                weight |= r->in[j][d] == f;
        if (!weight && r->factor[f].kind == MTH__PASS && (rows < 0 || r->factor[f].size > r->factor[rows].size))
            rows = f;
    }
    for (int a = 0; a < n->on->naxes && rows >= 0 && s->sources < MTH__SOURCES; a++)
        if (n->on->dim[a] > 1)
            s->source[s->sources++] = (mth__proposal){(int8_t)rows, {.naxes = 1, .axis = {(int8_t)a}}, n->out[0]};
}

static void propose(shard_pass *s) {
    const mth__node *n = s->node;
    s->sources = 0;
    for (int parameters = 1; parameters >= 0; parameters--) /* fixed weights first: their grain counts */
        for (int j = 0; j < n->nin; j++)
            if ((n->in[j]->kind == MTH__VALUE_PARAMETER) == parameters) propose_operand(s, j);
    for (int k = 0; k < n->nout; k++) {
        const mth__info *info = mth__info_of(&s->pass, n->out[k]);
        const mth__sharding *wish[] = {info->wish, info->parameter ? kept(s, info->parameter) : NULL};
        for (int i = 0; i < 2; i++)
            if (wish[i] && wish[i]->on == n->on)
                mth__propose(&s->rule, s->rule.out[k], s->rule.out_unit[k], wish[i], n->out[k], s->source, &s->sources);
    }
    if (s->sources && n->on->naxes > 1 && (n->op->flags & MTH__PRODUCT)) propose_rows(s);
    mth__when sequence = s->pass.options->sequence;
    if (sequence != MTH__WHEN_FALSE && s->sources < MTH__SOURCES &&
        mth__propose_sequence(
            &s->pass, n, &s->rule, s->pass.graph->seed.n > 0, sequence == MTH__WHEN_TRUE, &s->source[s->sources]))
        s->sources++;
}

enum { CHOICES = 6 };
typedef struct {
    int n;
    int8_t factor[CHOICES];
} axis_choices; /* the last is -1: none */

static void choices_of(const shard_pass *s, axis_choices c[MTH__AXES]) {
    const mth__placement *on = s->node->on;
    for (int a = 0; a < on->naxes; a++) {
        c[a].n = 0;
        for (int i = 0; i < s->sources; i++) {
            const mth__proposal *p = &s->source[i];
            bool has = false, known = false;
            for (int k = 0; k < p->split.naxes; k++) has |= p->split.axis[k] == a;
            for (int k = 0; k < c[a].n; k++) known |= c[a].factor[k] == p->factor;
            if (has && !known && c[a].n < CHOICES - 1) c[a].factor[c[a].n++] = p->factor;
        }
        c[a].factor[c[a].n++] = -1;
    }
}

static void compose(
    const shard_pass *s, const axis_choices c[MTH__AXES], const int pick[MTH__AXES], mth__assignment *a) {
    memset(a, 0, sizeof *a);
    for (int x = 0; x < s->node->on->naxes; x++) {
        int f = c[x].factor[pick[x]];
        if (f < 0 || a->of[f].naxes) continue;
        unsigned axes = 0;
        for (int y = 0; y < s->node->on->naxes; y++)
            if (c[y].factor[pick[y]] == f) axes |= 1u << y;
        a->of[f] = mth__compose_split(s->source, s->sources, f, axes);
    }
}

static void search(shard_pass *s, mth__assignment *best) {
    const mth__placement *on = s->node->on;
    axis_choices c[MTH__AXES];
    choices_of(s, c);
    unsigned pass = mth__pass_axes(&s->pass, s->node);
    double least = INFINITY;
    memset(best, 0, sizeof *best);
    for (int through = pass != 0; through >= 0; through--) {
        int pick[MTH__AXES] = {0};
        for (bool more = true; more;) {
            bool clash = false;
            for (int x = 0; x < on->naxes; x++) clash |= through && (pass >> x & 1) && c[x].factor[pick[x]] >= 0;
            if (!clash) {
                mth__assignment a;
                compose(s, c, pick, &a);
                a.pass = through != 0;
                double cost = evaluate(s, &a, pass, least);
                if (cost < least) {
                    least = cost;
                    *best = a;
                }
            }
            more = false;
            for (int x = 0; x < on->naxes && !more; x++) {
                if (++pick[x] < c[x].n)
                    more = true;
                else
                    pick[x] = 0;
            }
        }
    }
}

/* ---------------------------------------------------------------- the decision */
static const char *origin_of(const shard_pass *s, const mth__assignment *a) {
    mth__arena *arena = s->pass.graph->arena;
    for (int f = 0; f < s->rule.n; f++) {
        if (!a->of[f].naxes) continue;
        for (int i = 0; i < s->sources; i++)
            if (s->source[i].factor == f)
                return mth__format(arena, "from %s by factor %c", mth__value_label(arena, s->source[i].from),
                    s->rule.factor[f].letter);
    }
    return NULL;
}

static void note(shard_pass *s, mth__value *v, const mth__sharding *need) {
    mth__info *info = mth__info_of(&s->pass, v);
    if (v->sharding.on == need->on && mth__sharding_equal(&v->sharding, need, v->shape.rank)) return;
    for (size_t k = 0; k < info->also.n; k++) {
        const mth__also *also = &info->also.at[k];
        bool same = also->sharding.on == need->on && mth__sharding_equal(&also->sharding, need, v->shape.rank);
        if (same && mth__kept(v, need, also->phase, s->node->label.phase)) return;
    }
    PUSH(s->pass.arena, info->also, ((mth__also){*need, s->node->label.phase}));
}

/* A gradient would like to be split as what it is the gradient of: the next step backward meets the operands of the
   step forward. That is known in full, where consumers' wishes (shard_wishes.c) come from weights alone and say nothing
   of the batch. */
static void wish_as_forward(shard_pass *s, const mth__value *v) {
    const mth__value *of = v->gradient_of;
    mth__info *info = mth__info_of(&s->pass, v);
    if (!of || !of->sharding.on) return;
    mth__sharding like = of->sharding;
    like.partial = like.reduce = 0;
    if (like.on != s->node->on) like = mth__sharding_carry(&like, of->shape, s->node->on);
    if (!mth__sharding_axes(&like, of->shape.rank)) return;
    mth__sharding *kept = NEW(s->pass.arena, mth__sharding);
    *kept = like;
    info->wish = kept;
}

static void decide(shard_pass *s) {
    mth__node *n = s->node;
    for (int k = 0; k < n->nout; k++) wish_as_forward(s, n->out[k]);
    n->need = NEW_ARRAY(s->pass.graph->arena, mth__sharding, n->nin);
    mth__assignment a;
    memset(&a, 0, sizeof a);
    unsigned pass = 0;
    bool alone = n->on->count == 1;
    if (!alone) {
        mth__op_rule(n, &s->rule);
        s->rows = n->op->row_args ? __builtin_ctzll(n->op->row_args) : -1;
        propose(s);
        pass = mth__pass_axes(&s->pass, n);
        if (s->sources || pass) {
            const mth__device_model *model = n->on->mesh->model;
            mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
            bool costs = !(n->op->flags & (MTH__ALIAS | MTH__FREE));
            for (int j = 0; j < n->nin; j++) {
                in[j] = n->in[j]->shape;
                s->memory_in[j] = costs ? (double)mth_dtype_size(n->in[j]->dtype) / model->memory_rate : 0;
            }
            for (int k = 0; k < n->nout; k++) {
                out[k] = n->out[k]->shape;
                s->memory_out[k] = costs ? (double)mth_dtype_size(n->out[k]->dtype) / model->memory_rate : 0;
            }
            s->compute = costs ? mth__op_flops(n, in, out) / mth__flops_rate(n) : 0;
            search(s, &a);
        }
    }
    for (int j = 0; j < n->nin; j++) {
        mth__value *v = n->in[j];
        mth__sharding need = {.on = n->on};
        if (!alone) {
            need = mth__assigned(&s->rule, s->rule.in[j], s->rule.in_unit[j], &a, v->shape, n->on);
            if (a.pass && v->sharding.partial) need.partial = (uint8_t)pass;
        }
        n->need[j] = need;
        mth__info *info = mth__info_of(&s->pass, v);
        if (info->free && lies_on(v, n->on)) {
            v->sharding = settled(v, &need);
            info->free = false;
            if (!v->origin)
                v->origin =
                    mth__sharding_axes(&v->sharding, v->shape.rank) ? origin_of(s, &a) : "whole: nothing asks for less";
        }
        note(s, v, &n->need[j]);
    }
    const char *origin = alone ? NULL : origin_of(s, &a);
    for (int k = 0; k < n->nout; k++) {
        mth__value *v = n->out[k];
        v->sharding = alone ? (mth__sharding){.on = n->on} : result_of(s, k, &a, pass);
        v->origin = origin;
    }
    if (n->op->flags & MTH__GATHERS) mth__info_of(&s->pass, n->out[0])->hint = &n->in[0]->sharding;
    /* An output's gradient comes in as the output is made, so that backward starts as forward ended; where nothing can
       come in so, as the output leaves. */
    for (int k = 0; k < n->nout; k++) {
        mth__value *seed = mth__info_of(&s->pass, n->out[k])->seed;
        if (!seed || (s->pass.options->ports_in_blocks && !mth__sharding_in_blocks(&n->out[k]->sharding, seed->shape)))
            continue;
        seed->sharding = n->out[k]->sharding;
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
        info->hint = source->offer;
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
            mth__sharding *kept = NEW(pass->arena, mth__sharding);
            *kept = need;
            info->wish = kept;
        }
        info->output = true;
    }
}

mth_status mth__shard(mth__graph *graph, const mth__distribute_options *options) {
    mth__arena *arena = mth__arena_new();
    shard_pass *s = NEW(arena, shard_pass);
    s->pass = (mth__propagation){.graph = graph, .arena = arena, .options = options};
    describe(&s->pass);
    mth__shard_wishes(&s->pass);
    for (; s->pass.at < (int)graph->node.n; s->pass.at++) {
        s->node = graph->node.at[s->pass.at];
        mth__shard_group_terms(&s->pass, s->node);
        decide(s);
    }
    for (size_t i = 0; i < graph->parameter.n; i++) {
        mth__value *parameter = graph->parameter.at[i];
        if (mth__info_of(&s->pass, parameter)->free) {
            mth__sharding whole = {.on = parameter->sharding.on};
            parameter->sharding = settled(parameter, &whole);
            if (!parameter->origin) parameter->origin = "whole: nothing uses it";
        }
        mth__sharding parts;
        if (options->store_sharded && mth__store_parts(parameter, &parameter->sharding, &parts)) {
            mth__sharding *read = NEW(graph->arena, mth__sharding);
            *read = parameter->sharding;
            parameter->read = read;
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
