/* Elementwise rows: operands broadcast as in NumPy; every dimension passes through. */
#include "catalog/row_tools.h"

/* ---------------------------------------------------------------- gradients: y = f(x), dx = f'(x) dy */
#define IN node->in[0]
#define Y node->out[0]
#define DY dout[0]

GRAD(neg) { return mth__build1(builder, MTH__ROW_neg, NULL, DY, &din[0]); }
GRAD(exp) { return mth__build2(builder, MTH__ROW_mul, NULL, DY, Y, &din[0]); }
GRAD(log) { return mth__build2(builder, MTH__ROW_div, NULL, DY, IN, &din[0]); }
GRAD(sqrt) { /* dy / (2 y) */
    mth__value *half;
    TRY(mth__build_scale(builder, DY, 0.5, &half));
    return mth__build2(builder, MTH__ROW_div, NULL, half, Y, &din[0]);
}
GRAD(rsqrt) { /* -dy y^3 / 2 */
    mth__value *half, *square, *cube;
    TRY(mth__build_scale(builder, DY, -0.5, &half));
    TRY(mth__build1(builder, MTH__ROW_square, NULL, Y, &square));
    TRY(mth__build2(builder, MTH__ROW_mul, NULL, square, Y, &cube));
    return mth__build2(builder, MTH__ROW_mul, NULL, half, cube, &din[0]);
}
GRAD(reciprocal) { /* -dy y^2 */
    mth__value *minus, *square;
    TRY(mth__build1(builder, MTH__ROW_neg, NULL, DY, &minus));
    TRY(mth__build1(builder, MTH__ROW_square, NULL, Y, &square));
    return mth__build2(builder, MTH__ROW_mul, NULL, minus, square, &din[0]);
}
GRAD(square) {
    mth__value *twice;
    TRY(mth__build_scale(builder, DY, 2, &twice));
    return mth__build2(builder, MTH__ROW_mul, NULL, twice, IN, &din[0]);
}
GRAD(relu) {
    return mth__build2(builder, MTH__ROW_relu_grad, NULL, Y, DY, &din[0]);
} /* of y, not x: x need not be kept */
GRAD(gelu) { return mth__build2(builder, MTH__ROW_gelu_grad, NULL, IN, DY, &din[0]); }
GRAD(gelu_tanh) { return mth__build2(builder, MTH__ROW_gelu_tanh_grad, NULL, IN, DY, &din[0]); }
GRAD(silu) { return mth__build2(builder, MTH__ROW_silu_grad, NULL, IN, DY, &din[0]); }
GRAD(sigmoid) { return mth__build2(builder, MTH__ROW_sigmoid_grad, NULL, Y, DY, &din[0]); }
GRAD(tanh) { return mth__build2(builder, MTH__ROW_tanh_grad, NULL, Y, DY, &din[0]); }
GRAD(pass) {
    din[0] = DY;
    return NULL;
}
GRAD(scale) { return mth__build_scale(builder, DY, node->attrs.by, &din[0]); }
GRAD(cast) { return mth__build1(builder, MTH__ROW_cast, &(mth__attrs){.dtype = IN->dtype}, DY, &din[0]); }
/* the same key and indices: the same mask */
GRAD(dropout) { return mth__build1(builder, MTH__ROW_dropout, &node->attrs, DY, &din[0]); }

/* ---------------------------------------------------------------- of two operands, each in its own shape again */
static mth_status fold(mth__builder *builder, const mth__node *node, mth__value *value, int j, mth__value **din) {
    return mth__build_unbroadcast(builder, value, node->in[j]->shape, &din[j]);
}

GRAD(add) {
    for (int j = 0; j < 2; j++)
        if (WANTED(builder, j)) TRY(fold(builder, node, DY, j, din));
    return NULL;
}
GRAD(sub) {
    if (WANTED(builder, 0)) TRY(fold(builder, node, DY, 0, din));
    if (!WANTED(builder, 1)) return NULL;
    mth__value *sum; /* negated after the sum: fewer elements */
    TRY(mth__build_unbroadcast(builder, DY, node->in[1]->shape, &sum));
    return mth__build1(builder, MTH__ROW_neg, NULL, sum, &din[1]);
}
/* The results of a row that gives both gradients at once, each brought back to its operand's shape. */
static mth_status fold_both(mth__builder *builder, const mth__node *node, mth__value *const *value, mth__value **din) {
    for (int j = 0; j < 2; j++)
        if (WANTED(builder, j)) TRY(fold(builder, node, value[j], j, din));
    return NULL;
}

GRAD(mul) {
    mth__value *value[2];
    if (WANTED(builder, 0) && WANTED(builder, 1)) {
        TRY(mth__build(builder, MTH__ROW_mul_grad, NULL, 3, (mth__value *[]){node->in[0], node->in[1], DY}, value));
        return fold_both(builder, node, value, din);
    }
    const int j = WANTED(builder, 0) ? 0 : 1;
    TRY(mth__build2(builder, MTH__ROW_mul, NULL, DY, node->in[1 - j], &value[j]));
    return fold(builder, node, value[j], j, din);
}
GRAD(div) {
    mth__value *value[2];
    if (!WANTED(builder, 1)) {
        TRY(mth__build2(builder, MTH__ROW_div, NULL, DY, node->in[1], &value[0]));
        return fold(builder, node, value[0], 0, din);
    }
    TRY(mth__build(builder, MTH__ROW_div_grad, NULL, 3, (mth__value *[]){node->in[1], Y, DY}, value));
    return fold_both(builder, node, value, din);
}
GRAD(maximum) {
    mth__value *value[2];
    TRY(mth__build(builder, MTH__ROW_maximum_grad, NULL, 3, (mth__value *[]){node->in[0], node->in[1], DY}, value));
    return fold_both(builder, node, value, din);
}

/* ---------------------------------------------------------------- shapes */
static mth_status infer_cast(mth__node *node) {
    node->out[0]->shape = node->in[0]->shape;
    if (mth__is_dtype((mth_dtype)node->attrs.dtype)) return NULL;
    return mth__row_error(node, F("cast to dtype %lld: there is no such dtype", (long long)node->attrs.dtype),
        F("give %s", mth_dtype_names()));
}
static mth_status infer_dropout(mth__node *node) {
    double probability = node->attrs.probability;
    int64_t dimension = node->attrs.dimension, start = node->attrs.start, size = node->attrs.size;
    if (!(probability >= 0 && probability < 1))
        return mth__row_error(node, F("the probability of dropout is %g, outside [0, 1)", probability),
            F("give a probability of at least 0 and below 1"));
    if (!size) return mth__infer_same(node);
    TRY(mth__row_dimension(node, "the dimension", dimension)); /* x is a box of a larger tensor */
    int64_t has = node->in[0]->shape.dim[dimension];
    if (start < 0 || size < has || start > size - has)
        return mth__row_error(node,
            F("dropout's %lld elements from %lld on lie outside the %lld of the larger tensor", (long long)has,
                (long long)start, (long long)size),
            F("give a start from 0 to %lld", (long long)(size < has ? 0 : size - has)));
    return mth__infer_same(node);
}

static void box_dropout(mth__attrs *attrs, int dimension, int64_t start, int64_t size) {
    attrs->dimension = dimension;
    attrs->start = start;
    attrs->size = size;
}

/* ---------------------------------------------------------------- rows */
#define MAPS(id, operands) ROW(id), .args = operands, .results = "y", .factors = "*", .flags = MTH__ELEMENTWISE
#define UNARY(id, text) const mth__op mth__op_##id = {MAPS(id, "x"), .grad = grad_##id, .doc = text}
#define BINARY(id, ...) const mth__op mth__op_##id = {MAPS(id, "a, b"), __VA_ARGS__}
#define BACKWARD(id, of, text)                                                                                         \
    const mth__op mth__op_##id = {ROW(id), .args = of ", dy", .results = "dx", .factors = "*",                         \
        .flags = MTH__ELEMENTWISE, .linear = MTH__LINEAR_EACH, .linear_args = 2, .doc = text}
#define BACKWARD_OF_TWO(id, of, text)                                                                                  \
    const mth__op mth__op_##id = {ROW(id), .args = of ", dy", .results = "da, db", .factors = "*",                     \
        .flags = MTH__ELEMENTWISE, .linear = MTH__LINEAR_EACH, .linear_args = 4, .doc = text}
#define LINEAR_IN_X .linear = MTH__LINEAR_EACH, .linear_args = 1

const mth__op mth__op_neg = {MAPS(neg, "x"), LINEAR_IN_X, .grad = grad_neg, .doc = "y = -x."};
UNARY(exp, "y = exp(x).");
UNARY(log, "y = log(x), the natural logarithm.");
UNARY(sqrt, "y = sqrt(x).");
UNARY(rsqrt, "y = 1 / sqrt(x).");
UNARY(reciprocal, "y = 1 / x.");
UNARY(square, "y = x * x.");
UNARY(relu, "y = max(x, 0).");
UNARY(gelu, "y = x * (1 + erf(x / sqrt(2))) / 2.");
UNARY(gelu_tanh, "y = x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2.");
UNARY(silu, "y = x * sigmoid(x).");
UNARY(sigmoid, "y = 1 / (1 + exp(-x)).");
UNARY(tanh, "y = tanh(x).");
const mth__op mth__op_copy = {ROW(copy), .args = "x", .results = "y", .factors = "*",
    .flags = MTH__ELEMENTWISE | MTH__MOVES, LINEAR_IN_X, .any_args = 1, .infer = mth__infer_same, .grad = grad_pass,
    .doc = "y = x, in memory of its own."};
const mth__op mth__op_scale = {
    MAPS(scale, "x"), .attributes = "by", LINEAR_IN_X, .grad = grad_scale, .doc = "y = x * by."};
const mth__op mth__op_shift = {MAPS(shift, "x"), .attributes = "by", .grad = grad_pass, .doc = "y = x + by."};
const mth__op mth__op_cast = {MAPS(cast, "x"), .attributes = "dtype", .types = {MTH__TYPE_ATTRIBUTE}, .any_args = 1,
    .infer = infer_cast, .grad = grad_cast,
    .doc = "y = x in another dtype, rounded to nearest even; to an integer toward zero, past its range the least or "
           "the largest, of NaN 0; of a longer integer the lower bits."};
const mth__op mth__op_mask = {MAPS(mask, "x"), .types = {MTH__TYPE_BOOL}, .any_args = 1, .grad = mth__grad_none,
    .doc = "y = whether x is 1; an element that is neither 0 nor 1 is an error of the run."};
const mth__op mth__op_stop = {ROW(stop), .args = "x", .results = "y", .factors = "*",
    .flags = MTH__MOVES | MTH__VIEW | MTH__ALIAS | MTH__FREE, LINEAR_IN_X, .any_args = 1, .infer = mth__infer_same,
    .grad = mth__grad_none, .flops = mth__flops_none, .doc = "y = x; no gradient flows through it."};

BACKWARD(relu_grad, "y", "dx = dy where y > 0, else 0, also where y is NaN.");
BACKWARD(gelu_grad, "x", "dx = dy * gelu'(x).");
BACKWARD(gelu_tanh_grad, "x", "dx = dy * gelu_tanh'(x).");
BACKWARD(silu_grad, "x", "dx = dy * s * (1 + x * (1 - s)), s = sigmoid(x).");
BACKWARD(sigmoid_grad, "y", "dx = dy * y * (1 - y).");
BACKWARD(tanh_grad, "y", "dx = dy * (1 - y^2).");

BACKWARD_OF_TWO(mul_grad, "a, b", "da = dy * b, db = dy * a.");
BACKWARD_OF_TWO(div_grad, "b, y", "da = dy / b, db = -da * y.");
BACKWARD_OF_TWO(maximum_grad, "a, b", "dy to the larger operand, half of it to each of two equal ones.");

BINARY(add, .linear = MTH__LINEAR_JOINT, .linear_args = 3, .grad = grad_add, .doc = "y = a + b, broadcast.");
BINARY(sub, .linear = MTH__LINEAR_JOINT, .linear_args = 3, .grad = grad_sub, .doc = "y = a - b, broadcast.");
BINARY(mul, .linear = MTH__LINEAR_EACH, .linear_args = 3, .grad = grad_mul, .doc = "y = a * b, broadcast.");
BINARY(div, LINEAR_IN_X, .grad = grad_div, .doc = "y = a / b, broadcast.");
BINARY(maximum, .grad = grad_maximum, .doc = "y = max(a, b), broadcast.");
BINARY(equal, .grad = mth__grad_none, .doc = "y = 1 where a == b, else 0, broadcast.");

const mth__op mth__op_dropout = {ROW(dropout), .args = "x", .results = "y",
    .attributes = "key, dimension, start, size, probability", .factors = "*",
    .flags = MTH__ELEMENTWISE | MTH__NEEDS_START, LINEAR_IN_X, .box = box_dropout, .infer = infer_dropout,
    .grad = grad_dropout,
    .doc = "y = x * keep / (1 - probability), keep drawn by Philox4x32-10 of the element's global index; with size, of "
           "its index in "
           "the larger tensor of which x is the box from `start` on in one dimension."};
