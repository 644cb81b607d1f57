#include "engine/pjrt/hlo.h"

static bool all_equal(const int64_t *values, int64_t count) {
    for (int64_t i = 1; i < count; i++)
        if (values[i] != values[0]) return false;
    return true;
}

/* No row asks for it inside a region, so the line that is written at the first call stands before all its uses. */
static mth__hlo_val partition(mth__hlo *hlo) {
    if (hlo->told_apart) return hlo->partition;
    hlo->told_apart = true;
    mth__hlo_val id = mth__hlo_line(hlo, MTH_INT32, (mth__shape){0}, "stablehlo.replica_id : tensor<ui32>");
    return hlo->partition = mth__hlo_line(hlo, MTH_INT32, (mth__shape){0},
               "stablehlo.convert %s : (tensor<ui32>) -> tensor<i32>", mth__hlo_name(hlo->arena, id));
}

mth__hlo_val mth__hlo_row_by_partition(mth__hlo *hlo, const int64_t *values, int64_t n) {
    const mth__shape row = {1, {n}};
    bool same = true;
    for (int64_t i = n; i < hlo->partitions * n; i++) same &= values[i] == values[i - n];
    if (same) return mth__hlo_ints(hlo, MTH_INT32, row, values);
    mth__hlo_val table = mth__hlo_ints(hlo, MTH_INT32, (mth__shape){2, {hlo->partitions, n}}, values);
    mth__hlo_val start[2] = {partition(hlo), mth__hlo_scalar_i32(hlo, 0)};
    return mth__hlo_reshape(hlo, mth__hlo_dynamic_slice(hlo, table, start, (mth__shape){2, {1, n}}), row);
}

mth__hlo_val mth__hlo_by_partition(mth__hlo *hlo, const int64_t *values) {
    if (all_equal(values, hlo->partitions)) return mth__hlo_scalar_i32(hlo, values[0]);
    return mth__hlo_reshape(hlo, mth__hlo_row_by_partition(hlo, values, 1), (mth__shape){0});
}

typedef int64_t by_dim[MTH__RANK];
static mth__hlo_val column(mth__hlo *hlo, const by_dim *of, int dim) {
    int64_t *values = NEW_ARRAY(hlo->arena, int64_t, hlo->partitions);
    for (int partition = 0; partition < hlo->partitions; partition++) values[partition] = of[partition][dim];
    return mth__hlo_by_partition(hlo, values);
}

mth__hlo_val mth__hlo_start(mth__hlo *hlo, const mth__hlo_part *part, int dim) {
    return column(hlo, (const by_dim *)part->start, dim);
}
mth__hlo_val mth__hlo_size(mth__hlo *hlo, const mth__hlo_part *part, int dim) {
    return column(hlo, (const by_dim *)part->size, dim);
}

static mth__hlo_val spread(mth__hlo *hlo, mth__hlo_val scalar, mth__shape to) {
    return mth__hlo_broadcast(hlo, scalar, to, NULL);
}

mth__hlo_val mth__hlo_index(mth__hlo *hlo, const mth__hlo_part *part, int dim) {
    const mth__shape line = {1, {part->local.dim[dim]}};
    mth__hlo_val index = mth__hlo_iota(hlo, MTH_INT32, line, 0);
    int64_t *step = NEW_ARRAY(hlo->arena, int64_t, hlo->partitions);
    for (int partition = 0; partition < hlo->partitions; partition++) step[partition] = part->step[partition][dim];
    if (!all_equal(step, hlo->partitions) || step[0] != 1)
        index = mth__hlo_binary(hlo, "multiply", index, spread(hlo, mth__hlo_by_partition(hlo, step), line));
    return mth__hlo_binary(hlo, "add", index, spread(hlo, mth__hlo_start(hlo, part, dim), line));
}

bool mth__hlo_is_padded(const mth__hlo_part *part, unsigned dims) {
    for (int d = 0; d < part->local.rank; d++)
        if (dims >> d & 1 && part->padded[d]) return true;
    return false;
}

mth__hlo_val mth__hlo_mask(mth__hlo *hlo, const mth__hlo_part *part, unsigned dims) {
    mth__hlo_val all = {0};
    bool any = false;
    for (int d = 0; d < part->local.rank; d++) {
        if (!(dims >> d & 1) || !part->padded[d]) continue;
        const mth__shape line = {1, {part->local.dim[d]}};
        mth__hlo_val real = mth__hlo_compare(
            hlo, "LT", mth__hlo_iota(hlo, MTH_INT32, line, 0), spread(hlo, mth__hlo_size(hlo, part, d), line));
        real = mth__hlo_broadcast(hlo, real, part->local, &d);
        all = any ? mth__hlo_binary(hlo, "and", all, real) : real;
        any = true;
    }
    return any ? all : mth__hlo_splat(hlo, MTH_BOOL, part->local, 1);
}

mth__hlo_val mth__hlo_fill_padding(
    mth__hlo *hlo, mth__hlo_val x, const mth__hlo_part *part, unsigned dims, double value) {
    if (!mth__hlo_is_padded(part, dims)) return x;
    return mth__hlo_select(hlo, mth__hlo_mask(hlo, part, dims), x, mth__hlo_splat(hlo, x.dtype, x.shape, value));
}
