/* From a program to what XLA runs: segments, and hops of values between devices.
 *
 * Devices whose roles have the same instruction (the same result, the same channel) run it together, whatever the sizes
 * of their parts. A segment is a run of such instructions of one set of devices. It becomes one SPMD module, with XLA's
 * own collectives inside. It ends where one of its devices sends, receives or takes part in a segment of other devices,
 * and where a pipeline goes on to another microbatch or stage, or turns back: so all microbatches of a stage share one
 * text. A hop is a transfer of the program between placements, or a direct broadcast. It is copies between devices,
 * which the host starts. A transfer inside one placement is an instruction of its segment (hlo_exchange.c).
 *
 *     2 stages, 2 microbatches:  segment{0} segment{0} hop{0->1} segment{1} hop{0->1} segment{1}
 *
 * Slots: a value of the program (names are the program's, one for all roles) is one slot; slot x device is a buffer at
 * run time. A view (ALIAS) has a slot of its own, but what travels is the slot that it views. */
#ifndef MTH__SEGMENT_H
#define MTH__SEGMENT_H
#include "engine/pjrt/hlo.h"

enum { MTH__NEVER = -1, MTH__AT_EXIT = INT32_MAX };
typedef struct {
    /* of one of the roles that have it: name, dtype, shape, sharding, storage, entry or exit index */
    const mth__program_value *any;
    int view_of; /* the slot that this one is another view of, or itself */
    /* the largest part of any device of its placement: the shape of its buffers */
    mth__shape local;
    /* index of the last work that reads it (views counted with it), or one of the two above */
    int last_read;
    bool shared; /* a hop may lay one buffer under two slots: never donated */
    bool cut;    /* a microbatch, or made from one */
} mth__slot;

/* An instruction of a segment, with slots for values. `by_microbatch`: it takes a microbatch out of the batch, or
   counts where in it the microbatch begins. */
typedef struct {
    const mth__instr *instr;
    const mth__role *role;
    int nin, nout;
    int *in, *out;
    bool by_microbatch;
} mth__seg_instr;

typedef struct {
    int count;
    const int32_t *device; /* ascending */
    VEC(mth__seg_instr) instr;
    VEC(int) in, out; /* slots that come in; that are read later, or leave */
    bool *donated;    /* by input: nothing reads it later, and its memory is ours */
} mth__segment;

typedef struct {
    const mth__channel *channel;
    int from, to; /* slots */
} mth__hop;
typedef struct {
    mth__segment *segment; /* NULL: the hop */
    mth__hop hop;
} mth__work;

typedef struct {
    mth__arena *arena;
    const mth__program *program;
    /* emit's second product: every value is whole, XLA's partitioner cuts it up */
    bool global;
    VEC(mth__slot) slot;
    VEC(mth__work) work;          /* each finds its operands made before it */
    int *entry_slot, *exit_slot;  /* by entry, exit; -1: no device has it */
    int **slot_of;                /* [role][value] */
    struct mth__written *written; /* by slot: what the module that is being written has of it */
} mth__segments;

mth_status mth__segments_make(mth__arena *, const mth__program *, bool global, mth__segments **out);
/* What `count` devices hold of a value. `local` is the largest part that any device of the placement has, whether it is
   in the list or not. */
mth__hlo_part *mth__part_of(
    mth__arena *, mth_dtype, mth__shape, const mth__sharding *, int count, const int32_t *device);
/* Of a global value, the part that XLA's partitioner gives each device: a dimension over k devices in parts of ceil(n /
   k). `whole`: the sizes that these parts make together. Ports of a global module have that shape: XLA drops axes that
   don't divide a port. */
mth__shape mth__xla_part(const mth__program_value *, mth__shape *whole);

/* hlo_module.c: the text of a segment. Its arguments are segment->in, its results segment->out and, where rows check
   ids, one i32 (checks, 2) of { 1 where some id is outside, that id }. Behind its arguments are the numbers, each an
   i32. */
typedef struct {
    const mth__seg_instr *instr;
    int64_t limit;
} mth__id_check;
typedef struct {
    const char *text;
    size_t bytes;
    /* that run it together; 1: each of the segment's runs it alone, for it tells none of them apart */
    int devices;
    bool meets; /* its devices wait for each other */
    /* by line of the text, from 0; NULL: none of the program's */
    const mth__seg_instr **instr_of_line;
    int lines;
    int checks;
    mth__id_check *check;
    int numbers;
    int64_t *number; /* of this segment: others share the text and have their own */
} mth__module_text;
/* `mesh`: NULL, or for a global program the mesh that Shardy is handed, its axes refining those of the program's. */
typedef struct {
    int naxes;
    const int *dim;
} mth__shardy_mesh;
mth_status mth__module_write(
    mth__arena *, mth__segments *, const mth__segment *, const mth__shardy_mesh *mesh, mth__module_text *out);
#endif
