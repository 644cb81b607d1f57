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

static void add(tally *t, const char *kind, int64_t count, int64_t bytes) {
    for (int k = 0; k < KINDS; k++)
        if (!strcmp(kinds[k], kind)) {
            t[k].count += count;
            t[k].bytes += bytes;
        }
}

/* Of the device that receives the most. */
static mth_status most_bytes(mth__arena *arena, const mth__program *p, const mth__channel *c, int64_t *most) {
    mth__traffic *traffic = NEW_ARRAY(arena, mth__traffic, p->mesh->count);
    TRY(mth__channel_traffic(c, traffic));
    *most = 0;
    for (int d = 0; d < p->mesh->count; d++)
        if (traffic[d].received > *most) *most = traffic[d].received;
    return NULL;
}

/* A named algorithm, and a transfer inside a module, are written as their steps. */
static mth_status count_ours(mth__arena *arena, const mth__program *p, tally *t, tally *named) {
    for (size_t i = 0; i < p->channel.n; i++) {
        const mth__channel *c = &p->channel.at[i];
        int64_t most;
        TRY(most_bytes(arena, p, c, &most));
        add(c->algorithm == MTH__DIRECT && !mth__is_exchange(c) ? t : named, mth__channel_names[c->kind], 1, most);
    }
    return NULL;
}

static void add_bytes(mth__text *t, const char *name, int64_t bytes) {
    if (bytes < 0)
        mth__text_add(t, "%s not told", name);
    else
        mth__text_add(t, "%s %lld", name, (long long)bytes);
}

static mth_status explain_module(mth__executable *x, size_t index, mth__arena *arena, tally *theirs, mth__text *t) {
    const mth__module *m = x->module.at[index];
    mth__xla_facts f;
    int runs = 0, instructions = 0;
    for (size_t w = 0; w < x->job.n; w++)
        if (x->job.at[w].module == m) {
            runs += x->job.at[w].segment && x->job.at[w].together == 1 ? x->job.at[w].segment->count : 1;
            instructions = (int)x->job.at[w].segment->instr.n;
        }
    TRY(mth__xla_inspect(arena, m->xla, &f));
    mth__text_add(
        t, "module %zu: %d device%s, ", index + 1, mth__module_devices(m), mth__module_devices(m) == 1 ? "" : "s");
    if (runs)
        mth__text_add(t, "%d run%s of %d instruction%s, %d of XLA; ", runs, runs == 1 ? "" : "s", instructions,
            instructions == 1 ? "" : "s", f.instructions);
    else
        mth__text_add(t, "a cut or join of transfers; ");
    if (m->xla->from_disk)
        mth__text_add(t, "from the cache on disk\n");
    else if (m->xla->seconds == 0)
        mth__text_add(t, "from the cache in memory\n");
    else
        mth__text_add(t, "compiled in %.3f s\n", m->xla->seconds);
    if (m->replicated)
        mth__text_add(t,
            "  this topology wants all of its %d chips in a program: the mesh's %d devices are the first, %d copies "
            "run on the rest\n",
            x->engine->slice, mth__module_devices(m), m->copies);
    mth__text_add(t, "  bytes of a device: ");
    add_bytes(t, "arguments", f.arguments);
    add_bytes(t, ", results", f.outputs);
    add_bytes(t, ", temporaries", f.temporaries);
    add_bytes(t, ", donated", f.aliased);
    add_bytes(t, ", code", f.code);
    add_bytes(t, ", peak", f.peak);
    mth__text_add(t, "\n  XLA's estimate for a device: ");
    if (f.flops >= 0)
        mth__text_add(t, "%.4g flops", f.flops);
    else
        mth__text_add(t, "flops not told");
    if (f.bytes_accessed >= 0) mth__text_add(t, ", %.4g bytes accessed", f.bytes_accessed);
    if (f.seconds >= 0) mth__text_add(t, ", %.4g s", f.seconds);
    mth__text_add(t, "\n");
    for (int k = 0; k < f.collectives; k++)
        add(theirs, f.collective[k].kind, (int64_t)f.collective[k].count * runs, f.collective[k].bytes * runs);
    return NULL;
}

static void compare(
    const mth__executable *x, const tally *ours, const tally *named, const tally *theirs, mth__text *t) {
    mth__text_add(t, "collectives, bytes that one device receives (of the one that receives most)\n");
    mth__text_add(t, "  kind                  plan: count        bytes    XLA: count        bytes\n");
    bool any = false;
    for (int k = 0; k < KINDS; k++) {
        const bool ours_alone = !strcmp(kinds[k], "transfer") || (!strcmp(kinds[k], "broadcast") && !theirs[k].count);
        if (!ours[k].count && !theirs[k].count) continue;
        any = true;
        mth__text_add(t, "  %-20s %12lld %12lld", kinds[k], (long long)ours[k].count, (long long)ours[k].bytes);
        if (ours_alone && !x->segments->global)
            mth__text_add(t, "    copies between devices\n");
        else
            mth__text_add(t, "  %12lld %12lld\n", (long long)theirs[k].count, (long long)theirs[k].bytes);
    }
    for (int k = 0; k < KINDS; k++)
        if (named[k].count) {
            any = true;
            mth__text_add(t, "  %-20s %12lld %12lld    as its steps: collective_permute\n", kinds[k],
                (long long)named[k].count, (long long)named[k].bytes);
        }
    if (!any) mth__text_add(t, "  none\n");
    if (x->segments->global)
        mth__text_add(t,
            "mesh_context=\"spmd\": XLA's partitioner placed its collectives; the plan's are what "
            "mesh_context=\"mpmd\" would run\n");
}

typedef struct {
    mth__executable *x;
    mth__text *text;
} explaining;

static mth_status explain_body(void *context) {
    explaining *e = context;
    mth__arena *arena = mth__arena_new();
    tally ours[KINDS] = {0}, named[KINDS] = {0}, theirs[KINDS] = {0};
    TRY(mth__pjrt_describe(e->x->engine, e->text));
    for (size_t i = 0; i < e->x->module.n; i++) TRY(explain_module(e->x, i, arena, theirs, e->text));
    TRY(count_ours(arena, e->x->program, ours, named));
    compare(e->x, ours, named, theirs, e->text);
    mth__arena_free(arena);
    return NULL;
}

mth_status mth__pjrt_explain(mth__executable *x, mth__text *t) {
    explaining e = {x, t};
    TRY(mth__plugin_check_process(x->engine->plugin)); /* before the lock: who held it may not be here */
    pthread_mutex_lock(&x->lock);
    mth_status s = mth__executable_compile(x);
    if (!s) s = mth__guard(explain_body, &e);
    pthread_mutex_unlock(&x->lock);
    return s;
}
