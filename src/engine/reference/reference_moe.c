/* Mixture of experts. t: tokens, e: experts, k: choices. A row of [e, t, ...] is real where rows[e, t] names a token,
 * else padding. */
#include "engine/reference/reference.h"
#include <math.h>

static bool above(double a, double b) { return a > b || (isnan(a) && !isnan(b)); } /* NaN is the largest */

mth_status mth__ref_moe_route(const mth__ref_call *c) {
    const mth__ref_value *logits = c->in[0], *weights = c->out[0], *experts = c->out[1];
    int64_t k = c->attrs->k, e = logits->local.dim[1];
    for (int64_t t = 0; t < logits->local.dim[0]; t++) {
        double sum = 0;
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < e; i++) {
                bool taken = false;
                for (int64_t b = 0; b < j; b++) taken |= ID(experts, t, b) == i;
                if (!taken && (best < 0 || above(AT(logits, t, i), AT(logits, t, best)))) best = i;
            }
            ID(experts, t, j) = best;
            AT(weights, t, j) = exp(AT(logits, t, best) - AT(logits, t, ID(experts, t, 0)));
            sum += AT(weights, t, j);
        }
        for (int64_t j = 0; j < k; j++) AT(weights, t, j) /= sum;
    }
    return NULL;
}

mth_status mth__ref_moe_route_grad(const mth__ref_call *c) {
    const mth__ref_value *weights = c->in[0], *experts = c->in[1], *dweights = c->in[2], *out = c->out[0];
    mth__ref_zero(out);
    for (int64_t t = 0; t < weights->local.dim[0]; t++) {
        double dot = 0;
        for (int64_t j = 0; j < weights->local.dim[1]; j++) dot += AT(weights, t, j) * AT(dweights, t, j);
        for (int64_t j = 0; j < weights->local.dim[1]; j++) {
            int64_t e = ID(experts, t, j);
            if (e >= out->local.dim[1]) return mth__ref_outside(c, experts, e, out->local.dim[1]);
            if (e >= 0) AT(out, t, e) += AT(weights, t, j) * (AT(dweights, t, j) - dot);
        }
    }
    return NULL;
}

mth_status mth__ref_moe_capacity(const mth__ref_call *c) {
    const mth__ref_value *experts = c->in[0], *kept = c->out[0], *dropped = c->out[1];
    mth__ref_zero(dropped);
    FOR_EACH(at, experts->local) {
        int64_t e = ID(experts, at[0], at[1]), before = 0;
        if (e >= c->attrs->experts) return mth__ref_outside(c, experts, e, c->attrs->experts);
        for (int64_t t = 0; t <= at[0]; t++)
            for (int64_t j = 0; j < (t < at[0] ? experts->local.dim[1] : at[1]); j++) before += ID(experts, t, j) == e;
        bool fits = before < c->attrs->capacity;
        ID(kept, at[0], at[1]) = fits ? e : -1;
        ID(dropped, 0) += !fits;
    }
    return NULL;
}

mth_status mth__ref_moe_rows(const mth__ref_call *c) {
    const mth__ref_value *experts = c->in[0], *rows = c->out[0];
    for (int64_t e = 0; e < rows->local.dim[0]; e++) {
        int64_t n = 0;
        for (int64_t t = 0; t < experts->local.dim[0]; t++) {
            bool chosen = false;
            for (int64_t j = 0; j < experts->local.dim[1]; j++)
                chosen |= ID(experts, t, j) == mth__ref_global(rows, 0, e);
            if (chosen) ID(rows, e, n++) = mth__ref_global(experts, 0, t);
        }
        for (; n < rows->local.dim[1]; n++) ID(rows, e, n) = -1;
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
    int64_t t = mth__ref_local(experts, 0, token), j = t < 0 ? -1 : choice(experts, t, expert);
    return j < 0 ? 0 : AT(weights, t, j);
}

static mth_status elsewhere(const mth__ref_call *c, int64_t token) {
    return INTERNAL("%s: token %lld is on another device", c->op->name, (long long)token);
}

mth_status mth__ref_moe_dispatch(const mth__ref_call *c) { /* and moe_dispatch_weighted */
    const mth__ref_value *x = c->in[0], *rows = c->in[1], *y = c->out[0];
    FOR_EACH(at, y->local) {
        int64_t token = ID(rows, at[0], at[1]);
        int64_t t = token < 0 ? 0 : mth__ref_local(x, 0, token);
        if (t < 0) return elsewhere(c, token);
        double v = token < 0 ? 0 : AT(x, t, at[2]);
        if (token >= 0 && c->nin == 4) v *= weight_of(c->in[2], c->in[3], token, mth__ref_global(rows, 0, at[0]));
        *mth__ref_at(y, at) = v;
    }
    return NULL;
}

mth_status mth__ref_moe_combine(const mth__ref_call *c) {
    const mth__ref_value *y = c->in[0], *rows = c->in[1], *out = c->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, y->local) {
        int64_t token = ID(rows, at[0], at[1]);
        if (token < 0) continue;
        int64_t t = mth__ref_local(out, 0, token);
        if (t < 0) return elsewhere(c, token);
        AT(out, t, at[2]) += *mth__ref_at(y, at) *
            (c->nin == 4 ? weight_of(c->in[2], c->in[3], token, mth__ref_global(rows, 0, at[0])) : 1);
    }
    return NULL;
}

mth_status mth__ref_moe_combine_weights_grad(const mth__ref_call *c) {
    const mth__ref_value *y = c->in[0], *rows = c->in[1], *experts = c->in[2], *dout = c->in[3], *out = c->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, y->local) {
        int64_t token = ID(rows, at[0], at[1]);
        if (token < 0) continue;
        int64_t t = mth__ref_local(experts, 0, token), from = mth__ref_local(dout, 0, token);
        if (t < 0 || from < 0) return elsewhere(c, token);
        int64_t j = choice(experts, t, mth__ref_global(rows, 0, at[0]));
        if (j >= 0) AT(out, t, j) += *mth__ref_at(y, at) * AT(dout, from, at[2]);
    }
    return NULL;
}

mth_status mth__ref_moe_matmul(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *weight = c->in[1], *rows = c->in[2], *y = c->out[0];
    FOR_EACH(at, y->local) {
        double sum = 0;
        for (int64_t i = 0; i < x->local.dim[2] && ID(rows, at[0], at[1]) >= 0; i++)
            sum += AT(x, at[0], at[1], i) *
                (c->attrs->transposed ? AT(weight, at[0], at[2], i) : AT(weight, at[0], i, at[2]));
        *mth__ref_at(y, at) = sum;
    }
    return NULL;
}

mth_status mth__ref_moe_outer(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *dy = c->in[1], *rows = c->in[2], *out = c->out[0];
    FOR_EACH(at, out->local) {
        double sum = 0;
        for (int64_t t = 0; t < x->local.dim[1]; t++)
            if (ID(rows, at[0], t) >= 0) sum += AT(x, at[0], t, at[1]) * AT(dy, at[0], t, at[2]);
        *mth__ref_at(out, at) = sum;
    }
    return NULL;
}

mth_status mth__ref_moe_bias(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *bias = c->in[1], *rows = c->in[2], *y = c->out[0];
    FOR_EACH(at, y->local)
    *mth__ref_at(y, at) = ID(rows, at[0], at[1]) < 0 ? 0 : *mth__ref_at(x, at) + AT(bias, at[0], at[2]);
    return NULL;
}

mth_status mth__ref_moe_bias_grad(const mth__ref_call *c) {
    const mth__ref_value *dy = c->in[0], *rows = c->in[1], *out = c->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, dy->local)
    if (ID(rows, at[0], at[1]) >= 0) AT(out, at[0], at[2]) += *mth__ref_at(dy, at);
    return NULL;
}

mth_status mth__ref_moe_act(const mth__ref_call *c) { /* x, rows -> y; as moe_act_grad x, dy, rows -> dx */
    static const int activation[] = {MTH__ROW_relu, MTH__ROW_gelu, MTH__ROW_gelu_tanh, MTH__ROW_silu};
    const mth__ref_value *x = c->in[0], *dy = c->nin == 3 ? c->in[1] : NULL, *rows = c->in[c->nin - 1], *y = c->out[0];
    int row = activation[c->attrs->activation];
    FOR_EACH(at, y->local) {
        double v = *mth__ref_at(x, at);
        *mth__ref_at(y, at) = ID(rows, at[0], at[1]) < 0 ? 0
            : dy                                         ? mth__ref_activation_grad(row, v, *mth__ref_at(dy, at))
                                                         : mth__ref_activation(row, v);
    }
    return NULL;
}

mth_status mth__ref_moe_mul(const mth__ref_call *c) {
    const mth__ref_value *rows = c->in[2], *y = c->out[0];
    FOR_EACH(at, y->local)
    *mth__ref_at(y, at) = ID(rows, at[0], at[1]) < 0 ? 0 : *mth__ref_at(c->in[0], at) * *mth__ref_at(c->in[1], at);
    return NULL;
}

mth_status mth__ref_moe_count(const mth__ref_call *c) {
    const mth__ref_value *experts = c->in[0], *out = c->out[0];
    mth__ref_zero(out);
    FOR_EACH(at, experts->local) {
        int64_t e = ID(experts, at[0], at[1]) < 0 ? -1 : mth__ref_local(out, 0, ID(experts, at[0], at[1]));
        if (e >= 0) AT(out, e) += 1;
    }
    return NULL;
}
