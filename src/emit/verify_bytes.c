/* No two values that live at the same time share a byte, but for a result that takes over an operand's bytes in place.
 * A value lives from the instruction that writes it to the last that reads it; what a SEND or a started instruction
 * touches, to the WAIT; what lies in an exit, to the end, or until the exit's next value takes it over; an entry that
 * has a successor, to its last reader, before its successor is written. The bytes of the slabs of all spaces, and of
 * the exits behind them, are numbered on one line. What is the engine's own has no place on it. */
#include "emit/verify.h"
#include <string.h>

typedef struct {
    mth__verification *proof;
    int *last;         /* by base: the instruction at which it ends */
    int *reads, *held; /* by base: its last reader; SENDs and started ones that have it as operand */
    int *ends, *next;  /* by instruction, by value: lists of those that end there; -1 */
    bool *live;
    int64_t space_start[MTH__SPACES];
    mth__ranges memory;
} sweep;

static void touch(sweep *pass, int base, int at) {
    if (at > pass->last[base]) pass->last[base] = at;
}

static void find_ends(sweep *pass) {
    const mth__role *role = pass->proof->role;
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        int released = pass->proof->released[i];
        for (int j = 0; j < instruction->nin; j++) {
            int base = mth__verify_base(role, instruction->in[j]);
            touch(pass, base, released);
            pass->reads[base] = i;
            pass->held[base] += mth__is_started(instruction) || instruction->kind == MTH__SEND;
        }
        for (int j = 0; j < instruction->nout; j++) touch(pass, instruction->out[j], released);
        if (instruction->scratch >= 0) touch(pass, instruction->scratch, released);
    }
    for (int number = (int)role->value.n - 1; number >= 0; number--) {
        if (pass->last[number] < 0) continue;
        pass->next[number] = pass->ends[pass->last[number]];
        pass->ends[pass->last[number]] = number;
    }
}

static int64_t place(const sweep *pass, int number) {
    const mth__program_value *value = &pass->proof->role->value.at[number];
    if (value->storage == MTH__IN_SLAB) return pass->space_start[value->space] + value->offset;
    if (value->storage == MTH__IN_ENTRY)
        return pass->proof->exit_start[pass->proof->successor[value->index]]; /* one that has a successor */
    return pass->proof->exit_start[value->index] + (value->storage == MTH__IN_LENT ? value->offset : 0);
}

static bool is_own(const mth__program_value *value) { return value->storage == MTH__IN_OWN; }

/* Do two values of one size lie exactly on each other? What is the engine's own does where one takes over the other. */
static bool coincide(const sweep *pass, const mth__program_value *a, int out, const mth__program_value *b, int old) {
    if (is_own(a) || is_own(b)) return is_own(a) && is_own(b) && a->space == b->space;
    return place(pass, out) == place(pass, old);
}

/* The operand that result `out` of instruction i is added to, or -1. */
static int sum_below(const mth__instr *instruction, int out) {
    for (int j = 0; instruction->accumulates && j < instruction->nout; j++)
        if (instruction->out[j] == out) return mth__accumulator(instruction->op, instruction->nin, j);
    return -1;
}

/* May result `out` of instruction i lie where `old` lies, which still lives? */
static bool in_place(const sweep *pass, int i, int out, int old) {
    const mth__role *role = pass->proof->role;
    const mth__instr *instruction = &role->instr.at[i];
    const mth__program_value *a = &role->value.at[out], *b = &role->value.at[old];
    int sum = sum_below(instruction, out);
    if (!coincide(pass, a, out, b, old) || a->bytes != b->bytes || a->dtype != b->dtype) return false;
    if (b->storage == MTH__IN_EXIT && a->storage != MTH__IN_EXIT) return false; /* it leaves */
    if (out == instruction->scratch) return false;
    if (instruction->kind == MTH__COMPUTE && sum < 0 && !(instruction->op->flags & MTH__ELEMENTWISE)) return false;
    if (instruction->kind != MTH__COMPUTE &&
        !(instruction->kind == MTH__COLLECTIVE &&
            pass->proof->program->channel.at[instruction->channel].kind == MTH__ALL_REDUCE))
        return false;
    if (pass->reads[old] != i || pass->last[old] != pass->proof->released[i] ||
        (mth__is_started(instruction) && pass->held[old] != 1))
        return false;
    bool operand = false;
    for (int j = 0; j < instruction->nin; j++) {
        if (mth__verify_base(role, instruction->in[j]) != old) continue;
        if (role->value.at[instruction->in[j]].bytes != b->bytes ||
            role->value.at[instruction->in[j]].dtype != a->dtype)
            return false;
        if (sum >= 0 && j != sum) return false; /* its row reads them while it adds */
        operand = true;
    }
    return operand;
}

/* A result that is added to a sum lies where that lies. */
static mth_status begin_sum(const sweep *pass, int i, int out, int below) {
    const mth__role *role = pass->proof->role;
    const int old = role->instr.at[i].in[below];
    const mth__program_value *a = &role->value.at[out], *b = &role->value.at[old];
    bool successor = b->storage == MTH__IN_ENTRY && a->storage == MTH__IN_EXIT &&
        pass->proof->program->exit.at[a->index].kind == MTH__EXIT_SUCCESSOR &&
        pass->proof->program->exit.at[a->index].entry == b->index;
    bool written = b->storage != MTH__IN_ENTRY && b->storage != MTH__IN_ALIAS;
    if (a->bytes == 0 || ((written || successor) && in_place(pass, i, out, old))) return NULL;
    return mth__refuse(pass->proof, i, out, F("%s is added to %s, and does not take over its bytes", a->name, b->name));
}

static mth_status overlap(const sweep *pass, int i, int out, int old) {
    const mth__role *role = pass->proof->role;
    return mth__refuse(pass->proof, i, out,
        F("%s overlaps %s, which lives until instruction %d", role->value.at[out].name, role->value.at[old].name,
            pass->last[old]));
}

/* Nobody reads the entry, in whose bytes its successor is written from here on, any more. */
static mth_status begin_successor(const sweep *pass, int i, int out) {
    const mth__role *role = pass->proof->role;
    const int exit_number = role->value.at[out].index;
    for (int old = pass->proof->exit_entry[exit_number] - 1; old >= 0; old = pass->proof->entry_next[old] - 1) {
        if (pass->last[old] < i || in_place(pass, i, out, old)) continue;
        return mth__refuse(pass->proof, i, out,
            F("%s is the successor of entry %d, %s, and is written while that is still read, until instruction %d",
                role->value.at[out].name, role->value.at[old].index, role->value.at[old].name, pass->last[old]));
    }
    return NULL;
}

static mth_status begin(sweep *pass, int i, int out) {
    const mth__program_value *value = &pass->proof->role->value.at[out];
    int below = sum_below(&pass->proof->role->instr.at[i], out);
    if (below >= 0) TRY(begin_sum(pass, i, out, below));
    if (value->bytes == 0 || is_own(value)) return NULL;
    if (value->storage == MTH__IN_EXIT && pass->proof->program->exit.at[value->index].kind == MTH__EXIT_SUCCESSOR)
        TRY(begin_successor(pass, i, out));
    const mth__range *range = mth__ranges_overlapping(&pass->memory, place(pass, out), value->bytes);
    if (range) {
        if (!in_place(pass, i, out, range->tag)) return overlap(pass, i, out, range->tag);
        pass->live[range->tag] = false;
        mth__ranges_erase(&pass->memory, range->start);
    }
    mth__ranges_insert(&pass->memory, place(pass, out), value->bytes, out);
    pass->live[out] = true;
    return NULL;
}

mth_status mth__verify_bytes(mth__verification *proof) {
    const mth__role *role = proof->role;
    const size_t values = role->value.n;
    sweep pass = {.proof = proof, .memory = mth__ranges_new(proof->arena)};
    pass.last = NEW_ARRAY(proof->arena, int, values);
    pass.reads = NEW_ARRAY(proof->arena, int, values);
    pass.held = NEW_ARRAY(proof->arena, int, values);
    pass.next = NEW_ARRAY(proof->arena, int, values);
    pass.live = NEW_ARRAY(proof->arena, bool, values);
    pass.ends = NEW_ARRAY(proof->arena, int, role->instr.n);
    int64_t end = 0;
    for (int space = 0; space < MTH__SPACES; space++) {
        pass.space_start[space] = end;
        end = mth__size_sum(end, role->slab[space]);
    }
    for (size_t k = 0; k < proof->exits.n; k++) {
        proof->exit_start[proof->exits.at[k]] = end;
        end = mth__size_sum(end, proof->exit_bytes[proof->exits.at[k]]);
    }
    for (size_t number = 0; number < values; number++)
        if (is_own(&role->value.at[number])) end = mth__size_sum(end, role->value.at[number].bytes);
    if (end == INT64_MAX) return mth__refuse(proof, -1, -1, F("its memory has 2^63 bytes or more"));
    memset(pass.last, -1, values * sizeof *pass.last);
    memset(pass.reads, -1, values * sizeof *pass.reads);
    memset(pass.ends, -1, role->instr.n * sizeof *pass.ends);
    find_ends(&pass);
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int j = 0; j < instruction->nout; j++) TRY(begin(&pass, i, instruction->out[j]));
        if (instruction->scratch >= 0) TRY(begin(&pass, i, instruction->scratch));
        for (int number = pass.ends[i]; number >= 0; number = pass.next[number]) {
            if (!pass.live[number] || role->value.at[number].storage == MTH__IN_EXIT) continue;
            mth__ranges_erase(&pass.memory, place(&pass, number));
            pass.live[number] = false;
        }
    }
    return NULL;
}
