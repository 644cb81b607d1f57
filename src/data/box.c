#include "data/box.h"
#include <string.h>

void mth__loop_merge(mth__loop *loop) {
    int n = 0;
    for (int d = 0; d < loop->rank; d++) {
        if (loop->size[d] == 1) continue;
        bool joins = n > 0;
        for (int operand = 0; operand < loop->operands && joins; operand++)
            joins = loop->stride[operand][n - 1] == loop->stride[operand][d] * loop->size[d];
        if (joins) {
            loop->size[n - 1] *= loop->size[d];
            for (int operand = 0; operand < loop->operands; operand++)
                loop->stride[operand][n - 1] = loop->stride[operand][d];
            continue;
        }
        loop->size[n] = loop->size[d];
        for (int operand = 0; operand < loop->operands; operand++) loop->stride[operand][n] = loop->stride[operand][d];
        n++;
    }
    loop->rank = n;
}
void mth__loop_at(const mth__loop *loop, int rank, int64_t index, int64_t *offset) {
    for (int operand = 0; operand < loop->operands; operand++) offset[operand] = 0;
    for (int d = rank - 1; d >= 0; d--) {
        const int64_t i = index % loop->size[d];
        index /= loop->size[d];
        for (int operand = 0; operand < loop->operands; operand++) offset[operand] += i * loop->stride[operand][d];
    }
}
void mth__loop_broadcast(const mth__shape *from, const mth__shape *to, int64_t *stride) {
    int64_t step = 1;
    for (int d = to->rank - 1; d >= 0; d--) {
        const int from_dim = d - (to->rank - from->rank);
        stride[d] = from_dim < 0 || (from->dim[from_dim] == 1 && to->dim[d] != 1) ? 0 : step;
        if (from_dim >= 0) step *= from->dim[from_dim];
    }
}

enum { PIECE = 8192 }; /* a single run is cut in rows of this many elements */
/* ---- strided copies. The dimension that src has contiguous comes next to last, the one of dst last: where they
   differ, the copy of the two is a transposition in tiles, else a run. */
static void move_dim(mth__loop *loop, int from, int to) {
    const int64_t size = loop->size[from], stride_to = loop->stride[0][from], stride_from = loop->stride[1][from];
    for (int i = from; i < to; i++) {
        loop->size[i] = loop->size[i + 1];
        loop->stride[0][i] = loop->stride[0][i + 1];
        loop->stride[1][i] = loop->stride[1][i + 1];
    }
    loop->size[to] = size;
    loop->stride[0][to] = stride_to;
    loop->stride[1][to] = stride_from;
}
void mth__copy_plan(mth__copy *copy, mth_dtype dtype) {
    mth__loop *loop = &copy->loop;
    loop->operands = 2;
    copy->dtype = dtype;
    copy->size = mth_dtype_size(dtype);
    mth__loop_merge(loop);
    if (!loop->rank) {
        loop->rank = 1;
        loop->size[0] = loop->stride[0][0] = loop->stride[1][0] = 1;
    }
    for (int d = 0; d < loop->rank - 1; d++)
        if (loop->stride[0][loop->rank - 1] != 1 && loop->stride[0][d] == 1) {
            move_dim(loop, d, loop->rank - 1);
            break;
        }
    if (loop->stride[1][loop->rank - 1] != 1)
        for (int d = 0; d < loop->rank - 2; d++)
            if (loop->stride[1][d] == 1) {
                move_dim(loop, d, loop->rank - 2);
                break;
            }
    copy->rows = 1;
    for (int d = 0; d < loop->rank - 1; d++) copy->rows *= loop->size[d];
    if (loop->rank == 1) copy->rows = mth__ceil_div(loop->size[0], PIECE);
    if (loop->size[loop->rank - 1] == 0) copy->rows = 0;
}

void mth__transpose_tiles(int64_t rows, int64_t columns, const float *x, int64_t x_step, float *y, int64_t y_step) {
    enum { TILE = 16 };
    for (int64_t r0 = 0; r0 < rows; r0 += TILE)
        for (int64_t c0 = 0; c0 < columns; c0 += TILE) {
            const int64_t r1 = rows - r0 < TILE ? rows : r0 + TILE, c1 = columns - c0 < TILE ? columns : c0 + TILE;
            for (int64_t column = c0; column < c1; column++)
                for (int64_t row = r0; row < r1; row++) y[column * y_step + row] = x[row * x_step + column];
        }
}

static void copy_run(size_t size, int64_t n, char *dst, int64_t ds, const char *src, int64_t ss) {
    if (ds == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * size);
        return;
    }
#define STRIDED(type)                                                                                                  \
    {                                                                                                                  \
        type *d = (type *)(void *)dst;                                                                                 \
        const type *s = (const type *)(const void *)src;                                                               \
        if (ss == 0) {                                                                                                 \
            const type v = *s;                                                                                         \
            for (int64_t i = 0; i < n; i++) d[i * ds] = v;                                                             \
        } else                                                                                                         \
            for (int64_t i = 0; i < n; i++) d[i * ds] = s[i * ss];                                                     \
    }
    switch (size) {
    case 1: STRIDED(uint8_t) break;
    case 2: STRIDED(uint16_t) break;
    case 4: STRIDED(uint32_t) break;
    default: STRIDED(uint64_t)
    }
#undef STRIDED
}
static void move_run(const mth__copy *copy, int64_t n, char *dst, int64_t ds, const char *src, int64_t ss) {
    if (copy->combine)
        copy->combine(copy->dtype, n, dst, ds, src, ss);
    else
        copy_run(copy->size, n, dst, ds, src, ss);
}
void mth__copy_run(const mth__copy *copy, void *dst, const void *src, int64_t lo, int64_t hi) {
    const mth__loop *loop = &copy->loop;
    const int last = loop->rank - 1;
    const int64_t size = (int64_t)copy->size, n = loop->size[last], ds = loop->stride[0][last],
                  ss = loop->stride[1][last];
    char *d0 = (char *)dst + copy->dst * size;
    const char *s0 = (const char *)src + copy->src * size;
    const bool tiles = !copy->combine && last > 0 && size == 4 && ds == 1 && ss != 1 && loop->stride[1][last - 1] == 1;
    if (last == 0) {
        const int64_t from = lo * PIECE, to = hi * PIECE < n ? hi * PIECE : n;
        if (from < to) move_run(copy, to - from, d0 + from * ds * size, ds, s0 + from * ss * size, ss);
        return;
    }
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = lo; row < hi;) {
        mth__loop_at(loop, last, row, at);
        char *target = d0 + at[0] * size;
        const char *source = s0 + at[1] * size;
        const int64_t left = loop->size[last - 1] - row % loop->size[last - 1], run = hi - row < left ? hi - row : left;
        if (tiles)
            mth__transpose_tiles(
                n, run, (const float *)(const void *)source, ss, (float *)(void *)target, loop->stride[0][last - 1]);
        else
            for (int64_t i = 0; i < run; i++)
                move_run(copy, n, target + i * loop->stride[0][last - 1] * size, ds,
                    source + i * loop->stride[1][last - 1] * size, ss);
        row += run;
    }
}

void mth__box_copy(mth_dtype dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride,
    const void *src, const int64_t *src_stride) {
    mth__copy copy = {.loop = {.rank = rank, .operands = 2}};
    for (int d = 0; d < rank; d++) {
        if (!size[d]) return;
        copy.loop.size[d] = size[d];
        copy.loop.stride[0][d] = dst_stride[d];
        copy.loop.stride[1][d] = src_stride[d];
    }
    mth__copy_plan(&copy, dtype);
    mth__copy_run(&copy, dst, src, 0, copy.rows);
}
