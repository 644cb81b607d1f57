#include "engine/native/kernel_tile.h"
#include "engine/native/kernel_util.h"

const float *mth__tile_rows_read(
    const mth__operand *x, int64_t at, int64_t rows, int64_t columns, int64_t ld, float *tile, int64_t *ldt) {
    *ldt = ld;
    if (x->dtype == MTH_FLOAT32) return (const float *)x->data + at;
    *ldt = columns;
    for (int64_t i = 0; i < rows; i++) mth__tile_read(x, at + i * ld, columns, tile + i * columns);
    return tile;
}
float *mth__tile_rows(
    const mth__operand *y, int64_t at, int64_t rows, int64_t columns, int64_t ld, bool add, float *tile, int64_t *ldt) {
    if (add) return (float *)mth__tile_rows_read(y, at, rows, columns, ld, tile, ldt);
    *ldt = y->dtype == MTH_FLOAT32 ? ld : columns;
    return mth__tile_of(y, at, tile);
}
void mth__tile_rows_store(
    const mth__operand *y, int64_t at, int64_t rows, int64_t columns, int64_t ld, const float *tile) {
    if (y->dtype == MTH_FLOAT32) return;
    for (int64_t i = 0; i < rows; i++) mth__tile_store(y, at + i * ld, columns, tile + i * columns);
}

/* ---- matrices */
/* n elements that lie `step` apart */
static void read_strided(mth_dtype dtype, const uint16_t *x, int64_t step, int64_t n, float *tile) {
    enum { BLOCK = 256 };
    uint16_t dense[BLOCK];
    for (int64_t done = 0, some; done < n; done += some) {
        some = mth__min64(BLOCK, n - done);
        for (int64_t i = 0; i < some; i++) dense[i] = x[(done + i) * step];
        mth__dtype_convert(dtype, dense, MTH_FLOAT32, tile + done, some);
    }
}
mth__matrix mth__matrix_read(const mth__matrix *x, int64_t i, int64_t rows, int64_t j, int64_t columns, float *tile) {
    mth__matrix part = {MTH_FLOAT32, tile, columns, 1};
    const int64_t first = i * x->row + j * x->column;
    if (x->dtype == MTH_FLOAT32) {
        part = *x;
        part.data = (const float *)x->data + first;
        return part;
    }
    const uint16_t *from = (const uint16_t *)x->data + first;
    if (rows == 1 || columns == 1) {
        read_strided(x->dtype, from, rows == 1 ? x->column : x->row, rows * columns, tile);
    } else if (x->column == 1) {
        for (int64_t row = 0; row < rows; row++)
            mth__dtype_convert(x->dtype, from + row * x->row, MTH_FLOAT32, tile + row * columns, columns);
    } else {
        for (int64_t column = 0; column < columns; column++)
            mth__dtype_convert(x->dtype, from + column * x->column, MTH_FLOAT32, tile + column * rows, rows);
        part.row = 1;
        part.column = rows;
    }
    return part;
}

enum { TILES = 384 << 10, STEP = 128 }; /* elements of the tiles of both matrices; terms */
int64_t mth__matrix_depth(int64_t m, int64_t n) {
    return mth__max64(STEP, mth__min64(4 * STEP, TILES / (m + n) / STEP * STEP));
}
static int64_t depth(mth_dtype a, mth_dtype b, int64_t m, int64_t n, int64_t k) {
    return a == MTH_FLOAT32 && b == MTH_FLOAT32 ? k : mth__min64(k, mth__matrix_depth(m, n));
}
static size_t tile_bytes(mth_dtype dtype, int64_t n) { return mth__tile_bytes(&(mth__operand){.dtype = dtype}, n); }
/* Smaller matrices are converted in longer steps, whose tiles may hold more: so many are enough for all up to m x n. */
size_t mth__matrix_bytes(mth_dtype a, mth_dtype b, int64_t m, int64_t n, int64_t k) {
    const int64_t rows = (mth__is_half(a) ? m : 0) + (mth__is_half(b) ? n : 0),
                  most = mth__min64(rows * mth__min64(k, 4 * STEP), mth__max64(rows * STEP, TILES));
    return rows ? (size_t)most * sizeof(float) + 2 * 64 : 0; /* each tile ends at a whole line */
}
/* BLAS wants to know which of the two dimensions is contiguous, and the stride of the other. Where a size is 1, either
 * may be called contiguous. */
static bool transposed(const mth__matrix *x, int64_t rows, int64_t columns, int64_t *ld) {
    const bool t = columns > 1 && x->column != 1;
    *ld = t ? x->column : rows > 1 ? x->row : columns;
    const int64_t least = t ? rows : columns;
    if (*ld < least) *ld = least;
    return t;
}
void mth__matrix_product(int64_t m, int64_t n, int64_t k, const mth__matrix *a, const mth__matrix *b, bool add,
    float *c, int64_t ldc, void *room) {
    const int64_t step = depth(a->dtype, b->dtype, m, n, k);
    float *tile = room, *other = (float *)((char *)room + tile_bytes(a->dtype, m * step));
    for (int64_t k0 = 0; k0 < k || k0 == 0; k0 += step) {
        const int64_t terms = mth__min64(step, k - k0);
        const mth__matrix left = mth__matrix_read(a, 0, m, k0, terms, tile),
                          right = mth__matrix_read(b, k0, terms, 0, n, other);
        int64_t lda, ldb;
        const bool ta = transposed(&left, m, terms, &lda), tb = transposed(&right, terms, n, &ldb);
        mth__gemm(ta, tb, m, n, terms, 1, left.data, lda, right.data, ldb, add || k0 ? 1 : 0, c, ldc);
        if (k == 0) return;
    }
}
