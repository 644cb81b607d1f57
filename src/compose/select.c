/* Which connections a compiled model has as outputs, and which of its blocks and inputs these need: what none of them
 * depends on is neither asked for nor computed. */
#include "compose/model.h"
#include <string.h>

/* ---------------------------------------------------------------- names */
static bool find_connection(const mth_model *model, const char *name, mth__source *out) {
    const mth__resolved *resolved = *model->resolved;
    const int id = mth__names_find(&resolved->connection, name);
    if (id >= 0) *out = resolved->made_by[id];
    return id >= 0;
}

/* "block.rest": the block, and what is behind the dot. */
static const mth__block *block_of(const mth_model *model, const char *name, const char **rest) {
    const char *dot = strchr(name, '.');
    const mth__block *block = dot ? mth__model_block(model, name, (size_t)(dot - name)) : NULL;
    if (block) *rest = dot + 1;
    return block;
}

static int index_of(const mth_model *model, const mth__block *block) {
    int k = 0;
    while (model->block.at[k] != block) k++;
    return k;
}

/* A block that a path leads into: the model that it stands in, the model inside of it (a stage of a Pipeline), and what
 * is left of the path behind them. */
typedef struct {
    const mth_model *model, *inside;
    const mth__block *block;
    int stage; /* -1: the block is a submodel */
    const char *rest;
} path_step;

/* The port of the block by which a connection inside of it is an output, or -1. */
static int port_of(mth__arena *arena, const path_step *step, const char *connection) {
    const mth__resolved *resolved = *step->inside->resolved;
    mth__source from;
    if (!find_connection(step->inside, connection, &from)) return -1;
    for (int i = 0; i < resolved->outputs; i++)
        if (resolved->output[i].block == from.block && resolved->output[i].port == from.port)
            return step->stage < 0 ? mth__ports_find(&step->block->out, resolved->output[i].name)
                                   : mth__pipeline_port(step->block->module, arena, step->stage, i);
    return -1;
}

/* NULL where `name` is not a path through submodels and stages to a connection that a block makes there. Else it says
 * what the connection is called in the model, or which model has to expose it first. */
static mth_status connection_inside(mth__arena *arena, const mth_model *model, const char *name) {
    VEC(path_step) step = {0};
    const mth_model *inside = model;
    const char *rest = name;
    mth__source from;
    while (!find_connection(inside, rest, &from)) {
        const char *behind = NULL;
        const mth__block *block = block_of(inside, rest, &behind);
        if (!block) return NULL;
        rest = behind;
        const int stage = block->module ? mth__pipeline_stage_named(arena, block->module, &rest) : -1;
        if (block->module && stage < 0) return NULL;
        const mth_model *next = block->module ? mth__pipeline_stage(block->module, (size_t)stage) : block->model;
        PUSH(arena, step, ((path_step){inside, next, block, stage, rest}));
        inside = next;
    }
    if (!step.n || from.block < 0) return NULL;
    const char *called = rest;
    for (size_t i = step.n; i-- > 0;) {
        const path_step *at = &step.at[i];
        const int port = port_of(arena, at, called);
        if (port < 0)
            return FAIL(MTH_ERROR_KEY,
                F("outputs: '%s' is a connection inside of %.*s", called, (int)(at->rest - name - 1), name),
                F("expose '%s' where that model is composed: mth_model_expose", called));
        called = mth__source_name(arena, at->model, (mth__source){index_of(at->model, at->block), port});
    }
    return FAIL(MTH_ERROR_KEY,
        F("outputs: '%s' is a connection inside of %.*s, and has another name outside of it, '%s'", rest,
            (int)(rest - name - 1), name, called),
        F("name it '%s'", called));
}

/* What `name` is, where it is no name of a connection that a block of the model makes. Texts are made first: a jump out
 * of an allocation among the texts of an error would lose them. */
static mth_status no_connection(mth__arena *arena, const mth_model *model, const char *name) {
    const mth__resolved *resolved = *model->resolved;
    const mth__block *parameter = mth__parameter_block(arena, model, name);
    if (parameter)
        return FAIL(MTH_ERROR_KEY, F("outputs: '%s' is a parameter of %s", name, parameter->name),
            F("leave it out: it is among the parameters that mth_get_parameters gives"));
    const char *rest = NULL;
    const mth__block *block = block_of(model, name, &rest);
    const int port = block ? mth__ports_find(&block->out, rest) : -1;
    if (port >= 0) {
        const char *called = mth__source_name(arena, model, (mth__source){index_of(model, block), port});
        return FAIL(MTH_ERROR_KEY,
            F("outputs: the output '%s' of %s has another name, '%s'", rest, block->name, called),
            F("name it '%s'", called));
    }
    const struct mth__inlet *in = block ? &resolved->block[index_of(model, block)] : NULL;
    for (int i = 0; in && i < in->nin; i++) {
        if (strcmp(in->port[i], rest)) continue;
        const char *reads = mth__source_name(arena, model, in->from[i]);
        return FAIL(MTH_ERROR_KEY,
            F("outputs: '%s' is an input of %s, which reads '%s' there", name, block->name, reads),
            in->from[i].block >= 0 ? F("name that connection: '%s'", reads)
                                   : F("leave it out: '%s' is an input of the model", reads));
    }
    mth_status inside = connection_inside(arena, model, name);
    if (inside) return inside;
    VEC(const char *) known = {0};
    for (size_t i = 0; i < resolved->connection.name.n; i++)
        if (resolved->made_by[i].block >= 0) PUSH(arena, known, resolved->connection.name.at[i]);
    return FAIL(MTH_ERROR_KEY, F("outputs: no block makes a connection '%s'", name),
        mth__name_fix("connection", name, known.at, known.n));
}

char *mth__model_why_not(const mth_model *model, const char *name, bool output) {
    const mth__resolved *resolved = *model->resolved;
    mth__source from;
    if (!find_connection(model, name, &from)) return F("%s", "");
    if (from.block < 0) return F("%s", output ? ": it is an input" : ": no output that compile was told of needs it");
    if (!output) return F(": %s writes it", model->block.at[from.block]->name);
    if (resolved->selected) return F("%s", ": compile was told which outputs there are, and it is none of them");
    for (size_t k = 0; k < model->block.n; k++)
        for (int i = 0; i < resolved->block[k].nin; i++)
            if (resolved->block[k].from[i].block == from.block && resolved->block[k].from[i].port == from.port)
                return F(": %s reads it, and outputs are what nothing reads, unless compile is told otherwise",
                    model->block.at[k]->name);
    return F("%s", "");
}

char *mth__model_output_fix(const mth_model *model, const char *name, const char *const *known, size_t n) {
    mth__source from;
    if (!find_connection(model, name, &from) || from.block < 0) return mth__name_fix("output", name, known, n);
    if ((*model->resolved)->selected) return F("add it to compile's list of outputs: outputs=[..., '%s']", name);
    return F("name it in compile's outputs=['%s', ...], or expose it in the model: mth_model_expose", name);
}

/* ---------------------------------------------------------------- what outputs need */
/* Of the model's outputs those that are `wanted`, by its list of them; sets needed[i] for the inputs that these need.
 * One frame a level of models: nothing large lies in it. */
static void mark_needed(mth__arena *scratch, const mth_model *model, const bool *wanted, bool *needed) {
    const mth__resolved *resolved = *model->resolved;
    bool **made = NEW_ARRAY(scratch, bool *, model->block.n); /* by block and output port: somebody needs it */
    for (size_t k = 0; k < model->block.n; k++) made[k] = NEW_ARRAY(scratch, bool, model->block.at[k]->out.n);
    for (int i = 0; i < resolved->outputs; i++)
        if (wanted[i]) made[resolved->output[i].block][resolved->output[i].port] = true;
    for (size_t i = model->block.n; i-- > 0;) {
        const int k = resolved->order[i];
        const mth__block *block = model->block.at[k];
        struct mth__inlet *in = &resolved->block[k];
        bool any = false;
        for (int port = 0; port < block->out.n; port++) any |= made[k][port];
        in->idle = !any;
        if (!any) continue;
        bool *reads = NEW_ARRAY(scratch, bool, in->nin);
        if (block->model)
            mark_needed(scratch, block->model, made[k], reads); /* its ports are the submodel's inputs and outputs */
        else
            memset(reads, true, (size_t)in->nin);
        for (int j = 0; j < in->nin; j++) {
            if (!reads[j]) continue;
            if (in->from[j].block < 0)
                needed[in->from[j].port] = true;
            else
                made[in->from[j].block][in->from[j].port] = true;
        }
    }
}

/* Renumbers the inputs that are left. A wire from any other input is read by idle blocks alone, or by a submodel for
 * idle blocks of its own. */
static void drop_inputs(mth_model *model, mth__resolved *resolved, const bool *needed) {
    int *number = NEW_ARRAY(model->arena, int, resolved->inputs), n = 0;
    const char **input = NEW_ARRAY(model->arena, const char *, resolved->inputs);
    for (int i = 0; i < resolved->inputs; i++) {
        number[i] = needed[i] ? n : -1;
        if (needed[i]) input[n++] = resolved->input[i];
    }
    for (size_t k = 0; k < model->block.n; k++)
        for (int j = 0; j < resolved->block[k].nin; j++)
            if (resolved->block[k].from[j].block < 0)
                resolved->block[k].from[j].port = number[resolved->block[k].from[j].port];
    for (size_t i = 0; i < resolved->connection.name.n; i++)
        if (resolved->made_by[i].block < 0) resolved->made_by[i].port = number[resolved->made_by[i].port];
    resolved->input = input;
    resolved->inputs = n;
}

mth_status mth__model_select(mth_model *model, const mth_arg *names) {
    if (!names->count)
        return FAIL(MTH_ERROR_VALUE, F("outputs=[] names no output"),
            F("name some, or leave it out: then the outputs are what nothing reads"));
    mth__arena *scratch = mth__arena_new();
    mth__resolved *resolved = NEW(model->arena, mth__resolved);
    *resolved = **model->resolved;
    mth__names given = {0};
    resolved->output = NEW_ARRAY(model->arena, struct mth__outlet, names->count);
    resolved->outputs = (int)names->count;
    resolved->selected = true;
    for (size_t i = 0; i < names->count; i++) {
        const char *text = mth__arg_text(scratch, names->items[i]), *name = names->items[i].string;
        mth__source from;
        if (names->items[i].kind != MTH_ARG_STRING)
            return FAIL(MTH_ERROR_TYPE, F("outputs: %s is not the name of a connection", text),
                F("give a list of names: outputs=['logits', 'loss']"));
        if (mth__names_add(scratch, &given, name) != (int)i)
            return FAIL(MTH_ERROR_VALUE, F("outputs names '%s' twice", name), F("name it once"));
        if (!find_connection(model, name, &from)) return no_connection(scratch, model, name);
        if (from.block < 0)
            return FAIL(MTH_ERROR_VALUE, F("outputs: '%s' is an input of the model", name),
                F("leave it out, or make an output of it by a module: Identity with input='%s', output='%s_out'", name,
                    name));
        resolved->output[i] =
            (struct mth__outlet){mth__copy_text(model->arena, name), from.block, from.port, false, true};
    }
    *model->resolved = resolved;
    bool *wanted = NEW_ARRAY(scratch, bool, resolved->outputs), *needed = NEW_ARRAY(scratch, bool, resolved->inputs);
    memset(wanted, true, (size_t)resolved->outputs);
    mark_needed(scratch, model, wanted, needed);
    drop_inputs(model, resolved, needed);
    mth__arena_free(scratch);
    return NULL;
}
