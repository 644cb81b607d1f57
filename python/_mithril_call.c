#include "_mithril.h"
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* ---------------------------------------------------------------- models */
/* A model is for one call at a time, as the library has it; and the lock of the interpreter sees to that no more once
 * calls let go of it. So a model is marked while a call has it, and whoever comes meanwhile waits. Marks change under
 * the lock alone. A mark is the count of forks plus one: one that a child has inherited is of a call that goes on in
 * the parent, and has left the model here as it was in the midst of it. */
int use_model(pool *scratch, PyObject *model) {
    if (pool_keep(scratch, Py_NewRef(model))) return -1;
    model_use *use = pool_take(scratch, 1, sizeof *use);
    if (!use) return -1;
    *use = (model_use){scratch->models, (model_object *)model};
    scratch->models = use;
    return 0;
}

/* 1: another call has one of them; -1: an exception is set. */
static int in_use(module_state *state, const model_use *models) {
    int found = 0;
    for (const model_use *use = models; use; use = use->next) {
        if (!use->model->mark) continue;
        found = 1;
        if (use->model->mark == state->forks + 1) continue;
        raise_fix(state, MTH_ERROR_UNSUPPORTED,
            TEXT("this process was forked off while another thread was in a call with the model, which may be half "
                 "changed"),
            TEXT("compose it in the child, or start processes without fork (multiprocessing.get_context('spawn'))"));
        return -1;
    }
    return found;
}

static int wait_for_models(module_state *state, const model_use *models) {
    int found;
    while ((found = in_use(state, models)) > 0) {
        Py_BEGIN_ALLOW_THREADS nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
        Py_END_ALLOW_THREADS if (PyErr_CheckSignals()) return -1;
    }
    return found;
}

static void mark_models(const model_use *models, unsigned mark) {
    for (const model_use *use = models; use; use = use->next) use->model->mark = mark;
}

/* ---------------------------------------------------------------- signals */
/* While the main thread is in a call that takes long, Ctrl-C, an alarm or a request to end also asks that call to stop
 * (other threads' calls go on: signals are not theirs); Python's own handler in C is called as if it stood alone. Then
 * Python's handler runs. If it raises, the call is over; if it returns, the call goes on, as calls into the system do
 * (PEP 475). It goes on from its start, since handlers may do anything, evaluate too, and a run has no effects to
 * repeat; and it then has as long as was lost before a signal may stop it again, so that signals without end don't keep
 * it for ever.
 * Signals belong to the process, and so does this state; only the main thread touches it, but for `arrived`. */
enum { SIGNALS = 3 };
static const int watched_signal[SIGNALS] = {SIGINT, SIGALRM, SIGTERM};
static struct sigaction previous[SIGNALS];
static bool replaced[SIGNALS];
static int watching;
static atomic_int arrived;
static int64_t patience; /* no call is stopped before this time */

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool is_asked(void *nothing) {
    (void)nothing;
    return atomic_load_explicit(&arrived, memory_order_relaxed) && nanoseconds() >= patience;
}

static void on_signal(int number, siginfo_t *info, void *context) {
    int i = 0;
    while (watched_signal[i] != number) i++;
    atomic_store(&arrived, 1);
    if (previous[i].sa_flags & SA_SIGINFO)
        previous[i].sa_sigaction(number, info, context);
    else
        previous[i].sa_handler(number);
}

static int watch_signals(module_state *state, int64_t lost) {
    if (PyThread_get_thread_ident() != state->main_thread || watching) return 0;
    atomic_store(&arrived, 0);
    patience = nanoseconds() + lost;
    for (int i = 0; i < SIGNALS; i++) {
        struct sigaction *old = &previous[i];
        replaced[i] = false;
        if (sigaction(watched_signal[i], NULL, old)) continue;
        /* not ours to change */
        if (!(old->sa_flags & SA_SIGINFO) && (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN)) continue;
        struct sigaction ours = {
            .sa_sigaction = on_signal, .sa_mask = old->sa_mask, .sa_flags = old->sa_flags | SA_SIGINFO};
        replaced[i] = sigaction(watched_signal[i], &ours, NULL) == 0;
        watching |= replaced[i];
    }
    if (watching) mth_set_interrupt_check(is_asked, NULL);
    return watching;
}

static void unwatch_signals(int watched) {
    if (!watched) return;
    mth_set_interrupt_check(NULL, NULL);
    for (int i = 0; i < SIGNALS; i++)
        if (replaced[i]) sigaction(watched_signal[i], &previous[i], NULL);
    watching = 0;
}

/* In a child by fork the thread that forked is the main one, and the run that was watched, if another thread forked, is
 * not here. */
PyObject *after_fork(PyObject *module, PyObject *unused) {
    (void)unused;
    if (watching && PyThread_get_thread_ident() != ((module_state *)PyModule_GetState(module))->main_thread)
        unwatch_signals(1);
    ((module_state *)PyModule_GetState(module))->main_thread = PyThread_get_thread_ident();
    ((module_state *)PyModule_GetState(module))->forks++;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- calls */
int call_with_models(module_state *state, const model_use *models, mth_status (*call)(void *context), void *context) {
    for (int64_t lost = 0, began = nanoseconds();; lost = nanoseconds() - began) {
        if (wait_for_models(state, models)) return -1;
        mark_models(models, state->forks + 1);
        int watched = watch_signals(state, lost);
        PyThreadState *released = PyEval_SaveThread();
        mth_status status = call(context);
        PyEval_RestoreThread(released);
        unwatch_signals(watched);
        mark_models(models, 0);
        if (!status) return 0;
        if (mth_error_get_code(status) != MTH_ERROR_INTERRUPTED || !watched || !atomic_load(&arrived)) {
            raise_status(state, status);
            return -1;
        }
        mth_error_free(status);
        if (PyErr_CheckSignals()) return -1;
    }
}

int call_interruptibly(module_state *state, mth_status (*call)(void *context), void *context) {
    return call_with_models(state, NULL, call, context);
}

int call_briefly(module_state *state, const model_use *models, mth_status (*call)(void *context), void *context) {
    if (wait_for_models(state, models)) return -1;
    mth_status status = call(context);
    if (status) raise_status(state, status);
    return status ? -1 : 0;
}

void free_unlocked(void (*release)(void *), void *object) {
    PyThreadState *released = PyEval_SaveThread();
    release(object);
    PyEval_RestoreThread(released);
}
