/* One writer of StableHLO text. A module is SPMD with local shapes: partition p is the p-th device of the segment, and
 * every value has the shape of the largest part that any of them holds. The real elements of a device begin at index 0
 * of each dimension. Behind them lies padding, whose contents mean nothing. A row may rely on two things alone:
 *   - along the factors that it sums (or takes the maximum of), the padding of every operand was set to 0 (-inf) before
 *     the row is called;
 *   - dimensions that the row may not split (WHOLE) have no padding.
 * It may leave anything in the padding of its results, infinities and NaN included.
 *
 * To XLA partition p is replica p: its partitioner, which refuses to tell partitions apart, then has nothing to do with
 * the module. Where nothing in a module tells them apart and no collective joins them, it is a module of one device
 * that each of them runs alone.
 *
 * Everything here runs inside a guard (base/arena.h): memory that is gone jumps, so nothing returns NULL.
 *
 *     mth__hlo_val y = mth__hlo_binary(hlo, "maximum", x, mth__hlo_splat(hlo, x.dtype, x.shape, 0));
 * writes
 *     %7 = stablehlo.constant dense<0.0> : tensor<8x16xf32>
 *     %8 = stablehlo.maximum %6, %7 : tensor<8x16xf32> */
#ifndef MTH__HLO_H
#define MTH__HLO_H
#include "catalog/rows.h"
#include "emit/program.h"

/* id >= 0: %id; below: %arg(-1 - id) */
typedef struct {
    int id;
    mth_dtype dtype;
    mth__shape shape;
} mth__hlo_val;

/* What the devices of a segment hold of a value. start, size, step: [partition][dimension], in elements of the global
 * tensor. */
typedef struct {
    mth_dtype dtype;
    mth__shape shape, local; /* global; of the module: the largest */
    const mth__sharding *sharding;
    int64_t (*start)[MTH__RANK], (*size)[MTH__RANK], (*step)[MTH__RANK];
    bool padded[MTH__RANK]; /* some partition holds fewer than `local` */
} mth__hlo_part;

typedef struct mth__hlo {
    mth__arena *arena;
    mth__text body;
    int next; /* id of the next value */
    int partitions;
    const int32_t *device; /* by partition, ascending */
    /* the module is global: XLA's partitioner will cut it up and place collectives */
    bool partitioned;
    bool told_apart;        /* something depends on which partition runs */
    mth__hlo_val partition; /* which one, i32, (); written where it is first asked for */
    int line;               /* of the body's end, from 0 */
    /* Run-time checks of ids and masks: each an i32 (2) of { 1 where some id is outside, that id }. hlo_module.c makes
     * them a result. */
    VEC(struct mth__hlo_check {
        mth__hlo_val value;
        int instr;
        int64_t limit;
    })
    check;
    int instr;           /* the segment's instruction being written */
    int arguments;       /* those behind which the numbers are arguments: */
    VEC(int64_t) number; /* what tells one microbatch's run of this text from another's */
} mth__hlo;

/* ---- hlo_text.c: values and operations */
/* "tensor<8x16xf32>"; bool is i1 (memory of arrays: one byte, 0 or 1) */
const char *mth__hlo_type(mth__arena *, mth_dtype, mth__shape);
const char *mth__hlo_name(mth__arena *, mth__hlo_val);       /* "%12", "%arg3" */
const char *mth__hlo_list(mth__arena *, int n, const int *); /* "[0, 2]" */
/* Writes a line of the caller's own and gives its value. `format` is what stands behind "%id = ", with its types.
       mth__hlo_line(hlo, MTH_FLOAT32, x.shape, "stablehlo.tanh %s : %s", mth__hlo_name(hlo->arena, x),
           mth__hlo_type(hlo->arena, x.dtype, x.shape)); */
mth__hlo_val mth__hlo_line(mth__hlo *, mth_dtype, mth__shape, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Writes a line with `n` results, "%7:2 = <text>", and gives their values, whose names are "%7#0" and "%7#1".
   Operations with regions have such results. The text may hold newlines. */
void mth__hlo_lines(mth__hlo *, int n, const mth_dtype *, const mth__shape *, mth__hlo_val *out, const char *format,
    ...) __attribute__((format(printf, 6, 7)));

/* a constant; inf, -inf and NaN too */
mth__hlo_val mth__hlo_splat(mth__hlo *, mth_dtype, mth__shape, double value);
/* a dense constant of integers, row-major */
mth__hlo_val mth__hlo_ints(mth__hlo *, mth_dtype, mth__shape, const int64_t *values);
mth__hlo_val mth__hlo_iota(mth__hlo *, mth_dtype, mth__shape, int dim);
mth__hlo_val mth__hlo_unary(mth__hlo *, const char *op /* "tanh" */, mth__hlo_val);
mth__hlo_val mth__hlo_binary(
    mth__hlo *, const char *op /* "add" */, mth__hlo_val, mth__hlo_val); /* equal shapes and dtypes */
/* x op splat */
mth__hlo_val mth__hlo_binary_scalar(mth__hlo *, const char *op, mth__hlo_val, double);
mth__hlo_val mth__hlo_compare(
    mth__hlo *, const char *direction /* EQ NE LT LE GT GE */, mth__hlo_val, mth__hlo_val); /* bool */
mth__hlo_val mth__hlo_select(mth__hlo *, mth__hlo_val pred, mth__hlo_val yes, mth__hlo_val no);
/* the same value where nothing changes */
mth__hlo_val mth__hlo_convert(mth__hlo *, mth_dtype, mth__hlo_val);
mth__hlo_val mth__hlo_reshape(mth__hlo *, mth__hlo_val, mth__shape); /* same number of elements */
mth__hlo_val mth__hlo_transpose(mth__hlo *, mth__hlo_val, const int *permutation);
/* dims[d]: the dimension of `to` that dimension d of x becomes; a dimension of size 1 repeats */
mth__hlo_val mth__hlo_broadcast(mth__hlo *, mth__hlo_val, mth__shape to, const int *dims);
/* trailing dimensions match, as NumPy's */
mth__hlo_val mth__hlo_broadcast_numpy(mth__hlo *, mth__hlo_val, mth__shape to);
mth__hlo_val mth__hlo_slice(mth__hlo *, mth__hlo_val, int dim, int64_t start, int64_t stop);
mth__hlo_val mth__hlo_pad(mth__hlo *, mth__hlo_val, int dim, int64_t before, int64_t after, double value);
/* zeros added, or elements cut off, at the end of each dimension */
mth__hlo_val mth__hlo_resize(mth__hlo *, mth__hlo_val, mth__shape);
mth__hlo_val mth__hlo_concat(mth__hlo *, int n, const mth__hlo_val *, int dim);
mth__hlo_val mth__hlo_dynamic_slice(
    mth__hlo *, mth__hlo_val, const mth__hlo_val *start /* rank scalars, i32; XLA clamps them */, mth__shape size);
mth__hlo_val mth__hlo_dynamic_update(mth__hlo *, mth__hlo_val, mth__hlo_val update, const mth__hlo_val *start);
/* kind "add", "maximum", "minimum", "or", "and"; over the dimensions whose bits are set; keep: as size 1 */
mth__hlo_val mth__hlo_reduce(mth__hlo *, const char *kind, mth__hlo_val, unsigned dims, bool keep);
mth__hlo_val mth__hlo_scalar_i32(mth__hlo *, int64_t);
/* An i32 scalar that is no part of the text but one more argument of the module. */
mth__hlo_val mth__hlo_number(mth__hlo *, int64_t);

/* ---- hlo_dot.c: products */
/* In float32 at highest precision: a dot_general, or, where XLA would add too many terms in one chain, several whose
   results are summed. The result has batch dimensions, then the free ones of a, then those of b. */
mth__hlo_val mth__hlo_dot(mth__hlo *, mth__hlo_val a, mth__hlo_val b, int nbatch, const int *abatch, const int *bbatch,
    int nsum, const int *asum, const int *bsum);

/* ---- hlo_order.c: integers (i32, of f64 i64) in the order of the floats, NaN the largest; and the floats of such
 * integers */
mth__hlo_val mth__hlo_order_keys(mth__hlo *, mth__hlo_val);
mth__hlo_val mth__hlo_of_order_keys(mth__hlo *, mth_dtype, mth__hlo_val);

/* bool: is it not 0. Of floats the bits are looked at: to XLA's loops for CPUs what is too small to be normal is 0. */
mth__hlo_val mth__hlo_not_zero(mth__hlo *, mth__hlo_val);

/* ---- hlo_part.c: what differs between the partitions */
/* An i32 scalar, values[p] on partition p; a plain constant where all are equal. */
mth__hlo_val mth__hlo_by_partition(mth__hlo *, const int64_t *values);
/* The same with a row of n values a partition (values[p * n + i]): i32, (n). */
mth__hlo_val mth__hlo_row_by_partition(mth__hlo *, const int64_t *values, int64_t n);
mth__hlo_val mth__hlo_start(mth__hlo *, const mth__hlo_part *, int dim); /* i32 scalar */
mth__hlo_val mth__hlo_size(mth__hlo *, const mth__hlo_part *, int dim);
/* The global index of each element along a dimension: i32, (local.dim[dim]): start + iota * step. */
mth__hlo_val mth__hlo_index(mth__hlo *, const mth__hlo_part *, int dim);
/* Integers as i32. One that does not fit becomes the smallest or the largest i32, which is outside of every table and
   in no mask. */
mth__hlo_val mth__hlo_narrow(mth__hlo *, mth__hlo_val);
/* The run-time check that no real element is `bad` (of a part); `value` (i32) is what the error says of one that is. */
void mth__hlo_report(mth__hlo *, const mth__hlo_part *, mth__hlo_val bad, mth__hlo_val value, int64_t limit);
/* A mask of the part's local shape that is true on real elements; `dims` has a bit for each dimension that counts.
   Where nothing is padded the mask is true everywhere: ask mth__hlo_is_padded first, and do without it. */
bool mth__hlo_is_padded(const mth__hlo_part *, unsigned dims);
mth__hlo_val mth__hlo_mask(mth__hlo *, const mth__hlo_part *, unsigned dims);
/* x with `value` in the padding along dims; x itself where there is none. */
mth__hlo_val mth__hlo_fill_padding(mth__hlo *, mth__hlo_val x, const mth__hlo_part *, unsigned dims, double value);

/* ---- rows: hlo_rows.c has the table */
typedef struct {
    mth__hlo_val value;
    const mth__hlo_part *part;
} mth__hlo_operand;
typedef struct {
    mth__hlo *hlo;
    const mth__op *op;
    /* They describe the global tensors. Local sizes stand in the parts of operands and results. */
    const mth__attrs *attrs;
    int nin, nout;
    /* out[].part is given, the row sets out[].value (shape: part->local) */
    mth__hlo_operand in[MTH__MAX_IN], out[MTH__MAX_OUT];
    /* The sum to which a result is added, or NULL. The caller adds it behind the row, unless the row took it by
       mth__hlo_start_of. */
    const mth__hlo_val *sum[MTH__MAX_OUT];
    bool by_microbatch; /* where the row's part of the batch begins is a number, not a constant */
} mth__hlo_call;
typedef void mth__hlo_row(mth__hlo_call *);
/* NULL: communication but keep; "stop", "reshape" are rows here */
extern mth__hlo_row *const mth__hlo_rows[MTH__ROW_COUNT];
/* 1: the padding of the row's operands is not filled */
extern const unsigned char mth__hlo_masks_itself[MTH__ROW_COUNT];

/* hlo_elementwise.c, hlo_dropout.c */
mth__hlo_row mth__hlo_elementwise_row, mth__hlo_mask_row, mth__hlo_dropout;
mth__hlo_row mth__hlo_contract, mth__hlo_reduce_row, mth__hlo_softmax, mth__hlo_softmax_grad, mth__hlo_layer_norm,
    mth__hlo_layer_norm_grad, mth__hlo_rms_norm, mth__hlo_rms_norm_grad; /* hlo_contract.c, hlo_normalize.c */
mth__hlo_row mth__hlo_broadcast_to, mth__hlo_reshape_row, mth__hlo_transpose_row, mth__hlo_slice_row, mth__hlo_pad_row,
    mth__hlo_concat_row, mth__hlo_keep, mth__hlo_cast;    /* hlo_layout.c */
mth__hlo_row mth__hlo_attention, mth__hlo_attention_grad; /* hlo_attention.c */
/* hlo_index.c */
mth__hlo_row mth__hlo_gather, mth__hlo_gather_grad, mth__hlo_pick, mth__hlo_pick_grad, mth__hlo_sinusoid, mth__hlo_rope;
mth__hlo_row mth__hlo_moe_route, mth__hlo_moe_route_grad, mth__hlo_moe_capacity, mth__hlo_moe_rows, mth__hlo_moe_count,
    mth__hlo_moe_dispatch, mth__hlo_moe_combine, mth__hlo_moe_combine_weights_grad, mth__hlo_moe_matmul,
    mth__hlo_moe_outer, mth__hlo_moe_bias, mth__hlo_moe_bias_grad, mth__hlo_moe_act, mth__hlo_moe_act_grad,
    mth__hlo_moe_mul; /* hlo_moe.c, hlo_moe_route.c */
/* An activation by name and its derivative times dy, shared by elementwise and moe_act: relu gelu gelu_tanh silu.
 * hlo_elementwise.c */
mth__hlo_val mth__hlo_activation(mth__hlo *, const char *name, mth__hlo_val x);
mth__hlo_val mth__hlo_activation_grad(mth__hlo *, const char *name, mth__hlo_val x, mth__hlo_val dy);

/* ---- collectives: hlo_collective.c (XLA's own), hlo_steps.c (a named algorithm as collective_permute, from the
   template of steps). All devices of the channel's groups are partitions of the module. In a broadcast every partition
   has an operand, and that of a partition which only receives means nothing. Sets out->value. */
void mth__hlo_collective(mth__hlo *, const mth__channel *, const mth__hlo_operand *in, mth__hlo_operand *out);
void mth__hlo_steps(mth__hlo *, const mth__channel *, const mth__hlo_operand *in, mth__hlo_operand *out);
/* hlo_exchange.c: a transfer whose devices are those of one placement, and whose boxes have no gaps (no cyclic split).
   Other moves are hops between modules. */
bool mth__is_exchange(const mth__channel *);
void mth__hlo_exchange(mth__hlo *, const mth__channel *, const mth__hlo_operand *in, mth__hlo_operand *out);
#endif
