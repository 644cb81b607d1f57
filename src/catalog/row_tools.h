/* What the rows_*.c share: how a row states its index, its rule, the shapes of its results, and its errors. */
#ifndef MTH__ROW_TOOLS_H
#define MTH__ROW_TOOLS_H
#include "catalog/op.h"
#include "catalog/rows.h"

#define X(name) extern const mth__op mth__op_##name;
MTH__ROWS(X)
#undef X
#define ROW(id) .name = #id, .row = MTH__ROW_##id
#define WANTED(b, j) ((b)->wanted >> (j) & 1)
#define ALL_ARGS UINT64_MAX

/* ---- rules. Letters of `sum`, `max` and `whole`; in them "..." stands for all dimensions of an ellipsis. */
typedef struct {
    const char *factors, *sum, *max, *whole, *positional;
} mth__letters;
void mth__rule_from(const mth__node *, const mth__letters *, mth__rule *);
void mth__rule_begin(const mth__node *, mth__rule *);              /* no factor, every dimension -1 in units of 1 */
int mth__rule_factor(mth__rule *, int64_t size, mth__factor_kind); /* a new one; its index */
/* Every dimension d of every operand and result is one factor; those in the bits `whole` are WHOLE. For rows whose
   tensors correspond dimension by dimension. */
void mth__rule_along(const mth__node *, unsigned whole, mth__rule *);

/* ---- shapes. Result dimensions that no operand has stay 0, for the caller to set. */
mth_status mth__infer_from(mth__node *, const char *factors);
mth_status mth__infer_same(mth__node *); /* every result has the shape of operand 0 */

/* Rows whose attributes are the shape of their result. */
void mth__resize_shape(mth__attrs *, int dimension, int64_t size);

/* ---- checks of attributes and operands; their errors carry all operands of the node */
mth_status mth__row_dress(mth_status, const mth__node *);                 /* an error of any code */
mth_status mth__row_error(const mth__node *, char *what, char *fix);      /* VALUE; takes the texts */
mth_status mth__row_type_error(const mth__node *, char *what, char *fix); /* TYPE */
/* of operand 0: 0 <= dimension < rank */
mth_status mth__row_dimension(const mth__node *, const char *what, int64_t dimension);
mth_status mth__row_rank(const mth__node *, int j, int rank);

/* ---- gradients and flops */
#define UNUSED __attribute__((unused))
#define GRAD(id)                                                                                                       \
    static mth_status grad_##id(UNUSED mth__builder *builder, UNUSED const mth__node *node,                            \
        UNUSED mth__value *const *dout, UNUSED mth__value **din)
#define FLOPS(id)                                                                                                      \
    static double flops_##id(UNUSED const mth__node *node, UNUSED const mth__shape *in, UNUSED const mth__shape *out)
/* 0: rows that compute nothing */
double mth__flops_none(const mth__node *, const mth__shape *in, const mth__shape *out);
/* UNSUPPORTED where a result behind the first has a gradient. */
mth_status mth__grad_only_first(const mth__node *, mth__value *const *dout);
#endif
