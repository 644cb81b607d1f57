/* A crew: threads that stay, of which each works for its own device, at any number of runs, from any thread. */
#include "engine/crew.h"
#include "engine/engine.h"
#include "unit.h"
#include <signal.h>
#include <sys/wait.h>
#ifdef __SANITIZE_THREAD__
enum { RUNS = 1000, FORKS = 0 /* it ends a child by fork that makes threads */ };
#else
enum { RUNS = 5000, FORKS = 20 };
#endif

enum { DEVICES = 5 };
typedef struct {
    atomic_int begun[DEVICES];
    /* each is touched by its device's thread alone, and by others when a run is over */
    pthread_t thread[DEVICES];
    int64_t work[DEVICES];
    bool stranger[DEVICES], open_to_signals[DEVICES], unnamed[DEVICES];
    atomic_int inside, most_inside;
} company;

static void begin(void *context, int device) {
    company *all = context;
    atomic_fetch_add(&all->begun[device], 1);
    all->thread[device] = pthread_self();
}
static void work(void *context, int device) {
    company *all = context;
    all->work[device]++;
    all->stranger[device] |= !pthread_equal(all->thread[device], pthread_self());
}
static void look_around(void *context, int device) {
    company *all = context;
    sigset_t blocked;
    char name[16], expected[32];
    work(context, device);
    snprintf(expected, sizeof expected, "mithril %d", device);
    all->unnamed[device] = pthread_getname_np(pthread_self(), name, sizeof name) || strcmp(name, expected) != 0;
    all->open_to_signals[device] = pthread_sigmask(SIG_BLOCK, NULL, &blocked) || !sigismember(&blocked, SIGINT);
}

static void check_company(const company *all, const int64_t *expected, int begun) {
    for (int device = 0; device < DEVICES; device++) {
        CHECK(all->work[device] == expected[device] && atomic_load(&all->begun[device]) == begun);
        CHECK(!all->stranger[device] && !all->unnamed[device] && !all->open_to_signals[device]);
    }
}

/* Sets of devices by bits, all of them in turn; some runs find the threads asleep. */
static void run_subsets(mth__crew *crew, company *all, int runs, int64_t *expected) {
    for (int i = 1; i <= runs; i++) {
        int32_t device[DEVICES];
        int n = 0;
        for (int d = 0; d < DEVICES; d++)
            if (i >> d & 1) device[n++] = d, expected[d]++;
        CHECK_STATUS(mth__crew_run(crew, device, n, work, all, NULL));
        for (int d = 0; d < DEVICES; d++) CHECK(all->work[d] == expected[d]);
        if (i % 500 == 0) usleep(1000);
    }
}

static const int32_t every_device[DEVICES] = {0, 1, 2, 3, 4};

TEST(each_device_has_its_thread) {
    company all = {0};
    mth__crew *crew;
    int64_t expected[DEVICES] = {1, 1, 1, 1, 1};
    CHECK_STATUS(mth__crew_new(DEVICES, begin, &all, &crew));
    CHECK_STATUS(mth__crew_run(crew, every_device, DEVICES, look_around, &all, NULL));
    check_company(&all, expected, 1);
    run_subsets(crew, &all, RUNS, expected);
    check_company(&all, expected, 1);
    mth__crew_free(crew);
}

TEST(a_crew_that_never_ran_and_none_are_freed) {
    mth__crew *crew;
    CHECK_STATUS(mth__crew_new(3, NULL, NULL, &crew));
    mth__crew_free(crew);
    mth__crew_free(NULL);
}

/* ---------------------------------------------------------------- callers */
static void work_alone(void *context, int device) {
    company *all = context;
    const int inside = atomic_fetch_add(&all->inside, 1) + 1;
    if (inside > atomic_load(&all->most_inside)) atomic_store(&all->most_inside, inside);
    work(context, device);
    atomic_fetch_sub(&all->inside, 1);
}
enum { CALLERS = 4 };
typedef struct {
    mth__crew *crew;
    company *all;
} calling;
static void *call_often(void *argument) {
    const calling *call = argument;
    for (int i = 0; i < RUNS / CALLERS; i++)
        CHECK_STATUS(mth__crew_run(call->crew, every_device + i % DEVICES, 1, work_alone, call->all, NULL));
    return NULL;
}

TEST(runs_of_several_threads_come_one_after_another) {
    company all = {0};
    calling call = {.all = &all};
    pthread_t thread[CALLERS];
    int64_t expected[DEVICES];
    for (int d = 0; d < DEVICES; d++) expected[d] = RUNS / DEVICES;
    CHECK_STATUS(mth__crew_new(DEVICES, begin, &all, &call.crew));
    for (int i = 0; i < CALLERS; i++) CHECK(pthread_create(&thread[i], NULL, call_often, &call) == 0);
    for (int i = 0; i < CALLERS; i++) pthread_join(thread[i], NULL);
    CHECK(atomic_load(&all.most_inside) == 1);
    check_company(&all, expected, 1);
    mth__crew_free(call.crew);
}

static void work_until_told(void *context, int device) {
    (void)device;
    while (!atomic_load((atomic_bool *)context)) usleep(100);
}
static bool always(void *context) {
    (void)context;
    return true;
}
typedef struct {
    mth__crew *crew;
    atomic_bool told;
} long_run;
static void *run_long(void *argument) {
    long_run *run = argument;
    CHECK_STATUS(mth__crew_run(run->crew, every_device, 2, work_until_told, &run->told, NULL));
    return NULL;
}

TEST(who_waits_for_another_run_can_be_stopped) {
    company all = {0};
    long_run run = {.crew = NULL};
    pthread_t thread;
    const mth__stop stop = {always, NULL};
    CHECK_STATUS(mth__crew_new(DEVICES, begin, &all, &run.crew));
    CHECK(pthread_create(&thread, NULL, run_long, &run) == 0);
    while (!atomic_load(&all.begun[1])) usleep(100);
    CHECK_FAILS(mth__crew_run(run.crew, every_device, DEVICES, work, &all, &stop), MTH_ERROR_INTERRUPTED, "");
    for (int d = 0; d < DEVICES; d++) CHECK(all.work[d] == 0);
    atomic_store(&run.told, true);
    pthread_join(thread, NULL);
    CHECK_STATUS(mth__crew_run(run.crew, every_device, DEVICES, work, &all, &stop));
    for (int d = 0; d < DEVICES; d++) CHECK(all.work[d] == 1);
    mth__crew_free(run.crew);
}

/* ---------------------------------------------------------------- forks */
typedef struct {
    mth__crew *crew;
    company *all;
    atomic_bool over;
} busy_parent;
static void *run_on(void *argument) {
    busy_parent *parent = argument;
    while (!atomic_load(&parent->over))
        CHECK_STATUS(mth__crew_run(parent->crew, every_device, DEVICES, work, parent->all, NULL));
    return NULL;
}

/* At any moment of a run of the parent the child's crew is whole, and new. */
TEST(a_fork_makes_the_crew_anew) {
    company all = {0};
    busy_parent parent = {.all = &all};
    pthread_t thread;
    CHECK_STATUS(mth__crew_new(DEVICES, begin, &all, &parent.crew));
    CHECK_STATUS(mth__crew_run(parent.crew, every_device, DEVICES, work, &all, NULL));
    CHECK(pthread_create(&thread, NULL, run_on, &parent) == 0);
    for (int i = 0; i < FORKS; i++) {
        usleep(137 * (unsigned)i);
        fflush(NULL);
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            int64_t expected[DEVICES];
            for (int d = 0; d < DEVICES; d++) expected[d] = all.work[d];
            run_subsets(parent.crew, &all, 100, expected);
            check_company(&all, expected, 2);
            mth__crew_free(parent.crew);
            fflush(stdout);
            _exit(unit_failures != 0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    atomic_store(&parent.over, true);
    pthread_join(thread, NULL);
    for (int d = 0; d < DEVICES; d++) CHECK(atomic_load(&all.begun[d]) == 1 && !all.stranger[d]);
    mth__crew_free(parent.crew);
}

RUN()
