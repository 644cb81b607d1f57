/* shard*.c: how one node is split. An assignment says for each factor of the node's rule which mesh axes split it;
 * operands' needs and results' shardings follow from it. */
#ifndef MTH__CHOICE_H
#define MTH__CHOICE_H
#include "distribute/decide.h"

typedef struct {
    mth__split of[MTH__FACTORS];
    bool pass; /* partial operands go through, and leave the results partial */
} mth__assignment;

typedef struct {
    mth__sharding sharding;
    mth__phase phase; /* of the consumer */
} mth__version;

/* What shard knows of a value while it runs. */
typedef struct {
    const mth__sharding *wish; /* what consumers would like; NULL: no opinion */
    /* how it was split before a row that can't be split made it, or the search's proposal */
    const mth__sharding *hint;
    mth__value *parameter; /* of which it is the gradient: the sharding it must end with */
    bool free;             /* a parameter whose sharding the first consumer settles */
    /* memory_optimization: in what a parameter will be stored, once it is settled; else NULL */
    const mth__sharding *stored;
    bool output;                /* leaves the program whole */
    VEC(mth__node *) reader;    /* one that reads it twice is there twice */
    int uses;                   /* readers and outputs */
    mth__value *seed;           /* an output's gradient, given by the user */
    VEC(mth__version) versions; /* what reshard will have made of it, for earlier consumers */
} mth__info;
/* What the files of shard hand on. Nodes are decided in their order: those before `at` are. */
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    const mth__distribute_options *options;
    mth__info *info; /* by value id */
    int at;
} mth__propagation;
static inline mth__info *mth__info_of(const mth__propagation *pass, const mth__value *value) {
    return &pass->info[value->id];
}
static inline bool mth__decided(const mth__propagation *pass, const mth__value *value) {
    return !value->node || value->node->id < pass->at;
}

/* A proposal to split a factor so, and who makes it. */
typedef struct {
    int8_t factor;
    mth__split split;
    const mth__value *from;
} mth__proposal;
enum { MTH__SOURCES = 48 };

/* Proposes splits of factors from the sharding of one operand (or result), whose dimensions are factors `of` with units
 * `unit`. */
void mth__propose(const mth__rule *, const int8_t *of, const int32_t *unit, const mth__sharding *, const mth__value *,
    mth__proposal *, int *n);
/* Splits the factor by the axes `axes` (bits), in the order and grain of the first proposal that has them. */
mth__split mth__compose_split(const mth__proposal *, int n, int factor, unsigned axes);
/* ---- shard_search.c: which assignment is cheapest. A question holds all that this depends on. */
typedef struct {
    const mth__value *value; /* of which its shape, dtype and sharding count; of a free one what the user fixed, too */
    bool laid;               /* a parameter that lies where the node runs */
    bool free;               /* one whose sharding the node settles */
    bool hinted;             /* its first dimension was split here before a row that can't be split made it */
    int sharers;             /* readers that may share what it is gathered to, the node included */
    VEC(const mth__sharding *) version; /* as what it is at hand besides */
} mth__asked_operand;
typedef struct {
    bool used;
    bool awaited; /* brought to `end`; else taken as it is made, but no partial sum */
    mth__sharding end;
    double terms; /* of so many microbatches, together */
} mth__asked_result;
typedef struct {
    const mth__node *node;
    mth__rule rule;
    unsigned pass; /* mth__pass_axes */
    int rows;      /* the operand that names the rows of each expert, or -1 */
    double filled; /* and the share of the rows that hold tokens */
    mth__proposal source[MTH__SOURCES];
    int sources;
    mth__asked_operand operand[MTH__MAX_IN];
    mth__asked_result result[MTH__MAX_OUT];
} mth__question;
typedef struct {
    mth__keys asked;
    VEC(mth__assignment) assignment;
} mth__answers; /* {0}: nothing was asked yet */
/* Holds until the next answer. */
const mth__assignment *mth__answer(mth__arena *, mth__answers *, const mth__question *);
/* The sharding that the assignment makes result k in. */
mth__sharding mth__result_of(const mth__question *, int k, const mth__assignment *);
/* A parameter not settled yet takes what a node needs, but for the dimensions that the user fixed. */
mth__sharding mth__settled(const mth__value *, const mth__sharding *need);

/* The sharding that an assignment gives an operand or result. */
mth__sharding mth__assigned(const mth__rule *, const int8_t *of, const int32_t *unit, const mth__assignment *,
    mth__shape, const mth__placement *);
/* Bits of axes over which result k is partial, and how it is combined. */
unsigned mth__partial_of(const mth__rule *, const mth__node *, int k, const mth__assignment *, uint8_t *reduce);
/* The first device's share of the factors' space. */
double mth__fraction(const mth__rule *, const mth__assignment *, const mth__placement *);
/* Partial operands may go through this node as they are: bits of the axes, 0: no. */
unsigned mth__pass_axes(const mth__propagation *, const mth__node *);

/* shard_terms.c. If the node is the first of a chain of additions, the chain is put in another order: terms that are
   partial over the same axes are added first, so that one reduction serves all of them. */
void mth__shard_group_terms(const mth__propagation *, mth__node *);

/* shard_sequence.c. The node takes a partial sum. Where that sum can be scattered by positions instead of being made
   whole, and that pays or `always` is true, `out` is the split of the node's factor of positions, and the answer is
   true. `gradients`: the plan has them. */
bool mth__propose_sequence(const mth__propagation *, const mth__node *node, const mth__rule *, bool gradients,
    bool always, mth__proposal *out);

/* shard_wishes.c: backward over the graph, from outputs' specs and fixed weights. */
void mth__shard_wishes(const mth__propagation *);
#endif
