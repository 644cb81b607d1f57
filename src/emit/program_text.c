/* A program as text, by role, complete: program_parse.c reads it back and prints the same. Lines that begin with #
 * follow from the others (the steps of the algorithms, what devices receive); the parser skips them.
 *
 *     program
 *     mesh (4,)
 *     placement p0 whole
 *     entry 0 input x: f32[8,32] (None, None) on p0
 *     entry 1 parameter linear_0.weight: f32[32,64] (None, 0) on p0
 *     exit 0 output y: f32[8,16] (None, None) on p0
 *     channel c0 all_reduce ring f32[8,16] (None, None) partial sum over 0 on p0 to (None, None) on p0 over 0
 *     "linear_1: all_reduce" role 0 devices 0..3 slab 4096
 *       x: f32[8,32] (None, None) on p0 at entry 0
 *       0  %5: f32[8,16] of [8,64] (None, 0) on p0 at slab+0 = contract x, linear_0.weight spec="bi,io->bo" @linear_0
 *       1  y: f32[8,16] (None, None) on p0 at exit 0 = all_reduce ring c0 %7 @linear_1
 */
#include "emit/program_words.h"
#include "emit/traffic.h"
#include <inttypes.h>
#include <string.h>

static void add_quoted(mth__text *t, const char *s) {
    mth__text_add(t, "\"");
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            mth__text_add(t, "\\%c", *s);
        else if ((unsigned char)*s < 32 || *s == 127)
            mth__text_add(t, "\\x%02x", (unsigned char)*s);
        else
            mth__text_add(t, "%c", *s);
    }
    mth__text_add(t, "\"");
}

static void add_name(mth__text *t, const char *s) {
    if (mth__plain_name(s, strlen(s)))
        mth__text_add(t, "%s", s);
    else
        add_quoted(t, s);
}

/* "0..3, 8, 10..14:2" */
static void add_devices(mth__text *t, const int32_t *device, int n) {
    for (int i = 0, run; i < n; i += run) {
        int step = i + 1 < n ? device[i + 1] - device[i] : 0;
        for (run = 1; i + run < n && device[i + run] - device[i + run - 1] == step;) run++;
        if (run < 3 || step < 1) run = 1;
        mth__text_add(t, "%s%d", i ? ", " : "", device[i]);
        if (run > 1) mth__text_add(t, "..%d", device[i + run - 1]);
        if (run > 1 && step > 1) mth__text_add(t, ":%d", step);
    }
}

/* ---------------------------------------------------------------- the head */
typedef struct {
    mth__text *t;
    const mth__program *p;
    int *placement; /* by id: its number in the text, -1: unused */
} printer;

static void use(printer *w, const mth__sharding *s) { w->placement[s->on->id] = 0; }

static void number_placements(printer *w) {
    const mth__program *p = w->p;
    size_t n = p->mesh->placements.n;
    w->placement = NEW_ARRAY(w->t->arena, int, n);
    memset(w->placement, -1, n * sizeof *w->placement);
    for (size_t i = 0; i < p->entry.n; i++) use(w, &p->entry.at[i].sharding);
    for (size_t i = 0; i < p->exit.n; i++) use(w, &p->exit.at[i].sharding);
    for (size_t i = 0; i < p->channel.n; i++) {
        use(w, &p->channel.at[i].from);
        use(w, &p->channel.at[i].to);
    }
    for (size_t r = 0; r < p->role.n; r++)
        for (size_t v = 0; v < p->role.at[r].value.n; v++) use(w, &p->role.at[r].value.at[v].sharding);
    for (size_t k = 0, number = 0; k < n; k++)
        if (w->placement[k] >= 0) w->placement[k] = (int)number++;
}

static void add_placement(printer *w, const mth__placement *on) {
    const mth__mesh *m = w->p->mesh;
    mth__text_add(w->t, "placement p%d ", w->placement[on->id]);
    if (on->id == 0) {
        mth__text_add(w->t, "whole\n");
    } else if (on->naxes == 0) {
        mth__text_add(w->t, "device %d\n", on->device[0]);
    } else if (on->naxes == 1) {
        mth__text_add(w->t, "devices ");
        add_devices(w->t, on->device, on->count);
        mth__text_add(w->t, "\n");
    } else { /* a slice: the axis of the mesh that it lacks, and where */
        int axis = 0, stride = 1;
        while (axis < on->naxes && on->mesh_axis[axis] == axis) axis++;
        for (int a = axis + 1; a < m->naxes; a++) stride *= m->dim[a];
        mth__text_add(w->t, "slice axis %d at %d\n", axis, on->device[0] / stride % m->dim[axis]);
    }
}

static void add_shape(mth__text *t, mth_dtype dtype, mth__shape s) {
    if (dtype) mth__text_add(t, "%s", mth__dtype_words[dtype]);
    mth__text_add(t, "[");
    for (int d = 0; d < s.rank; d++) mth__text_add(t, "%s%" PRId64, d ? "," : "", s.dim[d]);
    mth__text_add(t, "]");
}

static void add_sharding(printer *w, const mth__sharding *s, int rank) {
    char buffer[512];
    mth__sharding_write(buffer, sizeof buffer, s, rank);
    mth__text_add(w->t, "%s on p%d", buffer, w->placement[s->on->id]);
}

static void add_channel(printer *w, int index) {
    const mth__channel *c = &w->p->channel.at[index];
    mth__text *t = w->t;
    mth__text_add(t, "channel c%d %s %s ", index, mth__channel_names[c->kind], mth__algorithm_names[c->algorithm]);
    add_shape(t, c->dtype, c->shape);
    mth__text_add(t, " ");
    add_sharding(w, &c->from, c->shape.rank);
    mth__text_add(t, " to ");
    add_sharding(w, &c->to, c->shape.rank);
    if (c->axes) {
        mth__text_add(t, " over ");
        for (int a = 0, n = 0; a < MTH__AXES; a++)
            if (c->axes >> a & 1) mth__text_add(t, "%s%d", n++ ? "," : "", a);
    }
    if (c->dim >= 0) mth__text_add(t, c->kind == MTH__ALL_TO_ALL ? " split %d" : " dimension %d", c->dim);
    if (c->dim2 >= 0) mth__text_add(t, " gathered %d", c->dim2);
    mth__text_add(t, " ");
    add_quoted(t, c->label);
    mth__text_add(t, "\n");
}

static void add_head(printer *w) {
    const mth__program *p = w->p;
    mth__text *t = w->t;
    mth__text_add(t, "program\nmesh (");
    for (int a = 0; a < p->mesh->naxes; a++) mth__text_add(t, "%s%d", a ? ", " : "", p->mesh->dim[a]);
    mth__text_add(t, p->mesh->naxes == 1 ? ",)\n" : ")\n");
    for (size_t k = 0; k < p->mesh->placements.n; k++)
        if (w->placement[k] >= 0) add_placement(w, p->mesh->placements.at[k]);
    for (size_t i = 0; i < p->entry.n; i++) {
        const mth__entry *e = &p->entry.at[i];
        mth__text_add(t, "entry %zu %s ", i, mth__entry_words[e->kind]);
        add_name(t, e->name);
        mth__text_add(t, ": ");
        add_shape(t, e->dtype, e->shape);
        mth__text_add(t, " ");
        add_sharding(w, &e->sharding, e->shape.rank);
        mth__text_add(t, "\n");
    }
    for (size_t i = 0; i < p->exit.n; i++) {
        const mth__exit *e = &p->exit.at[i];
        mth__text_add(t, "exit %zu %s ", i, mth__exit_words[e->kind]);
        if (e->kind == MTH__EXIT_SUCCESSOR) mth__text_add(t, "of %d ", e->entry);
        add_name(t, e->name);
        mth__text_add(t, ": ");
        add_shape(t, e->dtype, e->shape);
        mth__text_add(t, " ");
        add_sharding(w, &e->sharding, e->shape.rank);
        mth__text_add(t, "\n");
    }
    for (size_t i = 0; i < p->channel.n && !mth__thread_stopped(); i++) add_channel(w, (int)i);
}

/* ---------------------------------------------------------------- roles */
static void add_value(printer *w, const mth__role *r, int v) {
    const mth__pvalue *p = &r->value.at[v];
    mth__text *t = w->t;
    add_name(t, p->name);
    mth__text_add(t, ": ");
    add_shape(t, p->dtype, p->local);
    if (!mth__shape_equal(p->local, p->shape)) {
        mth__text_add(t, " of ");
        add_shape(t, 0, p->shape);
    }
    mth__text_add(t, " ");
    add_sharding(w, &p->sharding, p->shape.rank);
    switch (p->storage) {
    case MTH__IN_SLAB:
        mth__text_add(t, " at %s", mth__space_words[p->space]);
        if (p->offset >= 0) mth__text_add(t, "+%" PRId64, p->offset);
        break;
    case MTH__IN_ENTRY: mth__text_add(t, " at entry %d", p->index); break;
    case MTH__IN_EXIT: mth__text_add(t, " at exit %d", p->index); break;
    case MTH__IN_LENT: mth__text_add(t, " at exit %d+%" PRId64, p->index, p->offset); break;
    case MTH__IN_ALIAS:
        mth__text_add(t, " at ");
        add_name(t, r->value.at[p->index].name);
        mth__text_add(t, "+%" PRId64, p->offset);
        break;
    case MTH__IN_OWN: mth__text_add(t, p->space == MTH__HOST ? " at own host" : " at own"); break;
    }
    if (p->memory != mth__usual_memory(w->p, p->storage, p->index))
        mth__text_add(t, " memory %s", mth__memory_words[p->memory]);
}

static void add_real(mth__text *t, double f) { /* the shortest that reads back the same */
    char s[40];
    for (int digits = 6; digits <= 17; digits++) {
        mth__print(s, sizeof s, "%.*g", digits, f);
        const char *end;
        if (mth__read_real(s, &end) == f) break;
    }
    mth__text_add(t, "%s", s);
}

static void add_attrs(mth__text *t, const mth__op *op, const mth__attrs *given) {
    mth__attrs attrs = *given;
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(op, k)); k++) {
        if (mth__attribute_is_zero(&attrs, attribute)) continue;
        mth__text_add(t, " %s=", attribute->name);
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER: mth__text_add(t, "%" PRId64, *mth__attribute_integer(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_REAL: add_real(t, *mth__attribute_real(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_TEXT: add_quoted(t, *mth__attribute_text(&attrs, attribute)); break;
        }
    }
}

static void add_instr(printer *w, const mth__role *r, int index) {
    const mth__instr *k = &r->instr.at[index];
    mth__text *t = w->t;
    mth__text_add(t, "  %d  ", index);
    for (int j = 0; j < k->nout; j++) {
        if (j) mth__text_add(t, ", ");
        add_value(w, r, k->out[j]);
    }
    if (k->nout) mth__text_add(t, " = ");
    const mth__channel *c = k->channel < 0 ? NULL : &w->p->channel.at[k->channel];
    if (mth__is_started(k)) mth__text_add(t, "start ");
    if (mth__is_started(k) && k->stream != mth__usual_stream(k->kind)) mth__text_add(t, "on %d ", k->stream);
    switch (k->kind) {
    case MTH__COMPUTE: mth__text_add(t, "%s", k->op->name); break;
    case MTH__COLLECTIVE:
        mth__text_add(t, "%s %s c%d", mth__channel_names[c->kind], mth__algorithm_names[c->algorithm], k->channel);
        break;
    case MTH__SEND: mth__text_add(t, "send c%d", k->channel); break;
    case MTH__RECV: mth__text_add(t, "recv c%d", k->channel); break;
    case MTH__COPY: mth__text_add(t, "%s", mth__copy_words[mth__space_of(r, k->out[0])]); break;
    case MTH__WAIT:
        if (c)
            mth__text_add(t, "wait c%d", k->channel);
        else {
            mth__text_add(t, "wait for ");
            add_name(t, r->value.at[k->awaited].name);
        }
        break;
    }
    const int own = mth__row_operands(k->op, k->nin, k->accumulates);
    for (int j = 0; j < k->nin; j++) {
        mth__text_add(t, j == own ? " into " : j ? ", " : " ");
        add_name(t, r->value.at[k->in[j]].name);
    }
    if (k->kind == MTH__COMPUTE) add_attrs(t, k->op, k->attrs);
    if (k->scratch >= 0) {
        mth__text_add(t, " work ");
        add_value(w, r, k->scratch);
    }
    if (k->label.module) {
        mth__text_add(t, " @");
        add_name(t, k->label.module);
    }
    if (k->label.region > 0) mth__text_add(t, " region %d", k->label.region);
    if (k->label.stage >= 0) mth__text_add(t, " stage %d", k->label.stage);
    if (k->label.microbatch >= 0) mth__text_add(t, " microbatch %d", k->label.microbatch);
    if (k->label.phase) mth__text_add(t, " %s", mth__phase_words[k->label.phase]);
    if (k->label.source) {
        mth__text_add(t, " from ");
        add_quoted(t, k->label.source);
    }
    mth__text_add(t, "\n");
}

typedef struct {
    int *head, *next;
} views; /* by base, by view: 1 + value */

static void add_views(printer *w, const mth__role *r, const views *v, int base) {
    for (int a = v->head[base]; a; a = v->next[a - 1]) {
        mth__text_add(w->t, "  ");
        add_value(w, r, a - 1);
        mth__text_add(w->t, "\n");
    }
}

static void add_role(printer *w, int index) {
    const mth__role *r = &w->p->role.at[index];
    mth__arena *scratch = mth__arena_new();
    views v = {NEW_ARRAY(scratch, int, r->value.n), NEW_ARRAY(scratch, int, r->value.n)};
    for (size_t k = r->value.n; k-- > 0;) {
        const mth__pvalue *p = &r->value.at[k];
        if (p->storage != MTH__IN_ALIAS) continue;
        v.next[k] = v.head[p->index];
        v.head[p->index] = (int)k + 1;
    }
    mth__text_add(w->t, "role %d devices ", index);
    add_devices(w->t, r->device, r->ndevice);
    mth__text_add(w->t, " slab %" PRId64, r->slab[MTH__DEVICE]);
    if (r->slab[MTH__HOST]) mth__text_add(w->t, " host %" PRId64, r->slab[MTH__HOST]);
    mth__text_add(w->t, "\n");
    for (size_t k = 0; k < r->value.n; k++)
        if (r->value.at[k].storage == MTH__IN_ENTRY) {
            mth__text_add(w->t, "  ");
            add_value(w, r, (int)k);
            mth__text_add(w->t, "\n");
            add_views(w, r, &v, (int)k);
        }
    for (size_t i = 0; i < r->instr.n && !mth__thread_stopped(); i++) {
        add_instr(w, r, (int)i);
        for (int j = 0; j < r->instr.at[i].nout; j++) add_views(w, r, &v, r->instr.at[i].out[j]);
    }
    mth__arena_free(scratch);
}

/* ---------------------------------------------------------------- what follows from it */
static void add_template(printer *w, const mth__template *t) {
    mth__text steps = mth__text_new(w->t->arena);
    mth__template_print(&steps, t);
    for (const char *line = steps.at; line && *line;) {
        int n = (int)strcspn(line, "\n");
        mth__text_add(w->t, "# %.*s\n", n, line);
        line += n + (line[n] == '\n');
    }
}

/* Each once, in the order in which channels use them. */
static void add_templates(printer *w) {
    const mth__program *p = w->p;
    int largest = 0;
    for (size_t i = 0; i < p->channel.n; i++) {
        int n = mth__channel_size(&p->channel.at[i]);
        if (p->channel.at[i].algorithm != MTH__DIRECT && n > largest) largest = n;
    }
    bool *printed = NEW_ARRAY(w->t->arena, bool, MTH__TRANSFER *MTH__ALGORITHMS *(largest + 1));
    for (size_t i = 0; i < p->channel.n; i++) {
        const mth__channel *c = &p->channel.at[i];
        if (c->algorithm == MTH__DIRECT || c->kind == MTH__TRANSFER) continue;
        int n = mth__channel_size(c);
        bool *done = &printed[((int)c->kind * MTH__ALGORITHMS + (int)c->algorithm) * (largest + 1) + n];
        if (*done) continue;
        *done = true;
        mth__template t = mth__template_get(c->kind, c->algorithm, n);
        add_template(w, &t);
    }
}

static void add_totals(printer *w) {
    int n = w->p->mesh->count;
    mth__traffic *traffic = NEW_ARRAY(w->t->arena, mth__traffic, n);
    bool counted;
    mth_status uncounted = mth__program_traffic(w->p, traffic, &counted);
    if (uncounted || !counted) {
        mth__text_add(w->t, "# what devices receive is not counted: %s\n",
            uncounted ? mth_error_get_what(uncounted) : "too many steps");
        mth_error_free(uncounted);
        return;
    }
    for (int d = 0, run; d < n; d += run) {
        for (run = 1; d + run < n && traffic[d + run].received == traffic[d].received;) run++;
        if (run > 1)
            mth__text_add(w->t, "# devices %d..%d: each receives ", d, d + run - 1);
        else
            mth__text_add(w->t, "# device %d: receives ", d);
        if (traffic[d].received == INT64_MAX)
            mth__text_add(w->t, "2^63 bytes or more\n");
        else
            mth__text_add(w->t, "%" PRId64 " bytes\n", traffic[d].received);
    }
}

void mth__program_print(mth__text *t, const mth__program *p) {
    printer w = {.t = t, .p = p};
    number_placements(&w);
    add_head(&w);
    for (size_t r = 0; r < p->role.n && !mth__thread_stopped(); r++) add_role(&w, (int)r);
    add_templates(&w);
    add_totals(&w);
}
