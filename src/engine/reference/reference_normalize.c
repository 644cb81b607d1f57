/* Softmax, normalisation and attention. */
#include "engine/reference/reference.h"
#include <math.h>

static mth__shape without(mth__shape shape, int d) {
    if (shape.dim[d] > 0) shape.dim[d] = 1;
    return shape;
}

mth_status mth__ref_softmax(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *y = call->out[0];
    int d = (int)call->attrs->dimension;
    int64_t n = x->local.dim[d];
    FOR_EACH(at, without(x->local, d)) {
        double most = -INFINITY, sum = 0;
        for (at[d] = 0; at[d] < n; at[d]++) most = fmax(most, *mth__ref_at(x, at));
        for (at[d] = 0; at[d] < n; at[d]++) sum += exp(*mth__ref_at(x, at) - most);
        for (at[d] = 0; at[d] < n; at[d]++) *mth__ref_at(y, at) = exp(*mth__ref_at(x, at) - most) / sum;
        at[d] = 0;
    }
    return NULL;
}

mth_status mth__ref_softmax_grad(const mth__ref_call *call) {
    const mth__ref_value *y = call->in[0], *dy = call->in[1], *dx = call->out[0];
    int d = (int)call->attrs->dimension;
    int64_t n = y->local.dim[d];
    FOR_EACH(at, without(y->local, d)) {
        double dot = 0;
        for (at[d] = 0; at[d] < n; at[d]++) dot += *mth__ref_at(y, at) * *mth__ref_at(dy, at);
        for (at[d] = 0; at[d] < n; at[d]++) *mth__ref_at(dx, at) = *mth__ref_at(y, at) * (*mth__ref_at(dy, at) - dot);
        at[d] = 0;
    }
    return NULL;
}

mth_status mth__ref_layer_norm(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *weight = call->in[1], *bias = call->in[2], *y = call->out[0],
                         *mean = call->out[1], *rstd = call->out[2];
    int d = x->local.rank - 1;
    int64_t n = x->local.dim[d];
    FOR_EACH(at, without(x->local, d)) {
        double sum = 0, square = 0;
        for (at[d] = 0; at[d] < n; at[d]++) sum += *mth__ref_at(x, at);
        double m = sum / (double)n;
        for (at[d] = 0; at[d] < n; at[d]++) square += pow(*mth__ref_at(x, at) - m, 2);
        double r = 1 / sqrt(square / (double)n + call->attrs->epsilon);
        for (at[d] = 0; at[d] < n; at[d]++)
            *mth__ref_at(y, at) = (*mth__ref_at(x, at) - m) * r * AT(weight, at[d]) + AT(bias, at[d]);
        at[d] = 0;
        *mth__ref_at(mean, at) = m;
        *mth__ref_at(rstd, at) = r;
    }
    return NULL;
}

mth_status mth__ref_layer_norm_grad(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *weight = call->in[1], *mean = call->in[2], *rstd = call->in[3],
                         *dy = call->in[4], *dx = call->out[0], *dweight = call->out[1], *dbias = call->out[2];
    int d = x->local.rank - 1;
    int64_t n = x->local.dim[d];
    mth__ref_zero(dweight);
    mth__ref_zero(dbias);
    FOR_EACH(at, without(x->local, d)) {
        double m = *mth__ref_at(mean, at), r = *mth__ref_at(rstd, at), g_mean = 0, gx_mean = 0;
        for (at[d] = 0; at[d] < n; at[d]++) {
            double hat = (*mth__ref_at(x, at) - m) * r, g = *mth__ref_at(dy, at) * AT(weight, at[d]);
            g_mean += g / (double)n;
            gx_mean += g * hat / (double)n;
            AT(dweight, at[d]) += *mth__ref_at(dy, at) * hat;
            AT(dbias, at[d]) += *mth__ref_at(dy, at);
        }
        for (at[d] = 0; at[d] < n; at[d]++) {
            double hat = (*mth__ref_at(x, at) - m) * r, g = *mth__ref_at(dy, at) * AT(weight, at[d]);
            *mth__ref_at(dx, at) = r * (g - g_mean - hat * gx_mean);
        }
        at[d] = 0;
    }
    return NULL;
}

mth_status mth__ref_rms_norm(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *weight = call->in[1], *y = call->out[0], *rstd = call->out[1];
    int d = x->local.rank - 1;
    int64_t n = x->local.dim[d];
    FOR_EACH(at, without(x->local, d)) {
        double square = 0;
        for (at[d] = 0; at[d] < n; at[d]++) square += pow(*mth__ref_at(x, at), 2);
        double r = 1 / sqrt(square / (double)n + call->attrs->epsilon);
        for (at[d] = 0; at[d] < n; at[d]++) *mth__ref_at(y, at) = *mth__ref_at(x, at) * r * AT(weight, at[d]);
        at[d] = 0;
        *mth__ref_at(rstd, at) = r;
    }
    return NULL;
}

mth_status mth__ref_rms_norm_grad(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *weight = call->in[1], *rstd = call->in[2], *dy = call->in[3],
                         *dx = call->out[0], *dweight = call->out[1];
    int d = x->local.rank - 1;
    int64_t n = x->local.dim[d];
    mth__ref_zero(dweight);
    FOR_EACH(at, without(x->local, d)) {
        double r = *mth__ref_at(rstd, at), gx_mean = 0;
        for (at[d] = 0; at[d] < n; at[d]++) {
            gx_mean += *mth__ref_at(dy, at) * AT(weight, at[d]) * *mth__ref_at(x, at) / (double)n;
            AT(dweight, at[d]) += *mth__ref_at(dy, at) * *mth__ref_at(x, at) * r;
        }
        for (at[d] = 0; at[d] < n; at[d]++)
            *mth__ref_at(dx, at) =
                r * (*mth__ref_at(dy, at) * AT(weight, at[d]) - *mth__ref_at(x, at) * r * r * gx_mean);
        at[d] = 0;
    }
    return NULL;
}

/* ---------------------------------------------------------------- attention: q[b,s,g,r,d], k[b,t,g,d], v[b,t,g,e] */
static bool sees(const mth__ref_call *call, const mth__ref_value *mask, int64_t batch, int64_t query, int64_t key) {
    const int64_t at[MTH__RANK] = {batch, key};
    if (mask && mth__ref_as_real(mask->dtype, *mth__ref_element_at(mask, at)) == 0) return false;
    return !call->attrs->causal || mth__ref_global(call->in[1], 1, key) <= mth__ref_global(call->in[0], 1, query);
}

static double score(const mth__ref_call *call, const int64_t *at, int64_t key) { /* at: b, s, g, r */
    const mth__ref_value *q = call->in[0], *k = call->in[1];
    double dot = 0;
    for (int64_t d = 0; d < q->local.dim[4]; d++)
        dot += AT(q, at[0], at[1], at[2], at[3], d) * AT(k, at[0], key, at[2], d);
    return call->attrs->scale * dot;
}

mth_status mth__ref_attention(const mth__ref_call *call) {
    const mth__ref_value *k = call->in[1], *v = call->in[2], *mask = call->nin > 3 ? call->in[3] : NULL,
                         *o = call->out[0];
    int64_t keys = k->local.dim[1], width = v->local.dim[3];
    mth__ref_zero(o);
    FOR_EACH(at, call->out[1]->local) {
        double most = -INFINITY, sum = 0;
        for (int64_t key = 0; key < keys; key++)
            if (sees(call, mask, at[0], at[1], key)) {
                const double x = score(call, at, key);
                if (x > most || x != x) most = x;
            }
        *mth__ref_at(call->out[1], at) = most;
        *mth__ref_at(call->out[2], at) = 0;
        if (most == -INFINITY) continue;
        for (int64_t key = 0; key < keys; key++)
            if (sees(call, mask, at[0], at[1], key)) sum += exp(score(call, at, key) - most);
        *mth__ref_at(call->out[2], at) = sum;
        for (int64_t key = 0; key < keys; key++)
            if (sees(call, mask, at[0], at[1], key)) {
                double p = exp(score(call, at, key) - most) / sum;
                for (int64_t m = 0; m < width; m++)
                    AT(o, at[0], at[1], at[2], at[3], m) += p * AT(v, at[0], key, at[2], m);
            }
    }
    return NULL;
}

mth_status mth__ref_attention_grad(const mth__ref_call *call) {
    const mth__ref_value *q = call->in[0], *k = call->in[1], *v = call->in[2], *most = call->in[4], *sum = call->in[5],
                         *go = call->in[6], *mask = call->nin > 7 ? call->in[7] : NULL;
    const mth__ref_value *dq = call->out[0], *dk = call->out[1], *dv = call->out[2];
    int64_t keys = k->local.dim[1], depth = q->local.dim[4], width = v->local.dim[3];
    mth__ref_zero(dq);
    mth__ref_zero(dk);
    mth__ref_zero(dv);
    FOR_EACH(at, most->local) {
        bool counts = false;
        for (int64_t m = 0; m < width; m++) counts |= AT(go, at[0], at[1], at[2], at[3], m) != 0;
        if (!counts || *mth__ref_at(sum, at) == 0) continue;
        double whole = 0; /* sum over keys of p * dp; known in the second round */
        for (int round = 0; round < 2; round++)
            for (int64_t key = 0; key < keys; key++) {
                if (!sees(call, mask, at[0], at[1], key)) continue;
                double p = exp(score(call, at, key) - *mth__ref_at(most, at)) / *mth__ref_at(sum, at), dp = 0;
                for (int64_t m = 0; m < width; m++) {
                    dp += AT(go, at[0], at[1], at[2], at[3], m) * AT(v, at[0], key, at[2], m);
                    if (round) AT(dv, at[0], key, at[2], m) += p * AT(go, at[0], at[1], at[2], at[3], m);
                }
                if (!round) whole += p * dp;
                double ds = call->attrs->scale * p * (dp - whole);
                for (int64_t d = 0; round && d < depth; d++) {
                    AT(dq, at[0], at[1], at[2], at[3], d) += ds * AT(k, at[0], key, at[2], d);
                    AT(dk, at[0], key, at[2], d) += ds * AT(q, at[0], at[1], at[2], at[3], d);
                }
            }
    }
    return NULL;
}
