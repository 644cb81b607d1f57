/* The files of the parser: program_parse.c reads a plan, program_parse_instr.c the instructions of its roles,
 * program_parse_value.c their values. */
#ifndef MTH__PROGRAM_PARSE_H
#define MTH__PROGRAM_PARSE_H
#include "base/names.h"
#include "emit/program_words.h"

typedef struct {
    mth__reader in;
    mth__program *program;
    VEC(const mth__placement *) placement;
    int64_t placed;
    int32_t *role_of;
    int *mark, marks; /* by device: the list that it was last seen in */
    mth__role *role;
    mth__names names; /* of the role's values, by their index */
} mth__plan_parser;

mth_status mth__parse_axis(mth__plan_parser *, int8_t *out);
mth_status mth__parse_typed_shape(mth__plan_parser *, mth_dtype *, mth__shape *out);
mth_status mth__parse_sharding(mth__plan_parser *, mth__shape, mth__sharding *out);
mth_status mth__parse_number(mth__plan_parser *, const char *what, size_t next); /* the one that stands here */
mth_status mth__parse_value_named(mth__plan_parser *, int *out);                 /* of the role, by its name */
/* A value with all that a text says of it. Entries and views stand on lines of their own, what is `written` with its
   writer. */
mth_status mth__parse_value(mth__plan_parser *, bool written, int *out);
mth_status mth__parse_instruction(mth__plan_parser *);
#endif
