/* Where a plan puts each operator, who says so, and what goes from device to device for it. */
#ifndef MTH__PARTITION_TRACE_H
#define MTH__PARTITION_TRACE_H
#include "emit/program.h"

/* A row for each of the modules, in their order, behind them one for what belongs to none, where there is such. Devices
   and crossings are read off the program. The rows are of the model `number`, and lie in the arena with their texts. */
mth_status mth__trace_program(mth__arena *, int64_t number, const mth__module_place *, size_t modules,
    const mth__program *, mth_traced_operator **out, size_t *count);
/* As a table. `gradients`: the plan makes them. */
void mth__trace_print(mth__text *, const mth_traced_operator *, size_t count, bool gradients);
#endif
