/* Instructions in order: each is of a kind and on a stream that there is, reads what has been written, writes what has
 * not, and what is started or sent is waited for, once. */
#include "emit/verify.h"
#include <string.h>

enum { UNWRITTEN, UNDER_WAY, WRITTEN };

/* Whether the stream takes instructions of this kind. */
static mth_status check_stream(const mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    const int owner = instruction->kind == MTH__COMPUTE ? 0 : instruction->kind == MTH__COPY ? 2 : 1;
    if (!mth__is_started(instruction)) return NULL;
    if (instruction->kind == MTH__SEND || instruction->kind == MTH__WAIT)
        return mth__refuse(proof, i, -1, F("stands on stream %d, and belongs on stream 0", instruction->stream));
    if (instruction->stream >= MTH__STREAMS)
        return mth__refuse(proof, i, -1, F("stands on stream %d, which there is not", instruction->stream));
    if (instruction->stream == owner) return NULL;
    return mth__refuse(proof, i, -1,
        F("stands on stream %d, which %s, where it would be one that %s", instruction->stream,
            mth__stream_owners[instruction->stream], mth__stream_owners[owner]));
}

/* Kernels and channels read and write the device's own memory; copies bring a value from one space to another. */
static mth_status check_spaces(const mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    for (int j = 0; instruction->kind != MTH__COPY && j < instruction->nin + instruction->nout; j++) {
        const int number = j < instruction->nin ? instruction->in[j] : instruction->out[j - instruction->nin];
        if (mth__space_of(proof->role, number) != MTH__DEVICE)
            return mth__refuse(proof, i, number,
                F("%s lies in the host's pool, where only copies reach it", proof->role->value.at[number].name));
    }
    if (instruction->kind != MTH__COPY) return NULL;
    if (instruction->nin != 1 || instruction->nout != 1)
        return mth__refuse(proof, i, -1,
            F("a copy has one operand and one result, not %d and %d", instruction->nin, instruction->nout));
    const mth__program_value *in = &proof->role->value.at[instruction->in[0]],
                             *out = &proof->role->value.at[instruction->out[0]];
    if (mth__space_of(proof->role, instruction->in[0]) == mth__space_of(proof->role, instruction->out[0]))
        return mth__refuse(proof, i, instruction->out[0], F("%s lies in the same space as %s", out->name, in->name));
    if (in->dtype != out->dtype || !mth__shape_equal(in->shape, out->shape) || in->sharding.on != out->sharding.on ||
        !mth__sharding_equal(&in->sharding, &out->sharding, in->shape.rank))
        return mth__refuse(proof, i, instruction->out[0], F("%s is not what %s is", out->name, in->name));
    return NULL;
}

static mth_status check_instruction(const mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    const int values = (int)proof->role->value.n, channels = (int)proof->program->channel.n;
    const bool compute = instruction->kind == MTH__COMPUTE, wait = instruction->kind == MTH__WAIT;
    if ((unsigned)instruction->kind > MTH__WAIT || (compute && (!instruction->op || !instruction->attrs)) ||
        instruction->channel < -1 || instruction->channel >= channels ||
        (instruction->channel >= 0) != (mth__has_channel(instruction) || (wait && instruction->awaited < 0)) ||
        instruction->awaited < -1 || instruction->awaited >= values || (instruction->awaited >= 0 && !wait))
        return INTERNAL("role %d, instruction %d is of no kind", proof->number, i);
    if (instruction->nin < 0 || instruction->nin > MTH__MAX_IN || instruction->nout < 0 ||
        instruction->nout > MTH__MAX_OUT)
        return mth__refuse(proof, i, -1, F("%d operands and %d results", instruction->nin, instruction->nout));
    if (instruction->accumulates &&
        (!compute || !instruction->op->accumulates || mth__row_operands(instruction->op, instruction->nin, true) < 0))
        return mth__refuse(proof, i, -1, F("it has no sums to which it could add"));
    for (int j = 0; j < instruction->nin + instruction->nout; j++) {
        int number = j < instruction->nin ? instruction->in[j] : instruction->out[j - instruction->nin];
        if (number < 0 || number >= values) return mth__refuse(proof, i, -1, F("it names a value that the role lacks"));
    }
    if (instruction->scratch >= values || (instruction->scratch >= 0 && !mth__has_channel(instruction)))
        return mth__refuse(proof, i, -1, F("its scratch is no value, or there should be none"));
    TRY(check_stream(proof, i));
    return check_spaces(proof, i);
}

static mth_status check_reads(const mth__verification *proof, int i, const uint8_t *state) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    for (int j = 0; j < instruction->nin; j++) {
        int base = mth__verify_base(proof->role, instruction->in[j]);
        if (state[base] == UNDER_WAY)
            return mth__refuse(proof, i, instruction->in[j],
                F("reads %s, which is started and not waited for", proof->role->value.at[instruction->in[j]].name));
        if (state[base] == UNWRITTEN)
            return mth__refuse(proof, i, instruction->in[j],
                F("reads %s before anything has written it", proof->role->value.at[instruction->in[j]].name));
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
static int *opener_of(const mth__verification *proof, const mth__instr *instruction) {
    if (instruction->channel >= 0) return &proof->opened_by[instruction->channel];
    return &proof->begun[instruction->kind == MTH__WAIT ? instruction->awaited : instruction->out[0]];
}

static bool is_opener(const mth__instr *instruction) {
    return instruction->kind == MTH__SEND || mth__is_started(instruction);
}

static mth_status check_wait(mth__verification *proof, int i, uint8_t *state) {
    const mth__role *role = proof->role;
    const mth__instr *instruction = &role->instr.at[i];
    int *by = opener_of(proof, instruction);
    if (*by < 0 || (instruction->channel >= 0 && proof->opened_role[instruction->channel] != proof->number))
        return mth__refuse(
            proof, i, instruction->awaited, F("waits for what was not started or sent here, or is waited for already"));
    if (instruction->nin || instruction->nout || instruction->scratch >= 0)
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
        const mth__instr *instruction = &role->instr.at[i];
        TRY(mth__stop_check());
        TRY(check_instruction(proof, i));
        TRY(check_reads(proof, i, state));
        for (int j = 0; j < instruction->nout; j++) TRY(check_write(proof, i, instruction->out[j], state));
        if (instruction->scratch >= 0) {
            const mth__storage storage = role->value.at[instruction->scratch].storage;
            if ((storage != MTH__IN_SLAB && storage != MTH__IN_LENT && storage != MTH__IN_OWN) ||
                mth__space_of(role, instruction->scratch) != MTH__DEVICE)
                return mth__refuse(proof, i, instruction->scratch, F("its scratch is not in the slab"));
            TRY(check_write(proof, i, instruction->scratch, state));
            state[instruction->scratch] = UNDER_WAY; /* for ever: nobody reads it */
        }
        proof->released[i] = i;
        if (is_opener(instruction)) {
            if (instruction->channel >= 0 && proof->opened_role[instruction->channel] == proof->number)
                return mth__refuse(proof, i, -1, F("a channel is started or sent on twice"));
            if (instruction->channel >= 0) proof->opened_role[instruction->channel] = proof->number;
            if (instruction->channel < 0 && !instruction->nout)
                return mth__refuse(proof, i, -1, F("is started, and no WAIT can name a result"));
            *opener_of(proof, instruction) = i;
            open++;
        } else if (instruction->kind == MTH__WAIT) {
            TRY(check_wait(proof, i, state));
            open--;
        }
        if (mth__has_channel(instruction)) TRY(mth__verify_part(proof, i));
        if (instruction->kind == MTH__COMPUTE)
            TRY(proof->global ? mth__verify_layouts(proof, i) : mth__verify_row(proof, i));
    }
    for (int i = 0; i < (int)role->instr.n && open; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        if (is_opener(instruction) && *opener_of(proof, instruction) == i)
            return mth__refuse(
                proof, i, instruction->nin ? instruction->in[0] : instruction->out[0], F("nothing waits for it"));
    }
    return NULL;
}
