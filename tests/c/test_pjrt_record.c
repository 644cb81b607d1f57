/* What a run on XLA records: modules by device, with the instructions that they are made of where these are known;
 * and what a control may ask that XLA does not do. */
#include "engine/backend.h"
#include "open_or_skip.h"
#include "random_plan.h"
#include "run_program.h"
#include "guarded.h"

enum { EVENTS = 1 << 12, SEEDS = 400, OF_EACH = 2 };

static bool has_plugin(void) {
    mth_backend *backend = open_or_skip("pjrt", 1);
    mth_backend_free(backend);
    return backend != NULL;
}

static const mth__program *plan_of_seed(unsigned seed) {
    mth__emit_options options = random_emit_options(seed);
    options.views = mth__engine_pjrt.traits.views;
    const mth__program *program = emit_plan(random_graph(arena, seed), &options);
    CHECK_STATUS(mth__program_verify(program));
    return program;
}

/* Instructions that each device must have been seen to do. */
static bool is_work(const mth__instr *instr) { return instr->kind == MTH__COMPUTE && !(instr->op->flags & MTH__ALIAS); }
static int works_of(const mth__role *role) {
    int works = 0;
    for (size_t i = 0; i < role->instr.n; i++) works += is_work(&role->instr.at[i]);
    return works;
}

/* ---------------------------------------------------------------- a program on XLA */
typedef struct {
    const mth__program *program;
    mth_backend *backend;
    mth__executable *executable;
    mth__buffer **entry, **exit;
    size_t entries, exits;
} session;

static void begin(session *s, const mth__program *program) {
    const mth__offsets offset = mth__buffer_offsets(arena, program);
    *s = (session){.program = program,
        .entries = (size_t)offset.entry[program->entry.n],
        .exits = (size_t)offset.exit[program->exit.n]};
    s->entry = NEW_ARRAY(arena, mth__buffer *, s->entries + 1);
    s->exit = NEW_ARRAY(arena, mth__buffer *, s->exits + 1);
    CHECK_STATUS(mth_backend_create("pjrt", MTH_OPTIONS({"device_mesh", MTH_INTS(program->mesh->count)}), &s->backend));
    mth__engine *engine = s->backend->devices.engine;
    CHECK_STATUS(mth__engine_pjrt.load(engine, program, NULL, &s->executable));
    CHECK_STATUS(make_entries(&mth__engine_pjrt, engine, program, s->entry));
}

static mth_status run(session *s, const mth__control *control) {
    mth_status status = mth__engine_pjrt.run(s->executable, s->entry, s->exit, control);
    let_go(&mth__engine_pjrt, s->exit, s->exits);
    memset(s->exit, 0, s->exits * sizeof *s->exit);
    return status;
}

static void end(session *s) {
    let_go(&mth__engine_pjrt, s->entry, s->entries);
    mth__engine_pjrt.unload(s->executable);
    mth_backend_free(s->backend);
}

/* ---------------------------------------------------------------- what is recorded */
/* Every event lies in the run and in its device's list; no instruction was seen twice on a device, and where devices
 * share one role each was seen. Devices that have work were seen at all. */
static void check_events(const mth__program *program, const mth__recorded *event, size_t n, int64_t from, int64_t to) {
    for (int device = 0; device < program->mesh->count; device++) {
        const int of = program->role_of[device];
        const mth__role *role = of < 0 ? NULL : &program->role.at[of];
        int *times = NEW_ARRAY(arena, int, role ? role->instr.n : 1), seen = 0;
        for (size_t i = 0; i < n; i++) {
            if (event[i].device != device) continue;
            CHECK(role && event[i].stream == 0);
            CHECK(from <= event[i].begin && event[i].begin <= event[i].end && event[i].end <= to);
            CHECK((event[i].first < 0) == (event[i].last < 0));
            CHECK(event[i].first <= event[i].last && role && event[i].last < (int)role->instr.n);
            for (int at = event[i].first; at >= 0 && at <= event[i].last; at++) times[at]++;
            seen++;
        }
        if (!role) continue;
        if (works_of(role)) CHECK(seen > 0);
        for (size_t i = 0; i < role->instr.n; i++) {
            CHECK(times[i] <= 1);
            if (program->role.n == 1 && is_work(&role->instr.at[i])) CHECK(times[i] == 1);
        }
    }
    for (size_t i = 0; i < n; i++) CHECK(event[i].device >= 0 && event[i].device < program->mesh->count);
}

static void record_runs(const mth__program *program) {
    static mth__recorded event[EVENTS];
    session s;
    mth__recorder *recorder;
    size_t first = 0;
    begin(&s, program);
    CHECK_STATUS(mth__recorder_new(4, EVENTS, &recorder));
    for (int turn = 0; turn < 2; turn++) {
        const int64_t from = mth__record_now();
        CHECK_STATUS(run(&s, &(mth__control){.recorder = recorder}));
        const int64_t to = mth__record_now();
        const size_t n = mth__recorder_take(recorder, event, EVENTS);
        check_events(program, event, n, from, to);
        if (turn) CHECK(n == first); /* the same modules each time */
        first = n;
    }
    CHECK(first > 0 && mth__recorder_dropped(recorder) == 0);
    CHECK_STATUS(run(&s, NULL));
    CHECK(mth__recorder_take(recorder, event, EVENTS) == 0); /* nothing is recorded unasked */
    mth__recorder_free(recorder);

    CHECK_STATUS(mth__recorder_new(1, 1, &recorder)); /* a ring of one event drops and counts the others */
    CHECK_STATUS(run(&s, &(mth__control){.recorder = recorder}));
    CHECK(mth__recorder_take(recorder, event, EVENTS) == 1);
    CHECK(mth__recorder_dropped(recorder) == (int64_t)first - 1);
    mth__recorder_free(recorder);
    end(&s);
}

GUARDED_IF(has_plugin(), modules_are_recorded) {
    mth__arena *outer = arena;
    int of_one = 0, of_several = 0;
    for (unsigned seed = 0; seed < SEEDS && (of_one < OF_EACH || of_several < OF_EACH); seed++) {
        arena = mth__arena_new();
        const mth__program *program = plan_of_seed(seed);
        int *met = program->role.n == 1 ? &of_one : &of_several;
        if (program->mesh->count > 1 && works_of(&program->role.at[0]) && *met < OF_EACH) {
            record_runs(program);
            (*met)++;
        }
        mth__arena_free(arena);
    }
    arena = outer;
    CHECK(of_one == OF_EACH && of_several == OF_EACH);
}

/* ---------------------------------------------------------------- what it does not do */
static mth_status cross(void *context, const mth__crossing *crossing) {
    (void)crossing;
    ++*(int *)context;
    return NULL;
}

static bool is_up(void *context) {
    (void)context;
    return true;
}

GUARDED_IF(has_plugin(), a_hook_is_refused_and_a_stop_is_heard) {
    session s;
    int asked = 0;
    mth__recorder *recorder;
    mth__recorded event;
    begin(&s, plan_of_seed(1));
    CHECK(!mth__engine_pjrt.traits.crossings);
    CHECK_FAILS(run(&s, &(mth__control){.crossing = cross, .crossing_context = &asked}), MTH_ERROR_UNSUPPORTED,
        "reference engine");
    CHECK(asked == 0);
    CHECK_STATUS(mth__recorder_new(1, 64, &recorder));
    CHECK_FAILS(
        run(&s, &(mth__control){.stop = &(mth__stop){is_up, NULL}, .recorder = recorder}), MTH_ERROR_INTERRUPTED, "");
    CHECK(mth__recorder_take(recorder, &event, 1) == 0); /* no module was begun */
    CHECK_STATUS(run(&s, &(mth__control){.recorder = recorder}));
    CHECK(mth__recorder_take(recorder, &event, 1) == 1);
    mth__recorder_free(recorder);
    end(&s);
}

RUN()
