/* The tasks of collectives and transfers. Direct ones: a task that reads the operands of the peers and writes results,
 * when all have arrived, and one that waits until all have read. What the devices of a group share is made once, so
 * that all of it grows with the devices, not with their pairs. Ring, tree and hierarchical follow their template: a
 * task that fills the buffer the template works on, one for each round, one that empties it. */
#include "engine/native/native.h"

/* Of a template, by rank and round whom a rank waits for: those it reads from, which must have completed the round
 * before, and those that read from it in the round before, as it may now overwrite what they read. Round `rounds` is
 * the last task. */
struct mth__partners {
    mth__partners *next;
    const mth__known_template *of;
    /* [rank * (rounds + 1) + round]: partner[partner_from[i]..partner_from[i + 1]) */
    int *partner, *partner_from;
};

static void link_partners(mth__arena *arena, mth__partners *all) {
    const mth__known_template *known = all->of;
    int n = known->t.n, rows = known->t.rounds + 1;
    int *from = all->partner_from = NEW_ARRAY(arena, int, n *rows + 1);
    int *at = NEW_ARRAY(arena, int, n *rows);
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 0; r < n; r++)
            for (int i = 0; i < known->count[r]; i++) {
                mth__step step = known->step[r][i];
                if (step.peer == r ||
                    (i && known->step[r][i - 1].round == step.round && known->step[r][i - 1].peer == step.peer))
                    continue;
                int reads = r * rows + step.round, is_read = step.peer * rows + step.round + 1;
                if (!pass) {
                    from[reads + 1]++;
                    from[is_read + 1]++;
                } else {
                    all->partner[from[reads] + at[reads]++] = step.peer;
                    all->partner[from[is_read] + at[is_read]++] = r;
                }
            }
        if (pass) break;
        for (int i = 0; i < n * rows; i++) from[i + 1] += from[i];
        all->partner = NEW_ARRAY(arena, int, from[n * rows]);
    }
}

static const mth__partners *partners_of(mth__loader *l, const mth__channel *c, int n) {
    mth__known_template *known = mth__template_known(&l->templates, c->kind, c->algorithm, n);
    for (mth__partners *all = l->partners; all; all = all->next)
        if (all->of == known) return all;
    mth__template_know_all(&l->templates, known);
    mth__partners *all = NEW(l->arena, mth__partners);
    all->of = known;
    link_partners(l->arena, all);
    all->next = l->partners;
    l->partners = all;
    return all;
}

int mth__communicate_count(const mth__channel *c, const mth__instr *i) {
    if (i->kind == MTH__RECV) return 1;
    if (c->kind == MTH__TRANSFER || c->algorithm == MTH__DIRECT || mth__channel_size(c) == 1) return 2;
    return mth__channel_rounds(c);
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
static mth__box_move *add_move(work *w, mth__box_move m) {
    m.op = w->c->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD;
    PUSH(w->l->arena, w->list.move, m);
    return &w->list.move.at[w->list.move.n - 1];
}
/* One of the channel's moves, from the value whose address lies in *src. */
static void add_channel_move(work *w, const mth__channel_move *move, void **src) {
    mth__box_move *m = add_move(w, mth__move_of(&move->copy, w->c->dtype));
    m->src = src;
    if (move->reduce) m->first = m->op;
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

/* What all members take, one box from each that has an operand: their results are the same part of the tensor. */
static mth_status gather(work *w, int any) {
    mth__arena *scratch = mth__arena_new();
    mth__collective_group *g = w->group;
    mth__channel_part part;
    TRY(mth__channel_moves(scratch, &w->l->templates, w->c, g->member[any], &part));
    for (int i = 0; i < part.count; i++)
        add_channel_move(w, &part.move[i], &g->memory[MTH__MOVE_OPERAND][part.move[i].peer_rank]);
    g->moves = take_moves(w);
    mth__arena_free(scratch);
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
    for (int memory = 0; memory < (direct ? MTH__MOVE_SCRATCH : MTH__MOVE_MEMORIES); memory++)
        g->memory[memory] = NEW_ARRAY(l->arena, void *, n);
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
        if (v.in >= 0) mth__load_bind(l, member[r], v.in, 0, &g->memory[MTH__MOVE_OPERAND][r]);
        if (v.out >= 0) mth__load_bind(l, member[r], v.out, 0, &g->memory[MTH__MOVE_RESULT][any = r]);
        if (!direct && v.scratch >= 0) mth__load_bind(l, member[r], v.scratch, 0, &g->memory[MTH__MOVE_SCRATCH][r]);
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
    t->chunks[0] = (int)mth__ceil_div(r->count, r->piece);
    return t;
}

/* One move for the same box of all operands, in order of ranks: the same bits as a sum of the whole. */
static mth_status direct_reduce_scatter(work *w) {
    mth__area part = from_of(w, w->rank), mine = to_of(w, w->rank), box;
    mth__strided_copy both;
    if (!mth__area_intersect(&part, &mine, &box)) return NULL;
    if (!mth__area_copy(&box, &mine, &part, &both))
        return INTERNAL("%s: the part of device %d is not a box of its operand", w->c->label, w->l->device);
    mth__box_move *m = add_move(w, mth__move_of(&both, w->c->dtype));
    m->src = w->group->memory[MTH__MOVE_OPERAND];
    m->sources = w->n;
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
    t->chunks[0] = x->parts > 1 ? w->n * x->parts : mth__ceil_div(w->n, x->boxes);
    return t;
}

static mth_status direct(work *w) {
    static const mth__moves none; /* of the source of a broadcast that keeps none */
    void **out = &w->group->memory[MTH__MOVE_RESULT][w->rank];
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

/* ---- by template: a task for each round of the channel's moves */
/* What an all_reduce in place would copy to where it is. */
static bool is_there(const work *w, const mth__channel_move *move) {
    return move->peer == w->l->device && move->from == MTH__MOVE_OPERAND && move->to == MTH__MOVE_RESULT &&
        w->c->kind == MTH__ALL_REDUCE && mth__load_same(w->l, w->l->device, w->own.in, w->own.out);
}

static mth_status by_template(work *w) {
    const mth__partners *partners = partners_of(w->l, w->c, w->n);
    const int rounds = partners->of->t.rounds, rows = rounds + 1, scratch = w->own.scratch;
    int64_t least = mth__channel_scratch(w->c, w->l->device),
            bytes = scratch < 0 ? 0 : w->l->role->value.at[scratch].bytes;
    if (bytes < least)
        return INTERNAL("%s: device %d has a scratch of %lld bytes, %lld are needed", w->c->label, w->l->device,
            (long long)bytes, (long long)least);
    mth__arena *arena = mth__arena_new();
    mth__channel_part part;
    TRY(mth__channel_moves(arena, &w->l->templates, w->c, w->l->device, &part));
    for (int round = 0, i = 0; round < part.rounds; round++) {
        for (int k = round ? partners->partner_from[w->rank * rows + round - 1] : 0;
            round && k < partners->partner_from[w->rank * rows + round]; k++) {
            const mth__part *p = part_of(w, w->group->member[partners->partner[k]]);
            mth__load_wait(w->l, w->on, p->stream, p->first + round);
        }
        mth__move_memory to = MTH__MOVE_RESULT;
        for (; i < part.count && part.move[i].round == round; i++) {
            const mth__channel_move *move = &part.move[i];
            to = move->to;
            if (!is_there(w, move)) add_channel_move(w, move, &w->group->memory[move->from][move->peer_rank]);
        }
        end_task(w, &w->group->memory[to][w->rank]);
    }
    mth__arena_free(arena);
    return NULL;
}

/* ---- transfers: boxes from whoever has them */
static mth_status pull(work *w, const mth__instr *i) {
    mth__loader *l = w->l;
    const mth__channel_part *moves;
    TRY(mth__load_moves(l, w->channel_index, l->device, &moves));
    for (int k = 0; k < moves->count; k++) {
        int from = moves->move[k].peer;
        mth__part p = *mth__load_send(l, w->channel_index, from);
        /* within one placement: whoever takes part has an operand */
        if (p.instr < 0 && i->kind != MTH__RECV) p = *part_of(w, from);
        if (p.instr < 0)
            return INTERNAL("%s: device %d takes a box of device %d, which sends none", w->c->label, l->device, from);
        mth__load_wait(l, w->on, p.stream, p.first);
        add_channel_move(w, &moves->move[k], address_of(w, from, mth__load_role(l, from)->instr.at[p.instr].in[0]));
    }
    end_task(w, address_of(w, l->device, i->out[0]));
    return NULL;
}
static mth_status wait_readers(work *w) {
    mth__loader *l = w->l;
    const int32_t *reader;
    int readers;
    TRY(mth__load_readers(l, w->channel_index, l->device, &reader, &readers));
    for (int k = 0; k < readers; k++)
        mth__load_wait(l, w->on, part_of(w, reader[k])->stream, part_of(w, reader[k])->first + 1);
    return NULL;
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
    w->on = i->stream;
    w->c = &l->program->channel.at[i->channel];
    if (i->kind == MTH__RECV) return pull(w, i);
    if (w->c->kind == MTH__TRANSFER) {
        TRY(pull(w, i));
        TRY(wait_readers(w));
        mth__load_task(l, w->on, MTH__TASK_SYNC, instr);
        return NULL;
    }
    TRY(find_group(w));
    return w->c->algorithm == MTH__DIRECT || w->n == 1 ? direct(w) : by_template(w);
}
