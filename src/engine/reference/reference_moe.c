/* Mixture of experts. t: tokens, e: experts, k: choices. A row of [e, t, ...] is real where rows[e, t] names a token,
 * else padding. */
#include "engine/reference/reference.h"
#include <math.h>

static bool above(double a, double b) { return a > b || (isnan(a) && !isnan(b)); } /* NaN is the largest */

mth_status mth__ref_moe_route(const mth__ref_call *call) {
    const mth__ref_value *logits = call->in[0], *weights = call->out[0], *experts = call->out[1];
    int64_t k = call->attrs->k, width = logits->local.dim[1];
    for (int64_t token = 0; token < logits->local.dim[0]; token++) {
        double sum = 0;
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < width; i++) {
                bool taken = false;
                for (int64_t before = 0; before < j; before++) taken |= ID(experts, token, before) == i;
                if (!taken && (best < 0 || above(AT(logits, token, i), AT(logits, token, best)))) best = i;
            }
            ID(experts, token, j) = best;
            AT(weights, token, j) = exp(AT(logits, token, best) - AT(logits, token, ID(experts, token, 0)));
            sum += AT(weights, token, j);
        }
        for (int64_t j = 0; j < k; j++) AT(weights, token, j) /= sum;
    }
    return NULL;
}

mth_status mth__ref_moe_route_grad(const mth__ref_call *call) {
    const mth__ref_value *weights = call->in[0], *experts = call->in[1], *dweights = call->in[2], *out = call->out[0];
    mth__ref_zero(out);
    for (int64_t token = 0; token < weights->local.dim[0]; token++) {
        double dot = 0;
        for (int64_t j = 0; j < weights->local.dim[1]; j++) dot += AT(weights, token, j) * AT(dweights, token, j);
        for (int64_t j = 0; j < weights->local.dim[1]; j++) {
            int64_t expert = ID(experts, token, j);
            if (expert >= out->local.dim[1]) return mth__ref_outside(call, experts, expert, out->local.dim[1]);
            if (expert >= 0) AT(out, token, expert) += AT(weights, token, j) * (AT(dweights, token, j) - dot);
        }
    }
    return NULL;
}

mth_status mth__ref_moe_capacity(const mth__ref_call *call) {
    const mth__ref_value *experts = call->in[0], *kept = call->out[0], *dropped = call->out[1];
    mth__ref_zero(dropped);
    FOR_EACH(at, experts->local) {
        int64_t expert = ID(experts, at[0], at[1]), before = 0;
        if (expert >= call->attrs->experts) return mth__ref_outside(call, experts, expert, call->attrs->experts);
        for (int64_t token = 0; token <= at[0]; token++)
            for (int64_t j = 0; j < (token < at[0] ? experts->local.dim[1] : at[1]); j++)
                before += ID(experts, token, j) == expert;
        bool fits = before < call->attrs->capacity;
        ID(kept, at[0], at[1]) = fits ? expert : -1;
        ID(dropped, 0) += !fits;
    }
    return NULL;
}

mth_status mth__ref_moe_rows(const mth__ref_call *call) {
    const mth__ref_value *experts = call->in[0], *rows = call->out[0];
    for (int64_t expert = 0; expert < rows->local.dim[0]; expert++) {
        int64_t n = 0;
        for (int64_t token = 0; token < experts->local.dim[0]; token++) {
            bool chosen = false;
            for (int64_t j = 0; j < experts->local.dim[1]; j++)
                chosen |= ID(experts, token, j) == mth__ref_global(rows, 0, expert);
            if (chosen) ID(rows, expert, n++) = mth__ref_global(experts, 0, token);
        }
        for (; n < rows->local.dim[1]; n++) ID(rows, expert, n) = -1;
    }
    return NULL;
}

/* The choice by which a token came to an expert; -1: none. */
static int64_t choice(const mth__ref_value *experts, int64_t token, int64_t expert) {
    for (int64_t j = 0; j < experts->local.dim[1]; j++)
        if (ID(experts, token, j) == expert) return j;
    return -1;
}

/* Weight of (token, expert); both global. */
static double weight_of(const mth__ref_value *weights, const mth__ref_value *experts, int64_t token, int64_t expert) {
    int64_t row = mth__ref_local(experts, 0, token), j = row < 0 ? -1 : choice(experts, row, expert);
    return j < 0 ? 0 : AT(weights, row, j);
}

static mth_status elsewhere(const mth__ref_call *call, int64_t token) {
    return INTERNAL("%s: token %lld is on another device", call->op->name, (long long)token);
}

mth_status mth__ref_moe_dispatch(const mth__ref_call *call) { /* and moe_dispatch_weighted */
    const mth__ref_value *x = call->in[0], *rows = call->in[1], *y = call->out[0];
    FOR_EACH(at, y->local) {
        int64_t token = ID(rows, at[0], at[1]);
        int64_t row = token < 0 ? 0 : mth__ref_local(x, 0, token);
        if (row < 0) return elsewhere(call, token);
        double v = token < 0 ? 0 : AT(x, row, at[2]);
        if (token >= 0 && call->nin == 4)
            v *= weight_of(call->in[2], call->in[3], token, mth__ref_global(rows, 0, at[0]));
        *mth__ref_at(y, at) = v;
    }
    return NULL;
}

mth_status mth__ref_moe_combine(const mth__ref_call *call) {
    const mth__ref_value *y = call->in[0], *rows = call->in[1], *out = call->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, y->local) {
        int64_t token = ID(rows, at[0], at[1]);
        if (token < 0) continue;
        int64_t row = mth__ref_local(out, 0, token);
        if (row < 0) return elsewhere(call, token);
        AT(out, row, at[2]) += *mth__ref_at(y, at) *
            (call->nin == 4 ? weight_of(call->in[2], call->in[3], token, mth__ref_global(rows, 0, at[0])) : 1);
    }
    return NULL;
}

mth_status mth__ref_moe_combine_weights_grad(const mth__ref_call *call) {
    const mth__ref_value *y = call->in[0], *rows = call->in[1], *experts = call->in[2], *dout = call->in[3],
                         *out = call->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, y->local) {
        int64_t token = ID(rows, at[0], at[1]);
        if (token < 0) continue;
        int64_t row = mth__ref_local(experts, 0, token), from = mth__ref_local(dout, 0, token);
        if (row < 0 || from < 0) return elsewhere(call, token);
        int64_t j = choice(experts, row, mth__ref_global(rows, 0, at[0]));
        if (j >= 0) AT(out, row, j) += *mth__ref_at(y, at) * AT(dout, from, at[2]);
    }
    return NULL;
}

mth_status mth__ref_moe_matmul(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *weight = call->in[1], *rows = call->in[2], *y = call->out[0];
    FOR_EACH(at, y->local) {
        double sum = 0;
        for (int64_t i = 0; i < x->local.dim[2] && ID(rows, at[0], at[1]) >= 0; i++)
            sum += AT(x, at[0], at[1], i) *
                (call->attrs->transposed ? AT(weight, at[0], at[2], i) : AT(weight, at[0], i, at[2]));
        *mth__ref_at(y, at) = sum;
    }
    return NULL;
}

mth_status mth__ref_moe_outer(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *dy = call->in[1], *rows = call->in[2], *out = call->out[0];
    FOR_EACH(at, out->local) {
        double sum = 0;
        for (int64_t token = 0; token < x->local.dim[1]; token++)
            if (ID(rows, at[0], token) >= 0) sum += AT(x, at[0], token, at[1]) * AT(dy, at[0], token, at[2]);
        *mth__ref_at(out, at) = sum;
    }
    return NULL;
}

mth_status mth__ref_moe_bias(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *bias = call->in[1], *rows = call->in[2], *y = call->out[0];
    FOR_EACH(at, y->local)
    *mth__ref_at(y, at) = ID(rows, at[0], at[1]) < 0 ? 0 : *mth__ref_at(x, at) + AT(bias, at[0], at[2]);
    return NULL;
}

mth_status mth__ref_moe_bias_grad(const mth__ref_call *call) {
    const mth__ref_value *dy = call->in[0], *rows = call->in[1], *out = call->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, dy->local)
    if (ID(rows, at[0], at[1]) >= 0) AT(out, at[0], at[2]) += *mth__ref_at(dy, at);
    return NULL;
}

mth_status mth__ref_moe_act(const mth__ref_call *call) { /* x, rows -> y; as moe_act_grad x, dy, rows -> dx */
    static const int activation[] = {MTH__ROW_relu, MTH__ROW_gelu, MTH__ROW_gelu_tanh, MTH__ROW_silu};
    const mth__ref_value *x = call->in[0], *dy = call->nin == 3 ? call->in[1] : NULL, *rows = call->in[call->nin - 1],
                         *y = call->out[0];
    int row = activation[call->attrs->activation];
    FOR_EACH(at, y->local) {
        double v = *mth__ref_at(x, at);
        *mth__ref_at(y, at) = ID(rows, at[0], at[1]) < 0 ? 0
            : dy                                         ? mth__ref_activation_grad(row, v, *mth__ref_at(dy, at))
                                                         : mth__ref_activation(row, v);
    }
    return NULL;
}

mth_status mth__ref_moe_mul(const mth__ref_call *call) {
    const mth__ref_value *rows = call->in[2], *y = call->out[0];
    FOR_EACH(at, y->local)
    *mth__ref_at(y, at) =
        ID(rows, at[0], at[1]) < 0 ? 0 : *mth__ref_at(call->in[0], at) * *mth__ref_at(call->in[1], at);
    return NULL;
}

mth_status mth__ref_moe_count(const mth__ref_call *call) {
    const mth__ref_value *experts = call->in[0], *out = call->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, experts->local) {
        int64_t expert = ID(experts, at[0], at[1]) < 0 ? -1 : mth__ref_local(out, 0, ID(experts, at[0], at[1]));
        if (expert >= 0) AT(out, expert) += 1;
    }
    return NULL;
}
