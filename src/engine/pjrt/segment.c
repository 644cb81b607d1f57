#include "engine/pjrt/segment.h"
#include "base/table.h"
#include <string.h>

/* ---------------------------------------------------------------- parts */
mth__shape mth__xla_part(const mth__program_value *v, mth__shape *whole) {
    mth__shape part = v->shape;
    for (int d = 0; d < part.rank; d++) {
        int64_t k = 1;
        for (int a = 0; a < v->sharding.dim[d].naxes; a++) k *= v->sharding.on->dim[v->sharding.dim[d].axis[a]];
        part.dim[d] = mth__ceil_div(part.dim[d], k);
        if (whole) whole->dim[d] = part.dim[d] * k;
    }
    if (whole) whole->rank = part.rank;
    return part;
}

mth__hlo_part *mth__part_of(
    mth__arena *arena, mth_dtype dtype, mth__shape shape, const mth__sharding *s, int count, const int32_t *device) {
    mth__hlo_part *p = NEW(arena, mth__hlo_part);
    typedef int64_t coordinates[MTH__RANK];
    *p = (mth__hlo_part){.dtype = dtype,
        .shape = shape,
        .local = mth__largest_part(shape, s),
        .sharding = s,
        .start = NEW_ARRAY(arena, coordinates, count),
        .size = NEW_ARRAY(arena, coordinates, count),
        .step = NEW_ARRAY(arena, coordinates, count)};
    for (int i = 0; i < count; i++) {
        int rank = s->on->rank_of[device[i]];
        for (int d = 0; d < MTH__RANK; d++) p->step[i][d] = 1;
        if (rank >= 0)
            memcpy(p->size[i], mth__local_shape(shape, s, rank, p->start[i], p->step[i]).dim, sizeof p->size[i]);
        for (int d = 0; d < shape.rank; d++) p->padded[d] |= p->size[i][d] < p->local.dim[d];
    }
    return p;
}

/* ---------------------------------------------------------------- slots */
typedef struct {
    int key;
    size_t members; /* of its roles: whose next instruction it is */
} wanted_key;
typedef struct {
    mth__segments *s;
    mth__arena *arena; /* scratch */
    const mth__program *p;
    mth__table names; /* of slots */
    /* Keys: what makes instructions of several roles one. A slot: the computation that makes it; behind them two a
       channel: who takes part or receives, who sends. */
    int keys;
    VEC(int) * member;      /* by key: roles */
    bool *done;             /* by key */
    size_t *at;             /* by role: the instruction that is next */
    mth__segment **open;    /* by role: the segment that may go on; NULL: none */
    VEC(wanted_key) wanted; /* each waits for the one behind it */
} merging;

typedef struct {
    const mth__segments *segments;
    const mth__program_value *value;
} slot_key;

/* An input that two placements use has a value, of one name, for each. Where else a value lies is each role's own
   matter: sizes of parts decide what is written in place. */
static bool is_slot(const void *key, int number) {
    const mth__program_value *wanted = ((const slot_key *)key)->value,
                             *known = ((const slot_key *)key)->segments->slot.at[number].any;
    const bool entry = wanted->storage == MTH__IN_ENTRY;
    return !strcmp(known->name, wanted->name) && entry == (known->storage == MTH__IN_ENTRY) &&
        (!entry || known->index == wanted->index);
}

static int slot_named(merging *m, const mth__program_value *v) {
    const int next = (int)m->s->slot.n,
              number = mth__table_add(
                  m->arena, &m->names, mth__hash_text(v->name, strlen(v->name)), is_slot, &(slot_key){m->s, v}, next);
    if (number == next)
        PUSH(m->s->arena, m->s->slot,
            ((mth__slot){.any = v,
                .view_of = number,
                .local = m->s->global ? v->shape : mth__largest_part(v->shape, &v->sharding),
                .last_read = MTH__NEVER}));
    return number;
}

static void make_slots(merging *m) {
    m->s->slot_of = NEW_ARRAY(m->s->arena, int *, m->p->role.n);
    m->s->entry_slot = NEW_ARRAY(m->s->arena, int, m->p->entry.n);
    memset(m->s->entry_slot, -1, m->p->entry.n * sizeof *m->s->entry_slot);
    for (size_t r = 0; r < m->p->role.n; r++) {
        const mth__role *role = &m->p->role.at[r];
        int *of = m->s->slot_of[r] = NEW_ARRAY(m->s->arena, int, role->value.n);
        for (size_t v = 0; v < role->value.n; v++) {
            const mth__program_value *value = &role->value.at[v];
            of[v] = slot_named(m, value);
            if (value->storage == MTH__IN_ALIAS) m->s->slot.at[of[v]].view_of = of[value->index];
            if (value->storage == MTH__IN_ENTRY) m->s->entry_slot[value->index] = of[v];
        }
    }
}

/* ---------------------------------------------------------------- merging the roles' lists */
static bool is_move(const mth__channel *c) {
    return c->kind == MTH__TRANSFER ? !mth__is_exchange(c) : c->kind == MTH__BROADCAST && c->algorithm == MTH__DIRECT;
}

/* -1: a WAIT, which the order of buffers makes needless */
static int key_of(const merging *m, int role, const mth__instr *i) {
    if (i->kind == MTH__WAIT) return -1;
    if (i->kind == MTH__COMPUTE) return m->s->slot_of[role][i->out[0]];
    return (int)m->s->slot.n + 2 * i->channel + (i->kind == MTH__SEND);
}

static const mth__instr *head(merging *m, int role) {
    const mth__role *r = &m->p->role.at[role];
    while (m->at[role] < r->instr.n && r->instr.at[m->at[role]].kind == MTH__WAIT) m->at[role]++;
    return m->at[role] < r->instr.n ? &r->instr.at[m->at[role]] : NULL;
}

/* Of one microbatch on its way through one stage, or both of none. */
static bool same_unit(const mth__instr *a, const mth__instr *b) {
    return a->label.microbatch == b->label.microbatch &&
        (a->label.microbatch < 0 || mth__same_unit(&a->label, &b->label));
}

static mth__segment *segment_for(merging *m, int key, const mth__instr *instr) {
    mth__segment *last = m->open[m->member[key].at[0]];
    int devices = 0;
    bool same = last && (m->s->global || same_unit(last->instr.at[0].instr, instr));
    for (size_t i = 0; i < m->member[key].n; i++) {
        same &= m->open[m->member[key].at[i]] == last;
        devices += m->p->role.at[m->member[key].at[i]].ndevice;
    }
    if (same && last->count == devices) return last;
    mth__segment *s = NEW(m->s->arena, mth__segment);
    bool *in = NEW_ARRAY(m->arena, bool, m->p->mesh->count);
    for (size_t i = 0; i < m->member[key].n; i++) {
        const mth__role *r = &m->p->role.at[m->member[key].at[i]];
        for (int k = 0; k < r->ndevice; k++) in[r->device[k]] = true;
        m->open[m->member[key].at[i]] = s;
    }
    int32_t *device = NEW_ARRAY(m->s->arena, int32_t, devices);
    for (int d = 0; d < m->p->mesh->count; d++)
        if (in[d]) device[s->count++] = d;
    s->device = device;
    PUSH(m->s->arena, m->s->work, ((mth__work){.segment = s}));
    return s;
}

/* The operand and the result of a channel: some roles may have one of them alone. */
static void channel_slots(const merging *m, int key, int *from, int *to) {
    int channel = (key - (int)m->s->slot.n) / 2;
    for (int sends = 0; sends < 2; sends++) {
        int k = (int)m->s->slot.n + 2 * channel + sends;
        for (size_t i = 0; i < m->member[k].n; i++) {
            int role = m->member[k].at[i];
            const mth__role *r = &m->p->role.at[role];
            for (size_t j = 0; j < r->instr.n; j++) { /* as a rule the head */
                const mth__instr *x =
                    &r->instr.at[m->at[role] + j < r->instr.n ? m->at[role] + j : m->at[role] + j - r->instr.n];
                if (x->kind == MTH__COMPUTE || x->kind == MTH__WAIT || x->channel != channel ||
                    (x->kind == MTH__SEND) != sends)
                    continue;
                if (x->nin) *from = m->s->slot_of[role][x->in[0]];
                if (x->nout) *to = m->s->slot_of[role][x->out[0]];
                break;
            }
        }
    }
}

static bool is_cut(const mth__segments *s, int slot) { return s->slot.at[s->slot.at[slot].view_of].cut; }

static void put(merging *m, int key, int role, const mth__instr *i) {
    const bool channel = i->kind != MTH__COMPUTE;
    const mth__channel *c = channel ? &m->p->channel.at[i->channel] : NULL;
    if (i->kind == MTH__SEND || (channel && is_move(c))) {
        int from = -1, to = -1;
        if (i->kind != MTH__SEND) {
            channel_slots(m, key, &from, &to);
            m->s->slot.at[to].cut = is_cut(m->s, from);
            PUSH(m->s->arena, m->s->work, ((mth__work){.hop = {c, from, to}}));
        }
        for (size_t k = 0; k < m->member[key].n; k++) m->open[m->member[key].at[k]] = NULL;
        return;
    }
    mth__segment *s = segment_for(m, key, i);
    mth__seg_instr x = {.instr = i, .role = &m->p->role.at[role], .nin = i->nin, .nout = i->nout};
    if (channel) x.nin = x.nout = 1;
    x.in = NEW_ARRAY(m->s->arena, int, x.nin + x.nout);
    x.out = x.in + x.nin;
    if (channel) channel_slots(m, key, &x.in[0], &x.out[0]);
    for (int j = 0; j < i->nin && !channel; j++) x.in[j] = m->s->slot_of[role][i->in[j]];
    for (int j = 0; j < i->nout && !channel; j++) x.out[j] = m->s->slot_of[role][i->out[j]];
    bool cut = false;
    for (int j = 0; j < x.nin; j++) cut |= is_cut(m->s, x.in[j]);
    const bool takes = !channel && i->label.microbatch >= 0 &&
        ((i->op->row == MTH__ROW_slice && !cut) || i->op->row == MTH__ROW_dropout);
    x.by_microbatch = takes && !m->s->global;
    for (int j = 0; j < x.nout; j++) m->s->slot.at[x.out[j]].cut = cut || takes;
    PUSH(m->s->arena, s->instr, x);
}

/* The key that must be put before `wanted` can be: that of its sender, or of what one of its roles has before it; -1:
   none. */
static mth_status next_before(merging *m, wanted_key *wanted, int *before) {
    const int key = wanted->key, channel = (key - (int)m->s->slot.n) / 2;
    const bool takes = key >= (int)m->s->slot.n && !((key - (int)m->s->slot.n) & 1);
    *before = key + 1;
    if (takes && m->member[key + 1].n && !m->done[key + 1]) return NULL;
    for (; wanted->members < m->member[key].n; wanted->members++) {
        int role = m->member[key].at[wanted->members];
        const mth__instr *x = head(m, role);
        if (!x) return INTERNAL("an instruction of channel %d is missing on a role", channel);
        *before = key_of(m, role, x);
        if (*before != key) return NULL;
    }
    *before = -1;
    return NULL;
}

/* Puts what `key` names, after all that its roles have before it. All roles' lists follow one order, so this ends. */
static mth_status bring(merging *m, int key) {
    m->wanted.n = 0;
    PUSH(m->arena, m->wanted, ((wanted_key){key, 0}));
    while (m->wanted.n) {
        wanted_key *last = &m->wanted.at[m->wanted.n - 1];
        int before = -1;
        if (m->wanted.n > 2 * m->p->role.n + 3)
            return INTERNAL("the lists of a program's roles follow no common order");
        if (!m->done[last->key]) TRY(next_before(m, last, &before));
        if (before >= 0) {
            PUSH(m->arena, m->wanted, ((wanted_key){before, 0}));
            continue;
        }
        key = last->key;
        m->wanted.n--;
        if (m->done[key]) continue;
        m->done[key] = true;
        int first = m->member[key].at[0];
        put(m, key, first, head(m, first));
        for (size_t i = 0; i < m->member[key].n; i++) m->at[m->member[key].at[i]]++;
    }
    return NULL;
}

static mth_status merge(merging *m) {
    const mth__program *p = m->p;
    m->keys = (int)(m->s->slot.n + 2 * p->channel.n);
    m->member = (void *)NEW_ARRAY(m->arena, VEC(int), m->keys + 1);
    m->done = NEW_ARRAY(m->arena, bool, m->keys + 1);
    m->at = NEW_ARRAY(m->arena, size_t, p->role.n);
    m->open = NEW_ARRAY(m->arena, mth__segment *, p->role.n);
    for (size_t r = 0; r < p->role.n; r++)
        for (size_t i = 0; i < p->role.at[r].instr.n; i++) {
            int key = key_of(m, (int)r, &p->role.at[r].instr.at[i]);
            if (key >= 0) PUSH(m->arena, m->member[key], (int)r);
        }
    for (size_t r = 0; r < p->role.n; r++)
        for (const mth__instr *x; (x = head(m, (int)r));) TRY(bring(m, key_of(m, (int)r, x)));
    return NULL;
}

/* ---------------------------------------------------------------- what comes in and goes out */
static void read_at(mth__segments *s, int slot, int work) {
    int *last = &s->slot.at[s->slot.at[slot].view_of].last_read;
    if (work > *last) *last = work;
}

static void find_lives(mth__segments *s) {
    const mth__program *p = s->program;
    s->exit_slot = NEW_ARRAY(s->arena, int, p->exit.n);
    memset(s->exit_slot, -1, p->exit.n * sizeof *s->exit_slot);
    for (size_t w = 0; w < s->work.n; w++) {
        mth__segment *g = s->work.at[w].segment;
        if (!g) {
            mth__hop *hop = &s->work.at[w].hop;
            read_at(s, hop->from, (int)w);
            s->slot.at[s->slot.at[hop->from].view_of].shared = s->slot.at[hop->to].shared = true;
        }
        for (size_t i = 0; g && i < g->instr.n; i++)
            for (int j = 0; j < g->instr.at[i].nin; j++) read_at(s, g->instr.at[i].in[j], (int)w);
        /* of several values of an exit the one written last is what leaves */
        for (size_t i = 0; g && i < g->instr.n; i++)
            for (int j = 0; j < g->instr.at[i].nout; j++) {
                const mth__program_value *v = s->slot.at[g->instr.at[i].out[j]].any;
                if (v->storage == MTH__IN_EXIT) s->exit_slot[v->index] = g->instr.at[i].out[j];
            }
        if (!g && s->slot.at[s->work.at[w].hop.to].any->storage == MTH__IN_EXIT)
            s->exit_slot[s->slot.at[s->work.at[w].hop.to].any->index] = s->work.at[w].hop.to;
    }
    for (size_t e = 0; e < p->exit.n; e++)
        if (s->exit_slot[e] >= 0) read_at(s, s->exit_slot[e], MTH__AT_EXIT);
}

static void find_ports(mth__segments *s, mth__arena *scratch) {
    /* 1 + the work */
    int *made = NEW_ARRAY(scratch, int, s->slot.n), *taken = NEW_ARRAY(scratch, int, s->slot.n);
    for (size_t w = 0; w < s->work.n; w++) {
        mth__segment *g = s->work.at[w].segment;
        int mark = (int)w + 1;
        for (size_t i = 0; g && i < g->instr.n; i++) {
            const mth__seg_instr *x = &g->instr.at[i];
            for (int j = 0; j < x->nin; j++) {
                int slot = s->slot.at[x->in[j]].view_of;
                if (made[slot] == mark || taken[slot] == mark) continue;
                taken[slot] = mark;
                PUSH(s->arena, g->in, slot);
            }
            for (int j = 0; j < x->nout; j++) {
                made[x->out[j]] = mark;
                if (s->slot.at[x->out[j]].last_read > (int)w) PUSH(s->arena, g->out, x->out[j]);
            }
        }
        if (!g) continue;
        g->donated = NEW_ARRAY(s->arena, bool, g->in.n);
        for (size_t i = 0; i < g->in.n; i++) {
            const mth__slot *slot = &s->slot.at[g->in.at[i]];
            g->donated[i] = slot->last_read == (int)w && slot->any->storage != MTH__IN_ENTRY && !slot->shared &&
                !s->global && slot->any->sharding.on->count == g->count;
        }
    }
}

mth_status mth__segments_make(mth__arena *arena, const mth__program *program, bool global, mth__segments **out) {
    mth__segments *s = NEW(arena, mth__segments);
    s->arena = arena;
    s->global = global;
    s->program = program;
    merging m = {.s = s, .arena = mth__arena_new(), .p = program};
    make_slots(&m);
    mth_status status = merge(&m);
    if (!status) {
        find_lives(s);
        find_ports(s, m.arena);
        *out = s;
    }
    mth__arena_free(m.arena);
    return status;
}
