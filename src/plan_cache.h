/* The plans of a compiled model, found in its cache or made: what evaluates and what reads plans begins here. */
#ifndef MTH__PLAN_CACHE_H
#define MTH__PLAN_CACHE_H
#include "compile.h"

/* The functions below are called between lock and unlock, which hands `status` on. */
mth_status mth__lock(mth_compiled *);
mth_status mth__unlock(mth_compiled *, mth_status status);
/* Finds or makes the plan; `load` also makes its executable. */
mth_status mth__plan_for(mth_compiled *, const mth__request *, bool load, mth__plan **out);
/* The plan for the inputs (or the last ones): the last used where its inputs are the same, else a forward plan. */
mth_status mth__forward_plan(mth_compiled *, const mth_named *input, size_t count, mth__plan **out);
/* Makes its executable, where there is none; refuses what the engine will use more memory for than devices have. */
mth_status mth__load_plan(mth_compiled *, mth__plan *);
/* By device, what a run allocates: by the plan or, of an engine that allocates by itself, as its compiler says. */
mth_status mth__plan_memory(mth_compiled *, mth__plan *, mth_memory_usage *device);
void mth__plan_free(mth_compiled *, mth__plan *);
/* The request for these inputs, in the model's order; what is missing or too much is left to expand's errors. */
mth_status mth__request_for(mth_compiled *, const mth_named *input, size_t count, mth__request *);
void mth__request_free(mth__request *);
/* The dtype as which an input comes into a plan: floating numbers become float32, but for float64 where the engine
   computes in it. Storage in 16 bits is not for inputs to decide, as all that reads them would compute in it. */
mth_dtype mth__input_dtype(const mth_compiled *, mth_dtype);
/* The number of a name, -1 where it is none of them; as a rule it is the one that is expected. */
int mth__number_of(const mth__names *known, const char *name, size_t expected);
#endif
