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

static mth__instr wait_for(const mth__instr *instruction) {
    return (mth__instr){.kind = MTH__WAIT,
        .channel = instruction->channel,
        .awaited = instruction->channel < 0 ? instruction->out[0] : -1,
        .scratch = -1,
        .label = instruction->label};
}

void mth__emit_waits(mth__program *program, mth__role *role) {
    mth__arena *scratch = mth__arena_new();
    int n = (int)role->instr.n, waits = 0, sends = 0;
    size_t values = role->value.n;
    /* readers, by base */
    int *first = NEW_ARRAY(scratch, int, values), *last = NEW_ARRAY(scratch, int, values);
    /* instructions that are a SEND */
    int *send = NEW_ARRAY(scratch, int, n + 1);
    memset(first, -1, values * sizeof *first);
    memset(last, -1, values * sizeof *last);
    for (int i = 0; i < n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int j = 0; j < instruction->nin; j++) {
            int number = mth__base_of(role, instruction->in[j]);
            if (first[number] < 0) first[number] = i;
            last[number] = i;
        }
        waits += instruction->kind == MTH__SEND || mth__is_started(instruction);
        if (instruction->kind == MTH__SEND) send[sends++] = i;
    }
    /* lists of `wait`, 1-based: before instruction i */
    int *head = NEW_ARRAY(scratch, int, n + 1), *tail = NEW_ARRAY(scratch, int, n + 1);
    pending *wait = NEW_ARRAY(scratch, pending, waits + 1);
    for (int i = 0, stream = 0, next = 0; i < n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        int before = n;
        if (mth__is_started(instruction)) {
            for (int j = 0; j < instruction->nout; j++)
                if (first[instruction->out[j]] >= 0 && first[instruction->out[j]] < before)
                    before = first[instruction->out[j]];
        } else if (instruction->kind == MTH__SEND) {
            if (stream + OUTSTANDING < sends) before = send[stream + OUTSTANDING];
            if (before <= last[mth__base_of(role, instruction->in[0])])
                before = last[mth__base_of(role, instruction->in[0])] + 1;
            stream++;
        } else {
            continue;
        }
        wait[++next].instr = i;
        if (tail[before])
            wait[tail[before]].next = next;
        else
            head[before] = next;
        tail[before] = next;
    }
    mth__instr *all = NEW_ARRAY(program->arena, mth__instr, n + waits);
    size_t at = 0;
    for (int i = 0; i <= n; i++) {
        for (int next = head[i]; next; next = wait[next].next) all[at++] = wait_for(&role->instr.at[wait[next].instr]);
        if (i < n) all[at++] = role->instr.at[i];
    }
    role->instr.at = all;
    role->instr.n = role->instr.room = at;
    mth__arena_free(scratch);
}
