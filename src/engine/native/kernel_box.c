/* Strided boxes for collectives and transfers, and the all-reduce of devices that share memory. */
#include "engine/native/kernel_util.h"

#define LARGER(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))
#define RUN(type, sum, larger)                                                                                         \
    {                                                                                                                  \
        type *d = dst;                                                                                                 \
        const type *s = src;                                                                                           \
        if (op == MTH__BOX_ADD)                                                                                        \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                type *a = &d[i * ds];                                                                                  \
                const type b = s[i * ss];                                                                              \
                *a = sum;                                                                                              \
            }                                                                                                          \
        else                                                                                                           \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                type *a = &d[i * ds];                                                                                  \
                const type b = s[i * ss];                                                                              \
                *a = larger;                                                                                           \
            }                                                                                                          \
    }                                                                                                                  \
    break;
/* Floating elements of 16 bits: a block at a time is combined in float32. */
static void reduce_halves(
    mth__box_op op, mth_dtype dtype, int64_t n, uint16_t *dst, int64_t ds, const uint16_t *src, int64_t ss) {
    enum { BLOCK = 256 };
    uint16_t stored[2][BLOCK];
    float wide[2][BLOCK];
    for (int64_t done = 0, some; done < n; done += some) {
        some = mth__min64(BLOCK, n - done);
        for (int64_t i = 0; i < some; i++) {
            stored[0][i] = dst[(done + i) * ds];
            stored[1][i] = src[(done + i) * ss];
        }
        for (int i = 0; i < 2; i++) mth__dtype_convert(dtype, stored[i], MTH_FLOAT32, wide[i], some);
        (op == MTH__BOX_ADD ? mth__vec->add_to : mth__vec->max_to)(some, wide[1], wide[0]);
        mth__dtype_convert(MTH_FLOAT32, wide[0], dtype, stored[0], some);
        for (int64_t i = 0; i < some; i++) dst[(done + i) * ds] = stored[0][i];
    }
}
void mth__reduce_run(mth__box_op op, mth_dtype dtype, int64_t n, void *dst, int64_t ds, const void *src, int64_t ss) {
    switch (dtype) {
    case MTH_FLOAT32:
        if (ds == 1 && ss == 1) {
            (op == MTH__BOX_ADD ? mth__vec->add_to : mth__vec->max_to)(n, src, dst);
            return;
        }
        RUN(float, *a + b, LARGER(*a, b))
    case MTH_FLOAT64: RUN(double, *a + b, LARGER(*a, b))
    case MTH_INT32: RUN(int32_t, (int32_t)((uint32_t)*a + (uint32_t)b), LARGER(*a, b))
    case MTH_INT64: RUN(int64_t, (int64_t)((uint64_t)*a + (uint64_t)b), LARGER(*a, b))
    case MTH_BFLOAT16:
    case MTH_FLOAT16: reduce_halves(op, dtype, n, dst, ds, src, ss); return;
    case MTH_BOOL: RUN(uint8_t, *a | b, *a | b)
    }
}
void mth__add_run(mth_dtype dtype, int64_t n, void *dst, int64_t ds, const void *src, int64_t ss) {
    mth__reduce_run(MTH__BOX_ADD, dtype, n, dst, ds, src, ss);
}
void mth__box(mth__box_op op, mth_dtype dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride,
    const void *src, const int64_t *src_stride) {
    if (op == MTH__BOX_COPY) {
        mth__box_copy(dtype, rank, size, dst, dst_stride, src, src_stride);
        return;
    }
    mth__loop l = {.rank = rank, .operands = 2};
    for (int d = 0; d < rank; d++) {
        if (!size[d]) return;
        l.size[d] = size[d];
        l.stride[0][d] = dst_stride[d];
        l.stride[1][d] = src_stride[d];
    }
    mth__loop_merge(&l);
    const int last = l.rank - 1;
    const int64_t n = last < 0 ? 1 : l.size[last], ds = last < 0 ? 1 : l.stride[0][last],
                  ss = last < 0 ? 1 : l.stride[1][last], bytes = (int64_t)mth_dtype_size(dtype);
    int64_t rows = 1, at[MTH__LOOP_OPERANDS];
    for (int d = 0; d < last; d++) rows *= l.size[d];
    for (int64_t row = 0; row < rows; row++) {
        mth__loop_at(&l, last < 0 ? 0 : last, row, at);
        mth__reduce_run(op, dtype, n, (char *)dst + at[0] * bytes, ds, (const char *)src + at[1] * bytes, ss);
    }
}

/* bytes of operands and results from which the results are not expected to stay in a cache */
enum { PAST_CACHES = 64 << 20 };
void mth__reduce_to_all(mth__box_op op, mth_dtype dtype, int64_t count, int sources, const void *const *src,
    int destinations, void *const *dst, int64_t all) {
    if (dtype == MTH_FLOAT32 && op == MTH__BOX_ADD) {
        mth__vec->reduce_all(count, sources, (const float *const *)src, destinations, (float *const *)dst,
            all * 4 * (sources + destinations) >= PAST_CACHES);
        return;
    }
    /* A block at a time through a buffer in cache: destinations may be sources. Elements of 16 bits are float32 in it,
       and rounded once. */
    _Alignas(64) char block[8192], term[8192];
    const int64_t bytes = (int64_t)mth_dtype_size(dtype);
    const bool widens = mth__is_half(dtype);
    const mth_dtype inside = widens ? MTH_FLOAT32 : dtype;
    const int64_t each = (int64_t)sizeof block / (int64_t)mth_dtype_size(inside);
    for (int64_t i = 0; i < count; i += each) {
        const int64_t n = mth__min64(each, count - i);
        mth__dtype_convert(dtype, (const char *)src[0] + i * bytes, inside, block, n);
        for (int s = 1; s < sources; s++) {
            const void *next = (const char *)src[s] + i * bytes;
            if (widens) mth__dtype_convert(dtype, next, inside, term, n);
            mth__reduce_run(op, inside, n, block, 1, widens ? term : next, 1);
        }
        for (int j = 0; j < destinations; j++) mth__dtype_convert(inside, block, dtype, (char *)dst[j] + i * bytes, n);
    }
}
