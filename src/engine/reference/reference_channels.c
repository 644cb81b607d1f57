#include "engine/reference/reference.h"

/* Flat global index of a local element. */
static int64_t flat_index(const mth__ref_value *v, const int64_t *at) {
    int64_t flat = 0;
    for (int d = 0; d < v->global.rank; d++) flat = flat * v->global.dim[d] + mth__ref_global(v, d, at[d]);
    return flat;
}

mth_status mth__ref_exchange(const mth__channel *c, bool combine, int parts, const mth__ref_part *part, int receivers,
    mth__ref_value *const *receiver, bool *missing) {
    size_t n = (size_t)mth__shape_size(c->shape);
    mth__ref_element *whole = mth__calloc(n + 1, sizeof *whole);
    bool *known = mth__calloc(n + 1, sizeof *known);
    *missing = false;
    mth_status status = NULL;
    if (!whole || !known)
        status = FAIL(MTH_ERROR_MEMORY, F("memory is exhausted by the reference engine"),
            F("use smaller shapes, or the native engine"));
    for (int p = 0; p < parts && !status; p++) FOR_EACH(at, part[p].value->local) {
            int64_t i = flat_index(part[p].value, at);
            mth__ref_element v = *mth__ref_element_at(part[p].value, at);
            whole[i] = known[i] && combine ? mth__ref_combine(part[p].value->dtype, c->reduce, whole[i], v) : v;
            known[i] = true;
        }
    for (int r = 0; r < receivers && !status && !*missing; r++) FOR_EACH(at, receiver[r]->local)
    if (!known[flat_index(receiver[r], at)]) {
        *missing = true;
        break;
    }
    for (int r = 0; r < receivers && !status && !*missing; r++)
        FOR_EACH(at, receiver[r]->local) * mth__ref_element_at(receiver[r], at) = whole[flat_index(receiver[r], at)];
    mth__free(whole);
    mth__free(known);
    return status;
}
