/* No two values that live at the same time share a byte, but for a result that takes over an operand's bytes in place.
 * A value lives from the instruction that writes it to the last that reads it; what a SEND or a started instruction
 * touches, to the WAIT; what lies in an exit, to the end, or until the exit's next value takes it over; an entry that
 * has a successor, to its last reader, before its successor is written. The bytes of the slabs of all spaces, and of
 * the exits behind them, are numbered on one line. What is the engine's own has no place on it. */
#include "emit/verify.h"
#include <string.h>

typedef struct {
    mth__verification *v;
    int *last;         /* by base: the instruction at which it ends */
    int *reads, *held; /* by base: its last reader; SENDs and started ones that have it as operand */
    int *ends, *next;  /* by instruction, by value: lists of those that end there; -1 */
    bool *live;
    int64_t space_start[MTH__SPACES];
    mth__ranges memory;
} sweep;

static void touch(sweep *s, int base, int at) {
    if (at > s->last[base]) s->last[base] = at;
}

static void find_ends(sweep *s) {
    const mth__role *r = s->v->r;
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        int released = s->v->released[i];
        for (int j = 0; j < k->nin; j++) {
            int base = mth__verify_base(r, k->in[j]);
            touch(s, base, released);
            s->reads[base] = i;
            s->held[base] += mth__is_started(k) || k->kind == MTH__SEND;
        }
        for (int j = 0; j < k->nout; j++) touch(s, k->out[j], released);
        if (k->scratch >= 0) touch(s, k->scratch, released);
    }
    for (int x = (int)r->value.n - 1; x >= 0; x--) {
        if (s->last[x] < 0) continue;
        s->next[x] = s->ends[s->last[x]];
        s->ends[s->last[x]] = x;
    }
}

static int64_t place(const sweep *s, int x) {
    const mth__pvalue *p = &s->v->r->value.at[x];
    if (p->storage == MTH__IN_SLAB) return s->space_start[p->space] + p->offset;
    if (p->storage == MTH__IN_ENTRY) return s->v->exit_start[s->v->successor[p->index]]; /* one that has a successor */
    return s->v->exit_start[p->index] + (p->storage == MTH__IN_LENT ? p->offset : 0);
}

static bool is_own(const mth__pvalue *p) { return p->storage == MTH__IN_OWN; }

/* Do two values of one size lie exactly on each other? What is the engine's own does where one takes over the other. */
static bool coincide(const sweep *s, const mth__pvalue *a, int out, const mth__pvalue *b, int old) {
    if (is_own(a) || is_own(b)) return is_own(a) && is_own(b) && a->space == b->space;
    return place(s, out) == place(s, old);
}

/* The operand that result `out` of instruction i is added to, or -1. */
static int sum_below(const mth__instr *k, int out) {
    for (int j = 0; k->accumulates && j < k->nout; j++)
        if (k->out[j] == out) return mth__accumulator(k->op, k->nin, j);
    return -1;
}

/* May result `out` of instruction i lie where `old` lies, which still lives? */
static bool in_place(const sweep *s, int i, int out, int old) {
    const mth__role *r = s->v->r;
    const mth__instr *k = &r->instr.at[i];
    const mth__pvalue *a = &r->value.at[out], *b = &r->value.at[old];
    int sum = sum_below(k, out);
    if (!coincide(s, a, out, b, old) || a->bytes != b->bytes || a->dtype != b->dtype) return false;
    if (b->storage == MTH__IN_EXIT && a->storage != MTH__IN_EXIT) return false; /* it leaves */
    if (sum < 0 && (k->nout != 1 || out != k->out[0])) return false;            /* scratch, or one result of several */
    if (k->kind == MTH__COMPUTE && sum < 0 && !(k->op->flags & MTH__ELEMENTWISE)) return false;
    if (k->kind != MTH__COMPUTE &&
        !(k->kind == MTH__COLLECTIVE && s->v->p->channel.at[k->channel].kind == MTH__ALL_REDUCE))
        return false;
    if (s->reads[old] != i || s->last[old] != s->v->released[i] || (mth__is_started(k) && s->held[old] != 1))
        return false;
    bool operand = false;
    for (int j = 0; j < k->nin; j++) {
        if (mth__verify_base(r, k->in[j]) != old) continue;
        if (r->value.at[k->in[j]].bytes != b->bytes || r->value.at[k->in[j]].dtype != a->dtype) return false;
        if (sum >= 0 && j != sum) return false; /* its row reads them while it adds */
        operand = true;
    }
    return operand;
}

/* A result that is added to a sum lies where that lies. */
static mth_status begin_sum(const sweep *s, int i, int out, int below) {
    const mth__role *r = s->v->r;
    const int old = r->instr.at[i].in[below];
    const mth__pvalue *a = &r->value.at[out], *b = &r->value.at[old];
    bool successor = b->storage == MTH__IN_ENTRY && a->storage == MTH__IN_EXIT &&
        s->v->p->exit.at[a->index].kind == MTH__EXIT_SUCCESSOR && s->v->p->exit.at[a->index].entry == b->index;
    bool written = b->storage != MTH__IN_ENTRY && b->storage != MTH__IN_ALIAS;
    if (a->bytes == 0 || ((written || successor) && in_place(s, i, out, old))) return NULL;
    return mth__refuse(s->v, i, out, F("%s is added to %s, and does not take over its bytes", a->name, b->name));
}

static mth_status overlap(const sweep *s, int i, int out, int old) {
    const mth__role *r = s->v->r;
    return mth__refuse(s->v, i, out,
        F("%s overlaps %s, which lives until instruction %d", r->value.at[out].name, r->value.at[old].name,
            s->last[old]));
}

/* Nobody reads the entry, in whose bytes its successor is written from here on, any more. */
static mth_status begin_successor(const sweep *s, int i, int out) {
    const mth__role *r = s->v->r;
    const int exit = r->value.at[out].index;
    for (int old = s->v->exit_entry[exit] - 1; old >= 0; old = s->v->entry_next[old] - 1) {
        if (s->last[old] < i || in_place(s, i, out, old)) continue;
        return mth__refuse(s->v, i, out,
            F("%s is the successor of entry %d, %s, and is written while that is still read, until instruction %d",
                r->value.at[out].name, r->value.at[old].index, r->value.at[old].name, s->last[old]));
    }
    return NULL;
}

static mth_status begin(sweep *s, int i, int out) {
    const mth__pvalue *p = &s->v->r->value.at[out];
    int below = sum_below(&s->v->r->instr.at[i], out);
    if (below >= 0) TRY(begin_sum(s, i, out, below));
    if (p->bytes == 0 || is_own(p)) return NULL;
    if (p->storage == MTH__IN_EXIT && s->v->p->exit.at[p->index].kind == MTH__EXIT_SUCCESSOR)
        TRY(begin_successor(s, i, out));
    const mth__range *x = mth__ranges_overlapping(&s->memory, place(s, out), p->bytes);
    if (x) {
        if (!in_place(s, i, out, x->tag)) return overlap(s, i, out, x->tag);
        s->live[x->tag] = false;
        mth__ranges_erase(&s->memory, x->start);
    }
    mth__ranges_insert(&s->memory, place(s, out), p->bytes, out);
    s->live[out] = true;
    return NULL;
}

mth_status mth__verify_bytes(mth__verification *v) {
    const mth__role *r = v->r;
    const size_t values = r->value.n;
    sweep s = {.v = v, .memory = mth__ranges_new(v->arena)};
    s.last = NEW_ARRAY(v->arena, int, values);
    s.reads = NEW_ARRAY(v->arena, int, values);
    s.held = NEW_ARRAY(v->arena, int, values);
    s.next = NEW_ARRAY(v->arena, int, values);
    s.live = NEW_ARRAY(v->arena, bool, values);
    s.ends = NEW_ARRAY(v->arena, int, r->instr.n);
    int64_t end = 0;
    for (int space = 0; space < MTH__SPACES; space++) {
        s.space_start[space] = end;
        end = mth__size_sum(end, r->slab[space]);
    }
    for (size_t k = 0; k < v->exits.n; k++) {
        v->exit_start[v->exits.at[k]] = end;
        end = mth__size_sum(end, v->exit_bytes[v->exits.at[k]]);
    }
    for (size_t x = 0; x < values; x++)
        if (is_own(&r->value.at[x])) end = mth__size_sum(end, r->value.at[x].bytes);
    if (end > INT64_MAX / 2) return mth__refuse(v, -1, -1, F("its memory has more than 2^62 bytes"));
    memset(s.last, -1, values * sizeof *s.last);
    memset(s.reads, -1, values * sizeof *s.reads);
    memset(s.ends, -1, r->instr.n * sizeof *s.ends);
    find_ends(&s);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0; j < k->nout; j++) TRY(begin(&s, i, k->out[j]));
        if (k->scratch >= 0) TRY(begin(&s, i, k->scratch));
        for (int x = s.ends[i]; x >= 0; x = s.next[x]) {
            if (!s.live[x] || r->value.at[x].storage == MTH__IN_EXIT) continue;
            mth__ranges_erase(&s.memory, place(&s, x));
            s.live[x] = false;
        }
    }
    return NULL;
}
