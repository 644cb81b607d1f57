/* Elements: from one dtype to another, and combined. */
#include "engine/reference/reference.h"
#include <math.h>

/* To the 8 bits of significand of a bfloat16, ties to even. */
static double bfloat16(double x) {
    if (!isfinite(x) || x == 0) return x;
    int e;
    frexp(x, &e);
    double unit = ldexp(1, e - 8);
    return nearbyint(x / unit) * unit;
}

/* Toward zero; what is outside becomes the nearest of the dtype, NaN 0. */
static int64_t whole(double x, double limit, int64_t least, int64_t most) {
    if (x != x) return 0;
    return x < -limit ? least : x >= limit ? most : (int64_t)x;
}

mth__ref_element mth__ref_from_real(mth_dtype to, double x) {
    switch (to) {
    case MTH_FLOAT32: return (mth__ref_element){.real = (float)x};
    case MTH_FLOAT64: return (mth__ref_element){.real = x};
    case MTH_INT32: return (mth__ref_element){.integer = whole(x, 0x1p31, INT32_MIN, INT32_MAX)};
    case MTH_INT64: return (mth__ref_element){.integer = whole(x, 0x1p63, INT64_MIN, INT64_MAX)};
    case MTH_BOOL: return (mth__ref_element){.integer = x != 0};
    case MTH_BFLOAT16: break;
    }
    return (mth__ref_element){.real = bfloat16(x)};
}

mth__ref_element mth__ref_from_integer(mth_dtype to, int64_t x) {
    switch (to) {
    case MTH_FLOAT32: return (mth__ref_element){.real = (float)x};
    case MTH_FLOAT64: return (mth__ref_element){.real = (double)x};
    case MTH_INT32: return (mth__ref_element){.integer = (int32_t)x};
    case MTH_INT64: return (mth__ref_element){.integer = x};
    case MTH_BOOL: return (mth__ref_element){.integer = x != 0};
    case MTH_BFLOAT16: break;
    }
    /* A double holds the upper 48 bits of a large one. The last is set where any behind it is, so that a tie is one. */
    const bool large = x > INT64_C(1) << 46 || x < -(INT64_C(1) << 46);
    return (mth__ref_element){.real = bfloat16(large ? (double)(x >> 16 | !!(x & 0xffff)) * 0x1p16 : (double)x)};
}

double mth__ref_as_real(mth_dtype from, mth__ref_element x) { return mth__is_float(from) ? x.real : (double)x.integer; }

mth__ref_element mth__ref_combine(mth_dtype dtype, int reduce, mth__ref_element a, mth__ref_element b) {
    if (!mth__is_float(dtype)) {
        if (reduce == MTH__REDUCE_MAX) return a.integer > b.integer ? a : b;
        return mth__ref_from_integer(dtype, (int64_t)((uint64_t)a.integer + (uint64_t)b.integer));
    }
    if (reduce == MTH__REDUCE_MAX) return b.real > a.real || b.real != b.real ? b : a;
    return (mth__ref_element){.real = a.real + b.real};
}
