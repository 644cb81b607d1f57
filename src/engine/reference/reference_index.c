/* Rows that read by id or by position. */
#include "engine/reference/reference.h"
#include <math.h>

static bool bad(int64_t id, int64_t limit) { return id < 0 || id >= limit; }

mth_status mth__ref_gather(const mth__ref_call *call) {
    const mth__ref_value *table = call->in[0], *ids = call->in[1], *y = call->out[0];
    int last = y->local.rank - 1;
    FOR_EACH(at, ids->local) /* also where the device's part of the table has no columns */
    if (bad(*mth__ref_integer_at(ids, at), table->global.dim[0]))
        return mth__ref_outside(call, ids, *mth__ref_integer_at(ids, at), table->global.dim[0]);
    FOR_EACH(at, y->local) {
        int64_t row = mth__ref_local(table, 0, *mth__ref_integer_at(ids, at));
        *mth__ref_at(y, at) = row < 0 ? 0 : AT(table, row, at[last]);
    }
    return NULL;
}

mth_status mth__ref_gather_grad(const mth__ref_call *call) {
    const mth__ref_value *ids = call->in[0], *dy = call->in[1], *out = call->out[0];
    int last = dy->local.rank - 1;
    mth__ref_zero(out);
    FOR_EACH(at, ids->local) {
        int64_t id = *mth__ref_integer_at(ids, at);
        if (bad(id, call->attrs->rows)) return mth__ref_outside(call, ids, id, call->attrs->rows);
        int64_t row = mth__ref_local(out, 0, id), from[MTH__RANK];
        memcpy(from, at, sizeof from);
        for (int64_t j = 0; row >= 0 && j < dy->local.dim[last]; j++) {
            from[last] = j;
            AT(out, row, j) += *mth__ref_at(dy, from);
        }
    }
    return NULL;
}

mth_status mth__ref_pick(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *ids = call->in[1], *y = call->out[0];
    int last = x->local.rank - 1;
    FOR_EACH(at, y->local) {
        int64_t id = *mth__ref_integer_at(ids, at);
        if (bad(id, x->global.dim[last])) return mth__ref_outside(call, ids, id, x->global.dim[last]);
        int64_t from[MTH__RANK];
        memcpy(from, at, sizeof from);
        from[last] = mth__ref_local(x, last, id);
        *mth__ref_at(y, at) = from[last] < 0 ? 0 : *mth__ref_at(x, from);
    }
    return NULL;
}

mth_status mth__ref_pick_grad(const mth__ref_call *call) {
    const mth__ref_value *ids = call->in[0], *dy = call->in[1], *out = call->out[0];
    int last = out->local.rank - 1;
    FOR_EACH(at, ids->local)
    if (bad(*mth__ref_integer_at(ids, at), call->attrs->size))
        return mth__ref_outside(call, ids, *mth__ref_integer_at(ids, at), call->attrs->size);
    FOR_EACH(at, out->local)
    *mth__ref_at(out, at) =
        *mth__ref_integer_at(ids, at) == mth__ref_global(out, last, at[last]) ? *mth__ref_at(dy, at) : 0;
    return NULL;
}

mth_status mth__ref_sinusoid(const mth__ref_call *call) {
    const mth__ref_value *y = call->out[0];
    FOR_EACH(at, y->local) {
        int64_t position = mth__ref_global(y, 0, at[0]), d = mth__ref_global(y, 1, at[1]);
        double angle = (double)position / pow(10000, (double)(d - d % 2) / (double)call->attrs->width);
        *mth__ref_at(y, at) = d % 2 ? cos(angle) : sin(angle);
    }
    return NULL;
}

mth_status mth__ref_rope(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *y = call->out[0];
    int sequence = (int)call->attrs->dimension, last = x->local.rank - 1;
    int64_t d = x->global.dim[last];
    FOR_EACH(at, y->local) {
        int64_t k = mth__ref_global(y, last, at[last]), j = call->attrs->interleaved ? k / 2 : k % (d / 2);
        bool second = call->attrs->interleaved ? k % 2 : k >= d / 2;
        int64_t first_at[MTH__RANK], second_at[MTH__RANK];
        memcpy(first_at, at, sizeof first_at);
        memcpy(second_at, at, sizeof second_at);
        first_at[last] = mth__ref_local(x, last, call->attrs->interleaved ? 2 * j : j);
        second_at[last] = mth__ref_local(x, last, call->attrs->interleaved ? 2 * j + 1 : j + d / 2);
        if (first_at[last] < 0 || second_at[last] < 0) return INTERNAL("rope: a pair is split over devices");
        double angle = (double)mth__ref_global(y, sequence, at[sequence]) *
            pow(call->attrs->base, -2.0 * (double)j / (double)d) * (call->attrs->inverse ? -1 : 1);
        double a = *mth__ref_at(x, first_at), b = *mth__ref_at(x, second_at);
        *mth__ref_at(y, at) = second ? b * cos(angle) + a * sin(angle) : a * cos(angle) - b * sin(angle);
    }
    return NULL;
}
