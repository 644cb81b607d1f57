/* What binds the inputs of a Pipeline's stages, which outputs are its own, and which options it takes. */
#include "compose/stages.h"
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- what binds the inputs of the stages */
/* The output that the next stage takes. */
static int main_output(mth__arena *arena, const mth__resolved *resolved) {
    mth__ports outputs = mth__model_outputs(arena, resolved);
    return mth__ports_main(&outputs);
}

/* The output of that name of the nearest of the earlier stages from `first` on. */
static bool find_earlier(const mth__bindings *bound, int first, const char *name, mth__binding *out) {
    int id = mth__names_find(&bound->made, name);
    if (id < 0 || bound->maker.at[id].stage < first) return false;
    return *out = bound->maker.at[id], true;
}

static void list_made(mth__arena *arena, mth__bindings *bound, int stage) {
    for (int output = bound->stage[stage]->outputs - 1; output >= 0;
        output--) { /* of two of one name the first stays */
        size_t id = (size_t)mth__names_add(arena, &bound->made, bound->stage[stage]->output[output].name);
        if (id == bound->maker.n) PUSH(arena, bound->maker, ((mth__binding){0}));
        bound->maker.at[id] = (mth__binding){MTH__EARLIER, stage, output, NULL};
    }
}

static void bind_stage(mth__arena *arena, mth__bindings *bound, int stage) {
    const mth__resolved *resolved = bound->stage[stage];
    mth__binding *in = bound->in[stage];
    if (stage == 0) {
        for (int i = 0; i < resolved->inputs; i++)
            in[i] = (mth__binding){MTH__PORT, 0, 0, resolved->inputs == 1 ? "input" : resolved->input[i]};
        return;
    }
    mth__binding before = {MTH__EARLIER, stage - 1, main_output(arena, bound->stage[stage - 1]), NULL};
    int left = 0, last = -1, named = -1;
    bool taken = false;
    for (int i = 0; i < resolved->inputs; i++) {
        /* a single input is fed by the stage before */
        if (find_earlier(bound, resolved->inputs > 1 ? 0 : stage - 1, resolved->input[i], &in[i])) {
            taken |= in[i].stage == before.stage && in[i].output == before.output;
            continue;
        }
        in[i] = (mth__binding){MTH__PORT, 0, 0, resolved->input[i]};
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
            if (in[i].kind == MTH__PORT)
                in[i] = (mth__binding){MTH__OPEN, before.stage, before.output, resolved->input[i]};
    for (int i = 0; i < resolved->inputs; i++)
        if (in[i].kind != MTH__PORT) bound->consumed[in[i].stage][in[i].output] = true;
}

mth_status mth__stages_bind(const mth_module *module, mth__arena *arena, mth__bindings *bound) {
    size_t n = mth__pipeline_stages(module);
    *bound = (mth__bindings){.stages = n,
        .stage = NEW_ARRAY(arena, const mth__resolved *, n),
        .in = NEW_ARRAY(arena, mth__binding *, n),
        .consumed = NEW_ARRAY(arena, bool *, n)};
    for (size_t stage = 0; stage < n; stage++) {
        TRY(mth__resolve(mth__pipeline_stage(module, stage), &bound->stage[stage]));
        bound->in[stage] = NEW_ARRAY(arena, mth__binding, bound->stage[stage]->inputs);
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
int mth__stages_outputs(mth__arena *arena, const mth__bindings *bound, int (**pairs)[2], const char ***names) {
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

void mth__stages_ports(const mth_module *module, mth__arena *arena, const char **inputs, const char **outputs) {
    mth__bindings bound;
    mth__text in = mth__text_new(arena), out = mth__text_new(arena);
    mth__names seen = {0};
    mth_status status =
        mth__stages_bind(module, arena, &bound); /* the check has resolved the stages: it can't fail again */
    mth_error_free(status);
    for (size_t k = 0; k < bound.stages; k++)
        for (int i = 0; i < bound.stage[k]->inputs; i++) {
            const char *port = bound.in[k][i].port;
            if (bound.in[k][i].kind == MTH__EARLIER || mth__names_find(&seen, port) >= 0) continue;
            mth__text_add(&in, "%s%s%s", seen.name.n ? ", " : "", port, k ? "?" : "");
            mth__names_add(arena, &seen, port);
        }
    int(*pair)[2];
    const char **names;
    int n = mth__stages_outputs(arena, &bound, &pair, &names);
    for (int i = 0; i < n; i++) {
        const int stage = pair[i][0], output = pair[i][1];
        const bool side = bound.stage[stage]->output[output].side || bound.consumed[stage][output];
        mth__text_add(&out, "%s%s%s", i ? ", " : "", names[i], side ? "?" : "");
    }
    *inputs = in.at ? in.at : "";
    *outputs = out.at;
}

int mth__pipeline_port(const mth_module *module, mth__arena *scratch, int stage, int output) {
    mth__bindings bound;
    int(*pair)[2];
    const char **names;
    mth_status failed = mth__stages_bind(module, scratch, &bound); /* of a resolved model: it can't fail */
    mth_error_free(failed);
    const int n = mth__stages_outputs(scratch, &bound, &pair, &names);
    for (int i = 0; i < n; i++)
        if (pair[i][0] == stage && pair[i][1] == output) return i;
    return -1;
}

mth_status mth__stages_wired(const mth_module *module, const int *wires) {
    mth__arena *arena = mth__arena_new();
    mth__bindings bound;
    TRY(mth__stages_bind(module, arena, &bound));
    mth__ports ports = mth__ports_parse(arena, module->inputs);
    for (size_t stage = 1; stage < bound.stages; stage++) {
        const char *open[2] = {NULL, NULL};
        int several = 0;
        for (int i = 0; i < bound.stage[stage]->inputs; i++) {
            const mth__binding *in = &bound.in[stage][i];
            if (in->kind == MTH__EARLIER) continue;
            several += in->kind == MTH__OPEN;
            if (wires[mth__ports_find(&ports, in->port)]) continue;
            if (in->kind == MTH__OPEN)
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
    mth__bindings bound;
    mth__names met = {0}, marked = {0};
    mth_status failed = mth__stages_bind(module, scratch, &bound); /* of a resolved model: it can't fail */
    mth_error_free(failed);
    for (size_t stage = 0; stage < bound.stages; stage++)
        for (int i = 0; i < bound.stage[stage]->inputs; i++) {
            const mth__binding *in = &bound.in[stage][i];
            if (in->kind == MTH__EARLIER || mth__names_find(&met, in->port) >= 0) continue;
            mth__names_add(scratch, &met, in->port);
            if (marks[stage][i]) mth__names_add(scratch, &marked, in->port);
        }
    return marked;
}

/* ---------------------------------------------------------------- options */
static bool holds_pipeline(const mth_model *model) {
    for (size_t i = 0; i < model->block.n; i++) {
        const mth__block *block = model->block.at[i];
        if (block->model ? holds_pipeline(block->model) : mth__pipeline_stages(block->module)) return true;
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

mth_status mth__stages_check(const mth_module *module) {
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
