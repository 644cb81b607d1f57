/* The program: what an engine sees. By role: devices that run the same instructions on the same local shapes share one
 * list.
 *
 * Streams. A role's instructions are issued in order on each of its devices. A stream runs what stands on it in order:
 * stream 0 computes, 1 communicates, 2 copies between spaces (mth__stream_owners). On stream 0 an instruction is done
 * when it returns. On another stream it is a pair: it begins (START in the text) when all instructions before it on
 * stream 0 are done, and is complete at its WAIT, which stands on stream 0; between them its operands may be read, its
 * results and scratch not touched. Stream 0 takes every kind of instruction, the others those of their owner.
 *
 * What the devices owe each other is said by channels:
 *   COLLECTIVE c   every device of every group takes part
 *   SEND c         posts a value; it must stay unchanged until WAIT c on the same role (the peers have taken it)
 *   RECV c         takes the boxes of the peers' posted values
 * COPY brings a value from one space to another as it is. Everything else is COMPUTE: a catalog row on local parts,
 * which reads and writes the device's own memory alone, as channels do.
 *
 * Who takes part in channel c. Collectives: every role of from.on, by COLLECTIVE with one operand and one result.
 * Broadcast: the source device and all devices of to.on, by COLLECTIVE; the source has the operand, the others none;
 * devices of to.on have the result. Transfer within one placement: as a collective. Transfer between two: every role of
 * from.on SENDs (where nobody takes its part, WAIT returns at once), every role of to.on RECVs; a role of both does
 * both, SEND first, and its RECV stands on stream 0.
 *
 * Spaces. Bytes lie on the device or in the host's pool; a role has a slab in each. Entries, exits and what is lent by
 * exits are the device's.
 *
 * Bytes. A value is written once, by one instruction. Two values live at the same time share no byte, except:
 *   - an ALIAS value is a view of its base (which is no ALIAS itself): no instruction makes it, it lives as its base
 *   does;
 *   - each result of a COMPUTE with the flag ELEMENTWISE, and that of an all_reduce, may lie exactly where an operand
 *   of its dtype and size lies whose last reader the instruction is, no two where one does. Operands broadcast or laid
 *   out otherwise never share bytes with a result;
 *   - an accumulating COMPUTE (mth__instr.accumulates) adds results to sums so far, its last operands. Such a result
 *     must lie exactly where its sum lies, whose last reader the instruction is. Where both are the engine's own, the
 *     result takes over the sum's memory.
 * So several values of a role may be IN_EXIT of one exit (a gradient accumulated in place): the last one written is
 * what leaves. The exit's shape may be that of a view of it. Before the first of them is written the exit's bytes may
 * be lent: activations lie in gradients that are computed last. What leaves is never overwritten.
 *
 * Successors. An exit may be the successor of an entry (a parameter's or a state's next value): it has the entry's
 * dtype, shape and sharding, and takes over its bytes. Nobody reads the entry once its successor is being written, but
 * for the instruction that writes it in place, by the rules above; and the exit's bytes are lent to nobody. */
#ifndef MTH__PROGRAM_H
#define MTH__PROGRAM_H
#include "catalog/op.h"

typedef enum { MTH__COMPUTE, MTH__COLLECTIVE, MTH__SEND, MTH__RECV, MTH__COPY, MTH__WAIT } mth__instr_kind;
enum { MTH__STREAMS = 3 };
extern const char *const mth__stream_owners[MTH__STREAMS]; /* "computes", "communicates", "copies between spaces" */
typedef enum { MTH__DEVICE, MTH__HOST, MTH__SPACES } mth__space;
typedef enum {
    MTH__ALL_REDUCE,
    MTH__ALL_GATHER,
    MTH__REDUCE_SCATTER,
    MTH__ALL_TO_ALL,
    MTH__BROADCAST,
    MTH__TRANSFER,
    MTH__CHANNEL_KINDS
} mth__channel_kind;
typedef enum { MTH__DIRECT, MTH__RING, MTH__TREE, MTH__HIERARCHICAL, MTH__ALGORITHMS } mth__algorithm;
extern const char *const mth__channel_names[MTH__CHANNEL_KINDS]; /* "all_reduce", ... , "transfer" */
/* "direct", "ring", "tree", "hierarchical" */
extern const char *const mth__algorithm_names[MTH__ALGORITHMS];

typedef struct {
    mth__channel_kind kind;
    mth__algorithm algorithm;
    mth_dtype dtype;
    mth__shape shape; /* global */
    /* collectives: on the same placement; transfer, broadcast: any. all_reduce: to = from without the partial axes */
    mth__sharding from, to;
    uint8_t axes; /* collectives: the axes of from.on whose devices form a group */
    /* all_gather: gathered; reduce_scatter: scattered; all_to_all: dim becomes split, dim2 whole */
    int8_t dim, dim2;
    uint8_t reduce;    /* MTH__REDUCE_* */
    const char *label; /* "linear_1: all_reduce", for errors and profiles */
} mth__channel;

typedef enum {
    MTH__IN_SLAB,
    MTH__IN_ENTRY, /* the caller's buffer */
    MTH__IN_EXIT,  /* becomes the caller's */
    MTH__IN_LENT,  /* bytes of an exit, before it is written */
    MTH__IN_ALIAS, /* of another value */
    MTH__IN_OWN    /* the engine's own: it allocates when the value is written and frees behind mth__last_uses */
} mth__storage;
/* what a value's bytes are reported as */
typedef enum {
    MTH__MEMORY_ACTIVATION,
    MTH__MEMORY_WEIGHT,
    MTH__MEMORY_GRADIENT,
    MTH__MEMORY_INPUT,
    MTH__MEMORY_OUTPUT,
    MTH__MEMORY_COMMUNICATION,
    MTH__MEMORY_OPTIMIZER,
    MTH__MEMORY_KINDS
} mth__memory_kind;
typedef struct {
    const char *name; /* "%12", "linear_0.weight" */
    mth_dtype dtype;
    mth__shape shape, local; /* global; of this role's devices */
    mth__sharding sharding;
    mth__storage storage;
    mth__space space; /* SLAB, OWN: of which; ALIAS: its base's; others: the device */
    /* ENTRY, EXIT, LENT: in mth__program.entry / exit; ALIAS: the role's value that it is a view of (offset: bytes into
     * it) */
    int index;
    /* SLAB, LENT: set by memory.c, a multiple of 64, -1 before; bytes = local size, unpadded */
    int64_t offset, bytes;
    mth__memory_kind memory;
} mth__program_value;

typedef struct {
    mth__instr_kind kind;
    const mth__op *op;       /* COMPUTE */
    const mth__attrs *attrs; /* COMPUTE */
    int channel;             /* COLLECTIVE, SEND, RECV; of the instruction that a WAIT waits for; else -1 */
    int awaited;             /* WAIT without a channel: the first result of what it waits for; else -1 */
    bool accumulates;        /* COMPUTE: the last operands are sums so far (mth__accumulator) */
    int nin, nout;
    int *in, *out; /* the role's values */
    /* COMPUTE of a global program: how it takes each operand and makes each result (nin + nout); else NULL, for the
       values are so. */
    const mth__sharding *layouts;
    int scratch; /* a value that only this instruction uses; -1: none */
    uint8_t stream;
    mth__label label;
} mth__instr;

typedef struct {
    int ndevice;
    const int32_t *device; /* ascending */
    VEC(mth__program_value) value;
    VEC(mth__instr) instr;
    int64_t slab[MTH__SPACES]; /* bytes */
} mth__role;

/* STATE: an optimizer's. SCALAR: one element, whole on every device, known at run time only: a learning rate. */
typedef enum {
    MTH__ENTRY_INPUT,
    MTH__ENTRY_PARAMETER,
    MTH__ENTRY_SEED,
    MTH__ENTRY_STATE,
    MTH__ENTRY_SCALAR,
    MTH__ENTRY_KINDS
} mth__entry_kind;
/* an input used on two placements has two entries */
typedef struct {
    mth__entry_kind kind;
    const char *name;
    mth_dtype dtype;
    mth__shape shape;
    mth__sharding sharding;
} mth__entry;
typedef enum { MTH__EXIT_OUTPUT, MTH__EXIT_GRADIENT, MTH__EXIT_SUCCESSOR, MTH__EXIT_KINDS } mth__exit_kind;
typedef struct {
    mth__exit_kind kind;
    int entry; /* SUCCESSOR: of which; else -1 */
    const char *name;
    mth_dtype dtype;
    mth__shape shape;
    mth__sharding sharding;
} mth__exit;

/* Where the bytes of the role's value lie. */
static inline mth__space mth__space_of(const mth__role *role, int number) {
    const mth__program_value *value = &role->value.at[number];
    return (value->storage == MTH__IN_ALIAS ? &role->value.at[value->index] : value)->space;
}
/* Does the instruction begin here, to be complete at its WAIT? */
static inline bool mth__is_started(const mth__instr *instruction) { return instruction->stream != 0; }
static inline bool mth__has_channel(const mth__instr *instruction) {
    return instruction->kind == MTH__COLLECTIVE || instruction->kind == MTH__SEND || instruction->kind == MTH__RECV;
}

typedef struct mth__program {
    mth__arena *arena;
    mth__mesh *mesh;
    VEC(mth__channel) channel;
    VEC(mth__role) role;
    VEC(mth__entry) entry;
    VEC(mth__exit) exit;
    const int32_t *role_of; /* by device; -1 where a device has nothing to do */
} mth__program;

/* emit/program.c. `graph` has been sharded, resharded and ordered: node order is the global order of issue. Attributes
   and names stay the graph's: its arena lives as long as the program. */
typedef struct {
    const char *algorithm[MTH__CHANNEL_KINDS]; /* by collective_ops; NULL is direct */
    bool overlap;
    bool views;      /* slices that lie in one piece become ALIAS values; else all are computed */
    mth__owns *owns; /* results that become OWN: mth__owned_values */
} mth__emit_options;
mth_status mth__emit(mth__arena *, const mth__graph *, const mth__emit_options *, mth__program **out);
/* global.c: the second product, for an engine with a partitioner of its own: the graph as `shard` left it (before
   reshard), as a program of one role on device 0 whose values have local = global shapes; its instructions say how they
   want them split. No channels. UNSUPPORTED where a node runs on other devices than the whole mesh. */
mth_status mth__emit_global(mth__arena *, const mth__graph *, mth__program **out);
/* memory.c: offsets in each space, in place; sets the slabs. Exits lend their bytes to values of at least `least_lent`
   bytes; 0: to none. */
mth_status mth__emit_memory(mth__program *, int64_t least_lent);
/* By value: the instruction behind which its memory is free, the last that reads or writes its bytes, through views
   too, or the WAIT that lets go of them; of a sum so far, the one whose result takes the memory over. A view has its
   base's. -1: none does. */
void mth__last_uses(mth__arena *, const mth__program *, const mth__role *, int *last);
/* The most bytes of values that are the engine's own which live at once in a space, each from its writer to its last
   reader. `exits`: the most that they take beyond the bytes of exits that are first written later, where an engine
   allocates an exit when it is written: with all exits, the most that lives at once. */
int64_t mth__own_peak(const mth__program *, const mth__role *, mth__space, bool exits);
/* Bytes that an engine keeps with an instruction on each device from its first run on: masks, tables. */
typedef int64_t mth__keeps(const mth__role *, const mth__instr *);
/* program_text.c; in part where mth__thread_stopped */
void mth__program_print(mth__text *, const mth__program *);
/* the first operator that reads the entry; NULL: none */
const char *mth__program_reader(const mth__program *, int entry_number);
mth_status mth__program_parse(mth__arena *, const char *text, mth__program **out);
/* program_verify.c, which says what is proved, and what is not. */
mth_status mth__program_verify(const mth__program *);
mth_status mth__global_verify(const mth__program *); /* global_verify.c says what it proves of the second product */

/* What a device takes in a transfer: for each piece the device that it is taken from, and the box in global indices. An
   element that the device has already is taken from itself, any other from the nearest owner after it in rank order,
   which spreads the load. transfer.c */
typedef struct {
    int from_device;
    int64_t start[MTH__RANK], size[MTH__RANK], step[MTH__RANK];
} mth__piece;
int mth__transfer_pieces(mth__arena *, const mth__channel *, int to_device, mth__piece **out); /* how many */
/* channel_check.c. An error where a channel cannot be carried out: the shardings do not fit its kind, or the axes,
   dimensions or groups do not fit them. */
mth_status mth__channel_check(const mth__channel *);
/* a placement; axes of it, each used once; no partial sum over an axis that splits */
mth_status mth__sharding_check(const mth__sharding *, mth__shape);
/* Does the first cut of a dimension of n make the parts that the second cuts further? */
bool mth__split_begins(int64_t n, const mth__split *coarse, const mth__split *fine, const mth__placement *);
/* The devices that `device` communicates with, itself included, in rank order of the algorithm's template. Collectives:
   row by row over `axes`. Broadcast: the source is rank 0, then to.on in its order without the source. Transfer: 1.
   `member` has room for mth__channel_size, or is NULL. */
int mth__channel_size(const mth__channel *);
int mth__channel_group(const mth__channel *, int device, int32_t *member); /* the device's rank */
/* Bytes of the instruction's scratch on `device`: 0 for direct algorithms and transfers. Ring, tree, hierarchical:
   all_reduce, all_gather and broadcast work in the result; reduce_scatter in a copy of its operand; all_to_all in two
   sets of n slots (mth__template_scratch). */
int64_t mth__channel_scratch(const mth__channel *, int device);
/* all_to_all: bytes of one slot, the largest box that any rank has for another */
int64_t mth__channel_slot(const mth__channel *);
#endif
