/* What the native executor costs by itself: an instruction's dispatch, a collective's, and the memory traffic of a
 * large all_reduce.
 *     meson compile -C build bench_executor && build/bench_executor [threads]
 * prints "name<TAB>value<TAB>unit" */
#include "catalog/rows.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const mth__engine_vtable *const native = &mth__engine_native;
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int threads;

/* A program in which each device makes n instructions: `op` on its entry, or an all_reduce of it. */
typedef struct {
    int devices, n;
    mth__algorithm algorithm;
    bool all_reduce;
    int64_t elements;
    double best;
    mth__recorder *recorder; /* NULL: none */
} job;

static mth_status time_job(void *argument) {
    job *j = argument;
    mth__arena *arena = mth__arena_new();
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){j->devices}, &mesh));
    mth__program *program = NEW(arena, mth__program);
    program->arena = arena;
    program->mesh = mesh;
    mth__sharding whole = {.on = mth__place_whole(mesh)}, partial = {.on = mth__place_whole(mesh), .partial = 1};
    mth__shape shape = {1, {j->elements}};
    mth__role role = {.ndevice = j->devices, .device = mth__place_whole(mesh)->device};
    mth__program_value v = {.name = "x",
        .dtype = MTH_FLOAT32,
        .shape = shape,
        .local = shape,
        .sharding = j->all_reduce ? partial : whole,
        .storage = MTH__IN_ENTRY,
        .bytes = j->elements * 4};
    PUSH(arena, role.value, v);
    v.storage = MTH__IN_EXIT;
    v.sharding = whole;
    PUSH(arena, role.value, v);
    int *value = NEW_ARRAY(arena, int, 2);
    value[1] = 1;
    mth__attrs *attrs = NEW(arena, mth__attrs);
    for (int i = 0; i < j->n; i++) {
        if (j->all_reduce)
            PUSH(arena, program->channel,
                (mth__channel){.kind = MTH__ALL_REDUCE,
                    .algorithm = j->algorithm,
                    .dtype = MTH_FLOAT32,
                    .shape = shape,
                    .from = partial,
                    .to = whole,
                    .axes = 1,
                    .label = "all_reduce"});
        PUSH(arena, role.instr,
            (mth__instr){.kind = j->all_reduce ? MTH__COLLECTIVE : MTH__COMPUTE,
                .op = mth__op_find("shift"),
                .attrs = attrs,
                .channel = i,
                .nin = 1,
                .nout = 1,
                .in = value,
                .out = value + 1,
                .scratch = -1});
    }
    PUSH(arena, program->role, role);
    program->role_of = NEW_ARRAY(arena, int32_t, j->devices);
    PUSH(arena, program->entry, (mth__entry){.name = "x"});
    mth__engine *engine;
    mth__executable *executable;
    mth__buffer *entry[64], *exit[64] = {NULL};
    const mth__opt options[] = {{"threads", MTH__OPT_SIZE, "None", "", NULL}, {0}};
    mth_arg count = threads ? mth_int(threads) : MTH_NONE;
    TRY(native->open(&(mth__engine_setup){program->mesh, (const mth__opt *const[]){options, NULL}, &count}, &engine));
    TRY(native->load(engine, program, NULL, &executable));
    for (int d = 0; d < j->devices; d++) {
        TRY(native->memory.new(engine, d, j->elements * 4, &entry[d]));
        memset(native->memory.host(entry[d]), 0, (size_t)j->elements * 4);
    }
    j->best = 1e9;
    double begin = seconds();
    for (int i = 0; i < 5 || (seconds() - begin < 0.5 && i < 200); i++) {
        double t = seconds();
        TRY(native->run(executable, entry, exit, &(mth__control){.recorder = j->recorder}));
        t = seconds() - t;
        static mth__recorded event[4096];
        while (j->recorder && mth__recorder_take(j->recorder, event, 4096)) continue;
        if (t < j->best) j->best = t;
        for (int d = 0; d < j->devices; d++) native->memory.release(exit[d]);
    }
    for (int d = 0; d < j->devices; d++) native->memory.release(entry[d]);
    native->unload(executable);
    native->close(engine);
    mth__arena_free(arena);
    return NULL;
}
static double measure(job j) {
    mth_status status = mth__guard(time_job, &j);
    if (status) {
        fprintf(stderr, "%s\n", mth_error_get_message(status));
        exit(1);
    }
    return j.best;
}

int main(int argc, char **argv) {
    threads = argc > 1 ? atoi(argv[1]) : 0;
    printf("empty run, 4 devices\t%.2f\tus\n", 1e6 * measure((job){.devices = 4, .n = 1, .elements = 1}));
    for (int devices = 1; devices <= 8; devices *= 2)
        printf("instruction of one element, %d device%s\t%.0f\tns\n", devices, devices == 1 ? "" : "s",
            1e9 * measure((job){.devices = devices, .n = 10000, .elements = 1}) / (10000 * devices));
    for (int devices = 2; devices <= 8; devices *= 2)
        printf("direct all_reduce of one element, %d devices\t%.2f\tus\n", devices,
            1e6 * measure((job){.devices = devices, .n = 2000, .all_reduce = true, .elements = 1}) / 2000);
    mth__recorder *recorder;
    mth_status status = mth__recorder_new(64, 1 << 17, &recorder);
    if (status) {
        fprintf(stderr, "%s\n", mth_error_get_message(status));
        return 1;
    }
    for (int turn = 0; turn < 6; turn++)
        printf("instruction of one element, 2 devices, recorder %s\t%.1f\tns\n", turn % 2 ? "on" : "off",
            1e9 * measure((job){.devices = 2, .n = 10000, .elements = 1, .recorder = turn % 2 ? recorder : NULL}) /
                20000);
    mth__recorder_free(recorder);
    static const char *const name[] = {"direct", "ring", "tree", "hierarchical"};
    for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
        double t = measure((job){
            .devices = 4, .n = 1, .algorithm = (mth__algorithm)algorithm, .all_reduce = true, .elements = 16 << 20});
        printf("%s all_reduce of 64 MiB, 4 devices\t%.1f\tms\t%.1f GB/s of 8 x 64 MiB\n", name[algorithm], 1e3 * t,
            8 * 64 * 1.048576e-3 / t);
    }
    return 0;
}
