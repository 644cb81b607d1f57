#include "base/dtype.h"
#include <math.h>
#include <string.h>

enum { DLPACK_INT = 0, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4, DLPACK_BOOL = 6 };
#define FLOATING(finite, bound, wide) .kind = MTH_CLASS_FLOATING, .largest = finite, .infinite = bound, .sums = wide
#define INTEGER(low, high, own)                                                                                        \
    .kind = MTH_CLASS_INTEGER, .largest = (double)(high), .least = low, .most = high, .sums = own

const mth__dtype_facts mth__dtypes[MTH__DTYPE_COUNT] = {
    {"unknown", "?", "?", "?", "", 0, DLPACK_INT, .kind = MTH_CLASS_NONE},
    [MTH_FLOAT32] = {"float32", "f32", "f32", "F32", "f", 4, DLPACK_FLOAT,
        FLOATING(0x1.fffffep127, 0x1.ffffffp127, MTH_FLOAT32)},
    [MTH_FLOAT64] = {"float64", "f64", "f64", "F64", "d", 8, DLPACK_FLOAT,
        FLOATING(0x1.fffffffffffffp1023, INFINITY, MTH_FLOAT64)},
    [MTH_INT32] = {"int32", "i32", "i32", "I32", "i", 4, DLPACK_INT, INTEGER(INT32_MIN, INT32_MAX, MTH_INT32)},
    [MTH_INT64] = {"int64", "i64", "i64", "I64", "q", 8, DLPACK_INT, INTEGER(INT64_MIN, INT64_MAX, MTH_INT64)},
    [MTH_BOOL] = {"bool", "bool", "i1", "BOOL", "?", 1, DLPACK_BOOL, .kind = MTH_CLASS_BOOLEAN, .largest = 1, .most = 1,
        .sums = MTH_BOOL},
    [MTH_BFLOAT16] = {"bfloat16", "bf16", "bf16", "BF16", "", 2, DLPACK_BFLOAT,
        FLOATING(0x1.fep127, 0x1.ffp127, MTH_FLOAT32)},
    [MTH_FLOAT16] = {"float16", "f16", "f16", "F16", "e", 2, DLPACK_FLOAT, FLOATING(65504, 65520, MTH_FLOAT32)},
};

bool mth__is_dtype(mth_dtype dtype) { return (int)dtype > 0 && (int)dtype < MTH__DTYPE_COUNT; }
static const mth__dtype_facts *facts(mth_dtype dtype) { return &mth__dtypes[mth__is_dtype(dtype) ? dtype : 0]; }
bool mth__is_float(mth_dtype dtype) { return facts(dtype)->kind == MTH_CLASS_FLOATING; }
bool mth__is_half(mth_dtype dtype) { return mth__is_float(dtype) && facts(dtype)->size == 2; }
bool mth__is_integer(mth_dtype dtype) { return facts(dtype)->kind == MTH_CLASS_INTEGER; }

/* ---------------------------------------------------------------- public */
const char *mth_dtype_name(mth_dtype dtype) { return facts(dtype)->name; }
size_t mth_dtype_size(mth_dtype dtype) { return (size_t)facts(dtype)->size; }
mth_dtype_class mth_dtype_get_class(mth_dtype dtype) { return facts(dtype)->kind; }
const char *mth_dtype_format(mth_dtype dtype) { return facts(dtype)->format; }
int mth_dtype_dlpack_code(mth_dtype dtype) { return facts(dtype)->dlpack; }

double mth_dtype_largest(mth_dtype dtype) { return facts(dtype)->largest; }
const char *mth_dtype_names(void) { return "float32, float64, int32, int64, bool, bfloat16 or float16"; }

mth_dtype mth_dtype_find(const char *name) {
    for (int i = 1; name && i < MTH__DTYPE_COUNT; i++)
        if (strcmp(mth__dtypes[i].name, name) == 0) return (mth_dtype)i;
    return (mth_dtype)0;
}
