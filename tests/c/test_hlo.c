/* Rows as StableHLO against the reference engine: random examples on random uneven parts, corner cases of values,
 * dropout's bits, what a device keeps of what it holds, and the forms that contractions take. */
#include "hlo_case.h"
#include "base/philox.h"
#include "operator_examples.h"

static mth__arena *arena;
static mth__shape shape_of(int rank, const int64_t *dim) {
    mth__shape shape = {.rank = rank};
    for (int d = 0; d < rank; d++) shape.dim[d] = dim[d];
    return shape;
}
#define DIMS(...) shape_of((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})
static const double *normals(mth__shape shape) {
    double *x = NEW_ARRAY(arena, double, mth__shape_size(shape) + 1);
    for (int64_t i = 0; i < mth__shape_size(shape); i++) x[i] = normal();
    return x;
}
static void run_in_arena(mth_status (*body)(void *)) { CHECK_STATUS(mth__guard(body, NULL)); }

/* ---------------------------------------------------------------- random examples */
/* Which factor each axis of the mesh cuts, -1: none. */
static mth__sharding split_by(const hlo_module *m, const int *factor, bool cyclic, int rank, const int8_t *of,
    const int32_t *unit, mth__shape shape) {
    mth__sharding sharding = {.on = m->mesh->whole};
    for (int axis = 0; axis < m->mesh->naxes; axis++)
        for (int d = 0; d < rank; d++) {
            if (factor[axis] < 0 || of[d] != factor[axis]) continue;
            sharding.dim[d].axis[sharding.dim[d].naxes++] = (int8_t)axis;
            sharding.dim[d].grain = unit[d];
            sharding.dim[d].cyclic = cyclic && unit[d] == 1;
        }
    mth__sharding_canonical(&sharding, shape);
    return sharding;
}
static bool plain(const example *x) { return strspn(x->kinds, "rpulnimI") == strlen(x->kinds); }

static mth_status add_example(hlo_module *m, const example *x) {
    draw_sizes(9);
    mth__attrs attrs = {.spec = x->spec};
    if (x->attrs) x->attrs(size, &attrs);
    hlo_in in[MTH__MAX_IN];
    const int64_t *wide[MTH__MAX_IN];
    mth__value value[MTH__MAX_IN + MTH__MAX_OUT] = {0}, *at[MTH__MAX_IN + MTH__MAX_OUT];
    mth__node node = {.op = mth__op_at(x->row), .attrs = attrs, .in = at, .nout = 1};
    for (const char *s = node.op->results; *s; s++) node.nout += *s == ',';
    for (const char *c = x->shapes; c; node.nin++) {
        mth__shape shape = {0};
        for (; *c && *c != ','; c++) shape.dim[shape.rank++] = size[(int)*c];
        c = *c ? c + 1 : NULL;
        double *data = NEW_ARRAY(arena, double, mth__shape_size(shape) + 1);
        for (int64_t i = 0; i < mth__shape_size(shape); i++) data[i] = draw_value(x->kinds[node.nin]);
        int64_t *integers = x->kinds[node.nin] == 'I' ? NEW_ARRAY(arena, int64_t, mth__shape_size(shape) + 1) : NULL;
        for (int64_t i = 0; integers && i < mth__shape_size(shape); i++) integers[i] = draw_integer();
        in[node.nin] = (hlo_in){dtype_of(x, node.nin), shape, data, NULL};
        wide[node.nin] = integers;
    }
    for (int j = 0; j < node.nin + node.nout; j++) at[j] = &value[j];
    for (int j = 0; j < node.nin; j++) value[j] = (mth__value){.dtype = in[j].dtype, .shape = in[j].shape};
    node.out = at + node.nin;
    TRY(mth__op_infer(&node));
    mth__rule rule;
    mth__op_rule(&node, &rule);
    int factor[MTH__AXES];
    bool cyclic = m->mesh->naxes == 1 && draw(0, 5) == 0;
    for (int i = 0; i < m->mesh->naxes; i++) {
        factor[i] = rule.n && draw(0, 5) ? (int)draw(0, rule.n - 1) : -1;
        if (factor[i] >= 0 && rule.factor[factor[i]].kind == MTH__WHOLE) factor[i] = -1;
    }
    /* Where a factor is cut by more than one element somewhere, as a reshape's may be, no part is cyclic. */
    for (int j = 0; j < node.nin + node.nout; j++)
        for (int d = 0; d < at[j]->shape.rank; d++)
            cyclic &= (j < node.nin ? rule.in_unit[j][d] : rule.out_unit[j - node.nin][d]) == 1;
    mth__sharding *sharding = NEW_ARRAY(arena, mth__sharding, MTH__MAX_IN + MTH__MAX_OUT);
    for (int j = 0; j < node.nin; j++) {
        sharding[j] = split_by(m, factor, cyclic, in[j].shape.rank, rule.in[j], rule.in_unit[j], in[j].shape);
        in[j].sharding = &sharding[j];
    }
    mth__sharding *out = sharding + node.nin;
    for (int k = 0; k < node.nout; k++)
        out[k] =
            split_by(m, factor, cyclic, node.out[k]->shape.rank, rule.out[k], rule.out_unit[k], node.out[k]->shape);
    TRY(hlo_add(m, x->row, &attrs, node.nin, in, out));
    memcpy(m->at[m->cases - 1].integers, wide, (size_t)node.nin * sizeof *wide);
    /* most is not the largest of these scores: large p */
    if (x->row == MTH__ROW_attention_grad) m->at[m->cases - 1].tolerance = 1e-4;
    return NULL;
}
static mth_status random_examples(void *unused) {
    (void)unused;
    static const struct {
        int naxes;
        int64_t dim[2];
    } mesh[] = {{1, {1}}, {1, {3}}, {1, {4}}, {2, {2, 2}}, {1, {2}}};
    for (int trial = 0; trial < 5; trial++) {
        srand((unsigned)trial);
        for (int x = 0; x < EXAMPLES;) {
            arena = mth__arena_new();
            hlo_module *m = hlo_begin(arena, mesh[trial].naxes, mesh[trial].dim);
            for (; x < EXAMPLES && m->cases < HLO_CASES; x++)
                if (plain(&examples[x])) TRY(add_example(m, &examples[x]));
            TRY(hlo_run(m));
            mth__arena_free(arena);
        }
    }
    return NULL;
}
TEST(rows_on_random_parts) { run_in_arena(random_examples); }

/* ---------------------------------------------------------------- corner cases */
static mth_status corners(void *unused) {
    (void)unused;
    static const double x[] = {
        0, -0.0, 1, -1, INFINITY, -INFINITY, NAN, 0.5, -0.5, 20, -20, 90, -90, 3e38, -3e38, 1e-30};
    enum { N = sizeof x / sizeof *x };
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){1});
    const mth__sharding *whole = &(mth__sharding){.on = m->mesh->whole};
    double *left = NEW_ARRAY(arena, double, N *N), *right = NEW_ARRAY(arena, double, N *N);
    for (int i = 0; i < N * N; i++) {
        left[i] = x[i / N];
        right[i] = x[i % N];
    }
    static const int unary[] = {MTH__ROW_neg, MTH__ROW_exp, MTH__ROW_log, MTH__ROW_sqrt, MTH__ROW_rsqrt,
        MTH__ROW_reciprocal, MTH__ROW_square, MTH__ROW_relu, MTH__ROW_gelu, MTH__ROW_gelu_tanh, MTH__ROW_silu,
        MTH__ROW_sigmoid, MTH__ROW_tanh, MTH__ROW_copy, MTH__ROW_stop};
    for (size_t i = 0; i < sizeof unary / sizeof *unary; i++) {
        double *v = NEW_ARRAY(arena, double, N);
        /* erf of some plugins: not quite -1 */
        for (int k = 0; k < N; k++) v[k] = unary[i] == MTH__ROW_gelu && fabs(x[k]) > 1e3 ? 1 : x[k];
        TRY(hlo_add(m, unary[i], NULL, 1, (hlo_in[]){{MTH_FLOAT32, DIMS(N), v, whole}}, whole));
    }
    static const int binary[] = {
        MTH__ROW_add, MTH__ROW_sub, MTH__ROW_mul, MTH__ROW_div, MTH__ROW_maximum, MTH__ROW_equal};
    for (size_t i = 0; i < sizeof binary / sizeof *binary; i++)
        TRY(hlo_add(m, binary[i], NULL, 2,
            (hlo_in[]){{MTH_FLOAT32, DIMS(N * N), left, whole}, {MTH_FLOAT32, DIMS(N * N), right, whole}}, whole));
    for (int max = 0; max < 2; max++)
        TRY(hlo_add(m, max ? MTH__ROW_reduce_max : MTH__ROW_reduce_sum, &(mth__attrs){.dimensions = 2}, 1,
            (hlo_in[]){{MTH_FLOAT32, DIMS(N, N), left, whole}}, whole));
    TRY(hlo_add(
        m, MTH__ROW_cast, &(mth__attrs){.dtype = MTH_BOOL}, 1, (hlo_in[]){{MTH_FLOAT32, DIMS(N), x, whole}}, whole));
    static const double whole_numbers[] = {0, 1, -1, 1e9, -2147483648.0, 2147483647.0, 16777217, -16777219};
    static const mth_dtype dtype[] = {MTH_FLOAT32, MTH_FLOAT64, MTH_INT32, MTH_INT64, MTH_BOOL};
    for (int from = 0; from < 5; from++)
        for (int to = 0; to < 5; to++) {
            double *v = NEW_ARRAY(arena, double, 8);
            for (int i = 0; i < 8; i++) v[i] = mth__is_float(dtype[from]) && i > 3 ? normal() * 100 : whole_numbers[i];
            TRY(hlo_add(m, MTH__ROW_cast, &(mth__attrs){.dtype = dtype[to]}, 1,
                (hlo_in[]){{dtype[from], DIMS(8), v, whole}}, whole));
            m->at[m->cases - 1].tolerance = 0;
        }
    static const double past[] = {
        NAN, INFINITY, -INFINITY, 3e38, -3e38, 0x1p31, -0x1p31 - 0x1p8, 0x1p63, -0x1p64, 0x1p31 - 0x1p8};
    for (int from = 0; from < 2; from++)
        for (int to = 2; to < 5; to++)
            TRY(hlo_add(m, MTH__ROW_cast, &(mth__attrs){.dtype = dtype[to]}, 1,
                (hlo_in[]){{dtype[from], DIMS(10), past, whole}}, whole));
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(corner_cases_of_values) { run_in_arena(corners); }

/* Gradients of activations at the points where pieces meet, dy finite. */
static mth_status slopes(void *unused) {
    (void)unused;
    static const double x[] = {0, -0.0, 1e-30, -1e-30, 1, -1, 5, -5, 12, -12, 100, -100, 1e10, -1e10, 0.7, -0.7};
    enum { N = sizeof x / sizeof *x };
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){1});
    const mth__sharding *whole = &(mth__sharding){.on = m->mesh->whole};
    const double *dy = normals(DIMS(N));
    for (int row = MTH__ROW_relu_grad; row <= MTH__ROW_silu_grad; row++) {
        TRY(hlo_add(
            m, row, NULL, 2, (hlo_in[]){{MTH_FLOAT32, DIMS(N), x, whole}, {MTH_FLOAT32, DIMS(N), dy, whole}}, whole));
        m->at[m->cases - 1].tolerance = 2e-6;
    }
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(slopes_of_activations) { run_in_arena(slopes); }

/* ---------------------------------------------------------------- dropout */
static mth_status bits_of_dropout(void *unused) {
    (void)unused;
    static const struct {
        int64_t key, dimension, start, size;
        double rate;
    } draws[] = {{0, 0, 0, 0, 0.5}, {-1, 0, 0, 0, 0.1}, {0x123456789abcdef, 1, 3, 40, 0.9},
        {7, 0, 0xffffffff, (int64_t)1 << 34, 0.5}, {7, 0, 0, 0, 0}, {7, 0, 0, 0, 1 - 0x1p-40}, {7, 2, 0, 5, 0x1p-33}};
    const mth__shape shape = DIMS(6, 7, 5);
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 2, (int64_t[]){2, 2});
    mth__sharding split = {
        .on = m->mesh->whole, .dim = {{.naxes = 1, .axis = {1}, .cyclic = true}, {.naxes = 1, .axis = {0}}}};
    const double *x = normals(shape);
    for (size_t i = 0; i < sizeof draws / sizeof *draws; i++) {
        mth__attrs attrs = {.key = draws[i].key,
            .dimension = draws[i].dimension,
            .start = draws[i].start,
            .size = draws[i].size,
            .probability = draws[i].rate};
        TRY(hlo_add(m, MTH__ROW_dropout, &attrs, 1, (hlo_in[]){{MTH_FLOAT32, shape, x, &split}}, &split));
    }
    void *got[7 * 4];
    TRY(hlo_run_to(m, got));
    for (int p = 0; hlo_client && p < m->count; p++)
        for (int i = 0; i < m->cases; i++) {
            const mth__hlo_part *part = m->at[i].out[0].part;
            mth__ref_value v = hlo_ref(m, part, p);
            mth__shape of = shape; /* the tensor that is a box of */
            if (draws[i].size) of.dim[draws[i].dimension] = draws[i].size;
            FOR_EACH(at, v.local) {
                int64_t global[MTH__RANK];
                uint32_t word[4];
                for (int d = 0; d < 3; d++) global[d] = mth__ref_global(&v, d, at[d]);
                const float value = (float)x[hlo_flat(shape, global)];
                if (draws[i].size) global[draws[i].dimension] += draws[i].start;
                mth__philox((uint64_t)draws[i].key, (uint64_t)hlo_flat(of, global), 0, word);
                const float want = word[0] * 0x1p-32 >= draws[i].rate ? value * (float)(1 / (1 - draws[i].rate)) : 0;
                CHECK(((float *)got[p * m->nout + i])[hlo_flat(part->local, at)] == want);
            }
        }
    mth__arena_free(arena);
    return NULL;
}
TEST(dropout_has_the_bits_of_every_engine) { run_in_arena(bits_of_dropout); }

/* ---------------------------------------------------------------- keep */
/* cuts what `of` leaves whole */
static mth__sharding random_split(const hlo_module *m, mth__shape shape, mth__sharding of) {
    for (int axis = 0; axis < m->mesh->naxes; axis++) {
        const int d = (int)draw(0, shape.rank);
        if (d == shape.rank || mth__sharding_axes(&of, shape.rank) >> axis & 1 || of.dim[d].cyclic) continue;
        of.dim[d].axis[of.dim[d].naxes++] = (int8_t)axis;
        if (of.dim[d].naxes == 1) of.dim[d].cyclic = draw(0, 2) == 0;
        if (of.dim[d].naxes == 1 && !of.dim[d].cyclic && draw(0, 2) == 0) of.dim[d].grain = (int32_t)draw(2, 3);
    }
    mth__sharding_canonical(&of, shape);
    return of;
}
static mth_status kept_parts(void *unused) {
    (void)unused;
    srand(3);
    for (int trial = 0; trial < 3; trial++) {
        arena = mth__arena_new();
        hlo_module *m = trial ? hlo_begin(arena, 1, (int64_t[]){2 + trial}) : hlo_begin(arena, 2, (int64_t[]){2, 2});
        while (m->cases < HLO_CASES) {
            const mth__shape shape = DIMS(draw(0, 9) ? draw(1, 11) : 0, draw(1, 9), draw(1, 5));
            mth__sharding *from = NEW(arena, mth__sharding);
            *from = (mth__sharding){.on = m->mesh->whole};
            if (draw(0, 1)) *from = random_split(m, shape, *from);
            const mth__sharding to = random_split(m, shape, *from);
            const mth_dtype dtype = (mth_dtype[]){MTH_FLOAT32, MTH_INT32, MTH_BOOL}[draw(0, 2)];
            double *x = NEW_ARRAY(arena, double, mth__shape_size(shape) + 1);
            for (int64_t i = 0; i < mth__shape_size(shape); i++)
                x[i] = dtype == MTH_BOOL ? (double)draw(0, 1) : (double)i;
            TRY(hlo_add(m, MTH__ROW_keep, NULL, 1, (hlo_in[]){{dtype, shape, x, from}}, &to));
            m->at[m->cases - 1].tolerance = 0;
        }
        TRY(hlo_run(m));
        mth__arena_free(arena);
    }
    return NULL;
}
TEST(keep_takes_its_part) { run_in_arena(kept_parts); }

/* ---------------------------------------------------------------- sums of long rows */
static mth_status long_rows(void *unused) {
    (void)unused;
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){2});
    const mth__shape shape = DIMS(3, 2, 257, 300);
    for (int d = 0; d < 3; d++) {
        mth__sharding split = {.on = m->mesh->whole}, out = split;
        split.dim[d].naxes = 1;
        out.dim[0].naxes = d == 2;
        TRY(hlo_add(m, MTH__ROW_reduce_sum, &(mth__attrs){.dimensions = 3}, 1,
            (hlo_in[]){{MTH_FLOAT32, shape, normals(shape), &split}}, &out));
    }
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(sums_of_long_rows) { run_in_arena(long_rows); }

/* ---------------------------------------------------------------- forms */
static mth_status forms(void *unused) {
    (void)unused;
    static const struct {
        const char *spec;
        int rank[2];
        bool transposed;
    } spec[] = {{"bsi,io->bso", {3, 2}, false}, {"bso,io->bsi", {3, 2}, false}, {"bsi,bso->io", {3, 3}, false},
        {"ab,bc->ca", {2, 2}, false}, {"bhsd,bhtd->bhst", {4, 4}, false}, {"bhst,bhtd->bhsd", {4, 4}, false},
        {"bhst,bthd->bshd", {4, 4}, true}};
    arena = mth__arena_new();
    for (size_t i = 0; i < sizeof spec / sizeof *spec; i++) {
        hlo_module *m = hlo_begin(arena, 1, (int64_t[]){1});
        const mth__sharding *whole = &(mth__sharding){.on = m->mesh->whole};
        const mth__shape shape[2] = {{spec[i].rank[0], {2, 2, 2, 2}}, {spec[i].rank[1], {2, 2, 2, 2}}};
        TRY(hlo_add(m, MTH__ROW_contract, &(mth__attrs){.spec = spec[i].spec}, 2,
            (hlo_in[]){
                {MTH_FLOAT32, shape[0], normals(shape[0]), whole}, {MTH_FLOAT32, shape[1], normals(shape[1]), whole}},
            whole));
        hlo_write(m);
        CHECK((strstr(m->text.at, "stablehlo.transpose") != NULL) == spec[i].transposed);
        CHECK(!strstr(m->text.at, "stablehlo.reshape"));
    }
    mth__arena_free(arena);
    return NULL;
}
TEST(contractions_move_no_more_than_they_must) { run_in_arena(forms); }

/* Where XLA would add up in one chain; an operand whose terms lie in a row stays as it is. */
static mth_status long_sums(void *unused) {
    (void)unused;
    enum { WHOLE, PANELS, WIDER };
    static const struct {
        const char *spec;
        mth__shape a, b;
        int form;
    } sum[] = {{"ab,bc->ac", {2, {1, 8192}}, {2, {8192, 5}}, PANELS},
        {"ab,bc->ca", {2, {1, 5000}}, {2, {5000, 5}}, PANELS}, {"ba,bc->ac", {2, {6000, 7}}, {2, {6000, 1}}, PANELS},
        {"ba,bc->ac", {2, {6000, 3}}, {2, {6000, 2}}, PANELS},
        {"abk,abn->kn", {3, {9, 700, 1}}, {3, {9, 700, 6}}, PANELS},
        {"bak,abn->kn", {3, {700, 9, 1}}, {3, {9, 700, 6}}, PANELS},
        {"xab,xbc->xac", {3, {3, 1, 4608}}, {3, {3, 4608, 4}}, PANELS},
        {"ba,bc->ac", {2, {5003, 1}}, {2, {5003, 6}}, WIDER}, {"ba,bc->ac", {2, {5003, 2}}, {2, {5003, 2}}, WIDER},
        {"ab,bc->ac", {2, {5, 8192}}, {2, {8192, 1}}, WHOLE}, {"ba,bc->ac", {2, {8192, 4}}, {2, {8192, 2}}, WHOLE},
        {"ab,bc->ac", {2, {1, 4095}}, {2, {4095, 4}}, WHOLE}};
    arena = mth__arena_new();
    hlo_module *all = hlo_begin(arena, 1, (int64_t[]){1});
    const mth__sharding *whole = &(mth__sharding){.on = all->mesh->whole};
    for (size_t i = 0; i < sizeof sum / sizeof *sum; i++) {
        const mth__attrs attrs = {.spec = sum[i].spec};
        const hlo_in in[2] = {
            {MTH_FLOAT32, sum[i].a, normals(sum[i].a), whole}, {MTH_FLOAT32, sum[i].b, normals(sum[i].b), whole}};
        hlo_module *one = hlo_begin(arena, 1, (int64_t[]){1});
        TRY(hlo_add(one, MTH__ROW_contract, &attrs, 2, in, whole));
        hlo_write(one);
        CHECK((strstr(one->text.at, "stablehlo.reduce") != NULL) == (sum[i].form == PANELS));
        CHECK((strstr(one->text.at, "stablehlo.pad") != NULL) == (sum[i].form == WIDER));
        TRY(hlo_add(all, MTH__ROW_contract, &attrs, 2, in, whole));
        all->at[i].tolerance = 1e-4; /* the terms are normal: their sum is some 70 times as large */
    }
    TRY(hlo_run(all));
    mth__arena_free(arena);
    return NULL;
}
TEST(long_sums_are_no_chains) { run_in_arena(long_sums); }
RUN()
