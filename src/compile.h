/* From a model to a plan. */
#ifndef MTH__COMPILE_H
#define MTH__COMPILE_H
#include "base/names.h"
#include "compose/compose.h"
#include "data/array.h"
#include "distribute/distribute.h"
#include "engine/backend.h"

/* What a plan is specialised to: inputs by name, dtype and shape, in the model's order, and the gradients asked for. */
typedef struct {
    size_t inputs;
    mth__input_description *input;
    bool gradients;
    size_t outputs;
    bool *seeded; /* by output of the model */
    size_t wanted;
    const char **wanted_input; /* inputs whose gradients are asked for */
} mth__request;

typedef struct mth__plan {
    mth__arena *arena;
    mth__request request;
    mth__program *program;
    /* with global shapes, for an engine that partitions by itself; else NULL */
    const mth__program *global;
    mth__executable *executable; /* NULL until it first runs */
    size_t parameters;
    const struct mth__parameter *parameter; /* in order of composition */
    mth__names names;                       /* of the parameters */
    const mth__module_place *module_place;  /* of its graph */
    size_t module_places;
    /* by entry: of the input, parameter or output that it is called after */
    const int *number;
    mth__offsets offset;    /* of buffers in a run's lists */
    atomic_int running;     /* calls that use it now; begun under the compiled model's lock */
    struct mth__plan *next; /* last used first */
} mth__plan;
typedef struct mth__parameter {
    const char *name;
    mth_dtype dtype;
    mth__shape shape;
    mth__sharding sharding;
    /* what operators take it as; .sharding may be smaller parts, in which it is stored */
    mth__sharding read_as;
    int init;
    double scale;
} mth__parameter;

struct mth_compiled {
    mth__arena *arena;
    mth_backend *backend;
    int64_t number;                         /* among the models of the backend */
    mth_model *model;                       /* a copy */
    mth__names inputs, outputs, parameters; /* of the model, in its order */
    /* of the whole model, where `outputs` cut it: what none of its outputs needs may be given, and is not looked at */
    mth__names idle_inputs, idle_parameters;
    bool *ids; /* by input: a module reads it as ids or as a mask */
    mth__distribute_options distribute;
    size_t shapes;
    mth__input_description *shape; /* the option `shapes`: for get_parameters without inputs */
    pthread_mutex_t lock;          /* of the cache and of planning */
    mth__plan *plan, *last;        /* the cache; the one last used */
    /* fixed by the first plan: binds all later ones (in the first plan's arena) */
    const mth__parameter *layout;
    size_t layouts;
    const mth__module_place *module_place;
    mth__fork_watch watch;
    /* that came so far: a run ends at those that come after it began */
    atomic_uint interrupts;
};
extern const mth__opt mth__compile_options[];

/* UNSUPPORTED where the engine has no kernel for a node; the error's fix is tried on the node before it is told. */
mth_status mth__check_kernels(const mth__graph *, const mth__engine_vtable *);

/* MEMORY where a device needs more than one of the machine has. */
mth_status mth__check_capacity(const mth_backend *, const mth_memory_usage *by_device);

/* Runs the pipeline of passes for one request. Called with the backend's lock held, inside a guard. */
mth_status mth__compile_plan(const mth_compiled *, const mth__request *, mth__plan **out);
#endif
