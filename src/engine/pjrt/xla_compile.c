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
static void entry_free(const mth__engine *engine, entry *cached) {
    if (mth__plugin_forked(engine->plugin)) return;
    const PJRT_Api *api = engine->plugin->api;
    if (cached->executable) {
        MTH__ARGS(PJRT_Executable_Destroy, destroy);
        destroy.executable = cached->executable;
        mth_error_free(mth__pjrt_status(engine->plugin, api->PJRT_Executable_Destroy(&destroy), "free an executable"));
    }
    if (cached->loaded) {
        MTH__ARGS(PJRT_LoadedExecutable_Destroy, destroy);
        destroy.executable = cached->loaded;
        mth_error_free(
            mth__pjrt_status(engine->plugin, api->PJRT_LoadedExecutable_Destroy(&destroy), "free an executable"));
    }
    pthread_cond_destroy(&cached->made);
    mth__free(cached);
}

typedef struct {
    const mth__engine *engine;
    const char *text;
    size_t bytes;
    const mth__xla_options *options;
    entry **out;
} request;

static mth_status entry_new(void *arguments) {
    const request *asked = arguments;
    mth__arena *arena = mth__arena_new();
    const unsigned char *options;
    size_t count;
    mth__xla_options_encode(arena, asked->options, &asked->engine->env, &options, &count);
    entry *cached = mth__malloc(sizeof *cached + asked->bytes + 1 + count);
    if (cached) {
        memset(cached, 0, sizeof *cached);
        memcpy(cached->room, asked->text, asked->bytes);
        cached->room[asked->bytes] = 0;
        memcpy(cached->room + asked->bytes + 1, options, count);
        cached->key = (mth__xla_key){.text = cached->room,
            .bytes = asked->bytes,
            .options = (unsigned char *)cached->room + asked->bytes + 1,
            .options_bytes = count,
            .hash = mth__xla_hash(asked->bytes, cached->room, asked->bytes + 1 + count)};
        pthread_cond_init(&cached->made, NULL);
    }
    mth__arena_free(arena);
    if (!cached) return mth__lacks_memory("a module", (int64_t)asked->bytes);
    *asked->out = cached;
    return NULL;
}

static bool same(const mth__xla_key *a, const mth__xla_key *b) {
    return a->hash == b->hash && a->bytes == b->bytes && a->options_bytes == b->options_bytes &&
        !memcmp(a->text, b->text, a->bytes) && !memcmp(a->options, b->options, a->options_bytes);
}

static entry *find(mth__engine *engine, const mth__xla_key *key) {
    for (entry *cached = engine->compiled; cached; cached = cached->next)
        if (same(&cached->key, key)) return cached;
    return NULL;
}

static void unlink_entry(mth__engine *engine, entry *cached) {
    entry **at = &engine->compiled;
    while (*at != cached) at = &(*at)->next;
    *at = cached->next;
}

/* ---------------------------------------------------------------- compiling */
static int read_number(const char *message, size_t n, size_t *at) { /* -1 where there is none */
    int number = -1;
    for (; *at < n && message[*at] >= '0' && message[*at] <= '9' && number < 100000000; ++*at)
        number = (number < 0 ? 0 : number) * 10 + (message[*at] - '0');
    return number;
}

static bool text_at(const char *message, size_t n, size_t at, const char *what) {
    return n - at >= strlen(what) && !memcmp(message + at, what, strlen(what));
}

/* The parser and the verifiers of MLIR say "-:LINE:COLUMN: error", XLA's passes "source_line=LINE". */
static int line_of(const char *message, size_t n, const char *text, size_t bytes) {
    int lines = 1, found = 0;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    for (size_t i = 0; i < n && !found; i++) {
        size_t at = i + 1;
        if (message[i] != ':') continue;
        int line = read_number(message, n, &at);
        if (line < 1 || at >= n || message[at] != ':') continue;
        at++;
        if (read_number(message, n, &at) >= 0 && text_at(message, n, at, ": error")) found = line;
    }
    for (size_t i = 0; i < n && !found; i++) {
        size_t at = i + strlen("source_line=");
        if (text_at(message, n, i, "source_line=")) found = read_number(message, n, &at);
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

static mth_status compile(const mth__engine *engine, entry *cached, int *line) {
    const mth__plugin *plugin = engine->plugin;
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE,
        .code = (char *)cached->key.text,
        .code_size = cached->key.bytes,
        .format = "mlir",
        .format_size = strlen("mlir")};
    PJRT_Error *error;
    if (engine->client) {
        MTH__ARGS(PJRT_Client_Compile, args);
        args.client = engine->client;
        args.program = &program;
        args.compile_options = (const char *)cached->key.options;
        args.compile_options_size = cached->key.options_bytes;
        error = plugin->api->PJRT_Client_Compile(&args);
        if (!error) cached->loaded = args.executable;
    } else {
        if (!MTH__HAS(plugin, PJRT_Compile))
            return FAIL(MTH_ERROR_UNSUPPORTED,
                F("the plugin %s can't compile for a topology without its devices", plugin->path),
                F("leave the option topology out, or use a plugin that can, such as libtpu"));
        MTH__ARGS(PJRT_Compile, args);
        args.topology = engine->topology;
        args.program = &program;
        args.compile_options = (const char *)cached->key.options;
        args.compile_options_size = cached->key.options_bytes;
        error = plugin->api->PJRT_Compile(&args);
        if (!error) cached->executable = args.executable;
    }
    return error ? refused(engine, error, &cached->key, line) : NULL;
}

static mth_status make(mth__engine *engine, entry *cached, mth__xla *handle, int *line) {
    const mth__plugin *plugin = engine->plugin;
    bool disk = engine->cache_dir && engine->client;
    if (disk) TRY(mth__xla_disk_load(engine, &cached->key, &cached->loaded));
    handle->from_disk = cached->loaded != NULL;
    if (!handle->from_disk) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        TRY(compile(engine, cached, line));
        clock_gettime(CLOCK_MONOTONIC, &end);
        handle->seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    }
    if (cached->loaded) {
        MTH__ARGS(PJRT_LoadedExecutable_GetExecutable, get);
        get.loaded_executable = cached->loaded;
        PJRT_TRY(plugin, "look into an executable", plugin->api->PJRT_LoadedExecutable_GetExecutable(&get));
        cached->executable = get.executable;
    }
    MTH__ARGS(PJRT_Executable_NumOutputs, outputs);
    outputs.executable = cached->executable;
    PJRT_TRY(plugin, "count the results of an executable", plugin->api->PJRT_Executable_NumOutputs(&outputs));
    cached->results = outputs.num_outputs;
    return disk && !handle->from_disk ? mth__xla_disk_store(engine, &cached->key, cached->executable) : NULL;
}

/* The entry of this key, made and with a reference more; NULL: there was none, and `mine` is now listed as pending. */
static entry *find_or_list(mth__engine *engine, entry *mine) {
    pthread_mutex_lock(&engine->lock);
    entry *cached;
    while ((cached = find(engine, &mine->key))) {
        cached->references++;
        while (cached->pending) pthread_cond_wait(&cached->made, &engine->lock);
        if (!cached->failed) break;
        if (!--cached->references) entry_free(engine, cached); /* whoever made it has gone */
    }
    if (!cached) {
        mine->pending = true;
        mine->references = 1;
        mine->next = engine->compiled;
        engine->compiled = mine;
    }
    pthread_mutex_unlock(&engine->lock);
    return cached;
}

mth_status mth__xla_compile(
    mth__engine *engine, const char *text, size_t bytes, const mth__xla_options *options, mth__xla **out, int *line) {
    *line = 0;
    TRY(mth__plugin_check_process(engine->plugin));
    if (!bytes || options->partitions < 1 || options->replicas < 1) /* plugins abort on some of these */
        return INTERNAL(
            "a module of %zu bytes for %d partitions and %d replicas", bytes, options->partitions, options->replicas);
    entry *mine, *cached;
    request asked = {engine, text, bytes, options, &mine};
    TRY(mth__guard(entry_new, &asked));
    mth__xla *handle = mth__calloc(1, sizeof *handle);
    if (!handle) {
        entry_free(engine, mine);
        return mth__lacks_memory("an executable", 0);
    }
    if ((cached = find_or_list(engine, mine))) {
        entry_free(engine, mine);
    } else {
        mth_status status = make(engine, cached = mine, handle, line);
        pthread_mutex_lock(&engine->lock);
        cached->pending = false;
        cached->failed = status != NULL;
        if (status) unlink_entry(engine, cached);
        bool last = status && !--cached->references;
        pthread_cond_broadcast(&cached->made);
        pthread_mutex_unlock(&engine->lock);
        if (status) {
            if (last) entry_free(engine, cached);
            mth__free(handle);
            return status;
        }
    }
    handle->engine = engine;
    handle->loaded = cached->loaded;
    handle->executable = cached->executable;
    handle->results = cached->results;
    handle->text = cached->key.text;
    handle->bytes = cached->key.bytes;
    handle->entry = cached;
    *out = handle;
    return NULL;
}

void mth__xla_release(mth__xla *handle) {
    if (!handle || mth__plugin_forked(handle->engine->plugin)) return;
    mth__engine *engine = handle->engine;
    entry *cached = handle->entry, *surplus = NULL;
    mth__free(handle);
    pthread_mutex_lock(&engine->lock);
    if (!--cached->references) {
        unlink_entry(engine, cached);
        cached->next = engine->compiled;
        engine->compiled = cached;
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
    for (entry *cached = engine->compiled, *next; cached; cached = next) {
        next = cached->next;
        entry_free(engine, cached);
    }
    engine->compiled = NULL;
}
