/* Attention, mixture of experts, and boxes between devices, against the reference engine's rows and plain loops. */
#include "kernel_case.h"

/* ---- attention: the gradient is given the forward's own results */
typedef struct {
    struct {
        int64_t b, s, g, r, d, t, e;
    } of;
    int64_t s_global, s_start, s_step, t_start;
    int causal, mask;
} attention;
static int attend(const char *file, int line, attention a, bool grad) {
    const double scale = 1 / sqrt((double)a.of.d);
    tensor q = F32(a.of.b, a.of.s, a.of.g, a.of.r, a.of.d), k = F32(a.of.b, a.of.t, a.of.g, a.of.d),
           v = F32(a.of.b, a.of.t, a.of.g, a.of.e), mask = {0};
    if (a.s_global) q = part(q, 1, a.s_global, a.s_start, a.s_step);
    if (a.t_start) k = part(k, 1, a.t_start + a.of.t, a.t_start, 1);
    if (a.mask) {
        mask = ints(a.mask == 1 ? MTH_BOOL : a.mask == 2 ? MTH_INT32 : stored, 2, SHAPE(a.of.b, a.of.t));
        for (int64_t i = 0; i < a.of.t && a.of.b > 1; i++) set(&mask, i, 0); /* the first batch sees nothing */
        /* the second sees two keys at least: of one alone, the gradients of q and k are rounding errors of 0 */
        for (int64_t i = 1; i <= 2 && a.of.b > 1; i++) set(&mask, mask.n - i, 1);
    }
    tensor o = TO(a.of.b, a.of.s, a.of.g, a.of.r, a.of.e), most = STATISTIC(a.of.b, a.of.s, a.of.g, a.of.r),
           sum = STATISTIC(a.of.b, a.of.s, a.of.g, a.of.r);
    if (a.s_global) o = part(o, 1, a.s_global, a.s_start, a.s_step);
    test_case f = {ROW(attention), .attrs = {.causal = a.causal, .scale = scale}, .nin = 3 + (a.mask != 0),
        .in = {q, k, v, mask}, OUT(o, most, sum), .tolerance = 5e-6};
    if (!grad) return check_at(file, line, f);
    mth__ref_call call = {.op = mth__op_at(MTH__ROW_attention),
        .attrs = &f.attrs,
        .nin = f.nin,
        .nout = 3,
        .in = {ref_value(&q), ref_value(&k), ref_value(&v), ref_value(&mask)},
        .out = {ref_value(&o), ref_value(&most), ref_value(&sum)}};
    CHECK_STATUS(mth__ref_rows[MTH__ROW_attention](&call));
    for (int64_t i = 0; i < o.n; i++) set(&o, i, known(&o, i));
    for (int64_t i = 0; i < most.n; i++) {
        set(&most, i, known(&most, i));
        set(&sum, i, known(&sum, i));
    }
    return check_at(file, line,
        (test_case){ROW(attention_grad), .attrs = f.attrs, .nin = 7 + (a.mask != 0),
            .in = {q, k, v, o, most, sum, F32(a.of.b, a.of.s, a.of.g, a.of.r, a.of.e), mask},
            OUT(TO(a.of.b, a.of.s, a.of.g, a.of.r, a.of.d), TO(a.of.b, a.of.t, a.of.g, a.of.d),
                TO(a.of.b, a.of.t, a.of.g, a.of.e)),
            /* the sum of p * dp is taken from the output, as it is stored */
            .tolerance = stored == MTH_BFLOAT16 ? 0x1p-7
                : stored == MTH_FLOAT16         ? 0x1p-10
                                                : 2e-5});
}
#define ATTENTION(b, s, g, r, d, t, e, ...)                                                                            \
    attend(__FILE__, __LINE__, (attention){.of = {b, s, g, r, d, t, e}, __VA_ARGS__}, grad)
TEST_STORED(attention) {
    for (int grad = 0; grad < 2; grad++) {
        ATTENTION(2, 5, 3, 1, 8, 7, 8);
        if (!grad) ATTENTION(1, 1, 1, 1, 1, 1, 1); /* the gradients of q and k are rounding errors of 0 */
        ATTENTION(2, 1, 2, 4, 16, 33, 16);         /* one query: decoding */
        ATTENTION(2, 9, 2, 3, 8, 9, 6, .causal = 1);
        for (int mask = 1; mask < 4; mask++) ATTENTION(2, 5, 2, 2, 8, 7, 8, .mask = mask);
        ATTENTION(2, 130, 1, 2, 8, 300, 8, .mask = 1);
        ATTENTION(1, 150, 2, 1, 8, 300, 8, .causal = 1); /* keys from 150 on are hidden */
        ATTENTION(1, 20, 1, 1, 8, 300, 8, .causal = 1, .s_global = 300, .s_start = 270, .s_step = 1);
        ATTENTION(1, 20, 1, 1, 8, 40, 8, .causal = 1, .s_global = 40, .s_start = 1, .s_step = 2, .mask = 2);
        ATTENTION(1, 20, 1, 1, 8, 10, 8, .causal = 1, .s_global = 20, .s_start = 0, .s_step = 1,
            .t_start = 10); /* the first queries see none */
        ATTENTION(0, 5, 2, 1, 8, 5, 8);
        ATTENTION(2, 5, 2, 1, 8, 0, 8);
        ATTENTION(2, 0, 2, 1, 8, 5, 8);
        LARGE(ATTENTION(2, 257, 2, 2, 32, 290, 32));
        CHECK(ATTENTION(1, 260, 1, 2, 32, 514, 32, .causal = 1, .mask = 3, .s_global = 514, .s_start = 254,
                  .s_step = 1) >= 1);
    }
}

/* ---- mixture of experts */
/* distinct experts in each row; expert 1 is never chosen */
static tensor route(int64_t t, int64_t k, int64_t e) {
    tensor x = make(MTH_INT32, SHAPE(t, k));
    for (int64_t i = 0; i < t; i++)
        for (int64_t j = 0; j < k; j++)
            for (bool again = true; again;) {
                const double expert = floor(uniform() * (double)e);
                again = expert == 1;
                for (int64_t q = 0; q < j; q++) again |= known(&x, i * k + q) == expert;
                set(&x, i * k + j, expert);
            }
    return x;
}
/* as devices with blocks of tokens fill them */
static tensor rows_of(const tensor *experts, int64_t e, int64_t block) {
    const int64_t t = experts->o.shape.dim[0], k = experts->o.shape.dim[1];
    tensor rows = make(MTH_INT32, SHAPE(e, t));
    for (int64_t x = 0; x < e; x++)
        for (int64_t b = 0; b < t; b += block) {
            int64_t n = b;
            for (int64_t i = b; i < b + block && i < t; i++)
                for (int64_t j = 0; j < k; j++)
                    if (experts->r.data[i * k + j].integer == x) set(&rows, x * t + n++, (double)i);
            while (n < b + block && n < t) set(&rows, x * t + n++, -1);
        }
    return rows;
}
#define I32(...) blank(MTH_INT32, SHAPE(__VA_ARGS__))
TEST_STORED(moe_routing) {
    KERNEL(ROW(moe_route), .attrs = {.k = 2}, IN(F32(33, 7)), OUT(TO(33, 2), I32(33, 2)));
    KERNEL(ROW(moe_route), .attrs = {.k = 7}, IN(F32(33, 7)), OUT(TO(33, 7), I32(33, 7)));
    /* ties */
    KERNEL(ROW(moe_route), .attrs = {.k = 3}, IN(ints(stored, 3, SHAPE(40, 8))), OUT(TO(40, 3), I32(40, 3)));
    KERNEL(ROW(moe_route), .attrs = {.k = 1}, IN(F32(0, 4)), OUT(TO(0, 1), I32(0, 1)));
    LARGE(KERNEL(ROW(moe_route), .attrs = {.k = 4}, IN(F32(5000, 64)), OUT(TO(5000, 4), I32(5000, 4))));
    KERNEL(ROW(moe_route_grad), .attrs = {.experts = 7}, IN(positive(SHAPE(33, 2)), route(33, 2, 7), F32(33, 2)),
        OUT(TO(33, 7)));
    KERNEL(ROW(moe_capacity), .attrs = {.capacity = 5, .experts = 7}, IN(route(33, 2, 7)), OUT(I32(33, 2), I32(1)));
    KERNEL(ROW(moe_rows), .attrs = {.experts = 7}, IN(route(33, 2, 7)), OUT(I32(7, 33)));
    KERNEL(ROW(moe_rows), .attrs = {.experts = 7}, IN(part(route(10, 2, 7), 0, 33, 20, 1)),
        OUT(part(part(I32(3, 10), 0, 7, 4, 1), 1, 33, 20, 1)));
    KERNEL(ROW(moe_rows), .attrs = {.experts = 7}, IN(route(33, 2, 7)), OUT(part(I32(2, 33), 0, 7, 2, 3)));
    KERNEL(ROW(moe_count), .attrs = {.experts = 7}, IN(route(33, 2, 7)), OUT(STATISTIC(7)));
    KERNEL(ROW(moe_count), .attrs = {.experts = 7}, IN(route(33, 2, 7)), OUT(part(STATISTIC(3), 0, 7, 4, 1)));
}
TEST_STORED(moe_tokens) {
    for (int64_t block = 5; block <= 40; block += 8) {
        enum { T = 33, E = 7, K = 2, D = 19 };
        tensor experts[4], rows[6];
        for (int i = 0; i < 4; i++) experts[i] = route(T, K, E);
        for (int i = 0; i < 6; i++) rows[i] = rows_of(&experts[i < 4 ? i : 0], E, block);
        KERNEL(ROW(moe_dispatch), IN(F32(T, D), rows[4]), OUT(TO(E, T, D)));
        KERNEL(ROW(moe_combine), IN(F32(E, T, D), rows[5]), OUT(TO(T, D)));
        KERNEL(ROW(moe_dispatch_weighted), IN(F32(T, D), rows[0], F32(T, K), experts[0]), OUT(TO(E, T, D)));
        KERNEL(ROW(moe_combine), IN(F32(E, T, D), rows[1], F32(T, K), experts[1]), OUT(TO(T, D)));
        KERNEL(ROW(moe_combine_weights_grad), IN(F32(E, T, D), rows[2], experts[2], F32(T, D)), OUT(TO(T, K)));
        drop(&experts[3]), drop(&rows[3]);
    }
    tensor experts = route(33, 2, 4), all = rows_of(&experts, 4, 33), some = part(I32(2, 33), 0, 4, 2, 1);
    for (int64_t i = 0; i < some.n; i++) set(&some, i, known(&all, 66 + i));
    /* a device's experts */
    KERNEL(ROW(moe_combine), IN(part(F32(2, 33, 5), 0, 4, 2, 1), some, F32(33, 2), experts), OUT(TO(33, 5)));
    drop(&all);
    if (stored == MTH_FLOAT32) {
        tensor many = route(3000, 2, 4), many_rows = rows_of(&many, 4, 3000);
        LARGE(KERNEL(ROW(moe_combine), IN(F32(4, 3000, 200), many_rows, F32(3000, 2), many), OUT(TO(3000, 200))));
    }
}
TEST_STORED(moe_experts) {
    for (int64_t block = 100; block <= 300; block += 100) {
        enum { T = 300, E = 3, I = 20, O = 530 };
        tensor experts = route(T, 1, E), rows[10];
        for (int i = 0; i < 10; i++) rows[i] = rows_of(&experts, E, block);
        KERNEL(ROW(moe_matmul), IN(F32(E, T, I), F32(E, I, O), rows[0]), OUT(TO(E, T, O)), .tolerance = 1e-5);
        KERNEL(ROW(moe_matmul), .attrs = {.transposed = 1}, IN(F32(E, T, I), F32(E, O, I), rows[1]), OUT(TO(E, T, O)),
            .tolerance = 1e-5);
        KERNEL(ROW(moe_outer), IN(F32(E, T, O), F32(E, T, I), rows[2]), OUT(TO(E, O, I)), .tolerance = 1e-5);
        KERNEL(ROW(moe_bias), IN(F32(E, T, O), F32(E, O), rows[3]), OUT(TO(E, T, O)));
        KERNEL(ROW(moe_bias_grad), IN(F32(E, T, O), rows[4]), OUT(TO(E, O)));
        KERNEL(ROW(moe_mul), IN(F32(E, T, I), F32(E, T, I), rows[5]), OUT(TO(E, T, I)));
        for (int act = 0; act < 4; act++) {
            KERNEL(ROW(moe_act), .attrs = {.activation = act}, IN(F32(E, T, I), rows_of(&experts, E, block)),
                OUT(TO(E, T, I)));
            KERNEL(ROW(moe_act_grad), .attrs = {.activation = act},
                IN(F32(E, T, I), F32(E, T, I), rows_of(&experts, E, block)), OUT(TO(E, T, I)));
        }
        for (int i = 6; i < 10; i++) drop(&rows[i]);
        drop(&experts);
    }
    KERNEL(ROW(moe_matmul), IN(F32(0, 5, 4), F32(0, 4, 6), I32(0, 5)), OUT(TO(0, 5, 6)));
    KERNEL(ROW(moe_matmul), IN(F32(2, 5, 4), F32(2, 4, 6), ints(MTH_INT32, 1, SHAPE(2, 5))), OUT(TO(2, 5, 6)));
    KERNEL(ROW(moe_outer), IN(F32(2, 0, 4), F32(2, 0, 6), I32(2, 0)), OUT(TO(2, 4, 6)));
    KERNEL(ROW(moe_bias_grad), IN(F32(0, 5, 4), I32(0, 5)), OUT(TO(0, 4)));
}

/* ---- boxes */
static const int reduction[] = {[MTH__BOX_ADD] = MTH__REDUCE_SUM, [MTH__BOX_MAX] = MTH__REDUCE_MAX};
TEST(boxes) {
    static const mth_dtype all[] = {MTH_FLOAT32, MTH_FLOAT64, MTH_INT32, MTH_INT64, MTH_BOOL};
    for (int type = 0; type < 5; type++)
        for (mth__box_op op = MTH__BOX_COPY; op <= MTH__BOX_MAX; op++)
            for (int layout = 0; layout < 4; layout++) {
                const int64_t size[3] = {3, 4, 5}, dense[3] = {20, 5, 1}, wide[3] = {60, 12, 2}, turned[3] = {1, 3, 12};
                const int64_t *ds = layout & 1 ? wide : dense, *ss = layout & 2 ? turned : dense;
                const bool real = mth__is_float(all[type]);
                tensor dst = real ? ints(all[type], 50, SHAPE(180)) : wide_ints(all[type], SHAPE(180)),
                       src = real ? ints(all[type], 50, SHAPE(60)) : wide_ints(all[type], SHAPE(60));
                mth__box(op, all[type], 3, size, dst.o.data, ds, src.o.data, ss);
                for (int64_t i = 0; i < 3; i++)
                    for (int64_t j = 0; j < 4; j++)
                        for (int64_t k = 0; k < 5; k++) {
                            mth__ref_element *d = &dst.r.data[i * ds[0] + j * ds[1] + k * ds[2]];
                            const mth__ref_element s = src.r.data[i * ss[0] + j * ss[1] + k * ss[2]];
                            *d = op == MTH__BOX_COPY ? s : mth__ref_combine(all[type], reduction[op], *d, s);
                        }
                for (int64_t i = 0; i < dst.n; i++)
                    CHECK(element_get(all[type], dst.o.data, i).integer == dst.r.data[i].integer);
                drop(&dst), drop(&src);
            }
    float x = 1, y = 2;
    mth__box(MTH__BOX_ADD, MTH_FLOAT32, 0, NULL, &x, NULL, &y, NULL);
    CHECK(x == 3);
    mth__box(MTH__BOX_COPY, MTH_FLOAT32, 1, (int64_t[]){0}, &x, (int64_t[]){1}, &y, (int64_t[]){1});
    CHECK(x == 3);
    uint16_t a[2] = {0x3f80, 0x7fc0}, b[2] = {0x3b80, 0x3f80}; /* 1 + 2^-8 ties to even: 1; NaN stays */
    mth__box(MTH__BOX_ADD, MTH_BFLOAT16, 1, (int64_t[]){2}, a, (int64_t[]){1}, b, (int64_t[]){1});
    CHECK(a[0] == 0x3f80 && (a[1] & 0x7fc0) == 0x7fc0);
}
TEST(reduce_to_all) {
    static const mth_dtype all[] = {MTH_FLOAT32, MTH_INT32, MTH_INT64, MTH_FLOAT64};
    mth__kernels_open();
    for (int type = 0; type < 4; type++)
        for (mth__box_op op = MTH__BOX_ADD; op <= MTH__BOX_MAX; op++)
            for (int64_t n = 1; n < 100000; n = n * 7 + 3) {
                tensor x[3];
                const void *src[3];
                void *dst[3];
                mth__ref_element *want = malloc((size_t)n * sizeof *want);
                for (int i = 0; i < 3; i++) {
                    x[i] = mth__is_float(all[type]) ? ints(all[type], 1000, SHAPE(n)) : wide_ints(all[type], SHAPE(n));
                    src[i] = dst[i] = x[i].o.data;
                }
                for (int64_t i = 0; i < n; i++) {
                    want[i] = mth__ref_combine(all[type], reduction[op], x[0].r.data[i], x[1].r.data[i]);
                    want[i] = mth__ref_combine(all[type], reduction[op], want[i], x[2].r.data[i]);
                }
                mth__reduce_to_all(op, all[type], n, 3, src, 3, dst, n);
                for (int d = 0; d < 3; d++)
                    for (int64_t i = 0; i < n; i++) {
                        const bool same = element_get(all[type], x[d].o.data, i).integer == want[i].integer;
                        CHECK(same);
                        if (!same) break;
                    }
                for (int i = 0; i < 3; i++) drop(&x[i]);
                free(want);
            }
}
TEST(reduce_past_caches) { /* results apart from operands, odd beginnings */
    enum { N = 70000 };
    tensor x[2] = {F32(N), F32(N)}, y[2] = {TO(N), TO(N)};
    for (int64_t from = 0; from < 20; from += 3) {
        float *a = x[0].o.data, *b = x[1].o.data, *p = y[0].o.data, *q = y[1].o.data;
        mth__reduce_to_all(MTH__BOX_ADD, MTH_FLOAT32, N - from, 2, (const void *[]){a, b}, 2,
            (void *[]){p + from, q + from}, (int64_t)1 << 30);
        for (int64_t i = from; i < N; i++)
            if (p[i] != a[i - from] + b[i - from] || q[i] != p[i]) {
                CHECK(p[i] == q[i]);
                CHECK(p[i] == a[i - from] + b[i - from]);
                break;
            }
    }
    for (int i = 0; i < 2; i++) drop(&x[i]), drop(&y[i]);
}
TEST(rows_have_a_kernel_or_a_reason) {
    for (int row = 0; row < MTH__ROW_COUNT; row++)
        CHECK((mth__kernels[row].run != NULL) == (mth__kernels[row].reason == NULL) &&
            (mth__kernels[row].prepare != NULL) == (mth__kernels[row].run != NULL));
}
RUN()
