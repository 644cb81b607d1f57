/* The verifier's promise checked the plain way, device by device: every list is walked, every byte of a slab remembers
 * which value wrote it, and a channel lets a device pass when the devices that it really needs have come. Written apart
 * from src/emit/verify*.c, to be compared with it. */
#ifndef PLAIN_VERIFY_H
#define PLAIN_VERIFY_H
#include "emit/program.h"
#include <stdlib.h>
#include <string.h>

enum { PLAIN_ENTRY = -1 }; /* the bytes of an entry, before its successor is written */
typedef struct {
    int *owner;
    int64_t n;
} plain_memory; /* by byte: 1 + value; 0: nothing yet */
typedef struct {
    const mth__role *role;
    int device, next, started[MTH__STREAMS], done[MTH__STREAMS];
    int start[MTH__STREAMS][4096];
    bool arrived[MTH__STREAMS]; /* at the instruction where the stream stands */
    plain_memory slab[MTH__SPACES], *exit, *own;
    int *own_of; /* by value that is the engine's own: whose memory it has, its own or the sum's that it adds to */
} plain_device;
typedef struct {
    const mth__program *p;
    int n;
    plain_device *device;
    uint8_t *gave, *took; /* by channel and device */
    int32_t *member;
    const char *fault;
} plain;

static int64_t plain_base(const mth__role *r, int v, int64_t *offset) {
    const mth__pvalue *p = &r->value.at[v];
    *offset = p->storage == MTH__IN_ALIAS ? p->offset : 0;
    return p->storage == MTH__IN_ALIAS ? p->index : v;
}

/* The exit that succeeds an entry; -1: none. */
static int plain_successor(const mth__program *p, int entry) {
    for (size_t e = 0; e < p->exit.n; e++)
        if (p->exit.at[e].kind == MTH__EXIT_SUCCESSOR && p->exit.at[e].entry == entry) return (int)e;
    return -1;
}

/* NULL: an entry without a successor, or a view. */
static plain_memory *plain_place(const mth__program *program, plain_device *d, const mth__pvalue *p, int64_t *at) {
    *at = p->storage == MTH__IN_SLAB || p->storage == MTH__IN_LENT ? p->offset : 0;
    int exit = p->storage == MTH__IN_ENTRY ? plain_successor(program, p->index) : p->index;
    switch (p->storage) {
    case MTH__IN_SLAB: return &d->slab[p->space];
    case MTH__IN_OWN: return &d->own[d->own_of[p - d->role->value.at]];
    case MTH__IN_ALIAS: return NULL;
    default: return exit < 0 ? NULL : &d->exit[exit];
    }
}

static void plain_write(plain *z, plain_device *d, int v) {
    const mth__pvalue *p = &d->role->value.at[v];
    int64_t at;
    plain_memory *m = plain_place(z->p, d, p, &at);
    if (!m || at < 0 || at + p->bytes > m->n) {
        z->fault = "writes outside its memory";
        return;
    }
    for (int64_t i = 0; i < p->bytes; i++) m->owner[at + i] = v + 1;
}

/* All bytes of v are still its own. */
static void plain_read(plain *z, plain_device *d, int v) {
    int64_t offset, at;
    int base = (int)plain_base(d->role, v, &offset);
    const mth__pvalue *p = &d->role->value.at[base], *view = &d->role->value.at[v];
    if (offset < 0 || offset + view->bytes > p->bytes) z->fault = "a view outside its base";
    const bool entry = p->storage == MTH__IN_ENTRY;
    if ((entry && plain_successor(z->p, p->index) < 0) || z->fault) return;
    plain_memory *m = plain_place(z->p, d, p, &at);
    if (!m || at < 0 || at + offset + view->bytes > m->n) {
        z->fault = "reads outside its memory";
        return;
    }
    for (int64_t i = 0; i < view->bytes; i++)
        if (m->owner[at + offset + i] != (entry ? PLAIN_ENTRY : base + 1)) {
            z->fault = "reads a byte that is unwritten, or that another value has overwritten";
            return;
        }
}

static uint8_t *plain_mark(plain *z, uint8_t *of, int channel, int device) {
    return &of[channel * z->p->mesh->count + device];
}

static bool plain_apart(const mth__channel *c) { return c->kind == MTH__TRANSFER && c->from.on != c->to.on; }

/* Has everyone come whom this device needs, to take (or, with `gives`, to be rid of what it gave)? */
static bool plain_ready(plain *z, int channel, int device, bool gives) {
    const mth__channel *c = &z->p->channel.at[channel];
    if (!plain_apart(c)) {
        int n = c->kind == MTH__TRANSFER ? c->from.on->count : mth__channel_size(c);
        if (c->kind == MTH__TRANSFER)
            memcpy(z->member, c->from.on->device, (size_t)n * sizeof *z->member);
        else
            mth__channel_group(c, device, z->member);
        for (int i = 0; i < n; i++) {
            bool from = c->from.on->rank_of[z->member[i]] >= 0, to = c->to.on->rank_of[z->member[i]] >= 0;
            if ((from && !*plain_mark(z, z->gave, channel, z->member[i])) ||
                (to && !*plain_mark(z, z->took, channel, z->member[i])))
                return false;
        }
        return true;
    }
    mth__arena *a = mth__arena_new();
    bool ready = true;
    for (int i = 0; i < (gives ? c->to.on->count : 1); i++) {
        int taker = gives ? c->to.on->device[i] : device;
        mth__piece *piece;
        int n = mth__transfer_pieces(a, c, taker, &piece);
        for (int k = 0; k < n; k++) {
            if (gives && piece[k].from_device == device && !*plain_mark(z, z->took, channel, taker)) ready = false;
            if (!gives && !*plain_mark(z, z->gave, channel, piece[k].from_device)) ready = false;
        }
    }
    mth__arena_free(a);
    return ready;
}

static bool plain_part(plain *z, plain_device *d, const mth__instr *k, bool *arrived) {
    const mth__channel *c = &z->p->channel.at[k->channel];
    if (!*arrived) {
        for (int j = 0; j < k->nin; j++) plain_read(z, d, k->in[j]);
        if (k->nin) *plain_mark(z, z->gave, k->channel, d->device) = 1;
        if (k->nout && !plain_apart(c)) *plain_mark(z, z->took, k->channel, d->device) = 1;
        if (mth__is_started(k)) {
            for (int j = 0; j < k->nout; j++) plain_write(z, d, k->out[j]);
            if (k->scratch >= 0) plain_write(z, d, k->scratch);
        }
        *arrived = true;
    }
    if (k->kind != MTH__SEND && !plain_ready(z, k->channel, d->device, false)) return false;
    if (!mth__is_started(k)) {
        if (k->scratch >= 0) plain_write(z, d, k->scratch);
        for (int j = 0; j < k->nout; j++) plain_write(z, d, k->out[j]);
    }
    if (k->nout) *plain_mark(z, z->took, k->channel, d->device) = 1;
    *arrived = false;
    return true;
}

/* Does the WAIT wait for this instruction? */
static bool plain_opens(const mth__instr *o, const mth__instr *wait) {
    if (o->kind != MTH__SEND && !mth__is_started(o)) return false;
    return wait->channel >= 0 ? o->channel == wait->channel : o->channel < 0 && o->out[0] == wait->awaited;
}

static bool plain_wait(plain *z, plain_device *d, const mth__instr *k) {
    int by = d->next - 1, order = 0;
    for (; by >= 0; by--) {
        const mth__instr *o = &d->role->instr.at[by];
        if (plain_opens(o, k)) break;
    }
    if (by < 0) {
        z->fault = "waits for nothing";
        return true;
    }
    const mth__instr *o = &d->role->instr.at[by];
    for (int i = 0; i < by; i++) order += d->role->instr.at[i].stream == o->stream;
    if (mth__is_started(o) ? d->done[o->stream] <= order : !plain_ready(z, k->channel, d->device, true)) return false;
    bool in_place = mth__is_started(o) && o->nin && o->nout &&
        d->role->value.at[o->in[0]].storage == d->role->value.at[o->out[0]].storage &&
        d->role->value.at[o->in[0]].space == d->role->value.at[o->out[0]].space &&
        d->role->value.at[o->in[0]].offset == d->role->value.at[o->out[0]].offset;
    for (int j = 0; j < o->nin && !in_place; j++) plain_read(z, d, o->in[j]);
    for (int j = 0; j < o->nout; j++) plain_read(z, d, o->out[j]);
    if (mth__is_started(o) && o->scratch >= 0) plain_read(z, d, o->scratch);
    return true;
}

/* A result that is added to a sum lies where the sum does, which the row reads besides nowhere. */
static void plain_sums(plain *z, plain_device *d, const mth__instr *k) {
    for (int j = 0, sum = mth__row_operands(k->op, k->nin, true); j < k->nout; j++) {
        if (!(k->op->accumulates >> j & 1)) continue;
        const mth__pvalue *from = &d->role->value.at[k->in[sum]], *to = &d->role->value.at[k->out[j]];
        int64_t from_at, to_at, offset;
        plain_memory *here = plain_place(z->p, d, from, &from_at), *there = plain_place(z->p, d, to, &to_at);
        bool apart = !here || here != there || from_at != to_at || from->bytes != to->bytes;
        if (to->bytes && apart) z->fault = "adds to bytes of no sum";
        for (int i = 0; i < k->nin && to->bytes; i++)
            if (i != sum && plain_base(d->role, k->in[i], &offset) == k->in[sum]) z->fault = "reads the sum beside";
        sum++;
    }
}

/* A COMPUTE or a COPY, alone between its reads and writes. */
static void plain_compute(plain *z, plain_device *d, const mth__instr *k) {
    for (int j = 0; j < k->nin + k->nout && k->kind == MTH__COMPUTE; j++)
        if (mth__space_of(d->role, j < k->nin ? k->in[j] : k->out[j - k->nin]))
            z->fault = "computes in the host's pool";
    if (k->accumulates) plain_sums(z, d, k);
    for (int j = 0; j < k->nin; j++) plain_read(z, d, k->in[j]);
    for (int j = 0; j < k->nout; j++) plain_write(z, d, k->out[j]);
}

static bool plain_step(plain *z, plain_device *d) {
    bool moved = false;
    for (int on = 1; on < MTH__STREAMS; on++)
        while (d->done[on] < d->started[on] && !z->fault) {
            const mth__instr *k = &d->role->instr.at[d->start[on][d->done[on]]];
            if (!mth__has_channel(k))
                plain_compute(z, d, k);
            else if (!plain_part(z, d, k, &d->arrived[on]))
                break;
            d->done[on]++;
            moved = true;
        }
    if (d->next == (int)d->role->instr.n || z->fault) return moved;
    const mth__instr *k = &d->role->instr.at[d->next];
    if (k->stream >= MTH__STREAMS || (mth__is_started(k) && (k->kind == MTH__COPY) != (k->stream == 2)))
        z->fault = "on a stream of another kind";
    else if (mth__is_started(k)) {
        d->start[k->stream][d->started[k->stream]++] = d->next;
    } else if (k->kind == MTH__COMPUTE || k->kind == MTH__COPY) {
        plain_compute(z, d, k);
    } else if (k->kind == MTH__WAIT ? !plain_wait(z, d, k) : !plain_part(z, d, k, &d->arrived[0])) {
        return moved;
    }
    d->next++;
    return true;
}

/* Is what is started read before its WAIT? The plain walk gives such a result its bytes at once: this is looked up. */
static bool plain_pending(const mth__role *r) {
    for (size_t i = 0; i < r->instr.n; i++) {
        const mth__instr *s = &r->instr.at[i];
        if (!mth__is_started(s) || !s->nout) continue;
        for (size_t k = i + 1; k < r->instr.n; k++) {
            const mth__instr *u = &r->instr.at[k];
            if (u->kind == MTH__WAIT && plain_opens(s, u)) break;
            for (int j = 0; j < u->nin; j++) {
                int64_t offset;
                if (plain_base(r, u->in[j], &offset) == s->out[0]) return true;
            }
        }
    }
    return false;
}

/* Memory for each value that is the engine's own; a result that is added to a sum has the sum's. */
static void plain_own(mth__arena *a, plain_device *d) {
    const mth__role *r = d->role;
    d->own = NEW_ARRAY(a, plain_memory, r->value.n);
    d->own_of = NEW_ARRAY(a, int, r->value.n);
    for (size_t v = 0; v < r->value.n; v++) {
        d->own_of[v] = (int)v;
        if (r->value.at[v].storage == MTH__IN_OWN)
            d->own[v] = (plain_memory){NEW_ARRAY(a, int, r->value.at[v].bytes + 1), r->value.at[v].bytes};
    }
    for (size_t i = 0; i < r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0, sum = k->accumulates ? mth__row_operands(k->op, k->nin, true) : 0; j < k->nout && sum; j++)
            if (k->op->accumulates >> j & 1) d->own_of[k->out[j]] = d->own_of[k->in[sum++]];
    }
}

/* NULL, or what goes wrong. Devices take their steps in a random order. */
static const char *plain_verify(mth__arena *a, const mth__program *p, unsigned seed) {
    plain z = {.p = p, .n = p->mesh->count};
    size_t marks = p->channel.n * (size_t)z.n + 1;
    z.device = NEW_ARRAY(a, plain_device, z.n);
    z.gave = NEW_ARRAY(a, uint8_t, marks);
    z.took = NEW_ARRAY(a, uint8_t, marks);
    z.member = NEW_ARRAY(a, int32_t, z.n + 1);
    static const mth__role nothing;
    for (int i = 0; i < z.n; i++) {
        plain_device *d = &z.device[i];
        d->device = i;
        d->role = p->role_of[i] < 0 ? &nothing : &p->role.at[p->role_of[i]];
        for (int space = 0; space < MTH__SPACES; space++)
            d->slab[space] = (plain_memory){NEW_ARRAY(a, int, d->role->slab[space] + 1), d->role->slab[space]};
        plain_own(a, d);
        d->exit = NEW_ARRAY(a, plain_memory, p->exit.n);
        for (size_t e = 0; e < p->exit.n; e++) {
            const mth__exit *x = &p->exit.at[e];
            int rank = x->sharding.on->rank_of[i];
            if (rank < 0) continue;
            d->exit[e].n = mth__shape_size(mth__local_shape(x->shape, &x->sharding, rank, NULL, NULL)) *
                (int64_t)mth_dtype_size(x->dtype);
            d->exit[e].owner = NEW_ARRAY(a, int, d->exit[e].n + 1);
            for (int64_t b = 0; b < d->exit[e].n && x->kind == MTH__EXIT_SUCCESSOR; b++)
                d->exit[e].owner[b] = PLAIN_ENTRY;
        }
        if (plain_pending(d->role)) return "reads what a START brings before its WAIT";
    }
    for (int idle = 0; idle < 4 * z.n + 8 && !z.fault;) {
        bool moved = false;
        for (int t = 0; t < z.n; t++) {
            seed = seed * 1664525u + 1013904223u;
            moved |= plain_step(&z, &z.device[(seed >> 8) % (unsigned)z.n]);
        }
        idle = moved ? 0 : idle + 1;
    }
    for (int i = 0; i < z.n && !z.fault; i++) {
        const plain_device *d = &z.device[i];
        if (d->next != (int)d->role->instr.n || memcmp(d->done, d->started, sizeof d->done)) z.fault = "a deadlock";
        for (size_t e = 0; e < p->exit.n && !z.fault; e++)
            for (int64_t b = 0; b < d->exit[e].n; b++)
                if (d->exit[e].owner[b] <= 0) z.fault = "an exit is not written";
    }
    return z.fault;
}
#endif
