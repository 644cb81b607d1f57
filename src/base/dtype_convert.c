/* Conversions between dtypes. Floating elements meet in double and all others in int64, a block at a time, where each
 * is exact; the pairs between float32 and other floating dtypes, and int64 to int32, are direct. */
#include "base/dtype.h"
#include <math.h>
#include <stdatomic.h>
#include <string.h>

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---------------------------------------------------------------- one element of 16 bits */
#define INLINE static inline __attribute__((always_inline))
INLINE float from_bfloat16(uint16_t x) { return float_of((uint32_t)x << 16); }
INLINE uint16_t to_bfloat16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t nan = bits >> 16 | 0x40, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}
INLINE float from_float16(uint16_t x) {
    const uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = x & 0x7fff;
    if (rest < 0x400) return float_of(sign | bits_of((float)rest * 0x1p-24f)); /* 0 or subnormal: normal as a float */
    if (rest < 0x7c00) return float_of(sign | ((rest << 13) + (112u << 23)));
    return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
}
INLINE uint16_t to_float16(float value) {
    const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more */
    /* Below 2^-14 the result counts units of 2^-24, which is the last place of numbers from 0.5 to 1. */
    if (rest < 0x38800000) return (uint16_t)(sign | (bits_of(float_of(rest) + 0.5f) - bits_of(0.5f)));
    return (uint16_t)(sign | (rest + 0xfff + (rest >> 13 & 1) - (112u << 23)) >> 13);
}

/* ---------------------------------------------------------------- many of them */
#define LOOP(name, target, in_type, out_type, element)                                                                 \
    target static void name(int64_t count, const in_type *restrict in, out_type *restrict out) {                       \
        for (int64_t i = 0; i < count; i++) out[i] = element(in[i]);                                                   \
    }
/* Whether the condition holds of any element. Words as wide as the elements, and no branch: vectors of comparisons. */
#define ANY(name, target, type, word, limit, condition)                                                                \
    target static bool name(int64_t count, const type *in limit) {                                                     \
        word any = 0;                                                                                                  \
        for (int64_t i = 0; i < count; i++) any |= (word)(condition);                                                  \
        return any != 0;                                                                                               \
    }
#define REACHES(x, magnitude, infinite) ((x) >= (magnitude)) & ((x) < (infinite))
#define AND_LIMIT(type) , type magnitude
#define LOOPS(variant, target)                                                                                         \
    LOOP(from_bfloat16_##variant, target, uint16_t, float, from_bfloat16)                                              \
    LOOP(to_bfloat16_##variant, target, float, uint16_t, to_bfloat16)                                                  \
    LOOP(from_float64_##variant, target, double, float, (float))                                                       \
    LOOP(from_int64_##variant, target, int64_t, int32_t, (int32_t))                                                    \
    ANY(reaches_##variant, target, float, int32_t, AND_LIMIT(float), REACHES(fabsf(in[i]), magnitude, INFINITY))       \
    ANY(reaches64_##variant, target, double, int64_t, AND_LIMIT(double),                                               \
        REACHES(fabs(in[i]), magnitude, (double)INFINITY))                                                             \
    ANY(exceeds_int32_##variant, target, int64_t, uint64_t, , (uint64_t)(in[i] - INT32_MIN) >> 32)
#define VARIANT(variant)                                                                                               \
    {#variant, from_bfloat16_##variant, to_bfloat16_##variant, from_float16_##variant, to_float16_##variant,           \
        from_float64_##variant, from_int64_##variant, reaches_##variant, reaches64_##variant, exceeds_int32_##variant}

LOOPS(baseline, )
LOOP(from_float16_baseline, , uint16_t, float, from_float16)
LOOP(to_float16_baseline, , float, uint16_t, to_float16)

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c")))
/* The instructions round to nearest even whatever the mode of the thread, and make NaN quiet. */
#define TO_NEAREST _MM_FROUND_TO_NEAREST_INT
LOOPS(avx2, AVX2)
AVX2 static void from_float16_avx2(int64_t count, const uint16_t *in, float *out) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + i))));
    for (; i < count; i++) out[i] = from_float16(in[i]);
}
AVX2 static void to_float16_avx2(int64_t count, const float *in, uint16_t *out) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), TO_NEAREST));
    for (; i < count; i++) out[i] = to_float16(in[i]);
}
LOOPS(avx512, AVX512)
AVX512 static void from_float16_avx512(int64_t count, const uint16_t *in, float *out) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(in + i))));
    for (; i < count; i++) out[i] = from_float16(in[i]);
}
AVX512 static void to_float16_avx512(int64_t count, const float *in, uint16_t *out) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(out + i), _mm512_cvtps_ph(_mm512_loadu_ps(in + i), TO_NEAREST));
    for (; i < count; i++) out[i] = to_float16(in[i]);
}
static const mth__dtype_vector variants[] = {VARIANT(baseline), VARIANT(avx2), VARIANT(avx512)};
static int variant_count(void) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("f16c")) return 1;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
        ? 3
        : 2;
}
#else
static const mth__dtype_vector variants[] = {VARIANT(baseline)};
static int variant_count(void) { return 1; }
#endif

const mth__dtype_vector *mth__dtype_variant(int i) { return i >= 0 && i < variant_count() ? &variants[i] : NULL; }
static const mth__dtype_vector *best(void) {
    static const mth__dtype_vector *_Atomic chosen; /* threads that choose at once choose the same */
    const mth__dtype_vector *vector = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!vector) {
        vector = &variants[variant_count() - 1];
        atomic_store_explicit(&chosen, vector, memory_order_relaxed);
    }
    return vector;
}

/* ---------------------------------------------------------------- blocks of double and int64 */
enum { BLOCK = 256 };
#define EACH(type, out, expression)                                                                                    \
    {                                                                                                                  \
        const type *x = in;                                                                                            \
        for (int64_t i = 0; i < count; i++) out[i] = expression;                                                       \
    }                                                                                                                  \
    return

static void widen(mth_dtype from, const void *in, double *out, int64_t count) {
    float single[BLOCK];
    switch (from) {
    case MTH_FLOAT64: memcpy(out, in, (size_t)count * sizeof *out); return;
    case MTH_FLOAT32: EACH(float, out, x[i]);
    case MTH_BFLOAT16: best()->from_bfloat16(count, in, single); break;
    default: best()->from_float16(count, in, single); break;
    }
    for (int64_t i = 0; i < count; i++) out[i] = single[i];
}
static void extend(mth_dtype from, const void *in, int64_t *out, int64_t count) {
    switch (from) {
    case MTH_INT64: memcpy(out, in, (size_t)count * sizeof *out); return;
    case MTH_INT32: EACH(int32_t, out, x[i]);
    default: EACH(uint8_t, out, x[i] != 0);
    }
}
#undef EACH

/* To a float whose last bit is set where anything was cut off, so that a second rounding, to fewer bits, is right. */
static float to_odd(double value) {
    const float near = (float)value;
    if (value != value || (double)near == value) return near;
    const uint32_t bits = bits_of(near);
    return float_of((fabs((double)near) > fabs(value) ? bits - 1 : bits) | 1);
}
/* The same of an integer, which may have more bits than a double. */
static double to_odd_double(int64_t value) {
    const bool large = value > INT64_C(1) << 53 || value < -(INT64_C(1) << 53);
    return large ? (double)(value >> 11 | !!(value & 0x7ff)) * 0x1p11 : (double)value;
}
static int64_t toward_zero(double x, double limit, int64_t least, int64_t most) {
    return x != x ? 0 : x < -limit ? least : x >= limit ? most : (int64_t)x;
}

#define EACH(type, expression)                                                                                         \
    {                                                                                                                  \
        type *y = out;                                                                                                 \
        for (int64_t i = 0; i < count; i++) y[i] = (type)(expression);                                                 \
    }                                                                                                                  \
    return
static void store_reals(const double *x, mth_dtype to, void *out, int64_t count) {
    float single[BLOCK];
    switch (to) {
    case MTH_FLOAT32: EACH(float, x[i]);
    case MTH_FLOAT64: EACH(double, x[i]);
    case MTH_INT32: EACH(int32_t, toward_zero(x[i], 0x1p31, INT32_MIN, INT32_MAX));
    case MTH_INT64: EACH(int64_t, toward_zero(x[i], 0x1p63, INT64_MIN, INT64_MAX));
    case MTH_BOOL: EACH(uint8_t, x[i] != 0);
    case MTH_BFLOAT16:
    case MTH_FLOAT16: break;
    }
    for (int64_t i = 0; i < count; i++) single[i] = to_odd(x[i]);
    (to == MTH_BFLOAT16 ? best()->to_bfloat16 : best()->to_float16)(count, single, out);
}
static void store_integers(const int64_t *x, mth_dtype to, void *out, int64_t count) {
    double real[BLOCK];
    switch (to) {
    case MTH_FLOAT32: EACH(float, x[i]);
    case MTH_FLOAT64: EACH(double, x[i]);
    case MTH_INT32: EACH(int32_t, x[i]);
    case MTH_INT64: EACH(int64_t, x[i]);
    case MTH_BOOL: EACH(uint8_t, x[i] != 0);
    case MTH_BFLOAT16:
    case MTH_FLOAT16: break;
    }
    for (int64_t i = 0; i < count; i++) real[i] = to_odd_double(x[i]);
    store_reals(real, to, out, count);
}
#undef EACH

/* ---------------------------------------------------------------- any pair */
/* The pairs that matter for speed. False: it is another one. */
static bool convert_directly(mth_dtype from, const void *in, mth_dtype to, void *out, int64_t count) {
    if (from == MTH_FLOAT32 && to == MTH_BFLOAT16)
        best()->to_bfloat16(count, in, out);
    else if (from == MTH_FLOAT32 && to == MTH_FLOAT16)
        best()->to_float16(count, in, out);
    else if (from == MTH_BFLOAT16 && to == MTH_FLOAT32)
        best()->from_bfloat16(count, in, out);
    else if (from == MTH_FLOAT16 && to == MTH_FLOAT32)
        best()->from_float16(count, in, out);
    else if (from == MTH_FLOAT64 && to == MTH_FLOAT32)
        best()->from_float64(count, in, out);
    else if (from == MTH_INT64 && to == MTH_INT32)
        best()->from_int64(count, in, out);
    else
        return false;
    return true;
}

void mth__dtype_convert(mth_dtype from, const void *in, mth_dtype to, void *out, int64_t count) {
    const int in_size = mth__dtypes[from].size, out_size = mth__dtypes[to].size;
    if (from == to && from != MTH_BOOL) {
        if (out != in && count > 0) memcpy(out, in, (size_t)(count * in_size));
        return;
    }
    if (convert_directly(from, in, to, out, count)) return;
    for (int64_t done = 0; done < count; done += BLOCK) {
        const int64_t some = count - done < BLOCK ? count - done : BLOCK;
        const char *source = (const char *)in + done * in_size;
        char *target = (char *)out + done * out_size;
        if (mth__is_float(from)) {
            double real[BLOCK];
            widen(from, source, real, some);
            store_reals(real, to, target, some);
        } else {
            int64_t integer[BLOCK];
            extend(from, source, integer, some);
            store_integers(integer, to, target, some);
        }
    }
}

/* False: certainly none of the block is lost. */
static bool may_lose(mth_dtype from, const void *in, mth_dtype to, int64_t count) {
    const double infinite = mth__dtypes[to].infinite;
    if (from == MTH_FLOAT64 && mth__is_float(to)) return best()->reaches64(count, in, infinite);
    if (from == MTH_FLOAT32 && mth__is_float(to)) return best()->reaches(count, in, (float)infinite);
    return !(from == MTH_INT64 && to == MTH_INT32) || best()->exceeds_int32(count, in);
}
int64_t mth__dtype_first_lost(mth_dtype from, const void *in, mth_dtype to, int64_t count) {
    const mth__dtype_facts *facts = &mth__dtypes[to];
    const bool real = mth__is_float(from), into_real = mth__is_float(to);
    const double infinite = facts->infinite;
    if (from == to || to == MTH_BOOL || from == MTH_BOOL || (real && infinite >= mth__dtypes[from].infinite)) return -1;
    if (!real && into_real && infinite > 0x1p63) return -1;
    const double below = facts->kind == MTH_CLASS_INTEGER ? (double)facts->least - 1 : 0,
                 above = facts->kind == MTH_CLASS_INTEGER ? (double)facts->most + 1 : 0;
    for (int64_t done = 0; done < count; done += BLOCK) {
        const int64_t some = count - done < BLOCK ? count - done : BLOCK;
        const char *source = (const char *)in + done * mth__dtypes[from].size;
        double x[BLOCK];
        int64_t integer[BLOCK];
        bool lost = false;
        if (!may_lose(from, source, to, some)) continue;
        if (real)
            widen(from, source, x, some);
        else
            extend(from, source, integer, some);
#define LOST(i)                                                                                                        \
    (into_real && real  ? fabs(x[i]) >= infinite && fabs(x[i]) < (double)INFINITY                                      \
            : into_real ? fabs((double)integer[i]) >= infinite                                                         \
            : real      ? !(x[i] > below && x[i] < above) && x[i] != (double)facts->least                              \
                        : integer[i] < facts->least || integer[i] > facts->most)
        for (int64_t i = 0; i < some; i++) lost |= LOST(i);
        for (int64_t i = 0; lost && i < some; i++)
            if (LOST(i)) return done + i;
#undef LOST
    }
    return -1;
}

int64_t mth__dtype_convert_checked(mth_dtype from, const void *in, mth_dtype to, void *out, int64_t count) {
    enum { CACHED = 1024 }; /* elements that are still in the nearest cache when they are read again */
    int64_t lost = -1;
    for (int64_t done = 0; done < count; done += CACHED) {
        const int64_t some = count - done < CACHED ? count - done : CACHED;
        const char *source = (const char *)in + done * mth__dtypes[from].size;
        mth__dtype_convert(from, source, to, (char *)out + done * mth__dtypes[to].size, some);
        const int64_t first = lost < 0 ? mth__dtype_first_lost(from, source, to, some) : -1;
        if (first >= 0) lost = done + first;
    }
    return lost;
}

double mth__dtype_load(mth_dtype dtype, const void *data, int64_t i) {
    double value;
    mth__dtype_convert(dtype, (const char *)data + i * mth__dtypes[dtype].size, MTH_FLOAT64, &value, 1);
    return value;
}
void mth__dtype_store(mth_dtype dtype, void *data, int64_t i, double value) {
    mth__dtype_convert(MTH_FLOAT64, &value, dtype, (char *)data + i * mth__dtypes[dtype].size, 1);
}

int64_t mth_dtype_convert(mth_dtype from, const void *in, mth_dtype to, void *out, size_t count) {
    if (!count || !in || !out || !mth__is_dtype(from) || !mth__is_dtype(to)) return -1;
    return mth__dtype_convert_checked(from, in, to, out, (int64_t)count);
}
