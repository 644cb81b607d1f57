/* Compiling with a plugin, and both caches. Skipped where there is no plugin. */
#include "engine/pjrt/xla.h"
#include "cpu_plugin.h"
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static mth_status in_guard(void *body) {
    (*(void (**)(void))body)();
    return NULL;
}
static void guarded(void (*body)(void)) { CHECK_STATUS(mth__guard(in_guard, &body)); }

/* ---------------------------------------------------------------- a plugin */
static mth__engine engine;
static mth__plugin *plugin;
static PJRT_Device *device[4];

static mth_status find_plugin(void *unused) {
    (void)unused;
    return cpu_plugin(&plugin);
}

/* An engine as bare as compiling needs it: a client of 4 devices. */
static bool open_engine(const char *cache_dir) {
    CHECK_STATUS(mth__guard(find_plugin, NULL));
    if (!plugin) return false;
    memset(&engine, 0, sizeof engine);
    PJRT_Device *const *listed = device;
    CHECK_STATUS(cpu_client(plugin, 4, &engine.client, &listed));
    for (int i = 0; i < 4; i++) device[i] = listed[i];
    engine.plugin = plugin;
    engine.device = device;
    engine.devices = 4;
    engine.platform_name = "cpu";
    engine.platform_version = "test";
    engine.cache_dir = cache_dir;
    pthread_mutex_init(&engine.lock, NULL);
    return engine.client != NULL;
}

static void close_engine(void) {
    mth__xla_cache_free(&engine);
    MTH__ARGS(PJRT_Client_Destroy, destroy);
    destroy.client = engine.client;
    CHECK_STATUS(mth__pjrt_status(plugin, plugin->api->PJRT_Client_Destroy(&destroy), "destroy a client"));
    pthread_mutex_destroy(&engine.lock);
}

static const mth__xla_options any = {.partitions = 1, .replicas = 1};
static const int32_t all[] = {0, 1, 2, 3};
static const mth__xla_options four = {4, 1, all, false};

static mth_status compile(const char *text, const mth__xla_options *options, mth__xla **out) {
    int line;
    return mth__xla_compile(&engine, text, strlen(text), options, out, &line);
}

static const char *scale(int factor) {
    static _Thread_local char text[512];
    snprintf(text, sizeof text,
        "module @scale {\nfunc.func public @main(%%a: tensor<4x8xf32>) -> tensor<4x8xf32> {\n"
        "  %%c = stablehlo.constant dense<%d.0> : tensor<4x8xf32>\n  %%r = stablehlo.multiply %%a, %%c : "
        "tensor<4x8xf32>\n"
        "  return %%r : tensor<4x8xf32>\n}\n}\n",
        factor);
    return text;
}

#define CHANNEL(n) "channel_handle = #stablehlo.channel_handle<handle = " #n ", type = 1>"
#define GROUPS "replica_groups = dense<[[0, 1, 2, 3]]> : tensor<1x4xi64>"
#define SUM                                                                                                            \
    " ({\n  ^bb0(%x: tensor<f32>, %y: tensor<f32>):\n    %s = stablehlo.add %x, %y : tensor<f32>\n"                    \
    "    stablehlo.return %s : tensor<f32>\n  })"
static const char collectives[] =
    "module @five attributes {mhlo.num_partitions = 4 : i32} {\n"
    "func.func public @main(%a: tensor<4x8xf32>, %b: tensor<4x8xf32>, %c: tensor<16x8xf32>, %d: tensor<4x8xf32>, %e: "
    "tensor<4x8xf32>)\n"
    "  -> (tensor<4x8xf32>, tensor<16x8xf32>, tensor<4x8xf32>, tensor<1x32xf32>, tensor<4x8xf32>) {\n"
    "  %0 = \"stablehlo.all_reduce\"(%a) <{" GROUPS ", use_global_device_ids, " CHANNEL(
        1) "}>" SUM "\n"
           "    : (tensor<4x8xf32>) -> tensor<4x8xf32>\n"
           "  %1 = \"stablehlo.all_gather\"(%b) <{all_gather_dim = 0 : i64, " GROUPS
           ", use_global_device_ids, " CHANNEL(
               2) "}>\n"
                  "    : (tensor<4x8xf32>) -> tensor<16x8xf32>\n"
                  "  %2 = \"stablehlo.reduce_scatter\"(%c) <{scatter_dimension = 0 : i64, " GROUPS
                  ", use_global_device_ids, " CHANNEL(
                      3) "}>" SUM "\n"
                         "    : (tensor<16x8xf32>) -> tensor<4x8xf32>\n"
                         "  %3 = \"stablehlo.all_to_all\"(%d) <{split_dimension = 0 : i64, concat_dimension = 1 : i64, "
                         "split_count = 4 : i64, " GROUPS
                         ", " CHANNEL(4) "}>\n    : (tensor<4x8xf32>) -> tensor<1x32xf32>\n"
                                         "  %4 = \"stablehlo.collective_permute\"(%e) <{source_target_pairs = "
                                         "dense<[[0, 1], [1, 2], [2, 3], [3, 0]]> : tensor<4x2xi64>, " CHANNEL(
                                             5) "}>\n    : (tensor<4x8xf32>) -> tensor<4x8xf32>\n"
                                                "  return %0, %1, %2, %3, %4 : tensor<4x8xf32>, tensor<16x8xf32>, "
                                                "tensor<4x8xf32>, tensor<1x32xf32>, tensor<4x8xf32>\n}\n}\n";

static void inspect_stored(void) { /* an executable from disk tells the same */
    mth__xla *xla;
    mth__xla_facts facts;
    mth__arena *arena = mth__arena_new();
    CHECK_STATUS(compile(collectives, &four, &xla));
    CHECK(xla->from_disk && xla->results == 5);
    CHECK_STATUS(mth__xla_inspect(arena, xla, &facts));
    CHECK(facts.arguments == 128 * 4 + 512 && facts.collectives == 5);
    mth__xla_release(xla);
    mth__arena_free(arena);
}

static void facts_body(void) {
    mth__xla *xla, *again;
    mth__xla_facts facts;
    mth__arena *arena = mth__arena_new();
    CHECK_STATUS(compile(collectives, &four, &xla));
    CHECK(xla->seconds > 0 && !xla->from_disk && xla->results == 5 && xla->loaded && xla->executable &&
        xla->bytes == sizeof collectives - 1);
    CHECK(!strcmp(xla->text, collectives));
    CHECK_STATUS(mth__xla_inspect(arena, xla, &facts));
    CHECK(facts.arguments == 128 * 4 + 512 && facts.outputs >= 128 * 4 + 512 && facts.temporaries >= 0 &&
        facts.instructions > 10);
    static const struct {
        const char *kind;
        int64_t bytes;
    } want[] = {{"all_reduce", 192}, {"all_gather", 384}, {"reduce_scatter", 384}, {"all_to_all", 96},
        {"collective_permute", 128}};
    CHECK(facts.collectives == 5);
    for (int i = 0; i < 5 && i < facts.collectives; i++) {
        const mth__xla_collective *xla_collective = &facts.collective[i];
        CHECK(!strcmp(xla_collective->kind, want[i].kind) && xla_collective->count == 1 &&
            xla_collective->bytes == want[i].bytes);
    }
    CHECK_STATUS(compile(collectives, &four, &again));
    CHECK(again->seconds == 0 && again->executable == xla->executable && again->results == 5);
    mth__xla_release(again);
    mth__xla_release(xla);
    CHECK_STATUS(compile(collectives, &four, &again)); /* released, but still there */
    CHECK(again->seconds == 0);
    mth__xla_release(again);
    CHECK_STATUS(compile(scale(2), &any, &xla));
    CHECK_STATUS(mth__xla_inspect(arena, xla, &facts));
    CHECK(facts.collectives == 0 && facts.arguments == 128 && facts.outputs == 128);
    CHECK(facts.flops == -1 || facts.flops == 32); /* one plugin tells */
    static const int32_t two[] = {2};              /* the same text with other options is another executable */
    CHECK_STATUS(compile(scale(2), &(mth__xla_options){1, 1, two, false}, &again));
    CHECK(again->seconds > 0 && again->executable != xla->executable);
    mth__xla_release(again);
    mth__xla_release(xla);
    mth__xla_release(NULL);
    mth__arena_free(arena);
}
TEST(facts) {
    if (!open_engine(NULL)) return;
    guarded(facts_body);
    close_engine();
}

TEST(bad_texts) {
    static const struct {
        const char *body;
        int line;
    } bad[] = {
        {"  %r = stablehlo.add %a %a : tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n", 3},
        {"  %r = stablehlo.add %a, %a : tensor<4x9xf32>\n  return %r : tensor<4x8xf32>\n", 3},
        {"\n\n  %r = stablehlo.nosuch %a : tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n", 5},
        {"\n  %r = \"stablehlo.transpose\"(%a) {permutation = array<i64: 0, 0>} : (tensor<4x8xf32>) -> "
         "tensor<4x8xf32>\n"
         "  return %r : tensor<4x8xf32>\n",
            4},
        {"  %r = stablehlo.add %a, %a : tensor<4x8xf32>\n  return %r, %r : tensor<4x8xf32>, tensor<4x8xf32>\n", 4},
        {"  %r = \"stablehlo.all_gather\"(%a) <{all_gather_dim = 0 : i64, replica_groups = dense<[[0, 1]]> : "
         "tensor<1x2xi64>, "
         "use_global_device_ids, " CHANNEL(
             1) "}> : (tensor<4x8xf32>) -> tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n",
            3},
        {"  %r = stablehlo.custom_call @nosuch(%a) : (tensor<4x8xf32>) -> tensor<4x8xf32>\n  return %r : "
         "tensor<4x8xf32>\n",
            0},
    };
    if (!open_engine(NULL)) return;
    mth__xla *xla;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[1024];
        int line = -1;
        snprintf(text, sizeof text,
            "module @m {\nfunc.func public @main(%%a: tensor<4x8xf32>) -> tensor<4x8xf32> {\n%s}\n}\n", bad[i].body);
        CHECK_FAILS(
            mth__xla_compile(&engine, text, strlen(text), &any, &xla, &line), MTH_ERROR_INTERNAL, "compile a module");
        if (line != bad[i].line) printf("  text %zu: line %d, want %d\n", i, line, bad[i].line);
        CHECK(line == bad[i].line);
    }
    int line = -1;
    CHECK_FAILS(mth__xla_compile(&engine, "", 0, &any, &xla, &line), MTH_ERROR_INTERNAL, "0 bytes");
    CHECK_FAILS(mth__xla_compile(&engine, scale(2), 10, &(mth__xla_options){0}, &xla, &line), MTH_ERROR_INTERNAL,
        "0 partitions");
    CHECK(!engine.compiled);
    mth__pjrt_setting setting = {.name = "xla_no_such_option", .type = 'b', .integer = 1};
    engine.env = (mth__pjrt_env){&setting, 1};
    CHECK_FAILS(compile(scale(2), &any, &xla), MTH_ERROR_VALUE, "xla_no_such_option");
    setting = (mth__pjrt_setting){.name = "xla_backend_optimization_level", .type = 'i', .integer = 0};
    CHECK_STATUS(compile(scale(2), &any, &xla));
    mth__xla_release(xla);
    close_engine();
}

/* Many modules: those that nobody holds are dropped but for the last; those that are held stay. */
TEST(many_modules) {
    if (!open_engine(NULL)) return;
    enum { N = 100 };
    mth__xla *xla, *held;
    CHECK_STATUS(compile(scale(1), &any, &held));
    for (int i = 1; i <= N; i++) {
        CHECK_STATUS(compile(scale(i + 1), &any, &xla));
        mth__xla_release(xla);
    }
    CHECK_STATUS(compile(scale(N + 1), &any, &xla));
    CHECK(xla->seconds == 0);
    mth__xla_release(xla);
    CHECK_STATUS(compile(scale(2), &any, &xla));
    CHECK(xla->seconds > 0); /* dropped long ago */
    mth__xla_release(xla);
    CHECK_STATUS(compile(scale(1), &any, &xla));
    CHECK(xla->seconds == 0 && xla->executable == held->executable);
    mth__xla_release(xla);
    mth__xla_release(held);
    close_engine();
}

static void *compile_several(void *argument) {
    int *failures = argument, line;
    for (int i = 0; i < 6; i++) {
        mth__xla *xla = NULL;
        const char *text = i == 3 ? "module {\nnonsense\n}\n" : scale(10 + i);
        mth_status status = mth__xla_compile(&engine, text, strlen(text), &any, &xla, &line);
        *failures += (status != NULL) != (i == 3) || (i == 3 && line != 2) || (!status && !xla->loaded);
        mth_error_free(status);
        mth__xla_release(xla);
    }
    return NULL;
}

TEST(threads) {
    if (!open_engine(NULL)) return;
    enum { THREADS = 8 };
    pthread_t thread[THREADS];
    int failures[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, compile_several, &failures[i]);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(!failures[i]);
    }
    close_engine();
}

/* Each of our allocations fails once: an error, nothing lost, and the next call works. */
TEST(no_memory) {
    if (!open_engine(NULL)) return;
    int64_t before = mth_debug_live_allocations();
    bool done = false;
    for (int i = 0; i < 50 && !done; i++) {
        mth__xla *xla = NULL;
        mth_debug_fail_allocation(i);
        mth_status status = compile(scale(3), &any, &xla);
        mth_debug_fail_allocation(-1);
        done = !status;
        CHECK(!status || mth_error_get_code(status) == MTH_ERROR_MEMORY);
        mth_error_free(status);
        mth__xla_release(xla);
        CHECK(done || mth_debug_live_allocations() == before);
    }
    CHECK(done);
    close_engine();
    CHECK(mth_debug_live_allocations() == before);
}

/* ---------------------------------------------------------------- the cache on disk */
static char folder[64], file[512];

/* The number of files in the folder; the name of the last goes to `file`. */
static int files(void) {
    int n = 0;
    DIR *d = opendir(folder);
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            n++;
            snprintf(file, sizeof file, "%s/%s", folder, e->d_name);
        }
    closedir(d);
    return n;
}

static size_t read_all(unsigned char **out) {
    FILE *f = fopen(file, "rb");
    static unsigned char data[1 << 20];
    size_t n = f ? fread(data, 1, sizeof data, f) : 0;
    if (f) fclose(f);
    *out = data;
    return n;
}

static void write_all(const unsigned char *data, size_t n) {
    FILE *f = fopen(file, "wb");
    CHECK(f && fwrite(data, 1, n, f) == n);
    if (f) fclose(f);
}

/* What a fresh engine makes of the folder as it is. */
static bool fresh(bool from_disk) {
    mth__xla *xla = NULL;
    if (!open_engine(folder)) return false;
    CHECK_STATUS(compile(scale(7), &any, &xla));
    bool right =
        xla && xla->from_disk == from_disk && (xla->seconds == 0) == from_disk && xla->results == 1 && xla->loaded;
    mth__xla_release(xla);
    close_engine();
    return right;
}

TEST(disk) {
    if (!open_engine(NULL)) return;
    close_engine();
    snprintf(folder, sizeof folder, "/tmp/mithril_xla_%d/made/of_three", (int)getpid());
    CHECK(fresh(false) && files() == 1); /* makes the folder */
    CHECK(fresh(true) && files() == 1);
    unsigned char *data;
    size_t n = read_all(&data);
    CHECK(n > 1000);
    for (size_t at = 0; at < n; at += n / 23 + 1) { /* one byte of each part is wrong */
        data[at] ^= 1;
        write_all(data, n);
        CHECK(fresh(false));
        n = read_all(&data); /* was mended; executables need not be the same bytes */
        CHECK(fresh(true));
    }
    for (size_t cut = 0; cut < n; cut += n / 7 + 1) {
        write_all(data, cut);
        CHECK(fresh(false) && fresh(true));
        n = read_all(&data);
    }
    data[n] = 0; /* longer than it says */
    write_all(data, n + 1);
    CHECK(fresh(false) && fresh(true));
    CHECK(!unlink(file) && !mkfifo(file, 0600)); /* a pipe that nobody writes to */
    CHECK(fresh(false) && fresh(true));
    CHECK(!chmod(file, 0) && (geteuid() ? fresh(false) : fresh(true)));
    CHECK(files() == 1);
    /* of another plugin, flags, or module: none of ours */
    setenv("XLA_FLAGS", "", 1);
    CHECK(fresh(true));
    if (!open_engine(folder)) return;
    engine.platform_version = "another";
    mth__xla *xla;
    CHECK_STATUS(compile(scale(7), &any, &xla));
    CHECK(!xla->from_disk && files() == 2);
    mth__xla_release(xla);
    CHECK_STATUS(compile(collectives, &four, &xla));
    mth__xla_release(xla);
    mth__xla_cache_free(&engine);
    guarded(inspect_stored);
    close_engine();
    /* folders that can't be written */
    static const char *const bad[] = {"/proc/no/such/folder", NULL};
    for (int i = 0; i < 2; i++) {
        if (!open_engine(bad[i] ? bad[i] : file)) return; /* a file in place of the folder */
        CHECK_FAILS(compile(scale(7), &any, &xla), MTH_ERROR_IO, "cache_dir");
        CHECK(!engine.compiled);
        close_engine();
    }
    while (files()) unlink(file);
    rmdir(folder);
    for (int i = 0; i < 2; i++) {
        *strrchr(folder, '/') = 0;
        rmdir(folder);
    }
}
RUN()
