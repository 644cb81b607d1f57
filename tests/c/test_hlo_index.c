/* Rows that read or write by id or position, as StableHLO against the reference engine: angles of far positions, ids
 * wider than 32 bits, parts that hold nothing. */
#include "hlo_case.h"

static mth__arena *arena;
static void run_in_arena(mth_status (*body)(void *)) { CHECK_STATUS(mth__guard(body, NULL)); }
static double *numbers(mth__shape shape, int64_t below) { /* floats in [-1, 1], or ids */
    double *x = NEW_ARRAY(arena, double, mth__shape_size(shape) + 1);
    for (int64_t i = 0; i < mth__shape_size(shape); i++)
        x[i] = below ? (double)(rand() % below) : (float)(2.0 * rand() / RAND_MAX - 1);
    return x;
}
static mth__sharding cut(const hlo_module *m, int dim, bool cyclic) { /* over the only axis */
    mth__sharding sharding = {.on = m->mesh->whole};
    if (dim >= 0) sharding.dim[dim] = (mth__split){.naxes = 1, .cyclic = cyclic};
    return sharding;
}

/* ---------------------------------------------------------------- positions */
static mth_status far_positions(void *unused) {
    (void)unused;
    for (int cyclic = 0; cyclic < 2; cyclic++) {
        arena = mth__arena_new();
        hlo_module *m = hlo_begin(arena, 1, (int64_t[]){4});
        const mth__sharding rows = cut(m, 0, cyclic), columns = cut(m, 1, cyclic);
        TRY(hlo_add(m, MTH__ROW_sinusoid, &(mth__attrs){.length = 100003, .width = 11}, 0, NULL, &rows));
        TRY(hlo_add(m, MTH__ROW_sinusoid, &(mth__attrs){.length = 1031, .width = 257}, 0, NULL, &columns));
        static const double base[] = {10000, 500000, 1.5, 0.3};
        for (int i = 0; i < 4; i++) {
            const mth__shape shape = {4, {1, 65537, 1, 6}};
            mth__sharding *split = NEW(arena, mth__sharding);
            *split = cut(m, 1, cyclic);
            const mth__attrs attrs = {.dimension = 1, .inverse = i & 1, .interleaved = i >> 1, .base = base[i]};
            TRY(hlo_add(
                m, MTH__ROW_rope, &attrs, 1, (hlo_in[]){{MTH_FLOAT32, shape, numbers(shape, 0), split}}, split));
        }
        for (int i = 0; i < m->cases; i++) m->at[i].tolerance = 1e-6;
        TRY(hlo_run(m));
        mth__arena_free(arena);
    }
    return NULL;
}
TEST(far_positions_have_exact_angles) { run_in_arena(far_positions); }

static mth_status ranks(void *unused) { /* the most dimensions there are, with the pairs split off */
    (void)unused;
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){2});
    const mth__shape shape = {8, {2, 1, 3, 2, 5, 1, 2, 4}};
    for (int i = 0; i < 4; i++) {
        mth__sharding *split = NEW(arena, mth__sharding);
        *split = cut(m, i < 2 ? 4 : 2, false);
        const mth__attrs attrs = {.dimension = i < 2 ? 4 : 0, .interleaved = i & 1, .base = 100};
        TRY(hlo_add(m, MTH__ROW_rope, &attrs, 1, (hlo_in[]){{MTH_FLOAT32, shape, numbers(shape, 0), split}}, split));
    }
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(rope_of_many_dimensions) { run_in_arena(ranks); }

/* ---------------------------------------------------------------- ids */
static mth_status ids(void *unused) {
    (void)unused;
    for (int trial = 0; trial < 8; trial++) {
        srand((unsigned)trial);
        arena = mth__arena_new();
        hlo_module *m = hlo_begin(arena, 1, (int64_t[]){trial % 4 + 1});
        const bool cyclic = trial & 4;
        const mth_dtype dtype = trial & 1 ? MTH_INT64 : MTH_INT32;
        /* 5 of a vocabulary over 4 devices: 2, 2, 1, 0 */
        const mth__shape table = {2, {5, 3}}, at = {2, {4, 7}}, rows = {3, {4, 7, 3}}, wide = {3, {4, 7, 5}};
        const mth__sharding whole = cut(m, -1, false), first = cut(m, 0, cyclic), second = cut(m, 1, cyclic),
                            third = cut(m, 2, cyclic);
        const double *id = numbers(at, 5);
        const hlo_in id_whole = {dtype, at, id, &whole}, id_first = {dtype, at, id, &first},
                     id_second = {dtype, at, id, &second};
        const hlo_in t = {MTH_FLOAT32, table, numbers(table, 0), NULL},
                     dy = {MTH_FLOAT32, rows, numbers(rows, 0), NULL};
        const hlo_in x = {MTH_FLOAT32, wide, numbers(wide, 0), NULL}, dx = {MTH_FLOAT32, at, numbers(at, 0), NULL};
#define ON(in, s)                                                                                                      \
    (hlo_in) { (in).dtype, (in).shape, (in).data, &(s) }
        TRY(hlo_add(m, MTH__ROW_gather, NULL, 2, (hlo_in[]){ON(t, first), id_whole}, &whole));
        TRY(hlo_add(m, MTH__ROW_gather, NULL, 2, (hlo_in[]){ON(t, second), id_whole}, &third));
        TRY(hlo_add(m, MTH__ROW_gather, NULL, 2, (hlo_in[]){ON(t, whole), id_second}, &second));
        const mth__attrs attrs = {.rows = 5, .size = 5};
        TRY(hlo_add(m, MTH__ROW_gather_grad, &attrs, 2, (hlo_in[]){id_whole, ON(dy, whole)}, &first));
        TRY(hlo_add(m, MTH__ROW_gather_grad, &attrs, 2, (hlo_in[]){id_first, ON(dy, first)}, &whole));
        TRY(hlo_add(m, MTH__ROW_gather_grad, &attrs, 2, (hlo_in[]){id_second, ON(dy, second)}, &whole));
        TRY(hlo_add(m, MTH__ROW_gather_grad, &attrs, 2, (hlo_in[]){id_whole, ON(dy, third)}, &second));
        TRY(hlo_add(m, MTH__ROW_pick, NULL, 2, (hlo_in[]){ON(x, third), id_whole}, &whole));
        TRY(hlo_add(m, MTH__ROW_pick, NULL, 2, (hlo_in[]){ON(x, second), id_second}, &second));
        TRY(hlo_add(m, MTH__ROW_pick_grad, &attrs, 2, (hlo_in[]){id_whole, ON(dx, whole)}, &third));
        TRY(hlo_add(m, MTH__ROW_pick_grad, &attrs, 2, (hlo_in[]){id_first, ON(dx, first)}, &first));
        TRY(hlo_run(m));
        mth__arena_free(arena);
    }
    return NULL;
}
TEST(ids_on_all_kinds_of_parts) { run_in_arena(ids); }

static mth_status strangers(void *unused) {
    (void)unused;
    static const struct {
        mth_dtype dtype;
        double id;
        int32_t told;
    } bad[] = {{MTH_INT32, 5, 5}, {MTH_INT32, -1, -1}, {MTH_INT32, INT32_MIN, INT32_MIN + 1},
        {MTH_INT32, INT32_MAX, INT32_MAX}, {MTH_INT64, -7, -7}, {MTH_INT64, 0x1p32, INT32_MAX},
        {MTH_INT64, 0x1p32 + 2, INT32_MAX}, {MTH_INT64, -0x1p40, INT32_MIN + 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        arena = mth__arena_new();
        hlo_module *m = hlo_begin(arena, 1, (int64_t[]){2});
        m->bad_ids = true;
        m->bad_id = bad[i].told;
        const mth__sharding whole = cut(m, -1, false), first = cut(m, 0, false);
        const mth__shape at = {1, {3}}, table = {2, {5, 2}}, shape = {2, {3, 5}}, dy = {2, {3, 2}};
        const hlo_in id = {bad[i].dtype, at, (double[]){4, bad[i].id, 0}, &whole};
        const mth__attrs attrs = {.rows = 5, .size = 5};
        TRY(hlo_add(
            m, MTH__ROW_gather, NULL, 2, (hlo_in[]){{MTH_FLOAT32, table, numbers(table, 0), &first}, id}, &whole));
        TRY(hlo_add(
            m, MTH__ROW_gather_grad, &attrs, 2, (hlo_in[]){id, {MTH_FLOAT32, dy, numbers(dy, 0), &whole}}, &whole));
        TRY(hlo_add(
            m, MTH__ROW_pick, NULL, 2, (hlo_in[]){{MTH_FLOAT32, shape, numbers(shape, 0), &whole}, id}, &whole));
        TRY(hlo_add(
            m, MTH__ROW_pick_grad, &attrs, 2, (hlo_in[]){id, {MTH_FLOAT32, at, numbers(at, 0), &whole}}, &whole));
        TRY(hlo_run(m));
        mth__arena_free(arena);
    }
    return NULL;
}
TEST(ids_outside_are_told) { run_in_arena(strangers); }

/* ---------------------------------------------------------------- nothing */
static mth_status nothing(void *unused) {
    (void)unused;
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){2});
    const mth__sharding whole[3] = {cut(m, -1, false), cut(m, -1, false), cut(m, -1, false)};
    const mth__shape table = {2, {5, 3}}, none = {1, {0}}, rows = {2, {0, 3}}, empty = {2, {5, 0}};
    const double *x = numbers(table, 0), valid[] = {0, 1};
    TRY(hlo_add(
        m, MTH__ROW_gather, NULL, 2, (hlo_in[]){{MTH_FLOAT32, table, x, whole}, {MTH_INT32, none, x, whole}}, whole));
    TRY(hlo_add(m, MTH__ROW_gather_grad, &(mth__attrs){.rows = 5}, 2,
        (hlo_in[]){{MTH_INT64, none, x, whole}, {MTH_FLOAT32, rows, x, whole}}, whole));
    TRY(hlo_add(
        m, MTH__ROW_pick, NULL, 2, (hlo_in[]){{MTH_FLOAT32, rows, x, whole}, {MTH_INT32, none, x, whole}}, whole));
    TRY(hlo_add(m, MTH__ROW_sinusoid, &(mth__attrs){.width = 4}, 0, NULL, whole));
    TRY(hlo_add(m, MTH__ROW_sinusoid, &(mth__attrs){.length = 4}, 0, NULL, whole));
    TRY(hlo_add(m, MTH__ROW_rope, &(mth__attrs){.base = 100}, 1, (hlo_in[]){{MTH_FLOAT32, empty, x, whole}}, whole));
    TRY(hlo_add(
        m, MTH__ROW_moe_rows, &(mth__attrs){.experts = 3}, 1, (hlo_in[]){{MTH_INT32, {2, {0, 2}}, x, whole}}, whole));
    TRY(hlo_add(m, MTH__ROW_moe_capacity, &(mth__attrs){.capacity = 3, .experts = 2}, 1,
        (hlo_in[]){{MTH_INT32, {2, {0, 2}}, x, whole}}, whole));
    TRY(hlo_add(m, MTH__ROW_moe_combine, NULL, 4,
        (hlo_in[]){{MTH_FLOAT32, {3, {2, 0, 3}}, x, whole}, {MTH_INT32, {2, {2, 0}}, x, whole},
            {MTH_FLOAT32, {2, {0, 2}}, x, whole}, {MTH_INT32, {2, {0, 2}}, x, whole}},
        whole));
    /* no keys */
    const hlo_in q = {MTH_FLOAT32, {5, {1, 2, 1, 2, 1}}, x, whole}, k = {MTH_FLOAT32, {4, {1, 0, 1, 1}}, x, whole};
    TRY(hlo_add(m, MTH__ROW_attention, &(mth__attrs){.scale = 1}, 3, (hlo_in[]){q, k, k}, whole));
    TRY(hlo_add(m, MTH__ROW_attention, &(mth__attrs){.causal = 1, .scale = 1}, 4,
        (hlo_in[]){q, {MTH_FLOAT32, {4, {1, 2, 1, 1}}, x, whole}, {MTH_FLOAT32, {4, {1, 2, 1, 0}}, x, whole},
            {MTH_INT32, {2, {1, 2}}, valid, whole}},
        whole));
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(empty_tensors) { run_in_arena(nothing); }

/* ---------------------------------------------------------------- attention */
static mth_status unseen(void *unused) { /* queries that see no key: the first ones, or all of a batch */
    (void)unused;
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){3});
    const mth__shape q = {5, {2, 5, 1, 2, 2}}, k = {4, {2, 5, 1, 2}}, v = {4, {2, 5, 1, 3}};
    const mth__shape o = {5, {2, 5, 1, 2, 3}}, l = {4, {2, 5, 1, 2}}, seen_by = {2, {2, 5}};
    static const double seen[] = {0, 0, 1, 0, 1, 0, 0, 0, 0, 0};
    double *most = NEW_ARRAY(arena, double, 20), *sum = NEW_ARRAY(arena, double, 20);
    for (int i = 0; i < 20; i++) {
        const bool unseen_by = i / 10 || i < 4;
        most[i] = unseen_by ? -INFINITY : 1.5;
        sum[i] = unseen_by ? 0 : 1.2;
    }
    const mth__sharding whole[3] = {cut(m, -1, false), cut(m, -1, false), cut(m, -1, false)},
                        by[3] = {cut(m, 1, false), cut(m, 1, false), cut(m, 1, false)};
    const mth__sharding grad[3] = {by[0], whole[0], whole[0]};
    for (int i = 0; i < 3; i++) {
        const mth_dtype mask = (mth_dtype[]){MTH_BOOL, MTH_INT32, MTH_FLOAT32}[i];
        const hlo_in qkv[] = {{MTH_FLOAT32, q, numbers(q, 0), by}, {MTH_FLOAT32, k, numbers(k, 0), whole},
            {MTH_FLOAT32, v, numbers(v, 0), whole}, {mask, seen_by, seen, whole}};
        const mth__attrs attrs = {.causal = 1, .scale = 0.7};
        TRY(hlo_add(m, MTH__ROW_attention, &attrs, 4, qkv, by));
        double *of = numbers(o, 0);
        for (int j = 0; j < 60; j++)
            if (sum[j / 3] == 0) of[j] = 0;
        TRY(hlo_add(m, MTH__ROW_attention_grad, &attrs, 8,
            (hlo_in[]){qkv[0], qkv[1], qkv[2], {MTH_FLOAT32, o, of, by}, {MTH_FLOAT32, l, most, by},
                {MTH_FLOAT32, l, sum, by}, {MTH_FLOAT32, o, numbers(o, 0), by}, qkv[3]},
            grad));
    }
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(queries_that_see_no_key) { run_in_arena(unseen); }
RUN()
