/* Modules without parameters: elementwise functions, arithmetic, layout, reductions. */
#include "compose/parts.h"
#include <inttypes.h>
#include <string.h>

/* ---------------------------------------------------------------- of one operand */
static mth_status elementwise(mth__expansion *expansion, enum mth__row row) {
    TRY(mth__need_float(expansion->in[0], "input"));
    return mth__build1(&expansion->builder, row, NULL, expansion->in[0], &expansion->out[0]);
}

static mth_status relu_expand(mth__expansion *expansion) { return elementwise(expansion, MTH__ROW_relu); }
static mth_status gelu_expand(mth__expansion *expansion) {
    return elementwise(expansion, mth__opt_bool(expansion, "approximate") ? MTH__ROW_gelu_tanh : MTH__ROW_gelu);
}
static mth_status silu_expand(mth__expansion *expansion) { return elementwise(expansion, MTH__ROW_silu); }
static mth_status sigmoid_expand(mth__expansion *expansion) { return elementwise(expansion, MTH__ROW_sigmoid); }
static mth_status tanh_expand(mth__expansion *expansion) { return elementwise(expansion, MTH__ROW_tanh); }

#define ELEMENTWISE(type, function, text)                                                                              \
    const mth__module_type mth__type_##type = {                                                                        \
        .name = #type, .inputs = "input", .outputs = "output", .doc = text, .parameters = "", .expand = function}
ELEMENTWISE(Relu, relu_expand, "max(input, 0), element by element.");
ELEMENTWISE(Silu, silu_expand, "input * sigmoid(input), element by element.");
ELEMENTWISE(Sigmoid, sigmoid_expand, "1 / (1 + exp(-input)), element by element.");
ELEMENTWISE(Tanh, tanh_expand, "tanh(input), element by element.");

const mth__module_type mth__type_Gelu = {
    .name = "Gelu",
    .inputs = "input",
    .outputs = "output",
    .options =
        (const mth__opt[]){{"approximate", MTH__OPT_BOOL, "False", "the formula with tanh, as in GPT-2", NULL}, {0}},
    .doc = "input * Phi(input), with the distribution function of the standard normal, element by element; exact (erf) "
           "unless said.",
    .parameters = "",
    .expand = gelu_expand,
};

/* A reshape to the shape that it has: every engine takes it as a view, and it moves where its annotations say. */
static mth_status identity_expand(mth__expansion *expansion) {
    const mth__attrs same = mth__attrs_of_shape(expansion->in[0]->shape);
    return mth__build1(&expansion->builder, MTH__ROW_reshape, &same, expansion->in[0], &expansion->out[0]);
}

const mth__module_type mth__type_Identity = {
    .name = "Identity",
    .inputs = "input",
    .outputs = "output",
    .doc = "The input, of any dtype and shape, under another name: no copy where the engine has views. With device_id "
           "it is brought to that device.",
    .parameters = "",
    .expand = identity_expand,
};

static mth_status softmax_expand(mth__expansion *expansion) {
    int axis;
    TRY(mth__need_float(expansion->in[0], "input"));
    TRY(mth__need_axis(expansion->in[0], "input", "axis", mth__opt_int(expansion, "axis", -1), &axis));
    return mth__build1(
        &expansion->builder, MTH__ROW_softmax, &(mth__attrs){.dimension = axis}, expansion->in[0], &expansion->out[0]);
}

const mth__module_type mth__type_Softmax = {
    .name = "Softmax",
    .inputs = "input",
    .outputs = "output",
    .options =
        (const mth__opt[]){{"axis", MTH__OPT_INT, "-1", "the dimension along which the results sum to 1", NULL}, {0}},
    .doc = "exp(input) / sum(exp(input)) along one dimension.",
    .parameters = "",
    .expand = softmax_expand,
};

/* ---------------------------------------------------------------- of several operands */
static mth_status need_floats(mth__expansion *expansion) {
    for (int i = 0; i < expansion->nin; i++) {
        char port[24];
        __builtin_snprintf(port, sizeof port, "inputs[%d]", i);
        TRY(mth__need_float(expansion->in[i], port));
    }
    return NULL;
}

/* Errors of the next step name what the steps before it made: "h + b", "h + b + c", "h + ... + d". */
static const char *term_name(const mth__value *value) {
    return value->name ? value->name : value->wire ? value->wire : "...";
}
static const char *terms_name(mth__expansion *expansion, int last, char sign, const char *before) {
    mth__arena *arena = expansion->builder.graph->arena;
    if (last <= 2) return mth__format(arena, "%s %c %s", before, sign, term_name(expansion->in[last]));
    return mth__format(
        arena, "%s %c ... %c %s", term_name(expansion->in[0]), sign, sign, term_name(expansion->in[last]));
}

static mth_status fold(mth__expansion *expansion, enum mth__row row, char sign) {
    TRY(need_floats(expansion));
    mth__value *value = expansion->in[0];
    for (int i = 1; i < expansion->nin; i++) {
        const char *wire = i + 1 == expansion->nin ? NULL : terms_name(expansion, i, sign, term_name(value));
        TRY(mth__build2(&expansion->builder, row, NULL, value, expansion->in[i], &value));
        value->wire = wire;
    }
    expansion->out[0] = value;
    return NULL;
}

static mth_status add_expand(mth__expansion *expansion) { return fold(expansion, MTH__ROW_add, '+'); }
static mth_status subtract_expand(mth__expansion *expansion) { return fold(expansion, MTH__ROW_sub, '-'); }
static mth_status multiply_expand(mth__expansion *expansion) { return fold(expansion, MTH__ROW_mul, '*'); }
static mth_status divide_expand(mth__expansion *expansion) { return fold(expansion, MTH__ROW_div, '/'); }

static mth_status wired_several(const mth_module *module, const int *wires) {
    if (wires[0] >= 2) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("%s takes 2 or more inputs, and has %d", module->type->name, wires[0]),
        F("name them all: inputs=['a', 'b']"));
}

static mth_status wired_pair(const mth_module *module, const int *wires) {
    if (wires[0] == 2) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("%s takes 2 inputs, and has %d", module->type->name, wires[0]),
        F("name both: inputs=['a', 'b']"));
}

#define ARITHMETIC(type, function, count, text)                                                                        \
    const mth__module_type mth__type_##type = {.name = #type,                                                          \
        .inputs = "inputs*",                                                                                           \
        .outputs = "output",                                                                                           \
        .doc = text,                                                                                                   \
        .parameters = "",                                                                                              \
        .expand = function,                                                                                            \
        .wired = count}
ARITHMETIC(
    Add, add_expand, wired_several, "The sum of two or more inputs, from left to right; shapes broadcast as in NumPy.");
ARITHMETIC(Multiply, multiply_expand, wired_several,
    "The product of two or more inputs, element by element, from left to right; shapes broadcast as in NumPy.");
ARITHMETIC(Subtract, subtract_expand, wired_pair, "inputs[0] - inputs[1]; shapes broadcast as in NumPy.");
ARITHMETIC(
    Divide, divide_expand, wired_pair, "inputs[0] / inputs[1], element by element; shapes broadcast as in NumPy.");

static mth_status matmul_expand(mth__expansion *expansion) {
    mth__value *a = expansion->in[0], *b = expansion->in[1];
    TRY(need_floats(expansion));
    TRY(mth__need_rank(a, "inputs[0]", 1, MTH__RANK));
    TRY(mth__need_rank(b, "inputs[1]", 2, MTH__RANK));
    int batch = b->shape.rank - 2, ra = a->shape.rank;
    bool fits = (batch == 0 || ra == b->shape.rank) && a->shape.dim[ra - 1] == b->shape.dim[batch];
    for (int d = 0; d < batch && fits; d++) fits = a->shape.dim[d] == b->shape.dim[d];
    if (!fits) {
        mth_status status = FAIL(MTH_ERROR_VALUE, F("the shapes do not fit a matrix product"),
            F("give [..., n, i] and [i, o], or [..., n, i] and [..., i, o] with the same leading dimensions"));
        return mth__error_tensor(
            mth__error_tensor(status, mth__port_text("inputs[0]", a)), mth__port_text("inputs[1]", b));
    }
    char lead[MTH__RANK] = "abcdefg", spec[40]; /* the last letter of `lead` that is used stands for n */
    __builtin_snprintf(spec, sizeof spec, "%.*si,%.*sio->%.*so", ra - 1, lead, batch, lead, ra - 1, lead);
    return mth__build_contract(
        &expansion->builder, mth__copy_text(expansion->builder.graph->arena, spec), a, b, &expansion->out[0]);
}
ARITHMETIC(MatMul, matmul_expand, wired_pair,
    "The matrix product of inputs[0] [..., n, i] with inputs[1] [i, o] or [..., i, o] -> "
    "output[..., n, o]; leading dimensions are the same.");

static mth_status concat_expand(mth__expansion *expansion) {
    int axis;
    TRY(mth__need_axis(expansion->in[0], "inputs[0]", "axis", mth__opt_int(expansion, "axis", 0), &axis));
    if (expansion->nin > MTH__MAX_IN)
        return FAIL(MTH_ERROR_VALUE, F("Concat takes at most %d inputs, and has %d", MTH__MAX_IN, expansion->nin),
            F("concatenate in two steps"));
    return mth__build(&expansion->builder, MTH__ROW_concat, &(mth__attrs){.dimension = axis}, expansion->nin,
        expansion->in, &expansion->out[0]);
}

const mth__module_type mth__type_Concat = {
    .name = "Concat",
    .inputs = "inputs*",
    .outputs = "output",
    .options =
        (const mth__opt[]){
            {"axis", MTH__OPT_INT, "0", "the dimension along which the inputs follow each other", NULL}, {0}},
    .doc = "Two or more inputs, one after the other along one dimension; their other dimensions are the same.",
    .parameters = "",
    .expand = concat_expand,
    .wired = wired_several,
};

/* ---------------------------------------------------------------- layout */
static mth_status split_expand(mth__expansion *expansion) {
    int axis;
    mth__value *x = expansion->in[0];
    int64_t parts = mth__opt_int(expansion, "parts", 0);
    TRY(mth__need_axis(x, "input", "axis", mth__opt_int(expansion, "axis", 0), &axis));
    int64_t n = x->shape.dim[axis], each = n / parts;
    if (n % parts) {
        mth_status status =
            FAIL(MTH_ERROR_VALUE, F("dimension %d of %" PRId64 " has no %" PRId64 " equal parts", axis, n, parts),
                F("give parts that divide %" PRId64 ", or cut with Slice", n));
        return mth__error_tensor(status, mth__port_text("input", x));
    }
    for (int i = 0; i < parts; i++)
        TRY(mth__build1(&expansion->builder, MTH__ROW_slice,
            &(mth__attrs){.dimension = axis, .start = i * each, .stop = (i + 1) * each}, x, &expansion->out[i]));
    return NULL;
}

static void split_ports(const mth_module *module, mth__arena *arena, const char **inputs, const char **outputs) {
    (void)inputs;
    mth__text text = mth__text_new(arena);
    for (int64_t i = 0; i < mth__module_option(module, "parts")->integer; i++)
        mth__text_add(&text, i ? ", output%" PRId64 : "output%" PRId64, i);
    *outputs = text.at;
}

static mth_status split_check(const mth_module *module) {
    int64_t parts = mth__module_option(module, "parts")->integer;
    if (parts <= 1024) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("parts=%" PRId64 " outputs are more than 1024", parts), F("split in two steps"));
}

const mth__module_type mth__type_Split = {
    .name = "Split",
    .inputs = "input",
    .outputs = "output0, output1, ...",
    .options = (const mth__opt[]){{"parts", MTH__OPT_SIZE, NULL, "how many equal parts", NULL},
        {"axis", MTH__OPT_INT, "0", "the dimension that is cut", NULL}, {0}},
    .doc = "Cuts one dimension in equal parts: the outputs output0, output1, ... in order.",
    .parameters = "",
    .check = split_check,
    .ports = split_ports,
    .expand = split_expand,
};

static mth_status slice_expand(mth__expansion *expansion) {
    int axis;
    mth__value *x = expansion->in[0];
    TRY(mth__need_axis(x, "input", "axis", mth__opt_int(expansion, "axis", 0), &axis));
    int64_t n = x->shape.dim[axis], start = mth__opt_int(expansion, "start", 0),
            stop = mth__opt_int(expansion, "stop", n);
    int64_t from = start < 0 ? start + n : start, to = stop < 0 ? stop + n : stop;
    if (from < 0 || to > n || from >= to) {
        mth_status status = FAIL(MTH_ERROR_VALUE,
            F("start=%" PRId64 ", stop=%" PRId64 " take nothing from dimension %d of %" PRId64, start, stop, axis, n),
            F("give a start below stop, both within %" PRId64 " (negative ones count from the end)", n));
        return mth__error_tensor(status, mth__port_text("input", x));
    }
    return mth__build1(&expansion->builder, MTH__ROW_slice, &(mth__attrs){.dimension = axis, .start = from, .stop = to},
        x, &expansion->out[0]);
}

const mth__module_type mth__type_Slice = {
    .name = "Slice",
    .inputs = "input",
    .outputs = "output",
    .options = (const mth__opt[]){{"axis", MTH__OPT_INT, NULL, "the dimension that is cut", NULL},
        {"start", MTH__OPT_INT, "0", "the first element; negative: from the end", NULL},
        {"stop", MTH__OPT_INT, "None", "the element behind the last; negative: from the end; None: the end", NULL},
        {0}},
    .doc = "The elements from start to stop, without stop, of one dimension.",
    .parameters = "",
    .expand = slice_expand,
};

static mth_status check_ints(const mth_module *module, const char *option, size_t most) {
    const mth_arg *a = mth__module_option(module, option);
    if (a->kind == MTH_ARG_NONE) return NULL;
    bool good = a->count <= most;
    for (size_t i = 0; i < a->count && good; i++) good = a->items[i].kind == MTH_ARG_INT;
    if (good) return NULL;
    const char *text = mth__arg_text(module->arena, *a);
    return FAIL(MTH_ERROR_TYPE, F("%s=%s is no tuple of at most %zu integers", option, text, most),
        F("give %s as a tuple of integers", option));
}

static mth_status reshape_expand(mth__expansion *expansion) {
    mth__value *x = expansion->in[0];
    const mth_arg *shape = mth__module_option(expansion->module, "shape");
    mth__shape to = {(int)shape->count, {0}};
    int64_t known = 1, size = mth__shape_size(x->shape);
    int open = -1;
    for (int d = 0; d < to.rank; d++) {
        to.dim[d] = shape->items[d].integer;
        if (to.dim[d] < 0)
            open = d;
        else
            TRY(mth__product(known, to.dim[d], "the size of shape", &known));
    }
    if (open >= 0 && size % known == 0) to.dim[open] = size / known, known = size;
    if (known != size) {
        const char *text = mth__arg_text(expansion->builder.graph->arena, *shape);
        mth_status status = FAIL(MTH_ERROR_VALUE, F("%" PRId64 " elements do not fill the shape %s", size, text),
            F("give a shape of %" PRId64 " elements, with one -1 for what is left", size));
        return mth__error_tensor(status, mth__port_text("input", x));
    }
    mth__attrs attrs = mth__attrs_of_shape(to);
    return mth__build1(&expansion->builder, MTH__ROW_reshape, &attrs, x, &expansion->out[0]);
}

static mth_status reshape_check(const mth_module *module) {
    const mth_arg *shape = mth__module_option(module, "shape");
    TRY(check_ints(module, "shape", MTH__RANK));
    int open = 0;
    for (size_t d = 0; d < shape->count; d++) {
        int64_t n = shape->items[d].integer;
        if (n == 0 || n < -1)
            return FAIL(MTH_ERROR_VALUE, F("shape holds the size %" PRId64, n),
                F("give sizes of 1 or more, and at most one -1"));
        open += n == -1;
    }
    if (open > 1) return FAIL(MTH_ERROR_VALUE, F("shape holds %d times -1", open), F("leave at most one size open"));
    return NULL;
}

const mth__module_type mth__type_Reshape = {
    .name = "Reshape",
    .inputs = "input",
    .outputs = "output",
    .options =
        (const mth__opt[]){{"shape", MTH__OPT_LIST, NULL, "the new sizes; one may be -1: what is left", NULL}, {0}},
    .doc = "The same elements, row-major, in another shape.",
    .parameters = "",
    .check = reshape_check,
    .expand = reshape_expand,
};

static mth_status transpose_expand(mth__expansion *expansion) {
    mth__value *x = expansion->in[0];
    const mth_arg *axes = mth__module_option(expansion->module, "axes");
    int rank = x->shape.rank;
    mth__attrs attrs = {.rank = rank};
    unsigned used = 0;
    for (int d = 0; d < rank; d++) {
        int axis = rank - 1 - d;
        if (axes->kind == MTH_ARG_LIST && axes->count == (size_t)rank)
            TRY(mth__need_axis(x, "input", "axes", axes->items[d].integer, &axis));
        used |= 1u << axis;
        attrs.permutation[d] = axis;
    }
    if ((axes->kind == MTH_ARG_LIST && axes->count != (size_t)rank) || used != (1u << rank) - 1) {
        const char *text = mth__arg_text(expansion->builder.graph->arena, *axes);
        return mth__error_tensor(
            FAIL(MTH_ERROR_VALUE, F("axes=%s do not name each of the %d dimensions once", text, rank),
                F("give the %d dimensions in their new order", rank)),
            mth__port_text("input", x));
    }
    return mth__build1(&expansion->builder, MTH__ROW_transpose, &attrs, x, &expansion->out[0]);
}

static mth_status transpose_check(const mth_module *module) { return check_ints(module, "axes", MTH__RANK); }

const mth__module_type mth__type_Transpose = {
    .name = "Transpose",
    .inputs = "input",
    .outputs = "output",
    .options =
        (const mth__opt[]){
            {"axes", MTH__OPT_LIST, "None", "the dimensions in their new order; None: reversed", NULL}, {0}},
    .doc = "Dimensions in another order: dimension d of the output is dimension axes[d] of the input.",
    .parameters = "",
    .check = transpose_check,
    .expand = transpose_expand,
};

/* ---------------------------------------------------------------- reductions */
static mth_status reduction(mth__expansion *expansion, mth__reduction_kind kind) {
    mth__value *x = expansion->in[0];
    const mth_arg *axis = mth__module_option(expansion->module, "axis");
    TRY(mth__need_float(x, "input"));
    unsigned dims = axis->kind == MTH_ARG_NONE ? (1u << x->shape.rank) - 1 : 0;
    size_t n = axis->kind == MTH_ARG_LIST ? axis->count : axis->kind == MTH_ARG_INT;
    for (size_t i = 0; i < n; i++) {
        int d;
        TRY(mth__need_axis(x, "input", "axis", (axis->kind == MTH_ARG_LIST ? axis->items + i : axis)->integer, &d));
        if (dims >> d & 1)
            return mth__error_tensor(
                FAIL(MTH_ERROR_VALUE, F("axis names dimension %d twice", d), F("name each dimension once")),
                mth__port_text("input", x));
        dims |= 1u << d;
    }
    return mth__part_reduce(
        &expansion->builder, kind, x, dims, mth__opt_bool(expansion, "keepdims"), &expansion->out[0]);
}

static mth_status mean_expand(mth__expansion *expansion) { return reduction(expansion, MTH__MEAN); }
static mth_status sum_expand(mth__expansion *expansion) { return reduction(expansion, MTH__TOTAL); }
static mth_status max_expand(mth__expansion *expansion) { return reduction(expansion, MTH__MAXIMUM); }

static mth_status reduction_check(const mth_module *module) {
    const mth_arg *axis = mth__module_option(module, "axis");
    if (axis->kind == MTH_ARG_LIST && axis->count) return check_ints(module, "axis", MTH__RANK);
    if (axis->kind == MTH_ARG_INT || axis->kind == MTH_ARG_NONE) return NULL;
    const char *text = mth__arg_text(module->arena, *axis);
    return FAIL(MTH_ERROR_TYPE, F("axis=%s is no dimension", text),
        F("give axis a dimension, a tuple of dimensions, or None for all"));
}

static const mth__opt reduction_options[] = {
    {"axis", MTH__OPT_ANY, "None", "a dimension, a tuple of dimensions, or None for all", NULL},
    {"keepdims", MTH__OPT_BOOL, "False", "reduced dimensions stay with size 1", NULL}, {0}};
#define REDUCTION(type, function, text)                                                                                \
    const mth__module_type mth__type_##type = {.name = #type,                                                          \
        .inputs = "input",                                                                                             \
        .outputs = "output",                                                                                           \
        .options = reduction_options,                                                                                  \
        .doc = text,                                                                                                   \
        .parameters = "",                                                                                              \
        .check = reduction_check,                                                                                      \
        .expand = function}
REDUCTION(Mean, mean_expand, "The mean over dimensions.");
REDUCTION(Sum, sum_expand, "The sum over dimensions.");
REDUCTION(Max, max_expand, "The largest element over dimensions.");
