/* What XLA's partitioner can't do: known with a program, before anything is loaded. */
#include "engine/pjrt/segment.h"
#include "engine/pjrt/pjrt.h"

static mth_status no_such_parts(const mth__pvalue *v, const char *why, const char *fix) {
    char shape[256], where[256];
    mth__shape_write(shape, sizeof shape, v->shape);
    mth__where_write(where, sizeof where, &v->sharding, v->shape.rank);
    mth_status s = FAIL(MTH_ERROR_UNSUPPORTED, F("XLA's partitioner (mesh_context='spmd') %s", why),
        F("use mesh_context='mpmd', or %s", fix));
    s = mth__error_tensor(s, F("%s: %s %s, sharded %s", v->name, mth_dtype_name(v->dtype), shape, where));
    return mth__error_operator(s, v->name);
}

static mth_status check_parts(const mth__pvalue *v) {
    bool cyclic = false;
    for (int d = 0; d < v->shape.rank; d++) cyclic |= v->sharding.dim[d].cyclic;
    if (mth__sharding_disordered(&v->sharding, v->shape.rank))
        return no_such_parts(v, "computes wrong values where axes split a dimension against their order",
            "name the axes in the order of the mesh");
    for (int d = 0; d < v->shape.rank; d++)
        if (!mth__split_in_blocks(v->shape.dim[d], &v->sharding.dim[d], v->sharding.on))
            return no_such_parts(v, "has no such parts",
                cyclic ? "expert_distribution='one_per_device'" : "sizes that the mesh divides");
    return NULL;
}

mth_status mth__pjrt_check_global(const mth__program *global) {
    for (size_t r = 0; r < global->role.n; r++)
        for (size_t i = 0; i < global->role.at[r].value.n; i++) {
            const mth__pvalue *v = &global->role.at[r].value.at[i];
            if (v->storage == MTH__IN_ENTRY || v->storage == MTH__IN_EXIT) TRY(check_parts(v));
        }
    return NULL;
}
