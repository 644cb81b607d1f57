/* The inside of a model under composition, shared by the files of compose/ alone. */
#ifndef MTH__MODEL_H
#define MTH__MODEL_H
#include "compose/compose.h"

/* A port as the type's text declares it: "mask?" may be left open, "inputs*" takes several wires. A "?" on an output
   marks a side result (dropped tokens), which a chain never takes. */
typedef struct {
    const char *name;
    bool optional, repeats;
} mth__port;
typedef struct {
    mth__port *at;
    int n;
    size_t room;
    mth__names names;
    VEC(int) first; /* by number of the name: the first port of that name */
} mth__ports;
void mth__ports_add(mth__arena *, mth__ports *, mth__port);
mth__ports mth__ports_parse(mth__arena *, const char *text);
int mth__ports_find(const mth__ports *, const char *name); /* -1: none */
/* the one that a chain takes: "output", else the last that is no side result */
int mth__ports_main(const mth__ports *outputs);

typedef struct {
    const char *name;         /* "linear_0": unique in its model */
    const mth_module *module; /* one of the two: both are copies that live in the model's arena */
    mth_model *model;
    mth__ports in, out;
    const mth_wire *wire;
    size_t wires;
    /* by input port: the names wired to it, from in_name[in_first[p]] to in_name[in_first[p + 1]] */
    int *in_first;
    const char **in_name;
    const char **out_name; /* by output port; NULL: not wired */
    mth_add_mode mode;
    const char *line; /* the user's */
} mth__block;

typedef struct {
    const char *source, *destination, *line;
} mth__join; /* of connect */
typedef struct {
    const char *name, *line;
} mth__exposure; /* a connection that is an output although something reads it */

typedef struct {
    int block, port;
} mth__source; /* block -1: the model's input `port` */
typedef struct {
    /* by block; consumed, exposed: by output port */
    struct mth__inlet {
        int nin;
        const char **port;
        mth__source *from;
        bool *consumed, *exposed;
        bool idle; /* no output that compile was asked for depends on it */
    } *block;
    int *order; /* of blocks: sources first, else as composed */
    const char **input;
    int inputs;
    struct mth__outlet {
        const char *name;
        int block, port;
        bool side;    /* a chain never takes it */
        bool exposed; /* the user said that it is an output */
    } *output;
    const char **output_name;
    int outputs;
    bool selected;                       /* compile was told which outputs there are */
    const struct mth__sharing **sharing; /* a cell: of the whole model, once somebody has asked */
    /* every connection by its names, and what makes it */
    mth__names connection;
    mth__source *made_by;
} mth__resolved;

/* One place of a module in a model. */
typedef struct {
    const mth_module *module;
    const char *path, *line; /* "model_0.linear_3"; the user's line */
    int first;               /* the first use of its object, whose parameters it uses */
    int weight;              /* the parameter that its option `weight` names, or -1 */
} mth__module_use;
/* Who has which parameter, in the order of composition. */
typedef struct mth__sharing {
    mth__names path, parameter; /* of all modules, of all parameters: full names */
    VEC(mth__module_use) use;   /* by path */
    VEC(int) owner;             /* by parameter: a use */
} mth__sharing;
mth_status mth__sharing_find(const mth_model *, const mth__sharing **out); /* of a resolved model, which keeps it */
/* The number of a parameter of the module at `path`; -1: it has none of the name. */
int mth__sharing_number(mth__arena *, const mth__sharing *, const char *path, const char *suffix);

uint64_t mth__next_object(void);

/* How deep models may lie in models. Passes walk down them, in a thread whose stack may be small; a stage is a level
   too. */
enum { MTH__MODEL_LEVELS = 256 };

struct mth_model {
    mth__arena *arena; /* a submodel lives in its parent's */
    int levels;        /* its own one included */
    VEC(mth__block *) block;
    VEC(mth__join) join;
    VEC(mth__exposure) exposure;
    struct mth__taken *taken; /* the names so far, where somebody has asked for them; model.c */
    /* a cell, since resolving leaves the model as it was; emptied by each change */
    const mth__resolved **resolved;
};

/* wiring alone, through all submodels; kept in the model */
mth_status mth__resolve(const mth_model *, const mth__resolved **out);
/* of a resolved model: the name of an input, or of a block's output */
const char *mth__source_name(mth__arena *, const mth_model *, mth__source);
/* blocks.c: an empty model in the arena; copies of what there is */
mth_model *mth__model_new(mth__arena *);
mth_model *mth__model_copy_into(mth__arena *, const mth_model *);
const mth_module *mth__module_copy_into(mth__arena *, const mth_module *);
void mth__module_own_models(mth_module *); /* the models among its options become copies in its arena */
static inline const char *mth__copy_line(mth__arena *arena, const char *line) {
    return line ? mth__copy_text(arena, line) : NULL;
}
/* Copies the wires, which name ports of the block, and finds what each port is wired to. */
void mth__block_wire(mth__arena *, mth__block *, const mth_wire *, size_t count);
mth__ports mth__model_inputs(mth__arena *, const mth__resolved *); /* as the ports of a block */
mth__ports mth__model_outputs(mth__arena *, const mth__resolved *);
/* The block whose parameter `name` is, by its path in the model ("model_0.linear_0.bias"); NULL where it is none's.
   What a type declares counts whatever its options leave out. */
const mth__block *mth__parameter_block(mth__arena *scratch, const mth_model *, const char *name);
/* NULL: the model has none whose name these n bytes are */
const mth__block *mth__model_block(const mth_model *, const char *name, size_t n);
/* the suffixes that a type declares */
mth__ports mth__parameter_names(mth__arena *, const mth__module_type *);
/* Of those, the ones that a module has, as its options say, one at a time: the one behind `before` (NULL: the first),
   which has n bytes. NULL: there is no other. */
const char *mth__module_parameter(const mth_module *, const char *before, size_t *n);
/* What options alone say of a dimension of a parameter: `size` elements, of which `grain` stay together. False: the
 * input says more. Where it says how wide a unit is, that is taken as 2, the least for which it matters. */
bool mth__parameter_extent(const mth_module *, const char *parameter, int dimension, int64_t *size, int32_t *grain);
/* "weight (in, dimension)" has 2; 0: none of the name is declared */
int mth__parameter_rank(const mth__module_type *, const char *parameter);
/* "MultiHeadAttention" -> "multi_head_attention", "MoE" -> "moe" */
const char *mth__snake_case(mth__arena *, const char *type);

/* Where a block stands: what its device ids and specs refer to. */
typedef struct {
    const mth__placement *place; /* the whole mesh, or the stage's */
    int region, stage;           /* -1: outside of a Pipeline */
} mth__site;
/* The placement of the module's nodes: what its options say, the stage's, or NULL where nothing is said. */
mth_status mth__site_on(const mth_module *, mth__mesh *, const mth__site *, const mth__placement **on);
/* Which of them says so: "device_id=2", "weight_shard_spec over mesh(4)", "stage 1 of pipeline_0"; NULL: none. */
const char *mth__site_reason(mth__arena *, const mth_module *, const mth__site *, const mth__graph *);
/* devices, meshes, axes of specs, in all submodels */
mth_status mth__site_check(const mth_model *, mth__mesh *, const mth__site *, bool partitioned);

/* declared.c, and from the fourth on stages.c; the last is site.c's */
size_t mth__pipeline_stages(const mth_module *); /* 0: the module is no Pipeline */
const mth_model *mth__pipeline_stage(const mth_module *, size_t i);
/* The stage that a name inside of a Pipeline begins with ("stage_0."), which is taken off the name; -1: none. */
int mth__pipeline_stage_named(mth__arena *scratch, const mth_module *, const char **name);
/* The output port that an output of a stage is, or -1. */
int mth__pipeline_port(const mth_module *, mth__arena *scratch, int stage, int output);
/* The ports of which the first input that they feed is marked: marks by stage and input. */
mth__names mth__pipeline_marked(const mth_module *, mth__arena *scratch, bool *const *marks);
mth_status mth__pipeline_place(const mth_module *, mth__mesh *, size_t stage, const mth__placement **on);

/* expand.c: a stage of the Pipeline that the expansion is of; in and out by the stage's inputs and outputs. */
mth_status mth__expand_stage(mth__expansion *expansion, const mth_model *stage, const char *name, const mth__site *,
    mth__value *const *in, mth__value **out);
#endif
