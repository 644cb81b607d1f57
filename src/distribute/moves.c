/* The moves between two shardings of one value. On one placement: partial sums first (reduce_scatter where the target
 * splits by that axis, else one all_reduce over all axes left), then local slices, then all_to_all and all_gather of
 * innermost axes, until both agree; a transfer of boxes where that is cheaper or nothing else fits (another grain,
 * cyclic parts). Across placements: partial sums are reduced where they are, then the parts travel straight to where
 * they belong. */
#include "distribute/decide.h"
#include <string.h>

/* The first k axes of a split, as a canonical split. */
static mth__split prefix(const mth__split *split, int k, int64_t n, const mth__placement *on) {
    if (k == split->naxes) return *split;
    mth__split start = {0};
    if (k) {
        start = *split;
        for (int i = k; i < MTH__AXES; i++) start.axis[i] = 0;
        start.naxes = (int8_t)k;
        mth__split_canonical(&start, n, on);
    }
    return start;
}

static bool begins(const mth__split *split, const mth__split *whole, int64_t n, const mth__placement *on) {
    if (split->naxes == 0) return true;
    if (split->naxes > whole->naxes) return false;
    mth__split start = prefix(whole, split->naxes, n, on);
    return mth__split_equal(split, &start);
}

static mth__move *push(mth__move *move, int *n, enum mth__row row, mth__attrs attrs, const mth__sharding *to) {
    move[*n] = (mth__move){row, attrs, *to};
    return &move[(*n)++];
}

/* Takes the axes of `reduce` out of cur's partial sums. */
static int settle_partial(
    mth__shape shape, mth__sharding *cur, const mth__sharding *to, unsigned reduce, mth__move *move, int n) {
    if (cur->reduce == MTH__REDUCE_SUM && to)
        for (int d = 0; d < shape.rank; d++)
            for (;;) {
                int k = cur->dim[d].naxes;
                const mth__split *split = &to->dim[d];
                if (split->naxes <= k || split->cyclic || !(reduce >> split->axis[k] & 1) ||
                    !begins(&cur->dim[d], split, shape.dim[d], cur->on))
                    break;
                unsigned bit = 1u << split->axis[k];
                cur->dim[d] = prefix(split, k + 1, shape.dim[d], cur->on);
                cur->partial &= (uint8_t)~bit;
                reduce &= ~bit;
                push(move, &n, MTH__ROW_reduce_scatter, (mth__attrs){.axes = bit, .dimension = d}, cur);
            }
    if (reduce) {
        cur->partial &= (uint8_t)~reduce;
        push(move, &n, MTH__ROW_all_reduce, (mth__attrs){.axes = reduce}, cur);
    }
    if (!cur->partial) {
        cur->reduce = 0;
        move[n - 1].to.reduce = 0;
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

static bool exchange(mth__shape shape, mth__sharding *cur, const mth__sharding *to, mth__move *move, int *n) {
    for (int source = 0; source < shape.rank; source++) {
        mth__split *split = &cur->dim[source];
        if (begins(split, &to->dim[source], shape.dim[source], cur->on)) continue;
        int axis = split->axis[split->naxes - 1];
        for (int d = 0; d < shape.rank; d++) {
            int k = cur->dim[d].naxes;
            const mth__split *target = &to->dim[d];
            if (d == source || target->naxes <= k || target->axis[k] != axis ||
                !begins(&cur->dim[d], target, shape.dim[d], cur->on))
                continue;
            cur->dim[d] = prefix(target, k + 1, shape.dim[d], cur->on);
            *split = prefix(split, split->naxes - 1, shape.dim[source], cur->on);
            push(move, n, MTH__ROW_all_to_all, (mth__attrs){.axes = (int64_t)1 << axis, .split = d, .gathered = source},
                cur);
            return true;
        }
    }
    return false;
}

/* Gathers innermost axes of one dimension: as many at once as are in ascending order, so that a group's ranks are in
   the order of the parts. */
static bool gather(mth__shape shape, mth__sharding *cur, const mth__sharding *to, mth__move *move, int *n) {
    for (int gathered = 0; gathered < shape.rank; gathered++) {
        mth__split *split = &cur->dim[gathered];
        if (begins(split, &to->dim[gathered], shape.dim[gathered], cur->on)) continue;
        if (split->cyclic) return false;
        int k = split->naxes - 1;
        int64_t axes = (int64_t)1 << split->axis[k];
        mth__split rest = prefix(split, k, shape.dim[gathered], cur->on);
        while (k > 0 && split->axis[k - 1] < split->axis[k] &&
            !begins(&rest, &to->dim[gathered], shape.dim[gathered], cur->on)) {
            axes |= (int64_t)1 << split->axis[--k];
            rest = prefix(split, k, shape.dim[gathered], cur->on);
        }
        *split = rest;
        push(move, n, MTH__ROW_all_gather, (mth__attrs){.axes = axes, .dimension = gathered}, cur);
        return true;
    }
    return false;
}

static double cost(mth__shape shape, size_t element, const mth__sharding *from, const mth__move *move, int n) {
    double seconds = 0;
    for (int k = 0; k < n; k++) seconds += mth__move_cost(shape, element, k ? &move[k - 1].to : from, &move[k]);
    return seconds;
}

static int moves_within(
    mth__shape shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *move) {
    mth__sharding cur = *from;
    int n = 0;
    unsigned reduce = from->partial & ~to->partial;
    if (reduce) n = settle_partial(shape, &cur, to, reduce, move, n);
    int first = n;
    mth__sharding start = cur;
    bool stuck = false;
    while (!stuck && !mth__sharding_equal(&cur, to, shape.rank)) {
        if (n >= MTH__MOST_MOVES - 2)
            stuck = true;
        else if (refine(shape, &cur, to))
            push(move, &n, MTH__ROW_keep, (mth__attrs){0}, &cur);
        else
            stuck = !exchange(shape, &cur, to, move, &n) && !gather(shape, &cur, to, move, &n);
    }
    if (n - first > 1 || stuck) {
        mth__move direct = {.row = MTH__ROW_transfer, .to = *to};
        if (stuck || cost(shape, element, &start, &direct, 1) < cost(shape, element, &start, move + first, n - first)) {
            n = first;
            push(move, &n, MTH__ROW_transfer, (mth__attrs){0}, to);
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

mth__sharding mth__sharding_carry(const mth__sharding *sharding, mth__shape shape, const mth__placement *to) {
    mth__sharding carried = {.on = to};
    int map[MTH__AXES];
    if (!sharding->on) return carried;
    map_axes(sharding->on, to, map);
    for (int d = 0; d < shape.rank; d++) {
        const mth__split *from = &sharding->dim[d];
        mth__split *split = &carried.dim[d];
        for (int k = 0; k < from->naxes && map[from->axis[k]] >= 0; k++)
            split->axis[split->naxes++] = (int8_t)map[from->axis[k]];
        if (split->naxes) split->grain = from->grain, split->cyclic = from->cyclic;
    }
    mth__sharding_canonical(&carried, shape);
    return carried;
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
    mth__shape shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *move) {
    const mth__sharding there = mth__sharding_carry(from, shape, to->on);
    const mth__move direct = {.row = MTH__ROW_transfer, .to = *to};
    if (!local(shape, from, &there)) return 0;
    move[0] = (mth__move){.row = MTH__ROW_keep, .to = there};
    const int n = 1 + moves_within(shape, element, &there, to, move + 1);
    return cost(shape, element, from, move, n) < cost(shape, element, from, &direct, 1) ? n : 0;
}

int mth__moves(mth__shape shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *move) {
    if (from->on == to->on)
        return mth__sharding_equal(from, to, shape.rank) ? 0 : moves_within(shape, element, from, to, move);
    mth__sharding cur = *from;
    int n = 0;
    if (cur.partial) {
        mth__sharding there = *to;
        there.on = from->on;
        n = settle_partial(shape, &cur, alike(from->on, to->on) ? &there : NULL, cur.partial, move, n);
    }
    bool split = mth__sharding_axes(to, shape.rank) != 0;
    if (local(shape, &cur, to)) {
        push(move, &n, MTH__ROW_keep, (mth__attrs){0}, to);
        return n;
    }
    const int inside = moves_inside(shape, element, &cur, to, move + n);
    n += inside;
    if (!inside)
        push(move, &n, !split && cur.on->count == 1 && to->on->count > 1 ? MTH__ROW_broadcast : MTH__ROW_transfer,
            (mth__attrs){0}, to);
    return n;
}
