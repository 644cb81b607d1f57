#include "data/box.h"
#include <string.h>

void mth__loop_merge(mth__loop *l) {
    int n = 0;
    for (int d = 0; d < l->rank; d++) {
        if (l->size[d] == 1) continue;
        bool joins = n > 0;
        for (int o = 0; o < l->operands && joins; o++) joins = l->stride[o][n - 1] == l->stride[o][d] * l->size[d];
        if (joins) {
            l->size[n - 1] *= l->size[d];
            for (int o = 0; o < l->operands; o++) l->stride[o][n - 1] = l->stride[o][d];
            continue;
        }
        l->size[n] = l->size[d];
        for (int o = 0; o < l->operands; o++) l->stride[o][n] = l->stride[o][d];
        n++;
    }
    l->rank = n;
}
void mth__loop_at(const mth__loop *l, int rank, int64_t index, int64_t *offset) {
    for (int o = 0; o < l->operands; o++) offset[o] = 0;
    for (int d = rank - 1; d >= 0; d--) {
        const int64_t i = index % l->size[d];
        index /= l->size[d];
        for (int o = 0; o < l->operands; o++) offset[o] += i * l->stride[o][d];
    }
}
void mth__loop_broadcast(const mth__shape *from, const mth__shape *to, int64_t *stride) {
    int64_t s = 1;
    for (int d = to->rank - 1; d >= 0; d--) {
        const int f = d - (to->rank - from->rank);
        stride[d] = f < 0 || (from->dim[f] == 1 && to->dim[d] != 1) ? 0 : s;
        if (f >= 0) s *= from->dim[f];
    }
}

enum { PIECE = 8192 }; /* a single run is cut in rows of this many elements */
/* ---- strided copies. The dimension that src has contiguous comes next to last, the one of dst last: where they
   differ, the copy of the two is a transposition in tiles, else a run. */
static void move_dim(mth__loop *l, int from, int to) {
    const int64_t size = l->size[from], d = l->stride[0][from], s = l->stride[1][from];
    for (int i = from; i < to; i++) {
        l->size[i] = l->size[i + 1];
        l->stride[0][i] = l->stride[0][i + 1];
        l->stride[1][i] = l->stride[1][i + 1];
    }
    l->size[to] = size;
    l->stride[0][to] = d;
    l->stride[1][to] = s;
}
void mth__copy_plan(mth__copy *c, mth_dtype dtype) {
    mth__loop *l = &c->loop;
    l->operands = 2;
    c->dtype = dtype;
    c->size = mth_dtype_size(dtype);
    mth__loop_merge(l);
    if (!l->rank) {
        l->rank = 1;
        l->size[0] = l->stride[0][0] = l->stride[1][0] = 1;
    }
    for (int d = 0; d < l->rank - 1; d++)
        if (l->stride[0][l->rank - 1] != 1 && l->stride[0][d] == 1) {
            move_dim(l, d, l->rank - 1);
            break;
        }
    if (l->stride[1][l->rank - 1] != 1)
        for (int d = 0; d < l->rank - 2; d++)
            if (l->stride[1][d] == 1) {
                move_dim(l, d, l->rank - 2);
                break;
            }
    c->rows = 1;
    for (int d = 0; d < l->rank - 1; d++) c->rows *= l->size[d];
    if (l->rank == 1) c->rows = mth__ceil_div(l->size[0], PIECE);
    if (l->size[l->rank - 1] == 0) c->rows = 0;
}

void mth__transpose_tiles(int64_t rows, int64_t columns, const float *x, int64_t x_step, float *y, int64_t y_step) {
    enum { TILE = 16 };
    for (int64_t r0 = 0; r0 < rows; r0 += TILE)
        for (int64_t c0 = 0; c0 < columns; c0 += TILE) {
            const int64_t r1 = rows - r0 < TILE ? rows : r0 + TILE, c1 = columns - c0 < TILE ? columns : c0 + TILE;
            for (int64_t c = c0; c < c1; c++)
                for (int64_t r = r0; r < r1; r++) y[c * y_step + r] = x[r * x_step + c];
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
static void move_run(const mth__copy *c, int64_t n, char *dst, int64_t ds, const char *src, int64_t ss) {
    if (c->combine)
        c->combine(c->dtype, n, dst, ds, src, ss);
    else
        copy_run(c->size, n, dst, ds, src, ss);
}
void mth__copy_run(const mth__copy *c, void *dst, const void *src, int64_t lo, int64_t hi) {
    const mth__loop *l = &c->loop;
    const int last = l->rank - 1;
    const int64_t size = (int64_t)c->size, n = l->size[last], ds = l->stride[0][last], ss = l->stride[1][last];
    char *d0 = (char *)dst + c->dst * size;
    const char *s0 = (const char *)src + c->src * size;
    const bool tiles = !c->combine && last > 0 && size == 4 && ds == 1 && ss != 1 && l->stride[1][last - 1] == 1;
    if (last == 0) {
        const int64_t from = lo * PIECE, to = hi * PIECE < n ? hi * PIECE : n;
        if (from < to) move_run(c, to - from, d0 + from * ds * size, ds, s0 + from * ss * size, ss);
        return;
    }
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = lo; row < hi;) {
        mth__loop_at(l, last, row, at);
        char *d = d0 + at[0] * size;
        const char *s = s0 + at[1] * size;
        const int64_t left = l->size[last - 1] - row % l->size[last - 1], run = hi - row < left ? hi - row : left;
        if (tiles)
            mth__transpose_tiles(
                n, run, (const float *)(const void *)s, ss, (float *)(void *)d, l->stride[0][last - 1]);
        else
            for (int64_t r = 0; r < run; r++)
                move_run(c, n, d + r * l->stride[0][last - 1] * size, ds, s + r * l->stride[1][last - 1] * size, ss);
        row += run;
    }
}

void mth__box_copy(mth_dtype dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride,
    const void *src, const int64_t *src_stride) {
    mth__copy c = {.loop = {.rank = rank, .operands = 2}};
    for (int d = 0; d < rank; d++) {
        if (!size[d]) return;
        c.loop.size[d] = size[d];
        c.loop.stride[0][d] = dst_stride[d];
        c.loop.stride[1][d] = src_stride[d];
    }
    mth__copy_plan(&c, dtype);
    mth__copy_run(&c, dst, src, 0, c.rows);
}
