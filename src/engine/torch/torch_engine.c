/* The vtable of the engine "torch". */
#include "base/cores.h"
#include "engine/torch/torch_run.h"
#include <stddef.h>

typedef struct {
    const mth_arg *site_packages;
    int64_t threads;
} torch_options;
static const mth__opt options[] = {
    {"threads", MTH__OPT_SIZE, "None",
        "Threads of torch's own loops on each device; the machine's cores shared out among the devices unless said.",
        .read = mth__read_int, .at = offsetof(torch_options, threads)},
    {"site_packages", MTH__OPT_LIST, "None",
        "Folders of Python packages, which are searched for torch before others; Python gives those of sys.path.",
        .read = mth__read_value, .at = offsetof(torch_options, site_packages), .surroundings = true},
    {0}};
static const mth__opt *const tables[] = {
    mth__mesh_options, mth__communication_options, mth__placement_options, options, mth__machine_options, NULL};

typedef struct {
    const torch_options *given;
    const mth__torch_library *library;
} library_opening;
static mth_status open_body(void *context) {
    library_opening *job = context;
    mth__arena *arena = mth__arena_new();
    mth_status status = mth__torch_library_open(arena, job->given->site_packages, &job->library);
    mth__arena_free(arena);
    return status;
}

static void begin_thread(void *context, int device) {
    const mth__engine *engine = context;
    (void)device;
    mth__torch_begin_thread(engine->library, engine->threads);
}

static mth_status open_engine(const mth__engine_setup *setup, mth__engine **out) {
    torch_options given;
    TRY(mth__options_hand_out(setup->tables, setup->value, options, &given));
    library_opening job = {&given, NULL};
    TRY(mth__guard(open_body, &job));
    mth__engine *engine = mth__calloc(1, sizeof *engine);
    if (!engine) return mth__lacks_memory("an engine", sizeof *engine);
    atomic_init(&engine->references, 1);
    engine->library = job.library;
    engine->devices = setup->mesh->count;
    const int share = mth__core_count() / setup->mesh->count;
    engine->threads = given.threads ? (int)given.threads : share > 1 ? share : 1;
    mth_status status = mth__crew_new(engine->devices, begin_thread, engine, &engine->crew);
    if (status)
        mth__free(engine);
    else
        *out = engine;
    return status;
}

static mth_status describe(mth__engine *engine, mth__text *text) {
    const mth__torch_library *library = engine->library;
    mth__text_add(text, "torch %d.%d at %s\n", library->version / 100, library->version % 100, library->path);
    mth__text_add(text, "%d devices of this machine, a thread each, of %d thread%s for torch's own loops\n",
        engine->devices, engine->threads, engine->threads == 1 ? "" : "s");
    const bool all = library->direct.add_out && library->direct.threshold_backward_out && library->direct.gelu_out &&
        library->direct.gelu_backward_out;
    mth__text_add(text, "functions without a promise: %s\n",
        all ? "all that are used passed their trial" : "some are composed of others instead, which is slower");
    return NULL;
}

static const char *lacks(const mth__node *node, int *at) {
    *at = -1;
    if (!mth__torch_rows[node->op->row].run && !(node->op->flags & (MTH__COMM | MTH__ALIAS)))
        return "the torch engine has no calls of aten for this row";
    if (node->op->flags & MTH__MOVES || node->op->row == MTH__ROW_cast) return NULL;
    *at = mth__first_floating_but(node, MTH_FLOAT32);
    return *at < 0 ? NULL : "the torch engine computes in float32 alone";
}

static bool owns(const mth__node *node, int result) { return mth__torch_rows[node->op->row].owns >> result & 1; }

static int64_t keeps(const mth__role *role, const mth__instr *in) {
    mth__keeps *of_row = in->kind == MTH__COMPUTE ? mth__torch_rows[in->op->row].keeps : NULL;
    return of_row ? of_row(role, in) : 0;
}

static int cores(mth__engine *engine) {
    (void)engine;
    return mth__core_count();
}

const mth__engine_vtable mth__engine_torch = {
    .name = "torch",
    .options = tables,
    .traits = {.streams = 2, .views = true, .crossings = true, .owns = owns, .keeps = keeps},
    .cores = cores,
    .open = open_engine,
    .close = mth__torch_close,
    .describe = describe,
    .lacks = lacks,
    .memory =
        {
            .new = mth__torch_buffer_new,
            .borrow = mth__torch_buffer_borrow,
            .retain = mth__torch_buffer_retain,
            .release = mth__torch_buffer_release,
            .host = mth__torch_buffer_host,
            .fill = mth__torch_buffer_host,
            .write = mth__torch_buffer_write,
            .read = mth__torch_buffer_read,
        },
    .load = mth__torch_load,
    .unload = mth__torch_unload,
    .run = mth__torch_run,
};
