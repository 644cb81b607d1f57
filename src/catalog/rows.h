/* The rows of the catalog, in one list: index and name. Their meaning, as formulas over global tensors, for everyone
 * who writes a kernel, a reference or a rule. Shapes: letters. ids, experts and rows are int32 (int64 ids are accepted
 * by gather, pick, gather_grad, pick_grad). All floating operands of a node have one dtype; the statistics of
 * norms and of attention have that in which elements are added up (op.h, SUM).
 *
 * elementwise, "*": operands broadcast as in NumPy
 *   neg exp log sqrt rsqrt reciprocal square relu gelu(exact, erf) gelu_tanh silu sigmoid tanh copy    x -> y
 *   mask: x of 0 and 1 -> bool; another value, NaN too, is the engine's run-time error
 *   scale: x * by          shift: x + by        cast: to `dtype`         stop: x, no gradient (ALIAS)
 *   relu_grad gelu_grad gelu_tanh_grad silu_grad: x, dy -> dx;   sigmoid_grad tanh_grad: y, dy -> dx   (linear in dy)
 *   mul_grad: a, b, dy -> da = dy b, db = dy a       div_grad: b, y, dy -> da = dy / b, db = -da y
 *   maximum_grad: a, b, dy -> da, db: dy to the larger operand, half of it to each of two equal ones
 *   add sub mul div maximum: a, b -> y;   equal: a, b -> 1.0 where a == b, else 0.0
 *   dropout: x -> x * kept / (1 - probability), kept[i] = Philox4x32-10(key, counter = flat global index i) word 0 *
 *     2^-32 >= probability; where `size` is not 0, x is the box of a larger tensor (a microbatch of a batch) whose
 *     `dimension` has `size` elements, from `start` on: i is the index there
 * contract (spec, "bsi,io->bso"): a, b -> einsum; letters in both inputs and not in the output are summed (SUM); no
 *   letter twice in one operand; every input letter is in the other input or in the output.
 * reduce_sum, reduce_max (dimensions: bits, keep: they stay as 1): x -> y
 * broadcast_to (rank, shape): x -> y, as NumPy's broadcast_to
 * reshape (rank, shape): ALIAS
 * transpose (rank, permutation): y's dimension d is x's dimension permutation[d]
 * slice (dimension, start, stop): x -> y.    pad (dimension, before, after): zeros around x
 * concat (dimension): xs* -> y
 * gather: table[v,d], ids[...] -> [...,d] (SUM v: an id outside the local rows gives 0; an id outside [0, v) globally
 *   is the engine's run-time error)
 * gather_grad (rows: v): ids[...], dy[...,d] -> [v,d] (SUM over ids' dimensions)
 * pick: x[...,v], ids[...] -> [...] (SUM v).    pick_grad (size: v): ids[...], dy[...] -> [...,v]
 * sinusoid (length, width): -> [s,d]: even columns sin(s / 10000^(d/width)), odd ones cos of the same angle as
 *   the column before
 * rope (dimension of the sequence; inverse: 1; interleaved: 0 = halves (Llama), 1 = interleaved; base):
 *   x[...,s,...,d] -> y, d even, angle s * base^(-2j/d)
 * softmax (dimension): x -> y (that dimension WHOLE).  softmax_grad (dimension): y, dy -> dx
 * layer_norm (epsilon): x[...,d], weight[d], bias[d] -> y, mean[...], rstd[...]
 * layer_norm_grad: x, weight, mean, rstd, dy -> dx, dweight, dbias (SUM over ...)
 * rms_norm (epsilon): x, weight -> y, rstd.  rms_norm_grad: x, weight, rstd, dy -> dx, dweight
 * attention (causal, scale): q[b,s,g,r,d], k[b,t,g,d], v[b,t,g,e], mask?[b,t] (bool or int32 or floating, 0 =
 *   hidden) -> o[b,s,g,r,e], most[b,s,g,r], sum[b,s,g,r]
 *   o = softmax_t(scale * q.k) v; causal: key t is seen by query s where t <= s (global indices). sum * exp(most): the
 *   sum of exp(score) over the keys that s sees. An engine chooses most, as long as the gradient, which gets it back,
 *   loses no digits of exp(score - most) / sum; the reference takes the largest score. A query that sees no key, or
 *   scores of -inf alone, gives 0, -inf, 0.
 *   What a query does not see does not reach it: 0 times NaN is 0 there.
 * attention_grad (causal, scale): q, k, v, o, most, sum, do, mask? -> dq, dk, dv (SUM s and r in dk, dv). A query whose
 *   do is 0 takes no part, whatever its q, o, most and sum are.
 * moe_route (k): logits[t,e] -> weights[t,k], experts[t,k]: the k largest, descending, ties to the lower index;
 *   weights = softmax over the chosen
 * moe_route_grad (experts: e): weights, experts, dweights -> dlogits[t,e]
 * moe_capacity (capacity, experts: e): experts[t,k] -> kept[t,k] (experts, -1 where over capacity; served in order of
 *   token, then choice), dropped[1] (int32)   (t WHOLE)
 * moe_rows (experts: e): experts[t,k] -> rows[e,t]: for each e the global tokens that chose it, ascending, then -1. A
 *   device that holds a block of t fills just the rows of that block, from its first row on; whoever reads rows must
 *   accept that layout (runs of >= 0, then -1, in each block)
 * routed tensors [e,t,...]: a row of them is real where rows[e,t] names a token, else padding. No row of the catalog
 *   reads padding, and a kernel may leave there what its memory held (the reference: 0)
 * moe_dispatch: x[t,d], rows[e,t] -> [e,t,d]: x[rows].    moe_dispatch_weighted: x, rows, weights[t,k], experts[t,k]:
 *   times the weight of (token, e)
 * moe_combine: y[e,t,d], rows[e,t], weights?[t,k], experts?[t,k] -> [t,d] (SUM e): for each row >= 0, out[row's token]
 *   += weight (1 without weights) * y
 * moe_combine_weights_grad: y[e,t,d], rows[e,t], experts[t,k], dout[t,d] -> dweights[t,k] (SUM e, d)
 * moe_matmul (transposed: weight is [e,o,i]): x[e,t,i], weight[e,i,o], rows[e,t] -> [e,t,o] (SUM i)
 * moe_outer: x[e,t,i], dy[e,t,o], rows -> [e,i,o] (SUM t).     moe_bias: x[e,t,o], bias[e,o], rows -> x + bias
 * moe_bias_grad: dy[e,t,o], rows -> [e,o] (SUM t)
 * moe_act (activation: 0 relu 1 gelu 2 gelu_tanh 3 silu): x[e,t,h], rows -> y.
 *   moe_act_grad (activation): x, dy, rows -> dx.  moe_mul: a, b, rows -> a * b
 * moe_count (experts: e): experts[t,k] -> [e], float32 (SUM t): how many choices each expert has
 * communication, made by reshard alone (in's and out's shardings say all; attrs repeat it for the text): same global
 *   value all_reduce (axes: bits)   all_gather (axes, dimension)   reduce_scatter (axes, dimension)
 *   all_to_all (axes, split: the dimension to be split, gathered: the one to be gathered)
 *   keep: local slice, no communication
 *   transfer: each device takes the boxes it lacks from devices that have them, on any placements
 *   broadcast: from one device to all of another placement */
#ifndef MTH__ROWS_H
#define MTH__ROWS_H
/* clang-format off */
#define MTH__ROWS(X) \
    X(neg) X(exp) X(log) X(sqrt) X(rsqrt) X(reciprocal) X(square) X(relu) X(gelu) X(gelu_tanh) X(silu) X(sigmoid) \
    X(tanh) X(copy) X(scale) X(shift) X(cast) X(mask) X(stop) X(relu_grad) X(gelu_grad) X(gelu_tanh_grad) \
    X(silu_grad) X(sigmoid_grad) X(tanh_grad) X(mul_grad) X(div_grad) X(maximum_grad) X(add) X(sub) X(mul) \
    X(div) X(maximum) X(equal) X(dropout) X(contract) \
    X(reduce_sum) X(reduce_max) X(broadcast_to) X(reshape) X(transpose) X(slice) X(pad) X(concat) X(gather) \
    X(gather_grad) X(pick) X(pick_grad) X(sinusoid) X(rope) X(softmax) X(softmax_grad) X(layer_norm) \
    X(layer_norm_grad) X(rms_norm) X(rms_norm_grad) X(attention) X(attention_grad) X(moe_route) X(moe_route_grad) \
    X(moe_capacity) X(moe_rows) X(moe_dispatch) X(moe_dispatch_weighted) X(moe_combine) X(moe_combine_weights_grad) \
    X(moe_matmul) X(moe_outer) X(moe_bias) X(moe_bias_grad) X(moe_act) X(moe_act_grad) X(moe_mul) X(moe_count) \
    X(all_reduce) X(all_gather) X(reduce_scatter) X(all_to_all) X(keep) X(transfer) X(broadcast)
/* clang-format on */
enum mth__row {
#define X(name) MTH__ROW_##name,
    MTH__ROWS(X)
#undef X
        MTH__ROW_COUNT
};
#endif
