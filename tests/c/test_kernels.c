/* The native engine's kernels against the reference engine's rows, on whole values and on parts; the elementary
 * functions against libm in double. */
#include "kernel_case.h"

/* ---- the elementary functions, over their ranges, in each instruction set: errors in units of the last place of the
 * exact value */
static double libm_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static void apply(mth__elementwise *elementwise, int64_t n, const float *x, float *y) {
    elementwise(n, &x, (const int[]){1}, &y, NULL);
}
static double worst_ulp(mth__elementwise *elementwise, double (*exact)(double), float from, float to) {
    enum { N = 1024 };
    float x[N], y[N];
    double worst = 0;
    int n = 0;
    for (float v = from;;) {
        x[n++] = v;
        const bool end = v >= to;
        if (n == N || end) {
            apply(elementwise, n, x, y);
            for (int i = 0; i < n; i++) {
                const double want = exact(x[i]), ulp = fmax(ldexp(1, ilogb(want == 0 ? 1e-40 : want) - 23), 0x1p-149),
                             got = isinf(y[i]) ? (y[i] > 0 ? 0x1p128 : -0x1p128) : y[i];
                if (fabs(want) < 0x1p128 && !(fabs(got - want) / ulp <= worst)) worst = fabs(got - want) / ulp;
            }
            n = 0;
        }
        if (end) break;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        if (v < 0) {
            if (bits <= 0x80000000u + 997)
                v = 0;
            else {
                bits -= 997;
                memcpy(&v, &bits, 4);
            }
        } else {
            bits += 997;
            memcpy(&v, &bits, 4);
        }
    }
    return worst;
}
TEST(accuracy) {
    static const struct {
        int row;
        double (*exact)(double);
        float from, to;
        double most;
    } f[] = {{MTH__ROW_exp, exp, -103.9f, 88.72f, 1.5}, {MTH__ROW_log, log, 1e-44f, 3.4e38f, 1.5},
        {MTH__ROW_tanh, tanh, -20, 20, 2}, {MTH__ROW_sigmoid, libm_sigmoid, -87, 100, 3},
        {MTH__ROW_sqrt, sqrt, 0, 3e38f, 0.51}, {-1, erf, -10, 10, 2}};
    const mth__vector *vector;
    for (int i = 0; (vector = mth__vector_variant(i)); i++)
        for (size_t k = 0; k < sizeof f / sizeof *f; k++) {
            const double worst =
                worst_ulp(f[k].row < 0 ? vector->erf : vector->elementwise[f[k].row], f[k].exact, f[k].from, f[k].to);
            if (worst > f[k].most || getenv("MTH_SHOW"))
                printf("  %s %s: %.3f ulp\n", vector->name, f[k].row < 0 ? "erf" : mth__op_at(f[k].row)->name, worst);
            CHECK(worst <= f[k].most);
        }
}
TEST(special_values) {
    const mth__vector *vector;
    const float x[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 200, -200, 1e-45f};
    float y[8];
    for (int i = 0; (vector = mth__vector_variant(i)); i++) {
        apply(vector->elementwise[MTH__ROW_exp], 8, x, y);
        CHECK(
            isnan(y[0]) && isinf(y[1]) && y[2] == 0 && y[3] == 1 && y[4] == 1 && isinf(y[5]) && y[6] == 0 && y[7] == 1);
        apply(vector->elementwise[MTH__ROW_log], 8, x, y);
        CHECK(isnan(y[0]) && y[1] == INFINITY && isnan(y[2]) && y[3] == -INFINITY && y[4] == -INFINITY && isnan(y[6]) &&
            fabsf(y[7] + 103.27893f) < 1e-4f);
        apply(vector->elementwise[MTH__ROW_tanh], 8, x, y);
        CHECK(isnan(y[0]) && y[1] == 1 && y[2] == -1 && y[3] == 0 && signbit(y[4]) && y[5] == 1 && y[6] == -1);
        apply(vector->erf, 8, x, y);
        CHECK(isnan(y[0]) && y[1] == 1 && y[2] == -1 && y[3] == 0 && y[5] == 1 && y[6] == -1);
        apply(vector->elementwise[MTH__ROW_sigmoid], 8, x, y);
        CHECK(isnan(y[0]) && y[1] == 1 && y[2] == 0 && y[3] == 0.5f && y[5] == 1 && y[6] == 0);
        apply(vector->elementwise[MTH__ROW_relu], 8, x, y);
        CHECK(isnan(y[0]) && y[1] == INFINITY && y[2] == 0 && y[5] == 200 && y[6] == 0);
        vector->elementwise[MTH__ROW_maximum](
            8, (const float *const[]){x, x + 5}, (const int[]){1, 0}, (float *const[]){y}, NULL);
        CHECK(isnan(y[0]) && y[1] == INFINITY && y[2] == 200 && y[6] == 200);
        CHECK(isnan(vector->max(8, x)) && vector->max(0, x) == -INFINITY && vector->max(3, x + 3) == 200 &&
            vector->sum(0, x) == 0);
    }
}
TEST(vector_variants) { /* lengths around the lanes, against plain loops */
    const mth__vector *vector;
    enum { N = 70 };
    _Alignas(64) float a[N], b[N], y[N], s[N], c[N];
    double f[N];
    for (int i = 0; i < N; i++) {
        a[i] = (float)normal();
        b[i] = (float)normal();
        f[i] = pow(10000, -i / 35.0);
    }
    for (int i = 0; (vector = mth__vector_variant(i)); i++)
        for (int n = 0; n < N; n++) {
            double sum = 0, dot = 0, most = -INFINITY;
            for (int k = 0; k < n; k++) {
                sum += a[k];
                dot += (double)a[k] * b[k];
                most = fmax(most, a[k]);
            }
            CHECK(fabs(vector->sum(n, a) - sum) < 1e-5 && fabs(vector->dot(n, a, b) - dot) < 1e-5 &&
                (double)vector->max(n, a) == most);
            memcpy(y, b, sizeof y);
            vector->axpy(n, 0.5f, a, y);
            for (int k = 0; k < N; k++) CHECK(fabs(y[k] - (k < n ? b[k] + 0.5 * a[k] : b[k])) < 1e-6);
            for (int p = -3; p < 3; p++) {
                const double position = p * 70001.0 + (p == 2) * 1e8;
                vector->sincos(n, position, f, s, c);
                for (int k = 0; k < n; k++)
                    CHECK(fabs(s[k] - sin(position * f[k])) < 1e-7 && fabs(c[k] - cos(position * f[k])) < 1e-7);
            }
            const float *src[2] = {a, b};
            float *dst[2] = {y, s};
            for (int past = 0; past < 2; past++) {
                memset(y, 0, sizeof y);
                vector->reduce_all(n, 2, src, 2, dst, past);
                for (int k = 0; k < n; k++) CHECK(y[k] == a[k] + b[k] && s[k] == y[k]);
                CHECK(n == N || y[n] == 0);
            }
        }
}

/* ---- elementwise */
TEST_STORED(unary) {
    static const int rows[] = {MTH__ROW_neg, MTH__ROW_exp, MTH__ROW_log, MTH__ROW_sqrt, MTH__ROW_rsqrt,
        MTH__ROW_reciprocal, MTH__ROW_square, MTH__ROW_relu, MTH__ROW_gelu, MTH__ROW_gelu_tanh, MTH__ROW_silu,
        MTH__ROW_sigmoid, MTH__ROW_tanh, MTH__ROW_copy, MTH__ROW_scale, MTH__ROW_shift, MTH__ROW_stop};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int place = 0; place < 2; place++) {
            KERNEL(.row = rows[i], .attrs = {.by = 0.7}, IN(positive(SHAPE(3, 5, 7))), OUT(TO(3, 5, 7)),
                .in_place = place);
            if (rows[i] != MTH__ROW_log && rows[i] != MTH__ROW_sqrt && rows[i] != MTH__ROW_rsqrt)
                KERNEL(.row = rows[i], .attrs = {.by = -2}, IN(F32(1031)), OUT(TO(1031)), .in_place = place,
                    .tolerance = rows[i] == MTH__ROW_reciprocal ? 1e-5 : 0);
            KERNEL(.row = rows[i], IN(F32(0, 4)), OUT(TO(0, 4)), .in_place = place);
            KERNEL(.row = rows[i], IN(positive(SCALAR)), OUT(blank(stored, SCALAR)), .in_place = place);
        }
    LARGE(KERNEL(ROW(gelu), IN(F32(1301, 1000)), OUT(TO(1301, 1000))));
}
TEST_STORED(binary) {
    static const int rows[] = {MTH__ROW_relu_grad, MTH__ROW_gelu_grad, MTH__ROW_gelu_tanh_grad, MTH__ROW_silu_grad,
        MTH__ROW_sigmoid_grad, MTH__ROW_tanh_grad, MTH__ROW_add, MTH__ROW_sub, MTH__ROW_mul, MTH__ROW_div,
        MTH__ROW_maximum, MTH__ROW_equal};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int place = 0; place < 2; place++) {
            KERNEL(.row = rows[i], IN(F32(6, 37), positive(SHAPE(6, 37))), OUT(TO(6, 37)), .in_place = place);
            KERNEL(.row = rows[i], IN(F32(0), F32(0)), OUT(TO(0)), .in_place = place);
        }
    static const int arithmetic[] = {
        MTH__ROW_add, MTH__ROW_sub, MTH__ROW_mul, MTH__ROW_div, MTH__ROW_maximum, MTH__ROW_equal};
    for (size_t i = 0; i < 6; i++) {
        const int row = arithmetic[i];
        KERNEL(.row = row, IN(F32(5, 33), positive(SHAPE(33))), OUT(TO(5, 33)));
        KERNEL(.row = row, IN(F32(5, 33), positive(SCALAR)), OUT(TO(5, 33)));
        KERNEL(.row = row, IN(F32(1), positive(SHAPE(5, 33))), OUT(TO(5, 33)), .in_place = true);
        KERNEL(.row = row, IN(F32(5, 33), positive(SHAPE(5, 1))), OUT(TO(5, 33)));
        KERNEL(.row = row, IN(F32(4, 1, 3, 1), positive(SHAPE(2, 1, 17))), OUT(TO(4, 2, 3, 17)));
        KERNEL(.row = row, IN(F32(2, 3, 4), positive(SHAPE(3, 1))), OUT(TO(2, 3, 4)));
        KERNEL(.row = row, IN(F32(4, 1), positive(SHAPE(1, 5))), OUT(TO(4, 5)));
        KERNEL(.row = row, IN(F32(1, 1), positive(SHAPE(1))), OUT(TO(1, 1)));
    }
    LARGE(KERNEL(ROW(add), IN(F32(1501, 2001), F32(2001)), OUT(TO(1501, 2001))));
    LARGE(KERNEL(ROW(mul), IN(F32(1501, 1), F32(1501, 2001)), OUT(TO(1501, 2001)), .in_place = true));
    tensor a = ints(stored, 3, SHAPE(100)), b = ints(stored, 3, SHAPE(100));
    KERNEL(ROW(equal), IN(a, b), OUT(TO(100)));
}
TEST(two_results) {
    static const int rows[] = {MTH__ROW_mul_grad, MTH__ROW_div_grad, MTH__ROW_maximum_grad};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int row = rows[i];
        for (int place = 0; place < 2; place++)
            KERNEL(.row = row, IN(positive(SHAPE(6, 37)), F32(6, 37), F32(6, 37)), OUT(TO(6, 37), TO(6, 37)),
                .in_place = place);
        KERNEL(.row = row, IN(positive(SHAPE(5, 33)), F32(33), F32(5, 33)), OUT(TO(5, 33), TO(5, 33)));
        KERNEL(.row = row, IN(positive(SHAPE(5, 1)), F32(5, 33), F32(5, 33)), OUT(TO(5, 33), TO(5, 33)));
        KERNEL(.row = row, IN(positive(SCALAR), F32(1, 33), F32(5, 33)), OUT(TO(5, 33), TO(5, 33)));
        CHECK(KERNEL(.row = row, IN(positive(SHAPE(1501, 2001)), F32(2001), F32(1501, 2001)),
                  OUT(TO(1501, 2001), TO(1501, 2001))) > 1);
    }
    tensor a = ints(MTH_FLOAT32, 3, SHAPE(100)), b = ints(MTH_FLOAT32, 3, SHAPE(100));
    KERNEL(ROW(maximum_grad), IN(a, b, F32(100)), OUT(TO(100), TO(100)));
}
TEST(cast) {
    for (int i = 1; i < MTH__DTYPE_COUNT; i++)
        for (int j = 1; j < MTH__DTYPE_COUNT; j++) {
            const mth_dtype from = (mth_dtype)i, to = (mth_dtype)j;
            tensor x = mth__is_float(from) ? make(from, SHAPE(7, 11)) : wide_ints(from, SHAPE(7, 11));
            static const double past[] = {
                NAN, INFINITY, -INFINITY, 3e38, -3e38, 0x1p31, -0x1p31 - 0x1p8, 0x1p63, -0x1p64, 0x1p31 - 0x1p8};
            for (int64_t k = 0; mth__is_float(from) && k < x.n; k++) set(&x, k, k < 10 ? past[k] : floor(7 * normal()));
            KERNEL(ROW(cast), .attrs = {.dtype = to}, IN(x), OUT(blank(to, SHAPE(7, 11))));
        }
}
TEST_STORED(dropout) {
    for (int place = 0; place < 2; place++) {
        KERNEL(ROW(dropout), .attrs = {.key = 0x123456789abcdef0, .probability = 0.3}, IN(F32(13, 37)), OUT(TO(13, 37)),
            .in_place = place);
        KERNEL(
            ROW(dropout), .attrs = {.key = 7, .probability = 0}, IN(F32(13, 37)), OUT(TO(13, 37)), .in_place = place);
        KERNEL(ROW(dropout), .attrs = {.key = 7, .probability = 0.5},
            IN(part(part(F32(13, 37), 0, 40, 13, 1), 1, 100, 2, 2)),
            OUT(part(part(TO(13, 37), 0, 40, 13, 1), 1, 100, 2, 2)), .in_place = place);
        KERNEL(ROW(dropout), .attrs = {.key = 7, .probability = 0.5},
            IN(part(F32(3, 5, 7), 1, (int64_t)1 << 33, (int64_t)1 << 32, 1)),
            OUT(part(TO(3, 5, 7), 1, (int64_t)1 << 33, (int64_t)1 << 32, 1)), .in_place = place);
    }
    LARGE(KERNEL(ROW(dropout), .attrs = {.key = 3, .probability = 0.1}, IN(F32(1001, 701)), OUT(TO(1001, 701))));
}

/* ---- contract */
TEST_STORED(contract) {
#define CONTRACT(formula, a, b, y)                                                                                     \
    KERNEL(ROW(contract), .attrs = {.spec = formula}, IN(a, b), OUT(y), .tolerance = 1e-5)
    CONTRACT("bi,io->bo", F32(5, 7), F32(7, 9), TO(5, 9));
    CONTRACT("bsi,io->bso", F32(2, 3, 17), F32(17, 19), TO(2, 3, 19));
    CONTRACT("bsi,bso->io", F32(2, 33, 17), F32(2, 33, 19), TO(17, 19));
    CONTRACT("bso,io->bsi", F32(2, 3, 19), F32(17, 19), TO(2, 3, 17));
    CONTRACT("bi,oi->ob", F32(5, 7), F32(9, 7), TO(9, 5));
    CONTRACT("ib,io->ob", F32(5, 7), F32(5, 9), TO(9, 7));
    CONTRACT("bi,io->bo", F32(1, 70), F32(70, 90), TO(1, 90));
    CONTRACT("bi,oi->bo", F32(1, 70), F32(90, 70), TO(1, 90));
    CONTRACT("ib,io->bo", F32(70, 1), F32(70, 90), TO(1, 90));
    CONTRACT("bi,io->bo", F32(90, 70), F32(70, 1), TO(90, 1));
    CONTRACT("ib,oi->bo", F32(70, 90), F32(1, 70), TO(90, 1));
    CONTRACT("bi,io->ob", F32(90, 70), F32(70, 1), TO(1, 90));
    CONTRACT("bi,i->b", F32(11, 13), F32(13), TO(11));
    CONTRACT("i,io->o", F32(13), F32(13, 11), TO(11));
    CONTRACT("i,i->", F32(13), F32(13), blank(stored, SCALAR));
    CONTRACT("a,b->ab", F32(13), F32(5), TO(13, 5));
    CONTRACT("a,b->ba", F32(13), F32(5), TO(5, 13));
    /* the result is put together in scratch */
    CONTRACT("ab,cd->acbd", F32(3, 4), F32(5, 6), TO(3, 5, 4, 6));
    /* batch of none, k in the middle */
    CONTRACT("abc,bd->acd", F32(3, 4, 5), F32(4, 6), TO(3, 5, 6));
    CONTRACT("bshd,bthd->bhst", F32(2, 5, 3, 8), F32(2, 7, 3, 8), TO(2, 3, 5, 7));
    CONTRACT("bhst,bthd->bshd", F32(2, 3, 5, 7), F32(2, 7, 3, 8), TO(2, 5, 3, 8));
    CONTRACT("bhst,bshd->bthd", F32(2, 3, 5, 7), F32(2, 5, 3, 8), TO(2, 7, 3, 8));
    CONTRACT("eti,eio->eto", F32(3, 5, 7), F32(3, 7, 9), TO(3, 5, 9));
    CONTRACT("sbi,bso->io", F32(4, 3, 5), F32(3, 4, 6), TO(5, 6)); /* k in another order */
    CONTRACT("acb,cad->bd", F32(4, 3, 5), F32(3, 4, 6), TO(5, 6));
    CONTRACT("ab,ab->ab", F32(4, 5), F32(4, 5), TO(4, 5));
    CONTRACT("bi,io->bo", F32(0, 7), F32(7, 9), TO(0, 9));
    CONTRACT("bi,io->bo", F32(5, 0), F32(0, 9), TO(5, 9));
    CONTRACT("bi,io->bo", F32(5, 7), F32(7, 0), TO(5, 0));
    CONTRACT("ab,cb->acb", F32(0, 5), F32(3, 5), TO(0, 3, 5));
    LARGE(CONTRACT("abk,kc->bca", F32(70, 80, 300), F32(300, 5), TO(80, 5, 70)));
    CONTRACT("mk,kn->mn", F32(65, 1100), F32(1100, 66), TO(65, 66));
    static const int64_t small[][3] = {{2, 70, 300}, {7, 33, 129}, {32, 1000, 200}, {40, 65, 64}, {64, 64, 1},
        {70, 10, 300}, {200, 40, 257}, {65, 2, 128}, {33, 33, 7}};
    for (size_t i = 0; i < sizeof small / sizeof *small && stored != MTH_FLOAT16;
        i++) { /* no packing where a dimension is small */
        if (stored == MTH_FLOAT16 || (stored == MTH_BFLOAT16 && i % 3 == 2)) continue;
        const int64_t m = small[i][0], n = small[i][1], k = small[i][2];
        CONTRACT("mk,kn->mn", F32(m, k), F32(k, n), TO(m, n));
        CONTRACT("km,kn->mn", F32(k, m), F32(k, n), TO(m, n));
        CONTRACT("mk,nk->mn", F32(m, k), F32(n, k), TO(m, n));
        CONTRACT("km,nk->mn", F32(k, m), F32(n, k), TO(m, n));
        CONTRACT("mk,kn->nm", F32(m, k), F32(k, n), TO(n, m));
    }
    test_case bad = {ROW(contract), .attrs = {.spec = "ab,b->"}, IN(F32(2, 3), F32(3)), OUT(blank(stored, SCALAR))};
    CHECK_FAILS(mth__guard(run_body, &(job){.t = &bad}), MTH_ERROR_INTERNAL, "stands alone");
    drop(&bad.in[0]), drop(&bad.in[1]), drop(&bad.out[0]);
}
/* "km,nk->mn" and the like, against plain loops */
static void blocks(const char *spec, int64_t m, int64_t n, int64_t k) {
    const bool ta = spec[0] == 'k', tb = spec[3] == 'n';
    tensor a = ta ? F32(k, m) : F32(m, k), b = tb ? F32(n, k) : F32(k, n), y = TO(m, n);
    test_case t = {ROW(contract), .attrs = {.spec = spec}, IN(a, b), OUT(y)};
    job j = {.t = &t, .backward = true};
    mth__kernels_open();
    CHECK_STATUS(mth__guard(run_body, &j));
    CHECK(j.most_chunks > 1);
    double worst = 0;
    for (int64_t r = 0; r < m; r += m > 100 ? 3 : 1)
        for (int64_t c = 0; c < n; c += n > 100 ? 7 : 1) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += known(&a, ta ? i * m + r : r * k + i) * known(&b, tb ? c * k + i : i * n + c);
            worst = fmax(worst, error_of(y.o.dtype, get(&y, r * n + c), sum));
        }
    CHECK(worst < 5e-4);
    drop(&a), drop(&b), drop(&y);
}
TEST(contract_blocks) {
    blocks("km,nk->mn", 333, 410, 700);
    blocks("mk,kn->mn", 1, 2000, 5000);
    blocks("mk,kn->mn", 30, 2010, 1003);
    blocks("mk,nk->mn", 30, 2010, 1003);
    blocks("mk,nk->mn", 2010, 30, 1003);
    blocks("km,kn->mn", 2010, 30, 1003);
}

/* ---- reduce, layout */
TEST_STORED(reduce) {
    static const int rows[] = {MTH__ROW_reduce_sum, MTH__ROW_reduce_max};
    for (int i = 0; i < 2; i++) {
#define REDUCE(bits, kept, x, y)                                                                                       \
    KERNEL(.row = rows[i], .attrs = {.dimensions = bits, .keep = kept}, IN(x), OUT(y), .tolerance = 5e-6)
        REDUCE(1, 0, F32(200, 37), TO(37));
        REDUCE(1, 1, F32(200, 37), TO(1, 37));
        REDUCE(2, 0, F32(37, 200), TO(37));
        REDUCE(3, 0, F32(37, 200), blank(stored, SCALAR));
        REDUCE(0, 0, F32(3, 20), TO(3, 20));
        REDUCE(2, 0, F32(3, 70, 5), TO(3, 5));
        REDUCE(5, 0, F32(3, 70, 5), TO(70));
        REDUCE(5, 1, F32(3, 70, 5, 6), TO(1, 70, 1, 6));
        REDUCE(10, 0, F32(3, 4, 5, 6), TO(3, 5));
        REDUCE(1, 0, F32(0, 5), TO(5));
        REDUCE(2, 0, F32(0, 5), TO(0));
        REDUCE(1, 0, F32(1), blank(stored, SCALAR));
        if (stored != MTH_FLOAT16) CHECK(REDUCE(1, 0, F32(300001, 16), TO(16)) > 1);
        LARGE(REDUCE(3, 0, positive(SHAPE(3000, 1001)), blank(stored, SCALAR)));
        LARGE(REDUCE(2, 0, F32(3000, 1001), TO(3000)));
        LARGE(REDUCE(1, 0, F32(700, 5003), TO(5003)));
    }
}
TEST(layout) {
    KERNEL(ROW(broadcast_to), .attrs = {.rank = 3, .shape = {4, 5, 6}}, IN(F32(5, 1)), OUT(TO(4, 5, 6)));
    KERNEL(ROW(broadcast_to), .attrs = {.rank = 2, .shape = {4, 5}}, IN(F32(4, 5)), OUT(TO(4, 5)));
    KERNEL(ROW(broadcast_to), .attrs = {.rank = 2, .shape = {4, 5}}, IN(F32(5)), OUT(TO(4, 5)));
    KERNEL(ROW(broadcast_to), .attrs = {.rank = 2, .shape = {0, 5}}, IN(F32(1, 5)), OUT(TO(0, 5)));
    KERNEL(ROW(reshape), .attrs = {.rank = 2, .shape = {10, 2}}, IN(F32(4, 5)), OUT(TO(10, 2)));
    KERNEL(ROW(transpose), .attrs = {.rank = 2, .permutation = {1, 0}}, IN(F32(37, 53)), OUT(TO(53, 37)));
    KERNEL(ROW(transpose), .attrs = {.rank = 4, .permutation = {0, 2, 1, 3}}, IN(F32(3, 5, 7, 9)), OUT(TO(3, 7, 5, 9)));
    KERNEL(ROW(transpose), .attrs = {.rank = 4, .permutation = {3, 0, 2, 1}}, IN(F32(3, 5, 7, 9)), OUT(TO(9, 3, 7, 5)));
    KERNEL(ROW(transpose), .attrs = {.rank = 3, .permutation = {2, 1, 0}}, IN(F32(3, 5, 7)), OUT(TO(7, 5, 3)));
    KERNEL(ROW(transpose), .attrs = {.rank = 2, .permutation = {1, 0}}, IN(ints(MTH_INT64, 100, SHAPE(7, 5))),
        OUT(blank(MTH_INT64, SHAPE(5, 7))));
    KERNEL(ROW(transpose), .attrs = {.rank = 2, .permutation = {1, 0}}, IN(ints(MTH_BOOL, 2, SHAPE(7, 5))),
        OUT(blank(MTH_BOOL, SHAPE(5, 7))));
    KERNEL(ROW(transpose), .attrs = {.rank = 2, .permutation = {1, 0}}, IN(F32(0, 5)), OUT(TO(5, 0)));
    KERNEL(ROW(transpose), .attrs = {.rank = 1, .permutation = {0}}, IN(F32(5)), OUT(TO(5)));
    CHECK(KERNEL(ROW(transpose), .attrs = {.rank = 2, .permutation = {1, 0}}, IN(F32(1203, 1701)),
              OUT(TO(1701, 1203))) > 1);
#define F64(...) ints(MTH_FLOAT64, 1000, SHAPE(__VA_ARGS__)) /* added to sums too */
    KERNEL(ROW(pad), .attrs = {.dimension = 1, .before = 2, .after = 3}, IN(F64(3, 4, 5)),
        OUT(blank(MTH_FLOAT64, SHAPE(3, 9, 5))));
    KERNEL(ROW(broadcast_to), .attrs = {.rank = 3, .shape = {4, 5, 6}}, IN(F64(5, 1)),
        OUT(blank(MTH_FLOAT64, SHAPE(4, 5, 6))));
    static const mth_dtype integer[] = {MTH_INT64, MTH_INT32, MTH_BOOL};
    for (int i = 0; i < 3; i++) {
        const mth_dtype type = integer[i];
#define INTS(...) wide_ints(type, SHAPE(__VA_ARGS__))
#define TO_INTS(...) blank(type, SHAPE(__VA_ARGS__))
        KERNEL(ROW(copy), IN(INTS(37, 53)), OUT(TO_INTS(37, 53)));
        KERNEL(ROW(broadcast_to), .attrs = {.rank = 3, .shape = {4, 5, 6}}, IN(INTS(5, 1)), OUT(TO_INTS(4, 5, 6)));
        KERNEL(ROW(transpose), .attrs = {.rank = 2, .permutation = {1, 0}}, IN(INTS(137, 153)), OUT(TO_INTS(153, 137)));
        KERNEL(ROW(transpose), .attrs = {.rank = 4, .permutation = {3, 0, 2, 1}}, IN(INTS(3, 5, 7, 9)),
            OUT(TO_INTS(9, 3, 7, 5)));
        KERNEL(ROW(slice), .attrs = {.dimension = 1, .start = 2, .stop = 6}, IN(INTS(3, 9, 4)), OUT(TO_INTS(3, 4, 4)));
        KERNEL(ROW(pad), .attrs = {.dimension = 1, .before = 2, .after = 3}, IN(INTS(3, 4, 5)), OUT(TO_INTS(3, 9, 5)));
        KERNEL(ROW(concat), .attrs = {.dimension = 2}, IN(INTS(5, 4, 1), INTS(5, 4, 3)), OUT(TO_INTS(5, 4, 4)));
        KERNEL(ROW(keep), IN(part(INTS(4, 9), 0, 8, 1, 2)), OUT(part(part(TO_INTS(2, 3), 0, 8, 3, 4), 1, 9, 6, 1)));
    }
    KERNEL(ROW(slice), .attrs = {.dimension = 1, .start = 2, .stop = 6}, IN(F32(3, 9, 4)), OUT(TO(3, 4, 4)));
    KERNEL(ROW(slice), .attrs = {.start = 2, .stop = 2}, IN(F32(3, 9)), OUT(TO(0, 9)));
    CHECK(KERNEL(ROW(slice), .attrs = {.start = 1, .stop = 5000001}, IN(F32(5000003)), OUT(TO(5000000))) > 1);
    KERNEL(ROW(pad), .attrs = {.dimension = 1, .before = 2, .after = 3}, IN(F32(3, 4, 5)), OUT(TO(3, 9, 5)));
    KERNEL(ROW(pad), .attrs = {.after = 3}, IN(F32(4)), OUT(TO(7)));
    KERNEL(ROW(pad), .attrs = {.before = 2, .after = 3}, IN(F32(0, 4)), OUT(TO(5, 4)));
    CHECK(KERNEL(ROW(pad), .attrs = {.after = 30000}, IN(F32(1000000)), OUT(TO(1030000))) > 1);
    KERNEL(ROW(concat), .attrs = {.dimension = 1}, IN(F32(3, 4, 2), F32(3, 1, 2), F32(3, 0, 2)), OUT(TO(3, 5, 2)));
    KERNEL(ROW(concat), .attrs = {.dimension = 0}, IN(F32(3), F32(4)), OUT(TO(7)));
    KERNEL(ROW(concat), .attrs = {.dimension = 2}, IN(F32(5, 4, 1), F32(5, 4, 1)), OUT(TO(5, 4, 2)));
    KERNEL(ROW(keep), IN(part(F32(6, 4), 0, 12, 4, 1)), OUT(part(TO(3, 4), 0, 12, 6, 1)));
    KERNEL(ROW(keep), IN(F32(9, 4)), OUT(part(TO(3, 4), 0, 9, 1, 3)));
    KERNEL(ROW(keep), IN(part(F32(4, 9), 0, 8, 1, 2)), OUT(part(part(TO(2, 3), 0, 8, 3, 4), 1, 9, 6, 1)));
    KERNEL(ROW(keep), IN(F32(9, 4)), OUT(part(TO(0, 4), 0, 9, 9, 1)));
    test_case t = {ROW(keep), IN(part(F32(6), 0, 12, 4, 1)), OUT(part(TO(3), 0, 12, 8, 1))};
    CHECK_FAILS(mth__guard(run_body, &(job){.t = &t}), MTH_ERROR_INTERNAL, "outside");
    drop(&t.in[0]), drop(&t.out[0]);
}

/* ---- ids, positions */
TEST_STORED(gather) {
    for (int wide = 0; wide < 2; wide++) {
        const mth_dtype type = wide ? MTH_INT64 : MTH_INT32;
        KERNEL(ROW(gather), IN(F32(11, 7), ints(type, 11, SHAPE(3, 5))), OUT(TO(3, 5, 7)));
        KERNEL(ROW(gather), IN(part(F32(4, 7), 0, 11, 4, 1), ints(type, 11, SHAPE(15))), OUT(TO(15, 7)));
        KERNEL(ROW(gather), IN(part(F32(4, 7), 0, 11, 2, 3), ints(type, 11, SHAPE(15))), OUT(TO(15, 7)));
        KERNEL(ROW(gather_grad), .attrs = {.rows = 11}, IN(ints(type, 11, SHAPE(3, 5)), F32(3, 5, 7)), OUT(TO(11, 7)));
        KERNEL(ROW(gather_grad), .attrs = {.rows = 11}, IN(ints(type, 11, SHAPE(15)), F32(15, 7)),
            OUT(part(TO(4, 7), 0, 11, 2, 3)));
        KERNEL(ROW(pick), IN(F32(3, 5, 11), ints(type, 11, SHAPE(3, 5))), OUT(TO(3, 5)));
        KERNEL(ROW(pick), IN(part(F32(15, 4), 1, 11, 4, 1), ints(type, 11, SHAPE(15))), OUT(TO(15)));
        KERNEL(ROW(pick_grad), .attrs = {.size = 11}, IN(ints(type, 11, SHAPE(3, 5)), F32(3, 5)), OUT(TO(3, 5, 11)));
        KERNEL(ROW(pick_grad), .attrs = {.size = 11}, IN(ints(type, 11, SHAPE(15)), F32(15)),
            OUT(part(TO(15, 4), 1, 11, 4, 1)));
    }
    KERNEL(ROW(gather), IN(F32(11, 7), ints(MTH_INT32, 11, SHAPE(0))), OUT(TO(0, 7)));
    KERNEL(ROW(gather_grad), .attrs = {.rows = 11}, IN(ints(MTH_INT32, 11, SHAPE(0)), F32(0, 7)), OUT(TO(11, 7)));
    LARGE(KERNEL(ROW(gather), IN(F32(1000, 300), ints(MTH_INT32, 1000, SHAPE(4000))), OUT(TO(4000, 300))));
    LARGE(KERNEL(ROW(gather_grad), .attrs = {.rows = 5000}, IN(ints(MTH_INT32, 5000, SHAPE(4000)), F32(4000, 300)),
        OUT(TO(5000, 300))));
}
TEST(faults) {
    static const int rows[] = {MTH__ROW_gather, MTH__ROW_gather_grad, MTH__ROW_pick, MTH__ROW_pick_grad};
    for (int i = 0; i < 4; i++)
        for (int sign = 0; sign < 2; sign++) {
            tensor ids = ints(MTH_INT32, 11, SHAPE(5));
            set(&ids, 3, sign ? -2 : 11);
            const bool first = i == 1 || i == 3;
            tensor other = i == 0 ? F32(11, 7) : i == 1 ? F32(5, 7) : i == 2 ? F32(5, 11) : F32(5);
            test_case t = {.row = rows[i],
                .attrs = {.rows = 11, .size = 11},
                IN(first ? ids : other, first ? other : ids),
                OUT(i == 0       ? TO(5, 7)
                        : i == 1 ? TO(11, 7)
                        : i == 2 ? TO(5)
                                 : TO(5, 11))};
            mth__fault fault = {0};
            CHECK_STATUS(mth__guard(run_body, &(job){.t = &t, .fault = &fault}));
            CHECK(atomic_load(&fault.set) && fault.value == (sign ? -2 : 11) && fault.limit == 11);
            drop(&ids), drop(&other), drop(&t.out[0]);
        }
}
TEST_STORED(positions) {
    KERNEL(ROW(sinusoid), .attrs = {.length = 300, .width = 64}, .nin = 0, OUT(STATISTIC(300, 64)), .tolerance = 1e-7);
    KERNEL(ROW(sinusoid), .attrs = {.length = 300, .width = 65}, .nin = 0,
        OUT(part(part(STATISTIC(30, 33), 0, 300, 270, 1), 1, 65, 1, 1)), .tolerance = 1e-7);
    KERNEL(ROW(sinusoid), .attrs = {.length = 300, .width = 64}, .nin = 0,
        OUT(part(part(STATISTIC(30, 32), 0, 300, 2, 3), 1, 64, 1, 2)), .tolerance = 1e-7);
    LARGE(KERNEL(ROW(sinusoid), .attrs = {.length = 4000, .width = 256}, .nin = 0, OUT(STATISTIC(4000, 256)),
        .tolerance = 1e-7));
    for (int inverse = 0; inverse < 2; inverse++)
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            KERNEL(ROW(rope), .attrs = {.dimension = 1, .inverse = inverse, .interleaved = interleaved, .base = 10000},
                IN(F32(2, 9, 3, 70)), OUT(TO(2, 9, 3, 70)));
            KERNEL(ROW(rope), .attrs = {.inverse = inverse, .interleaved = interleaved, .base = 500},
                IN(part(F32(9, 6), 0, 40, 20, 1)), OUT(part(TO(9, 6), 0, 40, 20, 1)));
            KERNEL(ROW(rope), .attrs = {.dimension = 1, .inverse = inverse, .interleaved = interleaved, .base = 500},
                IN(part(F32(2, 9, 6), 1, 40, 1, 2)), OUT(part(TO(2, 9, 6), 1, 40, 1, 2)));
        }
    LARGE(
        KERNEL(ROW(rope), .attrs = {.dimension = 1, .base = 10000}, IN(F32(80, 20, 10, 64)), OUT(TO(80, 20, 10, 64))));
}

/* ---- normalize */
TEST_STORED(softmax) {
    for (int grad = 0; grad < 2; grad++) {
#define SOFTMAX(d, ...)                                                                                                \
    (grad ? KERNEL(ROW(softmax_grad), .attrs = {.dimension = d}, IN(positive(SHAPE(__VA_ARGS__)), F32(__VA_ARGS__)),   \
                OUT(TO(__VA_ARGS__)), .tolerance = 1e-5)                                                               \
          : KERNEL(ROW(softmax), .attrs = {.dimension = d}, IN(F32(__VA_ARGS__)), OUT(TO(__VA_ARGS__))))
        SOFTMAX(1, 7, 33);
        SOFTMAX(0, 7, 33);
        SOFTMAX(1, 3, 7, 300);
        SOFTMAX(0, 5000);
        SOFTMAX(1, 4, 1);
        SOFTMAX(1, 0, 4);
        LARGE(SOFTMAX(1, 1000, 801));
        LARGE(SOFTMAX(0, 100, 8010));
    }
    tensor x = F32(3, 20);
    for (int i = 0; i < 20; i++) {
        set(&x, i, 1000 + i);
        set(&x, 20 + i, i ? -INFINITY : 0);
    }
    KERNEL(ROW(softmax), .attrs = {.dimension = 1}, IN(x), OUT(TO(3, 20)));
}
TEST_STORED(norms) {
#define NORM(row, in, out) KERNEL(ROW(row), .attrs = {.epsilon = 1e-5}, in, out, .tolerance = 5e-6)
#define NORMS(rows, n)                                                                                                 \
    NORM(layer_norm, IN(F32(rows, n), F32(n), F32(n)), OUT(TO(rows, n), STATISTIC(rows), STATISTIC(rows)));            \
    NORM(rms_norm, IN(F32(rows, n), F32(n)), OUT(TO(rows, n), STATISTIC(rows)));                                       \
    NORM(layer_norm_grad,                                                                                              \
        IN(F32(rows, n), F32(n), positive_of(MTH_FLOAT32, SHAPE(rows)), positive_of(MTH_FLOAT32, SHAPE(rows)),         \
            F32(rows, n)),                                                                                             \
        OUT(TO(rows, n), TO(n), TO(n)));                                                                               \
    NORM(rms_norm_grad, IN(F32(rows, n), F32(n), positive_of(MTH_FLOAT32, SHAPE(rows)), F32(rows, n)),                 \
        OUT(TO(rows, n), TO(n)))
    NORMS(5, 37);
    NORMS(1, 64);
    NORMS(0, 16);
    NORMS(6, 4500);
    NORMS(1203, 512);
    tensor far = F32(4, 300); /* a mean far above the deviation */
    for (int64_t i = 0; i < far.n; i++) set(&far, i, 1000 + uniform());
    KERNEL(ROW(layer_norm), .attrs = {.epsilon = 1e-5}, IN(far, F32(300), F32(300)),
        OUT(TO(4, 300), STATISTIC(4), STATISTIC(4)), .tolerance = 3e-4);
}

RUN()
