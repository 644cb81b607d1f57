#include "engine/pjrt/hlo_group.h"

int mth__hlo_partition_of(const mth__hlo *h, int32_t device) {
    int a = 0, b = h->partitions;
    while (b - a > 1) {
        int middle = (a + b) / 2;
        if (h->device[middle] <= device)
            a = middle;
        else
            b = middle;
    }
    return a;
}

mth__hlo_groups mth__hlo_groups_of(mth__hlo *h, const mth__channel *c) {
    mth__hlo_groups g = {.size = mth__channel_size(c),
        .member = NEW_ARRAY(h->arena, int, h->partitions),
        .rank = NEW_ARRAY(h->arena, int, h->partitions)};
    int32_t *device = NEW_ARRAY(h->arena, int32_t, g.size);
    for (int p = 0; p < h->partitions; p++) g.rank[p] = -1;
    for (int p = 0; p < h->partitions; p++) {
        int32_t d = h->device[p];
        bool takes_part = c->from.on->rank_of[d] >= 0 || (c->kind == MTH__BROADCAST && c->to.on->rank_of[d] >= 0);
        if (!takes_part || g.rank[p] >= 0) continue;
        mth__channel_group(c, d, device);
        for (int r = 0; r < g.size; r++) {
            int q = mth__hlo_partition_of(h, device[r]);
            g.member[g.count * g.size + r] = q;
            g.rank[q] = r;
        }
        g.count++;
    }
    return g;
}

mth__hlo_val mth__hlo_permute(mth__hlo *h, mth__hlo_val x, const char *pairs, int count) {
    const char *type = mth__hlo_type(h->arena, x.dtype, x.shape);
    return mth__hlo_line(h, x.dtype, x.shape,
        "\"stablehlo.collective_permute\"(%s) <{source_target_pairs = dense<[%s]> : tensor<%dx2xi64>}> : "
        "(%s) -> %s",
        mth__hlo_name(h->arena, x), pairs, count, type, type);
}

const char *mth__hlo_reduction(const mth__channel *c) { return c->reduce == MTH__REDUCE_MAX ? "maximum" : "add"; }

mth__hlo_val mth__hlo_reduced_as(mth__hlo *h, const mth__channel *c, mth__hlo_val x) {
    bool reduces = c->kind == MTH__ALL_REDUCE || c->kind == MTH__REDUCE_SCATTER;
    return reduces && c->dtype == MTH_BOOL ? mth__hlo_convert(h, MTH_INT32, x) : x;
}

mth__hlo_val mth__hlo_take(mth__hlo *h, mth__hlo_val x, int dim, mth__hlo_val index) {
    mth__text offset = mth__text_new(h->arena), size = mth__text_new(h->arena);
    mth__shape to = x.shape;
    to.dim[dim] = index.shape.dim[0];
    for (int d = 0; d < x.shape.rank; d++) {
        if (d != dim) mth__text_add(&offset, "%s%d", offset.n ? ", " : "", d);
        mth__text_add(&size, "%s%lld", d ? ", " : "", d == dim ? 1 : (long long)x.shape.dim[d]);
    }
    const char *kept = offset.n ? mth__format(h->arena, "offset_dims = [%s], ", offset.at) : "";
    return mth__hlo_line(h, x.dtype, to,
        "\"stablehlo.gather\"(%s, %s) <{dimension_numbers = #stablehlo.gather<%scollapsed_slice_dims = "
        "[%d], start_index_map = [%d], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: "
        "%s>}> "
        ": (%s, %s) -> %s",
        mth__hlo_name(h->arena, x), mth__hlo_name(h->arena, index), kept, dim, dim, size.at,
        mth__hlo_type(h->arena, x.dtype, x.shape), mth__hlo_type(h->arena, MTH_INT32, index.shape),
        mth__hlo_type(h->arena, x.dtype, to));
}

/* ---------------------------------------------------------------- parts of a dimension */
typedef struct {
    const mth__hlo_groups *g;
    const mth__hlo_part *parts, *whole;
    int dim;
    bool join;
    int64_t n;
} order;

/* All members of a group hold the same of `whole`: the first speaks for them. Where element l of rank r stands in it.
 */
static int64_t place(const order *o, const int *member, int rank, int64_t l) {
    int p = member[rank], first = member[0], d = o->dim;
    return (o->parts->start[p][d] + l * o->parts->step[p][d] - o->whole->start[first][d]) / o->whole->step[first][d];
}

/* Do the real elements of each group stand where they are to stand, so that only the padding at the end differs? */
static bool in_place(const order *o) {
    int64_t piece = o->parts->local.dim[o->dim];
    for (int k = 0; k < o->g->count; k++) {
        const int *member = o->g->member + k * o->g->size;
        for (int r = 0; r < o->g->size; r++) {
            int64_t size = o->parts->size[member[r]][o->dim];
            if (size && (place(o, member, r, 0) != r * piece || place(o, member, r, size - 1) != r * piece + size - 1))
                return false;
        }
    }
    return true;
}

/* Writes where each element comes from for one group; the entries of padding stay. */
static void fill_row(const order *o, int group, int64_t *row) {
    int64_t piece = o->parts->local.dim[o->dim];
    const int *member = o->g->member + group * o->g->size;
    for (int r = 0; r < o->g->size; r++)
        for (int64_t l = 0; l < o->parts->size[member[r]][o->dim]; l++) {
            int64_t in_parts = r * piece + l, in_whole = place(o, member, r, l);
            row[o->join ? in_whole : in_parts] = o->join ? in_parts : in_whole;
        }
}

static mth__hlo_val index_of(mth__hlo *h, const order *o) {
    /* one row serves all groups where they agree on what is real: padding takes what another group has there */
    int64_t *common = NEW_ARRAY(h->arena, int64_t, o->n), *row = NEW_ARRAY(h->arena, int64_t, o->n);
    for (int64_t i = 0; i < o->n; i++) common[i] = -1;
    bool agree = true;
    for (int k = 0; agree && k < o->g->count; k++) {
        for (int64_t i = 0; i < o->n; i++) row[i] = -1;
        fill_row(o, k, row);
        for (int64_t i = 0; agree && i < o->n; i++) {
            agree = row[i] < 0 || common[i] < 0 || row[i] == common[i];
            if (common[i] < 0) common[i] = row[i];
        }
    }
    if (agree) {
        for (int64_t i = 0; i < o->n; i++)
            if (common[i] < 0) common[i] = 0;
        return mth__hlo_ints(h, MTH_INT32, (mth__shape){1, {o->n}}, common);
    }
    int64_t *rows = NEW_ARRAY(h->arena, int64_t, h->partitions * o->n);
    for (int k = 0; k < o->g->count; k++)
        for (int r = 0; r < o->g->size; r++) fill_row(o, k, rows + o->g->member[k * o->g->size + r] * o->n);
    return mth__hlo_row_by_partition(h, rows, o->n);
}

mth__hlo_val mth__hlo_join_parts(mth__hlo *h, const mth__hlo_groups *g, mth__hlo_val x, int dim,
    const mth__hlo_part *parts, const mth__hlo_part *whole) {
    order o = {g, parts, whole, dim, true, whole->local.dim[dim]};
    return in_place(&o) ? mth__hlo_slice(h, x, dim, 0, o.n) : mth__hlo_take(h, x, dim, index_of(h, &o));
}

mth__hlo_val mth__hlo_cut_parts(mth__hlo *h, const mth__hlo_groups *g, mth__hlo_val x, int dim,
    const mth__hlo_part *whole, const mth__hlo_part *parts) {
    order o = {g, parts, whole, dim, false, g->size * parts->local.dim[dim]};
    return in_place(&o) ? mth__hlo_pad(h, x, dim, 0, o.n - x.shape.dim[dim], 0)
                        : mth__hlo_take(h, x, dim, index_of(h, &o));
}
