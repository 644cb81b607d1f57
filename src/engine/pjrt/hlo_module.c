/* The text of a segment: its arguments, one instruction after another, its results. */
#include "engine/pjrt/segment.h"
#include <math.h>
#include <string.h>

typedef struct {
    const mth__segments *s;
    const mth__segment *segment;
    const mth__shardy_mesh *mesh;
    mth__hlo *h;
    mth__arena *arena, *scratch;
    VEC(const mth__seg_instr *) of_line;
} writing;

/* Segments have few of all slots: what others left is told by `by`, not cleared. */
struct mth__written {
    const mth__segment *by;
    mth__hlo_val value;
    bool made;
    const mth__hlo_part *part;
    int grown; /* 1 + the sum that it has become by adding to it; 0: it is in none */
};

static struct mth__written *written(const writing *w, int slot) {
    struct mth__written *at = &w->s->written[slot];
    if (at->by != w->segment) *at = (struct mth__written){.by = w->segment};
    return at;
}

static const mth__hlo_part *part_of(writing *w, int slot) {
    const mth__hlo_part **part = &written(w, slot)->part;
    if (*part) return *part;
    const mth__pvalue *v = w->s->slot.at[slot].any;
    static const int32_t first[1];
    static const mth__placement one = {.count = 1, .device = first, .rank_of = first};
    static const mth__sharding whole = {.on = &one};
    if (w->s->global) return *part = mth__part_of(w->scratch, v->dtype, v->shape, &whole, 1, first);
    return *part = mth__part_of(w->scratch, v->dtype, v->shape, &v->sharding, w->segment->count, w->segment->device);
}

static void set(writing *w, int slot, mth__hlo_val v) {
    struct mth__written *at = written(w, slot);
    at->value = v;
    at->made = true;
}

/* ---------------------------------------------------------------- Shardy */
/* The axes of Shardy's mesh that an axis of the program's mesh is made of, in order. */
static void add_axes(mth__text *t, const writing *w, int axis, bool *first) {
    const mth__mesh *mesh = w->s->program->mesh;
    int at = 0;
    for (int a = 0; a <= axis; a++)
        for (int product = 1; product < mesh->dim[a] && at < w->mesh->naxes; at++) {
            product *= w->mesh->dim[at];
            if (a == axis && w->mesh->dim[at] > 1) {
                mth__text_add(t, "%s\"a%d\"", *first ? "" : ", ", at);
                *first = false;
            }
        }
}

static const char *shardy_dims(const writing *w, const mth__sharding *s, int rank) {
    mth__text t = mth__text_new(w->scratch);
    mth__text_add(&t, "[");
    for (int d = 0; d < rank; d++) {
        bool first = true;
        mth__text_add(&t, "%s{", d ? ", " : "");
        for (int k = 0; k < s->dim[d].naxes; k++) add_axes(&t, w, s->dim[d].axis[k], &first);
        mth__text_add(&t, "}");
    }
    mth__text_add(&t, "]");
    return t.at;
}

static const char *shardy(const writing *w, int slot) {
    const mth__pvalue *v = w->s->slot.at[slot].any;
    return mth__format(
        w->scratch, "sdy.sharding = #sdy.sharding<@mesh, %s>", shardy_dims(w, &v->sharding, v->shape.rank));
}

/* Every value and operand is where the plan has it, and the partitioner finds the collectives between. Left to itself
   it may split the operands and the result of a product over axes that disagree, and then (up to API 0.117) gives parts
   in the wrong order, without a word. The same comes of axes against the mesh's order, which may arise inside though no
   port has them. What is a partial sum in the plan is whole here: the partitioner knows none and sums behind each
   product. */
static mth__hlo_val constrain(writing *w, const mth__sharding *s, mth__hlo_val v) {
    if (!w->mesh || mth__sharding_disordered(s, v.shape.rank)) return v;
    return mth__hlo_line(w->h, v.dtype, v.shape, "sdy.sharding_constraint %s <@mesh, %s> : %s",
        mth__hlo_name(w->scratch, v), shardy_dims(w, s, v.shape.rank), mth__hlo_type(w->scratch, v.dtype, v.shape));
}

static mth__hlo_val get(writing *w, int slot) {
    int base = w->s->slot.at[slot].view_of;
    if (slot == base || written(w, slot)->made) return written(w, slot)->value;
    mth__hlo_val view = mth__hlo_reshape(w->h, written(w, base)->value, part_of(w, slot)->local);
    set(w, slot, constrain(w, &w->s->slot.at[slot].any->sharding, view));
    return written(w, slot)->value;
}

/* ---------------------------------------------------------------- padding */
/* What the row sums over gets zeros in its padding, what it takes the maximum of gets -inf. */
static void fill_paddings(writing *w, const mth__seg_instr *x, mth__hlo_call *c) {
    bool padded = false;
    for (int j = 0; j < c->nin; j++) padded |= mth__hlo_is_padded(c->in[j].part, UINT32_MAX);
    if (!padded || mth__hlo_masks_itself[c->op->row]) return;
    mth__node node = {.op = c->op, .attrs = *c->attrs, .nin = c->nin, .nout = c->nout};
    mth__value *value = NEW_ARRAY(w->scratch, mth__value, c->nin + c->nout),
               **at = NEW_ARRAY(w->scratch, mth__value *, c->nin + c->nout);
    for (int j = 0; j < c->nin + c->nout; j++) {
        const mth__pvalue *v = w->s->slot.at[j < c->nin ? x->in[j] : x->out[j - c->nin]].any;
        value[j] = (mth__value){.dtype = v->dtype, .shape = v->shape};
        at[j] = &value[j];
    }
    node.in = at;
    node.out = at + c->nin;
    mth__rule rule;
    mth__op_rule(&node, &rule);
    for (int j = 0; j < c->nin; j++) {
        unsigned sum = 0, max = 0;
        for (int d = 0; d < c->in[j].part->local.rank; d++) {
            int f = rule.in[j][d];
            if (f >= 0)
                (rule.factor[f].kind == MTH__SUM ? &sum : &max)[0] |=
                    (unsigned)(rule.factor[f].kind == MTH__SUM || rule.factor[f].kind == MTH__MAX) << d;
        }
        c->in[j].v = mth__hlo_fill_padding(w->h, c->in[j].v, c->in[j].part, sum, 0);
        c->in[j].v = mth__hlo_fill_padding(
            w->h, c->in[j].v, c->in[j].part, max, mth__is_float(c->in[j].v.dtype) ? -INFINITY : 0);
    }
}

/* ---------------------------------------------------------------- instructions */
static void comment(writing *w, const mth__seg_instr *x) {
    const mth__instr *i = x->instr;
    const char *what =
        i->kind == MTH__COMPUTE ? i->op->name : mth__channel_names[w->s->program->channel.at[i->channel].kind];
    mth__text_add(&w->h->body, "    // %s: %s\n",
        i->label.module && !strpbrk(i->label.module, "\n\r") ? i->label.module : "model", what);
    w->h->line++;
}

static mth_status write_instr(writing *w, const mth__seg_instr *x) {
    const mth__instr *i = x->instr;
    mth__hlo_call c = {.h = w->h, .op = i->op, .attrs = i->attrs, .nout = x->nout, .by_microbatch = x->by_microbatch};
    c.nin = mth__row_operands(i->op, x->nin, i->accumulates);
    mth__hlo_val sum[MTH__MAX_OUT];
    comment(w, x);
    for (int k = 0; i->accumulates && k < x->nout; k++) {
        const int from = mth__accumulator(i->op, x->nin, k);
        if (from < 0) continue;
        sum[k] = get(w, x->in[from]);
        c.sum[k] = &sum[k];
        written(w, x->in[from])->grown = x->out[k] + 1;
    }
    for (int j = 0; j < c.nin; j++) {
        c.in[j] = (mth__hlo_operand){get(w, x->in[j]), part_of(w, x->in[j])};
        if (i->layouts) c.in[j].v = constrain(w, &i->layouts[j], c.in[j].v);
    }
    for (int j = 0; j < x->nout; j++) c.out[j].part = part_of(w, x->out[j]);
    if (i->kind == MTH__COMPUTE) {
        mth__hlo_row *row = mth__hlo_rows[i->op->row];
        if (!row) return INTERNAL("%s is no computation", i->op->name);
        fill_paddings(w, x, &c);
        row(&c);
        for (int k = 0; k < c.nout; k++)
            if (c.sum[k]) c.out[k].v = mth__hlo_binary(w->h, "add", sum[k], c.out[k].v);
    } else {
        const mth__channel *channel = &w->s->program->channel.at[i->channel];
        if (channel->kind == MTH__TRANSFER)
            mth__hlo_exchange(w->h, channel, &c.in[0], &c.out[0]);
        else
            (channel->algorithm == MTH__DIRECT ? mth__hlo_collective : mth__hlo_steps)(
                w->h, channel, &c.in[0], &c.out[0]);
    }
    for (int j = 0; j < x->nout; j++) {
        if (!mth__shape_equal(c.out[j].v.shape, c.out[j].part->local) || c.out[j].v.dtype != c.out[j].part->dtype)
            return mth__error_operator(
                INTERNAL("%s was written as %s, its result is %s", i->op ? i->op->name : "a collective",
                    mth__hlo_type(w->scratch, c.out[j].v.dtype, c.out[j].v.shape),
                    mth__hlo_type(w->scratch, c.out[j].part->dtype, c.out[j].part->local)),
                i->label.module);
        if (i->layouts) c.out[j].v = constrain(w, &i->layouts[x->nin + j], c.out[j].v);
        set(w, x->out[j], c.out[j].v);
    }
    return NULL;
}

/* All checks of ids as one result. */
static mth__hlo_val join_checks(writing *w) {
    mth__hlo *h = w->h;
    mth__hlo_val *row = NEW_ARRAY(w->scratch, mth__hlo_val, h->check.n);
    for (size_t i = 0; i < h->check.n; i++) row[i] = mth__hlo_reshape(h, h->check.at[i].v, (mth__shape){2, {1, 2}});
    return mth__hlo_concat(h, (int)h->check.n, row, 0);
}

static mth__shape port_shape(const writing *w, int slot) {
    const mth__slot *s = &w->s->slot.at[slot];
    mth__shape whole;
    if (!w->mesh) return s->local;
    mth__xla_part(s->any, &whole);
    return whole;
}

static mth__hlo_val come_in(writing *w, int slot, mth__hlo_val v) {
    const mth__shape real = w->s->slot.at[slot].local;
    if (mth__shape_equal(v.shape, real)) return v;
    return constrain(w, &w->s->slot.at[slot].any->sharding, mth__hlo_resize(w->h, v, real));
}

static mth__hlo_val go_out(writing *w, int slot, mth__hlo_val v) {
    const mth__shape port = port_shape(w, slot);
    if (mth__shape_equal(v.shape, port)) return v;
    return mth__hlo_resize(w->h, constrain(w, &w->s->slot.at[slot].any->sharding, v), port);
}

/* ---------------------------------------------------------------- the module */
/* The result that takes over the memory of a donated argument, each once: what a sum so far has become, else one of the
   same type. -1: none. */
static int heir(const writing *w, int in, bool sums, const bool *taken) {
    int sum = w->segment->in.at[in];
    const mth__slot *from = &w->s->slot.at[sum];
    while (written(w, sum)->grown) sum = written(w, sum)->grown - 1;
    for (size_t i = 0; i < w->segment->out.n; i++) {
        const mth__slot *to = &w->s->slot.at[w->segment->out.at[i]];
        bool alike = from->any->dtype == to->any->dtype && mth__shape_equal(from->local, to->local);
        if (!taken[i] && (sums ? w->segment->out.at[i] == sum : alike)) return (int)i;
    }
    return -1;
}

static const int *find_heirs(const writing *w) { /* by argument */
    int *heirs = NEW_ARRAY(w->scratch, int, w->segment->in.n);
    bool *taken = NEW_ARRAY(w->scratch, bool, w->segment->out.n);
    for (size_t i = 0; i < w->segment->in.n; i++) heirs[i] = -1;
    for (int sums = 1; sums >= 0; sums--)
        for (size_t i = 0; i < w->segment->in.n; i++) {
            if (!w->segment->donated[i] || heirs[i] >= 0) continue;
            heirs[i] = heir(w, (int)i, sums, taken);
            if (heirs[i] >= 0) taken[heirs[i]] = true;
        }
    return heirs;
}

static int write_head(writing *w, mth__text *t, int devices) {
    int lines = 2;
    mth__text_add(t, "module @mithril attributes {mhlo.num_partitions = %d : i32, mhlo.num_replicas = %d : i32} {\n",
        w->mesh ? devices : 1, w->mesh ? 1 : devices);
    if (w->mesh) {
        mth__text_add(t, "  sdy.mesh @mesh = <[");
        for (int a = 0; a < w->mesh->naxes; a++) mth__text_add(t, "%s\"a%d\"=%d", a ? ", " : "", a, w->mesh->dim[a]);
        mth__text_add(t, "]>\n");
        lines++;
    }
    const int *heirs = find_heirs(w);
    mth__text_add(t, "  func.func public @main(");
    for (size_t i = 0; i < w->segment->in.n; i++) {
        const mth__slot *slot = &w->s->slot.at[w->segment->in.at[i]];
        mth__text_add(t, "%s%%arg%zu: %s", i ? ", " : "", i,
            mth__hlo_type(w->scratch, slot->any->dtype, port_shape(w, w->segment->in.at[i])));
        if (heirs[i] >= 0) mth__text_add(t, " {tf.aliasing_output = %d : i32}", heirs[i]);
        if (w->mesh) mth__text_add(t, " {%s}", shardy(w, w->segment->in.at[i]));
    }
    for (size_t i = 0; i < w->h->number.n; i++)
        mth__text_add(t, "%s%%arg%zu: tensor<i32>", w->segment->in.n + i ? ", " : "", w->segment->in.n + i);
    mth__text_add(t, ") -> (");
    for (size_t i = 0; i < w->segment->out.n; i++) {
        const mth__slot *slot = &w->s->slot.at[w->segment->out.at[i]];
        mth__text_add(t, "%s%s", i ? ", " : "",
            mth__hlo_type(w->scratch, slot->any->dtype, port_shape(w, w->segment->out.at[i])));
        if (w->mesh) mth__text_add(t, " {%s}", shardy(w, w->segment->out.at[i]));
    }
    if (w->h->check.n) {
        mth__text_add(t, "%s%s", w->segment->out.n ? ", " : "",
            mth__hlo_type(w->scratch, MTH_INT32, (mth__shape){2, {(int64_t)w->h->check.n, 2}}));
        if (w->mesh) mth__text_add(t, " {sdy.sharding = #sdy.sharding<@mesh, [{}, {}]>}");
    }
    mth__text_add(t, ") {\n");
    return lines;
}

static void write_return(writing *w) {
    mth__text names = mth__text_new(w->scratch), types = mth__text_new(w->scratch);
    for (size_t i = 0; i < w->segment->out.n; i++) {
        mth__hlo_val v = go_out(w, w->segment->out.at[i], get(w, w->segment->out.at[i]));
        mth__text_add(&names, "%s%s", i ? ", " : "", mth__hlo_name(w->scratch, v));
        mth__text_add(&types, "%s%s", i ? ", " : "", mth__hlo_type(w->scratch, v.dtype, v.shape));
    }
    if (w->h->check.n) {
        mth__hlo_val v = join_checks(w);
        mth__text_add(&names, "%s%s", w->segment->out.n ? ", " : "", mth__hlo_name(w->scratch, v));
        mth__text_add(&types, "%s%s", w->segment->out.n ? ", " : "", mth__hlo_type(w->scratch, v.dtype, v.shape));
    }
    mth__text_add(&w->h->body, names.n ? "    return %s : %s\n  }\n}\n" : "    return\n  }\n}\n", names.at, types.at);
}

static mth_status write(writing *w, mth__module_text *out) {
    mth__hlo *h = w->h;
    for (size_t i = 0; i < w->segment->in.n; i++) {
        const mth__slot *slot = &w->s->slot.at[w->segment->in.at[i]];
        const mth__hlo_val arg = {-1 - (int)i, slot->any->dtype, port_shape(w, w->segment->in.at[i])};
        set(w, w->segment->in.at[i], come_in(w, w->segment->in.at[i], arg));
    }
    while (w->of_line.n < (size_t)h->line) PUSH(w->scratch, w->of_line, NULL);
    for (size_t i = 0; i < w->segment->instr.n; i++) {
        h->instr = (int)i;
        TRY(write_instr(w, &w->segment->instr.at[i]));
        while (w->of_line.n < (size_t)h->line) PUSH(w->scratch, w->of_line, &w->segment->instr.at[i]);
    }
    write_return(w);
    mth__text t = mth__text_new(w->scratch);
    const int all = w->mesh ? w->s->program->mesh->count : w->segment->count;
    bool meets = w->mesh && all > 1;
    for (size_t i = 0; i < w->segment->instr.n; i++) meets |= w->segment->instr.at[i].instr->kind != MTH__COMPUTE;
    const int devices = meets || h->told_apart ? all : 1;
    int head = write_head(w, &t, devices);
    char *text = mth__alloc(w->arena, t.n + h->body.n + 1);
    memcpy(text, t.at, t.n);
    memcpy(text + t.n, h->body.at, h->body.n);
    *out = (mth__module_text){.text = text,
        .bytes = t.n + h->body.n,
        .devices = devices,
        .meets = meets,
        .lines = head + (int)w->of_line.n,
        .checks = (int)h->check.n};
    out->instr_of_line = NEW_ARRAY(w->arena, const mth__seg_instr *, out->lines);
    if (w->of_line.n) memcpy(out->instr_of_line + head, w->of_line.at, w->of_line.n * sizeof *w->of_line.at);
    out->check = NEW_ARRAY(w->arena, mth__id_check, out->checks);
    out->numbers = (int)h->number.n;
    out->number = NEW_ARRAY(w->arena, int64_t, out->numbers);
    if (out->numbers) memcpy(out->number, h->number.at, h->number.n * sizeof *out->number);
    for (int i = 0; i < out->checks; i++)
        out->check[i] = (mth__id_check){&w->segment->instr.at[h->check.at[i].instr], h->check.at[i].limit};
    return NULL;
}

mth_status mth__module_write(mth__arena *arena, mth__segments *s, const mth__segment *segment,
    const mth__shardy_mesh *mesh, mth__module_text *out) {
    mth__arena *scratch = mth__arena_new();
    mth__hlo h = {.arena = scratch,
        .body = mth__text_new(scratch),
        .partitions = segment->count,
        .device = segment->device,
        .arguments = (int)segment->in.n,
        .partitioned = mesh != NULL};
    writing w = {.s = s, .segment = segment, .mesh = mesh, .h = &h, .arena = arena, .scratch = scratch};
    if (!s->written) s->written = NEW_ARRAY(s->arena, struct mth__written, s->slot.n);
    mth_status status = write(&w, out);
    mth__arena_free(scratch);
    return status;
}
