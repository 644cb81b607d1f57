/* The table of dtypes, and its conversions against formulas: an element of 16 bits is its fields by ldexp, a rounded
 * one is the nearest of all that there are. */
#include "base/dtype.h"
#include "unit.h"
#include <math.h>
#include <string.h>

enum { ALL = 1 << 16 };
static const mth_dtype half_dtypes[] = {MTH_BFLOAT16, MTH_FLOAT16};
enum { HALVES = sizeof half_dtypes / sizeof *half_dtypes };

/* The value that 16 bits stand for: 1 sign bit, `exponents` bits of exponent, the rest of fraction. */
static double by_fields(mth_dtype dtype, uint16_t bits) {
    const int exponents = dtype == MTH_FLOAT16 ? 5 : 8, fractions = 15 - exponents;
    const int exponent = bits >> fractions & ((1 << exponents) - 1), fraction = bits & ((1 << fractions) - 1);
    const int bias = (1 << (exponents - 1)) - 1;
    const double magnitude = exponent == (1 << exponents) - 1 ? (fraction ? (double)NAN : (double)INFINITY)
        : exponent ? ldexp((1 << fractions) + fraction, exponent - bias - fractions)
                   : ldexp(fraction, 1 - bias - fractions);
    return bits >> 15 ? -magnitude : magnitude;
}
static bool same(double a, double b) { return a == b ? signbit(a) == signbit(b) : a != a && b != b; }
static bool is_nan_of(mth_dtype dtype, uint16_t bits) {
    return dtype == MTH_FLOAT16 ? (bits & 0x7fff) > 0x7c00 : (bits & 0x7fff) > 0x7f80;
}
/* The pattern of the nearest value, ties to the even pattern: magnitudes grow with their patterns. */
static uint16_t nearest(mth_dtype dtype, double value) {
    const uint16_t infinity = dtype == MTH_FLOAT16 ? 0x7c00 : 0x7f80;
    const double x = fabs(value);
    int low = 0, high = infinity; /* by_fields(low) <= x, and below the next power of two infinity is a number too */
    const double top = 2 * by_fields(dtype, (uint16_t)(infinity - 1)) - by_fields(dtype, (uint16_t)(infinity - 2));
    if (x >= top) return (uint16_t)(infinity | (signbit(value) ? 0x8000 : 0));
    for (int middle; high - low > 1;) {
        middle = (low + high) / 2;
        *(by_fields(dtype, (uint16_t)middle) <= x ? &low : &high) = middle;
    }
    const double below = by_fields(dtype, (uint16_t)low),
                 above = low + 1 == infinity ? top : by_fields(dtype, (uint16_t)(low + 1));
    const int pattern = x - below < above - x || (x - below == above - x && low % 2 == 0) ? low : low + 1;
    return (uint16_t)(pattern | (signbit(value) ? 0x8000 : 0));
}

TEST(the_table_is_whole) {
    char names[256];
    size_t n = 0;
    for (int i = 1; i < MTH__DTYPE_COUNT; i++) {
        const mth__dtype_facts *facts = &mth__dtypes[i];
        CHECK(facts->size > 0 && facts->kind != MTH_CLASS_NONE && facts->name && facts->word && facts->xla &&
            facts->file);
        CHECK(mth_dtype_find(facts->name) == (mth_dtype)i && mth_dtype_size((mth_dtype)i) == (size_t)facts->size);
        for (int j = 1; j < i; j++)
            CHECK(strcmp(facts->name, mth__dtypes[j].name) && strcmp(facts->word, mth__dtypes[j].word) &&
                strcmp(facts->xla, mth__dtypes[j].xla) && strcmp(facts->file, mth__dtypes[j].file));
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s",
            i == 1                         ? ""
                : i + 1 < MTH__DTYPE_COUNT ? ", "
                                           : " or ",
            facts->name);
    }
    CHECK(!strcmp(names, mth_dtype_names()));
    CHECK(!mth_dtype_find("float8") && !mth_dtype_find(NULL) && !strcmp(mth_dtype_name((mth_dtype)99), "unknown"));
    CHECK(mth_dtype_size((mth_dtype)0) == 0 && mth_dtype_get_class((mth_dtype)-1) == MTH_CLASS_NONE);
    CHECK(mth_dtype_convert(MTH_FLOAT32, NULL, MTH_FLOAT64, NULL, 3) == -1);
}

TEST(every_pattern_of_16_bits) {
    static uint16_t bits[ALL], back[ALL];
    static float wide[ALL];
    static double real[ALL];
    const mth__dtype_vector *dtype_vector;
    for (int i = 0; i < ALL; i++) bits[i] = (uint16_t)i;
    for (int h = 0; h < HALVES; h++) {
        const mth_dtype dtype = half_dtypes[h];
        mth__dtype_convert(dtype, bits, MTH_FLOAT64, real, ALL);
        for (int i = 0; i < ALL; i++) CHECK(same(real[i], by_fields(dtype, bits[i])));
        for (int k = 0; (dtype_vector = mth__dtype_variant(k)); k++) {
            (dtype == MTH_FLOAT16 ? dtype_vector->from_float16 : dtype_vector->from_bfloat16)(ALL, bits, wide);
            for (int i = 0; i < ALL; i++) CHECK(same(wide[i], by_fields(dtype, bits[i])));
            (dtype == MTH_FLOAT16 ? dtype_vector->to_float16 : dtype_vector->to_bfloat16)(ALL, wide, back);
            for (int i = 0; i < ALL; i++)
                CHECK(is_nan_of(dtype, bits[i]) ? is_nan_of(dtype, back[i]) : back[i] == bits[i]);
        }
    }
}

static uint64_t state = 88172645463325252u;
static uint32_t random_bits(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

TEST(rounding_is_to_the_nearest) { /* random bits, and what lies on, just below and just above every tie */
    enum { N = 1 << 15 };
    static float x[N];
    static double wide[N];
    static uint16_t y[2][N];
    for (int h = 0; h < HALVES; h++) {
        const mth_dtype dtype = half_dtypes[h];
        for (int ties = 0; ties < 4; ties++) {
            for (int i = 0; i < N; i++) {
                uint32_t bits = random_bits();
                memcpy(&x[i], &bits, sizeof bits);
                wide[i] = x[i];
                if (!ties) continue;
                const uint16_t pattern = (uint16_t)(i < (dtype == MTH_FLOAT16 ? 0x7c00 : 0x7f80) ? i : 7);
                const double tie = (by_fields(dtype, pattern) + by_fields(dtype, (uint16_t)(pattern + 1))) / 2;
                const double exact = isfinite(tie) ? tie : 3;
                wide[i] = ties == 1 ? exact : nextafter(exact, ties == 2 ? 0 : INFINITY);
                x[i] = ties == 1 ? (float)exact : nextafterf((float)exact, ties == 2 ? 0 : INFINITY);
            }
            const mth__dtype_vector *dtype_vector;
            for (int k = 0; (dtype_vector = mth__dtype_variant(k)); k++) {
                (dtype == MTH_FLOAT16 ? dtype_vector->to_float16 : dtype_vector->to_bfloat16)(N, x, y[0]);
                for (int i = 0; i < N; i++)
                    CHECK(x[i] != x[i] ? is_nan_of(dtype, y[0][i]) : y[0][i] == nearest(dtype, x[i]));
            }
            mth__dtype_convert(MTH_FLOAT64, wide, dtype, y[1], N); /* once, not by way of float32 */
            for (int i = 0; i < N; i++)
                CHECK(wide[i] != wide[i] ? is_nan_of(dtype, y[1][i]) : y[1][i] == nearest(dtype, wide[i]));
        }
    }
}

TEST(variants_give_the_same_bits) { /* NaN included, at all lengths around a vector */
    enum { N = 4096 };
    static float x[N];
    static uint16_t half[N], y[2][N];
    static uint32_t z[2][N];
    const mth__dtype_vector *dtype_vector, *first = mth__dtype_variant(0);
    for (int i = 0; i < N; i++) {
        const uint32_t bits = random_bits() | (i % 3 ? 0 : 0x7f800000);
        memcpy(&x[i], &bits, sizeof bits);
        half[i] = (uint16_t)(random_bits() | (i % 3 ? 0 : 0x7c00));
    }
    for (int k = 1; (dtype_vector = mth__dtype_variant(k)); k++)
        for (int n = 0; n <= N; n = n < 70 ? n + 1 : n * 2 - 6) {
            first->to_float16(n, x, y[0]);
            dtype_vector->to_float16(n, x, y[1]);
            CHECK(!memcmp(y[0], y[1], (size_t)n * 2));
            first->to_bfloat16(n, x, y[0]);
            dtype_vector->to_bfloat16(n, x, y[1]);
            CHECK(!memcmp(y[0], y[1], (size_t)n * 2));
            first->from_float16(n, half, (float *)z[0]);
            dtype_vector->from_float16(n, half, (float *)z[1]);
            CHECK(!memcmp(z[0], z[1], (size_t)n * 4));
            first->from_bfloat16(n, half, (float *)z[0]);
            dtype_vector->from_bfloat16(n, half, (float *)z[1]);
            CHECK(!memcmp(z[0], z[1], (size_t)n * 4));
        }
}
TEST(variants_narrow_and_find_what_is_too_large) { /* one such element at any place, at all lengths around a vector */
    enum { N = 70 };
    float single[N], narrow[N];
    double real[N];
    int64_t integer[N];
    int32_t whole[N];
    const mth__dtype_vector *dtype_vector;
    for (int k = 0; (dtype_vector = mth__dtype_variant(k)); k++)
        for (int n = 0; n <= N; n++)
            for (int at = -1; at < n; at++) { /* -1: none */
                for (int i = 0; i < n; i++) {
                    real[i] = i == at ? -1e39 : i % 3 ? 0.1 * i : (double)INFINITY;
                    single[i] = i == at ? -65520 : i % 3 ? 65519 : i % 2 ? NAN : -INFINITY;
                    integer[i] = i == at ? INT64_C(-1) - INT32_MAX - 1 : i % 3 ? INT32_MAX - i : INT32_MIN + i;
                }
                CHECK(dtype_vector->reaches64(n, real, 1e39) == (at >= 0) &&
                    dtype_vector->reaches(n, single, 65520) == (at >= 0));
                CHECK(dtype_vector->exceeds_int32(n, integer) == (at >= 0));
                dtype_vector->from_float64(n, real, narrow);
                dtype_vector->from_int64(n, integer, whole);
                for (int i = 0; i < n; i++)
                    CHECK(narrow[i] == (float)real[i] && whole[i] == (int32_t)(uint32_t)(uint64_t)integer[i]);
            }
}

TEST(integers) {
    const int64_t big[] = {INT64_MAX, INT64_MIN, (INT64_C(1) << 53) + 1, 65519, 65520, 2049, -2051, 0};
    enum { N = sizeof big / sizeof *big };
    uint16_t half[N];
    int32_t narrow[N];
    mth__dtype_convert(MTH_INT64, big, MTH_FLOAT16, half, N);
    for (int i = 0; i < N; i++) CHECK(half[i] == nearest(MTH_FLOAT16, (double)big[i]));
    /* a tie but for the last bit of all: rounded by way of a double it would be a tie */
    const int64_t beyond = (INT64_C(1) << 62) + (INT64_C(1) << 54) + 1;
    mth__dtype_convert(MTH_INT64, &beyond, MTH_BFLOAT16, half, 1);
    CHECK(by_fields(MTH_BFLOAT16, half[0]) == 0x1p62 + 0x1p55);
    mth__dtype_convert(MTH_INT64, big, MTH_INT32, narrow, N);
    CHECK(narrow[0] == -1 && narrow[1] == 0 && narrow[2] == 1 && narrow[5] == 2049);
    const double real[] = {NAN, -INFINITY, INFINITY, -0.9, 2.9, 0x1p31, -0x1p31, -0x1p31 - 1};
    mth__dtype_convert(MTH_FLOAT64, real, MTH_INT32, narrow, N);
    CHECK(narrow[0] == 0 && narrow[1] == INT32_MIN && narrow[2] == INT32_MAX && narrow[3] == 0 && narrow[4] == 2 &&
        narrow[5] == INT32_MAX && narrow[6] == INT32_MIN && narrow[7] == INT32_MIN);
    uint8_t truth[N];
    mth__dtype_convert(MTH_FLOAT64, real, MTH_BOOL, truth, N);
    for (int i = 0; i < N; i++) CHECK(truth[i] == 1);
}

/* The index of an element that is lost, among others that are not, also behind the first block. */
#define LOST(from, type, to, value, ...)                                                                               \
    do {                                                                                                               \
        const type fine[] = {__VA_ARGS__};                                                                             \
        static type x[1000];                                                                                           \
        for (int i = 0; i < 1000; i++) x[i] = fine[(size_t)i % (sizeof fine / sizeof *fine)];                          \
        CHECK(mth__dtype_first_lost(MTH_##from, x, MTH_##to, 1000) == -1);                                             \
        x[3] = x[777] = value;                                                                                         \
        CHECK(mth__dtype_first_lost(MTH_##from, x, MTH_##to, 1000) == 3);                                              \
        x[3] = x[0];                                                                                                   \
        CHECK(mth__dtype_first_lost(MTH_##from, x, MTH_##to, 1000) == 777);                                            \
        static double all[2][5000];                                                                                    \
        static type longer[5000];                                                                                      \
        for (int i = 0; i < 5000; i++) longer[i] = i == 4321 || i == 4444 ? (type)(value) : x[0];                      \
        CHECK(mth__dtype_convert_checked(MTH_##from, longer, MTH_##to, all[0], 5000) == 4321);                         \
        mth__dtype_convert(MTH_##from, longer, MTH_##to, all[1], 5000);                                                \
        CHECK(!memcmp(all[0], all[1], 5000 * mth_dtype_size(MTH_##to)));                                               \
    } while (0)
TEST(what_a_dtype_can_not_hold) {
    LOST(FLOAT64, double, FLOAT32, 1e39, NAN, INFINITY, -INFINITY, 3.4028234e38, 1e-300, 0x1.ffffffp127 * (1 - 1e-16));
    LOST(FLOAT64, double, FLOAT32, -0x1.ffffffp127, 0);
    LOST(FLOAT64, double, BFLOAT16, 0x1.ffp127, 3.38e38, NAN, INFINITY);
    LOST(FLOAT64, double, FLOAT16, 65520, 65519.9, -65504, INFINITY);
    LOST(FLOAT32, float, FLOAT16, -1e5f, 65519, 1e-30f, NAN);
    LOST(FLOAT32, float, BFLOAT16, 3.402e38f, 3.38e38f, INFINITY);
    LOST(INT64, int64_t, FLOAT16, 70000, 65519, -65504);
    LOST(INT64, int64_t, INT32, INT64_C(1) << 31, INT32_MAX, INT32_MIN);
    LOST(FLOAT64, double, INT32, 0x1p31, 0x1p31 - 0.5, -0x1p31 - 0.5);
    LOST(FLOAT64, double, INT64, 0x1p63, -0x1p63, 1e18);
    LOST(FLOAT32, float, INT32, NAN, 5, -7.5f);
    const double any[] = {1e300, NAN};
    CHECK(mth__dtype_first_lost(MTH_FLOAT64, any, MTH_BOOL, 2) == -1);
    CHECK(mth__dtype_first_lost(MTH_FLOAT64, any, MTH_FLOAT64, 2) == -1);
    float out[2];
    CHECK(mth_dtype_convert(MTH_FLOAT64, any, MTH_FLOAT32, out, 2) == 0 && out[0] == INFINITY && out[1] != out[1]);
}
RUN()
