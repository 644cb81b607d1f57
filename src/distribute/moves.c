/* The moves between two shardings of one value. On one placement: partial sums first (reduce_scatter where the target
 * splits by that axis, else one all_reduce over all axes left), then local slices, then all_to_all and all_gather of
 * innermost axes, until both agree; a transfer of boxes where that is cheaper or nothing else fits (another grain,
 * cyclic parts). Across placements: partial sums are reduced where they are, then the parts travel straight to where
 * they belong. */
#include "distribute/decide.h"
#include <string.h>

/* The first k axes of a split, as a canonical split. */
static mth__split prefix(const mth__split *s, int k, int64_t n, const mth__placement *on) {
    if (k == s->naxes) return *s;
    mth__split p = {0};
    if (k) {
        p = *s;
        for (int i = k; i < MTH__AXES; i++) p.axis[i] = 0;
        p.naxes = (int8_t)k;
        mth__split_canonical(&p, n, on);
    }
    return p;
}

static bool begins(const mth__split *s, const mth__split *whole, int64_t n, const mth__placement *on) {
    if (s->naxes == 0) return true;
    if (s->naxes > whole->naxes) return false;
    mth__split p = prefix(whole, s->naxes, n, on);
    return mth__split_equal(s, &p);
}

static mth__move *push(mth__move *m, int *n, enum mth__row row, mth__attrs attrs, const mth__sharding *to) {
    m[*n] = (mth__move){row, attrs, *to};
    return &m[(*n)++];
}

/* Takes the axes of `reduce` out of cur's partial sums. */
static int settle_partial(
    mth__shape shape, mth__sharding *cur, const mth__sharding *to, unsigned reduce, mth__move *m, int n) {
    if (cur->reduce == MTH__REDUCE_SUM && to)
        for (int d = 0; d < shape.rank; d++)
            for (;;) {
                int k = cur->dim[d].naxes;
                const mth__split *t = &to->dim[d];
                if (t->naxes <= k || t->cyclic || !(reduce >> t->axis[k] & 1) ||
                    !begins(&cur->dim[d], t, shape.dim[d], cur->on))
                    break;
                unsigned bit = 1u << t->axis[k];
                cur->dim[d] = prefix(t, k + 1, shape.dim[d], cur->on);
                cur->partial &= (uint8_t)~bit;
                reduce &= ~bit;
                push(m, &n, MTH__ROW_reduce_scatter, (mth__attrs){.axes = bit, .dimension = d}, cur);
            }
    if (reduce) {
        cur->partial &= (uint8_t)~reduce;
        push(m, &n, MTH__ROW_all_reduce, (mth__attrs){.axes = reduce}, cur);
    }
    if (!cur->partial) {
        cur->reduce = 0;
        m[n - 1].to.reduce = 0;
    }
    return n;
}

/* Splits further what the device has already: no communication. */
static bool refine(mth__shape shape, mth__sharding *cur, const mth__sharding *to) {
    bool changed = false;
    unsigned used = mth__sharding_axes(cur, shape.rank) | cur->partial;
    for (int d = 0; d < shape.rank; d++)
        while (cur->dim[d].naxes < to->dim[d].naxes && begins(&cur->dim[d], &to->dim[d], shape.dim[d], cur->on)) {
            int k = cur->dim[d].naxes;
            unsigned bit = 1u << to->dim[d].axis[k];
            if (used & bit) break;
            mth__split next = prefix(&to->dim[d], k + 1, shape.dim[d], cur->on);
            if (next.naxes <= k) break; /* an axis of size 1 */
            cur->dim[d] = next;
            used |= bit;
            changed = true;
        }
    return changed;
}

static bool exchange(mth__shape shape, mth__sharding *cur, const mth__sharding *to, mth__move *m, int *n) {
    for (int e = 0; e < shape.rank; e++) {
        mth__split *s = &cur->dim[e];
        if (begins(s, &to->dim[e], shape.dim[e], cur->on)) continue;
        int axis = s->axis[s->naxes - 1];
        for (int d = 0; d < shape.rank; d++) {
            int k = cur->dim[d].naxes;
            const mth__split *t = &to->dim[d];
            if (d == e || t->naxes <= k || t->axis[k] != axis || !begins(&cur->dim[d], t, shape.dim[d], cur->on))
                continue;
            cur->dim[d] = prefix(t, k + 1, shape.dim[d], cur->on);
            *s = prefix(s, s->naxes - 1, shape.dim[e], cur->on);
            push(m, n, MTH__ROW_all_to_all, (mth__attrs){.axes = (int64_t)1 << axis, .split = d, .gathered = e}, cur);
            return true;
        }
    }
    return false;
}

/* Gathers innermost axes of one dimension: as many at once as are in ascending order, so that a group's ranks are in
   the order of the parts. */
static bool gather(mth__shape shape, mth__sharding *cur, const mth__sharding *to, mth__move *m, int *n) {
    for (int e = 0; e < shape.rank; e++) {
        mth__split *s = &cur->dim[e];
        if (begins(s, &to->dim[e], shape.dim[e], cur->on)) continue;
        if (s->cyclic) return false;
        int k = s->naxes - 1;
        int64_t axes = (int64_t)1 << s->axis[k];
        mth__split rest = prefix(s, k, shape.dim[e], cur->on);
        while (k > 0 && s->axis[k - 1] < s->axis[k] && !begins(&rest, &to->dim[e], shape.dim[e], cur->on)) {
            axes |= (int64_t)1 << s->axis[--k];
            rest = prefix(s, k, shape.dim[e], cur->on);
        }
        *s = rest;
        push(m, n, MTH__ROW_all_gather, (mth__attrs){.axes = axes, .dimension = e}, cur);
        return true;
    }
    return false;
}

static double cost(mth__shape shape, size_t element, const mth__sharding *from, const mth__move *m, int n) {
    double seconds = 0;
    for (int k = 0; k < n; k++) seconds += mth__move_cost(shape, element, k ? &m[k - 1].to : from, &m[k]);
    return seconds;
}

static int moves_within(
    mth__shape shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *m) {
    mth__sharding cur = *from;
    int n = 0;
    unsigned reduce = from->partial & ~to->partial;
    if (reduce) n = settle_partial(shape, &cur, to, reduce, m, n);
    int first = n;
    mth__sharding start = cur;
    bool stuck = false;
    while (!stuck && !mth__sharding_equal(&cur, to, shape.rank)) {
        if (n >= MTH__MOST_MOVES - 2)
            stuck = true;
        else if (refine(shape, &cur, to))
            push(m, &n, MTH__ROW_keep, (mth__attrs){0}, &cur);
        else
            stuck = !exchange(shape, &cur, to, m, &n) && !gather(shape, &cur, to, m, &n);
    }
    if (n - first > 1 || stuck) {
        mth__move direct = {.row = MTH__ROW_transfer, .to = *to};
        if (stuck || cost(shape, element, &start, &direct, 1) < cost(shape, element, &start, m + first, n - first)) {
            n = first;
            push(m, &n, MTH__ROW_transfer, (mth__attrs){0}, to);
        }
    }
    return n;
}

static bool alike(const mth__placement *a, const mth__placement *b) {
    return a->naxes == b->naxes && memcmp(a->dim, b->dim, sizeof(int) * (size_t)a->naxes) == 0;
}

/* axis of `from` -> axis of `to`, or -1 */
static void map_axes(const mth__placement *from, const mth__placement *to, int map[MTH__AXES]) {
    bool same = from == to, known = false;
    for (int a = 0; a < from->naxes; a++) {
        map[a] = same ? a : -1;
        for (int b = 0; !same && b < to->naxes; b++)
            if (from->mesh_axis[a] >= 0 && from->mesh_axis[a] == to->mesh_axis[b] && from->dim[a] == to->dim[b])
                map[a] = b, known = true;
    }
    if (same || known) return;
    if (alike(from, to))
        for (int a = 0; a < from->naxes; a++) map[a] = a;
    else if (mth__place_stacked(to, from))
        for (int a = 0; a < from->naxes; a++) map[a] = a + 1;
    else if (mth__place_stacked(from, to))
        for (int a = 1; a < from->naxes; a++) map[a] = a - 1;
}

mth__sharding mth__sharding_carry(const mth__sharding *s, mth__shape shape, const mth__placement *to) {
    mth__sharding r = {.on = to};
    int map[MTH__AXES];
    if (!s->on) return r;
    map_axes(s->on, to, map);
    for (int d = 0; d < shape.rank; d++) {
        const mth__split *f = &s->dim[d];
        mth__split *t = &r.dim[d];
        for (int k = 0; k < f->naxes && map[f->axis[k]] >= 0; k++) t->axis[t->naxes++] = (int8_t)map[f->axis[k]];
        if (t->naxes) t->grain = f->grain, t->cyclic = f->cyclic;
    }
    mth__sharding_canonical(&r, shape);
    return r;
}

/* Every device of `to` has its part already: `from` has all of those, and holds the whole value on each; or it is the
 * whole mesh, or a stack of which `to` is one grid, and splits each dimension by a beginning of the target's axes. */
static bool local(mth__shape shape, const mth__sharding *from, const mth__sharding *to) {
    if (!mth__place_holds(from->on, to->on)) return false;
    if (!mth__sharding_axes(from, shape.rank)) return true;
    if (from->on->id == 0 ? from->on->count == to->on->count : !mth__place_stacked(from->on, to->on)) return false;
    mth__sharding carried = mth__sharding_carry(from, shape, to->on);
    for (int d = 0; d < shape.rank; d++)
        if (carried.dim[d].naxes != from->dim[d].naxes || !begins(&carried.dim[d], &to->dim[d], shape.dim[d], to->on))
            return false;
    return true;
}

/* From the whole mesh, or a stack, to some of its devices: what these have, and then moves among themselves, where that
 * costs less than to take boxes from anywhere. */
static int moves_inside(
    mth__shape shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *m) {
    const mth__sharding there = mth__sharding_carry(from, shape, to->on);
    const mth__move direct = {.row = MTH__ROW_transfer, .to = *to};
    if (!local(shape, from, &there)) return 0;
    m[0] = (mth__move){.row = MTH__ROW_keep, .to = there};
    const int n = 1 + moves_within(shape, element, &there, to, m + 1);
    return cost(shape, element, from, m, n) < cost(shape, element, from, &direct, 1) ? n : 0;
}

int mth__moves(mth__shape shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *m) {
    if (from->on == to->on)
        return mth__sharding_equal(from, to, shape.rank) ? 0 : moves_within(shape, element, from, to, m);
    mth__sharding cur = *from;
    int n = 0;
    if (cur.partial) {
        mth__sharding there = *to;
        there.on = from->on;
        n = settle_partial(shape, &cur, alike(from->on, to->on) ? &there : NULL, cur.partial, m, n);
    }
    bool split = mth__sharding_axes(to, shape.rank) != 0;
    if (local(shape, &cur, to)) {
        push(m, &n, MTH__ROW_keep, (mth__attrs){0}, to);
        return n;
    }
    const int inside = moves_inside(shape, element, &cur, to, m + n);
    n += inside;
    if (!inside)
        push(m, &n, !split && cur.on->count == 1 && to->on->count > 1 ? MTH__ROW_broadcast : MTH__ROW_transfer,
            (mth__attrs){0}, to);
    return n;
}
