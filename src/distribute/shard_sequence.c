/* Sequence parallelism (Korthikanti et al., 2022, "Reducing Activation Recomputation in Large Transformer Models").
 * Between products whose weights are split over an axis lie regions of rows that work on each position alone: biases,
 * residual sums, norms, dropout. A partial sum that enters such a region is scattered by positions (reduce_scatter),
 * and gathered where the next such product takes it (all_gather): together the bytes of the all_reduce that would make
 * it whole. Each device then computes and keeps its part of the region instead of all of it. What a region costs more
 * is latency, and in a plan with gradients a further gather in backward (decide.h, mth__version_lasts) and the sums of
 * its parameters' gradients. */
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

static bool splits(const mth__sharding *sharding, int rank, int axis) {
    return mth__sharding_axes(sharding, rank) >> axis & 1;
}

static bool on_positions(const mth__op *op) { return (op->flags & (MTH__ELEMENTWISE | MTH__POSITIONWISE)) != 0; }

/* A product with a weight that is split over the axis: it needs its operand whole, or split in its other dimension. */
static bool takes(const region *candidate, const mth__node *node) {
    if (!(node->op->flags & MTH__PRODUCT)) return false;
    for (int j = 0; j < node->nin; j++) {
        const mth__value *value = node->in[j];
        if (value->kind == MTH__VALUE_PARAMETER && value->sharding.on == candidate->on &&
            splits(&value->sharding, value->shape.rank, candidate->axis))
            return true;
    }
    return false;
}

static bool has_value(const region *candidate, const mth__value *value) {
    for (int i = 0; i < candidate->positions; i++)
        if (candidate->position[i].value == value) return true;
    return false;
}

static bool has_node(const region *candidate, const mth__node *node) {
    for (int i = 0; i < candidate->nodes; i++)
        if (candidate->node[i] == node) return true;
    return false;
}

/* Does the node read an operand whose sharding is not decided yet? Then another branch joins and the region ends here,
 * which counts neither for the scattering nor against it. */
static bool joins(const region *candidate, const mth__node *node) {
    for (int j = 0; j < node->nin; j++)
        if (!mth__decided(candidate->pass, node->in[j]) && !has_value(candidate, node->in[j])) return true;
    return false;
}

static double seconds(const mth__node *node, const mth__rule *rule, int factor, const region *candidate, bool split) {
    mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
    for (int j = 0; j < node->nin; j++) {
        in[j] = node->in[j]->shape;
        for (int d = 0; d < in[j].rank && split; d++)
            if (rule->in[j][d] == factor) in[j].dim[d] /= candidate->on->dim[candidate->axis];
    }
    for (int k = 0; k < node->nout; k++) {
        out[k] = node->out[k]->shape;
        for (int d = 0; d < out[k].rank && split; d++)
            if (rule->out[k][d] == factor) out[k].dim[d] /= candidate->on->dim[candidate->axis];
    }
    return mth__cost_compute(node->on->mesh->model, node, in, out);
}

/* The node reads the value, which is split in `dim`; false: it can't be computed so. */
static bool enter(region *candidate, const mth__node *node, const mth__value *value, int dim) {
    mth__rule rule;
    int factor = -1;
    if (!on_positions(node->op) || candidate->nodes == REGION) return false;
    mth__op_rule(node, &rule);
    for (int j = 0; j < node->nin; j++)
        if (node->in[j] == value) factor = rule.in_unit[j][dim] == 1 ? rule.in[j][dim] : -1;
    if (factor < 0 || rule.factor[factor].kind != MTH__PASS) return false;
    for (int j = 0; j < node->nin; j++) {
        const mth__value *other = node->in[j];
        if (other->kind == MTH__VALUE_PARAMETER) {
            mth__sharding whole = {.on = candidate->on},
                          part = {.on = candidate->on,
                              .partial = (uint8_t)(1u << candidate->axis),
                              .reduce = MTH__REDUCE_SUM};
            candidate->sums += mth__cost_reshard(other, &part, &whole);
        } else if (splits(&other->sharding, other->shape.rank, candidate->axis)) { /* by positions too, or not at all */
            bool same = false;
            for (int d = 0; d < other->shape.rank; d++)
                for (int k = 0; k < other->sharding.dim[d].naxes; k++)
                    same |= other->sharding.dim[d].axis[k] == candidate->axis && rule.in[j][d] == factor;
            if (!same) return false;
            candidate->meets = true;
        }
    }
    for (int k = 0; k < node->nout; k++) {
        int at = -1;
        for (int d = 0; d < node->out[k]->shape.rank; d++)
            if (rule.out[k][d] == factor && rule.out_unit[k][d] == 1) at = d;
        if (at < 0 || candidate->positions == REGION) return false;
        candidate->position[candidate->positions++] = (position){node->out[k], at};
    }
    candidate->saved += seconds(node, &rule, factor, candidate, false) - seconds(node, &rule, factor, candidate, true);
    candidate->node[candidate->nodes++] = node;
    return true;
}

/* Collects all that follows the node, which takes the partial sum, up to the products that take what comes out. What
   leaves the program must be gathered as well, so a sum that goes straight there is better made whole at once; but not
   one that is added to a residual stream that lies in parts. */
static bool explore(region *candidate, const mth__node *node, const mth__value *sum, int dim) {
    bool leaves = false;
    if (!enter(candidate, node, sum, dim)) return false;
    for (int i = 0; i < candidate->positions; i++) {
        const mth__value *value = candidate->position[i].value;
        const mth__info *info = mth__info_of(candidate->pass, value);
        bool taken = info->output;
        leaves |= info->output;
        for (size_t k = 0; k < info->reader.n; k++) {
            const mth__node *reader = info->reader.at[k];
            if (mth__follows_forward(reader->label.phase) || has_node(candidate, reader)) continue;
            if (reader->on != candidate->on) return false;
            if (takes(candidate, reader))
                taken = true;
            else if (!joins(candidate, reader) && !enter(candidate, reader, value, candidate->position[i].dim))
                return false;
        }
        candidate->gathers += taken;
    }
    return candidate->meets || (candidate->gathers > 0 && !leaves);
}

/* Seconds won by scattering `sum` in `dim`; its other splits make all of them smaller alike, but for the latency. */
static double gain(const region *candidate, const mth__value *sum, int dim, bool gradients) {
    mth__sharding whole = sum->sharding;
    whole.partial = whole.reduce = 0;
    mth__sharding part = whole;
    part.dim[dim].axis[part.dim[dim].naxes++] = (int8_t)candidate->axis;
    mth__sharding_canonical(&part, sum->shape);
    double share = (double)mth__local_size(sum->shape, &whole) / (double)mth__shape_size(sum->shape);
    double reduce = mth__cost_reshard(sum, &sum->sharding, &whole),
           scatter = mth__cost_reshard(sum, &sum->sharding, &part);
    double gather = mth__cost_reshard(sum, &part, &whole),
           won = candidate->saved * share - (scatter + candidate->gathers * gather - reduce);
    if (candidate->meets) won += gather; /* else the stream is gathered here */
    if (gradients) won += 2 * candidate->saved * share - (scatter + 2 * gather - reduce) - candidate->sums;
    return won;
}

bool mth__propose_sequence(const mth__propagation *pass, const mth__node *node, const mth__rule *rule, bool gradients,
    bool always, mth__proposal *out) {
    if (mth__follows_forward(node->label.phase)) return false;
    for (int j = 0; j < node->nin; j++) {
        const mth__value *sum = node->in[j];
        unsigned partial = sum->sharding.partial;
        if (!partial || (partial & (partial - 1)) || sum->sharding.reduce != MTH__REDUCE_SUM ||
            sum->sharding.on != node->on)
            continue;
        int axis = 0;
        while (!(partial >> axis & 1)) axis++;
        for (int d = 0; d < sum->shape.rank; d++) {
            const mth__split *have = &sum->sharding.dim[d];
            int64_t parts = node->on->dim[axis];
            bool fits = !have->cyclic && have->grain <= 1;
            for (int k = 0; k < have->naxes; k++) {
                parts *= node->on->dim[have->axis[k]];
                /* against the mesh's order XLA's partitioner computes wrong values */
                fits &= have->axis[k] < axis;
            }
            if (!fits || sum->shape.dim[d] == 0 || sum->shape.dim[d] % parts) continue;
            region candidate = {.pass = pass, .on = node->on, .axis = axis};
            if (!explore(&candidate, node, sum, d) || (!always && gain(&candidate, sum, d, gradients) <= 0)) continue;
            *out = (mth__proposal){rule->in[j][d], {.naxes = 1, .axis = {(int8_t)axis}}, sum};
            return true;
        }
    }
    return false;
}
