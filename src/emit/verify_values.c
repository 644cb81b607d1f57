/* What a role says of its values, for each of its devices: placement, sharding, local shape, where they lie, and that a view can be one. A
 * way to split a dimension is looked at once for the devices of a role, however many values have it. */
#include "emit/verify.h"
#include <string.h>

typedef struct { int64_t n, size; mth__split split; int on; bool used; } seen_split;
typedef struct { seen_split *at; size_t room, n; bool *placed; } seen; /* placed: by placement id */

static size_t slot_of(const seen *s, int64_t n, const mth__split *split, int on) {
    uint64_t h = ((uint64_t)n * 0x9e3779b97f4a7c15 ^ (uint64_t)on) * 0x9e3779b97f4a7c15;
    h ^= (uint64_t)split->grain << 8 ^ (uint64_t)split->cyclic;
    for (int i = 0; i < split->naxes; i++) h = (h ^ (uint64_t)(split->axis[i] + 1)) * 0x9e3779b97f4a7c15;
    size_t at = (h ^ h >> 32) & (s->room - 1);
    while (s->at[at].used && !(s->at[at].n == n && s->at[at].on == on && mth__split_equal(&s->at[at].split, split)))
        at = (at + 1) & (s->room - 1);
    return at;
}

static void make_room(mth__arena *arena, seen *s) {
    if (2 * (s->n + 1) <= s->room) return;
    seen old = *s;
    s->room = old.room ? 2 * old.room : 64;
    s->at = NEW_ARRAY(arena, seen_split, s->room);
    for (size_t i = 0; i < old.room; i++)
        if (old.at[i].used) s->at[slot_of(s, old.at[i].n, &old.at[i].split, old.at[i].on)] = old.at[i];
}

/* Local size of a dimension of n on all devices of the role, or -1 where they differ. */
static int64_t size_of(const mth__verification *v, seen *s, int64_t n, const mth__split *split, const mth__placement *on) {
    if (split->naxes == 0) return n;
    make_room(v->arena, s);
    seen_split *x = &s->at[slot_of(s, n, split, on->id)];
    if (x->used) return x->size;
    *x = (seen_split){n, 0, *split, on->id, true};
    s->n++;
    for (int i = 0; i < v->r->ndevice; i++) {
        int coordinate[MTH__AXES];
        mth__placement_coordinates(on, on->rank_of[v->r->device[i]], coordinate);
        int64_t size = mth__split_extent(n, split, on, coordinate).size;
        if (i && size != x->size) {
            x->size = -1;
            break;
        }
        x->size = size;
    }
    return x->size;
}

static mth_status check_place(const mth__verification *v, seen *s, int x) {
    const mth__pvalue *p = &v->r->value.at[x];
    const mth__placement *on = p->sharding.on;
    if (s->placed[on->id]) return NULL;
    for (int i = 0; i < v->r->ndevice; i++)
        if (on->rank_of[v->r->device[i]] < 0)
            return mth__refuse(v, -1, x, F("%s is not on device %d, which is of the role", p->name, v->r->device[i]));
    s->placed[on->id] = true;
    return NULL;
}

/* ---------------------------------------------------------------- views */
static int64_t gcd(int64_t a, int64_t b) {
    while (b) { int64_t t = a % b; a = b; b = t; }
    return a;
}

static bool equal_cut(const mth__cut *a, const mth__cut *b) {
    return a->n == b->n && a->unit == b->unit && mth__split_equal(&a->split, &b->split);
}

bool mth__verify_same_cut(mth__verification *v, const mth__placement *on, const mth__cut *a, const mth__cut *b) {
    bool same = a->split.naxes == b->split.naxes && a->split.cyclic == b->split.cyclic;
    for (int i = 0; i < a->split.naxes && same; i++) same = a->split.axis[i] == b->split.axis[i];
    if (!same) return false;
    if (a->split.naxes == 0) return a->n / a->unit == b->n / b->unit;
    if (a->n == b->n && a->unit == b->unit && a->split.grain == b->split.grain) return true;
    if (a->split.cyclic && a->unit != b->unit) return false;
    for (int i = 0; i < MTH__CUTS; i++) {
        const mth__same_cut *k = &v->same[i];
        if (k->on == on && equal_cut(&k->a, a) && equal_cut(&k->b, b)) return true;
    }
    int64_t shared = gcd(a->unit, b->unit), ua = shared ? a->unit / shared : 1, ub = shared ? b->unit / shared : 1;
    for (int i = 0; i < v->r->ndevice; i++) {
        int coordinate[MTH__AXES];
        mth__placement_coordinates(on, on->rank_of[v->r->device[i]], coordinate);
        mth__extent x = mth__split_extent(a->n, &a->split, on, coordinate), y = mth__split_extent(b->n, &b->split, on, coordinate);
        if (x.size == 0 && y.size == 0) continue;
        if (x.start % ua || y.start % ub || x.start / ua != y.start / ub || x.size % ua || y.size % ub || x.size / ua != y.size / ub)
            return false;
    }
    v->same[v->same_next] = (mth__same_cut){on, *a, *b};
    v->same_next = (v->same_next + 1) % MTH__CUTS;
    return true;
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

/* A view is what reshapes and slices make of its base where that moves nothing on any device. Dimensions that are split pair up in order,
   each pair cut in proportion. What a device holds from such a dimension inward is then as much in the view as in the base, and the view
   starts at a multiple of it; or the view is a piece of it, with nothing major beside it (a microbatch of each device's rows). */
static mth_status check_view(mth__verification *v, int x) {
    const mth__pvalue *p = &v->r->value.at[x], *base = &v->r->value.at[p->index];
    const int64_t start = p->offset / (int64_t)mth_dtype_size(p->dtype);
    for (int d = next_split(base, 0), e = next_split(p, 0);; d = next_split(base, d + 1), e = next_split(p, e + 1)) {
        bool ends = d == base->shape.rank;
        if (ends != (e == p->shape.rank))
            return mth__refuse(v, -1, x, F("%s is split over other axes than %s, of which it is a view", p->name, base->name));
        if (ends) return NULL;
        int64_t n = base->shape.dim[d], m = p->shape.dim[e], parts = gcd(n, m);
        mth__cut a = {.n = n, .unit = parts ? n / parts : 1, .split = base->sharding.dim[d]};
        mth__cut b = {.n = m, .unit = parts ? m / parts : 1, .split = p->sharding.dim[e]};
        if (!mth__verify_same_cut(v, p->sharding.on, &a, &b))
            return mth__refuse(v, -1, x, F("dimension %d of %s is cut otherwise than dimension %d of %s, of which it is a view", e, p->name,
                                           d, base->name));
        if (p->bytes == 0) continue;
        int64_t has = inward(base, d), shows = inward(p, e);
        bool piece = shows < has && p->bytes == shows * (int64_t)mth_dtype_size(p->dtype);
        if (piece ? start / has != (start + shows - 1) / has : shows != has || start % has)
            return mth__refuse(v, -1, x, F("%s, at %lld, shows rows of %s that are not its own", p->name, (long long)p->offset,
                                           base->name));
    }
}

/* ---------------------------------------------------------------- places */
static mth_status check_storage(mth__verification *v, int x) {
    const mth__pvalue *p = &v->r->value.at[x];
    switch (p->storage) {
    case MTH__IN_SLAB:
        if (p->offset < 0 || p->offset % 64 || p->bytes > v->r->slab || p->offset > v->r->slab - p->bytes)
            return mth__refuse(v, -1, x, F("%s, at %lld of the slab, is not aligned to 64 or not inside its %lld bytes", p->name,
                                           (long long)p->offset, (long long)v->r->slab));
        return NULL;
    case MTH__IN_ENTRY: {
        if (p->index < 0 || (size_t)p->index >= v->p->entry.n) return mth__refuse(v, -1, x, F("%s is an entry that there is not", p->name));
        const mth__entry *e = &v->p->entry.at[p->index];
        if (p->dtype != e->dtype || !mth__shape_equal(p->shape, e->shape)
            || !mth__sharding_equal(&p->sharding, &e->sharding, e->shape.rank))
            return mth__refuse(v, -1, x, F("%s is not what entry %d, %s, is", p->name, p->index, e->name));
        return NULL;
    }
    case MTH__IN_EXIT: /* what is written last has the exit's size (check_exits), and whatever lay there before had the same */
        if (p->index < 0 || (size_t)p->index >= v->p->exit.n) return mth__refuse(v, -1, x, F("%s is an exit that there is not", p->name));
        return NULL;
    case MTH__IN_LENT:
        if (p->index < 0 || (size_t)p->index >= v->p->exit.n) return mth__refuse(v, -1, x, F("%s lies in an exit that there is not", p->name));
        if (p->offset < 0 || p->offset % 64 || p->bytes > v->exit_bytes[p->index] || p->offset > v->exit_bytes[p->index] - p->bytes)
            return mth__refuse(v, -1, x, F("%s, at %lld of exit %d, is not aligned to 64 or not inside its %lld bytes", p->name,
                                           (long long)p->offset, p->index, (long long)v->exit_bytes[p->index]));
        return NULL;
    case MTH__IN_ALIAS: break;
    }
    if (p->storage != MTH__IN_ALIAS || p->index < 0 || (size_t)p->index >= v->r->value.n
        || v->r->value.at[p->index].storage == MTH__IN_ALIAS)
        return mth__refuse(v, -1, x, F("%s is a view of no value, or of a view", p->name));
    const mth__pvalue *base = &v->r->value.at[p->index];
    if (p->offset < 0 || p->bytes > base->bytes || p->offset > base->bytes - p->bytes || p->offset % (int64_t)mth_dtype_size(p->dtype))
        return mth__refuse(v, -1, x, F("%s, at %lld, is not inside %s, of which it is a view", p->name, (long long)p->offset, base->name));
    if (p->dtype != base->dtype || p->sharding.on != base->sharding.on || p->sharding.partial != base->sharding.partial
        || p->sharding.reduce != base->sharding.reduce)
        return mth__refuse(v, -1, x, F("%s is of another dtype, placement or partial sum than %s, of which it is a view", p->name,
                                       base->name));
    return check_view(v, x);
}

mth_status mth__verify_values(mth__verification *v) {
    memset(v->same, 0, sizeof v->same); /* they hold for the devices of one role */
    seen s = {.placed = NEW_ARRAY(v->arena, bool, v->p->mesh->placements.n)};
    v->exit_bytes = NEW_ARRAY(v->arena, int64_t, v->p->exit.n);
    for (size_t x = 0; x < v->r->value.n; x++) {
        const mth__pvalue *p = &v->r->value.at[x];
        if (p->storage == MTH__IN_EXIT && p->index >= 0 && (size_t)p->index < v->p->exit.n && p->bytes > v->exit_bytes[p->index])
            v->exit_bytes[p->index] = p->bytes;
    }
    for (int x = 0; x < (int)v->r->value.n; x++) {
        const mth__pvalue *p = &v->r->value.at[x];
        mth_status bad = mth__shape_check(p->shape, p->dtype);
        if (!bad) bad = mth__sharding_check(&p->sharding, p->shape);
        if (bad) return mth__refuse_for(v, -1, x, bad);
        TRY(check_place(v, &s, x));
        bool fits = p->local.rank == p->shape.rank;
        for (int d = 0; d < p->shape.rank && fits; d++)
            fits = p->local.dim[d] == size_of(v, &s, p->shape.dim[d], &p->sharding.dim[d], p->sharding.on);
        if (!fits)
            return mth__refuse(v, -1, x, F("the local shape of %s is not what its sharding gives on every device of the role", p->name));
        if (p->bytes != mth__shape_size(p->local) * (int64_t)mth_dtype_size(p->dtype))
            return mth__refuse(v, -1, x, F("%s has %lld bytes", p->name, (long long)p->bytes));
        TRY(check_storage(v, x));
    }
    return NULL;
}
