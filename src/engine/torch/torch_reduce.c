/* Sums and maxima, softmax, norms and their gradients. */
#include "engine/torch/torch_rows.h"
#include <math.h>

#define IN(j) TENSOR(call->in[j]->tensor)
#define OUT(k) TENSOR(mth__torch_room(call, k))

/* ---------------------------------------------------------------- sums and maxima */
/* To torch no dimension means all of them. */
void mth__torch_reduce(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const bool max = call->op->row == MTH__ROW_reduce_max, keep = call->attrs->keep;
    int64_t dimension[MTH__RANK];
    int n = 0;
    for (int d = 0; d < x->shape.rank; d++)
        if (call->attrs->dimensions >> d & 1) dimension[n++] = d;
    if (!n)
        ATEN(call, copy_, OUT(0), IN(0), BOOL(false));
    else if (!max)
        ATEN(call, sum_out, IN(0), INTEGERS(dimension, n), BOOL(keep), NONE, OUT(0));
    else if (mth__shape_size(x->shape))
        ATEN(call, amax_out, IN(0), INTEGERS(dimension, n), BOOL(keep), OUT(0));
    else /* this device has none of the elements */
        ATEN(call, fill_, OUT(0), TENSOR(mth__torch_real(call, -INFINITY)));
}

/* ---------------------------------------------------------------- softmax */
/* Softmax and the gradients of norms add up in chains, a few side by side or one for each column; torch's sums are
 * trees. Above these lengths the errors of chains would show. */
enum { LONG_SOFTMAX = 65536, LONG_NORM = 8192, LONG_GRADIENT = 16384, ROWS_AT_ONCE = 4096, ELEMENTS_AT_ONCE = 1 << 15 };

void mth__torch_softmax(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const int d = (int)call->attrs->dimension;
    if (x->shape.dim[d] <= LONG_SOFTMAX || mth__is_half(x->dtype)) {
        ATEN(call, softmax_out, IN(0), INTEGER(d), BOOL(false), OUT(0));
        return;
    }
    mth__tensor most = ATEN(call, amax, IN(0), DIMENSION(d), BOOL(true)), y = mth__torch_room(call, 0);
    mth__torch_add(call, x->tensor, most, -1, y);
    ATEN(call, exp_out, TENSOR(y), TENSOR(y));
    mth__tensor sum = ATEN(call, sum, TENSOR(y), DIMENSION(d), BOOL(true), NONE);
    ATEN(call, div_out, TENSOR(y), TENSOR(sum), TENSOR(y));
}
void mth__torch_softmax_grad(mth__torch_call *call) {
    ATEN(call, softmax_backward_out, IN(1), IN(0), INTEGER(call->attrs->dimension), DTYPE(call->in[0]->dtype), OUT(0));
}

/* ---------------------------------------------------------------- norms, over the last dimension */
static int64_t width_of(const mth__torch_operand *x) { return x->shape.dim[x->shape.rank - 1]; }
static mth__shape with_one(mth__shape shape) { /* of one number a row, which then broadcasts along it */
    shape.dim[shape.rank++] = 1;
    return shape;
}
/* In the dtype in which elements are added up, as statistics are. */
static mth__tensor widened(mth__torch_call *call, const mth__torch_operand *x) {
    return mth__is_half(x->dtype)
        ? ATEN(call, to_dtype, TENSOR(x->tensor), DTYPE(mth__dtypes[x->dtype].sums), BOOL(false), BOOL(false), NONE)
        : x->tensor;
}
static void result_of_rows(mth__torch_call *call, int k, mth__tensor value) {
    mth__torch_result(call, k, mth__torch_view(call, value, call->out[k]->shape, NULL, 0));
}

/* torch's statistics have the dtype of the weight where that is wider than the operand's. */
void mth__torch_layer_norm(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    mth__tensor result[3];
    ATEN_ALL(call, layer_norm, result, IN(0), DIMENSION(width_of(x)), TENSOR(widened(call, call->in[1])),
        TENSOR(widened(call, call->in[2])), REAL(call->attrs->epsilon));
    mth__torch_result(call, 0, result[0]);
    for (int k = 1; k < 3; k++) result_of_rows(call, k, result[k]);
    if (width_of(x) == 0) ATEN(call, fill_, OUT(1), TENSOR(mth__torch_real(call, NAN))); /* torch: 0 */
}

typedef struct {
    mth__tensor x, weight, mean, rstd, dy;
    int64_t width;
} norm_operands;
static void layer_norm_grad(mth__torch_call *call, const norm_operands *of, mth__tensor result[3]) {
    static const int64_t all[] = {1, 1, 1};
    ATEN_ALL(call, layer_norm_backward, result, TENSOR(of->dy), TENSOR(of->x), DIMENSION(of->width), TENSOR(of->mean),
        TENSOR(of->rstd), TENSOR(of->weight), TENSOR(of->weight), INTEGERS(all, 3));
}
/* Some rows after the others; their gradients of weight and bias are then added up as trees. */
static void layer_norm_grad_by_parts(mth__torch_call *call, const norm_operands *of, int64_t rows) {
    const int64_t width = of->width, parts = mth__ceil_div(rows, ROWS_AT_ONCE);
    const mth_dtype dtype = mth__dtypes[call->in[0]->dtype].sums;
    const mth__shape terms = {2, {parts, width}};
    mth__tensor dx = mth__torch_room(call, 0),
                term[] = {NULL, mth__torch_empty(call, dtype, terms), mth__torch_empty(call, dtype, terms)};
    for (int64_t part = 0; part < parts && !call->status; part++) {
        const int64_t begin = part * ROWS_AT_ONCE, left = rows - begin, n = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        const mth__shape wide = {2, {n, width}}, narrow = {2, {n, 1}}, one = {1, {width}};
        mth__tensor result[3];
        const norm_operands some = {mth__torch_view(call, of->x, wide, NULL, begin * width), of->weight,
            mth__torch_view(call, of->mean, narrow, NULL, begin), mth__torch_view(call, of->rstd, narrow, NULL, begin),
            mth__torch_view(call, of->dy, wide, NULL, begin * width), width};
        layer_norm_grad(call, &some, result);
        const mth__tensor to[] = {mth__torch_view(call, dx, wide, NULL, begin * width),
            mth__torch_view(call, term[1], one, NULL, part * width),
            mth__torch_view(call, term[2], one, NULL, part * width)};
        for (int k = 0; k < 3; k++) {
            ATEN(call, copy_, TENSOR(to[k]), TENSOR(result[k]), BOOL(false));
            mth__torch_drop(call, result[k]);
        }
    }
    for (int k = 1; k < 3; k++) ATEN(call, sum_out, TENSOR(term[k]), DIMENSION(0), BOOL(false), NONE, OUT(k));
}
void mth__torch_layer_norm_grad(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const mth__shape of_row = with_one(call->in[2]->shape);
    const norm_operands of = {x->tensor, widened(call, call->in[1]),
        mth__torch_view(call, call->in[2]->tensor, of_row, NULL, 0),
        mth__torch_view(call, call->in[3]->tensor, of_row, NULL, 0), call->in[4]->tensor, width_of(x)};
    const int64_t rows = mth__shape_size(of_row);
    if (rows > LONG_GRADIENT) {
        layer_norm_grad_by_parts(call, &of, rows);
        return;
    }
    mth__tensor result[3];
    layer_norm_grad(call, &of, result);
    for (int k = 0; k < 3; k++) mth__torch_result(call, k, result[k]);
}

/* The mean of the squares of each row. A norm is one pass, without squares in memory, but adds up in chains. */
static mth__tensor mean_square(mth__torch_call *call, mth__tensor x, int d, int64_t width) {
    if (width > LONG_NORM) {
        mth__tensor square = ATEN(call, mul, TENSOR(x), TENSOR(x));
        return ATEN(call, mean, TENSOR(square), DIMENSION(d), BOOL(true), NONE);
    }
    mth__tensor norm = ATEN(call, norm, TENSOR(x), NONE, DIMENSION(d), BOOL(true));
    ATEN(call, mul_out, TENSOR(norm), TENSOR(norm), TENSOR(norm));
    return ATEN(
        call, div_out, TENSOR(norm), TENSOR(mth__torch_number(call, call->in[0]->dtype, (double)width)), TENSOR(norm));
}

void mth__torch_rms_norm(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    mth__tensor wide = widened(call, x), y = mth__torch_room(call, 0), scaled = wide == x->tensor ? y : wide;
    mth__tensor rstd = mth__torch_view(call, mth__torch_room(call, 1), with_one(call->out[1]->shape), NULL, 0);
    mth__tensor square = mean_square(call, wide, x->shape.rank - 1, width_of(x));
    mth__torch_add(call, square, mth__torch_number(call, x->dtype, call->attrs->epsilon), 1, rstd);
    ATEN(call, rsqrt_out, TENSOR(rstd), TENSOR(rstd));
    ATEN(call, mul_out, TENSOR(wide), TENSOR(rstd), TENSOR(scaled));
    ATEN(call, mul_out, TENSOR(scaled), TENSOR(widened(call, call->in[1])), TENSOR(y));
}

/* With h = x * rstd: dweight = the sum of dy * h over rows, dx = rstd * dy * weight - x * rstd^2 * mean(dy * h *
 * weight). */
void mth__torch_rms_norm_grad(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const int64_t width = width_of(x), rows = mth__shape_size(call->in[2]->shape);
    const mth__shape matrix = {2, {rows, width}}, of_row = {2, {rows, 1}};
    mth__tensor weight = widened(call, call->in[1]), wide_x = mth__torch_view(call, widened(call, x), matrix, NULL, 0),
                dy = mth__torch_view(call, widened(call, call->in[3]), matrix, NULL, 0),
                rstd = mth__torch_view(call, call->in[2]->tensor, of_row, NULL, 0);
    mth__tensor dx = mth__torch_view(call, mth__torch_room(call, 0), matrix, NULL, 0),
                term = mth__is_half(x->dtype) ? mth__torch_empty(call, mth__dtypes[x->dtype].sums, matrix) : dx,
                share = mth__torch_empty(call, mth__dtypes[x->dtype].sums, of_row);
    ATEN(call, mul_out, TENSOR(dy), TENSOR(wide_x), TENSOR(term));
    ATEN(call, mul_out, TENSOR(term), TENSOR(rstd), TENSOR(term));
    ATEN(call, sum_out, TENSOR(term), DIMENSION(0), BOOL(false), NONE, OUT(1));
    mth__torch_product(call, term, mth__torch_view(call, weight, (mth__shape){2, {width, 1}}, NULL, 0), 2, 0, share);
    for (int i = 0; i < 2; i++) ATEN(call, mul_out, TENSOR(share), TENSOR(rstd), TENSOR(share));
    ATEN(call, div_out, TENSOR(share), TENSOR(mth__torch_number(call, call->in[0]->dtype, (double)width)),
        TENSOR(share));
    ATEN(call, mul_out, TENSOR(dy), TENSOR(weight), TENSOR(term));
    ATEN(call, mul_out, TENSOR(term), TENSOR(rstd), TENSOR(term));
    /* dx = term - x * share, of some rows at a time, for which x * share takes little memory */
    const int64_t at_once = mth__ceil_div(ELEMENTS_AT_ONCE, width + 1);
    for (int64_t begin = 0; begin < rows; begin += at_once) {
        const int64_t n = rows - begin < at_once ? rows - begin : at_once, from = begin * width;
        const mth__shape some = {2, {n, width}};
        const int mark = mth__torch_mark(call);
        mth__tensor pull = ATEN(call, mul, TENSOR(mth__torch_view(call, wide_x, some, NULL, from)),
            TENSOR(mth__torch_view(call, share, (mth__shape){2, {n, 1}}, NULL, begin)));
        mth__torch_add(
            call, mth__torch_view(call, term, some, NULL, from), pull, -1, mth__torch_view(call, dx, some, NULL, from));
        mth__torch_drop_since(call, mark);
    }
}
