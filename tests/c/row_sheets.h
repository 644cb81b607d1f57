/* Every row of the catalog, whole and split over devices, as programs that an engine runs: planned, proved, loaded and
 * run as a model's are, and compared with the reference engine on the same program. Then communication between random
 * shardings, likewise. Where an engine pads parts that are smaller than the largest, operands come with NaN (ids with
 * junk) in that padding, which nothing may let through. */
#ifndef ROW_SHEETS_H
#define ROW_SHEETS_H
#include "distribute/choice.h"
#include "engine/engine.h"
#include "elements.h"
#include "operator_examples.h"
#include "unit.h"
#include <inttypes.h>

/* The engine that is held to the reference, and how it is opened. */
typedef struct {
    const mth__engine_vtable *vtable;
    mth_option option; /* beside the mesh; without a name: none */
    double within;     /* of float32; 0: what all engines keep */
    int means_nothing; /* a row whose statistics of infinities the engine leaves open; 0: there is none */
} sheet_engine;

typedef struct {
    const char *row, *how; /* for messages */
    const double *rows;    /* of a routed tensor: the tokens of [e, t]; what lies where there is none is open */
} origin;                  /* of an output */
/* A program in the making. */
typedef struct {
    const sheet_engine *engine;
    mth__arena *arena;
    mth__graph *graph;
    const mth__placement *all;
    mth__builder b;
    mth__value *zero;         /* an input, (): 0 */
    VEC(const double *) data; /* by input: the whole tensor, row-major */
    VEC(origin) of;           /* by output */
} sheet;

static mth_status new_sheet(const sheet_engine *engine, sheet *s, int naxes, const int64_t *dim) {
    mth__mesh *mesh;
    *s = (sheet){.engine = engine, .arena = mth__arena_new()};
    TRY(mth__mesh_new(s->arena, naxes, dim, &mesh));
    s->graph = mth__graph_new(s->arena, mesh);
    s->all = mesh->whole;
    s->b = (mth__builder){.graph = s->graph, .label = mth__label_outside(NULL, MTH__FORWARD)};
    return NULL;
}
static mth__value *add_input(
    sheet *s, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding, const double *data) {
    mth__value *value =
        mth__graph_value(s->graph, MTH__VALUE_INPUT, mth__format(s->arena, "in%zu", s->data.n), dtype, shape);
    value->sharding = *sharding;
    PUSH(s->arena, s->data, data);
    return value;
}
/* A node whose results all have this sharding, and which wants its operands as they are. */
static mth_status add_node(sheet *s, int row, const mth__attrs *attrs, int nin, mth__value *const *in,
    const mth__sharding *sharding, mth__value **out) {
    s->b.on = sharding->on;
    s->b.label.module = mth__op_at(row)->name;
    TRY(mth__build(&s->b, row, attrs, nin, in, out));
    mth__node *node = out[0]->node;
    node->need = NEW_ARRAY(s->arena, mth__sharding, nin);
    for (int j = 0; j < nin; j++) node->need[j] = node->in[j]->sharding;
    for (int k = 0; k < node->nout; k++) out[k]->sharding = *sharding;
    return NULL;
}
static mth_status add_node2(sheet *s, int row, mth__value *a, mth__value *b, mth__value **out) {
    return add_node(s, row, NULL, 2, (mth__value *[]){a, b}, &a->sharding, out);
}
static mth_status add_node1(sheet *s, int row, mth__attrs attrs, mth__value *x, mth__value **out) {
    return add_node(s, row, &attrs, 1, &x, &x->sharding, out);
}
static void add_output(sheet *s, mth__value *value, origin of) {
    PUSH(s->arena, s->graph->output,
        ((mth__output){
            .name = mth__format(s->arena, "out%zu", s->of.n), .value = value, .leaves.on = value->sharding.on}));
    PUSH(s->arena, s->of, of);
}

/* ---------------------------------------------------------------- values */
/* rows[e, t] as devices fill them that hold blocks of t: each from the first row of its block on. */
static const double *rows_in_blocks(mth__arena *arena, const mth__sharding *blocks) {
    const int64_t e = size['e'], t = size['t'];
    double *rows = NEW_ARRAY(arena, double, e *t);
    for (int64_t i = 0; i < e * t; i++) rows[i] = -1;
    for (int p = 0; p < blocks->on->count; p++) {
        int64_t start[MTH__RANK], step[MTH__RANK];
        const int64_t n = mth__local_shape((mth__shape){2, {e, t}}, blocks, p, start, step).dim[1];
        for (int64_t x = 0; x < e; x++)
            for (int64_t i = 0, to = start[1]; i < n; i++)
                if (chose(start[1] + i, x)) rows[x * t + to++] = (double)(start[1] + i);
    }
    return rows;
}
/* Numbers that rows must hand on as the reference does; `specials`: how many of them are drawn, 0: none. */
static const double special[] = {NAN, -0.0, 0, INFINITY, -INFINITY, NAN};
enum { FINITE_OR_NAN = 3, SPECIALS = sizeof special / sizeof *special };
static int specials;

static const double *draw_values(mth__arena *arena, char kind, mth__shape shape, const double *rows) {
    const int64_t n = mth__shape_size(shape), tokens = size['e'] * size['t'];
    double *x = NEW_ARRAY(arena, double, n + 1);
    if (kind == 'w') return rows;
    for (int64_t i = 0; i < n; i++) {
        if (kind == 'e' || kind == 'E')
            x[i] = (double)chosen[i];
        else
            x[i] = kind == 'R' && rows[i / (n / tokens)] < 0 ? NAN : draw_value(kind); /* nobody may read it */
        if (specials && strchr("rpuR", kind) && draw(0, 4) == 0) x[i] = special[draw(0, specials - 1)];
    }
    return x;
}
/* The same value with NaN, or ids of no meaning, in the padding of its parts: that of inputs is zeros, where x * c / c
 * is not x. */
static mth_status spoil_padding(sheet *s, mth__value **value) {
    const mth__shape shape = (*value)->shape;
    const mth_dtype dtype = (*value)->dtype;
    double *c = NEW_ARRAY(s->arena, double, mth__shape_size(shape)), junk = (double)(int64_t[]){0, 1, 77}[draw(0, 2)];
    for (int64_t i = 0; i < mth__shape_size(shape); i++) c[i] = draw(0, 1) ? 2 : 0.5;
    mth__value *power = add_input(s, MTH_FLOAT32, shape, &(*value)->sharding, c), *is;
    if (dtype == MTH_FLOAT32) {
        TRY(add_node2(s, MTH__ROW_mul, *value, power, value));
        return add_node2(s, MTH__ROW_div, *value, power, value);
    }
    if (!s->zero)
        s->zero = add_input(s, MTH_FLOAT32, (mth__shape){0}, &(mth__sharding){.on = s->all}, NEW(s->arena, double));
    TRY(add_node2(s, MTH__ROW_equal, power, s->zero, &is));
    TRY(add_node1(s, MTH__ROW_scale, (mth__attrs){.by = junk}, is, &is));
    TRY(add_node1(s, MTH__ROW_cast, (mth__attrs){.dtype = MTH_FLOAT32}, *value, value));
    TRY(add_node2(s, MTH__ROW_add, *value, is, value));
    return add_node1(s, MTH__ROW_cast, (mth__attrs){.dtype = dtype}, *value, value);
}

/* ---------------------------------------------------------------- examples */
/* An example with its sizes drawn: a node by itself. */
typedef struct {
    const example *x;
    mth__node node;
    mth__rule rule;
} drawn;

static mth_status draw_example(mth__arena *arena, const example *x, drawn *d) {
    draw_sizes(5);
    size['t'] = draw(1, 7);
    size['e'] = draw(2, 5);
    size['k'] = draw(1, 2);
    *d = (drawn){.x = x, .node = {.op = mth__op_at(x->row), .attrs = {.spec = x->spec}, .nout = 1}};
    if (x->attrs) x->attrs(size, &d->node.attrs);
    choose(arena, x);
    for (const char *c = d->node.op->results; *c; c++) d->node.nout += *c == ',';
    enum { VALUES = MTH__MAX_IN + MTH__MAX_OUT };
    mth__value *value = NEW_ARRAY(arena, mth__value, VALUES), **at = NEW_ARRAY(arena, mth__value *, VALUES);
    for (const char *c = x->shapes; c; c = *c ? c + 1 : NULL) {
        mth__value *v = &value[d->node.nin];
        for (; *c && *c != ','; c++) v->shape.dim[v->shape.rank++] = size[(int)*c];
        v->dtype = dtype_of(x, d->node.nin++);
    }
    for (int j = 0; j < VALUES; j++) at[j] = &value[j];
    d->node.in = at;
    d->node.out = at + d->node.nin;
    TRY(mth__op_infer(&d->node));
    mth__op_rule(&d->node, &d->rule);
    return NULL;
}

static struct {
    bool ran, may_split, split, uneven;
    int examples, accumulated;
} seen[MTH__ROW_COUNT];

static const char *how_text(sheet *s, const drawn *d, mth__value *const *in) {
    mth__text text = mth__text_new(s->arena);
    mth__text_add(&text, "%s", d->x->shapes ? d->x->shapes : "");
    for (int j = 0; j < d->node.nin; j++)
        mth__text_add(&text, " %s%s", mth__shape_text(s->arena, in[j]->shape),
            mth__sharding_text(s->arena, &in[j]->sharding, in[j]->shape.rank));
    return text.at;
}
static void lay_out(const drawn *d, const mth__assignment *assignment, const mth__node *node) {
    for (int k = 0; k < node->nout; k++) {
        mth__sharding *to = &node->out[k]->sharding;
        *to = mth__assigned(&d->rule, d->rule.out[k], d->rule.out_unit[k], assignment, node->out[k]->shape, node->on);
        to->partial = (uint8_t)mth__partial_of(&d->rule, node, k, assignment, &to->reduce);
    }
}
/* Each result that may be added to a sum is, to that of an equal node: out[k] becomes the sum. */
static mth_status add_sums(sheet *s, const drawn *d, const mth__assignment *assignment, mth__value **out) {
    const mth__node *node = out[0]->node;
    mth__value *first[MTH__MAX_OUT];
    if (!node->op->accumulates || !mth__is_float(out[0]->dtype)) return NULL;
    TRY(add_node(s, node->op->row, &node->attrs, node->nin, node->in, &(mth__sharding){.on = s->all}, first));
    lay_out(d, assignment, first[0]->node);
    s->b.label.phase = MTH__BACKWARD;
    for (int k = 0; k < node->nout; k++)
        if (node->op->accumulates >> k & 1) TRY(add_node2(s, MTH__ROW_add, out[k], first[k], &out[k]));
    s->b.label.phase = MTH__FORWARD;
    return NULL;
}
/* What attention makes of whole tensors: its gradient's o, most and sum, which lie behind q, k and v. */
static mth_status attend_whole(sheet *s, const drawn *d, const double **data) {
    mth__ref_value value[MTH__MAX_IN];
    mth__ref_call call = {
        .op = mth__op_at(MTH__ROW_attention), .attrs = &d->node.attrs, .nin = d->node.nin == 8 ? 4 : 3, .nout = 3};
    for (int j = 0; j < d->node.nin; j++) {
        const mth__shape shape = d->node.in[j]->shape;
        const int64_t n = mth__shape_size(shape);
        value[j] = (mth__ref_value){.data = NEW_ARRAY(s->arena, mth__ref_element, n + 1),
            .dtype = d->node.in[j]->dtype,
            .local = shape,
            .global = shape,
            .here = true};
        for (int dimension = 0; dimension < MTH__RANK; dimension++) value[j].step[dimension] = 1;
        for (int64_t i = 0; i < n; i++) value[j].data[i] = mth__ref_from_real(value[j].dtype, data[j][i]);
    }
    for (int j = 0; j < 3; j++) call.in[j] = &value[j], call.out[j] = &value[3 + j];
    call.in[3] = &value[7];
    TRY(mth__ref_rows[MTH__ROW_attention](&call));
    for (int j = 3; j < 6; j++) {
        double *made = NEW_ARRAY(s->arena, double, mth__shape_size(value[j].local) + 1);
        for (int64_t i = 0; i < mth__shape_size(value[j].local); i++)
            made[i] = mth__ref_from_real(value[j].dtype, value[j].data[i].real).real;
        data[j] = made;
    }
    return NULL;
}
/* Of attention's results an engine chooses `most`, and with it `sum`: compared is the logarithm of sum * exp(most). */
static mth_status as_logarithm(sheet *s, mth__value *most, mth__value *sum, mth__value **out) {
    TRY(add_node1(s, MTH__ROW_log, (mth__attrs){0}, sum, out));
    return add_node2(s, MTH__ROW_add, most, *out, out);
}
/* The example with each factor split by the axes that `a` says. */
static mth_status add_example(sheet *s, const drawn *d, const mth__assignment *assignment) {
    mth__value *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
    mth__sharding sharding[MTH__MAX_IN];
    const double *rows = NULL;
    bool split = false, uneven = false;
    for (int j = 0; j < d->node.nin; j++) {
        sharding[j] =
            mth__assigned(&d->rule, d->rule.in[j], d->rule.in_unit[j], assignment, d->node.in[j]->shape, s->all);
        if (d->x->kinds[j] != 'w') continue;
        mth__sharding blocks = sharding[j];
        /* gathered from devices */
        if (!blocks.dim[1].naxes && draw(0, 1)) blocks = (mth__sharding){.on = s->all, .dim[1] = {.naxes = 1}};
        rows = rows_in_blocks(s->arena, &blocks);
    }
    const double *data[MTH__MAX_IN];
    for (int j = 0; j < d->node.nin; j++) data[j] = draw_values(s->arena, d->x->kinds[j], d->node.in[j]->shape, rows);
    if (d->x->row == MTH__ROW_attention_grad) TRY(attend_whole(s, d, data));
    for (int j = 0; j < d->node.nin; j++) {
        const mth__shape shape = d->node.in[j]->shape;
        in[j] = add_input(s, d->node.in[j]->dtype, shape, &sharding[j], data[j]);
        split |= mth__sharding_axes(&sharding[j], shape.rank) != 0;
        if (mth__sharding_even(shape, &sharding[j])) continue;
        uneven = true;
        if (s->engine->vtable->traits.pads) TRY(spoil_padding(s, &in[j]));
    }
    TRY(add_node(s, d->x->row, &d->node.attrs, d->node.nin, in, &(mth__sharding){.on = s->all}, out));
    const mth__node *node = out[0]->node;
    const char *how = how_text(s, d, in);
    lay_out(d, assignment, node);
    if (seen[d->x->row].examples++ % 2 == 0) TRY(add_sums(s, d, assignment, out));
    for (int k = 0; k < node->nout; k++) {
        mth__sharding *to = &out[k]->sharding;
        split |= mth__sharding_axes(to, out[k]->shape.rank) != 0;
        uneven |= !mth__sharding_even(out[k]->shape, to);
        mth__value *leaves = out[k];
        mth__sharding whole = *to;
        whole.partial = whole.reduce = 0;
        if (to->partial)
            TRY(add_node(s, MTH__ROW_all_reduce, &(mth__attrs){.axes = to->partial}, 1, &out[k], &whole, &leaves));
        else if ((node->op->flags & MTH__ALIAS) && draw(0, 1))
            TRY(add_node1(s, MTH__ROW_copy, (mth__attrs){0}, out[k], &leaves));
        if (d->x->row == MTH__ROW_attention && k == 1) continue;
        if (d->x->row == MTH__ROW_attention && k == 2) TRY(as_logarithm(s, out[1], out[2], &leaves));
        const char *kinds = strchr(d->x->kinds, '>');
        const bool routed = kinds && strlen(kinds) > (size_t)k + 1 && kinds[k + 1] == 'R';
        add_output(s, leaves, (origin){node->op->name, how, routed ? rows : NULL});
    }
    seen[d->x->row].ran = true;
    seen[d->x->row].split |= split;
    seen[d->x->row].uneven |= uneven;
    return NULL;
}

/* May the factor be dealt round robin? Tokens are not: rows of experts lie in blocks. */
static bool may_deal(const drawn *d, int f) {
    if (d->x->row >= MTH__ROW_moe_route && d->rule.factor[f].letter == 't') return false;
    for (int j = 0; j < d->node.nin; j++)
        for (int i = 0; i < d->node.in[j]->shape.rank; i++)
            if (d->rule.in[j][i] == f && d->rule.in_unit[j][i] > 1) return false;
    for (int k = 0; k < d->node.nout; k++)
        for (int i = 0; i < d->node.out[k]->shape.rank; i++)
            if (d->rule.out[k][i] == f && d->rule.out_unit[k][i] > 1) return false;
    return true;
}
static bool may_split(drawn *d, int f) {
    const bool may = f < d->rule.n && d->rule.factor[f].kind != MTH__WHOLE;
    if (may && d->rule.factor[f].size > 1) seen[d->x->row].may_split = true;
    return may;
}
static void split_factor(mth__assignment *assignment, int f, int axis, bool dealt) {
    mth__split *split = &assignment->of[f];
    split->axis[split->naxes++] = (int8_t)axis;
    split->cyclic = dealt;
}
/* Whole, and each factor split on one of the meshes of one axis; on that of two axes two factors, or one twice. */
static const struct {
    int naxes;
    int64_t dim[2];
} meshes[] = {{1, {2}}, {1, {3}}, {1, {4}}, {2, {2, 2}}};
enum { MESHES = sizeof meshes / sizeof *meshes, LINES = MESHES - 1 };

static mth_status add_on_line(sheet *s, int m, int x) {
    drawn d;
    TRY(draw_example(s->arena, &examples[x], &d));
    if (x % LINES == m) TRY(add_example(s, &d, &(mth__assignment){0}));
    for (int f = 0, n = d.rule.n; f < n; f++) {
        if ((x + f) % LINES != m) continue;
        int again = (int)draw(0, 3); /* uneven rather than even */
        do TRY(draw_example(s->arena, &examples[x], &d));
        while (f < d.rule.n && d.rule.factor[f].size % s->all->count == 0 && again--);
        if (!may_split(&d, f)) continue;
        /* both in blocks and dealt */
        const bool expert = d.x->row >= MTH__ROW_moe_route && d.rule.factor[f].letter == 'e';
        for (int dealt = !expert && may_deal(&d, f) && draw(0, 2) == 0; dealt < 2; dealt++) {
            mth__assignment assignment = {0};
            split_factor(&assignment, f, 0, dealt);
            TRY(add_example(s, &d, &assignment));
            if (!expert) break;
        }
    }
    return NULL;
}
static mth_status add_on_grid(sheet *s, int x) {
    drawn d;
    mth__assignment assignment = {0};
    TRY(draw_example(s->arena, &examples[x], &d));
    for (int axis = 0; axis < 2; axis++) {
        const int f = d.rule.n ? (int)draw(0, d.rule.n - 1) : 0;
        if (may_split(&d, f)) split_factor(&assignment, f, axis, false);
    }
    return add_example(s, &d, &assignment);
}

/* ---------------------------------------------------------------- both engines */
static mth_status open_on(mth__arena *arena, const mth__engine_vtable *vtable, const mth_option *more,
    const mth__mesh *mesh, mth__engine **out) {
    mth_arg dim[MTH__AXES], *value;
    for (int axis = 0; axis < mesh->naxes; axis++) dim[axis] = mth_int(mesh->dim[axis]);
    mth_option option[2] = {{"device_mesh", mth_list((size_t)mesh->naxes, dim)}};
    if (more && more->name) option[1] = *more;
    TRY(mth__options_read(arena, "backend", vtable->options, option, option[1].name ? 2 : 1, &value));
    return vtable->open(
        &(mth__engine_setup){mesh, vtable->options, value, .distribute = &(mth__distribute_options){0}}, out);
}
/* Runs it twice on the same entries; the exits of the second. */
static mth_status run_on(const sheet *s, const mth__engine_vtable *vt, const mth_option *more,
    const mth__program *program, mth__buffer **exit) {
    const int devices = program->mesh->count;
    mth__engine *engine;
    mth__executable *executable;
    const mth__offsets offset = mth__buffer_offsets(s->arena, program);
    const int64_t *first = offset.entry, entries = first[program->entry.n], exits = offset.exit[program->exit.n];
    mth__buffer **entry = NEW_ARRAY(s->arena, mth__buffer *, entries);
    TRY(open_on(s->arena, vt, more, program->mesh, &engine));
    TRY(vt->load(engine, program, NULL, &executable));
    for (size_t entry_number = 0; entry_number < program->entry.n; entry_number++)
        for (int d = 0; d < devices; d++) {
            const mth__entry *is = &program->entry.at[entry_number];
            if (is->sharding.on->rank_of[d] < 0) continue;
            const held here = held_by(is->shape, &is->sharding, d);
            const int64_t n = mth__shape_size(here.local);
            mth__buffer **buffer = &entry[first[entry_number] + is->sharding.on->rank_of[d]];
            TRY(vt->memory.new(engine, d, n * (int64_t)mth_dtype_size(is->dtype), buffer));
            for (int64_t i = 0; i < n; i++)
                element_put_real(
                    is->dtype, vt->memory.host(*buffer), i, s->data.at[entry_number][index_in_whole(&here, i)]);
        }
    for (int again = 0; again < 2; again++) {
        for (int64_t i = 0; i < exits; i++) {
            if (exit[i]) vt->memory.release(exit[i]);
            exit[i] = NULL;
        }
        TRY(vt->run(executable, entry, exit, NULL));
    }
    for (int64_t i = 0; i < entries; i++)
        if (entry[i]) vt->memory.release(entry[i]);
    vt->unload(executable);
    vt->close(engine);
    return NULL;
}
/* Of 16 bits: a few roundings of what the row is made of. */
static bool near(const sheet_engine *engine, mth_dtype dtype, double got, double want) {
    const double within[MTH__DTYPE_COUNT] = {[MTH_FLOAT32] = engine->within ? engine->within : 2e-5,
        [MTH_FLOAT64] = 1e-12,
        [MTH_BFLOAT16] = 0x1p-5,
        [MTH_FLOAT16] = 0x1p-8};
    if (isnan(want)) return isnan(got);
    return got == want || fabs(got - want) <= within[dtype] * (1 + fabs(want));
}
static void compare_exit(
    const sheet *s, const mth__program *program, size_t e, int d, mth__buffer *got, mth__buffer *want) {
    const mth__exit *is = &program->exit.at[e];
    CHECK(got && want);
    if (!got || !want) return;
    const held here = held_by(is->shape, &is->sharding, d);
    const void *x = s->engine->vtable->memory.host(got), *y = mth__engine_reference.memory.host(want);
    CHECK(x != NULL);
    const double *rows = s->of.at[e].rows;
    int64_t wrong = 0;
    for (int64_t i = 0, n = x ? mth__shape_size(here.local) : 0; i < n; i++) {
        if (rows && rows[index_in_whole(&here, i) / is->shape.dim[2]] < 0) continue;
        const mth__ref_element a = element_get(is->dtype, x, i), b = element_get(is->dtype, y, i);
        if (mth__is_float(is->dtype) ? near(s->engine, is->dtype, a.real, b.real) : a.integer == b.integer) continue;
        if (wrong++) continue;
        if (unit_failures++ < 30)
            printf("  %s %s: %s on device %d: %s, not %s, at element %" PRId64 " of %s\n", s->of.at[e].row,
                s->of.at[e].how, is->name, d, element_text(is->dtype, a), element_text(is->dtype, b), i,
                mth__shape_text(s->arena, here.local));
    }
}
static mth_status run_sheet(const sheet *s, const mth__emit_options *options) {
    mth__program *program;
    TRY(mth__graph_check(s->graph));
    TRY(mth__accumulate(s->graph));
    TRY(mth__graph_check(s->graph));
    for (size_t i = 0; i < s->graph->node.n; i++)
        seen[s->graph->node.at[i]->op->row].accumulated += s->graph->node.at[i]->accumulates;
    TRY(mth__emit(s->arena, s->graph, options, &program));
    TRY(mth__emit_memory(program, 0));
    TRY(mth__program_verify(program));
    const int64_t *first = mth__buffer_offsets(s->arena, program).exit, exits = first[program->exit.n];
    mth__buffer **got = NEW_ARRAY(s->arena, mth__buffer *, exits), **want = NEW_ARRAY(s->arena, mth__buffer *, exits);
    TRY(run_on(s, &mth__engine_reference, NULL, program, want));
    TRY(run_on(s, s->engine->vtable, &s->engine->option, program, got));
    for (size_t exit_number = 0; exit_number < program->exit.n; exit_number++)
        for (int64_t i = first[exit_number]; i < first[exit_number + 1]; i++)
            compare_exit(s, program, exit_number,
                program->exit.at[exit_number].sharding.on->device[i - first[exit_number]], got[i], want[i]);
    for (int64_t i = 0; i < exits; i++) {
        if (got[i]) s->engine->vtable->memory.release(got[i]);
        if (want[i]) mth__engine_reference.memory.release(want[i]);
    }
    return NULL;
}

/* ---------------------------------------------------------------- all rows */
static mth_status rows_body(void *engine) {
    memset(seen, 0, sizeof seen);
    for (int m = 0; m < MESHES; m++) {
        sheet s;
        TRY(new_sheet(engine, &s, meshes[m].naxes, meshes[m].dim));
        for (int x = 0; x < EXAMPLES; x++) {
            srand((unsigned)(m * 1000 + x));
            TRY(m < LINES ? add_on_line(&s, m, x) : add_on_grid(&s, x));
        }
        TRY(run_sheet(&s, &(mth__emit_options){0}));
        mth__arena_free(s.arena);
    }
    for (size_t i = 0; i < mth__op_count(); i++) {
        const mth__op *op = mth__op_at(i);
        if (op->flags & MTH__COMM) continue; /* below */
        if (seen[i].ran && op->accumulates && !seen[i].accumulated) {
            unit_failures++;
            printf("  %s was never added to a sum\n", op->name);
        }
        if (seen[i].ran && (!seen[i].may_split || (seen[i].split && seen[i].uneven))) continue;
        unit_failures++;
        printf("  %s never ran%s\n", op->name, !seen[i].ran ? "" : seen[i].split ? " in uneven parts" : " split");
    }
    return NULL;
}
static inline void check_every_row(sheet_engine engine) { CHECK_STATUS(mth__guard(rows_body, &engine)); }

/* Attention is left out: what its mask hides has rules of its own. Gradients are sums of products that each engine
   orders as it likes: where one with infinity is infinity and where it is NaN is left to them. */
static mth_status specials_body(void *engine) {
    sheet s;
    TRY(new_sheet(engine, &s, 2, (int64_t[]){2, 2}));
    for (int x = 0; x < EXAMPLES; x++) {
        drawn d;
        if (examples[x].row == MTH__ROW_attention || examples[x].row == MTH__ROW_attention_grad) continue;
        srand((unsigned)x);
        const bool finite =
            strstr(mth__op_at(examples[x].row)->name, "_grad") || examples[x].row == s.engine->means_nothing;
        specials = finite ? FINITE_OR_NAN : SPECIALS;
        TRY(draw_example(s.arena, &examples[x], &d));
        TRY(add_example(&s, &d, &(mth__assignment){0}));
        TRY(add_on_grid(&s, x));
    }
    specials = 0;
    TRY(run_sheet(&s, &(mth__emit_options){0}));
    mth__arena_free(s.arena);
    return NULL;
}
static inline void check_specials(sheet_engine engine) { CHECK_STATUS(mth__guard(specials_body, &engine)); }

/* ---------------------------------------------------------------- communication, as reshard makes it */
enum { PAIRS = 16 };

static const mth__placement *draw_placement(const sheet *s) {
    const int devices = s->all->count, one = (int)draw(0, devices - 1);
    if (draw(0, 5)) return s->all;
    return draw(0, 1) ? mth__place_device(s->graph->mesh, one)
                      : mth__place_list(s->graph->mesh, 2, (int32_t[]){one, (one + 1) % devices});
}
/* Each axis splits a dimension, or none; with `partial` (bits) not those. Of one axis the elements may be dealt, or
 * come in grains. */
static mth__sharding draw_sharding(const mth__placement *on, mth__shape shape, uint8_t partial) {
    mth__sharding sharding = {.on = on, .partial = partial};
    const int first = (int)draw(0, 1);
    for (int i = 0; i < on->naxes; i++) {
        const int axis = (i + first) % on->naxes, d = (int)draw(-1, shape.rank - 1);
        if (d < 0 || (partial >> axis & 1)) continue;
        sharding.dim[d].axis[sharding.dim[d].naxes++] = (int8_t)axis;
        sharding.dim[d].cyclic = on->naxes == 1 && draw(0, 5) == 0;
        sharding.dim[d].grain = !sharding.dim[d].cyclic && draw(0, 3) == 0 ? 2 : 1;
    }
    mth__sharding_canonical(&sharding, shape);
    return sharding;
}
/* x, perhaps a partial sum or maximum, is wanted elsewhere. */
static mth_status add_pair(sheet *s) {
    mth__shape shape = {.rank = (int)draw(1, 3)};
    for (int d = 0; d < shape.rank; d++) shape.dim[d] = draw(1, 7);
    const mth__placement *on = draw_placement(s), *to = draw_placement(s);
    const uint8_t partial = (uint8_t)(on->naxes && draw(0, 1) ? draw(1, (1 << on->naxes) - 1) : 0);
    const mth__sharding from = draw_sharding(on, shape, partial), want = draw_sharding(to, shape, 0);
    mth__shape wide = {.rank = shape.rank + 1, .dim = {draw(1, 5)}};
    mth__sharding terms = {.on = on};
    for (int d = 0; d < shape.rank; d++) {
        wide.dim[d + 1] = shape.dim[d];
        terms.dim[d + 1] = from.dim[d];
    }
    for (int axis = 0; axis < on->naxes; axis++)
        if (partial >> axis & 1) terms.dim[0].axis[terms.dim[0].naxes++] = (int8_t)axis;
    mth__sharding_canonical(&terms, wide);
    mth__value *x = add_input(s, MTH_FLOAT32, wide, &terms, draw_values(s->arena, 'r', wide, NULL)), *y;
    if (s->engine->vtable->traits.pads && !mth__sharding_even(wide, &terms)) TRY(spoil_padding(s, &x));
    const int row = draw(0, 2) ? MTH__ROW_reduce_sum : MTH__ROW_reduce_max;
    TRY(add_node(s, row, &(mth__attrs){.dimensions = 1}, 1, &x, &from, &x));
    if (from.partial) x->sharding.reduce = row == MTH__ROW_reduce_sum ? MTH__REDUCE_SUM : MTH__REDUCE_MAX;
    TRY(add_node(s, MTH__ROW_copy, NULL, 1, &x, &want, &y));
    y->node->need[0] = want;
    const char *how = mth__format(s->arena, "%s %s, to %s", mth__shape_text(s->arena, shape),
        mth__where_text(s->arena, &from, shape.rank), mth__where_text(s->arena, &want, shape.rank));
    add_output(s, y, (origin){.row = mth__op_at(row)->name, .how = how});
    return NULL;
}
static mth_status pairs_body(void *engine) {
    int found[MTH__ROW_COUNT] = {0};
    for (int round = 0; round < MESHES; round++) {
        sheet s;
        TRY(new_sheet(engine, &s, meshes[MESHES - 1 - round].naxes, meshes[MESHES - 1 - round].dim));
        srand((unsigned)round);
        for (int i = 0; i < PAIRS; i++) TRY(add_pair(&s));
        TRY(mth__reshard(s.graph));
        for (size_t i = 0; i < s.graph->node.n; i++) found[s.graph->node.at[i]->op->row]++;
        mth__emit_options options = {.overlap = round % 2};
        for (int k = 0; k < MTH__TRANSFER; k++)
            options.algorithm[k] = mth__algorithm_names[(round + k) % MTH__ALGORITHMS];
        TRY(run_sheet(&s, &options));
        mth__arena_free(s.arena);
    }
    for (size_t i = 0; i < mth__op_count(); i++) {
        if (!(mth__op_at(i)->flags & MTH__COMM) || found[i]) continue;
        unit_failures++;
        printf("  no %s\n", mth__op_at(i)->name);
    }
    return NULL;
}
static inline void check_communication(sheet_engine engine) { CHECK_STATUS(mth__guard(pairs_body, &engine)); }
#endif
