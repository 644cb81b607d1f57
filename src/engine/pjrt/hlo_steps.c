/* A collective by a named algorithm: the steps of its template as collective_permutes.
 *
 * The buffer that the template works on is one value, cut along one dimension into chunks of equal size (uneven ones
 * are padded). Which chunk a partition reads or writes differs by its rank: one table for the whole collective has the
 * row of each partition. A round becomes as few permutes as fit, since in one each rank sends once and receives once;
 * all groups share them. A round's reads see the buffer as the round before left it. */
#include "emit/collective.h"
#include "engine/pjrt/hlo_group.h"
#include <stdlib.h>

/* By rank, -1 where it doesn't matter: a column of the table. */
typedef struct {
    int64_t *by_rank;
} column;
typedef struct {
    int round;
    bool reduce, all; /* all: every rank receives */
    int *source;      /* by rank that receives: from whom; -1 */
    /* columns: where the sent chunk begins, where the received one does, whether one is received */
    int from, to, receives;
} permute;
/* Copies inside the ranks: [rank * chunks + c]: the chunk that becomes c. */
typedef struct {
    int round;
    int *chunk;
} shuffle;

typedef struct {
    mth__hlo *h;
    const mth__channel *c;
    mth__hlo_groups g;
    mth__template t;
    int dim;
    int64_t piece; /* chunk k: elements k * piece, ... along dim */
    VEC(column) column;
    VEC(permute) permute;
    VEC(shuffle) shuffle;
    mth__hlo_val table, zero; /* i32 (columns) of this partition */
} steps_plan;

/* ---------------------------------------------------------------- what is to be done */
static int new_column(steps_plan *p) {
    column c = {NEW_ARRAY(p->h->arena, int64_t, p->t.n)};
    for (int r = 0; r < p->t.n; r++) c.by_rank[r] = -1;
    PUSH(p->h->arena, p->column, c);
    return (int)p->column.n - 1;
}

typedef struct {
    int rank, shift, order;
    mth__step step;
} taken_step; /* a step, and whose */

/* Steps of one distance go together: where all ranks do alike, they fill a permute. */
static int by_shift(const void *a, const void *b) {
    const taken_step *x = a, *y = b;
    if (x->shift != y->shift) return x->shift < y->shift ? -1 : 1;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static void place_step(steps_plan *p, const taken_step *s, size_t first) {
    int64_t from = s->step.from_chunk * p->piece, to = s->step.to_chunk * p->piece;
    size_t k = first;
    for (; k < p->permute.n; k++) {
        const permute *q = &p->permute.at[k];
        if (q->reduce == s->step.reduce && q->source[s->rank] < 0 && p->column.at[q->from].by_rank[s->step.peer] < 0)
            break;
    }
    if (k == p->permute.n) {
        permute q = {.round = s->step.round,
            .reduce = s->step.reduce,
            .source = NEW_ARRAY(p->h->arena, int, p->t.n),
            .from = new_column(p),
            .to = new_column(p),
            .receives = new_column(p)};
        for (int r = 0; r < p->t.n; r++) {
            q.source[r] = -1;
            p->column.at[q.receives].by_rank[r] = 0;
        }
        PUSH(p->h->arena, p->permute, q);
    }
    const permute *q = &p->permute.at[k];
    q->source[s->rank] = s->step.peer;
    p->column.at[q->from].by_rank[s->step.peer] = from;
    p->column.at[q->to].by_rank[s->rank] = to;
    p->column.at[q->receives].by_rank[s->rank] = 1;
}

static void place_copy(steps_plan *p, const taken_step *s, shuffle **now) {
    if (s->step.from_chunk == s->step.to_chunk) return;
    if (!*now) {
        shuffle f = {s->step.round, NEW_ARRAY(p->h->arena, int, p->t.n * p->t.chunks)};
        for (int i = 0; i < p->t.n * p->t.chunks; i++) f.chunk[i] = i % p->t.chunks;
        PUSH(p->h->arena, p->shuffle, f);
        *now = &p->shuffle.at[p->shuffle.n - 1];
    }
    (*now)->chunk[s->rank * p->t.chunks + s->step.to_chunk] = s->step.from_chunk;
}

static void place_steps(steps_plan *p) {
    mth__arena *arena = p->h->arena;
    int n = p->t.n, *count = NEW_ARRAY(arena, int, n), *at = NEW_ARRAY(arena, int, n);
    mth__step **step = NEW_ARRAY(arena, mth__step *, n);
    for (int r = 0; r < n; r++) count[r] = mth__template_steps(arena, &p->t, r, &step[r]);
    VEC(taken_step) round = {0};
    for (int t = 0; t < p->t.rounds; t++) {
        round.n = 0;
        for (int r = 0; r < n; r++)
            for (; at[r] < count[r] && step[r][at[r]].round == t; at[r]++) {
                mth__step s = step[r][at[r]];
                PUSH(arena, round, (taken_step){r, (s.peer - r + n) % n, at[r], s});
            }
        if (round.n) qsort(round.at, round.n, sizeof *round.at, by_shift);
        size_t first = p->permute.n;
        shuffle *copies = NULL;
        for (size_t i = 0; i < round.n; i++) {
            if (round.at[i].shift)
                place_step(p, &round.at[i], first);
            else
                place_copy(p, &round.at[i], &copies);
        }
        for (size_t k = first; k < p->permute.n; k++) {
            permute *q = &p->permute.at[k];
            q->all = true;
            for (int r = 0; r < n; r++) q->all &= q->source[r] >= 0;
        }
    }
}

/* ---------------------------------------------------------------- its text */
static bool constant(const steps_plan *p, int which, int64_t *value) {
    const int64_t *by_rank = p->column.at[which].by_rank;
    *value = -1;
    for (int r = 0; r < p->t.n; r++) {
        if (by_rank[r] < 0) continue;
        if (*value >= 0 && by_rank[r] != *value) return false;
        *value = by_rank[r];
    }
    return true;
}

static void write_table(steps_plan *p) {
    int64_t width = (int64_t)p->column.n, *rows = NEW_ARRAY(p->h->arena, int64_t, p->h->partitions *width), value;
    bool varies = false;
    for (int k = 0; k < (int)width; k++) {
        if (constant(p, k, &value)) continue;
        varies = true;
        for (int q = 0; q < p->h->partitions; q++)
            if (p->g.rank[q] >= 0 && p->column.at[k].by_rank[p->g.rank[q]] > 0)
                rows[q * width + k] = p->column.at[k].by_rank[p->g.rank[q]];
    }
    p->zero = mth__hlo_scalar_i32(p->h, 0);
    if (varies) p->table = mth__hlo_row_by_partition(p->h, rows, width);
}

static mth__hlo_val scalar(const steps_plan *p, int which) {
    int64_t value;
    if (constant(p, which, &value)) return value > 0 ? mth__hlo_scalar_i32(p->h, value) : p->zero;
    return mth__hlo_reshape(p->h, mth__hlo_slice(p->h, p->table, 0, which, which + 1), (mth__shape){0});
}

static void starts_of(const steps_plan *p, int which, int rank, mth__hlo_val *start) {
    for (int d = 0; d < rank; d++) start[d] = d == p->dim ? scalar(p, which) : p->zero;
}

static mth__hlo_val read_chunk(const steps_plan *p, mth__hlo_val buffer, int which) {
    if (p->t.chunks == 1) return buffer;
    mth__hlo_val start[MTH__RANK];
    mth__shape s = buffer.shape;
    starts_of(p, which, s.rank, start);
    s.dim[p->dim] = p->piece;
    return mth__hlo_dynamic_slice(p->h, buffer, start, s);
}

static mth__hlo_val write_chunk(const steps_plan *p, mth__hlo_val buffer, mth__hlo_val chunk, int which) {
    if (p->t.chunks == 1) return chunk;
    mth__hlo_val start[MTH__RANK];
    starts_of(p, which, buffer.shape.rank, start);
    return mth__hlo_dynamic_update(p->h, buffer, chunk, start);
}

static mth__hlo_val write_permute(const steps_plan *p, const permute *q, mth__hlo_val before, mth__hlo_val buffer) {
    mth__hlo *h = p->h;
    mth__text pairs = mth__text_new(h->arena);
    int count = 0;
    for (int k = 0; k < p->g.count; k++) {
        const int *member = p->g.member + k * p->t.n;
        for (int r = 0; r < p->t.n; r++)
            if (q->source[r] >= 0)
                mth__text_add(&pairs, "%s[%d, %d]", count++ ? ", " : "", member[q->source[r]], member[r]);
    }
    mth__hlo_val got = mth__hlo_permute(h, read_chunk(p, before, q->from), pairs.at, count);
    if (q->reduce || !q->all) {
        mth__hlo_val here = read_chunk(p, buffer, q->to);
        if (q->reduce) got = mth__hlo_binary(h, mth__hlo_reduction(p->c), here, got);
        if (!q->all) got = mth__hlo_select(h, mth__hlo_compare(h, "NE", scalar(p, q->receives), p->zero), got, here);
    }
    return write_chunk(p, buffer, got, q->to);
}

static mth__hlo_val write_shuffle(const steps_plan *p, const shuffle *f, mth__hlo_val buffer) {
    int chunks = p->t.chunks;
    int64_t *rows = NEW_ARRAY(p->h->arena, int64_t, p->h->partitions *chunks);
    for (int q = 0; q < p->h->partitions; q++)
        for (int c = 0; c < chunks && p->g.rank[q] >= 0; c++)
            rows[q * chunks + c] = f->chunk[p->g.rank[q] * chunks + c];
    mth__shape by_chunk = {3, {1, chunks, p->piece}};
    for (int d = 0; d < buffer.shape.rank; d++)
        if (d != p->dim) by_chunk.dim[d < p->dim ? 0 : 2] *= buffer.shape.dim[d];
    mth__hlo_val x =
        mth__hlo_take(p->h, mth__hlo_reshape(p->h, buffer, by_chunk), 1, mth__hlo_row_by_partition(p->h, rows, chunks));
    return mth__hlo_reshape(p->h, x, buffer.shape);
}

static mth__hlo_val write_rounds(const steps_plan *p, mth__hlo_val buffer) {
    size_t k = 0, f = 0;
    for (int t = 0; t < p->t.rounds; t++) {
        mth__hlo_val before = buffer;
        if (f < p->shuffle.n && p->shuffle.at[f].round == t) buffer = write_shuffle(p, &p->shuffle.at[f++], buffer);
        for (; k < p->permute.n && p->permute.at[k].round == t; k++)
            buffer = write_permute(p, &p->permute.at[k], before, buffer);
    }
    return buffer;
}

/* ---------------------------------------------------------------- kinds: the buffer made and read */
static int own_chunk(steps_plan *p) {
    int own = new_column(p);
    for (int r = 0; r < p->t.n; r++) p->column.at[own].by_rank[r] = r * p->piece;
    return own;
}

/* all_reduce, broadcast: the flat tensor. */
static mth__hlo_val flat(steps_plan *p, mth__hlo_val x) {
    int64_t elements = mth__shape_size(x.shape), start;
    mth__chunk_range(elements, p->t.chunks, 0, &start, &p->piece);
    place_steps(p);
    write_table(p);
    if (p->t.chunks == 1) return write_rounds(p, x);
    mth__hlo_val line = mth__hlo_reshape(p->h, x, (mth__shape){1, {elements}});
    line = write_rounds(p, mth__hlo_pad(p->h, line, 0, 0, p->t.chunks * p->piece - elements, 0));
    return mth__hlo_reshape(p->h, mth__hlo_slice(p->h, line, 0, 0, elements), x.shape);
}

static mth__hlo_val reduce_scatter(steps_plan *p, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    p->dim = p->c->dim;
    p->piece = to->local.dim[p->dim];
    place_steps(p);
    int own = own_chunk(p);
    write_table(p);
    return read_chunk(p, write_rounds(p, mth__hlo_cut_parts(p->h, &p->g, x, p->dim, from, to)), own);
}

static mth__hlo_val all_gather(steps_plan *p, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    p->dim = p->c->dim;
    p->piece = from->local.dim[p->dim];
    place_steps(p);
    int own = own_chunk(p);
    write_table(p);
    mth__shape s = x.shape;
    s.dim[p->dim] *= p->t.n;
    mth__hlo_val buffer = write_chunk(p, mth__hlo_splat(p->h, x.dtype, s, 0), x, own);
    return mth__hlo_join_parts(p->h, &p->g, write_rounds(p, buffer), p->dim, from, to);
}

/* The boxes lie one after another along the dimension that is cut, and are to lie so along the one that becomes whole.
 */
static mth__hlo_val turn_boxes(const steps_plan *p, mth__hlo_val x, int whole) {
    mth__shape to = x.shape, split = {4, {1, 1, 1, 1}};
    to.dim[p->dim] /= p->t.n;
    to.dim[whole] *= p->t.n;
    int low = p->dim < whole ? p->dim : whole, high = p->dim < whole ? whole : p->dim;
    /* of split: which box; the other of 1 and 2 has what lies between the two dimensions */
    int box = low == p->dim ? 1 : 2;
    for (int d = 0; d < x.shape.rank; d++)
        split.dim[d < low ? 0 : d < high ? 3 - box : 3] *= d == p->dim ? p->piece : x.shape.dim[d];
    split.dim[box] = p->t.n;
    x = mth__hlo_transpose(p->h, mth__hlo_reshape(p->h, x, split), (const int[]){0, 2, 1, 3});
    return mth__hlo_reshape(p->h, x, to);
}

static mth__hlo_val all_to_all(steps_plan *p, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    p->dim = p->c->dim;
    p->piece = to->local.dim[p->dim];
    place_steps(p);
    write_table(p);
    x = write_rounds(p, mth__hlo_cut_parts(p->h, &p->g, x, p->dim, from, to));
    return mth__hlo_join_parts(p->h, &p->g, turn_boxes(p, x, p->c->dim2), p->c->dim2, from, to);
}

void mth__hlo_steps(mth__hlo *h, const mth__channel *c, const mth__hlo_operand *in, mth__hlo_operand *out) {
    const mth__hlo_part *from = in->part, *to = out->part;
    steps_plan p = {.h = h, .c = c, .g = mth__hlo_groups_of(h, c)};
    if (mth__shape_size(to->local) == 0) {
        out->v = mth__hlo_splat(h, c->dtype, to->local, 0);
        return;
    }
    if (p.g.size == 1) {
        out->v = in->v;
        return;
    }
    p.t = mth__template_get(c->kind, c->algorithm, p.g.size);
    mth__hlo_val x = mth__hlo_reduced_as(h, c, in->v);
    switch (c->kind) {
    case MTH__REDUCE_SCATTER: x = reduce_scatter(&p, x, from, to); break;
    case MTH__ALL_GATHER: x = all_gather(&p, x, from, to); break;
    case MTH__ALL_TO_ALL: x = all_to_all(&p, x, from, to); break;
    default: x = flat(&p, x);
    }
    out->v = mth__hlo_convert(h, c->dtype, x);
}
