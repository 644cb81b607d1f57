#include "emit/channel_moves.h"

/* What one device's moves are made of. */
typedef struct {
    const mth__channel *channel;
    mth__arena *arena;
    int device, rank, n;
    int32_t *member;
    VEC(mth__channel_move) move;
} moving;

static bool has(const mth__sharding *sharding, int device) { return sharding->on->rank_of[device] >= 0; }
static mth__area operand_of(const moving *m, int rank) {
    return mth__area_local(m->channel->shape, &m->channel->from, m->member[rank]);
}
static mth__area result_of(const moving *m, int rank) {
    return mth__area_local(m->channel->shape, &m->channel->to, m->member[rank]);
}

static mth__channel_move *add(moving *m, int round, int peer_rank, mth__move_memory from, mth__move_memory to) {
    PUSH(m->arena, m->move,
        ((mth__channel_move){
            .round = round, .peer = m->member[peer_rank], .peer_rank = peer_rank, .from = from, .to = to}));
    return &m->move.at[m->move.n - 1];
}

static mth_status not_a_box(const moving *m, int peer) {
    return INTERNAL(
        "%s: what device %d takes from device %d is not a box of what both hold", m->channel->label, m->device, peer);
}

/* The box, between memories that hold `whole` and `part` row by row. */
static mth_status add_box(moving *m, int round, int peer_rank, mth__move_memory from, mth__move_memory to, bool reduce,
    const mth__area *box, const mth__area *whole, const mth__area *part) {
    mth__channel_move *move = add(m, round, peer_rank, from, to);
    move->reduce = reduce;
    return mth__area_copy(box, whole, part, &move->copy) ? NULL : not_a_box(m, move->peer);
}

/* A range of elements, in memories of one layout. */
static void add_range(moving *m, int round, int peer_rank, mth__move_memory from, mth__move_memory to, bool reduce,
    int64_t start, int64_t count) {
    if (!count) return;
    mth__channel_move *move = add(m, round, peer_rank, from, to);
    move->reduce = reduce;
    move->copy = (mth__strided_copy){
        .rank = 1, .size = {count}, .to_stride = {1}, .from_stride = {1}, .to = start, .from = start};
}

/* ---------------------------------------------------------------- direct: one round from operands to results */
/* What the device's result has in common with the operand of each peer; reductions begin with the first rank's. */
static mth_status take_operands(moving *m) {
    const mth__channel *c = m->channel;
    mth__area whole = result_of(m, m->rank), box;
    for (int peer = 0; peer < (c->kind == MTH__BROADCAST ? 1 : m->n); peer++) {
        mth__area part = operand_of(m, peer);
        if (!mth__area_intersect(&part, &whole, &box)) continue;
        TRY(add_box(m, 0, peer, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, c->kind == MTH__REDUCE_SCATTER && peer > 0, &box,
            &whole, &part));
    }
    return NULL;
}

/* Every rank combines its part of n, then all take the others' parts. */
static void direct_all_reduce(moving *m) {
    mth__area all = operand_of(m, m->rank);
    const int64_t elements = mth__area_size(&all);
    int64_t start, count;
    mth__chunk_range(elements, m->n, m->rank, &start, &count);
    add_range(m, 0, m->rank, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, false, start, count);
    for (int peer = 0; peer < m->n; peer++)
        if (peer != m->rank) add_range(m, 0, peer, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, true, start, count);
    for (int peer = 0; peer < m->n; peer++) {
        if (peer == m->rank) continue;
        mth__chunk_range(elements, m->n, peer, &start, &count);
        add_range(m, 1, peer, MTH__MOVE_RESULT, MTH__MOVE_RESULT, false, start, count);
    }
}

static mth_status transfer(moving *m) {
    const mth__channel *c = m->channel;
    mth__piece *piece;
    int pieces = mth__transfer_pieces(m->arena, c, m->device, &piece);
    mth__area whole = mth__area_local(c->shape, &c->to, m->device);
    for (int i = 0; i < pieces; i++) {
        mth__area box = {.rank = c->shape.rank}, part = mth__area_local(c->shape, &c->from, piece[i].from_device);
        for (int d = 0; d < box.rank; d++)
            box.dim[d] = (mth__extent){piece[i].start[d], piece[i].size[d], piece[i].step[d]};
        if (mth__area_size(&box) == 0) continue;
        m->member[0] = piece[i].from_device;
        TRY(add_box(m, 0, 0, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, false, &box, &whole, &part));
    }
    return NULL;
}

/* ---------------------------------------------------------------- by template */
/* Its chunks lie in the result, but for a reduce_scatter and an all_to_all. Round 0 lays the device's operand there;
 * round k + 1 is the template's round k; a last one takes the result out of the scratch. */
typedef struct {
    moving *m;
    const mth__known_template *known;
    int64_t slot; /* all_to_all: elements */
} following;

static bool box_between(const moving *m, int origin, int destination, mth__area *box) {
    mth__area from = operand_of(m, origin), to = result_of(m, destination);
    return mth__area_intersect(&from, &to, box);
}

/* all_to_all: box `other` of the device, between its operand or result and slot `other` of the scratch, where it lies
 * without gaps. */
static mth_status add_slot(following *f, int round, int other, int parity, bool out) {
    moving *m = f->m;
    mth__area part = out ? result_of(m, m->rank) : operand_of(m, m->rank), box;
    if (!(out ? box_between(m, other, m->rank, &box) : box_between(m, m->rank, other, &box))) return NULL;
    const int64_t slot = (parity * m->n + other) * f->slot;
    mth__channel_move *move = out ? add(m, round, m->rank, MTH__MOVE_SCRATCH, MTH__MOVE_RESULT)
                                  : add(m, round, m->rank, MTH__MOVE_OPERAND, MTH__MOVE_SCRATCH);
    if (!(out ? mth__area_copy(&box, &part, &box, &move->copy) : mth__area_copy(&box, &box, &part, &move->copy)))
        return not_a_box(m, m->device);
    *(out ? &move->copy.from : &move->copy.to) += slot;
    return NULL;
}

static mth_status fill(following *f) {
    moving *m = f->m;
    const mth__channel *c = m->channel;
    if (!has(&c->from, m->device)) return NULL;
    mth__area part = operand_of(m, m->rank);
    switch (c->kind) {
    case MTH__ALL_TO_ALL:
        for (int other = 0; other < m->n; other++) TRY(add_slot(f, 0, other, 0, false));
        return NULL;
    case MTH__ALL_GATHER: {
        mth__area whole = result_of(m, m->rank);
        return mth__area_size(&part)
            ? add_box(m, 0, m->rank, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, false, &part, &whole, &part)
            : NULL;
    }
    default:
        if (c->kind == MTH__REDUCE_SCATTER || has(&c->to, m->device))
            add_range(m, 0, m->rank, MTH__MOVE_OPERAND,
                c->kind == MTH__REDUCE_SCATTER ? MTH__MOVE_SCRATCH : MTH__MOVE_RESULT, false, 0, mth__area_size(&part));
        return NULL;
    }
}

static mth_status empty(following *f, int round) {
    moving *m = f->m;
    mth__area box;
    if (m->channel->kind == MTH__ALL_TO_ALL) {
        const int parity = f->known->t.double_buffer ? f->known->t.rounds % 2 : 0;
        for (int other = 0; other < m->n; other++) TRY(add_slot(f, round, other, parity, true));
    }
    if (m->channel->kind == MTH__REDUCE_SCATTER && box_between(m, m->rank, m->rank, &box)) {
        mth__area part = operand_of(m, m->rank), whole = result_of(m, m->rank);
        return add_box(m, round, m->rank, MTH__MOVE_SCRATCH, MTH__MOVE_RESULT, false, &box, &whole, &part);
    }
    return NULL;
}

static mth_status follow(following *f, const mth__step *step, const mth__box_name *name) {
    moving *m = f->m;
    const mth__channel *c = m->channel;
    const int round = step->round + 1;
    mth__area box;
    switch (c->kind) {
    case MTH__ALL_GATHER: {
        box = operand_of(m, step->from_chunk);
        mth__area whole = result_of(m, m->rank), part = result_of(m, step->peer);
        return mth__area_size(&box)
            ? add_box(m, round, step->peer, MTH__MOVE_RESULT, MTH__MOVE_RESULT, step->reduce, &box, &whole, &part)
            : NULL;
    }
    case MTH__REDUCE_SCATTER: {
        mth__area whole = operand_of(m, m->rank), part = operand_of(m, step->peer);
        return box_between(m, m->rank, step->from_chunk, &box)
            ? add_box(m, round, step->peer, MTH__MOVE_SCRATCH, MTH__MOVE_SCRATCH, step->reduce, &box, &whole, &part)
            : NULL;
    }
    case MTH__ALL_TO_ALL: {
        if (!box_between(m, name->origin, name->destination, &box)) return NULL;
        mth__channel_move *move = add(m, round, step->peer, MTH__MOVE_SCRATCH, MTH__MOVE_SCRATCH);
        const int parity = step->round % 2;
        move->copy = (mth__strided_copy){.rank = 1,
            .size = {mth__area_size(&box)},
            .to_stride = {1},
            .from_stride = {1},
            .to = (!parity * m->n + step->to_chunk) * f->slot,
            .from = (parity * m->n + step->from_chunk) * f->slot};
        return NULL;
    }
    default: {
        /* The source of a broadcast may have no result: what it holds is its operand. */
        const bool kept = has(&c->to, m->member[step->peer]);
        mth__area whole = result_of(m, m->rank);
        int64_t start, count;
        mth__chunk_range(mth__area_size(&whole), f->known->t.chunks, step->from_chunk, &start, &count);
        add_range(m, round, step->peer, kept ? MTH__MOVE_RESULT : MTH__MOVE_OPERAND, MTH__MOVE_RESULT, step->reduce,
            start, count);
        return NULL;
    }
    }
}

static mth_status by_template(moving *m, mth__templates *templates) {
    const mth__channel *c = m->channel;
    mth__known_template *known = mth__template_known(templates, c->kind, c->algorithm, m->n);
    if (c->kind == MTH__ALL_TO_ALL)
        mth__template_know_all(templates, known);
    else
        mth__template_know_rank(templates, known, m->rank);
    following f = {.m = m, .known = known};
    if (c->kind == MTH__ALL_TO_ALL) f.slot = mth__channel_slot(c) / (int64_t)mth_dtype_size(c->dtype);
    TRY(fill(&f));
    for (int i = 0; i < known->count[m->rank]; i++)
        TRY(follow(&f, &known->step[m->rank][i], known->box ? &known->box[m->rank][i] : NULL));
    return empty(&f, known->t.rounds + 1);
}

/* ---------------------------------------------------------------- all kinds */
static bool is_direct(const mth__channel *c, int n) { return c->algorithm == MTH__DIRECT || n == 1; }

int mth__channel_rounds(const mth__channel *c) {
    const int n = mth__channel_size(c);
    if (c->kind != MTH__TRANSFER && !is_direct(c, n)) return mth__template_get(c->kind, c->algorithm, n).rounds + 2;
    return c->kind == MTH__ALL_REDUCE && n > 1 ? 2 : 1;
}

mth_status mth__channel_moves(
    mth__arena *arena, mth__templates *templates, const mth__channel *c, int device, mth__channel_part *out) {
    moving m = {.channel = c, .arena = arena, .device = device, .n = mth__channel_size(c)};
    m.member = NEW_ARRAY(arena, int32_t, m.n);
    m.rank = mth__channel_group(c, device, m.member);
    mth_status status = NULL;
    const bool direct = is_direct(c, m.n);
    if (c->kind == MTH__TRANSFER)
        status = has(&c->to, device) ? transfer(&m) : NULL;
    else if (!direct)
        status = by_template(&m, templates);
    else if (c->kind == MTH__ALL_REDUCE && m.n > 1)
        direct_all_reduce(&m);
    else if (has(&c->to, device))
        status = take_operands(&m);
    *out = (mth__channel_part){mth__channel_rounds(c), (int)m.move.n, m.move.at};
    return status;
}

int64_t mth__channel_move_bytes(const mth__channel *c, const mth__channel_move *move) {
    return mth__size_product(mth__strided_copy_size(&move->copy), (int64_t)mth_dtype_size(c->dtype));
}
