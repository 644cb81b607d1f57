/* What XLA or its partitioner can't do: known with a program, before anything is loaded. */
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

static mth_status no_such_program(const char *name, char *what) {
    return mth__error_operator(
        FAIL(MTH_ERROR_UNSUPPORTED, what, F("run the plan on the native engine, with backend='c'")), name);
}

mth_status mth__pjrt_check_program(const mth__program *program) {
    for (size_t i = 0; i < program->exit.n; i++)
        if (program->exit.at[i].kind == MTH__EXIT_SUCCESSOR)
            return no_such_program(program->exit.at[i].name,
                F("XLA's engine gives no exit the bytes of an entry, and exit %zu, %s, is the successor of entry %d", i,
                    program->exit.at[i].name, program->exit.at[i].entry));
    for (size_t r = 0; r < program->role.n; r++) {
        const mth__role *role = &program->role.at[r];
        for (size_t i = 0; i < role->instr.n; i++)
            if (role->instr.at[i].kind == MTH__COPY)
                return no_such_program(role->instr.at[i].label.module,
                    F("XLA's engine has no memory in the host's pool, and %s is copied there or back",
                        role->value.at[role->instr.at[i].in[0]].name));
    }
    return NULL;
}
