/* One way to read options: a row says name, type, default, documentation and what reads the value; unknown names, wrong
   types and values out of range are errors that offer the nearest name. The tables of backends, of compile and of every
   module are printed from here. */
#ifndef MTH__OPTION_H
#define MTH__OPTION_H
#include "base/types.h"

typedef enum {
    MTH__OPT_BOOL,
    MTH__OPT_INT,
    MTH__OPT_SIZE /* int >= 1 */,
    MTH__OPT_FLOAT,
    MTH__OPT_CHOICE,
    MTH__OPT_STRING,
    MTH__OPT_SPEC /* a tuple of axis | tuple of axes | None */,
    MTH__OPT_MESH /* a tuple of 1 to 3 sizes >= 1 */,
    MTH__OPT_DICT,
    MTH__OPT_LIST,
    MTH__OPT_ANY
} mth__opt_type;
/* Puts an option's value where it is used. */
typedef mth_status mth__opt_reader(void *field, const mth_arg *value);
typedef struct {
    const char *name;
    mth__opt_type type;
    /* the default as Python prints it: "True", "None", "1e-05", "'ring'"; NULL: required */
    const char *standard;
    const char *doc; /* one sentence */
    /* CHOICE: "ring|tree|hierarchical|direct"; DICT: "keys=choices" is the reader's own check */
    const char *choices;
    /* Of backends and of compile: `field` is what lies `at` bytes into what the table is read into. A module's options
       have none: its expand asks for them by name. */
    mth__opt_reader *read;
    size_t at;
    /* what the caller's process has, not what he chose: descriptions leave it out */
    bool surroundings;
    /* "rotary=True": what another option of the table must be, or this one says nothing and is refused; or NULL */
    const char *needs;
} mth__opt; /* tables end with {0} */

typedef enum { MTH__WHEN_NONE, MTH__WHEN_TRUE, MTH__WHEN_FALSE } mth__when; /* a BOOL whose default is None */

/* A caller's value of the option `name`: no text, list, key or model in it is NULL, its kinds are known, and lists nest
   16 deep at most. The functions below take only what has passed it. */
mth_status mth__arg_check(const mth_arg *, const char *name);
mth_arg mth__arg_copy(mth__arena *, mth_arg); /* deep; models are referenced (the owner counts) */
bool mth__arg_equal(mth_arg, mth_arg);
const char *mth__arg_text(mth__arena *, mth_arg); /* as Python would print it */
/* Checks `given` against the tables (NULL-terminated list of tables) and returns a full array, defaults filled in, in
 * table order. */
mth_status mth__options_read(mth__arena *, const char *owner, const mth__opt *const *tables, const mth_option *given,
    size_t count, mth_arg **values);
/* Calls the readers of the rows of one of the tables, in their order; the values must live as long as what is read. */
mth_status mth__options_hand_out(
    const mth__opt *const *tables, const mth_arg *values, const mth__opt *table, void *into);
/* The field is a bool, false for None; an mth__when; an int64_t, 0 for None; a const char *, NULL for None; a const
 * mth_arg *, the value itself. */
mth__opt_reader mth__read_bool, mth__read_when, mth__read_int, mth__read_text, mth__read_value;
/* NULL: no such option */
const mth__opt *mth__options_row(const mth__opt *const *tables, const char *name);
/* NULL: no such option */
const mth_arg *mth__options_get(const mth__opt *const *tables, const mth_arg *values, const char *name);
/* "dimension: int, bias: bool = True" */
char *mth__options_signature(mth__arena *, const mth__opt *const *tables);
/* Adds an option a line: "bias: bool = True: whether a bias is added". */
void mth__options_doc(mth__text *, const mth__opt *const *tables, const char *indent);
/* An error where a spec does not have `rank` entries. `what` names the tensor in errors, here and below. */
mth_status mth__spec_rank(mth_arg spec, int rank, const char *what);
/* Reads a spec, the caller's or an option's, into splits. It must have `rank` entries, of axes that `on` has, none of
 * them twice. */
mth_status mth__spec_read(mth_arg spec, const mth__placement *on, int rank, const char *what, mth__sharding *out);
#endif
