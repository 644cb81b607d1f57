/* A run: entries become doubles, the walk does the rest by the calls below, exits become bytes again. */
#include "engine/reference/reference_run.h"
#include <math.h>

static mth_status compute(void *context, int device, const mth__instr *in) {
    const mth__executable *x = context;
    mth__ref_device *d = x->by_id[device];
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

static mth_status copy(void *context, int device, const mth__instr *in) {
    const mth__executable *x = context;
    const mth__ref_value *value = x->by_id[device]->value, *from = &value[in->in[0]], *to = &value[in->out[0]];
    const int64_t elements = mth__shape_size(from->local);
    if (elements) memcpy(to->data, from->data, (size_t)elements * sizeof *to->data);
    return NULL;
}

/* Element by element. */
static void follow(const mth__executable *x, const mth__walk_move *move, bool reduce) {
    const mth__strided_copy *copy = move->copy;
    mth__ref_element *to = x->by_id[move->device]->value[move->to].data + copy->to;
    const mth__ref_element *from = x->by_id[move->peer]->value[move->from].data + copy->from;
    mth__shape box = {.rank = copy->rank};
    for (int d = 0; d < box.rank; d++) box.dim[d] = copy->size[d];
    FOR_EACH(at, box) {
        int64_t there = 0, here = 0;
        for (int d = 0; d < box.rank; d++) {
            here += at[d] * copy->to_stride[d];
            there += at[d] * copy->from_stride[d];
        }
        to[here] =
            reduce ? mth__ref_combine(move->channel->dtype, move->channel->reduce, to[here], from[there]) : from[there];
    }
}
static mth_status move_box(void *context, const mth__walk_move *move) {
    follow(context, move, false);
    return NULL;
}
static mth_status reduce_box(void *context, const mth__walk_move *move) {
    follow(context, move, true);
    return NULL;
}

/* ---------------------------------------------------------------- entries and exits */
static mth_status begin(mth__executable *x, mth__buffer *const *entry) {
    const mth__program *p = x->program;
    for (int i = 0; i < x->count; i++) {
        mth__ref_device *d = &x->device[i];
        /* what is read before it is written shows */
        for (int64_t j = 0; j < d->elements; j++) d->memory[j].real = NAN;
        for (size_t v = 0; v < d->role->value.n; v++) {
            const mth__program_value *value = &d->role->value.at[v];
            if (value->storage != MTH__IN_ENTRY || mth__shape_size(d->value[v].local) == 0 || !d->value[v].here)
                continue;
            const int rank = p->entry.at[value->index].sharding.on->rank_of[d->device];
            mth__buffer *b = rank < 0 ? NULL : entry[x->offset.entry[value->index] + rank];
            if (!b) return INTERNAL("%s: device %d has no buffer", value->name, d->device);
            mth__ref_widen(&d->value[v], b->data);
        }
    }
    return NULL;
}

static mth_status leave(
    mth__executable *x, size_t e, mth__ref_device *d, mth__buffer *const *entry, mth__buffer **made) {
    const mth__exit *exit = &x->program->exit.at[e];
    int rank = exit->sharding.on->rank_of[d->device];
    if (rank < 0) return NULL;
    mth__buffer **out = &made[x->offset.exit[e] + rank];
    mth__shape local = mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL);
    if (d->leaves[e] < 0 && mth__shape_size(local) > 0)
        return INTERNAL("%s: device %d never writes it", exit->name, d->device);
    if (exit->kind == MTH__EXIT_SUCCESSOR) {
        *out = entry[x->offset.entry[exit->entry] + x->program->entry.at[exit->entry].sharding.on->rank_of[d->device]];
        mth__ref_buffer_retain(*out);
    } else {
        TRY(mth__ref_buffer_new(
            x->engine, d->device, mth__shape_size(local) * (int64_t)mth_dtype_size(exit->dtype), out));
    }
    if (d->leaves[e] >= 0) mth__ref_narrow(&d->value[d->leaves[e]], (*out)->data);
    return NULL;
}

static const mth__walk_calls calls = {.compute = compute, .copy = copy, .move = move_box, .reduce = reduce_box};

mth_status mth__ref_run(
    mth__executable *x, mth__buffer *const *entry, mth__buffer **exit, const mth__control *control) {
    const size_t exits = x->program->exit.n, results = (size_t)x->offset.exit[exits];
    mth__buffer **made = mth__calloc(results + 1, sizeof *made);
    if (!made) return mth__lacks_memory("a run of the reference engine", 0);
    mth_status s = mth__lock_run(&x->lock, mth__control_stop(control));
    if (!s) {
        s = begin(x, entry);
        if (!s) s = mth__walk_run(x->walk, &calls, x, x->engine->threads, control);
        for (size_t e = 0; e < exits && !s; e++)
            for (int i = 0; i < x->count && !s; i++) s = leave(x, e, &x->device[i], entry, made);
        pthread_mutex_unlock(&x->lock);
    }
    for (size_t i = 0; i < results; i++) {
        if (s)
            mth__ref_buffer_release(made[i]);
        else
            exit[i] = made[i];
    }
    mth__free(made);
    return s;
}
