/* The module Pipeline: stages one after the other, each on its own devices. What binds their inputs is found by
 * stages.c; microbatches are cut by a pass of distribute/. */
#include "compose/parts.h"
#include "compose/stages.h"
#include <limits.h>
#include <string.h>

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
    mth__bindings bound;
    TRY(mth__stages_bind(expansion->module, graph->arena, &bound));
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
            const mth__binding *from = &bound.in[stage][i];
            int port = from->kind == MTH__EARLIER ? -1 : mth__names_find(&ports, from->port);
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
    int n = mth__stages_outputs(graph->arena, &bound, &pair, &names);
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
    .check = mth__stages_check,
    .ports = mth__stages_ports,
    .expand = pipeline_expand,
    .wired = mth__stages_wired,
};
