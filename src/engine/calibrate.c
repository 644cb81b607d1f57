/* Measures a machine by programs that the engine runs: a product, a sum of long vectors, a chain of small kernels, and
 * gathers between two devices. The figures are kept, rounded, in a machine file, which later backends read. */
#include "engine/calibrate.h"
#include "base/cores.h"
#include "base/number.h"
#include "catalog/rows.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REPEATS = 5, CHAIN = 64 /* of small kernels or gathers */ };
static const double ENOUGH = 0.02; /* seconds of a run that is long enough to be measured */

typedef struct {
    const mth__engine_vtable *vtable;
    mth__engine *engine;
    mth__machine machine; /* what was measured */
    mth__arena *arena;    /* of one program at a time */
} bench;

/* ---------------------------------------------------------------- programs */
static mth__sharding on_first(mth__mesh *mesh) { return (mth__sharding){.on = mth__place_device(mesh, 0)}; }
static mth__sharding in_halves(mth__mesh *mesh) {
    mth__sharding sharding = {.on = mth__place_whole(mesh)};
    sharding.dim[0] = (mth__split){.naxes = 1};
    return sharding;
}

static mth__value *input(mth__graph *graph, const char *name, mth__shape shape, mth__sharding sharding) {
    mth__value *value = mth__graph_value(graph, MTH__VALUE_INPUT, name, MTH_FLOAT32, shape);
    value->sharding = sharding;
    PUSH(graph->arena, graph->input, value);
    return value;
}

static mth_status add_node(mth__graph *graph, enum mth__row row, const mth__attrs *attrs, int nin, mth__value **in,
    mth__sharding to, mth__value **out) {
    mth__builder builder = {
        .graph = graph, .label = mth__label_outside("calibrate", MTH__FORWARD), .on = in[0]->sharding.on};
    mth__value *result[MTH__MAX_OUT];
    TRY(mth__build(&builder, row, attrs, nin, in, result));
    result[0]->sharding = to;
    *out = result[0];
    return NULL;
}

/* The work of a measurement: a graph of a size, whose result is its output. */
typedef mth_status measured_work(mth__graph *, mth__mesh *, int64_t size, mth__value **result);

static mth_status product(mth__graph *graph, mth__mesh *mesh, int64_t n, mth__value **result) {
    mth__value *in[] = {input(graph, "x", (mth__shape){2, {n, n}}, on_first(mesh)),
        input(graph, "w", (mth__shape){2, {n, n}}, on_first(mesh))};
    return add_node(graph, MTH__ROW_contract, &(mth__attrs){.spec = "bi,io->bo"}, 2, in, on_first(mesh), result);
}

static mth_status long_sum(mth__graph *graph, mth__mesh *mesh, int64_t n, mth__value **result) {
    mth__value *in[] = {input(graph, "x", (mth__shape){1, {n}}, on_first(mesh)),
        input(graph, "y", (mth__shape){1, {n}}, on_first(mesh))};
    return add_node(graph, MTH__ROW_add, &(mth__attrs){0}, 2, in, on_first(mesh), result);
}

/* `count` sums of 16 elements, one after another. */
static mth_status small_sums(mth__graph *graph, mth__mesh *mesh, int64_t count, mth__value **result) {
    mth__value *x = input(graph, "x", (mth__shape){1, {16}}, on_first(mesh));
    *result = x;
    for (int64_t i = 0; i < count; i++)
        TRY(add_node(graph, MTH__ROW_add, &(mth__attrs){0}, 2, (mth__value *[]){*result, x}, on_first(mesh), result));
    return NULL;
}

/* `count` gathers of `elements` between both devices, each of what the last has gathered. */
static mth_status gathers(mth__graph *graph, mth__mesh *mesh, int64_t elements, int64_t count, mth__value **result) {
    mth__value *part = input(graph, "x", (mth__shape){1, {elements}}, in_halves(mesh));
    const mth__sharding whole = {.on = mth__place_whole(mesh)};
    for (int64_t i = 0; i < count; i++) {
        TRY(add_node(graph, MTH__ROW_all_gather, &(mth__attrs){.axes = 1}, 1, &part, whole, result));
        if (i + 1 < count) TRY(add_node(graph, MTH__ROW_keep, &(mth__attrs){0}, 1, result, in_halves(mesh), &part));
    }
    return NULL;
}
static mth_status small_gathers(mth__graph *graph, mth__mesh *mesh, int64_t count, mth__value **result) {
    return gathers(graph, mesh, 16, count, result);
}
static mth_status long_gather(mth__graph *graph, mth__mesh *mesh, int64_t elements, mth__value **result) {
    return gathers(graph, mesh, elements, 1, result);
}

/* ---------------------------------------------------------------- runs */
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static mth_status make_entries(const bench *machine, const mth__program *program, float *data, mth__buffer **entry) {
    for (size_t entry_number = 0; entry_number < program->entry.n; entry_number++) {
        const mth__sharding *sharding = &program->entry.at[entry_number].sharding;
        for (int rank = 0; rank < sharding->on->count; rank++) {
            const int64_t elements =
                mth__shape_size(mth__local_shape(program->entry.at[entry_number].shape, sharding, rank, NULL, NULL));
            TRY(machine->vtable->memory.new(machine->engine, sharding->on->device[rank], elements * 4, entry));
            TRY(machine->vtable->memory.write(*entry++, 0, data, elements * 4));
        }
    }
    return NULL;
}

static void let_go(const bench *machine, mth__buffer **buffer, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (buffer[i]) machine->vtable->memory.release(buffer[i]);
    memset(buffer, 0, n * sizeof *buffer);
}

/* Runs the program; ends when what it gave can be read. */
static mth_status run_once(
    const bench *machine, mth__executable *executable, mth__buffer *const *entry, mth__buffer **exit, size_t exits) {
    float first;
    mth_status status = machine->vtable->run(executable, entry, exit, &(mth__control){.stop = mth__thread_stop()});
    for (size_t i = 0; i < exits && !status; i++)
        if (exit[i]) status = machine->vtable->memory.read(exit[i], 0, &first, sizeof first);
    let_go(machine, exit, exits);
    return status;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static mth_status time_program(const bench *machine, const mth__program *program, double *seconds) {
    const mth__offsets offset = mth__buffer_offsets(machine->arena, program);
    const size_t entries = (size_t)offset.entry[program->entry.n], exits = (size_t)offset.exit[program->exit.n];
    mth__buffer **entry = NEW_ARRAY(machine->arena, mth__buffer *, entries),
                **exit = NEW_ARRAY(machine->arena, mth__buffer *, exits);
    int64_t most = 0;
    for (size_t entry_number = 0; entry_number < program->entry.n; entry_number++)
        if (mth__shape_size(program->entry.at[entry_number].shape) > most)
            most = mth__shape_size(program->entry.at[entry_number].shape);
    float *data = NEW_ARRAY(machine->arena, float, most);
    for (int64_t i = 0; i < most; i++) data[i] = 1e-3f * (float)(i % 7);
    mth__executable *executable = NULL;
    double taken[REPEATS];
    mth_status status = machine->vtable->load(machine->engine, program, NULL, &executable);
    if (!status) status = make_entries(machine, program, data, entry);
    if (!status) status = run_once(machine, executable, entry, exit, exits);
    for (int i = 0; i < REPEATS && !status; i++) {
        const double begin = now();
        status = run_once(machine, executable, entry, exit, exits);
        taken[i] = now() - begin;
    }
    let_go(machine, entry, entries);
    if (executable) machine->vtable->unload(executable);
    if (status) return status;
    qsort(taken, REPEATS, sizeof *taken, by_value);
    *seconds = taken[REPEATS / 2];
    return NULL;
}

/* The median of a few runs. */
static mth_status measure(bench *machine, measured_work *make, int64_t size, double *seconds) {
    mth__mesh *mesh;
    mth__program *program;
    mth__value *result;
    machine->arena = mth__arena_new();
    TRY(mth__mesh_new(machine->arena, 1, (const int64_t[]){2}, &mesh));
    mth__graph *graph = mth__graph_new(machine->arena, mesh);
    TRY(make(graph, mesh, size, &result));
    PUSH(machine->arena, graph->output, ((mth__output){.name = "y", .value = result}));
    TRY(mth__emit(machine->arena, graph,
        &(mth__emit_options){.views = machine->vtable->traits.views, .owns = machine->vtable->traits.owns}, &program));
    TRY(mth__emit_memory(program, machine->vtable->traits.least_lent));
    TRY(mth__program_verify(program));
    TRY(time_program(machine, program, seconds));
    mth__arena_free(machine->arena);
    return NULL;
}

/* The least of sizes low, 2 low, ..., high that takes long enough. */
static mth_status grow(bench *machine, measured_work *make, int64_t low, int64_t high, int64_t *size, double *seconds) {
    for (*size = low;; *size *= 2) {
        TRY(measure(machine, make, *size, seconds));
        if (*seconds >= ENOUGH || *size >= high) return NULL;
    }
}

/* To two digits, so that a second measurement mostly gives the same figure. */
static double rounded(double x) {
    if (!(x > 0)) return 0;
    const double unit = pow(10, floor(log10(x)) - 1);
    return round(x / unit) * unit;
}

/* Seconds that one more step of a chain takes. */
static mth_status step_of(bench *machine, measured_work *chain, double *seconds) {
    double one, all;
    TRY(measure(machine, chain, 1, &one));
    TRY(measure(machine, chain, 1 + CHAIN, &all));
    *seconds = all > one ? (all - one) / CHAIN : 0;
    return NULL;
}

static mth_status measure_machine(void *context) {
    bench *machine = context;
    mth__machine *measured = &machine->machine;
    int64_t size;
    double seconds, kernel, link;
    TRY(step_of(machine, small_sums, &kernel));
    TRY(step_of(machine, small_gathers, &link));
    TRY(grow(machine, product, 128, 1024, &size, &seconds));
    const double flops = 2 * pow((double)size, 3) / fmax(seconds - kernel, seconds / 2);
    TRY(grow(machine, long_sum, 1 << 18, 1 << 22, &size, &seconds));
    const double memory = 12 * (double)size / fmax(seconds - kernel, seconds / 2);
    TRY(grow(machine, long_gather, 1 << 18, 1 << 22, &size, &seconds));
    /* both devices take a half */
    const double rate = 4 * (double)size / fmax(seconds - link, seconds / 2);
    for (int dtype = 0; dtype < MTH__DTYPE_COUNT; dtype++) measured->flops[dtype] = rounded(flops);
    measured->memory_rate = rounded(memory);
    measured->kernel_latency = rounded(kernel);
    for (int axis = 0; axis < MTH__MACHINE_AXES; axis++) {
        measured->link_rate[axis] = rounded(rate);
        measured->link_latency[axis] = rounded(fmax(link - kernel, 0));
    }
    measured->cores = machine->vtable->cores ? machine->vtable->cores(machine->engine) : 0;
    return NULL;
}

/* ---------------------------------------------------------------- the file */
static mth_status no_place(void) {
    return FAIL(MTH_ERROR_IO,
        F("machine='calibrate': no place to keep the result, for neither XDG_CACHE_HOME nor HOME is set"),
        F("name a file, as in machine='calibrate:machine.txt'"));
}

static mth_status default_path(mth__arena *arena, const char *engine, char **out) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool has_cache = cache && *cache == '/';
    if (!has_cache && !(home && *home)) return no_place();
    char *root = has_cache ? mth__copy_text(arena, cache) : mth__format(arena, "%s/.cache", home);
    char *folder = mth__format(arena, "%s/mithril", root);
    mkdir(root, 0700); /* an existing one is fine; any other failure shows when the file is written */
    mkdir(folder, 0777);
    *out = mth__format(arena, "%s/machine_%s_%d_cores.txt", folder, engine, mth__core_count());
    return NULL;
}

/* Under another name first: nobody reads half a file. */
static mth_status keep(mth__arena *arena, const char *path, const mth__machine *machine, const char *engine) {
    mth__text text = mth__text_new(arena);
    mth__text_add(&text, "# Measured with the %s engine. Without this file the machine is measured anew.\n", engine);
    mth__machine_print(&text, machine);
    char *draft = mth__format(arena, "%s.%d", path, (int)getpid());
    FILE *file = fopen(draft, "we");
    bool good = file && fwrite(text.at, 1, text.n, file) == text.n;
    if (file && fclose(file) != 0) good = false;
    if (good && rename(draft, path) == 0) return NULL;
    const int code = errno;
    if (file) unlink(draft);
    return mth__error_errno(
        FAIL(MTH_ERROR_IO, F("machine='calibrate': can't write %s: %s", path, mth__errno_text(code)),
            F("name a file that can be written, as in machine='calibrate:machine.txt'")),
        code);
}

static mth_status calibrate(mth__arena *arena, const mth__engine_vtable *vtable, const mth__engine_setup *setup,
    const char *path, mth__machine **out) {
    bench machine = {.vtable = vtable};
    mth__mesh *pair;
    mth__engine_setup two = *setup;
    TRY(mth__mesh_new(arena, 1, (const int64_t[]){2}, &pair));
    if (setup->spmd)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("machine='calibrate' measures plans of mithril's own, with mesh_context='spmd' XLA's partitioner plans"),
            F("calibrate a backend with mesh_context='mpmd' once: its file is read here too"));
    two.mesh = pair;
    TRY(vtable->open(&two, &machine.engine));
    mth_status status = mth__guard(measure_machine, &machine);
    vtable->close(machine.engine);
    if (!status) status = keep(arena, path, &machine.machine, vtable->name);
    return status ? status : mth__machine_read(arena, path, out);
}

mth_status mth__machine_choose(mth__arena *arena, const mth__engine_vtable *vtable, const mth__engine_setup *setup,
    const char *value, mth__machine **out) {
    static const char prefix[] = "calibrate:";
    char *path = NULL;
    if (!strncmp(value, prefix, strlen(prefix)) && value[strlen(prefix)])
        path = mth__copy_text(arena, value + strlen(prefix));
    else if (!strcmp(value, "calibrate"))
        TRY(default_path(arena, vtable->name, &path));
    else if (!mth__machine_is_builtin(value) && strpbrk(value, "/."))
        return mth__machine_read(arena, value, out);
    else
        return mth__machine_builtin(arena, value, out);
    if (access(path, F_OK) == 0) return mth__machine_read(arena, path, out);
    return calibrate(arena, vtable, setup, path, out);
}
