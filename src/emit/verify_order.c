/* Instructions in order: each is of a kind and on a stream that there is, reads what has been written, writes what has
 * not, and what is started or sent is waited for, once. */
#include "emit/verify.h"
#include <string.h>

enum { UNWRITTEN, UNDER_WAY, WRITTEN };

/* Whether the stream takes instructions of this kind. */
static mth_status check_stream(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const int owner = k->kind == MTH__COMPUTE ? 0 : k->kind == MTH__COPY ? 2 : 1;
    if (!mth__is_started(k)) return NULL;
    if (k->kind == MTH__SEND || k->kind == MTH__WAIT)
        return mth__refuse(v, i, -1, F("stands on stream %d, and belongs on stream 0", k->stream));
    if (k->stream >= MTH__STREAMS)
        return mth__refuse(v, i, -1, F("stands on stream %d, which there is not", k->stream));
    if (k->stream == owner) return NULL;
    return mth__refuse(v, i, -1,
        F("stands on stream %d, which %s, where it would be one that %s", k->stream, mth__stream_owners[k->stream],
            mth__stream_owners[owner]));
}

/* Kernels and channels read and write the device's own memory; copies bring a value from one space to another. */
static mth_status check_spaces(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    for (int j = 0; k->kind != MTH__COPY && j < k->nin + k->nout; j++) {
        const int x = j < k->nin ? k->in[j] : k->out[j - k->nin];
        if (mth__space_of(v->r, x) != MTH__DEVICE)
            return mth__refuse(
                v, i, x, F("%s lies in the host's pool, where only copies reach it", v->r->value.at[x].name));
    }
    if (k->kind != MTH__COPY) return NULL;
    if (k->nin != 1 || k->nout != 1)
        return mth__refuse(v, i, -1, F("a copy has one operand and one result, not %d and %d", k->nin, k->nout));
    const mth__pvalue *in = &v->r->value.at[k->in[0]], *out = &v->r->value.at[k->out[0]];
    if (mth__space_of(v->r, k->in[0]) == mth__space_of(v->r, k->out[0]))
        return mth__refuse(v, i, k->out[0], F("%s lies in the same space as %s", out->name, in->name));
    if (in->dtype != out->dtype || !mth__shape_equal(in->shape, out->shape) || in->sharding.on != out->sharding.on ||
        !mth__sharding_equal(&in->sharding, &out->sharding, in->shape.rank))
        return mth__refuse(v, i, k->out[0], F("%s is not what %s is", out->name, in->name));
    return NULL;
}

static mth_status check_instruction(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const int values = (int)v->r->value.n, channels = (int)v->p->channel.n;
    const bool compute = k->kind == MTH__COMPUTE, wait = k->kind == MTH__WAIT;
    if ((unsigned)k->kind > MTH__WAIT || (compute && (!k->op || !k->attrs)) || k->channel < -1 ||
        k->channel >= channels || (k->channel >= 0) != (mth__has_channel(k) || (wait && k->awaited < 0)) ||
        k->awaited < -1 || k->awaited >= values || (k->awaited >= 0 && !wait))
        return INTERNAL("role %d, instruction %d is of no kind", v->role, i);
    if (k->nin < 0 || k->nin > MTH__MAX_IN || k->nout < 0 || k->nout > MTH__MAX_OUT)
        return mth__refuse(v, i, -1, F("%d operands and %d results", k->nin, k->nout));
    if (k->accumulates && (!compute || !k->op->accumulates || mth__row_operands(k->op, k->nin, true) < 0))
        return mth__refuse(v, i, -1, F("it has no sums to which it could add"));
    for (int j = 0; j < k->nin + k->nout; j++) {
        int x = j < k->nin ? k->in[j] : k->out[j - k->nin];
        if (x < 0 || x >= values) return mth__refuse(v, i, -1, F("it names a value that the role lacks"));
    }
    if (k->scratch >= values || (k->scratch >= 0 && !mth__has_channel(k)))
        return mth__refuse(v, i, -1, F("its scratch is no value, or there should be none"));
    TRY(check_stream(v, i));
    return check_spaces(v, i);
}

static mth_status check_reads(const mth__verification *v, int i, const uint8_t *state) {
    const mth__instr *k = &v->r->instr.at[i];
    for (int j = 0; j < k->nin; j++) {
        int base = mth__verify_base(v->r, k->in[j]);
        if (state[base] == UNDER_WAY)
            return mth__refuse(
                v, i, k->in[j], F("reads %s, which is started and not waited for", v->r->value.at[k->in[j]].name));
        if (state[base] == UNWRITTEN)
            return mth__refuse(
                v, i, k->in[j], F("reads %s before anything has written it", v->r->value.at[k->in[j]].name));
    }
    return NULL;
}

static mth_status check_write(const mth__verification *v, int i, int x, uint8_t *state) {
    const mth__pvalue *p = &v->r->value.at[x];
    if (p->storage == MTH__IN_ENTRY) return mth__refuse(v, i, x, F("writes %s, which is the caller's", p->name));
    if (p->storage == MTH__IN_ALIAS) return mth__refuse(v, i, x, F("writes %s, which is a view", p->name));
    if (state[x] != UNWRITTEN) return mth__refuse(v, i, x, F("writes %s a second time", p->name));
    state[x] = mth__is_started(&v->r->instr.at[i]) ? UNDER_WAY : WRITTEN;
    return NULL;
}

/* Where the number of the open instruction is kept for which this one, its opener or its WAIT, stands. */
static int *opener_of(const mth__verification *v, const mth__instr *k) {
    if (k->channel >= 0) return &v->opened_by[k->channel];
    return &v->begun[k->kind == MTH__WAIT ? k->awaited : k->out[0]];
}

static bool is_opener(const mth__instr *k) { return k->kind == MTH__SEND || mth__is_started(k); }

static mth_status check_wait(mth__verification *v, int i, uint8_t *state) {
    const mth__role *r = v->r;
    const mth__instr *k = &r->instr.at[i];
    int *by = opener_of(v, k);
    if (*by < 0 || (k->channel >= 0 && v->opened_role[k->channel] != v->role))
        return mth__refuse(
            v, i, k->awaited, F("waits for what was not started or sent here, or is waited for already"));
    if (k->nin || k->nout || k->scratch >= 0) return mth__refuse(v, i, -1, F("a WAIT has no operand and no result"));
    for (int j = 0; j < r->instr.at[*by].nout; j++) state[r->instr.at[*by].out[j]] = WRITTEN;
    v->released[*by] = i;
    *by = -1;
    return NULL;
}

mth_status mth__verify_order(mth__verification *v) {
    const mth__role *r = v->r;
    uint8_t *state = NEW_ARRAY(v->arena, uint8_t, r->value.n);
    int open = 0;
    v->begun = NEW_ARRAY(v->arena, int, r->value.n);
    memset(v->begun, -1, r->value.n * sizeof *v->begun);
    for (size_t x = 0; x < r->value.n; x++) state[x] = r->value.at[x].storage == MTH__IN_ENTRY ? WRITTEN : UNWRITTEN;
    v->released = NEW_ARRAY(v->arena, int, r->instr.n);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        TRY(mth__stop_check());
        TRY(check_instruction(v, i));
        TRY(check_reads(v, i, state));
        for (int j = 0; j < k->nout; j++) TRY(check_write(v, i, k->out[j], state));
        if (k->scratch >= 0) {
            const mth__storage storage = r->value.at[k->scratch].storage;
            if ((storage != MTH__IN_SLAB && storage != MTH__IN_LENT && storage != MTH__IN_OWN) ||
                mth__space_of(r, k->scratch) != MTH__DEVICE)
                return mth__refuse(v, i, k->scratch, F("its scratch is not in the slab"));
            TRY(check_write(v, i, k->scratch, state));
            state[k->scratch] = UNDER_WAY; /* for ever: nobody reads it */
        }
        v->released[i] = i;
        if (is_opener(k)) {
            if (k->channel >= 0 && v->opened_role[k->channel] == v->role)
                return mth__refuse(v, i, -1, F("a channel is started or sent on twice"));
            if (k->channel >= 0) v->opened_role[k->channel] = v->role;
            if (k->channel < 0 && !k->nout)
                return mth__refuse(v, i, -1, F("is started, and no WAIT can name a result"));
            *opener_of(v, k) = i;
            open++;
        } else if (k->kind == MTH__WAIT) {
            TRY(check_wait(v, i, state));
            open--;
        }
        if (mth__has_channel(k)) TRY(mth__verify_part(v, i));
        if (k->kind == MTH__COMPUTE) TRY(v->global ? mth__verify_layouts(v, i) : mth__verify_row(v, i));
    }
    for (int i = 0; i < (int)r->instr.n && open; i++) {
        const mth__instr *k = &r->instr.at[i];
        if (is_opener(k) && *opener_of(v, k) == i)
            return mth__refuse(v, i, k->nin ? k->in[0] : k->out[0], F("nothing waits for it"));
    }
    return NULL;
}
