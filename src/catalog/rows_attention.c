/* Attention in one row, so that no engine has to store the scores. g: groups of heads that share keys; r: query heads
 * of a group. */
#include "catalog/row_tools.h"

static mth_status infer_attention(mth__node *node) {
    if (!(node->attrs.scale == node->attrs.scale))
        return mth__row_error(node, F("the scale of attention is not a number"), F("give 1 / sqrt(head width)"));
    return mth__infer_from(node, node->op->factors);
}
/* Of two products of (queries, keys), one with the width of keys, one with that of values; half of it where causal. */
static double products(const mth__node *node, mth__shape query, mth__shape key, mth__shape value) {
    double heads = (double)query.dim[0] * (double)query.dim[2] * (double)query.dim[3],
           width = (double)(query.dim[4] + value.dim[3]);
    return 2 * heads * (double)query.dim[1] * (double)key.dim[1] * width * (node->attrs.causal ? 0.5 : 1);
}
FLOPS(attention) { return products(node, in[0], in[1], in[2]); }
FLOPS(grad) { return 2.5 * products(node, in[0], in[1], in[2]); }

GRAD(attention) {
    TRY(mth__grad_only_first(node, dout));
    mth__value *in[] = {node->in[0], node->in[1], node->in[2], node->out[0], node->out[1], node->out[2], dout[0],
        node->nin > 3 ? node->in[3] : NULL};
    return mth__build(builder, MTH__ROW_attention_grad, &node->attrs, node->nin > 3 ? 8 : 7, in, din);
}
#define ATTENTION                                                                                                      \
    .attributes = "causal, scale", .whole = "tde", .positional = "st", .flags = MTH__NEEDS_START | MTH__SUMS
const mth__op mth__op_attention = {ROW(attention), .args = "q, k, v, mask?", .results = "o, most, sum",
    .factors = "bsgrd,btgd,btge,bt->bsgre,bsgr,bsgr", ATTENTION,
    .types = {MTH__TYPE_OPERAND, MTH__TYPE_SUM, MTH__TYPE_SUM}, .mask_args = 8, .infer = infer_attention,
    .grad = grad_attention, .flops = flops_attention,
    .doc =
        "o = softmax over t of (scale * q k) v, where mask is not 0 and, if causal, t <= s; sum * exp(most) = the sum "
        "of exp(score): apart, as their logarithm would lose the sum's digits beside a large score. "
        "A query that sees no key, or scores of -inf alone, gives 0, most -inf and sum 0. Keys and values that a "
        "query does not see do not "
        "reach it, NaN and infinities included."};
const mth__op mth__op_attention_grad = {ROW(attention_grad), .args = "q, k, v, o, most, sum, do, mask?",
    .results = "dq, dk, dv", .factors = "bsgrd,btgd,btge,bsgre,bsgr,bsgr,bsgre,bt->bsgrd,btgd,btge", .sum = "sr",
    ATTENTION, .linear = MTH__LINEAR_EACH, .linear_args = 64, .mask_args = 128, .sum_args = 48, .flops = flops_grad,
    .doc =
        "The gradients of attention: p = exp(scale * q k - most) / sum, dv = p do, ds = p * (do v - sum of p * (do "
        "v)), "
        "dq = scale * ds k, dk = scale * ds q. The sum of p * (do v) may be taken as that of do * o, if ds of a query "
        "that gives all to one key stays exactly 0. Sums are over the keys that a query sees, and a query whose do is "
        "0 takes no part in them: NaN and infinities elsewhere do not reach a gradient."};
