/* Shared by the kernel files: chunking, operands, and the entries of each file's rows in the table. */
#ifndef MTH__KERNEL_UTIL_H
#define MTH__KERNEL_UTIL_H
#include "data/box.h"
#include "engine/native/kernel.h"
#include "engine/native/kernel_tile.h"
#include "engine/native/kernel_vector.h"
#include <math.h>
#include <string.h>

/* What one chunk should take: long beside the cost of handing it out (about 1 us), short enough that cores end
 * together. */
#define MTH__CHUNK_NS 5e5
#define MTH__BYTES_PER_NS 8.0 /* one core on memory: sets the size of chunks of kernels that only move data */

static inline int64_t mth__min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t mth__max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int mth__chunks(double ns, int64_t items) { /* at least 1, at most one an item */
    const double n = ns / MTH__CHUNK_NS;
    const int64_t chunks_wanted = n < 1 ? 1 : n > 4096 ? 4096 : (int64_t)n;
    return (int)mth__max64(1, mth__min64(chunks_wanted, items));
}
typedef struct {
    int64_t lo, hi;
} mth__chunk_range;
static inline mth__chunk_range mth__chunk_of(int64_t items, int64_t chunks, int64_t chunk) {
    const int64_t each = items / chunks, more = items % chunks;
    const int64_t lo = chunk * each + mth__min64(chunk, more);
    return (mth__chunk_range){lo, lo + each + (chunk < more)};
}
static inline void mth__one_phase(mth__call *call, double ns, int64_t items) {
    call->phases = 1;
    call->chunks[0] = mth__chunks(ns, items);
}
static inline float *mth__f32(const mth__operand *operand) { return operand->data; }
/* product of dimensions [from, to) */
static inline int64_t mth__dims(const mth__operand *operand, int from, int to) {
    int64_t n = 1;
    for (int d = from; d < to; d++) n *= operand->shape.dim[d];
    return n;
}
static inline int64_t mth__size(const mth__operand *operand) { return mth__dims(operand, 0, operand->shape.rank); }
static inline int64_t mth__step(const mth__operand *operand, int d) { return operand->step[d] ? operand->step[d] : 1; }
static inline int64_t mth__id(const mth__operand *ids, int64_t i) {
    return ids->dtype == MTH_INT64 ? ((const int64_t *)ids->data)[i] : ((const int32_t *)ids->data)[i];
}
/* The local index of a global index along dimension d, or -1 where this part doesn't hold it. */
static inline int64_t mth__local_index(const mth__operand *operand, int d, int64_t index) {
    const int64_t step = mth__step(operand, d), away = index - operand->start[d];
    if (away < 0 || away % step) return -1;
    return away / step < operand->shape.dim[d] ? away / step : -1;
}
/* kernel_box.c: dst += src or dst = max(dst, src) of n elements. Sums of integers wrap; that of bools is whether one is
   true. */
void mth__reduce_run(
    mth__box_op, mth_dtype, int64_t n, void *dst, int64_t dst_stride, const void *src, int64_t src_stride);
/* its sum, as a copy combines */
void mth__add_run(mth_dtype, int64_t n, void *dst, int64_t dst_stride, const void *src, int64_t src_stride);

/* BLAS, row-major: c = alpha * op(a) op(b) + beta * c; gemv where m or n is 1. */
void mth__gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
    const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
void mth__gemm_open(void);        /* once, before all others */
mth_status mth__gemm_start(void); /* before the first product of a run: MEMORY where OpenBLAS could not work */

/* kernel_sum.c: sums of rows of n columns. Blocks of 64 rows have a sum of their own, 64 blocks too, and so on: 256
   additions reach 64^4 rows. */
enum { MTH__CASCADE_BLOCK = 64, MTH__CASCADE_LEVELS = 4 };
typedef struct {
    int64_t n, rows;
    float *sum, *level[MTH__CASCADE_LEVELS];
} mth__cascade;
void mth__cascade_begin(mth__cascade *, int64_t n, bool add /* to what sum holds */, float *sum, float *scratch);
void mth__cascade_carry(mth__cascade *);                        /* a block of rows is full */
static inline float *mth__cascade_next(mth__cascade *cascade) { /* where the next row is to be added */
    if (cascade->rows && cascade->rows % MTH__CASCADE_BLOCK == 0) mth__cascade_carry(cascade);
    cascade->rows++;
    return cascade->level[0];
}
void mth__cascade_end(mth__cascade *); /* `sum` holds the sum */
static inline size_t mth__cascade_bytes(int64_t n) { return (size_t)(MTH__CASCADE_LEVELS * n) * sizeof(float); }

/* Terms strung together by the row of the result that they are added to, in their order: the `first` and `last` of a
   row, the `next` of a term, counted from 1; 0: there is none. Several chunks share them, each with rows of its own. */
typedef struct {
    int64_t *first, *last, *next;
} mth__chains;
static inline size_t mth__chains_bytes(int64_t rows, int64_t terms) {
    return (size_t)(2 * rows + terms) * sizeof(int64_t);
}
static inline mth__chains mth__chains_of(int64_t rows, void *room) {
    int64_t *first = room;
    return (mth__chains){first, first + rows, first + 2 * rows};
}
static inline void mth__chains_begin(const mth__chains *all, mth__chunk_range rows) {
    memset(all->first + rows.lo, 0, (size_t)(rows.hi - rows.lo) * sizeof *all->first);
}
static inline void mth__chains_add(const mth__chains *all, int64_t row, int64_t term) {
    *(all->first[row] ? &all->next[all->last[row] - 1] : &all->first[row]) = term + 1;
    all->last[row] = term + 1;
    all->next[term] = 0;
}

/* Products a b, m x n, with a long sum: panels of at most so many terms, each a product in float32, are added in
 * double. BLAS cuts products of matrices into shorter chains by itself. It multiplies a matrix and a vector in many
 * chains where terms lie side by side in the matrix, and in one where they lie in rows of their own. The strides are
 * those of the terms. */
enum { MTH__PANEL = 16384, MTH__VECTOR_PANEL = 4096, MTH__CHAIN = 512 };
static inline bool mth__is_vector(int64_t m, int64_t n) { return m == 1 || n == 1; }
static inline int64_t mth__panel(int64_t m, int64_t n, int64_t a_column, int64_t b_row) {
    if (!mth__is_vector(m, n)) return MTH__PANEL;
    return (n == 1 ? a_column : b_row) == 1 ? MTH__VECTOR_PANEL : MTH__CHAIN;
}
/* Of a vector BLAS adds term by term to what is there, and so rounds each at the size of the sum. */
static inline bool mth__needs_panels(int64_t m, int64_t n, int64_t k, int64_t panel, bool add) {
    return k > panel || (add && mth__is_vector(m, n));
}
typedef struct {
    int64_t m, n;
    double *sum;
    float *term;
    bool any; /* of the panels is in the sum */
} mth__panels;
/* where each panel's product goes: dense, m x n */
float *mth__panels_begin(mth__panels *, int64_t m, int64_t n, void *scratch);
void mth__panels_add(mth__panels *);
void mth__panels_end(const mth__panels *, bool add, float *c, int64_t ldc);
static inline size_t mth__panels_bytes(int64_t m, int64_t n) {
    return (size_t)(m * n) * (sizeof(double) + sizeof(float));
}

/* clang-format off */
#define MTH__KERNELS(KERNEL) \
    KERNEL(elementwise) KERNEL(cast) KERNEL(mask) KERNEL(dropout) KERNEL(contract) KERNEL(reduce) \
    KERNEL(copy) KERNEL(broadcast_to) KERNEL(transpose) KERNEL(slice) KERNEL(pad) KERNEL(concat) KERNEL(keep) \
    KERNEL(gather) KERNEL(gather_grad) KERNEL(pick) KERNEL(pick_grad) KERNEL(sinusoid) KERNEL(rope) KERNEL(softmax) \
    KERNEL(softmax_grad) KERNEL(layer_norm) KERNEL(norm_grad) KERNEL(rms_norm) KERNEL(attention) \
    KERNEL(attention_grad) KERNEL(moe_route) KERNEL(moe_route_grad) KERNEL(moe_capacity) KERNEL(moe_rows) \
    KERNEL(moe_dispatch) KERNEL(moe_combine) KERNEL(moe_combine_weights_grad) KERNEL(moe_matmul) KERNEL(moe_outer) \
    KERNEL(moe_bias) KERNEL(moe_bias_grad) KERNEL(moe_map) KERNEL(moe_count)
/* clang-format on */
#define KERNEL(name)                                                                                                   \
    mth_status mth__prepare_##name(mth__arena *, mth__call *);                                                         \
    void mth__run_##name(const mth__call *, int phase, int chunk, void *scratch);
MTH__KERNELS(KERNEL)
#undef KERNEL
#endif
