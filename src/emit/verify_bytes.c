/* No two values that live at the same time share a byte, but for a result that takes over an operand's bytes in place. A value lives from
 * the instruction that writes it to the last that reads it; what a START or a SEND touches, to the WAIT. */
#include "emit/verify.h"
#include <string.h>

typedef struct {
    mth__verification *v;
    int *last;          /* by base: the instruction at which it ends */
    int *reads, *held;  /* by base: its last plain reader; SENDs and STARTs that have it as operand */
    int *ends, *next;   /* by instruction, by value: lists of those that end there; -1 */
    bool *live;
    mth__ranges slab;
    int *in_exit;       /* by exit: the value that lies there, or -1 */
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

/* May result `out` of instruction i lie where `old` lies, which still lives? */
static bool in_place(const sweep *s, int i, int out, int old) {
    const mth__role *r = s->v->r;
    const mth__instr *k = &r->instr.at[i];
    const mth__pvalue *a = &r->value.at[out], *b = &r->value.at[old];
    bool collective = k->kind == MTH__COLLECTIVE || k->kind == MTH__START;
    if (k->nout != 1 || out != k->out[0] || a->offset != b->offset || a->bytes != b->bytes || a->dtype != b->dtype) return false;
    if (k->kind == MTH__COMPUTE && !(k->op->flags & MTH__ELEMENTWISE)) return false;
    if (k->kind != MTH__COMPUTE && !(collective && s->v->p->channel.at[k->channel].kind == MTH__ALL_REDUCE)) return false;
    if (s->reads[old] != i || s->last[old] != s->v->released[i] || (k->kind == MTH__START && s->held[old] != 1)) return false;
    bool operand = false;
    for (int j = 0; j < k->nin; j++) {
        if (mth__verify_base(r, k->in[j]) != old) continue;
        if (r->value.at[k->in[j]].bytes != b->bytes || r->value.at[k->in[j]].dtype != a->dtype) return false;
        operand = true;
    }
    return operand;
}

static mth_status overlap(const sweep *s, int i, int out, int old) {
    const mth__role *r = s->v->r;
    return mth__refuse(s->v, i, out, F("%s overlaps %s, which lives until instruction %d", r->value.at[out].name, r->value.at[old].name,
                                       s->last[old]));
}

static mth_status begin(sweep *s, int i, int out) {
    const mth__pvalue *p = &s->v->r->value.at[out];
    if (p->storage == MTH__IN_EXIT) {
        int old = s->in_exit[p->index];
        if (old >= 0 && !in_place(s, i, out, old)) return overlap(s, i, out, old);
        if (p->bytes == 0) return NULL;
        if (old >= 0) s->live[old] = false;
        s->in_exit[p->index] = out;
        s->live[out] = true;
        return NULL;
    }
    if (p->bytes == 0) return NULL;
    const mth__range *x = mth__ranges_overlapping(&s->slab, p->offset, p->bytes);
    if (x) {
        if (!in_place(s, i, out, x->tag)) return overlap(s, i, out, x->tag);
        s->live[x->tag] = false;
        mth__ranges_erase(&s->slab, x->start);
    }
    mth__ranges_insert(&s->slab, p->offset, p->bytes, out);
    s->live[out] = true;
    return NULL;
}

mth_status mth__verify_bytes(mth__verification *v) {
    const mth__role *r = v->r;
    const size_t values = r->value.n;
    sweep s = {.v = v, .slab = mth__ranges_new(v->arena)};
    s.last = NEW_ARRAY(v->arena, int, values);
    s.reads = NEW_ARRAY(v->arena, int, values);
    s.held = NEW_ARRAY(v->arena, int, values);
    s.next = NEW_ARRAY(v->arena, int, values);
    s.live = NEW_ARRAY(v->arena, bool, values);
    s.ends = NEW_ARRAY(v->arena, int, r->instr.n);
    s.in_exit = NEW_ARRAY(v->arena, int, v->p->exit.n);
    memset(s.last, -1, values * sizeof *s.last);
    memset(s.reads, -1, values * sizeof *s.reads);
    memset(s.ends, -1, r->instr.n * sizeof *s.ends);
    memset(s.in_exit, -1, v->p->exit.n * sizeof *s.in_exit);
    find_ends(&s);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0; j < k->nout; j++) TRY(begin(&s, i, k->out[j]));
        if (k->scratch >= 0) TRY(begin(&s, i, k->scratch));
        for (int x = s.ends[i]; x >= 0; x = s.next[x]) {
            if (!s.live[x] || r->value.at[x].storage != MTH__IN_SLAB) continue; /* what lies in an exit stays until it is taken over */
            mth__ranges_erase(&s.slab, r->value.at[x].offset);
            s.live[x] = false;
        }
    }
    return NULL;
}
