/* What the makers of tasks share while a program is loaded: addresses, who takes part in channels, tasks and whom they
 * wait for. */
#include "engine/native/native.h"
#include <string.h>

const mth__role *mth__load_role(const mth__loader *loader, int device) {
    int role_number = loader->program->role_of[device];
    return role_number < 0 ? NULL : &loader->program->role.at[role_number];
}

/* ---- addresses */
static const mth__program_value *base_of(const mth__role *role, int number, int64_t *bytes) {
    const mth__program_value *value = &role->value.at[number];
    for (; value->storage == MTH__IN_ALIAS; value = &role->value.at[value->index]) *bytes += value->offset;
    return value;
}
static mth__storage kind_of(const mth__program_value *value) {
    return value->storage == MTH__IN_LENT ? MTH__IN_EXIT : value->storage;
}
static bool in_slab(const mth__program_value *value) {
    return value->storage == MTH__IN_SLAB || value->storage == MTH__IN_OWN;
}
/* Bytes into the slab of its space, the entry or the exit. */
static int64_t start_of(const mth__loader *loader, int device, const mth__program_value *value) {
    if (value->storage == MTH__IN_OWN) {
        const int role_number = loader->program->role_of[device];
        return loader->own[role_number][value - loader->program->role.at[role_number].value.at];
    }
    return value->storage == MTH__IN_SLAB || value->storage == MTH__IN_LENT ? value->offset : 0;
}
bool mth__load_same(const mth__loader *loader, int device, int number, int other) {
    int64_t a_bytes = 0, b_bytes = 0;
    const mth__role *role = mth__load_role(loader, device);
    const mth__program_value *a = base_of(role, number, &a_bytes), *b = base_of(role, other, &b_bytes);
    if (in_slab(a) != in_slab(b) || (in_slab(a) && a->space != b->space)) return false;
    if (!in_slab(a) && (kind_of(a) != kind_of(b) || a->index != b->index)) return false;
    return start_of(loader, device, a) + a_bytes == start_of(loader, device, b) + b_bytes;
}
void mth__load_bind(mth__loader *loader, int device, int number, int64_t bytes, void **slot) {
    const mth__program_value *value = base_of(mth__load_role(loader, device), number, &bytes);
    bytes += start_of(loader, device, value);
    if (in_slab(value)) {
        PUSH(loader->arena, loader->slab, (mth__fixup){slot, (int64_t)value->space * loader->devices + device, bytes});
        return;
    }
    mth__moving *moving = value->storage == MTH__IN_ENTRY ? &loader->entry : &loader->exit;
    PUSH(loader->arena, moving->fixup,
        (mth__fixup){slot, mth__load_external(loader, value->storage, value->index, device), bytes});
}

/* ---- channels */
/* A device that is in neither placement takes no part. */
static mth__part *part_of(const mth__channel *channel, mth__part *all, int device) {
    static mth__part none = {.instr = -1};
    const int to = channel->to.on->rank_of[device], from = channel->from.on->rank_of[device];
    return to >= 0 ? &all[to] : from >= 0 ? &all[channel->to.on->count + from] : &none;
}
mth__part *mth__load_receive(const mth__loader *loader, int channel_number, int device) {
    return part_of(&loader->program->channel.at[channel_number], loader->channel[channel_number].receive, device);
}
mth__part *mth__load_send(const mth__loader *loader, int channel_number, int device) {
    return part_of(&loader->program->channel.at[channel_number], loader->channel[channel_number].send, device);
}
mth_status mth__load_moves(mth__loader *loader, int channel_number, int receiver, const mth__channel_part **out) {
    mth__part *part = mth__load_receive(loader, channel_number, receiver);
    if (!part->moves) {
        mth__channel_part *moves = NEW(loader->arena, mth__channel_part);
        TRY(mth__channel_moves(
            loader->arena, &loader->templates, &loader->program->channel.at[channel_number], receiver, moves));
        part->moves = moves;
    }
    *out = part->moves;
    return NULL;
}

static mth_status list_readers(mth__loader *loader, int channel_number, mth__readers *all) {
    const mth__placement *to = loader->program->channel.at[channel_number].to.on,
                         *from = loader->program->channel.at[channel_number].from.on;
    int *at = NEW_ARRAY(loader->arena, int, from->count);
    all->first = NEW_ARRAY(loader->arena, int, from->count + 1);
    for (int pass = 0; pass < 2; pass++) {
        for (int rank = 0; rank < to->count; rank++) {
            const mth__channel_part *moves;
            TRY(mth__load_moves(loader, channel_number, to->device[rank], &moves));
            for (int k = 0; k < moves->count; k++) {
                if (k && moves->move[k - 1].peer == moves->move[k].peer) continue;
                int sender = from->rank_of[moves->move[k].peer];
                if (pass)
                    all->device[all->first[sender] + at[sender]++] = to->device[rank];
                else
                    all->first[sender + 1]++;
            }
        }
        if (pass) break;
        for (int rank = 0; rank < from->count; rank++) all->first[rank + 1] += all->first[rank];
        all->device = NEW_ARRAY(loader->arena, int32_t, all->first[from->count]);
    }
    return NULL;
}

mth_status mth__load_readers(mth__loader *loader, int channel_number, int sender, const int32_t **out, int *count) {
    mth__readers *all = &loader->channel[channel_number].readers;
    const int rank = loader->program->channel.at[channel_number].from.on->rank_of[sender];
    *count = 0;
    if (rank < 0) return NULL;
    if (!all->first) TRY(list_readers(loader, channel_number, all));
    *out = all->device + all->first[rank];
    *count = all->first[rank + 1] - all->first[rank];
    return NULL;
}

/* ---- tasks */
void mth__load_wait(mth__loader *loader, int on, int stream, int count) {
    int64_t seen = ((int64_t)loader->device << 32) + count;
    /* in order; or waited for already */
    if (stream == mth__load_stream(loader, loader->device, on) || count <= 0 || seen <= loader->seen[on][stream])
        return;
    loader->seen[on][stream] = seen;
    PUSH(loader->arena, loader->pending[on], (mth__stream_wait){stream, count});
}
mth__task *mth__load_task(mth__loader *loader, int on, mth__task_kind kind, int instruction_number) {
    mth__task *task =
        &loader->executable->stream[mth__load_stream(loader, loader->device, on)].task[loader->tasks[on]++];
    task->kind = kind;
    task->instr = instruction_number;
    task->waits = (int32_t)loader->pending[on].n;
    task->wait = NEW_ARRAY(loader->arena, mth__stream_wait, task->waits);
    if (task->waits) memcpy(task->wait, loader->pending[on].at, sizeof *task->wait * (size_t)task->waits);
    loader->pending[on].n = 0;
    return task;
}

void mth__load_arrival(mth__loader *loader, int on, mth__event *event) {
    if (loader->tasks[on])
        loader->executable->stream[mth__load_stream(loader, loader->device, on)].task[loader->tasks[on] - 1].signals =
            event;
    else
        event->there++;
}
