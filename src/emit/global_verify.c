/* The global program, for a partitioner of its own: one role on device 0, which stands for the whole mesh, whose values
 * have their global shapes. A program that verifies computes each value once, before it is read, by a row that gives it
 * its shape and dtype; entries and exits are what the program says they are, and each exit is written once. Layouts of
 * operands and results are shardings over the whole mesh that fit their shapes: they ask the partitioner for parts, and
 * no layout can change a value. Bytes, communication and what its partitioner makes of all this are the engine's. */
#include "emit/verify.h"
#include <string.h>

static bool same_as(const mth__pvalue *value, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding) {
    return value->dtype == dtype && mth__shape_equal(value->shape, shape) && value->sharding.on == sharding->on &&
        mth__sharding_equal(&value->sharding, sharding, shape.rank);
}

static mth_status check_place(mth__verification *v, int x) {
    const mth__pvalue *value = &v->r->value.at[x];
    const int index = value->index;
    switch (value->storage) {
    case MTH__IN_SLAB: return NULL;
    case MTH__IN_ENTRY: {
        const mth__entry *e = index >= 0 && (size_t)index < v->p->entry.n ? &v->p->entry.at[index] : NULL;
        if (e && same_as(value, e->dtype, e->shape, &e->sharding)) return NULL;
        return mth__refuse(v, -1, x, F("%s is not what entry %d is", value->name, index));
    }
    case MTH__IN_EXIT: {
        const mth__exit *e = index >= 0 && (size_t)index < v->p->exit.n ? &v->p->exit.at[index] : NULL;
        if (!e || !same_as(value, e->dtype, e->shape, &e->sharding))
            return mth__refuse(v, -1, x, F("%s is not what exit %d is", value->name, index));
        if (v->left[index]++) return mth__refuse(v, -1, x, F("exit %d, %s, has two values", index, e->name));
        return NULL;
    }
    case MTH__IN_ALIAS: {
        const mth__pvalue *base = index >= 0 && (size_t)index < v->r->value.n ? &v->r->value.at[index] : NULL;
        if (base && base->storage != MTH__IN_ALIAS && base->dtype == value->dtype && base->bytes == value->bytes &&
            value->offset == 0)
            return NULL;
        return mth__refuse(v, -1, x, F("%s is no view of all of another value", value->name));
    }
    default: return mth__refuse(v, -1, x, F("%s lies where a partitioner's program has nothing", value->name));
    }
}

static mth_status check_value(mth__verification *v, int x) {
    const mth__pvalue *value = &v->r->value.at[x];
    mth_status bad = mth__shape_check(value->shape, value->dtype);
    if (!bad) bad = mth__sharding_check(&value->sharding, value->shape);
    if (bad) return mth__refuse_for(v, -1, x, bad);
    if (value->sharding.on != v->p->mesh->whole)
        return mth__refuse(v, -1, x, F("%s lies on a part of the mesh", value->name));
    if (!mth__shape_equal(value->local, value->shape) ||
        value->bytes != mth__shape_size(value->shape) * (int64_t)mth_dtype_size(value->dtype))
        return mth__refuse(v, -1, x, F("%s has not its global shape", value->name));
    return check_place(v, x);
}

static mth_status verify(mth__verification *v) {
    const mth__program *p = v->p;
    if (p->role.n != 1 || p->role.at[0].ndevice != 1 || p->role.at[0].device[0] != 0 || p->channel.n)
        return INTERNAL("a partitioner's program has %zu roles and %zu channels", p->role.n, p->channel.n);
    v->r = &p->role.at[0];
    v->value = NEW_ARRAY(v->arena, mth__value, MTH__MAX_IN + MTH__MAX_OUT);
    v->node.in = NEW_ARRAY(v->arena, mth__value *, MTH__MAX_IN + MTH__MAX_OUT);
    v->left = NEW_ARRAY(v->arena, int64_t, p->exit.n);
    for (size_t i = 0; i < p->exit.n; i++)
        if (p->exit.at[i].sharding.partial)
            return mth__refuse(v, -1, -1, F("exit %zu, %s, is a partial sum", i, p->exit.at[i].name));
    for (int x = 0; x < (int)v->r->value.n; x++) TRY(check_value(v, x));
    for (int i = 0; i < (int)v->r->instr.n; i++)
        if (v->r->instr.at[i].kind != MTH__COMPUTE || v->r->instr.at[i].stream)
            return mth__refuse(v, i, -1, F("a partitioner's program computes, and nothing else"));
    TRY(mth__verify_order(v));
    bool *written = NEW_ARRAY(v->arena, bool, v->r->value.n);
    for (size_t i = 0; i < v->r->instr.n; i++)
        for (int j = 0; j < v->r->instr.at[i].nout; j++) written[v->r->instr.at[i].out[j]] = true;
    for (int x = 0; x < (int)v->r->value.n; x++)
        if (v->r->value.at[x].storage == MTH__IN_EXIT && !written[x])
            return mth__refuse(v, -1, x, F("nothing writes exit %d", v->r->value.at[x].index));
    for (size_t i = 0; i < p->exit.n; i++)
        if (!v->left[i]) return mth__refuse(v, -1, -1, F("nothing writes exit %zu, %s", i, p->exit.at[i].name));
    return NULL;
}

mth_status mth__global_verify(const mth__program *p) {
    mth__verification v = {.arena = mth__arena_new(), .p = p, .global = true};
    mth__arena *arena = v.arena;
    mth_status s = verify(&v);
    mth__arena_free(arena);
    return s;
}
