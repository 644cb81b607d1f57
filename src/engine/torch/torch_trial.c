/* Each operator of the table once, on small operands, compared with numbers that were computed apart from torch; then
 * the functions that nothing promises.
 *
 * What this finds before a model runs: an operator or overload that this torch lacks, arguments that it refuses,
 * results of another number, dtype, shape or value. What it can't find: libtorch does not check how many arguments it
 * is given, nor that a handle is one. An operator that takes more arguments than the table says, or another kind of
 * pointer in one of their places, ends the process. A release past the newest that the table is written for is told
 * that one's version (mth__torch_library.abi), and adds by itself what its schemas have more. */
#include "engine/torch/torch_trial.h"
#include "base/number.h"
#include "engine/torch/torch_run.h"
#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------- what is given and what comes back */
typedef struct {
    int dtype; /* an mth_dtype, or COMPLEX: of two float32 */
    mth__shape shape;
    const double *element;
} numbers;
enum { COMPLEX = MTH__DTYPE_COUNT };
/* clang-format off */
#define FLOATS(shape, ...) {MTH_FLOAT32, shape, (const double[]){__VA_ARGS__}}
#define DOUBLES(shape, ...) {MTH_FLOAT64, shape, (const double[]){__VA_ARGS__}}
#define WHOLES(shape, ...) {MTH_INT32, shape, (const double[]){__VA_ARGS__}}
#define INDICES(shape, ...) {MTH_INT64, shape, (const double[]){__VA_ARGS__}}
#define BOOLS(shape, ...) {MTH_BOOL, shape, (const double[]){__VA_ARGS__}}
#define COMPLEXES(shape, ...) {COMPLEX, shape, (const double[]){__VA_ARGS__}}
#define NO_DIMENSION {0}
#define OF1(a) {1, {a}}
#define OF2(a, b) {2, {a, b}}
#define OF3(a, b, c) {3, {a, b, c}}
#define OF4(a, b, c, d) {4, {a, b, c, d}}
/* clang-format on */

/* Operands that trials name. RESULT is memory of the first result's shape, with other numbers in it. */
enum {
    RESULT,
    A,
    B,
    POSITIVE,
    MASK,
    MASK2,
    SPECIAL,
    HALF,
    CUBE,
    PAIRS,
    LEFT,
    RIGHT,
    WEIGHT,
    BIAS,
    MEANS,
    SPREADS,
    QUERY,
    KEY,
    VALUE,
    SCORES,
    ATTENDED,
    LOG_SUMS,
    SLOPES,
    PLACES,
    MOVED,
    ROWS,
    COLUMNS,
    BAGS,
    BAG_WEIGHTS,
    OPERANDS
};
/* clang-format off */
static const numbers operands[OPERANDS] = {
    [A] = FLOATS(OF2(2, 3), 1.5, -2, 0.25, 3, -0.5, 0.75),
    [B] = FLOATS(OF2(2, 3), 2, 0.5, -1.5, 3, -0.25, 4),
    [POSITIVE] = FLOATS(OF2(2, 3), 0.5, 4, 1.25, 9, 0.25, 2),
    [MASK] = BOOLS(OF2(2, 3), 1, 0, 0, 1, 1, 0),
    [MASK2] = BOOLS(OF2(2, 3), 0, 0, 1, 1, 0, 0),
    [SPECIAL] = FLOATS(OF1(4), 1, INFINITY, -INFINITY, NAN),
    [HALF] = FLOATS(NO_DIMENSION, 0.5),
    [CUBE] = FLOATS(OF3(2, 1, 3), 1, 2, 3, 4, 5, 6),
    [PAIRS] = FLOATS(OF2(2, 2), 1, 2, -3, 0.5),
    [LEFT] = FLOATS(OF3(2, 2, 2), 1, 2, 3, -1, 0.5, 0, 2, 1),
    [RIGHT] = FLOATS(OF3(2, 2, 3), 1, 2, 3, 4, 5, 6, -1, 0, 2, 3, 0.5, 1),
    [WEIGHT] = FLOATS(OF1(3), 2, -1, 0.5),
    [BIAS] = FLOATS(OF1(3), 0.25, 1, -3),
    [MEANS] = FLOATS(OF2(2, 1), 0.5, 1),
    [SPREADS] = FLOATS(OF2(2, 1), 2, 0.25),
    [QUERY] = FLOATS(OF4(1, 1, 2, 2), 0.5, -1, 2, 0.25),
    [KEY] = FLOATS(OF4(1, 1, 3, 2), 1, 0.5, -0.75, 2, 0.25, -0.5),
    [VALUE] = FLOATS(OF4(1, 1, 3, 2), 3, -1, 0.5, 2, -2, 0.75),
    [SCORES] = FLOATS(OF2(2, 3), 0, 0.5, -1, 1, -0.25, 0.75),
    [ATTENDED] = FLOATS(OF4(1, 1, 2, 2), 1.0522878, -0.0019928622, 2.0972527, -0.63680973),
    [LOG_SUMS] = FLOATS(OF3(1, 1, 2), 0.62356109, 2.8065251),
    [SLOPES] = FLOATS(OF4(1, 1, 2, 2), 1, -0.5, 0.25, 2),
    [PLACES] = INDICES(OF2(2, 2), 2, 0, 1, 2),
    [MOVED] = FLOATS(OF2(2, 2), 10, 20, 30, 40),
    [ROWS] = INDICES(OF1(3), 1, 0, 1),
    [COLUMNS] = INDICES(OF1(2), 2, 0),
    [BAGS] = INDICES(OF1(2), 0, 2),
    [BAG_WEIGHTS] = FLOATS(OF1(3), 2, -1, 0.5),
};
/* clang-format on */

enum { MOST_RESULTS = 3, MOST_TENSORS = 2 };
typedef struct {
    const mth__torch_argument *argument; /* of kind T and N: numbers of operands, in the place of tensors */
    int arguments;
    numbers result[MOST_RESULTS]; /* those that rows read */
} operator_trial;
/* clang-format off */
#define GIVEN(...) \
    (const mth__torch_argument[]){__VA_ARGS__}, \
        sizeof((mth__torch_argument[]){__VA_ARGS__}) / sizeof(mth__torch_argument)
#define THE(operand) {.kind = 'T', .integer = operand}
#define THESE(...) {.kind = 'N', .count = 2, .integers = (const int64_t[]){__VA_ARGS__}}
#define AT(number) {.kind = 'I', .integer = number}
#define BY(number) {.kind = 'R', .real = number}
#define NO {.kind = 'B', .integer = false}
#define YES {.kind = 'B', .integer = true}
#define LIST(n, ...) {.kind = 'L', .count = n, .integers = (const int64_t[]){__VA_ARGS__}}
#define AS(type) {.kind = 'D', .integer = type}
#define ROW_BY_ROW {.kind = 'M'}
#define ABSENT {0}
#define TRIALS(X) \
    X(neg_out, GIVEN(THE(A), THE(RESULT)), FLOATS(OF2(2, 3), -1.5, 2, -0.25, -3, 0.5, -0.75)) \
    X(exp_out, GIVEN(THE(A), THE(RESULT)), \
        FLOATS(OF2(2, 3), 4.4816891, 0.13533528, 1.2840254, 20.085537, 0.60653066, 2.117)) \
    X(log_out, GIVEN(THE(POSITIVE), THE(RESULT)), \
        FLOATS(OF2(2, 3), -0.69314718, 1.3862944, 0.22314355, 2.1972246, -1.3862944, 0.69314718)) \
    X(sqrt_out, GIVEN(THE(POSITIVE), THE(RESULT)), FLOATS(OF2(2, 3), 0.70710678, 2, 1.118034, 3, 0.5, 1.4142136)) \
    X(rsqrt_out, GIVEN(THE(POSITIVE), THE(RESULT)), \
        FLOATS(OF2(2, 3), 1.4142136, 0.5, 0.89442719, 0.33333333, 2, 0.70710678)) \
    X(reciprocal_out, GIVEN(THE(POSITIVE), THE(RESULT)), FLOATS(OF2(2, 3), 2, 0.25, 0.8, 0.11111111, 4, 0.5)) \
    X(sigmoid_out, GIVEN(THE(A), THE(RESULT)), \
        FLOATS(OF2(2, 3), 0.81757448, 0.11920292, 0.5621765, 0.95257413, 0.37754067, 0.6791787)) \
    X(tanh_out, GIVEN(THE(A), THE(RESULT)), \
        FLOATS(OF2(2, 3), 0.90514825, -0.96402758, 0.24491866, 0.99505475, -0.46211716, 0.63514895)) \
    X(silu_out, GIVEN(THE(A), THE(RESULT)), \
        FLOATS(OF2(2, 3), 1.2263617, -0.23840584, 0.14054413, 2.8577224, -0.18877033, 0.50938402)) \
    X(mul_out, GIVEN(THE(A), THE(B), THE(RESULT)), FLOATS(OF2(2, 3), 3, -1, -0.375, 9, 0.125, 3)) \
    X(div_out, GIVEN(THE(A), THE(B), THE(RESULT)), FLOATS(OF2(2, 3), 0.75, -4, -0.16666667, 1, 2, 0.1875)) \
    X(maximum_out, GIVEN(THE(A), THE(B), THE(RESULT)), FLOATS(OF2(2, 3), 2, 0.5, 0.25, 3, -0.25, 4)) \
    X(where_out, GIVEN(THE(MASK), THE(B), THE(A), THE(RESULT)), FLOATS(OF2(2, 3), 2, -2, 0.25, 3, -0.25, 0.75)) \
    X(eq_out, GIVEN(THE(A), THE(B), THE(RESULT)), BOOLS(OF2(2, 3), 0, 0, 0, 1, 0, 0)) \
    X(gt_out, GIVEN(THE(A), THE(B), THE(RESULT)), FLOATS(OF2(2, 3), 0, 0, 1, 0, 0, 0)) \
    X(ge_out, GIVEN(THE(A), THE(B), THE(RESULT)), FLOATS(OF2(2, 3), 0, 0, 1, 1, 0, 0)) \
    X(sigmoid_backward_out, GIVEN(THE(A), THE(POSITIVE), THE(RESULT)), \
        FLOATS(OF2(2, 3), 0.375, 24, -0.078125, -216, -0.09375, -1.5)) \
    X(tanh_backward_out, GIVEN(THE(A), THE(POSITIVE), THE(RESULT)), \
        FLOATS(OF2(2, 3), 1.125, 30, -0.140625, -240, -0.46875, -2.25)) \
    X(silu_backward_out, GIVEN(THE(A), THE(B), THE(RESULT)), \
        FLOATS(OF2(2, 3), 1.6361764, -1.4799224, -0.010323539, 3.2643123, -0.18814499, 0.78949846)) \
    X(copy_, GIVEN(THE(A), THE(B), NO), FLOATS(OF2(2, 3), 2, 0.5, -1.5, 3, -0.25, 4)) \
    X(zero_, GIVEN(THE(A)), FLOATS(OF2(2, 3), 0, 0, 0, 0, 0, 0)) \
    X(fill_, GIVEN(THE(A), THE(HALF)), FLOATS(OF2(2, 3), 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)) \
    X(masked_fill_, GIVEN(THE(A), THE(MASK), THE(HALF)), FLOATS(OF2(2, 3), 0.5, -2, 0.25, 0.5, 0.5, 0.75)) \
    X(exp, GIVEN(THE(A)), FLOATS(OF2(2, 3), 4.4816891, 0.13533528, 1.2840254, 20.085537, 0.60653066, 2.117)) \
    X(log, GIVEN(THE(POSITIVE)), \
        FLOATS(OF2(2, 3), -0.69314718, 1.3862944, 0.22314355, 2.1972246, -1.3862944, 0.69314718)) \
    X(reciprocal, GIVEN(THE(A)), FLOATS(OF2(2, 3), 0.66666667, -0.5, 4, 0.33333333, -2, 1.3333333)) \
    X(tanh, GIVEN(THE(A)), \
        FLOATS(OF2(2, 3), 0.90514825, -0.96402758, 0.24491866, 0.99505475, -0.46211716, 0.63514895)) \
    X(erf, GIVEN(THE(A)), \
        FLOATS(OF2(2, 3), 0.96610515, -0.99532227, 0.27632639, 0.99997791, -0.52049988, 0.71115563)) \
    X(mul, GIVEN(THE(A), THE(B)), FLOATS(OF2(2, 3), 3, -1, -0.375, 9, 0.125, 3)) \
    X(div, GIVEN(THE(A), THE(B)), FLOATS(OF2(2, 3), 0.75, -4, -0.16666667, 1, 2, 0.1875)) \
    X(where, GIVEN(THE(MASK), THE(A), THE(B)), FLOATS(OF2(2, 3), 1.5, 0.5, -1.5, 3, -0.5, 4)) \
    X(isfinite, GIVEN(THE(SPECIAL)), BOOLS(OF1(4), 1, 0, 0, 0)) \
    X(ne, GIVEN(THE(A), THE(B)), BOOLS(OF2(2, 3), 1, 1, 1, 0, 1, 1)) \
    X(gt, GIVEN(THE(A), THE(B)), BOOLS(OF2(2, 3), 0, 0, 1, 0, 0, 0)) \
    X(le, GIVEN(THE(A), THE(B)), BOOLS(OF2(2, 3), 1, 1, 0, 1, 1, 1)) \
    X(logical_or, GIVEN(THE(MASK), THE(MASK2)), BOOLS(OF2(2, 3), 1, 0, 1, 1, 1, 0)) \
    X(logical_not, GIVEN(THE(MASK)), BOOLS(OF2(2, 3), 0, 1, 1, 0, 0, 1)) \
    X(to_dtype, GIVEN(THE(A), AS(MTH_INT32), NO, YES, ROW_BY_ROW), WHOLES(OF2(2, 3), 1, -2, 0, 3, 0, 0)) \
    X(contiguous, GIVEN(THE(A), ROW_BY_ROW), FLOATS(OF2(2, 3), 1.5, -2, 0.25, 3, -0.5, 0.75)) \
    X(permute, GIVEN(THE(CUBE), LIST(3, 2, 0, 1)), FLOATS(OF3(3, 2, 1), 1, 4, 2, 5, 3, 6)) \
    X(reshape, GIVEN(THE(A), LIST(2, 3, 2)), FLOATS(OF2(3, 2), 1.5, -2, 0.25, 3, -0.5, 0.75)) \
    X(narrow, GIVEN(THE(A), AT(1), AT(0), AT(2)), FLOATS(OF2(2, 2), 1.5, -2, 3, -0.5)) \
    X(squeeze, GIVEN(THE(CUBE), AT(1)), FLOATS(OF2(2, 3), 1, 2, 3, 4, 5, 6)) \
    X(transpose, GIVEN(THE(CUBE), AT(0), AT(2)), FLOATS(OF3(3, 1, 2), 1, 4, 2, 5, 3, 6)) \
    X(view_as_complex, GIVEN(THE(PAIRS)), COMPLEXES(OF1(2), 1, 2, -3, 0.5)) \
    X(bmm, GIVEN(THE(LEFT), THE(RIGHT)), FLOATS(OF3(2, 2, 3), 9, 12, 15, -1, 1, 3, -0.5, 0, 1, 1, 0.5, 5)) \
    X(sum, GIVEN(THE(A), LIST(1, 1), YES, AS(MTH_FLOAT64)), DOUBLES(OF2(2, 1), -0.25, 3.25)) \
    X(sum_out, GIVEN(THE(A), LIST(1, 0), NO, ABSENT, THE(RESULT)), FLOATS(OF1(3), 4.5, -2.5, 1)) \
    X(amax, GIVEN(THE(A), LIST(1, 1), NO), FLOATS(OF1(2), 1.5, 3)) \
    X(amax_out, GIVEN(THE(A), LIST(1, 0), YES, THE(RESULT)), FLOATS(OF2(1, 3), 3, -0.5, 0.75)) \
    X(norm, GIVEN(THE(A), ABSENT, LIST(1, 1), YES), FLOATS(OF2(2, 1), 2.5124689, 3.132491)) \
    X(mean, GIVEN(THE(A), LIST(1, 1), YES, ABSENT), FLOATS(OF2(2, 1), -0.083333333, 1.0833333)) \
    X(cumsum, GIVEN(THE(MASK), AT(1), AS(MTH_INT64)), INDICES(OF2(2, 3), 1, 1, 1, 1, 2, 2)) \
    X(any, GIVEN(THE(MASK)), BOOLS(NO_DIMENSION, 1)) \
    X(softmax, GIVEN(THE(A), AT(1), NO), \
        FLOATS(OF2(2, 3), 0.75947319, 0.022934103, 0.21759271, 0.88059439, 0.026591646, 0.092813966)) \
    X(softmax_out, GIVEN(THE(A), AT(0), NO, THE(RESULT)), \
        FLOATS(OF2(2, 3), 0.18242552, 0.18242552, 0.37754067, 0.81757448, 0.81757448, 0.62245933)) \
    X(softmax_backward_out, GIVEN(THE(A), THE(POSITIVE), AT(1), AS(MTH_FLOAT32), THE(RESULT)), \
        FLOATS(OF2(2, 3), 4.21875, 19.75, 8.984375, -228.375, -7.21875, -55.25)) \
    X(layer_norm, GIVEN(THE(A), LIST(1, 3), THE(WEIGHT), THE(BIAS), BY(0.5)), \
        FLOATS(OF2(2, 3), 2.2149332, 2.1893017, -2.8965825, 2.6286034, 1.9824666, -3.1034175), \
        FLOATS(OF2(2, 1), -0.083333333, 1.0833333), FLOATS(OF2(2, 1), 0.62050523, 0.62050523)) \
    X(layer_norm_backward, \
        GIVEN(THE(B), THE(A), LIST(1, 3), THE(MEANS), THE(SPREADS), THE(WEIGHT), THE(BIAS), LIST(3, 1, 1, 1)), \
        FLOATS(OF2(2, 3), -8.3333333, 33.416667, 0.29166667, 0.69661458, -0.53808594, -0.17301432), \
        FLOATS(OF1(3), 5.5, -2.40625, 0.5), FLOATS(OF1(3), 5, 0.25, 2.5)) \
    X(attention_cpu, GIVEN(THE(QUERY), THE(KEY), THE(VALUE), BY(0), NO, THE(SCORES), BY(0.75)), \
        FLOATS(OF4(1, 1, 2, 2), 1.0522878, -0.0019928622, 2.0972527, -0.63680973), \
        FLOATS(OF3(1, 1, 2), 0.62356109, 2.8065251)) \
    X(attention_cpu_backward, \
        GIVEN(THE(SLOPES), THE(QUERY), THE(KEY), THE(VALUE), THE(ATTENDED), THE(LOG_SUMS), BY(0), NO, THE(SCORES), \
            BY(0.75)), \
        FLOATS(OF4(1, 1, 2, 2), 0.91113475, 0.55012466, -0.30891006, -0.10042328), \
        FLOATS(OF4(1, 1, 3, 2), -0.11527516, -1.0595256, 0.075796371, 0.19371805, 0.039478793, 0.86580756), \
        FLOATS(OF4(1, 1, 3, 2), 0.73811665, 1.3486597, 0.15440708, -0.02997483, 0.35747627, 0.18131512)) \
    X(cat_out, GIVEN(THESE(A, B), AT(1), THE(RESULT)), \
        FLOATS(OF2(2, 6), 1.5, -2, 0.25, 2, 0.5, -1.5, 3, -0.5, 0.75, 3, -0.25, 4)) \
    X(index_select, GIVEN(THE(A), AT(1), THE(COLUMNS)), FLOATS(OF2(2, 2), 0.25, 1.5, 0.75, 3)) \
    X(index_select_out, GIVEN(THE(A), AT(0), THE(ROWS), THE(RESULT)), \
        FLOATS(OF2(3, 3), 3, -0.5, 0.75, 1.5, -2, 0.25, 3, -0.5, 0.75)) \
    X(embedding_bag, GIVEN(THE(A), THE(ROWS), THE(BAGS), NO, AT(0), NO, THE(BAG_WEIGHTS), NO, AT(-1)), \
        FLOATS(OF2(2, 3), 4.5, 1, 1.25, 1.5, -0.25, 0.375)) \
    X(gather_out, GIVEN(THE(A), AT(1), THE(PLACES), NO, THE(RESULT)), FLOATS(OF2(2, 2), 0.25, 1.5, -0.5, 0.75)) \
    X(scatter_add_, GIVEN(THE(A), AT(1), THE(PLACES), THE(MOVED)), \
        FLOATS(OF2(2, 3), 21.5, -2, 10.25, 3, 29.5, 40.75)) \
    X(scatter_, GIVEN(THE(A), AT(1), THE(PLACES), THE(MOVED)), FLOATS(OF2(2, 3), 20, -2, 10, 3, 30, 40))

static const operator_trial trials[MTH__ATEN_COUNT] = {
#define X(id, given, ...) [MTH__ATEN_##id] = {given, {__VA_ARGS__}},
    TRIALS(X)
#undef X
};
#define X(id, given, ...) + 1
_Static_assert(0 TRIALS(X) == MTH__ATEN_COUNT, "each operator of torch_aten.h has a trial");
#undef X
/* clang-format on */

/* ---------------------------------------------------------------- trying an operator */
/* `less` is subtracted from each number. */
static mth__tensor make(mth__torch_call *call, const numbers *of, double less) {
    mth__tensor made = mth__torch_empty(call, (mth_dtype)of->dtype, of->shape);
    void *data = mth__torch_host(call, made);
    for (int64_t i = 0; data && i < mth__shape_size(of->shape); i++)
        mth__dtype_store((mth_dtype)of->dtype, data, i, of->element[i] - less);
    return made;
}
static mth__tensor operand(mth__torch_call *call, const operator_trial *of, int64_t number) {
    return number == RESULT ? make(call, &of->result[0], 1) : make(call, &operands[number], 0);
}

static bool near(double got, double wanted) { return fabs(got - wanted) <= 1e-5 * fmax(1, fabs(wanted)); }

/* Is the tensor as wanted? Else `why` says what is not. */
enum { WHY = 512 };
static bool same_numbers(mth__torch_call *call, mth__tensor got, const numbers *wanted, char why[WHY]) {
    const mth__torch_library *library = call->library;
    const bool pairs = wanted->dtype == COMPLEX;
    const mth_dtype of_part = pairs ? MTH_FLOAT32 : (mth_dtype)wanted->dtype;
    const int32_t dtype = pairs ? library->aoti_torch_dtype_complex64() : library->dtype[wanted->dtype];
    int32_t is = -1;
    int64_t *strides = NULL;
    if (!got || library->aoti_torch_get_dtype(got, &is) || library->aoti_torch_get_strides(got, &strides)) {
        mth__print(why, WHY, "there is no tensor");
        return false;
    }
    if (is != dtype) {
        mth__print(why, WHY, "its dtype has torch's number %d, not %d", (int)is, (int)dtype);
        return false;
    }
    const mth__shape shape = mth__torch_shape(call, got);
    const void *data = mth__torch_host(call, got);
    if (!mth__shape_equal(shape, wanted->shape) || !data) {
        char text[128], wanted_text[128];
        mth__shape_write(text, sizeof text, shape);
        mth__shape_write(wanted_text, sizeof wanted_text, wanted->shape);
        mth__print(why, WHY, "its shape is %s, not %s", text, wanted_text);
        return false;
    }
    for (int64_t i = 0; i < mth__shape_size(shape) * (pairs ? 2 : 1); i++) {
        int64_t rest = pairs ? i / 2 : i, at = 0;
        for (int d = shape.rank - 1; d >= 0; d--) {
            at += rest % shape.dim[d] * strides[d];
            rest /= shape.dim[d];
        }
        const double number = mth__dtype_load(of_part, data, pairs ? 2 * at + i % 2 : at);
        if (!near(number, wanted->element[i])) {
            mth__print(why, WHY, "number %d is %g, not %g", (int)i, number, wanted->element[i]);
            return false;
        }
    }
    return true;
}

static mth_status fails(const mth__torch_library *library, const mth__torch_operator *operator, const char * why) {
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("torch %d.%d at %s is not as mithril knows it: %s%s%s: %s", library->version / 100, library->version % 100,
            library->path, operator->name, *operator->overload ? "." : "", operator->overload, why),
        F("pip install --force-reinstall \"torch>=%d.%d,<%d.%d\", with which mithril is tested",
            MTH__TORCH_OLDEST / 100, MTH__TORCH_OLDEST % 100, MTH__TORCH_NEWEST / 100, MTH__TORCH_NEWEST % 100 + 1));
}

static mth_status try_operator(mth__torch_call *call, enum mth__aten id) {
    const operator_trial *of = &trials[id];
    const mth__torch_operator *operator= & mth__torch_operators[id];
    mth__torch_argument given[MTH__TORCH_ARGUMENTS];
    mth__tensor list[MOST_TENSORS], result[MTH__TORCH_RESULTS] = {NULL};
    char why[WHY] = "", of_result[WHY];
    for (int i = 0; i < of->arguments; i++) {
        given[i] = of->argument[i];
        if (given[i].kind == 'T') given[i].tensor = operand(call, of, of->argument[i].integer);
        if (given[i].kind != 'N') continue;
        for (int k = 0; k < given[i].count; k++) list[k] = operand(call, of, of->argument[i].integers[k]);
        given[i].tensors = list;
    }
    if (operator->results> 1)
        mth__torch_aten_all(call, id, of->arguments, given, result);
    else
        result[0] = mth__torch_aten(call, id, of->arguments, given);
    for (int k = 0; k < MOST_RESULTS && of->result[k].dtype && !call->status && !*why; k++)
        if (!same_numbers(call, result[k], &of->result[k], of_result) && !call->status)
            mth__print(why, WHY, "result %d: %s", k, of_result);
    if (call->status) mth__print(why, WHY, "%s", mth_error_get_what(call->status));
    mth_error_free(call->status);
    call->status = NULL;
    mth__torch_drop_since(call, 0);
    return *why ? fails(call->library, operator, why) : NULL;
}

static mth_status try_operators(const mth__torch_library *library) {
    mth__torch_device device = {0};
    mth__torch_call call = {.library = library, .device = &device};
    mth_status status = NULL;
    for (int id = 0; id < MTH__ATEN_COUNT && !status; id++) status = try_operator(&call, (enum mth__aten)id);
    mth__free(device.temporary);
    return status;
}

/* ---------------------------------------------------------------- functions that nothing promises */
/* Tensors of one dimension over the host's memory. */
enum { ELEMENTS = 4 };
static mth_status over(const mth__torch_library *library, float *memory, mth__tensor *out) {
    const int64_t size = ELEMENTS, stride = 1;
    TORCH_TRY(library, "a tensor over memory",
        library->aoti_torch_create_tensor_from_blob(
            memory, 1, &size, &stride, 0, library->dtype[MTH_FLOAT32], library->cpu, -1, out));
    return NULL;
}

typedef struct {
    const mth__torch_library *library;
    mth__tensor a, b, out;
    int which;
} direct_trial;
enum { ADD, THRESHOLD, GELU, GELU_BACKWARD, DIRECT };
static void call_direct(int64_t begin, int64_t end, void *context) {
    (void)begin, (void)end;
    direct_trial *trial = context;
    const mth__torch_library *library = trial->library;
    const mth__torch_scalar scale = {.tag = 0, .real = -0.5}, zero = {.tag = 0, .real = 0};
    const mth__torch_text tanh_text = {4, "tanh"};
    switch (trial->which) {
    case ADD: library->direct.add_out(trial->a, trial->b, &scale, trial->out); break;
    case THRESHOLD: library->direct.threshold_backward_out(trial->a, trial->b, &zero, trial->out); break;
    case GELU: library->direct.gelu_out(trial->a, tanh_text, trial->out); break;
    case GELU_BACKWARD: library->direct.gelu_backward_out(trial->a, trial->b, tanh_text, trial->out); break;
    }
}

static double gelu_tanh(double x) { return x / 2 * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))); }
static double gelu_tanh_slope(double x) {
    const double inner = tanh(0.79788456080286536 * (x + 0.044715 * x * x * x));
    return (1 + inner) / 2 + x / 2 * (1 - inner * inner) * 0.79788456080286536 * (1 + 3 * 0.044715 * x * x);
}
static double expected(int which, double a, double b) {
    switch (which) {
    case ADD: return a - 0.5 * b;
    case THRESHOLD: return b > 0 ? a : 0;
    case GELU: return gelu_tanh(a);
    default: return a * gelu_tanh_slope(b);
    }
}

/* By parallel_for, so that an exception is an answer. */
static bool works(direct_trial *trial, const float *a, const float *b, float *result) {
    for (int i = 0; i < ELEMENTS; i++) result[i] = NAN;
    if (!mth__torch_guarded(trial->library, call_direct, trial)) return false;
    for (int i = 0; i < ELEMENTS; i++)
        if (!(fabs(result[i] - expected(trial->which, a[i], b[i])) <= 1e-6)) return false;
    return true;
}

static mth_status try_direct(mth__torch_library *library) {
    float a[ELEMENTS] = {1.5f, -2, 0.25f, 3}, b[ELEMENTS] = {-1, 0.5f, 0, 2}, result[ELEMENTS];
    direct_trial trial = {.library = library};
    mth_status status = over(library, a, &trial.a);
    if (!status) status = over(library, b, &trial.b);
    if (!status) status = over(library, result, &trial.out);
    bool there[DIRECT] = {library->direct.add_out, library->direct.threshold_backward_out, library->direct.gelu_out,
        library->direct.gelu_backward_out};
    for (trial.which = 0; trial.which < DIRECT && !status; trial.which++)
        there[trial.which] = there[trial.which] && works(&trial, a, b, result);
    if (!there[ADD]) library->direct.add_out = NULL;
    if (!there[THRESHOLD]) library->direct.threshold_backward_out = NULL;
    if (!there[GELU]) library->direct.gelu_out = NULL;
    if (!there[GELU_BACKWARD]) library->direct.gelu_backward_out = NULL;
    mth__tensor made[] = {trial.a, trial.b, trial.out};
    for (int i = 0; i < 3; i++)
        if (made[i]) library->aoti_torch_delete_tensor_object(made[i]);
    return status;
}

mth_status mth__torch_try(mth__torch_library *library) {
    TRY(try_operators(library));
    return try_direct(library);
}
