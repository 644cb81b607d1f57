/* A part of kernel_vector_body.h; not guarded, as it is a body. */
/* y = alpha x b + beta y of a vector x: the terms of a sum lie in rows of their own. ROWS of them are added in
 * registers, then to a sum of CHAIN terms, and those to one of all, so that no chain is long. The sums of COLUMNS stay
 * in the first cache. */
#define EACH_ROW(do)                                                                                                   \
    do (0) do(1) do(2) do(3) do(4) do(5) do(6) do(7)
#define BEGIN(q)                                                                                                       \
    const float *const r##q = b + q * ldb;                                                                             \
    const float x##q = x[q * x_step];
#define MULTIPLY(q)                                                                                                    \
    s = FMA(N(set)(x##q), N(load)(r##q + j), s);                                                                       \
    t = FMA(N(set)(x##q), N(load)(r##q + j + W), t);
#define MULTIPLY_HALF(q) s = FMA(N(set)(x##q), N(load)(r##q + j), s);
#define MULTIPLY_ONE(q) s += x##q * r##q[j];
enum { N(ROWS) = 8 };
/* `behind`: elements that may be read behind the last row's. What comes of them goes behind the sums, where it is
 * nobody's. */
static void N(add_rows)(
    int64_t n, const float *x, int64_t x_step, const float *b, int64_t ldb, int64_t behind, float *sum) {
    EACH_ROW(BEGIN)
    int64_t j = 0;
    for (; j + 2 * W <= n; j += 2 * W) {
        V s = N(set)(0), t = N(set)(0);
        EACH_ROW(MULTIPLY)
        N(store)(sum + j, N(load)(sum + j) + s);
        N(store)(sum + j + W, N(load)(sum + j + W) + t);
    }
    for (; j < n && j + W <= n + behind; j += W) {
        V s = N(set)(0);
        EACH_ROW(MULTIPLY_HALF)
        N(store)(sum + j, N(load)(sum + j) + s);
    }
    for (; j < n; j++) {
        float s = 0;
        EACH_ROW(MULTIPLY_ONE)
        sum[j] += s;
    }
}
#undef MULTIPLY_ONE
#undef MULTIPLY_HALF
#undef MULTIPLY
#undef BEGIN
#undef EACH_ROW
static void N(vector_product)(int64_t n, int64_t k, float alpha, const float *x, int64_t x_step, const float *b,
    int64_t ldb, float beta, float *y, int64_t y_step) {
    enum { COLUMNS = 4096, CHAIN = 512 };
    _Alignas(64) float total[COLUMNS + W], more[COLUMNS + W];
    for (int64_t j = 0; j < n; j += COLUMNS) {
        const int64_t columns = n - j < COLUMNS ? n - j : COLUMNS;
        for (int64_t k0 = 0, i = 0; k0 < k; k0 += CHAIN) {
            const int64_t end = k - k0 < CHAIN ? k : k0 + CHAIN;
            float *const sum = k0 ? more : total;
            N(fill)(columns + W, 0, sum);
            for (; i + N(ROWS) <= end; i += N(ROWS)) {
                const int64_t behind = ldb == n ? (k - i - N(ROWS)) * n : 0; /* rows of the matrix */
                N(add_rows)(columns, x + i * x_step, x_step, b + i * ldb + j, ldb, behind, sum);
            }
            for (; i < end; i++) N(axpy)(columns, x[i * x_step], b + i * ldb + j, sum);
            if (k0) N(add_to)(columns, sum, total);
        }
        for (int64_t at = 0; at < columns; at++) {
            float *const to = y + (j + at) * y_step;
            *to = alpha * total[at] + (beta == 0 ? 0 : beta * *to);
        }
    }
}
