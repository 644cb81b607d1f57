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
static int main_output(mth__arena *arena, const mth__resolved *r) {
    mth__ports outputs = mth__model_outputs(arena, r);
    return mth__ports_main(&outputs);
}

/* The output of that name of the nearest of the earlier stages from `first` on. */
static bool find_earlier(const bindings *b, int first, const char *name, binding *out) {
    int id = mth__names_find(&b->made, name);
    if (id < 0 || b->maker.at[id].stage < first) return false;
    return *out = b->maker.at[id], true;
}

static void list_made(mth__arena *arena, bindings *b, int s) {
    for (int o = b->stage[s]->outputs - 1; o >= 0; o--) { /* of two of one name the first stays */
        size_t id = (size_t)mth__names_add(arena, &b->made, b->stage[s]->output[o].name);
        if (id == b->maker.n) PUSH(arena, b->maker, ((binding){0}));
        b->maker.at[id] = (binding){EARLIER, s, o, NULL};
    }
}

static void bind_stage(mth__arena *arena, bindings *b, int s) {
    const mth__resolved *r = b->stage[s];
    binding *in = b->in[s];
    if (s == 0) {
        for (int i = 0; i < r->inputs; i++) in[i] = (binding){PORT, 0, 0, r->inputs == 1 ? "input" : r->input[i]};
        return;
    }
    binding before = {EARLIER, s - 1, main_output(arena, b->stage[s - 1]), NULL};
    int left = 0, last = -1, named = -1;
    bool taken = false;
    for (int i = 0; i < r->inputs; i++) {
        /* a single input is fed by the stage before */
        if (find_earlier(b, r->inputs > 1 ? 0 : s - 1, r->input[i], &in[i])) {
            taken |= in[i].stage == before.stage && in[i].output == before.output;
            continue;
        }
        in[i] = (binding){PORT, 0, 0, r->input[i]};
        left++;
        last = i;
        if (!strcmp(r->input[i], "input")) named = i;
    }
    if (!taken && named >= 0)
        in[named] = before;
    else if (!taken && left == 1)
        in[last] = before;
    else if (!taken)
        for (int i = 0; i < r->inputs; i++)
            if (in[i].kind == PORT) in[i] = (binding){OPEN, before.stage, before.output, r->input[i]};
    for (int i = 0; i < r->inputs; i++)
        if (in[i].kind != PORT) b->consumed[in[i].stage][in[i].output] = true;
}

static mth_status bind_all(const mth_module *m, mth__arena *arena, bindings *b) {
    size_t n = mth__pipeline_stages(m);
    *b = (bindings){.stages = n,
        .stage = NEW_ARRAY(arena, const mth__resolved *, n),
        .in = NEW_ARRAY(arena, binding *, n),
        .consumed = NEW_ARRAY(arena, bool *, n)};
    for (size_t s = 0; s < n; s++) {
        TRY(mth__resolve(mth__pipeline_stage(m, s), &b->stage[s]));
        b->in[s] = NEW_ARRAY(arena, binding, b->stage[s]->inputs);
        b->consumed[s] = NEW_ARRAY(arena, bool, b->stage[s]->outputs);
    }
    for (size_t s = 0; s < n; s++) {
        bind_stage(arena, b, (int)s);
        list_made(arena, b, (int)s);
    }
    return NULL;
}

/* ---------------------------------------------------------------- ports */
/* The outputs that no later stage takes or that the stage exposes, as (stage, output) pairs in order; the last stage's
 * main one is the port "output". */
static int visible_outputs(mth__arena *arena, const bindings *b, int (**pairs)[2], const char ***names) {
    VEC(const char *) name = {0};
    mth__names given = {0};
    size_t room = 0;
    for (size_t s = 0; s < b->stages; s++) room += (size_t)b->stage[s]->outputs;
    int(*pair)[2] = mth__alloc_array(arena, room, sizeof *pair), last = (int)b->stages - 1,
    main = main_output(arena, b->stage[last]);
    for (int s = 0; s <= last; s++)
        for (int o = 0; o < b->stage[s]->outputs; o++) {
            if (b->consumed[s][o] && !b->stage[s]->output[o].exposed) continue;
            const char *text = s == last && o == main ? "output" : b->stage[s]->output[o].name;
            bool clash = (!strcmp(text, "output") && !(s == last && o == main)) || mth__names_find(&given, text) >= 0;
            pair[name.n][0] = s;
            pair[name.n][1] = o;
            PUSH(arena, name, clash ? mth__format(arena, "stage_%d.%s", s, text) : text);
            mth__names_add(arena, &given, name.at[name.n - 1]);
        }
    *pairs = pair;
    *names = name.at;
    return (int)name.n;
}

static void pipeline_ports(const mth_module *m, mth__arena *arena, const char **inputs, const char **outputs) {
    bindings b;
    mth__text in = mth__text_new(arena), out = mth__text_new(arena);
    mth__names seen = {0};
    mth_status s = bind_all(m, arena, &b); /* the check has resolved the stages: it can't fail again */
    mth_error_free(s);
    for (size_t k = 0; k < b.stages; k++)
        for (int i = 0; i < b.stage[k]->inputs; i++) {
            const char *port = b.in[k][i].port;
            if (b.in[k][i].kind == EARLIER || mth__names_find(&seen, port) >= 0) continue;
            mth__text_add(&in, "%s%s%s", seen.name.n ? ", " : "", port, k ? "?" : "");
            mth__names_add(arena, &seen, port);
        }
    int(*pair)[2];
    const char **names;
    int n = visible_outputs(arena, &b, &pair, &names);
    for (int i = 0; i < n; i++) {
        const int stage = pair[i][0], output = pair[i][1];
        const bool side = b.stage[stage]->output[output].side || b.consumed[stage][output];
        mth__text_add(&out, "%s%s%s", i ? ", " : "", names[i], side ? "?" : "");
    }
    *inputs = in.at ? in.at : "";
    *outputs = out.at;
}

int mth__pipeline_port(const mth_module *m, mth__arena *scratch, int stage, int output) {
    bindings b;
    int(*pair)[2];
    const char **names;
    mth_status failed = bind_all(m, scratch, &b); /* of a resolved model: it can't fail */
    mth_error_free(failed);
    const int n = visible_outputs(scratch, &b, &pair, &names);
    for (int i = 0; i < n; i++)
        if (pair[i][0] == stage && pair[i][1] == output) return i;
    return -1;
}

static mth_status pipeline_wired(const mth_module *m, const int *wires) {
    mth__arena *arena = mth__arena_new();
    bindings b;
    TRY(bind_all(m, arena, &b));
    mth__ports ports = mth__ports_parse(arena, m->inputs);
    for (size_t s = 1; s < b.stages; s++) {
        const char *open[2] = {NULL, NULL};
        int several = 0;
        for (int i = 0; i < b.stage[s]->inputs; i++) {
            const binding *in = &b.in[s][i];
            if (in->kind == EARLIER) continue;
            several += in->kind == OPEN;
            if (wires[mth__ports_find(&ports, in->port)]) continue;
            if (in->kind == OPEN)
                open[open[0] != NULL] = in->port;
            else
                return FAIL(MTH_ERROR_VALUE, F("nothing binds the input '%s' of stage_%zu", in->port, s),
                    F("wire it as a keyword of the Pipeline (%s='...'), or name an output of an earlier stage so",
                        in->port));
        }
        if (open[1])
            return FAIL(MTH_ERROR_VALUE,
                F("nothing binds the input '%s' of stage_%zu: the stage before feeds it or '%s'", open[1], s, open[0]),
                F("wire one as a keyword of the Pipeline (%s='...'), or give an output of an earlier stage that name",
                    open[1]));
        if (several && !open[0])
            return FAIL(MTH_ERROR_VALUE,
                F("all inputs of stage_%zu are wired from outside, none takes the output of the stage before", s),
                F("leave the one unwired that takes it"));
    }
    mth__arena_free(arena);
    return NULL;
}

mth__names mth__pipeline_marked(const mth_module *m, mth__arena *scratch, bool *const *marks) {
    bindings b;
    mth__names met = {0}, marked = {0};
    mth_status failed = bind_all(m, scratch, &b); /* of a resolved model: it can't fail */
    mth_error_free(failed);
    for (size_t s = 0; s < b.stages; s++)
        for (int i = 0; i < b.stage[s]->inputs; i++) {
            const binding *in = &b.in[s][i];
            if (in->kind == EARLIER || mth__names_find(&met, in->port) >= 0) continue;
            mth__names_add(scratch, &met, in->port);
            if (marks[s][i]) mth__names_add(scratch, &marked, in->port);
        }
    return marked;
}

/* ---------------------------------------------------------------- options */
static bool holds_pipeline(const mth_model *m) {
    for (size_t i = 0; i < m->block.n; i++) {
        const mth__block *b = m->block.at[i];
        if (b->model ? holds_pipeline(b->model) : b->module->type == &mth__type_Pipeline) return true;
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
    for (size_t s = 0; s < stages; s++) {
        const mth_arg *e = &a->items[s];
        if (e->kind == MTH_ARG_INT) continue;
        bool good = e->kind == MTH_ARG_LIST && e->count;
        int64_t *device = NEW_ARRAY(arena, int64_t, e->count);
        for (size_t i = 0; good && i < e->count; i++) {
            good = e->items[i].kind == MTH_ARG_INT;
            device[i] = e->items[i].integer;
        }
        if (!good)
            return FAIL(MTH_ERROR_TYPE, F("device_assignment gives stage %zu no device", s),
                F("give a device id, or a list of device ids"));
        qsort(device, e->count, sizeof *device, by_value);
        for (size_t i = 1; i < e->count; i++)
            if (device[i] == device[i - 1])
                return FAIL(MTH_ERROR_VALUE,
                    F("device_assignment gives stage %zu device %" PRId64 " twice", s, device[i]),
                    F("name each device of a stage once"));
    }
    return NULL;
}

static mth_status pipeline_check(const mth_module *m) {
    const mth_arg *stages = mth__module_option(m, "stages"), *assignment = mth__module_option(m, "device_assignment"),
                  *axis = mth__module_option(m, "axis");
    if (!stages->count) return FAIL(MTH_ERROR_VALUE, F("a Pipeline without stages"), F("give stages=[model, ...]"));
    for (size_t s = 0; s < stages->count; s++) {
        const mth_arg *stage = &stages->items[s];
        if (stage->kind != MTH_ARG_MODEL || !stage->model)
            return FAIL(MTH_ERROR_TYPE, F("stage %zu is no model", s),
                F("put the module in a model of its own with mth_model_add, wired as input='input', output='output'"));
        if (!stage->model->block.n)
            return FAIL(
                MTH_ERROR_VALUE, F("stage %zu is an empty model", s), F("add a block to it, or leave the stage out"));
        if (holds_pipeline(stage->model))
            return FAIL(MTH_ERROR_VALUE, F("stage %zu holds a Pipeline", s),
                F("put its stages in the outer Pipeline; several stages may be on one device"));
        const mth__resolved *r;
        TRY(mth__resolve(stage->model, &r));
    }
    if (assignment->kind != MTH_ARG_NONE && axis->kind != MTH_ARG_NONE)
        return FAIL(
            MTH_ERROR_VALUE, F("device_assignment and axis both say where the stages are"), F("give one of the two"));
    if (mth__module_option(m, "device_id")->kind != MTH_ARG_NONE)
        return FAIL(MTH_ERROR_VALUE, F("a Pipeline is on the devices of its stages, and device_id names one for all"),
            F("use device_assignment"));
    if (assignment->kind != MTH_ARG_NONE) TRY(check_assignment(m->arena, assignment, stages->count));
    return NULL;
}

mth_status mth__pipeline_place(const mth_module *m, mth__mesh *mesh, size_t stage, const mth__placement **on) {
    const mth_arg *assignment = mth__module_option(m, "device_assignment"), *axis = mth__module_option(m, "axis");
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
    const mth_arg *e = &assignment->items[stage], *id = e->kind == MTH_ARG_LIST ? e->items : e;
    size_t n = e->kind == MTH_ARG_LIST ? e->count : 1;
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
static mth__region *new_region(mth__expansion *e, size_t stages) {
    mth__graph *g = e->builder.graph;
    mth__region *r = NEW(g->arena, mth__region);
    int64_t size = mth__opt_int(e, "microbatch_size", INT_MAX);
    *r = (mth__region){.name = e->builder.label.module,
        .stages = (int)stages,
        .microbatch_size = size > INT_MAX ? INT_MAX : (int)size,
        .schedule = strcmp(mth__opt_string(e, "schedule"), "gpipe") ? MTH__1F1B : MTH__GPIPE,
        .stage_on = NEW_ARRAY(g->arena, const mth__placement *, stages),
        .in = NEW_ARRAY(g->arena, mth__value *, e->nin),
        .out = NEW_ARRAY(g->arena, mth__value *, e->nout)};
    bool *listed = NEW_ARRAY(g->arena, bool, g->values); /* by value id */
    for (int i = 0; i < e->nin; i++) {
        if (!listed[e->in[i]->id]) r->in[r->nin++] = e->in[i];
        listed[e->in[i]->id] = true;
    }
    PUSH(g->arena, g->region, r);
    return r;
}

static mth_status pipeline_expand(mth__expansion *e) {
    mth__graph *g = e->builder.graph;
    bindings b;
    TRY(bind_all(e->module, g->arena, &b));
    mth__region *region = new_region(e, b.stages);
    mth__names ports = {0};
    for (int i = 0; i < e->nin; i++) mth__names_add(g->arena, &ports, e->in_port[i]);
    mth__value ***made = NEW_ARRAY(g->arena, mth__value **, b.stages);
    for (size_t s = 0; s < b.stages; s++) {
        mth__site site = {NULL, (int)g->region.n - 1, (int)s};
        TRY(mth__pipeline_place(e->module, g->mesh, s, &site.place));
        region->stage_on[s] = site.place;
        mth__value **in = NEW_ARRAY(g->arena, mth__value *, b.stage[s]->inputs);
        made[s] = NEW_ARRAY(g->arena, mth__value *, b.stage[s]->outputs);
        for (int i = 0; i < b.stage[s]->inputs; i++) {
            const binding *from = &b.in[s][i];
            int port = from->kind == EARLIER ? -1 : mth__names_find(&ports, from->port);
            if (port >= 0)
                in[i] = e->in[port];
            else
                in[i] = made[from->stage][from->output];
        }
        TRY(mth__expand_stage(
            e, mth__pipeline_stage(e->module, s), mth__format(g->arena, "stage_%zu", s), &site, in, made[s]));
    }
    int(*pair)[2];
    const char **names;
    int n = visible_outputs(g->arena, &b, &pair, &names);
    for (int i = 0; i < n; i++) region->out[region->nout++] = e->out[i] = made[pair[i][0]][pair[i][1]];
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
