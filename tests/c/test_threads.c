/* Several threads and processes: interrupts that reach the runs under way and no others, forks at any moment of what
 * the threads of the parent do, on every engine. */
#include "open_or_skip.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const engines[] = {"native", "reference", "pjrt"};
enum { NATIVE, REFERENCE, PJRT, ENGINES };

/* A product of x (rows, SIZE) with a matrix of ones, large enough for OpenBLAS; the reference engine is spared that. */
enum { ROWS = 96, SIZE = 256, DEVICES = 2 };
typedef struct {
    int engine, rows, size;
    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *x;
    mth_arrays *parameters;
} session;

static mth_status evaluate(const session *e, mth_array *array, mth_arrays **out) {
    return mth_evaluate(e->compiled, e->parameters, &(mth_named){"input", array}, 1, NULL, out, NULL);
}

static bool is_right(const session *e, const mth_arrays *out, int rows) {
    float *y = malloc(sizeof *y * (size_t)(rows * e->size));
    mth_status status = mth_array_gather(mth_arrays_find(out, "output"), y);
    bool right = !status;
    for (int i = 0; right && i < rows * e->size; i++) right = y[i] == (float)e->size;
    mth_error_free(status);
    free(y);
    return right;
}

static mth_array *ones(const session *e, int rows, int columns) {
    mth_array *array = NULL;
    CHECK_STATUS(mth_array_full(e->backend, MTH_FLOAT32, 1, 2, (int64_t[]){rows, columns}, NULL, &array));
    return array;
}

/* On an open backend. */
static session compile_on(int engine, mth_backend *backend) {
    session e = {.engine = engine,
        .backend = backend,
        .rows = engine == REFERENCE ? 6 : ROWS,
        .size = engine == REFERENCE ? 16 : SIZE};
    mth_module *linear = NULL;
    mth_model *model = NULL;
    CHECK_STATUS(mth_module_create("Linear",
        MTH_OPTIONS({"dimension", mth_int(e.size)}, {"bias", mth_bool(false)},
            {"weight_shard_spec", MTH_SPEC(MTH_NONE, mth_int(0))}),
        &linear));
    CHECK_STATUS(mth_model_create(&model));
    CHECK_STATUS(mth_model_add(model, linear, MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN));
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &e.compiled));
    mth_module_free(linear);
    mth_model_free(model);
    e.x = ones(&e, e.rows, e.size);
    mth_array *array = ones(&e, e.size, e.size);
    CHECK_STATUS(mth_arrays_create(&(mth_named){"linear_0.weight", array}, 1, &e.parameters));
    mth_array_free(array);
    return e;
}

/* backend NULL: there is no such engine here. */
static session begin(int engine) {
    mth_backend *backend = open_or_skip(engines[engine], DEVICES);
    return backend ? compile_on(engine, backend) : (session){0};
}

static void end(session *e) {
    mth_arrays_free(e->parameters);
    mth_array_free(e->x);
    mth_compiled_free(e->compiled);
    mth_backend_free(e->backend);
}

/* ---------------------------------------------------------------- interrupts */
typedef struct {
    const session *session;
    atomic_int over, right, interrupted, wrong;
} worker;

static void *evaluate_often(void *context) {
    worker *w = context;
    while (!atomic_load(&w->over)) {
        mth_arrays *out = NULL;
        mth_status status = evaluate(w->session, w->session->x, &out);
        bool stopped = status && mth_error_get_code(status) == MTH_ERROR_INTERRUPTED;
        atomic_fetch_add(stopped                                         ? &w->interrupted
                : !status && is_right(w->session, out, w->session->rows) ? &w->right
                                                                         : &w->wrong,
            1);
        mth_error_free(status);
        mth_arrays_free(out);
    }
    return NULL;
}

TEST(an_interrupt_is_for_the_runs_that_are_under_way) {
    enum { WORKERS = 3, INTERRUPTS = 30 };
    for (int engine = 0; engine < ENGINES; engine++) {
        session e = begin(engine);
        if (!e.backend) continue;
        worker w[WORKERS] = {{.session = &e}, {.session = &e}, {.session = &e}};
        pthread_t thread[WORKERS];
        for (int i = 0; i < WORKERS; i++) pthread_create(&thread[i], NULL, evaluate_often, &w[i]);
        int stopped = 0;
        for (int i = 0; i < INTERRUPTS || (!stopped && i < 100 * INTERRUPTS); i++) {
            usleep(2000);
            int before = 0;
            stopped = 0;
            for (int k = 0; k < WORKERS; k++) before += atomic_load(&w[k].interrupted);
            mth_compiled_interrupt(e.compiled);
            usleep(2000);
            for (int k = 0; k < WORKERS; k++) stopped += atomic_load(&w[k].interrupted);
            CHECK(stopped - before <= WORKERS); /* one call of each thread, and not those that follow */
        }
        CHECK(stopped > 0);
        for (int k = 0; k < WORKERS; k++) {
            int right = atomic_load(&w[k].right);
            for (int i = 0; i < 300000 && atomic_load(&w[k].right) < right + 3; i++) usleep(2000);
            CHECK(atomic_load(&w[k].right) >= right + 3);
            atomic_store(&w[k].over, 1);
        }
        for (int i = 0; i < WORKERS; i++) {
            pthread_join(thread[i], NULL);
            CHECK(!atomic_load(&w[i].wrong));
        }
        mth_compiled_interrupt(e.compiled); /* when nobody runs */
        mth_arrays *out = NULL;
        CHECK_STATUS(evaluate(&e, e.x, &out));
        mth_arrays_free(out);
        end(&e);
    }
}

static bool always(void *asked) {
    atomic_fetch_add((atomic_int *)asked, 1);
    return true;
}

TEST(a_check_is_for_the_runs_of_its_thread) {
    for (int engine = 0; engine < ENGINES; engine++) {
        session e = begin(engine);
        if (!e.backend) continue;
        worker w = {.session = &e};
        pthread_t thread;
        pthread_create(&thread, NULL, evaluate_often, &w);
        for (int i = 0; i < 20 || (!atomic_load(&w.right) && i < 100000); i++) {
            atomic_int asked = 0;
            mth_arrays *out = NULL;
            mth_set_interrupt_check(always, &asked);
            CHECK_FAILS(evaluate(&e, e.x, &out), MTH_ERROR_INTERRUPTED, "call again");
            mth_set_interrupt_check(NULL, NULL);
            CHECK(asked > 0 && !out);
            CHECK_STATUS(evaluate(&e, e.x, &out));
            CHECK(is_right(&e, out, e.rows));
            mth_arrays_free(out);
        }
        atomic_store(&w.over, 1);
        pthread_join(thread, NULL);
        CHECK(!atomic_load(&w.interrupted) && !atomic_load(&w.wrong) && atomic_load(&w.right));
        end(&e);
    }
}

static atomic_int release_first, first_waits;
static bool wait_here(void *unused) {
    (void)unused;
    atomic_store(&first_waits, 1);
    while (!atomic_load(&release_first)) usleep(1000);
    return false;
}
static void *evaluate_and_wait(void *context) {
    session *e = context;
    mth_arrays *out = NULL;
    mth_set_interrupt_check(wait_here, NULL);
    CHECK_STATUS(evaluate(e, e->x, &out));
    mth_arrays_free(out);
    return NULL;
}

TEST(who_waits_for_the_run_of_another_can_be_interrupted) {
    for (int engine = 0; engine < ENGINES; engine++) {
        session e = begin(engine);
        if (!e.backend) continue;
        pthread_t thread;
        atomic_int asked = 0;
        mth_arrays *out = NULL;
        CHECK_STATUS(evaluate(&e, e.x, &out)); /* the plan is made: what is waited for below is the run */
        mth_arrays_free(out);
        out = NULL;
        atomic_store(&release_first, 0);
        atomic_store(&first_waits, 0);
        pthread_create(&thread, NULL, evaluate_and_wait, &e);
        while (!atomic_load(&first_waits)) usleep(1000);
        mth_set_interrupt_check(always, &asked);
        /* the other run is in the engine until it is let go */
        CHECK_FAILS(evaluate(&e, e.x, &out), MTH_ERROR_INTERRUPTED, "interrupted");
        mth_set_interrupt_check(NULL, NULL);
        atomic_store(&release_first, 1);
        pthread_join(thread, NULL);
        end(&e);
    }
}

/* ---------------------------------------------------------------- forks */
static void *plan_often(void *context) {
    worker *w = context;
    for (int rows = 1; !atomic_load(&w->over); rows = rows % 500 + 1) {
        mth_array *array = ones(w->session, rows, w->session->size);
        mth_status status = mth_plan(w->session->compiled, &(mth_named){"input", array}, 1, rows % 2);
        CHECK(!status);
        mth_error_free(status);
        mth_array_free(array);
        mth_backend *backend = NULL;
        CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(1)}), &backend));
        CHECK(strstr(mth_module_type_doc("Linear"), "dimension"));
        mth_backend_free(backend);
    }
    return NULL;
}

/* Success, or (`may_fail`) an error that says what a fork can't do. */
static void check_child(mth_status status, bool may_fail) {
    if (status && may_fail) {
        CHECK(mth_error_get_code(status) == MTH_ERROR_UNSUPPORTED && strstr(mth_error_get_message(status), "fork") &&
            strstr(mth_error_get_fix(status), "spawn"));
        mth_error_free(status);
    } else
        CHECK_STATUS(status);
}

static void live_in_child(session *e, const mth_arrays *result) {
    mth_arrays *out = NULL;
    mth_status status = evaluate(e, e->x, &out);
    CHECK(!status == (e->engine != PJRT));
    if (out) CHECK(is_right(e, out, e->rows));
    mth_arrays_free(out);
    check_child(status, e->engine == PJRT);
    CHECK(is_right(e, result, e->rows)); /* read, without a run */

    out = NULL;
    mth_array *array = ones(e, e->rows + 1000, e->size);
    status = evaluate(e, array, &out); /* needs a plan */
    if (out) CHECK(is_right(e, out, e->rows + 1000));
    check_child(status, true);
    mth_arrays_free(out);
    mth_array_free(array);

    for (int engine = 0; engine < ENGINES; engine++) {
        mth_backend *backend = NULL;
        status = engine == PJRT && e->engine != PJRT
            ? NULL
            : mth_backend_create(engines[engine], MTH_OPTIONS({"device_mesh", MTH_INTS(DEVICES)}), &backend);
        check_child(status, engine == PJRT);
        if (!backend) continue;
        CHECK(engine != PJRT);
        session own = compile_on(engine, backend);
        out = NULL;
        CHECK_STATUS(evaluate(&own, own.x, &out));
        CHECK(is_right(&own, out, own.rows));
        mth_arrays_free(out);
        end(&own);
    }
    char *text = NULL;
    check_child(mth_backend_describe(e->backend, &text), e->engine == PJRT);
    mth_text_free(text);
    if (e->engine == PJRT) check_child(mth_explain(e->compiled, NULL, 0, &text), true);
    CHECK(mth_module_type_signature("Linear") && mth_backend_option_doc("native"));
}

static void fork_while(int engine, void *(*busy)(void *), int forks) {
    session e = begin(engine);
    if (!e.backend) return;
    mth_arrays *result = NULL;
    CHECK_STATUS(evaluate(&e, e.x, &result));
    enum { WORKERS = 2 };
    worker w[WORKERS] = {{.session = &e}, {.session = &e}};
    pthread_t thread[WORKERS];
    for (int i = 0; i < WORKERS; i++) pthread_create(&thread[i], NULL, busy, &w[i]);
    for (int i = 0; i < forks; i++) {
        usleep(500 + 137 * (unsigned)i % 3000);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            alarm(120);
            live_in_child(&e, result);
            mth_arrays_free(result);
            end(&e);
            fflush(stdout);
            _exit(unit_failures != 0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        if (status)
            printf("  %s: fork %d: %s %d\n", engines[engine], i, WIFSIGNALED(status) ? "signal" : "exit",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    for (int i = 0; i < WORKERS; i++) atomic_store(&w[i].over, 1);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(!atomic_load(&w[i].wrong) && !atomic_load(&w[i].interrupted));
    }
    mth_arrays_free(result);
    end(&e);
}

#ifdef __SANITIZE_THREAD__ /* it ends a child by fork that makes threads */
#define FORKS(native, pjrt) {0, 0, 0}
#elif defined __SANITIZE_ADDRESS__
/* Its allocator's locks are not taken over a fork: a child waits for ever where another thread was allocating. Without
   the sanitizer the C library takes its own. */
#define FORKS(native, pjrt) {0, 0, 0}
#else
#define FORKS(native, pjrt) {native, native, pjrt}
#endif
TEST(a_fork_while_others_evaluate) {
    static const int forks[ENGINES] = FORKS(25, 10);
    for (int engine = 0; engine < ENGINES; engine++) fork_while(engine, evaluate_often, forks[engine]);
}
TEST(a_fork_while_others_plan) {
    static const int forks[ENGINES] = FORKS(15, 15);
    for (int engine = 0; engine < ENGINES; engine++) fork_while(engine, plan_often, forks[engine]);
}

RUN()
