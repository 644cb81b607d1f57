#include "engine/pjrt/hlo_group.h"

int mth__hlo_partition_of(const mth__hlo *hlo, int32_t device) {
    int low = 0, high = hlo->partitions;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (hlo->device[middle] <= device)
            low = middle;
        else
            high = middle;
    }
    return low;
}

mth__hlo_groups mth__hlo_groups_of(mth__hlo *hlo, const mth__channel *channel) {
    mth__hlo_groups groups = {.size = mth__channel_size(channel),
        .member = NEW_ARRAY(hlo->arena, int, hlo->partitions),
        .rank = NEW_ARRAY(hlo->arena, int, hlo->partitions)};
    int32_t *device = NEW_ARRAY(hlo->arena, int32_t, groups.size);
    for (int partition = 0; partition < hlo->partitions; partition++) groups.rank[partition] = -1;
    for (int partition = 0; partition < hlo->partitions; partition++) {
        int32_t d = hlo->device[partition];
        bool takes_part =
            channel->from.on->rank_of[d] >= 0 || (channel->kind == MTH__BROADCAST && channel->to.on->rank_of[d] >= 0);
        if (!takes_part || groups.rank[partition] >= 0) continue;
        mth__channel_group(channel, d, device);
        for (int rank = 0; rank < groups.size; rank++) {
            int member = mth__hlo_partition_of(hlo, device[rank]);
            groups.member[groups.count * groups.size + rank] = member;
            groups.rank[member] = rank;
        }
        groups.count++;
    }
    return groups;
}

mth__hlo_val mth__hlo_permute(mth__hlo *hlo, mth__hlo_val x, const char *pairs, int count) {
    const char *type = mth__hlo_type(hlo->arena, x.dtype, x.shape);
    return mth__hlo_line(hlo, x.dtype, x.shape,
        "\"stablehlo.collective_permute\"(%s) <{source_target_pairs = dense<[%s]> : tensor<%dx2xi64>}> : "
        "(%s) -> %s",
        mth__hlo_name(hlo->arena, x), pairs, count, type, type);
}

const char *mth__hlo_reduction(const mth__channel *channel) {
    return channel->reduce == MTH__REDUCE_MAX ? "maximum" : "add";
}

mth__hlo_val mth__hlo_reduced_as(mth__hlo *hlo, const mth__channel *channel, mth__hlo_val x) {
    bool reduces = channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER;
    return reduces && channel->dtype == MTH_BOOL ? mth__hlo_convert(hlo, MTH_INT32, x) : x;
}

mth__hlo_val mth__hlo_take(mth__hlo *hlo, mth__hlo_val x, int dim, mth__hlo_val index) {
    mth__text offset = mth__text_new(hlo->arena), size = mth__text_new(hlo->arena);
    mth__shape to = x.shape;
    to.dim[dim] = index.shape.dim[0];
    for (int d = 0; d < x.shape.rank; d++) {
        if (d != dim) mth__text_add(&offset, "%s%d", offset.n ? ", " : "", d);
        mth__text_add(&size, "%s%lld", d ? ", " : "", d == dim ? 1 : (long long)x.shape.dim[d]);
    }
    const char *kept = offset.n ? mth__format(hlo->arena, "offset_dims = [%s], ", offset.at) : "";
    return mth__hlo_line(hlo, x.dtype, to,
        "\"stablehlo.gather\"(%s, %s) <{dimension_numbers = #stablehlo.gather<%scollapsed_slice_dims = "
        "[%d], start_index_map = [%d], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: "
        "%s>}> "
        ": (%s, %s) -> %s",
        mth__hlo_name(hlo->arena, x), mth__hlo_name(hlo->arena, index), kept, dim, dim, size.at,
        mth__hlo_type(hlo->arena, x.dtype, x.shape), mth__hlo_type(hlo->arena, MTH_INT32, index.shape),
        mth__hlo_type(hlo->arena, x.dtype, to));
}

/* ---------------------------------------------------------------- parts of a dimension */
typedef struct {
    const mth__hlo_groups *groups;
    const mth__hlo_part *parts, *whole;
    int dim;
    bool join;
    int64_t n;
} order;

/* The place in `whole` of the element that has the index `local` in the part of a rank. All members of a group hold the
   same part of `whole`, so the first member is asked. */
static int64_t place(const order *layout, const int *member, int rank, int64_t local) {
    int own = member[rank], first = member[0], d = layout->dim;
    return (layout->parts->start[own][d] + local * layout->parts->step[own][d] - layout->whole->start[first][d]) /
        layout->whole->step[first][d];
}

/* Whether the real elements of each group already stand in their places, so that only padding at the end differs. */
static bool in_place(const order *layout) {
    int64_t piece = layout->parts->local.dim[layout->dim];
    for (int k = 0; k < layout->groups->count; k++) {
        const int *member = layout->groups->member + k * layout->groups->size;
        for (int rank = 0; rank < layout->groups->size; rank++) {
            int64_t size = layout->parts->size[member[rank]][layout->dim];
            if (size &&
                (place(layout, member, rank, 0) != rank * piece ||
                    place(layout, member, rank, size - 1) != rank * piece + size - 1))
                return false;
        }
    }
    return true;
}

/* Writes where each element comes from for one group; the entries of padding stay. */
static void fill_row(const order *layout, int group, int64_t *row) {
    int64_t piece = layout->parts->local.dim[layout->dim];
    const int *member = layout->groups->member + group * layout->groups->size;
    for (int rank = 0; rank < layout->groups->size; rank++)
        for (int64_t local = 0; local < layout->parts->size[member[rank]][layout->dim]; local++) {
            int64_t in_parts = rank * piece + local, in_whole = place(layout, member, rank, local);
            row[layout->join ? in_whole : in_parts] = layout->join ? in_parts : in_whole;
        }
}

static mth__hlo_val index_of(mth__hlo *hlo, const order *layout) {
    /* Groups share one row of indices where they agree on all real elements. An element that is padding in one group
       then reads what another group has there, since the contents of padding do not matter. */
    int64_t *common = NEW_ARRAY(hlo->arena, int64_t, layout->n), *row = NEW_ARRAY(hlo->arena, int64_t, layout->n);
    for (int64_t i = 0; i < layout->n; i++) common[i] = -1;
    bool agree = true;
    for (int k = 0; agree && k < layout->groups->count; k++) {
        for (int64_t i = 0; i < layout->n; i++) row[i] = -1;
        fill_row(layout, k, row);
        for (int64_t i = 0; agree && i < layout->n; i++) {
            agree = row[i] < 0 || common[i] < 0 || row[i] == common[i];
            if (common[i] < 0) common[i] = row[i];
        }
    }
    if (agree) {
        for (int64_t i = 0; i < layout->n; i++)
            if (common[i] < 0) common[i] = 0;
        return mth__hlo_ints(hlo, MTH_INT32, (mth__shape){1, {layout->n}}, common);
    }
    int64_t *rows = NEW_ARRAY(hlo->arena, int64_t, hlo->partitions * layout->n);
    for (int k = 0; k < layout->groups->count; k++)
        for (int rank = 0; rank < layout->groups->size; rank++)
            fill_row(layout, k, rows + layout->groups->member[k * layout->groups->size + rank] * layout->n);
    return mth__hlo_row_by_partition(hlo, rows, layout->n);
}

mth__hlo_val mth__hlo_join_parts(mth__hlo *hlo, const mth__hlo_groups *groups, mth__hlo_val x, int dim,
    const mth__hlo_part *parts, const mth__hlo_part *whole) {
    order layout = {groups, parts, whole, dim, true, whole->local.dim[dim]};
    return in_place(&layout) ? mth__hlo_slice(hlo, x, dim, 0, layout.n)
                             : mth__hlo_take(hlo, x, dim, index_of(hlo, &layout));
}

mth__hlo_val mth__hlo_cut_parts(mth__hlo *hlo, const mth__hlo_groups *groups, mth__hlo_val x, int dim,
    const mth__hlo_part *whole, const mth__hlo_part *parts) {
    order layout = {groups, parts, whole, dim, false, groups->size * parts->local.dim[dim]};
    return in_place(&layout) ? mth__hlo_pad(hlo, x, dim, 0, layout.n - x.shape.dim[dim], 0)
                             : mth__hlo_take(hlo, x, dim, index_of(hlo, &layout));
}
