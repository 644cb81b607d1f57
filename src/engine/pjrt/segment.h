/* From a program to what XLA runs: segments, and moves of values between devices.
 *
 * Devices whose roles have the same instruction (the same result, the same channel) run it together, whatever the sizes of their parts. A
 * segment is a run of such instructions of one set of devices: one SPMD module, XLA's own collectives inside. It ends where one of its
 * devices sends, receives or takes part in a segment of other devices. A move is a transfer or direct broadcast of the program: copies
 * between devices, that the host starts.
 *
 *     2 stages, 2 microbatches:  seg{0} move{0->1} seg{0} seg{1} move{0->1} seg{1}
 *
 * Slots: a value of the program (names are the program's, one for all roles) is one slot; slot x device is a buffer at run time. */
#ifndef MTH__SEGMENT_H
#define MTH__SEGMENT_H
#include "engine/pjrt/hlo.h"

typedef struct {
    const char *name;
    const mth__pvalue *any;              /* of one of the roles that have it: dtype, shape, sharding, storage, entry or exit index */
    int alias_of;                        /* slot that this one is another view of (reshape), or -1 */
    int32_t readers;                     /* steps that read it; exits count */
} mth__slot;

typedef struct {
    int count; const int32_t *device;    /* ascending */
    VEC(const mth__instr *) instr;       /* of the first role that has it: operands are that role's values */
    VEC(const mth__role *) role;         /* by instr: that role */
    /* slots: what comes in, what goes out (read later or leaves); `donated` by input: nothing reads it later and it is no entry */
    VEC(int) in, out;
    bool *donated;
    int module;                          /* index of the text that it shares with equal segments; set by pjrt_load */
} mth__segment;

typedef struct { int channel; int from, to; /* slots */ } mth__hop;
typedef struct { bool is_segment; mth__segment *segment; mth__hop hop; } mth__work;

typedef struct {
    mth__arena *arena;
    const mth__program *program;
    VEC(mth__slot) slot;
    VEC(mth__work) work;                 /* in an order in which every step finds its operands */
    int *exit_slot;                      /* by exit */
    int **slot_of;                       /* [role][value] */
} mth__segments;

mth_status mth__segments_make(mth__arena *, const mth__program *, mth__segments **out);
/* What `count` devices hold of a value, with the largest local shape. segment.c */
mth__hlo_part *mth__part_of(mth__arena *, mth_dtype, mth__shape, const mth__sharding *, int count, const int32_t *device);
/* hlo_module.c: the text of a segment. Also which results are checks of ids. */
typedef struct {
    const char *text; size_t bytes;
    const mth__instr **instr_of_line; int lines;     /* for errors that name a line */
    int checks; struct { const mth__instr *instr; const mth__role *role; int64_t limit; } *check; /* the last result: i32 (checks, 2) */
} mth__module_text;
mth_status mth__module_write(mth__arena *, const mth__segments *, const mth__segment *, mth__module_text *out);
#endif
