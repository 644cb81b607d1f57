/* A transfer among the devices of one placement, inside their module: boxes of the parts that they have, by
 * collective_permute, into the parts that they want.
 *
 * In a permute each partition sends once and receives once, itself included. So the boxes go in rounds, as many as the
 * busiest partition sends or receives (an edge colouring, D. König, Math. Ann. 77, 1916). Those of a round differ from
 * device to device in where they lie and, at ends, in size: all are cut in the size of the largest, and what is too
 *   much is not laid down.
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
    mth__hlo *h;
    const mth__hlo_part *from, *to;
    int rank;
    VEC(edge) edge;
    VEC(round) round;
} exchange;

bool mth__is_exchange(const mth__channel *c) {
    if (c->kind != MTH__TRANSFER || c->from.on != c->to.on || c->from.on->count < 2) return false;
    for (int d = 0; d < c->shape.rank; d++)
        if (c->from.dim[d].cyclic || c->to.dim[d].cyclic) return false; /* boxes with gaps */
    return true;
}

/* ---------------------------------------------------------------- who sends what when */
static void find_edges(exchange *x, const mth__channel *c) {
    mth__hlo *h = x->h;
    for (int p = 0; p < h->partitions; p++) {
        mth__piece *piece;
        const int pieces = mth__transfer_pieces(h->arena, c, h->device[p], &piece);
        for (int i = 0; i < pieces; i++) {
            edge e = {.from = mth__hlo_partition_of(h, piece[i].from_device), .to = p};
            for (int d = 0; d < x->rank; d++) {
                e.cut[d] = piece[i].start[d] - x->from->start[e.from][d];
                e.lay[d] = piece[i].start[d] - x->to->start[p][d];
                e.size[d] = piece[i].size[d];
            }
            PUSH(h->arena, x->edge, e);
        }
    }
}

static size_t free_round(exchange *x, int sender, int receiver) {
    size_t r = 0;
    for (; r < x->round.n; r++)
        if (sender >= 0 ? !x->round.at[r].sends[sender] : !x->round.at[r].receives[receiver]) return r;
    round fresh = {(void *)NEW_ARRAY(x->h->arena, edge *, x->h->partitions),
        (void *)NEW_ARRAY(x->h->arena, edge *, x->h->partitions)};
    PUSH(x->h->arena, x->round, fresh);
    return r;
}

/* Frees round `a` at a receiver where `b` is free: along the path from it whose edges are in a, b, a, ... the two
 * change places. */
static void swap_path(exchange *x, int receiver, size_t a, size_t b) {
    const edge *moving = x->round.at[a].receives[receiver];
    x->round.at[a].receives[receiver] = NULL;
    /* `moving` leaves a for b; its end here has been taken out of a */
    for (bool at_receiver = true; moving; at_receiver = !at_receiver) {
        const int other = at_receiver ? moving->from : moving->to;
        const edge **here = at_receiver ? x->round.at[b].receives : x->round.at[b].sends;
        const edge **there_a = at_receiver ? x->round.at[a].sends : x->round.at[a].receives;
        const edge **there_b = at_receiver ? x->round.at[b].sends : x->round.at[b].receives;
        here[at_receiver ? moving->to : moving->from] = moving;
        const edge *next = there_b[other];
        there_b[other] = moving;
        there_a[other] = NULL;
        moving = next;
        const size_t c = a;
        a = b;
        b = c;
    }
}

static void make_rounds(exchange *x) {
    for (size_t i = 0; i < x->edge.n; i++) {
        const edge *e = &x->edge.at[i];
        const size_t a = free_round(x, e->from, -1), b = free_round(x, -1, e->to);
        if (x->round.at[a].receives[e->to]) swap_path(x, e->to, a, b);
        x->round.at[a].sends[e->from] = x->round.at[a].receives[e->to] = e;
    }
}

/* ---------------------------------------------------------------- its text */
static mth__shape largest(const exchange *x, const round *r) {
    mth__shape s = {x->rank, {0}};
    for (int p = 0; p < x->h->partitions; p++)
        for (int d = 0; d < x->rank && r->receives[p]; d++)
            if (r->receives[p]->size[d] > s.dim[d]) s.dim[d] = r->receives[p]->size[d];
    return s;
}

/* Where each partition's box begins, and room behind the values for what is cut or laid too much: XLA would move the
 * box instead. */
static void begins(const exchange *x, const round *r, bool sends, mth__hlo_val *start) {
    int64_t *at = NEW_ARRAY(x->h->arena, int64_t, x->h->partitions);
    for (int d = 0; d < x->rank; d++) {
        for (int p = 0; p < x->h->partitions; p++) {
            const edge *e = sends ? r->sends[p] : r->receives[p];
            at[p] = !e ? 0 : sends ? e->cut[d] : e->lay[d];
        }
        start[d] = mth__hlo_by_partition(x->h, at);
    }
}

static void make_room(const exchange *x, const round *r, bool sends, mth__shape *room) {
    const mth__shape box = largest(x, r);
    for (int p = 0; p < x->h->partitions; p++) {
        const edge *e = sends ? r->sends[p] : r->receives[p];
        for (int d = 0; d < x->rank; d++) {
            const int64_t end = (!e ? 0 : sends ? e->cut[d] : e->lay[d]) + box.dim[d];
            if (end > room->dim[d]) room->dim[d] = end;
        }
    }
}

static mth__hlo_val permute(const exchange *x, const round *r, mth__hlo_val v) {
    mth__hlo *h = x->h;
    mth__text pairs = mth__text_new(h->arena);
    int count = 0;
    for (int p = 0; p < h->partitions; p++)
        if (r->sends[p]) mth__text_add(&pairs, "%s[%d, %d]", count++ ? ", " : "", p, r->sends[p]->to);
    return mth__hlo_permute(h, v, pairs.at, count);
}

/* True on the elements of the box that a partition really received; false: all of them are, on every partition. */
static bool part_of_box(const exchange *x, const round *r, mth__shape box, mth__hlo_val *mask) {
    mth__hlo *h = x->h;
    bool any = false;
    int64_t *size = NEW_ARRAY(h->arena, int64_t, h->partitions);
    for (int d = 0; d < x->rank; d++) {
        bool less = false;
        for (int p = 0; p < h->partitions; p++) {
            size[p] = r->receives[p] ? r->receives[p]->size[d] : d ? box.dim[d] : 0; /* nothing: no rows */
            less |= size[p] < box.dim[d];
        }
        if (!less) continue;
        const mth__shape line = {1, {box.dim[d]}};
        mth__hlo_val end = mth__hlo_broadcast(h, mth__hlo_by_partition(h, size), line, NULL);
        mth__hlo_val in =
            mth__hlo_broadcast(h, mth__hlo_compare(h, "LT", mth__hlo_iota(h, MTH_INT32, line, 0), end), box, &d);
        *mask = any ? mth__hlo_binary(h, "and", *mask, in) : in;
        any = true;
    }
    return any;
}

static mth__hlo_val do_round(const exchange *x, const round *r, mth__hlo_val source, mth__hlo_val result) {
    mth__hlo *h = x->h;
    const mth__shape box = largest(x, r);
    mth__hlo_val cut[MTH__RANK], lay[MTH__RANK], mask;
    begins(x, r, true, cut);
    begins(x, r, false, lay);
    mth__hlo_val moved = permute(x, r, mth__hlo_dynamic_slice(h, source, cut, box));
    if (part_of_box(x, r, box, &mask))
        moved = mth__hlo_select(h, mask, moved, mth__hlo_dynamic_slice(h, result, lay, box));
    return mth__hlo_dynamic_update(h, result, moved, lay);
}

void mth__hlo_exchange(mth__hlo *h, const mth__channel *c, const mth__hlo_operand *in, mth__hlo_operand *out) {
    exchange x = {.h = h, .from = in->part, .to = out->part, .rank = c->shape.rank};
    find_edges(&x, c);
    make_rounds(&x);
    mth__shape have = in->part->local, want = out->part->local;
    for (size_t r = 0; r < x.round.n; r++) {
        make_room(&x, &x.round.at[r], true, &have);
        make_room(&x, &x.round.at[r], false, &want);
    }
    mth__hlo_val source = mth__hlo_resize(h, in->v, have), result = mth__hlo_splat(h, c->dtype, want, 0);
    for (size_t r = 0; r < x.round.n; r++) result = do_round(&x, &x.round.at[r], source, result);
    out->v = mth__hlo_resize(h, result, out->part->local);
}
