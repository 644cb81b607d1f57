/* The table of operators tests itself. Each case builds a small graph of catalog rows and its gradient. Then
 *   - gradients are compared with finite differences, in double precision on the reference engine's loops;
 *   - every node, with every factor of its rule split in two uneven parts: the parts recombined are the whole;
 *   - every node and every part on the native engine's kernels, in float32, are what the reference has.
 * A row that no case reaches fails the test, so a new row needs a case line and nothing else. */
#include "derive/derive.h"
#include "engine/native/kernel.h"
#include "engine/reference/reference.h"
#include "unit.h"

static bool seen[MTH__ROW_COUNT];
static mth__arena *arena;

/* ---------------------------------------------------------------- random operands */
static uint64_t state = 1;
static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 40) * 0x1p-24;
}

enum { VALUES = 400 };
typedef struct {
    mth__graph *graph;
    mth__builder builder;
    mth__ref_value at[VALUES]; /* by id, whole */
} world;

static mth__ref_value whole(mth_dtype dtype, mth__shape shape) {
    mth__ref_value v = {.dtype = dtype, .local = shape, .global = shape, .here = true};
    for (int d = 0; d < MTH__RANK; d++) v.step[d] = 1;
    v.data = NEW_ARRAY(arena, double, mth__shape_size(shape) + 1);
    return v;
}

/* "f3x4": float32 with magnitudes of 0.3 to 1.5, "p3x4": positive, "i5:2x3": ids below 5, "b2x3": a mask; "f" a scalar. */
static mth__value *operand(world *w, const char *text) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    mth__shape shape = {0};
    char kind = *text++;
    long limit = kind == 'i' ? strtol(text, (char **)&text, 10) : 2;
    text += *text == ':';
    while (*text && *text != ' ') {
        shape.dim[shape.rank++] = strtol(text, (char **)&text, 10);
        text += *text == 'x';
    }
    bool floating = kind == 'f' || kind == 'p';
    size_t n = w->graph->parameter.n + w->graph->input.n;
    mth__value *v = mth__graph_value(w->graph, floating ? MTH__VALUE_PARAMETER : MTH__VALUE_INPUT, names[n], floating ? MTH_FLOAT32 : kind == 'b' ? MTH_BOOL : MTH_INT32, shape);
    w->at[v->id] = whole(v->dtype, shape);
    for (int64_t i = 0; i < mth__shape_size(shape); i++) {
        double u = uniform(), sign = kind == 'f' && uniform() < 0.5 ? -1 : 1;
        w->at[v->id].data[i] = floating ? (float)(sign * (0.3 + 1.2 * u)) : floor(u * (double)limit);
    }
    return v;
}

/* ---------------------------------------------------------------- running nodes */
static mth_status reference(const mth__node *n, const mth__ref_value *in, mth__ref_value *out) {
    mth__ref_call c = {.op = n->op, .attrs = &n->attrs, .nin = n->nin, .nout = n->nout};
    for (int i = 0; i < n->nin; i++) c.in[i] = &in[i];
    for (int i = 0; i < n->nout; i++) c.out[i] = &out[i];
    return mth__ref_rows[mth__op_index(n->op)](&c);
}

static mth_status evaluate(world *w, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        const mth__node *n = w->graph->node.at[i];
        mth__ref_value in[MTH__MAX_IN], out[MTH__MAX_OUT];
        for (int j = 0; j < n->nin; j++) in[j] = w->at[n->in[j]->id];
        for (int j = 0; j < n->nout; j++) {
            mth__ref_value *v = &w->at[n->out[j]->id];
            if (!v->data) *v = whole(n->out[j]->dtype, n->out[j]->shape);
            out[j] = *v;
        }
        TRY(reference(n, in, out));
    }
    return NULL;
}

/* ---------------------------------------------------------------- gradients */
static double loss(world *w) {
    double sum = 0;
    for (size_t s = 0; s < w->graph->seed.n; s++)
        for (size_t o = 0; o < w->graph->output.n; o++)
            if (!w->graph->output.at[o].is_gradient && !strcmp(w->graph->output.at[o].name, w->graph->seed.at[s]->name)) {
                const mth__ref_value *y = &w->at[w->graph->output.at[o].value->id], *seed = &w->at[w->graph->seed.at[s]->id];
                for (int64_t i = 0; i < mth__shape_size(y->local); i++) sum += y->data[i] * seed->data[i];
            }
    return sum;
}

static mth_status differences(world *w, size_t forward, const char *name) {
    const double h = 1e-5;
    for (size_t o = 0; o < w->graph->output.n; o++) {
        const mth__output *g = &w->graph->output.at[o];
        for (size_t p = 0; g->is_gradient && p < w->graph->parameter.n; p++) {
            if (strcmp(g->of, w->graph->parameter.at[p]->name)) continue;
            mth__ref_value *x = &w->at[w->graph->parameter.at[p]->id];
            for (int64_t i = 0; i < mth__shape_size(x->local); i++) {
                double old = x->data[i], up, down, exact = w->at[g->value->id].data[i];
                x->data[i] = old + h;
                TRY(evaluate(w, 0, forward));
                up = loss(w);
                x->data[i] = old - h;
                TRY(evaluate(w, 0, forward));
                down = loss(w);
                x->data[i] = old;
                if (!(fabs((up - down) / (2 * h) - exact) < 1e-6 * (1 + fabs(exact)))) {
                    unit_failures++;
                    printf("  %s: d/d%s[%lld] is %g, differences give %g\n", name, g->of, (long long)i, exact, (up - down) / (2 * h));
                    i = INT64_MAX - 1;
                }
            }
        }
    }
    return evaluate(w, 0, forward);
}

/* ---------------------------------------------------------------- the native kernels */
static void *narrowed(const mth__ref_value *v) {
    void *data = mth__alloc(arena, (size_t)(mth__shape_size(v->local) + 1) * 8);
    for (int64_t i = 0; i < mth__shape_size(v->local); i++) {
        if (v->dtype == MTH_FLOAT32) ((float *)data)[i] = (float)v->data[i];
        else if (v->dtype == MTH_INT32) ((int32_t *)data)[i] = (int32_t)v->data[i];
        else ((uint8_t *)data)[i] = v->data[i] != 0;
    }
    return data;
}

static double element(const mth__operand *o, int64_t i) { return o->dtype == MTH_FLOAT32 ? ((float *)o->data)[i] : o->dtype == MTH_INT32 ? ((int32_t *)o->data)[i] : ((uint8_t *)o->data)[i]; }

static mth_status native(const mth__node *n, const mth__ref_value *in, const mth__ref_value *out, const char *name) {
    const mth__kernel *k = &mth__kernels[mth__op_index(n->op)];
    mth__operand operands[MTH__MAX_IN + MTH__MAX_OUT];
    mth__fault fault = {0};
    mth__call c = {.op = n->op, .attrs = &n->attrs, .nin = n->nin, .nout = n->nout, .in = operands, .out = operands + n->nin, .fault = &fault};
    for (int i = 0; i < n->nin + n->nout; i++) {
        const mth__ref_value *v = i < n->nin ? &in[i] : &out[i - n->nin];
        operands[i] = (mth__operand){.dtype = v->dtype, .shape = v->local, .global = v->global};
        memcpy(operands[i].start, v->start, sizeof v->start);
        memcpy(operands[i].step, v->step, sizeof v->step);
    }
    if (!k->run) return INTERNAL("%s has no native kernel: %s", n->op->name, k->reason);
    c.phases = 1;
    c.chunks[0] = 1;
    if (k->prepare) TRY(k->prepare(arena, &c));
    for (int i = 0; i < n->nin; i++) c.in[i].data = narrowed(&in[i]);
    for (int i = 0; i < n->nout; i++) {
        c.out[i].data = narrowed(&out[i]);
        memset(c.out[i].data, 0x5a, (size_t)mth__shape_size(out[i].local) * mth_dtype_size(out[i].dtype));
    }
    c.shared = mth__alloc(arena, c.call_scratch + 64);
    void *scratch = mth__alloc(arena, c.thread_scratch + 64);
    for (int p = 0; p < c.phases; p++)
        for (int i = 0; i < c.chunks[p]; i++) k->run(&c, p, i, scratch);
    CHECK(!atomic_load(&fault.set));
    for (int i = 0; i < n->nout; i++)
        for (int64_t j = 0; j < mth__shape_size(out[i].local); j++) {
            double is = element(&c.out[i], j), wanted = out[i].data[j];
            if (is == wanted || fabs(is - wanted) < 2e-5 * (1 + fabs(wanted))) continue;
            unit_failures++;
            printf("  %s: native %s, result %d element %lld is %g, the reference has %g\n", name, n->op->name, i, (long long)j, is, wanted);
            return NULL;
        }
    return NULL;
}

/* ---------------------------------------------------------------- factors */
/* The part of a whole value whose dimensions of the factor hold elements [from, from + size) of it. */
static mth__ref_value part_of(const mth__ref_value *v, const int8_t *factor, const int32_t *unit, int f, int64_t from, int64_t size, bool copy) {
    mth__ref_value p = *v;
    for (int d = 0; d < v->global.rank; d++)
        if (factor[d] == f) {
            p.start[d] = from * unit[d];
            p.local.dim[d] = size * unit[d];
        }
    p.data = NEW_ARRAY(arena, double, mth__shape_size(p.local) + 1);
    if (copy)
        FOR_EACH(at, p.local) {
            int64_t there[MTH__RANK] = {0};
            for (int d = 0; d < p.local.rank; d++) there[d] = p.start[d] + at[d];
            *mth__ref_at(&p, at) = *mth__ref_at(v, there);
        }
    return p;
}

static bool has(const int8_t *factor, int rank, int f) {
    for (int d = 0; d < rank; d++)
        if (factor[d] == f) return true;
    return false;
}

/* Rows that name tokens lie in blocks as their tokens do: cutting rows that were made for the whole is no such layout. */
static bool names_tokens(const mth__node *n) {
    switch (mth__op_index(n->op)) {
    case MTH__ROW_moe_rows: case MTH__ROW_moe_dispatch: case MTH__ROW_moe_dispatch_weighted: case MTH__ROW_moe_combine: case MTH__ROW_moe_combine_weights_grad: return true;
    default: return false;
    }
}

static mth_status split_in_two(const mth__node *n, const mth__rule *r, int f, const mth__ref_value *in, const mth__ref_value *out, const char *name) {
    int64_t size = r->factor[f].size, first = (size + 1) / 2;
    mth__ref_value sum[MTH__MAX_OUT];
    for (int o = 0; o < n->nout; o++) sum[o] = whole(out[o].dtype, out[o].global);
    for (int half = 0; half < 2; half++) {
        int64_t from = half ? first : 0, count = half ? size - first : first;
        mth__ref_value a[MTH__MAX_IN], y[MTH__MAX_OUT];
        for (int i = 0; i < n->nin; i++) a[i] = part_of(&in[i], r->in[i], r->in_unit[i], f, from, count, true);
        for (int o = 0; o < n->nout; o++) y[o] = part_of(&out[o], r->out[o], r->out_unit[o], f, from, count, false);
        TRY(reference(n, a, y));
        TRY(native(n, a, y, name));
        for (int o = 0; o < n->nout; o++)
            FOR_EACH(at, y[o].local) {
                int64_t there[MTH__RANK] = {0};
                for (int d = 0; d < y[o].local.rank; d++) there[d] = y[o].start[d] + at[d];
                double v = *mth__ref_at(&y[o], at), *s = mth__ref_at(&sum[o], there);
                bool lacks = !has(r->out[o], y[o].local.rank, f);
                *s = !lacks || half == 0 || r->factor[f].kind == MTH__PASS ? v : r->factor[f].kind == MTH__MAX ? fmax(*s, v) : *s + v;
            }
    }
    for (int o = 0; o < n->nout; o++)
        for (int64_t i = 0; i < mth__shape_size(out[o].local); i++) {
            double is = sum[o].data[i], wanted = out[o].data[i];
            if (is == wanted || fabs(is - wanted) < 1e-9 * (1 + fabs(wanted))) continue;
            unit_failures++;
            printf("  %s: %s split by factor %c: result %d element %lld is %g, whole it is %g\n", name, n->op->name, r->factor[f].letter ? r->factor[f].letter : '?', o, (long long)i, is, wanted);
            return NULL;
        }
    return NULL;
}

static mth_status check_node(world *w, const mth__node *n, const char *name) {
    mth__ref_value in[MTH__MAX_IN], out[MTH__MAX_OUT];
    mth__rule rule;
    for (int j = 0; j < n->nin; j++) in[j] = w->at[n->in[j]->id];
    for (int j = 0; j < n->nout; j++) out[j] = w->at[n->out[j]->id];
    seen[mth__op_index(n->op)] = true;
    TRY(native(n, in, out, name));
    mth__op_rule(n, &rule);
    for (int f = 0; f < rule.n; f++)
        if (rule.factor[f].kind != MTH__WHOLE && rule.factor[f].size > 1 && !(names_tokens(n) && rule.factor[f].letter == 't'))
            TRY(split_in_two(n, &rule, f, in, out, name));
    return NULL;
}

/* ---------------------------------------------------------------- cases */
static mth_status finish(world *w, const char *name) {
    bool seeded[8];
    size_t forward = w->graph->node.n, outputs = w->graph->output.n;
    bool differentiable = false;
    for (size_t o = 0; o < outputs; o++) differentiable |= seeded[o] = mth__is_float(w->graph->output.at[o].value->dtype) && w->graph->output.at[o].value->node->op->grad;
    if (differentiable) TRY(mth__gradients(w->graph, &(mth__gradient_options){.seeded = seeded}));
    for (size_t s = 0; s < w->graph->seed.n; s++) {
        mth__ref_value *v = &w->at[w->graph->seed.at[s]->id];
        *v = whole(MTH_FLOAT32, w->graph->seed.at[s]->shape);
        for (int64_t i = 0; i < mth__shape_size(v->local); i++) v->data[i] = (float)(uniform() - 0.5);
    }
    TRY(evaluate(w, 0, w->graph->node.n));
    if (strcmp(name, "cast") && strcmp(name, "stop")) TRY(differences(w, forward, name)); /* rounding has no slope, stop hides it */
    for (size_t i = 0; i < w->graph->node.n; i++) TRY(check_node(w, w->graph->node.at[i], name));
    return NULL;
}

static void output(world *w, const char *name, mth__value *v) { PUSH(arena, w->graph->output, (mth__output){.name = name, .value = v}); }

/* One row: operands, attributes; its first result is the output. */
typedef struct { const char *op, *operands; mth__attrs attrs; } one_row;
static const one_row rows[] = {
    {"neg", "f3x4", {.s = 0}}, {"exp", "f3x4", {.s = 0}}, {"log", "p3x4", {.s = 0}}, {"sqrt", "p3x4", {.s = 0}}, {"rsqrt", "p3x4", {.s = 0}}, {"reciprocal", "f3x4", {.s = 0}},
    {"square", "f3x4", {.s = 0}}, {"relu", "f3x4", {.s = 0}}, {"gelu", "f3x5", {.s = 0}}, {"gelu_tanh", "f3x5", {.s = 0}}, {"silu", "f3x5", {.s = 0}},
    {"sigmoid", "f2x3x4", {.s = 0}}, {"tanh", "f7", {.s = 0}}, {"copy", "f3x4", {.s = 0}}, {"scale", "f3x4", {.f = {-1.5}}}, {"shift", "f3x4", {.f = {0.25}}},
    {"cast", "f3x4", {.i = {MTH_FLOAT32}}}, {"cast", "i9:3x4", {.i = {MTH_FLOAT32}}}, {"stop", "f3x4", {.s = 0}}, {"neg", "f", {.s = 0}},
    {"add", "f3x4 f3x4", {.s = 0}}, {"add", "f3x4 f4", {.s = 0}}, {"sub", "f3x1 f2x3x4", {.s = 0}}, {"mul", "f3x4 f3x1", {.s = 0}}, {"div", "f5 f3x1", {.s = 0}},
    {"maximum", "f3x4 f3x4", {.s = 0}}, {"equal", "f3x4 f4", {.s = 0}}, {"mul", "f3x4 f", {.s = 0}}, {"dropout", "f5x7", {.i = {77}, .f = {0.3}}},
    {"contract", "f3x4x5 f5x6", {.s = "bsi,io->bso"}}, {"contract", "f4x3 f4x5", {.s = "ba,bc->ac"}}, {"contract", "f2x3x4 f2x5x4", {.s = "gab,gcb->gac"}},
    {"contract", "f3x4 f4x3", {.s = "ab,ba->"}}, {"contract", "f3 f4", {.s = "a,b->ba"}},
    {"reduce_sum", "f3x4x5", {.i = {2}}}, {"reduce_sum", "f3x4x5", {.i = {5, 1}}}, {"reduce_sum", "f3x4", {.i = {3}}}, {"reduce_max", "f3x4x5", {.i = {4}}},
    {"reduce_max", "f3x4x5", {.i = {3, 1}}}, {"broadcast_to", "f4", {.i = {3, 2, 3, 4}}}, {"broadcast_to", "f3x1", {.i = {2, 3, 4}}},
    {"reshape", "f4x6", {.i = {3, 4, 2, 3}}}, {"reshape", "f2x3x4", {.i = {2, 6, 4}}}, {"transpose", "f3x4x5", {.i = {3, 2, 0, 1}}}, {"transpose", "f3x4", {.i = {2, 1, 0}}},
    {"slice", "f3x6", {.i = {1, 1, 5}}}, {"pad", "f3x4", {.i = {0, 1, 2}}}, {"concat", "f3x2 f3x1 f3x4", {.i = {1}}},
    {"gather", "f7x4 i7:2x5", {.s = 0}}, {"pick", "f4x6 i6:4", {.s = 0}}, {"sinusoid", "", {.i = {5, 7}}}, {"rope", "f2x5x3x6", {.i = {1, 0, 0}, .f = {100}}},
    {"rope", "f2x5x6", {.i = {1, 1, 1}, .f = {10000}}}, {"softmax", "f3x5", {.i = {1}}}, {"softmax", "f2x4x3", {.i = {1}}},
    {"layer_norm", "f2x3x5 f5 f5", {.f = {1e-3}}}, {"rms_norm", "f2x3x5 f5", {.f = {1e-3}}},
    {"attention", "f2x3x2x2x4 f2x5x2x4 f2x5x2x3", {.i = {0}, .f = {0.5}}}, {"attention", "f2x5x2x2x4 f2x5x2x4 f2x5x2x3", {.i = {1}, .f = {0.5}}},
    {"attention", "f2x3x2x1x4 f2x5x2x4 f2x5x2x4 b2x5", {.i = {0}, .f = {0.5}}}, {"attention", "f1x4x1x3x2 f1x4x1x2 f1x4x1x2 i2:1x4", {.i = {1}, .f = {0.7}}},
};

static mth_status one(void *argument) {
    const one_row *c = argument;
    world *w = NEW(arena, world);
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){2}, &mesh));
    w->graph = mth__graph_new(arena, mesh);
    w->builder = (mth__builder){.graph = w->graph, .module = c->op, .region = -1, .stage = -1, .microbatch = -1};
    mth__value *in[8], *out[MTH__MAX_OUT];
    int n = 0;
    for (const char *s = c->operands; *s; s += strcspn(s, " "), s += *s == ' ') in[n++] = operand(w, s);
    TRY(mth__build(&w->builder, mth__op_find(c->op), &c->attrs, n, in, out));
    output(w, "y", out[0]);
    return finish(w, c->op);
}

/* Tokens through experts: every routed row, forward and backward. `gated` has no weights in combine, and a capacity. */
static mth_status experts(int64_t tokens, int64_t count, int64_t k, int activation, bool gated) {
    world *w = NEW(arena, world);
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){2}, &mesh));
    w->graph = mth__graph_new(arena, mesh);
    w->builder = (mth__builder){.graph = w->graph, .module = "moe", .region = -1, .stage = -1, .microbatch = -1};
    mth__builder *b = &w->builder;
    mth__value *logits = operand(w, mth__format(arena, "f%dx%d", (int)tokens, (int)count)), *x = operand(w, mth__format(arena, "f%dx3", (int)tokens));
    mth__value *up = operand(w, mth__format(arena, "f%dx3x4", (int)count)), *bias = operand(w, mth__format(arena, "f%dx4", (int)count)), *down = operand(w, mth__format(arena, "f%dx5x4", (int)count));
    mth__value *route[2], *kept[2], *rows, *h, *v, *z, *m, *y, *load;
    TRY(mth__build(b, mth__op_find("moe_route"), &(mth__attrs){.i = {k}}, 1, &logits, route));
    TRY(mth__build(b, mth__op_find("moe_capacity"), &(mth__attrs){.i = {gated ? 2 : tokens, count}}, 1, &route[1], kept));
    TRY(mth__build1(b, "moe_rows", &(mth__attrs){.i = {count}}, kept[0], &rows));
    TRY(mth__build2(b, "moe_dispatch", NULL, x, rows, &h));
    TRY(mth__build3(b, "moe_matmul", NULL, h, up, rows, &v));
    TRY(mth__build3(b, "moe_bias", NULL, v, bias, rows, &z));
    TRY(mth__build2(b, "moe_act", &(mth__attrs){.i = {activation}}, z, rows, &m));
    if (gated) TRY(mth__build3(b, "moe_mul", NULL, m, z, rows, &m));
    TRY(mth__build3(b, "moe_matmul", &(mth__attrs){.i = {1}}, m, down, rows, &y));
    mth__value *in[] = {y, rows, route[0], kept[0]};
    TRY(mth__build(b, mth__op_find("moe_combine"), NULL, gated ? 2 : 4, in, &y));
    TRY(mth__build1(b, "moe_count", &(mth__attrs){.i = {count}}, kept[0], &load));
    output(w, "y", y);
    output(w, "weights", route[0]);
    output(w, "load", load);
    return finish(w, "moe");
}
static mth_status few_experts(void *unused) { (void)unused; return experts(6, 3, 2, 1, false); }
static mth_status many_experts(void *unused) { (void)unused; return experts(5, 7, 1, 3, false); } /* some without a token */
static mth_status gated_experts(void *unused) { (void)unused; return experts(7, 3, 2, 2, true); }
static mth_status relu_experts(void *unused) { (void)unused; return experts(3, 2, 2, 0, false); }

static struct { mth_status (*body)(void *); const void *argument; } running;
static mth_status in_arena(void *unused) {
    (void)unused;
    arena = mth__arena_new();
    mth_status s = running.body((void *)running.argument);
    mth__arena_free(arena);
    return s;
}
static void run(mth_status (*body)(void *), const void *argument) {
    running.body = body;
    running.argument = argument;
    CHECK_STATUS(mth__guard(in_arena, NULL));
}

TEST(single_rows) {
    mth__kernels_open();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) run(one, &rows[i]);
}

TEST(routed_rows) {
    mth__kernels_open();
    run(few_experts, NULL);
    run(many_experts, NULL);
    run(gated_experts, NULL);
    run(relu_experts, NULL);
}

TEST(every_row_has_a_case) { /* runs last: after the rows above */
    for (size_t i = 0; i < mth__op_count(); i++) {
        const mth__op *op = mth__op_at(i);
        if (seen[mth__op_index(op)] || op->flags & MTH__COMM) continue;
        unit_failures++;
        printf("  no case reaches %s\n", op->name);
    }
}
RUN()
