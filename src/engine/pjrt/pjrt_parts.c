/* What XLA or its partitioner can't do: known with a program, before anything is loaded. */
#include "engine/pjrt/segment.h"
#include "engine/pjrt/pjrt.h"

/* `name`: what the user calls the value. */
static mth_status no_such_parts(const mth__program_value *value, const char *name, const char *why, const char *fix) {
    char shape[256], where[256];
    mth__shape_write(shape, sizeof shape, value->shape);
    mth__where_write(where, sizeof where, &value->sharding, value->shape.rank);
    mth_status status = FAIL(MTH_ERROR_UNSUPPORTED, F("XLA's partitioner (mesh_context='spmd') %s", why),
        F("use mesh_context='mpmd', or %s", fix));
    status = mth__error_tensor(status, F("%s: %s %s, sharded %s", name, mth_dtype_name(value->dtype), shape, where));
    return mth__error_operator(status, name);
}

static mth_status check_parts(const mth__program_value *value, const char *name) {
    bool cyclic = false;
    for (int d = 0; d < value->shape.rank; d++) cyclic |= value->sharding.dim[d].cyclic;
    if (mth__sharding_disordered(&value->sharding, value->shape.rank))
        return no_such_parts(value, name, "computes wrong values where axes split a dimension against their order",
            "name the axes in the order of the mesh");
    for (int d = 0; d < value->shape.rank; d++)
        if (!mth__split_in_blocks(value->shape.dim[d], &value->sharding.dim[d], value->sharding.on))
            return no_such_parts(value, name, "has no such parts",
                cyclic ? "expert_distribution='one_per_device'" : "sizes that the mesh divides");
    return NULL;
}

mth_status mth__pjrt_check_global(const mth__program *global) {
    for (size_t k = 0; k < global->role.n; k++)
        for (size_t i = 0; i < global->role.at[k].value.n; i++) {
            const mth__program_value *value = &global->role.at[k].value.at[i];
            if (value->storage == MTH__IN_ENTRY) TRY(check_parts(value, global->entry.at[value->index].name));
            if (value->storage == MTH__IN_EXIT) TRY(check_parts(value, global->exit.at[value->index].name));
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
    for (size_t k = 0; k < program->role.n; k++) {
        const mth__role *role = &program->role.at[k];
        for (size_t i = 0; i < role->instr.n; i++)
            if (role->instr.at[i].kind == MTH__COPY)
                return no_such_program(role->instr.at[i].label.module,
                    F("XLA's engine has no memory in the host's pool, and %s is copied there or back",
                        role->value.at[role->instr.at[i].in[0]].name));
    }
    return NULL;
}
