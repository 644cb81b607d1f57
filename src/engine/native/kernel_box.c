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
/* Floating elements of 16 bits: a block at a time is combined in float32. Elements [at, at + n) of each source. */
static void reduce_halves(mth__box_op op, mth_dtype dtype, int64_t n, uint16_t *dst, int64_t ds, bool onto, int sources,
    const void *const *src, int64_t at, int64_t ss) {
    enum { BLOCK = 256 };
    uint16_t stored[BLOCK];
    float sum[BLOCK], term[BLOCK];
    for (int64_t done = 0, some; done < n; done += some) {
        some = mth__min64(BLOCK, n - done);
        for (int source = onto ? -1 : 0; source < sources; source++) {
            const uint16_t *from = source < 0 ? dst + done * ds : (const uint16_t *)src[source] + at + done * ss;
            const int64_t step = source < 0 ? ds : ss;
            const bool first = source == (onto ? -1 : 0);
            for (int64_t i = 0; i < some; i++) stored[i] = from[i * step];
            mth__dtype_convert(dtype, stored, MTH_FLOAT32, first ? sum : term, some);
            if (!first) (op == MTH__BOX_ADD ? mth__vec->add_to : mth__vec->max_to)(some, term, sum);
        }
        mth__dtype_convert(MTH_FLOAT32, sum, dtype, stored, some);
        for (int64_t i = 0; i < some; i++) dst[(done + i) * ds] = stored[i];
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
    case MTH_FLOAT16: reduce_halves(op, dtype, n, dst, ds, true, 1, &src, 0, ss); return;
    case MTH_BOOL: RUN(uint8_t, *a | b, *a | b)
    }
}
void mth__add_run(mth_dtype dtype, int64_t n, void *dst, int64_t ds, const void *src, int64_t ss) {
    mth__reduce_run(MTH__BOX_ADD, dtype, n, dst, ds, src, ss);
}
/* The rows of a box: its runs along the innermost dimension, after neighbours were merged. */
typedef struct {
    mth__loop loop;
    int outer; /* dimensions around a run */
    int64_t rows, n, ds, ss;
} box_rows;
static box_rows rows_of(int rank, const int64_t *size, const int64_t *dst_stride, const int64_t *src_stride) {
    box_rows all = {.loop = {.rank = rank, .operands = 2}, .rows = 1};
    mth__loop *loop = &all.loop;
    for (int d = 0; d < rank; d++) {
        loop->size[d] = size[d];
        loop->stride[0][d] = dst_stride[d];
        loop->stride[1][d] = src_stride[d];
        if (!size[d]) all.rows = 0;
    }
    if (!all.rows) return all;
    mth__loop_merge(loop);
    const int last = loop->rank - 1;
    all.n = last < 0 ? 1 : loop->size[last];
    all.ds = last < 0 ? 1 : loop->stride[0][last];
    all.ss = last < 0 ? 1 : loop->stride[1][last];
    all.outer = last < 0 ? 0 : last;
    for (int d = 0; d < last; d++) all.rows *= loop->size[d];
    return all;
}
void mth__box(mth__box_op op, mth_dtype dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride,
    const void *src, const int64_t *src_stride) {
    if (op == MTH__BOX_COPY) {
        mth__box_copy(dtype, rank, size, dst, dst_stride, src, src_stride);
        return;
    }
    const box_rows all = rows_of(rank, size, dst_stride, src_stride);
    const int64_t bytes = (int64_t)mth_dtype_size(dtype);
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = 0; row < all.rows; row++) {
        mth__loop_at(&all.loop, all.outer, row, at);
        mth__reduce_run(
            op, dtype, all.n, (char *)dst + at[0] * bytes, all.ds, (const char *)src + at[1] * bytes, all.ss);
    }
}
void mth__box_combine(mth__box_op op, mth_dtype dtype, int rank, const int64_t *size, void *dst,
    const int64_t *dst_stride, bool onto, int sources, void *const *src, int64_t from, const int64_t *src_stride) {
    const box_rows all = rows_of(rank, size, dst_stride, src_stride);
    const int64_t first = from / (int64_t)mth_dtype_size(dtype);
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = 0; row < all.rows; row++) {
        mth__loop_at(&all.loop, all.outer, row, at);
        reduce_halves(op, dtype, all.n, (uint16_t *)dst + at[0], all.ds, onto, sources, (const void *const *)src,
            first + at[1], all.ss);
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
        for (int source = 1; source < sources; source++) {
            const void *next = (const char *)src[source] + i * bytes;
            if (widens) mth__dtype_convert(dtype, next, inside, term, n);
            mth__reduce_run(op, inside, n, block, 1, widens ? term : next, 1);
        }
        for (int j = 0; j < destinations; j++) mth__dtype_convert(inside, block, dtype, (char *)dst[j] + i * bytes, n);
    }
}
