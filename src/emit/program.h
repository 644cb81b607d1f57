/* The program: what an engine sees. By role: devices that run the same instructions on the same local shapes share one
 * list.
 *
 * A role's instructions are issued in order on each of its devices, on two in-order streams: 0 computes, 1 communicates
 * (only with overlap_communication). What the streams and devices owe each other is said by channels:
 *   COLLECTIVE c   every device of every group takes part; done when it returns (stream 0)
 *   START c .. WAIT c   the same as a pair: begun on stream 1 when all instructions before it on stream 0 are done,
 *   complete at WAIT;
 *                  between them its operand may be read, its result and scratch not touched
 *   SEND c         posts a value; it must stay unchanged until WAIT c on the same role (the peers have taken it)
 *   RECV c         takes the boxes of the peers' posted values (stream 0), or START/WAIT as above with overlap
 * Everything else is COMPUTE: a catalog row on local parts.
 *
 * Who takes part in channel c. Collectives: every role of from.on, by COLLECTIVE or START with one operand and one
 * result. Broadcast: the source device and all devices of to.on, by COLLECTIVE or START; the source has the operand,
 * the others none; devices of to.on have the result. Transfer within one placement: as a collective. Transfer between
 * two: every role of from.on SENDs (where nobody takes its part, WAIT returns at once), every role of to.on RECVs; a
 *   role of both does both, SEND first, and its RECV is never a START.
 *
 * Bytes. A value is written once, by one instruction. Two values live at the same time share no byte, except:
 *   - an ALIAS value is a view of its base (which is no ALIAS itself): no instruction makes it, it lives as its base
 *   does;
 *   - the result of a COMPUTE with the flag ELEMENTWISE, or of an all_reduce (COLLECTIVE or START), may lie exactly
 *     where an operand of its dtype and size lies whose last reader it is. Operands broadcast or laid out otherwise
 *     never share bytes with a result;
 *   - an accumulating COMPUTE (mth__instr.accumulates) adds results to sums so far, its last operands. Such a result
 *     must lie exactly where its sum lies, whose last reader the instruction is.
 * So several values of a role may be IN_EXIT of one exit (a gradient accumulated in place): the last one written is
 * what leaves. The exit's shape may be that of a view of it. Before the first of them is written the exit's bytes may
 * be lent: activations lie in gradients that are computed last. What leaves is never overwritten. */
#ifndef MTH__PROGRAM_H
#define MTH__PROGRAM_H
#include "catalog/op.h"

typedef enum { MTH__COMPUTE, MTH__COLLECTIVE, MTH__START, MTH__SEND, MTH__RECV, MTH__WAIT } mth__instr_kind;
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
    MTH__IN_ENTRY /* the caller's buffer */,
    MTH__IN_EXIT /* becomes the caller's */,
    MTH__IN_LENT /* bytes of an exit, before it is written */,
    MTH__IN_ALIAS /* of another value */
} mth__storage;
typedef enum {
    MTH__CLASS_ACTIVATION,
    MTH__CLASS_WEIGHT,
    MTH__CLASS_GRADIENT,
    MTH__CLASS_INPUT,
    MTH__CLASS_OUTPUT,
    MTH__CLASS_COMMUNICATION
} mth__value_class;
typedef struct {
    const char *name; /* "%12", "linear_0.weight" */
    mth_dtype dtype;
    mth__shape shape, local; /* global; of this role's devices */
    mth__sharding sharding;
    mth__storage storage;
    /* ENTRY, EXIT, LENT: in mth__program.entry / exit; ALIAS: the role's value that it is a view of (offset: bytes into
     * it) */
    int index;
    /* SLAB, LENT: set by memory.c, a multiple of 64, -1 before; bytes = local size, unpadded */
    int64_t offset, bytes;
    mth__value_class klass;
} mth__pvalue;

typedef struct {
    mth__instr_kind kind;
    const mth__op *op;       /* COMPUTE */
    const mth__attrs *attrs; /* COMPUTE */
    int channel;             /* the others */
    bool accumulates;        /* COMPUTE: the last operands are sums so far (mth__accumulator) */
    int nin, nout;
    int *in, *out; /* the role's values */
    /* COMPUTE of a global program: how it wants each operand and makes each result (nin + nout); else NULL, for the
       values are so. */
    const mth__sharding *wants;
    /* a value of class COMMUNICATION or an activation that only this instruction uses; -1: none */
    int scratch;
    uint8_t stream;
    mth__label label;
} mth__instr;

typedef struct {
    int ndevice;
    const int32_t *device; /* ascending */
    VEC(mth__pvalue) value;
    VEC(mth__instr) instr;
    int64_t slab; /* bytes */
} mth__role;

typedef enum { MTH__ENTRY_INPUT, MTH__ENTRY_PARAMETER, MTH__ENTRY_SEED } mth__entry_kind;
/* an input used on two placements has two entries */
typedef struct {
    mth__entry_kind kind;
    const char *name;
    mth_dtype dtype;
    mth__shape shape;
    mth__sharding sharding;
} mth__entry;
typedef struct {
    const char *name;
    bool gradient;
    mth_dtype dtype;
    mth__shape shape;
    mth__sharding sharding;
} mth__exit;

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
    bool views; /* slices that lie in one piece become ALIAS values; else all are computed */
} mth__emit_options;
mth_status mth__emit(mth__arena *, const mth__graph *, const mth__emit_options *, mth__program **out);
/* global.c: the second product, for an engine with a partitioner of its own: the graph as `shard` left it (before
   reshard), as a program of one role on device 0 whose values have local = global shapes; its instructions say how they
   want them split. No channels. UNSUPPORTED where a node runs on other devices than the whole mesh. */
mth_status mth__emit_global(mth__arena *, const mth__graph *, mth__program **out);
/* memory.c: offsets, in place, aliases; sets slab. Exits are lent to what has at least `lend_from` bytes; 0: to
 * nothing. */
mth_status mth__emit_memory(mth__program *, int64_t lend_from);
/* program_text.c; in part where mth__thread_stopped */
void mth__program_print(mth__text *, const mth__program *);
/* the first operator that reads the entry; NULL: none */
const char *mth__program_reader(const mth__program *, int entry);
mth_status mth__program_parse(mth__arena *, const char *text, mth__program **out);
/* program_verify.c. Promise: a program that verifies cannot deadlock, read an unwritten or overlapping byte, or use a
   partial sum as a value. */
mth_status mth__program_verify(const mth__program *);

/* What a device takes from others in a transfer: for each piece the owner, and the box in global indices.
   emit/transfer.c Chooses itself where it has the element, else the owner nearest after it in rank order (spreads the
   load). */
typedef struct {
    int from_device;
    int64_t start[MTH__RANK], size[MTH__RANK], step[MTH__RANK];
} mth__piece;
int mth__transfer_pieces(mth__arena *, const mth__channel *, int to_device, mth__piece **out); /* count */
/* Does the channel say something that can be done: shardings of its kind, axes, dimensions, group. channel_check.c */
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
