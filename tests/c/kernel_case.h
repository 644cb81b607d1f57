/* A case of one kernel: runs it with the chunks of each phase in both directions, which must give the same bits, and
 * compares it with the reference engine's row, floats in double and integers as they are; then, where the row
 * accumulates, added to sums. */
#ifndef KERNEL_CASE_H
#define KERNEL_CASE_H
#include "elements.h"
#include "unit.h"
#include "base/arena.h"
#include "base/philox.h"
#include "catalog/op.h"
#include "engine/native/kernel.h"
#include "engine/native/kernel_vector.h"
#include "engine/reference/reference.h"

enum { MOST = 8 };
typedef struct {
    mth__operand o;
    mth__ref_value r;
    int64_t n;
} tensor;
typedef struct {
    int row;
    mth__attrs attrs;
    int nin, nout;
    tensor in[MOST], out[MOST];
    double tolerance;
    bool in_place;
} test_case;
static uint64_t counter;

static double uniform(void) {
    uint32_t w[4];
    mth__philox(5, counter++, 0, w);
    return w[0] * 0x1p-32;
}
static double normal(void) { return 1.5 * (uniform() + uniform() + uniform() + uniform() - 2); }
#define SHAPE(...)                                                                                                     \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static tensor make(mth_dtype dtype, int rank, const int64_t *dim) {
    tensor t = {.o = {.dtype = dtype}, .n = 1};
    t.o.shape.rank = rank;
    for (int d = 0; d < rank; d++) {
        t.n *= t.o.shape.dim[d] = dim[d];
        t.o.step[d] = 1;
    }
    t.o.global = t.o.shape;
    t.o.data = mth__malloc((size_t)t.n * 8 + 64);
    t.r.data = mth__malloc((size_t)t.n * 8 + 64);
    return t;
}
static void set(tensor *t, int64_t i, double x) {
    element_put_real(t->o.dtype, t->o.data, i, x);
    t->r.data[i] = element_get(t->o.dtype, t->o.data, i);
}
static double get(const tensor *t, int64_t i) { return element_real(t->o.dtype, t->o.data, i); }
static double known(const tensor *t, int64_t i) { return mth__ref_as_real(t->o.dtype, t->r.data[i]); }
static tensor floats(int rank, const int64_t *dim) {
    tensor t = make(MTH_FLOAT32, rank, dim);
    for (int64_t i = 0; i < t.n; i++) set(&t, i, normal());
    return t;
}
static tensor positive(int rank, const int64_t *dim) {
    tensor t = make(MTH_FLOAT32, rank, dim);
    for (int64_t i = 0; i < t.n; i++) set(&t, i, 0.05 + 3 * uniform());
    return t;
}
static tensor ints(mth_dtype dtype, int64_t limit, int rank, const int64_t *dim) {
    tensor t = make(dtype, rank, dim);
    for (int64_t i = 0; i < t.n; i++) set(&t, i, floor(uniform() * (double)limit));
    return t;
}
/* Integers of all sizes, most of which no float has. */
static tensor wide_ints(mth_dtype dtype, int rank, const int64_t *dim) {
    static const int64_t some[] = {
        0, -1, (INT64_C(1) << 53) + 1, -(INT64_C(1) << 53) - 1, INT64_MIN, INT64_MAX, INT32_MIN, INT32_MAX};
    tensor t = make(dtype, rank, dim);
    for (int64_t i = 0; i < t.n; i++) {
        uint32_t w[4];
        mth__philox(6, counter++, 0, w);
        const int64_t x = w[0] % 3 ? some[w[1] % 8] : (int64_t)((uint64_t)w[2] << 32 | w[3]);
        element_put(dtype, t.o.data, i, mth__ref_from_integer(dtype, x));
        t.r.data[i] = element_get(dtype, t.o.data, i);
    }
    return t;
}
static tensor blank(mth_dtype dtype, int rank, const int64_t *dim) {
    tensor t = make(dtype, rank, dim);
    memset(t.o.data, 0xff, (size_t)t.n * mth_dtype_size(dtype)); /* NaN, -1 */
    return t;
}
static tensor part(tensor t, int d, int64_t global, int64_t start, int64_t step) {
    t.o.global.dim[d] = global;
    t.o.start[d] = start;
    t.o.step[d] = step;
    return t;
}
static void drop(tensor *t) {
    mth__free(t->o.data);
    mth__free(t->r.data);
}

/* Runs the kernel; `backward` takes the chunks of a phase from the last. */
typedef struct {
    test_case *t;
    bool backward, accumulates;
    mth__fault *fault;
    int chunks, most_chunks;
} job;
static mth_status run_body(void *arguments) {
    job *j = arguments;
    test_case *t = j->t;
    mth__arena *arena = mth__arena_new();
    mth__operand in[MOST], out[MOST];
    for (int i = 0; i < t->nin; i++) {
        in[i] = t->in[i].o;
        in[i].data = NULL;
    }
    for (int i = 0; i < t->nout; i++) {
        out[i] = t->out[i].o;
        out[i].data = NULL;
    }
    mth__call c = {.op = mth__op_at((size_t)t->row),
        .attrs = &t->attrs,
        .nin = t->nin,
        .nout = t->nout,
        .in = in,
        .out = out,
        .fault = j->fault,
        .accumulates = j->accumulates};
    TRY(mth__kernels[t->row].prepare(arena, &c));
    for (int i = 0; i < t->nin; i++) in[i].data = t->in[i].o.data;
    for (int i = 0; i < t->nout; i++) out[i].data = t->out[i].o.data;
    if (t->in_place) {
        memcpy(out[0].data, in[t->nin - 1].data, (size_t)t->out[0].n * 4);
        in[t->nin - 1].data = out[0].data;
    }
    c.shared = mth__malloc(c.call_scratch + 1);
    void *scratch = mth__malloc(c.thread_scratch + 1);
    memset(c.shared, 0xff, c.call_scratch);
    for (int p = 0; p < c.phases; p++)
        for (int i = 0; i < c.chunks[p]; i++) {
            memset(scratch, 0xff, c.thread_scratch);
            mth__kernels[t->row].run(&c, p, j->backward ? c.chunks[p] - 1 - i : i, scratch);
        }
    j->chunks = c.chunks[0];
    for (int p = 0; p < c.phases; p++)
        if (c.chunks[p] > j->most_chunks) j->most_chunks = c.chunks[p];
    mth__free(scratch);
    mth__free(c.shared);
    mth__arena_free(arena);
    return NULL;
}
static mth__ref_value *ref_value(tensor *t) {
    t->r.dtype = t->o.dtype;
    t->r.local = t->o.shape;
    t->r.global = t->o.global;
    memcpy(t->r.start, t->o.start, sizeof t->r.start);
    memcpy(t->r.step, t->o.step, sizeof t->r.step);
    t->r.here = true;
    return &t->r;
}
/* The reference's results are known: what they are added to comes on top of them. */
static void check_sums(const char *file, int line, test_case *t) {
    const mth__op *op = mth__op_at((size_t)t->row);
    double *sum[MOST] = {NULL};
    for (int o = 0; o < t->nout; o++) {
        memset(t->out[o].o.data, 0xff, (size_t)t->out[o].n * mth_dtype_size(t->out[o].o.dtype));
        if (!(op->accumulates >> o & 1)) continue;
        sum[o] = mth__malloc((size_t)t->out[o].n * sizeof(double) + 1);
        for (int64_t i = 0; i < t->out[o].n; i++) {
            sum[o][i] = (double)(float)normal();
            element_put_real(t->out[o].o.dtype, t->out[o].o.data, i, sum[o][i]);
        }
    }
    CHECK_STATUS(mth__guard(run_body, &(job){.t = t, .accumulates = true}));
    for (int o = 0; o < t->nout; o++) {
        double most = 1, worst = 0;
        for (int64_t i = 0; i < t->out[o].n; i++) {
            const double want = known(&t->out[o], i) + (sum[o] ? sum[o][i] : 0), got = get(&t->out[o], i);
            most = fmax(most, isfinite(want) ? fabs(want) : 0);
            const double error = want == got || (isnan(want) && isnan(got)) ? 0 : fabs(got - want);
            if (!(error <= worst)) worst = error;
        }
        if (!(worst <= most * (t->tolerance > 0 ? t->tolerance : 2e-6))) {
            unit_failures++;
            printf("  %s:%d: %s: result %d, added to a sum, is wrong by %.3g of %.3g\n", file, line, op->name, o, worst,
                most);
        }
        mth__free(sum[o]);
    }
}
static int check_at(const char *file, int line, test_case t) {
    mth__kernels_open();
    const char *name = mth__op_at((size_t)t.row)->name;
    job j = {.t = &t, .backward = false};
    mth_status s = mth__guard(run_body, &j);
    if (s) {
        unit_failures++;
        printf("  %s:%d: %s: %s\n", file, line, name, mth_error_get_message(s));
        mth_error_free(s);
        return 0;
    }
    mth__ref_call c = {.op = mth__op_at((size_t)t.row), .attrs = &t.attrs, .nin = t.nin, .nout = t.nout};
    for (int i = 0; i < t.nin; i++) c.in[i] = ref_value(&t.in[i]);
    for (int i = 0; i < t.nout; i++) c.out[i] = ref_value(&t.out[i]);
    s = mth__ref_rows[t.row](&c);
    if (s) {
        unit_failures++;
        printf("  %s:%d: %s: reference: %s\n", file, line, name, mth_error_get_message(s));
        mth_error_free(s);
    }
    for (int o = 0; o < t.nout; o++) {
        double most = 1e-30, worst = 0;
        int64_t at = 0;
        const mth_dtype dtype = t.out[o].o.dtype;
        for (int64_t i = 0; i < t.out[o].n; i++)
            if (isfinite(known(&t.out[o], i))) most = fmax(most, fabs(known(&t.out[o], i)));
        for (int64_t i = 0; i < t.out[o].n; i++) {
            const double want = known(&t.out[o], i), got = get(&t.out[o], i);
            double error = want == got || (isnan(want) && isnan(got)) ? 0 : fabs(got - want) / most;
            if (!mth__is_float(dtype))
                error = element_get(dtype, t.out[o].o.data, i).integer != t.out[o].r.data[i].integer;
            if (!(error <= worst)) {
                worst = error;
                at = i;
                if (isnan(error)) break;
            }
        }
        const double allowed = dtype == MTH_FLOAT32 ? (t.tolerance > 0 ? t.tolerance : 2e-6) : 0;
        if (!(worst <= allowed)) {
            unit_failures++;
            printf("  %s:%d: %s: result %d, element %lld of %lld: %s, not %s (error %.3g of the largest)\n", file, line,
                name, o, (long long)at, (long long)t.out[o].n,
                element_text(dtype, element_get(dtype, t.out[o].o.data, at)), element_text(dtype, t.out[o].r.data[at]),
                worst);
        }
    }
    void *first[MOST];
    for (int o = 0; o < t.nout; o++) {
        const size_t bytes = (size_t)t.out[o].n * mth_dtype_size(t.out[o].o.dtype);
        memcpy(first[o] = mth__malloc(bytes + 1), t.out[o].o.data, bytes);
        memset(t.out[o].o.data, 0xff, bytes);
    }
    j.backward = true;
    CHECK_STATUS(mth__guard(run_body, &j));
    for (int o = 0; o < t.nout; o++) {
        if (memcmp(first[o], t.out[o].o.data, (size_t)t.out[o].n * mth_dtype_size(t.out[o].o.dtype))) {
            unit_failures++;
            printf("  %s:%d: %s: result %d has other bits when chunks run backward\n", file, line, name, o);
        }
        mth__free(first[o]);
    }
    if (c.op->accumulates && mth__is_float(t.out[0].o.dtype)) check_sums(file, line, &t);
    for (int i = 0; i < t.nin; i++) drop(&t.in[i]);
    for (int o = 0; o < t.nout; o++) drop(&t.out[o]);
    return j.chunks;
}
#define ROW(name) .row = MTH__ROW_##name
#define IN(...) .nin = (int)(sizeof((tensor[]){__VA_ARGS__}) / sizeof(tensor)), .in = {__VA_ARGS__}
#define OUT(...) .nout = (int)(sizeof((tensor[]){__VA_ARGS__}) / sizeof(tensor)), .out = {__VA_ARGS__}
#define KERNEL(...) check_at(__FILE__, __LINE__, (test_case){__VA_ARGS__})
#define F32(...) floats(SHAPE(__VA_ARGS__))
#define TO(...) blank(MTH_FLOAT32, SHAPE(__VA_ARGS__))
#define SCALAR 0, (const int64_t[]){0}
#endif
