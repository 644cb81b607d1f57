/* MoE: a mixture of experts. */
#include "compose/parts.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* The split of the experts' dimension. */
static mth_status expert_split(mth__expansion *expansion, int rank, mth__sharding *split) {
    const mth_arg *spec = mth__module_option(expansion->module, "weight_shard_spec"),
                  *distribution = mth__module_option(expansion->module, "expert_distribution");
    *split = (mth__sharding){.on = expansion->mesh};
    mth__split *first_dim = &split->dim[0];
    if (spec->kind == MTH_ARG_LIST) {
        mth_arg first[MTH__RANK] = {spec->items[0]};
        return mth__spec_read(mth_list((size_t)rank, first), expansion->mesh, rank, "the experts", split);
    }
    if (distribution->kind == MTH_ARG_NONE) return split->on = NULL, NULL;
    if (!strcmp(distribution->string, "round_robin")) {
        for (int axis = 0; axis < expansion->mesh->naxes && !first_dim->naxes; axis++)
            if (expansion->mesh->dim[axis] > 1)
                *first_dim = (mth__split){.naxes = 1, .axis = {(int8_t)axis}, .cyclic = true};
    } else {
        for (int axis = 0; axis < expansion->mesh->naxes; axis++) first_dim->axis[first_dim->naxes++] = (int8_t)axis;
    }
    return NULL;
}

static mth_status expert_parameter(
    mth__expansion *expansion, const char *suffix, mth__shape shape, int init, double scale, mth__value **out) {
    mth__sharding split;
    TRY(expert_split(expansion, shape.rank, &split));
    return mth__expansion_parameter_as(expansion, suffix, shape, init, scale, &split, out);
}

/* x[e, t, in] -> x weight + bias on the rows that are real */
static mth_status expert_linear(
    mth__expansion *expansion, const char *name, mth__value *x, mth__value *rows, int64_t width, mth__value **out) {
    mth__arena *arena = expansion->builder.graph->arena;
    int64_t experts = x->shape.dim[0], in = x->shape.dim[2];
    mth__value *weight, *bias;
    TRY(expert_parameter(expansion, mth__format(arena, "experts.%s.weight", name),
        (mth__shape){3, {experts, in, width}}, MTH__INIT_NORMAL, 1 / sqrt((double)in), &weight));
    TRY(mth__build3(&expansion->builder, MTH__ROW_moe_matmul, NULL, x, weight, rows, out));
    if (!mth__opt_bool(expansion, "bias")) return NULL;
    TRY(expert_parameter(expansion, mth__format(arena, "experts.%s.bias", name), (mth__shape){2, {experts, width}},
        MTH__INIT_ZERO, 0, &bias));
    return mth__build3(&expansion->builder, MTH__ROW_moe_bias, NULL, *out, bias, rows, out);
}

/* Switch Transformer: E * sum over e of (share of the choices that fell on e) * (mean probability of e); 1 where they
 * are even. */
static mth_status balance_loss(mth__expansion *expansion, mth__value *logits, mth__value *experts, mth__value **out) {
    mth__builder *builder = &expansion->builder;
    mth__value *share, *probability;
    int64_t count = logits->shape.dim[1];
    TRY(mth__build1(builder, MTH__ROW_moe_count, &(mth__attrs){.experts = count}, experts, &share));
    if (share->dtype != logits->dtype)
        TRY(mth__build1(builder, MTH__ROW_cast, &(mth__attrs){.dtype = logits->dtype}, share, &share));
    TRY(mth__build_scale(
        builder, share, (double)count / ((double)experts->shape.dim[0] * (double)experts->shape.dim[1]), &share));
    TRY(mth__build1(builder, MTH__ROW_softmax, &(mth__attrs){.dimension = 1}, logits, &probability));
    TRY(mth__part_reduce(builder, MTH__MEAN, probability, 1, false, &probability));
    TRY(mth__build2(builder, MTH__ROW_mul, NULL, share, probability, out));
    return mth__part_reduce(builder, MTH__TOTAL, *out, 1, false, out);
}

/* Of the chosen experts the probability among all: softmax(logits)[t, experts[t, k]]. */
static mth_status probability_of(mth__builder *builder, mth__value *logits, mth__value *experts, mth__value **out) {
    const int64_t tokens = logits->shape.dim[0], count = logits->shape.dim[1], k = experts->shape.dim[1];
    mth__value *value;
    TRY(mth__build1(builder, MTH__ROW_softmax, &(mth__attrs){.dimension = 1}, logits, &value));
    TRY(mth__part_reshape(builder, value, (mth__shape){3, {tokens, 1, count}}, &value));
    if (k > 1)
        TRY(mth__build1(
            builder, MTH__ROW_broadcast_to, &(mth__attrs){.rank = 3, .shape = {tokens, k, count}}, value, &value));
    return mth__build2(builder, MTH__ROW_pick, NULL, value, experts, out);
}

static mth_status moe_expand(mth__expansion *expansion) {
    static const char *const activations[] = {"relu", "gelu", "gelu_tanh", "silu"};
    mth__builder *builder = &expansion->builder;
    mth__value *x = expansion->in[0], *router, *logits, *routed[2], *capped[2], *rows, *up, *gate;
    TRY(mth__need_float(x, "input"));
    TRY(mth__need_rank(x, "input", 2, MTH__RANK));
    int rank = x->shape.rank;
    int64_t width = x->shape.dim[rank - 1], tokens = mth__shape_size(x->shape) / width,
            count = mth__opt_int(expansion, "num_experts", 0), k = mth__opt_int(expansion, "top_k", 0);
    if (tokens > INT32_MAX)
        return mth__error_tensor(
            FAIL(MTH_ERROR_VALUE, F("%" PRId64 " tokens are more than rows can number (2^31 - 1)", tokens),
                F("give smaller batches")),
            mth__port_text("input", x));
    mth__value *value;
    TRY(mth__part_reshape(builder, x, (mth__shape){2, {tokens, width}}, &value));
    TRY(mth__expansion_parameter(expansion, "router.weight", (mth__shape){2, {width, count}}, MTH__INIT_NORMAL,
        1 / sqrt((double)width), NULL, NULL, &router));
    TRY(mth__build_contract(builder, "td,de->te", value, router, &logits));
    TRY(mth__build(builder, MTH__ROW_moe_route, &(mth__attrs){.k = k}, 1, &logits, routed));
    mth__value *weights = routed[0], *experts = routed[1];
    if (!strcmp(mth__opt_string(expansion, "router_softmax"), "before"))
        TRY(probability_of(builder, logits, experts, &weights));
    const mth_arg *factor = mth__module_option(expansion->module, "capacity_factor");
    int outputs = 1;
    if (factor->kind == MTH_ARG_FLOAT) {
        double capacity = ceil(factor->real * (double)tokens * (double)k / (double)count);
        mth__attrs attrs = {.capacity = capacity > (double)tokens ? tokens : (int64_t)capacity, .experts = count};
        TRY(mth__build(builder, MTH__ROW_moe_capacity, &attrs, 1, &experts, capped));
        experts = capped[0];
        expansion->out[outputs++] = capped[1];
    }
    TRY(mth__build1(builder, MTH__ROW_moe_rows, &(mth__attrs){.experts = count}, experts, &rows));
    TRY(mth__build2(builder, MTH__ROW_moe_dispatch, NULL, value, rows, &value));
    int64_t hidden = mth__opt_int(expansion, "expert_dim", 0);
    mth__attrs act = {.activation = 0};
    while (strcmp(activations[act.activation], mth__opt_string(expansion, "activation"))) act.activation++;
    if (mth__opt_bool(expansion, "gated")) {
        TRY(expert_linear(expansion, "gate", value, rows, hidden, &gate));
        TRY(mth__build2(builder, MTH__ROW_moe_act, &act, gate, rows, &gate));
        TRY(expert_linear(expansion, "up", value, rows, hidden, &up));
        TRY(mth__build3(builder, MTH__ROW_moe_mul, NULL, gate, up, rows, &up));
    } else {
        TRY(expert_linear(expansion, "up", value, rows, hidden, &up));
        TRY(mth__build2(builder, MTH__ROW_moe_act, &act, up, rows, &up));
    }
    TRY(expert_linear(expansion, "down", up, rows, width, &up));
    TRY(mth__build(builder, MTH__ROW_moe_combine, NULL, 4, (mth__value *[]){up, rows, weights, experts}, &value));
    TRY(mth__part_reshape(builder, value, x->shape, &expansion->out[0]));
    if (mth__opt_bool(expansion, "load_balancing_loss"))
        TRY(balance_loss(expansion, logits, routed[1], &expansion->out[outputs++]));
    return NULL;
}

static void moe_ports(const mth_module *module, mth__arena *arena, const char **inputs, const char **outputs) {
    (void)inputs;
    *outputs = mth__format(arena, "output%s%s",
        mth__module_option(module, "capacity_factor")->kind == MTH_ARG_NONE ? "" : ", dropped?",
        mth__module_option(module, "load_balancing_loss")->integer ? ", load_balancing_loss?" : "");
}

static mth_status moe_check(const mth_module *module) {
    int64_t experts = mth__module_option(module, "num_experts")->integer,
            k = mth__module_option(module, "top_k")->integer;
    const mth_arg *factor = mth__module_option(module, "capacity_factor"),
                  *spec = mth__module_option(module, "weight_shard_spec");
    if (k > experts)
        return FAIL(MTH_ERROR_VALUE, F("top_k=%" PRId64 " experts a token, and there are %" PRId64, k, experts),
            F("give a top_k from 1 to %" PRId64, experts));
    if (experts > INT32_MAX)
        return FAIL(MTH_ERROR_VALUE, F("num_experts=%" PRId64 " is above 2^31 - 1", experts), F("use fewer experts"));
    if (factor->kind == MTH_ARG_FLOAT && factor->real <= 0)
        return FAIL(MTH_ERROR_VALUE, F("capacity_factor=%g leaves no room for any token", factor->real),
            F("give a capacity_factor above 0, such as 1.25, or None to drop nothing"));
    if (spec->kind == MTH_ARG_NONE) return NULL;
    if (mth__module_option(module, "expert_distribution")->kind != MTH_ARG_NONE)
        return FAIL(MTH_ERROR_VALUE, F("weight_shard_spec and expert_distribution both say where the experts are"),
            F("give one of the two"));
    if (spec->count != 3 || spec->items[1].kind != MTH_ARG_NONE || spec->items[2].kind != MTH_ARG_NONE)
        return FAIL(MTH_ERROR_VALUE,
            F("weight_shard_spec of MoE says how the experts, the first of 3 dimensions, are split"),
            F("give weight_shard_spec=(0, None, None); for others use shard_specs={'experts.up.weight': ...}"));
    return NULL;
}

static const char *moe_warning(const mth_module *module) {
    const bool after = !strcmp(mth__module_option(module, "router_softmax")->string, "after");
    if (mth__module_option(module, "top_k")->integer > 1 || mth__module_option(module, "num_experts")->integer == 1 ||
        !after)
        return NULL;
    return "MoE: with top_k=1 the softmax over the chosen logits is 1, and router.weight has no gradient but a "
           "load_balancing_loss's; "
           "router_softmax='before' weighs an expert by its probability";
}

const mth__module_type mth__type_MoE = {
    .name = "MoE",
    .inputs = "input",
    .outputs = "output, dropped?, load_balancing_loss?",
    .port_options = "dropped capacity_factor=1.25, load_balancing_loss load_balancing_loss=True",
    .options = (const mth__opt[]){{"num_experts", MTH__OPT_SIZE, NULL, "how many experts there are", NULL},
        {"expert_dim", MTH__OPT_SIZE, NULL, "the hidden width of an expert", NULL},
        {"top_k", MTH__OPT_SIZE, "2", "how many experts work on a token", NULL},
        {"expert_distribution", MTH__OPT_CHOICE, "None",
            "where the experts are: one_per_device gives each device one, or a block of neighbours where there are "
            "more experts than "
            "devices; round_robin deals them out one by one (over the first axis of the mesh that has several "
            "devices); None keeps all on "
            "each device",
            "one_per_device|round_robin"},
        MTH__ACTIVATION,
        {"gated", MTH__OPT_BOOL, "False", "an expert is down(activation(gate(x)) * up(x)), as in Mixtral with silu",
            NULL},
        {"bias", MTH__OPT_BOOL, "True", "whether the products of the experts have biases; the router has none", NULL},
        {"capacity_factor", MTH__OPT_FLOAT, "None",
            "an expert takes at most ceil(capacity_factor * tokens * top_k / num_experts) tokens, in order; the output "
            "`dropped` counts "
            "the choices left out; None: no limit",
            NULL},
        {"load_balancing_loss", MTH__OPT_BOOL, "False",
            "adds the output `load_balancing_loss`: num_experts * sum(share of choices * mean probability), 1 where "
            "even",
            NULL},
        {"router_softmax", MTH__OPT_CHOICE, "'after'",
            "what weighs a chosen expert: after: the softmax over the chosen logits; before: its probability among all "
            "experts, as in Switch "
            "Transformer, so that the router learns with top_k=1 too",
            "after|before"},
        MTH__WEIGHT_SPEC("(axis, None, None): how the experts are split, in place of expert_distribution"),
        MTH__SHARD_SPECS, {0}},
    .doc = "A mixture of experts: input[..., d] -> output[..., d]. A router chooses the top_k experts of each token "
           "(ties: the lower "
           "index); each is a feed-forward layer, and their results are summed, weighed as router_softmax says. "
           "`dropped` (1,) is int32, `load_balancing_loss` a scalar.",
    .parameters =
        "router.weight (d, num_experts), experts.gate.weight (num_experts, d, expert_dim), experts.gate.bias "
        "(num_experts, "
        "expert_dim), experts.up.weight (num_experts, d, expert_dim), experts.up.bias (num_experts, expert_dim), "
        "experts.down.weight (num_experts, expert_dim, d), experts.down.bias (num_experts, d)",
    .parameter_options = "bias bias, gate gated",
    .check = moe_check,
    .warning = moe_warning,
    .ports = moe_ports,
    .expand = moe_expand,
};
