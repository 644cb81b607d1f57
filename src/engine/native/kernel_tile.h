/* How kernels read and write elements of 16 bits. All compute in float32. An operand of float32 is read where it lies
 * and a result computed in its place, at no cost. Elements of 16 bits are converted into a tile, of which the kernel
 * declares the room in its scratch, and results are rounded once, from theirs.
 *
 * A kernel has one tile for each operand and result, in order. It adds up their bytes when it is prepared
 * (mth__tile_bytes), and takes them from its scratch in the same order when it runs (mth__tile_take). */
#ifndef MTH__KERNEL_TILE_H
#define MTH__KERNEL_TILE_H
#include "base/dtype.h"
#include "engine/native/kernel.h"
#include <string.h>

/* Elements of a tile where a kernel is free to choose: its tiles stay in the first cache. */
enum { MTH__TILE = 1024 };

static inline size_t mth__tile_bytes(const mth__operand *operand, int64_t n) {
    return mth__is_half(operand->dtype) ? ((size_t)n * sizeof(float) + 63) & ~(size_t)63 : 0;
}
/* How many elements a kernel that is free to choose takes at once: all, where none of 16 bits has to be converted. */
static inline int64_t mth__tile_most(const mth__call *call) {
    bool half = false;
    for (int j = 0; j < call->nin; j++) half = half || mth__is_half(call->in[j].dtype);
    for (int k = 0; k < call->nout; k++) half = half || mth__is_half(call->out[k].dtype);
    return half ? MTH__TILE : INT64_MAX;
}
static inline float *mth__tile_take(void **room, const mth__operand *operand, int64_t n) {
    float *tile = *room;
    *room = (char *)*room + mth__tile_bytes(operand, n);
    return tile;
}
static inline void *mth__element(const mth__operand *operand, int64_t at) {
    return (char *)operand->data + at * (int64_t)mth_dtype_size(operand->dtype);
}
/* Elements [at, at + n) of an operand as float32. */
static inline const float *mth__tile_read(const mth__operand *x, int64_t at, int64_t n, float *tile) {
    if (x->dtype == MTH_FLOAT32) return (const float *)x->data + at;
    mth__dtype_convert(x->dtype, mth__element(x, at), MTH_FLOAT32, tile, n);
    return tile;
}
/* Where elements from `at` on of a result are to be computed; mth__tile_store brings them to their place. */
static inline float *mth__tile_of(const mth__operand *y, int64_t at, float *tile) {
    return y->dtype == MTH_FLOAT32 ? (float *)y->data + at : tile;
}
static inline void mth__tile_store(const mth__operand *y, int64_t at, int64_t n, const float *tile) {
    if (y->dtype != MTH_FLOAT32) mth__dtype_convert(MTH_FLOAT32, tile, y->dtype, mth__element(y, at), n);
}
/* The same, of a result that is added to the n elements that are there, where `add` is true. */
static inline float *mth__tile_sum(const mth__operand *y, int64_t at, int64_t n, bool add, float *tile) {
    return add ? (float *)mth__tile_read(y, at, n, tile) : mth__tile_of(y, at, tile);
}
/* Elements that are moved as they are, from an operand of the same dtype; elements that become 0. */
static inline void mth__elements_copy(
    const mth__operand *y, int64_t at, const mth__operand *x, int64_t from, int64_t n) {
    memcpy(mth__element(y, at), mth__element(x, from), (size_t)n * mth_dtype_size(y->dtype));
}
static inline void mth__elements_zero(const mth__operand *y, int64_t at, int64_t n) {
    memset(mth__element(y, at), 0, (size_t)n * mth_dtype_size(y->dtype));
}

/* Rows of `columns` elements, `ld` apart, of a result: where they are computed, and how far apart, in `ldt`. With `add`
   that place holds what is there. */
float *mth__tile_rows(
    const mth__operand *y, int64_t at, int64_t rows, int64_t columns, int64_t ld, bool add, float *tile, int64_t *ldt);
void mth__tile_rows_store(
    const mth__operand *y, int64_t at, int64_t rows, int64_t columns, int64_t ld, const float *tile);
/* The same of an operand: as float32. */
const float *mth__tile_rows_read(
    const mth__operand *x, int64_t at, int64_t rows, int64_t columns, int64_t ld, float *tile, int64_t *ldt);

/* ---- matrices, of which element (i, j) lies at i * row + j * column: one of the strides is 1, or one of the sizes */
typedef struct {
    mth_dtype dtype;
    const void *data;
    int64_t row, column;
} mth__matrix;
static inline mth__matrix mth__matrix_of(const mth__operand *x, int64_t at, int64_t row, int64_t column) {
    return (mth__matrix){x->dtype, mth__element(x, at), row, column};
}
/* Its part from row i and column j on. */
static inline mth__matrix mth__matrix_from(const mth__matrix *x, int64_t i, int64_t j) {
    const int64_t at = (i * x->row + j * x->column) * (int64_t)mth_dtype_size(x->dtype);
    return (mth__matrix){x->dtype, (const char *)x->data + at, x->row, x->column};
}
/* The same as float32: in its place, or in the tile, without gaps. */
mth__matrix mth__matrix_read(const mth__matrix *, int64_t i, int64_t rows, int64_t j, int64_t columns, float *tile);
/* c = a b, or with `add` c += a b, by BLAS: m x n of k terms. Matrices of 16 bits are converted some terms at a time,
   in `room` of so many bytes, which are enough for smaller matrices too. */
size_t mth__matrix_bytes(mth_dtype a, mth_dtype b, int64_t m, int64_t n, int64_t k);
void mth__matrix_product(int64_t m, int64_t n, int64_t k, const mth__matrix *a, const mth__matrix *b, bool add,
    float *c, int64_t ldc, void *room);
/* How many terms at a time: few enough for the caches, and so many that reading and writing the result costs little
   beside the products. */
int64_t mth__matrix_depth(int64_t m, int64_t n);
#endif
