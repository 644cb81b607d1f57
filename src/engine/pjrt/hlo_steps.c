/* A collective by a named algorithm: the steps of its template as collective_permutes.
 *
 * The buffer that the template works on is one value, cut along one dimension into chunks of equal size (uneven ones
 * are padded). Which chunk a partition reads or writes differs by its rank: one table for the whole collective has the
 * row of each partition. A round becomes as few permutes as fit, since in one each rank sends once and receives once;
 * all groups share them. A round's reads see the buffer as the round before left it. */
#include "emit/collective.h"
#include "engine/pjrt/hlo_group.h"
#include <stdlib.h>

/* A column of the table: a number for each rank; -1 where the rank doesn't use it. */
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
/* Copies inside the ranks. chunk[rank * chunks + k] is the chunk that is copied to chunk k of the rank. */
typedef struct {
    int round;
    int *chunk;
} shuffle;

typedef struct {
    mth__hlo *hlo;
    const mth__channel *channel;
    mth__hlo_groups groups;
    mth__template template;
    int dim;
    int64_t piece; /* chunk k: elements k * piece, ... along dim */
    VEC(column) column;
    VEC(permute) permute;
    VEC(shuffle) shuffle;
    mth__hlo_val table, zero; /* i32 (columns) of this partition */
} steps_plan;

/* ---------------------------------------------------------------- what is to be done */
static int new_column(steps_plan *plan) {
    column added = {NEW_ARRAY(plan->hlo->arena, int64_t, plan->template.n)};
    for (int rank = 0; rank < plan->template.n; rank++) added.by_rank[rank] = -1;
    PUSH(plan->hlo->arena, plan->column, added);
    return (int)plan->column.n - 1;
}

typedef struct {
    int rank, shift, order;
    mth__step step;
} taken_step; /* a step, and whose */

/* Sorts steps by the distance between sender and receiver: where all ranks send over the same distance, their steps
   fill one permute. */
static int by_shift(const void *a, const void *b) {
    const taken_step *x = a, *y = b;
    if (x->shift != y->shift) return x->shift < y->shift ? -1 : 1;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static void place_step(steps_plan *plan, const taken_step *taken, size_t first) {
    int64_t from = taken->step.from_chunk * plan->piece, to = taken->step.to_chunk * plan->piece;
    size_t k = first;
    for (; k < plan->permute.n; k++) {
        const permute *move = &plan->permute.at[k];
        if (move->reduce == taken->step.reduce && move->source[taken->rank] < 0 &&
            plan->column.at[move->from].by_rank[taken->step.peer] < 0)
            break;
    }
    if (k == plan->permute.n) {
        permute move = {.round = taken->step.round,
            .reduce = taken->step.reduce,
            .source = NEW_ARRAY(plan->hlo->arena, int, plan->template.n),
            .from = new_column(plan),
            .to = new_column(plan),
            .receives = new_column(plan)};
        for (int rank = 0; rank < plan->template.n; rank++) {
            move.source[rank] = -1;
            plan->column.at[move.receives].by_rank[rank] = 0;
        }
        PUSH(plan->hlo->arena, plan->permute, move);
    }
    const permute *move = &plan->permute.at[k];
    move->source[taken->rank] = taken->step.peer;
    plan->column.at[move->from].by_rank[taken->step.peer] = from;
    plan->column.at[move->to].by_rank[taken->rank] = to;
    plan->column.at[move->receives].by_rank[taken->rank] = 1;
}

static void place_copy(steps_plan *plan, const taken_step *taken, shuffle **now) {
    if (taken->step.from_chunk == taken->step.to_chunk) return;
    if (!*now) {
        shuffle fresh = {taken->step.round, NEW_ARRAY(plan->hlo->arena, int, plan->template.n * plan->template.chunks)};
        for (int i = 0; i < plan->template.n * plan->template.chunks; i++) fresh.chunk[i] = i % plan->template.chunks;
        PUSH(plan->hlo->arena, plan->shuffle, fresh);
        *now = &plan->shuffle.at[plan->shuffle.n - 1];
    }
    (*now)->chunk[taken->rank * plan->template.chunks + taken->step.to_chunk] = taken->step.from_chunk;
}

static void place_steps(steps_plan *plan) {
    mth__arena *arena = plan->hlo->arena;
    int n = plan->template.n, *count = NEW_ARRAY(arena, int, n), *at = NEW_ARRAY(arena, int, n);
    mth__step **step = NEW_ARRAY(arena, mth__step *, n);
    for (int rank = 0; rank < n; rank++) count[rank] = mth__template_steps(arena, &plan->template, rank, &step[rank]);
    VEC(taken_step) round = {0};
    for (int number = 0; number < plan->template.rounds; number++) {
        round.n = 0;
        for (int rank = 0; rank < n; rank++)
            for (; at[rank] < count[rank] && step[rank][at[rank]].round == number; at[rank]++) {
                mth__step each = step[rank][at[rank]];
                PUSH(arena, round, (taken_step){rank, (each.peer - rank + n) % n, at[rank], each});
            }
        if (round.n) qsort(round.at, round.n, sizeof *round.at, by_shift);
        size_t first = plan->permute.n;
        shuffle *copies = NULL;
        for (size_t i = 0; i < round.n; i++) {
            if (round.at[i].shift)
                place_step(plan, &round.at[i], first);
            else
                place_copy(plan, &round.at[i], &copies);
        }
        for (size_t k = first; k < plan->permute.n; k++) {
            permute *move = &plan->permute.at[k];
            move->all = true;
            for (int rank = 0; rank < n; rank++) move->all &= move->source[rank] >= 0;
        }
    }
}

/* ---------------------------------------------------------------- its text */
static bool constant(const steps_plan *plan, int which, int64_t *value) {
    const int64_t *by_rank = plan->column.at[which].by_rank;
    *value = -1;
    for (int rank = 0; rank < plan->template.n; rank++) {
        if (by_rank[rank] < 0) continue;
        if (*value >= 0 && by_rank[rank] != *value) return false;
        *value = by_rank[rank];
    }
    return true;
}

static void write_table(steps_plan *plan) {
    int64_t width = (int64_t)plan->column.n, *rows = NEW_ARRAY(plan->hlo->arena, int64_t, plan->hlo->partitions *width),
            value;
    bool varies = false;
    for (int k = 0; k < (int)width; k++) {
        if (constant(plan, k, &value)) continue;
        varies = true;
        for (int partition = 0; partition < plan->hlo->partitions; partition++)
            if (plan->groups.rank[partition] >= 0 && plan->column.at[k].by_rank[plan->groups.rank[partition]] > 0)
                rows[partition * width + k] = plan->column.at[k].by_rank[plan->groups.rank[partition]];
    }
    plan->zero = mth__hlo_scalar_i32(plan->hlo, 0);
    if (varies) plan->table = mth__hlo_row_by_partition(plan->hlo, rows, width);
}

static mth__hlo_val scalar(const steps_plan *plan, int which) {
    int64_t value;
    if (constant(plan, which, &value)) return value > 0 ? mth__hlo_scalar_i32(plan->hlo, value) : plan->zero;
    return mth__hlo_reshape(plan->hlo, mth__hlo_slice(plan->hlo, plan->table, 0, which, which + 1), (mth__shape){0});
}

static void starts_of(const steps_plan *plan, int which, int rank, mth__hlo_val *start) {
    for (int d = 0; d < rank; d++) start[d] = d == plan->dim ? scalar(plan, which) : plan->zero;
}

static mth__hlo_val read_chunk(const steps_plan *plan, mth__hlo_val buffer, int which) {
    if (plan->template.chunks == 1) return buffer;
    mth__hlo_val start[MTH__RANK];
    mth__shape shape = buffer.shape;
    starts_of(plan, which, shape.rank, start);
    shape.dim[plan->dim] = plan->piece;
    return mth__hlo_dynamic_slice(plan->hlo, buffer, start, shape);
}

static mth__hlo_val write_chunk(const steps_plan *plan, mth__hlo_val buffer, mth__hlo_val chunk, int which) {
    if (plan->template.chunks == 1) return chunk;
    mth__hlo_val start[MTH__RANK];
    starts_of(plan, which, buffer.shape.rank, start);
    return mth__hlo_dynamic_update(plan->hlo, buffer, chunk, start);
}

static mth__hlo_val write_permute(
    const steps_plan *plan, const permute *move, mth__hlo_val before, mth__hlo_val buffer) {
    mth__hlo *hlo = plan->hlo;
    mth__text pairs = mth__text_new(hlo->arena);
    int count = 0;
    for (int k = 0; k < plan->groups.count; k++) {
        const int *member = plan->groups.member + k * plan->template.n;
        for (int rank = 0; rank < plan->template.n; rank++)
            if (move->source[rank] >= 0)
                mth__text_add(&pairs, "%s[%d, %d]", count++ ? ", " : "", member[move->source[rank]], member[rank]);
    }
    mth__hlo_val got = mth__hlo_permute(hlo, read_chunk(plan, before, move->from), pairs.at, count);
    if (move->reduce || !move->all) {
        mth__hlo_val here = read_chunk(plan, buffer, move->to);
        if (move->reduce) got = mth__hlo_binary(hlo, mth__hlo_reduction(plan->channel), here, got);
        if (!move->all)
            got =
                mth__hlo_select(hlo, mth__hlo_compare(hlo, "NE", scalar(plan, move->receives), plan->zero), got, here);
    }
    return write_chunk(plan, buffer, got, move->to);
}

static mth__hlo_val write_shuffle(const steps_plan *plan, const shuffle *copies, mth__hlo_val buffer) {
    int chunks = plan->template.chunks;
    int64_t *rows = NEW_ARRAY(plan->hlo->arena, int64_t, plan->hlo->partitions *chunks);
    for (int partition = 0; partition < plan->hlo->partitions; partition++)
        for (int k = 0; k < chunks && plan->groups.rank[partition] >= 0; k++)
            rows[partition * chunks + k] = copies->chunk[plan->groups.rank[partition] * chunks + k];
    mth__shape by_chunk = {3, {1, chunks, plan->piece}};
    for (int d = 0; d < buffer.shape.rank; d++)
        if (d != plan->dim) by_chunk.dim[d < plan->dim ? 0 : 2] *= buffer.shape.dim[d];
    mth__hlo_val x = mth__hlo_take(plan->hlo, mth__hlo_reshape(plan->hlo, buffer, by_chunk), 1,
        mth__hlo_row_by_partition(plan->hlo, rows, chunks));
    return mth__hlo_reshape(plan->hlo, x, buffer.shape);
}

static mth__hlo_val write_rounds(const steps_plan *plan, mth__hlo_val buffer) {
    size_t k = 0, next_shuffle = 0;
    for (int round = 0; round < plan->template.rounds; round++) {
        mth__hlo_val before = buffer;
        if (next_shuffle < plan->shuffle.n && plan->shuffle.at[next_shuffle].round == round)
            buffer = write_shuffle(plan, &plan->shuffle.at[next_shuffle++], buffer);
        for (; k < plan->permute.n && plan->permute.at[k].round == round; k++)
            buffer = write_permute(plan, &plan->permute.at[k], before, buffer);
    }
    return buffer;
}

/* ---------------------------------------------------------------- kinds: the buffer made and read */
static int own_chunk(steps_plan *plan) {
    int own = new_column(plan);
    for (int rank = 0; rank < plan->template.n; rank++) plan->column.at[own].by_rank[rank] = rank * plan->piece;
    return own;
}

/* all_reduce and broadcast work on the flat tensor. */
static mth__hlo_val flat(steps_plan *plan, mth__hlo_val x) {
    int64_t elements = mth__shape_size(x.shape), start;
    mth__chunk_range(elements, plan->template.chunks, 0, &start, &plan->piece);
    place_steps(plan);
    write_table(plan);
    if (plan->template.chunks == 1) return write_rounds(plan, x);
    mth__hlo_val line = mth__hlo_reshape(plan->hlo, x, (mth__shape){1, {elements}});
    line = write_rounds(plan, mth__hlo_pad(plan->hlo, line, 0, 0, plan->template.chunks * plan->piece - elements, 0));
    return mth__hlo_reshape(plan->hlo, mth__hlo_slice(plan->hlo, line, 0, 0, elements), x.shape);
}

static mth__hlo_val reduce_scatter(
    steps_plan *plan, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    plan->dim = plan->channel->dim;
    plan->piece = to->local.dim[plan->dim];
    place_steps(plan);
    int own = own_chunk(plan);
    write_table(plan);
    return read_chunk(
        plan, write_rounds(plan, mth__hlo_cut_parts(plan->hlo, &plan->groups, x, plan->dim, from, to)), own);
}

static mth__hlo_val all_gather(steps_plan *plan, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    plan->dim = plan->channel->dim;
    plan->piece = from->local.dim[plan->dim];
    place_steps(plan);
    int own = own_chunk(plan);
    write_table(plan);
    mth__shape shape = x.shape;
    shape.dim[plan->dim] *= plan->template.n;
    mth__hlo_val buffer = write_chunk(plan, mth__hlo_splat(plan->hlo, x.dtype, shape, 0), x, own);
    return mth__hlo_join_parts(plan->hlo, &plan->groups, write_rounds(plan, buffer), plan->dim, from, to);
}

/* Moves the boxes, which lie one after another along the dimension that is cut, to lie one after another along the
   dimension that becomes whole. */
static mth__hlo_val turn_boxes(const steps_plan *plan, mth__hlo_val x, int whole) {
    mth__shape to = x.shape, split = {4, {1, 1, 1, 1}};
    to.dim[plan->dim] /= plan->template.n;
    to.dim[whole] *= plan->template.n;
    int low = plan->dim < whole ? plan->dim : whole, high = plan->dim < whole ? whole : plan->dim;
    /* The dimension of `split` that numbers the boxes. The other one of 1 and 2 has what lies between the two. */
    int box = low == plan->dim ? 1 : 2;
    for (int d = 0; d < x.shape.rank; d++)
        split.dim[d < low ? 0 : d < high ? 3 - box : 3] *= d == plan->dim ? plan->piece : x.shape.dim[d];
    split.dim[box] = plan->template.n;
    x = mth__hlo_transpose(plan->hlo, mth__hlo_reshape(plan->hlo, x, split), (const int[]){0, 2, 1, 3});
    return mth__hlo_reshape(plan->hlo, x, to);
}

static mth__hlo_val all_to_all(steps_plan *plan, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    plan->dim = plan->channel->dim;
    plan->piece = to->local.dim[plan->dim];
    place_steps(plan);
    write_table(plan);
    x = write_rounds(plan, mth__hlo_cut_parts(plan->hlo, &plan->groups, x, plan->dim, from, to));
    return mth__hlo_join_parts(
        plan->hlo, &plan->groups, turn_boxes(plan, x, plan->channel->dim2), plan->channel->dim2, from, to);
}

void mth__hlo_steps(mth__hlo *hlo, const mth__channel *channel, const mth__hlo_operand *in, mth__hlo_operand *out) {
    const mth__hlo_part *from = in->part, *to = out->part;
    steps_plan plan = {.hlo = hlo, .channel = channel, .groups = mth__hlo_groups_of(hlo, channel)};
    if (mth__shape_size(to->local) == 0) {
        out->value = mth__hlo_splat(hlo, channel->dtype, to->local, 0);
        return;
    }
    if (plan.groups.size == 1) {
        out->value = in->value;
        return;
    }
    plan.template = mth__template_get(channel->kind, channel->algorithm, plan.groups.size);
    mth__hlo_val x = mth__hlo_reduced_as(hlo, channel, in->value);
    switch (channel->kind) {
    case MTH__REDUCE_SCATTER: x = reduce_scatter(&plan, x, from, to); break;
    case MTH__ALL_GATHER: x = all_gather(&plan, x, from, to); break;
    case MTH__ALL_TO_ALL: x = all_to_all(&plan, x, from, to); break;
    default: x = flat(&plan, x);
    }
    out->value = mth__hlo_convert(hlo, channel->dtype, x);
}
