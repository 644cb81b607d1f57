/* Sums of elements of 16 bits: in float32, rounded once. A chain of sums in bfloat16 of ones stops at 256. And products
 * of many terms in float32: a chain of thousands of positive terms would lose more than they are allowed to. */
#include "kernel_case.h"
#include "engine/native/native.h"

static const mth_dtype halves[] = {MTH_BFLOAT16, MTH_FLOAT16};
enum { HALVES = 2, TERMS = 512 };

static tensor full(mth_dtype dtype, double value, int rank, const int64_t *dim) {
    tensor array = make(dtype, rank, dim);
    for (int64_t i = 0; i < array.n; i++) set(&array, i, value);
    return array;
}
/* All elements of a kernel's first result, of floating operands that are full of one value each. */
static void check_sum(mth__attrs attrs, int row, tensor a, tensor b, tensor y, bool accumulates, double want) {
    test_case test = {.row = row, .attrs = attrs, .nin = b.n ? 2 : 1, .nout = 1, .in = {a, b}, .out = {y}};
    mth__kernels_open();
    CHECK_STATUS(mth__guard(run_body, &(job){.t = &test, .accumulates = accumulates}));
    for (int64_t i = 0; i < y.n; i++)
        if (get(&y, i) != want) {
            unit_failures++;
            printf("  %s in %s: %g, not %g\n", mth__op_at(row)->name, mth_dtype_name(y.o.dtype), get(&y, i), want);
            break;
        }
    drop(&a), drop(&y);
    if (b.n) drop(&b);
}
static const tensor none;
/* 64 terms of 1 + 3 * 2^-7 are 65.5, which both dtypes have; of ones 512. */
static const double term[] = {1, 1 + 3 * 0x1p-7};
static const int64_t terms[] = {TERMS, 64};
static const double sum[] = {512, 65.5};
TEST(sums_are_rounded_once) {
    for (int h = 0; h < HALVES; h++)
        for (int i = 0; i < 2; i++) {
            const mth_dtype dtype = halves[h];
            const int64_t n = terms[i];
#define FULL(value, ...) full(dtype, value, SHAPE(__VA_ARGS__))
#define EMPTY(...) blank(dtype, SHAPE(__VA_ARGS__))
            check_sum((mth__attrs){.dimensions = 1}, MTH__ROW_reduce_sum, FULL(term[i], n, 33), none, EMPTY(33), false,
                sum[i]);
            check_sum((mth__attrs){.dimensions = 2}, MTH__ROW_reduce_sum, FULL(term[i], 33, n), none, EMPTY(33), false,
                sum[i]);
            check_sum((mth__attrs){.spec = "mk,kn->mn"}, MTH__ROW_contract, FULL(term[i], 70, n), FULL(1, n, 80),
                EMPTY(70, 80), false, sum[i]);
            check_sum((mth__attrs){.spec = "mk,nk->nm"}, MTH__ROW_contract, FULL(term[i], 3, n), FULL(1, 80, n),
                EMPTY(80, 3), false, sum[i]);
            check_sum((mth__attrs){.spec = "mk,k->m"}, MTH__ROW_contract, FULL(term[i], 5, n), FULL(1, n), EMPTY(5),
                false, sum[i]);
            /* half of the terms lie in the sum so far */
            tensor y = FULL(sum[i] / 2, 33);
            check_sum(
                (mth__attrs){.dimensions = 1}, MTH__ROW_reduce_sum, FULL(term[i], n / 2, 33), none, y, true, sum[i]);
            y = FULL(sum[i] / 2, 33, 40);
            check_sum((mth__attrs){.spec = "mk,kn->mn"}, MTH__ROW_contract, FULL(term[i], 33, n / 2),
                FULL(1, n / 2, 40), y, true, sum[i]);
            y = FULL(sum[i] / 2, 3, 5, 4, 6); /* put together in scratch */
            check_sum((mth__attrs){.spec = "abk,cdk->acbd"}, MTH__ROW_contract, FULL(term[i], 3, 4, n / 2),
                FULL(1, 5, 6, n / 2), y, true, sum[i]);
        }
}
/* A result that is smaller than its block, 200 x 520 of 208 x 576, is converted in longer steps, of 512 terms and not
   of 384: its scratch is enough for those. */
TEST(blocks_of_16_bits_stay_in_their_scratch) {
    for (int h = 0; h < HALVES; h++)
        check_sum((mth__attrs){.spec = "mk,kn->mn"}, MTH__ROW_contract, full(halves[h], 1, SHAPE(200, TERMS)),
            full(halves[h], 1, SHAPE(TERMS, 520)), blank(halves[h], SHAPE(200, 520)), false, TERMS);
}
/* What a device gets from 512 others: in one pass, and as boxes of which every other element is meant. */
TEST(devices_are_summed_in_float32) {
    enum { N = 300, STEP = 2 };
    for (int h = 0; h < HALVES; h++)
        for (int i = 0; i < 2; i++) {
            const int sources = (int)terms[i];
            tensor x = full(halves[h], term[i], SHAPE(N * STEP)), y = blank(halves[h], SHAPE(N * STEP));
            void **src = mth__malloc((size_t)sources * sizeof *src), *dst = y.o.data;
            for (int source = 0; source < sources; source++) src[source] = x.o.data;
            mth__kernels_open();
            mth__reduce_to_all(MTH__BOX_ADD, halves[h], N, sources, (const void *const *)src, 1, &dst, N);
            for (int64_t k = 0; k < N; k++) CHECK(get(&y, k) == sum[i]);
            mth__box_move move = {.rank = 1,
                .first = MTH__BOX_COPY,
                .op = MTH__BOX_ADD,
                .dtype = halves[h],
                .parts = 1,
                .sources = sources,
                .rows = N,
                .size = {N},
                .dst_stride = {STEP},
                .src_stride = {STEP},
                .src = src};
            const mth__move_chunk chunk = {.count = 1};
            const mth__moves all = {&move, &chunk, 1, 1};
            for (int64_t k = 0; k < y.n; k++) set(&y, k, -1);
            mth__moves_run(&all, y.o.data, 0);
            for (int64_t k = 0; k < y.n; k++) CHECK(get(&y, k) == (k % STEP ? -1 : sum[i]));
            for (int64_t k = 0; k < y.n; k++) set(&y, k, sum[i] / 2);
            move.first = MTH__BOX_ADD;
            move.sources = sources / 2;
            mth__moves_run(&all, y.o.data, 0);
            for (int64_t k = 0; k < y.n; k++) CHECK(get(&y, k) == (k % STEP ? sum[i] / 2 : sum[i]));
            mth__free(src);
            drop(&x), drop(&y);
        }
}
/* Values that rounding or a conversion could lose: they come through what moves, adds and multiplies them. */
TEST(special_values_of_16_bits) {
    for (int h = 0; h < HALVES; h++) {
        const mth_dtype dtype = halves[h];
        const double least = dtype == MTH_BFLOAT16 ? 0x1p-133 : 0x1p-24, largest = mth__dtypes[dtype].largest,
                     value[] = {NAN, INFINITY, -INFINITY, least, -3 * least, largest, -largest, 0};
        enum { VALUES = sizeof value / sizeof *value };
#define VALUES_OF(x)                                                                                                   \
    tensor x = make(dtype, SHAPE(VALUES));                                                                             \
    for (int j = 0; j < VALUES; j++) set(&x, j, value[j])
        stored = dtype;
        static const int unary[] = {MTH__ROW_neg, MTH__ROW_relu, MTH__ROW_exp, MTH__ROW_tanh, MTH__ROW_silu};
        for (size_t i = 0; i < sizeof unary / sizeof *unary; i++) {
            VALUES_OF(x);
            KERNEL(.row = unary[i], IN(x), OUT(TO(VALUES)));
        }
        static const int binary[] = {MTH__ROW_add, MTH__ROW_mul, MTH__ROW_maximum};
        for (size_t i = 0; i < sizeof binary / sizeof *binary; i++) {
            VALUES_OF(x);
            VALUES_OF(y);
            KERNEL(.row = binary[i], IN(x, y), OUT(TO(VALUES)));
        }
        VALUES_OF(column); /* times 1: an outer product */
        KERNEL(ROW(contract), .attrs = {.spec = "m,n->mn"}, IN(column, full(dtype, 1, SHAPE(3))), OUT(TO(VALUES, 3)));
        VALUES_OF(table);
        table.o.shape = table.o.global = (mth__shape){2, {VALUES, 1}};
        tensor ids = make(MTH_INT32, SHAPE(VALUES));
        for (int i = 0; i < VALUES; i++) set(&ids, i, VALUES - 1 - i);
        KERNEL(ROW(gather), IN(table, ids), OUT(TO(VALUES, 1)));
        stored = MTH_FLOAT32;
    }
}
/* Against the reference's sums in double, of positive terms; added to other sums too. Results that are cut in blocks
   leave a narrow rest, and what has one row or column is a product with a vector. */
static void check_product(const char *spec, tensor a, tensor b, tensor y) {
    KERNEL(ROW(contract), .attrs = {.spec = spec}, IN(a, b), OUT(y), .tolerance = 12 * 0x1p-24);
}
#define POSITIVE(...) positive(SHAPE(__VA_ARGS__))
TEST(long_products_with_a_narrow_rest) {
    static const int64_t rest[] = {1, 15};
    enum { K = 15000 };
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        check_product("km,kn->mn", POSITIVE(K, 64), POSITIVE(K, 64 + rest[i]), TO(64, 64 + rest[i]));
    check_product("mk,kn->nm", POSITIVE(65, K), POSITIVE(K, 81), TO(81, 65));
    check_product("bmk,bkn->bmn", POSITIVE(2, 65, K), POSITIVE(2, K, 49), TO(2, 65, 49));
}
TEST(long_products_with_a_vector) {
    for (int64_t k = 1000; k < 10000; k += 3000) {
        for (int64_t n = 1; n <= 300; n = 6 * n + 1) {
            check_product("k,kn->n", POSITIVE(k), POSITIVE(k, n), TO(n));
            check_product("k,nk->n", POSITIVE(k), POSITIVE(n, k), TO(n));
            check_product("km,k->m", POSITIVE(k, n), POSITIVE(k), TO(n));
            check_product("mk,k->m", POSITIVE(n, k), POSITIVE(k), TO(n));
        }
        check_product("bk,bkn->bn", POSITIVE(3, k), POSITIVE(3, k, 7), TO(3, 7));
        check_product("bkm,bk->bm", POSITIVE(3, k, 2), POSITIVE(3, k), TO(3, 2));
        check_product("k,k->", POSITIVE(k), POSITIVE(k), blank(MTH_FLOAT32, SCALAR));
    }
}
TEST(long_products_of_experts) {
    enum { K = 5000 };
#define EXPERTS(name, turned, a, b, e, t, y)                                                                           \
    KERNEL(ROW(name), .attrs = {.transposed = turned}, IN(a, b, ints(MTH_INT32, 100, SHAPE(e, t))), OUT(y),            \
        .tolerance = 12 * 0x1p-24)
    EXPERTS(moe_matmul, 0, POSITIVE(2, 1, K), POSITIVE(2, K, 7), 2, 1, TO(2, 1, 7));
    EXPERTS(moe_matmul, 1, POSITIVE(2, 1, K), POSITIVE(2, 7, K), 2, 1, TO(2, 1, 7));
    EXPERTS(moe_matmul, 0, POSITIVE(1, 257, K), POSITIVE(1, K, 3), 1, 257, TO(1, 257, 3));
    EXPERTS(moe_matmul, 0, POSITIVE(1, 5, K), POSITIVE(1, K, 513), 1, 5, TO(1, 5, 513));
    EXPERTS(moe_matmul, 0, POSITIVE(1, 3, 4 * K), POSITIVE(1, 4 * K, 5), 1, 3, TO(1, 3, 5));
    EXPERTS(moe_outer, 0, POSITIVE(2, K, 7), POSITIVE(2, K, 1), 2, K, TO(2, 7, 1));
    EXPERTS(moe_outer, 0, POSITIVE(2, K, 1), POSITIVE(2, K, 7), 2, K, TO(2, 1, 7));
    EXPERTS(moe_outer, 0, POSITIVE(1, K, 257), POSITIVE(1, K, 3), 1, K, TO(1, 257, 3));
    EXPERTS(moe_outer, 0, POSITIVE(1, K, 5), POSITIVE(1, K, 513), 1, K, TO(1, 5, 513));
}
RUN()
