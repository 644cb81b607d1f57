#include "engine/backend.h"
#include "data/array.h"
#include "engine/calibrate.h"
#include "engine/hook.h"
#include <string.h>
#include <unistd.h>

static const mth__engine_vtable *const engines[] = {
    &mth__engine_native, &mth__engine_pjrt, &mth__engine_torch, &mth__engine_reference};
enum { ENGINES = sizeof engines / sizeof *engines };

static int engine_find(const char *name) {
    for (int i = 0; name && i < ENGINES; i++)
        if (strcmp(engines[i]->name, name) == 0) return i;
    return -1;
}

static void write_options(mth__text *text, const void *engine) {
    mth__options_doc(text, ((const mth__engine_vtable *)engine)->options, "");
}

const char *mth_backend_option_doc(const char *engine) {
    static char *_Atomic text[ENGINES];
    int index = engine_find(engine);
    return index < 0 ? NULL : mth__text_once(&text[index], write_options, engines[index]);
}

static mth_status unknown_engine(const char *name) {
    const char *names[ENGINES];
    for (int i = 0; i < ENGINES; i++) names[i] = engines[i]->name;
    return FAIL(MTH_ERROR_VALUE, F("there is no engine '%s'", name), mth__name_fix("engine", name, names, ENGINES));
}

/* ---------------------------------------------------------------- locks */
/* A plan is made in seconds at times: a fork doesn't wait for that. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth_backend *backend = object;
    if (moment != MTH__FORK_CHILD) return;
    pthread_mutex_init(&backend->hook_lock, NULL);
    mth__hook_forget_calls(backend->hook);
    if (pthread_mutex_trylock(&backend->lock) == 0)
        pthread_mutex_unlock(&backend->lock);
    else {
        pthread_mutex_init(&backend->lock, NULL);
        backend->lost = (int)getppid();
    }
}

mth_status mth__backend_lock(mth_backend *backend) {
    TRY(mth__lock_run(&backend->lock, mth__thread_stop()));
    if (!backend->lost) return NULL;
    pthread_mutex_unlock(&backend->lock);
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("process %d was forked off process %d while a thread there was planning on this backend: its plan is half "
          "made",
            (int)getpid(), backend->lost),
        F("create the backend and compile in the child, or start processes without fork "
          "(multiprocessing.get_context('spawn'))"));
}
void mth__backend_unlock(mth_backend *backend) { pthread_mutex_unlock(&backend->lock); }

/* ---------------------------------------------------------------- traces */
/* Models come and go: of ever new ones the oldest is forgotten. */
enum { TRACES_KEPT = 64 };

void mth__backend_keep_trace(mth_backend *backend, mth__traced_model *made) {
    int kept = 0;
    mth__traced_model **at = &backend->traced;
    for (; *at && (*at)->number != made->number; at = &(*at)->next) kept++;
    mth__traced_model *before = *at;
    if (before && before->gradients && !made->gradients) {
        mth__arena_free(made->arena);
        return;
    }
    made->next = before ? before->next : NULL;
    *at = made;
    if (!before && kept == TRACES_KEPT) {
        before = backend->traced;
        backend->traced = before->next;
    }
    if (before) mth__arena_free(before->arena);
}

/* ---------------------------------------------------------------- create */
typedef struct {
    const char *engine;
    const mth_option *option;
    size_t count;
    mth_backend **out;
} backend_creation;

static void free_backend(mth__devices *devices) {
    mth_backend *backend = (mth_backend *)devices;
    for (mth__traced_model *traced = backend->traced, *next; traced; traced = next) {
        next = traced->next;
        mth__arena_free(traced->arena);
    }
    mth__hook_let_go(backend->hook);
    pthread_mutex_destroy(&backend->hook_lock);
    backend->vtable->close(devices->engine);
    mth__fork_watch_remove(&backend->watch);
    pthread_mutex_destroy(&backend->lock);
    mth__arena_free(backend->arena);
}

static mth_status create_body(void *context) {
    backend_creation *creation = context;
    TRY(mth__fork_ready());
    int index = engine_find(creation->engine);
    if (index < 0) return mth__error_operator(unknown_engine(creation->engine), "backend");
    mth__arena *arena = mth__arena_new();
    mth_backend *backend = NEW(arena, mth_backend);
    backend->vtable = engines[index];
    backend->arena = arena;
    mth_arg *value = NULL;
    mth_status status =
        mth__options_read(arena, "backend", backend->vtable->options, creation->option, creation->count, &value);
    if (!status) status = mth__backend_read_options(backend, value);
    if (!status) {
        mth__text text = mth__text_new(arena);
        for (size_t i = 0; i < creation->count; i++)
            if (!mth__options_row(backend->vtable->options, creation->option[i].name)->surroundings)
                mth__text_add(&text, "%s%s=%s", text.n ? ", " : "", creation->option[i].name,
                    mth__arg_text(arena, creation->option[i].value));
        backend->options_text = text.n ? text.at : "";
        backend->devices.references = 1;
        backend->devices.memory = &backend->vtable->memory;
        backend->devices.free = free_backend;
        const mth__engine_setup setup = {
            backend->devices.mesh, backend->vtable->options, value, backend->spmd, &backend->distribute};
        mth__machine *machine;
        status = mth__machine_choose(arena, backend->vtable, &setup, backend->machine, &machine);
        if (!status) mth__mesh_use(backend->devices.mesh, machine);
        if (!status) status = backend->vtable->open(&setup, &backend->devices.engine);
    }
    if (status) {
        mth__arena_free(arena);
        return mth__error_operator(status, "backend");
    }
    pthread_mutex_init(&backend->lock, NULL);
    pthread_mutex_init(&backend->hook_lock, NULL);
    mth__fork_watch_add(&backend->watch, around_fork, backend);
    mth__arena_keep(arena);
    *creation->out = backend;
    return NULL;
}

mth_status mth_backend_create(const char *engine, const mth_option *option, size_t count, mth_backend **out) {
    TRY(mth__given(engine, "the engine's name"));
    TRY(mth__result_given(out));
    backend_creation creation = {engine, option, count, out};
    return mth__guard(create_body, &creation);
}

void mth_backend_free(mth_backend *backend) {
    if (backend) mth__devices_release(&backend->devices);
}

const char *mth_backend_get_engine(const mth_backend *backend) { return backend ? backend->vtable->name : ""; }

const char *mth_array_get_engine(const mth_array *array) {
    return array ? ((const mth_backend *)array->devices)->vtable->name : "";
}

int mth_backend_get_mesh(const mth_backend *backend, int64_t dim[4]) {
    for (int axis = 0; backend && dim && axis < backend->devices.mesh->naxes; axis++)
        dim[axis] = backend->devices.mesh->dim[axis];
    return backend ? backend->devices.mesh->naxes : 0;
}

int64_t mth_backend_get_device_count(const mth_backend *backend) { return backend ? backend->devices.mesh->count : 0; }

typedef struct {
    const mth_backend *backend;
    char **out;
} description;

static mth_status describe_body(void *context) {
    description *shown = context;
    mth__arena *arena = mth__arena_new();
    mth__text printed = mth__text_new(arena);
    mth__text_add(&printed, "engine %s, %d devices, %s\n", shown->backend->vtable->name,
        shown->backend->devices.mesh->count,
        mth__placement_text(arena, mth__place_whole(shown->backend->devices.mesh)));
    mth__text_add(&printed, "options: %s\n", shown->backend->options_text);
    const mth__machine *machine = shown->backend->devices.mesh->model->machine;
    mth__text_add(
        &printed, "machine: %s%s\n", machine->name, mth__machine_is_builtin(machine->name) ? " (built in)" : "");
    mth_status status = shown->backend->vtable->describe(shown->backend->devices.engine, &printed);
    char *text = status ? NULL : mth__text_publish(&printed);
    mth__arena_free(arena);
    if (status) return status;
    if (!text) return mth__lacks_memory("a text", 0);
    *shown->out = text;
    return NULL;
}

mth_status mth_backend_describe(const mth_backend *backend, char **out) {
    description shown = {backend, out};
    TRY(mth__given(backend, "the backend"));
    TRY(mth__result_given(out));
    return mth__guard(describe_body, &shown);
}
