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

mth__ref_element *mth__ref_element_at(const mth__ref_value *value, const int64_t *at) {
    int64_t i = 0;
    for (int d = 0; d < value->local.rank; d++) i = i * value->local.dim[d] + at[d];
    return value->data + i;
}

int64_t mth__ref_local(const mth__ref_value *value, int d, int64_t global) {
    int64_t away = global - value->start[d];
    if (away < 0 || away % value->step[d] != 0 || away / value->step[d] >= value->local.dim[d]) return -1;
    return away / value->step[d];
}

const mth__ref_element *mth__ref_broadcast(const mth__ref_value *value, const mth__ref_value *out, const int64_t *at) {
    int64_t mine[MTH__RANK] = {0};
    int lacks = out->local.rank - value->local.rank;
    for (int d = 0; d < value->local.rank; d++) mine[d] = value->global.dim[d] == 1 ? 0 : at[d + lacks];
    return mth__ref_element_at(value, mine);
}

mth_status mth__ref_outside(const mth__ref_call *call, const mth__ref_value *ids, int64_t id, int64_t limit) {
    char shape[256];
    mth__shape_write(shape, sizeof shape, ids->global);
    mth_status status = mth__fault_error(call->op, id, "", limit, "");
    return mth__error_tensor(
        status, F("%s: %s %s", call->op->index_name ? "ids" : "mask", mth_dtype_name(ids->dtype), shape));
}
