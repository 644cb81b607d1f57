/* THE page: from a model to a program, pass by pass, top to bottom. A pass changes the graph in
 * place; what becomes of it depends on the graph and the options alone, so the same input gives the same program. After
 * each pass the graph's invariants are checked, and with MITHRIL_DUMP=dir it is written to dir/NN_pass.txt. */
#include "compile.h"
#include "base/names.h"
#include "base/stop.h"
#include "derive/derive.h"
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
} planning;

static mth_status run_until(planning *, const char *last);

/* A spec from the options of compile has as many entries as its tensor has dimensions, known only now. */
static mth_status check_spec(const mth__spec_of *spec, const mth__value *v) {
    if (spec->rank == v->shape.rank) return NULL;
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("the spec of '%s' has %d entries, the tensor %d dimensions", spec->name, spec->rank, v->shape.rank),
        F("give one entry a dimension: a mesh axis, a tuple of axes, or None"));
    return mth__error_tensor(s, mth__value_text(v));
}

static mth_status expand(planning *p) {
    mth__graph *g = p->graph;
    TRY(mth__expand(p->compiled->model, p->request->input, p->request->inputs, g));
    mth__names inputs = {0}, outputs = {0};
    for (size_t k = 0; k < g->input.n; k++) mth__names_add(g->arena, &inputs, g->input.at[k]->name);
    for (size_t k = 0; k < g->output.n; k++) mth__names_add(g->arena, &outputs, g->output.at[k].name);
    for (size_t i = 0; i < p->distribute.specs; i++) {
        const mth__spec_of *spec = &p->distribute.spec[i];
        int input = mth__names_find(&inputs, spec->name), output = mth__names_find(&outputs, spec->name);
        if (input >= 0) TRY(check_spec(spec, g->input.at[input]));
        if (output < 0) continue;
        TRY(check_spec(spec, g->output.at[output].value));
        g->output.at[output].has_spec = true;
    }
    if (p->trial) {
        p->folding = mth__fold(g);
        for (size_t i = 0; i < g->region.n; i++) g->region.at[i]->microbatch_size = INT_MAX;
    }
    return NULL;
}
static mth_status distribute(planning *p, mth__distribute_pass pass) {
    return mth__distribute(p->graph, &p->distribute, pass, pass);
}
static mth_status microbatch(planning *p) { return distribute(p, MTH__PASS_MICROBATCH); }
static mth_status gradients(planning *p) {
    mth__gradient_options options = {p->request->wanted_input, p->request->wanted, p->request->seeded};
    if (p->trial) { /* of all outputs that have one, and of no input */
        bool *seeded = NEW_ARRAY(p->graph->arena, bool, p->graph->output.n);
        for (size_t i = 0; i < p->graph->output.n; i++) seeded[i] = mth__is_float(p->graph->output.at[i].value->dtype);
        options = (mth__gradient_options){.seeded = seeded};
    }
    return p->trial ? (p->backward ? mth__gradients(p->graph, &options) : NULL)
                    : (p->request->gradients ? mth__gradients(p->graph, &options) : NULL);
}
static mth_status place(planning *p) { return distribute(p, MTH__PASS_PLACE); }

/* The search tries layouts on the model in small, planned up to there: repeated blocks folded, a pipeline's batch in
 * one, and backward always. */
static bool searches(const planning *p) { return p->distribute.auto_sharding && !p->trial; }
static mth_status make_trial(const planning *p, mth__arena *arena, bool backward, planning *trial) {
    *trial = *p;
    trial->graph = mth__graph_new(arena, p->graph->mesh);
    trial->dump = NULL;
    trial->trial = true;
    trial->backward = backward;
    return run_until(trial, "place");
}
static mth_status search(planning *p) {
    mth__arena *arena = mth__arena_new();
    planning trial;
    mth_status s = make_trial(p, arena, true, &trial);
    if (s) { /* an operator without a gradient */
        mth_error_free(s);
        s = make_trial(p, arena, false, &trial);
    }
    if (!s) s = mth__search(p->graph, trial.graph, trial.folding, &p->distribute);
    mth__arena_free(arena);
    return s;
}
static mth_status shard(planning *p) { return distribute(p, MTH__PASS_SHARD); }
static bool partitions_itself(const planning *p) { return p->compiled->backend->spmd; }
static mth_status global(planning *p) { return mth__emit_global(p->plan->arena, p->graph, &p->global); }
static mth_status reshard(planning *p) { return distribute(p, MTH__PASS_RESHARD); }
static mth_status communication(planning *p) { return distribute(p, MTH__PASS_COMMUNICATION); }
static mth_status schedule(planning *p) { return distribute(p, MTH__PASS_SCHEDULE); }
static mth_status overlap(planning *p) { return distribute(p, MTH__PASS_OVERLAP); }
static mth_status accumulate(planning *p) { return distribute(p, MTH__PASS_ACCUMULATE); }

static mth_status program(planning *p) {
    mth_backend *b = p->compiled->backend;
    TRY(mth__check_kernels(p->graph, b->vtable));
    if (b->distribute.overlap && b->vtable->traits.streams < 2)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("overlap_communication: a device of the %s engine does one thing after the other", b->vtable->name),
            F("leave overlap_communication out"));
    mth__emit_options o = {.overlap = b->distribute.overlap, .views = b->vtable->traits.views};
    memcpy(o.algorithm, b->algorithm, sizeof o.algorithm);
    TRY(mth__emit(p->plan->arena, p->graph, &o, &p->plan->program));
    p->plan->global = p->global;
    return p->global ? b->vtable->check_global(p->global) : NULL;
}
mth_status mth__check_capacity(const mth_backend *b, const mth_memory_usage *usage) {
    const mth__device_model *model = b->devices.mesh->model;
    for (int d = 0; d < b->devices.mesh->count; d++)
        if (usage[d].total > model->device_memory)
            return FAIL(MTH_ERROR_MEMORY,
                F("device %d needs %lld bytes, and one of the machine '%s' has %lld", d, (long long)usage[d].total,
                    model->machine->name, (long long)model->device_memory),
                F("split the model over more devices, try memory_optimization=True or smaller batches, or name a "
                  "machine with more memory"));
    return NULL;
}
/* A plan that no device of the machine could hold is refused before anything runs. Of an engine that allocates by
 * itself entries and exits alone are known here: mth__load_plan asks it for the rest. */
static mth_status check_capacity(const planning *p) {
    const mth_backend *b = p->compiled->backend;
    if (b->devices.mesh->model->device_memory == INT64_MAX) return NULL;
    const int devices = b->devices.mesh->count;
    const bool slabs = !b->vtable->traits.allocates;
    mth_memory_usage *usage = NEW_ARRAY(p->plan->arena, mth_memory_usage, devices);
    const int64_t *none = NEW_ARRAY(p->plan->arena, int64_t, devices);
    TRY(mth__report_memory(p->plan->program, b->vtable->traits.pads, slabs ? NULL : none, slabs ? NULL : none, usage));
    return mth__check_capacity(b, usage);
}
static mth_status memory(planning *p) {
    TRY(mth__emit_memory(p->plan->program, p->compiled->backend->vtable->traits.least_lent));
    return check_capacity(p);
}
static mth_status verify(planning *p) {
    if (p->global) TRY(mth__global_verify(p->global));
    return mth__program_verify(p->plan->program);
}

static const struct {
    const char *name;
    mth_status (*run)(planning *);
    const char *gives;
    bool (*applies)(const planning *); /* NULL: always */
} passes[] = {
    {"expand", expand, "catalog nodes, shapes and dtypes", NULL},
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

static mth_status dump(planning *p, const char *name) {
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    if (p->plan->program)
        mth__program_print(&t, p->plan->program);
    else if (!strcmp(name, "global"))
        mth__program_print(&t, p->global);
    else
        mth__graph_print(&t, p->graph);
    char *path = mth__format(arena, "%s/%02d_%s.txt", p->dump, ++p->dumped, name);
    mkdir(p->dump, 0777); /* an existing directory is fine; any other failure shows at once below */
    /* without waiting, should the name be a pipe's that nobody reads */
    const int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
    FILE *f = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (!f && descriptor >= 0) close(descriptor);
    bool good = f && fwrite(t.at, 1, t.n, f) == t.n;
    if (f && fclose(f) != 0) good = false;
    mth_status s = good
        ? NULL
        : mth__error_errno(FAIL(MTH_ERROR_IO, F("MITHRIL_DUMP: can't write %s: %s", path, strerror(errno)),
                               F("name a directory that can be written, or unset MITHRIL_DUMP")),
              errno);
    mth__arena_free(arena);
    return s;
}

static void list_parameters(const planning *p) {
    mth__plan *plan = p->plan;
    mth__parameter *parameter = NEW_ARRAY(plan->arena, mth__parameter, p->graph->parameter.n);
    for (size_t i = 0; i < p->graph->parameter.n; i++) {
        const mth__value *v = p->graph->parameter.at[i];
        parameter[i] = (mth__parameter){mth__copy_text(plan->arena, v->name), v->dtype, v->shape, v->sharding,
            v->read ? *v->read : v->sharding, v->init, v->init_scale};
        mth__names_add(plan->arena, &plan->names, parameter[i].name);
    }
    plan->parameter = parameter;
    plan->parameters = p->graph->parameter.n;
}

static void number_entries(const planning *p) {
    const mth_compiled *c = p->compiled;
    const mth__program *program = p->plan->program;
    int *number = NEW_ARRAY(p->plan->arena, int, program->entry.n);
    for (size_t i = 0; i < program->entry.n; i++) {
        const mth__entry *e = &program->entry.at[i];
        const mth__names *names = e->kind == MTH__ENTRY_PARAMETER ? &p->plan->names
            : e->kind == MTH__ENTRY_SEED                          ? &c->outputs
                                                                  : &c->inputs;
        number[i] = mth__names_find(names, e->name);
    }
    p->plan->number = number;
    p->plan->offset = mth__buffer_offsets(p->plan->arena, program);
}

/* The layouts of an earlier plan bind this one. */
static void bind_layout(const mth_compiled *c, mth__arena *arena, mth__distribute_options *o) {
    mth__sharding *sharding = NEW_ARRAY(arena, mth__sharding, c->layouts);
    const char **name = NEW_ARRAY(arena, const char *, c->layouts);
    for (size_t i = 0; i < c->layouts; i++) {
        sharding[i] = c->layout[i].read;
        name[i] = c->layout[i].name;
    }
    o->fixed_parameter = sharding;
    o->fixed_name = name;
    o->fixed = c->layouts;
}

static void copy_request(mth__arena *arena, const mth__request *from, mth__request *to) {
    *to = *from;
    to->input = NEW_ARRAY(arena, mth__input_description, from->inputs);
    for (size_t i = 0; i < from->inputs; i++) {
        to->input[i] = from->input[i];
        to->input[i].name = mth__copy_text(arena, from->input[i].name);
    }
    to->seeded = NEW_ARRAY(arena, bool, from->outputs);
    if (from->outputs) memcpy(to->seeded, from->seeded, from->outputs * sizeof(bool));
    to->wanted_input = NEW_ARRAY(arena, const char *, from->wanted);
    for (size_t i = 0; i < from->wanted; i++) to->wanted_input[i] = mth__copy_text(arena, from->wanted_input[i]);
}

/* Runs the passes from the first to `last`, and checks the graph after each. */
static mth_status run_until(planning *p, const char *last) {
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        if (!passes[i].applies || passes[i].applies(p)) {
            TRY(passes[i].run(p));
            TRY(mth__stop_check());
            if (!p->plan->program) TRY(mth__error_operator(mth__graph_check(p->graph), passes[i].name));
            if (p->dump) TRY(dump(p, passes[i].name));
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
    planning p = {.compiled = compiled,
        .distribute = compiled->distribute,
        .request = &plan->request,
        .plan = plan,
        .graph = mth__graph_new(arena, compiled->backend->devices.mesh),
        .dump = getenv("MITHRIL_DUMP")};
    bind_layout(compiled, arena, &p.distribute);
    if (p.dump && !*p.dump) p.dump = NULL;
    mth_status s = run_until(&p, "verify");
    if (s) {
        mth__arena_free(arena);
        return s;
    }
    list_parameters(&p);
    number_entries(&p);
    mth__arena_keep(arena);
    *out = plan;
    return NULL;
}
