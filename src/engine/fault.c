#include "engine/fault.h"
#include "base/number.h"
#include <string.h>

int64_t mth__mask_fault(double number) {
    int64_t value;
    memcpy(&value, &number, sizeof value);
    return value;
}

/* The fix goes by the number: each is right for masks of the kind that has such numbers. */
mth_status mth__mask_error(double number, const char *holder, const char *more, const char *where) {
    char text[32] = "";
    const char *end;
    for (int digits = 1; digits <= 17; digits++) { /* as few as tell it from 0 and 1 */
        mth__print(text, sizeof text, "%.*g", digits, number);
        if (!(mth__read_real(text, &end) != number)) break;
    }
    const char *fix = number < 0
        ? "give booleans, true where a key counts: where it has 0 and negative numbers, to be added to scores, give "
          "mask == 0"
        : number > 0 ? "give booleans, true where a key counts: mask != 0, if all but 0 shows a key"
                     : "give booleans, true where a key counts: mask == 1, if NaN hides one";
    return FAIL(MTH_ERROR_VALUE,
        F("the mask has values other than 0 and 1: %s%s holds %s%s", holder, where, text, more), F("%s", fix));
}

mth_status mth__fault_error(const mth__op *op, int64_t value, const char *more, int64_t limit, const char *where) {
    const char *noun = op->index_name;
    if (!noun) {
        double number;
        memcpy(&number, &value, sizeof number);
        return mth__mask_error(number, op->name, more, where);
    }
    const char *plural = noun[strlen(noun) - 1] == 's' ? "es" : "s";
    return FAIL(MTH_ERROR_VALUE,
        F("%s %lld%s is outside [0, %lld): %s%s", noun, (long long)value, more, (long long)limit, op->name, where),
        F("%s%s must lie in [0, %lld)", noun, plural, (long long)limit));
}
