/* What an operator is: one row. Shape rule, local shapes, sharding, flops and bytes follow from its factors.
 *
 *     matmul "...bi,io->...bo", sum "i":  letters are factors; a letter shared by operands ties their dimensions.
 *
 * A factor may be split over devices. PASS: each device computes its part. SUM/MAX: outputs that lack the letter become
 * partial, to be combined. WHOLE: may not be split. `unit`: elements of this operand's dimension per element of the
 * factor (reshape: a dimension of heads*width is `width` units of the factor heads). */
#ifndef MTH__OP_H
#define MTH__OP_H
#include "base/graph.h"
#include "base/keys.h"
#include "catalog/rows.h"

typedef struct mth__builder mth__builder;
typedef enum { MTH__PASS, MTH__SUM, MTH__MAX, MTH__WHOLE } mth__factor_kind;
enum { MTH__FACTORS = 20 };
typedef struct {
    int n;
    struct {
        int64_t size;
        mth__factor_kind kind;
        char letter;
        bool positional; /* see mth__op.positional */
    } factor[MTH__FACTORS];
    /* dimension -> factor, or -1 (size 1, broadcast); set for the node's own operands and results */
    int8_t in[MTH__MAX_IN][MTH__RANK], out[MTH__MAX_OUT][MTH__RANK];
    int32_t in_unit[MTH__MAX_IN][MTH__RANK], out_unit[MTH__MAX_OUT][MTH__RANK]; /* >= 1 */
} mth__rule;

/* How partial sums pass through a row. NONE: its operands must be whole sums. EACH: it is linear in each operand of
   `linear_args` by itself (mul, contract, reshape). JOINT: it is linear in all of them together (add, concat), so all
   must be partial over the same axes, or none. */
typedef enum { MTH__LINEAR_NONE, MTH__LINEAR_EACH, MTH__LINEAR_JOINT } mth__linear;
/* The dtype of a result. OPERAND: that of the floating operands, which have one; of rows without them, of operand 0.
   SUM: in which elements of the OPERAND's dtype are added up (mth__dtypes[].sums), for statistics that lose their
   meaning in 16 bits. ATTRIBUTE: attrs.dtype. */
typedef enum {
    MTH__TYPE_OPERAND,
    MTH__TYPE_SUM,
    MTH__TYPE_ATTRIBUTE,
    MTH__TYPE_FLOAT32,
    MTH__TYPE_INT32,
    MTH__TYPE_BOOL
} mth__type_rule;
/* Where the kernels read: an elementwise row, of any number of operands and results, reads all operands of a place
   before it writes there, so that each result may lie on an operand of its size; an alias row moves no data. */
enum {
    MTH__ELEMENTWISE = 1,
    MTH__ALIAS = 2,
    MTH__NEEDS_START = 4, /* the result depends on where the shard lies (causal, gather by id, dropout) */
    MTH__COMM = 8,
    MTH__FREE = 16,     /* costs nothing worth planning for */
    MTH__WIDE_IDS = 32, /* integer operands may be int64 */
    MTH__MOVES = 64,    /* moves elements, of any dtype, and computes nothing */
    /* every element of the result is an element of operand 0, so it can be taken wherever that one lies */
    MTH__VIEW = 128,
    MTH__POSITIONWISE = 256, /* computes each position, an index over all dimensions but the last, by itself */
    MTH__PRODUCT = 512,      /* a dense product of two tensors, the part of a model that is worth splitting */
    /* needs a dimension whole that its neighbours may split: what follows would split it as what comes before did */
    MTH__GATHERS = 1024,
    /* its result names the rows of each expert (a row that reads it says so by `row_args`); over all experts together
       as many rows hold tokens as its operand has elements */
    MTH__NAMES_ROWS = 2048,
    /* adds elements up: in the dtype of mth__op_sum_dtype, rounded once to that of the result */
    MTH__SUMS = 4096
};

struct mth__op {
    const char *name;
    /* operand names, "x, weight"; a name ending in ? may be absent (nin smaller), one in * repeats */
    const char *args;
    const char *results;           /* "y", or "y, lse" */
    const char *attributes;        /* names of attributes.c, "dimension, start, stop", as texts list them; NULL: none */
    const char *factors;           /* "...i,io->...o"; "*" = elementwise with broadcasting; NULL: `rule` */
    const char *sum, *max, *whole; /* letters */
    /* letters: an element's place along them has a meaning of its own (a position, an index into a table), so a part is
       computed otherwise than a tensor of its size */
    const char *positional;
    mth__linear linear;
    uint64_t linear_args; /* bits of operands */
    unsigned flags;
    mth__type_rule types[MTH__MAX_OUT]; /* of the results */
    /* Sets the shapes of node->out[] from node->in[] and attrs, checks attrs. NULL: from factors. */
    mth_status (*infer)(mth__node *);
    void (*rule)(const mth__node *, mth__rule *);
    /* The attributes where `dimension` of the result has `size` elements, all that the operand has. NULL: no
       attribute follows a dimension. */
    void (*resize)(mth__attrs *, int dimension, int64_t size);
    /* The attributes where the operand is the part from `start` on of a tensor that has `size` elements in `dimension`,
       and the result that of the larger one's. NULL: a part is computed as any tensor. */
    void (*box)(mth__attrs *, int dimension, int64_t start, int64_t size);
    /* Emits the nodes of the gradient. dout[i] is NULL where no gradient flows; sets din[j] where operand j has one and
       builder->wanted has its bit. NULL: there is none (rows that are gradients themselves, communication); a
       constant's (equal, stop) is mth__grad_none. */
    mth_status (*grad)(mth__builder *, const mth__node *, mth__value *const *dout, mth__value **din);
    /* Of local shapes. NULL: elements of the largest output. */
    double (*flops)(const mth__node *, const mth__shape *in, const mth__shape *out);
    const char *doc; /* one sentence with the formula */
    /* bits of operands that are integers: int32, with WIDE_IDS int64 too; others are floating, of one dtype */
    uint64_t index_args;
    const char *index_name; /* what such an operand holds, "token id", where the run checks it */
    uint64_t any_args;      /* bits of operands of any dtype: rows that move data */
    uint64_t mask_args;     /* bits of operands that are masks: bool, int32 or floating, of whichever dtype */
    uint64_t sum_args;      /* bits of operands that are results of type SUM of another row */
    uint64_t row_args;      /* bits of operands that name, for each expert, its rows: tokens, then padding */
    unsigned accumulates;   /* bits of results that a node may add to sums so far (mth__node.accumulates) */
    enum mth__row row;
};

/* The gradient of a constant: nothing flows. */
mth_status mth__grad_none(mth__builder *, const mth__node *, mth__value *const *dout, mth__value **din);

const mth__op *mth__op_find(const char *name); /* NULL: none */
size_t mth__op_count(void);
const mth__op *mth__op_at(enum mth__row);
/* attributes.c: attributes by name, for what treats all rows alike (texts, comparisons). */
typedef enum { MTH__ATTRIBUTE_INTEGER, MTH__ATTRIBUTE_REAL, MTH__ATTRIBUTE_TEXT } mth__attribute_kind;
typedef struct {
    const char *name;
    size_t offset; /* in mth__attrs */
    mth__attribute_kind kind;
    bool draws; /* numbers a stream of random bits: nodes that differ in it alone do the same */
} mth__attribute;
/* The k-th that a row lists; NULL behind the last. */
const mth__attribute *mth__op_attribute(const mth__op *, int k);
static inline int64_t *mth__attribute_integer(mth__attrs *attrs, const mth__attribute *attribute) {
    return (int64_t *)(void *)((char *)attrs + attribute->offset);
}
static inline double *mth__attribute_real(mth__attrs *attrs, const mth__attribute *attribute) {
    return (double *)(void *)((char *)attrs + attribute->offset);
}
static inline const char **mth__attribute_text(mth__attrs *attrs, const mth__attribute *attribute) {
    return (const char **)(void *)((char *)attrs + attribute->offset);
}
bool mth__attribute_is_zero(const mth__attrs *, const mth__attribute *); /* texts leave it out */
void mth__keys_add_attrs(mth__arena *, mth__keys *, const mth__attrs *);
/* The attributes of a reshape or broadcast_to to the shape, and the shape that attributes with a rank of 0 to
   MTH__RANK say. */
mth__attrs mth__attrs_of_shape(mth__shape);
mth__shape mth__shape_of_attrs(const mth__attrs *);

/* the row's rule for this node (`rule`, or parsed from factors) */
void mth__op_rule(const mth__node *, mth__rule *);
/* An accumulating node or instruction has operands behind those of its row: sums so far, one for each result in
   op->accumulates, in order. Such a result is what the row computes, added to its sum so far; the two have one dtype,
   shape and sharding. */
static inline int mth__row_operands(const mth__op *op, int nin, bool accumulates) {
    return accumulates ? nin - __builtin_popcount(op->accumulates) : nin;
}
/* The operand that the result is added to; -1: none. */
static inline int mth__accumulator(const mth__op *op, int nin, int result) {
    return op->accumulates >> result & 1 ? nin - __builtin_popcount(op->accumulates >> result) : -1;
}
/* The sum so far to which result k of a node is added; NULL: none. */
static inline const mth__value *mth__sum_below(const mth__node *node, int k) {
    const int sum = node->accumulates ? mth__accumulator(node->op, node->nin, k) : -1;
    return sum < 0 ? NULL : node->in[sum];
}

/* Operand `at`, or the result at - nin behind the operands. */
static inline mth__value *mth__operand_or_result(const mth__node *node, int at) {
    return at < node->nin ? node->in[at] : node->out[at - node->nin];
}
const char *mth__arg_name(const mth__op *, int j, char room[24]); /* of operand j: "weight" */
/* The dtype that the floating operands have, else that of operand 0; float32 where there is no operand. */
mth_dtype mth__operand_dtype(const mth__node *);
/* The first of the operands and results that is floating and of another dtype; -1: none. For engines that compute in
   one dtype. */
int mth__first_floating_but(const mth__node *, mth_dtype);

/* A `keep` by which one device reads a parameter that lies whole on each of several: its result is a view of what that
   device has, unless it leaves the program. */
bool mth__keeps_whole(const mth__node *);

/* Is this result of a computation memory that the engine's library allocates? */
typedef bool mth__owns(const mth__node *, int result);
/* By value id, which results are: those of which `owns` says so (NULL: none), but for what leaves the program
   (`leaves`, by value id), which the engine makes out of what its library allocated. A result that is added to a sum so
   far takes over its memory: it is the library's where the sum's first term is, whatever `owns` says of it, and no term
   of a sum that leaves is. owned.c */
bool *mth__owned_values(mth__arena *, const mth__graph *, mth__owns *owns, const bool *leaves);
/* Checks the number of operands and results, dtypes and attributes; sets dtype and shape of the results. */
mth_status mth__op_infer(mth__node *);
/* In which a node adds up, and any row computes with elements of 16 bits; 0: its row adds nothing up. */
mth_dtype mth__op_sum_dtype(const mth__node *);
double mth__op_flops(const mth__node *, const mth__shape *in, const mth__shape *out);

void mth__graph_print(mth__text *, const mth__graph *); /* graph_text.c: the dump after a pass */

/* ---- builder: makes nodes, infers shapes at once, names the module at fault in errors */
struct mth__builder {
    mth__graph *graph;
    mth__label label;         /* of the nodes being made */
    const mth__placement *on; /* of them */
    uint64_t wanted;          /* for a row's grad: bits of the operands whose gradients are wanted */
};
/* Makes a node of the row; out: all its results, in order. attrs may be NULL. On failure the graph is as before. */
mth_status mth__build(
    mth__builder *, enum mth__row, const mth__attrs *, int nin, mth__value *const *in, mth__value **out);
mth_status mth__build1(mth__builder *, enum mth__row, const mth__attrs *, mth__value *a, mth__value **out);
mth_status mth__build2(
    mth__builder *, enum mth__row, const mth__attrs *, mth__value *a, mth__value *b, mth__value **out);
mth_status mth__build3(
    mth__builder *, enum mth__row, const mth__attrs *, mth__value *a, mth__value *b, mth__value *c, mth__value **out);
/* "bsi,io->bso" */
mth_status mth__build_contract(mth__builder *, const char *spec, mth__value *a, mth__value *b, mth__value **out);
mth_status mth__build_scale(mth__builder *, mth__value *, double by, mth__value **out);
/* By a reshape or broadcast_to; the value itself where it has the shape. */
mth_status mth__build_shaped(mth__builder *, enum mth__row, mth__value *, mth__shape, mth__value **out);
/* Sums the value down to `shape` (undoes broadcasting): the gradient of a broadcast operand. */
mth_status mth__build_unbroadcast(mth__builder *, mth__value *value, mth__shape shape, mth__value **out);
#endif
