/* Strided loops and copies of boxes. Sizes, strides and offsets count elements. */
#ifndef MTH__BOX_H
#define MTH__BOX_H
#include "base/types.h"

/* Loops over `rank` dimensions in step for several operands, inner dimensions merged where all operands allow it. */
enum { MTH__LOOP_OPERANDS = 8 };
typedef struct {
    int rank, operands;
    int64_t size[MTH__RANK];
    int64_t stride[MTH__LOOP_OPERANDS][MTH__RANK];
} mth__loop;
/* drops size 1, merges neighbours */
void mth__loop_merge(mth__loop *);
/* The offsets of the operands at the flat `index` in the first `rank` dimensions. */
void mth__loop_at(const mth__loop *, int rank, int64_t index, int64_t *offset);
/* The strides of `from`, dense, when it is read in the shape `to`. */
void mth__loop_broadcast(const mth__shape *from, const mth__shape *to, int64_t *stride);

/* A strided copy of elements of 1, 2, 4 or 8 bytes, in chunks. loop: operand 0 is written, 1 read. */
typedef struct {
    mth__loop loop;
    int64_t dst, src;
    mth_dtype dtype;
    size_t size; /* bytes of an element; set by the plan */
    int64_t rows;
    /* what is done with a run of n elements; NULL: they are copied */
    void (*combine)(mth_dtype, int64_t n, void *dst, int64_t dst_stride, const void *src, int64_t src_stride);
} mth__copy;
void mth__copy_plan(mth__copy *, mth_dtype); /* after loop, dst and src (first elements) are set */
/* rows [lo, hi) of `rows` */
void mth__copy_run(const mth__copy *, void *dst, const void *src, int64_t lo, int64_t hi);

/* dst = src for each element of the box `size` of `rank` dimensions. */
void mth__box_copy(mth_dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride, const void *src,
    const int64_t *src_stride);
/* y[c * y_step + r] = x[r * x_step + c] for r in [0, rows), c in [0, columns) */
void mth__transpose_tiles(int64_t rows, int64_t columns, const float *x, int64_t x_step, float *y, int64_t y_step);
#endif
