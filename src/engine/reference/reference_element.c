/* Elements: from one dtype to another, and combined. */
#include "engine/reference/reference.h"

static mth__ref_element read_back(mth_dtype dtype, const void *stored) {
    mth__ref_element element;
    mth__dtype_convert(dtype, stored, mth__is_float(dtype) ? MTH_FLOAT64 : MTH_INT64, &element, 1);
    return element;
}

mth__ref_element mth__ref_from_real(mth_dtype to, double x) {
    uint64_t stored;
    mth__dtype_convert(MTH_FLOAT64, &x, to, &stored, 1);
    return read_back(to, &stored);
}

mth__ref_element mth__ref_from_integer(mth_dtype to, int64_t x) {
    uint64_t stored;
    mth__dtype_convert(MTH_INT64, &x, to, &stored, 1);
    return read_back(to, &stored);
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
