/* The table: which calls run a row. */
#include "engine/torch/torch_rows.h"

const mth__torch_row mth__torch_rows[MTH__ROW_COUNT] = {{0}};
