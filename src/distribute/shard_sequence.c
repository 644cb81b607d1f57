/* Sequence parallelism (Korthikanti et al., 2022, "Reducing Activation Recomputation in Large Transformer Models").
 * Between products whose weights are split over an axis lie regions of rows that work on each position alone: biases,
 * residual sums, norms, dropout. A partial sum that enters such a region is scattered by positions (reduce_scatter),
 * and gathered where the next such product takes it (all_gather): together the bytes of the all_reduce that would make
 * it whole. Each device then computes and keeps its part of the region instead of all of it. What a region costs more
 * is latency, and in a plan with gradients a further gather in backward (decide.h, mth__kept) and the sums of its
 * parameters' gradients. */
#include "distribute/choice.h"

enum { REGION = 32 }; /* values and nodes of a region; a larger one is left whole */
typedef struct {
    const mth__value *value;
    int dim;
} position; /* dim: the dimension that is split */
typedef struct {
    const mth__propagation *pass;
    const mth__placement *on;
    int axis, positions, nodes, gathers;
    /* values that are split so already: a residual stream that came from a region before */
    bool meets;
    position position[REGION];
    const mth__node *node[REGION];
    double saved; /* seconds of computing, forward */
    double sums;  /* seconds of summing the parameters' gradients */
} region;

static bool splits(const mth__sharding *s, int rank, int axis) { return mth__sharding_axes(s, rank) >> axis & 1; }

static bool on_positions(const mth__op *op) { return (op->flags & (MTH__ELEMENTWISE | MTH__POSITIONWISE)) != 0; }

/* A product with a weight that is split over the axis: it needs v whole, or split in its other dimension. */
static bool takes(const region *r, const mth__node *n) {
    if (!(n->op->flags & MTH__PRODUCT)) return false;
    for (int j = 0; j < n->nin; j++) {
        const mth__value *v = n->in[j];
        if (v->kind == MTH__VALUE_PARAMETER && v->sharding.on == r->on && splits(&v->sharding, v->shape.rank, r->axis))
            return true;
    }
    return false;
}

static bool has_value(const region *r, const mth__value *v) {
    for (int i = 0; i < r->positions; i++)
        if (r->position[i].value == v) return true;
    return false;
}

static bool has_node(const region *r, const mth__node *n) {
    for (int i = 0; i < r->nodes; i++)
        if (r->node[i] == n) return true;
    return false;
}

/* An operand is not known yet: another branch joins, and the region ends here, neither for nor against. */
static bool joins(const region *r, const mth__node *n) {
    for (int j = 0; j < n->nin; j++)
        if (!mth__decided(r->pass, n->in[j]) && !has_value(r, n->in[j])) return true;
    return false;
}

static double seconds(const mth__node *n, const mth__rule *rule, int factor, const region *r, bool split) {
    mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
    for (int j = 0; j < n->nin; j++) {
        in[j] = n->in[j]->shape;
        for (int d = 0; d < in[j].rank && split; d++)
            if (rule->in[j][d] == factor) in[j].dim[d] /= r->on->dim[r->axis];
    }
    for (int k = 0; k < n->nout; k++) {
        out[k] = n->out[k]->shape;
        for (int d = 0; d < out[k].rank && split; d++)
            if (rule->out[k][d] == factor) out[k].dim[d] /= r->on->dim[r->axis];
    }
    return mth__cost_compute(n, in, out);
}

/* n reads v, which is split in `dim`; false: it can't be computed so. */
static bool enter(region *r, const mth__node *n, const mth__value *v, int dim) {
    mth__rule rule;
    int factor = -1;
    if (!on_positions(n->op) || r->nodes == REGION) return false;
    mth__op_rule(n, &rule);
    for (int j = 0; j < n->nin; j++)
        if (n->in[j] == v) factor = rule.in_unit[j][dim] == 1 ? rule.in[j][dim] : -1;
    if (factor < 0 || rule.factor[factor].kind != MTH__PASS) return false;
    for (int j = 0; j < n->nin; j++) {
        const mth__value *other = n->in[j];
        if (other->kind == MTH__VALUE_PARAMETER) {
            mth__sharding whole = {.on = r->on},
                          part = {.on = r->on, .partial = (uint8_t)(1u << r->axis), .reduce = MTH__REDUCE_SUM};
            r->sums += mth__cost_reshard(other, &part, &whole);
        } else if (splits(&other->sharding, other->shape.rank, r->axis)) { /* by positions too, or not at all */
            bool same = false;
            for (int d = 0; d < other->shape.rank; d++)
                for (int k = 0; k < other->sharding.dim[d].naxes; k++)
                    same |= other->sharding.dim[d].axis[k] == r->axis && rule.in[j][d] == factor;
            if (!same) return false;
            r->meets = true;
        }
    }
    for (int k = 0; k < n->nout; k++) {
        int at = -1;
        for (int d = 0; d < n->out[k]->shape.rank; d++)
            if (rule.out[k][d] == factor && rule.out_unit[k][d] == 1) at = d;
        if (at < 0 || r->positions == REGION) return false;
        r->position[r->positions++] = (position){n->out[k], at};
    }
    r->saved += seconds(n, &rule, factor, r, false) - seconds(n, &rule, factor, r, true);
    r->node[r->nodes++] = n;
    return true;
}

/* All that follows n, which takes the partial sum, up to products that take what comes out. What leaves the program has
   to be gathered
   too: a sum that goes straight there is better made whole at once, but not one that is added to a residual stream of
     parts. */
static bool explore(region *r, const mth__node *n, const mth__value *sum, int dim) {
    bool leaves = false;
    if (!enter(r, n, sum, dim)) return false;
    for (int i = 0; i < r->positions; i++) {
        const mth__value *v = r->position[i].value;
        const mth__info *info = mth__info_of(r->pass, v);
        bool taken = info->output;
        leaves |= info->output;
        for (size_t k = 0; k < info->reader.n; k++) {
            const mth__node *reader = info->reader.at[k];
            if (mth__follows_forward(reader->label.phase) || has_node(r, reader)) continue;
            if (reader->on != r->on) return false;
            if (takes(r, reader))
                taken = true;
            else if (!joins(r, reader) && !enter(r, reader, v, r->position[i].dim))
                return false;
        }
        r->gathers += taken;
    }
    return r->meets || (r->gathers > 0 && !leaves);
}

/* Seconds won by scattering `sum` in `dim`; its other splits make all of them smaller alike, but for the latency. */
static double gain(const region *r, const mth__value *sum, int dim, bool gradients) {
    mth__sharding whole = sum->sharding;
    whole.partial = whole.reduce = 0;
    mth__sharding part = whole;
    part.dim[dim].axis[part.dim[dim].naxes++] = (int8_t)r->axis;
    mth__sharding_canonical(&part, sum->shape);
    double share = (double)mth__local_size(sum->shape, &whole) / (double)mth__shape_size(sum->shape);
    double reduce = mth__cost_reshard(sum, &sum->sharding, &whole),
           scatter = mth__cost_reshard(sum, &sum->sharding, &part);
    double gather = mth__cost_reshard(sum, &part, &whole),
           won = r->saved * share - (scatter + r->gathers * gather - reduce);
    if (r->meets) won += gather; /* else the stream is gathered here */
    if (gradients) won += 2 * r->saved * share - (scatter + 2 * gather - reduce) - r->sums;
    return won;
}

bool mth__propose_sequence(const mth__propagation *pass, const mth__node *n, const mth__rule *rule, bool gradients,
    bool always, mth__proposal *out) {
    if (mth__follows_forward(n->label.phase)) return false;
    for (int j = 0; j < n->nin; j++) {
        const mth__value *sum = n->in[j];
        unsigned partial = sum->sharding.partial;
        if (!partial || (partial & (partial - 1)) || sum->sharding.reduce != MTH__REDUCE_SUM ||
            sum->sharding.on != n->on)
            continue;
        int axis = 0;
        while (!(partial >> axis & 1)) axis++;
        for (int d = 0; d < sum->shape.rank; d++) {
            const mth__split *have = &sum->sharding.dim[d];
            int64_t parts = n->on->dim[axis];
            bool fits = !have->cyclic && have->grain <= 1;
            for (int k = 0; k < have->naxes; k++) {
                parts *= n->on->dim[have->axis[k]];
                /* against the mesh's order XLA's partitioner computes wrong values */
                fits &= have->axis[k] < axis;
            }
            if (!fits || sum->shape.dim[d] == 0 || sum->shape.dim[d] % parts) continue;
            region r = {.pass = pass, .on = n->on, .axis = axis};
            if (!explore(&r, n, sum, d) || (!always && gain(&r, sum, d, gradients) <= 0)) continue;
            *out = (mth__proposal){rule->in[j][d], {.naxes = 1, .axis = {(int8_t)axis}}, sum};
            return true;
        }
    }
    return false;
}
