/* Every row of the catalog and all communication, as calls of torch, compared with the reference engine. */
#include "row_sheets.h"
#include "engine/torch/torch_library.h"

static void with_torch(void (*check)(sheet_engine)) {
    mth__arena *arena = mth__arena_new();
    const mth__torch_library *library;
    mth_status none = mth__torch_library_open(arena, NULL, &library);
    if (none && mth_error_get_code(none) == MTH_ERROR_IO)
        SKIP("%s", mth_error_get_what(none));
    else if (none)
        CHECK_STATUS(none);
    else
        /* of a row with infinities torch's mean is NaN, as y and rstd are on any engine */
        check((sheet_engine){&mth__engine_torch, .means_nothing = MTH__ROW_layer_norm});
    mth__arena_free(arena);
}
TEST(every_row_whole_and_split) { with_torch(check_every_row); }
static void with_dtype(mth_dtype dtype) {
    floating = dtype;
    with_torch(check_every_row);
    floating = MTH_FLOAT32;
}
TEST(every_row_in_float64) { with_dtype(MTH_FLOAT64); }
TEST(every_row_in_bfloat16) { with_dtype(MTH_BFLOAT16); }
TEST(every_row_in_float16) { with_dtype(MTH_FLOAT16); }
TEST(every_row_on_nan_and_infinities) { with_torch(check_specials); }

/* ---------------------------------------------------------------- what is computed otherwise where it is long */
static const double *positive(mth__arena *arena, mth__shape shape) {
    const int64_t n = mth__shape_size(shape);
    double *x = NEW_ARRAY(arena, double, n + 1);
    for (int64_t i = 0; i < n; i++) x[i] = (float)rand() / (float)RAND_MAX;
    return x;
}
static mth_status add_long(sheet *s, int row, const mth__attrs *attrs, int nin, const mth__shape *shape, bool twice) {
    const mth__sharding whole = {.on = s->all};
    mth__value *in[MTH__MAX_IN], *out[MTH__MAX_OUT], *first[MTH__MAX_OUT];
    for (int j = 0; j < nin; j++) in[j] = add_input(s, MTH_FLOAT32, shape[j], &whole, positive(s->arena, shape[j]));
    TRY(add_node(s, row, attrs, nin, in, &whole, out));
    const int results = out[0]->node->nout;
    if (twice) {
        TRY(add_node(s, row, attrs, nin, in, &whole, first));
        s->b.label.phase = MTH__BACKWARD;
        TRY(add_node2(s, MTH__ROW_add, out[0], first[0], &out[0]));
        s->b.label.phase = MTH__FORWARD;
    }
    for (int k = 0; k < results; k++)
        add_output(s, out[k], (origin){.row = mth__op_at(row)->name, .how = attrs->spec ? attrs->spec : "long"});
    return NULL;
}
/* Products by the letters of their specs: all sizes around those where the way changes, summed terms in both layouts of
   both operands, results in both layouts, batches, and sums so far. */
static mth_status products_body(void *engine) {
    static const char *const specs[] = {
        "mk,kn->mn", "km,kn->mn", "mk,nk->mn", "km,nk->mn", "mk,kn->nm", "bmk,bkn->bmn", "mbk,kn->bnm"};
    static const int64_t sizes[][4] = {/* m, n, k, b */
        {1, 1, 5000, 2}, {1, 7, 2050, 1}, {9, 1, 2050, 1}, {3, 3, 1030, 2}, {40, 2, 1030, 2}, {2, 40, 1030, 1},
        {17, 16, 16400, 1}, {33, 5, 600, 2}};
    sheet s;
    TRY(new_sheet(engine, &s, 1, (int64_t[]){1}));
    srand(1);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            mth__shape shape[2] = {{0}};
            int j = 0;
            for (const char *c = specs[i]; *c != '-'; c++) {
                if (*c == ',')
                    j++;
                else
                    shape[j].dim[shape[j].rank++] = sizes[k][strchr("mnkb", *c) - "mnkb"];
            }
            TRY(add_long(&s, MTH__ROW_contract, &(mth__attrs){.spec = specs[i]}, 2, shape, (i + k) % 2));
        }
    TRY(run_sheet(&s, &(mth__emit_options){0}));
    mth__arena_free(s.arena);
    return NULL;
}
static void check_products(sheet_engine engine) {
    engine.within = 24 * 0x1p-24;
    CHECK_STATUS(mth__guard(products_body, &engine));
}
TEST(long_products) { with_torch(check_products); }

#define SHAPE(...) ((mth__shape){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}})
static mth_status rows_of_length_body(void *engine) {
    sheet s;
    TRY(new_sheet(engine, &s, 1, (int64_t[]){1}));
    srand(2);
    const mth__attrs norm = {.epsilon = 1e-5}, along = {.dimension = 1};
    TRY(add_long(&s, MTH__ROW_softmax, &along, 1, (mth__shape[]){SHAPE(2, 65540)}, false));
    TRY(add_long(
        &s, MTH__ROW_layer_norm, &norm, 3, (mth__shape[]){SHAPE(2, 65540), SHAPE(65540), SHAPE(65540)}, false));
    TRY(add_long(&s, MTH__ROW_rms_norm, &norm, 2, (mth__shape[]){SHAPE(2, 8200), SHAPE(8200)}, false));
    TRY(add_long(&s, MTH__ROW_rms_norm_grad, &norm, 4,
        (mth__shape[]){SHAPE(16400, 5), SHAPE(5), SHAPE(16400), SHAPE(16400, 5)}, false));
    TRY(add_long(&s, MTH__ROW_layer_norm_grad, &norm, 5,
        (mth__shape[]){SHAPE(16400, 5), SHAPE(5), SHAPE(16400), SHAPE(16400), SHAPE(16400, 5)}, false));
    TRY(run_sheet(&s, &(mth__emit_options){0}));
    mth__arena_free(s.arena);
    return NULL;
}
static void check_rows_of_length(sheet_engine engine) { CHECK_STATUS(mth__guard(rows_of_length_body, &engine)); }
TEST(long_rows_and_many) { with_torch(check_rows_of_length); }

TEST(communication_between_any_shardings) { with_torch(check_communication); }
RUN()
