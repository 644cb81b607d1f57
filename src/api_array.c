/* Public functions that make arrays on a backend. */
#include "base/philox.h"
#include "data/fill.h"
#include "data/safetensors.h"
#include "engine/backend.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef struct {
    mth_backend *backend;
    mth_dtype dtype;
    int rank;
    const int64_t *dim;
    const mth_arg *spec;
    mth_array **out;
} array_making;

static mth_status check_rank(int rank) {
    if (rank >= 0 && rank <= MTH__RANK) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("an array of %d dimensions", rank), F("use 0 to %d dimensions", MTH__RANK));
}

static mth_status read_shape(const array_making *making, mth__shape *shape, mth__sharding *sharding) {
    *shape = (mth__shape){.rank = making->rank};
    TRY(mth__given(making->backend, "the backend"));
    TRY(check_rank(making->rank));
    if (making->rank) TRY(mth__given(making->dim, "the shape"));
    if (making->rank) memcpy(shape->dim, making->dim, (size_t)making->rank * sizeof(int64_t));
    *sharding = (mth__sharding){.on = mth__place_whole(making->backend->devices.mesh)};
    return making->spec && making->spec->kind != MTH_ARG_NONE
        ? mth__spec_read(*making->spec, sharding->on, making->rank, "array", sharding)
        : NULL;
}

static mth_status make_body(void *context) {
    array_making *making = context;
    mth__shape shape;
    mth__sharding sharding;
    TRY(read_shape(making, &shape, &sharding));
    return mth__array_new(&making->backend->devices, making->dtype, shape, &sharding, true, making->out);
}

static mth_status array_make(mth_backend *backend, mth_dtype dtype, int rank, const int64_t *dim, const mth_arg *spec,
    mth__fill *fill, void *context, mth_array **out) {
    TRY(mth__result_given(out));
    mth_array *array = NULL;
    array_making making = {backend, dtype, rank, dim, spec, &array};
    TRY(mth__guard(make_body, &making));
    mth_status status = mth__array_fill(array, fill, context);
    if (status) {
        mth_array_free(array);
        return status;
    }
    *out = array;
    return NULL;
}

/* Data is given unless there are no elements, and truth values are 0 or 1. Errors of the shape are found later. */
static mth_status check_data(mth_dtype dtype, int rank, const int64_t *dim, const void *data) {
    mth__shape shape = {.rank = rank};
    TRY(check_rank(rank));
    if (rank && !dim) return NULL;
    for (int d = 0; d < rank; d++) {
        if (dim[d] == 0) return NULL;
        shape.dim[d] = dim[d];
    }
    TRY(mth__given(data, "the data"));
    if (dtype != MTH_BOOL) return NULL;
    TRY(mth__shape_check(shape, dtype));
    for (int64_t i = 0; i < mth__shape_size(shape); i++)
        if (((const uint8_t *)data)[i] > 1)
            return FAIL(MTH_ERROR_VALUE,
                F("element %lld of the bool data is %d", (long long)i, ((const uint8_t *)data)[i]),
                F("give bytes of 0 and 1"));
    return NULL;
}

mth_status mth_array_from_data(mth_backend *backend, mth_dtype dtype, int rank, const int64_t *shape, const void *data,
    const mth_arg *spec, mth_array **out) {
    TRY(check_data(dtype, rank, shape, data));
    return array_make(backend, dtype, rank, shape, spec, mth__fill_from_whole, (void *)data, out);
}

static void keep(void *nothing) { (void)nothing; }

typedef struct {
    array_making making;
    const void *data;
    void (*release)(void *);
    void *context;
} borrowing;

static mth_status borrow_body(void *context) {
    borrowing *borrowed = context;
    array_making *making = &borrowed->making;
    mth__shape shape;
    mth__sharding sharding;
    TRY(read_shape(making, &shape, &sharding));
    return mth__array_borrow(&making->backend->devices, making->dtype, shape, &sharding, borrowed->data,
        borrowed->release ? borrowed->release : keep, borrowed->context, making->out);
}

mth_status mth_array_borrow(mth_backend *backend, mth_dtype dtype, int rank, const int64_t *shape, const void *data,
    void (*release)(void *), void *context, mth_array **out) {
    TRY(mth__given(backend, "the backend"));
    TRY(mth__result_given(out));
    const bool can = backend->devices.memory->host && backend->devices.memory->borrow && data &&
        (uintptr_t)data % MTH__ALIGNMENT == 0;
    borrowing borrowed = {{backend, dtype, rank, shape, NULL, out}, data, release, context};
    if (can) {
        TRY(check_data(dtype, rank, shape, data));
        return mth__guard(borrow_body, &borrowed);
    }
    TRY(mth_array_from_data(backend, dtype, rank, shape, data, NULL, out));
    if (release) release(context);
    return NULL;
}

mth_status mth_array_full(mth_backend *backend, mth_dtype dtype, double value, int rank, const int64_t *shape,
    const mth_arg *spec, mth_array **out) {
    if (mth__is_float(dtype) && mth__dtype_first_lost(MTH_FLOAT64, &value, dtype, 1) == 0)
        return FAIL(MTH_ERROR_VALUE,
            F("%.17g does not fit in %s: it would become infinite", value, mth_dtype_name(dtype)),
            F("give a value of at most %.8g in magnitude", mth_dtype_largest(dtype)));
    if (dtype == MTH_BOOL && value != 0 && value != 1)
        return FAIL(MTH_ERROR_VALUE, F("%.17g is no bool", value), F("give 0 or 1"));
    if (mth__is_integer(dtype) && isfinite(value) && value != trunc(value))
        return FAIL(MTH_ERROR_VALUE, F("%.17g is not a whole number, as %s needs it", value, mth_dtype_name(dtype)),
            F("round it"));
    const int64_t least = mth__is_integer(dtype) ? mth__dtypes[dtype].least : 0,
                  most = mth__is_integer(dtype) ? mth__dtypes[dtype].most : 0;
    if (mth__is_integer(dtype) && !(value >= (double)least && value < (double)most + 1))
        return FAIL(MTH_ERROR_VALUE, F("%.17g does not fit in %s", value, mth_dtype_name(dtype)),
            F("give a value from %" PRId64 " to %" PRId64, least, most));
    return array_make(backend, dtype, rank, shape, spec, mth__fill_constant, &value, out);
}

mth_status mth_array_randn(
    mth_backend *backend, int rank, const int64_t *shape, uint64_t seed, const mth_arg *spec, mth_array **out) {
    mth__random random = {seed, mth__philox_stream("randn"), MTH__INIT_NORMAL, 1, 0, 0};
    return array_make(backend, MTH_FLOAT32, rank, shape, spec, mth__fill_random, &random, out);
}

mth_status mth_array_randint(mth_backend *backend, int64_t low, int64_t high, int rank, const int64_t *shape,
    uint64_t seed, const mth_arg *spec, mth_array **out) {
    if (low >= high || low < INT32_MIN || high > (int64_t)INT32_MAX + 1)
        return FAIL(MTH_ERROR_VALUE,
            F("randint from %lld to %lld: int32 values need low < high inside [-2^31, 2^31]", (long long)low,
                (long long)high),
            F("give low < high, both inside int32"));
    mth__random random = {seed, mth__philox_stream("randint"), 0, 0, low, high - low};
    return array_make(backend, MTH_INT32, rank, shape, spec, mth__fill_random, &random, out);
}

mth_status mth_array_from_safetensors(
    mth_backend *backend, const char *path, const char *tensor, bool transpose, const mth_arg *spec, mth_array **out) {
    TRY(mth__result_given(out));
    TRY(mth__given(backend, "the backend"));
    return mth__array_from_safetensors(&backend->devices, path, tensor, transpose, spec, out);
}
