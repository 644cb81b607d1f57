/* What of a torch is tried before it is used: that each operator of torch_aten.h takes the arguments that the table
 * says and gives what it should, and that what nothing promises (MTH__TORCH_DIRECT) is as the table assumes. */
#ifndef MTH__TORCH_TRIAL_H
#define MTH__TORCH_TRIAL_H
#include "engine/torch/torch_library.h"

/* Clears the direct functions that fail their trial. UNSUPPORTED, naming the operator, where one of the table fails. */
mth_status mth__torch_try(mth__torch_library *);
#endif
