/* memory_optimization: how a parameter is kept that nobody placed. Axes that do not split it as its readers take it
 * hold copies; split over those too, each device keeps one part, gathers the rest in front of a reader and forgets it
 * behind (ZeRO-3, Rajbhandari et al. 2020). Its gradient ends in the same parts, so that a sum over these axes is a
 * reduce_scatter. */
#include "distribute/decide.h"

static const int64_t TINY = 4 << 10; /* bytes: what a message costs more than */

bool mth__store_parts(const mth__value *v, const mth__sharding *read, mth__sharding *out) {
    const mth__placement *on = read->on;
    int64_t least = mth__local_size(v->shape, read);
    bool users = v->shape.rank > 0 && v->fixed[0], found = false;
    if (users || on->count == 1 || least * (int64_t)mth_dtype_size(v->dtype) < TINY) return false;
    int largest = -1;
    for (int d = 0; d < v->shape.rank; d++) {
        mth__sharding s = *read;
        mth__split *split = &s.dim[d];
        if (split->cyclic) continue;
        for (int a = 0; a < on->naxes; a++) /* ascending: one all_gather brings them all back */
            if (on->dim[a] > 1 && !((mth__sharding_axes(read, v->shape.rank) | v->copied) >> a & 1))
                split->axis[split->naxes++] = (int8_t)a;
        mth__sharding_canonical(&s, v->shape);
        int64_t size = mth__local_size(v->shape, &s);
        if (size > least || (size == least && !(found && v->shape.dim[d] > v->shape.dim[largest]))) continue;
        least = size;
        largest = d;
        *out = s;
        found = true;
    }
    return found && !mth__sharding_equal(out, read, v->shape.rank);
}
