/* Rows that read or write by id, and those whose values come from positions. */
#include "engine/pjrt/hlo_index.h"
#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------- reading and writing by index */
mth__hlo_val mth__hlo_spread(mth__hlo *hlo, mth__hlo_val scalar, mth__shape to) {
    return mth__hlo_broadcast(hlo, scalar, to, NULL);
}

mth__hlo_place mth__hlo_locate(mth__hlo *hlo, const mth__hlo_part *part, int dim, mth__hlo_val global) {
    int64_t *step = NEW_ARRAY(hlo->arena, int64_t, hlo->partitions);
    bool cyclic = false, moved = false;
    for (int partition = 0; partition < hlo->partitions; partition++) {
        step[partition] = part->step[partition][dim];
        cyclic |= step[partition] != 1;
        moved |= part->start[partition][dim] != 0;
    }
    const mth__shape shape = global.shape;
    mth__hlo_val at = moved
        ? mth__hlo_binary(hlo, "subtract", global, mth__hlo_spread(hlo, mth__hlo_start(hlo, part, dim), shape))
        : global;
    mth__hlo_val here = mth__hlo_compare(hlo, "GE", at, mth__hlo_splat(hlo, MTH_INT32, shape, 0));
    if (cyclic) {
        mth__hlo_val by = mth__hlo_spread(hlo, mth__hlo_by_partition(hlo, step), shape),
                     element = mth__hlo_binary(hlo, "divide", at, by);
        here = mth__hlo_binary(
            hlo, "and", here, mth__hlo_compare(hlo, "EQ", mth__hlo_binary(hlo, "multiply", element, by), at));
        at = element;
    }
    mth__hlo_val size = mth__hlo_spread(hlo, mth__hlo_size(hlo, part, dim), shape);
    return (mth__hlo_place){at, mth__hlo_binary(hlo, "and", here, mth__hlo_compare(hlo, "LT", at, size))};
}

static mth__shape joined(mth__shape a, mth__shape b, int from) { /* a's dimensions, then b's from one on */
    for (int d = from; d < b.rank; d++) a.dim[a.rank++] = b.dim[d];
    return a;
}
static const char *dims_text(mth__hlo *hlo, int from, int to) { /* "1, 2" */
    mth__text text = mth__text_new(hlo->arena);
    mth__text_add(&text, "%s", "");
    for (int d = from; d < to; d++) mth__text_add(&text, "%s%d", d > from ? ", " : "", d);
    return text.at;
}
static const char *type(mth__hlo *hlo, mth__hlo_val value) {
    return mth__hlo_type(hlo->arena, value.dtype, value.shape);
}
static const char *name(mth__hlo *hlo, mth__hlo_val value) { return mth__hlo_name(hlo->arena, value); }
static mth__hlo_val flat(mth__hlo *hlo, mth__hlo_val value) {
    return mth__hlo_reshape(hlo, value, (mth__shape){1, {mth__shape_size(value.shape)}});
}

mth__hlo_val mth__hlo_lookup(mth__hlo *hlo, mth__hlo_val table, mth__hlo_val index) {
    const mth__shape to = joined(index.shape, table.shape, 1);
    if (!mth__shape_size(to) || !table.shape.dim[0]) return mth__hlo_splat(hlo, table.dtype, to, 0);
    mth__hlo_val flattened = flat(hlo, index);
    const mth__shape rows = joined(flattened.shape, table.shape, 1);
    mth__text sizes = mth__text_new(hlo->arena);
    mth__text_add(&sizes, "1");
    for (int d = 1; d < table.shape.rank; d++) mth__text_add(&sizes, ", %lld", (long long)table.shape.dim[d]);
    const char *offset =
        rows.rank > 1 ? mth__format(hlo->arena, "offset_dims = [%s], ", dims_text(hlo, 1, rows.rank)) : "";
    mth__hlo_val y = mth__hlo_line(hlo, table.dtype, rows,
        "\"stablehlo.gather\"(%s, %s) <{dimension_numbers = #stablehlo.gather<%scollapsed_slice_dims = [0], "
        "start_index_map = [0], "
        "index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: %s>}> : (%s, %s) -> %s",
        name(hlo, table), name(hlo, flattened), offset, sizes.at, type(hlo, table), type(hlo, flattened),
        mth__hlo_type(hlo->arena, table.dtype, rows));
    return mth__hlo_reshape(hlo, y, to);
}

mth__hlo_val mth__hlo_put(
    mth__hlo *hlo, mth__hlo_put_kind kind, mth__hlo_val x, mth__hlo_place place, mth__hlo_val rows) {
    if (!mth__shape_size(rows.shape) || !mth__shape_size(x.shape)) return x;
    mth__hlo_val nowhere = mth__hlo_splat(hlo, MTH_INT32, place.at.shape, (double)x.shape.dim[0]);
    mth__hlo_val flattened = flat(hlo, mth__hlo_select(hlo, place.here, place.at, nowhere));
    rows = mth__hlo_reshape(hlo, rows, joined(flattened.shape, x.shape, 1));
    const char *window = rows.shape.rank > 1
        ? mth__format(hlo->arena, "update_window_dims = [%s], ", dims_text(hlo, 1, rows.shape.rank))
        : "";
    const char *one = mth__hlo_type(hlo->arena, x.dtype, (mth__shape){0});
    const char *combine =
        kind == MTH__HLO_ADD ? mth__format(hlo->arena, "      %%sum = stablehlo.add %%old, %%new : %s\n", one) : "";
    return mth__hlo_line(hlo, x.dtype, x.shape,
        "\"stablehlo.scatter\"(%s, %s, %s) <{indices_are_sorted = false, scatter_dimension_numbers = "
        "#stablehlo.scatter<%s"
        "inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = "
        "false}> ({\n"
        "    ^bb0(%%old: %s, %%new: %s):\n%s      stablehlo.return %s : %s\n    }) : (%s, %s, %s) -> %s",
        name(hlo, x), name(hlo, flattened), name(hlo, rows), window, one, one, combine,
        kind == MTH__HLO_ADD ? "%sum" : "%new", one, type(hlo, x), type(hlo, flattened), type(hlo, rows), type(hlo, x));
}

mth__hlo_val mth__hlo_start_of(mth__hlo_call *call, int k) {
    const mth__hlo_val *sum = call->sum[k];
    call->sum[k] = NULL;
    return sum ? *sum : mth__hlo_splat(call->hlo, call->out[k].part->dtype, call->out[k].part->local, 0);
}

/* ---------------------------------------------------------------- ids */
mth__hlo_val mth__hlo_narrow(mth__hlo *hlo, mth__hlo_val ids) {
    if (ids.dtype == MTH_INT32) return ids;
    ids = mth__hlo_binary_scalar(hlo, "maximum", mth__hlo_binary_scalar(hlo, "minimum", ids, INT32_MAX), INT32_MIN);
    return mth__hlo_convert(hlo, MTH_INT32, ids);
}
void mth__hlo_report(mth__hlo *hlo, const mth__hlo_part *part, mth__hlo_val bad, mth__hlo_val value, int64_t limit) {
    const unsigned all = (1u << value.shape.rank) - 1;
    if (mth__hlo_is_padded(part, all)) bad = mth__hlo_binary(hlo, "and", bad, mth__hlo_mask(hlo, part, all));
    /* One reduction finds whether a value is bad, and which. INT32_MIN stands for no bad one; INT32_MIN itself is
       reported as INT32_MIN + 1. */
    mth__hlo_val told = mth__hlo_binary_scalar(hlo, "maximum", value, INT32_MIN + 1),
                 none = mth__hlo_splat(hlo, MTH_INT32, value.shape, INT32_MIN);
    told = mth__hlo_select(hlo, bad, told, none);
    mth__hlo_val worst = mth__hlo_reshape(hlo, mth__hlo_reduce(hlo, "maximum", told, all, false), (mth__shape){1, {1}});
    mth__hlo_val any = mth__hlo_compare(hlo, "NE", worst, mth__hlo_splat(hlo, MTH_INT32, worst.shape, INT32_MIN));
    mth__hlo_val pair[2] = {mth__hlo_convert(hlo, MTH_INT32, any), worst};
    PUSH(hlo->arena, hlo->check, (struct mth__hlo_check){mth__hlo_concat(hlo, 2, pair, 0), hlo->instr, limit});
}
/* The operand's ids, and the run-time check that all real ones are in [0, limit). */
static mth__hlo_val checked_ids(mth__hlo *hlo, const mth__hlo_operand *ids, int64_t limit) {
    const mth__shape shape = ids->value.shape;
    mth__hlo_val id = mth__hlo_narrow(hlo, ids->value),
                 bad = mth__hlo_compare(hlo, "LT", id, mth__hlo_splat(hlo, MTH_INT32, shape, 0));
    if (limit <= INT32_MAX)
        bad = mth__hlo_binary(
            hlo, "or", bad, mth__hlo_compare(hlo, "GE", id, mth__hlo_splat(hlo, MTH_INT32, shape, (double)limit)));
    mth__hlo_report(hlo, ids->part, bad, id, limit);
    return id;
}
/* x[i..., w...] where here[i...] is true, else 0. */
static mth__hlo_val zero_unless(mth__hlo *hlo, mth__hlo_val here, mth__hlo_val x) {
    int dims[MTH__RANK];
    for (int d = 0; d < here.shape.rank; d++) dims[d] = d;
    return mth__hlo_select(
        hlo, mth__hlo_broadcast(hlo, here, x.shape, dims), x, mth__hlo_splat(hlo, x.dtype, x.shape, 0));
}

void mth__hlo_gather(mth__hlo_call *call) {
    const mth__hlo_place at = mth__hlo_locate(
        call->hlo, call->in[0].part, 0, checked_ids(call->hlo, &call->in[1], call->in[0].part->shape.dim[0]));
    call->out[0].value = zero_unless(call->hlo, at.here, mth__hlo_lookup(call->hlo, call->in[0].value, at.at));
}
/* Scattered, not a product with a one-hot matrix: 8 times faster on CPUs at a vocabulary of 30000, and never slower. */
void mth__hlo_gather_grad(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_operand *ids = &call->in[0];
    mth__hlo_place at = mth__hlo_locate(hlo, call->out[0].part, 0, checked_ids(hlo, ids, call->attrs->rows));
    const unsigned all = (1u << ids->value.shape.rank) - 1;
    if (mth__hlo_is_padded(ids->part, all))
        at.here = mth__hlo_binary(hlo, "and", at.here, mth__hlo_mask(hlo, ids->part, all));
    call->out[0].value = mth__hlo_put(hlo, MTH__HLO_ADD, mth__hlo_start_of(call, 0), at, call->in[1].value);
}
void mth__hlo_pick(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    mth__hlo_val x = call->in[0].value;
    const int last = x.shape.rank - 1;
    const mth__hlo_place at =
        mth__hlo_locate(hlo, call->in[0].part, last, checked_ids(hlo, &call->in[1], call->in[0].part->shape.dim[last]));
    const mth__shape ids = at.at.shape;
    const int64_t n = mth__shape_size(ids), width = x.shape.dim[last];
    if (!n || !width) {
        call->out[0].value = mth__hlo_splat(hlo, x.dtype, ids, 0);
        return;
    }
    /* Two coordinates: a flat index could pass 2^31. */
    const mth__shape column = {2, {n, 1}};
    mth__hlo_val index[2] = {mth__hlo_iota(hlo, MTH_INT32, column, 0), mth__hlo_reshape(hlo, at.at, column)};
    mth__hlo_val pair = mth__hlo_concat(hlo, 2, index, 1);
    x = mth__hlo_reshape(hlo, x, (mth__shape){2, {n, width}});
    mth__hlo_val y = mth__hlo_line(hlo, x.dtype, (mth__shape){1, {n}},
        "\"stablehlo.gather\"(%s, %s) <{dimension_numbers = #stablehlo.gather<collapsed_slice_dims = [0, 1], "
        "start_index_map = [0, 1], "
        "index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: 1, 1>}> : (%s, %s) -> %s",
        name(hlo, x), name(hlo, pair), type(hlo, x), type(hlo, pair),
        mth__hlo_type(hlo->arena, x.dtype, (mth__shape){1, {n}}));
    call->out[0].value = zero_unless(hlo, at.here, mth__hlo_reshape(hlo, y, ids));
}
/* Each element of the result compares its index with the id. XLA fuses the comparison with what comes next. */
void mth__hlo_pick_grad(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_part *out = call->out[0].part;
    const int last = out->local.rank - 1;
    int dims[MTH__RANK];
    for (int d = 0; d < last; d++) dims[d] = d;
    mth__hlo_val id = mth__hlo_broadcast(hlo, checked_ids(hlo, &call->in[0], call->attrs->size), out->local, dims);
    mth__hlo_val index = mth__hlo_broadcast(hlo, mth__hlo_index(hlo, out, last), out->local, &last);
    mth__hlo_val dy = mth__hlo_broadcast(hlo, call->in[1].value, out->local, dims);
    call->out[0].value =
        mth__hlo_select(hlo, mth__hlo_compare(hlo, "EQ", id, index), dy, mth__hlo_splat(hlo, dy.dtype, out->local, 0));
}

/* ---------------------------------------------------------------- positions
   An angle is position * frequency; in float32 a position of 10^5 would lose all digits of the fast columns, and TPUs
   have no float64. So angles are 64-bit integers, in units of 2^-64 turns, where a product that wraps drops just the
   whole turns. What is left is in [-1/2, 1/2) turns, as exact as float32 can say it; a quarter turn makes a sine a
   cosine. The text has a number for each frequency. */
static int64_t turns(double frequency) { /* radians */
    const double turn = frequency / (2 * M_PI), part = turn - floor(turn);
    return (int64_t)(part < 0.5 ? ldexp(part, 64) : ldexp(part - 1, 64));
}
static const double quarter = 0x1p62;
static mth__hlo_val sine(mth__hlo *hlo, mth__hlo_val angle) {
    mth__hlo_val x = mth__hlo_convert(hlo, MTH_FLOAT32, angle);
    return mth__hlo_unary(hlo, "sine", mth__hlo_binary_scalar(hlo, "multiply", x, ldexp(2 * M_PI, -64)));
}
/* [s] i32, [n] i64 -> [s, n] */
static mth__hlo_val angles(mth__hlo *hlo, mth__hlo_val position, mth__hlo_val frequency) {
    const mth__shape shape = {2, {position.shape.dim[0], frequency.shape.dim[0]}};
    return mth__hlo_binary(hlo, "multiply",
        mth__hlo_broadcast(hlo, mth__hlo_convert(hlo, MTH_INT64, position), shape, (int[]){0}),
        mth__hlo_broadcast(hlo, frequency, shape, (int[]){1}));
}
/* base^(-2j / width) */
static mth__hlo_val frequencies(mth__hlo *hlo, double base, int64_t count, int64_t width) {
    int64_t *table = NEW_ARRAY(hlo->arena, int64_t, count);
    for (int64_t j = 0; j < count; j++) table[j] = turns(pow(base, -2.0 * (double)j / (double)width));
    return mth__hlo_ints(hlo, MTH_INT64, (mth__shape){1, {count}}, table);
}

void mth__hlo_sinusoid(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_part *part = call->out[0].part;
    const int64_t width = part->shape.dim[1];
    mth__hlo_val column = mth__hlo_index(hlo, part, 1),
                 odd = mth__hlo_convert(hlo, MTH_INT64, mth__hlo_binary_scalar(hlo, "and", column, 1));
    mth__hlo_val pair = mth__hlo_binary_scalar(hlo, "divide", column, 2),
                 ahead = mth__hlo_binary_scalar(hlo, "multiply", odd, quarter);
    mth__hlo_val frequency = mth__hlo_lookup(hlo, frequencies(hlo, 10000, (width + 1) / 2, width), pair);
    mth__hlo_val angle = angles(hlo, mth__hlo_index(hlo, part, 0), frequency);
    call->out[0].value =
        sine(hlo, mth__hlo_binary(hlo, "add", angle, mth__hlo_broadcast(hlo, ahead, angle.shape, (int[]){1})));
}

/* x * cosine + (x with its pairs swapped) * (-sine, sine). A sine that could be fused into the product would be
   computed again for every head on CPUs; the concatenations that make tables of full width stop that (4 times faster at
   8 heads of 128). */
void mth__hlo_rope(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_part *part = call->in[0].part;
    /* interleaved: (j, 2), else (2, j) */
    const int axis = (int)call->attrs->dimension, last = part->local.rank - 1, pair = call->attrs->interleaved ? 4 : 3;
    const int64_t length = part->local.dim[axis], d = part->local.dim[last], half = d / 2;
    /* outer, sequence, inner, width */
    mth__shape x4 = {4, {1, length, 1, d}}, pairs = {5, {0}}, table = {2, {length, d}};
    for (int i = 0; i < axis; i++) x4.dim[0] *= part->local.dim[i];
    for (int i = axis + 1; i < last; i++) x4.dim[2] *= part->local.dim[i];
    memcpy(pairs.dim, x4.dim, 3 * sizeof *pairs.dim);
    pairs.dim[7 - pair] = half;
    pairs.dim[pair] = 2;

    /* [s, j] */
    mth__hlo_val angle = angles(hlo, mth__hlo_index(hlo, part, axis), frequencies(hlo, call->attrs->base, half, d));
    mth__hlo_val sines = sine(hlo, angle), cosines = sine(hlo, mth__hlo_binary_scalar(hlo, "add", angle, quarter)),
                 minus = mth__hlo_unary(hlo, "negate", sines);
    if (pair == 4) {
        const mth__shape column = {3, {length, half, 1}};
        sines = mth__hlo_reshape(hlo, sines, column);
        cosines = mth__hlo_reshape(hlo, cosines, column);
        minus = mth__hlo_reshape(hlo, minus, column);
    }
    const bool inverse = call->attrs->inverse;
    sines = mth__hlo_concat(hlo, 2, (mth__hlo_val[]){inverse ? sines : minus, inverse ? minus : sines}, pair - 2);
    cosines = mth__hlo_concat(hlo, 2, (mth__hlo_val[]){cosines, cosines}, pair - 2);

    mth__hlo_val x = mth__hlo_reshape(hlo, call->in[0].value, x4), swapped = mth__hlo_reshape(hlo, x, pairs);
    swapped = mth__hlo_line(
        hlo, x.dtype, pairs, "stablehlo.reverse %s, dims = [%d] : %s", name(hlo, swapped), pair, type(hlo, swapped));
    mth__hlo_val y[2] = {x, mth__hlo_reshape(hlo, swapped, x4)}, by[2] = {cosines, sines};
    for (int i = 0; i < 2; i++) {
        mth__hlo_val factor = mth__hlo_convert(hlo, x.dtype, mth__hlo_reshape(hlo, by[i], table));
        y[i] = mth__hlo_binary(hlo, "multiply", y[i], mth__hlo_broadcast(hlo, factor, x4, (int[]){1, 3}));
    }
    call->out[0].value = mth__hlo_reshape(hlo, mth__hlo_binary(hlo, "add", y[0], y[1]), part->local);
}
