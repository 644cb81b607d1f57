/* A program becomes streams of tasks. First pass: how many tasks each instruction has, so that a device can say "when
 * your third task is done" of one whose tasks are not made yet. Second pass: the tasks, with addresses and waits. */
#include "engine/native/native.h"
#include <stdio.h>
#include <string.h>

enum { MOST_STEPS = 1 << 21 }; /* of all ranks of a template; loaded, each has some hundred bytes */

/* ---- what a device holds */
static int indices(const mth__program *p, mth__storage storage) {
    int n = 0;
    for (size_t r = 0; r < p->role.n; r++)
        for (size_t i = 0; i < p->role.at[r].value.n; i++) {
            const mth__program_value *v = &p->role.at[r].value.at[i];
            if (v->storage == storage && v->index >= n) n = v->index + 1;
        }
    return n;
}

/* The entries and exits that a device holds: several values may lie in one. */
static void list_held(mth__loader *l) {
    const mth__role *role = l->role;
    size_t before[2] = {l->entry.held.n, l->exit.held.n};
    for (size_t i = 0; i < role->value.n; i++) {
        const mth__program_value *v = &role->value.at[i];
        if (v->storage != MTH__IN_ENTRY && v->storage != MTH__IN_EXIT) continue;
        mth__moving *m = v->storage == MTH__IN_ENTRY ? &l->entry : &l->exit;
        size_t *at = &m->at[v->index];
        if (*at <= before[v->storage == MTH__IN_EXIT]) {
            const mth__exit *exit = v->storage == MTH__IN_EXIT ? &l->program->exit.at[v->index] : NULL;
            const int entry = exit && exit->kind == MTH__EXIT_SUCCESSOR ? exit->entry : -1;
            PUSH(l->arena, m->held,
                ((mth__external){mth__load_external(l, v->storage, v->index, l->device), 0,
                    entry < 0 ? -1 : mth__load_external(l, MTH__IN_ENTRY, entry, l->device),
                    entry < 0 ? v->index : entry, l->device}));
            *at = m->held.n;
        }
        mth__external *held = &m->held.at[*at - 1];
        if (held->bytes < v->bytes) held->bytes = v->bytes;
    }
}

/* ---- who takes part in channels */
static int places(const mth__channel *c) { return c->to.on->count + (c->from.on == c->to.on ? 0 : c->from.on->count); }
static void make_parts(mth__loader *l) {
    l->channel = NEW_ARRAY(l->arena, mth__parts, l->program->channel.n);
    for (size_t i = 0; i < l->program->channel.n; i++) {
        const int n = places(&l->program->channel.at[i]);
        mth__parts *p = &l->channel[i];
        p->receive = NEW_ARRAY(l->arena, mth__part, n);
        p->send = NEW_ARRAY(l->arena, mth__part, n);
        for (int k = 0; k < n; k++) p->receive[k].instr = p->send[k].instr = -1;
    }
}

/* ---- instructions */
/* A view that is a value of its own: no instruction runs. */
static bool is_nothing(const mth__loader *l, int device, const mth__instr *i) {
    return i->kind == MTH__COMPUTE && (i->op->flags & MTH__ALIAS) && mth__load_same(l, device, i->in[0], i->out[0]);
}

static void set_operand(mth__loader *l, int value, mth__operand *o) {
    const mth__program_value *v = &l->role->value.at[value];
    o->dtype = v->dtype;
    o->shape = v->local;
    o->global = v->shape;
    mth__local_shape(v->shape, &v->sharding, v->sharding.on->rank_of[l->device], o->start, o->step);
    mth__load_bind(l, l->device, value, 0, &o->data);
}

static mth_status compute(mth__loader *l, int at) {
    const mth__instr *i = &l->role->instr.at[at];
    const mth__kernel *kernel = &mth__kernels[mth__op_index(i->op)];
    if (!kernel->run)
        return mth__error_operator(
            FAIL(MTH_ERROR_UNSUPPORTED, F("the native engine can't run %s: %s", i->op->name, kernel->reason),
                F("use the reference engine")),
            i->label.module);
    mth__call *c = NEW(l->arena, mth__call);
    *c = (mth__call){.op = i->op,
        .attrs = i->attrs,
        .accumulates = i->accumulates,
        .nin = mth__row_operands(i->op, i->nin, i->accumulates),
        .nout = i->nout,
        .threads = l->x->engine->threads,
        .peers = l->role->ndevice};
    c->in = NEW_ARRAY(l->arena, mth__operand, c->nin);
    c->out = NEW_ARRAY(l->arena, mth__operand, c->nout);
    for (int k = 0; k < c->nin; k++) set_operand(l, i->in[k], &c->in[k]);
    for (int k = 0; k < i->nout; k++) set_operand(l, i->out[k], &c->out[k]);
    mth_status s = kernel->prepare(l->arena, c);
    if (s) return mth__error_source(mth__error_operator(s, i->label.module), i->label.source);
    mth__task *t = mth__load_task(l, 0, MTH__TASK_CALL, at);
    t->work.call = c;
    t->run = kernel->run;
    t->phases = c->phases;
    memcpy(t->chunks, c->chunks, sizeof t->chunks);
    for (int p = 0; p < t->phases; p++)
        if (t->chunks[p] >= MTH__CHUNKS_MOST)
            return mth__error_operator(INTERNAL("%s has %d chunks", i->op->name, t->chunks[p]), i->label.module);
    if (l->x->thread_scratch < c->thread_scratch) l->x->thread_scratch = c->thread_scratch;
    size_t *shared = &l->x->shared_scratch[mth__load_stream(l, l->device, 0)];
    if (*shared < c->call_scratch) *shared = c->call_scratch;
    return NULL;
}

/* What a WAIT waits for: what its own device has started; the receivers of its own SEND. */
static mth_status wait_for(mth__loader *l, int at) {
    int channel = l->role->instr.at[at].channel, awaited = l->role->instr.at[at].awaited;
    if (channel < 0) {
        mth__load_wait(l, 0, mth__load_stream(l, l->device, 2), l->copied[awaited]);
        mth__load_task(l, 0, MTH__TASK_SYNC, at);
        return NULL;
    }
    const mth__part *mine = mth__load_receive(l, channel, l->device);
    if (mine->instr >= 0 && mth__is_started(&l->role->instr.at[mine->instr]))
        mth__load_wait(l, 0, mine->stream, mine->end);
    if (mth__load_send(l, channel, l->device)->instr >= 0) {
        const int32_t *reader;
        int readers;
        TRY(mth__load_readers(l, channel, l->device, &reader, &readers));
        for (int k = 0; k < readers; k++) {
            const mth__part *theirs = mth__load_receive(l, channel, reader[k]);
            if (reader[k] != l->device) mth__load_wait(l, 0, theirs->stream, theirs->end);
        }
    }
    mth__load_task(l, 0, MTH__TASK_SYNC, at);
    return NULL;
}

/* ---- the passes */
static mth_status count_tasks(mth__loader *l, int device) {
    TRY(mth__stop_check());
    const mth__role *role = mth__load_role(l, device);
    int count[MTH__STREAMS] = {0};
    for (size_t k = 0; role && k < role->instr.n; k++) {
        const mth__instr *i = &role->instr.at[k];
        if (i->kind == MTH__COMPUTE) {
            count[0] += !is_nothing(l, device, i);
            continue;
        }
        if (i->kind == MTH__WAIT || i->kind == MTH__COPY) {
            count[i->stream]++;
            continue;
        }
        const int on = i->stream;
        const mth__channel *c = &l->program->channel.at[i->channel];
        if (c->to.on->rank_of[device] < 0 && c->from.on->rank_of[device] < 0)
            return INTERNAL("device %d takes part in channel %d, which is of others", device, i->channel);
        mth__part *part = (i->kind == MTH__SEND ? mth__load_send : mth__load_receive)(l, i->channel, device);
        if (part->instr >= 0) return INTERNAL("device %d takes part in channel %d twice", device, i->channel);
        count[on] += on != 0; /* the arrival */
        *part = (mth__part){
            .instr = (int32_t)k, .stream = mth__load_stream(l, device, on), .first = count[on], .end = count[on]};
        if (i->kind != MTH__SEND) part->end = count[on] += mth__communicate_count(c, i);
    }
    for (int on = 0; on < l->x->each; on++) {
        mth__stream *s = &l->x->stream[mth__load_stream(l, device, on)];
        s->device = device;
        s->tasks = count[on];
        s->task = NEW_ARRAY(l->arena, mth__task, count[on]);
    }
    return NULL;
}

static mth_status fill(mth__loader *l, int device) {
    TRY(mth__stop_check());
    l->device = device;
    l->role = mth__load_role(l, device);
    if (!l->role) return NULL;
    for (int on = 0; on < MTH__STREAMS; on++) {
        l->tasks[on] = 0;
        l->pending[on].n = 0;
    }
    if (l->x->each > 2) l->copied = NEW_ARRAY(l->arena, int, l->role->value.n);
    list_held(l);
    for (size_t k = 0; k < l->role->instr.n; k++) {
        const mth__instr *i = &l->role->instr.at[k];
        int at = (int)k;
        if (k % MTH__STOP_EVERY == 0) TRY(mth__stop_check());
        /* what is started begins when all before it is done */
        if (mth__is_started(i)) mth__load_wait(l, i->stream, mth__load_stream(l, device, 0), l->tasks[0]);
        switch (i->kind) {
        case MTH__COMPUTE:
            if (!is_nothing(l, device, i)) TRY(compute(l, at));
            break;
        case MTH__WAIT: TRY(wait_for(l, at)); break;
        case MTH__SEND: break; /* posted when what stands before it is done */
        case MTH__COPY: mth__load_copy(l, at); break;
        default:
            if (mth__is_started(i)) mth__load_task(l, i->stream, MTH__TASK_SYNC, at); /* the arrival */
            TRY(mth__communicate(l, at));
        }
    }
    for (int on = 0; on < l->x->each; on++) {
        const int counted = l->x->stream[mth__load_stream(l, device, on)].tasks;
        if (l->tasks[on] != counted)
            return INTERNAL("device %d has %d tasks, counted %d", device, l->tasks[on], counted);
    }
    return NULL;
}

/* Turns waits around: which streams to look at when a task is done. */
static void link_dependents(mth__loader *l) {
    mth__executable *x = l->x;
    for (int pass = 0; pass < 2; pass++)
        for (int s = 0; s < x->streams; s++)
            for (int k = 0; k < x->stream[s].tasks; k++)
                for (int w = 0; w < x->stream[s].task[k].waits; w++) {
                    mth__stream_wait wait = x->stream[s].task[k].wait[w];
                    mth__task *t = &x->stream[wait.stream].task[wait.count - 1];
                    if (pass) {
                        if (!t->dependent) {
                            t->dependent = NEW_ARRAY(l->arena, int32_t, t->dependents);
                            t->dependents = 0;
                        }
                        t->dependent[t->dependents] = s;
                    }
                    t->dependents++;
                }
}

/* A task for each round of each rank, and a move for each step. */
static mth_status check_steps(const mth__channel *c) {
    mth__template t = mth__template_get(c->kind, c->algorithm, mth__channel_size(c));
    if (t.n == 1 || mth__template_size(&t) <= MOST_STEPS) return NULL;
    char operator[128];
    snprintf(operator, sizeof operator, "%.*s", (int)strcspn(c->label, ":"), c->label);
    return mth__error_operator(
        FAIL(MTH_ERROR_UNSUPPORTED,
            F("%s %s over %d devices has more than %d steps, which the native engine would keep",
                mth__channel_names[c->kind], mth__algorithm_names[c->algorithm], t.n, MOST_STEPS),
            F("leave %s out of collective_ops: direct takes any number of devices", mth__channel_names[c->kind])),
        operator);
}

/* What is the engine's own lies behind the slab of its space, one behind the other; a result that is added to a sum, on
 * it. */
static void place_own(mth__loader *l) {
    const mth__program *p = l->program;
    l->x->memory = mth__alloc_array(l->arena, p->role.n, sizeof *l->x->memory);
    l->own = NEW_ARRAY(l->arena, int64_t *, p->role.n);
    for (size_t r = 0; r < p->role.n; r++) {
        const mth__role *role = &p->role.at[r];
        int64_t *end = l->x->memory[r], *at = NULL;
        memcpy(end, role->slab, sizeof role->slab);
        for (size_t v = 0; v < role->value.n; v++) {
            const mth__program_value *value = &role->value.at[v];
            if (value->storage != MTH__IN_OWN) continue;
            if (!at) at = l->own[r] = NEW_ARRAY(l->arena, int64_t, role->value.n);
            at[v] = (end[value->space] + 63) / 64 * 64;
            end[value->space] = mth__size_sum(at[v], value->bytes);
        }
        for (size_t i = 0; at && i < role->instr.n; i++) {
            const mth__instr *k = &role->instr.at[i];
            for (int j = 0; k->accumulates && j < k->nout; j++) {
                const int sum = mth__accumulator(k->op, k->nin, j);
                if (sum >= 0 && role->value.at[k->out[j]].storage == MTH__IN_OWN) at[k->out[j]] = at[k->in[sum]];
            }
        }
    }
}

mth_status mth__load_streams(mth__loader *l) {
    for (size_t i = 0; i < l->program->channel.n; i++)
        if (l->program->channel.at[i].algorithm != MTH__DIRECT) TRY(check_steps(&l->program->channel.at[i]));
    make_parts(l);
    place_own(l);
    const mth__offsets offset = mth__buffer_offsets(l->arena, l->program);
    l->entry.offset = offset.entry;
    l->exit.offset = offset.exit;
    l->entry.at = NEW_ARRAY(l->arena, size_t, indices(l->program, MTH__IN_ENTRY));
    l->exit.at = NEW_ARRAY(l->arena, size_t, indices(l->program, MTH__IN_EXIT));
    for (int on = 0; on < l->x->each; on++) l->seen[on] = NEW_ARRAY(l->arena, int64_t, l->x->streams);
    for (int d = 0; d < l->devices; d++) TRY(count_tasks(l, d));
    for (int d = 0; d < l->devices; d++) TRY(fill(l, d));
    link_dependents(l);
    return NULL;
}
