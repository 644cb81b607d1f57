#include "emit/uses.h"
#include <string.h>

mth__uses mth__role_uses(mth__arena *arena, const mth__role *role) {
    const size_t values = role->value.n;
    mth__uses uses = {NEW_ARRAY(arena, int, values), NEW_ARRAY(arena, int, values)};
    memset(uses.first, -1, values * sizeof *uses.first);
    memset(uses.last, -1, values * sizeof *uses.last);
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int at = 0, number; (number = mth__instr_value(instruction, at)) >= 0; at++) {
            const int base = mth__base_of(role, number);
            if (uses.first[base] < 0) uses.first[base] = i;
            uses.last[base] = i;
        }
    }
    return uses;
}
