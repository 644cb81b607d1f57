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
    int n = known->template.n, rows = known->template.rounds + 1;
    int *from = all->partner_from = NEW_ARRAY(arena, int, n *rows + 1);
    int *at = NEW_ARRAY(arena, int, n *rows);
    for (int pass = 0; pass < 2; pass++) {
        for (int rank = 0; rank < n; rank++)
            for (int i = 0; i < known->count[rank]; i++) {
                mth__step step = known->step[rank][i];
                if (step.peer == rank ||
                    (i && known->step[rank][i - 1].round == step.round && known->step[rank][i - 1].peer == step.peer))
                    continue;
                int reads = rank * rows + step.round, is_read = step.peer * rows + step.round + 1;
                if (!pass) {
                    from[reads + 1]++;
                    from[is_read + 1]++;
                } else {
                    all->partner[from[reads] + at[reads]++] = step.peer;
                    all->partner[from[is_read] + at[is_read]++] = rank;
                }
            }
        if (pass) break;
        for (int i = 0; i < n * rows; i++) from[i + 1] += from[i];
        all->partner = NEW_ARRAY(arena, int, from[n * rows]);
    }
}

static const mth__partners *partners_of(mth__loader *loader, const mth__channel *channel, int n) {
    mth__known_template *known = mth__template_known(&loader->templates, channel->kind, channel->algorithm, n);
    for (mth__partners *all = loader->partners; all; all = all->next)
        if (all->of == known) return all;
    mth__template_know_all(&loader->templates, known);
    mth__partners *all = NEW(loader->arena, mth__partners);
    all->of = known;
    link_partners(loader->arena, all);
    all->next = loader->partners;
    loader->partners = all;
    return all;
}

int mth__communicate_count(const mth__channel *channel, const mth__instr *instruction) {
    if (instruction->kind == MTH__RECV) return 1;
    if (channel->kind == MTH__TRANSFER || channel->algorithm == MTH__DIRECT || mth__channel_size(channel) == 1)
        return 2;
    return mth__channel_rounds(channel);
}

/* ---- what one instruction of the device that is being filled works with */
typedef struct {
    int in, out, scratch;
} values;                   /* of a member: the role's values; -1: none */
struct mth__communicating { /* one for all instructions of a load: what it holds is copied to the task */
    mth__loader *loader;
    int channel_index, instr, on, n, rank;
    const mth__channel *channel;
    mth__collective_group *group;
    values own;
    mth__move_list list;
};

static mth__part *part_of(const mth__communicating *work, int device) {
    return mth__load_receive(work->loader, work->channel_index, device);
}

static values values_of(const mth__communicating *work, int device) {
    const mth__instr *instruction = &mth__load_role(work->loader, device)->instr.at[part_of(work, device)->instr];
    return (values){
        instruction->nin ? instruction->in[0] : -1, instruction->nout ? instruction->out[0] : -1, instruction->scratch};
}

/* The part of the tensor that a member has before and afterwards; rank -1: it has none. */
static mth__area area_of(const mth__communicating *work, const mth__sharding *sharding, int rank) {
    int device = work->group->member[rank];
    return sharding->on->rank_of[device] >= 0 ? mth__area_local(work->channel->shape, sharding, device)
                                              : (mth__area){.rank = -1};
}
static mth__area from_of(const mth__communicating *work, int rank) { return area_of(work, &work->channel->from, rank); }
static mth__area to_of(const mth__communicating *work, int rank) { return area_of(work, &work->channel->to, rank); }

/* ---- moves */
static mth__box_move *add_move(mth__communicating *work, mth__box_move move) {
    move.op = work->channel->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD;
    PUSH(work->loader->arena, work->list.move, move);
    return &work->list.move.at[work->list.move.n - 1];
}
/* One of the channel's moves, from the value whose address lies in *src. */
static void add_channel_move(mth__communicating *work, const mth__channel_move *move, void **src) {
    mth__box_move *added = add_move(work, mth__move_of(&move->copy, work->channel->dtype));
    added->src = src;
    if (move->reduce) added->first = added->op;
}
/* Where the address of a value will lie. */
static void **address_of(mth__communicating *work, int device, int number) {
    void **slot = NEW(work->loader->arena, void *);
    mth__load_bind(work->loader, device, number, 0, slot);
    return slot;
}

static mth__task *moves_task(mth__communicating *work, const mth__moves *all, void **dst) {
    mth__task *task = mth__load_task(work->loader, work->on, MTH__TASK_MOVES, work->instr);
    task->work.moves.all = all;
    task->work.moves.dst = dst;
    task->phases = 1;
    task->chunks[0] = all->chunks;
    return task;
}
/* The moves collected since the last task. */
static const mth__moves *take_moves(mth__communicating *work) {
    mth__moves *all = NEW(work->loader->arena, mth__moves);
    *all = mth__moves_plan(work->loader->arena, &work->list);
    work->list.move.n = 0;
    return all;
}
/* Makes the task of them, into the value of this device whose address lies in *dst. */
static void end_task(mth__communicating *work, void **dst) { moves_task(work, take_moves(work), dst); }

/* ---- groups */
static mth__event *new_event(mth__loader *loader, int n, const int32_t *stream) {
    mth__event *event = NEW(loader->arena, mth__event);
    event->n = n;
    event->stream = stream;
    PUSH(loader->arena, loader->event, event);
    return event;
}

/* What all members take, one box from each that has an operand: their results are the same part of the tensor. */
static mth_status gather(mth__communicating *work, int any) {
    mth__arena *scratch = mth__arena_new();
    mth__collective_group *group = work->group;
    mth__channel_part part;
    TRY(mth__channel_moves(scratch, &work->loader->templates, work->channel, group->member[any], &part));
    for (int i = 0; i < part.count; i++)
        add_channel_move(work, &part.move[i], &group->memory[MTH__MOVE_OPERAND][part.move[i].peer_rank]);
    group->moves = take_moves(work);
    mth__arena_free(scratch);
    return NULL;
}

static mth_status make_group(mth__communicating *work) {
    mth__loader *loader = work->loader;
    const mth__channel *channel = work->channel;
    mth__collective_group *group = work->group = NEW(loader->arena, mth__collective_group);
    const int n = group->n = mth__channel_size(channel);
    int32_t *member = NEW_ARRAY(loader->arena, int32_t, n), *stream = NEW_ARRAY(loader->arena, int32_t, n);
    const bool direct = channel->algorithm == MTH__DIRECT || n == 1,
               exchange = direct && channel->kind == MTH__ALL_TO_ALL;
    int any = 0; /* a member with a result */
    mth__channel_group(channel, loader->device, member);
    group->member = member;
    for (int memory = 0; memory < (direct ? MTH__MOVE_SCRATCH : MTH__MOVE_MEMORIES); memory++)
        group->memory[memory] = NEW_ARRAY(loader->arena, void *, n);
    if (exchange) group->from = NEW_ARRAY(loader->arena, mth__area, n);
    if (exchange) group->to = NEW_ARRAY(loader->arena, mth__area, n);
    for (int rank = 0; rank < n; rank++) {
        mth__part *part = part_of(work, member[rank]);
        if (part->instr < 0)
            return INTERNAL(
                "%s: device %d waits for device %d, which takes no part", channel->label, loader->device, member[rank]);
        part->group = group;
        part->rank = rank;
        stream[rank] = part->stream;
        values numbers = values_of(work, member[rank]);
        if (numbers.in >= 0)
            mth__load_bind(loader, member[rank], numbers.in, 0, &group->memory[MTH__MOVE_OPERAND][rank]);
        if (numbers.out >= 0)
            mth__load_bind(loader, member[rank], numbers.out, 0, &group->memory[MTH__MOVE_RESULT][any = rank]);
        if (!direct && numbers.scratch >= 0)
            mth__load_bind(loader, member[rank], numbers.scratch, 0, &group->memory[MTH__MOVE_SCRATCH][rank]);
        if (exchange) group->from[rank] = from_of(work, rank), group->to[rank] = to_of(work, rank);
    }
    if (!direct) return NULL;
    group->arrived = new_event(loader, n, stream);
    group->read = new_event(loader, n, stream);
    if ((channel->kind == MTH__ALL_REDUCE && n > 1) || channel->kind == MTH__REDUCE_SCATTER || exchange) return NULL;
    return gather(work, any);
}

static mth_status find_group(mth__communicating *work) {
    const mth__part *part = part_of(work, work->loader->device);
    work->group = part->group;
    if (!work->group) TRY(make_group(work));
    work->n = work->group->n;
    work->rank = part->rank;
    work->own = values_of(work, work->loader->device);
    return NULL;
}

/* ---- direct */
enum { CACHE_LINE = 64 };

static mth__task *direct_all_reduce(mth__communicating *work) {
    mth__loader *loader = work->loader;
    mth__reduction *reduction = NEW(loader->arena, mth__reduction);
    mth__area all = from_of(work, work->rank);
    const int64_t bytes = (int64_t)mth_dtype_size(work->channel->dtype),
                  lines = mth__area_size(&all) * bytes / CACHE_LINE;
    /* smaller ones make threads write to one line */
    const int parts = lines < work->n ? lines < 1 ? 1 : (int)lines : work->n;
    *reduction = (mth__reduction){.op = work->channel->reduce == MTH__REDUCE_MAX ? MTH__BOX_MAX : MTH__BOX_ADD,
        .dtype = work->channel->dtype,
        .group = work->group,
        .piece = MTH__PIECE_BYTES / bytes};
    if (work->rank < parts)
        mth__chunk_range(mth__area_size(&all), parts, work->rank, &reduction->start, &reduction->count);
    while (reduction->count / reduction->piece >= MTH__CHUNKS_MOST) reduction->piece *= 2;
    size_t scratch = 2 * sizeof(void *) * (size_t)work->n;
    if (loader->executable->thread_scratch < scratch) loader->executable->thread_scratch = scratch;
    mth__task *task = mth__load_task(loader, work->on, MTH__TASK_REDUCTION, work->instr);
    task->work.reduction = reduction;
    task->phases = 1;
    task->chunks[0] = (int)mth__ceil_div(reduction->count, reduction->piece);
    return task;
}

/* One move for the same box of all operands, in order of ranks: the same bits as a sum of the whole. */
static mth_status direct_reduce_scatter(mth__communicating *work) {
    mth__area part = from_of(work, work->rank), mine = to_of(work, work->rank), box;
    mth__strided_copy both;
    if (!mth__area_intersect(&part, &mine, &box)) return NULL;
    if (!mth__area_copy(&box, &mine, &part, &both))
        return INTERNAL(
            "%s: the part of device %d is not a box of its operand", work->channel->label, work->loader->device);
    mth__box_move *move = add_move(work, mth__move_of(&both, work->channel->dtype));
    move->src = work->group->memory[MTH__MOVE_OPERAND];
    move->sources = work->n;
    return NULL;
}

static mth__task *direct_all_to_all(mth__communicating *work) {
    mth__loader *loader = work->loader;
    mth__exchange *exchange = NEW(loader->arena, mth__exchange);
    /* Bytes of the largest box; the most parts of one. */
    const int64_t bytes = mth__channel_slot(work->channel), most = MTH__CHUNKS_MOST / 64 / work->n + 1;
    int64_t parts = bytes / MTH__PIECE_BYTES, boxes = bytes ? MTH__PIECE_BYTES / bytes : work->n;
    *exchange = (mth__exchange){.group = work->group,
        .dtype = work->channel->dtype,
        .rank = work->rank,
        .parts = (int)(parts > most ? most
                : parts > 1         ? parts
                                    : 1),
        .boxes = (int)(boxes > work->n ? work->n
                : boxes > 1            ? boxes
                                       : 1)};
    mth__task *task = mth__load_task(loader, work->on, MTH__TASK_EXCHANGE, work->instr);
    task->work.exchange = exchange;
    task->phases = 1;
    task->chunks[0] = exchange->parts > 1 ? work->n * exchange->parts : mth__ceil_div(work->n, exchange->boxes);
    return task;
}

static mth_status direct(mth__communicating *work) {
    static const mth__moves none; /* of the source of a broadcast that keeps none */
    void **out = &work->group->memory[MTH__MOVE_RESULT][work->rank];
    mth__task *task;
    mth__load_arrival(work->loader, work->on, work->group->arrived);
    if (work->group->moves)
        task = moves_task(work, work->own.out < 0 ? &none : work->group->moves, out);
    else if (work->channel->kind == MTH__ALL_REDUCE)
        task = direct_all_reduce(work);
    else if (work->channel->kind == MTH__ALL_TO_ALL)
        task = direct_all_to_all(work);
    else {
        TRY(direct_reduce_scatter(work));
        task = moves_task(work, take_moves(work), out);
    }
    task->awaits = work->group->arrived;
    task->signals = work->group->read;
    mth__load_task(work->loader, work->on, MTH__TASK_SYNC, work->instr)->awaits = work->group->read;
    return NULL;
}

/* ---- by template: a task for each round of the channel's moves */
/* Does the move copy elements onto themselves? One of an all_reduce in place may. */
static bool is_there(const mth__communicating *work, const mth__channel_move *move) {
    return move->peer == work->loader->device && move->from == MTH__MOVE_OPERAND && move->to == MTH__MOVE_RESULT &&
        work->channel->kind == MTH__ALL_REDUCE &&
        mth__load_same(work->loader, work->loader->device, work->own.in, work->own.out);
}

static mth_status by_template(mth__communicating *work) {
    const mth__partners *partners = partners_of(work->loader, work->channel, work->n);
    const int rounds = partners->of->template.rounds, rows = rounds + 1, scratch = work->own.scratch;
    int64_t least = mth__channel_scratch(work->channel, work->loader->device),
            bytes = scratch < 0 ? 0 : work->loader->role->value.at[scratch].bytes;
    if (bytes < least)
        return INTERNAL("%s: device %d has a scratch of %lld bytes, %lld are needed", work->channel->label,
            work->loader->device, (long long)bytes, (long long)least);
    mth__arena *arena = mth__arena_new();
    mth__channel_part part;
    TRY(mth__channel_moves(arena, &work->loader->templates, work->channel, work->loader->device, &part));
    for (int round = 0, i = 0; round < part.rounds; round++) {
        for (int k = round ? partners->partner_from[work->rank * rows + round - 1] : 0;
            round && k < partners->partner_from[work->rank * rows + round]; k++) {
            const mth__part *other = part_of(work, work->group->member[partners->partner[k]]);
            mth__load_wait(work->loader, work->on, other->stream, other->first + round);
        }
        mth__move_memory to = MTH__MOVE_RESULT;
        for (; i < part.count && part.move[i].round == round; i++) {
            const mth__channel_move *move = &part.move[i];
            to = move->to;
            if (!is_there(work, move)) add_channel_move(work, move, &work->group->memory[move->from][move->peer_rank]);
        }
        end_task(work, &work->group->memory[to][work->rank]);
    }
    mth__arena_free(arena);
    return NULL;
}

/* ---- transfers: boxes from whoever has them */
static mth_status pull(mth__communicating *work, const mth__instr *instruction) {
    mth__loader *loader = work->loader;
    const mth__channel_part *moves;
    TRY(mth__load_moves(loader, work->channel_index, loader->device, &moves));
    for (int k = 0; k < moves->count; k++) {
        int from = moves->move[k].peer;
        mth__part part = *mth__load_send(loader, work->channel_index, from);
        /* within one placement: whoever takes part has an operand */
        if (part.instr < 0 && instruction->kind != MTH__RECV) part = *part_of(work, from);
        if (part.instr < 0)
            return INTERNAL(
                "%s: device %d takes a box of device %d, which sends none", work->channel->label, loader->device, from);
        mth__load_wait(loader, work->on, part.stream, part.first);
        add_channel_move(
            work, &moves->move[k], address_of(work, from, mth__load_role(loader, from)->instr.at[part.instr].in[0]));
    }
    end_task(work, address_of(work, loader->device, instruction->out[0]));
    return NULL;
}
static mth_status wait_readers(mth__communicating *work) {
    mth__loader *loader = work->loader;
    const int32_t *reader;
    int readers;
    TRY(mth__load_readers(loader, work->channel_index, loader->device, &reader, &readers));
    for (int k = 0; k < readers; k++)
        mth__load_wait(loader, work->on, part_of(work, reader[k])->stream, part_of(work, reader[k])->first + 1);
    return NULL;
}

mth_status mth__communicate(mth__loader *loader, int instruction_number) {
    const mth__instr *instruction = &loader->role->instr.at[instruction_number];
    mth__communicating *work = loader->work;
    if (!work) {
        work = loader->work = NEW(loader->arena, mth__communicating);
        work->loader = loader;
    }
    work->channel_index = instruction->channel;
    work->instr = instruction_number;
    work->on = instruction->stream;
    work->channel = &loader->program->channel.at[instruction->channel];
    if (instruction->kind == MTH__RECV) return pull(work, instruction);
    if (work->channel->kind == MTH__TRANSFER) {
        TRY(pull(work, instruction));
        TRY(wait_readers(work));
        mth__load_task(loader, work->on, MTH__TASK_SYNC, instruction_number);
        return NULL;
    }
    TRY(find_group(work));
    return work->channel->algorithm == MTH__DIRECT || work->n == 1 ? direct(work) : by_template(work);
}
