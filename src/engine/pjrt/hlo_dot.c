/* Products. XLA's loops for CPUs add all terms of an element in one chain of float32 where an operand is a vector, or
 * both are up to 3 wide, and each term lies in a row of its own: 4,096 terms are off by 2e-6, 2^22 by 2e-3. Such sums
 * are cut into panels, a batch of products whose results are then summed, which XLA does as a tree: 0.2 to 1.0 of the
 * time, since what a panel adds up to stays in the cache.
 *
 *     y[m, n] = sum over k of a[k, m] b[k, n]    becomes    sum over p of (sum over i of a[p, i, m] b[p, i, n])
 *
 * Other products stay one operation. Where the terms of an element lie along a row, a product with a vector is a few
 * chains side by side, 2.5e-6 at 2^18 terms, and panels would first have to be moved together, at 3 to 24 times the
 * time. */
#include "engine/pjrt/hlo.h"
#include <string.h>

static bool among(int d, int n, const int *at) {
    for (int i = 0; i < n; i++)
        if (at[i] == d) return true;
    return false;
}

/* ---------------------------------------------------------------- one operation */
/* The dimensions of an operand by what becomes of them. */
typedef struct {
    int nbatch, nsum;
    const int *batch, *sum;
} dims;

static int free_dims(mth__hlo_val value, dims of, int *out) {
    int n = 0;
    for (int d = 0; d < value.shape.rank; d++)
        if (!among(d, of.nbatch, of.batch) && !among(d, of.nsum, of.sum)) out[n++] = d;
    return n;
}

static void add_dims(mth__shape *to, mth__hlo_val value, int n, const int *at) {
    for (int i = 0; i < n; i++) to->dim[to->rank++] = value.shape.dim[at[i]];
}

static mth__shape result_shape(mth__hlo_val a, dims of_a, mth__hlo_val b, dims of_b) {
    mth__shape to = {0};
    int kept[MTH__RANK];
    add_dims(&to, a, of_a.nbatch, of_a.batch);
    int n = free_dims(a, of_a, kept);
    add_dims(&to, a, n, kept);
    n = free_dims(b, of_b, kept);
    add_dims(&to, b, n, kept);
    return to;
}

static mth__hlo_val dot(mth__hlo *hlo, mth__hlo_val a, dims of_a, mth__hlo_val b, dims of_b) {
    mth__arena *arena = hlo->arena;
    const char *batch = !of_a.nbatch
        ? ""
        : mth__format(arena, "batching_dims = %s x %s, ", mth__hlo_list(arena, of_a.nbatch, of_a.batch),
              mth__hlo_list(arena, of_b.nbatch, of_b.batch));
    const mth__shape to = result_shape(a, of_a, b, of_b);
    return mth__hlo_line(hlo, a.dtype, to,
        "stablehlo.dot_general %s, %s, %scontracting_dims = %s x %s, precision = [HIGHEST, HIGHEST] : (%s, %s) -> %s",
        mth__hlo_name(arena, a), mth__hlo_name(arena, b), batch, mth__hlo_list(arena, of_a.nsum, of_a.sum),
        mth__hlo_list(arena, of_b.nsum, of_b.sum), mth__hlo_type(arena, a.dtype, a.shape),
        mth__hlo_type(arena, b.dtype, b.shape), mth__hlo_type(arena, a.dtype, to));
}

/* ---------------------------------------------------------------- panels */
/* terms; FEW: results of a row and a column for which XLA calls a library */
enum { LONG = 4096, PANEL = 512, SHORT_PANEL = 64, FEW = 4 };

/* How an operand becomes (batch, terms, free): the order that its dimensions must have, and whether they have it. */
typedef struct {
    int64_t batch, terms, free;
    int order[MTH__RANK];
    bool in_place;
} columns;

/* terms: the order of the summed dimensions, as indices of of.sum. */
static columns columns_of(mth__hlo_val value, dims of, const int *terms) {
    columns found = {1, 1, 1, {0}, true};
    int n = 0, last = -1;
    for (int i = 0; i < of.nbatch; i++) found.batch *= value.shape.dim[found.order[n++] = of.batch[i]];
    for (int i = 0; i < of.nsum; i++) found.terms *= value.shape.dim[found.order[n++] = of.sum[terms[i]]];
    const int kept = free_dims(value, of, found.order + n);
    for (int i = 0; i < kept; i++) found.free *= value.shape.dim[found.order[n++]];
    for (int i = 0; i < n; i++) {
        if (value.shape.dim[found.order[i]] == 1) continue;
        found.in_place &= found.order[i] > last;
        last = found.order[i];
    }
    return found;
}

/* Terms of a panel: a divisor of all, so that nothing is copied; 0 where there is none of a useful size. */
static int64_t panel(int64_t terms) {
    int64_t n = PANEL;
    while (n >= SHORT_PANEL && terms % n) n--;
    return n >= SHORT_PANEL ? n : 0;
}

static mth__hlo_val as_columns(mth__hlo *hlo, mth__hlo_val value, const columns *how) {
    return mth__hlo_reshape(
        hlo, mth__hlo_transpose(hlo, value, how->order), (mth__shape){3, {how->batch, how->terms, how->free}});
}

static mth__hlo_val as_panels(mth__hlo *hlo, mth__hlo_val value, const columns *how, int64_t each) {
    return mth__hlo_reshape(
        hlo, as_columns(hlo, value, how), (mth__shape){3, {how->batch * (how->terms / each), each, how->free}});
}

/* (batch, m, n) */
static mth__hlo_val sum_of_panels(
    mth__hlo *hlo, mth__hlo_val a, const columns *a_columns, mth__hlo_val b, const columns *b_columns, int64_t each) {
    const dims of = {1, 1, (int[]){0}, (int[]){1}};
    const mth__hlo_val parts = dot(hlo, as_panels(hlo, a, a_columns, each), of, as_panels(hlo, b, b_columns, each), of);
    return mth__hlo_reduce(hlo, "add",
        mth__hlo_reshape(
            hlo, parts, (mth__shape){4, {a_columns->batch, a_columns->terms / each, a_columns->free, b_columns->free}}),
        1u << 1, false);
}

/* The same by the library that XLA calls for wider products: columns of zeros are added to the narrower operand. */
static mth__hlo_val widened(
    mth__hlo *hlo, mth__hlo_val a, const columns *a_columns, mth__hlo_val b, const columns *b_columns) {
    const dims of = {1, 1, (int[]){0}, (int[]){1}};
    const bool widen_a = a_columns->free < b_columns->free;
    const int64_t narrow = widen_a ? a_columns->free : b_columns->free,
                  wide = widen_a ? b_columns->free : a_columns->free, more = (wide < FEW ? FEW : 2) - narrow;
    a = mth__hlo_pad(hlo, as_columns(hlo, a, a_columns), 2, 0, widen_a ? more : 0, 0);
    b = mth__hlo_pad(hlo, as_columns(hlo, b, b_columns), 2, 0, widen_a ? 0 : more, 0);
    return mth__hlo_slice(hlo, dot(hlo, a, of, b, of), widen_a ? 1 : 2, 0, narrow);
}

/* The order of an operand's summed dimensions in memory, as indices of of.sum. */
static void order_of_terms(dims of, int *terms) {
    for (int i = 0; i < of.nsum; i++) {
        int rank = 0;
        for (int j = 0; j < of.nsum; j++) rank += of.sum[j] < of.sum[i];
        terms[rank] = i;
    }
}

mth__hlo_val mth__hlo_dot(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val b, int nbatch, const int *abatch,
    const int *bbatch, int nsum, const int *asum, const int *bsum) {
    const dims of_a = {nbatch, nsum, abatch, asum}, of_b = {nbatch, nsum, bbatch, bsum};
    int terms[MTH__RANK] = {0};
    order_of_terms(of_a, terms);
    columns a_columns = columns_of(a, of_a, terms);
    const bool a_is_vector = a_columns.free == 1;
    if (a_is_vector) {
        order_of_terms(of_b, terms);
        a_columns = columns_of(a, of_a, terms);
    }
    const columns b_columns = columns_of(b, of_b, terms);
    const bool chain = a_columns.free == 1 || b_columns.free == 1 || (a_columns.free < FEW && b_columns.free < FEW);
    /* A vector beside a matrix is cheap to move. XLA's partitioner splits the terms as it likes. */
    const bool movable = (a_columns.in_place || (a_columns.free == 1 && b_columns.free > 1)) &&
        (b_columns.in_place || (b_columns.free == 1 && a_columns.free > 1));
    if (a_columns.terms < LONG || !chain || !movable || hlo->partitioned) return dot(hlo, a, of_a, b, of_b);
    const int64_t each = panel(a_columns.terms);
    const mth__hlo_val y =
        each ? sum_of_panels(hlo, a, &a_columns, b, &b_columns, each) : widened(hlo, a, &a_columns, b, &b_columns);
    return mth__hlo_reshape(hlo, y, result_shape(a, of_a, b, of_b));
}
