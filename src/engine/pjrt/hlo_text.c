#include "engine/pjrt/hlo.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *mth__hlo_type(mth__arena *arena, mth_dtype dtype, mth__shape shape) {
    char text[256];
    size_t n = 0;
    for (int d = 0; d < shape.rank; d++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%lldx", (long long)shape.dim[d]);
    snprintf(text + n, sizeof text - n, "%s", mth__dtypes[dtype].xla);
    return mth__format(arena, "tensor<%s>", text);
}

static const char *type_of(mth__hlo *hlo, mth__hlo_val v) { return mth__hlo_type(hlo->arena, v.dtype, v.shape); }

/* Results of an operation that has several are numbered from one id on: their names are remembered as ids below ID_PART
 * * id. */
enum { ID_PART = 1 << 24 }; /* id = group * 1 + result * ID_PART: "%group#result" */

const char *mth__hlo_name(mth__arena *arena, mth__hlo_val v) {
    if (v.id < 0) return mth__format(arena, "%%arg%d", -1 - v.id);
    if (v.id >= ID_PART) return mth__format(arena, "%%%d#%d", v.id % ID_PART, v.id / ID_PART - 1);
    return mth__format(arena, "%%%d", v.id);
}

static const char *name(mth__hlo *hlo, mth__hlo_val v) { return mth__hlo_name(hlo->arena, v); }

static void add_text(mth__hlo *hlo, const char *text) {
    for (const char *letter = text; *letter; letter++) hlo->line += *letter == '\n';
    mth__text_add(&hlo->body, "%s", text);
}

static char *format_list(mth__arena *arena, const char *format, va_list list) {
    va_list again;
    va_copy(again, list);
    int n = mth__vprint(NULL, 0, format, list);
    char *text = mth__alloc(arena, (size_t)n + 1);
    mth__vprint(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

mth__hlo_val mth__hlo_line(mth__hlo *hlo, mth_dtype dtype, mth__shape shape, const char *format, ...) {
    va_list list;
    va_start(list, format);
    const char *text = format_list(hlo->arena, format, list);
    va_end(list);
    mth__hlo_val v = {hlo->next++, dtype, shape};
    add_text(hlo, mth__format(hlo->arena, "    %%%d = ", v.id));
    add_text(hlo, text);
    add_text(hlo, "\n");
    return v;
}

void mth__hlo_lines(
    mth__hlo *hlo, int n, const mth_dtype *dtype, const mth__shape *shape, mth__hlo_val *out, const char *format, ...) {
    va_list list;
    va_start(list, format);
    const char *text = format_list(hlo->arena, format, list);
    va_end(list);
    int id = hlo->next++;
    add_text(hlo, mth__format(hlo->arena, "    %%%d:%d = ", id, n));
    add_text(hlo, text);
    add_text(hlo, "\n");
    for (int i = 0; i < n; i++) out[i] = (mth__hlo_val){id + (i + 1) * ID_PART, dtype[i], shape[i]};
}

/* ---------------------------------------------------------------- constants */
static const char *number(mth__hlo *hlo, mth_dtype dtype, double value) {
    if (dtype == MTH_BOOL) return value != 0 ? "true" : "false";
    if (!mth__is_float(dtype)) {
        int64_t whole; /* 2^63 becomes the largest that there is */
        mth__dtype_convert(MTH_FLOAT64, &value, MTH_INT64, &whole, 1);
        return mth__format(hlo->arena, "%" PRId64, whole);
    }
    if (!isfinite(value)) { /* the bits of an infinity or NaN of the dtype */
        uint64_t bits = 0;
        mth__dtype_store(dtype, &bits, 0, value);
        return mth__format(hlo->arena, "0x%0*llX", 2 * mth__dtypes[dtype].size, (unsigned long long)bits);
    }
    return mth__format(hlo->arena, "%.17e", dtype == MTH_FLOAT64 ? value : (double)(float)value);
}

mth__hlo_val mth__hlo_splat(mth__hlo *hlo, mth_dtype dtype, mth__shape shape, double value) {
    return mth__hlo_line(hlo, dtype, shape, "stablehlo.constant dense<%s> : %s", number(hlo, dtype, value),
        mth__hlo_type(hlo->arena, dtype, shape));
}

mth__hlo_val mth__hlo_scalar_i32(mth__hlo *hlo, int64_t value) {
    return mth__hlo_splat(hlo, MTH_INT32, (mth__shape){0}, (double)value);
}

mth__hlo_val mth__hlo_number(mth__hlo *hlo, int64_t value) {
    mth__hlo_val v = {-1 - (hlo->arguments + (int)hlo->number.n), MTH_INT32, {0}};
    PUSH(hlo->arena, hlo->number, value);
    return v;
}

mth__hlo_val mth__hlo_ints(mth__hlo *hlo, mth_dtype dtype, mth__shape shape, const int64_t *values) {
    const int64_t n = mth__shape_size(shape);
    bool equal = true;
    for (int64_t i = 1; i < n; i++) equal &= values[i] == values[0];
    if (equal)
        return mth__hlo_line(hlo, dtype, shape, "stablehlo.constant dense<%lld> : %s", (long long)(n ? values[0] : 0),
            mth__hlo_type(hlo->arena, dtype, shape));
    mth__text text = mth__text_new(hlo->arena);
    int64_t period[MTH__RANK + 1];
    period[shape.rank] = 1;
    for (int d = shape.rank - 1; d >= 0; d--) period[d] = period[d + 1] * shape.dim[d];
    for (int64_t i = 0; i < n; i++) {
        if (i) mth__text_add(&text, ", ");
        for (int d = 0; d < shape.rank; d++)
            if (i % period[d] == 0) mth__text_add(&text, "[");
        mth__text_add(&text, "%lld", (long long)values[i]);
        for (int d = 0; d < shape.rank; d++)
            if ((i + 1) % period[d] == 0) mth__text_add(&text, "]");
    }
    return mth__hlo_line(
        hlo, dtype, shape, "stablehlo.constant dense<%s> : %s", text.at, mth__hlo_type(hlo->arena, dtype, shape));
}

mth__hlo_val mth__hlo_iota(mth__hlo *hlo, mth_dtype dtype, mth__shape shape, int dim) {
    return mth__hlo_line(
        hlo, dtype, shape, "stablehlo.iota dim = %d : %s", dim, mth__hlo_type(hlo->arena, dtype, shape));
}

/* ---------------------------------------------------------------- elementwise */
mth__hlo_val mth__hlo_unary(mth__hlo *hlo, const char *op, mth__hlo_val x) {
    return mth__hlo_line(hlo, x.dtype, x.shape, "stablehlo.%s %s : %s", op, name(hlo, x), type_of(hlo, x));
}

mth__hlo_val mth__hlo_binary(mth__hlo *hlo, const char *op, mth__hlo_val a, mth__hlo_val b) {
    return mth__hlo_line(
        hlo, a.dtype, a.shape, "stablehlo.%s %s, %s : %s", op, name(hlo, a), name(hlo, b), type_of(hlo, a));
}

mth__hlo_val mth__hlo_binary_scalar(mth__hlo *hlo, const char *op, mth__hlo_val a, double b) {
    return mth__hlo_binary(hlo, op, a, mth__hlo_splat(hlo, a.dtype, a.shape, b));
}

mth__hlo_val mth__hlo_compare(mth__hlo *hlo, const char *direction, mth__hlo_val a, mth__hlo_val b) {
    const char *kind = mth__is_float(a.dtype) ? "FLOAT"
        : a.dtype == MTH_BOOL                 ? "UNSIGNED"
                                              : "SIGNED",
               *type = type_of(hlo, a);
    return mth__hlo_line(hlo, MTH_BOOL, a.shape, "stablehlo.compare %s, %s, %s, %s : (%s, %s) -> %s", direction,
        name(hlo, a), name(hlo, b), kind, type, type, mth__hlo_type(hlo->arena, MTH_BOOL, a.shape));
}

mth__hlo_val mth__hlo_select(mth__hlo *hlo, mth__hlo_val pred, mth__hlo_val yes, mth__hlo_val no) {
    return mth__hlo_line(hlo, yes.dtype, yes.shape, "stablehlo.select %s, %s, %s : %s, %s", name(hlo, pred),
        name(hlo, yes), name(hlo, no), type_of(hlo, pred), type_of(hlo, yes));
}

mth__hlo_val mth__hlo_convert(mth__hlo *hlo, mth_dtype dtype, mth__hlo_val x) {
    if (dtype == x.dtype) return x;
    return mth__hlo_line(hlo, dtype, x.shape, "stablehlo.convert %s : (%s) -> %s", name(hlo, x), type_of(hlo, x),
        mth__hlo_type(hlo->arena, dtype, x.shape));
}

/* ---------------------------------------------------------------- layout */
const char *mth__hlo_list(mth__arena *arena, int n, const int *at) {
    mth__text text = mth__text_new(arena);
    mth__text_add(&text, "[");
    for (int i = 0; i < n; i++) mth__text_add(&text, "%s%d", i ? ", " : "", at[i]);
    mth__text_add(&text, "]");
    return text.at;
}

mth__hlo_val mth__hlo_reshape(mth__hlo *hlo, mth__hlo_val x, mth__shape to) {
    if (mth__shape_equal(x.shape, to)) return x;
    return mth__hlo_line(hlo, x.dtype, to, "stablehlo.reshape %s : (%s) -> %s", name(hlo, x), type_of(hlo, x),
        mth__hlo_type(hlo->arena, x.dtype, to));
}

mth__hlo_val mth__hlo_transpose(mth__hlo *hlo, mth__hlo_val x, const int *permutation) {
    mth__shape to = {x.shape.rank, {0}};
    bool same = true;
    for (int d = 0; d < to.rank; d++) {
        to.dim[d] = x.shape.dim[permutation[d]];
        same &= permutation[d] == d;
    }
    if (same) return x;
    return mth__hlo_line(hlo, x.dtype, to, "stablehlo.transpose %s, dims = %s : (%s) -> %s", name(hlo, x),
        mth__hlo_list(hlo->arena, to.rank, permutation), type_of(hlo, x), mth__hlo_type(hlo->arena, x.dtype, to));
}

mth__hlo_val mth__hlo_broadcast(mth__hlo *hlo, mth__hlo_val x, mth__shape to, const int *dims) {
    bool same = mth__shape_equal(x.shape, to);
    for (int d = 0; d < x.shape.rank; d++) same &= dims[d] == d;
    if (same) return x;
    return mth__hlo_line(hlo, x.dtype, to, "stablehlo.broadcast_in_dim %s, dims = %s : (%s) -> %s", name(hlo, x),
        mth__hlo_list(hlo->arena, x.shape.rank, dims), type_of(hlo, x), mth__hlo_type(hlo->arena, x.dtype, to));
}

mth__hlo_val mth__hlo_broadcast_numpy(mth__hlo *hlo, mth__hlo_val x, mth__shape to) {
    int dims[MTH__RANK];
    for (int d = 0; d < x.shape.rank; d++) dims[d] = d + to.rank - x.shape.rank;
    return mth__hlo_broadcast(hlo, x, to, dims);
}

mth__hlo_val mth__hlo_slice(mth__hlo *hlo, mth__hlo_val x, int dim, int64_t start, int64_t stop) {
    if (start == 0 && stop == x.shape.dim[dim]) return x;
    mth__text text = mth__text_new(hlo->arena);
    for (int d = 0; d < x.shape.rank; d++)
        mth__text_add(&text, "%s%lld:%lld", d ? ", " : "", (long long)(d == dim ? start : 0),
            (long long)(d == dim ? stop : x.shape.dim[d]));
    mth__shape to = x.shape;
    to.dim[dim] = stop - start;
    return mth__hlo_line(hlo, x.dtype, to, "stablehlo.slice %s [%s] : (%s) -> %s", name(hlo, x), text.at,
        type_of(hlo, x), mth__hlo_type(hlo->arena, x.dtype, to));
}

mth__hlo_val mth__hlo_pad(mth__hlo *hlo, mth__hlo_val x, int dim, int64_t before, int64_t after, double value) {
    if (!before && !after) return x;
    mth__hlo_val filler = mth__hlo_splat(hlo, x.dtype, (mth__shape){0}, value);
    mth__shape to = x.shape;
    to.dim[dim] += before + after;
    const char *zero = mth__hlo_list(hlo->arena, x.shape.rank, (int[MTH__RANK]){0});
    mth__text low = mth__text_new(hlo->arena), high = mth__text_new(hlo->arena);
    for (int d = 0; d < x.shape.rank; d++) {
        mth__text_add(&low, "%s%lld", d ? ", " : "", (long long)(d == dim ? before : 0));
        mth__text_add(&high, "%s%lld", d ? ", " : "", (long long)(d == dim ? after : 0));
    }
    return mth__hlo_line(hlo, x.dtype, to,
        "stablehlo.pad %s, %s, low = [%s], high = [%s], interior = %s : (%s, %s) -> %s", name(hlo, x),
        name(hlo, filler), low.at, high.at, zero, type_of(hlo, x), type_of(hlo, filler),
        mth__hlo_type(hlo->arena, x.dtype, to));
}

mth__hlo_val mth__hlo_resize(mth__hlo *hlo, mth__hlo_val x, mth__shape to) {
    for (int d = 0; d < to.rank; d++) {
        if (x.shape.dim[d] < to.dim[d]) x = mth__hlo_pad(hlo, x, d, 0, to.dim[d] - x.shape.dim[d], 0);
        if (x.shape.dim[d] > to.dim[d]) x = mth__hlo_slice(hlo, x, d, 0, to.dim[d]);
    }
    return x;
}

mth__hlo_val mth__hlo_concat(mth__hlo *hlo, int n, const mth__hlo_val *x, int dim) {
    if (n == 1) return x[0];
    mth__text names = mth__text_new(hlo->arena), types = mth__text_new(hlo->arena);
    mth__shape to = x[0].shape;
    to.dim[dim] = 0;
    for (int i = 0; i < n; i++) {
        mth__text_add(&names, "%s%s", i ? ", " : "", name(hlo, x[i]));
        mth__text_add(&types, "%s%s", i ? ", " : "", type_of(hlo, x[i]));
        to.dim[dim] += x[i].shape.dim[dim];
    }
    return mth__hlo_line(hlo, x[0].dtype, to, "stablehlo.concatenate %s, dim = %d : (%s) -> %s", names.at, dim,
        types.at, mth__hlo_type(hlo->arena, x[0].dtype, to));
}

static void add_starts(mth__hlo *hlo, mth__text *names, mth__text *types, int n, const mth__hlo_val *start) {
    for (int d = 0; d < n; d++) {
        mth__text_add(names, ", %s", name(hlo, start[d]));
        mth__text_add(types, ", %s", type_of(hlo, start[d]));
    }
}

mth__hlo_val mth__hlo_dynamic_slice(mth__hlo *hlo, mth__hlo_val x, const mth__hlo_val *start, mth__shape size) {
    if (mth__shape_equal(x.shape, size)) return x;
    mth__text names = mth__text_new(hlo->arena), types = mth__text_new(hlo->arena), sizes = mth__text_new(hlo->arena);
    add_starts(hlo, &names, &types, x.shape.rank, start);
    for (int d = 0; d < size.rank; d++) mth__text_add(&sizes, "%s%lld", d ? ", " : "", (long long)size.dim[d]);
    return mth__hlo_line(hlo, x.dtype, size, "stablehlo.dynamic_slice %s%s, sizes = [%s] : (%s%s) -> %s", name(hlo, x),
        names.n ? names.at : "", sizes.n ? sizes.at : "", type_of(hlo, x), types.n ? types.at : "",
        mth__hlo_type(hlo->arena, x.dtype, size));
}

mth__hlo_val mth__hlo_dynamic_update(mth__hlo *hlo, mth__hlo_val x, mth__hlo_val update, const mth__hlo_val *start) {
    mth__text names = mth__text_new(hlo->arena), types = mth__text_new(hlo->arena);
    add_starts(hlo, &names, &types, x.shape.rank, start);
    return mth__hlo_line(hlo, x.dtype, x.shape, "stablehlo.dynamic_update_slice %s, %s%s : (%s, %s%s) -> %s",
        name(hlo, x), name(hlo, update), names.n ? names.at : "", type_of(hlo, x), type_of(hlo, update),
        types.n ? types.at : "", type_of(hlo, x));
}

/* ---------------------------------------------------------------- reductions */
static double neutral(const char *kind, mth_dtype dtype) {
    const mth__dtype_facts *facts = &mth__dtypes[dtype];
    if (!strcmp(kind, "maximum")) return mth__is_float(dtype) ? -INFINITY : (double)facts->least;
    if (!strcmp(kind, "minimum")) return mth__is_float(dtype) ? INFINITY : (double)facts->most;
    return strcmp(kind, "and") == 0 || strcmp(kind, "multiply") == 0;
}

mth__hlo_val mth__hlo_reduce(mth__hlo *hlo, const char *kind, mth__hlo_val x, unsigned dims, bool keep) {
    mth__shape to = {0}, kept = x.shape;
    int over[MTH__RANK], n = 0;
    for (int d = 0; d < x.shape.rank; d++) {
        if (dims >> d & 1) {
            over[n++] = d;
            kept.dim[d] = 1;
        } else
            to.dim[to.rank++] = x.shape.dim[d];
    }
    if (!n) return x;
    mth__hlo_val first = mth__hlo_splat(hlo, x.dtype, (mth__shape){0}, neutral(kind, x.dtype));
    mth__hlo_val y = mth__hlo_line(hlo, x.dtype, to,
        "stablehlo.reduce(%s init: %s) applies stablehlo.%s across dimensions = %s : (%s, %s) -> %s", name(hlo, x),
        name(hlo, first), kind, mth__hlo_list(hlo->arena, n, over), type_of(hlo, x), type_of(hlo, first),
        mth__hlo_type(hlo->arena, x.dtype, to));
    return keep ? mth__hlo_reshape(hlo, y, kept) : y;
}
