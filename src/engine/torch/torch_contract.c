/* contract: an einsum as products of matrices. Letters of the result that both operands have are the batch, those of a
 * alone its rows, those of b alone its columns; the others are summed. Where the letters of a kind lie one behind the
 * other in a tensor, they are one dimension of a view of it, whatever its stride; only what has them apart is copied.
 */
#include "engine/torch/torch_rows.h"
#include <string.h>

enum { A, B, Y, TERMS };
enum { BATCH, LEFT, RIGHT, SUMMED, KINDS };
/* The kinds of letters that each term has, outermost first. */
static const int kinds_of[TERMS][3] = {{BATCH, LEFT, SUMMED}, {BATCH, SUMMED, RIGHT}, {BATCH, LEFT, RIGHT}};

/* Letters of one kind, outermost first, without those of size 1, and the stride of each in the terms that have it. */
typedef struct {
    int n;
    int64_t size[MTH__RANK], stride[TERMS][MTH__RANK];
} letters;
typedef struct {
    const char *letter;
    int n;
    int64_t size[MTH__RANK], stride[MTH__RANK];
} einsum_term;

static int place(const einsum_term *of, char letter) {
    const char *at = memchr(of->letter, letter, (size_t)of->n);
    return at ? (int)(at - of->letter) : -1;
}
static void add_letter(letters *to, const einsum_term *terms, char letter) {
    for (int t = 0; t < TERMS; t++) {
        const int d = place(&terms[t], letter);
        if (d < 0) continue;
        if (terms[t].size[d] == 1) return;
        to->size[to->n] = terms[t].size[d];
        to->stride[t][to->n] = terms[t].stride[d];
    }
    to->n++;
}
static int64_t size_of(const letters *kind) {
    int64_t size = 1;
    for (int i = 0; i < kind->n; i++) size *= kind->size[i];
    return size;
}
/* Are they one dimension of the term? */
static bool lie_together(const letters *kind, int t) {
    for (int i = 0; i + 1 < kind->n; i++)
        if (kind->stride[t][i] != kind->stride[t][i + 1] * kind->size[i + 1]) return false;
    return true;
}
static bool is_view(const letters *kind, int t) {
    for (int i = 0; i < 3; i++)
        if (!lie_together(&kind[kinds_of[t][i]], t)) return false;
    return true;
}

static void read_spec(const mth__torch_call *call, einsum_term *terms) {
    const char *spec = call->attrs->spec, *comma = strchr(spec, ','), *arrow = strstr(comma, "->");
    const einsum_term at[] = {{.letter = spec, .n = (int)(comma - spec)},
        {.letter = comma + 1, .n = (int)(arrow - comma - 1)}, {.letter = arrow + 2, .n = (int)strlen(arrow + 2)}};
    const mth__torch_operand *operand[] = {call->in[0], call->in[1], call->out[0]};
    for (int t = 0; t < TERMS; t++) {
        terms[t] = at[t];
        memcpy(terms[t].size, operand[t]->shape.dim, sizeof terms[t].size);
        mth__shape_strides(operand[t]->shape, terms[t].stride);
    }
}
/* The summed letters in the order that they have in `first`. */
static void sort_letters(const einsum_term *terms, int first, letters *kind) {
    memset(kind, 0, KINDS * sizeof *kind);
    for (int i = 0; i < terms[Y].n; i++) {
        const char letter = terms[Y].letter[i];
        const bool in_a = place(&terms[A], letter) >= 0, in_b = place(&terms[B], letter) >= 0;
        add_letter(&kind[in_a && in_b ? BATCH : in_a ? LEFT : RIGHT], terms, letter);
    }
    for (int i = 0; i < terms[first].n; i++)
        if (place(&terms[Y], terms[first].letter[i]) < 0) add_letter(&kind[SUMMED], terms, terms[first].letter[i]);
}

/* ---------------------------------------------------------------- matrices */
/* A batch of matrices in memory of a tensor. */
typedef struct {
    mth__tensor tensor;
    int64_t size[3], stride[MTH__RANK];
} matrices;

/* All letters of a term as dimensions, kind by kind: a view. */
static mth__tensor by_letter(mth__torch_call *call, const letters *kind, int t, mth__tensor tensor, bool dense) {
    mth__shape shape = {0};
    int64_t stride[MTH__RANK];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < kind[kinds_of[t][i]].n; k++) {
            stride[shape.rank] = kind[kinds_of[t][i]].stride[t][k];
            shape.dim[shape.rank++] = kind[kinds_of[t][i]].size[k];
        }
    return mth__torch_view(call, tensor, shape, dense ? NULL : stride, 0);
}
static matrices dense_matrices(const letters *kind, int t, mth__tensor tensor) {
    matrices of = {.tensor = tensor};
    int64_t stride = 1;
    for (int i = 2; i >= 0; i--) {
        of.stride[i] = stride;
        stride *= of.size[i] = size_of(&kind[kinds_of[t][i]]);
    }
    return of;
}
static matrices matrices_of(mth__torch_call *call, const letters *kind, int t, mth__tensor tensor) {
    if (!is_view(kind, t))
        return dense_matrices(kind, t, ATEN(call, contiguous, TENSOR(by_letter(call, kind, t, tensor, false)), DENSE));
    matrices of = dense_matrices(kind, t, tensor);
    for (int i = 0; i < 3; i++) {
        const letters *of_kind = &kind[kinds_of[t][i]];
        if (of_kind->n) of.stride[i] = of_kind->stride[t][of_kind->n - 1];
    }
    return of;
}
/* Some of them, as a tensor of three dimensions, or of two where the batch is one. */
static mth__tensor view(mth__torch_call *call, const matrices *of, int64_t offset, int rank) {
    mth__shape shape = {.rank = rank};
    memcpy(shape.dim, of->size + 3 - rank, (size_t)rank * sizeof *shape.dim);
    return mth__torch_view(call, of->tensor, shape, of->stride + 3 - rank, offset);
}

/* ---------------------------------------------------------------- long sums */
/* Where a result is narrow in memory or has few rows, MKL adds all terms of a product in one chain, elsewhere a few
 * hundred in a chain and chains these: products of more terms are cut in panels, whose results are summed as a tree. */
enum { NARROW = 16, FEW_ROWS = 4, PANEL = 16384, CHAINED_PANEL = 512, VECTOR_PANEL = 2048 };
static int64_t panel_of(const matrices *b, const matrices *y) {
    if (y->size[1] == 1 && b->stride[1] == 1) return VECTOR_PANEL; /* dot products, of a few chains each */
    return y->size[1] < FEW_ROWS || y->size[2] < NARROW ? CHAINED_PANEL : PANEL;
}
static matrices transposed(matrices of) {
    const matrices is = of;
    for (int i = 1; i < 3; i++) {
        of.size[i] = is.size[3 - i];
        of.stride[i] = is.stride[3 - i];
    }
    return of;
}

static mth__tensor widened(mth__torch_call *call, const matrices *of, mth_dtype dtype) {
    return ATEN(call, to_dtype, TENSOR(view(call, of, 0, 3)), DTYPE(dtype), BOOL(false), BOOL(false), DENSE);
}
/* One product of matrices, `batch` of them. */
static void multiply_by_panels(
    mth__torch_call *call, const matrices *a, const matrices *b, const matrices *y, int64_t batch, bool onto) {
    const int64_t summed = a->size[2], panel = panel_of(b, y), panels = summed / panel, rest = summed % panel;
    const mth_dtype dtype = mth__dtypes[call->out[0]->dtype].sums;
    const mth__shape terms = {3, {panels + (rest > 0), y->size[1], y->size[2]}};
    const int64_t a_begin = batch * a->stride[0], b_begin = batch * b->stride[0];
    matrices left = *a, right = *b, part = {.tensor = mth__torch_empty(call, dtype, terms)}, result = *y;
    left.size[0] = right.size[0] = panels;
    left.size[2] = right.size[1] = panel;
    left.stride[0] = panel * a->stride[2];
    right.stride[0] = panel * b->stride[1];
    memcpy(part.size, terms.dim, sizeof part.size);
    mth__shape_strides(terms, part.stride);
    part.size[0] = panels;
    mth__torch_product(
        call, view(call, &left, a_begin, 3), view(call, &right, b_begin, 3), 3, 0, view(call, &part, 0, 3));
    if (rest) {
        left.size[2] = right.size[1] = rest;
        mth__torch_product(call, view(call, &left, a_begin + panels * left.stride[0], 2),
            view(call, &right, b_begin + panels * right.stride[0], 2), 2, 0,
            view(call, &part, panels * part.stride[0], 2));
    }
    mth__tensor to = view(call, &result, batch * y->stride[0], 2);
    if (onto) {
        mth__tensor sum = ATEN(call, sum, TENSOR(part.tensor), DIMENSION(0), BOOL(false), NONE);
        mth__torch_add(call, to, sum, 1, to);
    } else {
        ATEN(call, sum_out, TENSOR(part.tensor), DIMENSION(0), BOOL(false), NONE, TENSOR(to));
    }
    mth__torch_drop(call, part.tensor);
}
static void multiply_as_they_lie(mth__torch_call *call, matrices a, matrices b, const matrices *y, bool onto) {
    const int rank = y->size[0] == 1 ? 2 : 3;
    if (a.size[2] <= panel_of(&b, y)) {
        mth__torch_product(call, view(call, &a, 0, rank), view(call, &b, 0, rank), rank, onto, view(call, y, 0, rank));
        return;
    }
    if (mth__is_half(call->out[0]->dtype)) { /* a panel's result is no element yet */
        a.tensor = widened(call, &a, MTH_FLOAT32);
        b.tensor = widened(call, &b, MTH_FLOAT32);
        mth__shape_strides((mth__shape){3, {a.size[0], a.size[1], a.size[2]}}, a.stride);
        mth__shape_strides((mth__shape){3, {b.size[0], b.size[1], b.size[2]}}, b.stride);
    }
    for (int64_t batch = 0; batch < y->size[0] && !call->status; batch++)
        multiply_by_panels(call, &a, &b, y, batch, onto);
}
static mth__tensor new_matrices(mth__torch_call *call, matrices *of) {
    const mth__shape shape = {3, {of->size[0], of->size[1], of->size[2]}};
    mth__shape_strides(shape, of->stride);
    return of->tensor = mth__torch_empty(call, call->out[0]->dtype, shape);
}
/* A long product that is narrow is made with its narrow side as rows, and turned: 1.4 to 10 times faster at 8. */
static void multiply(mth__torch_call *call, matrices a, matrices b, const matrices *y, bool onto) {
    if (y->size[2] >= NARROW || y->size[1] <= y->size[2] || a.size[2] <= CHAINED_PANEL) {
        multiply_as_they_lie(call, a, b, y, onto);
        return;
    }
    const matrices want = transposed(*y);
    matrices made = want;
    if (want.stride[2] == 1) {
        multiply_as_they_lie(call, transposed(b), transposed(a), &want, onto);
        return;
    }
    new_matrices(call, &made);
    multiply_as_they_lie(call, transposed(b), transposed(a), &made, false);
    mth__tensor to = view(call, &want, 0, 3), from = view(call, &made, 0, 3);
    if (onto)
        mth__torch_add(call, to, from, 1, to);
    else
        ATEN(call, copy_, TENSOR(to), TENSOR(from), BOOL(false));
}

/* ---------------------------------------------------------------- the row */
/* Nothing is summed: a product of broadcast operands. */
static mth__tensor spread(mth__torch_call *call, const einsum_term *terms, int t, mth__tensor tensor) {
    mth__shape shape = call->out[0]->shape;
    int64_t stride[MTH__RANK];
    for (int d = 0; d < shape.rank; d++) {
        const int at = place(&terms[t], terms[Y].letter[d]);
        stride[d] = at < 0 ? 0 : terms[t].stride[at];
    }
    return mth__torch_view(call, tensor, shape, stride, 0);
}
static void outer(mth__torch_call *call, const einsum_term *terms) {
    const mth__torch_argument a = TENSOR(spread(call, terms, A, call->in[0]->tensor)),
                              b = TENSOR(spread(call, terms, B, call->in[1]->tensor));
    mth__tensor sum = mth__torch_take_sum(call, 0);
    if (sum)
        mth__torch_add(call, sum, ATEN(call, mul, a, b), 1, sum);
    else
        ATEN(call, mul_out, a, b, TENSOR(mth__torch_room(call, 0)));
}

/* The letters with the summed ones in the order in which less is to be copied. */
static void choose_order(const einsum_term *terms, const mth__torch_call *call, letters *kind) {
    letters other[KINDS];
    int64_t copied[2] = {0};
    sort_letters(terms, A, kind);
    sort_letters(terms, B, other);
    for (int t = A; t <= B; t++) {
        const int64_t size = mth__shape_size(call->in[t]->shape);
        copied[0] += is_view(kind, t) ? 0 : size;
        copied[1] += is_view(other, t) ? 0 : size;
    }
    if (copied[1] < copied[0]) memcpy(kind, other, sizeof other);
}
void mth__torch_contract(mth__torch_call *call) {
    einsum_term terms[TERMS];
    letters kind[KINDS];
    read_spec(call, terms);
    choose_order(terms, call, kind);
    if (!kind[SUMMED].n) {
        outer(call, terms);
        return;
    }
    mth__tensor sum = mth__torch_take_sum(call, 0), out = sum ? sum : mth__torch_room(call, 0);
    if (!mth__shape_size(call->out[0]->shape)) return;
    if (!size_of(&kind[SUMMED])) {
        if (!sum) ATEN(call, zero_, TENSOR(out));
        return;
    }
    const bool whole = is_view(kind, Y);
    const matrices a = matrices_of(call, kind, A, call->in[0]->tensor),
                   b = matrices_of(call, kind, B, call->in[1]->tensor);
    matrices y = dense_matrices(kind, Y, NULL);
    if (whole)
        y = matrices_of(call, kind, Y, out);
    else
        new_matrices(call, &y);
    multiply(call, a, b, &y, whole && sum);
    if (whole) return;
    mth__tensor to = by_letter(call, kind, Y, out, false), made = by_letter(call, kind, Y, y.tensor, true);
    if (sum)
        mth__torch_add(call, to, made, 1, to);
    else
        ATEN(call, copy_, TENSOR(to), TENSOR(made), BOOL(false));
}
