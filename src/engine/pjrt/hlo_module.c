/* The text of a segment: its arguments, one instruction after another, its results. */
#include "engine/pjrt/segment.h"
#include <math.h>
#include <string.h>

typedef struct {
    const mth__segments *segments;
    const mth__segment *segment;
    const mth__shardy_mesh *mesh;
    mth__hlo *hlo;
    mth__arena *arena, *scratch;
    VEC(const mth__seg_instr *) of_line;
} writing;

/* The table is indexed by slot and shared by all segments, each of which uses few slots. So it is not cleared between
   segments: an entry whose `by` is another segment counts as empty. */
struct mth__written {
    const mth__segment *by;
    mth__hlo_val value;
    bool made;
    const mth__hlo_part *part;
    int grown; /* 1 + the sum that it has become by adding to it; 0: it is in none */
};

static struct mth__written *written(const writing *writer, int slot) {
    struct mth__written *at = &writer->segments->written[slot];
    if (at->by != writer->segment) *at = (struct mth__written){.by = writer->segment};
    return at;
}

static const mth__hlo_part *part_of(writing *writer, int slot) {
    const mth__hlo_part **part = &written(writer, slot)->part;
    if (*part) return *part;
    const mth__program_value *value = writer->segments->slot.at[slot].any;
    static const int32_t first[1];
    static const mth__placement one = {.count = 1, .device = first, .rank_of = first};
    static const mth__sharding whole = {.on = &one};
    if (writer->segments->global)
        return *part = mth__part_of(writer->scratch, value->dtype, value->shape, &whole, 1, first);
    return *part = mth__part_of(writer->scratch, value->dtype, value->shape, &value->sharding, writer->segment->count,
               writer->segment->device);
}

static void set(writing *writer, int slot, mth__hlo_val value) {
    struct mth__written *at = written(writer, slot);
    at->value = value;
    at->made = true;
}

/* ---------------------------------------------------------------- Shardy */
/* The axes of Shardy's mesh that an axis of the program's mesh is made of, in order. */
static void add_axes(mth__text *text, const writing *writer, int axis, bool *first) {
    const mth__mesh *mesh = writer->segments->program->mesh;
    int at = 0;
    for (int k = 0; k <= axis; k++)
        for (int product = 1; product < mesh->dim[k] && at < writer->mesh->naxes; at++) {
            product *= writer->mesh->dim[at];
            if (k == axis && writer->mesh->dim[at] > 1) {
                mth__text_add(text, "%s\"a%d\"", *first ? "" : ", ", at);
                *first = false;
            }
        }
}

static const char *shardy_dims(const writing *writer, const mth__sharding *sharding, int rank) {
    mth__text text = mth__text_new(writer->scratch);
    mth__text_add(&text, "[");
    for (int d = 0; d < rank; d++) {
        bool first = true;
        mth__text_add(&text, "%s{", d ? ", " : "");
        for (int k = 0; k < sharding->dim[d].naxes; k++) add_axes(&text, writer, sharding->dim[d].axis[k], &first);
        mth__text_add(&text, "}");
    }
    mth__text_add(&text, "]");
    return text.at;
}

static const char *shardy(const writing *writer, int slot) {
    const mth__program_value *value = writer->segments->slot.at[slot].any;
    return mth__format(writer->scratch, "sdy.sharding = #sdy.sharding<@mesh, %s>",
        shardy_dims(writer, &value->sharding, value->shape.rank));
}

/* Every value and operand is where the plan has it, and the partitioner finds the collectives between. Left to itself
   it may split the operands and the result of a product over axes that disagree, and then (up to API 0.117) gives parts
   in the wrong order, without a word. The same comes of axes against the mesh's order, which may arise inside though no
   port has them. What is a partial sum in the plan is whole here: the partitioner knows none and sums behind each
   product. */
static mth__hlo_val constrain(writing *writer, const mth__sharding *sharding, mth__hlo_val value) {
    if (!writer->mesh || mth__sharding_disordered(sharding, value.shape.rank)) return value;
    return mth__hlo_line(writer->hlo, value.dtype, value.shape, "sdy.sharding_constraint %s <@mesh, %s> : %s",
        mth__hlo_name(writer->scratch, value), shardy_dims(writer, sharding, value.shape.rank),
        mth__hlo_type(writer->scratch, value.dtype, value.shape));
}

static mth__hlo_val get(writing *writer, int slot) {
    int base = writer->segments->slot.at[slot].view_of;
    if (slot == base || written(writer, slot)->made) return written(writer, slot)->value;
    mth__hlo_val view = mth__hlo_reshape(writer->hlo, written(writer, base)->value, part_of(writer, slot)->local);
    set(writer, slot, constrain(writer, &writer->segments->slot.at[slot].any->sharding, view));
    return written(writer, slot)->value;
}

/* ---------------------------------------------------------------- padding */
/* Fills the padding of the operands: with zeros along dimensions that the row sums over, with -inf along those of which
   it takes the maximum. */
static void fill_paddings(writing *writer, const mth__seg_instr *step, mth__hlo_call *call) {
    bool padded = false;
    for (int j = 0; j < call->nin; j++) padded |= mth__hlo_is_padded(call->in[j].part, UINT32_MAX);
    if (!padded || mth__hlo_masks_itself[call->op->row]) return;
    mth__node node = {.op = call->op, .attrs = *call->attrs, .nin = call->nin, .nout = call->nout};
    mth__value *value = NEW_ARRAY(writer->scratch, mth__value, call->nin + call->nout),
               **at = NEW_ARRAY(writer->scratch, mth__value *, call->nin + call->nout);
    for (int j = 0; j < call->nin + call->nout; j++) {
        const mth__program_value *stored =
            writer->segments->slot.at[j < call->nin ? step->in[j] : step->out[j - call->nin]].any;
        value[j] = (mth__value){.dtype = stored->dtype, .shape = stored->shape};
        at[j] = &value[j];
    }
    node.in = at;
    node.out = at + call->nin;
    mth__rule rule;
    mth__op_rule(&node, &rule);
    for (int j = 0; j < call->nin; j++) {
        unsigned sum = 0, max = 0;
        for (int d = 0; d < call->in[j].part->local.rank; d++) {
            int factor = rule.in[j][d];
            if (factor >= 0)
                (rule.factor[factor].kind == MTH__SUM ? &sum : &max)[0] |=
                    (unsigned)(rule.factor[factor].kind == MTH__SUM || rule.factor[factor].kind == MTH__MAX) << d;
        }
        call->in[j].value = mth__hlo_fill_padding(writer->hlo, call->in[j].value, call->in[j].part, sum, 0);
        call->in[j].value = mth__hlo_fill_padding(writer->hlo, call->in[j].value, call->in[j].part, max,
            mth__is_float(call->in[j].value.dtype) ? -INFINITY : 0);
    }
}

/* ---------------------------------------------------------------- instructions */
static void comment(writing *writer, const mth__seg_instr *step) {
    const mth__instr *instruction = step->instr;
    const char *what = instruction->kind == MTH__COMPUTE
        ? instruction->op->name
        : mth__channel_names[writer->segments->program->channel.at[instruction->channel].kind];
    mth__text_add(&writer->hlo->body, "    // %s: %s\n",
        instruction->label.module && !strpbrk(instruction->label.module, "\n\r") ? instruction->label.module : "model",
        what);
    writer->hlo->line++;
}

static mth_status write_instr(writing *writer, const mth__seg_instr *step) {
    const mth__instr *instruction = step->instr;
    mth__hlo_call call = {.hlo = writer->hlo,
        .op = instruction->op,
        .attrs = instruction->attrs,
        .nout = step->nout,
        .by_microbatch = step->by_microbatch};
    call.nin = mth__row_operands(instruction->op, step->nin, instruction->accumulates);
    mth__hlo_val sum[MTH__MAX_OUT];
    comment(writer, step);
    for (int k = 0; instruction->accumulates && k < step->nout; k++) {
        const int from = mth__accumulator(instruction->op, step->nin, k);
        if (from < 0) continue;
        sum[k] = get(writer, step->in[from]);
        call.sum[k] = &sum[k];
        written(writer, step->in[from])->grown = step->out[k] + 1;
    }
    for (int j = 0; j < call.nin; j++) {
        call.in[j] = (mth__hlo_operand){get(writer, step->in[j]), part_of(writer, step->in[j])};
        if (instruction->layouts) call.in[j].value = constrain(writer, &instruction->layouts[j], call.in[j].value);
    }
    for (int j = 0; j < step->nout; j++) call.out[j].part = part_of(writer, step->out[j]);
    if (instruction->kind == MTH__COMPUTE) {
        mth__hlo_row *row = mth__hlo_rows[instruction->op->row];
        if (!row) return INTERNAL("%s is no computation", instruction->op->name);
        fill_paddings(writer, step, &call);
        row(&call);
        for (int k = 0; k < call.nout; k++)
            if (call.sum[k]) call.out[k].value = mth__hlo_binary(writer->hlo, "add", sum[k], call.out[k].value);
    } else {
        const mth__channel *channel = &writer->segments->program->channel.at[instruction->channel];
        if (channel->kind == MTH__TRANSFER)
            mth__hlo_exchange(writer->hlo, channel, &call.in[0], &call.out[0]);
        else
            (channel->algorithm == MTH__DIRECT ? mth__hlo_collective : mth__hlo_steps)(
                writer->hlo, channel, &call.in[0], &call.out[0]);
    }
    for (int j = 0; j < step->nout; j++) {
        if (!mth__shape_equal(call.out[j].value.shape, call.out[j].part->local) ||
            call.out[j].value.dtype != call.out[j].part->dtype)
            return mth__error_operator(
                INTERNAL("%s was written as %s, its result is %s",
                    instruction->op ? instruction->op->name : "a collective",
                    mth__hlo_type(writer->scratch, call.out[j].value.dtype, call.out[j].value.shape),
                    mth__hlo_type(writer->scratch, call.out[j].part->dtype, call.out[j].part->local)),
                instruction->label.module);
        if (instruction->layouts)
            call.out[j].value = constrain(writer, &instruction->layouts[step->nin + j], call.out[j].value);
        set(writer, step->out[j], call.out[j].value);
    }
    return NULL;
}

/* All checks of ids as one result. */
static mth__hlo_val join_checks(writing *writer) {
    mth__hlo *hlo = writer->hlo;
    mth__hlo_val *row = NEW_ARRAY(writer->scratch, mth__hlo_val, hlo->check.n);
    for (size_t i = 0; i < hlo->check.n; i++)
        row[i] = mth__hlo_reshape(hlo, hlo->check.at[i].value, (mth__shape){2, {1, 2}});
    return mth__hlo_concat(hlo, (int)hlo->check.n, row, 0);
}

static mth__shape port_shape(const writing *writer, int slot) {
    const mth__slot *at = &writer->segments->slot.at[slot];
    mth__shape whole;
    if (!writer->mesh) return at->local;
    mth__xla_part(at->any, &whole);
    return whole;
}

static mth__hlo_val come_in(writing *writer, int slot, mth__hlo_val value) {
    const mth__shape real = writer->segments->slot.at[slot].local;
    if (mth__shape_equal(value.shape, real)) return value;
    return constrain(writer, &writer->segments->slot.at[slot].any->sharding, mth__hlo_resize(writer->hlo, value, real));
}

static mth__hlo_val go_out(writing *writer, int slot, mth__hlo_val value) {
    const mth__shape port = port_shape(writer, slot);
    if (mth__shape_equal(value.shape, port)) return value;
    return mth__hlo_resize(writer->hlo, constrain(writer, &writer->segments->slot.at[slot].any->sharding, value), port);
}

/* ---------------------------------------------------------------- the module */
/* The index of the result that takes over the memory of a donated argument: the sum that was added to it, or else any
   result of the same type. No result takes over two arguments. -1: there is none. */
static int heir(const writing *writer, int in, bool sums, const bool *taken) {
    int sum = writer->segment->in.at[in];
    const mth__slot *from = &writer->segments->slot.at[sum];
    while (written(writer, sum)->grown) sum = written(writer, sum)->grown - 1;
    for (size_t i = 0; i < writer->segment->out.n; i++) {
        const mth__slot *to = &writer->segments->slot.at[writer->segment->out.at[i]];
        bool alike = from->any->dtype == to->any->dtype && mth__shape_equal(from->local, to->local);
        if (!taken[i] && (sums ? writer->segment->out.at[i] == sum : alike)) return (int)i;
    }
    return -1;
}

static const int *find_heirs(const writing *writer) { /* by argument */
    int *heirs = NEW_ARRAY(writer->scratch, int, writer->segment->in.n);
    bool *taken = NEW_ARRAY(writer->scratch, bool, writer->segment->out.n);
    for (size_t i = 0; i < writer->segment->in.n; i++) heirs[i] = -1;
    for (int sums = 1; sums >= 0; sums--)
        for (size_t i = 0; i < writer->segment->in.n; i++) {
            if (!writer->segment->donated[i] || heirs[i] >= 0) continue;
            heirs[i] = heir(writer, (int)i, sums, taken);
            if (heirs[i] >= 0) taken[heirs[i]] = true;
        }
    return heirs;
}

static int write_head(writing *writer, mth__text *text, int devices) {
    int lines = 2;
    mth__text_add(text, "module @mithril attributes {mhlo.num_partitions = %d : i32, mhlo.num_replicas = %d : i32} {\n",
        writer->mesh ? devices : 1, writer->mesh ? 1 : devices);
    if (writer->mesh) {
        mth__text_add(text, "  sdy.mesh @mesh = <[");
        for (int k = 0; k < writer->mesh->naxes; k++)
            mth__text_add(text, "%s\"a%d\"=%d", k ? ", " : "", k, writer->mesh->dim[k]);
        mth__text_add(text, "]>\n");
        lines++;
    }
    const int *heirs = find_heirs(writer);
    mth__text_add(text, "  func.func public @main(");
    for (size_t i = 0; i < writer->segment->in.n; i++) {
        const mth__slot *slot = &writer->segments->slot.at[writer->segment->in.at[i]];
        mth__text_add(text, "%s%%arg%zu: %s", i ? ", " : "", i,
            mth__hlo_type(writer->scratch, slot->any->dtype, port_shape(writer, writer->segment->in.at[i])));
        if (heirs[i] >= 0) mth__text_add(text, " {tf.aliasing_output = %d : i32}", heirs[i]);
        if (writer->mesh) mth__text_add(text, " {%s}", shardy(writer, writer->segment->in.at[i]));
    }
    for (size_t i = 0; i < writer->hlo->number.n; i++)
        mth__text_add(
            text, "%s%%arg%zu: tensor<i32>", writer->segment->in.n + i ? ", " : "", writer->segment->in.n + i);
    mth__text_add(text, ") -> (");
    for (size_t i = 0; i < writer->segment->out.n; i++) {
        const mth__slot *slot = &writer->segments->slot.at[writer->segment->out.at[i]];
        mth__text_add(text, "%s%s", i ? ", " : "",
            mth__hlo_type(writer->scratch, slot->any->dtype, port_shape(writer, writer->segment->out.at[i])));
        if (writer->mesh) mth__text_add(text, " {%s}", shardy(writer, writer->segment->out.at[i]));
    }
    if (writer->hlo->check.n) {
        mth__text_add(text, "%s%s", writer->segment->out.n ? ", " : "",
            mth__hlo_type(writer->scratch, MTH_INT32, (mth__shape){2, {(int64_t)writer->hlo->check.n, 2}}));
        if (writer->mesh) mth__text_add(text, " {sdy.sharding = #sdy.sharding<@mesh, [{}, {}]>}");
    }
    mth__text_add(text, ") {\n");
    return lines;
}

static void write_return(writing *writer) {
    mth__text names = mth__text_new(writer->scratch), types = mth__text_new(writer->scratch);
    for (size_t i = 0; i < writer->segment->out.n; i++) {
        mth__hlo_val value = go_out(writer, writer->segment->out.at[i], get(writer, writer->segment->out.at[i]));
        mth__text_add(&names, "%s%s", i ? ", " : "", mth__hlo_name(writer->scratch, value));
        mth__text_add(&types, "%s%s", i ? ", " : "", mth__hlo_type(writer->scratch, value.dtype, value.shape));
    }
    if (writer->hlo->check.n) {
        mth__hlo_val value = join_checks(writer);
        mth__text_add(&names, "%s%s", writer->segment->out.n ? ", " : "", mth__hlo_name(writer->scratch, value));
        mth__text_add(&types, "%s%s", writer->segment->out.n ? ", " : "",
            mth__hlo_type(writer->scratch, value.dtype, value.shape));
    }
    mth__text_add(
        &writer->hlo->body, names.n ? "    return %s : %s\n  }\n}\n" : "    return\n  }\n}\n", names.at, types.at);
}

static mth_status write(writing *writer, mth__module_text *out) {
    mth__hlo *hlo = writer->hlo;
    for (size_t i = 0; i < writer->segment->in.n; i++) {
        const mth__slot *slot = &writer->segments->slot.at[writer->segment->in.at[i]];
        const mth__hlo_val arg = {-1 - (int)i, slot->any->dtype, port_shape(writer, writer->segment->in.at[i])};
        set(writer, writer->segment->in.at[i], come_in(writer, writer->segment->in.at[i], arg));
    }
    while (writer->of_line.n < (size_t)hlo->line) PUSH(writer->scratch, writer->of_line, NULL);
    for (size_t i = 0; i < writer->segment->instr.n; i++) {
        hlo->instr = (int)i;
        TRY(write_instr(writer, &writer->segment->instr.at[i]));
        while (writer->of_line.n < (size_t)hlo->line)
            PUSH(writer->scratch, writer->of_line, &writer->segment->instr.at[i]);
    }
    write_return(writer);
    mth__text whole = mth__text_new(writer->scratch);
    const int all = writer->mesh ? writer->segments->program->mesh->count : writer->segment->count;
    bool meets = writer->mesh && all > 1;
    for (size_t i = 0; i < writer->segment->instr.n; i++)
        meets |= writer->segment->instr.at[i].instr->kind != MTH__COMPUTE;
    const int devices = meets || hlo->told_apart ? all : 1;
    int head = write_head(writer, &whole, devices);
    char *text = mth__alloc(writer->arena, whole.n + hlo->body.n + 1);
    memcpy(text, whole.at, whole.n);
    memcpy(text + whole.n, hlo->body.at, hlo->body.n);
    *out = (mth__module_text){.text = text,
        .bytes = whole.n + hlo->body.n,
        .devices = devices,
        .meets = meets,
        .lines = head + (int)writer->of_line.n,
        .checks = (int)hlo->check.n};
    out->instr_of_line = NEW_ARRAY(writer->arena, const mth__seg_instr *, out->lines);
    if (writer->of_line.n)
        memcpy(out->instr_of_line + head, writer->of_line.at, writer->of_line.n * sizeof *writer->of_line.at);
    out->check = NEW_ARRAY(writer->arena, mth__id_check, out->checks);
    out->numbers = (int)hlo->number.n;
    out->number = NEW_ARRAY(writer->arena, int64_t, out->numbers);
    if (out->numbers) memcpy(out->number, hlo->number.at, hlo->number.n * sizeof *out->number);
    for (int i = 0; i < out->checks; i++)
        out->check[i] = (mth__id_check){&writer->segment->instr.at[hlo->check.at[i].instr], hlo->check.at[i].limit};
    return NULL;
}

mth_status mth__module_write(mth__arena *arena, mth__segments *segments, const mth__segment *segment,
    const mth__shardy_mesh *mesh, mth__module_text *out) {
    mth__arena *scratch = mth__arena_new();
    mth__hlo hlo = {.arena = scratch,
        .body = mth__text_new(scratch),
        .partitions = segment->count,
        .device = segment->device,
        .arguments = (int)segment->in.n,
        .partitioned = mesh != NULL};
    writing writer = {
        .segments = segments, .segment = segment, .mesh = mesh, .hlo = &hlo, .arena = arena, .scratch = scratch};
    if (!segments->written) segments->written = NEW_ARRAY(segments->arena, struct mth__written, segments->slot.n);
    mth_status status = write(&writer, out);
    mth__arena_free(scratch);
    return status;
}
