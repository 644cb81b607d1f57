#include "engine/backend.h"
#include "engine/calibrate.h"
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const mth__engine_vtable *const engines[] = {&mth__engine_native, &mth__engine_pjrt, &mth__engine_reference};
enum { ENGINES = sizeof engines / sizeof *engines };

static int engine_find(const char *name) {
    for (int i = 0; name && i < ENGINES; i++)
        if (strcmp(engines[i]->name, name) == 0) return i;
    return -1;
}

static void write_options(mth__text *t, const void *engine) {
    mth__options_doc(t, ((const mth__engine_vtable *)engine)->options, "");
}

const char *mth_backend_option_doc(const char *engine) {
    static char *_Atomic text[ENGINES];
    int e = engine_find(engine);
    return e < 0 ? NULL : mth__text_once(&text[e], write_options, engines[e]);
}

static mth_status unknown_engine(const char *name) {
    const char *names[ENGINES];
    for (int i = 0; i < ENGINES; i++) names[i] = engines[i]->name;
    return FAIL(MTH_ERROR_VALUE, F("there is no engine '%s'", name), mth__name_fix("engine", name, names, ENGINES));
}

/* ---------------------------------------------------------------- locks */
/* A plan is made in seconds at times: a fork doesn't wait for that. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth_backend *b = object;
    if (moment != MTH__FORK_CHILD) return;
    if (pthread_mutex_trylock(&b->lock) == 0)
        pthread_mutex_unlock(&b->lock);
    else {
        pthread_mutex_init(&b->lock, NULL);
        b->lost = (int)getppid();
    }
}

mth_status mth__backend_lock(mth_backend *b) {
    pthread_mutex_lock(&b->lock);
    if (!b->lost) return NULL;
    pthread_mutex_unlock(&b->lock);
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("process %d was forked off process %d while a thread there was planning on this backend: its plan is half "
          "made",
            (int)getpid(), b->lost),
        F("create the backend and compile in the child, or start processes without fork "
          "(multiprocessing.get_context('spawn'))"));
}
void mth__backend_unlock(mth_backend *b) { pthread_mutex_unlock(&b->lock); }

mth_status mth__lock_run(pthread_mutex_t *lock, const mth__stop *stop) {
    enum { PATIENCE = 10 * 1000 * 1000 /* ns between two looks at stop */, SECOND = 1000 * 1000 * 1000 };
    if (pthread_mutex_trylock(lock) == 0) return NULL;
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PATIENCE;
        if (until.tv_nsec >= SECOND) {
            until.tv_nsec -= SECOND;
            until.tv_sec++;
        }
        if (pthread_mutex_timedlock(lock, &until) != ETIMEDOUT) return NULL;
        if (mth__stop_asked(stop)) return mth__interrupted();
    }
}

/* ---------------------------------------------------------------- create */
typedef struct {
    const char *engine;
    const mth_option *option;
    size_t count;
    mth_backend **out;
} backend_creation;

static void free_backend(mth__devices *devices) {
    mth_backend *b = (mth_backend *)devices;
    b->vtable->close(devices->engine);
    mth__fork_watch_remove(&b->watch);
    pthread_mutex_destroy(&b->lock);
    mth__arena_free(b->arena);
}

static mth_status create_body(void *context) {
    backend_creation *c = context;
    TRY(mth__fork_ready());
    int e = engine_find(c->engine);
    if (e < 0) return mth__error_operator(unknown_engine(c->engine), "backend");
    mth__arena *arena = mth__arena_new();
    mth_backend *b = NEW(arena, mth_backend);
    b->vtable = engines[e];
    b->arena = arena;
    mth_arg *value = NULL;
    mth_status s = mth__options_read(arena, "backend", b->vtable->options, c->option, c->count, &value);
    if (!s) s = mth__backend_read_options(b, value);
    if (!s) {
        mth__text t = mth__text_new(arena);
        for (size_t i = 0; i < c->count; i++)
            if (!mth__options_row(b->vtable->options, c->option[i].name)->surroundings)
                mth__text_add(
                    &t, "%s%s=%s", t.n ? ", " : "", c->option[i].name, mth__arg_text(arena, c->option[i].value));
        b->options_text = t.n ? t.at : "";
        b->devices.references = 1;
        b->devices.memory = &b->vtable->memory;
        b->devices.free = free_backend;
        const mth__engine_setup setup = {b->devices.mesh, b->vtable->options, value, b->spmd, &b->distribute};
        mth__machine *machine;
        s = mth__machine_choose(arena, b->vtable, &setup, b->machine, &machine);
        if (!s) mth__mesh_use(b->devices.mesh, machine);
        if (!s) s = b->vtable->open(&setup, &b->devices.engine);
    }
    if (s) {
        mth__arena_free(arena);
        return mth__error_operator(s, "backend");
    }
    pthread_mutex_init(&b->lock, NULL);
    mth__fork_watch_add(&b->watch, around_fork, b);
    mth__arena_keep(arena);
    *c->out = b;
    return NULL;
}

mth_status mth_backend_create(const char *engine, const mth_option *option, size_t count, mth_backend **out) {
    TRY(mth__given(engine, "the engine's name"));
    TRY(mth__result_given(out));
    backend_creation c = {engine, option, count, out};
    return mth__guard(create_body, &c);
}

void mth_backend_free(mth_backend *b) {
    if (b) mth__devices_release(&b->devices);
}

int mth_backend_get_mesh(const mth_backend *b, int64_t dim[4]) {
    for (int a = 0; b && dim && a < b->devices.mesh->naxes; a++) dim[a] = b->devices.mesh->dim[a];
    return b ? b->devices.mesh->naxes : 0;
}

int64_t mth_backend_get_device_count(const mth_backend *b) { return b ? b->devices.mesh->count : 0; }

typedef struct {
    const mth_backend *backend;
    char **out;
} description;

static mth_status describe_body(void *context) {
    description *d = context;
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    mth__text_add(&t, "engine %s, %d devices, %s\n", d->backend->vtable->name, d->backend->devices.mesh->count,
        mth__placement_text(arena, mth__place_whole(d->backend->devices.mesh)));
    mth__text_add(&t, "options: %s\n", d->backend->options_text);
    const mth__machine *machine = d->backend->devices.mesh->model->machine;
    mth__text_add(&t, "machine: %s%s\n", machine->name, mth__machine_is_builtin(machine->name) ? " (built in)" : "");
    mth_status s = d->backend->vtable->describe(d->backend->devices.engine, &t);
    char *text = s ? NULL : mth__text_publish(&t);
    mth__arena_free(arena);
    if (s) return s;
    if (!text) return mth__lacks_memory("a text", 0);
    *d->out = text;
    return NULL;
}

mth_status mth_backend_describe(const mth_backend *b, char **out) {
    description d = {b, out};
    TRY(mth__given(b, "the backend"));
    TRY(mth__result_given(out));
    return mth__guard(describe_body, &d);
}
