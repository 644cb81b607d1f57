/* A part of kernel_vector_body.h, for its widest instruction set; not guarded, as it is a body. */
/* c = a b without packing, for products with a dimension so small that packing for it doesn't pay: 8 x 2 vectors of c
   in registers, blocks of k so short that a panel of b stays in the first cache; but where the rows of a come from
   memory, long enough to read them in long runs. Each block has a sum of its own, which is then added to c: one chain
   over all of k would lose digits. b and c have contiguous rows. */
enum { DEPTH = 128, DEEP = 512, WIDE = 2 * W, TALL = 8 };
#define EACH(do)                                                                                                       \
    do (0) do(1) do(2) do(3) do(4) do(5) do(6) do(7)
INLINE void N(product_tile)(int64_t k, const float *const *a, int64_t a_column, const float *b, int64_t ldb, float *c,
    int64_t ldc, bool first, bool fetch) {
#define BEGIN(q)                                                                                                       \
    const float *const r##q = a[q];                                                                                    \
    V s##q = N(set)(0), t##q = N(set)(0);
#define MULTIPLY(q)                                                                                                    \
    {                                                                                                                  \
        const V x = N(set)(r##q[column]);                                                                              \
        s##q = FMA(x, u, s##q);                                                                                        \
        t##q = FMA(x, v, t##q);                                                                                        \
    }
#define END(q)                                                                                                         \
    if (!first) {                                                                                                      \
        s##q += N(load)(c + q * ldc);                                                                                  \
        t##q += N(load)(c + q * ldc + W);                                                                              \
    }                                                                                                                  \
    N(store)(c + q * ldc, s##q);                                                                                       \
    N(store)(c + q * ldc + W, t##q);
    EACH(BEGIN)
    for (int64_t i = 0, column = 0; i < k; i++, column += a_column, b += ldb) {
        const V u = N(load)(b), v = N(load)(b + W);
        if (fetch) {
            __builtin_prefetch(b + 16 * ldb);
            __builtin_prefetch(b + 16 * ldb + W);
        }
        EACH(MULTIPLY)
    }
    EACH(END)
}
static void N(product)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_column, const float *b,
    int64_t ldb, float *c, int64_t ldc, bool add) {
    _Alignas(64) float narrow[DEEP * WIDE], tile[TALL * WIDE];
    const int64_t block = a_column == 1 && m > n ? DEEP : DEPTH;
    for (int64_t k0 = 0; k0 < k; k0 += block) {
        const int64_t depth = k - k0 < block ? k - k0 : block;
        const bool first = !add && k0 == 0;
        for (int64_t j = 0; j < n; j += WIDE) {
            const int64_t columns = n - j < WIDE ? n - j : WIDE;
            const float *panel = b + k0 * ldb + j;
            int64_t step = ldb;
            if (columns < WIDE) {
                for (int64_t i = 0; i < depth; i++)
                    for (int64_t at = 0; at < WIDE; at++)
                        narrow[i * WIDE + at] = at < columns ? panel[i * ldb + at] : 0;
                panel = narrow;
                step = WIDE;
            }
            for (int64_t i = 0; i < m; i += TALL) {
                const int64_t rows = m - i < TALL ? m - i : TALL;
                const float *row[TALL];
                for (int64_t at = 0; at < TALL; at++)
                    row[at] = a + (i + (at < rows ? at : rows - 1)) * a_row + k0 * a_column;
                float *out = c + i * ldc + j;
                if (rows == TALL && columns == WIDE) {
                    N(product_tile)(depth, row, a_column, panel, step, out, ldc, first, i == 0);
                    continue;
                }
                N(product_tile)(depth, row, a_column, panel, step, tile, WIDE, true, i == 0);
                for (int64_t at = 0; at < rows; at++) {
                    if (first)
                        memcpy(out + at * ldc, tile + at * WIDE, (size_t)columns * sizeof *c);
                    else
                        N(add_to)(columns, tile + at * WIDE, out + at * ldc);
                }
            }
        }
    }
}
#undef END
#undef MULTIPLY
#undef BEGIN
#undef EACH
