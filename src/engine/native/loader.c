/* What the makers of tasks share while a program is loaded: addresses, who takes part in channels, tasks and whom they
 * wait for. */
#include "engine/native/native.h"
#include <string.h>

const mth__role *mth__load_role(const mth__loader *l, int device) {
    int role = l->program->role_of[device];
    return role < 0 ? NULL : &l->program->role.at[role];
}

/* ---- addresses */
static const mth__program_value *base_of(const mth__role *role, int value, int64_t *bytes) {
    const mth__program_value *v = &role->value.at[value];
    for (; v->storage == MTH__IN_ALIAS; v = &role->value.at[v->index]) *bytes += v->offset;
    return v;
}
static mth__storage kind_of(const mth__program_value *v) {
    return v->storage == MTH__IN_LENT ? MTH__IN_EXIT : v->storage;
}
static bool in_slab(const mth__program_value *v) { return v->storage == MTH__IN_SLAB || v->storage == MTH__IN_OWN; }
/* Bytes into the slab of its space, the entry or the exit. */
static int64_t start_of(const mth__loader *l, int device, const mth__program_value *v) {
    if (v->storage == MTH__IN_OWN) {
        const int role = l->program->role_of[device];
        return l->own[role][v - l->program->role.at[role].value.at];
    }
    return v->storage == MTH__IN_SLAB || v->storage == MTH__IN_LENT ? v->offset : 0;
}
bool mth__load_same(const mth__loader *l, int device, int value, int other) {
    int64_t a_bytes = 0, b_bytes = 0;
    const mth__role *role = mth__load_role(l, device);
    const mth__program_value *a = base_of(role, value, &a_bytes), *b = base_of(role, other, &b_bytes);
    if (in_slab(a) != in_slab(b) || (in_slab(a) && a->space != b->space)) return false;
    if (!in_slab(a) && (kind_of(a) != kind_of(b) || a->index != b->index)) return false;
    return start_of(l, device, a) + a_bytes == start_of(l, device, b) + b_bytes;
}
void mth__load_bind(mth__loader *l, int device, int value, int64_t bytes, void **slot) {
    const mth__program_value *v = base_of(mth__load_role(l, device), value, &bytes);
    bytes += start_of(l, device, v);
    if (in_slab(v)) {
        PUSH(l->arena, l->slab, (mth__fixup){slot, (int64_t)v->space * l->devices + device, bytes});
        return;
    }
    mth__moving *m = v->storage == MTH__IN_ENTRY ? &l->entry : &l->exit;
    PUSH(l->arena, m->fixup, (mth__fixup){slot, mth__load_external(l, v->storage, v->index, device), bytes});
}

/* ---- channels */
/* A device that is in neither placement takes no part. */
static mth__part *part_of(const mth__channel *c, mth__part *all, int device) {
    static mth__part none = {.instr = -1};
    const int to = c->to.on->rank_of[device], from = c->from.on->rank_of[device];
    return to >= 0 ? &all[to] : from >= 0 ? &all[c->to.on->count + from] : &none;
}
mth__part *mth__load_receive(const mth__loader *l, int channel, int device) {
    return part_of(&l->program->channel.at[channel], l->channel[channel].receive, device);
}
mth__part *mth__load_send(const mth__loader *l, int channel, int device) {
    return part_of(&l->program->channel.at[channel], l->channel[channel].send, device);
}
mth_status mth__load_moves(mth__loader *l, int channel, int receiver, const mth__channel_part **out) {
    mth__part *part = mth__load_receive(l, channel, receiver);
    if (!part->moves) {
        mth__channel_part *moves = NEW(l->arena, mth__channel_part);
        TRY(mth__channel_moves(l->arena, &l->templates, &l->program->channel.at[channel], receiver, moves));
        part->moves = moves;
    }
    *out = part->moves;
    return NULL;
}

static mth_status list_readers(mth__loader *l, int channel, mth__readers *all) {
    const mth__placement *to = l->program->channel.at[channel].to.on, *from = l->program->channel.at[channel].from.on;
    int *at = NEW_ARRAY(l->arena, int, from->count);
    all->first = NEW_ARRAY(l->arena, int, from->count + 1);
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 0; r < to->count; r++) {
            const mth__channel_part *moves;
            TRY(mth__load_moves(l, channel, to->device[r], &moves));
            for (int k = 0; k < moves->count; k++) {
                if (k && moves->move[k - 1].peer == moves->move[k].peer) continue;
                int sender = from->rank_of[moves->move[k].peer];
                if (pass)
                    all->device[all->first[sender] + at[sender]++] = to->device[r];
                else
                    all->first[sender + 1]++;
            }
        }
        if (pass) break;
        for (int r = 0; r < from->count; r++) all->first[r + 1] += all->first[r];
        all->device = NEW_ARRAY(l->arena, int32_t, all->first[from->count]);
    }
    return NULL;
}

mth_status mth__load_readers(mth__loader *l, int channel, int sender, const int32_t **out, int *count) {
    mth__readers *all = &l->channel[channel].readers;
    const int rank = l->program->channel.at[channel].from.on->rank_of[sender];
    *count = 0;
    if (rank < 0) return NULL;
    if (!all->first) TRY(list_readers(l, channel, all));
    *out = all->device + all->first[rank];
    *count = all->first[rank + 1] - all->first[rank];
    return NULL;
}

/* ---- tasks */
void mth__load_wait(mth__loader *l, int on, int stream, int count) {
    int64_t seen = ((int64_t)l->device << 32) + count;
    /* in order; or waited for already */
    if (stream == mth__load_stream(l, l->device, on) || count <= 0 || seen <= l->seen[on][stream]) return;
    l->seen[on][stream] = seen;
    PUSH(l->arena, l->pending[on], (mth__stream_wait){stream, count});
}
mth__task *mth__load_task(mth__loader *l, int on, mth__task_kind kind, int instr) {
    mth__task *t = &l->x->stream[mth__load_stream(l, l->device, on)].task[l->tasks[on]++];
    t->kind = kind;
    t->instr = instr;
    t->waits = (int32_t)l->pending[on].n;
    t->wait = NEW_ARRAY(l->arena, mth__stream_wait, t->waits);
    if (t->waits) memcpy(t->wait, l->pending[on].at, sizeof *t->wait * (size_t)t->waits);
    l->pending[on].n = 0;
    return t;
}

void mth__load_arrival(mth__loader *l, int on, mth__event *e) {
    if (l->tasks[on])
        l->x->stream[mth__load_stream(l, l->device, on)].task[l->tasks[on] - 1].signals = e;
    else
        e->there++;
}
