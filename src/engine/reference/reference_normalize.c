/* Softmax, normalisation and attention. */
#include "engine/reference/reference.h"
#include <math.h>

static mth__shape without(mth__shape s, int d) {
    if (s.dim[d] > 0) s.dim[d] = 1;
    return s;
}

mth_status mth__ref_softmax(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *y = c->out[0];
    int d = (int)c->attrs->dimension;
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

mth_status mth__ref_softmax_grad(const mth__ref_call *c) {
    const mth__ref_value *y = c->in[0], *dy = c->in[1], *dx = c->out[0];
    int d = (int)c->attrs->dimension;
    int64_t n = y->local.dim[d];
    FOR_EACH(at, without(y->local, d)) {
        double dot = 0;
        for (at[d] = 0; at[d] < n; at[d]++) dot += *mth__ref_at(y, at) * *mth__ref_at(dy, at);
        for (at[d] = 0; at[d] < n; at[d]++) *mth__ref_at(dx, at) = *mth__ref_at(y, at) * (*mth__ref_at(dy, at) - dot);
        at[d] = 0;
    }
    return NULL;
}

mth_status mth__ref_layer_norm(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *weight = c->in[1], *bias = c->in[2], *y = c->out[0], *mean = c->out[1],
                         *rstd = c->out[2];
    int d = x->local.rank - 1;
    int64_t n = x->local.dim[d];
    FOR_EACH(at, without(x->local, d)) {
        double sum = 0, square = 0;
        for (at[d] = 0; at[d] < n; at[d]++) sum += *mth__ref_at(x, at);
        double m = sum / (double)n;
        for (at[d] = 0; at[d] < n; at[d]++) square += pow(*mth__ref_at(x, at) - m, 2);
        double r = 1 / sqrt(square / (double)n + c->attrs->epsilon);
        for (at[d] = 0; at[d] < n; at[d]++)
            *mth__ref_at(y, at) = (*mth__ref_at(x, at) - m) * r * AT(weight, at[d]) + AT(bias, at[d]);
        at[d] = 0;
        *mth__ref_at(mean, at) = m;
        *mth__ref_at(rstd, at) = r;
    }
    return NULL;
}

mth_status mth__ref_layer_norm_grad(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *weight = c->in[1], *mean = c->in[2], *rstd = c->in[3], *dy = c->in[4],
                         *dx = c->out[0], *dweight = c->out[1], *dbias = c->out[2];
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

mth_status mth__ref_rms_norm(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *weight = c->in[1], *y = c->out[0], *rstd = c->out[1];
    int d = x->local.rank - 1;
    int64_t n = x->local.dim[d];
    FOR_EACH(at, without(x->local, d)) {
        double square = 0;
        for (at[d] = 0; at[d] < n; at[d]++) square += pow(*mth__ref_at(x, at), 2);
        double r = 1 / sqrt(square / (double)n + c->attrs->epsilon);
        for (at[d] = 0; at[d] < n; at[d]++) *mth__ref_at(y, at) = *mth__ref_at(x, at) * r * AT(weight, at[d]);
        at[d] = 0;
        *mth__ref_at(rstd, at) = r;
    }
    return NULL;
}

mth_status mth__ref_rms_norm_grad(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *weight = c->in[1], *rstd = c->in[2], *dy = c->in[3], *dx = c->out[0],
                         *dweight = c->out[1];
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
static bool sees(const mth__ref_call *c, const mth__ref_value *mask, int64_t b, int64_t s, int64_t t) {
    const int64_t at[MTH__RANK] = {b, t};
    if (mask && mth__ref_as_real(mask->dtype, *mth__ref_element_at(mask, at)) == 0) return false;
    return !c->attrs->causal || mth__ref_global(c->in[1], 1, t) <= mth__ref_global(c->in[0], 1, s);
}

static double score(const mth__ref_call *c, const int64_t *at, int64_t t) { /* at: b, s, g, r */
    const mth__ref_value *q = c->in[0], *k = c->in[1];
    double dot = 0;
    for (int64_t d = 0; d < q->local.dim[4]; d++)
        dot += AT(q, at[0], at[1], at[2], at[3], d) * AT(k, at[0], t, at[2], d);
    return c->attrs->scale * dot;
}

mth_status mth__ref_attention(const mth__ref_call *c) {
    const mth__ref_value *k = c->in[1], *v = c->in[2], *mask = c->nin > 3 ? c->in[3] : NULL, *o = c->out[0];
    int64_t keys = k->local.dim[1], width = v->local.dim[3];
    mth__ref_zero(o);
    FOR_EACH(at, c->out[1]->local) {
        double most = -INFINITY, sum = 0;
        for (int64_t t = 0; t < keys; t++)
            if (sees(c, mask, at[0], at[1], t)) {
                const double x = score(c, at, t);
                if (x > most || x != x) most = x;
            }
        *mth__ref_at(c->out[1], at) = most;
        *mth__ref_at(c->out[2], at) = 0;
        if (most == -INFINITY) continue;
        for (int64_t t = 0; t < keys; t++)
            if (sees(c, mask, at[0], at[1], t)) sum += exp(score(c, at, t) - most);
        *mth__ref_at(c->out[2], at) = sum;
        for (int64_t t = 0; t < keys; t++)
            if (sees(c, mask, at[0], at[1], t)) {
                double p = exp(score(c, at, t) - most) / sum;
                for (int64_t e = 0; e < width; e++)
                    AT(o, at[0], at[1], at[2], at[3], e) += p * AT(v, at[0], t, at[2], e);
            }
    }
    return NULL;
}

mth_status mth__ref_attention_grad(const mth__ref_call *c) {
    const mth__ref_value *q = c->in[0], *k = c->in[1], *v = c->in[2], *most = c->in[4], *sum = c->in[5], *go = c->in[6],
                         *mask = c->nin > 7 ? c->in[7] : NULL;
    const mth__ref_value *dq = c->out[0], *dk = c->out[1], *dv = c->out[2];
    int64_t keys = k->local.dim[1], depth = q->local.dim[4], width = v->local.dim[3];
    mth__ref_zero(dq);
    mth__ref_zero(dk);
    mth__ref_zero(dv);
    FOR_EACH(at, most->local) {
        bool counts = false;
        for (int64_t e = 0; e < width; e++) counts |= AT(go, at[0], at[1], at[2], at[3], e) != 0;
        if (!counts || *mth__ref_at(sum, at) == 0) continue;
        double whole = 0; /* sum over keys of p * dp; known in the second round */
        for (int round = 0; round < 2; round++)
            for (int64_t t = 0; t < keys; t++) {
                if (!sees(c, mask, at[0], at[1], t)) continue;
                double p = exp(score(c, at, t) - *mth__ref_at(most, at)) / *mth__ref_at(sum, at), dp = 0;
                for (int64_t e = 0; e < width; e++) {
                    dp += AT(go, at[0], at[1], at[2], at[3], e) * AT(v, at[0], t, at[2], e);
                    if (round) AT(dv, at[0], t, at[2], e) += p * AT(go, at[0], at[1], at[2], at[3], e);
                }
                if (!round) whole += p * dp;
                double ds = c->attrs->scale * p * (dp - whole);
                for (int64_t d = 0; round && d < depth; d++) {
                    AT(dq, at[0], at[1], at[2], at[3], d) += ds * AT(k, at[0], t, at[2], d);
                    AT(dk, at[0], t, at[2], d) += ds * AT(q, at[0], at[1], at[2], at[3], d);
                }
            }
    }
    return NULL;
}
