/* Floats as integers of the same order: their bits, with those of negative numbers turned. A maximum that XLA takes of
 * floats may lose NaN (between devices it does, whatever the options); of these integers NaN is the largest. */
#include "engine/pjrt/hlo.h"

static mth__hlo_val as(mth__hlo *h, mth_dtype dtype, mth__hlo_val x) {
    return mth__hlo_line(h, dtype, x.shape, "stablehlo.bitcast_convert %s : (%s) -> %s", mth__hlo_name(h->arena, x),
        mth__hlo_type(h->arena, x.dtype, x.shape), mth__hlo_type(h->arena, dtype, x.shape));
}

static mth__hlo_val largest(mth__hlo *h, mth__hlo_val like) {
    const int64_t most = like.dtype == MTH_INT32 ? INT32_MAX : INT64_MAX;
    return mth__hlo_broadcast(h, mth__hlo_ints(h, like.dtype, (mth__shape){0}, &most), like.shape, NULL);
}

static mth__hlo_val turn_negative(mth__hlo *h, mth__hlo_val bits) { /* its own inverse */
    mth__hlo_val turned = mth__hlo_binary(h, "xor", bits, largest(h, bits)),
                 zero = mth__hlo_splat(h, bits.dtype, bits.shape, 0);
    return mth__hlo_select(h, mth__hlo_compare(h, "LT", bits, zero), turned, bits);
}

static mth__hlo_val bits_of(mth__hlo *h, mth__hlo_val x) {
    if (x.dtype == MTH_BFLOAT16) x = mth__hlo_convert(h, MTH_FLOAT32, x);
    return as(h, x.dtype == MTH_FLOAT32 ? MTH_INT32 : MTH_INT64, x);
}

mth__hlo_val mth__hlo_order_keys(mth__hlo *h, mth__hlo_val x) {
    mth__hlo_val nan = mth__hlo_compare(h, "NE", x, x), key = turn_negative(h, bits_of(h, x));
    return mth__hlo_select(h, nan, largest(h, key), key);
}

mth__hlo_val mth__hlo_of_order_keys(mth__hlo *h, mth_dtype dtype, mth__hlo_val key) {
    return mth__hlo_convert(h, dtype, as(h, key.dtype == MTH_INT32 ? MTH_FLOAT32 : MTH_FLOAT64, turn_negative(h, key)));
}

mth__hlo_val mth__hlo_not_zero(mth__hlo *h, mth__hlo_val x) {
    if (x.dtype == MTH_BOOL) return x;
    if (mth__is_float(x.dtype)) {
        x = bits_of(h, x);
        x = mth__hlo_binary(h, "and", x, largest(h, x)); /* but for the sign */
    }
    return mth__hlo_compare(h, "NE", x, mth__hlo_splat(h, x.dtype, x.shape, 0));
}
