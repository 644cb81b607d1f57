#include "engine/fault.h"
#include <string.h>

mth_status mth__fault_error(const mth__op *op, const char *value, int64_t limit, const char *where) {
    const char *noun = op->index_name;
    if (!noun)
        return FAIL(MTH_ERROR_VALUE, F("the mask has values other than 0 and 1: %s%s", op->name, where),
            F("give booleans, true where a key counts: where it has 0 and -inf, to be added to scores, give "
              "mask == 0"));
    const char *plural = noun[strlen(noun) - 1] == 's' ? "es" : "s";
    return FAIL(MTH_ERROR_VALUE, F("%s %s is outside [0, %lld): %s%s", noun, value, (long long)limit, op->name, where),
        F("%s%s must lie in [0, %lld)", noun, plural, (long long)limit));
}
