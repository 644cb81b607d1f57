/* memory_optimization: how a parameter is kept that nobody placed. Axes that do not split it as its readers take it
 * hold copies; split over those too, each device keeps one part, gathers the rest in front of a reader and forgets it
 * behind (ZeRO-3, Rajbhandari et al. 2020). Its gradient ends in the same parts, so that a sum over these axes is a
 * reduce_scatter. */
#include "distribute/decide.h"

bool mth__store_parts(const mth__value *value, const mth__sharding *read_as, mth__sharding *out) {
    const mth__placement *on = read_as->on;
    int64_t least = mth__local_size(value->shape, read_as);
    bool users = value->shape.rank > 0 && value->fixed[0], found = false;
    const unsigned taken = mth__sharding_axes(read_as, value->shape.rank) | value->copied;
    unsigned free_axes = 0;
    for (int axis = 0; axis < on->naxes; axis++)
        if (on->dim[axis] > 1 && !(taken >> axis & 1)) free_axes |= 1u << axis;
    if (users || !free_axes || !mth__worth_parts(on, free_axes, least * (int64_t)mth_dtype_size(value->dtype)))
        return false;
    int largest = -1;
    for (int d = 0; d < value->shape.rank; d++) {
        mth__sharding sharding = *read_as;
        mth__split *split = &sharding.dim[d];
        if (split->cyclic) continue;
        for (int axis = 0; axis < on->naxes; axis++) /* ascending: one all_gather brings them all back */
            if (free_axes >> axis & 1) split->axis[split->naxes++] = (int8_t)axis;
        mth__sharding_canonical(&sharding, value->shape);
        int64_t size = mth__local_size(value->shape, &sharding);
        if (size > least || (size == least && !(found && value->shape.dim[d] > value->shape.dim[largest]))) continue;
        least = size;
        largest = d;
        *out = sharding;
        found = true;
    }
    return found && !mth__sharding_equal(out, read_as, value->shape.rank);
}
