/* A trial of one row of the operator table: an example with random sizes, its operands filled with random data, and
 * what the reference engine's row computes from them. */
#ifndef OPERATOR_TRIAL_H
#define OPERATOR_TRIAL_H
#include "elements.h"
#include "unit.h"
#include "derive/derive.h"
#include "engine/native/kernel.h"
#undef ROW
#include "operator_examples.h"

static mth__arena *arena;
static const example *now; /* what runs, for messages */

/* A tensor, or the part of one that a device holds. */
typedef struct {
    mth__ref_value v;
    char kind;
} part;

static bool near(double a, double b, double tolerance) {
    if (isinf(a) || isinf(b)) return a == b;
    return fabs(a - b) <= tolerance * (1 + fabs(b));
}
static void complain_texts(const char *what, const char *got, const char *wanted) {
    unit_failures++;
    if (unit_failures < 30)
        printf(
            "  %s %s: %s: %s, not %s\n", mth__op_at(now->row)->name, now->shapes ? now->shapes : "", what, got, wanted);
}
static void complain(const char *what, double got, double wanted) {
    complain_texts(what, element_text(MTH_FLOAT64, (mth__ref_element){.real = got}),
        element_text(MTH_FLOAT64, (mth__ref_element){.real = wanted}));
}
/* Integers are equal, or they are not. */
static void check_near(
    const char *what, mth_dtype dtype, mth__ref_element got, mth__ref_element wanted, double tolerance) {
    if (mth__is_float(dtype) ? near(got.real, wanted.real, tolerance) : got.integer == wanted.integer) return;
    complain_texts(what, element_text(dtype, got), element_text(dtype, wanted));
}

/* ---------------------------------------------------------------- data */
static mth__ref_value blank(mth_dtype dtype, mth__shape local, mth__shape global) {
    mth__ref_value value = {.dtype = dtype, .local = local, .global = global, .here = true};
    value.data = NEW_ARRAY(arena, mth__ref_element, mth__shape_size(local) + 1);
    for (int d = 0; d < MTH__RANK; d++) value.step[d] = 1;
    return value;
}
/* The block of tokens to which row r of a part belongs. Rows gathered from two devices stand in two blocks, each with
 * its own padding. */
static bool blocked;
typedef struct {
    int64_t from, to;
} block;
static block block_of(const mth__ref_value *value, int64_t r) {
    int64_t from = value->start[1], to = from + value->local.dim[1], middle = from + (value->local.dim[1] + 1) / 2;
    if (!blocked) return (block){from, to};
    return from + r < middle ? (block){from, middle} : (block){middle, to};
}
/* The token in row r of an expert, -1 on padding: tokens that chose it, ascending, from the first row of their
   block. */
static int64_t token_in(const mth__ref_value *value, int64_t expert, int64_t r) {
    block b = block_of(value, r);
    int64_t skip = r - (b.from - value->start[1]);
    for (int64_t t = b.from; t < b.to; t++)
        if (chose(t, expert) && skip-- == 0) return t;
    return -1;
}
static void fill_rows(mth__ref_value *value) {
    FOR_EACH(at, value->local) * mth__ref_integer_at(value, at) =
        token_in(value, mth__ref_global(value, 0, at[0]), at[1]);
}
static void fill(part *p) {
    mth__ref_value *value = &p->v;
    if (p->kind == 'w') {
        fill_rows(value);
        return;
    }
    const bool experts = p->kind == 'e' || p->kind == 'E';
    for (int64_t i = 0, n = mth__shape_size(value->local); i < n; i++)
        value->data[i] = experts ? mth__ref_from_integer(value->dtype, chosen[i])
            : p->kind == 'I'     ? mth__ref_from_integer(value->dtype, draw_integer())
                                 : mth__ref_from_real(value->dtype, draw_value(p->kind));
    if (p->kind != 'R') return;
    int64_t inner = mth__shape_size(value->local) / (size['e'] * size['t']);
    mth__ref_value rows =
        blank(MTH_INT32, (mth__shape){2, {size['e'], size['t']}}, (mth__shape){2, {size['e'], size['t']}});
    fill_rows(&rows);
    for (int64_t r = 0; r < size['e'] * size['t']; r++)
        for (int64_t i = 0; rows.data[r].integer < 0 && i < inner; i++) /* nobody may read it */
            value->data[r * inner + i].real = 1e3;
}
/* ---------------------------------------------------------------- a trial: a graph of one node, with operands */
typedef struct {
    mth__graph *graph;
    mth__node *node;
    part in[MTH__MAX_IN], out[MTH__MAX_OUT];
} trial;

static char out_kind(int k) {
    const char *more = strchr(now->kinds, '>');
    return more && (size_t)k < strlen(more + 1) ? more[1 + k] : 'r';
}
static mth_status compute(const mth__op *op, const mth__attrs *attrs, int nin, part *in, int nout, part *out) {
    mth__ref_call call = {.op = op, .attrs = attrs, .nin = nin, .nout = nout};
    for (int j = 0; j < nin; j++) call.in[j] = &in[j].v;
    for (int k = 0; k < nout; k++) call.out[k] = &out[k].v;
    return mth__ref_rows[op->row](&call);
}
static mth_status begin(trial *t, const example *x) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){2}, &mesh));
    t->graph = mth__graph_new(arena, mesh);
    draw_sizes(5);
    size['e'] = draw(2, 5);
    size['k'] = draw(1, 2);
    mth__attrs attrs = {.spec = x->spec};
    if (x->attrs) x->attrs(size, &attrs);
    choose(arena, x);
    mth__value *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
    int nin = 0;
    for (const char *at = x->shapes; at; nin++) {
        mth__shape shape = {0};
        for (; *at && *at != ','; at++) shape.dim[shape.rank++] = size[(int)*at];
        at = *at ? at + 1 : NULL;
        part *p = &t->in[nin];
        p->kind = x->kinds[nin];
        mth_dtype dtype = dtype_of(x, nin);
        p->v = blank(dtype, shape, shape);
        fill(p);
        in[nin] = mth__graph_value(t->graph, MTH__VALUE_INPUT, mth__format(arena, "in%d", nin), dtype, shape);
    }
    mth__builder builder = {.graph = t->graph, .label = mth__label_outside("example", MTH__FORWARD)};
    TRY(mth__build(&builder, x->row, &attrs, nin, in, out));
    t->node = out[0]->node;
    for (int k = 0; k < t->node->nout; k++) {
        t->out[k].kind = out_kind(k);
        t->out[k].v = blank(out[k]->dtype, out[k]->shape, out[k]->shape);
    }
    if (x->row == MTH__ROW_attention_grad) { /* o, most and sum are what the row before it made of q, k, v and mask */
        part given[] = {t->in[0], t->in[1], t->in[2], t->in[7]};
        TRY(compute(mth__op_at(MTH__ROW_attention), &t->node->attrs, nin - 4, given, 3, t->in + 3));
    }
    return compute(t->node->op, &t->node->attrs, nin, t->in, t->node->nout, t->out);
}
#endif
