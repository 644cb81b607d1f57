/* Hops: values from device to device, by copies that the host starts and nobody waits for. Where a device wants another
 * box than a whole part, a small module cuts it out on the owner, and another one joins the pieces where they arrive.
 */
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

/* ---------------------------------------------------------------- cut and join */
typedef struct {
    int64_t start[MTH__RANK], step[MTH__RANK];
    mth__shape size;
} box; /* in local indices */

static box local_box(const mth__piece *p, const mth__hlo_part *part) {
    box b = {.size = {part->shape.rank, {0}}};
    for (int d = 0; d < part->shape.rank; d++) {
        b.size.dim[d] = p->size[d];
        b.step[d] = p->size[d] > 1 ? p->step[d] / part->step[0][d] : 1;
        b.start[d] = (p->start[d] - part->start[0][d]) / part->step[0][d];
    }
    return b;
}

static bool is_all(const box *b, mth__shape shape) {
    for (int d = 0; d < shape.rank; d++)
        if (b->start[d] || b->step[d] != 1 || b->size.dim[d] != shape.dim[d]) return false;
    return true;
}

static const char *numbers(mth__arena *arena, int n, const int64_t *at, int64_t less) {
    mth__text t = mth__text_new(arena);
    mth__text_add(&t, "[");
    for (int d = 0; d < n; d++) mth__text_add(&t, "%s%lld", d ? ", " : "", (long long)(at[d] - less));
    mth__text_add(&t, "]");
    return t.at;
}

static mth__hlo_val cut_box(mth__hlo *h, mth__hlo_val x, const box *b) {
    mth__text t = mth__text_new(h->arena);
    for (int d = 0; d < x.shape.rank; d++)
        mth__text_add(&t, "%s%lld:%lld:%lld", d ? ", " : "", (long long)b->start[d],
            (long long)(b->start[d] + (b->size.dim[d] - 1) * b->step[d] + 1), (long long)b->step[d]);
    return mth__hlo_line(h, x.dtype, b->size, "stablehlo.slice %s [%s] : (%s) -> %s", mth__hlo_name(h->arena, x),
        t.n ? t.at : "", mth__hlo_type(h->arena, x.dtype, x.shape), mth__hlo_type(h->arena, x.dtype, b->size));
}

/* x laid where the box is in a tensor of `value`. */
static mth__hlo_val lay(mth__hlo *h, mth__hlo_val x, mth__shape to, const box *b, double value) {
    int64_t high[MTH__RANK] = {0};
    for (int d = 0; d < to.rank; d++) high[d] = to.dim[d] - b->start[d] - ((b->size.dim[d] - 1) * b->step[d] + 1);
    mth__hlo_val filler = mth__hlo_splat(h, x.dtype, (mth__shape){0}, value);
    return mth__hlo_line(h, x.dtype, to, "stablehlo.pad %s, %s, low = %s, high = %s, interior = %s : (%s, %s) -> %s",
        mth__hlo_name(h->arena, x), mth__hlo_name(h->arena, filler), numbers(h->arena, to.rank, b->start, 0),
        numbers(h->arena, to.rank, high, 0), numbers(h->arena, to.rank, b->step, 1),
        mth__hlo_type(h->arena, x.dtype, x.shape), mth__hlo_type(h->arena, x.dtype, (mth__shape){0}),
        mth__hlo_type(h->arena, x.dtype, to));
}

static mth__hlo_val join_box(mth__hlo *h, mth__hlo_val whole, mth__hlo_val x, const box *b) {
    bool together = true;
    for (int d = 0; d < x.shape.rank; d++) together &= b->step[d] == 1;
    if (together) {
        mth__hlo_val start[MTH__RANK];
        for (int d = 0; d < x.shape.rank; d++) start[d] = mth__hlo_scalar_i32(h, b->start[d]);
        return mth__hlo_dynamic_update(h, whole, x, start);
    }
    mth__hlo_val here = lay(h, mth__hlo_splat(h, MTH_BOOL, x.shape, 1), whole.shape, b, 0);
    return mth__hlo_select(h, here, lay(h, x, whole.shape, b, 0), whole);
}

static mth__module *finish(mth__executable *x, mth__hlo *h, int args, const mth__hlo_val *arg, mth__hlo_val result) {
    mth__text t = mth__text_new(h->arena);
    mth__text_add(&t,
        "module @hop attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {\n  func.func public "
        "@main(");
    for (int i = 0; i < args; i++)
        mth__text_add(&t, "%s%%arg%d: %s", i ? ", " : "", i, mth__hlo_type(h->arena, arg[i].dtype, arg[i].shape));
    const char *type = mth__hlo_type(h->arena, result.dtype, result.shape);
    mth__text_add(&t, ") -> %s {\n%s    return %s : %s\n  }\n}\n", type, h->body.n ? h->body.at : "",
        mth__hlo_name(h->arena, result), type);
    mth__module_text text = {.text = mth__copy_text(x->arena, t.at), .bytes = t.n};
    return mth__module_add(x, &text, &(mth__xla_options){.partitions = 1, .replicas = 1});
}

/* base: the shape of the buffer; from: that of the value, which may be a view of it. */
static mth__module *cut_module(mth__executable *x, mth_dtype dtype, mth__shape base, mth__shape from, const box *b) {
    mth__arena *scratch = mth__arena_new();
    mth__hlo h = {.arena = scratch, .body = mth__text_new(scratch), .partitions = 1};
    mth__hlo_val arg = {-1, dtype, base}, whole = mth__hlo_reshape(&h, arg, from);
    mth__module *m = finish(x, &h, 1, &arg, is_all(b, from) ? whole : cut_box(&h, whole, b));
    mth__arena_free(scratch);
    return m;
}

static mth__module *join_module(mth__executable *x, mth_dtype dtype, mth__shape to, int n, const box *b) {
    mth__arena *scratch = mth__arena_new();
    mth__hlo h = {.arena = scratch, .body = mth__text_new(scratch), .partitions = 1};
    mth__hlo_val *arg = NEW_ARRAY(scratch, mth__hlo_val, n + 1), whole = mth__hlo_splat(&h, dtype, to, 0);
    for (int i = 0; i < n; i++) {
        arg[i] = (mth__hlo_val){-1 - i, dtype, b[i].size};
        whole = join_box(&h, whole, arg[i], &b[i]);
    }
    mth__module *m = finish(x, &h, n, arg, whole);
    mth__arena_free(scratch);
    return m;
}

/* ---------------------------------------------------------------- plans */
static void plan_target(mth__executable *x, mth__job *job, mth__hop_target *t) {
    const mth__channel *c = job->hop.channel;
    mth__arena *scratch = mth__arena_new();
    const mth__slot *source = &x->segments->slot.at[job->hop.from];
    mth__shape from = source->local, base = x->segments->slot.at[source->view_of].local,
               to = x->segments->slot.at[job->hop.to].local;
    mth__piece *piece;
    t->pieces = mth__transfer_pieces(scratch, c, t->device, &piece);
    t->piece = NEW_ARRAY(x->arena, mth__hop_piece, t->pieces);
    box *there = NEW_ARRAY(scratch, box, t->pieces + 1);
    const int32_t self = t->device;
    const mth__hlo_part *mine = mth__part_of(scratch, c->dtype, c->shape, &c->to, 1, &self);
    /* one whole part in a buffer of the same shape: what is padding there may be padding here */
    bool as_it_is = false, own = false;
    const bool leaves = x->segments->slot.at[source->view_of].last_read == MTH__AT_EXIT ||
        x->segments->slot.at[job->hop.to].last_read == MTH__AT_EXIT;
    for (int i = 0; i < t->pieces; i++) {
        const int32_t owner = piece[i].from_device;
        const mth__hlo_part *part = mth__part_of(scratch, c->dtype, c->shape, &c->from, 1, &owner);
        box b = local_box(&piece[i], part);
        there[i] = local_box(&piece[i], mine);
        mth__shape real = {c->shape.rank, {0}};
        memcpy(real.dim, mine->size[0], sizeof real.dim);
        own = t->pieces == 1 && owner == t->device && leaves; /* what leaves has a buffer of its own */
        as_it_is =
            !own && t->pieces == 1 && mth__shape_equal(base, to) && is_all(&there[0], real) && is_all(&b, b.size);
        t->piece[i].from_device = owner;
        if (!as_it_is && !(is_all(&b, from) && mth__shape_equal(base, from)))
            t->piece[i].cut = cut_module(x, c->dtype, base, from, &b);
    }
    if (own || (!as_it_is && !(t->pieces == 1 && is_all(&there[0], to))))
        t->join = join_module(x, c->dtype, to, t->pieces, there);
    if (t->pieces > x->most_pieces) x->most_pieces = t->pieces;
    mth__arena_free(scratch);
}

void mth__hop_plan(mth__executable *x, mth__job *job) {
    const mth__placement *to = job->hop.channel->to.on;
    job->target = NEW_ARRAY(x->arena, mth__hop_target, to->count);
    job->targets = to->count;
    for (int i = 0; i < to->count; i++) {
        job->target[i].device = to->device[i];
        plan_target(x, job, &job->target[i]);
    }
}

/* ---------------------------------------------------------------- runs */
static mth_status call_one(mth__executable *x, const mth__module *m, int device, PJRT_Buffer *const *args, size_t count,
    PJRT_Buffer **result, PJRT_Event **done) {
    MTH__ARGS(PJRT_LoadedExecutable_Execute, call);
    PJRT_ExecuteOptions options = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    call.executable = m->xla->loaded;
    call.options = &options;
    call.argument_lists = &args;
    call.num_devices = 1;
    call.num_args = count;
    call.output_lists = &result;
    call.execute_device = x->engine->device[device];
    call.device_complete_events = done;
    mth_status s = mth__pjrt_status(x->engine->plugin, x->engine->plugin->api->PJRT_LoadedExecutable_Execute(&call),
        "move a value between devices");
    if (s)
        *done = NULL;
    else
        x->flying[device]++;
    return s;
}

static mth_status copy_to(mth__engine *e, PJRT_Buffer *from, int device, PJRT_Buffer **out) {
    MTH__ARGS(PJRT_Buffer_CopyToDevice, copy);
    copy.buffer = from;
    copy.dst_device = e->device[device];
    TRY(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Buffer_CopyToDevice(&copy), "move a value between devices"));
    *out = copy.dst_buffer;
    return NULL;
}

/* The piece on the device that wants it; *lent: it is the owner's own buffer. */
static mth_status bring(
    mth__executable *x, const mth__job *job, mth__hop_target *t, int i, PJRT_Buffer **out, bool *lent) {
    mth__hop_piece *p = &t->piece[i];
    const int slot = x->segments->slot.at[job->hop.from].view_of;
    PJRT_Buffer *source = x->at[slot * x->program->mesh->count + p->from_device]->buffer, *cut = NULL;
    *lent = false;
    if (p->cut) TRY(call_one(x, p->cut, p->from_device, &source, 1, &cut, &p->done));
    if (p->from_device == t->device) {
        *lent = !cut;
        *out = cut ? cut : source;
        return NULL;
    }
    mth_status s = copy_to(x->engine, cut ? cut : source, t->device, out);
    mth_status lost = cut ? mth__buffer_destroy(x->engine, cut) : NULL;
    mth_error_free(lost);
    return s;
}

static mth_status receive(mth__executable *x, const mth__job *job, mth__hop_target *t) {
    mth_status s = NULL;
    bool lent[64], *of = t->pieces <= 64 ? lent : mth__calloc((size_t)t->pieces, sizeof *of);
    if (!of) return mth__lacks_memory("a transfer", 0);
    int n = 0;
    PJRT_Buffer *made = NULL;
    for (; !s && n < t->pieces; n += !s) s = bring(x, job, t, n, &x->pieces[n], &of[n]);
    if (!s && t->join) {
        s = call_one(x, t->join, t->device, x->pieces, (size_t)t->pieces, &made, &t->done);
        if (!s) mth__cell_put(x, job->hop.to, t->device, made, false);
    } else if (!s && of[0])
        mth__cell_share(x, x->segments->slot.at[job->hop.from].view_of, job->hop.to, t->device);
    else if (!s)
        mth__cell_put(x, job->hop.to, t->device, x->pieces[0], false);
    for (int i = 0; i < n; i++)
        if (!of[i] && (t->join || s)) mth_error_free(mth__buffer_destroy(x->engine, x->pieces[i]));
    if (of != lent) mth__free(of);
    return s;
}

mth_status mth__hop_run(mth__executable *x, mth__job *job) {
    for (int i = 0; i < job->targets; i++) TRY(receive(x, job, &job->target[i]));
    return NULL;
}

static mth_status finish_one(mth__executable *x, int device, PJRT_Event **event, mth_status s) {
    if (!*event) return s;
    mth_status done = mth__pjrt_await(x->engine, *event, "move a value between devices");
    *event = NULL;
    x->flying[device]--;
    if (!s) return done;
    mth_error_free(done);
    return s;
}

mth_status mth__hop_finish(mth__executable *x, mth__job *job, mth_status s) {
    for (int i = 0; i < job->targets; i++) {
        mth__hop_target *t = &job->target[i];
        for (int k = 0; k < t->pieces; k++) s = finish_one(x, t->piece[k].from_device, &t->piece[k].done, s);
        s = finish_one(x, t->device, &t->done, s);
    }
    return s;
}
