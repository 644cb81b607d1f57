/* The operator table tests itself. For every row and random shapes: the gradient against finite differences, the claim
 * of linearity, every factor split in two, run on the parts and recombined, all with the reference engine's rows in
 * double precision and int64; and the native engine's kernel against the reference, whole and on the parts, beside its
 * operands, on top of them, and added to sums. A row without an example fails. */
#include "operator_trial.h"

enum { TRIALS = 40 };

/* ---------------------------------------------------------------- native against reference */
static mth__operand operand(const part *p, bool filled) {
    mth__operand o = {.dtype = p->v.dtype, .shape = p->v.local, .global = p->v.global};
    int64_t n = mth__shape_size(p->v.local);
    o.data = mth__alloc(arena, (size_t)(n + 1) * mth_dtype_size(o.dtype));
    for (int64_t i = 0; i < n; i++)
        element_put(o.dtype, o.data, i, filled ? p->v.data[i] : mth__ref_from_real(o.dtype, 77));
    memcpy(o.start, p->v.start, sizeof o.start);
    memcpy(o.step, p->v.step, sizeof o.step);
    return o;
}
/* Half a unit in the last place of 16 bits, relative. */
static double storage_error(mth_dtype dtype) {
    return dtype == MTH_BFLOAT16 ? 0x1p-8 : dtype == MTH_FLOAT16 ? 0x1p-11 : 0;
}
/* An error is measured by the largest element of its tensor, not by its own element and 1. */
static bool by_largest;
/* Nodes with operands of 16 bits that the native engine ran, and those that it refused. */
static int ran, refused;
/* over: by result, the operand on whose memory it lies, or -1. accumulates: results are added to what their memory
   holds. */
static mth_status native(const trial *t, const part *in, const part *expected, const int *over, bool accumulates) {
    const mth__op *op = t->node->op;
    const mth__kernel *kernel = &mth__kernels[op->row];
    mth__operand i[MTH__MAX_IN], o[MTH__MAX_OUT];
    mth__fault fault = {0};
    mth__call call = {.op = op,
        .attrs = &t->node->attrs,
        .nin = t->node->nin,
        .nout = t->node->nout,
        .in = i,
        .out = o,
        .fault = &fault,
        .accumulates = accumulates};
    double *sum[MTH__MAX_OUT] = {NULL};
    for (int j = 0; j < call.nin; j++) i[j] = operand(&in[j], true);
    for (int k = 0; k < call.nout; k++) o[k] = operand(&expected[k], false);
    bool in_place = false;
    for (int k = 0; k < call.nout; k++) {
        if (over[k] < 0) continue;
        o[k].data = i[over[k]].data;
        in_place = true;
    }
    for (int k = 0; k < call.nout; k++) {
        if (!accumulates || !(op->accumulates >> k & 1)) continue;
        const int64_t n = mth__shape_size(o[k].shape);
        sum[k] = NEW_ARRAY(arena, double, n + 1);
        for (int64_t e = 0; e < n; e++) {
            element_put_real(o[k].dtype, o[k].data, e, normal());
            sum[k][e] = element_real(o[k].dtype, o[k].data, e);
        }
    }
    TRY(kernel->prepare(arena, &call));
    call.shared = mth__alloc(arena, call.call_scratch + 64);
    void *scratch = mth__alloc(arena, call.thread_scratch + 64);
    for (int phase = 0; phase < call.phases; phase++)
        for (int k = 0; k < call.chunks[phase]; k++) kernel->run(&call, phase, k, scratch);
    if (atomic_load(&fault.set)) complain("fault", (double)fault.value, (double)fault.limit);
    /* The gradient of attention takes the sum of p * dp from an output that was rounded, which small sums show. */
    const double roundings = op->row == MTH__ROW_attention_grad ? 8 : 1;
    for (int k = 0; k < call.nout; k++) {
        const bool real = mth__is_float(o[k].dtype);
        double largest = 0;
        for (int64_t e = 0, n = mth__shape_size(o[k].shape); e < n && real; e++)
            largest = fmax(largest, fabs(expected[k].v.data[e].real));
        for (int64_t e = 0, n = mth__shape_size(o[k].shape); e < n; e++) {
            mth__ref_element want = expected[k].v.data[e];
            if (sum[k]) want.real += sum[k][e];
            const double measure = by_largest && real ? largest / (1 + fabs(want.real)) : 1;
            check_near(accumulates ? "native, added to a sum"
                    : in_place     ? "native, in place"
                                   : "native",
                o[k].dtype, element_get(o[k].dtype, o[k].data, e), want,
                (2e-5 + storage_error(o[k].dtype) * roundings) * measure);
        }
    }
    return NULL;
}
/* Each result from k on over each operand that it may lie on, no two over one, or beside all. */
static mth_status check_in_place(const trial *t, const part *in, const part *expected, int k, int *over) {
    if (k == t->node->nout) return native(t, in, expected, over, false);
    TRY(check_in_place(t, in, expected, k + 1, over));
    for (int j = 0; j < t->node->nin; j++) {
        bool taken = !mth__shape_equal(in[j].v.local, expected[k].v.local) || in[j].v.dtype != expected[k].v.dtype;
        for (int before = 0; before < k; before++) taken |= over[before] == j;
        if (taken) continue;
        over[k] = j;
        TRY(check_in_place(t, in, expected, k + 1, over));
        over[k] = -1;
    }
    return NULL;
}
static mth_status check_native(const trial *t, const part *in, const part *expected) {
    const mth__op *op = t->node->op;
    mth_dtype dtype = MTH_FLOAT32;
    for (int j = 0; j < t->node->nin; j++)
        if (t->node->in[j]->dtype == MTH_FLOAT64) dtype = MTH_FLOAT64;
    for (int k = 0; k < t->node->nout; k++)
        if (t->node->out[k]->dtype == MTH_FLOAT64) dtype = MTH_FLOAT64;
    /* the reference's alone; no kernel runs */
    if (dtype == MTH_FLOAT64 || (op->flags & MTH__ALIAS)) return NULL;
    int at;
    const char *reason = mth__kernel_lacks(t->node, &at);
    if (reason && mth__is_half(floating)) {
        refused++;
        return NULL;
    }
    if (reason) {
        complain(reason, 0, 1);
        return NULL;
    }
    ran += mth__is_half(floating);
    int over[MTH__MAX_OUT];
    for (int k = 0; k < MTH__MAX_OUT; k++) over[k] = -1;
    TRY(native(t, in, expected, over, false));
    if (op->accumulates && mth__is_float(expected[0].v.dtype)) TRY(native(t, in, expected, over, true));
    return op->flags & MTH__ELEMENTWISE ? check_in_place(t, in, expected, 0, over) : NULL;
}

/* ---------------------------------------------------------------- splits */
/* Part `which` of two of factor f; unit elements of this dimension an element of the factor. */
static mth__extent extent(const mth__rule *rule, int f, int32_t unit, int which, bool cyclic) {
    int64_t n = rule->factor[f].size, first = (n + 1) / 2;
    if (cyclic) return (mth__extent){which, which ? n - first : first, 2};
    return (mth__extent){which ? first * unit : 0, (which ? n - first : first) * unit, 1};
}
static mth__ref_value local_of(const mth__ref_value *whole, const mth__rule *rule, const int8_t *factor,
    const int32_t *unit, int f, int which, bool cyclic) {
    mth__shape shape = whole->global;
    mth__extent x[MTH__RANK];
    for (int d = 0; d < shape.rank; d++) {
        x[d] = factor[d] == f ? extent(rule, f, unit[d], which, cyclic) : (mth__extent){0, shape.dim[d], 1};
        shape.dim[d] = x[d].size;
    }
    mth__ref_value value = blank(whole->dtype, shape, whole->global);
    for (int d = 0; d < shape.rank; d++) {
        value.start[d] = x[d].start;
        value.step[d] = x[d].step;
    }
    return value;
}
/* Where in the whole tensor an element of a part belongs; -1: it is padding. */
static int64_t place_in_whole(const part *p, const int64_t *at) {
    int64_t index = 0;
    for (int d = 0; d < p->v.local.rank; d++) {
        int64_t g = mth__ref_global(&p->v, d, at[d]);
        if (p->kind == 'R' && d == 1) {
            int64_t e = mth__ref_global(&p->v, 0, at[0]), token = token_in(&p->v, e, at[1]);
            if (token < 0) return -1;
            g = 0;
            for (int64_t t = 0; t < token; t++) g += chose(t, e);
        }
        index = index * p->v.global.dim[d] + g;
    }
    return index;
}
/* The operands of a part, from the whole ones. */
static void hand_out(const trial *t, part *in) {
    for (int j = 0; j < t->node->nin; j++) {
        in[j].kind = t->in[j].kind;
        if (in[j].kind == 'w') {
            fill_rows(&in[j].v);
            continue;
        }
        FOR_EACH(at, in[j].v.local) {
            int64_t from = place_in_whole(&in[j], at);
            *mth__ref_element_at(&in[j].v, at) = from < 0 ? (mth__ref_element){.real = 1e3} : t->in[j].v.data[from];
        }
    }
}
static mth_status check_split(const trial *t, const mth__rule *rule, int f, bool cyclic) {
    const mth__node *node = t->node;
    part in[MTH__MAX_IN], out[MTH__MAX_OUT];
    double *sum[MTH__MAX_OUT];
    for (int k = 0; k < node->nout; k++) {
        int64_t elements = mth__shape_size(node->out[k]->shape);
        sum[k] = NEW_ARRAY(arena, double, elements + 1);
        for (int64_t i = 0; i < elements; i++) sum[k][i] = rule->factor[f].kind == MTH__MAX ? -INFINITY : 0;
    }
    for (int which = 0; which < 2; which++) {
        for (int j = 0; j < node->nin; j++)
            in[j].v = local_of(&t->in[j].v, rule, rule->in[j], rule->in_unit[j], f, which, cyclic);
        hand_out(t, in);
        for (int k = 0; k < node->nout; k++) {
            out[k].kind = t->out[k].kind;
            out[k].v = local_of(&t->out[k].v, rule, rule->out[k], rule->out_unit[k], f, which, cyclic);
        }
        TRY(compute(node->op, &node->attrs, node->nin, in, node->nout, out));
        for (int k = 0; k < node->nout; k++) {
            bool mapped = false;
            for (int d = 0; d < out[k].v.local.rank; d++) mapped |= rule->out[k][d] == f;
            bool partial = !mapped && rule->factor[f].kind != MTH__PASS;
            mth__ref_value rows = blank(MTH_INT32, out[k].v.local, out[k].v.global);
            memcpy(rows.start, out[k].v.start, sizeof rows.start);
            memcpy(rows.step, out[k].v.step, sizeof rows.step);
            if (out[k].kind == 'w') fill_rows(&rows);
            FOR_EACH(at, out[k].v.local) {
                const mth__ref_element x = *mth__ref_element_at(&out[k].v, at);
                const mth_dtype dtype = out[k].v.dtype;
                if (out[k].kind == 'w') {
                    check_near("rows of a part", dtype, x, *mth__ref_element_at(&rows, at), 0);
                    continue;
                }
                int64_t to = place_in_whole(&out[k], at);
                if (to < 0) {
                    check_near("padding of a part", dtype, x, (mth__ref_element){0}, 0);
                    continue;
                }
                if (!partial) check_near(mapped ? "a part" : "a copy", dtype, x, t->out[k].v.data[to], 1e-10);
                /* rows that compute take and give floats */
                if (partial && rule->factor[f].kind == MTH__SUM) sum[k][to] += x.real;
                if (partial && rule->factor[f].kind == MTH__MAX && x.real > sum[k][to]) sum[k][to] = x.real;
            }
            if (!partial || which == 0) continue;
            for (int64_t i = 0, e = mth__shape_size(node->out[k]->shape); i < e; i++)
                check_near("the parts combined", out[k].v.dtype, (mth__ref_element){.real = sum[k][i]},
                    t->out[k].v.data[i], 1e-10);
        }
        TRY(check_native(t, in, out));
    }
    return NULL;
}
/* A part of a factor that is not positional is a tensor like any other: computed alone, with the attributes that its
   row says, it is that part of the result. So is a box of a row that has such. */
static mth_status check_alone(const trial *t, const mth__rule *rule, int f) {
    const mth__node *node = t->node;
    const mth__op *op = node->op;
    bool read = false;
    int dimension = -1;
    for (int j = 0; j < node->nin; j++)
        for (int d = 0; d < t->in[j].v.global.rank; d++) read |= rule->in[j][d] == f;
    for (int d = 0; d < t->out[0].v.global.rank; d++)
        if (rule->out[0][d] == f) dimension = d;
    if (rule->factor[f].positional || !read || dimension < 0 || strpbrk(now->kinds, "wE")) return NULL;
    part in[MTH__MAX_IN], out[MTH__MAX_OUT], expected[MTH__MAX_OUT];
    mth__value *operand[MTH__MAX_IN], *result[MTH__MAX_OUT];
    mth__attrs attrs = node->attrs;
    for (int k = 0; k < node->nout; k++)
        expected[k].v = local_of(&t->out[k].v, rule, rule->out[k], rule->out_unit[k], f, 1, false);
    if (op->resize) op->resize(&attrs, dimension, expected[0].v.local.dim[dimension]);
    if (op->box && attrs.size) return NULL;
    if (op->box) op->box(&attrs, dimension, expected[0].v.start[dimension], expected[0].v.global.dim[dimension]);
    for (int j = 0; j < node->nin; j++) {
        in[j].v = local_of(&t->in[j].v, rule, rule->in[j], rule->in_unit[j], f, 1, false);
        in[j].kind = t->in[j].kind;
    }
    hand_out(t, in);
    for (int j = 0; j < node->nin; j++) {
        mth__ref_value alone = blank(in[j].v.dtype, in[j].v.local, in[j].v.local);
        alone.data = in[j].v.data;
        in[j].v = alone;
        operand[j] =
            mth__graph_value(t->graph, MTH__VALUE_INPUT, mth__format(arena, "alone%d", j), alone.dtype, alone.local);
    }
    mth__builder builder = {.graph = t->graph, .label = mth__label_outside("alone", MTH__FORWARD)};
    TRY(mth__build(&builder, op->row, &attrs, node->nin, operand, result));
    for (int k = 0; k < node->nout; k++) out[k].v = blank(result[k]->dtype, result[k]->shape, result[k]->shape);
    TRY(compute(op, &attrs, node->nin, in, node->nout, out));
    for (int k = 0; k < node->nout; k++) {
        bool mapped = false;
        for (int d = 0; d < expected[k].v.global.rank; d++) mapped |= rule->out[k][d] == f;
        if (!mapped) continue; /* a sum over it */
        if (!mth__shape_equal(out[k].v.local, expected[k].v.local)) complain("the shape of a part alone", 0, 1);
        FOR_EACH(at, expected[k].v.local) {
            part whole = {.v = expected[k].v, .kind = t->out[k].kind};
            check_near("a part alone", out[k].v.dtype, *mth__ref_element_at(&out[k].v, at),
                t->out[k].v.data[place_in_whole(&whole, at)], 1e-10);
        }
    }
    return NULL;
}
static mth_status check_splits(const trial *t) {
    mth__rule rule;
    mth__op_rule(t->node, &rule);
    for (int f = 0; f < rule.n; f++) {
        /* of size 1: the second part is empty */
        if (rule.factor[f].kind == MTH__WHOLE || rule.factor[f].size < 1) continue;
        TRY(check_split(t, &rule, f, false));
        if (rule.factor[f].kind == MTH__PASS) TRY(check_alone(t, &rule, f));
        /* experts dealt round robin */
        if (now->row >= MTH__ROW_moe_route && rule.factor[f].letter == 'e') TRY(check_split(t, &rule, f, true));
    }
    return NULL;
}

/* Routed rows gathered from two devices: the same values, in two blocks. */
static mth_status check_blocks(const trial *t) {
    const mth__node *node = t->node;
    if (!strchr(now->kinds, 'w') || now->row == MTH__ROW_moe_rows) return NULL;
    part in[MTH__MAX_IN], out[MTH__MAX_OUT];
    for (int j = 0; j < node->nin; j++) in[j].v = blank(t->in[j].v.dtype, t->in[j].v.local, t->in[j].v.global);
    for (int k = 0; k < node->nout; k++) {
        out[k].kind = t->out[k].kind;
        out[k].v = blank(t->out[k].v.dtype, t->out[k].v.local, t->out[k].v.global);
    }
    blocked = true;
    hand_out(t, in);
    TRY(compute(node->op, &node->attrs, node->nin, in, node->nout, out));
    for (int k = 0; k < node->nout; k++) FOR_EACH(at, out[k].v.local) {
            int64_t to = place_in_whole(&out[k], at);
            check_near("in blocks", out[k].v.dtype, *mth__ref_element_at(&out[k].v, at),
                to < 0 ? (mth__ref_element){0} : t->out[k].v.data[to], 1e-10);
        }
    blocked = false;
    return check_native(t, in, out);
}

/* ---------------------------------------------------------------- linearity: what may be a partial sum */
/* x is the sum of two terms: any, and x less that. A sum of bools, which is whether one is true, can't be less: x and
   false. */
static mth__ref_element first_term(mth_dtype dtype, mth__ref_element x) {
    return dtype == MTH_BOOL ? x : mth__ref_from_real(dtype, 5 * normal());
}
static mth__ref_element minus(mth_dtype dtype, mth__ref_element a, mth__ref_element b) {
    if (mth__is_float(dtype)) return (mth__ref_element){.real = a.real - b.real};
    return mth__ref_from_integer(dtype, (int64_t)((uint64_t)a.integer - (uint64_t)b.integer));
}
static mth_status check_linear_in(const trial *t, uint64_t operands) {
    const mth__node *node = t->node;
    part in[2][MTH__MAX_IN], out[2][MTH__MAX_OUT];
    for (int h = 0; h < 2; h++) {
        for (int j = 0; j < node->nin; j++) {
            in[h][j] = t->in[j];
            if (!(operands >> j & 1)) continue;
            in[h][j].v = blank(t->in[j].v.dtype, t->in[j].v.local, t->in[j].v.global);
            for (int64_t i = 0, e = mth__shape_size(t->in[j].v.local); i < e; i++)
                in[h][j].v.data[i] = h ? minus(t->in[j].v.dtype, t->in[j].v.data[i], in[0][j].v.data[i])
                                       : first_term(t->in[j].v.dtype, t->in[j].v.data[i]);
        }
        for (int k = 0; k < node->nout; k++) {
            out[h][k] = t->out[k];
            out[h][k].v = blank(t->out[k].v.dtype, t->out[k].v.local, t->out[k].v.global);
        }
        TRY(compute(node->op, &node->attrs, node->nin, in[h], node->nout, out[h]));
    }
    for (int k = 0; k < node->nout; k++)
        for (int64_t i = 0, e = mth__shape_size(node->out[k]->shape); i < e; i++)
            check_near("linear", node->out[k]->dtype,
                mth__ref_combine(node->out[k]->dtype, MTH__REDUCE_SUM, out[0][k].v.data[i], out[1][k].v.data[i]),
                t->out[k].v.data[i], 1e-9);
    return NULL;
}
static mth_status check_linear(const trial *t) {
    const mth__op *op = t->node->op;
    if (op->linear == MTH__LINEAR_JOINT) return check_linear_in(t, op->linear_args);
    for (int j = 0; op->linear == MTH__LINEAR_EACH && j < t->node->nin; j++)
        if (op->linear_args >> j & 1) TRY(check_linear_in(t, (uint64_t)1 << j));
    return NULL;
}

/* ---------------------------------------------------------------- gradients against finite differences */
/* by value id; those of inputs and seeds are set */
static mth_status run_graph(const mth__graph *graph, part *value) {
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        part in[MTH__MAX_IN], out[MTH__MAX_OUT];
        for (int j = 0; j < node->nin; j++) in[j] = value[node->in[j]->id];
        for (int k = 0; k < node->nout; k++)
            out[k].v = blank(node->out[k]->dtype, node->out[k]->shape, node->out[k]->shape);
        TRY(compute(node->op, &node->attrs, node->nin, in, node->nout, out));
        for (int k = 0; k < node->nout; k++) value[node->out[k]->id] = out[k];
    }
    return NULL;
}
static mth_status loss(const trial *t, const mth__ref_element *seed, double *out) {
    part y[MTH__MAX_OUT];
    for (int k = 0; k < t->node->nout; k++) y[k].v = blank(t->out[k].v.dtype, t->out[k].v.local, t->out[k].v.global);
    TRY(compute(t->node->op, &t->node->attrs, t->node->nin, (part *)t->in, t->node->nout, y));
    *out = 0;
    for (int64_t i = 0, n = mth__shape_size(y[0].v.local); i < n; i++) *out += seed[i].real * y[0].v.data[i].real;
    return NULL;
}
static mth_status check_gradient(const trial *t) {
    const mth__op *op = t->node->op;
    mth__graph *graph = t->graph;
    const char *wanted[MTH__MAX_IN];
    int which[MTH__MAX_IN];
    size_t n = 0;
    for (int j = 0; j < t->node->nin; j++)
        if (strchr("rpR", t->in[j].kind)) {
            wanted[n] = graph->input.at[j]->name;
            which[n++] = j;
        }
    if (n == 0 || !mth__is_float(t->node->out[0]->dtype) || op->grad == mth__grad_none) return NULL;
    PUSH(arena, graph->output, (mth__output){.name = "y", .value = t->node->out[0]});
    mth_status status = mth__gradients(graph, &(mth__gradient_options){wanted, n, (const bool[]){true}});
    if (!op->grad) {
        if (!status || mth_error_get_code(status) != MTH_ERROR_UNSUPPORTED)
            complain("has no gradient, which should be an error", 0, 0);
        mth_error_free(status);
        return NULL;
    }
    TRY(status);
    TRY(mth__graph_check(graph));
    part *value = NEW_ARRAY(arena, part, graph->values);
    for (int j = 0; j < t->node->nin; j++) value[t->node->in[j]->id] = t->in[j];
    part seed = {.v = blank(MTH_FLOAT32, t->node->out[0]->shape, t->node->out[0]->shape), .kind = t->out[0].kind};
    fill(&seed);
    value[graph->seed.at[0]->id] = seed;
    TRY(run_graph(graph, value));
    for (size_t w = 0; w < n; w++) {
        const part *p = &t->in[which[w]];
        const mth__ref_element *gradient = value[graph->output.at[1 + w].value->id].v.data;
        int64_t i = -1, every = mth__shape_size(p->v.local) / 20 + 1;
        FOR_EACH(at, p->v.local) {
            if (++i % every || place_in_whole(p, at) < 0) continue; /* gradients of padding are not read */
            double *x = &p->v.data[i].real, keep = *x, above, below, step = 1e-5;
            *x = keep + step;
            TRY(loss(t, seed.v.data, &above));
            *x = keep - step;
            TRY(loss(t, seed.v.data, &below));
            *x = keep;
            const double slope = (above - below) / (2 * step);
            if (!near(gradient[i].real, slope, 2e-5)) complain(wanted[w], gradient[i].real, slope);
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- long sums */
enum { MANY = 3000 };
static void many_i(int64_t *sizes, mth__attrs *attrs) {
    (void)attrs;
    sizes['i'] = MANY;
}
static void many_added(int64_t *sizes, mth__attrs *attrs) {
    sizes['b'] = MANY;
    attrs->dimensions = 2;
}
static void many_rows(int64_t *sizes, mth__attrs *attrs) {
    sizes['x'] = MANY;
    attrs->rows = sizes['v'];
}
static void many_positions(int64_t *sizes, mth__attrs *attrs) {
    (void)attrs;
    sizes['x'] = MANY;
}
static void wide(int64_t *sizes, mth__attrs *attrs) {
    sizes['d'] = MANY;
    attrs->epsilon = 0.1;
}
static void last_dimension(int64_t *sizes, mth__attrs *attrs) {
    sizes['c'] = MANY;
    attrs->dimension = 2;
}
static void many_keys(int64_t *sizes, mth__attrs *attrs) {
    sizes['t'] = MANY;
    attrs->scale = 0.6;
}
static void many_tokens(int64_t *sizes, mth__attrs *attrs) {
    (void)attrs;
    sizes['t'] = MANY;
    sizes['k'] = 1;
}
static void wide_rows(int64_t *sizes, mth__attrs *attrs) {
    (void)attrs;
    sizes['d'] = MANY;
}
/* Added up in 16 bits, sums of 3000 positive numbers stay at a tenth of what they are: beyond some hundreds the next
   number is less than half of the last place. */
static const example long_sums[] = {
    {ROW_OF(contract), "ai,io", "pp", many_i, .spec = "ai,io->ao"},
    {ROW_OF(contract), "ia,io", "pp", many_i, .spec = "ia,io->oa"},
    {ROW_OF(reduce_sum), "abc", "p", many_added},
    {ROW_OF(gather_grad), "x,xd", "ip", many_rows},
    {ROW_OF(softmax), "abc", "p", last_dimension},
    {ROW_OF(softmax_grad), "abc,abc", "pr", last_dimension},
    {ROW_OF(layer_norm), "xyd,d,d", "ppp", wide},
    {ROW_OF(layer_norm_grad), "xyd,d,xy,xy,xyd", "ppppp", many_positions},
    {ROW_OF(rms_norm), "xyd,d", "pp", wide},
    {ROW_OF(rms_norm_grad), "xyd,d,xy,xyd", "pppp", many_positions},
    {ROW_OF(attention), "bsgrd,btgd,btge", "ppp", many_keys},
    {ROW_OF(moe_matmul), "eti,eio,et", "Rrw>R", many_i},
    {ROW_OF(moe_outer), "eti,eto,et", "RRw", many_tokens},
    {ROW_OF(moe_bias_grad), "eto,et", "Rw", many_tokens},
    {ROW_OF(moe_combine_weights_grad), "etd,et,tk,td", "RwEr", wide_rows},
};
enum { LONG_SUMS = sizeof long_sums / sizeof *long_sums };

/* ---------------------------------------------------------------- all of it */
typedef struct {
    mth_status (*check)(const trial *);
    const example *of;
    int examples, trials;
} course;
static mth_status body(void *argument) {
    const course *run = argument;
    for (int x = 0; x < run->examples; x++) {
        now = &run->of[x];
        for (int i = 0; i < run->trials; i++) {
            srand((unsigned)(x * 1000 + i));
            arena = mth__arena_new();
            trial t = {0};
            TRY(begin(&t, now));
            TRY(run->check(&t));
            mth__arena_free(arena);
        }
    }
    return NULL;
}
static mth_status whole_native(const trial *t) { return check_native(t, t->in, t->out); }
static void all(mth_status (*check)(const trial *)) {
    mth__kernels_open();
    CHECK_STATUS(mth__guard(body, &(course){check, examples, EXAMPLES, TRIALS}));
}
/* The same with floating operands of each dtype of 16 bits. Says how many nodes the engine refuses: the reason and the
   fix of a refusal are tested in test_row_dtypes.c. */
static void all_of_16_bits(const example *of, int count, int trials) {
    static const mth_dtype halves[] = {MTH_BFLOAT16, MTH_FLOAT16};
    mth__kernels_open();
    ran = refused = 0;
    for (int h = 0; h < 2; h++) {
        floating = halves[h];
        CHECK_STATUS(mth__guard(body, &(course){whole_native, of, count, trials}));
    }
    floating = MTH_FLOAT32;
    printf("  of 16 bits: %d nodes run, %d refused\n", ran, refused);
    CHECK(ran + refused > 0);
}
/* With floating tensors of 16 bits. */
static void all_halves(mth_status (*check)(const trial *)) {
    floating = MTH_BFLOAT16;
    all(check);
    floating = MTH_FLOAT16;
    all(check);
    floating = MTH_FLOAT32;
}
TEST(every_row_has_an_example) {
    for (size_t i = 0; i < mth__op_count(); i++) {
        bool has = mth__op_at(i)->flags & MTH__COMM;
        for (int x = 0; x < EXAMPLES; x++) has |= examples[x].row == (int)i;
        if (!has) {
            unit_failures++;
            printf("  %s has no example in operator_examples.h\n", mth__op_at(i)->name);
        }
    }
}
TEST(gradients_are_finite_differences) { all(check_gradient); }
TEST(what_is_linear_adds_up) { all(check_linear); }
TEST(native_is_the_reference) { all(whole_native); }
TEST(native_is_the_reference_in_16_bits) { all_of_16_bits(examples, EXAMPLES, 10); }
TEST(long_sums_are_taken_in_the_dtype_of_sums) {
    by_largest = true;
    all_of_16_bits(long_sums, LONG_SUMS, 3);
    CHECK_STATUS(mth__guard(body, &(course){whole_native, long_sums, LONG_SUMS, 1})); /* in float32 */
    by_largest = false;
}
TEST(parts_make_the_whole) { all(check_splits); }
TEST(rows_may_stand_in_blocks) { all(check_blocks); }
TEST(parts_make_the_whole_in_16_bits) { all_halves(check_splits); }
TEST(rows_of_16_bits_may_stand_in_blocks) { all_halves(check_blocks); }
RUN()
