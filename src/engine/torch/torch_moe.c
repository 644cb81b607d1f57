/* Mixture of experts: tokens to the experts' rows, the experts' products, and back. rows[e, t] names tokens by their
 * global index in runs, with -1 between and behind them. A run is a tensor: a view of the expert's rows, which costs no
 * copy. Padding costs no work: what lies there is left as it is. The host reads the rows, which are few beside what
 * they name. */
#include "engine/torch/torch_rows.h"

/* Rows of one expert that all name a token, or none of them. `from` counts over the rows of all experts. */
typedef struct {
    int64_t expert, from, count;
    bool real;
} row_run;
typedef struct {
    const mth__torch_operand *operand;
    const int32_t *token; /* NULL: something has failed */
    int64_t experts, each;
} expert_rows;
static expert_rows rows_of(mth__torch_call *call, int operand) {
    const mth__torch_operand *of = call->in[operand];
    return (expert_rows){of, mth__torch_host(call, of->tensor), of->shape.dim[0], of->shape.dim[1]};
}
/* Goes on to the next run; the first is behind {0}. */
static bool next_run(const expert_rows *rows, row_run *at) {
    const int64_t from = at->from + at->count;
    if (!rows->token || from >= rows->experts * rows->each) return false;
    const int64_t expert = from / rows->each, end = (expert + 1) * rows->each;
    const bool real = rows->token[from] >= 0;
    int64_t to = from + 1;
    while (to < end && (rows->token[to] >= 0) == real) to++;
    *at = (row_run){expert, from, to - from, real};
    return true;
}
#define EACH_RUN(at, rows) for (row_run at = {0}; next_run(rows, &at);)

static int64_t global_expert(const expert_rows *rows, int64_t expert) {
    return rows->operand->start[0] + expert * rows->operand->step[0];
}
/* Where a token lies in a part of the tokens: -1, and an error, where it is on another device. */
static int64_t place_of(mth__torch_call *call, const mth__torch_operand *part, int64_t token) {
    const int64_t away = token - part->start[0], place = away / part->step[0];
    if (away >= 0 && away % part->step[0] == 0 && place < part->shape.dim[0]) return place;
    mth__torch_fail(call, INTERNAL("%s: token %lld is on another device", call->op->name, (long long)token));
    return -1;
}
/* Which choice of a token of the part an expert is, as an index into all choices; -1: none. */
static int64_t choice_of(const mth__torch_operand *experts, const int32_t *chosen, int64_t place, int64_t expert) {
    const int64_t k = experts->shape.dim[1];
    for (int64_t j = place * k; j < (place + 1) * k; j++)
        if (chosen[j] == expert) return j;
    return -1;
}

/* ---------------------------------------------------------------- views */
/* Rows of x[e, t, ..., width], a matrix. */
static mth__tensor rows_at(mth__torch_call *call, mth__tensor x, const row_run *at, int64_t width) {
    return mth__torch_view(call, x, (mth__shape){2, {at->count, width}}, NULL, at->from * width);
}
static mth__tensor all_rows(mth__torch_call *call, const expert_rows *rows, mth__tensor x, int64_t width) {
    return mth__torch_view(call, x, (mth__shape){2, {rows->experts * rows->each, width}}, NULL, 0);
}
/* An expert's matrix of x[e, m, n]; transposed: of x[e, n, m]. */
static mth__tensor matrix_at(
    mth__torch_call *call, mth__tensor x, int64_t expert, int64_t m, int64_t n, bool transposed) {
    const int64_t stride[] = {transposed ? 1 : n, transposed ? m : 1};
    return mth__torch_view(call, x, (mth__shape){2, {m, n}}, stride, expert * m * n);
}
static int64_t width_of(const mth__torch_operand *x) { return x->shape.dim[x->shape.rank - 1]; }
static void zero(mth__torch_call *call, mth__tensor x) { ATEN(call, zero_, TENSOR(x)); }
/* In the dtype of sums. */
static mth__tensor widened(mth__torch_call *call, const mth__torch_operand *x) {
    if (!mth__is_half(x->dtype)) return x->tensor;
    return ATEN(call, to_dtype, TENSOR(x->tensor), DTYPE(MTH_FLOAT32), BOOL(false), BOOL(false), NONE);
}

/* ---------------------------------------------------------------- tokens to rows and back */
/* The weight of each row's token at the row's expert, 0 where it has none: [e * t, 1]. */
static mth__tensor weights_of_rows(mth__torch_call *call, const expert_rows *rows) {
    const mth__torch_operand *weights = call->in[2], *experts = call->in[3];
    const int32_t *chosen = mth__torch_host(call, experts->tensor);
    const void *weight = mth__torch_host(call, weights->tensor);
    mth__tensor made = mth__torch_zeros(call, weights->dtype, (mth__shape){2, {rows->experts * rows->each, 1}});
    void *to = mth__torch_host(call, made);
    EACH_RUN(at, rows)
    for (int64_t i = at.from; at.real && !call->status && i < at.from + at.count; i++) {
        const int64_t place = place_of(call, experts, rows->token[i]),
                      choice = place < 0 ? -1 : choice_of(experts, chosen, place, global_expert(rows, at.expert));
        if (choice >= 0) mth__dtype_store(weights->dtype, to, i, mth__dtype_load(weights->dtype, weight, choice));
    }
    return made;
}
void mth__torch_moe_dispatch(mth__torch_call *call) { /* x, rows; weighted: x, rows, weights, experts */
    const mth__torch_operand *x = call->in[0];
    const expert_rows rows = rows_of(call, 1);
    const int64_t width = width_of(x), count = rows.experts * rows.each;
    mth__tensor y = mth__torch_room(call, 0), index = mth__torch_empty(call, MTH_INT32, (mth__shape){1, {count}}),
                weight = call->nin == 4 ? weights_of_rows(call, &rows) : NULL;
    int32_t *place = mth__torch_host(call, index);
    EACH_RUN(at, &rows) {
        if (!at.real) continue;
        mth__tensor to = rows_at(call, y, &at, width);
        for (int64_t i = at.from; !call->status && i < at.from + at.count; i++)
            place[i] = (int32_t)place_of(call, x, rows.token[i]);
        mth__tensor from = mth__torch_view(call, index, (mth__shape){1, {at.count}}, NULL, at.from);
        ATEN(call, index_select_out, TENSOR(x->tensor), INTEGER(0), TENSOR(from), TENSOR(to));
        if (weight) ATEN(call, mul_out, TENSOR(to), TENSOR(rows_at(call, weight, &at, 1)), TENSOR(to));
    }
}
/* The rows of each token, in the order of the experts, as torch sums bags of embeddings. */
void mth__torch_moe_combine(mth__torch_call *call) { /* y, rows, and weights, experts or neither */
    const expert_rows rows = rows_of(call, 1);
    const mth__torch_operand *out = call->out[0];
    const int64_t tokens = out->shape.dim[0], all = rows.experts * rows.each, width = width_of(out);
    if (!all || !mth__shape_size(out->shape)) {
        zero(call, mth__torch_room(call, 0));
        return;
    }
    mth__tensor weights = call->nin == 4 ? weights_of_rows(call, &rows) : NULL,
                begins = mth__torch_zeros(call, MTH_INT64, (mth__shape){1, {tokens + 1}});
    int64_t *begin = mth__torch_host(call, begins), count = 0;
    for (int64_t i = 0; !call->status && i < all; i++) {
        const int64_t place = rows.token[i] < 0 ? -1 : place_of(call, out, rows.token[i]);
        if (place < 0) continue;
        begin[place + 1]++;
        count++;
    }
    if (call->status) return;
    for (int64_t token = 0; token < tokens; token++) begin[token + 1] += begin[token];
    mth__tensor indices = mth__torch_empty(call, MTH_INT64, (mth__shape){1, {count}});
    int64_t *index = mth__torch_host(call, indices);
    /* From the last on, so that each bag's end moves to its beginning. */
    for (int64_t i = all - 1; !call->status && i >= 0; i--)
        if (rows.token[i] >= 0) index[--begin[1 + place_of(call, out, rows.token[i])]] = i;
    mth__torch_argument weight = NONE;
    if (weights) {
        weights = mth__torch_view(call, weights, (mth__shape){1, {all}}, NULL, 0);
        if (mth__is_half(out->dtype))
            weights = ATEN(call, to_dtype, TENSOR(weights), DTYPE(MTH_FLOAT32), BOOL(false), BOOL(false), NONE);
        weight = TENSOR(ATEN(call, index_select, TENSOR(weights), INTEGER(0), TENSOR(indices)));
    }
    mth__tensor y = all_rows(call, &rows, widened(call, call->in[0]), width),
                offsets = mth__torch_view(call, begins, (mth__shape){1, {tokens}}, NULL, 1);
    mth__torch_result(call, 0,
        ATEN(call, embedding_bag, TENSOR(y), TENSOR(indices), TENSOR(offsets), BOOL(false), INTEGER(0), BOOL(false),
            weight, BOOL(false), INTEGER(-1)));
}
void mth__torch_moe_combine_weights_grad(mth__torch_call *call) { /* y, rows, experts, dout -> dweights */
    const expert_rows rows = rows_of(call, 1);
    const mth__torch_operand *experts = call->in[2], *dout = call->in[3], *out = call->out[0];
    const int64_t tokens = out->shape.dim[0], k = out->shape.dim[1], width = width_of(dout);
    mth__tensor room = mth__torch_room(call, 0);
    zero(call, room);
    if (!mth__shape_size(out->shape) || !rows.experts || !width) return;
    mth__tensor indices = mth__torch_zeros(call, MTH_INT64, (mth__shape){1, {tokens * k}}),
                absent = mth__torch_empty(call, MTH_BOOL, out->shape);
    int64_t *index = mth__torch_host(call, indices);
    uint8_t *is_absent = mth__torch_host(call, absent);
    const int32_t *chosen = mth__torch_host(call, experts->tensor);
    for (int64_t j = 0; !call->status && j < tokens * k; j++) is_absent[j] = 1;
    EACH_RUN(at, &rows)
    for (int64_t i = at.from; at.real && !call->status && i < at.from + at.count; i++) {
        const int64_t place = place_of(call, experts, rows.token[i]),
                      choice = place < 0 ? -1 : choice_of(experts, chosen, place, global_expert(&rows, at.expert));
        if (choice < 0) continue;
        index[choice] = i;
        is_absent[choice] = 0;
    }
    mth__tensor y = all_rows(call, &rows, widened(call, call->in[0]), width);
    y = ATEN(call, index_select, TENSOR(y), INTEGER(0), TENSOR(indices));
    mth__tensor by_choice = mth__torch_view(call, y, (mth__shape){3, {tokens, k, width}}, NULL, 0),
                dx = mth__torch_view(call, widened(call, dout), (mth__shape){3, {tokens, 1, width}}, NULL, 0);
    ATEN(call, mul_out, TENSOR(by_choice), TENSOR(dx), TENSOR(by_choice));
    mth__tensor sum = ATEN(call, sum, TENSOR(by_choice), DIMENSION(-1), BOOL(false), NONE);
    ATEN(call, masked_fill_, TENSOR(sum), TENSOR(absent), TENSOR(mth__torch_number(call, out->dtype, 0)));
    mth__torch_result(call, 0, sum);
}

/* ---------------------------------------------------------------- experts */
void mth__torch_moe_matmul(mth__torch_call *call) { /* x, weight, rows */
    const mth__torch_operand *x = call->in[0];
    const expert_rows rows = rows_of(call, 2);
    const int64_t summed = width_of(x), width = width_of(call->out[0]);
    mth__tensor sum = mth__torch_take_sum(call, 0), y = sum ? sum : mth__torch_room(call, 0);
    EACH_RUN(at, &rows)
    if (at.real)
        mth__torch_product(call, rows_at(call, x->tensor, &at, summed),
            matrix_at(call, call->in[1]->tensor, at.expert, summed, width, call->attrs->transposed), 2, sum ? 1 : 0,
            rows_at(call, y, &at, width));
}
void mth__torch_moe_outer(mth__torch_call *call) { /* x, dy, rows */
    const mth__torch_operand *out = call->out[0];
    const expert_rows rows = rows_of(call, 2);
    const int64_t m = out->shape.dim[1], n = out->shape.dim[2];
    const bool half = mth__is_half(out->dtype);
    mth__tensor x = widened(call, call->in[0]), dy = widened(call, call->in[1]),
                sum = half ? NULL : mth__torch_take_sum(call, 0);
    mth__tensor to = sum ? sum : half ? mth__torch_empty(call, MTH_FLOAT32, out->shape) : mth__torch_room(call, 0);
    int64_t begun = sum ? rows.experts : 0; /* experts whose sum holds something */
    EACH_RUN(at, &rows) {
        if (!at.real) continue;
        for (; begun < at.expert; begun++) zero(call, matrix_at(call, to, begun, m, n, false));
        const int64_t stride[] = {1, m};
        mth__tensor left = mth__torch_view(call, x, (mth__shape){2, {m, at.count}}, stride, at.from * m);
        mth__torch_product(
            call, left, rows_at(call, dy, &at, n), 2, begun > at.expert, matrix_at(call, to, at.expert, m, n, false));
        if (begun == at.expert) begun++;
    }
    for (; begun < rows.experts; begun++) zero(call, matrix_at(call, to, begun, m, n, false));
    if (half) mth__torch_result(call, 0, to);
}
void mth__torch_moe_bias(mth__torch_call *call) { /* x, bias, rows */
    const expert_rows rows = rows_of(call, 2);
    const int64_t width = width_of(call->out[0]);
    mth__tensor y = mth__torch_room(call, 0);
    EACH_RUN(at, &rows)
    if (at.real)
        mth__torch_add(call, rows_at(call, call->in[0]->tensor, &at, width),
            mth__torch_view(call, call->in[1]->tensor, (mth__shape){1, {width}}, NULL, at.expert * width), 1,
            rows_at(call, y, &at, width));
}
void mth__torch_moe_bias_grad(mth__torch_call *call) { /* dy, rows */
    const mth__torch_operand *dy = call->in[0], *out = call->out[0];
    const expert_rows rows = rows_of(call, 1);
    const mth_dtype dtype = mth__dtypes[out->dtype].sums;
    const int64_t width = width_of(out);
    mth__tensor to = mth__torch_zeros(call, dtype, out->shape);
    EACH_RUN(at, &rows) {
        if (!at.real) continue;
        mth__tensor sum = ATEN(call, sum, TENSOR(rows_at(call, dy->tensor, &at, width)), DIMENSION(0), BOOL(false),
                        DTYPE(dtype)),
                    total = mth__torch_view(call, to, (mth__shape){1, {width}}, NULL, at.expert * width);
        mth__torch_add(call, total, sum, 1, total);
    }
    mth__torch_result(call, 0, to);
}

/* ---------------------------------------------------------------- rows of experts, elementwise */
enum { RELU, GELU, GELU_TANH, SILU };
static void activate(mth__torch_call *call, mth__tensor x, mth__tensor y) {
    switch (call->attrs->activation) {
    case RELU:
        ATEN(call, maximum_out, TENSOR(x), TENSOR(mth__torch_number(call, call->out[0]->dtype, 0)), TENSOR(y));
        return;
    case GELU:
    case GELU_TANH: mth__torch_gelu(call, x, call->attrs->activation == GELU_TANH, y); return;
    default: ATEN(call, silu_out, TENSOR(x), TENSOR(y));
    }
}
static void activate_grad(mth__torch_call *call, mth__tensor x, mth__tensor dy, mth__tensor dx) {
    switch (call->attrs->activation) {
    case RELU: /* dy where x > 0, which holds of no NaN */
        ATEN(call, gt_out, TENSOR(x), TENSOR(mth__torch_number(call, call->out[0]->dtype, 0)), TENSOR(dx));
        mth__torch_relu_backward(call, dy, dx, dx);
        return;
    case GELU:
    case GELU_TANH: mth__torch_gelu_backward(call, dy, x, call->attrs->activation == GELU_TANH, dx); return;
    default: ATEN(call, silu_backward_out, TENSOR(dy), TENSOR(x), TENSOR(dx));
    }
}
void mth__torch_moe_map(mth__torch_call *call) { /* moe_act: x, rows; moe_act_grad: x, dy, rows; moe_mul: a, b, rows */
    const expert_rows rows = rows_of(call, call->nin - 1);
    const int64_t width = width_of(call->out[0]);
    mth__tensor y = mth__torch_room(call, 0);
    EACH_RUN(at, &rows) {
        if (!at.real) continue;
        mth__tensor to = rows_at(call, y, &at, width), a = rows_at(call, call->in[0]->tensor, &at, width),
                    b = call->nin == 3 ? rows_at(call, call->in[1]->tensor, &at, width) : NULL;
        if (call->op->row == MTH__ROW_moe_mul)
            ATEN(call, mul_out, TENSOR(a), TENSOR(b), TENSOR(to));
        else if (b)
            activate_grad(call, a, b, to);
        else
            activate(call, a, to);
    }
}
