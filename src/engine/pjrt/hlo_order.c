/* Floats as integers of the same order: their bits, with those of negative numbers turned. A maximum that XLA takes of
 * floats may lose NaN (between devices it does, whatever the options); of these integers NaN is the largest. */
#include "engine/pjrt/hlo.h"

static mth__hlo_val as(mth__hlo *hlo, mth_dtype dtype, mth__hlo_val x) {
    return mth__hlo_line(hlo, dtype, x.shape, "stablehlo.bitcast_convert %s : (%s) -> %s", mth__hlo_name(hlo->arena, x),
        mth__hlo_type(hlo->arena, x.dtype, x.shape), mth__hlo_type(hlo->arena, dtype, x.shape));
}

static mth__hlo_val largest(mth__hlo *hlo, mth__hlo_val like) {
    return mth__hlo_broadcast(
        hlo, mth__hlo_ints(hlo, like.dtype, (mth__shape){0}, &mth__dtypes[like.dtype].most), like.shape, NULL);
}

static mth__hlo_val turn_negative(mth__hlo *hlo, mth__hlo_val bits) { /* its own inverse */
    mth__hlo_val turned = mth__hlo_binary(hlo, "xor", bits, largest(hlo, bits)),
                 zero = mth__hlo_splat(hlo, bits.dtype, bits.shape, 0);
    return mth__hlo_select(hlo, mth__hlo_compare(hlo, "LT", bits, zero), turned, bits);
}

static mth__hlo_val bits_of(mth__hlo *hlo, mth__hlo_val x) {
    if (mth__is_half(x.dtype)) x = mth__hlo_convert(hlo, MTH_FLOAT32, x);
    return as(hlo, x.dtype == MTH_FLOAT32 ? MTH_INT32 : MTH_INT64, x);
}

mth__hlo_val mth__hlo_order_keys(mth__hlo *hlo, mth__hlo_val x) {
    mth__hlo_val nan = mth__hlo_compare(hlo, "NE", x, x), key = turn_negative(hlo, bits_of(hlo, x));
    return mth__hlo_select(hlo, nan, largest(hlo, key), key);
}

mth__hlo_val mth__hlo_of_order_keys(mth__hlo *hlo, mth_dtype dtype, mth__hlo_val key) {
    return mth__hlo_convert(
        hlo, dtype, as(hlo, key.dtype == MTH_INT32 ? MTH_FLOAT32 : MTH_FLOAT64, turn_negative(hlo, key)));
}

mth__hlo_val mth__hlo_not_zero(mth__hlo *hlo, mth__hlo_val x) {
    if (x.dtype == MTH_BOOL) return x;
    if (mth__is_float(x.dtype)) {
        x = bits_of(hlo, x);
        x = mth__hlo_binary(hlo, "and", x, largest(hlo, x)); /* but for the sign */
    }
    return mth__hlo_compare(hlo, "NE", x, mth__hlo_splat(hlo, x.dtype, x.shape, 0));
}
