/* The walk and the control of a run: one thread for all devices or one for each, what is recorded, what crosses from
 * device to device, and how a run ends early. */
#include "emit/traffic.h"
#include "engine/engine.h"
#include "engine/walk.h"
#include "random_plan.h"
#include "run_program.h"
#include <string.h>
#include <sys/wait.h>
#include "guarded.h"

#ifdef __SANITIZE_THREAD__
enum { RUNS = 200, FORKS = 0 /* it ends a child by fork that makes threads */ };
#elif defined __SANITIZE_ADDRESS__
enum { RUNS = 200, FORKS = 0 /* its allocator's locks are not taken over a fork */ };
#else
enum { RUNS = 2000, FORKS = 20 };
#endif
enum { PLANS = 60, STEPS = 12, EVENTS = 1 << 14 };

typedef struct {
    const mth__engine_vtable *vt;
    const mth__program *p;
    mth__engine *engine;
    mth__executable *x;
    mth__buffer **entry, **exit;
    size_t entries, exits;
} session;

static void begin(session *s, const mth__engine_vtable *vt, const mth__program *program, bool device_threads) {
    const mth__offsets offset = mth__buffer_offsets(arena, program);
    *s = (session){.vt = vt,
        .p = program,
        .entries = (size_t)offset.entry[program->entry.n],
        .exits = (size_t)offset.exit[program->exit.n]};
    s->entry = NEW_ARRAY(arena, mth__buffer *, s->entries + 1);
    s->exit = NEW_ARRAY(arena, mth__buffer *, s->exits + 1);
    CHECK_STATUS(open_engine_with(vt, program->mesh, 2, device_threads, &s->engine));
    CHECK_STATUS(vt->load(s->engine, program, NULL, &s->x));
    CHECK_STATUS(make_entries(vt, s->engine, program, s->entry));
}
static mth_status run(session *s, const mth__control *control) {
    let_go(s->vt, s->exit, s->exits);
    memset(s->exit, 0, s->exits * sizeof *s->exit);
    return s->vt->run(s->x, s->entry, s->exit, control);
}
static void end(session *s) {
    let_go(s->vt, s->exit, s->exits);
    let_go(s->vt, s->entry, s->entries);
    s->vt->unload(s->x);
    s->vt->close(s->engine);
}

static size_t exit_bytes(const mth__exit *exit, int rank) {
    return (size_t)mth__shape_size(mth__local_shape(exit->shape, &exit->sharding, rank, NULL, NULL)) *
        mth_dtype_size(exit->dtype);
}

static bool same_exits(const session *a, const session *b) {
    int64_t at = 0;
    for (size_t exit_number = 0; exit_number < a->p->exit.n; exit_number++) {
        const mth__exit *exit = &a->p->exit.at[exit_number];
        for (int rank = 0; rank < exit->sharding.on->count; rank++, at++)
            if (memcmp(a->vt->memory.host(a->exit[at]), b->vt->memory.host(b->exit[at]), exit_bytes(exit, rank)))
                return false;
    }
    return true;
}

static mth__program *plan_of_seed(unsigned seed) {
    mth__emit_options options = random_emit_options(seed);
    mth__program *program = emit_plan(random_graph(arena, seed), &options);
    CHECK_STATUS(mth__program_verify(program));
    return program;
}

/* ---------------------------------------------------------------- threads */
GUARDED(a_thread_for_each_device_computes_the_same) {
    for (unsigned seed = 0; seed < PLANS; seed++) {
        mth__program *program = plan_of_seed(seed);
        session one, each;
        begin(&one, &mth__engine_reference, program, false);
        begin(&each, &mth__engine_reference, program, true);
        CHECK_STATUS(run(&one, NULL));
        for (int turn = 0; turn < 2; turn++) {
            CHECK_STATUS(run(&each, NULL));
            CHECK(same_exits(&one, &each));
        }
        end(&one);
        end(&each);
    }
}

/* Counts go on from run to run, in whatever order one thread and one for each device take turns. */
GUARDED(thousands_of_runs_compute_the_same) {
    for (unsigned seed = 3; seed < 6; seed++) {
        session one, each;
        begin(&one, &mth__engine_reference, plan_of_seed(seed), false);
        begin(&each, &mth__engine_reference, one.p, true);
        CHECK_STATUS(run(&one, NULL));
        for (int turn = 0; turn < RUNS; turn++) {
            CHECK_STATUS(run(&each, NULL));
            if (turn % 16 == 0) CHECK(same_exits(&one, &each));
        }
        end(&one);
        end(&each);
    }
}

/* Two executables share the threads of their engine, and each is run by two threads. */
typedef struct {
    const session *whose, *expected;
    int wrong;
} runner;
static void *run_often(void *argument) {
    runner *own = argument;
    session mine = *own->whose;
    mine.exit = calloc(mine.exits + 1, sizeof(mth__buffer *));
    for (int turn = 0; turn < RUNS / 8; turn++) {
        mth_status status = run(&mine, NULL);
        own->wrong += status || !same_exits(own->expected, &mine);
        mth_error_free(status);
    }
    let_go(mine.vt, mine.exit, mine.exits);
    free(mine.exit);
    return NULL;
}
GUARDED(runs_from_several_threads_compute_the_same) {
    enum { RUNNERS = 4 };
    session one, two, each;
    runner runners[RUNNERS];
    pthread_t thread[RUNNERS];
    begin(&one, &mth__engine_reference, plan_of_seed(3), false);
    begin(&each, &mth__engine_reference, one.p, true);
    CHECK_STATUS(run(&one, NULL));
    two = each;
    CHECK_STATUS(two.vt->load(two.engine, two.p, NULL, &two.x));
    for (int i = 0; i < RUNNERS; i++) {
        runners[i] = (runner){i % 2 ? &each : &two, &one, 0};
        CHECK(pthread_create(&thread[i], NULL, run_often, &runners[i]) == 0);
    }
    for (int i = 0; i < RUNNERS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(runners[i].wrong == 0);
    }
    two.vt->unload(two.x);
    end(&one);
    end(&each);
}

typedef struct {
    session *session;
    atomic_bool over;
} busy_parent;
static void *run_on(void *argument) {
    busy_parent *parent = argument;
    while (!atomic_load(&parent->over)) CHECK_STATUS(run(parent->session, NULL));
    return NULL;
}
/* Wherever a run of the parent is. */
GUARDED(a_fork_runs_from_the_beginning) {
    session one, each;
    pthread_t thread;
    busy_parent parent = {.session = &each};
    begin(&one, &mth__engine_reference, plan_of_seed(3), false);
    begin(&each, &mth__engine_reference, one.p, true);
    CHECK_STATUS(run(&one, NULL));
    CHECK(pthread_create(&thread, NULL, run_on, &parent) == 0);
    for (int i = 0; i < FORKS; i++) {
        usleep(137 * (unsigned)i);
        fflush(NULL);
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            memset(each.exit, 0, each.exits * sizeof *each.exit); /* the parent's run was giving them up */
            for (int turn = 0; turn < 5; turn++) {
                CHECK_STATUS(run(&each, NULL));
                CHECK(same_exits(&one, &each));
            }
            fflush(stdout);
            _exit(unit_failures != 0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    atomic_store(&parent.over, true);
    pthread_join(thread, NULL);
    end(&one);
    end(&each);
}

/* ---------------------------------------------------------------- what crosses */
typedef struct {
    mth__traffic by_device[64];
    int left; /* until it refuses; -1: never */
} crossings;
static mth_status cross(void *context, const mth__crossing *crossing) {
    crossings *all = context;
    if (all->left == 0) return FAIL(MTH_ERROR_IO, F("%s: the line is cut", crossing->channel), F("mend it"));
    all->left -= all->left > 0;
    all->by_device[crossing->from].sent += crossing->bytes;
    all->by_device[crossing->to].received += crossing->bytes;
    return NULL;
}

GUARDED(what_is_counted_is_what_crosses) {
    int64_t total = 0, refused = 0;
    for (unsigned seed = 0; seed < PLANS; seed++) {
        mth__program *program = plan_of_seed(seed);
        mth__traffic *counted = NEW_ARRAY(arena, mth__traffic, program->mesh->count);
        crossings crossed = {.left = -1};
        session s;
        begin(&s, &mth__engine_reference, program, false);
        CHECK_STATUS(mth__program_traffic(program, counted, NULL));
        CHECK_STATUS(run(&s, &(mth__control){.crossing = cross, .crossing_context = &crossed}));
        for (int d = 0; d < program->mesh->count; d++) {
            CHECK(crossed.by_device[d].received == counted[d].received);
            CHECK(crossed.by_device[d].sent == counted[d].sent);
            total += counted[d].sent;
        }
        crossings cut = {.left = 1};
        mth_status status = run(&s, &(mth__control){.crossing = cross, .crossing_context = &cut});
        if (status) {
            CHECK(mth_error_get_code(status) == MTH_ERROR_IO && strstr(mth_error_get_message(status), "line is cut"));
            refused++;
        }
        mth_error_free(status);
        CHECK_STATUS(run(&s, NULL)); /* as before */
        end(&s);
    }
    CHECK(total > 10000 && refused > PLANS / 2);
}

GUARDED(an_engine_that_asks_nobody_says_so) {
    session s;
    crossings crossed = {.left = -1};
    begin(&s, &mth__engine_native, plan_of_seed(1), false);
    CHECK(!s.vt->traits.crossings && mth__engine_reference.traits.crossings);
    CHECK_FAILS(run(&s, &(mth__control){.crossing = cross, .crossing_context = &crossed}), MTH_ERROR_UNSUPPORTED,
        "reference engine");
    end(&s);
}

/* ---------------------------------------------------------------- what ends early */
/* Whichever device is refused first, the others end too, and the next run begins anew. */
GUARDED(a_refusal_ends_the_run_of_all_threads) {
    int refused = 0;
    for (unsigned seed = 0; seed < PLANS; seed++) {
        session one, each;
        begin(&one, &mth__engine_reference, plan_of_seed(seed), false);
        begin(&each, &mth__engine_reference, one.p, true);
        CHECK_STATUS(run(&one, NULL));
        for (int cut = 0; cut < 3; cut++) {
            crossings crossed = {.left = 0};
            mth_status status = run(&each, &(mth__control){.crossing = cross, .crossing_context = &crossed});
            if (status) CHECK(mth_error_get_code(status) == MTH_ERROR_IO);
            refused += status != NULL;
            mth_error_free(status);
            CHECK_STATUS(run(&each, NULL));
            CHECK(same_exits(&one, &each));
        }
        end(&one);
        end(&each);
    }
    CHECK(refused > PLANS);
}

static mth_status nothing(void *context, int device, const mth__instr *instruction) {
    (void)context, (void)device, (void)instruction;
    return NULL;
}
static mth_status move_nothing(void *context, const mth__walk_move *move) {
    (void)context, (void)move;
    return NULL;
}
/* Drops instruction number `at` of a role. */
static void forget(mth__role *role, size_t at) {
    memmove(&role->instr.at[at], &role->instr.at[at + 1], (--role->instr.n - at) * sizeof *role->instr.at);
}
/* Programs that would not verify: somebody leaves out its part in a channel. */
GUARDED(who_waits_for_ever_is_told) {
    const mth__walk_calls calls = {.compute = nothing, .copy = nothing, .move = move_nothing, .reduce = move_nothing};
    int found = 0;
    for (unsigned seed = 0; seed < PLANS; seed++) {
        mth__program *program = plan_of_seed(seed);
        mth__walk *walk;
        mth__crew *crew;
        bool waits = false;
        for (size_t role_number = 0; role_number < program->role.n && !waits; role_number++) {
            mth__role *role = &program->role.at[role_number];
            for (size_t i = 0; i < role->instr.n && !waits; i++) {
                const mth__instr *instruction = &role->instr.at[i];
                const mth__channel *channel =
                    mth__has_channel(instruction) ? &program->channel.at[instruction->channel] : NULL;
                /* the first part in a collective of several devices, which waits for all of them */
                waits = channel && instruction->kind == MTH__COLLECTIVE && instruction->stream == 0 &&
                    channel->kind < MTH__BROADCAST && mth__channel_size(channel) > 1 && program->role.n > 1;
                if (waits) forget(role, i);
            }
        }
        if (!waits) continue;
        CHECK_STATUS(mth__walk_new(arena, program, &walk));
        CHECK_STATUS(mth__crew_new(program->mesh->count, NULL, NULL, &crew));
        for (int turn = 0; turn < 4; turn++) {
            mth_status status = mth__walk_run(walk, &calls, NULL, turn % 2 ? crew : NULL, NULL);
            if (turn == 0) found += status != NULL;
            if (status) CHECK(strstr(mth_error_get_message(status), "for ever"));
            CHECK((status != NULL) == waits || turn == 0);
            waits = status != NULL;
            mth_error_free(status);
        }
        mth__crew_free(crew);
    }
    CHECK(found > 3);
}

/* ---------------------------------------------------------------- what is recorded */
/* Whether each instruction that computes was recorded once on each device, and what moves between them at least once;
 * those of a stream one after another. */
static void check_events(const session *s, const mth__recorded *event, size_t n, int64_t from, int64_t to) {
    const mth__program *program = s->p;
    for (size_t role_number = 0; role_number < program->role.n; role_number++)
        for (int k = 0; k < program->role.at[role_number].ndevice; k++) {
            const mth__role *role = &program->role.at[role_number];
            int *times = NEW_ARRAY(arena, int, role->instr.n);
            int64_t last[MTH__STREAMS] = {0};
            for (size_t i = 0; i < n; i++) {
                if (event[i].device != role->device[k]) continue;
                CHECK(event[i].first >= 0 && event[i].last >= event[i].first && event[i].last < (int)role->instr.n);
                CHECK(from <= event[i].begin && event[i].begin <= event[i].end && event[i].end <= to);
                CHECK(event[i].stream == role->instr.at[event[i].first].stream);
                for (int at = event[i].first; at <= event[i].last; at++) times[at]++;
                last[event[i].stream]++;
            }
            for (size_t i = 0; i < role->instr.n; i++) {
                const mth__instr *instr = &role->instr.at[i];
                const bool silent = instr->kind == MTH__WAIT || instr->kind == MTH__SEND;
                const bool view = instr->kind == MTH__COMPUTE && instr->op->flags & MTH__ALIAS;
                if (silent) CHECK(times[i] == 0);
                if (instr->kind == MTH__COMPUTE && !view) CHECK(times[i] == 1);
                if (mth__has_channel(instr) && !silent && s->vt == &mth__engine_reference) CHECK(times[i] == 1);
            }
        }
}

GUARDED(every_instruction_is_recorded) {
    static mth__recorded event[EVENTS];
    const mth__engine_vtable *const engines[] = {&mth__engine_native, &mth__engine_reference, &mth__engine_reference};
    for (unsigned seed = 0; seed < PLANS; seed++)
        for (int k = 0; k < 3; k++) {
            session s;
            mth__recorder *recorder;
            begin(&s, engines[k], plan_of_seed(seed), k == 2);
            CHECK_STATUS(mth__recorder_new(64, EVENTS / 16, &recorder));
            for (int turn = 0; turn < 2; turn++) {
                const int64_t from = mth__record_now();
                CHECK_STATUS(run(&s, &(mth__control){.recorder = recorder}));
                const int64_t to = mth__record_now();
                check_events(&s, event, mth__recorder_take(recorder, event, EVENTS), from, to);
            }
            CHECK(mth__recorder_dropped(recorder) == 0);
            CHECK_STATUS(run(&s, NULL));
            CHECK(mth__recorder_take(recorder, event, EVENTS) == 0); /* nothing is recorded unasked */
            mth__recorder_free(recorder);
            end(&s);
        }
}

/* ---------------------------------------------------------------- rings */
enum { WRITERS = 4, WRITES = 20000 };
typedef struct {
    mth__recorder *recorder;
    int number;
    atomic_int *writing;
} writer;
static void *write_events(void *argument) {
    writer *w = argument;
    for (int i = 0; i < WRITES; i++)
        mth__record(w->recorder, &(mth__recorded){.device = w->number, .first = i, .begin = 3 * i, .end = 5 * i});
    atomic_fetch_sub(w->writing, 1);
    return NULL;
}

/* Taken while threads write: what comes out is what went in, in order, and the rest was counted as dropped. */
TEST(rings_are_read_while_they_are_written) {
    static mth__recorded event[256];
    mth__recorder *recorder;
    pthread_t thread[WRITERS];
    writer w[WRITERS];
    atomic_int writing = WRITERS;
    int last[WRITERS] = {-1, -1, -1, -1};
    int64_t taken = 0;
    CHECK_STATUS(mth__recorder_new(WRITERS, 128, &recorder));
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (writer){recorder, i, &writing};
        CHECK(pthread_create(&thread[i], NULL, write_events, &w[i]) == 0);
    }
    for (bool more = true; more;) {
        more = atomic_load(&writing) > 0;
        size_t n = mth__recorder_take(recorder, event, 256);
        for (size_t i = 0; i < n; i++) {
            CHECK(event[i].first > last[event[i].device]);
            CHECK(event[i].begin == 3 * (int64_t)event[i].first && event[i].end == 5 * (int64_t)event[i].first);
            last[event[i].device] = event[i].first;
        }
        taken += (int64_t)n;
        more |= n > 0;
    }
    for (int i = 0; i < WRITERS; i++) pthread_join(thread[i], NULL);
    taken += (int64_t)mth__recorder_take(recorder, event, 256);
    CHECK(taken + mth__recorder_dropped(recorder) == WRITERS * WRITES && taken >= WRITERS * 128);
    mth__recorder_free(recorder);
}

TEST(a_full_ring_drops_and_counts) {
    mth__recorder *recorder;
    mth__recorded event[16];
    CHECK_STATUS(mth__recorder_new(1, 8, &recorder));
    for (int i = 0; i < 11; i++) mth__record(recorder, &(mth__recorded){.first = i});
    CHECK(mth__recorder_dropped(recorder) == 3);
    CHECK(mth__recorder_take(recorder, event, 5) == 5 && event[4].first == 4);
    mth__record(recorder, &(mth__recorded){.first = 77});
    CHECK(mth__recorder_take(recorder, event, 16) == 4 && event[3].first == 77);
    mth__recorder_free(recorder);
}

/* ---------------------------------------------------------------- stop */
typedef struct {
    atomic_int left;
} countdown;
static bool is_up(void *context) {
    countdown *c = context;
    return atomic_fetch_sub(&c->left, 1) <= 0;
}
GUARDED(a_run_of_threads_ends_when_asked) {
    int interrupted = 0;
    for (unsigned seed = 0; seed < 10; seed++) {
        session s;
        begin(&s, &mth__engine_reference, plan_of_seed(seed), true);
        for (int after = 0; after < 30; after += 3) {
            countdown c = {after};
            mth_status status = run(&s, &(mth__control){.stop = &(mth__stop){is_up, &c}});
            interrupted += status != NULL;
            if (status) CHECK(mth_error_get_code(status) == MTH_ERROR_INTERRUPTED);
            mth_error_free(status);
        }
        CHECK_STATUS(run(&s, NULL));
        end(&s);
    }
    CHECK(interrupted > 50);
}

RUN()
