/* Text -> executable. The cache in memory is a list of entries under the engine's lock, the latest released first;
   compiling itself runs outside of the lock. An entry is listed before it is compiled, so that threads that want the
   same text wait for it. */
#include "engine/pjrt/xla.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { SPARE = 64 }; /* entries that nobody holds and that stay */

struct mth__xla_entry {
    struct mth__xla_entry *next;
    mth__xla_key key;
    int references;       /* handles, and threads that wait; under the lock */
    bool pending, failed; /* being made; could not be made, and is no longer listed */
    pthread_cond_t made;  /* no longer pending */
    PJRT_LoadedExecutable *loaded;
    PJRT_Executable *executable;
    size_t results;
    char room[]; /* of the key: text, 0, options */
};
typedef struct mth__xla_entry entry;

/* ---------------------------------------------------------------- entries */
static void entry_free(const mth__engine *engine, entry *e) {
    if (mth__plugin_forked(engine->plugin)) return;
    const PJRT_Api *api = engine->plugin->api;
    if (e->executable) {
        MTH__ARGS(PJRT_Executable_Destroy, destroy);
        destroy.executable = e->executable;
        mth_error_free(mth__pjrt_status(engine->plugin, api->PJRT_Executable_Destroy(&destroy), "free an executable"));
    }
    if (e->loaded) {
        MTH__ARGS(PJRT_LoadedExecutable_Destroy, destroy);
        destroy.executable = e->loaded;
        mth_error_free(
            mth__pjrt_status(engine->plugin, api->PJRT_LoadedExecutable_Destroy(&destroy), "free an executable"));
    }
    pthread_cond_destroy(&e->made);
    mth__free(e);
}

typedef struct {
    const mth__engine *engine;
    const char *text;
    size_t bytes;
    const mth__xla_options *options;
    entry **out;
} request;

static mth_status entry_new(void *arguments) {
    const request *q = arguments;
    mth__arena *a = mth__arena_new();
    const unsigned char *options;
    size_t count;
    mth__xla_options_encode(a, q->options, &q->engine->env, &options, &count);
    entry *e = mth__malloc(sizeof *e + q->bytes + 1 + count);
    if (e) {
        memset(e, 0, sizeof *e);
        memcpy(e->room, q->text, q->bytes);
        e->room[q->bytes] = 0;
        memcpy(e->room + q->bytes + 1, options, count);
        e->key = (mth__xla_key){.text = e->room,
            .bytes = q->bytes,
            .options = (unsigned char *)e->room + q->bytes + 1,
            .options_bytes = count,
            .hash = mth__xla_hash(q->bytes, e->room, q->bytes + 1 + count)};
        pthread_cond_init(&e->made, NULL);
    }
    mth__arena_free(a);
    if (!e) return mth__lacks_memory("a module", (int64_t)q->bytes);
    *q->out = e;
    return NULL;
}

static bool same(const mth__xla_key *a, const mth__xla_key *b) {
    return a->hash == b->hash && a->bytes == b->bytes && a->options_bytes == b->options_bytes &&
        !memcmp(a->text, b->text, a->bytes) && !memcmp(a->options, b->options, a->options_bytes);
}

static entry *find(mth__engine *engine, const mth__xla_key *key) {
    for (entry *e = engine->compiled; e; e = e->next)
        if (same(&e->key, key)) return e;
    return NULL;
}

static void unlink_entry(mth__engine *engine, entry *e) {
    entry **at = &engine->compiled;
    while (*at != e) at = &(*at)->next;
    *at = e->next;
}

/* ---------------------------------------------------------------- compiling */
static int read_number(const char *m, size_t n, size_t *at) { /* -1 where there is none */
    int v = -1;
    for (; *at < n && m[*at] >= '0' && m[*at] <= '9' && v < 100000000; ++*at) v = (v < 0 ? 0 : v) * 10 + (m[*at] - '0');
    return v;
}

static bool text_at(const char *m, size_t n, size_t at, const char *what) {
    return n - at >= strlen(what) && !memcmp(m + at, what, strlen(what));
}

/* The parser and the verifiers of MLIR say "-:LINE:COLUMN: error", XLA's passes "source_line=LINE". */
static int line_of(const char *m, size_t n, const char *text, size_t bytes) {
    int lines = 1, found = 0;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    for (size_t i = 0; i < n && !found; i++) {
        size_t at = i + 1;
        if (m[i] != ':') continue;
        int line = read_number(m, n, &at);
        if (line < 1 || at >= n || m[at] != ':') continue;
        at++;
        if (read_number(m, n, &at) >= 0 && text_at(m, n, at, ": error")) found = line;
    }
    for (size_t i = 0; i < n && !found; i++) {
        size_t at = i + strlen("source_line=");
        if (text_at(m, n, i, "source_line=")) found = read_number(m, n, &at);
    }
    return found >= 1 && found <= lines ? found : 0;
}

static mth_status refused(const mth__engine *engine, PJRT_Error *error, const mth__xla_key *key, int *line) {
    MTH__ARGS(PJRT_Error_Message, message);
    message.error = error;
    engine->plugin->api->PJRT_Error_Message(&message);
    *line = line_of(message.message, message.message_size, key->text, key->bytes);
    char doing[64];
    snprintf(doing, sizeof doing, "compile a module of %zu bytes", key->bytes);
    return mth__pjrt_status(engine->plugin, error, doing);
}

static mth_status compile(const mth__engine *engine, entry *e, int *line) {
    const mth__plugin *plugin = engine->plugin;
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE,
        .code = (char *)e->key.text,
        .code_size = e->key.bytes,
        .format = "mlir",
        .format_size = strlen("mlir")};
    PJRT_Error *error;
    if (engine->client) {
        MTH__ARGS(PJRT_Client_Compile, args);
        args.client = engine->client;
        args.program = &program;
        args.compile_options = (const char *)e->key.options;
        args.compile_options_size = e->key.options_bytes;
        error = plugin->api->PJRT_Client_Compile(&args);
        if (!error) e->loaded = args.executable;
    } else {
        if (!MTH__HAS(plugin, PJRT_Compile))
            return FAIL(MTH_ERROR_UNSUPPORTED,
                F("the plugin %s can't compile for a topology without its devices", plugin->path),
                F("leave the option topology out, or use a plugin that can, such as libtpu"));
        MTH__ARGS(PJRT_Compile, args);
        args.topology = engine->topology;
        args.program = &program;
        args.compile_options = (const char *)e->key.options;
        args.compile_options_size = e->key.options_bytes;
        error = plugin->api->PJRT_Compile(&args);
        if (!error) e->executable = args.executable;
    }
    return error ? refused(engine, error, &e->key, line) : NULL;
}

static mth_status make(mth__engine *engine, entry *e, mth__xla *handle, int *line) {
    const mth__plugin *plugin = engine->plugin;
    bool disk = engine->cache_dir && engine->client;
    if (disk) TRY(mth__xla_disk_load(engine, &e->key, &e->loaded));
    handle->from_disk = e->loaded != NULL;
    if (!handle->from_disk) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        TRY(compile(engine, e, line));
        clock_gettime(CLOCK_MONOTONIC, &end);
        handle->seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    }
    if (e->loaded) {
        MTH__ARGS(PJRT_LoadedExecutable_GetExecutable, get);
        get.loaded_executable = e->loaded;
        PJRT_TRY(plugin, "look into an executable", plugin->api->PJRT_LoadedExecutable_GetExecutable(&get));
        e->executable = get.executable;
    }
    MTH__ARGS(PJRT_Executable_NumOutputs, outputs);
    outputs.executable = e->executable;
    PJRT_TRY(plugin, "count the results of an executable", plugin->api->PJRT_Executable_NumOutputs(&outputs));
    e->results = outputs.num_outputs;
    return disk && !handle->from_disk ? mth__xla_disk_store(engine, &e->key, e->executable) : NULL;
}

/* The entry of this key, made and with a reference more; NULL: there was none, and `mine` is now listed as pending. */
static entry *find_or_list(mth__engine *engine, entry *mine) {
    pthread_mutex_lock(&engine->lock);
    entry *e;
    while ((e = find(engine, &mine->key))) {
        e->references++;
        while (e->pending) pthread_cond_wait(&e->made, &engine->lock);
        if (!e->failed) break;
        if (!--e->references) entry_free(engine, e); /* whoever made it has gone */
    }
    if (!e) {
        mine->pending = true;
        mine->references = 1;
        mine->next = engine->compiled;
        engine->compiled = mine;
    }
    pthread_mutex_unlock(&engine->lock);
    return e;
}

mth_status mth__xla_compile(
    mth__engine *engine, const char *text, size_t bytes, const mth__xla_options *options, mth__xla **out, int *line) {
    *line = 0;
    TRY(mth__plugin_check_process(engine->plugin));
    if (!bytes || options->partitions < 1 || options->replicas < 1) /* plugins abort on some of these */
        return INTERNAL(
            "a module of %zu bytes for %d partitions and %d replicas", bytes, options->partitions, options->replicas);
    entry *mine, *e;
    request q = {engine, text, bytes, options, &mine};
    TRY(mth__guard(entry_new, &q));
    mth__xla *handle = mth__calloc(1, sizeof *handle);
    if (!handle) {
        entry_free(engine, mine);
        return mth__lacks_memory("an executable", 0);
    }
    if ((e = find_or_list(engine, mine))) {
        entry_free(engine, mine);
    } else {
        mth_status status = make(engine, e = mine, handle, line);
        pthread_mutex_lock(&engine->lock);
        e->pending = false;
        e->failed = status != NULL;
        if (status) unlink_entry(engine, e);
        bool last = status && !--e->references;
        pthread_cond_broadcast(&e->made);
        pthread_mutex_unlock(&engine->lock);
        if (status) {
            if (last) entry_free(engine, e);
            mth__free(handle);
            return status;
        }
    }
    handle->engine = engine;
    handle->loaded = e->loaded;
    handle->executable = e->executable;
    handle->results = e->results;
    handle->text = e->key.text;
    handle->bytes = e->key.bytes;
    handle->entry = e;
    *out = handle;
    return NULL;
}

void mth__xla_release(mth__xla *handle) {
    if (!handle || mth__plugin_forked(handle->engine->plugin)) return;
    mth__engine *engine = handle->engine;
    entry *e = handle->entry, *surplus = NULL;
    mth__free(handle);
    pthread_mutex_lock(&engine->lock);
    if (!--e->references) {
        unlink_entry(engine, e);
        e->next = engine->compiled;
        engine->compiled = e;
        int spare = 0;
        for (entry **at = &engine->compiled; *at && !surplus;) {
            if ((*at)->references || ++spare <= SPARE) {
                at = &(*at)->next;
                continue;
            }
            surplus = *at; /* one came, so one goes at most */
            *at = surplus->next;
        }
    }
    pthread_mutex_unlock(&engine->lock);
    if (surplus) entry_free(engine, surplus);
}

void mth__xla_cache_free(mth__engine *engine) {
    for (entry *e = engine->compiled, *next; e; e = next) {
        next = e->next;
        entry_free(engine, e);
    }
    engine->compiled = NULL;
}
