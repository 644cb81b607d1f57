/* What XLA made of a program, beside what the program says. */
#include "emit/traffic.h"
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

typedef struct {
    const char *kind;
    int64_t count, bytes;
} tally;
enum { KINDS = 7 };
static const char *const kinds[KINDS] = {
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute", "broadcast", "transfer"};

static void add_tally(tally *tallies, const char *kind, int64_t count, int64_t bytes) {
    for (int k = 0; k < KINDS; k++)
        if (!strcmp(kinds[k], kind)) {
            tallies[k].count += count;
            tallies[k].bytes += bytes;
        }
}

/* The bytes that the device which receives the most receives. */
static mth_status most_bytes(
    mth__arena *arena, const mth__program *program, const mth__channel *channel, int64_t *most) {
    mth__traffic *traffic = NEW_ARRAY(arena, mth__traffic, program->mesh->count);
    TRY(mth__channel_traffic(channel, traffic));
    *most = 0;
    for (int d = 0; d < program->mesh->count; d++)
        if (traffic[d].received > *most) *most = traffic[d].received;
    return NULL;
}

/* Channels that a module has as steps, and not as one collective of XLA's, are counted in `named`: those of a named
   algorithm, and transfers inside the module. */
static mth_status count_ours(mth__arena *arena, const mth__program *program, tally *ours, tally *named) {
    for (size_t i = 0; i < program->channel.n; i++) {
        const mth__channel *channel = &program->channel.at[i];
        int64_t most;
        TRY(most_bytes(arena, program, channel, &most));
        add_tally(channel->algorithm == MTH__DIRECT && !mth__is_exchange(channel) ? ours : named,
            mth__channel_names[channel->kind], 1, most);
    }
    return NULL;
}

static void add_bytes(mth__text *text, const char *name, int64_t bytes) {
    if (bytes < 0)
        mth__text_add(text, "%s not told", name);
    else
        mth__text_add(text, "%s %lld", name, (long long)bytes);
}

static mth_status explain_module(
    mth__executable *executable, size_t index, mth__arena *arena, tally *theirs, mth__text *text) {
    const mth__module *module = executable->module.at[index];
    mth__xla_facts facts;
    int runs = 0, instructions = 0;
    for (size_t i = 0; i < executable->job.n; i++)
        if (executable->job.at[i].module == module) {
            runs += executable->job.at[i].segment && executable->job.at[i].together == 1
                ? executable->job.at[i].segment->count
                : 1;
            instructions = (int)executable->job.at[i].segment->instr.n;
        }
    TRY(mth__xla_inspect(arena, module->xla, &facts));
    mth__text_add(text, "module %zu: %d device%s, ", index + 1, mth__module_devices(module),
        mth__module_devices(module) == 1 ? "" : "s");
    if (runs)
        mth__text_add(text, "%d run%s of %d instruction%s, %d of XLA; ", runs, runs == 1 ? "" : "s", instructions,
            instructions == 1 ? "" : "s", facts.instructions);
    else
        mth__text_add(text, "a cut or join of transfers; ");
    if (module->xla->from_disk)
        mth__text_add(text, "from the cache on disk\n");
    else if (module->xla->seconds == 0)
        mth__text_add(text, "from the cache in memory\n");
    else
        mth__text_add(text, "compiled in %.3f s\n", module->xla->seconds);
    if (module->replicated)
        mth__text_add(text,
            "  this topology wants all of its %d chips in a program: the mesh's %d devices are the first, %d copies "
            "run on the rest\n",
            executable->engine->slice, mth__module_devices(module), module->copies);
    mth__text_add(text, "  bytes of a device: ");
    add_bytes(text, "arguments", facts.arguments);
    add_bytes(text, ", results", facts.outputs);
    add_bytes(text, ", temporaries", facts.temporaries);
    add_bytes(text, ", donated", facts.aliased);
    add_bytes(text, ", code", facts.code);
    add_bytes(text, ", peak", facts.peak);
    mth__text_add(text, "\n  XLA's estimate for a device: ");
    if (facts.flops >= 0)
        mth__text_add(text, "%.4g flops", facts.flops);
    else
        mth__text_add(text, "flops not told");
    if (facts.bytes_accessed >= 0) mth__text_add(text, ", %.4g bytes accessed", facts.bytes_accessed);
    if (facts.seconds >= 0) mth__text_add(text, ", %.4g s", facts.seconds);
    mth__text_add(text, "\n");
    for (int k = 0; k < facts.collectives; k++)
        add_tally(theirs, facts.collective[k].kind, (int64_t)facts.collective[k].count * runs,
            facts.collective[k].bytes * runs);
    return NULL;
}

static void compare(
    const mth__executable *executable, const tally *ours, const tally *named, const tally *theirs, mth__text *text) {
    mth__text_add(text, "collectives, bytes that one device receives (of the one that receives most)\n");
    mth__text_add(text, "  kind                  plan: count        bytes    XLA: count        bytes\n");
    bool any = false;
    for (int k = 0; k < KINDS; k++) {
        const bool ours_alone = !strcmp(kinds[k], "transfer") || (!strcmp(kinds[k], "broadcast") && !theirs[k].count);
        if (!ours[k].count && !theirs[k].count) continue;
        any = true;
        mth__text_add(text, "  %-20s %12lld %12lld", kinds[k], (long long)ours[k].count, (long long)ours[k].bytes);
        if (ours_alone && !executable->segments->global)
            mth__text_add(text, "    copies between devices\n");
        else
            mth__text_add(text, "  %12lld %12lld\n", (long long)theirs[k].count, (long long)theirs[k].bytes);
    }
    for (int k = 0; k < KINDS; k++)
        if (named[k].count) {
            any = true;
            mth__text_add(text, "  %-20s %12lld %12lld    as its steps: collective_permute\n", kinds[k],
                (long long)named[k].count, (long long)named[k].bytes);
        }
    if (!any) mth__text_add(text, "  none\n");
    if (executable->segments->global)
        mth__text_add(text,
            "mesh_context=\"spmd\": XLA's partitioner placed its collectives; the plan's are what "
            "mesh_context=\"mpmd\" would run\n");
}

typedef struct {
    mth__executable *executable;
    mth__text *text;
} explaining;

static mth_status explain_body(void *context) {
    explaining *job = context;
    mth__arena *arena = mth__arena_new();
    tally ours[KINDS] = {0}, named[KINDS] = {0}, theirs[KINDS] = {0};
    TRY(mth__pjrt_describe(job->executable->engine, job->text));
    for (size_t i = 0; i < job->executable->module.n; i++)
        TRY(explain_module(job->executable, i, arena, theirs, job->text));
    TRY(count_ours(arena, job->executable->program, ours, named));
    compare(job->executable, ours, named, theirs, job->text);
    mth__arena_free(arena);
    return NULL;
}

mth_status mth__pjrt_explain(mth__executable *executable, mth__text *text) {
    explaining job = {executable, text};
    return mth__executable_read(executable, explain_body, &job);
}
