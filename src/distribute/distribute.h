/* Decisions. Each pass changes the graph in place, in the graph's arena; the same graph and options give the same
 * result, byte for byte.
 *   microbatch.c     cuts each Pipeline region's batch: clones its nodes per microbatch (slices before, concat or sums
 *                    behind)
 *   partition.c      partition_policy: devices for the operators that nobody placed (partition_cut.c: the cut itself)
 *   place.c          a placement for every node and value (`on`)
 *   search.c         auto_sharding: shardings of the parameters that nobody placed, by trial (candidate.c: what;
 *                    fold.c: on how little)
 *   shard.c          shardings: of every value, and what each node needs of its operands (node->need)
 *   stored_parts.c   memory_optimization: parameters are kept in parts, shard's last act
 *   reshard.c        where need differs from what a value has: the cheapest communication nodes (all_reduce, keep,
 *                    transfer and so on)
 *   communication.c  communication_optimization: removes redundant transfers (redundant.c), merges small ones
 *   chunk.c          pipeline_communication: cuts large ones in chunks
 *   schedule.c       the order of nodes: GPipe or 1F1B for pipelines (a list scheduler over the dependencies), as
 *                    composed elsewhere
 *   overlap.c        overlap_communication: moves communication early and its consumers late (emit then makes START and
 *                    WAIT)
 *   accumulate.c     sums of gradients and over microbatches without their terms: rows that add to the sum so far
 *   passes.c         runs them in a row, and checks what they promise
 * What they ask: cost.c, seconds of a node and of a communication; liveness.c, bytes of a device. */
#ifndef MTH__DISTRIBUTE_H
#define MTH__DISTRIBUTE_H
#include "base/steering.h"
#include "catalog/op.h"

typedef struct mth__folding mth__folding;

mth_status mth__partition(mth__graph *, const mth__distribute_options *); /* nothing where there is no policy */
mth_status mth__microbatch(mth__graph *, const mth__distribute_options *);
mth_status mth__place(mth__graph *, const mth__distribute_options *);
/* auto_sharding. `trial`: the model once more, forward and backward where it has gradients, placed like `graph`; its
   parameters have the same names, though fold.c may have taken repeated blocks out. It is spoilt. Pins parameters of
   `graph`, and proposes splits of its inputs. */
mth_status mth__search(mth__graph *, mth__graph *trial, const mth__folding *, const mth__distribute_options *);
/* fold.c. Of blocks that repeat, three stay: the first, one that stands for all in the middle, the last. For `trial`,
 * before gradients. */
mth__folding *mth__fold(mth__graph *);
mth_status mth__shard(mth__graph *, const mth__distribute_options *);
mth_status mth__reshard(mth__graph *);
/* after reshard; nothing where both options are off */
mth_status mth__communication(mth__graph *, const mth__distribute_options *);
mth_status mth__schedule(mth__graph *, const mth__distribute_options *);
mth_status mth__overlap(mth__graph *, const mth__distribute_options *);
mth_status mth__accumulate(mth__graph *); /* the order of nodes is final */

/* seconds on a device of the mesh, by its model (base/machine.h) */
double mth__cost_compute(const mth__device_model *, const mth__node *, const mth__shape *in, const mth__shape *out);
/* 0 where equal or local */
double mth__cost_reshard(const mth__value *, const mth__sharding *from, const mth__sharding *to);
/* after shard, on the device that has most to do; a communication after reshard */
double mth__cost_node(const mth__node *);

/* The passes in their order; gradients are derived behind MICROBATCH, layouts searched behind PLACE. */
typedef enum {
    MTH__PASS_PARTITION,
    MTH__PASS_MICROBATCH,
    MTH__PASS_PLACE,
    MTH__PASS_SHARD,
    MTH__PASS_RESHARD,
    MTH__PASS_COMMUNICATION,
    MTH__PASS_SCHEDULE,
    MTH__PASS_OVERLAP,
    MTH__PASS_ACCUMULATE
} mth__distribute_pass;
/* Runs the passes from `first` to `last`; debug builds check the graph after each. */
mth_status mth__distribute(
    mth__graph *, const mth__distribute_options *, mth__distribute_pass first, mth__distribute_pass last);
/* What holds after a pass, else INTERNAL. After place every node and value has a placement, results that of their node.
   After shard every value has a canonical sharding and every node a canonical `need` for each operand, on its own
   placement (of a communication, where the operand is). After reshard every need equals the operand's sharding, no
   output is a partial sum, and each is laid out as it is to leave. */
mth_status mth__distribute_check(const mth__graph *, mth__distribute_pass after);
#endif
