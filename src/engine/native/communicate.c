/* The tasks of collectives and transfers. Direct ones read the operands of the peers and write results in one task: it waits until the
 * peers have arrived, a second one until they have read. Ring, tree and hierarchical follow their template: a task that fills the buffer
 * the template works on, one for each round, one that empties it. */
#include "engine/native/native.h"

/* A template with the steps of all ranks, and by rank and round whom it waits for: those it reads from, which must have completed the round
 * before, and those that read from it in the round before, as it may now overwrite what they read. Round `rounds` is the last task. */
struct mth__known {
    mth__known *next;
    mth__template t;
    mth__step **step;
    int *count, **first;         /* first[rank][round]: of its steps */
    int *partner, *partner_from; /* [rank * (rounds + 1) + round]: partner[partner_from[i]..partner_from[i + 1]) */
    mth__box_name **box;         /* all_to_all */
};

static void link_partners(mth__arena *arena, mth__known *k) {
    int n = k->t.n, rows = k->t.rounds + 1;
    int *from = k->partner_from = NEW_ARRAY(arena, int, n * rows + 1);
    int *at = NEW_ARRAY(arena, int, n * rows);
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 0; r < n; r++)
            for (int i = 0; i < k->count[r]; i++) {
                mth__step s = k->step[r][i];
                if (s.peer == r || (i && k->step[r][i - 1].round == s.round && k->step[r][i - 1].peer == s.peer)) continue;
                int reads = r * rows + s.round, is_read = s.peer * rows + s.round + 1;
                if (!pass) {
                    from[reads + 1]++;
                    from[is_read + 1]++;
                } else {
                    k->partner[from[reads] + at[reads]++] = s.peer;
                    k->partner[from[is_read] + at[is_read]++] = r;
                }
            }
        if (pass) break;
        for (int i = 0; i < n * rows; i++) from[i + 1] += from[i];
        k->partner = NEW_ARRAY(arena, int, from[n * rows]);
    }
}

static const mth__known *known_template(mth__loader *l, const mth__channel *c, int n) {
    for (mth__known *k = l->known; k; k = k->next)
        if (k->t.kind == c->kind && k->t.algorithm == c->algorithm && k->t.n == n) return k;
    mth__known *k = NEW(l->arena, mth__known);
    k->t = mth__template_get(c->kind, c->algorithm, n);
    k->step = NEW_ARRAY(l->arena, mth__step *, n);
    k->count = NEW_ARRAY(l->arena, int, n);
    k->first = NEW_ARRAY(l->arena, int *, n);
    for (int r = 0; r < n; r++) {
        k->count[r] = mth__template_steps(l->arena, &k->t, r, &k->step[r]);
        k->first[r] = NEW_ARRAY(l->arena, int, k->t.rounds + 1);
        for (int i = 0; i < k->count[r]; i++) k->first[r][k->step[r][i].round + 1]++;
        for (int t = 0; t < k->t.rounds; t++) k->first[r][t + 1] += k->first[r][t];
    }
    link_partners(l->arena, k);
    if (k->t.kind == MTH__ALL_TO_ALL) {
        k->box = NEW_ARRAY(l->arena, mth__box_name *, n);
        mth__template_trace(l->arena, &k->t, k->step, k->count, k->box);
    }
    k->next = l->known;
    l->known = k;
    return k;
}

int mth__communicate_count(const mth__channel *c, const mth__instr *i) {
    if (i->kind == MTH__RECV) return 1;
    if (c->kind == MTH__TRANSFER || c->algorithm == MTH__DIRECT || mth__channel_size(c) == 1) return 2;
    return mth__template_get(c->kind, c->algorithm, mth__channel_size(c)).rounds + 2;
}

/* ---- what one instruction of the device that is being filled works with */
typedef struct { int instr, in, out, scratch; } values; /* of a member: the role's values; -1: none */
typedef struct { int value; int64_t bytes; } target; /* of this device */
struct mth__work {           /* one for all instructions of a load: what it holds is copied to the task */
    mth__loader *l;
    int channel_index, instr, on, n, rank;
    const mth__channel *c;
    int32_t *member;
    values *of;                /* by rank */
    mth__area *from, *to;    /* by rank: the part that a member has before and afterwards; rank -1 where it has none */
    const mth__known *known;
    mth__move_list list;
    VEC(target) target;      /* of list's moves: bound once they lie still */
};
typedef struct mth__work work;

static mth__part part_of(const work *w, int device) {
    return w->l->receive[(size_t)w->channel_index * (size_t)w->l->devices + (size_t)device];
}

static values values_of(const mth__instr *i, int at) {
    return (values){at, i->nin ? i->in[0] : -1, i->nout ? i->out[0] : -1, i->scratch};
}

static mth_status describe(work *w) {
    const mth__channel *c = w->c;
    w->n = mth__channel_size(c);
    w->rank = mth__channel_group(c, w->l->device, w->member);
    for (int r = 0; r < w->n; r++) {
        int d = w->member[r], at = part_of(w, d).instr;
        if (at < 0) return INTERNAL("%s: device %d waits for device %d, which takes no part", c->label, w->l->device, d);
        w->of[r] = values_of(&mth__load_role(w->l, d)->instr.at[at], at);
        if (c->from.on->rank_of[d] >= 0) w->from[r] = mth__area_local(c->shape, &c->from, d);
        else w->from[r].rank = -1;
        if (c->to.on->rank_of[d] >= 0) w->to[r] = mth__area_local(c->shape, &c->to, d);
        else w->to[r].rank = -1;
    }
    return NULL;
}

/* ---- moves */
static void row_major(const mth__area *r, mth__view *v) {
    int64_t stride = 1;
    v->offset = 0;
    for (int d = r->rank - 1; d >= 0; d--) {
        v->stride[d] = stride;
        stride *= r->dim[d].size;
    }
}
/* Adds a move of `box`, as it lies in the views, into a value of the device; the sources follow. */
static mth__move *add_move(work *w, const mth__area *box, const mth__view *dst, int value, int64_t bytes, const mth__view *src,
                           int sources) {
    int64_t size = (int64_t)mth_dtype_size(w->c->dtype);
    mth__box_op op = w->c->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD;
    mth__move m = {.rank = (int8_t)box->rank, .first = MTH__BOX_COPY, .op = op, .dtype = w->c->dtype, .sources = sources,
        .src = NEW_ARRAY(w->l->arena, void *, sources)};
    for (int d = 0; d < box->rank; d++) {
        m.size[d] = box->dim[d].size;
        m.dst_stride[d] = dst->stride[d];
        m.src_stride[d] = src->stride[d];
    }
    PUSH(w->l->arena, w->list.move, m);
    PUSH(w->l->arena, w->target, (target){value, bytes + dst->offset * size});
    return &w->list.move.at[w->list.move.n - 1];
}
static void add_source(work *w, mth__move *m, int k, int rank, int value, int64_t bytes, const mth__view *src) {
    mth__load_bind(w->l, w->member[rank], value, bytes + src->offset * (int64_t)mth_dtype_size(w->c->dtype), &m->src[k]);
}
/* From a member's value, that holds `part`, into this device's, that holds `whole`. */
static mth_status add_box(work *w, const mth__area *box, const mth__area *whole, int value, int rank, const mth__area *part, int source) {
    mth__view dst, src;
    if (!mth__area_view(whole, box, &dst) || !mth__area_view(part, box, &src))
        return INTERNAL("%s: what device %d takes from device %d is not a box of both", w->c->label, w->l->device, w->member[rank]);
    add_source(w, add_move(w, box, &dst, value, 0, &src, 1), 0, rank, source, 0, &src);
    return NULL;
}
static void add_flat(work *w, int value, int64_t bytes, int rank, int source, int64_t source_bytes, int64_t elements) {
    mth__area line = {1, {{0, elements, 1}}};
    mth__view view = {0, {1}};
    if (elements) add_source(w, add_move(w, &line, &view, value, bytes, &view, 1), 0, rank, source, source_bytes, &view);
}

/* Makes the task of the moves collected since the last one. */
static void end_task(work *w) {
    mth__task *t = mth__load_task(w->l, w->on, MTH__TASK_MOVES, w->instr);
    t->work.moves = mth__moves_plan(w->l->arena, &w->list);
    for (size_t i = 0; i < w->target.n; i++)
        mth__load_bind(w->l, w->l->device, w->target.at[i].value, w->target.at[i].bytes, &t->work.moves.move[i].dst);
    t->phases = 1;
    t->chunks[0] = t->work.moves.chunks;
    w->list.move.n = w->target.n = 0;
}

/* ---- direct */
static void wait_arrival(work *w, int rank) {
    mth__part p = part_of(w, w->member[rank]);
    mth__load_wait(w->l, w->on, p.stream, p.first);
}
static void wait_read(work *w, int rank) {
    mth__part p = part_of(w, w->member[rank]);
    mth__load_wait(w->l, w->on, p.stream, p.first + 1);
}

static void direct_all_reduce(work *w) {
    mth__loader *l = w->l;
    mth__reduction *r = NEW(l->arena, mth__reduction);
    int64_t elements = mth__area_size(&w->from[w->rank]), bytes = (int64_t)mth_dtype_size(w->c->dtype);
    *r = (mth__reduction){.op = w->c->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD, .dtype = w->c->dtype, .n = w->n,
                           .piece = MTH__PIECE_BYTES / bytes};
    mth__chunk_range(elements, w->n, w->rank, &r->start, &r->count);
    while (r->count / r->piece >= MTH__CHUNKS_MOST) r->piece *= 2;
    r->src = NEW_ARRAY(l->arena, void *, w->n);
    r->dst = NEW_ARRAY(l->arena, void *, w->n);
    for (int m = 0; m < w->n; m++) {
        mth__load_bind(l, w->member[m], w->of[m].in, 0, &r->src[m]);
        mth__load_bind(l, w->member[m], w->of[m].out, 0, &r->dst[m]);
    }
    size_t scratch = 2 * sizeof(void *) * (size_t)w->n;
    if (l->x->thread_scratch < scratch) l->x->thread_scratch = scratch;
    mth__task *t = mth__load_task(l, w->on, MTH__TASK_REDUCTION, w->instr);
    t->work.reduction = r;
    t->phases = 1;
    t->chunks[0] = (int)((r->count + r->piece - 1) / r->piece);
}

static mth_status direct_reduce_scatter(work *w) {
    const mth__area *part = &w->from[w->rank], *mine = &w->to[w->rank];
    mth__area box;
    mth__view dst, src;
    if (!mth__area_intersect(part, mine, &box)) return NULL;
    if (!mth__area_view(mine, &box, &dst) || !mth__area_view(part, &box, &src))
        return INTERNAL("%s: device %d has no box of its operand", w->c->label, w->l->device);
    mth__move *m = add_move(w, &box, &dst, w->of[w->rank].out, 0, &src, w->n);
    /* in order of ranks: the same bits as a sum of the whole */
    for (int r = 0; r < w->n; r++) add_source(w, m, r, r, w->of[r].in, 0, &src);
    return NULL;
}

/* Each member's box that lies in this device's result. */
static mth_status direct_boxes(work *w) {
    const values mine = w->of[w->rank];
    for (int r = 0; r < w->n; r++) {
        mth__area box;
        if (mine.out < 0 || w->of[r].in < 0 || !mth__area_intersect(&w->from[r], &w->to[w->rank], &box)) continue;
        if (r == w->rank && mth__load_same(w->l, w->l->device, mine.in, mine.out)) continue;
        TRY(add_box(w, &box, &w->to[w->rank], mine.out, r, &w->from[r], w->of[r].in));
    }
    return NULL;
}

static mth_status direct(work *w) {
    for (int r = 0; r < w->n; r++) wait_arrival(w, r);
    if (w->c->kind == MTH__ALL_REDUCE && w->n > 1) direct_all_reduce(w);
    else {
        TRY(w->c->kind == MTH__REDUCE_SCATTER ? direct_reduce_scatter(w) : direct_boxes(w));
        end_task(w);
    }
    for (int r = 0; r < w->n; r++) wait_read(w, r);
    mth__load_task(w->l, w->on, MTH__TASK_SYNC, w->instr);
    return NULL;
}

/* ---- by template */
/* The value whose memory a member's template works on. */
static int buffer_of(const work *w, int rank) {
    const values v = w->of[rank];
    if (w->c->kind == MTH__REDUCE_SCATTER || w->c->kind == MTH__ALL_TO_ALL) return v.scratch;
    return v.out >= 0 ? v.out : v.in; /* in: the source of a broadcast that keeps none */
}
static int64_t slot_bytes(const work *w, int parity, int chunk) { return (parity * w->n + chunk) * mth__channel_slot(w->c); }
static bool box_between(const work *w, int origin, int destination, mth__area *box) {
    return mth__area_intersect(&w->from[origin], &w->to[destination], box);
}

/* all_to_all: box `other` of this device between its operand or result, where it lies as a box, and slot `other`, where it is dense. */
static mth_status add_slot(work *w, int other, int parity, bool out) {
    const values v = w->of[w->rank];
    const mth__area *part = out ? &w->to[w->rank] : &w->from[w->rank];
    mth__area box;
    mth__view lies, dense;
    if (!(out ? box_between(w, other, w->rank, &box) : box_between(w, w->rank, other, &box))) return NULL;
    if (!mth__area_view(part, &box, &lies))
        return INTERNAL("%s: what devices %d and %d exchange is not a box of both", w->c->label, w->l->device, w->member[other]);
    row_major(&box, &dense);
    int64_t slot = slot_bytes(w, parity, other);
    if (out) add_source(w, add_move(w, &box, &lies, v.out, 0, &dense, 1), 0, w->rank, v.scratch, slot, &dense);
    else add_source(w, add_move(w, &box, &dense, v.scratch, slot, &lies, 1), 0, w->rank, v.in, 0, &lies);
    return NULL;
}

static mth_status fill_buffer(work *w) {
    const values v = w->of[w->rank];
    const mth__area *part = &w->from[w->rank];
    switch (w->c->kind) {
    case MTH__ALL_TO_ALL:
        for (int r = 0; r < w->n; r++) TRY(add_slot(w, r, 0, false));
        return NULL;
    case MTH__ALL_GATHER: return mth__area_size(part) ? add_box(w, part, &w->to[w->rank], v.out, w->rank, part, v.in) : NULL;
    default: /* all_reduce, reduce_scatter, the source of a broadcast */
        if (v.in >= 0 && buffer_of(w, w->rank) != v.in && !mth__load_same(w->l, w->l->device, v.in, buffer_of(w, w->rank)))
            add_flat(w, buffer_of(w, w->rank), 0, w->rank, v.in, 0, mth__area_size(part));
        return NULL;
    }
}
static mth_status empty_buffer(work *w) {
    mth__area box;
    if (w->c->kind == MTH__ALL_TO_ALL)
        for (int r = 0; r < w->n; r++) TRY(add_slot(w, r, w->known->t.double_buffer ? w->known->t.rounds % 2 : 0, true));
    if (w->c->kind == MTH__REDUCE_SCATTER && mth__area_intersect(&w->from[w->rank], &w->to[w->rank], &box))
        return add_box(w, &box, &w->to[w->rank], w->of[w->rank].out, w->rank, &w->from[w->rank], w->of[w->rank].scratch);
    return NULL;
}

static mth_status add_step(work *w, const mth__step *s, mth__box_name name) {
    const mth__channel *c = w->c;
    int here = buffer_of(w, w->rank), there = buffer_of(w, s->peer), parity = s->round % 2;
    mth__area box;
    switch (c->kind) {
    case MTH__ALL_GATHER:
        if (mth__area_size(&w->from[s->from_chunk]))
            TRY(add_box(w, &w->from[s->from_chunk], &w->to[w->rank], here, s->peer, &w->to[s->peer], there));
        return NULL;
    case MTH__REDUCE_SCATTER:
        if (!mth__area_intersect(&w->from[w->rank], &w->to[s->from_chunk], &box)) return NULL;
        TRY(add_box(w, &box, &w->from[w->rank], here, s->peer, &w->from[s->peer], there));
        break;
    case MTH__ALL_TO_ALL:
        if (box_between(w, name.origin, name.destination, &box))
            add_flat(w, here, slot_bytes(w, !parity, s->to_chunk), s->peer, there, slot_bytes(w, parity, s->from_chunk),
                     mth__area_size(&box));
        return NULL;
    default: {
        int64_t size = (int64_t)mth_dtype_size(c->dtype), start, count;
        mth__chunk_range(mth__area_size(w->to[w->rank].rank < 0 ? &w->from[w->rank] : &w->to[w->rank]), w->known->t.chunks, s->from_chunk,
                         &start, &count);
        if (!count) return NULL;
        add_flat(w, here, start * size, s->peer, there, start * size, count);
    }
    }
    mth__move *m = &w->list.move.at[w->list.move.n - 1];
    if (s->reduce) m->first = m->op;
    return NULL;
}

static mth_status by_template(work *w) {
    const mth__known *k = w->known = known_template(w->l, w->c, w->n);
    int rows = k->t.rounds + 1, scratch = w->of[w->rank].scratch;
    int64_t need = mth__channel_scratch(w->c, w->l->device), have = scratch < 0 ? 0 : w->l->role->value.at[scratch].bytes;
    if (have < need)
        return INTERNAL("%s: device %d has a scratch of %lld bytes, %lld are needed", w->c->label, w->l->device, (long long)have,
                        (long long)need);
    TRY(fill_buffer(w));
    end_task(w);
    for (int round = 0; round <= k->t.rounds; round++) {
        for (int i = k->partner_from[w->rank * rows + round]; i < k->partner_from[w->rank * rows + round + 1]; i++) {
            mth__part p = part_of(w, w->member[k->partner[i]]);
            mth__load_wait(w->l, w->on, p.stream, p.first + 1 + round);
        }
        if (round == k->t.rounds) break;
        for (int i = k->first[w->rank][round]; i < k->first[w->rank][round + 1]; i++)
            TRY(add_step(w, &k->step[w->rank][i], k->box ? k->box[w->rank][i] : (mth__box_name){0, 0}));
        end_task(w);
    }
    TRY(empty_buffer(w));
    end_task(w);
    return NULL;
}

/* ---- transfers: boxes from whoever has them */
static mth_status pull(work *w, const mth__instr *i) {
    mth__loader *l = w->l;
    const mth__channel *c = w->c;
    const mth__piece *piece;
    mth__area mine = mth__area_local(c->shape, &c->to, l->device);
    int pieces = mth__load_pieces(l, w->channel_index, l->device, &piece);
    w->n = 1;
    for (int k = 0; k < pieces; k++) {
        int from = piece[k].from_device;
        mth__part p = l->send[(size_t)w->channel_index * (size_t)l->devices + (size_t)from];
        if (p.instr < 0 && i->kind != MTH__RECV) p = part_of(w, from); /* within one placement: whoever takes part has an operand */
        if (p.instr < 0) return INTERNAL("%s: device %d takes a box of device %d, which sends none", c->label, l->device, from);
        mth__load_wait(l, w->on, p.stream, p.first);
        mth__area box = {.rank = c->shape.rank}, part = mth__area_local(c->shape, &c->from, from);
        for (int d = 0; d < box.rank; d++) box.dim[d] = (mth__extent){piece[k].start[d], piece[k].size[d], piece[k].step[d]};
        w->member[0] = from;
        if (mth__area_size(&box)) TRY(add_box(w, &box, &mine, i->out[0], 0, &part, mth__load_role(l, from)->instr.at[p.instr].in[0]));
    }
    end_task(w);
    return NULL;
}
static void wait_readers(work *w) {
    mth__loader *l = w->l;
    const mth__placement *on = w->c->to.on;
    for (int r = 0; r < on->count; r++) {
        const mth__piece *piece;
        int q = on->device[r], pieces = mth__load_pieces(l, w->channel_index, q, &piece);
        for (int k = 0; k < pieces; k++)
            if (piece[k].from_device == l->device) mth__load_wait(l, w->on, part_of(w, q).stream, part_of(w, q).first + 1);
    }
}

mth_status mth__communicate(mth__loader *l, int instr) {
    const mth__instr *i = &l->role->instr.at[instr];
    work *w = l->work;
    if (!w) {
        w = l->work = NEW(l->arena, work);
        w->l = l;
        w->member = NEW_ARRAY(l->arena, int32_t, l->devices);
        w->of = NEW_ARRAY(l->arena, values, l->devices);
        w->from = NEW_ARRAY(l->arena, mth__area, l->devices);
        w->to = NEW_ARRAY(l->arena, mth__area, l->devices);
    }
    w->channel_index = i->channel;
    w->instr = instr;
    w->on = i->kind == MTH__START;
    w->c = &l->program->channel.at[i->channel];
    if (i->kind == MTH__RECV) return pull(w, i);
    if (w->c->kind == MTH__TRANSFER) {
        TRY(pull(w, i));
        wait_readers(w);
        mth__load_task(l, w->on, MTH__TASK_SYNC, instr);
        return NULL;
    }
    TRY(describe(w));
    return w->c->algorithm == MTH__DIRECT || w->n == 1 ? direct(w) : by_template(w);
}
