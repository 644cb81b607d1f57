/* The global program, for a partitioner of its own: one role on device 0, which stands for the whole mesh, whose values
 * have their global shapes. A program that verifies computes each value once, before it is read, by a row that gives it
 * its shape and dtype; entries and exits are what the program says they are, and each exit is written once. Layouts of
 * operands and results are shardings over the whole mesh that fit their shapes: they ask the partitioner for parts, and
 * no layout can change a value. Bytes, communication and what its partitioner makes of all this are the engine's. */
#include "emit/verify.h"
#include <string.h>

static bool same_as(const mth__program_value *value, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding) {
    return value->dtype == dtype && mth__shape_equal(value->shape, shape) && value->sharding.on == sharding->on &&
        mth__sharding_equal(&value->sharding, sharding, shape.rank);
}

static mth_status check_place(mth__verification *proof, int number) {
    const mth__program_value *value = &proof->role->value.at[number];
    const int index = value->index;
    switch (value->storage) {
    case MTH__IN_SLAB: return NULL;
    case MTH__IN_ENTRY: {
        const mth__entry *entry =
            index >= 0 && (size_t)index < proof->program->entry.n ? &proof->program->entry.at[index] : NULL;
        if (entry && same_as(value, entry->dtype, entry->shape, &entry->sharding)) return NULL;
        return mth__refuse(proof, -1, number, F("%s is not what entry %d is", value->name, index));
    }
    case MTH__IN_EXIT: {
        const mth__exit *exit =
            index >= 0 && (size_t)index < proof->program->exit.n ? &proof->program->exit.at[index] : NULL;
        if (!exit || !same_as(value, exit->dtype, exit->shape, &exit->sharding))
            return mth__refuse(proof, -1, number, F("%s is not what exit %d is", value->name, index));
        if (proof->left[index]++)
            return mth__refuse(proof, -1, number, F("exit %d, %s, has two values", index, exit->name));
        return NULL;
    }
    case MTH__IN_ALIAS: {
        const mth__program_value *base =
            index >= 0 && (size_t)index < proof->role->value.n ? &proof->role->value.at[index] : NULL;
        if (base && base->storage != MTH__IN_ALIAS && base->dtype == value->dtype && base->bytes == value->bytes &&
            value->offset == 0)
            return NULL;
        return mth__refuse(proof, -1, number, F("%s is no view of all of another value", value->name));
    }
    default: return mth__refuse(proof, -1, number, F("%s lies where a partitioner's program has nothing", value->name));
    }
}

static mth_status check_value(mth__verification *proof, int number) {
    const mth__program_value *value = &proof->role->value.at[number];
    mth_status bad = mth__shape_check(value->shape, value->dtype);
    if (!bad) bad = mth__sharding_check(&value->sharding, value->shape);
    if (bad) return mth__refuse_for(proof, -1, number, bad);
    if (value->sharding.on != proof->program->mesh->whole)
        return mth__refuse(proof, -1, number, F("%s lies on a part of the mesh", value->name));
    if (!mth__shape_equal(value->local, value->shape) ||
        value->bytes != mth__shape_size(value->shape) * (int64_t)mth_dtype_size(value->dtype))
        return mth__refuse(proof, -1, number, F("%s has not its global shape", value->name));
    return check_place(proof, number);
}

static mth_status verify(mth__verification *proof) {
    const mth__program *program = proof->program;
    if (program->role.n != 1 || program->role.at[0].ndevice != 1 || program->role.at[0].device[0] != 0 ||
        program->channel.n)
        return INTERNAL("a partitioner's program has %zu roles and %zu channels", program->role.n, program->channel.n);
    proof->role = &program->role.at[0];
    proof->value = NEW_ARRAY(proof->arena, mth__value, MTH__MAX_IN + MTH__MAX_OUT);
    proof->node.in = NEW_ARRAY(proof->arena, mth__value *, MTH__MAX_IN + MTH__MAX_OUT);
    proof->left = NEW_ARRAY(proof->arena, int64_t, program->exit.n);
    for (size_t i = 0; i < program->exit.n; i++)
        if (program->exit.at[i].sharding.partial)
            return mth__refuse(proof, -1, -1, F("exit %zu, %s, is a partial sum", i, program->exit.at[i].name));
    for (int number = 0; number < (int)proof->role->value.n; number++) TRY(check_value(proof, number));
    for (int i = 0; i < (int)proof->role->instr.n; i++)
        if (proof->role->instr.at[i].kind != MTH__COMPUTE || proof->role->instr.at[i].stream)
            return mth__refuse(proof, i, -1, F("a partitioner's program computes, and nothing else"));
    TRY(mth__verify_order(proof));
    bool *written = NEW_ARRAY(proof->arena, bool, proof->role->value.n);
    for (size_t i = 0; i < proof->role->instr.n; i++)
        for (int j = 0; j < proof->role->instr.at[i].nout; j++) written[proof->role->instr.at[i].out[j]] = true;
    for (int number = 0; number < (int)proof->role->value.n; number++)
        if (proof->role->value.at[number].storage == MTH__IN_EXIT && !written[number])
            return mth__refuse(proof, -1, number, F("nothing writes exit %d", proof->role->value.at[number].index));
    for (size_t i = 0; i < program->exit.n; i++)
        if (!proof->left[i])
            return mth__refuse(proof, -1, -1, F("nothing writes exit %zu, %s", i, program->exit.at[i].name));
    return NULL;
}

mth_status mth__global_verify(const mth__program *program) {
    mth__verification proof = {.arena = mth__arena_new(), .program = program, .global = true};
    mth__arena *arena = proof.arena;
    mth_status status = verify(&proof);
    mth__arena_free(arena);
    return status;
}
