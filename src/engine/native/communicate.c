/* The tasks of collectives and transfers. Direct ones: a task that reads the operands of the peers and writes results,
 * when all have arrived, and one that waits until all have read. What the devices of a group share is made once, so
 * that all of it grows with the devices, not with their pairs. Ring, tree and hierarchical follow their template: a
 * task that fills the buffer the template works on, one for each round, one that empties it. */
#include "engine/native/native.h"

/* A template with the steps of all ranks, and by rank and round whom it waits for: those it reads from, which must have
 * completed the round before, and those that read from it in the round before, as it may now overwrite what they read.
 * Round `rounds` is the last task. */
struct mth__known {
    mth__known *next;
    mth__template t;
    mth__step **step;
    int *count, **first; /* first[rank][round]: of its steps */
    /* [rank * (rounds + 1) + round]: partner[partner_from[i]..partner_from[i + 1]) */
    int *partner, *partner_from;
    mth__box_name **box; /* all_to_all */
};

static void link_partners(mth__arena *arena, mth__known *k) {
    int n = k->t.n, rows = k->t.rounds + 1;
    int *from = k->partner_from = NEW_ARRAY(arena, int, n *rows + 1);
    int *at = NEW_ARRAY(arena, int, n *rows);
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 0; r < n; r++)
            for (int i = 0; i < k->count[r]; i++) {
                mth__step s = k->step[r][i];
                if (s.peer == r || (i && k->step[r][i - 1].round == s.round && k->step[r][i - 1].peer == s.peer))
                    continue;
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
typedef struct {
    int in, out, scratch;
} values;                   /* of a member: the role's values; -1: none */
struct mth__communicating { /* one for all instructions of a load: what it holds is copied to the task */
    mth__loader *l;
    int channel_index, instr, on, n, rank;
    const mth__channel *c;
    mth__collective_group *group;
    values own;
    const mth__known *known;
    mth__move_list list;
};
typedef struct mth__communicating work;

static mth__part *part_of(const work *w, int device) { return mth__load_receive(w->l, w->channel_index, device); }

static values values_of(const work *w, int device) {
    const mth__instr *i = &mth__load_role(w->l, device)->instr.at[part_of(w, device)->instr];
    return (values){i->nin ? i->in[0] : -1, i->nout ? i->out[0] : -1, i->scratch};
}

/* The part of the tensor that a member has before and afterwards; rank -1: it has none. */
static mth__area area_of(const work *w, const mth__sharding *s, int rank) {
    int device = w->group->member[rank];
    return s->on->rank_of[device] >= 0 ? mth__area_local(w->c->shape, s, device) : (mth__area){.rank = -1};
}
static mth__area from_of(const work *w, int rank) { return area_of(w, &w->c->from, rank); }
static mth__area to_of(const work *w, int rank) { return area_of(w, &w->c->to, rank); }

/* ---- moves */
static void row_major(const mth__area *r, mth__view *v) {
    int64_t stride = 1;
    v->offset = 0;
    for (int d = r->rank - 1; d >= 0; d--) {
        v->stride[d] = stride;
        stride *= r->dim[d].size;
    }
}
static mth__box_move *add_move(work *w, mth__box_move m) {
    m.op = w->c->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD;
    PUSH(w->l->arena, w->list.move, m);
    return &w->list.move.at[w->list.move.n - 1];
}
/* From a value that holds `part`, whose address lies in *src, into one of this device's, that holds `whole`. */
static mth_status add_box(work *w, const mth__area *box, const mth__area *whole, const mth__area *part, void **src) {
    mth__box_move m;
    if (!mth__move_box(&m, w->c->dtype, box, whole, part))
        return INTERNAL(
            "%s: what device %d takes is not a box of what it has and of what is there", w->c->label, w->l->device);
    m.src = src;
    add_move(w, m);
    return NULL;
}
static void add_flat(work *w, int64_t to, void **src, int64_t from, int64_t elements) {
    if (elements)
        add_move(w,
            (mth__box_move){.rank = 1,
                .first = MTH__BOX_COPY,
                .dtype = w->c->dtype,
                .sources = 1,
                .size = {elements},
                .dst_stride = {1},
                .src_stride = {1},
                .to = to,
                .from = from,
                .src = src});
}
/* Where the address of a value will lie. */
static void **address_of(work *w, int device, int value) {
    void **slot = NEW(w->l->arena, void *);
    mth__load_bind(w->l, device, value, 0, slot);
    return slot;
}

static mth__task *moves_task(work *w, const mth__moves *all, void **dst) {
    mth__task *t = mth__load_task(w->l, w->on, MTH__TASK_MOVES, w->instr);
    t->work.moves.all = all;
    t->work.moves.dst = dst;
    t->phases = 1;
    t->chunks[0] = all->chunks;
    return t;
}
/* The moves collected since the last task. */
static const mth__moves *take_moves(work *w) {
    mth__moves *all = NEW(w->l->arena, mth__moves);
    *all = mth__moves_plan(w->l->arena, &w->list);
    w->list.move.n = 0;
    return all;
}
/* Makes the task of them, into the value of this device whose address lies in *dst. */
static void end_task(work *w, void **dst) { moves_task(w, take_moves(w), dst); }

/* ---- groups */
static mth__event *new_event(mth__loader *l, int n, const int32_t *stream) {
    mth__event *e = NEW(l->arena, mth__event);
    e->n = n;
    e->stream = stream;
    PUSH(l->arena, l->event, e);
    return e;
}

/* The value whose memory a member's template works on. */
static int buffer_of(const work *w, values v) {
    if (w->c->kind == MTH__REDUCE_SCATTER || w->c->kind == MTH__ALL_TO_ALL) return v.scratch;
    return v.out >= 0 ? v.out : v.in; /* in: the source of a broadcast that keeps none */
}

/* What all members take, one box from each that has an operand: their results are the same part of the tensor. */
static mth_status gather(work *w, int any) {
    mth__collective_group *g = w->group;
    mth__area to = to_of(w, any);
    for (int r = 0; r < (w->c->kind == MTH__BROADCAST ? 1 : g->n); r++) {
        mth__area box, from = from_of(w, r);
        if (mth__area_intersect(&from, &to, &box)) TRY(add_box(w, &box, &to, &from, &g->in[r]));
    }
    g->moves = take_moves(w);
    return NULL;
}

static mth_status make_group(work *w) {
    mth__loader *l = w->l;
    const mth__channel *c = w->c;
    mth__collective_group *g = w->group = NEW(l->arena, mth__collective_group);
    const int n = g->n = mth__channel_size(c);
    int32_t *member = NEW_ARRAY(l->arena, int32_t, n), *stream = NEW_ARRAY(l->arena, int32_t, n);
    const bool direct = c->algorithm == MTH__DIRECT || n == 1, exchange = direct && c->kind == MTH__ALL_TO_ALL;
    int any = 0; /* a member with a result */
    mth__channel_group(c, l->device, member);
    g->member = member;
    g->in = NEW_ARRAY(l->arena, void *, n);
    g->out = NEW_ARRAY(l->arena, void *, n);
    if (!direct) g->buffer = NEW_ARRAY(l->arena, void *, n);
    if (exchange) g->from = NEW_ARRAY(l->arena, mth__area, n);
    if (exchange) g->to = NEW_ARRAY(l->arena, mth__area, n);
    for (int r = 0; r < n; r++) {
        mth__part *part = part_of(w, member[r]);
        if (part->instr < 0)
            return INTERNAL("%s: device %d waits for device %d, which takes no part", c->label, l->device, member[r]);
        part->group = g;
        part->rank = r;
        stream[r] = part->stream;
        values v = values_of(w, member[r]);
        if (v.in >= 0) mth__load_bind(l, member[r], v.in, 0, &g->in[r]);
        if (v.out >= 0) mth__load_bind(l, member[r], v.out, 0, &g->out[any = r]);
        if (!direct && buffer_of(w, v) >= 0) mth__load_bind(l, member[r], buffer_of(w, v), 0, &g->buffer[r]);
        if (exchange) g->from[r] = from_of(w, r), g->to[r] = to_of(w, r);
    }
    if (!direct) return NULL;
    g->arrived = new_event(l, n, stream);
    g->read = new_event(l, n, stream);
    if ((c->kind == MTH__ALL_REDUCE && n > 1) || c->kind == MTH__REDUCE_SCATTER || exchange) return NULL;
    return gather(w, any);
}

static mth_status find_group(work *w) {
    const mth__part *part = part_of(w, w->l->device);
    w->group = part->group;
    if (!w->group) TRY(make_group(w));
    w->n = w->group->n;
    w->rank = part->rank;
    w->own = values_of(w, w->l->device);
    return NULL;
}

/* ---- direct */
enum { CACHE_LINE = 64 };

static mth__task *direct_all_reduce(work *w) {
    mth__loader *l = w->l;
    mth__reduction *r = NEW(l->arena, mth__reduction);
    mth__area all = from_of(w, w->rank);
    const int64_t bytes = (int64_t)mth_dtype_size(w->c->dtype), lines = mth__area_size(&all) * bytes / CACHE_LINE;
    /* smaller ones make threads write to one line */
    const int parts = lines < w->n ? lines < 1 ? 1 : (int)lines : w->n;
    *r = (mth__reduction){.op = w->c->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD,
        .dtype = w->c->dtype,
        .group = w->group,
        .piece = MTH__PIECE_BYTES / bytes};
    if (w->rank < parts) mth__chunk_range(mth__area_size(&all), parts, w->rank, &r->start, &r->count);
    while (r->count / r->piece >= MTH__CHUNKS_MOST) r->piece *= 2;
    size_t scratch = 2 * sizeof(void *) * (size_t)w->n;
    if (l->x->thread_scratch < scratch) l->x->thread_scratch = scratch;
    mth__task *t = mth__load_task(l, w->on, MTH__TASK_REDUCTION, w->instr);
    t->work.reduction = r;
    t->phases = 1;
    t->chunks[0] = (int)((r->count + r->piece - 1) / r->piece);
    return t;
}

/* In order of ranks: the same bits as a sum of the whole. */
static mth_status direct_reduce_scatter(work *w) {
    mth__area part = from_of(w, w->rank), mine = to_of(w, w->rank), box;
    if (!mth__area_intersect(&part, &mine, &box)) return NULL;
    TRY(add_box(w, &box, &mine, &part, w->group->in));
    w->list.move.at[w->list.move.n - 1].sources = w->n;
    return NULL;
}

static mth__task *direct_all_to_all(work *w) {
    mth__loader *l = w->l;
    mth__exchange *x = NEW(l->arena, mth__exchange);
    /* Bytes of the largest box; the most parts of one. */
    const int64_t bytes = mth__channel_slot(w->c), most = MTH__CHUNKS_MOST / 64 / w->n + 1;
    int64_t parts = bytes / MTH__PIECE_BYTES, boxes = bytes ? MTH__PIECE_BYTES / bytes : w->n;
    *x = (mth__exchange){.group = w->group,
        .dtype = w->c->dtype,
        .rank = w->rank,
        .parts = (int)(parts > most ? most
                : parts > 1         ? parts
                                    : 1),
        .boxes = (int)(boxes > w->n ? w->n
                : boxes > 1         ? boxes
                                    : 1)};
    mth__task *t = mth__load_task(l, w->on, MTH__TASK_EXCHANGE, w->instr);
    t->work.exchange = x;
    t->phases = 1;
    t->chunks[0] = x->parts > 1 ? w->n * x->parts : (w->n + x->boxes - 1) / x->boxes;
    return t;
}

static mth_status direct(work *w) {
    static const mth__moves none; /* of the source of a broadcast that keeps none */
    void **out = &w->group->out[w->rank];
    mth__task *t;
    mth__load_arrival(w->l, w->on, w->group->arrived);
    if (w->group->moves)
        t = moves_task(w, w->own.out < 0 ? &none : w->group->moves, out);
    else if (w->c->kind == MTH__ALL_REDUCE)
        t = direct_all_reduce(w);
    else if (w->c->kind == MTH__ALL_TO_ALL)
        t = direct_all_to_all(w);
    else {
        TRY(direct_reduce_scatter(w));
        t = moves_task(w, take_moves(w), out);
    }
    t->awaits = w->group->arrived;
    t->signals = w->group->read;
    mth__load_task(w->l, w->on, MTH__TASK_SYNC, w->instr)->awaits = w->group->read;
    return NULL;
}

/* ---- by template */
static int64_t slot_bytes(const work *w, int parity, int chunk) {
    return (parity * w->n + chunk) * mth__channel_slot(w->c);
}
static bool box_between(const work *w, int origin, int destination, mth__area *box) {
    mth__area from = from_of(w, origin), to = to_of(w, destination);
    return mth__area_intersect(&from, &to, box);
}

/* all_to_all: box `other` of this device between its operand or result, where it lies as a box, and slot `other`, where
 * it is dense. */
static mth_status add_slot(work *w, int other, int parity, bool out) {
    const int64_t bytes = (int64_t)mth_dtype_size(w->c->dtype), slot = slot_bytes(w, parity, other);
    mth__area part = out ? to_of(w, w->rank) : from_of(w, w->rank), box;
    mth__view lies, dense;
    if (!(out ? box_between(w, other, w->rank, &box) : box_between(w, w->rank, other, &box))) return NULL;
    if (!mth__area_view(&part, &box, &lies))
        return INTERNAL("%s: what devices %d and %d exchange is not a box of both", w->c->label, w->l->device,
            w->group->member[other]);
    row_major(&box, &dense);
    mth__box_move m = {.rank = (int8_t)box.rank,
        .first = MTH__BOX_COPY,
        .dtype = w->c->dtype,
        .sources = 1,
        .to = out ? lies.offset * bytes : slot,
        .from = out ? slot : lies.offset * bytes,
        .src = out ? &w->group->buffer[w->rank] : &w->group->in[w->rank]};
    const mth__view *to = out ? &lies : &dense, *from = out ? &dense : &lies;
    for (int d = 0; d < box.rank; d++) {
        m.size[d] = box.dim[d].size;
        m.dst_stride[d] = to->stride[d];
        m.src_stride[d] = from->stride[d];
    }
    add_move(w, m);
    return NULL;
}

static mth_status fill_buffer(work *w) {
    const int buffer = buffer_of(w, w->own);
    mth__area part = from_of(w, w->rank), whole = to_of(w, w->rank);
    switch (w->c->kind) {
    case MTH__ALL_TO_ALL:
        for (int r = 0; r < w->n; r++) TRY(add_slot(w, r, 0, false));
        return NULL;
    case MTH__ALL_GATHER:
        return mth__area_size(&part) ? add_box(w, &part, &whole, &part, &w->group->in[w->rank]) : NULL;
    default: /* all_reduce, reduce_scatter, the source of a broadcast */
        if (w->own.in >= 0 && buffer != w->own.in && !mth__load_same(w->l, w->l->device, w->own.in, buffer))
            add_flat(w, 0, &w->group->in[w->rank], 0, mth__area_size(&part));
        return NULL;
    }
}
static mth_status empty_buffer(work *w) {
    mth__area from = from_of(w, w->rank), to = to_of(w, w->rank), box;
    if (w->c->kind == MTH__ALL_TO_ALL)
        for (int r = 0; r < w->n; r++)
            TRY(add_slot(w, r, w->known->t.double_buffer ? w->known->t.rounds % 2 : 0, true));
    if (w->c->kind == MTH__REDUCE_SCATTER && mth__area_intersect(&from, &to, &box))
        return add_box(w, &box, &to, &from, &w->group->buffer[w->rank]);
    return NULL;
}

static mth_status add_step(work *w, const mth__step *s, mth__box_name name) {
    const mth__channel *c = w->c;
    const int parity = s->round % 2;
    void **there = &w->group->buffer[s->peer];
    mth__area box, mine, other;
    switch (c->kind) {
    case MTH__ALL_GATHER:
        box = from_of(w, s->from_chunk), mine = to_of(w, w->rank), other = to_of(w, s->peer);
        if (mth__area_size(&box)) TRY(add_box(w, &box, &mine, &other, there));
        return NULL;
    case MTH__REDUCE_SCATTER:
        mine = from_of(w, w->rank), other = from_of(w, s->peer);
        if (!box_between(w, w->rank, s->from_chunk, &box)) return NULL;
        TRY(add_box(w, &box, &mine, &other, there));
        break;
    case MTH__ALL_TO_ALL:
        if (box_between(w, name.origin, name.destination, &box))
            add_flat(w, slot_bytes(w, !parity, s->to_chunk), there, slot_bytes(w, parity, s->from_chunk),
                mth__area_size(&box));
        return NULL;
    default: {
        int64_t size = (int64_t)mth_dtype_size(c->dtype), start, count;
        mine = to_of(w, w->rank);
        if (mine.rank < 0) mine = from_of(w, w->rank);
        mth__chunk_range(mth__area_size(&mine), w->known->t.chunks, s->from_chunk, &start, &count);
        if (!count) return NULL;
        add_flat(w, start * size, there, start * size, count);
    }
    }
    mth__box_move *m = &w->list.move.at[w->list.move.n - 1];
    if (s->reduce) m->first = m->op;
    return NULL;
}

static mth_status by_template(work *w) {
    const mth__known *k = w->known = known_template(w->l, w->c, w->n);
    int rows = k->t.rounds + 1, scratch = w->own.scratch;
    int64_t need = mth__channel_scratch(w->c, w->l->device),
            have = scratch < 0 ? 0 : w->l->role->value.at[scratch].bytes;
    if (have < need)
        return INTERNAL("%s: device %d has a scratch of %lld bytes, %lld are needed", w->c->label, w->l->device,
            (long long)have, (long long)need);
    void **buffer = &w->group->buffer[w->rank];
    TRY(fill_buffer(w));
    end_task(w, buffer);
    for (int round = 0; round <= k->t.rounds; round++) {
        for (int i = k->partner_from[w->rank * rows + round]; i < k->partner_from[w->rank * rows + round + 1]; i++) {
            const mth__part *p = part_of(w, w->group->member[k->partner[i]]);
            mth__load_wait(w->l, w->on, p->stream, p->first + 1 + round);
        }
        if (round == k->t.rounds) break;
        for (int i = k->first[w->rank][round]; i < k->first[w->rank][round + 1]; i++)
            TRY(add_step(w, &k->step[w->rank][i], k->box ? k->box[w->rank][i] : (mth__box_name){0, 0}));
        end_task(w, buffer);
    }
    TRY(empty_buffer(w));
    end_task(w, &w->group->out[w->rank]);
    return NULL;
}

/* ---- transfers: boxes from whoever has them */
static mth_status pull(work *w, const mth__instr *i) {
    mth__loader *l = w->l;
    const mth__channel *c = w->c;
    const mth__piece *piece;
    mth__area mine = mth__area_local(c->shape, &c->to, l->device);
    int pieces = mth__load_pieces(l, w->channel_index, l->device, &piece);
    for (int k = 0; k < pieces; k++) {
        int from = piece[k].from_device;
        mth__part p = *mth__load_send(l, w->channel_index, from);
        /* within one placement: whoever takes part has an operand */
        if (p.instr < 0 && i->kind != MTH__RECV) p = *part_of(w, from);
        if (p.instr < 0)
            return INTERNAL("%s: device %d takes a box of device %d, which sends none", c->label, l->device, from);
        mth__load_wait(l, w->on, p.stream, p.first);
        mth__area box = {.rank = c->shape.rank}, part = mth__area_local(c->shape, &c->from, from);
        for (int d = 0; d < box.rank; d++)
            box.dim[d] = (mth__extent){piece[k].start[d], piece[k].size[d], piece[k].step[d]};
        if (mth__area_size(&box))
            TRY(add_box(w, &box, &mine, &part, address_of(w, from, mth__load_role(l, from)->instr.at[p.instr].in[0])));
    }
    end_task(w, address_of(w, l->device, i->out[0]));
    return NULL;
}
static void wait_readers(work *w) {
    mth__loader *l = w->l;
    const int32_t *reader;
    int readers = mth__load_readers(l, w->channel_index, l->device, &reader);
    for (int k = 0; k < readers; k++)
        mth__load_wait(l, w->on, part_of(w, reader[k])->stream, part_of(w, reader[k])->first + 1);
}

mth_status mth__communicate(mth__loader *l, int instr) {
    const mth__instr *i = &l->role->instr.at[instr];
    work *w = l->work;
    if (!w) {
        w = l->work = NEW(l->arena, work);
        w->l = l;
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
    TRY(find_group(w));
    return w->c->algorithm == MTH__DIRECT || w->n == 1 ? direct(w) : by_template(w);
}
