/* The graph: what passes read and write. Values are made once (SSA); `node` is in an order in which every input is made
   before it is used. Lives in one arena. */
#ifndef MTH__GRAPH_H
#define MTH__GRAPH_H
#include "base/label.h"
#include "base/types.h"

enum { MTH__MAX_IN = 64, MTH__MAX_OUT = 6 };
typedef struct mth__op mth__op; /* catalog/op.h */
typedef struct mth__node mth__node;

/* What decided a sharding. */
typedef struct {
    const char *said; /* "user, linear_0"; NULL: a node's factor did */
    /* the factor was split as this value's sharding proposed; NULL: nothing is known */
    const struct mth__value *from;
    char factor;
} mth__origin;

/* SEED: an output's gradient, given by the user */
typedef enum { MTH__VALUE_NODE, MTH__VALUE_INPUT, MTH__VALUE_PARAMETER, MTH__VALUE_SEED } mth__value_kind;
typedef struct mth__value {
    int id; /* dense, in order of creation */
    mth__value_kind kind;
    const char *name; /* input, parameter and output names; else NULL (printed as %id) */
    /* of a block's output: the user's name of the connection, for errors; else NULL */
    const char *wire;
    mth_dtype dtype;
    const char *given; /* of an input, for errors: the dtype that the user's data has, where it is another; else NULL */
    mth__shape shape;  /* global */
    mth__node *node;
    int index;                            /* its maker */
    const struct mth__value *gradient_of; /* of a gradient: what it is the gradient of; else NULL */
    /* .on NULL until decided; of parameters and inputs: what the user said */
    mth__sharding sharding;
    bool fixed[MTH__RANK]; /* the user fixed this dimension's split (of a value without a node) */
    bool pinned;           /* all of .sharding is fixed */
    /* a parameter: bits of axes along which each reader has a copy of its own, so that nothing splits it over them */
    uint8_t copied;
    /* a parameter that is stored in smaller parts than its readers take: what they take; else NULL */
    const mth__sharding *read_as;
    /* an input: how its readers might split it though it is whole, as the search proposes; or NULL */
    const mth__sharding *proposed;
    mth__origin origin; /* of the sharding */
    double init_scale;
    int init; /* parameters: MTH__INIT_* */
} mth__value;
enum {
    MTH__INIT_ZERO,
    MTH__INIT_ONE,
    MTH__INIT_NORMAL /* times init_scale */,
    MTH__INIT_UNIFORM /* in [-init_scale, init_scale) */
};

/* A node's attributes, by name. Those that its row lists (`attributes` in catalog/op.h) have a meaning, others are 0.
   Attributes that share a place here belong to different rows. */
typedef struct {
    const char *spec; /* contract */
    union {
        double by;          /* scale, shift */
        double probability; /* dropout */
        double base;        /* rope */
        double epsilon;     /* norms */
        double scale;       /* attention */
    };
    union {
        int64_t rank;                                /* of a shape or permutation */
        int64_t dimension;                           /* the one that the row works along */
        int64_t dimensions;                          /* reductions: bits */
        int64_t split;                               /* all_to_all */
        int64_t dtype;                               /* cast */
        int64_t rows;                                /* gather_grad */
        int64_t length;                              /* sinusoid */
        int64_t causal;                              /* attention */
        int64_t k, capacity, transposed, activation; /* experts */
    };
    union {
        int64_t shape[MTH__RANK];       /* reshape, broadcast_to */
        int64_t permutation[MTH__RANK]; /* transpose */
        struct {
            union {
                int64_t start;   /* slice; dropout of a box */
                int64_t before;  /* pad */
                int64_t inverse; /* rope */
                int64_t keep;    /* reductions: reduced dimensions stay as 1 */
                int64_t width;   /* sinusoid */
                int64_t experts; /* of a mixture */
                int64_t axes;    /* communication: bits of mesh axes */
            };
            union {
                int64_t stop;        /* slice */
                int64_t after;       /* pad */
                int64_t size;        /* dropout of a box; pick_grad */
                int64_t interleaved; /* rope */
                int64_t gathered;    /* all_to_all */
            };
            int64_t key; /* dropout */
        };
    };
} mth__attrs;

struct mth__node {
    int id;
    const mth__op *op;
    mth__attrs attrs;
    int nin, nout;
    mth__value **in, **out; /* nin <= MTH__MAX_IN, nout <= MTH__MAX_OUT */
    mth__label label;
    const mth__placement *on; /* NULL: not said; place decides */
    /* its last operands are sums, to which results are added: mth__accumulator */
    bool accumulates;
    /* nin; shard: what this node wants each operand as; reshard then makes it so */
    mth__sharding *need;
};

typedef struct {
    const char *name;
    mth__value *value;
    bool is_gradient;
    const char *of; /* parameter or input name */
    bool has_spec;
    mth__sharding leaves; /* shard: what it leaves the program as, no partial sum; reshard then makes it so */
} mth__output;
typedef struct mth__region { /* one Pipeline */
    const char *name;
    int stages;
    int microbatch_size;
    int schedule; /* MTH__GPIPE.. */
    int64_t batch;
    int microbatches; /* set by microbatch */
    const mth__placement **stage_on;
    mth__value **in;
    int nin; /* values entering from outside */
    mth__value **out;
    int nout; /* values of the stages used outside */
} mth__region;
enum { MTH__GPIPE, MTH__1F1B };
/* Where a module of the model runs, and why. */
typedef struct mth__module_place {
    const char *module;       /* as in the labels of its nodes */
    const mth__placement *on; /* NULL: not said; partition and place decide */
    const char *policy;       /* who says so: "user", a partition_policy, or "none": what it is connected to */
    const char *reason;       /* "device_id=2"; NULL as long as `on` is */
} mth__module_place;

typedef struct mth__graph {
    mth__arena *arena;
    mth__mesh *mesh;
    VEC(mth__node *) node;
    VEC(mth__value *) input, parameter, seed;
    VEC(mth__output) output;
    VEC(mth__region *) region;
    VEC(mth__module_place) module_place; /* of the modules that make nodes, in the order in which they run */
    int values;                          /* number of ids given */
} mth__graph;

mth__graph *mth__graph_new(mth__arena *, mth__mesh *);
/* Inputs, parameters and seeds are listed too. */
mth__value *mth__graph_value(mth__graph *, mth__value_kind, const char *name, mth_dtype, mth__shape);
/* Malloc'ed, for mth__error_tensor: "weight: float32 (2048, 512), sharded (0, None) over mesh (4,)" */
char *mth__value_text(const mth__value *);
/* "uint8", as the user knows it */
static inline const char *mth__value_dtype(const mth__value *value) {
    return value->given ? value->given : mth_dtype_name(value->dtype);
}
const char *mth__value_label(mth__arena *, const mth__value *); /* "input", "linear_0.weight", "%12" */
/* "user, linear_0", "from %12 by factor i"; NULL: nothing is known */
const char *mth__origin_text(mth__arena *, const mth__origin *);
/* invariants: order, links, ids; INTERNAL where broken */
mth_status mth__graph_check(const mth__graph *);
#endif
