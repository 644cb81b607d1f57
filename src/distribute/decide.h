/* What the passes of this folder share: the moves between two shardings, and placements of nodes. */
#ifndef MTH__DECIDE_H
#define MTH__DECIDE_H
#include "base/names.h"
#include "base/rewrite.h"
#include "catalog/rows.h"
#include "distribute/distribute.h"

/* One step of bringing a value from one sharding to another: the row of the communication, its attributes and what it
 * leads to. */
typedef struct {
    enum mth__row row;
    mth__attrs attrs;
    mth__sharding to;
} mth__move;
enum { MTH__MOST_MOVES = 32 };
/* The moves that bring a value, whose elements have so many bytes, from one sharding to the other. Both shardings are
   canonical. `to` may keep a partial sum that `from` has only where nothing else differs. Returns the number of moves,
   which is 0 where the two are equal. */
int mth__moves(mth__shape, size_t element, const mth__sharding *from, const mth__sharding *to, mth__move *moves);
double mth__move_cost(mth__shape, size_t element, const mth__sharding *from, const mth__move *);
/* The bytes that the slowest link of a communication over these axes of the placement moves in so many times its
   latency. axes = 0: between any devices. */
int64_t mth__latency_bytes(const mth__placement *, int64_t axes, double latencies);
/* Whether a parameter of so many bytes is large enough that its parts are worth a message over these axes. */
bool mth__worth_parts(const mth__placement *, int64_t axes, int64_t bytes);
double mth__flops_rate(const mth__node *); /* a second, in the dtype of the operands (mth__operand_dtype) */
/* elements on the first device, which has the most */
int64_t mth__local_size(mth__shape, const mth__sharding *);
int64_t mth__split_size(int64_t n, const mth__split *, const mth__placement *); /* of one dimension, likewise */

/* What the sharding would be on another placement: axes that both have (of the backend's mesh, or position by
   position where the grids are alike); what the other lacks is whole there. Partial sums are not carried. */
mth__sharding mth__sharding_carry(const mth__sharding *sharding, mth__shape, const mth__placement *to);
/* A spec read against the whole mesh, on `on` where that has all its axes, else on the whole mesh. */
mth__sharding mth__sharding_of_spec(
    const mth__graph *, const mth__sharding *spec, mth__shape, const mth__placement *on);

/* node->on of every node. Microbatch calls it before gradients are derived, so that these run where their forward nodes
   do; place calls it for the rest. */
void mth__place_nodes(mth__graph *);

/* `one` is the sharding of a version of the value that was made for a consumer of phase `made`. Is that version still
   there for a consumer of phase `consumer`?
   What was gathered for forward is not kept for backward: the value is, and is gathered again, so that a split
   activation costs each device no more than its part. */
bool mth__version_lasts(const mth__value *value, const mth__sharding *one, mth__phase made, mth__phase consumer);

/* partition_cut.c. A row of items, cut in one piece for each part, in order; pieces may be empty. What an item weighs
 * is the sum of the things that it has; things that items share weigh once in a part. */
typedef struct {
    int items, parts;
    const int *thing, *begin; /* the things of item i: thing[begin[i]] to thing[begin[i + 1]], each once */
    int things;
    const int64_t *weight;   /* by thing */
    const int64_t *load;     /* by part: what it has besides */
    const int *least, *most; /* by item: the parts that it may be in; both ascend, and some cut keeps to them */
} mth__row_cut;
/* The part of each item. The heaviest part is as light as it can be; of such cuts it is the most even one, that with
 * the least sum of squares; of several of those, the one that fills earlier parts. */
mth_status mth__cut_row(mth__arena *scratch, const mth__row_cut *, int *part_of);

/* What outputs and options refer to by name. Inputs that several placements read have one name: from first_input, by
   number of the name, along next_input, to -1. */
typedef struct {
    mth__names parameter, input, seed, spec;
    VEC(const mth__spec_of *) spec_at; /* by number of the name: the first of that name */
    VEC(int) first_input;
    int *next_input;
} mth__by_name;
/* no options: no specs */
mth__by_name mth__by_name_new(mth__arena *, const mth__graph *, const mth__distribute_options *);
const mth__spec_of *mth__spec_named(const mth__by_name *, const char *name); /* NULL: none */

/* What must leave the program as this output: a gradient has the sharding of its parameter or input, other outputs are
   whole or as the user's spec says. */
mth__sharding mth__output_need(const mth__graph *, const mth__by_name *, const mth__output *);

/* stored_parts.c. In which parts a parameter that readers take as `read_as` is stored by memory_optimization; false: as
   they take it. */
bool mth__store_parts(const mth__value *, const mth__sharding *read_as, mth__sharding *out);

/* node_like.c: makes a node when shard is over. Its needs and the sharding of its result are given; its label and its
   placement are those of `like`. */
mth_status mth__node_like(mth__graph *, const mth__node *like, enum mth__row, const mth__attrs *, int nin,
    mth__value *const *in, const mth__sharding *need, const mth__sharding *result, mth__value **out);
/* place.c: takes out the nodes that no output needs. */
void mth__prune(mth__graph *);
/* redundant.c: takes out transfers of what is there already. */
mth_status mth__drop_redundant(mth__graph *);
/* chunk.c: cuts large communications. */
mth_status mth__chunk_communication(mth__graph *, const mth__distribute_options *);

static inline bool mth__is_comm(const mth__node *node) { return (node->op->flags & MTH__COMM) != 0; }
/* Does a device send something? A `keep` is a communication that moves nothing. */
static inline bool mth__communicates(const mth__node *node) {
    return mth__is_comm(node) && node->op->row != MTH__ROW_keep;
}
#endif
