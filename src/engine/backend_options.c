/* The options that engines share, and what they put into a backend. */
#include "engine/backend.h"
#include <stddef.h>
#include <string.h>

/* ---------------------------------------------------------------- readers */
static mth_status read_mesh(void *field, const mth_arg *mesh) {
    mth_backend *backend = field;
    int64_t dim[MTH__AXES];
    int naxes = 0;
    for (; naxes < (int)mesh->count; naxes++) dim[naxes] = mesh->items[naxes].integer;
    return mth__mesh_new(backend->arena, naxes, dim, &backend->devices.mesh);
}

static int name_index(const char *name, const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static mth_status unknown_name(const char *what, const char *name, const char *const *names, int n) {
    const char *near = mth__nearest(name, names, (size_t)n);
    return FAIL(MTH_ERROR_VALUE, F("collective_ops: unknown %s '%s'", what, name),
        near ? F("use '%s'", near) : F("use one of the %ss that the documentation of collective_ops lists", what));
}

static mth_status read_collectives(void *field, const mth_arg *ops) {
    const char **algorithm_of = field;
    for (size_t i = 0; ops->kind == MTH_ARG_DICT && i < ops->count; i++) {
        int kind = name_index(ops->keys[i], mth__channel_names, MTH__TRANSFER);
        if (kind < 0) return unknown_name("collective", ops->keys[i], mth__channel_names, MTH__TRANSFER);
        if (ops->items[i].kind != MTH_ARG_STRING)
            return FAIL(MTH_ERROR_TYPE, F("collective_ops: the algorithm of %s is no text", ops->keys[i]),
                F("use 'direct', 'ring', 'tree' or 'hierarchical'"));
        int algorithm = name_index(ops->items[i].string, mth__algorithm_names, MTH__ALGORITHMS);
        if (algorithm < 0)
            return unknown_name("algorithm", ops->items[i].string, mth__algorithm_names, MTH__ALGORITHMS);
        algorithm_of[kind] = mth__algorithm_names[algorithm];
    }
    return NULL;
}

static mth_status read_mesh_context(void *field, const mth_arg *context) {
    *(bool *)field = !strcmp(context->string, "spmd");
    return NULL;
}

/* The policies in the order of mth__partition_policy. */
static mth_status read_policy(void *field, const mth_arg *policy) {
    static const char *const policies[] = {"", "parameters", "operators", "balanced"};
    if (policy->kind == MTH_ARG_STRING)
        *(mth__partition_policy *)field =
            (mth__partition_policy)name_index(policy->string, policies, sizeof policies / sizeof *policies);
    return NULL;
}

/* ---------------------------------------------------------------- tables */
#define FIELD(field) .at = offsetof(mth_backend, field)
const mth__opt mth__mesh_options[] = {
    {"device_mesh", MTH__OPT_MESH, NULL, "Sizes of the mesh's 1 to 3 axes; devices are numbered row by row.",
        .read = read_mesh},
    {0}};
const mth__opt mth__machine_options[] = {
    {"machine", MTH__OPT_STRING, "'nominal'",
        "What plans assume of devices and links: 'nominal', 'v100', 'a100', 'h100', 'tpu_v5p', the path of a machine "
        "file, or 'calibrate': measures this machine in about a second and keeps the result in the user's cache "
        "folder ('calibrate:FILE': there), where later backends find it.",
        .read = mth__read_text, FIELD(machine)},
    {0}};
const mth__opt mth__communication_options[] = {
    {"collective_ops", MTH__OPT_DICT, "None",
        "The algorithm of each collective: {'all_reduce': 'ring', ...}; kinds all_reduce, all_gather, reduce_scatter, "
        "all_to_all, broadcast; algorithms direct, ring, tree, hierarchical. What is not named is direct.",
        .read = read_collectives, FIELD(algorithm)},
    {"communication_optimization", MTH__OPT_BOOL, "False", "Removes redundant transfers and merges small collectives.",
        .read = mth__read_bool, FIELD(distribute.communication_optimization)},
    {"overlap_communication", MTH__OPT_BOOL, "False", "Runs communication beside computation.", .read = mth__read_bool,
        FIELD(distribute.overlap)},
    {"pipeline_communication", MTH__OPT_BOOL, "False", "Cuts large communication in chunks.", .read = mth__read_bool,
        FIELD(distribute.pipeline_communication)},
    {"sequence_parallel", MTH__OPT_BOOL, "None",
        "Between tensor-parallel products, splits biases, residual sums and norms by positions: reduce_scatter and "
        "all_gather in place of all_reduce. True: wherever positions divide; False: nowhere; None: where the cost "
        "model says that it pays, and nowhere if collective_ops names an algorithm for all_reduce or mesh_context is "
        "'spmd'.",
        .read = mth__read_when, FIELD(distribute.sequence)},
    {0}};
const mth__opt mth__partition_options[] = {
    {"mesh_context", MTH__OPT_CHOICE, "'mpmd'",
        "Who places the collectives: 'mpmd' is mithril's plan, 'spmd' XLA's partitioner, which gets the global program "
        "with its shardings.",
        "spmd|mpmd", .read = read_mesh_context, FIELD(spmd)},
    {"auto_sharding", MTH__OPT_BOOL, "False",
        "Searches shardings of the parameters that no spec places, and of the batch.", .read = mth__read_bool,
        FIELD(distribute.auto_sharding)},
    {"spmd_partition_dims", MTH__OPT_SIZE, "None",
        "With auto_sharding=True, how many dimensions of one tensor the search may split; any number unless said.",
        .read = mth__read_int, FIELD(distribute.partition_dims)},
    {"memory_optimization", MTH__OPT_BOOL, "False",
        "Stores parameters that would be replicated in parts, gathered where they are read.", .read = mth__read_bool,
        FIELD(distribute.store_sharded)},
    {0}};
const mth__opt mth__placement_options[] = {
    {"partition_policy", MTH__OPT_CHOICE, "None",
        "Cuts the operators that nobody placed, in their order, in one part for each device: of equal bytes of "
        "parameters, of as many operators, or of equal time of the forward pass, as the machine predicts it. The "
        "heaviest part is as light as it can be, and of such cuts the one with the least sum of squares is taken. "
        "Operators that the user placed stay. None: an operator runs where its inputs are.",
        "parameters|operators|balanced", .read = read_policy, FIELD(distribute.partition)},
    {"use_module_hooks", MTH__OPT_BOOL, "False",
        "A hook may be set, which is called with each piece of a tensor before it goes from device to device.",
        .read = mth__read_bool, FIELD(hooks)},
    {"trace_module_partitioning", MTH__OPT_BOOL, "False",
        "Keeps of each plan where its operators run, who says so, and what goes from device to device for them, for "
        "the backend's partition trace.",
        .read = mth__read_bool, FIELD(traces)},
    {0}};

/* ---------------------------------------------------------------- all of them */
/* Decides sequence_parallel where it is left open, and refuses what contradicts mesh_context. */
static mth_status settle(mth_backend *backend, const mth_arg *ops) {
    mth__distribute_options *options = &backend->distribute;
    if (options->sequence == MTH__WHEN_NONE && backend->algorithm[MTH__ALL_REDUCE])
        options->sequence = MTH__WHEN_FALSE; /* the user wants to have that algorithm's steps */
    if (options->sequence == MTH__WHEN_NONE && backend->spmd)
        options->sequence = MTH__WHEN_FALSE;  /* XLA's partitioner refuses some layouts: by request alone */
    options->ports_in_blocks = backend->spmd; /* XLA's partitioner has no others */
    const char *ours = ops && ops->kind == MTH_ARG_DICT ? "collective_ops"
        : options->communication_optimization           ? "communication_optimization"
        : options->overlap                              ? "overlap_communication"
        : options->pipeline_communication               ? "pipeline_communication"
                                                        : NULL;
    if (backend->spmd && ours)
        return FAIL(MTH_ERROR_VALUE,
            F("%s says how the plan communicates, with mesh_context='spmd' XLA's partitioner decides", ours),
            F("leave %s out, or use mesh_context='mpmd'", ours));
    if (backend->hooks && !backend->vtable->traits.crossings)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("use_module_hooks: the %s engine can't say beforehand what goes from device to device",
                backend->vtable->name),
            F("leave use_module_hooks out, or use the torch engine or the reference engine"));
    return NULL;
}

mth_status mth__backend_read_options(mth_backend *backend, const mth_arg *value) {
    const mth__opt *const *tables = backend->vtable->options;
    for (const mth__opt *const *table = tables; *table; table++)
        if (*table == mth__mesh_options || *table == mth__machine_options || *table == mth__communication_options ||
            *table == mth__partition_options || *table == mth__placement_options)
            TRY(mth__options_hand_out(tables, value, *table, backend));
    return settle(backend, mth__options_get(tables, value, "collective_ops"));
}
