/* Where elements lie, in a part and in the whole value. */
#include "base/number.h"
#include "engine/fault.h"
#include "engine/reference/reference.h"
#include <inttypes.h>

void mth__ref_next(mth__shape shape, int64_t *at) {
    for (int d = shape.rank - 1; d >= 0; d--) {
        if (++at[d] < shape.dim[d]) return;
        at[d] = 0;
    }
    at[MTH__RANK] = 0;
}

mth__ref_element *mth__ref_element_at(const mth__ref_value *v, const int64_t *at) {
    int64_t i = 0;
    for (int d = 0; d < v->local.rank; d++) i = i * v->local.dim[d] + at[d];
    return v->data + i;
}

int64_t mth__ref_local(const mth__ref_value *v, int d, int64_t global) {
    int64_t away = global - v->start[d];
    if (away < 0 || away % v->step[d] != 0 || away / v->step[d] >= v->local.dim[d]) return -1;
    return away / v->step[d];
}

const mth__ref_element *mth__ref_broadcast(const mth__ref_value *v, const mth__ref_value *out, const int64_t *at) {
    int64_t mine[MTH__RANK] = {0};
    int lacks = out->local.rank - v->local.rank;
    for (int d = 0; d < v->local.rank; d++) mine[d] = v->global.dim[d] == 1 ? 0 : at[d + lacks];
    return mth__ref_element_at(v, mine);
}

mth_status mth__ref_outside(const mth__ref_call *c, const mth__ref_value *ids, int64_t id, int64_t limit) {
    char shape[256];
    mth__shape_write(shape, sizeof shape, ids->global);
    mth_status s = mth__fault_error(c->op, id, "", limit, "");
    return mth__error_tensor(s, F("%s: %s %s", c->op->index_name ? "ids" : "mask", mth_dtype_name(ids->dtype), shape));
}
