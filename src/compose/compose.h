/* What a user composes, and how it becomes a graph.
 *   blocks.c    ports, wires, copies: what modules and models are made of
 *   declared.c  what a type declares of its parameters, and what the options of a module say
 *   model.c     mth_model: blocks (a module or a submodel, with explicit wires), connects; |= and +=; names
 *   resolve.c   wires -> a list of connections; every error of wiring (cycles, two writers, unbound inputs, names)
 *   select.c    the connections that compile is told to give, and what they need
 *   site.c      what device_id, device_mesh and specs refer to; every error of theirs that needs no shapes
 *   stages.c    what binds the inputs of a Pipeline's stages, which are models
 *   nominal.c   inputs for a plan before any are known
 *   expand.c    the resolved model, with the shapes and dtypes of the inputs -> graph of catalog nodes
 *   module.c    module types: the table, the options common to all, documentation
 *   layers.c attention.c moe.c pipeline.c losses.c tensors.c: the types; parts.c: what they share */
#ifndef MTH__COMPOSE_H
#define MTH__COMPOSE_H
#include "base/names.h"
#include "base/option.h"
#include "catalog/op.h"

typedef struct mth__module_type mth__module_type;
typedef struct mth__expansion mth__expansion; /* of one block: what its expand function works with */

struct mth__module_type {
    const char *name;             /* "Linear"; in snake case the base of operator names: "linear_0" */
    const char *inputs, *outputs; /* "input", "query, key?, value?, mask?", "inputs*" */
    /* of outputs that an option makes: "dropped capacity_factor=1.25, ..."; NULL: none */
    const char *port_options;
    /* inputs that hold integers of [batch, length]: ids, classes, masks; NULL: none */
    const char *integers;
    /* its own; the common ones (name, device_id, device_mesh, ...) stand in module.c */
    const mth__opt *options;
    const char *doc; /* what it computes, with shapes, parameters and source */
    /* "weight (in, dimension), bias (dimension,)" for the documentation; "" where it has none */
    const char *parameters;
    bool table; /* its weight has a row for each id or position; of others rows are inputs, columns outputs */
    /* What options leave out: "bias bias, gate gated, weight kind=learned" says that parameters with `bias` among the
     * dotted words of their names are there where the option bias is True, and so on; NULL: all are there. */
    const char *parameter_options;
    /* The option that counts the units in which a product of options is split, and what it is where that is None:
       "num_kv_heads num_heads"; NULL: no product is split. */
    const char *units;
    /* options against each other; NULL: nothing to check */
    mth_status (*check)(const mth_module *);
    /* what its user should know, or NULL; NULL: there is nothing */
    const char *(*warning)(const mth_module *);
    void (*ports)(const mth_module *, mth__arena *, const char **inputs,
        const char **outputs); /* NULL: as above (Split's outputs depend on parts) */
    mth_status (*expand)(mth__expansion *);
    /* how many wires each input port has; NULL: any number will do */
    mth_status (*wired)(const mth_module *, const int *wires);
};
struct mth_module {
    mth__arena *arena;
    const mth__module_type *type;
    const mth__opt *tables[3];    /* own, common, NULL */
    mth_arg *values;              /* of all options, in table order */
    int levels;                   /* of the deepest model among its options; 0: none */
    uint64_t object;              /* which object of the user's it is a copy of: all copies are one set of weights */
    const char *inputs, *outputs; /* as declared, with the marks ? and * */
    const char *ports;            /* "input, key? -> output" */
}; /* a model keeps a copy of its own; so does a module of the models among its options */
extern const mth__module_type *const mth__module_types[]; /* NULL-terminated */
const mth__module_type *mth__module_type_find(const char *name);
const mth_arg *mth__module_option(const mth_module *, const char *name);

struct mth__expansion {
    mth__builder builder; /* .label.module is "model_0.linear_3", .on is where device_id or the stage puts it */
    const mth_module *module;
    /* bound inputs, in the order of ports; an absent optional one is missing */
    int nin;
    mth__value **in;
    const char *const *in_port;
    int nout;
    mth__value **out;                  /* to be set, in order of the output ports */
    const mth__placement *mesh;        /* the placement specs refer to: the backend's mesh, or the stage's */
    struct mth__made_parameters *made; /* of expand.c */
};
mth__value *mth__expansion_input(const mth__expansion *, const char *port); /* NULL where nothing is bound */
/* Creates the parameter "<module>.<suffix>"; applies shard_specs["<suffix>"], or `spec` (or NULL), grain elements per
 * unit (1: none). */
mth_status mth__expansion_parameter(mth__expansion *, const char *suffix, mth__shape, int init, double scale,
    const mth_arg *spec, const int32_t *grain, mth__value **out);
/* The matrix "weight": its own, or the one that the option `weight` names. That may lie the other way round (the table
 * of an Embedding, one row for each id, as the weight of a Linear): *across is then true, and *out has the shape with
 * its dimensions swapped. */
mth_status mth__expansion_weight(mth__expansion *, const char *suffix, mth__shape, int init, double scale,
    const mth_arg *spec, const int32_t *grain, mth__value **out, bool *across);
/* The same with a sharding in place of a spec (.on NULL: none). */
mth_status mth__expansion_parameter_as(
    mth__expansion *, const char *suffix, mth__shape, int init, double scale, const mth__sharding *, mth__value **out);

/* Resolves the wiring, which a compiled model keeps. It finds all errors that need no shapes, those of stages and of
 * specs' axes included, and, where `partitioned` is true, layouts that XLA's partitioner does not have. */
mth_status mth__model_resolve(const mth_model *, mth__mesh *, bool partitioned);
mth_status mth__check_partitionable(const mth__sharding *, int rank, const char *what); /* of a spec */
/* As it is now, with the same weights. */
mth_status mth__model_snapshot(const mth_model *, mth_model **out);
size_t mth__model_input_count(const mth_model *); /* open inputs, after mth__model_resolve */
const char *mth__model_input_name(const mth_model *, size_t i);
/* The full names of the parameters that the outputs need, in the order of composition, and of the others. */
void mth__model_parameters(mth__arena *, const mth_model *, mth__names *out, mth__names *idle);
size_t mth__model_output_count(const mth_model *);
const char *mth__model_output_name(const mth_model *, size_t i);

/* After mth__model_resolve: the outputs are these connections alone, in this order. `names` is a list. Inputs that none
 * of them needs are no inputs then, and blocks are not expanded. */
mth_status mth__model_select(mth_model *, const mth_arg *names);

/* Why a connection is no output, or no input: ": relu_0 reads it", ": it is an input"; "" where there is no such
 * connection. For mth__free. */
char *mth__model_why_not(const mth_model *, const char *name, bool output);
/* How it becomes an output, or which of the known ones is meant. For FAIL, or mth__free. */
char *mth__model_output_fix(const mth_model *, const char *name, const char *const *known, size_t count);

typedef struct {
    const char *name;
    mth_dtype dtype;
    mth__shape shape;
    const char *given; /* the dtype as the user has it, where that is another; else NULL */
} mth__input_description;
/* Sets ids[i] for each input number i that a module reads as ids or as a mask: floating numbers in it are a mask's. */
void mth__model_id_inputs(mth__arena *scratch, const mth_model *, bool *ids);
/* Inputs for a plan that is made before any are known: ids and masks of 8 sequences of 128, or of the model's max_len.
   Returns how many; 0 where the model has other inputs, whose widths only the user knows. */
size_t mth__model_nominal_inputs(mth__arena *, const mth_model *, mth__input_description **out);
/* Fills the graph: inputs (errors for missing, unknown), parameters in order of composition, nodes, outputs. */
mth_status mth__expand(const mth_model *, const mth__input_description *, size_t count, mth__graph *);
#endif
