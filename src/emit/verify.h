/* The parts of the verifier; program_verify.c says what it proves. */
#ifndef MTH__VERIFY_H
#define MTH__VERIFY_H
#include "base/stop.h"
#include "base/keys.h"
#include "emit/program.h"
#include "emit/ranges.h"

/* A dimension of n elements and its split, counted in units of `unit` elements. */
typedef struct {
    int64_t n, unit;
    mth__split split;
} mth__cut;
/* keep: in one dimension of n each device's part by `to` lies in its part by `from`. */
typedef struct {
    int64_t n;
    mth__split from, to;
    const mth__placement *from_on, *to_on;
} mth__contained;
enum { MTH__CONTAINED = 32 };
/* coordinates of a role's devices on a placement */
typedef struct {
    int role, low[MTH__AXES], high[MTH__AXES];
} mth__reach;

/* The most looks at single devices and single parts that verifying one plan may take, and the most at moves of direct
 * collectives. */
enum { MTH__MOST_LOOKS = 1 << 24, MTH__MOST_MOVE_LOOKS = 1 << 18 };

typedef struct {
    mth__arena *arena;
    bool global; /* the program for a partitioner (global_verify.c) */
    const mth__program *program;
    const mth__role *role;
    int number;                   /* of the role at hand */
    int64_t looks;                /* at single devices and single parts, so far */
    int64_t moves;                /* of direct collectives that were looked at, so far */
    struct mth__known_cuts *cuts; /* pairs of splits that are proved; verify_cuts.c */
    /* by channel: the SEND or what is started that is open, and on which role; -1: none */
    int *opened_by, *opened_role;
    int *begun; /* by value of the role: what is started, of no channel, and brings it first; -1: none, or waited for */
    int *successor;              /* by entry: the exit that takes over its bytes; -1: none */
    int *sent_role, *taken_role; /* by channel: the last role that gave, that took */
    int64_t *sent, *taken;       /* by channel: devices that give, that take */
    int64_t *left;               /* by exit: devices that write it */
    int *released;               /* by instruction of the role: the WAIT of a SEND or of what is started */
    /* by exit: the last role that has values there, and of this role: the exit's bytes, where they begin behind the
       slab's, and the value that is written last (-1: none) */
    int *exit_role, *exit_last;
    int64_t *exit_bytes, *exit_start;
    /* by exit of this role, of a successor: 1 + the last of its entry's values; by value: 1 + the one before */
    int *exit_entry, *entry_next;
    VEC(int) exits;    /* in which the role at hand has values */
    mth__reach *reach; /* by placement id */
    mth__contained contained[MTH__CONTAINED];
    int contained_next; /* found last, on the role at hand */
    /* Dtype, shape, local shape and sharding are a value's kind. Kinds of all roles, by kind the last role for which it
       was proved, and by value of this role its kind. They live in `lasting`. */
    mth__arena *lasting;
    mth__keys kinds;
    VEC(int) kind_role;
    int *kind_of;
    /* What a row says of an instruction, whose values lie on one placement, depends on what their layouts are: kinds
       that differ in nothing but which devices their grids are of have one. By kind its layout; instructions that were
       proved. */
    mth__keys layouts, rows;
    VEC(int) layout_of;
    mth__node node; /* room for the instruction at hand as a node */
    mth__value *value;
} mth__verification;

/* verify_refusal.c. A refusal: role, instruction, operator, and the value (-1: none). Takes the text. instr -1: the
   role as a whole. */
mth_status mth__refuse(const mth__verification *, int instruction_number, int number, char *what);
/* takes the error */
mth_status mth__refuse_for(const mth__verification *, int instruction_number, int number, mth_status why);
static inline int mth__verify_base(const mth__role *role, int number) {
    return role->value.at[number].storage == MTH__IN_ALIAS ? role->value.at[number].index : number;
}

/* To be called before a loop over the role's devices that another line of the same text may cause again. Refuses where
 * it is too many. */
mth_status mth__verify_look(mth__verification *, int number);
/* The first device of the placement that has no role, or one with no instruction for which `does` holds; -1: none. */
int mth__verify_lacking(
    mth__verification *, const mth__placement *, bool (*does)(const mth__role *, const mth__instr *, int), int subject);
/* verify_values.c: shardings, local shapes, where values lie */
mth_status mth__verify_values(mth__verification *);
/* On each device of the placement the same units of both. */
bool mth__verify_same_cut(const mth__placement *, const mth__cut *, const mth__cut *);
/* verify_order.c: what is read has been written, what is started is waited for; rows and parts in channels with it */
mth_status mth__verify_order(mth__verification *);
/* verify_rows.c: a COMPUTE: shapes, splits, partial sums; of a global program shapes, and layouts on the whole mesh */
mth_status mth__verify_row(mth__verification *, int instruction_number);
mth_status mth__verify_layouts(mth__verification *, int instruction_number);
/* verify_bytes.c: no two live values share a byte */
mth_status mth__verify_bytes(mth__verification *);
/* verify_channels.c: one role's part in a channel */
mth_status mth__verify_part(mth__verification *, int instruction_number);
/* verify_channels.c: everyone takes part; nobody waits for ever */
mth_status mth__verify_channels(mth__verification *);
#endif
