/* Where a role waits. The WAIT of what is started stands before the first instruction that reads a result. A SEND's
 * WAIT must not stand right behind it: the sender of a pipeline would stall on a slow receiver, with nothing computed
 * meanwhile. It stands behind the last reader of the value that was sent, but not before OUTSTANDING further values
 * have been sent: by then the peer has normally taken it, and no more than that many dead values are kept. No choice
 * can deadlock: what a WAIT depends on was issued before it in the one global order of nodes. */
#include "emit/emit.h"
#include <string.h>

enum { OUTSTANDING = 4 };
/* a SEND or START whose WAIT stands before some instruction; next in its list */
typedef struct {
    int instr, next;
} pending;

static mth__instr wait_for(const mth__instr *i) {
    return (mth__instr){.kind = MTH__WAIT,
        .channel = i->channel,
        .awaited = i->channel < 0 ? i->out[0] : -1,
        .scratch = -1,
        .label = i->label};
}

void mth__emit_waits(mth__program *p, mth__role *r) {
    mth__arena *scratch = mth__arena_new();
    int n = (int)r->instr.n, waits = 0, sends = 0;
    size_t values = r->value.n;
    /* readers, by base */
    int *first = NEW_ARRAY(scratch, int, values), *last = NEW_ARRAY(scratch, int, values);
    /* instructions that are a SEND */
    int *send = NEW_ARRAY(scratch, int, n + 1);
    memset(first, -1, values * sizeof *first);
    memset(last, -1, values * sizeof *last);
    for (int i = 0; i < n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0; j < k->nin; j++) {
            int v = mth__base_of(r, k->in[j]);
            if (first[v] < 0) first[v] = i;
            last[v] = i;
        }
        waits += k->kind == MTH__SEND || mth__is_started(k);
        if (k->kind == MTH__SEND) send[sends++] = i;
    }
    /* lists of `wait`, 1-based: before instruction i */
    int *head = NEW_ARRAY(scratch, int, n + 1), *tail = NEW_ARRAY(scratch, int, n + 1);
    pending *wait = NEW_ARRAY(scratch, pending, waits + 1);
    for (int i = 0, s = 0, w = 0; i < n; i++) {
        const mth__instr *k = &r->instr.at[i];
        int before = n;
        if (mth__is_started(k)) {
            for (int j = 0; j < k->nout; j++)
                if (first[k->out[j]] >= 0 && first[k->out[j]] < before) before = first[k->out[j]];
        } else if (k->kind == MTH__SEND) {
            if (s + OUTSTANDING < sends) before = send[s + OUTSTANDING];
            if (before <= last[mth__base_of(r, k->in[0])]) before = last[mth__base_of(r, k->in[0])] + 1;
            s++;
        } else {
            continue;
        }
        wait[++w].instr = i;
        if (tail[before])
            wait[tail[before]].next = w;
        else
            head[before] = w;
        tail[before] = w;
    }
    mth__instr *all = NEW_ARRAY(p->arena, mth__instr, n + waits);
    size_t at = 0;
    for (int i = 0; i <= n; i++) {
        for (int w = head[i]; w; w = wait[w].next) all[at++] = wait_for(&r->instr.at[wait[w].instr]);
        if (i < n) all[at++] = r->instr.at[i];
    }
    r->instr.at = all;
    r->instr.n = r->instr.room = at;
    mth__arena_free(scratch);
}
