#include "engine/pjrt/hlo.h"
#include <string.h>

/* A spec's terms, in the order in which dot_general takes the operands. */
typedef struct {
    const char *letter;
    int n;
} dot_term;
static int place(dot_term term, char letter) {
    const char *at = memchr(term.letter, letter, (size_t)term.n);
    return at ? (int)(at - term.letter) : -1;
}

/* The letters of dot_general's result: first batch letters in the order of y, then those of a alone, then of b
 * alone. */
static int natural(dot_term a, dot_term b, dot_term y, char *letters) {
    int n = 0;
    for (int i = 0; i < y.n; i++)
        if (place(a, y.letter[i]) >= 0 && place(b, y.letter[i]) >= 0) letters[n++] = y.letter[i];
    for (int i = 0; i < a.n; i++)
        if (place(b, a.letter[i]) < 0) letters[n++] = a.letter[i];
    for (int i = 0; i < b.n; i++)
        if (place(a, b.letter[i]) < 0) letters[n++] = b.letter[i];
    return n;
}
/* How many dimensions at the end of the result are in place already. The result is transposed where some are not. An
   order that keeps the dimensions at the end in place is better than one that keeps those at the front. */
static int in_place_from_behind(int n, const char *letters, dot_term y) {
    int same = 0;
    while (same < n && letters[n - 1 - same] == y.letter[n - 1 - same]) same++;
    return same;
}

/* No letter is summed: a product of broadcast operands. */
static mth__hlo_val outer(mth__hlo *hlo, mth__hlo_val value, dot_term term, dot_term y, mth__shape to) {
    int order[MTH__RANK], dims[MTH__RANK], n = 0;
    for (int i = 0; i < y.n; i++) {
        if (place(term, y.letter[i]) < 0) continue;
        order[n] = place(term, y.letter[i]);
        dims[n++] = i;
    }
    return mth__hlo_broadcast(hlo, mth__hlo_transpose(hlo, value, order), to, dims);
}

/* The result is one element: a product of vectors, which XLA's loops for CPUs add up in one chain of float32; their
 * reductions don't. */
static mth__hlo_val of_vectors(
    mth__hlo *hlo, mth__hlo_val x, dot_term a, mth__hlo_val w, dot_term b, dot_term y, mth__shape to) {
    mth__shape summed = {0}, other = {0};
    int permutation[MTH__RANK], n = 0;
    char letters[MTH__RANK];
    for (int i = 0; i < b.n; i++)
        if (place(y, b.letter[i]) < 0) {
            letters[other.rank] = b.letter[i];
            other.dim[other.rank++] = w.shape.dim[i];
        }
    for (int i = 0; i < a.n; i++)
        if (place(y, a.letter[i]) < 0) {
            permutation[n++] = place((dot_term){letters, other.rank}, a.letter[i]);
            summed.dim[summed.rank++] = x.shape.dim[i];
        }
    mth__hlo_val terms = mth__hlo_binary(hlo, "multiply", mth__hlo_reshape(hlo, x, summed),
        mth__hlo_transpose(hlo, mth__hlo_reshape(hlo, w, other), permutation));
    return mth__hlo_reshape(hlo, mth__hlo_reduce(hlo, "add", terms, (1u << n) - 1, false), to);
}

void mth__hlo_contract(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const char *spec = call->attrs->spec, *comma = strchr(spec, ','), *arrow = strstr(comma, "->");
    dot_term a = {spec, (int)(comma - spec)}, b = {comma + 1, (int)(arrow - comma - 1)};
    const dot_term y = {arrow + 2, (int)strlen(arrow + 2)};
    mth__hlo_val x = call->in[0].value, w = call->in[1].value;

    int asum[MTH__RANK], bsum[MTH__RANK], abatch[MTH__RANK], bbatch[MTH__RANK], nsum = 0, nbatch = 0;
    for (int i = 0; i < a.n; i++) nsum += place(y, a.letter[i]) < 0;
    if (!nsum) {
        const mth__shape to = call->out[0].part->local;
        call->out[0].value = mth__hlo_binary(hlo, "multiply", outer(hlo, x, a, y, to), outer(hlo, w, b, y, to));
        return;
    }
    if (mth__shape_size(call->out[0].part->local) == 1) {
        call->out[0].value = of_vectors(hlo, x, a, w, b, y, call->out[0].part->local);
        return;
    }
    char forth[2 * MTH__RANK], back[2 * MTH__RANK];
    const int n = natural(a, b, y, forth);
    natural(b, a, y, back);
    /* operands change places, so that dimensions need not */
    if (in_place_from_behind(n, back, y) > in_place_from_behind(n, forth, y)) {
        const dot_term term = a;
        const mth__hlo_val value = x;
        a = b, b = term, x = w, w = value;
        memcpy(forth, back, sizeof forth);
    }
    nsum = 0;
    for (int i = 0; i < a.n; i++) {
        if (place(y, a.letter[i]) >= 0) continue;
        asum[nsum] = i;
        bsum[nsum++] = place(b, a.letter[i]);
    }
    for (int i = 0; i < y.n; i++) {
        if (place(a, y.letter[i]) < 0 || place(b, y.letter[i]) < 0) continue;
        abatch[nbatch] = place(a, y.letter[i]);
        bbatch[nbatch++] = place(b, y.letter[i]);
    }
    int permutation[MTH__RANK];
    for (int i = 0; i < n; i++) permutation[i] = place((dot_term){forth, n}, y.letter[i]);
    call->out[0].value =
        mth__hlo_transpose(hlo, mth__hlo_dot(hlo, x, w, nbatch, abatch, bbatch, nsum, asum, bsum), permutation);
}

/* ---------------------------------------------------------------- reductions */
/* XLA's loops for CPUs add up columns, but one element at a time where a row has this many or more: 20 to 50 times
   slower than a product with ones (which costs more to compile, so is no better way below; compilers for other devices
   make it a reduction again). */
enum { LONG_ROW = 1 << 15 };
/* over dimensions below `first` */
static mth__hlo_val sum_of_long_rows(mth__hlo *hlo, mth__hlo_val x, int first) {
    mth__shape rows = {2, {1, 1}}, kept = {.rank = x.shape.rank - first};
    for (int d = 0; d < first; d++) rows.dim[0] *= x.shape.dim[d];
    for (int d = first; d < x.shape.rank; d++) rows.dim[1] *= kept.dim[d - first] = x.shape.dim[d];
    if (rows.dim[0] < 2 || rows.dim[1] < LONG_ROW || !mth__is_float(x.dtype))
        return mth__hlo_reduce(hlo, "add", x, (1u << first) - 1, false);
    mth__hlo_val ones = mth__hlo_splat(hlo, x.dtype, (mth__shape){1, {rows.dim[0]}}, 1);
    const int along[1] = {0};
    return mth__hlo_reshape(
        hlo, mth__hlo_dot(hlo, ones, mth__hlo_reshape(hlo, x, rows), 0, NULL, NULL, 1, along, along), kept);
}

void mth__hlo_reduce_row(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const unsigned dims = (unsigned)call->attrs->dimensions;
    const bool max = call->op->row == MTH__ROW_reduce_max, leading = dims && !(dims & (dims + 1));
    mth__hlo_val x = call->in[0].value;
    if (!max && leading)
        x = sum_of_long_rows(hlo, x, __builtin_popcount(dims));
    else if (max && hlo->partitioned && mth__is_float(x.dtype)) /* perhaps between devices */
        x = mth__hlo_of_order_keys(
            hlo, x.dtype, mth__hlo_reduce(hlo, "maximum", mth__hlo_order_keys(hlo, x), dims, false));
    else
        x = mth__hlo_reduce(hlo, max ? "maximum" : "add", x, dims, false);
    call->out[0].value = mth__hlo_reshape(hlo, x, call->out[0].part->local); /* those to be kept, as 1 */
}
