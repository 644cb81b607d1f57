#include "emit/channel_moves.h"

/* What one device's moves are made of. */
typedef struct {
    const mth__channel *channel;
    mth__arena *arena;
    int device, rank, n;
    int32_t *member;
    VEC(mth__channel_move) move;
} move_builder;

static bool has(const mth__sharding *sharding, int device) { return sharding->on->rank_of[device] >= 0; }
static mth__area operand_of(const move_builder *builder, int rank) {
    return mth__area_local(builder->channel->shape, &builder->channel->from, builder->member[rank]);
}
static mth__area result_of(const move_builder *builder, int rank) {
    return mth__area_local(builder->channel->shape, &builder->channel->to, builder->member[rank]);
}

static mth__channel_move *add_move(
    move_builder *builder, int round, int peer_rank, mth__move_memory from, mth__move_memory to) {
    PUSH(builder->arena, builder->move,
        ((mth__channel_move){
            .round = round, .peer = builder->member[peer_rank], .peer_rank = peer_rank, .from = from, .to = to}));
    return &builder->move.at[builder->move.n - 1];
}

static mth_status not_a_box(const move_builder *builder, int peer) {
    return INTERNAL("%s: what device %d takes from device %d is not a box of what both hold", builder->channel->label,
        builder->device, peer);
}

/* The box, between memories that hold `whole` and `part` row by row. */
static mth_status add_box(move_builder *builder, int round, int peer_rank, mth__move_memory from, mth__move_memory to,
    bool reduce, const mth__area *box, const mth__area *whole, const mth__area *part) {
    mth__channel_move *move = add_move(builder, round, peer_rank, from, to);
    move->reduce = reduce;
    return mth__area_copy(box, whole, part, &move->copy) ? NULL : not_a_box(builder, move->peer);
}

/* A range of elements, in memories of one layout. */
static void add_range(move_builder *builder, int round, int peer_rank, mth__move_memory from, mth__move_memory to,
    bool reduce, int64_t start, int64_t count) {
    if (!count) return;
    mth__channel_move *move = add_move(builder, round, peer_rank, from, to);
    move->reduce = reduce;
    move->copy = (mth__strided_copy){
        .rank = 1, .size = {count}, .to_stride = {1}, .from_stride = {1}, .to = start, .from = start};
}

/* ---------------------------------------------------------------- direct: one round from operands to results */
/* What the device's result has in common with the operand of each peer; reductions begin with the first rank's. */
static mth_status take_operands(move_builder *builder) {
    const mth__channel *channel = builder->channel;
    mth__area whole = result_of(builder, builder->rank), box;
    for (int peer = 0; peer < (channel->kind == MTH__BROADCAST ? 1 : builder->n); peer++) {
        mth__area part = operand_of(builder, peer);
        if (!mth__area_intersect(&part, &whole, &box)) continue;
        TRY(add_box(builder, 0, peer, MTH__MOVE_OPERAND, MTH__MOVE_RESULT,
            channel->kind == MTH__REDUCE_SCATTER && peer > 0, &box, &whole, &part));
    }
    return NULL;
}

/* Every rank combines one part of the flat tensor from all ranks; then each takes the parts of the others. */
static void direct_all_reduce(move_builder *builder) {
    mth__area all = operand_of(builder, builder->rank);
    const int64_t elements = mth__area_size(&all);
    int64_t start, count;
    mth__chunk_range(elements, builder->n, builder->rank, &start, &count);
    add_range(builder, 0, builder->rank, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, false, start, count);
    for (int peer = 0; peer < builder->n; peer++)
        if (peer != builder->rank) add_range(builder, 0, peer, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, true, start, count);
    for (int peer = 0; peer < builder->n; peer++) {
        if (peer == builder->rank) continue;
        mth__chunk_range(elements, builder->n, peer, &start, &count);
        add_range(builder, 1, peer, MTH__MOVE_RESULT, MTH__MOVE_RESULT, false, start, count);
    }
}

static mth_status transfer(move_builder *builder) {
    const mth__channel *channel = builder->channel;
    mth__piece *piece;
    int pieces = mth__transfer_pieces(builder->arena, channel, builder->device, &piece);
    mth__area whole = mth__area_local(channel->shape, &channel->to, builder->device);
    for (int i = 0; i < pieces; i++) {
        mth__area box = {.rank = channel->shape.rank},
                  part = mth__area_local(channel->shape, &channel->from, piece[i].from_device);
        for (int d = 0; d < box.rank; d++)
            box.dim[d] = (mth__extent){piece[i].start[d], piece[i].size[d], piece[i].step[d]};
        if (mth__area_size(&box) == 0) continue;
        builder->member[0] = piece[i].from_device;
        TRY(add_box(builder, 0, 0, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, false, &box, &whole, &part));
    }
    return NULL;
}

/* ---------------------------------------------------------------- by template */
/* A collective by its template. The template's chunks lie in the result, but for a reduce_scatter and an all_to_all.
 * Round 0 lays the device's operand there; round k + 1 is the template's round k; a last one takes the result out of
 * the scratch. */
typedef struct {
    move_builder *builder;
    const mth__known_template *known;
    int64_t slot; /* all_to_all: elements */
} template_reader;

static bool box_between(const move_builder *builder, int origin, int destination, mth__area *box) {
    mth__area from = operand_of(builder, origin), to = result_of(builder, destination);
    return mth__area_intersect(&from, &to, box);
}

/* all_to_all: box `other` of the device, between its operand or result and slot `other` of the scratch, where it lies
 * without gaps. */
static mth_status add_slot(template_reader *reader, int round, int other, int parity, bool out) {
    move_builder *builder = reader->builder;
    mth__area part = out ? result_of(builder, builder->rank) : operand_of(builder, builder->rank), box;
    if (!(out ? box_between(builder, other, builder->rank, &box) : box_between(builder, builder->rank, other, &box)))
        return NULL;
    const int64_t slot = (parity * builder->n + other) * reader->slot;
    mth__channel_move *move = out ? add_move(builder, round, builder->rank, MTH__MOVE_SCRATCH, MTH__MOVE_RESULT)
                                  : add_move(builder, round, builder->rank, MTH__MOVE_OPERAND, MTH__MOVE_SCRATCH);
    if (!(out ? mth__area_copy(&box, &part, &box, &move->copy) : mth__area_copy(&box, &box, &part, &move->copy)))
        return not_a_box(builder, builder->device);
    *(out ? &move->copy.from : &move->copy.to) += slot;
    return NULL;
}

static mth_status follow_template(template_reader *reader) {
    move_builder *builder = reader->builder;
    const mth__channel *channel = builder->channel;
    if (!has(&channel->from, builder->device)) return NULL;
    mth__area part = operand_of(builder, builder->rank);
    switch (channel->kind) {
    case MTH__ALL_TO_ALL:
        for (int other = 0; other < builder->n; other++) TRY(add_slot(reader, 0, other, 0, false));
        return NULL;
    case MTH__ALL_GATHER: {
        mth__area whole = result_of(builder, builder->rank);
        return mth__area_size(&part)
            ? add_box(builder, 0, builder->rank, MTH__MOVE_OPERAND, MTH__MOVE_RESULT, false, &part, &whole, &part)
            : NULL;
    }
    default:
        if (channel->kind == MTH__REDUCE_SCATTER || has(&channel->to, builder->device))
            add_range(builder, 0, builder->rank, MTH__MOVE_OPERAND,
                channel->kind == MTH__REDUCE_SCATTER ? MTH__MOVE_SCRATCH : MTH__MOVE_RESULT, false, 0,
                mth__area_size(&part));
        return NULL;
    }
}

static mth_status empty(template_reader *reader, int round) {
    move_builder *builder = reader->builder;
    mth__area box;
    if (builder->channel->kind == MTH__ALL_TO_ALL) {
        const int parity = reader->known->template.double_buffer ? reader->known->template.rounds % 2 : 0;
        for (int other = 0; other < builder->n; other++) TRY(add_slot(reader, round, other, parity, true));
    }
    if (builder->channel->kind == MTH__REDUCE_SCATTER && box_between(builder, builder->rank, builder->rank, &box)) {
        mth__area part = operand_of(builder, builder->rank), whole = result_of(builder, builder->rank);
        return add_box(builder, round, builder->rank, MTH__MOVE_SCRATCH, MTH__MOVE_RESULT, false, &box, &whole, &part);
    }
    return NULL;
}

static mth_status follow(template_reader *reader, const mth__step *step, const mth__box_name *name) {
    move_builder *builder = reader->builder;
    const mth__channel *channel = builder->channel;
    const int round = step->round + 1;
    mth__area box;
    switch (channel->kind) {
    case MTH__ALL_GATHER: {
        box = operand_of(builder, step->from_chunk);
        mth__area whole = result_of(builder, builder->rank), part = result_of(builder, step->peer);
        return mth__area_size(&box)
            ? add_box(builder, round, step->peer, MTH__MOVE_RESULT, MTH__MOVE_RESULT, step->reduce, &box, &whole, &part)
            : NULL;
    }
    case MTH__REDUCE_SCATTER: {
        mth__area whole = operand_of(builder, builder->rank), part = operand_of(builder, step->peer);
        return box_between(builder, builder->rank, step->from_chunk, &box)
            ? add_box(
                  builder, round, step->peer, MTH__MOVE_SCRATCH, MTH__MOVE_SCRATCH, step->reduce, &box, &whole, &part)
            : NULL;
    }
    case MTH__ALL_TO_ALL: {
        if (!box_between(builder, name->origin, name->destination, &box)) return NULL;
        mth__channel_move *move = add_move(builder, round, step->peer, MTH__MOVE_SCRATCH, MTH__MOVE_SCRATCH);
        const int parity = step->round % 2;
        move->copy = (mth__strided_copy){.rank = 1,
            .size = {mth__area_size(&box)},
            .to_stride = {1},
            .from_stride = {1},
            .to = (!parity * builder->n + step->to_chunk) * reader->slot,
            .from = (parity * builder->n + step->from_chunk) * reader->slot};
        return NULL;
    }
    default: {
        /* The source of a broadcast may have no result: what it holds is its operand. */
        const bool kept = has(&channel->to, builder->member[step->peer]);
        mth__area whole = result_of(builder, builder->rank);
        int64_t start, count;
        mth__chunk_range(mth__area_size(&whole), reader->known->template.chunks, step->from_chunk, &start, &count);
        add_range(builder, round, step->peer, kept ? MTH__MOVE_RESULT : MTH__MOVE_OPERAND, MTH__MOVE_RESULT,
            step->reduce, start, count);
        return NULL;
    }
    }
}

static mth_status by_template(move_builder *builder, mth__templates *templates) {
    const mth__channel *channel = builder->channel;
    mth__known_template *known = mth__template_known(templates, channel->kind, channel->algorithm, builder->n);
    if (channel->kind == MTH__ALL_TO_ALL)
        mth__template_know_all(templates, known);
    else
        mth__template_know_rank(templates, known, builder->rank);
    template_reader reader = {.builder = builder, .known = known};
    if (channel->kind == MTH__ALL_TO_ALL)
        reader.slot = mth__channel_slot(channel) / (int64_t)mth_dtype_size(channel->dtype);
    TRY(follow_template(&reader));
    for (int i = 0; i < known->count[builder->rank]; i++)
        TRY(follow(&reader, &known->step[builder->rank][i], known->box ? &known->box[builder->rank][i] : NULL));
    return empty(&reader, known->template.rounds + 1);
}

/* ---------------------------------------------------------------- all kinds */
static bool is_direct(const mth__channel *channel, int n) { return channel->algorithm == MTH__DIRECT || n == 1; }

int mth__channel_rounds(const mth__channel *channel) {
    const int n = mth__channel_size(channel);
    if (channel->kind != MTH__TRANSFER && !is_direct(channel, n))
        return mth__template_get(channel->kind, channel->algorithm, n).rounds + 2;
    return channel->kind == MTH__ALL_REDUCE && n > 1 ? 2 : 1;
}

mth_status mth__channel_moves(
    mth__arena *arena, mth__templates *templates, const mth__channel *channel, int device, mth__channel_part *out) {
    move_builder builder = {.channel = channel, .arena = arena, .device = device, .n = mth__channel_size(channel)};
    builder.member = NEW_ARRAY(arena, int32_t, builder.n);
    builder.rank = mth__channel_group(channel, device, builder.member);
    mth_status status = NULL;
    const bool direct = is_direct(channel, builder.n);
    if (channel->kind == MTH__TRANSFER)
        status = has(&channel->to, device) ? transfer(&builder) : NULL;
    else if (!direct)
        status = by_template(&builder, templates);
    else if (channel->kind == MTH__ALL_REDUCE && builder.n > 1)
        direct_all_reduce(&builder);
    else if (has(&channel->to, device))
        status = take_operands(&builder);
    *out = (mth__channel_part){mth__channel_rounds(channel), (int)builder.move.n, builder.move.at};
    return status;
}

int64_t mth__channel_move_bytes(const mth__channel *channel, const mth__channel_move *move) {
    return mth__size_product(mth__strided_copy_size(&move->copy), (int64_t)mth_dtype_size(channel->dtype));
}
