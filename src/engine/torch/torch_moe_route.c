/* Mixture of experts: which tokens go where. Numbers of experts and of rows are few beside what they name, so the host
 * writes them: torch's own choice of the largest takes several times as long, and promises no order among equals. */
#include "engine/torch/torch_rows.h"
#include <math.h>

/* Expert j of the list, or -1: dropped. One that there is not is an error of the run. */
static int64_t expert_at(mth__torch_call *call, int operand, const int32_t *experts, int64_t j, int64_t limit) {
    if (experts[j] < limit) return experts[j] < 0 ? -1 : experts[j];
    mth__torch_fail(call, mth__torch_outside(call, call->in[operand], experts[j], limit));
    return -1;
}

/* ---------------------------------------------------------------- routing */
typedef struct {
    mth_dtype dtype;
    const void *logits;
    int64_t width, k;
    float *largest;   /* [t, k], float32 or float64 */
    int32_t *experts; /* [t, k] */
} routing;
static void route_tokens(int64_t begin, int64_t end, void *context) {
    const routing *of = context;
    for (int64_t token = begin; token < end; token++) {
        int32_t *chosen = of->experts + token * of->k;
        for (int64_t j = 0; j < of->k; j++) {
            double most = 0;
            int32_t best = -1;
            for (int64_t i = 0; i < of->width; i++) {
                const double x = mth__dtype_load(of->dtype, of->logits, token * of->width + i);
                if (best >= 0 && !(x > most) && (!isnan(x) || isnan(most))) continue; /* NaN is the largest */
                bool taken = false;
                for (int64_t before = 0; before < j; before++) taken |= chosen[before] == i;
                if (taken) continue;
                best = (int32_t)i;
                most = x;
            }
            chosen[j] = best;
            mth__dtype_store(mth__dtypes[of->dtype].sums, of->largest, token * of->k + j, most);
        }
    }
}
void mth__torch_moe_route(mth__torch_call *call) { /* logits -> weights, experts */
    const mth__torch_operand *x = call->in[0];
    const int64_t tokens = x->shape.dim[0], k = call->attrs->k;
    mth__tensor largest = mth__torch_empty(call, mth__dtypes[x->dtype].sums, (mth__shape){2, {tokens, k}});
    routing of = {x->dtype, mth__torch_host(call, x->tensor), x->shape.dim[1], k, mth__torch_host(call, largest),
        mth__torch_host(call, mth__torch_room(call, 1))};
    if (tokens && !call->status &&
        call->library->torch_parallel_for(0, tokens, 1 + (1 << 14) / (of.width * k), route_tokens, &of))
        mth__torch_fail(call, mth__torch_error(call->library, "moe_route"));
    mth__torch_result(call, 0, ATEN(call, softmax, TENSOR(largest), INTEGER(1), BOOL(false)));
}
void mth__torch_moe_route_grad(mth__torch_call *call) { /* weights, experts, dweights -> dlogits */
    const mth__torch_operand *weights = call->in[0], *out = call->out[0];
    const int64_t k = weights->shape.dim[1], width = out->shape.dim[1];
    const void *w = mth__torch_host(call, weights->tensor), *dw = mth__torch_host(call, call->in[2]->tensor);
    const int32_t *experts = mth__torch_host(call, call->in[1]->tensor);
    mth__tensor room = mth__torch_room(call, 0);
    ATEN(call, zero_, TENSOR(room));
    void *dx = mth__torch_host(call, room);
    for (int64_t token = 0; !call->status && token < weights->shape.dim[0]; token++) {
        const int64_t first = token * k;
        double dot = 0;
        for (int64_t j = first; j < first + k; j++)
            dot += mth__dtype_load(weights->dtype, w, j) * mth__dtype_load(weights->dtype, dw, j);
        for (int64_t j = first; j < first + k; j++) {
            const int64_t expert = expert_at(call, 1, experts, j, width), to = token * width + expert;
            const double term = mth__dtype_load(weights->dtype, w, j) * (mth__dtype_load(weights->dtype, dw, j) - dot);
            if (expert >= 0) mth__dtype_store(out->dtype, dx, to, mth__dtype_load(out->dtype, dx, to) + term);
        }
    }
}
void mth__torch_moe_capacity(mth__torch_call *call) { /* experts -> kept, dropped */
    const int64_t limit = call->attrs->experts, count = mth__shape_size(call->in[0]->shape);
    const int32_t *experts = mth__torch_host(call, call->in[0]->tensor);
    int64_t *served = mth__torch_host(call, mth__torch_zeros(call, MTH_INT64, (mth__shape){1, {limit}}));
    int32_t *kept = mth__torch_host(call, mth__torch_room(call, 0)),
            *dropped = mth__torch_host(call, mth__torch_room(call, 1));
    if (call->status) return;
    *dropped = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t expert = expert_at(call, 0, experts, i, limit);
        const bool fits = expert >= 0 && served[expert] < call->attrs->capacity;
        kept[i] = fits ? (int32_t)expert : -1;
        if (fits)
            served[expert]++;
        else
            ++*dropped;
    }
}

/* ---------------------------------------------------------------- rows and counts */
/* The device's number of a global expert; -1: it has it not. */
static int64_t local_expert(const mth__torch_operand *out, int64_t expert) {
    const int64_t away = expert - out->start[0], local = away / out->step[0];
    return expert < 0 || away < 0 || away % out->step[0] || local >= out->shape.dim[0] ? -1 : local;
}
void mth__torch_moe_rows(mth__torch_call *call) { /* experts -> rows */
    const mth__torch_operand *experts = call->in[0], *out = call->out[0];
    const int64_t k = experts->shape.dim[1], each = out->shape.dim[1];
    const int32_t *chosen = mth__torch_host(call, experts->tensor);
    int32_t *rows = mth__torch_host(call, mth__torch_room(call, 0));
    int64_t *filled = mth__torch_host(call, mth__torch_zeros(call, MTH_INT64, (mth__shape){1, {out->shape.dim[0]}}));
    for (int64_t i = 0; !call->status && i < experts->shape.dim[0] * k; i++) {
        const int64_t expert = local_expert(out, chosen[i]);
        const int32_t token = (int32_t)(experts->start[0] + i / k * experts->step[0]);
        if (expert < 0) continue;
        int32_t *next = rows + expert * each + filled[expert];
        if (filled[expert] && next[-1] == token) continue; /* chosen twice, it counts once */
        *next = token;
        filled[expert]++;
    }
    for (int64_t expert = 0; !call->status && expert < out->shape.dim[0]; expert++)
        for (int64_t i = filled[expert]; i < each; i++) rows[expert * each + i] = -1;
}
void mth__torch_moe_count(mth__torch_call *call) { /* experts -> count */
    const int32_t *chosen = mth__torch_host(call, call->in[0]->tensor);
    mth__tensor room = mth__torch_room(call, 0);
    ATEN(call, zero_, TENSOR(room));
    float *count = mth__torch_host(call, room);
    for (int64_t i = 0; !call->status && i < mth__shape_size(call->in[0]->shape); i++) {
        const int64_t expert = local_expert(call->out[0], chosen[i]);
        if (expert >= 0) count[expert]++;
    }
}
