/* Rows that read or write by integer index, and those that depend on positions. */
#include "base/philox.h"
#include "engine/torch/torch_rows.h"
#include <math.h>

/* ---------------------------------------------------------------- ids */
/* Where the elements lie that ids name, in a part of a dimension. */
typedef struct {
    int64_t count;
    mth__tensor at;   /* (count) int64: local; 0 where it is not here */
    mth__tensor here; /* (count, 1) of the row's floating dtype: 1, or 0; NULL: all are here */
} places;

/* Ids are few beside what they name: the host reads them, which also finds the one that the error names. */
static places locate(
    mth__torch_call *call, const mth__torch_operand *ids, int64_t limit, const mth__torch_operand *part, int d) {
    const int64_t count = mth__shape_size(ids->shape), start = part->start[d], step = part->step[d];
    places to = {.count = count, .at = mth__torch_empty(call, MTH_INT64, (mth__shape){1, {count}})};
    const void *id = mth__torch_host(call, ids->tensor);
    int64_t *at = mth__torch_host(call, to.at), absent = 0;
    if (!count || !id || !at) return to;
    for (int64_t i = 0; i < count; i++) {
        const int64_t global = ids->dtype == MTH_INT64 ? ((const int64_t *)id)[i] : ((const int32_t *)id)[i];
        if (global < 0 || global >= limit) {
            mth__torch_fail(call, mth__torch_outside(call, ids, global, limit));
            return to;
        }
        const int64_t away = global - start, local = step == 1 ? away : away / step;
        const bool here = away >= 0 && local < part->shape.dim[d] && local * step == away;
        at[i] = here ? local : -1;
        absent += !here;
    }
    if (!absent) return to;
    const mth_dtype dtype = call->out[0]->dtype;
    to.here = mth__torch_empty(call, dtype, (mth__shape){2, {count, 1}});
    void *here = mth__torch_host(call, to.here);
    for (int64_t i = 0; here && i < count; i++) {
        mth__dtype_store(dtype, here, i, at[i] >= 0);
        if (at[i] < 0) at[i] = 0;
    }
    return to;
}
/* `value` (count, n) with 0 in the rows that are not here. */
static mth__tensor where_here(mth__torch_call *call, const places *to, mth__tensor value, mth__tensor out) {
    return to->here ? mth__torch_relu_backward(call, value, to->here, out) : value;
}
static mth__tensor matrix(mth__torch_call *call, mth__tensor tensor, int64_t rows, int64_t columns) {
    return mth__torch_view(call, tensor, (mth__shape){2, {rows, columns}}, NULL, 0);
}
static int last_of(const mth__torch_operand *x) { return x->shape.rank - 1; }

void mth__torch_gather(mth__torch_call *call) {
    const mth__torch_operand *table = call->in[0];
    const int64_t width = table->shape.dim[1];
    const places rows = locate(call, call->in[1], table->global.dim[0], table, 0);
    mth__tensor y = matrix(call, mth__torch_room(call, 0), rows.count, width);
    if (!table->shape.dim[0]) {
        ATEN(call, zero_, TENSOR(y));
        return;
    }
    ATEN(call, index_select_out, TENSOR(table->tensor), INTEGER(0), TENSOR(rows.at), TENSOR(y));
    where_here(call, &rows, y, y);
}
/* An id's rows are added up one after the other; in 16 bits most would be lost. */
void mth__torch_gather_grad(mth__torch_call *call) {
    const mth__torch_operand *dy = call->in[1], *out = call->out[0];
    const int64_t width = out->shape.dim[1];
    const places rows = locate(call, call->in[0], call->attrs->rows, out, 0);
    mth__tensor term = matrix(call, dy->tensor, rows.count, width);
    if (rows.here)
        term = where_here(call, &rows, term, mth__torch_empty(call, dy->dtype, (mth__shape){2, {rows.count, width}}));
    const bool half = mth__is_half(out->dtype);
    mth__tensor sum = half ? NULL : mth__torch_take_sum(call, 0), to = sum;
    if (half) {
        term = ATEN(call, to_dtype, TENSOR(term), DTYPE(MTH_FLOAT32), BOOL(false), BOOL(false), NONE);
        to = mth__torch_zeros(call, MTH_FLOAT32, out->shape);
    } else if (!sum) {
        to = mth__torch_room(call, 0);
        ATEN(call, zero_, TENSOR(to));
    }
    if (mth__shape_size(out->shape) && rows.count) {
        const mth__shape shape = {2, {rows.count, width}};
        mth__tensor index = mth__torch_view(call, rows.at, shape, (const int64_t[]){1, 0}, 0);
        ATEN(call, scatter_add_, TENSOR(to), INTEGER(0), TENSOR(index), TENSOR(term));
    }
    if (half) mth__torch_result(call, 0, to);
}
void mth__torch_pick(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const int64_t width = x->shape.dim[last_of(x)];
    const places columns = locate(call, call->in[1], x->global.dim[last_of(x)], x, last_of(x));
    mth__tensor y = matrix(call, mth__torch_room(call, 0), columns.count, 1);
    if (!width) {
        ATEN(call, zero_, TENSOR(y));
        return;
    }
    ATEN(call, gather_out, TENSOR(matrix(call, x->tensor, columns.count, width)), INTEGER(1),
        TENSOR(matrix(call, columns.at, columns.count, 1)), BOOL(false), TENSOR(y));
    where_here(call, &columns, y, y);
}
void mth__torch_pick_grad(mth__torch_call *call) {
    const mth__torch_operand *out = call->out[0];
    const int64_t width = out->shape.dim[last_of(out)];
    const places columns = locate(call, call->in[0], call->attrs->size, out, last_of(out));
    mth__tensor y = mth__torch_room(call, 0), dy = matrix(call, call->in[1]->tensor, columns.count, 1);
    ATEN(call, zero_, TENSOR(y));
    if (!width || !columns.count) return;
    if (columns.here)
        dy = where_here(call, &columns, dy, mth__torch_empty(call, out->dtype, (mth__shape){2, {columns.count, 1}}));
    ATEN(call, scatter_, TENSOR(matrix(call, y, columns.count, width)), INTEGER(1),
        TENSOR(matrix(call, columns.at, columns.count, 1)), TENSOR(dy));
}

/* ---------------------------------------------------------------- positions: tables made once */
static int64_t global_of(const mth__torch_operand *x, int d, int64_t i) { return x->start[d] + i * x->step[d]; }

void mth__torch_sinusoid(mth__torch_call *call) {
    const mth__torch_operand *y = call->out[0];
    if (!call->kept[0]) {
        mth__tensor table = mth__torch_empty(call, y->dtype, y->shape);
        void *element = mth__torch_host(call, table);
        for (int64_t i = 0, n = y->shape.dim[1]; element && i < mth__shape_size(y->shape); i++) {
            const int64_t column = global_of(y, 1, i % n);
            const double power = (double)(column - column % 2) / (double)call->attrs->width;
            const double angle = (double)global_of(y, 0, i / n) / pow(10000, power);
            mth__dtype_store(y->dtype, element, i, column % 2 ? cos(angle) : sin(angle));
        }
        mth__torch_keep(call, 0, table);
    }
    ATEN(call, copy_, TENSOR(mth__torch_room(call, 0)), TENSOR(call->kept[0]), BOOL(false));
}

/* Cosines and sines, (length, width): interleaved in pairs (cosine, sine), else kept[0] has each cosine twice, for both
   halves, and kept[1], of half the width, the sines. */
static void make_rope_tables(mth__torch_call *call, mth_dtype dtype, int64_t length, int64_t width) {
    const bool pairs = call->attrs->interleaved;
    const int64_t half = width / 2;
    mth__tensor first = mth__torch_empty(call, dtype, (mth__shape){2, {length, width}}),
                second = mth__torch_empty(call, dtype, (mth__shape){2, {length, half}});
    void *cosine = mth__torch_host(call, first), *sine = mth__torch_host(call, second);
    for (int64_t i = 0; cosine && sine && i < length * half; i++) {
        const int64_t s = i / half, j = i % half, position = global_of(call->in[0], (int)call->attrs->dimension, s);
        const double angle = (double)position * pow(call->attrs->base, -2.0 * (double)j / (double)width) *
            (call->attrs->inverse ? -1 : 1);
        mth__dtype_store(dtype, cosine, s * width + (pairs ? 2 * j : j), cos(angle));
        mth__dtype_store(dtype, cosine, s * width + (pairs ? 2 * j + 1 : j + half), pairs ? sin(angle) : cos(angle));
        mth__dtype_store(dtype, sine, i, sin(angle));
    }
    mth__torch_keep(call, 0, first);
    mth__torch_keep(call, 1, second);
}
/* Pairs side by side are complex numbers, which turn by a product. Of pairs that are half the width apart:
   y = x * cosine, then less the second half times the sine in the first one, and the first one's in the second. */
void mth__torch_rope(mth__torch_call *call) {
    const mth__torch_operand *in = call->in[0];
    const int axis = (int)call->attrs->dimension, last = last_of(in);
    const int64_t length = in->shape.dim[axis], width = in->shape.dim[last], half = width / 2;
    int64_t outer = 1, inner = 1;
    for (int d = 0; d < axis; d++) outer *= in->shape.dim[d];
    for (int d = axis + 1; d < last; d++) inner *= in->shape.dim[d];
    const bool narrow = mth__is_half(in->dtype);
    const mth_dtype dtype = mth__dtypes[in->dtype].sums;
    if (!call->kept[0]) make_rope_tables(call, dtype, length, width);
    mth__tensor x = in->tensor, y = mth__torch_room(call, 0);
    if (narrow) {
        x = ATEN(call, to_dtype, TENSOR(x), DTYPE(dtype), BOOL(false), BOOL(false), NONE);
        y = mth__torch_empty(call, dtype, in->shape);
    }
    if (call->attrs->interleaved) {
        const mth__shape pairs = {5, {outer, length, inner, half, 2}}, table = {4, {length, 1, half, 2}};
        ATEN(call, mul_out, TENSOR(ATEN(call, view_as_complex, TENSOR(mth__torch_view(call, x, pairs, NULL, 0)))),
            TENSOR(ATEN(call, view_as_complex, TENSOR(mth__torch_view(call, call->kept[0], table, NULL, 0)))),
            TENSOR(ATEN(call, view_as_complex, TENSOR(mth__torch_view(call, y, pairs, NULL, 0)))));
    } else {
        const mth__shape all = {4, {outer, length, inner, width}}, part = {4, {outer, length, inner, half}},
                         cosines = {3, {length, 1, width}}, sines = {3, {length, 1, half}};
        int64_t stride[MTH__RANK];
        mth__shape_strides(all, stride);
        ATEN(call, mul_out, TENSOR(mth__torch_view(call, x, all, NULL, 0)),
            TENSOR(mth__torch_view(call, call->kept[0], cosines, NULL, 0)),
            TENSOR(mth__torch_view(call, y, all, NULL, 0)));
        mth__tensor sine = mth__torch_view(call, call->kept[1], sines, NULL, 0),
                    turned = mth__torch_empty(call, dtype, part);
        for (int second = 0; second < 2; second++) {
            mth__tensor other = mth__torch_view(call, x, part, stride, second ? 0 : half),
                        to = mth__torch_view(call, y, part, stride, second ? half : 0);
            ATEN(call, mul_out, TENSOR(other), TENSOR(sine), TENSOR(turned));
            mth__torch_add(call, to, turned, second ? 1 : -1, to);
        }
    }
    if (narrow) mth__torch_result(call, 0, y);
}

/* ---------------------------------------------------------------- dropout */
/* Which elements stay is the same in each run: drawn once, a byte each. */
typedef struct {
    const mth__torch_operand *x;
    int64_t stride[MTH__RANK], first; /* of the tensor whose indices count */
    uint64_t key;
    double threshold; /* on 32 bits */
    uint8_t *kept;
} drawing;
static int64_t row_length(const mth__torch_operand *x) { return x->shape.rank ? x->shape.dim[x->shape.rank - 1] : 1; }
static void draw_rows(int64_t begin, int64_t end, void *context) {
    const drawing *draw = context;
    const mth__torch_operand *x = draw->x;
    const int last = x->shape.rank - 1;
    const int64_t n = row_length(x);
    for (int64_t row = begin; row < end; row++) {
        int64_t index = draw->first, left = row;
        for (int d = last - 1; d >= 0; left /= x->shape.dim[d--])
            index += global_of(x, d, left % x->shape.dim[d]) * draw->stride[d];
        for (int64_t i = 0; i < n; i++) {
            uint32_t word[4];
            const int64_t along = last < 0 ? 0 : global_of(x, last, i) * draw->stride[last];
            mth__philox(draw->key, (uint64_t)(index + along), 0, word);
            draw->kept[row * n + i] = word[0] >= draw->threshold;
        }
    }
}
static void draw_mask(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    mth__shape whole = x->global;
    drawing draw = {.x = x, .key = (uint64_t)call->attrs->key, .threshold = ceil(call->attrs->probability * 0x1p32)};
    if (call->attrs->size) whole.dim[call->attrs->dimension] = call->attrs->size;
    mth__shape_strides(whole, draw.stride);
    if (call->attrs->size) draw.first = call->attrs->start * draw.stride[call->attrs->dimension];
    mth__tensor mask = mth__torch_empty(call, MTH_BOOL, x->shape);
    draw.kept = mth__torch_host(call, mask);
    const int64_t n = row_length(x), rows = n ? mth__shape_size(x->shape) / n : 0, grain = 4096 / (n + 1) + 1;
    if (draw.kept && rows && call->library->torch_parallel_for(0, rows, grain, draw_rows, &draw))
        mth__torch_fail(call, mth__torch_error(call->library, "dropout"));
    mth__torch_keep(call, 0, mask);
}
int64_t mth__torch_dropout_keeps(const mth__role *role, const mth__instr *in) {
    return in->attrs->probability == 0 ? 0 : mth__shape_size(role->value.at[in->in[0]].local);
}
enum { DROPPED_AT_ONCE = 1 << 15 };
void mth__torch_dropout(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const double rate = call->attrs->probability;
    mth__tensor y = mth__torch_room(call, 0);
    if (rate == 0) {
        ATEN(call, copy_, TENSOR(y), TENSOR(x->tensor), BOOL(false));
        return;
    }
    if (!call->kept[0]) draw_mask(call);
    ATEN(call, mul_out, TENSOR(x->tensor), TENSOR(mth__torch_number(call, x->dtype, 1 / (1 - rate))), TENSOR(y));
    /* the mask as numbers, of some elements at a time: it is four times as large then */
    const int64_t all = mth__shape_size(x->shape);
    for (int64_t begin = 0; begin < all; begin += DROPPED_AT_ONCE) {
        const int64_t left = all - begin;
        const mth__shape some = {1, {left < DROPPED_AT_ONCE ? left : DROPPED_AT_ONCE}};
        const int mark = mth__torch_mark(call);
        mth__tensor kept = mth__torch_view(call, call->kept[0], some, NULL, begin),
                    part = mth__torch_view(call, y, some, NULL, begin);
        kept = ATEN(call, to_dtype, TENSOR(kept), DTYPE(x->dtype), BOOL(false), BOOL(false), NONE);
        mth__torch_relu_backward(call, part, kept, part);
        mth__torch_drop_since(call, mark);
    }
}
