/* Linear, Embedding, PositionalEncoding, LayerNorm, RMSNorm, Dropout, FeedForward. */
#include "compose/parts.h"
#include <inttypes.h>
#include <string.h>

/* ---------------------------------------------------------------- Linear */
static mth_status linear_expand(mth__expansion *expansion) {
    return mth__part_linear(expansion,
        &(mth__linear_part){"", mth__opt_int(expansion, "dimension", 0), mth__opt_bool(expansion, "bias"),
            mth__module_option(expansion->module, "weight_shard_spec"), -1, -1, 1, 1},
        expansion->in[0], &expansion->out[0]);
}

const mth__module_type mth__type_Linear = {
    .name = "Linear",
    .inputs = "input",
    .outputs = "output",
    .options = (const mth__opt[]){{"dimension", MTH__OPT_SIZE, NULL, "the width of the output", NULL},
        {"bias", MTH__OPT_BOOL, "True", "whether a bias is added", NULL},
        MTH__WEIGHT_SPEC("how the weight (in, dimension) is split: (0, None) splits the input dimension, (None, 0) the "
                         "output; the bias "
                         "follows"),
        MTH__SHARED_WEIGHT, MTH__SHARD_SPECS, {0}},
    .doc = "input[..., in] @ weight + bias -> output[..., dimension]. The weight starts normal with deviation 1 / "
           "sqrt(in), the bias zero.",
    .parameters = "weight (in, dimension), bias (dimension,)",
    .parameter_options = "bias bias, weight weight=None",
    .expand = linear_expand,
};

/* ---------------------------------------------------------------- Embedding */
static mth_status embedding_expand(mth__expansion *expansion) {
    TRY(mth__need_ids(expansion->in[0], "input"));
    TRY(mth__need_rank(expansion->in[0], "input", 0, MTH__RANK - 1));
    const mth_arg *spec = mth__module_option(expansion->module, "weight_shard_spec"),
                  *axis = mth__module_option(expansion->module, "tensor_axis");
    mth_arg items[] = {*axis, MTH_NONE}, split = mth_list(2, items);
    int64_t width = mth__opt_int(expansion, "embedding_dim", 0);
    mth__value *weight;
    bool across;
    TRY(mth__expansion_weight(expansion, "weight", (mth__shape){2, {mth__opt_int(expansion, "vocab_size", 0), width}},
        MTH__INIT_NORMAL, 1 / __builtin_sqrt((double)width), axis->kind == MTH_ARG_INT ? &split : spec, NULL, &weight,
        &across));
    if (across)
        TRY(mth__build1(
            &expansion->builder, MTH__ROW_transpose, &(mth__attrs){.rank = 2, .permutation = {1, 0}}, weight, &weight));
    return mth__build2(&expansion->builder, MTH__ROW_gather, NULL, weight, expansion->in[0], &expansion->out[0]);
}

const mth__module_type mth__type_Embedding = {
    .name = "Embedding",
    .inputs = "input",
    .outputs = "output",
    .integers = "input",
    .options =
        (const mth__opt[]){{"vocab_size", MTH__OPT_SIZE, NULL, "rows of the table: ids are 0 to vocab_size - 1", NULL},
            {"embedding_dim", MTH__OPT_SIZE, NULL, "the width of a row", NULL},
            MTH__WEIGHT_SPEC("how the table (vocab_size, embedding_dim) is split"),
            MTH__TENSOR_AXIS("splits the vocabulary over this mesh axis"), MTH__SHARED_WEIGHT, MTH__SHARD_SPECS, {0}},
    .doc = "The rows of a table: input[...] (int32 or int64 ids) -> output[..., embedding_dim]. The table starts "
           "normal with deviation 1 / "
           "sqrt(embedding_dim).",
    .parameters = "weight (vocab_size, embedding_dim)",
    .parameter_options = "weight weight=None",
    .table = true,
    .check = mth__check_one_spec,
    .expand = embedding_expand,
};

/* ---------------------------------------------------------------- PositionalEncoding */
static mth_status rotary(mth__expansion *expansion, mth__value *x) {
    int rank = x->shape.rank;
    int64_t width = x->shape.dim[rank - 1], head = mth__opt_int(expansion, "head_dim", width);
    if (width % head || head % 2) {
        mth_status status = FAIL(MTH_ERROR_VALUE,
            F("a width of %" PRId64 " has no whole heads of %" PRId64 " with pairs to rotate", width, head),
            F("give an even head_dim that divides %" PRId64, width));
        return mth__error_tensor(status, mth__port_text("input", x));
    }
    mth__attrs attrs = {.dimension = rank - 2,
        .interleaved = mth__opt_bool(expansion, "interleaved"),
        .base = mth__opt_float(expansion, "base")};
    if (head == width) return mth__build1(&expansion->builder, MTH__ROW_rope, &attrs, x, &expansion->out[0]);
    TRY(mth__need_rank(x, "input", 2, MTH__RANK - 1));
    mth__shape heads = x->shape;
    heads.dim[rank - 1] = width / head;
    heads.dim[heads.rank++] = head;
    mth__value *value;
    TRY(mth__part_reshape(&expansion->builder, x, heads, &value));
    TRY(mth__build1(&expansion->builder, MTH__ROW_rope, &attrs, value, &value));
    return mth__part_reshape(&expansion->builder, value, x->shape, &expansion->out[0]);
}

static mth_status positional_expand(mth__expansion *expansion) {
    mth__value *x = expansion->in[0], *table;
    TRY(mth__need_float(x, "input"));
    TRY(mth__need_rank(x, "input", 2, MTH__RANK));
    int64_t length = x->shape.dim[x->shape.rank - 2], width = x->shape.dim[x->shape.rank - 1],
            most = mth__opt_int(expansion, "max_len", 0);
    if (length > most) {
        mth_status status =
            FAIL(MTH_ERROR_VALUE, F("a sequence of %" PRId64 " is longer than max_len=%" PRId64, length, most),
                F("give shorter sequences, or max_len=%" PRId64, length));
        return mth__error_tensor(status, mth__port_text("input", x));
    }
    const char *kind = mth__opt_string(expansion, "kind");
    if (!strcmp(kind, "rotary")) return rotary(expansion, x);
    if (!strcmp(kind, "learned")) {
        TRY(mth__expansion_parameter(
            expansion, "weight", (mth__shape){2, {most, width}}, MTH__INIT_NORMAL, 0.02, NULL, NULL, &table));
        TRY(mth__build1(&expansion->builder, MTH__ROW_slice, &(mth__attrs){.stop = length}, table, &table));
    } else {
        TRY(mth__build(
            &expansion->builder, MTH__ROW_sinusoid, &(mth__attrs){.length = length, .width = width}, 0, NULL, &table));
        if (table->dtype != x->dtype)
            TRY(mth__build1(&expansion->builder, MTH__ROW_cast, &(mth__attrs){.dtype = x->dtype}, table, &table));
    }
    return mth__build2(&expansion->builder, MTH__ROW_add, NULL, x, table, &expansion->out[0]);
}

static mth_status positional_check(const mth_module *module) { return mth__check_base(module, "base"); }

const mth__module_type mth__type_PositionalEncoding = {
    .name = "PositionalEncoding",
    .inputs = "input",
    .outputs = "output",
    .options = (const mth__opt[]){{"max_len", MTH__OPT_SIZE, NULL, "the longest sequence that is taken", NULL},
        {"kind", MTH__OPT_CHOICE, "'sinusoidal'", "what is done with positions", "sinusoidal|learned|rotary"},
        {"head_dim", MTH__OPT_SIZE, "None", "rotary: the width that is rotated as a unit; None: the whole width",
            .needs = "kind='rotary'"},
        {"base", MTH__OPT_FLOAT, "10000.0", "rotary: pair j at position s turns by the angle s * base^(-2j / head_dim)",
            .needs = "kind='rotary'"},
        {"interleaved", MTH__OPT_BOOL, "False",
            "rotary: pairs are neighbours; False: column j goes with j + head_dim / 2", .needs = "kind='rotary'"},
        MTH__SHARD_SPECS, {0}},
    .doc = "Tells positions apart: input[..., s, d] -> output[..., s, d]. sinusoidal adds sin(s / 10000^(d'/d)) in "
           "even columns d' and the "
           "cosine of the same angle in the odd ones; learned adds rows of a parameter, which starts normal with "
           "deviation 0.02; rotary "
           "turns pairs of columns.",
    .parameters = "weight (max_len, d)",
    .parameter_options = "weight kind=learned",
    .table = true,
    .check = positional_check,
    .expand = positional_expand,
};

/* ---------------------------------------------------------------- norms */
static mth_status norm_width(mth__expansion *expansion, int64_t *width) {
    TRY(mth__need_float(expansion->in[0], "input"));
    TRY(mth__need_rank(expansion->in[0], "input", 1, MTH__RANK));
    *width = expansion->in[0]->shape.dim[expansion->in[0]->shape.rank - 1];
    return NULL;
}

static mth_status layer_norm_expand(mth__expansion *expansion) {
    int64_t d;
    TRY(norm_width(expansion, &d));
    mth__value *weight, *bias, *out[3];
    TRY(mth__expansion_parameter(expansion, "weight", (mth__shape){1, {d}}, MTH__INIT_ONE, 0, NULL, NULL, &weight));
    if (mth__opt_bool(expansion, "bias"))
        TRY(mth__expansion_parameter(expansion, "bias", (mth__shape){1, {d}}, MTH__INIT_ZERO, 0, NULL, NULL, &bias));
    else
        TRY(mth__build_scale(
            &expansion->builder, weight, 0, &bias)); /* the row has a bias: zeros, wherever the weight is */
    TRY(mth__build(&expansion->builder, MTH__ROW_layer_norm,
        &(mth__attrs){.epsilon = mth__opt_float(expansion, "epsilon")}, 3,
        (mth__value *[]){expansion->in[0], weight, bias}, out));
    expansion->out[0] = out[0];
    return NULL;
}

static mth_status rms_norm_expand(mth__expansion *expansion) {
    int64_t d;
    TRY(norm_width(expansion, &d));
    mth__value *weight, *out[2];
    TRY(mth__expansion_parameter(expansion, "weight", (mth__shape){1, {d}}, MTH__INIT_ONE, 0, NULL, NULL, &weight));
    TRY(mth__build(&expansion->builder, MTH__ROW_rms_norm,
        &(mth__attrs){.epsilon = mth__opt_float(expansion, "epsilon")}, 2, (mth__value *[]){expansion->in[0], weight},
        out));
    expansion->out[0] = out[0];
    return NULL;
}

static mth_status check_epsilon(const mth_module *module) {
    double epsilon = mth__module_option(module, "epsilon")->real;
    if (epsilon >= 0) return NULL;
    return FAIL(
        MTH_ERROR_VALUE, F("epsilon=%g is negative", epsilon), F("give epsilon a value of 0 or more, such as 1e-5"));
}

const mth__module_type mth__type_LayerNorm = {
    .name = "LayerNorm",
    .inputs = "input",
    .outputs = "output",
    .options = (const mth__opt[]){{"epsilon", MTH__OPT_FLOAT, "1e-05", "added to the variance", NULL},
        {"bias", MTH__OPT_BOOL, "True", "whether a bias is added", NULL}, MTH__SHARD_SPECS, {0}},
    .doc = "(input - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension: input[..., d] -> "
           "output[..., d]. The weight "
           "starts at one, the bias at zero.",
    .parameters = "weight (d,), bias (d,)",
    .parameter_options = "bias bias",
    .check = check_epsilon,
    .expand = layer_norm_expand,
};

const mth__module_type mth__type_RMSNorm = {
    .name = "RMSNorm",
    .inputs = "input",
    .outputs = "output",
    .options = (const mth__opt[]){{"epsilon", MTH__OPT_FLOAT, "1e-05", "added to the mean square", NULL},
        MTH__SHARD_SPECS, {0}},
    .doc = "input / sqrt(mean(input^2) + epsilon) * weight over the last dimension: input[..., d] -> output[..., d]. "
           "The weight starts at "
           "one.",
    .parameters = "weight (d,)",
    .check = check_epsilon,
    .expand = rms_norm_expand,
};

/* ---------------------------------------------------------------- Dropout */
static mth_status dropout_expand(mth__expansion *expansion) {
    TRY(mth__need_float(expansion->in[0], "input"));
    double rate = mth__opt_float(expansion, "rate");
    if (rate == 0) return mth__build1(&expansion->builder, MTH__ROW_copy, NULL, expansion->in[0], &expansion->out[0]);
    /* FNV-1a: two Dropouts of a model draw apart */
    uint64_t key = 1469598103934665603u ^ (uint64_t)mth__opt_int(expansion, "seed", 0);
    for (const char *at = expansion->builder.label.module; *at; at++) key = (key ^ (unsigned char)*at) * 1099511628211u;
    return mth__build1(&expansion->builder, MTH__ROW_dropout,
        &(mth__attrs){.key = (int64_t)(key >> 1), .probability = rate}, expansion->in[0], &expansion->out[0]);
}

static mth_status check_rate(const mth_module *module) {
    double rate = mth__module_option(module, "rate")->real;
    if (rate >= 0 && rate < 1) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("rate=%g is no share of the elements", rate),
        F("give rate a value of 0 or more and below 1"));
}

const mth__module_type mth__type_Dropout = {
    .name = "Dropout",
    .inputs = "input",
    .outputs = "output",
    .options =
        (const mth__opt[]){{"rate", MTH__OPT_FLOAT, "0.5",
                               "the share of elements that become zero; 0 leaves all, as wanted after training", NULL},
            {"seed", MTH__OPT_INT, "0", "with the operator's name the key of the random numbers", NULL}, {0}},
    .doc = "Zeros a share of the elements and divides the others by 1 - rate: input[...] -> output[...]. "
           "Counter-based: the choice depends "
           "on seed, operator and index, not on the mesh; it is the same at every evaluate.",
    .parameters = "",
    .check = check_rate,
    .expand = dropout_expand,
};

/* ---------------------------------------------------------------- FeedForward */
static mth_status feed_forward_expand(mth__expansion *expansion) {
    mth__value *x = expansion->in[0], *up, *gate;
    TRY(mth__need_float(x, "input"));
    TRY(mth__need_rank(x, "input", 1, MTH__RANK));
    int64_t axis = mth__opt_int(expansion, "tensor_axis", -1), hidden = mth__opt_int(expansion, "hidden_dim", 0),
            width = x->shape.dim[x->shape.rank - 1];
    bool bias = mth__opt_bool(expansion, "bias");
    const enum mth__row activation = mth__op_find(mth__opt_string(expansion, "activation"))->row;
    if (mth__opt_bool(expansion, "gated")) {
        TRY(mth__part_linear(expansion, &(mth__linear_part){"gate.", hidden, bias, NULL, -1, axis, 1, 1}, x, &gate));
        TRY(mth__build1(&expansion->builder, activation, NULL, gate, &gate));
        TRY(mth__part_linear(expansion, &(mth__linear_part){"up.", hidden, bias, NULL, -1, axis, 1, 1}, x, &up));
        TRY(mth__build2(&expansion->builder, MTH__ROW_mul, NULL, gate, up, &up));
    } else {
        TRY(mth__part_linear(expansion, &(mth__linear_part){"up.", hidden, bias, NULL, -1, axis, 1, 1}, x, &up));
        TRY(mth__build1(&expansion->builder, activation, NULL, up, &up));
    }
    return mth__part_linear(
        expansion, &(mth__linear_part){"down.", width, bias, NULL, axis, -1, 1, 1}, up, &expansion->out[0]);
}

const mth__module_type mth__type_FeedForward = {
    .name = "FeedForward",
    .inputs = "input",
    .outputs = "output",
    .options = (const mth__opt[]){{"hidden_dim", MTH__OPT_SIZE, NULL, "the width between the two products", NULL},
        MTH__ACTIVATION,
        {"gated", MTH__OPT_BOOL, "False", "down(activation(gate(input)) * up(input)), as in Llama with silu", NULL},
        {"bias", MTH__OPT_BOOL, "True", "whether each product has a bias", NULL},
        MTH__TENSOR_AXIS("splits hidden_dim over this mesh axis: up and gate by columns, down by rows"),
        MTH__SHARD_SPECS, {0}},
    .doc = "down(activation(up(input))): input[..., d] -> output[..., d], with Linear layers of hidden_dim between.",
    .parameters = "gate.weight (d, hidden_dim), gate.bias (hidden_dim,), up.weight (d, hidden_dim), up.bias "
                  "(hidden_dim,), down.weight "
                  "(hidden_dim, d), down.bias (d,)",
    .parameter_options = "bias bias, gate gated",
    .expand = feed_forward_expand,
};
