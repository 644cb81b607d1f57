/* A run: every device walks its role's instructions in turn, as far as it gets; a channel is done when all who take
 * part have come. */
#include "engine/reference/reference_run.h"
#include <math.h>

mth__ref_seat *mth__ref_seat_of(const mth__executable *x, int channel, int device) {
    return &x->seat[(size_t)channel * (size_t)x->program->mesh->count + (size_t)device];
}

/* Writes of an exit's values: the last is what leaves. */
static void wrote(mth__ref_device *d, const mth__instr *in) {
    for (int i = 0; i < in->nout; i++) {
        int v = in->out[i];
        if (d->role->value.at[v].storage == MTH__IN_ALIAS) v = d->role->value.at[v].index;
        if (d->role->value.at[v].storage == MTH__IN_EXIT) d->leaves[d->role->value.at[v].index] = v;
    }
}

static mth_status compute(mth__ref_device *d, const mth__instr *in) {
    mth__ref_call c = {.op = in->op, .attrs = in->attrs, .nout = in->nout};
    c.nin = mth__row_operands(in->op, in->nin, in->accumulates);
    for (int i = 0; i < c.nin; i++) c.in[i] = &d->value[in->in[i]];
    for (int i = 0; i < c.nout; i++) c.out[i] = &d->value[in->out[i]];
    mth__ref_row *row = mth__ref_rows[mth__op_index(in->op)];
    if (!row) return INTERNAL("%s is no computation", in->op->name);
    mth_status s = row(&c);
    if (s) return mth__error_source(mth__error_operator(s, in->label.module), in->label.source);
    for (int k = 0; in->accumulates && k < in->nout; k++) {
        int sum = mth__accumulator(in->op, in->nin, k);
        for (int64_t j = 0, n = sum < 0 ? 0 : mth__shape_size(c.out[k]->local); j < n; j++)
            /* floating, as the row's check says */
            c.out[k]->data[j].real += d->value[in->in[sum]].data[j].real;
    }
    return NULL;
}

/* The copy between spaces that brings this value, which stands before the instruction at hand. */
static const mth__instr *starter_of(const mth__ref_device *d, int value) {
    size_t i = d->at;
    while (d->role->instr.at[i].kind != MTH__COPY || d->role->instr.at[i].out[0] != value) i--;
    return &d->role->instr.at[i];
}

static void copy(mth__ref_device *d, const mth__instr *in) {
    const mth__ref_value *from = &d->value[in->in[0]], *to = &d->value[in->out[0]];
    const int64_t elements = mth__shape_size(from->local);
    if (elements) memcpy(to->data, from->data, (size_t)elements * sizeof *to->data);
}

/* ---------------------------------------------------------------- channels */
/* Devices of a collective form a group where they differ only along its axes; all others are one group. */
static int group_of(const mth__channel *c, int device) {
    if (c->kind == MTH__TRANSFER || c->kind == MTH__BROADCAST) return 0;
    int coordinate[MTH__AXES], group = 0;
    mth__placement_coordinates(c->from.on, c->from.on->rank_of[device], coordinate);
    for (int a = 0; a < c->from.on->naxes; a++)
        if (!(c->axes >> a & 1)) group = group * c->from.on->dim[a] + coordinate[a];
    return group;
}

/* Does the communication of the device's group once all of it has come. */
static mth_status collect_group(mth__executable *x, int channel, int device) {
    const mth__channel *c = &x->program->channel.at[channel];
    int group = group_of(c, device), parts = 0, receivers = 0;
    for (int i = 0; i < x->count; i++) {
        const mth__ref_seat *s = mth__ref_seat_of(x, channel, x->device[i].device);
        if (s->takes_part && !s->arrived && group_of(c, x->device[i].device) == group) return NULL;
    }
    mth__ref_part *part = mth__calloc((size_t)x->count, sizeof *part);
    mth__ref_value **receiver = mth__calloc((size_t)x->count, sizeof *receiver);
    mth_status status = part && receiver ? NULL : mth__lacks_memory("a run of the reference engine", 0);
    for (int i = 0; i < x->count && !status; i++) {
        mth__ref_device *d = &x->device[i];
        mth__ref_seat *s = mth__ref_seat_of(x, channel, d->device);
        if (!s->takes_part || group_of(c, d->device) != group) continue;
        if (s->arrived->nin && d->value[s->arrived->in[0]].here)
            part[parts++] = (mth__ref_part){d->device, &d->value[s->arrived->in[0]]};
        if (s->arrived->nout && d->value[s->arrived->out[0]].here)
            receiver[receivers++] = &d->value[s->arrived->out[0]];
        s->done = true;
    }
    bool missing = false;
    if (!status)
        status = mth__ref_exchange(c, c->kind == MTH__ALL_REDUCE || c->kind == MTH__REDUCE_SCATTER, parts, part,
            receivers, receiver, &missing);
    if (!status && missing)
        status = INTERNAL("%s: nobody holds an element that device %d's group is to receive", c->label, device);
    mth__free(part);
    mth__free(receiver);
    return status;
}

/* Takes what has been sent, once that is all the device needs. */
static mth_status receive(mth__executable *x, mth__ref_device *to, int channel, mth__ref_seat *seat) {
    const mth__channel *c = &x->program->channel.at[channel];
    if (seat->tried == x->sent[channel] + 1) return NULL; /* nothing new */
    seat->tried = x->sent[channel] + 1;
    mth__ref_part *part = mth__calloc((size_t)x->count, sizeof *part);
    if (!part) return mth__lacks_memory("a run of the reference engine", 0);
    int parts = 0;
    for (int i = 0; i < x->count; i++) {
        mth__ref_device *d = &x->device[i];
        const mth__ref_seat *s = mth__ref_seat_of(x, channel, d->device);
        if (s->sent && d->value[s->sent->in[0]].here)
            part[parts++] = (mth__ref_part){d->device, &d->value[s->sent->in[0]]};
    }
    bool missing;
    mth_status status =
        mth__ref_exchange(c, false, parts, part, 1, (mth__ref_value *[]){&to->value[seat->arrived->out[0]]}, &missing);
    mth__free(part);
    if (!status) seat->done = !missing;
    return status;
}

static mth_status progress(mth__executable *x, mth__ref_device *d, int channel, mth__ref_seat *seat) {
    if (seat->done) return NULL;
    return x->senders[channel] ? receive(x, d, channel, seat) : collect_group(x, channel, d->device);
}

/* ---------------------------------------------------------------- devices */
/* Sets *moved where the device got past its instruction. */
static mth_status step(mth__executable *x, mth__ref_device *d, bool *moved) {
    const mth__instr *in = &d->role->instr.at[d->at];
    mth__ref_seat *seat = in->channel < 0 ? NULL : mth__ref_seat_of(x, in->channel, d->device);
    bool over = true;
    switch (in->kind) {
    case MTH__COMPUTE: TRY(compute(d, in)); break;
    case MTH__COPY:
        if (!mth__is_started(in)) copy(d, in);
        break;
    case MTH__SEND: /* the value stays as it is: who takes it reads it in place */
        seat->sent = in;
        x->sent[in->channel]++;
        break;
    case MTH__COLLECTIVE:
    case MTH__RECV:
        seat->arrived = in;
        if (mth__is_started(in)) break;
        TRY(progress(x, d, in->channel, seat));
        over = seat->done;
        break;
    case MTH__WAIT:
        if (!seat) {
            const mth__instr *by = starter_of(d, in->awaited);
            copy(d, by);
            wrote(d, by);
        } else if (seat->arrived && mth__is_started(seat->arrived)) {
            TRY(progress(x, d, in->channel, seat));
            over = seat->done;
            if (over) wrote(d, seat->arrived);
        }
        break;
    }
    if (over) {
        if (!mth__is_started(in)) wrote(d, in);
        d->at++;
    }
    *moved = over;
    return NULL;
}

static mth_status stuck(const mth__executable *x) {
    for (int i = 0; i < x->count; i++) {
        const mth__ref_device *d = &x->device[i];
        if (d->at < d->role->instr.n)
            return INTERNAL("device %d waits for ever at instruction %zu, %s", d->device, d->at,
                x->program->channel.at[d->role->instr.at[d->at].channel].label);
    }
    return INTERNAL("no device waits");
}

static mth_status walk(mth__executable *x, const mth__stop *stop) {
    for (bool any = true, unfinished = true; unfinished;) {
        if (!any) return stuck(x);
        any = unfinished = false;
        for (int i = 0; i < x->count; i++) {
            mth__ref_device *d = &x->device[i];
            for (bool moved = true; moved && d->at < d->role->instr.n;) {
                if (mth__stop_asked(stop)) return mth__interrupted();
                TRY(step(x, d, &moved));
                any |= moved;
            }
            unfinished |= d->at < d->role->instr.n;
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- entries and exits */
static mth_status begin(mth__executable *x, mth__buffer *const *entry) {
    const mth__program *p = x->program;
    memset(x->sent, 0, p->channel.n * sizeof *x->sent);
    for (size_t i = 0; i < p->channel.n * (size_t)p->mesh->count; i++)
        x->seat[i] = (mth__ref_seat){.takes_part = x->seat[i].takes_part};
    for (int i = 0; i < x->count; i++) {
        mth__ref_device *d = &x->device[i];
        d->at = 0;
        for (size_t e = 0; e < p->exit.n; e++) d->leaves[e] = -1;
        /* what is read before it is written shows */
        for (int64_t j = 0; j < d->elements; j++) d->memory[j].real = NAN;
        for (size_t v = 0; v < d->role->value.n; v++) {
            const mth__pvalue *value = &d->role->value.at[v];
            if (value->storage != MTH__IN_ENTRY || mth__shape_size(d->value[v].local) == 0 || !d->value[v].here)
                continue;
            mth__buffer *b = entry[(size_t)value->index * (size_t)p->mesh->count + (size_t)d->device];
            if (!b) return INTERNAL("%s: device %d has no buffer", value->name, d->device);
            mth__ref_widen(&d->value[v], b->data);
        }
    }
    return NULL;
}

static mth_status leave(
    mth__executable *x, size_t e, mth__ref_device *d, mth__buffer *const *entry, mth__buffer **out) {
    const mth__exit *exit = &x->program->exit.at[e];
    int rank = exit->sharding.on->rank_of[d->device];
    if (rank < 0) return NULL;
    mth__shape local = mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL);
    if (d->leaves[e] < 0 && mth__shape_size(local) > 0)
        return INTERNAL("%s: device %d never writes it", exit->name, d->device);
    if (exit->kind == MTH__EXIT_SUCCESSOR) {
        *out = entry[(size_t)exit->entry * (size_t)x->program->mesh->count + (size_t)d->device];
        mth__ref_buffer_retain(*out);
    } else {
        TRY(mth__ref_buffer_new(
            x->engine, d->device, mth__shape_size(local) * (int64_t)mth_dtype_size(exit->dtype), out));
    }
    if (d->leaves[e] >= 0) mth__ref_narrow(&d->value[d->leaves[e]], (*out)->data);
    return NULL;
}

mth_status mth__ref_run(mth__executable *x, mth__buffer *const *entry, mth__buffer **exit, const mth__stop *stop) {
    size_t exits = x->program->exit.n, devices = (size_t)x->program->mesh->count;
    mth__buffer **made = mth__calloc(exits * devices + 1, sizeof *made);
    if (!made) return mth__lacks_memory("a run of the reference engine", 0);
    mth_status s = mth__lock_run(&x->lock, stop);
    if (!s) {
        s = begin(x, entry);
        if (!s) s = walk(x, stop);
        for (size_t e = 0; e < exits && !s; e++)
            for (int i = 0; i < x->count && !s; i++)
                s = leave(x, e, &x->device[i], entry, &made[e * devices + (size_t)x->device[i].device]);
        pthread_mutex_unlock(&x->lock);
    }
    for (size_t i = 0; i < exits * devices; i++) {
        if (s)
            mth__ref_buffer_release(made[i]);
        else
            exit[i] = made[i];
    }
    mth__free(made);
    return s;
}
