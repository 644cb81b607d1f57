/* The reference engine: the oracle of the tests. Inside, a floating element is a double and an integer an int64, and
 * every row is a loop over index tuples written from its formula in catalog/rows.h. It shares with other engines what
 * channels mean (emit/channel_moves.h, which a test compares with their meaning for the whole tensor) and the order in
 * which things happen (engine/walk.h).
 *   reference.c             the vtable: buffers, load, run
 *   reference_element.c     elements: between dtypes, and combined
 *   reference_rows.c        the table of rows; what the loops need
 *   reference_elementwise.c reference_tensor.c reference_index.c reference_normalize.c reference_moe.c    the rows */
#ifndef MTH__REFERENCE_H
#define MTH__REFERENCE_H
#include "catalog/rows.h"
#include "engine/engine.h"
#include <string.h>

/* `real` of a floating dtype, else `integer`: a bool is 0 or 1. Rows that move elements need not know which; 0 is the
   same bits in both. */
typedef union {
    double real;
    int64_t integer;
} mth__ref_element;

/* One device's part of a value. */
typedef struct {
    mth__ref_element *data; /* local, row-major */
    mth_dtype dtype;
    mth__shape local, global;
    /* local index i of dimension d is global start[d] + i * step[d] */
    int64_t start[MTH__RANK], step[MTH__RANK];
    bool here; /* the device belongs to the value's placement */
} mth__ref_value;

typedef struct {
    const mth__op *op;
    const mth__attrs *attrs;
    int nin, nout;
    const mth__ref_value *in[MTH__MAX_IN];
    mth__ref_value *out[MTH__MAX_OUT];
} mth__ref_call;
typedef mth_status mth__ref_row(const mth__ref_call *);
extern mth__ref_row *const mth__ref_rows[MTH__ROW_COUNT]; /* NULL: communication, never computed */

/* ---- loops over index tuples: FOR_EACH(at, shape) { ... at[0], at[1] ... } */
#define FOR_EACH(at, shape)                                                                                            \
    for (int64_t at[MTH__RANK + 1] = {[MTH__RANK] = mth__shape_size(shape) > 0}; at[MTH__RANK];                        \
        mth__ref_next(shape, at))
void mth__ref_next(mth__shape, int64_t *at); /* at[MTH__RANK] becomes 0 behind the last tuple */
mth__ref_element *mth__ref_element_at(const mth__ref_value *, const int64_t *at);
static inline double *mth__ref_at(const mth__ref_value *value, const int64_t *at) {
    return &mth__ref_element_at(value, at)->real;
}
static inline int64_t *mth__ref_integer_at(const mth__ref_value *value, const int64_t *at) {
    return &mth__ref_element_at(value, at)->integer;
}
#define AT(value, ...) (*mth__ref_at(value, (const int64_t[MTH__RANK]){__VA_ARGS__}))
#define ID(value, ...) (*mth__ref_integer_at(value, (const int64_t[MTH__RANK]){__VA_ARGS__})) /* of integers */
static inline int64_t mth__ref_global(const mth__ref_value *value, int d, int64_t i) {
    return value->start[d] + i * value->step[d];
}
int64_t mth__ref_local(const mth__ref_value *, int d, int64_t global); /* -1: not here */
/* The element of the value that NumPy's broadcasting pairs with element `at` of `out`. */
const mth__ref_element *mth__ref_broadcast(const mth__ref_value *value, const mth__ref_value *out, const int64_t *at);
static inline void mth__ref_zero(const mth__ref_value *value) {
    for (int64_t i = 0, n = mth__shape_size(value->local); i < n; i++) value->data[i] = (mth__ref_element){0};
}
/* The error of an id. */
mth_status mth__ref_outside(const mth__ref_call *, const mth__ref_value *ids, int64_t id, int64_t limit);

/* ---- elements of a dtype */
mth__ref_element mth__ref_from_real(mth_dtype, double);     /* as the row cast does */
mth__ref_element mth__ref_from_integer(mth_dtype, int64_t); /* the same, rounded once */
double mth__ref_as_real(mth_dtype, mth__ref_element);       /* integers past 2^53 rounded */
/* a and b combined by MTH__REDUCE_*. Sums of integers wrap; a sum of bools is whether one is true. */
mth__ref_element mth__ref_combine(mth_dtype, int reduce, mth__ref_element a, mth__ref_element b);

/* ---- rows by file */
mth__ref_row mth__ref_elementwise, mth__ref_copy, mth__ref_cast, mth__ref_mask, mth__ref_dropout;
mth__ref_row mth__ref_contract, mth__ref_reduce, mth__ref_broadcast_to, mth__ref_reshape, mth__ref_transpose,
    mth__ref_slice;
mth__ref_row mth__ref_pad, mth__ref_concat, mth__ref_keep;
mth__ref_row mth__ref_gather, mth__ref_gather_grad, mth__ref_pick, mth__ref_pick_grad, mth__ref_sinusoid, mth__ref_rope;
mth__ref_row mth__ref_softmax, mth__ref_softmax_grad, mth__ref_layer_norm, mth__ref_layer_norm_grad;
mth__ref_row mth__ref_rms_norm, mth__ref_rms_norm_grad;
mth__ref_row mth__ref_attention, mth__ref_attention_grad;
mth__ref_row mth__ref_moe_route, mth__ref_moe_route_grad, mth__ref_moe_capacity, mth__ref_moe_rows;
mth__ref_row mth__ref_moe_dispatch, mth__ref_moe_combine, mth__ref_moe_combine_weights_grad;
mth__ref_row mth__ref_moe_matmul, mth__ref_moe_outer, mth__ref_moe_bias, mth__ref_moe_bias_grad;
mth__ref_row mth__ref_moe_act, mth__ref_moe_mul, mth__ref_moe_count;
double mth__ref_activation(int row, double x); /* relu, gelu, gelu_tanh, silu */
double mth__ref_activation_grad(int row, double x, double dy);
#endif
