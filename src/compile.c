/* THE page: from a model to a program, pass by pass, top to bottom. A pass changes the graph in place;
 * what becomes of it depends on the graph and the options alone, so the same input gives the same program. After
 * each pass the graph's invariants are checked, and with MITHRIL_DUMP=dir it is written to dir/NN_pass.txt. */
#include "compile.h"
#include "base/names.h"
#include "base/number.h"
#include "base/stop.h"
#include "derive/derive.h"
#include "observe/partition_trace.h"
#include "observe/report.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const mth_compiled *compiled;
    mth__distribute_options distribute; /* the compiled model's, bound to the layout of an earlier plan */
    const mth__request *request;
    mth__plan *plan;
    mth__graph *graph;
    mth__program *global;
    const char *dump;
    int dumped;
    /* of the search's trial */
    bool trial, backward;
    mth__folding *folding;
} planning_state;

static mth_status run_until(planning_state *, const char *last);

/* A spec from the options of compile has as many entries as its tensor has dimensions, known only now. */
static mth_status check_spec(const mth__spec_of *spec, const mth__value *value) {
    if (spec->rank == value->shape.rank) return NULL;
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("the spec of '%s' has %d entries, the tensor %d dimensions", spec->name, spec->rank, value->shape.rank),
        F("give one entry a dimension: a mesh axis, a tuple of axes, or None"));
    return mth__error_tensor(status, mth__value_text(value));
}

static mth_status expand(planning_state *planning) {
    mth__graph *graph = planning->graph;
    TRY(mth__expand(planning->compiled->model, planning->request->input, planning->request->inputs, graph));
    mth__names inputs = {0}, outputs = {0};
    for (size_t k = 0; k < graph->input.n; k++) mth__names_add(graph->arena, &inputs, graph->input.at[k]->name);
    for (size_t k = 0; k < graph->output.n; k++) mth__names_add(graph->arena, &outputs, graph->output.at[k].name);
    for (size_t i = 0; i < planning->distribute.specs; i++) {
        const mth__spec_of *spec = &planning->distribute.spec[i];
        int input = mth__names_find(&inputs, spec->name), output = mth__names_find(&outputs, spec->name);
        if (input >= 0) TRY(check_spec(spec, graph->input.at[input]));
        if (output < 0) continue;
        TRY(check_spec(spec, graph->output.at[output].value));
        graph->output.at[output].has_spec = true;
    }
    if (planning->trial) {
        planning->folding = mth__fold(graph);
        for (size_t i = 0; i < graph->region.n; i++) graph->region.at[i]->microbatch_size = INT_MAX;
    }
    return NULL;
}
static mth_status distribute(planning_state *planning, mth__distribute_pass pass) {
    return mth__distribute(planning->graph, &planning->distribute, pass, pass);
}
static bool is_cut(const planning_state *planning) { return planning->distribute.partition != MTH__NOT_CUT; }
static mth_status partition(planning_state *planning) { return distribute(planning, MTH__PASS_PARTITION); }
static mth_status microbatch(planning_state *planning) { return distribute(planning, MTH__PASS_MICROBATCH); }
static mth_status gradients(planning_state *planning) {
    mth__gradient_options options = {
        planning->request->wanted_input, planning->request->wanted, planning->request->seeded};
    if (planning->trial) { /* of all outputs that have one, and of no input */
        bool *seeded = NEW_ARRAY(planning->graph->arena, bool, planning->graph->output.n);
        for (size_t i = 0; i < planning->graph->output.n; i++)
            seeded[i] = mth__is_float(planning->graph->output.at[i].value->dtype);
        options = (mth__gradient_options){.seeded = seeded};
    }
    return planning->trial ? (planning->backward ? mth__gradients(planning->graph, &options) : NULL)
                           : (planning->request->gradients ? mth__gradients(planning->graph, &options) : NULL);
}
static mth_status place(planning_state *planning) { return distribute(planning, MTH__PASS_PLACE); }

/* The search tries layouts on the model in small, planned up to there: repeated blocks folded, a pipeline's batch in
 * one, and backward always. */
static bool searches(const planning_state *planning) { return planning->distribute.auto_sharding && !planning->trial; }
static mth_status make_trial(const planning_state *planning, mth__arena *arena, bool backward, planning_state *trial) {
    *trial = *planning;
    trial->graph = mth__graph_new(arena, planning->graph->mesh);
    trial->dump = NULL;
    trial->trial = true;
    trial->backward = backward;
    return run_until(trial, "place");
}
static mth_status search(planning_state *planning) {
    mth__arena *arena = mth__arena_new();
    planning_state trial;
    mth_status status = make_trial(planning, arena, true, &trial);
    if (status) { /* an operator without a gradient */
        mth_error_free(status);
        status = make_trial(planning, arena, false, &trial);
    }
    if (!status) status = mth__search(planning->graph, trial.graph, trial.folding, &planning->distribute);
    mth__arena_free(arena);
    return status;
}
static mth_status shard(planning_state *planning) { return distribute(planning, MTH__PASS_SHARD); }
static bool partitions_itself(const planning_state *planning) { return planning->compiled->backend->spmd; }
static mth_status global(planning_state *planning) {
    return mth__emit_global(planning->plan->arena, planning->graph, &planning->global);
}
static mth_status reshard(planning_state *planning) { return distribute(planning, MTH__PASS_RESHARD); }
static mth_status communication(planning_state *planning) { return distribute(planning, MTH__PASS_COMMUNICATION); }
static mth_status schedule(planning_state *planning) { return distribute(planning, MTH__PASS_SCHEDULE); }
static mth_status overlap(planning_state *planning) { return distribute(planning, MTH__PASS_OVERLAP); }
static mth_status accumulate(planning_state *planning) { return distribute(planning, MTH__PASS_ACCUMULATE); }

static mth_status program(planning_state *planning) {
    mth_backend *backend = planning->compiled->backend;
    const mth__engine_traits *traits = &backend->vtable->traits;
    TRY(mth__check_kernels(planning->graph, backend->vtable));
    if (backend->distribute.overlap && traits->streams < 2)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("overlap_communication: a device of the %s engine does one thing after the other", backend->vtable->name),
            F("leave overlap_communication out"));
    mth__emit_options options = {.overlap = backend->distribute.overlap, .views = traits->views, .owns = traits->owns};
    memcpy(options.algorithm, backend->algorithm, sizeof options.algorithm);
    TRY(mth__emit(planning->plan->arena, planning->graph, &options, &planning->plan->program));
    planning->plan->global = planning->global;
    return planning->global ? backend->vtable->check_global(planning->global) : NULL;
}
mth_status mth__check_capacity(const mth_backend *backend, const mth_memory_usage *usage) {
    const mth__device_model *model = backend->devices.mesh->model;
    for (int d = 0; d < backend->devices.mesh->count; d++)
        if (usage[d].total > model->device_memory)
            return FAIL(MTH_ERROR_MEMORY,
                F("device %d needs %lld bytes, and one of the machine '%s' has %lld", d, (long long)usage[d].total,
                    model->machine->name, (long long)model->device_memory),
                F("split the model over more devices, %stry smaller batches, or name a machine with more memory",
                    mth__options_row(backend->vtable->options, "memory_optimization") ? "try memory_optimization=True, "
                                                                                      : ""));
    return NULL;
}
/* A plan that no device of the machine could hold is refused before anything runs. Of an engine that allocates by
 * itself entries and exits alone are known here: mth__load_plan asks it for the rest. */
static mth_status check_capacity(const planning_state *planning) {
    const mth_backend *backend = planning->compiled->backend;
    if (backend->devices.mesh->model->device_memory == INT64_MAX) return NULL;
    const int devices = backend->devices.mesh->count;
    const bool slabs = !backend->vtable->traits.allocates;
    mth_memory_usage *usage = NEW_ARRAY(planning->plan->arena, mth_memory_usage, devices);
    const int64_t *none = NEW_ARRAY(planning->plan->arena, int64_t, devices);
    TRY(mth__report_memory(planning->plan->program, backend->vtable->traits.pads, backend->vtable->traits.keeps,
        slabs ? NULL : none, slabs ? NULL : none, usage));
    return mth__check_capacity(backend, usage);
}
static mth_status memory(planning_state *planning) {
    TRY(mth__emit_memory(planning->plan->program, planning->compiled->backend->vtable->traits.least_lent));
    return check_capacity(planning);
}
static mth_status verify(planning_state *planning) {
    if (planning->global) TRY(mth__global_verify(planning->global));
    return mth__program_verify(planning->plan->program);
}

static const struct {
    const char *name;
    mth_status (*run)(planning_state *);
    const char *gives;
    bool (*applies)(const planning_state *); /* NULL: always */
} passes[] = {
    {"expand", expand, "catalog nodes, shapes and dtypes", NULL},
    {"partition", partition, "devices for the operators that nobody placed, where the option asks", is_cut},
    {"microbatch", microbatch, "pipelines unrolled over microbatches", NULL},
    {"gradients", gradients, "the backward nodes", NULL},
    {"place", place, "a placement for each node", NULL},
    {"search", search, "layouts of the parameters that nobody placed", searches},
    {"shard", shard, "a sharding for each value, a need for each operand", NULL},
    {"global", global, "the same as a program of global shapes", partitions_itself},
    {"reshard", reshard, "communication, so that each need is met", NULL},
    {"communication", communication, "less of it, or in chunks, where the options ask", NULL},
    {"schedule", schedule, "the order of issue", NULL},
    {"overlap", overlap, "communication early, its consumers late, where the option asks", NULL},
    {"accumulate", accumulate, "sums of gradients and over microbatches, without their terms", NULL},
    {"program", program, "instructions by role", NULL},
    {"memory", memory, "offsets in each device's slab", NULL},
    {"verify", verify, "the proof", NULL},
};

static mth_status dump(planning_state *planning, const char *name) {
    mth__arena *arena = mth__arena_new();
    mth__text text = mth__text_new(arena);
    if (planning->plan->program)
        mth__program_print(&text, planning->plan->program);
    else if (!strcmp(name, "global"))
        mth__program_print(&text, planning->global);
    else
        mth__graph_print(&text, planning->graph);
    char *path = mth__format(arena, "%s/%02d_%s.txt", planning->dump, ++planning->dumped, name);
    mkdir(planning->dump, 0777); /* an existing directory is fine; any other failure shows at once below */
    /* without waiting, should the name be a pipe's that nobody reads */
    const int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (!file && descriptor >= 0) close(descriptor);
    bool good = file && fwrite(text.at, 1, text.n, file) == text.n;
    if (file && fclose(file) != 0) good = false;
    mth_status status = good
        ? NULL
        : mth__error_errno(FAIL(MTH_ERROR_IO, F("MITHRIL_DUMP: can't write %s: %s", path, mth__errno_text(errno)),
                               F("name a directory that can be written, or unset MITHRIL_DUMP")),
              errno);
    mth__arena_free(arena);
    return status;
}

static void list_parameters(const planning_state *planning) {
    mth__plan *plan = planning->plan;
    mth__parameter *parameter = NEW_ARRAY(plan->arena, mth__parameter, planning->graph->parameter.n);
    for (size_t i = 0; i < planning->graph->parameter.n; i++) {
        const mth__value *value = planning->graph->parameter.at[i];
        parameter[i] = (mth__parameter){mth__copy_text(plan->arena, value->name), value->dtype, value->shape,
            value->sharding, value->read_as ? *value->read_as : value->sharding, value->init, value->init_scale};
        mth__names_add(plan->arena, &plan->names, parameter[i].name);
    }
    plan->parameter = parameter;
    plan->parameters = planning->graph->parameter.n;
    plan->module_place = planning->graph->module_place.at;
    plan->module_places = planning->graph->module_place.n;
}

static mth_status keep_trace(const planning_state *planning) {
    const mth__plan *plan = planning->plan;
    mth__arena *arena = mth__arena_new();
    mth__traced_model *made = NEW(arena, mth__traced_model);
    *made =
        (mth__traced_model){.arena = arena, .number = planning->compiled->number, .gradients = plan->request.gradients};
    TRY(mth__trace_program(
        arena, made->number, plan->module_place, plan->module_places, plan->program, &made->row, &made->rows));
    mth__arena_keep(arena);
    mth__backend_keep_trace(planning->compiled->backend, made);
    return NULL;
}

static void number_entries(const planning_state *planning) {
    const mth_compiled *compiled = planning->compiled;
    const mth__program *program = planning->plan->program;
    int *number = NEW_ARRAY(planning->plan->arena, int, program->entry.n);
    for (size_t i = 0; i < program->entry.n; i++) {
        const mth__entry *entry = &program->entry.at[i];
        const mth__names *names = entry->kind == MTH__ENTRY_PARAMETER ? &planning->plan->names
            : entry->kind == MTH__ENTRY_SEED                          ? &compiled->outputs
                                                                      : &compiled->inputs;
        number[i] = mth__names_find(names, entry->name);
    }
    planning->plan->number = number;
    planning->plan->offset = mth__buffer_offsets(planning->plan->arena, program);
}

/* The layouts of an earlier plan bind this one. */
static void bind_layout(const mth_compiled *compiled, mth__arena *arena, mth__distribute_options *options) {
    mth__sharding *sharding = NEW_ARRAY(arena, mth__sharding, compiled->layouts);
    const char **name = NEW_ARRAY(arena, const char *, compiled->layouts);
    for (size_t i = 0; i < compiled->layouts; i++) {
        sharding[i] = compiled->layout[i].read_as;
        name[i] = compiled->layout[i].name;
    }
    options->fixed_parameter = sharding;
    options->fixed_name = name;
    options->fixed = compiled->layouts;
    options->fixed_place = compiled->module_place;
}

static void copy_request(mth__arena *arena, const mth__request *from, mth__request *to) {
    *to = *from;
    to->input = NEW_ARRAY(arena, mth__input_description, from->inputs);
    for (size_t i = 0; i < from->inputs; i++) {
        to->input[i] = from->input[i];
        to->input[i].name = mth__copy_text(arena, from->input[i].name);
        if (from->input[i].given) to->input[i].given = mth__copy_text(arena, from->input[i].given);
    }
    to->seeded = NEW_ARRAY(arena, bool, from->outputs);
    if (from->outputs) memcpy(to->seeded, from->seeded, from->outputs * sizeof(bool));
    to->wanted_input = NEW_ARRAY(arena, const char *, from->wanted);
    for (size_t i = 0; i < from->wanted; i++) to->wanted_input[i] = mth__copy_text(arena, from->wanted_input[i]);
}

/* Runs the passes from the first to `last`, and checks the graph after each. */
static mth_status run_until(planning_state *planning, const char *last) {
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        if (!passes[i].applies || passes[i].applies(planning)) {
            TRY(passes[i].run(planning));
            TRY(mth__stop_check());
            if (!planning->plan->program) TRY(mth__error_operator(mth__graph_check(planning->graph), passes[i].name));
            if (planning->dump) TRY(dump(planning, passes[i].name));
        }
        if (!strcmp(passes[i].name, last)) break;
    }
    return NULL;
}

mth_status mth__compile_plan(const mth_compiled *compiled, const mth__request *request, mth__plan **out) {
    mth__arena *arena = mth__arena_new();
    mth__plan *plan = NEW(arena, mth__plan);
    plan->arena = arena;
    copy_request(arena, request, &plan->request);
    planning_state planning = {.compiled = compiled,
        .distribute = compiled->distribute,
        .request = &plan->request,
        .plan = plan,
        .graph = mth__graph_new(arena, compiled->backend->devices.mesh),
        .dump = getenv("MITHRIL_DUMP")};
    bind_layout(compiled, arena, &planning.distribute);
    if (planning.dump && !*planning.dump) planning.dump = NULL;
    mth_status status = run_until(&planning, "verify");
    if (status) {
        mth__arena_free(arena);
        return status;
    }
    list_parameters(&planning);
    number_entries(&planning);
    if (compiled->backend->traces) TRY(keep_trace(&planning));
    mth__arena_keep(arena);
    *out = plan;
    return NULL;
}
