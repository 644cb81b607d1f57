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
} seen;
typedef struct {
    const seen *seen;
    const seen_split *split;
} seen_key;

static bool is_seen(const void *key, int number) {
    const seen_split *wanted = ((const seen_key *)key)->split,
                     *known = &((const seen_key *)key)->seen->split.at[number];
    return known->n == wanted->n && known->on == wanted->on && mth__split_equal(known->split, wanted->split);
}

/* The number of what is known of such a split; as many as are known where it is the first. */
static int number_of(mth__arena *arena, seen *s, const seen_split *split) {
    uint64_t hash = mth__hash_add(
        mth__hash_add(mth__hash_key(), (uint64_t)split->n), (uint64_t)split->on << 32 | (uint32_t)split->split->grain);
    for (int i = 0; i < split->split->naxes; i++) hash = mth__hash_add(hash, (uint64_t)split->split->axis[i]);
    return mth__table_add(arena, &s->table, hash, is_seen, &(seen_key){s, split}, (int)s->split.n);
}

static int64_t size_on(
    const mth__verification *v, int64_t n, const mth__split *split, const mth__placement *on, int i) {
    int coordinate[MTH__AXES];
    mth__placement_coordinates(on, on->rank_of[v->r->device[i]], coordinate);
    return mth__split_extent(n, split, on, coordinate).size;
}

/* Local size of a dimension of n on all devices of the role, or -1 where they differ. */
static mth_status size_of(mth__verification *v, seen *s, int x, int d, int64_t *out) {
    const mth__sharding *sharding = &v->r->value.at[x].sharding;
    const mth__split *split = &sharding->dim[d];
    const mth__placement *on = sharding->on;
    const int64_t n = v->r->value.at[x].shape.dim[d];
    if (split->naxes == 0 || mth__split_even(n, split, on)) {
        *out = split->naxes ? size_on(v, n, split, on, 0) : n;
        return NULL;
    }
    if (split->naxes == 1) {
        const mth__reach *reach = &v->reach[on->id];
        int64_t most = mth__split_extent(n, split, on, reach->low).size,
                least = mth__split_extent(n, split, on, reach->high).size;
        *out = most == least ? most : -1;
        return NULL;
    }
    seen_split this = {n, 0, split, on->id};
    const int number = number_of(v->arena, s, &this);
    if (number == (int)s->split.n) {
        TRY(mth__verify_look(v, x));
        this.size = size_on(v, n, split, on, 0);
        for (int i = 1; i < v->r->ndevice && this.size >= 0; i++)
            if (size_on(v, n, split, on, i) != this.size) this.size = -1;
        PUSH(v->arena, s->split, this);
    }
    *out = s->split.at[number].size;
    return NULL;
}

/* All devices of the role are on the placement; and how far their coordinates reach. */
static mth_status check_place(mth__verification *v, int x) {
    const mth__pvalue *p = &v->r->value.at[x];
    const mth__placement *on = p->sharding.on;
    mth__reach *reach = &v->reach[on->id];
    if (reach->role == v->role) return NULL;
    for (int i = 0; i < v->r->ndevice; i++) {
        int rank = on->rank_of[v->r->device[i]], coordinate[MTH__AXES];
        if (rank < 0)
            return mth__refuse(v, -1, x, F("%s is not on device %d, which is of the role", p->name, v->r->device[i]));
        mth__placement_coordinates(on, rank, coordinate);
        for (int a = 0; a < on->naxes; a++) {
            if (i == 0 || coordinate[a] < reach->low[a]) reach->low[a] = coordinate[a];
            if (i == 0 || coordinate[a] > reach->high[a]) reach->high[a] = coordinate[a];
        }
    }
    reach->role = v->role;
    return NULL;
}

/* ---------------------------------------------------------------- views */
static int64_t gcd(int64_t a, int64_t b) {
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

/* Of n elements, those that the first device along axis number i of the split has: all that follow have as many, but
 * for a last rest. */
static int64_t first_part(int64_t n, const mth__split *s, int i, const mth__placement *on) {
    const mth__split alone = {.naxes = 1, .axis = {s->axis[i]}, .grain = s->grain};
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
    int64_t shared = gcd(a->unit, b->unit);
    return same_parts(on, a->n, a->unit / shared, &a->split, b->n, b->unit / shared, &b->split, 0);
}

static int next_split(const mth__pvalue *p, int d) {
    while (d < p->shape.rank && p->sharding.dim[d].naxes == 0) d++;
    return d;
}

static int64_t inward(const mth__pvalue *p, int d) { /* local elements from dimension d on */
    int64_t n = 1;
    for (; d < p->shape.rank; d++) n *= p->local.dim[d];
    return n;
}

/* A view is what reshapes and slices make of its base where that moves nothing on any device. Dimensions that are split
   pair up in order, each pair cut in proportion. What a device holds from such a dimension inward is then as much in
   the view as in the base, and the view starts at a multiple of it; or the view is a piece of it, with nothing major
   beside it (a microbatch of each device's rows). */
static mth_status check_view(const mth__verification *v, int x) {
    const mth__pvalue *p = &v->r->value.at[x], *base = &v->r->value.at[p->index];
    const int64_t start = p->offset / (int64_t)mth_dtype_size(p->dtype);
    for (int d = next_split(base, 0), e = next_split(p, 0);; d = next_split(base, d + 1), e = next_split(p, e + 1)) {
        bool ends = d == base->shape.rank;
        if (ends != (e == p->shape.rank))
            return mth__refuse(
                v, -1, x, F("%s is split over other axes than %s, of which it is a view", p->name, base->name));
        if (ends) return NULL;
        int64_t n = base->shape.dim[d], m = p->shape.dim[e], parts = gcd(n, m);
        mth__cut a = {.n = n, .unit = n ? n / parts : 1, .split = base->sharding.dim[d]};
        mth__cut b = {.n = m, .unit = m ? m / parts : 1, .split = p->sharding.dim[e]};
        if (!mth__verify_same_cut(p->sharding.on, &a, &b))
            return mth__refuse(v, -1, x,
                F("dimension %d of %s is cut otherwise than dimension %d of %s, of which it is a view", e, p->name, d,
                    base->name));
        if (p->bytes == 0) continue;
        int64_t has = inward(base, d), shows = inward(p, e);
        bool piece = shows < has && p->bytes == shows * (int64_t)mth_dtype_size(p->dtype);
        if (piece ? start / has != (start + shows - 1) / has : shows != has || start % has)
            return mth__refuse(v, -1, x,
                F("%s, at %lld, shows rows of %s that are not its own", p->name, (long long)p->offset, base->name));
    }
}

/* ---------------------------------------------------------------- places */
/* An exit in which value x of the role lies: the role's devices hold it, each as many bytes (check_exits), the first
 * device's. */
static mth_status find_exit(mth__verification *v, int x) {
    const int e = v->r->value.at[x].index;
    const mth__exit *exit = &v->p->exit.at[e];
    const int rank = exit->sharding.on->rank_of[v->r->device[0]];
    if (v->exit_role[e] == v->role) return NULL;
    if (rank < 0) return mth__refuse(v, -1, x, F("exit %d, %s, is written where it does not belong", e, exit->name));
    v->exit_role[e] = v->role;
    v->exit_bytes[e] = mth__shape_size(mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL)) *
        (int64_t)mth_dtype_size(exit->dtype);
    v->exit_last[e] = -1;
    v->exit_entry[e] = 0;
    PUSH(v->arena, v->exits, e);
    return NULL;
}

static mth_status check_storage(mth__verification *v, int x) {
    const mth__pvalue *p = &v->r->value.at[x];
    switch (p->storage) {
    case MTH__IN_SLAB:
        if ((unsigned)p->space >= MTH__SPACES) return INTERNAL("%s lies in a space that there is not", p->name);
        if (p->offset < 0 || p->offset % 64 || p->bytes > v->r->slab[p->space] ||
            p->offset > v->r->slab[p->space] - p->bytes)
            return mth__refuse(v, -1, x,
                F("%s, at %lld of the %s, is not aligned to 64 or not inside its %lld bytes", p->name,
                    (long long)p->offset, p->space == MTH__HOST ? "host's pool" : "slab",
                    (long long)v->r->slab[p->space]));
        return NULL;
    case MTH__IN_OWN:
        return (unsigned)p->space < MTH__SPACES ? NULL : INTERNAL("%s lies in a space that there is not", p->name);
    case MTH__IN_ENTRY: {
        if (p->index < 0 || (size_t)p->index >= v->p->entry.n)
            return mth__refuse(v, -1, x, F("%s is an entry that there is not", p->name));
        const mth__entry *e = &v->p->entry.at[p->index];
        if (p->dtype != e->dtype || !mth__shape_equal(p->shape, e->shape) ||
            !mth__sharding_equal(&p->sharding, &e->sharding, e->shape.rank))
            return mth__refuse(v, -1, x, F("%s is not what entry %d, %s, is", p->name, p->index, e->name));
        const int successor = v->successor[p->index];
        if (successor < 0 || v->exit_role[successor] != v->role) return NULL;
        v->entry_next[x] = v->exit_entry[successor];
        v->exit_entry[successor] = x + 1;
        return NULL;
    }
    case MTH__IN_EXIT:
        if (p->index < 0 || (size_t)p->index >= v->p->exit.n)
            return mth__refuse(v, -1, x, F("%s is an exit that there is not", p->name));
        if (p->bytes != v->exit_bytes[p->index])
            return mth__refuse(v, -1, x,
                F("%s has %lld bytes, and exit %d, in which it lies, has %lld", p->name, (long long)p->bytes, p->index,
                    (long long)v->exit_bytes[p->index]));
        return NULL;
    case MTH__IN_LENT: {
        if (p->index < 0 || (size_t)p->index >= v->p->exit.n)
            return mth__refuse(v, -1, x, F("%s lies in an exit that there is not", p->name));
        if (v->exit_role[p->index] != v->role)
            return mth__refuse(v, -1, x, F("%s lies in exit %d, which the role doesn't write", p->name, p->index));
        if (v->p->exit.at[p->index].kind == MTH__EXIT_SUCCESSOR)
            return mth__refuse(
                v, -1, x, F("%s lies in exit %d, a successor, whose bytes are its entry's", p->name, p->index));
        int64_t room = v->exit_bytes[p->index];
        if (p->offset < 0 || p->offset % 64 || p->bytes > room || p->offset > room - p->bytes)
            return mth__refuse(v, -1, x,
                F("%s, at %lld of exit %d, is not aligned to 64 or not inside its %lld bytes", p->name,
                    (long long)p->offset, p->index, (long long)room));
        return NULL;
    }
    case MTH__IN_ALIAS: break;
    }
    if (p->storage != MTH__IN_ALIAS || p->index < 0 || (size_t)p->index >= v->r->value.n ||
        v->r->value.at[p->index].storage == MTH__IN_ALIAS)
        return mth__refuse(v, -1, x, F("%s is a view of no value, or of a view", p->name));
    const mth__pvalue *base = &v->r->value.at[p->index];
    if (p->offset < 0 || p->bytes > base->bytes || p->offset > base->bytes - p->bytes ||
        p->offset % (int64_t)mth_dtype_size(p->dtype))
        return mth__refuse(v, -1, x,
            F("%s, at %lld, is not inside %s, of which it is a view", p->name, (long long)p->offset, base->name));
    if (p->dtype != base->dtype || p->sharding.on != base->sharding.on ||
        p->sharding.partial != base->sharding.partial || p->sharding.reduce != base->sharding.reduce)
        return mth__refuse(v, -1, x,
            F("%s is of another dtype, placement or partial sum than %s, of which it is a view", p->name, base->name));
    return check_view(v, x);
}

mth_status mth__verify_values(mth__verification *v) {
    memset(v->kept, 0, sizeof v->kept); /* they hold for the devices of one role */
    memset(&v->exits, 0, sizeof v->exits);
    seen s = {0};
    for (int x = 0; x < (int)v->r->value.n; x++) {
        const mth__pvalue *p = &v->r->value.at[x];
        if (p->storage == MTH__IN_EXIT && p->index >= 0 && (size_t)p->index < v->p->exit.n) TRY(find_exit(v, x));
    }
    v->entry_next = NEW_ARRAY(v->arena, int, v->r->value.n);
    for (int x = 0; x < (int)v->r->value.n; x++) {
        const mth__pvalue *p = &v->r->value.at[x];
        TRY(mth__stop_check());
        mth_status bad = mth__shape_check(p->shape, p->dtype);
        if (!bad) bad = mth__sharding_check(&p->sharding, p->shape);
        if (bad) return mth__refuse_for(v, -1, x, bad);
        TRY(check_place(v, x));
        bool fits = p->local.rank == p->shape.rank;
        for (int d = 0; d < p->shape.rank && fits; d++) {
            int64_t size;
            TRY(size_of(v, &s, x, d, &size));
            fits = p->local.dim[d] == size;
        }
        if (!fits)
            return mth__refuse(v, -1, x,
                F("the local shape of %s is not what its sharding gives on every device of the role", p->name));
        if (p->bytes != mth__shape_size(p->local) * (int64_t)mth_dtype_size(p->dtype))
            return mth__refuse(v, -1, x, F("%s has %lld bytes", p->name, (long long)p->bytes));
        TRY(check_storage(v, x));
    }
    return NULL;
}
