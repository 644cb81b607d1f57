/* What XLA's partitioner can't do: known with a program, before anything is loaded. */
#include "engine/pjrt/segment.h"
#include "engine/pjrt/pjrt.h"

/* XLA knows parts of one size, in the order of the devices, but for the end; ours may be nested, cyclic or in grains. */
static bool is_xla_part(const mth__pvalue *v, mth__shape part, int rank) {
    int64_t start[MTH__RANK], step[MTH__RANK];
    int coordinate[MTH__AXES];
    mth__shape real = mth__local_shape(v->shape, &v->sharding, rank, start, step);
    mth__placement_coordinates(v->sharding.on, rank, coordinate);
    for (int d = 0; d < v->shape.rank; d++) {
        const mth__split *split = &v->sharding.dim[d];
        int64_t from = 0, left;
        for (int a = 0; a < split->naxes; a++) from = from * v->sharding.on->dim[split->axis[a]] + coordinate[split->axis[a]];
        from *= part.dim[d];
        left = from < v->shape.dim[d] ? v->shape.dim[d] - from : 0;
        if (real.dim[d] != (left < part.dim[d] ? left : part.dim[d])) return false;
        if ((real.dim[d] > 0 && start[d] != from) || (real.dim[d] > 1 && step[d] != 1)) return false;
    }
    return true;
}

static mth_status no_such_parts(const mth__pvalue *v, const char *why, const char *fix) {
    char shape[256], where[256];
    mth__shape_write(shape, sizeof shape, v->shape);
    mth__where_write(where, sizeof where, &v->sharding, v->shape.rank);
    mth_status s = FAIL(MTH_ERROR_UNSUPPORTED, F("XLA's partitioner (mesh_context='spmd') %s", why), F("use mesh_context='mpmd', or %s", fix));
    s = mth__error_tensor(s, F("%s: %s %s, sharded %s", v->name, mth_dtype_name(v->dtype), shape, where));
    return mth__error_operator(s, v->name);
}

static mth_status check_parts(const mth__pvalue *v) {
    const mth__shape part = mth__xla_part(v, NULL);
    bool cyclic = false;
    for (int d = 0; d < v->shape.rank; d++) cyclic |= v->sharding.dim[d].cyclic;
    if (mth__sharding_disordered(&v->sharding, v->shape.rank))
        return no_such_parts(v, "computes wrong values where axes split a dimension against their order",
                             "name the axes in the order of the mesh");
    for (int r = 0; r < v->sharding.on->count; r++)
        if (!is_xla_part(v, part, r))
            return no_such_parts(v, "has no such parts", cyclic ? "expert_distribution='one_per_device'" : "sizes that the mesh divides");
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
