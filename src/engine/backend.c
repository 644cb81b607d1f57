#include "engine/backend.h"
#include <stdlib.h>
#include <string.h>

static const mth__opt native_options[] = {
    {"device_mesh", MTH__OPT_MESH, NULL, "Sizes of the mesh's 1 to 3 axes; devices are numbered row by row.", NULL},
    {"collective_ops", MTH__OPT_DICT, "None", "The algorithm of each collective: {'all_reduce': 'ring', ...}; kinds all_reduce, all_gather, reduce_scatter, all_to_all, broadcast; algorithms direct, ring, tree, hierarchical. What is not named is direct.", NULL},
    {"communication_optimization", MTH__OPT_BOOL, "False", "Removes redundant transfers and merges small collectives.", NULL},
    {"overlap_communication", MTH__OPT_BOOL, "False", "Runs communication beside computation.", NULL},
    {"pipeline_communication", MTH__OPT_BOOL, "False", "Cuts large communication in chunks.", NULL},
    {"threads", MTH__OPT_SIZE, "None", "Threads of the native engine, the calling one included; the number of cores unless said.", NULL},
    {0}};
static const mth__opt reference_options[] = {
    {"device_mesh", MTH__OPT_MESH, NULL, "Sizes of the mesh's 1 to 3 axes; devices are numbered row by row.", NULL},
    {0}};
static const struct { const char *name; const mth__engine_vtable *vtable; const mth__opt *options; } engines[] = {
    {"native", &mth__engine_native, native_options}, {"reference", &mth__engine_reference, reference_options}};
enum { ENGINES = sizeof engines / sizeof *engines };

static int engine_find(const char *name) {
    for (int i = 0; i < ENGINES; i++)
        if (strcmp(engines[i].name, name) == 0) return i;
    return -1;
}

const char *mth_backend_option_doc(const char *engine) {
    static char text[ENGINES][4096];
    int e = engine_find(engine);
    return e < 0 ? NULL : mth__options_doc(engines[e].options, "", text[e], sizeof text[e]);
}

static int name_index(const char *name, const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static mth_status unknown_name(const char *what, const char *name, const char *const *names, int n) {
    const char *near = mth__nearest(name, names, (size_t)n);
    return FAIL(MTH_ERROR_VALUE, F("collective_ops: unknown %s '%s'", what, name), near ? F("use '%s'", near) : F("use one of the %ss that the documentation of collective_ops lists", what));
}

static mth_status read_collectives(mth_backend *b, const mth_arg *ops) {
    for (size_t i = 0; i < ops->count; i++) {
        int kind = name_index(ops->keys[i], mth__channel_names, MTH__TRANSFER);
        if (kind < 0) return unknown_name("collective", ops->keys[i], mth__channel_names, MTH__TRANSFER);
        if (ops->items[i].kind != MTH_ARG_STRING)
            return FAIL(MTH_ERROR_TYPE, F("collective_ops: the algorithm of %s is no text", ops->keys[i]), F("use 'direct', 'ring', 'tree' or 'hierarchical'"));
        int algorithm = name_index(ops->items[i].string, mth__algorithm_names, MTH__ALGORITHMS);
        if (algorithm < 0) return unknown_name("algorithm", ops->items[i].string, mth__algorithm_names, MTH__ALGORITHMS);
        b->algorithm[kind] = mth__algorithm_names[algorithm];
    }
    return NULL;
}

typedef struct { const char *engine; const mth_option *option; size_t count; mth_backend **out; } creation;

static mth_status create_body(void *context) {
    creation *c = context;
    TRY(mth__given(c->engine, "the engine's name"));
    int e = engine_find(c->engine);
    if (e < 0) return FAIL(MTH_ERROR_VALUE, F("there is no engine '%s'", c->engine), F("use 'native' or 'reference'"));
    mth__arena *arena = mth__arena_new();
    mth_backend *b = NEW(arena, mth_backend);
    const mth__opt *const *tables = (const mth__opt *const[]){engines[e].options, NULL};
    mth_arg *value;
    mth_status s = mth__options_read(arena, "backend", tables, c->option, c->count, &value);
    if (!s) {
        const mth_arg *mesh = mth__options_get(tables, value, "device_mesh");
        int64_t dim[MTH__AXES];
        int naxes = 1;
        if (mesh->kind == MTH_ARG_INT) dim[0] = mesh->integer;
        else
            for (naxes = 0; naxes < (int)mesh->count; naxes++) dim[naxes] = mesh->items[naxes].integer;
        s = mth__mesh_new(arena, naxes, dim, &b->mesh);
    }
    int threads = 0;
    if (!s && engines[e].options == native_options) {
        const mth_arg *ops = mth__options_get(tables, value, "collective_ops");
        if (ops->kind == MTH_ARG_DICT) s = read_collectives(b, ops);
        b->communication_optimization = mth__options_get(tables, value, "communication_optimization")->integer;
        b->overlap = mth__options_get(tables, value, "overlap_communication")->integer;
        b->pipeline_communication = mth__options_get(tables, value, "pipeline_communication")->integer;
        const mth_arg *n = mth__options_get(tables, value, "threads");
        if (n->kind == MTH_ARG_INT) threads = (int)(n->integer < 1024 ? n->integer : 1024);
    }
    if (!s) {
        mth__text t = mth__text_new(arena);
        for (size_t i = 0; i < c->count; i++) mth__text_add(&t, "%s%s=%s", i ? ", " : "", c->option[i].name, mth__arg_text(arena, c->option[i].value));
        b->options_text = t.n ? t.at : "";
        b->arena = arena;
        b->vtable = engines[e].vtable;
        b->references = 1;
        s = b->vtable->open(b->mesh->count, threads, &b->engine);
    }
    if (s) {
        mth__arena_free(arena);
        return s;
    }
    pthread_mutex_init(&b->lock, NULL);
    mth__arena_keep(arena);
    *c->out = b;
    return NULL;
}

mth_status mth_backend_create(const char *engine, const mth_option *option, size_t count, mth_backend **out) {
    creation c = {engine, option, count, out};
    return mth__guard(create_body, &c);
}

void mth_backend_free(mth_backend *b) {
    if (!b || atomic_fetch_sub(&b->references, 1) != 1) return;
    b->vtable->close(b->engine);
    pthread_mutex_destroy(&b->lock);
    mth__arena_free(b->arena);
}

int mth_backend_get_mesh(const mth_backend *b, int64_t dim[4]) {
    for (int a = 0; a < b->mesh->naxes; a++) dim[a] = b->mesh->dim[a];
    return b->mesh->naxes;
}

int64_t mth_backend_get_device_count(const mth_backend *b) { return b->mesh->count; }

typedef struct { const mth_backend *backend; char **out; } description;

static mth_status describe_body(void *context) {
    description *d = context;
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    mth__text_add(&t, "engine %s, %d devices, %s\n", d->backend->vtable->name, d->backend->mesh->count, mth__placement_text(arena, mth__place_whole(d->backend->mesh)));
    mth__text_add(&t, "options: %s\n", d->backend->options_text);
    mth_status s = d->backend->vtable->describe(d->backend->engine, &t);
    char *text = s ? NULL : mth__text_publish(&t);
    mth__arena_free(arena);
    if (s) return s;
    if (!text) return FAIL(MTH_ERROR_MEMORY, F("no memory for a text"), F("free memory and try again"));
    *d->out = text;
    return NULL;
}

mth_status mth_backend_describe(const mth_backend *b, char **out) {
    description d = {b, out};
    return mth__guard(describe_body, &d);
}
