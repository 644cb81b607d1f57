/* Every row of the catalog and all communication, as calls of torch, compared with the reference engine. */
#include "row_sheets.h"
#include "engine/torch/torch_rows.h"

static bool lacks(int row) { return !mth__torch_rows[row].run; }

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
        check((sheet_engine){&mth__engine_torch, .lacks = lacks, .means_nothing = MTH__ROW_layer_norm});
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
TEST(communication_between_any_shardings) { with_torch(check_communication); }
RUN()
