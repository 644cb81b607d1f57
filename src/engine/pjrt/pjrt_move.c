/* Hops: values from device to device, by copies that the host starts and nobody waits for. Where a device wants another
 * box than a whole part, a small module cuts it out on the owner, and another one joins the pieces on the device. */
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

/* ---------------------------------------------------------------- cut and join */
typedef struct {
    int64_t start[MTH__RANK], step[MTH__RANK];
    mth__shape size;
} box; /* in local indices */

static box local_box(const mth__piece *piece, const mth__hlo_part *part) {
    box where = {.size = {part->shape.rank, {0}}};
    for (int d = 0; d < part->shape.rank; d++) {
        where.size.dim[d] = piece->size[d];
        where.step[d] = piece->size[d] > 1 ? piece->step[d] / part->step[0][d] : 1;
        where.start[d] = (piece->start[d] - part->start[0][d]) / part->step[0][d];
    }
    return where;
}

static bool is_all(const box *where, mth__shape shape) {
    for (int d = 0; d < shape.rank; d++)
        if (where->start[d] || where->step[d] != 1 || where->size.dim[d] != shape.dim[d]) return false;
    return true;
}

static const char *numbers(mth__arena *arena, int n, const int64_t *at, int64_t less) {
    mth__text text = mth__text_new(arena);
    mth__text_add(&text, "[");
    for (int d = 0; d < n; d++) mth__text_add(&text, "%s%lld", d ? ", " : "", (long long)(at[d] - less));
    mth__text_add(&text, "]");
    return text.at;
}

static mth__hlo_val cut_box(mth__hlo *hlo, mth__hlo_val x, const box *where) {
    mth__text text = mth__text_new(hlo->arena);
    for (int d = 0; d < x.shape.rank; d++)
        mth__text_add(&text, "%s%lld:%lld:%lld", d ? ", " : "", (long long)where->start[d],
            (long long)(where->start[d] + (where->size.dim[d] - 1) * where->step[d] + 1), (long long)where->step[d]);
    return mth__hlo_line(hlo, x.dtype, where->size, "stablehlo.slice %s [%s] : (%s) -> %s",
        mth__hlo_name(hlo->arena, x), text.n ? text.at : "", mth__hlo_type(hlo->arena, x.dtype, x.shape),
        mth__hlo_type(hlo->arena, x.dtype, where->size));
}

/* x laid where the box is in a tensor of `value`. */
static mth__hlo_val lay(mth__hlo *hlo, mth__hlo_val x, mth__shape to, const box *where, double value) {
    int64_t high[MTH__RANK] = {0};
    for (int d = 0; d < to.rank; d++)
        high[d] = to.dim[d] - where->start[d] - ((where->size.dim[d] - 1) * where->step[d] + 1);
    mth__hlo_val filler = mth__hlo_splat(hlo, x.dtype, (mth__shape){0}, value);
    return mth__hlo_line(hlo, x.dtype, to, "stablehlo.pad %s, %s, low = %s, high = %s, interior = %s : (%s, %s) -> %s",
        mth__hlo_name(hlo->arena, x), mth__hlo_name(hlo->arena, filler), numbers(hlo->arena, to.rank, where->start, 0),
        numbers(hlo->arena, to.rank, high, 0), numbers(hlo->arena, to.rank, where->step, 1),
        mth__hlo_type(hlo->arena, x.dtype, x.shape), mth__hlo_type(hlo->arena, x.dtype, (mth__shape){0}),
        mth__hlo_type(hlo->arena, x.dtype, to));
}

static mth__hlo_val join_box(mth__hlo *hlo, mth__hlo_val whole, mth__hlo_val x, const box *where) {
    bool together = true;
    for (int d = 0; d < x.shape.rank; d++) together &= where->step[d] == 1;
    if (together) {
        mth__hlo_val start[MTH__RANK];
        for (int d = 0; d < x.shape.rank; d++) start[d] = mth__hlo_scalar_i32(hlo, where->start[d]);
        return mth__hlo_dynamic_update(hlo, whole, x, start);
    }
    mth__hlo_val here = lay(hlo, mth__hlo_splat(hlo, MTH_BOOL, x.shape, 1), whole.shape, where, 0);
    return mth__hlo_select(hlo, here, lay(hlo, x, whole.shape, where, 0), whole);
}

static mth__module *finish(
    mth__executable *executable, mth__hlo *hlo, int args, const mth__hlo_val *arg, mth__hlo_val result) {
    mth__text body = mth__text_new(hlo->arena);
    mth__text_add(&body,
        "module @hop attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {\n  func.func public "
        "@main(");
    for (int i = 0; i < args; i++)
        mth__text_add(&body, "%s%%arg%d: %s", i ? ", " : "", i, mth__hlo_type(hlo->arena, arg[i].dtype, arg[i].shape));
    const char *type = mth__hlo_type(hlo->arena, result.dtype, result.shape);
    mth__text_add(&body, ") -> %s {\n%s    return %s : %s\n  }\n}\n", type, hlo->body.n ? hlo->body.at : "",
        mth__hlo_name(hlo->arena, result), type);
    mth__module_text text = {.text = mth__copy_text(executable->arena, body.at), .bytes = body.n};
    return mth__module_add(executable, &text, &(mth__xla_options){.partitions = 1, .replicas = 1});
}

/* base: the shape of the buffer; from: that of the value, which may be a view of it. */
static mth__module *cut_module(
    mth__executable *executable, mth_dtype dtype, mth__shape base, mth__shape from, const box *where) {
    mth__arena *scratch = mth__arena_new();
    mth__hlo hlo = {.arena = scratch, .body = mth__text_new(scratch), .partitions = 1};
    mth__hlo_val arg = {-1, dtype, base}, whole = mth__hlo_reshape(&hlo, arg, from);
    mth__module *module = finish(executable, &hlo, 1, &arg, is_all(where, from) ? whole : cut_box(&hlo, whole, where));
    mth__arena_free(scratch);
    return module;
}

static mth__module *join_module(mth__executable *executable, mth_dtype dtype, mth__shape to, int n, const box *where) {
    mth__arena *scratch = mth__arena_new();
    mth__hlo hlo = {.arena = scratch, .body = mth__text_new(scratch), .partitions = 1};
    mth__hlo_val *arg = NEW_ARRAY(scratch, mth__hlo_val, n + 1), whole = mth__hlo_splat(&hlo, dtype, to, 0);
    for (int i = 0; i < n; i++) {
        arg[i] = (mth__hlo_val){-1 - i, dtype, where[i].size};
        whole = join_box(&hlo, whole, arg[i], &where[i]);
    }
    mth__module *module = finish(executable, &hlo, n, arg, whole);
    mth__arena_free(scratch);
    return module;
}

/* ---------------------------------------------------------------- plans */
static void plan_target(mth__executable *executable, mth__job *job, mth__hop_target *target) {
    const mth__channel *channel = job->hop.channel;
    mth__arena *scratch = mth__arena_new();
    const mth__slot *source = &executable->segments->slot.at[job->hop.from];
    mth__shape from = source->local, base = executable->segments->slot.at[source->view_of].local,
               to = executable->segments->slot.at[job->hop.to].local;
    mth__piece *piece;
    target->pieces = mth__transfer_pieces(scratch, channel, target->device, &piece);
    target->piece = NEW_ARRAY(executable->arena, mth__hop_piece, target->pieces);
    box *there = NEW_ARRAY(scratch, box, target->pieces + 1);
    const int32_t self = target->device;
    const mth__hlo_part *mine = mth__part_of(scratch, channel->dtype, channel->shape, &channel->to, 1, &self);
    /* one whole part in a buffer of the same shape: what is padding there may be padding here */
    bool as_it_is = false, own = false;
    const bool leaves = executable->segments->slot.at[source->view_of].last_read == MTH__AT_EXIT ||
        executable->segments->slot.at[job->hop.to].last_read == MTH__AT_EXIT;
    for (int i = 0; i < target->pieces; i++) {
        const int32_t owner = piece[i].from_device;
        const mth__hlo_part *part = mth__part_of(scratch, channel->dtype, channel->shape, &channel->from, 1, &owner);
        box where = local_box(&piece[i], part);
        there[i] = local_box(&piece[i], mine);
        mth__shape real = {channel->shape.rank, {0}};
        memcpy(real.dim, mine->size[0], sizeof real.dim);
        own = target->pieces == 1 && owner == target->device && leaves; /* what leaves has a buffer of its own */
        as_it_is = !own && target->pieces == 1 && mth__shape_equal(base, to) && is_all(&there[0], real) &&
            is_all(&where, where.size);
        target->piece[i].from_device = owner;
        if (!as_it_is && !(is_all(&where, from) && mth__shape_equal(base, from)))
            target->piece[i].cut = cut_module(executable, channel->dtype, base, from, &where);
    }
    if (own || (!as_it_is && !(target->pieces == 1 && is_all(&there[0], to))))
        target->join = join_module(executable, channel->dtype, to, target->pieces, there);
    if (target->pieces > executable->most_pieces) executable->most_pieces = target->pieces;
    mth__arena_free(scratch);
}

void mth__hop_plan(mth__executable *executable, mth__job *job) {
    const mth__placement *to = job->hop.channel->to.on;
    job->target = NEW_ARRAY(executable->arena, mth__hop_target, to->count);
    job->targets = to->count;
    for (int i = 0; i < to->count; i++) {
        job->target[i].device = to->device[i];
        plan_target(executable, job, &job->target[i]);
    }
}

/* ---------------------------------------------------------------- runs */
static mth_status call_one(mth__executable *executable, const mth__module *module, int device, PJRT_Buffer *const *args,
    size_t count, PJRT_Buffer **result, PJRT_Event **done) {
    MTH__ARGS(PJRT_LoadedExecutable_Execute, call);
    PJRT_ExecuteOptions options = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    call.executable = module->xla->loaded;
    call.options = &options;
    call.argument_lists = &args;
    call.num_devices = 1;
    call.num_args = count;
    call.output_lists = &result;
    call.execute_device = executable->engine->device[device];
    call.device_complete_events = done;
    mth_status status = mth__pjrt_status(executable->engine->plugin,
        executable->engine->plugin->api->PJRT_LoadedExecutable_Execute(&call), "move a value between devices");
    if (status)
        *done = NULL;
    else
        executable->flying[device]++;
    return status;
}

static mth_status copy_to(mth__engine *engine, PJRT_Buffer *from, int device, PJRT_Buffer **out) {
    MTH__ARGS(PJRT_Buffer_CopyToDevice, copy);
    copy.buffer = from;
    copy.dst_device = engine->device[device];
    TRY(mth__pjrt_status(
        engine->plugin, engine->plugin->api->PJRT_Buffer_CopyToDevice(&copy), "move a value between devices"));
    *out = copy.dst_buffer;
    return NULL;
}

/* The piece on the device that wants it; *lent: it is the owner's own buffer. */
static mth_status bring(
    mth__executable *executable, const mth__job *job, mth__hop_target *target, int i, PJRT_Buffer **out, bool *lent) {
    mth__hop_piece *piece = &target->piece[i];
    const int slot = executable->segments->slot.at[job->hop.from].view_of;
    PJRT_Buffer *source = (*mth__cell_of(executable, slot, piece->from_device))->buffer, *cut = NULL;
    *lent = false;
    if (piece->cut) TRY(call_one(executable, piece->cut, piece->from_device, &source, 1, &cut, &piece->done));
    if (piece->from_device == target->device) {
        *lent = !cut;
        *out = cut ? cut : source;
        return NULL;
    }
    mth_status status = copy_to(executable->engine, cut ? cut : source, target->device, out);
    mth_status lost = cut ? mth__buffer_destroy(executable->engine, cut) : NULL;
    mth_error_free(lost);
    return status;
}

static mth_status receive(mth__executable *executable, const mth__job *job, mth__hop_target *target) {
    mth_status status = NULL;
    bool lent[64], *of = target->pieces <= 64 ? lent : mth__calloc((size_t)target->pieces, sizeof *of);
    if (!of) return mth__lacks_memory("a transfer", 0);
    int n = 0;
    PJRT_Buffer *made = NULL;
    for (; !status && n < target->pieces; n += !status)
        status = bring(executable, job, target, n, &executable->pieces[n], &of[n]);
    if (!status && target->join) {
        status = call_one(
            executable, target->join, target->device, executable->pieces, (size_t)target->pieces, &made, &target->done);
        if (!status) mth__cell_put(executable, job->hop.to, target->device, made, false);
    } else if (!status && of[0])
        mth__cell_share(executable, executable->segments->slot.at[job->hop.from].view_of, job->hop.to, target->device);
    else if (!status)
        mth__cell_put(executable, job->hop.to, target->device, executable->pieces[0], false);
    for (int i = 0; i < n; i++)
        if (!of[i] && (target->join || status))
            mth_error_free(mth__buffer_destroy(executable->engine, executable->pieces[i]));
    if (of != lent) mth__free(of);
    return status;
}

mth_status mth__hop_run(mth__executable *executable, mth__job *job) {
    for (int i = 0; i < job->targets; i++) TRY(receive(executable, job, &job->target[i]));
    return NULL;
}

static mth_status finish_one(mth__executable *executable, int device, PJRT_Event **event, mth_status status) {
    if (!*event) return status;
    mth_status done = mth__pjrt_await(executable->engine, *event, "move a value between devices");
    *event = NULL;
    executable->flying[device]--;
    if (!status) return done;
    mth_error_free(done);
    return status;
}

mth_status mth__hop_finish(mth__executable *executable, mth__job *job, mth_status status) {
    for (int i = 0; i < job->targets; i++) {
        mth__hop_target *target = &job->target[i];
        for (int k = 0; k < target->pieces; k++)
            status = finish_one(executable, target->piece[k].from_device, &target->piece[k].done, status);
        status = finish_one(executable, target->device, &target->done, status);
    }
    return status;
}
