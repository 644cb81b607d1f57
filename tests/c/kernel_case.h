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
static mth_dtype stored = MTH_FLOAT32; /* of floating tensors, but those that rows have in float32 */

static inline double uniform(void) {
    static uint32_t words[4];
    static int left; /* of a block of four */
    if (!left) mth__philox(5, counter++, 0, words);
    left = left ? left - 1 : 3;
    return words[left] * 0x1p-32;
}
static inline double normal(void) { return 1.5 * (uniform() + uniform() + uniform() + uniform() - 2); }
#define SHAPE(...)                                                                                                     \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static inline tensor make(mth_dtype dtype, int rank, const int64_t *dim) {
    tensor array = {.o = {.dtype = dtype}, .n = 1};
    array.o.shape.rank = rank;
    for (int d = 0; d < rank; d++) {
        array.n *= array.o.shape.dim[d] = dim[d];
        array.o.step[d] = 1;
    }
    array.o.global = array.o.shape;
    array.o.data = mth__malloc((size_t)array.n * 8 + 64);
    array.r.data = mth__malloc((size_t)array.n * 8 + 64);
    return array;
}
static inline void set(tensor *array, int64_t i, double number) {
    element_put_real(array->o.dtype, array->o.data, i, number);
    array->r.data[i] = element_get(array->o.dtype, array->o.data, i);
}
static inline double get(const tensor *array, int64_t i) { return element_real(array->o.dtype, array->o.data, i); }
static inline double known(const tensor *array, int64_t i) {
    return mth__ref_as_real(array->o.dtype, array->r.data[i]);
}
static inline tensor floats(int rank, const int64_t *dim) {
    tensor array = make(stored, rank, dim);
    for (int64_t i = 0; i < array.n; i++) set(&array, i, normal());
    return array;
}
static inline tensor positive_of(mth_dtype dtype, int rank, const int64_t *dim) {
    tensor array = make(dtype, rank, dim);
    for (int64_t i = 0; i < array.n; i++) set(&array, i, 0.05 + 3 * uniform());
    return array;
}
static inline tensor positive(int rank, const int64_t *dim) { return positive_of(stored, rank, dim); }
static inline tensor ints(mth_dtype dtype, int64_t limit, int rank, const int64_t *dim) {
    tensor array = make(dtype, rank, dim);
    for (int64_t i = 0; i < array.n; i++) set(&array, i, floor(uniform() * (double)limit));
    return array;
}
/* Integers of all sizes, most of which no float has. */
static inline tensor wide_ints(mth_dtype dtype, int rank, const int64_t *dim) {
    static const int64_t some[] = {
        0, -1, (INT64_C(1) << 53) + 1, -(INT64_C(1) << 53) - 1, INT64_MIN, INT64_MAX, INT32_MIN, INT32_MAX};
    tensor array = make(dtype, rank, dim);
    for (int64_t i = 0; i < array.n; i++) {
        uint32_t words[4];
        mth__philox(6, counter++, 0, words);
        const int64_t number = words[0] % 3 ? some[words[1] % 8] : (int64_t)((uint64_t)words[2] << 32 | words[3]);
        element_put(dtype, array.o.data, i, mth__ref_from_integer(dtype, number));
        array.r.data[i] = element_get(dtype, array.o.data, i);
    }
    return array;
}
static inline tensor blank(mth_dtype dtype, int rank, const int64_t *dim) {
    tensor array = make(dtype, rank, dim);
    memset(array.o.data, 0xff, (size_t)array.n * mth_dtype_size(dtype)); /* NaN, -1 */
    return array;
}
static inline tensor part(tensor array, int d, int64_t global, int64_t start, int64_t step) {
    array.o.global.dim[d] = global;
    array.o.start[d] = start;
    array.o.step[d] = step;
    return array;
}
static inline void drop(tensor *array) {
    mth__free(array->o.data);
    mth__free(array->r.data);
}

/* Runs the kernel; `backward` takes the chunks of a phase from the last. */
typedef struct {
    test_case *t;
    bool backward, accumulates;
    mth__fault *fault;
    int chunks, most_chunks;
} job;
static inline mth_status run_body(void *arguments) {
    job *work = arguments;
    test_case *test = work->t;
    mth__arena *arena = mth__arena_new();
    mth__operand in[MOST], out[MOST];
    for (int i = 0; i < test->nin; i++) {
        in[i] = test->in[i].o;
        in[i].data = NULL;
    }
    for (int i = 0; i < test->nout; i++) {
        out[i] = test->out[i].o;
        out[i].data = NULL;
    }
    mth__call call = {.op = mth__op_at(test->row),
        .attrs = &test->attrs,
        .nin = test->nin,
        .nout = test->nout,
        .in = in,
        .out = out,
        .fault = work->fault,
        .accumulates = work->accumulates};
    TRY(mth__kernels[test->row].prepare(arena, &call));
    for (int i = 0; i < test->nin; i++) in[i].data = test->in[i].o.data;
    for (int i = 0; i < test->nout; i++) out[i].data = test->out[i].o.data;
    if (test->in_place) {
        memcpy(out[0].data, in[test->nin - 1].data, (size_t)test->out[0].n * mth_dtype_size(test->out[0].o.dtype));
        in[test->nin - 1].data = out[0].data;
    }
    call.shared = mth__malloc(call.call_scratch + 1);
    enum { BEHIND = 4096 }; /* bytes that no kernel may write */
    unsigned char *scratch = mth__malloc(call.thread_scratch + BEHIND);
    memset(call.shared, 0xff, call.call_scratch);
    for (int phase = 0; phase < call.phases; phase++)
        for (int i = 0; i < call.chunks[phase]; i++) {
            memset(scratch, 0xff, call.thread_scratch + BEHIND);
            mth__kernels[test->row].run(&call, phase, work->backward ? call.chunks[phase] - 1 - i : i, scratch);
            for (size_t at = call.thread_scratch; at < call.thread_scratch + BEHIND; at++)
                if (scratch[at] != 0xff) {
                    mth__free(scratch);
                    mth__free(call.shared);
                    mth__arena_free(arena);
                    return INTERNAL("%s wrote behind its scratch", call.op->name);
                }
        }
    work->chunks = call.chunks[0];
    for (int phase = 0; phase < call.phases; phase++)
        if (call.chunks[phase] > work->most_chunks) work->most_chunks = call.chunks[phase];
    mth__free(scratch);
    mth__free(call.shared);
    mth__arena_free(arena);
    return NULL;
}
static inline mth__ref_value *ref_value(tensor *array) {
    array->r.dtype = array->o.dtype;
    array->r.local = array->o.shape;
    array->r.global = array->o.global;
    memcpy(array->r.start, array->o.start, sizeof array->r.start);
    memcpy(array->r.step, array->o.step, sizeof array->r.step);
    array->r.here = true;
    return &array->r;
}
/* How far a result is from the right one, beyond what rounding it once to its dtype takes: half the distance of two
   neighbours. */
static inline double error_of(mth_dtype dtype, double got, double want) {
    if (want == got || (isnan(want) && isnan(got))) return 0;
    if (!mth__is_half(dtype)) return fabs(got - want);
    const int digits = dtype == MTH_BFLOAT16 ? 8 : 11, least = dtype == MTH_BFLOAT16 ? -126 : -14;
    if (isinf(got) && fabs(want) * (1 + 0x1p-20) >= mth__dtypes[dtype].infinite) return 0;
    const double size = fmax(fabs(want) * (1 + 0x1p-20), ldexp(1, least));
    return fabs(got - want) - ldexp(1, ilogb(size) - digits);
}
/* The reference's results are known: what they are added to comes on top of them. */
static inline void check_sums(const char *file, int line, test_case *test) {
    const mth__op *op = mth__op_at(test->row);
    double *sum[MOST] = {NULL};
    for (int k = 0; k < test->nout; k++) {
        memset(test->out[k].o.data, 0xff, (size_t)test->out[k].n * mth_dtype_size(test->out[k].o.dtype));
        if (!(op->accumulates >> k & 1)) continue;
        sum[k] = mth__malloc((size_t)test->out[k].n * sizeof(double) + 1);
        for (int64_t i = 0; i < test->out[k].n; i++) {
            element_put_real(test->out[k].o.dtype, test->out[k].o.data, i, normal());
            sum[k][i] = get(&test->out[k], i);
        }
    }
    CHECK_STATUS(mth__guard(run_body, &(job){.t = test, .accumulates = true}));
    for (int k = 0; k < test->nout; k++) {
        double most = 1, worst = 0;
        for (int64_t i = 0; i < test->out[k].n; i++) {
            const double want = known(&test->out[k], i) + (sum[k] ? sum[k][i] : 0), got = get(&test->out[k], i);
            most = fmax(most, isfinite(want) ? fabs(want) : 0);
            const double error = error_of(test->out[k].o.dtype, got, want);
            if (!(error <= worst)) worst = error;
        }
        if (!(worst <= most * (test->tolerance > 0 ? test->tolerance : 2e-6))) {
            unit_failures++;
            printf("  %s:%d: %s: result %d, added to a sum, is wrong by %.3g of %.3g\n", file, line, op->name, k, worst,
                most);
        }
        mth__free(sum[k]);
    }
}
static inline int check_at(const char *file, int line, test_case test) {
    mth__kernels_open();
    const char *name = mth__op_at(test.row)->name;
    job work = {.t = &test, .backward = false};
    mth_status status = mth__guard(run_body, &work);
    if (status) {
        unit_failures++;
        printf("  %s:%d: %s: %s\n", file, line, name, mth_error_get_message(status));
        mth_error_free(status);
        return 0;
    }
    mth__ref_call call = {.op = mth__op_at(test.row), .attrs = &test.attrs, .nin = test.nin, .nout = test.nout};
    for (int i = 0; i < test.nin; i++) call.in[i] = ref_value(&test.in[i]);
    for (int i = 0; i < test.nout; i++) call.out[i] = ref_value(&test.out[i]);
    status = mth__ref_rows[test.row](&call);
    if (status) {
        unit_failures++;
        printf("  %s:%d: %s: reference: %s\n", file, line, name, mth_error_get_message(status));
        mth_error_free(status);
    }
    for (int k = 0; k < test.nout; k++) {
        double most = 1e-30, worst = 0;
        int64_t at = 0;
        const mth_dtype dtype = test.out[k].o.dtype;
        for (int64_t i = 0; i < test.out[k].n; i++)
            if (isfinite(known(&test.out[k], i))) most = fmax(most, fabs(known(&test.out[k], i)));
        for (int64_t i = 0; i < test.out[k].n; i++) {
            const double want = known(&test.out[k], i), got = get(&test.out[k], i);
            double error = error_of(dtype, got, want) / most;
            if (!mth__is_float(dtype))
                error = element_get(dtype, test.out[k].o.data, i).integer != test.out[k].r.data[i].integer;
            if (!(error <= worst)) {
                worst = error;
                at = i;
                if (isnan(error)) break;
            }
        }
        const double allowed = dtype == MTH_FLOAT64 ? 0 : test.tolerance > 0 ? test.tolerance : 2e-6;
        if (!(worst <= allowed)) {
            unit_failures++;
            printf("  %s:%d: %s in %s: result %d, element %lld of %lld: %s, not %s (error %.3g of the largest)\n", file,
                line, name, mth_dtype_name(stored), k, (long long)at, (long long)test.out[k].n,
                element_text(dtype, element_get(dtype, test.out[k].o.data, at)),
                element_text(dtype, test.out[k].r.data[at]), worst);
        }
    }
    void *first[MOST];
    for (int k = 0; k < test.nout; k++) {
        const size_t bytes = (size_t)test.out[k].n * mth_dtype_size(test.out[k].o.dtype);
        memcpy(first[k] = mth__malloc(bytes + 1), test.out[k].o.data, bytes);
        memset(test.out[k].o.data, 0xff, bytes);
    }
    work.backward = true;
    CHECK_STATUS(mth__guard(run_body, &work));
    for (int k = 0; k < test.nout; k++) {
        if (memcmp(first[k], test.out[k].o.data, (size_t)test.out[k].n * mth_dtype_size(test.out[k].o.dtype))) {
            unit_failures++;
            printf("  %s:%d: %s: result %d has other bits when chunks run backward\n", file, line, name, k);
        }
        mth__free(first[k]);
    }
    if (call.op->accumulates && mth__is_float(test.out[0].o.dtype)) check_sums(file, line, &test);
    for (int i = 0; i < test.nin; i++) drop(&test.in[i]);
    for (int k = 0; k < test.nout; k++) drop(&test.out[k]);
    return work.chunks;
}
#define ROW(name) .row = MTH__ROW_##name
#define IN(...) .nin = (int)(sizeof((tensor[]){__VA_ARGS__}) / sizeof(tensor)), .in = {__VA_ARGS__}
#define OUT(...) .nout = (int)(sizeof((tensor[]){__VA_ARGS__}) / sizeof(tensor)), .out = {__VA_ARGS__}
#define KERNEL(...) check_at(__FILE__, __LINE__, (test_case){__VA_ARGS__})
#define F32(...) floats(SHAPE(__VA_ARGS__))
#define TO(...) blank(stored, SHAPE(__VA_ARGS__))
#define STATISTIC(...) blank(MTH_FLOAT32, SHAPE(__VA_ARGS__)) /* a result of float32 for any storage */
#define SCALAR 0, (const int64_t[]){0}
/* A test that runs with each storage of floating tensors. LARGE: a case of more than one chunk, of float32 alone where
   its size is all that is new. */
#define TEST_STORED(id)                                                                                                \
    static void stored_##id(void);                                                                                     \
    TEST(id) {                                                                                                         \
        static const mth_dtype all[] = {MTH_BFLOAT16, MTH_FLOAT16, MTH_FLOAT32};                                       \
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {                                                        \
            stored = all[i];                                                                                           \
            stored_##id();                                                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    static void stored_##id(void)
#define LARGE(chunks)                                                                                                  \
    do {                                                                                                               \
        if (stored == MTH_FLOAT32) CHECK((chunks) > 1);                                                                \
    } while (0)
#endif
