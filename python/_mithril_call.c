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
 * From the first call on a handler of ours stands before Python's: the system calls that would put it there for each
 * call, and take it away again, take as long as the run of a small model. signal.signal() puts Python's back in its
 * place. So a call that goes on past a tick of the coarse clock looks whether ours still stands there. Where it had to
 * be put there again, a signal may have come before it, unseen: the call is asked to stop, as if one had.
 * Signals belong to the process, and so does this state. Only the main thread touches it, but for `arrived` and the
 * look, which any thread of its call may take. */
enum { SIGNALS = 3, HANDLERS = 4 };
static const int watched_signal[SIGNALS] = {SIGINT, SIGALRM, SIGTERM};
/* What our handlers stand before, each before one. Another library's that came after ours may call it. So it gets the
 * next of ours, which it can't know, before it, and no handler is called by one that it calls. */
static struct sigaction behind[SIGNALS][HANDLERS];
static int handlers[SIGNALS]; /* of ours that stand before something, or stood */
static bool stood;            /* ours were put there once */
static bool watching;         /* the main thread is in a call */
static atomic_int arrived;
static atomic_bool looked; /* in this call, whether ours still stand there */
static int64_t began_tick;
static int64_t patience; /* no call is stopped before this time */

static int64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pass_on(int k, int number, siginfo_t *info, void *context) {
    int i = 0;
    while (watched_signal[i] != number) i++;
    atomic_store(&arrived, 1);
    if (behind[i][k].sa_flags & SA_SIGINFO)
        behind[i][k].sa_sigaction(number, info, context);
    else
        behind[i][k].sa_handler(number);
}
static void on_signal_0(int number, siginfo_t *info, void *context) { pass_on(0, number, info, context); }
static void on_signal_1(int number, siginfo_t *info, void *context) { pass_on(1, number, info, context); }
static void on_signal_2(int number, siginfo_t *info, void *context) { pass_on(2, number, info, context); }
static void on_signal_3(int number, siginfo_t *info, void *context) { pass_on(3, number, info, context); }
static void (*const ours[HANDLERS])(int, siginfo_t *, void *) = {on_signal_0, on_signal_1, on_signal_2, on_signal_3};

/* Of the handler that a signal has: which of ours is to stand before it; HANDLERS: none. */
static int handler_before(int i, const struct sigaction *now) {
    const bool plain = !(now->sa_flags & SA_SIGINFO);
    /* Not ours to change, whatever the flags say: the kernel keeps those of a handler that was to run once. */
    if (now->sa_handler == SIG_DFL || now->sa_handler == SIG_IGN) return HANDLERS;
    for (int k = 0; !plain && k < HANDLERS; k++)
        if (now->sa_sigaction == ours[k]) return HANDLERS;
    int k = 0;
    while (k < handlers[i] && behind[i][k].sa_sigaction != now->sa_sigaction) k++;
    return k;
}

/* True: one of ours had to be put in its place. */
static bool stand_before_handlers(void) {
    bool put = false;
    for (int i = 0; i < SIGNALS; i++) {
        struct sigaction now;
        const int k = sigaction(watched_signal[i], NULL, &now) ? HANDLERS : handler_before(i, &now);
        if (k == HANDLERS) continue;
        behind[i][k] = now;
        if (k == handlers[i]) handlers[i]++;
        struct sigaction own = {.sa_sigaction = ours[k], .sa_mask = now.sa_mask, .sa_flags = now.sa_flags | SA_SIGINFO};
        if (!sigaction(watched_signal[i], &own, NULL)) put = true;
    }
    return put;
}

static bool is_asked(void *nothing) {
    (void)nothing;
    if (!atomic_load_explicit(&looked, memory_order_relaxed) && nanoseconds(CLOCK_MONOTONIC_COARSE) != began_tick &&
        !atomic_exchange(&looked, true) && stand_before_handlers())
        atomic_store(&arrived, 1);
    return atomic_load_explicit(&arrived, memory_order_relaxed) && nanoseconds(CLOCK_MONOTONIC) >= patience;
}

static bool handles_signals(const module_state *state) {
    return PyThread_get_thread_ident() == state->main_thread && !watching;
}

/* Of signals that came before a call or in one. -1: one raised an exception. */
static int run_handlers(void) {
    if (!stood && stand_before_handlers()) atomic_store(&arrived, 1);
    stood = true;
    return atomic_exchange(&arrived, 0) ? PyErr_CheckSignals() : 0;
}

static void watch_signals(int64_t until) {
    patience = until;
    began_tick = nanoseconds(CLOCK_MONOTONIC_COARSE);
    atomic_store(&looked, false);
    watching = true;
    mth_set_interrupt_check(is_asked, NULL);
}

static void unwatch_signals(void) {
    mth_set_interrupt_check(NULL, NULL);
    watching = false;
}

/* In a child by fork the thread that forked is the main one, and the run that was watched, if another thread forked, is
 * not here. */
PyObject *after_fork(PyObject *module, PyObject *unused) {
    (void)unused;
    if (watching && PyThread_get_thread_ident() != ((module_state *)PyModule_GetState(module))->main_thread)
        unwatch_signals();
    ((module_state *)PyModule_GetState(module))->main_thread = PyThread_get_thread_ident();
    ((module_state *)PyModule_GetState(module))->forks++;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- calls */
int call_with_models(module_state *state, const model_use *models, mth_status (*call)(void *context), void *context) {
    const bool handles = handles_signals(state);
    const int64_t began = handles ? nanoseconds(CLOCK_MONOTONIC) : 0;
    for (bool again = false;; again = true) {
        if (wait_for_models(state, models)) return -1;
        if (handles && run_handlers()) return -1;
        mark_models(models, state->forks + 1);
        if (handles) watch_signals(again ? 2 * nanoseconds(CLOCK_MONOTONIC) - began : 0);
        PyThreadState *released = PyEval_SaveThread();
        mth_status status = call(context);
        PyEval_RestoreThread(released);
        if (handles) unwatch_signals();
        mark_models(models, 0);
        if (!status) return 0;
        if (mth_error_get_code(status) != MTH_ERROR_INTERRUPTED || !handles || !atomic_load(&arrived)) {
            raise_status(state, status);
            return -1;
        }
        mth_error_free(status);
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
