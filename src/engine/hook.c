#include "engine/hook.h"

struct mth__hook {
    atomic_int references;
    const mth_backend *backend; /* whose it is; only compared */
    mth_crossing_hook *call;
    void *context;
    void (*release)(void *context);
    pthread_mutex_t calling; /* one call at a time */
};

/* The hooks that this thread is in calls of, innermost first. */
typedef struct hook_frame {
    const mth_backend *backend;
    const struct hook_frame *outer;
} hook_frame;
static _Thread_local const hook_frame *innermost;

mth__hook *mth__hook_hold(mth_backend *backend) {
    pthread_mutex_lock(&backend->hook_lock);
    mth__hook *hook = backend->hook;
    if (hook) atomic_fetch_add(&hook->references, 1);
    pthread_mutex_unlock(&backend->hook_lock);
    return hook;
}

void mth__hook_let_go(mth__hook *hook) {
    if (!hook || atomic_fetch_sub(&hook->references, 1) > 1) return;
    if (hook->release) hook->release(hook->context);
    pthread_mutex_destroy(&hook->calling);
    mth__free(hook);
}

void mth__hook_forget_calls(mth__hook *hook) {
    if (hook) pthread_mutex_init(&hook->calling, NULL);
}

mth_status mth_backend_set_crossing_hook(
    mth_backend *backend, mth_crossing_hook *call, void *context, void (*release)(void *context)) {
    TRY(mth__given(backend, "the backend"));
    if (!backend->hooks)
        return mth__error_operator(
            FAIL(MTH_ERROR_VALUE, F("runs of the backend call no hooks"), F("create it with use_module_hooks=True")),
            "backend");
    mth__hook *made = call ? mth__calloc(1, sizeof *made) : NULL;
    if (call && !made) return mth__lacks_memory("a hook", 0);
    if (made) {
        atomic_init(&made->references, 1);
        made->backend = backend;
        made->call = call;
        made->context = context;
        made->release = release;
        pthread_mutex_init(&made->calling, NULL);
    }
    pthread_mutex_lock(&backend->hook_lock);
    mth__hook *before = backend->hook;
    backend->hook = made;
    pthread_mutex_unlock(&backend->hook_lock);
    mth__hook_let_go(before);
    return NULL;
}

static mth_status call_hook(const mth__hook *hook, const mth__crossing *crossing, void *data) {
    const mth_crossing piece = {.label = crossing->channel,
        .name = crossing->label->module,
        .from_device = crossing->from,
        .to_device = crossing->to,
        .dtype = crossing->dtype,
        .rank = crossing->shape.rank,
        .shape = crossing->shape.dim,
        .data = data};
    const hook_frame frame = {hook->backend, innermost};
    innermost = &frame;
    mth_status status = hook->call(hook->context, &piece);
    innermost = frame.outer;
    return status;
}

mth_status mth__hook_call(void *context, const mth__crossing *crossing) {
    const mth__hook_run *run = context;
    if (!crossing->bytes) return NULL;
    void *data = mth__malloc((size_t)crossing->bytes);
    if (!data) return mth__lacks_memory("what a hook is given", crossing->bytes);
    mth_status status = crossing->read(crossing, data);
    if (!status) status = mth__lock_run(&run->hook->calling, run->stop);
    if (!status) {
        status = call_hook(run->hook, crossing, data);
        pthread_mutex_unlock(&run->hook->calling);
    }
    mth__free(data);
    return status;
}

mth_status mth__hook_check_outside(const mth_backend *backend) {
    const hook_frame *frame = innermost;
    while (frame && frame->backend != backend) frame = frame->outer;
    if (!frame) return NULL;
    return FAIL(MTH_ERROR_UNSUPPORTED, F("a hook runs a model on its own backend, whose run waits for the hook"),
        F("keep what the hook is given and run the model afterwards, or on another backend"));
}
