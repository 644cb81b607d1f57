/* A transfer among the devices of one placement, inside their module: boxes of the parts that they have, by
 * collective_permute, into the parts that they want.
 *
 * In a permute each partition sends once and receives once, itself included. So the boxes go in rounds, as many as the
 * busiest partition sends or receives (an edge colouring, D. König, Math. Ann. 77, 1916). Those of a round differ from
 * device to device in where they lie and, at ends, in size: all are cut in the size of the largest, and what is too
 * much is not laid down.
 *
 *     (None, (1, 0)) to (1, 0) on a mesh of (2, 2): every device sends two boxes and receives two: 2 rounds */
#include "engine/pjrt/hlo_group.h"

/* partitions; local indices */
typedef struct {
    int from, to;
    int64_t cut[MTH__RANK], lay[MTH__RANK], size[MTH__RANK];
} edge;
/* By partition: the edge by which it sends or receives; NULL: none. */
typedef struct {
    const edge **sends, **receives;
} round;
typedef struct {
    mth__hlo *hlo;
    const mth__hlo_part *from, *to;
    int rank;
    VEC(edge) edge;
    VEC(round) round;
} exchange;

bool mth__is_exchange(const mth__channel *channel) {
    if (channel->kind != MTH__TRANSFER || channel->from.on != channel->to.on || channel->from.on->count < 2)
        return false;
    for (int d = 0; d < channel->shape.rank; d++)
        if (channel->from.dim[d].cyclic || channel->to.dim[d].cyclic) return false; /* boxes with gaps */
    return true;
}

/* ---------------------------------------------------------------- who sends what when */
static void find_edges(exchange *moves, const mth__channel *channel) {
    mth__hlo *hlo = moves->hlo;
    for (int partition = 0; partition < hlo->partitions; partition++) {
        mth__piece *piece;
        const int pieces = mth__transfer_pieces(hlo->arena, channel, hlo->device[partition], &piece);
        for (int i = 0; i < pieces; i++) {
            edge found = {.from = mth__hlo_partition_of(hlo, piece[i].from_device), .to = partition};
            for (int d = 0; d < moves->rank; d++) {
                found.cut[d] = piece[i].start[d] - moves->from->start[found.from][d];
                found.lay[d] = piece[i].start[d] - moves->to->start[partition][d];
                found.size[d] = piece[i].size[d];
            }
            PUSH(hlo->arena, moves->edge, found);
        }
    }
}

static size_t free_round(exchange *moves, int sender, int receiver) {
    size_t k = 0;
    for (; k < moves->round.n; k++)
        if (sender >= 0 ? !moves->round.at[k].sends[sender] : !moves->round.at[k].receives[receiver]) return k;
    round fresh = {(void *)NEW_ARRAY(moves->hlo->arena, edge *, moves->hlo->partitions),
        (void *)NEW_ARRAY(moves->hlo->arena, edge *, moves->hlo->partitions)};
    PUSH(moves->hlo->arena, moves->round, fresh);
    return k;
}

/* Makes round `a` free at a receiver that is free in round `b`: edges in `a` and in `b` alternate on the path that
   starts at the receiver, and each edge of the path moves to the other round. */
static void swap_path(exchange *moves, int receiver, size_t a, size_t b) {
    const edge *moving = moves->round.at[a].receives[receiver];
    moves->round.at[a].receives[receiver] = NULL;
    /* `moving` leaves a for b; its end here has been taken out of a */
    for (bool at_receiver = true; moving; at_receiver = !at_receiver) {
        const int other = at_receiver ? moving->from : moving->to;
        const edge **here = at_receiver ? moves->round.at[b].receives : moves->round.at[b].sends;
        const edge **there_a = at_receiver ? moves->round.at[a].sends : moves->round.at[a].receives;
        const edge **there_b = at_receiver ? moves->round.at[b].sends : moves->round.at[b].receives;
        here[at_receiver ? moving->to : moving->from] = moving;
        const edge *next = there_b[other];
        there_b[other] = moving;
        there_a[other] = NULL;
        moving = next;
        const size_t swapped = a;
        a = b;
        b = swapped;
    }
}

static void make_rounds(exchange *moves) {
    for (size_t i = 0; i < moves->edge.n; i++) {
        const edge *placed = &moves->edge.at[i];
        const size_t a = free_round(moves, placed->from, -1), b = free_round(moves, -1, placed->to);
        if (moves->round.at[a].receives[placed->to]) swap_path(moves, placed->to, a, b);
        moves->round.at[a].sends[placed->from] = moves->round.at[a].receives[placed->to] = placed;
    }
}

/* ---------------------------------------------------------------- its text */
static mth__shape largest(const exchange *moves, const round *turn) {
    mth__shape shape = {moves->rank, {0}};
    for (int partition = 0; partition < moves->hlo->partitions; partition++)
        for (int d = 0; d < moves->rank && turn->receives[partition]; d++)
            if (turn->receives[partition]->size[d] > shape.dim[d]) shape.dim[d] = turn->receives[partition]->size[d];
    return shape;
}

/* Where the box of each partition begins. All boxes are cut in the size of the largest, and XLA moves a box back that
   would reach behind its operand, so make_room adds elements at the end. */
static void begins(const exchange *moves, const round *turn, bool sends, mth__hlo_val *start) {
    int64_t *at = NEW_ARRAY(moves->hlo->arena, int64_t, moves->hlo->partitions);
    for (int d = 0; d < moves->rank; d++) {
        for (int partition = 0; partition < moves->hlo->partitions; partition++) {
            const edge *own = sends ? turn->sends[partition] : turn->receives[partition];
            at[partition] = !own ? 0 : sends ? own->cut[d] : own->lay[d];
        }
        start[d] = mth__hlo_by_partition(moves->hlo, at);
    }
}

static void make_room(const exchange *moves, const round *turn, bool sends, mth__shape *room) {
    const mth__shape box = largest(moves, turn);
    for (int partition = 0; partition < moves->hlo->partitions; partition++) {
        const edge *own = sends ? turn->sends[partition] : turn->receives[partition];
        for (int d = 0; d < moves->rank; d++) {
            const int64_t end = (!own ? 0 : sends ? own->cut[d] : own->lay[d]) + box.dim[d];
            if (end > room->dim[d]) room->dim[d] = end;
        }
    }
}

static mth__hlo_val permute(const exchange *moves, const round *turn, mth__hlo_val value) {
    mth__hlo *hlo = moves->hlo;
    mth__text pairs = mth__text_new(hlo->arena);
    int count = 0;
    for (int partition = 0; partition < hlo->partitions; partition++)
        if (turn->sends[partition])
            mth__text_add(&pairs, "%s[%d, %d]", count++ ? ", " : "", partition, turn->sends[partition]->to);
    return mth__hlo_permute(hlo, value, pairs.at, count);
}

/* Sets a mask that is true on the elements that a partition really received. Returns false, without a mask, where every
   partition received the whole box. */
static bool part_of_box(const exchange *moves, const round *turn, mth__shape box, mth__hlo_val *mask) {
    mth__hlo *hlo = moves->hlo;
    bool any = false;
    int64_t *size = NEW_ARRAY(hlo->arena, int64_t, hlo->partitions);
    for (int d = 0; d < moves->rank; d++) {
        bool less = false;
        for (int partition = 0; partition < hlo->partitions; partition++) {
            size[partition] = turn->receives[partition] ? turn->receives[partition]->size[d]
                : d                                     ? box.dim[d]
                                                        : 0; /* nothing: no rows */
            less |= size[partition] < box.dim[d];
        }
        if (!less) continue;
        const mth__shape line = {1, {box.dim[d]}};
        mth__hlo_val end = mth__hlo_broadcast(hlo, mth__hlo_by_partition(hlo, size), line, NULL);
        mth__hlo_val in =
            mth__hlo_broadcast(hlo, mth__hlo_compare(hlo, "LT", mth__hlo_iota(hlo, MTH_INT32, line, 0), end), box, &d);
        *mask = any ? mth__hlo_binary(hlo, "and", *mask, in) : in;
        any = true;
    }
    return any;
}

static mth__hlo_val do_round(const exchange *moves, const round *turn, mth__hlo_val source, mth__hlo_val result) {
    mth__hlo *hlo = moves->hlo;
    const mth__shape box = largest(moves, turn);
    mth__hlo_val cut[MTH__RANK], lay[MTH__RANK], mask;
    begins(moves, turn, true, cut);
    begins(moves, turn, false, lay);
    mth__hlo_val moved = permute(moves, turn, mth__hlo_dynamic_slice(hlo, source, cut, box));
    if (part_of_box(moves, turn, box, &mask))
        moved = mth__hlo_select(hlo, mask, moved, mth__hlo_dynamic_slice(hlo, result, lay, box));
    return mth__hlo_dynamic_update(hlo, result, moved, lay);
}

void mth__hlo_exchange(mth__hlo *hlo, const mth__channel *channel, const mth__hlo_operand *in, mth__hlo_operand *out) {
    exchange moves = {.hlo = hlo, .from = in->part, .to = out->part, .rank = channel->shape.rank};
    find_edges(&moves, channel);
    make_rounds(&moves);
    mth__shape source_room = in->part->local, result_room = out->part->local;
    for (size_t k = 0; k < moves.round.n; k++) {
        make_room(&moves, &moves.round.at[k], true, &source_room);
        make_room(&moves, &moves.round.at[k], false, &result_room);
    }
    mth__hlo_val source = mth__hlo_resize(hlo, in->value, source_room),
                 result = mth__hlo_splat(hlo, channel->dtype, result_room, 0);
    for (size_t k = 0; k < moves.round.n; k++) result = do_round(&moves, &moves.round.at[k], source, result);
    out->value = mth__hlo_resize(hlo, result, out->part->local);
}
