/* Pipeline: stages one after the other, each on its own devices. What binds the inputs of the stages is found here;
 * microbatches are cut by a pass of distribute/. */
#include "compose/model.h"
#include "compose/parts.h"
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- what binds the inputs of the stages */
/* EARLIER: output `output` of stage `stage`. PORT: the Pipeline's port. OPEN: the port if it is wired, else the output
   of the stage before; a stage's OPEN inputs are several, and exactly one of them must be left to the stage before. */
typedef enum { EARLIER, PORT, OPEN } binding_kind;
typedef struct {
    binding_kind kind;
    int stage, output;
    const char *port;
} binding;
typedef struct {
    size_t stages;
    const mth__resolved **stage;
    binding **in;       /* by stage and input */
    bool **consumed;    /* by stage and output */
    mth__names made;    /* the outputs of the stages bound so far */
    VEC(binding) maker; /* of `made`: the latest stage that has an output of that name */
} bindings;

/* The output that the next stage takes. */
static int main_output(mth__arena *arena, const mth__resolved *resolved) {
    mth__ports outputs = mth__model_outputs(arena, resolved);
    return mth__ports_main(&outputs);
}

/* The output of that name of the nearest of the earlier stages from `first` on. */
static bool find_earlier(const bindings *bound, int first, const char *name, binding *out) {
    int id = mth__names_find(&bound->made, name);
    if (id < 0 || bound->maker.at[id].stage < first) return false;
    return *out = bound->maker.at[id], true;
}

static void list_made(mth__arena *arena, bindings *bound, int stage) {
    for (int output = bound->stage[stage]->outputs - 1; output >= 0;
        output--) { /* of two of one name the first stays */
        size_t id = (size_t)mth__names_add(arena, &bound->made, bound->stage[stage]->output[output].name);
        if (id == bound->maker.n) PUSH(arena, bound->maker, ((binding){0}));
        bound->maker.at[id] = (binding){EARLIER, stage, output, NULL};
    }
}

static void bind_stage(mth__arena *arena, bindings *bound, int stage) {
    const mth__resolved *resolved = bound->stage[stage];
    binding *in = bound->in[stage];
    if (stage == 0) {
        for (int i = 0; i < resolved->inputs; i++)
            in[i] = (binding){PORT, 0, 0, resolved->inputs == 1 ? "input" : resolved->input[i]};
        return;
    }
    binding before = {EARLIER, stage - 1, main_output(arena, bound->stage[stage - 1]), NULL};
    int left = 0, last = -1, named = -1;
    bool taken = false;
    for (int i = 0; i < resolved->inputs; i++) {
        /* a single input is fed by the stage before */
        if (find_earlier(bound, resolved->inputs > 1 ? 0 : stage - 1, resolved->input[i], &in[i])) {
            taken |= in[i].stage == before.stage && in[i].output == before.output;
            continue;
        }
        in[i] = (binding){PORT, 0, 0, resolved->input[i]};
        left++;
        last = i;
        if (!strcmp(resolved->input[i], "input")) named = i;
    }
    if (!taken && named >= 0)
        in[named] = before;
    else if (!taken && left == 1)
        in[last] = before;
    else if (!taken)
        for (int i = 0; i < resolved->inputs; i++)
            if (in[i].kind == PORT) in[i] = (binding){OPEN, before.stage, before.output, resolved->input[i]};
    for (int i = 0; i < resolved->inputs; i++)
        if (in[i].kind != PORT) bound->consumed[in[i].stage][in[i].output] = true;
}

static mth_status bind_all(const mth_module *module, mth__arena *arena, bindings *bound) {
    size_t n = mth__pipeline_stages(module);
    *bound = (bindings){.stages = n,
        .stage = NEW_ARRAY(arena, const mth__resolved *, n),
        .in = NEW_ARRAY(arena, binding *, n),
        .consumed = NEW_ARRAY(arena, bool *, n)};
    for (size_t stage = 0; stage < n; stage++) {
        TRY(mth__resolve(mth__pipeline_stage(module, stage), &bound->stage[stage]));
        bound->in[stage] = NEW_ARRAY(arena, binding, bound->stage[stage]->inputs);
        bound->consumed[stage] = NEW_ARRAY(arena, bool, bound->stage[stage]->outputs);
    }
    for (size_t stage = 0; stage < n; stage++) {
        bind_stage(arena, bound, (int)stage);
        list_made(arena, bound, (int)stage);
    }
    return NULL;
}

/* ---------------------------------------------------------------- ports */
/* The outputs that no later stage takes or that the stage exposes, as (stage, output) pairs in order; the last stage's
 * main one is the port "output". */
static int visible_outputs(mth__arena *arena, const bindings *bound, int (**pairs)[2], const char ***names) {
    VEC(const char *) name = {0};
    mth__names given = {0};
    size_t room = 0;
    for (size_t stage = 0; stage < bound->stages; stage++) room += (size_t)bound->stage[stage]->outputs;
    int(*pair)[2] = mth__alloc_array(arena, room, sizeof *pair), last = (int)bound->stages - 1,
    main = main_output(arena, bound->stage[last]);
    for (int stage = 0; stage <= last; stage++)
        for (int operand = 0; operand < bound->stage[stage]->outputs; operand++) {
            if (bound->consumed[stage][operand] && !bound->stage[stage]->output[operand].exposed) continue;
            const char *text = stage == last && operand == main ? "output" : bound->stage[stage]->output[operand].name;
            bool clash =
                (!strcmp(text, "output") && !(stage == last && operand == main)) || mth__names_find(&given, text) >= 0;
            pair[name.n][0] = stage;
            pair[name.n][1] = operand;
            PUSH(arena, name, clash ? mth__format(arena, "stage_%d.%s", stage, text) : text);
            mth__names_add(arena, &given, name.at[name.n - 1]);
        }
    *pairs = pair;
    *names = name.at;
    return (int)name.n;
}

static void pipeline_ports(const mth_module *module, mth__arena *arena, const char **inputs, const char **outputs) {
    bindings bound;
    mth__text in = mth__text_new(arena), out = mth__text_new(arena);
    mth__names seen = {0};
    mth_status status = bind_all(module, arena, &bound); /* the check has resolved the stages: it can't fail again */
    mth_error_free(status);
    for (size_t k = 0; k < bound.stages; k++)
        for (int i = 0; i < bound.stage[k]->inputs; i++) {
            const char *port = bound.in[k][i].port;
            if (bound.in[k][i].kind == EARLIER || mth__names_find(&seen, port) >= 0) continue;
            mth__text_add(&in, "%s%s%s", seen.name.n ? ", " : "", port, k ? "?" : "");
            mth__names_add(arena, &seen, port);
        }
    int(*pair)[2];
    const char **names;
    int n = visible_outputs(arena, &bound, &pair, &names);
    for (int i = 0; i < n; i++) {
        const int stage = pair[i][0], output = pair[i][1];
        const bool side = bound.stage[stage]->output[output].side || bound.consumed[stage][output];
        mth__text_add(&out, "%s%s%s", i ? ", " : "", names[i], side ? "?" : "");
    }
    *inputs = in.at ? in.at : "";
    *outputs = out.at;
}

int mth__pipeline_port(const mth_module *module, mth__arena *scratch, int stage, int output) {
    bindings bound;
    int(*pair)[2];
    const char **names;
    mth_status failed = bind_all(module, scratch, &bound); /* of a resolved model: it can't fail */
    mth_error_free(failed);
    const int n = visible_outputs(scratch, &bound, &pair, &names);
    for (int i = 0; i < n; i++)
        if (pair[i][0] == stage && pair[i][1] == output) return i;
    return -1;
}

static mth_status pipeline_wired(const mth_module *module, const int *wires) {
    mth__arena *arena = mth__arena_new();
    bindings bound;
    TRY(bind_all(module, arena, &bound));
    mth__ports ports = mth__ports_parse(arena, module->inputs);
    for (size_t stage = 1; stage < bound.stages; stage++) {
        const char *open[2] = {NULL, NULL};
        int several = 0;
        for (int i = 0; i < bound.stage[stage]->inputs; i++) {
            const binding *in = &bound.in[stage][i];
            if (in->kind == EARLIER) continue;
            several += in->kind == OPEN;
            if (wires[mth__ports_find(&ports, in->port)]) continue;
            if (in->kind == OPEN)
                open[open[0] != NULL] = in->port;
            else
                return FAIL(MTH_ERROR_VALUE, F("nothing binds the input '%s' of stage_%zu", in->port, stage),
                    F("wire it as a keyword of the Pipeline (%s='...'), or name an output of an earlier stage so",
                        in->port));
        }
        if (open[1])
            return FAIL(MTH_ERROR_VALUE,
                F("nothing binds the input '%s' of stage_%zu: the stage before feeds it or '%s'", open[1], stage,
                    open[0]),
                F("wire one as a keyword of the Pipeline (%s='...'), or give an output of an earlier stage that name",
                    open[1]));
        if (several && !open[0])
            return FAIL(MTH_ERROR_VALUE,
                F("all inputs of stage_%zu are wired from outside, none takes the output of the stage before", stage),
                F("leave the one unwired that takes it"));
    }
    mth__arena_free(arena);
    return NULL;
}

mth__names mth__pipeline_marked(const mth_module *module, mth__arena *scratch, bool *const *marks) {
    bindings bound;
    mth__names met = {0}, marked = {0};
    mth_status failed = bind_all(module, scratch, &bound); /* of a resolved model: it can't fail */
    mth_error_free(failed);
    for (size_t stage = 0; stage < bound.stages; stage++)
        for (int i = 0; i < bound.stage[stage]->inputs; i++) {
            const binding *in = &bound.in[stage][i];
            if (in->kind == EARLIER || mth__names_find(&met, in->port) >= 0) continue;
            mth__names_add(scratch, &met, in->port);
            if (marks[stage][i]) mth__names_add(scratch, &marked, in->port);
        }
    return marked;
}

/* ---------------------------------------------------------------- options */
static bool holds_pipeline(const mth_model *model) {
    for (size_t i = 0; i < model->block.n; i++) {
        const mth__block *block = model->block.at[i];
        if (block->model ? holds_pipeline(block->model) : block->module->type == &mth__type_Pipeline) return true;
    }
    return false;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static mth_status check_assignment(mth__arena *arena, const mth_arg *a, size_t stages) {
    if (a->kind != MTH_ARG_LIST || a->count != stages)
        return FAIL(MTH_ERROR_VALUE,
            F("device_assignment has %zu entries for %zu stages", a->kind == MTH_ARG_LIST ? a->count : 1, stages),
            F("give a device, or a list of devices, for each stage"));
    for (size_t stage = 0; stage < stages; stage++) {
        const mth_arg *value = &a->items[stage];
        if (value->kind == MTH_ARG_INT) continue;
        bool good = value->kind == MTH_ARG_LIST && value->count;
        int64_t *device = NEW_ARRAY(arena, int64_t, value->count);
        for (size_t i = 0; good && i < value->count; i++) {
            good = value->items[i].kind == MTH_ARG_INT;
            device[i] = value->items[i].integer;
        }
        if (!good)
            return FAIL(MTH_ERROR_TYPE, F("device_assignment gives stage %zu no device", stage),
                F("give a device id, or a list of device ids"));
        qsort(device, value->count, sizeof *device, by_value);
        for (size_t i = 1; i < value->count; i++)
            if (device[i] == device[i - 1])
                return FAIL(MTH_ERROR_VALUE,
                    F("device_assignment gives stage %zu device %" PRId64 " twice", stage, device[i]),
                    F("name each device of a stage once"));
    }
    return NULL;
}

static mth_status pipeline_check(const mth_module *module) {
    const mth_arg *stages = mth__module_option(module, "stages"),
                  *assignment = mth__module_option(module, "device_assignment"),
                  *axis = mth__module_option(module, "axis");
    if (!stages->count) return FAIL(MTH_ERROR_VALUE, F("a Pipeline without stages"), F("give stages=[model, ...]"));
    for (size_t number = 0; number < stages->count; number++) {
        const mth_arg *stage = &stages->items[number];
        if (stage->kind != MTH_ARG_MODEL || !stage->model)
            return FAIL(MTH_ERROR_TYPE, F("stage %zu is no model", number),
                F("put the module in a model of its own with mth_model_add, wired as input='input', output='output'"));
        if (!stage->model->block.n)
            return FAIL(MTH_ERROR_VALUE, F("stage %zu is an empty model", number),
                F("add a block to it, or leave the stage out"));
        if (holds_pipeline(stage->model))
            return FAIL(MTH_ERROR_VALUE, F("stage %zu holds a Pipeline", number),
                F("put its stages in the outer Pipeline; several stages may be on one device"));
        const mth__resolved *resolved;
        TRY(mth__resolve(stage->model, &resolved));
    }
    if (assignment->kind != MTH_ARG_NONE && axis->kind != MTH_ARG_NONE)
        return FAIL(
            MTH_ERROR_VALUE, F("device_assignment and axis both say where the stages are"), F("give one of the two"));
    if (mth__module_option(module, "device_id")->kind != MTH_ARG_NONE)
        return FAIL(MTH_ERROR_VALUE, F("a Pipeline is on the devices of its stages, and device_id names one for all"),
            F("use device_assignment"));
    if (assignment->kind != MTH_ARG_NONE) TRY(check_assignment(module->arena, assignment, stages->count));
    return NULL;
}

mth_status mth__pipeline_place(const mth_module *module, mth__mesh *mesh, size_t stage, const mth__placement **on) {
    const mth_arg *assignment = mth__module_option(module, "device_assignment"),
                  *axis = mth__module_option(module, "axis");
    if (axis->kind == MTH_ARG_INT) {
        if (axis->integer < 0 || axis->integer >= mesh->naxes)
            return FAIL(MTH_ERROR_VALUE,
                F("axis=%" PRId64 ", and the mesh has %d %s", axis->integer, mesh->naxes,
                    mesh->naxes == 1 ? "axis" : "axes"),
                mesh->naxes == 1 ? F("give axis=0, or leave it out") : F("give an axis from 0 to %d", mesh->naxes - 1));
        *on = mth__place_slice(mesh, (int)axis->integer, (int)(stage % (size_t)mesh->dim[axis->integer]));
        return NULL;
    }
    if (assignment->kind == MTH_ARG_NONE)
        return *on = mth__place_device(mesh, (int)(stage % (size_t)mesh->count)), NULL;
    const mth_arg *value = &assignment->items[stage], *id = value->kind == MTH_ARG_LIST ? value->items : value;
    size_t n = value->kind == MTH_ARG_LIST ? value->count : 1;
    for (size_t i = 0; i < n; i++)
        if (id[i].integer < 0 || id[i].integer >= mesh->count)
            return FAIL(MTH_ERROR_VALUE,
                F("device_assignment gives stage_%zu device %" PRId64 ", and the mesh has %d", stage, id[i].integer,
                    mesh->count),
                F("give devices from 0 to %d, or a backend with a larger device_mesh", mesh->count - 1));
    int32_t *device = NEW_ARRAY(mesh->arena, int32_t, n);
    for (size_t i = 0; i < n; i++) device[i] = (int32_t)id[i].integer;
    *on = mth__place_list(mesh, (int)n, device);
    return NULL;
}

/* ---------------------------------------------------------------- expansion */
static mth__region *new_region(mth__expansion *expansion, size_t stages) {
    mth__graph *graph = expansion->builder.graph;
    mth__region *region = NEW(graph->arena, mth__region);
    int64_t size = mth__opt_int(expansion, "microbatch_size", INT_MAX);
    *region = (mth__region){.name = expansion->builder.label.module,
        .stages = (int)stages,
        .microbatch_size = size > INT_MAX ? INT_MAX : (int)size,
        .schedule = strcmp(mth__opt_string(expansion, "schedule"), "gpipe") ? MTH__1F1B : MTH__GPIPE,
        .stage_on = NEW_ARRAY(graph->arena, const mth__placement *, stages),
        .in = NEW_ARRAY(graph->arena, mth__value *, expansion->nin),
        .out = NEW_ARRAY(graph->arena, mth__value *, expansion->nout)};
    bool *listed = NEW_ARRAY(graph->arena, bool, graph->values); /* by value id */
    for (int i = 0; i < expansion->nin; i++) {
        if (!listed[expansion->in[i]->id]) region->in[region->nin++] = expansion->in[i];
        listed[expansion->in[i]->id] = true;
    }
    PUSH(graph->arena, graph->region, region);
    return region;
}

static mth_status pipeline_expand(mth__expansion *expansion) {
    mth__graph *graph = expansion->builder.graph;
    bindings bound;
    TRY(bind_all(expansion->module, graph->arena, &bound));
    mth__region *region = new_region(expansion, bound.stages);
    mth__names ports = {0};
    for (int i = 0; i < expansion->nin; i++) mth__names_add(graph->arena, &ports, expansion->in_port[i]);
    mth__value ***made = NEW_ARRAY(graph->arena, mth__value **, bound.stages);
    for (size_t stage = 0; stage < bound.stages; stage++) {
        mth__site site = {NULL, (int)graph->region.n - 1, (int)stage};
        TRY(mth__pipeline_place(expansion->module, graph->mesh, stage, &site.place));
        region->stage_on[stage] = site.place;
        mth__value **in = NEW_ARRAY(graph->arena, mth__value *, bound.stage[stage]->inputs);
        made[stage] = NEW_ARRAY(graph->arena, mth__value *, bound.stage[stage]->outputs);
        for (int i = 0; i < bound.stage[stage]->inputs; i++) {
            const binding *from = &bound.in[stage][i];
            int port = from->kind == EARLIER ? -1 : mth__names_find(&ports, from->port);
            if (port >= 0)
                in[i] = expansion->in[port];
            else
                in[i] = made[from->stage][from->output];
        }
        TRY(mth__expand_stage(expansion, mth__pipeline_stage(expansion->module, stage),
            mth__format(graph->arena, "stage_%zu", stage), &site, in, made[stage]));
    }
    int(*pair)[2];
    const char **names;
    int n = visible_outputs(graph->arena, &bound, &pair, &names);
    for (int i = 0; i < n; i++) region->out[region->nout++] = expansion->out[i] = made[pair[i][0]][pair[i][1]];
    return NULL;
}

const mth__module_type mth__type_Pipeline = {
    .name = "Pipeline",
    .inputs = "input, ...",
    .outputs = "output, ...",
    .options = (const mth__opt[]){{"stages", MTH__OPT_LIST, NULL, "the models that run one after the other", NULL},
        {"device_assignment", MTH__OPT_LIST, "None",
            "for each stage a device or a list of devices; a device may have several stages. Without it and axis, "
            "stage s is on device s, "
            "round and round",
            NULL},
        {"axis", MTH__OPT_INT, "None",
            "stages along this axis of the mesh: stage s is on the devices whose coordinate is s modulo the "
            "axis's size; the other axes are the stage's mesh",
            NULL},
        {"microbatch_size", MTH__OPT_SIZE, "None",
            "how many rows of the batch (the first dimension) a stage takes at a time; the last "
            "microbatch may be smaller; None: the whole batch",
            NULL},
        {"schedule", MTH__OPT_CHOICE, "'gpipe'",
            "with gradients: all forwards, then all backwards, or one forward and one backward in "
            "turn, which holds fewer activations",
            "gpipe|1f1b"},
        {0}},
    .doc = "Runs stages on their own devices, microbatch by microbatch. The one open input of a stage takes the output "
           "of the stage "
           "before; further inputs bind by name to an output of an earlier stage, else to a keyword of the Pipeline. "
           "The last stage's "
           "output is the port `output`; outputs that no later stage takes are ports by their names. Inside a stage, "
           "device ids are those "
           "of the mesh, and specs and device_mesh refer to the stage's devices. Parameters are named "
           "`pipeline_0.stage_0.linear_0.weight`.",
    .parameters = "",
    .check = pipeline_check,
    .ports = pipeline_ports,
    .expand = pipeline_expand,
    .wired = pipeline_wired,
};
