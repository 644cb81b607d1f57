/* What a run finds in values: an id outside of its table, a mask that is none. Engines find it each in their way; the
 * error is one. */
#ifndef MTH__FAULT_H
#define MTH__FAULT_H
#include "catalog/op.h"

/* `value`: the id as a text, "9" (of a row that has no ids nothing is told). `where`: " on device 3", or "". */
mth_status mth__fault_error(const mth__op *, const char *value, int64_t limit, const char *where);
#endif
