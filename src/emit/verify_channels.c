/* Channels: who takes part, with what; and that nobody waits for ever. The second by letting the roles run: an
 * instruction that would block hands over to the roles that it waits for. What a role waits for, all its devices wait
 * for, of all devices of the others: where the roles come to their end, so do the devices, in whatever order they run.
 */
#include "emit/verify.h"

/* ---------------------------------------------------------------- one role's part */
static mth_status check_side(
    const mth__verification *v, int i, int x, const mth__channel *c, const mth__sharding *s, const char *verb) {
    const mth__pvalue *p = &v->r->value.at[x];
    if (p->dtype == c->dtype && mth__shape_equal(p->shape, c->shape) &&
        mth__sharding_equal(&p->sharding, s, c->shape.rank))
        return NULL;
    return mth__refuse(v, i, x, F("%s %s, which is not what the channel carries", verb, p->name));
}

mth_status mth__verify_part(mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const mth__channel *c = &v->p->channel.at[k->channel];
    const int device = v->r->device[0];
    bool gives = c->from.on->rank_of[device] >= 0, takes = c->to.on->rank_of[device] >= 0;
    bool apart = c->kind == MTH__TRANSFER && c->from.on != c->to.on;
    bool in = gives, out = takes; /* what the instruction must have */
    if (!gives && !takes) return mth__refuse(v, i, -1, F("the role takes no part in this channel"));
    if (apart) {
        if (k->kind == MTH__COLLECTIVE)
            return mth__refuse(v, i, -1, F("between placements a transfer is sent and received"));
        if (k->kind == MTH__RECV && mth__is_started(k) && gives)
            return mth__refuse(v, i, -1, F("a role that sends receives on stream 0"));
        in = k->kind == MTH__SEND;
        out = !in;
        if ((in && !gives) || (out && !takes))
            return mth__refuse(v, i, -1, F("the role does not %s on this channel", in ? "send" : "receive"));
        if (out && gives && v->sent_role[k->channel] != v->role)
            return mth__refuse(v, i, -1, F("it receives before it has sent its own part"));
    } else if (k->kind == MTH__SEND || k->kind == MTH__RECV) {
        return mth__refuse(
            v, i, -1, F("%s is done by all at once, not sent and received", mth__channel_names[c->kind]));
    }
    if (k->nin != in || k->nout != out)
        return mth__refuse(
            v, i, -1, F("it has %d operands and %d results, and needs %d and %d", k->nin, k->nout, in, out));
    if (in) {
        TRY(check_side(v, i, k->in[0], c, &c->from, "gives"));
        if (v->sent_role[k->channel] == v->role) return mth__refuse(v, i, -1, F("the role gives to the channel twice"));
        v->sent_role[k->channel] = v->role;
        v->sent[k->channel] += v->r->ndevice;
    }
    if (out) {
        TRY(check_side(v, i, k->out[0], c, &c->to, "takes"));
        if (v->taken_role[k->channel] == v->role)
            return mth__refuse(v, i, -1, F("the role takes from the channel twice"));
        v->taken_role[k->channel] = v->role;
        v->taken[k->channel] += v->r->ndevice;
    }
    int64_t scratch = apart ? 0 : mth__channel_scratch(c, device);
    if (scratch > 0 && (k->scratch < 0 || v->r->value.at[k->scratch].bytes < scratch))
        return mth__refuse(v, i, k->scratch,
            F("%s needs %lld bytes of scratch", mth__algorithm_names[c->algorithm], (long long)scratch));
    return NULL;
}

/* ---------------------------------------------------------------- everyone's */
static bool gives_part(const mth__role *r, const mth__instr *k, int channel) {
    (void)r;
    return mth__has_channel(k) && k->channel == channel && k->nin > 0;
}
static bool takes_part(const mth__role *r, const mth__instr *k, int channel) {
    (void)r;
    return mth__has_channel(k) && k->channel == channel && k->nout > 0;
}

/* Names a device of the placement that has no such instruction. */
static mth_status absent(mth__verification *v, size_t channel, const mth__placement *on, bool gives) {
    const mth__channel *c = &v->p->channel.at[channel];
    int d = mth__verify_lacking(v, on, gives ? gives_part : takes_part, (int)channel);
    if (d < 0) return INTERNAL("channel c%zu: devices are counted wrongly", channel);
    return mth__error_operator(
        FAIL(MTH_ERROR_VALUE,
            F("channel c%zu, %s: device %d (role %d) must %s and does not", channel, mth__channel_names[c->kind], d,
                v->p->role_of[d], gives ? "give its part" : "take its part"),
            F("let every device of the channel's placements take part in it")),
        c->label);
}

/* A role on its way: the next instruction of stream 0; of each other stream how many are started and done; whether
 * they have arrived where they stand. */
typedef struct {
    int next, started[MTH__STREAMS], done[MTH__STREAMS];
    bool arrived[MTH__STREAMS], queued;
} stand;
/* of a channel: devices that have; 1 + the first of a list of roles to wake */
typedef struct {
    int64_t given, taken;
    int waiting;
} channel_state;
typedef struct {
    int role, next;
} waiter;
typedef struct {
    mth__verification *v;
    stand *stand;
    channel_state *state;
    int *queue;
    size_t head, n; /* of roles, around */
    /* by role and stream: what is started on it, in order; by role and instruction: of a WAIT what it waits for, of
       what is started its place on its stream */
    int *(*start)[MTH__STREAMS], **link;
    VEC(waiter) waiter;
} race;

static const mth__instr *instr_at(const race *z, int role, int i) { return &z->v->p->role.at[role].instr.at[i]; }

static void wake(race *z, int role) {
    if (z->stand[role].queued) return;
    z->stand[role].queued = true;
    z->queue[(z->head + z->n++) % z->v->p->role.n] = role;
}

static void count(race *z, int channel, int64_t given, int64_t taken) {
    const mth__channel *c = &z->v->p->channel.at[channel];
    channel_state *s = &z->state[channel];
    s->given += given;
    s->taken += taken;
    if (!(given && s->given == c->from.on->count) && !(taken && s->taken == c->to.on->count)) return;
    for (int w = s->waiting; w; w = z->waiter.at[w - 1].next) wake(z, z->waiter.at[w - 1].role);
    s->waiting = 0;
}

static void wait_on(race *z, int role, int channel) {
    PUSH(z->v->arena, z->waiter, ((waiter){role, z->state[channel].waiting}));
    z->state[channel].waiting = (int)z->waiter.n;
}

/* A part in a channel, on one of the role's streams: true when it is done. */
static bool pass_part(race *z, int role, const mth__instr *k, bool *arrived) {
    const mth__channel *c = &z->v->p->channel.at[k->channel];
    const int64_t devices = z->v->p->role.at[role].ndevice;
    const channel_state *s = &z->state[k->channel];
    bool apart = c->kind == MTH__TRANSFER && c->from.on != c->to.on;
    if (!*arrived) {
        *arrived = true;
        count(z, k->channel, k->nin ? devices : 0, k->nout && !apart ? devices : 0);
    }
    if (k->kind != MTH__SEND && (s->given < c->from.on->count || (!apart && s->taken < c->to.on->count))) {
        wait_on(z, role, k->channel);
        return false;
    }
    if (apart && k->nout) count(z, k->channel, 0, devices);
    *arrived = false;
    return true;
}

static bool pass_wait(race *z, int role, int i) {
    int by = z->link[role][i];
    const mth__instr *opener = instr_at(z, role, by);
    if (mth__is_started(opener)) return z->link[role][by] < z->stand[role].done[opener->stream];
    if (z->state[opener->channel].taken == z->v->p->channel.at[opener->channel].to.on->count) return true;
    wait_on(z, role, opener->channel);
    return false;
}

/* As far as the role comes. */
static void run(race *z, int role) {
    stand *s = &z->stand[role];
    const int n = (int)z->v->p->role.at[role].instr.n;
    for (bool progress = true; progress;) {
        progress = false;
        for (int on = 1; on < MTH__STREAMS; on++)
            while (s->done[on] < s->started[on]) {
                const mth__instr *k = instr_at(z, role, z->start[role][on][s->done[on]]);
                if (mth__has_channel(k) && !pass_part(z, role, k, &s->arrived[on])) break;
                s->done[on]++;
                progress = true;
            }
        while (s->next < n) {
            const mth__instr *k = instr_at(z, role, s->next);
            if (k->kind == MTH__WAIT && !pass_wait(z, role, s->next)) break;
            if (mth__has_channel(k) && !mth__is_started(k) && !pass_part(z, role, k, &s->arrived[0])) break;
            if (mth__is_started(k)) s->started[k->stream]++;
            s->next++;
            progress = true;
        }
    }
}

static void link_role(race *z, int role) {
    const mth__role *r = &z->v->p->role.at[role];
    int started[MTH__STREAMS] = {0}, *begun = NULL;
    z->link[role] = NEW_ARRAY(z->v->arena, int, r->instr.n);
    for (size_t i = 0; i < r->instr.n; i++) started[r->instr.at[i].stream]++;
    for (int on = 1; on < MTH__STREAMS; on++) {
        z->start[role][on] = NEW_ARRAY(z->v->arena, int, started[on]);
        if (on != 1 && started[on]) begun = NEW_ARRAY(z->v->arena, int, r->value.n);
        started[on] = 0;
    }
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        const bool opens = k->kind == MTH__SEND || mth__is_started(k);
        if (opens) *(k->channel >= 0 ? &z->v->opened_by[k->channel] : &begun[k->out[0]]) = i;
        if (k->kind == MTH__WAIT) z->link[role][i] = k->channel >= 0 ? z->v->opened_by[k->channel] : begun[k->awaited];
        if (!mth__is_started(k)) continue;
        z->link[role][i] = started[k->stream];
        z->start[role][k->stream][started[k->stream]++] = i;
    }
}

static bool is_through(const race *z, int role) {
    const stand *s = &z->stand[role];
    bool through = s->next == (int)z->v->p->role.at[role].instr.n;
    for (int on = 1; on < MTH__STREAMS; on++) through &= s->done[on] == s->started[on];
    return through;
}

/* The instruction at which a role that is not through stands. */
static int stuck_at(const race *z, int role) {
    const stand *s = &z->stand[role];
    int at = s->next, n = (int)z->v->p->role.at[role].instr.n;
    for (int on = 1; on < MTH__STREAMS && at == n; on++)
        if (s->done[on] < s->started[on]) at = z->start[role][on][s->done[on]];
    return at;
}

static mth_status deadlock(race *z, int role) {
    enum { NAMED = 3 };
    mth__text others = mth__text_new(z->v->arena);
    int named = 0;
    for (size_t o = (size_t)role + 1; o < z->v->p->role.n && named <= NAMED; o++) {
        if (is_through(z, (int)o)) continue;
        int i = stuck_at(z, (int)o);
        if (named < NAMED)
            mth__text_add(&others, "%s role %zu at instruction %d (c%d)", named ? "," : "; so do", o, i,
                instr_at(z, (int)o, i)->channel);
        else
            mth__text_add(&others, " and others");
        named++;
    }
    z->v->r = &z->v->p->role.at[role];
    z->v->role = role;
    return mth__refuse(z->v, stuck_at(z, role), -1, F("a deadlock: it waits for ever%s", named ? others.at : ""));
}

mth_status mth__verify_channels(mth__verification *v) {
    const mth__program *p = v->p;
    const size_t roles = p->role.n;
    for (size_t c = 0; c < p->channel.n; c++) {
        if (v->sent[c] != p->channel.at[c].from.on->count) return absent(v, c, p->channel.at[c].from.on, true);
        if (v->taken[c] != p->channel.at[c].to.on->count) return absent(v, c, p->channel.at[c].to.on, false);
    }
    race z = {.v = v,
        .stand = NEW_ARRAY(v->arena, stand, roles),
        .state = NEW_ARRAY(v->arena, channel_state, p->channel.n),
        .queue = NEW_ARRAY(v->arena, int, roles),
        .start = mth__alloc_array(v->arena, roles, sizeof *z.start),
        .link = NEW_ARRAY(v->arena, int *, roles)};
    for (size_t i = 0; i < roles; i++) {
        link_role(&z, (int)i);
        wake(&z, (int)i);
    }
    while (z.n) {
        int role = z.queue[z.head];
        z.head = (z.head + 1) % roles;
        z.n--;
        z.stand[role].queued = false;
        TRY(mth__stop_check());
        run(&z, role);
    }
    for (size_t i = 0; i < roles; i++)
        if (!is_through(&z, (int)i)) return deadlock(&z, (int)i);
    return NULL;
}
