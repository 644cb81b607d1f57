/* What a role says of its values, for each of its devices: placement, sharding, local shape, where they lie, and that a
 * view can be one. An even split is the same on all devices, one along a single axis goes down from the first device to
 * the last: only nested uneven splits are looked at device by device, once for each way to split a dimension. */
#include "base/table.h"
#include "emit/verify.h"
#include <string.h>

typedef struct {
    int64_t n, size;
    const mth__split *split;
    int on;
} seen_split;
typedef struct {
    VEC(seen_split) split;
    mth__table table;
} seen_splits;
typedef struct {
    const seen_splits *seen;
    const seen_split *split;
} seen_key;

static bool is_seen(const void *key, int number) {
    const seen_split *wanted = ((const seen_key *)key)->split,
                     *known = &((const seen_key *)key)->seen->split.at[number];
    return known->n == wanted->n && known->on == wanted->on && mth__split_equal(known->split, wanted->split);
}

/* The number of the split among those that are known; for a new one, the number that it gets. */
static int number_of(mth__arena *arena, seen_splits *seen, const seen_split *split) {
    uint64_t hash = mth__hash_add(
        mth__hash_add(mth__hash_key(), (uint64_t)split->n), (uint64_t)split->on << 32 | (uint32_t)split->split->grain);
    for (int i = 0; i < split->split->naxes; i++) hash = mth__hash_add(hash, (uint64_t)split->split->axis[i]);
    return mth__table_add(arena, &seen->table, hash, is_seen, &(seen_key){seen, split}, (int)seen->split.n);
}

static int64_t size_on(
    const mth__verification *proof, int64_t n, const mth__split *split, const mth__placement *on, int i) {
    int coordinate[MTH__AXES];
    mth__placement_coordinates(on, on->rank_of[proof->role->device[i]], coordinate);
    return mth__split_extent(n, split, on, coordinate).size;
}

/* Local size of a dimension of n on all devices of the role, or -1 where they differ. */
static mth_status size_of(mth__verification *proof, seen_splits *seen, int value, int d, int64_t *out) {
    const mth__sharding *sharding = &proof->role->value.at[value].sharding;
    const mth__split *split = &sharding->dim[d];
    const mth__placement *on = sharding->on;
    const int64_t n = proof->role->value.at[value].shape.dim[d];
    if (split->naxes == 0 || mth__split_even(n, split, on)) {
        *out = split->naxes ? size_on(proof, n, split, on, 0) : n;
        return NULL;
    }
    if (split->naxes == 1) {
        const mth__reach *reach = &proof->reach[on->id];
        int64_t most = mth__split_extent(n, split, on, reach->low).size,
                least = mth__split_extent(n, split, on, reach->high).size;
        *out = most == least ? most : -1;
        return NULL;
    }
    seen_split this = {n, 0, split, on->id};
    const int number = number_of(proof->arena, seen, &this);
    if (number == (int)seen->split.n) {
        TRY(mth__verify_look(proof, value));
        this.size = size_on(proof, n, split, on, 0);
        for (int i = 1; i < proof->role->ndevice && this.size >= 0; i++)
            if (size_on(proof, n, split, on, i) != this.size) this.size = -1;
        PUSH(proof->arena, seen->split, this);
    }
    *out = seen->split.at[number].size;
    return NULL;
}

/* Checks that all devices of the role are on the placement of the value, and finds how far their coordinates reach. */
static mth_status check_place(mth__verification *proof, int number) {
    const mth__program_value *value = &proof->role->value.at[number];
    const mth__placement *on = value->sharding.on;
    mth__reach *reach = &proof->reach[on->id];
    if (reach->role == proof->number) return NULL;
    for (int i = 0; i < proof->role->ndevice; i++) {
        int rank = on->rank_of[proof->role->device[i]], coordinate[MTH__AXES];
        if (rank < 0)
            return mth__refuse(proof, -1, number,
                F("%s is not on device %d, which is of the role", value->name, proof->role->device[i]));
        mth__placement_coordinates(on, rank, coordinate);
        for (int axis = 0; axis < on->naxes; axis++) {
            if (i == 0 || coordinate[axis] < reach->low[axis]) reach->low[axis] = coordinate[axis];
            if (i == 0 || coordinate[axis] > reach->high[axis]) reach->high[axis] = coordinate[axis];
        }
    }
    reach->role = proof->number;
    return NULL;
}

/* ---------------------------------------------------------------- views */
/* Of n elements, those that the first device along axis number i of the split has: all that follow have as many, but
 * for a last rest. */
static int64_t first_part(int64_t n, const mth__split *split, int i, const mth__placement *on) {
    const mth__split alone = {.naxes = 1, .axis = {split->axis[i]}, .grain = split->grain};
    static const int origin[MTH__AXES];
    return mth__split_extent(n, &alone, on, origin).size;
}

/* Do axes i, i + 1, ... of the splits make the same parts of n elements, a unit of ua each, and of m, a unit of ub
 * each? */
static bool same_parts(const mth__placement *on, int64_t n, int64_t ua, const mth__split *a, int64_t m, int64_t ub,
    const mth__split *b, int i) {
    if (n % ua || m % ub || n / ua != m / ub) return false;
    if (i == a->naxes || n == 0) return true;
    int64_t x = first_part(n, a, i, on), y = first_part(m, b, i, on);
    return same_parts(on, x, ua, a, y, ub, b, i + 1) && same_parts(on, n % x, ua, a, m % y, ub, b, i + 1);
}

bool mth__verify_same_cut(const mth__placement *on, const mth__cut *a, const mth__cut *b) {
    bool same = a->split.naxes == b->split.naxes && (a->split.naxes == 0 || a->split.cyclic == b->split.cyclic);
    for (int i = 0; i < a->split.naxes && same; i++) same = a->split.axis[i] == b->split.axis[i];
    if (!same) return false;
    if (a->split.naxes && a->split.cyclic) return a->n == b->n && a->unit == b->unit;
    int64_t shared = mth__gcd(a->unit, b->unit);
    return same_parts(on, a->n, a->unit / shared, &a->split, b->n, b->unit / shared, &b->split, 0);
}

static int next_split(const mth__program_value *value, int d) {
    while (d < value->shape.rank && value->sharding.dim[d].naxes == 0) d++;
    return d;
}

static int64_t inward(const mth__program_value *value, int d) { /* local elements from dimension d on */
    int64_t n = 1;
    for (; d < value->shape.rank; d++) n *= value->local.dim[d];
    return n;
}

/* A view is what reshapes and slices make of its base where that moves nothing on any device. Dimensions that are split
   pair up in order, each pair cut in proportion. What a device holds from such a dimension inward is then as much in
   the view as in the base, and the view starts at a multiple of it; or the view is a piece of it, with nothing major
   beside it (a microbatch of each device's rows). */
static mth_status check_view(const mth__verification *proof, int number) {
    const mth__program_value *value = &proof->role->value.at[number], *base = &proof->role->value.at[value->index];
    const int64_t start = value->offset / (int64_t)mth_dtype_size(value->dtype);
    for (int d = next_split(base, 0), k = next_split(value, 0);;
        d = next_split(base, d + 1), k = next_split(value, k + 1)) {
        bool ends = d == base->shape.rank;
        if (ends != (k == value->shape.rank))
            return mth__refuse(proof, -1, number,
                F("%s is split over other axes than %s, of which it is a view", value->name, base->name));
        if (ends) return NULL;
        int64_t n = base->shape.dim[d], m = value->shape.dim[k], parts = mth__gcd(n, m);
        mth__cut a = {.n = n, .unit = n ? n / parts : 1, .split = base->sharding.dim[d]};
        mth__cut b = {.n = m, .unit = m ? m / parts : 1, .split = value->sharding.dim[k]};
        if (!mth__verify_same_cut(value->sharding.on, &a, &b))
            return mth__refuse(proof, -1, number,
                F("dimension %d of %s is cut otherwise than dimension %d of %s, of which it is a view", k, value->name,
                    d, base->name));
        if (value->bytes == 0) continue;
        int64_t has = inward(base, d), shows = inward(value, k);
        bool piece = shows < has && value->bytes == shows * (int64_t)mth_dtype_size(value->dtype);
        if (piece ? start / has != (start + shows - 1) / has : shows != has || start % has)
            return mth__refuse(proof, -1, number,
                F("%s, at %lld, shows rows of %s that are not its own", value->name, (long long)value->offset,
                    base->name));
    }
}

/* ---------------------------------------------------------------- places */
/* Notes the exit in which the role's value `number` lies, with the bytes of the first device's part: check_exits makes
 * sure that every device of the role has a part, of as many bytes. */
static mth_status find_exit(mth__verification *proof, int number) {
    const int exit_number = proof->role->value.at[number].index;
    const mth__exit *exit = &proof->program->exit.at[exit_number];
    const int rank = exit->sharding.on->rank_of[proof->role->device[0]];
    if (proof->exit_role[exit_number] == proof->number) return NULL;
    if (rank < 0)
        return mth__refuse(
            proof, -1, number, F("exit %d, %s, is written where it does not belong", exit_number, exit->name));
    proof->exit_role[exit_number] = proof->number;
    proof->exit_bytes[exit_number] = mth__shape_size(mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL)) *
        (int64_t)mth_dtype_size(exit->dtype);
    proof->exit_last[exit_number] = -1;
    proof->exit_entry[exit_number] = 0;
    PUSH(proof->arena, proof->exits, exit_number);
    return NULL;
}

static mth_status check_storage(mth__verification *proof, int number) {
    const mth__program_value *value = &proof->role->value.at[number];
    switch (value->storage) {
    case MTH__IN_SLAB:
        if ((unsigned)value->space >= MTH__SPACES) return INTERNAL("%s lies in a space that there is not", value->name);
        if (value->offset < 0 || value->offset % 64 || value->bytes > proof->role->slab[value->space] ||
            value->offset > proof->role->slab[value->space] - value->bytes)
            return mth__refuse(proof, -1, number,
                F("%s, at %lld of the %s, is not aligned to 64 or not inside its %lld bytes", value->name,
                    (long long)value->offset, value->space == MTH__HOST ? "host's pool" : "slab",
                    (long long)proof->role->slab[value->space]));
        return NULL;
    case MTH__IN_OWN:
        return (unsigned)value->space < MTH__SPACES ? NULL
                                                    : INTERNAL("%s lies in a space that there is not", value->name);
    case MTH__IN_ENTRY: {
        if (value->index < 0 || (size_t)value->index >= proof->program->entry.n)
            return mth__refuse(proof, -1, number, F("%s is an entry that there is not", value->name));
        const mth__entry *entry = &proof->program->entry.at[value->index];
        if (value->dtype != entry->dtype || !mth__shape_equal(value->shape, entry->shape) ||
            !mth__sharding_equal(&value->sharding, &entry->sharding, entry->shape.rank))
            return mth__refuse(
                proof, -1, number, F("%s is not what entry %d, %s, is", value->name, value->index, entry->name));
        const int successor = proof->successor[value->index];
        if (successor < 0 || proof->exit_role[successor] != proof->number) return NULL;
        proof->entry_next[number] = proof->exit_entry[successor];
        proof->exit_entry[successor] = number + 1;
        return NULL;
    }
    case MTH__IN_EXIT:
        if (value->index < 0 || (size_t)value->index >= proof->program->exit.n)
            return mth__refuse(proof, -1, number, F("%s is an exit that there is not", value->name));
        if (value->bytes != proof->exit_bytes[value->index])
            return mth__refuse(proof, -1, number,
                F("%s has %lld bytes, and exit %d, in which it lies, has %lld", value->name, (long long)value->bytes,
                    value->index, (long long)proof->exit_bytes[value->index]));
        return NULL;
    case MTH__IN_LENT: {
        if (value->index < 0 || (size_t)value->index >= proof->program->exit.n)
            return mth__refuse(proof, -1, number, F("%s lies in an exit that there is not", value->name));
        if (proof->exit_role[value->index] != proof->number)
            return mth__refuse(
                proof, -1, number, F("%s lies in exit %d, which the role doesn't write", value->name, value->index));
        if (proof->program->exit.at[value->index].kind == MTH__EXIT_SUCCESSOR)
            return mth__refuse(proof, -1, number,
                F("%s lies in exit %d, a successor, whose bytes are its entry's", value->name, value->index));
        int64_t room = proof->exit_bytes[value->index];
        if (value->offset < 0 || value->offset % 64 || value->bytes > room || value->offset > room - value->bytes)
            return mth__refuse(proof, -1, number,
                F("%s, at %lld of exit %d, is not aligned to 64 or not inside its %lld bytes", value->name,
                    (long long)value->offset, value->index, (long long)room));
        return NULL;
    }
    case MTH__IN_ALIAS: break;
    }
    if (value->storage != MTH__IN_ALIAS || value->index < 0 || (size_t)value->index >= proof->role->value.n ||
        proof->role->value.at[value->index].storage == MTH__IN_ALIAS)
        return mth__refuse(proof, -1, number, F("%s is a view of no value, or of a view", value->name));
    const mth__program_value *base = &proof->role->value.at[value->index];
    if (value->offset < 0 || value->bytes > base->bytes || value->offset > base->bytes - value->bytes ||
        value->offset % (int64_t)mth_dtype_size(value->dtype))
        return mth__refuse(proof, -1, number,
            F("%s, at %lld, is not inside %s, of which it is a view", value->name, (long long)value->offset,
                base->name));
    /* what is whole on every device is the same on another placement */
    const bool placed = value->sharding.on == base->sharding.on ||
        (!mth__sharding_axes(&value->sharding, value->shape.rank) &&
            !mth__sharding_axes(&base->sharding, base->shape.rank) && !base->sharding.partial);
    if (value->dtype != base->dtype || !placed || value->sharding.partial != base->sharding.partial ||
        value->sharding.reduce != base->sharding.reduce)
        return mth__refuse(proof, -1, number,
            F("%s is of another dtype, placement or partial sum than %s, of which it is a view", value->name,
                base->name));
    return check_view(proof, number);
}

/* The number of the value's kind. */
static int kind_of(mth__verification *proof, const mth__program_value *value) {
    mth__keys *kinds = &proof->kinds;
    mth__keys_begin(kinds);
    mth__keys_add(proof->lasting, kinds, value->dtype);
    mth__keys_add_shape(proof->lasting, kinds, value->shape);
    mth__keys_add(proof->lasting, kinds, (uint64_t)value->local.rank);
    for (int d = 0; d < value->shape.rank; d++) mth__keys_add(proof->lasting, kinds, (uint64_t)value->local.dim[d]);
    mth__keys_add_sharding(proof->lasting, kinds, &value->sharding, value->shape.rank);
    const int kind = mth__keys_number(proof->lasting, kinds);
    if (kind == (int)proof->kind_role.n) {
        PUSH(proof->lasting, proof->kind_role, -1);
        PUSH(proof->lasting, proof->layout_of, -1);
    }
    return kind;
}

/* The number of the layout of a value that has been checked. */
static int layout_of(mth__verification *proof, const mth__program_value *value) {
    mth__keys *layouts = &proof->layouts;
    const mth__placement *on = value->sharding.on;
    mth__keys_begin(layouts);
    mth__keys_add(proof->lasting, layouts, (uint64_t)value->dtype << 32 | (uint64_t)on->naxes);
    for (int axis = 0; axis < on->naxes; axis++) mth__keys_add(proof->lasting, layouts, (uint64_t)on->dim[axis]);
    mth__keys_add_shape(proof->lasting, layouts, value->shape);
    mth__keys_add_shape(proof->lasting, layouts, value->local);
    mth__keys_add(proof->lasting, layouts, (uint64_t)value->sharding.partial << 8 | value->sharding.reduce);
    for (int d = 0; d < value->shape.rank; d++) mth__keys_add_split(proof->lasting, layouts, &value->sharding.dim[d]);
    return mth__keys_number(proof->lasting, layouts);
}

/* The value's kind has a sharding on a placement of all of the role's devices, which gives each of them the local
 * shape. */
static mth_status check_kind(mth__verification *proof, seen_splits *seen, int number) {
    const mth__program_value *value = &proof->role->value.at[number];
    mth_status bad = mth__sharding_check(&value->sharding, value->shape);
    if (bad) return mth__refuse_for(proof, -1, number, bad);
    TRY(check_place(proof, number));
    bool fits = value->local.rank == value->shape.rank;
    for (int d = 0; d < value->shape.rank && fits; d++) {
        int64_t size;
        TRY(size_of(proof, seen, number, d, &size));
        fits = value->local.dim[d] == size;
    }
    if (fits) return NULL;
    return mth__refuse(proof, -1, number,
        F("the local shape of %s is not what its sharding gives on every device of the role", value->name));
}

mth_status mth__verify_values(mth__verification *proof) {
    memset(proof->contained, 0, sizeof proof->contained); /* they hold for the devices of one role */
    memset(&proof->exits, 0, sizeof proof->exits);
    seen_splits seen = {0};
    for (int number = 0; number < (int)proof->role->value.n; number++) {
        const mth__program_value *value = &proof->role->value.at[number];
        if (value->storage == MTH__IN_EXIT && value->index >= 0 && (size_t)value->index < proof->program->exit.n)
            TRY(find_exit(proof, number));
    }
    proof->entry_next = NEW_ARRAY(proof->arena, int, proof->role->value.n);
    proof->kind_of = NEW_ARRAY(proof->arena, int, proof->role->value.n);
    for (int number = 0; number < (int)proof->role->value.n; number++) {
        const mth__program_value *value = &proof->role->value.at[number];
        TRY(mth__stop_check());
        mth_status bad = mth__shape_check(value->shape, value->dtype);
        if (bad) return mth__refuse_for(proof, -1, number, bad);
        const int kind = proof->kind_of[number] = kind_of(proof, value);
        if (proof->kind_role.at[kind] != proof->number) TRY(check_kind(proof, &seen, number));
        if (proof->layout_of.at[kind] < 0) proof->layout_of.at[kind] = layout_of(proof, value);
        proof->kind_role.at[kind] = proof->number;
        if (value->bytes != mth__shape_size(value->local) * (int64_t)mth_dtype_size(value->dtype))
            return mth__refuse(proof, -1, number, F("%s has %lld bytes", value->name, (long long)value->bytes));
        TRY(check_storage(proof, number));
    }
    return NULL;
}
