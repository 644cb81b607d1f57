/* Softmax and the norms: the normalized dimension is WHOLE. */
#include "catalog/row_tools.h"

FLOPS(norm) { return 8 * (double)mth__shape_size(in[0]); }

/* ---------------------------------------------------------------- softmax */
static mth_status infer_softmax(mth__node *node) {
    TRY(mth__row_dimension(node, "the dimension", node->attrs.dimension));
    if (node->nin == 2 && !mth__shape_equal(node->in[0]->shape, node->in[1]->shape))
        return mth__row_error(node, F("y and dy of softmax_grad differ in shape"), F("give tensors of one shape"));
    return mth__infer_same(node);
}
static void rule_softmax(const mth__node *node, mth__rule *rule) {
    mth__rule_along(node, 1u << node->attrs.dimension, rule);
}
GRAD(softmax) { return mth__build2(builder, MTH__ROW_softmax_grad, &node->attrs, node->out[0], dout[0], &din[0]); }

const mth__op mth__op_softmax = {ROW(softmax), .args = "x", .results = "y", .attributes = "dimension",
    .flags = MTH__SUMS, .infer = infer_softmax, .rule = rule_softmax, .grad = grad_softmax, .flops = flops_norm,
    .doc = "y = exp(x - max x) / sum of exp(x - max x) along one dimension."};
const mth__op mth__op_softmax_grad = {ROW(softmax_grad), .args = "y, dy", .results = "dx", .attributes = "dimension",
    .linear = MTH__LINEAR_EACH, .linear_args = 2, .flags = MTH__SUMS, .infer = infer_softmax, .rule = rule_softmax,
    .flops = flops_norm, .doc = "dx = y * (dy - sum of y * dy along the dimension)."};

/* ---------------------------------------------------------------- norms */
static mth_status infer_norm(mth__node *node) {
    if (!(node->attrs.epsilon >= 0))
        return mth__row_error(node, F("the epsilon of %s is %g", node->op->name, node->attrs.epsilon),
            F("give an epsilon of at least 0, such as 1e-05"));
    return mth__infer_from(node, node->op->factors);
}
GRAD(layer_norm) {
    TRY(mth__grad_only_first(node, dout));
    mth__value *in[] = {node->in[0], node->in[1], node->out[1], node->out[2], dout[0]};
    return mth__build(builder, MTH__ROW_layer_norm_grad, NULL, 5, in, din);
}
GRAD(rms_norm) {
    TRY(mth__grad_only_first(node, dout));
    mth__value *in[] = {node->in[0], node->in[1], node->out[1], dout[0]};
    return mth__build(builder, MTH__ROW_rms_norm_grad, NULL, 4, in, din);
}
#define NORM .whole = "d", .flops = flops_norm
const mth__op mth__op_layer_norm = {ROW(layer_norm), .args = "x, weight, bias", .results = "y, mean, rstd",
    .attributes = "epsilon", .factors = "...d,d,d->...d,...,...", NORM,
    .types = {MTH__TYPE_OPERAND, MTH__TYPE_SUM, MTH__TYPE_SUM}, .flags = MTH__POSITIONWISE | MTH__SUMS,
    .infer = infer_norm, .grad = grad_layer_norm,
    .doc = "y = (x - mean) * rstd * weight + bias over the last dimension, rstd = 1 / sqrt(variance + epsilon)."};
const mth__op mth__op_layer_norm_grad = {ROW(layer_norm_grad), .args = "x, weight, mean, rstd, dy",
    .results = "dx, dweight, dbias", .factors = "...d,d,...,...,...d->...d,d,d", .sum = "...", NORM,
    .linear = MTH__LINEAR_EACH, .linear_args = 16, .sum_args = 12, .flags = MTH__SUMS, .accumulates = 6,
    .doc = "The gradients of layer_norm: h = (x - mean) * rstd, g = dy * weight, dx = rstd * "
           "(g - mean g - h * mean(g * h)), dweight = sum of dy * h, dbias = sum of dy."};
const mth__op mth__op_rms_norm = {ROW(rms_norm), .args = "x, weight", .results = "y, rstd", .attributes = "epsilon",
    .factors = "...d,d->...d,...", NORM, .types = {MTH__TYPE_OPERAND, MTH__TYPE_SUM},
    .flags = MTH__POSITIONWISE | MTH__SUMS, .infer = infer_norm, .grad = grad_rms_norm,
    .doc = "y = x * rstd * weight over the last dimension, rstd = 1 / sqrt(mean of x^2 + epsilon)."};
const mth__op mth__op_rms_norm_grad = {ROW(rms_norm_grad), .args = "x, weight, rstd, dy", .results = "dx, dweight",
    .factors = "...d,d,...,...d->...d,d", .sum = "...", NORM, .linear = MTH__LINEAR_EACH, .linear_args = 8,
    .sum_args = 4, .flags = MTH__SUMS, .accumulates = 2,
    .doc = "The gradients of rms_norm: h = x * rstd, g = dy * weight, dx = rstd * (g - h * mean(g * h)), dweight = sum "
           "of dy * h."};
