/* What a run finds in values: an id outside of its table, a mask that is none. Engines find it each in their way; the
 * error is one. */
#ifndef MTH__FAULT_H
#define MTH__FAULT_H
#include "catalog/op.h"

/* `value`: the id, or mth__mask_fault of a number that is no mask. `more`: " or above" where that is all that is known
 * of the number, else "". `where`: " on device 3", or "". */
mth_status mth__fault_error(const mth__op *, int64_t value, const char *more, int64_t limit, const char *where);
int64_t mth__mask_fault(double number);
/* Of a number other than 0 and 1 in a mask; `more` and `where` as above. */
mth_status mth__mask_error(double number, const char *holder, const char *more, const char *where);
#endif
