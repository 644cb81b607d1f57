/* Instructions in order: each is of a kind and on a stream that there is, reads what has been written, writes what has
 * not, and what is started or sent is waited for, once. */
#include "emit/verify.h"
#include <string.h>

enum { UNWRITTEN, UNDER_WAY, WRITTEN };

/* Whether the stream takes instructions of this kind. */
static mth_status check_stream(const mth__verification *proof, int i) {
    const mth__instr *instr = &proof->role->instr.at[i];
    const int owner = instr->kind == MTH__COMPUTE ? 0 : instr->kind == MTH__COPY ? 2 : 1;
    if (!mth__is_started(instr)) return NULL;
    if (instr->kind == MTH__SEND || instr->kind == MTH__WAIT)
        return mth__refuse(proof, i, -1, F("stands on stream %d, and belongs on stream 0", instr->stream));
    if (instr->stream >= MTH__STREAMS)
        return mth__refuse(proof, i, -1, F("stands on stream %d, which there is not", instr->stream));
    if (instr->stream == owner) return NULL;
    return mth__refuse(proof, i, -1,
        F("stands on stream %d, which %s, where it would be one that %s", instr->stream,
            mth__stream_owners[instr->stream], mth__stream_owners[owner]));
}

/* Kernels and channels read and write the device's own memory; copies bring a value from one space to another. */
static mth_status check_spaces(const mth__verification *proof, int i) {
    const mth__instr *instr = &proof->role->instr.at[i];
    for (int j = 0; instr->kind != MTH__COPY && j < instr->nin + instr->nout; j++) {
        const int number = j < instr->nin ? instr->in[j] : instr->out[j - instr->nin];
        if (mth__space_of(proof->role, number) != MTH__DEVICE)
            return mth__refuse(proof, i, number,
                F("%s lies in the host's pool, where only copies reach it", proof->role->value.at[number].name));
    }
    if (instr->kind != MTH__COPY) return NULL;
    if (instr->nin != 1 || instr->nout != 1)
        return mth__refuse(
            proof, i, -1, F("a copy has one operand and one result, not %d and %d", instr->nin, instr->nout));
    const mth__program_value *in = &proof->role->value.at[instr->in[0]], *out = &proof->role->value.at[instr->out[0]];
    if (mth__space_of(proof->role, instr->in[0]) == mth__space_of(proof->role, instr->out[0]))
        return mth__refuse(proof, i, instr->out[0], F("%s lies in the same space as %s", out->name, in->name));
    if (in->dtype != out->dtype || !mth__shape_equal(in->shape, out->shape) || in->sharding.on != out->sharding.on ||
        !mth__sharding_equal(&in->sharding, &out->sharding, in->shape.rank))
        return mth__refuse(proof, i, instr->out[0], F("%s is not what %s is", out->name, in->name));
    return NULL;
}

static mth_status check_instruction(const mth__verification *proof, int i) {
    const mth__instr *instr = &proof->role->instr.at[i];
    const int values = (int)proof->role->value.n, channels = (int)proof->program->channel.n;
    const bool compute = instr->kind == MTH__COMPUTE, wait = instr->kind == MTH__WAIT;
    if ((unsigned)instr->kind > MTH__WAIT || (compute && (!instr->op || !instr->attrs)) || instr->channel < -1 ||
        instr->channel >= channels ||
        (instr->channel >= 0) != (mth__has_channel(instr) || (wait && instr->awaited < 0)) || instr->awaited < -1 ||
        instr->awaited >= values || (instr->awaited >= 0 && !wait))
        return INTERNAL("role %d, instruction %d is of no kind", proof->number, i);
    if (instr->nin < 0 || instr->nin > MTH__MAX_IN || instr->nout < 0 || instr->nout > MTH__MAX_OUT)
        return mth__refuse(proof, i, -1, F("%d operands and %d results", instr->nin, instr->nout));
    if (instr->accumulates &&
        (!compute || !instr->op->accumulates || mth__row_operands(instr->op, instr->nin, true) < 0))
        return mth__refuse(proof, i, -1, F("it has no sums to which it could add"));
    for (int j = 0; j < instr->nin + instr->nout; j++) {
        int number = j < instr->nin ? instr->in[j] : instr->out[j - instr->nin];
        if (number < 0 || number >= values) return mth__refuse(proof, i, -1, F("it names a value that the role lacks"));
    }
    if (instr->scratch >= values || (instr->scratch >= 0 && !mth__has_channel(instr)))
        return mth__refuse(proof, i, -1, F("its scratch is no value, or there should be none"));
    TRY(check_stream(proof, i));
    return check_spaces(proof, i);
}

static mth_status check_reads(const mth__verification *proof, int i, const uint8_t *state) {
    const mth__instr *instr = &proof->role->instr.at[i];
    for (int j = 0; j < instr->nin; j++) {
        int base = mth__verify_base(proof->role, instr->in[j]);
        if (state[base] == UNDER_WAY)
            return mth__refuse(proof, i, instr->in[j],
                F("reads %s, which is started and not waited for", proof->role->value.at[instr->in[j]].name));
        if (state[base] == UNWRITTEN)
            return mth__refuse(proof, i, instr->in[j],
                F("reads %s before anything has written it", proof->role->value.at[instr->in[j]].name));
    }
    return NULL;
}

static mth_status check_write(const mth__verification *proof, int i, int number, uint8_t *state) {
    const mth__program_value *value = &proof->role->value.at[number];
    if (value->storage == MTH__IN_ENTRY)
        return mth__refuse(proof, i, number, F("writes %s, which is the caller's", value->name));
    if (value->storage == MTH__IN_ALIAS)
        return mth__refuse(proof, i, number, F("writes %s, which is a view", value->name));
    if (state[number] != UNWRITTEN) return mth__refuse(proof, i, number, F("writes %s a second time", value->name));
    state[number] = mth__is_started(&proof->role->instr.at[i]) ? UNDER_WAY : WRITTEN;
    return NULL;
}

/* Where the number of the open instruction is kept for which this one, its opener or its WAIT, stands. */
static int *opener_of(const mth__verification *proof, const mth__instr *instr) {
    if (instr->channel >= 0) return &proof->opened_by[instr->channel];
    return &proof->begun[instr->kind == MTH__WAIT ? instr->awaited : instr->out[0]];
}

static bool is_opener(const mth__instr *instruction) {
    return instruction->kind == MTH__SEND || mth__is_started(instruction);
}

static mth_status check_wait(mth__verification *proof, int i, uint8_t *state) {
    const mth__role *role = proof->role;
    const mth__instr *instr = &role->instr.at[i];
    int *by = opener_of(proof, instr);
    if (*by < 0 || (instr->channel >= 0 && proof->opened_role[instr->channel] != proof->number))
        return mth__refuse(
            proof, i, instr->awaited, F("waits for what was not started or sent here, or is waited for already"));
    if (instr->nin || instr->nout || instr->scratch >= 0)
        return mth__refuse(proof, i, -1, F("a WAIT has no operand and no result"));
    for (int j = 0; j < role->instr.at[*by].nout; j++) state[role->instr.at[*by].out[j]] = WRITTEN;
    proof->released[*by] = i;
    *by = -1;
    return NULL;
}

mth_status mth__verify_order(mth__verification *proof) {
    const mth__role *role = proof->role;
    uint8_t *state = NEW_ARRAY(proof->arena, uint8_t, role->value.n);
    int open = 0;
    proof->begun = NEW_ARRAY(proof->arena, int, role->value.n);
    memset(proof->begun, -1, role->value.n * sizeof *proof->begun);
    for (size_t number = 0; number < role->value.n; number++)
        state[number] = role->value.at[number].storage == MTH__IN_ENTRY ? WRITTEN : UNWRITTEN;
    proof->released = NEW_ARRAY(proof->arena, int, role->instr.n);
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instr = &role->instr.at[i];
        TRY(mth__stop_check());
        TRY(check_instruction(proof, i));
        TRY(check_reads(proof, i, state));
        for (int j = 0; j < instr->nout; j++) TRY(check_write(proof, i, instr->out[j], state));
        if (instr->scratch >= 0) {
            const mth__storage storage = role->value.at[instr->scratch].storage;
            if ((storage != MTH__IN_SLAB && storage != MTH__IN_LENT && storage != MTH__IN_OWN) ||
                mth__space_of(role, instr->scratch) != MTH__DEVICE)
                return mth__refuse(proof, i, instr->scratch, F("its scratch is not in the slab"));
            TRY(check_write(proof, i, instr->scratch, state));
            state[instr->scratch] = UNDER_WAY; /* for ever: nobody reads it */
        }
        proof->released[i] = i;
        if (is_opener(instr)) {
            if (instr->channel >= 0 && proof->opened_role[instr->channel] == proof->number)
                return mth__refuse(proof, i, -1, F("a channel is started or sent on twice"));
            if (instr->channel >= 0) proof->opened_role[instr->channel] = proof->number;
            if (instr->channel < 0 && !instr->nout)
                return mth__refuse(proof, i, -1, F("is started, and no WAIT can name a result"));
            *opener_of(proof, instr) = i;
            open++;
        } else if (instr->kind == MTH__WAIT) {
            TRY(check_wait(proof, i, state));
            open--;
        }
        if (mth__has_channel(instr)) TRY(mth__verify_part(proof, i));
        if (instr->kind == MTH__COMPUTE) TRY(proof->global ? mth__verify_layouts(proof, i) : mth__verify_row(proof, i));
    }
    for (int i = 0; i < (int)role->instr.n && open; i++) {
        const mth__instr *instr = &role->instr.at[i];
        if (is_opener(instr) && *opener_of(proof, instr) == i)
            return mth__refuse(proof, i, instr->nin ? instr->in[0] : instr->out[0], F("nothing waits for it"));
    }
    return NULL;
}
