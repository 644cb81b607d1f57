/* No two values that live at the same time share a byte, but for a result that takes over an operand's bytes in place.
 * A value lives from the instruction that writes it to the last that reads it; what a START or a SEND touches, to the
 * WAIT; what lies in an exit, to the end, or until the exit's next value takes it over. The exits' bytes are numbered
 * on behind the slab's. */
#include "emit/verify.h"
#include <string.h>

typedef struct {
    mth__verification *v;
    int *last;         /* by base: the instruction at which it ends */
    int *reads, *held; /* by base: its last plain reader; SENDs and STARTs that have it as operand */
    int *ends, *next;  /* by instruction, by value: lists of those that end there; -1 */
    bool *live;
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
            s->held[base] += k->kind == MTH__START || k->kind == MTH__SEND;
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
    if (p->storage == MTH__IN_SLAB) return p->offset;
    return s->v->exit_start[p->index] + (p->storage == MTH__IN_LENT ? p->offset : 0);
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
    bool collective = k->kind == MTH__COLLECTIVE || k->kind == MTH__START;
    int sum = sum_below(k, out);
    if (place(s, out) != place(s, old) || a->bytes != b->bytes || a->dtype != b->dtype) return false;
    if (b->storage == MTH__IN_EXIT && a->storage != MTH__IN_EXIT) return false; /* it leaves */
    if (sum < 0 && (k->nout != 1 || out != k->out[0])) return false;            /* scratch, or one result of several */
    if (k->kind == MTH__COMPUTE && sum < 0 && !(k->op->flags & MTH__ELEMENTWISE)) return false;
    if (k->kind != MTH__COMPUTE && !(collective && s->v->p->channel.at[k->channel].kind == MTH__ALL_REDUCE))
        return false;
    if (s->reads[old] != i || s->last[old] != s->v->released[i] || (k->kind == MTH__START && s->held[old] != 1))
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
    bool own = b->storage != MTH__IN_ENTRY && b->storage != MTH__IN_ALIAS;
    if (a->bytes == 0 || (own && in_place(s, i, out, old))) return NULL;
    return mth__refuse(s->v, i, out, F("%s is added to %s, and does not take over its bytes", a->name, b->name));
}

static mth_status overlap(const sweep *s, int i, int out, int old) {
    const mth__role *r = s->v->r;
    return mth__refuse(s->v, i, out,
        F("%s overlaps %s, which lives until instruction %d", r->value.at[out].name, r->value.at[old].name,
            s->last[old]));
}

static mth_status begin(sweep *s, int i, int out) {
    const mth__pvalue *p = &s->v->r->value.at[out];
    int below = sum_below(&s->v->r->instr.at[i], out);
    if (below >= 0) TRY(begin_sum(s, i, out, below));
    if (p->bytes == 0) return NULL;
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
    int64_t end = r->slab;
    for (size_t k = 0; k < v->exits.n; k++) {
        v->exit_start[v->exits.at[k]] = end;
        end = mth__size_sum(end, v->exit_bytes[v->exits.at[k]]);
        if (end == INT64_MAX) return mth__refuse(v, -1, -1, F("its memory has more than 2^63 bytes"));
    }
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
