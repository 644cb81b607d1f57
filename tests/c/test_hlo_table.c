/* Every row of the catalog and all communication, as XLA runs it, compared with the reference engine. Where a part is
 * smaller than the largest, XLA's is padded. */
#include "cpu_plugin.h"
#include "row_sheets.h"

/* XLA's machine code is not optimized: making it takes nearly all of the test's time, and what it is made of is what is
 * tested. */
static void with_plugin(void (*check)(sheet_engine)) {
    static const char *const level[] = {"xla_backend_optimization_level"};
    const mth_arg none = mth_int(0);
    mth__plugin *has = NULL;
    CHECK_STATUS(cpu_plugin(&has));
    if (has) check((sheet_engine){&mth__engine_pjrt, .option = {"compile_options", mth_dict(1, level, &none)}});
}
TEST(every_row_whole_and_split) { with_plugin(check_every_row); }
TEST(every_row_on_nan_and_infinities) { with_plugin(check_specials); }
TEST(communication_between_any_shardings) { with_plugin(check_communication); }
RUN()
