/* When a role uses the bytes of its values. */
#ifndef MTH__USES_H
#define MTH__USES_H
#include "emit/program.h"

/* By value: the first and the last instruction of the role that has the value, or a view of it, as operand, result or
 * scratch; -1: none. A view has none of its own. A WAIT counts for nothing: who needs a value until then asks
 * mth__base_of for the operands of what is awaited. */
typedef struct {
    int *first, *last;
} mth__uses;
mth__uses mth__role_uses(mth__arena *, const mth__role *);

/* Operand, result or scratch number `at` of an instruction; -1: there are no more. */
static inline int mth__instr_value(const mth__instr *instruction, int at) {
    if (at < instruction->nin) return instruction->in[at];
    at -= instruction->nin;
    return at < instruction->nout ? instruction->out[at] : at == instruction->nout ? instruction->scratch : -1;
}

/* The value whose bytes a value of the role is made of: itself, or the base of an ALIAS. */
static inline int mth__base_of(const mth__role *role, int number) {
    return role->value.at[number].storage == MTH__IN_ALIAS ? role->value.at[number].index : number;
}
#endif
