/* The parts of the verifier. It shares no code with what makes programs, but for the set of ranges. */
#ifndef MTH__VERIFY_H
#define MTH__VERIFY_H
#include "emit/program.h"
#include "emit/ranges.h"

/* A dimension of n elements, split, in units of `unit`. */
typedef struct { int64_t n, unit; mth__split split; } mth__cut;
typedef struct { const mth__placement *on; mth__cut a, b; } mth__same_cut;
enum { MTH__CUTS = 32 };

typedef struct {
    mth__arena *arena;
    const mth__program *p;
    const mth__role *r; int role;          /* the role at hand */
    int *opened_by, *opened_role;          /* by channel: the START or SEND that is open, and on which role; -1: none */
    int *sent_role, *taken_role;           /* by channel: the last role that gave, that took */
    int64_t *sent, *taken;                 /* by channel: devices that give, that take */
    int64_t *left;                         /* by exit: devices that write it */
    int *released;                         /* by instruction of the role: the WAIT of a START or SEND */
    int64_t *exit_bytes;                   /* by exit: what lies there on the role; 0: nothing */
    mth__same_cut same[MTH__CUTS]; int same_next; /* found equal last, on the role at hand */
    mth__node node;                        /* room for the instruction at hand as a node */
    mth__value *value;
} mth__verification;

/* A refusal: role, instruction, operator, and the value (-1: none). Takes the text. instr -1: the role as a whole. */
mth_status mth__refuse(const mth__verification *, int instr, int value, char *what);
mth_status mth__refuse_for(const mth__verification *, int instr, int value, mth_status why); /* takes the error */
static inline int mth__verify_base(const mth__role *r, int v) { return r->value.at[v].storage == MTH__IN_ALIAS ? r->value.at[v].index : v; }

mth_status mth__verify_values(mth__verification *);            /* verify_values.c: shardings, local shapes, where values lie */
/* On each device of the role the same units of both. */
bool mth__verify_same_cut(mth__verification *, const mth__placement *, const mth__cut *, const mth__cut *);
mth_status mth__verify_row(mth__verification *, int instr);    /* verify_rows.c: a COMPUTE: shapes, splits, partial sums */
mth_status mth__verify_bytes(mth__verification *);             /* verify_bytes.c: no two live values share a byte */
mth_status mth__verify_part(mth__verification *, int instr);   /* verify_channels.c: one role's part in a channel */
mth_status mth__verify_channels(mth__verification *);          /* verify_channels.c: everyone takes part; nobody waits for ever */
#endif
