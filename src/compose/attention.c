/* MultiHeadAttention. Heads are grouped by the key and value head that they read: query head h = g * r + i reads head
 * g, so that a split of the groups splits queries, keys and values alike, and no key travels. */
#include "compose/parts.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    int64_t heads, groups, each, dim;
} heads; /* each: query heads a group */

static mth_status read_heads(mth__expansion *expansion, int64_t width, heads *attention) {
    attention->heads = mth__opt_int(expansion, "num_heads", 0);
    attention->groups = mth__opt_int(expansion, "num_kv_heads", attention->heads);
    attention->each = attention->heads / attention->groups;
    attention->dim = mth__opt_int(expansion, "head_dim", 0);
    if (!attention->dim && width % attention->heads) {
        mth_status status =
            FAIL(MTH_ERROR_VALUE, F("a width of %" PRId64 " has no %" PRId64 " equal heads", width, attention->heads),
                F("give head_dim, or a num_heads that divides %" PRId64, width));
        return mth__error_tensor(status, mth__port_text("input", expansion->in[0]));
    }
    if (!attention->dim) attention->dim = width / attention->heads;
    int64_t all;
    TRY(mth__product(attention->heads, attention->dim, "num_heads * head_dim", &all));
    if (attention->each * attention->dim > INT32_MAX)
        return FAIL(MTH_ERROR_VALUE, F("a group of heads has a width of %" PRId64, attention->each * attention->dim),
            F("use smaller heads"));
    if (mth__opt_bool(expansion, "rotary") && attention->dim % 2)
        return FAIL(MTH_ERROR_VALUE, F("rotary=True turns pairs of columns, and head_dim is %" PRId64, attention->dim),
            F("give an even head_dim"));
    return NULL;
}

static mth_status need_batch(const mth__value *x, const mth__value *other, const char *port, int dims) {
    if (!memcmp(x->shape.dim, other->shape.dim, sizeof(int64_t) * (size_t)dims)) return NULL;
    const long long batch = (long long)x->shape.dim[0], length = (long long)x->shape.dim[1];
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("%s does not fit: %s must be the same", port, dims == 1 ? "the batch" : "batch and length"),
        dims == 1 ? F("give %s a batch of %lld", port, batch)
                  : F("give %s the batch %lld and the length %lld", port, batch, length));
    return mth__error_tensor(status, mth__port_text(port, other));
}

/* input -> [b, length, group, head of the group (query alone), dim], rotated where wanted */
static mth_status project(mth__expansion *expansion, const char *prefix, mth__value *x, const heads *attention,
    bool query, mth__value **out) {
    int32_t unit = (int32_t)(query ? attention->each * attention->dim : attention->dim);
    TRY(mth__part_linear(expansion,
        &(mth__linear_part){prefix, attention->groups * unit, mth__opt_bool(expansion, "bias"), NULL, -1,
            mth__opt_int(expansion, "tensor_axis", -1), 1, unit},
        x, out));
    mth__shape shape = {4, {x->shape.dim[0], x->shape.dim[1], attention->groups, attention->dim}};
    if (query)
        shape = (mth__shape){5, {x->shape.dim[0], x->shape.dim[1], attention->groups, attention->each, attention->dim}};
    return mth__part_reshape(&expansion->builder, *out, shape, out);
}

static mth_status rotate(mth__expansion *expansion, mth__value **x) {
    if (!mth__opt_bool(expansion, "rotary")) return NULL;
    return mth__build1(&expansion->builder, MTH__ROW_rope,
        &(mth__attrs){.dimension = 1,
            .interleaved = mth__opt_bool(expansion, "rope_interleaved"),
            .base = mth__opt_float(expansion, "rope_base")},
        *x, x);
}

static mth_status attention_expand(mth__expansion *expansion) {
    mth__value *input = expansion->in[0], *key = mth__expansion_input(expansion, "key"),
               *value = mth__expansion_input(expansion, "value"), *mask = mth__expansion_input(expansion, "mask");
    heads attention;
    if (!key) key = input;
    if (!value) value = key;
    struct {
        const char *port;
        const mth__value *value;
    } given[] = {{"input", input}, {"key", key}, {"value", value}};
    for (int i = 0; i < 3; i++) {
        TRY(mth__need_float(given[i].value, given[i].port));
        TRY(mth__need_rank(given[i].value, given[i].port, 3, 3));
    }
    int64_t width = input->shape.dim[2];
    TRY(read_heads(expansion, width, &attention));
    TRY(mth__error_tensor(need_batch(input, key, "key", 1), mth__port_text("input", input)));
    TRY(mth__error_tensor(need_batch(key, value, "value", 2), mth__port_text("key", key)));
    if (mask) {
        if (mask->shape.rank != 2)
            return mth__error_tensor(
                mth__error_tensor(
                    FAIL(MTH_ERROR_VALUE,
                        F("mask has %d dimensions: a mask [batch, length of key] says which keys count, for all heads "
                          "and queries alike",
                            mask->shape.rank),
                        F("give one of shape (%lld, %lld); for a mask of the later positions give causal=True instead",
                            (long long)key->shape.dim[0], (long long)key->shape.dim[1])),
                    mth__port_text("mask", mask)),
                mth__port_text("key", key));
        TRY(mth__error_tensor(need_batch(key, mask, "mask", 2), mth__port_text("key", key)));
        if (mask->dtype != MTH_BOOL) TRY(mth__build1(&expansion->builder, MTH__ROW_mask, NULL, mask, &mask));
    }
    mth__value *in[4], *out[3]; /* out: o, most, sum */
    TRY(project(expansion, "query.", input, &attention, true, &in[0]));
    TRY(project(expansion, "key.", key, &attention, false, &in[1]));
    TRY(project(expansion, "value.", value, &attention, false, &in[2]));
    TRY(rotate(expansion, &in[0]));
    TRY(rotate(expansion, &in[1]));
    in[3] = mask;
    const mth_arg *scale = mth__module_option(expansion->module, "scale");
    mth__attrs attrs = {.causal = mth__opt_bool(expansion, "causal"),
        .scale = scale->kind == MTH_ARG_FLOAT ? scale->real : 1 / __builtin_sqrt((double)attention.dim)};
    TRY(mth__build(&expansion->builder, MTH__ROW_attention, &attrs, mask ? 4 : 3, in, out));
    mth__value *joined;
    TRY(mth__part_reshape(&expansion->builder, out[0],
        (mth__shape){3, {input->shape.dim[0], input->shape.dim[1], attention.heads * attention.dim}}, &joined));
    return mth__part_linear(expansion,
        &(mth__linear_part){"output.", width, mth__opt_bool(expansion, "bias"), NULL,
            mth__opt_int(expansion, "tensor_axis", -1), -1, (int32_t)(attention.each * attention.dim), 1},
        joined, &expansion->out[0]);
}

static mth_status attention_check(const mth_module *module) {
    int64_t count = mth__module_option(module, "num_heads")->integer;
    const mth_arg *groups = mth__module_option(module, "num_kv_heads");
    if (groups->kind == MTH_ARG_INT && count % groups->integer)
        return FAIL(MTH_ERROR_VALUE,
            F("num_heads=%" PRId64 " is no multiple of num_kv_heads=%" PRId64, count, groups->integer),
            F("give a num_kv_heads that divides %" PRId64, count));
    return mth__check_base(module, "rope_base");
}

const mth__module_type mth__type_MultiHeadAttention = {
    .name = "MultiHeadAttention",
    .inputs = "input, key?, value?, mask?",
    .outputs = "output",
    .integers = "mask",
    .options = (const mth__opt[]){{"num_heads", MTH__OPT_SIZE, NULL, "heads of the query", NULL},
        {"head_dim", MTH__OPT_SIZE, "None", "the width of a head; None: the input's width / num_heads", NULL},
        {"num_kv_heads", MTH__OPT_SIZE, "None",
            "heads of key and value, each read by num_heads / num_kv_heads query heads; None: "
            "num_heads",
            NULL},
        {"causal", MTH__OPT_BOOL, "False", "a position sees itself and those before it", NULL},
        {"bias", MTH__OPT_BOOL, "True", "whether query, key, value and output add a bias", NULL},
        {"scale", MTH__OPT_FLOAT, "None", "factor of the scores; None: 1 / sqrt(head_dim)", NULL},
        {"rotary", MTH__OPT_BOOL, "False", "turns queries and keys by their positions", NULL},
        {"rope_base", MTH__OPT_FLOAT, "10000.0", "rotary: pair j at position s turns by s * base^(-2j / head_dim)",
            .needs = "rotary=True"},
        {"rope_interleaved", MTH__OPT_BOOL, "False",
            "rotary: pairs are neighbours; False: column j goes with j + head_dim / 2", .needs = "rotary=True"},
        MTH__TENSOR_AXIS(
            "splits the heads over this mesh axis, in whole groups: query, key and value by columns, output by rows"),
        MTH__SHARD_SPECS, {0}},
    .doc = "softmax(scale * query key^T) value for each head, between Linear layers: input[b, s, d], key[b, t, dk] "
           "(else input), value[b, "
           "t, dv] (else key), mask[b, t] (truth values or numbers: 0 hides key t, 1 shows it) -> output[b, s, d]. A "
           "query that sees no key gives "
           "zeros before the last layer. Columns of the query stand head by head; head h reads the key and value head "
           "h // (num_heads // "
           "num_kv_heads).",
    .parameters = "query.weight (d, num_heads * head_dim), query.bias (num_heads * head_dim,), key.weight (dk, "
                  "num_kv_heads * head_dim), "
                  "key.bias (num_kv_heads * head_dim,), value.weight (dv, num_kv_heads * head_dim), value.bias "
                  "(num_kv_heads * head_dim,), "
                  "output.weight (num_heads * head_dim, d), output.bias (d,)",
    .parameter_options = "bias bias",
    .units = "num_kv_heads num_heads",
    .check = attention_check,
    .expand = attention_expand,
};
