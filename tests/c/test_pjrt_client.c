/* Plugins and backends of the XLA engine: what opens, what is refused and how it is said. Libraries that are no
   plugins, or broken ones, are made by the C compiler. MITHRIL_TEST_PLUGINS: paths of CPU plugins, separated by ':';
   else the installed one. */
#include "engine/pjrt/pjrt_plugin.h"
#include "open_or_skip.h"
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

/* ---------------------------------------------------------------- made-up plugins */
static char folder[] = "/tmp/mithril-plugins-XXXXXX";

static void remove_folder(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    if (system(command)) printf("  %s is left\n", folder);
}

/* Compiles `body` to a shared library; false where there is no compiler. */
static bool make_library(const char *name, const char *body, char path[PATH_MAX]) {
    static bool made;
    if (!made && !mkdtemp(folder)) return false;
    if (!made) atexit(remove_folder);
    made = true;
    char source[PATH_MAX], command[3 * PATH_MAX];
    snprintf(path, PATH_MAX, "%s/%s.so", folder, name);
    snprintf(source, sizeof source, "%s/%s.c", folder, name);
    FILE *file = fopen(source, "w");
    if (!file) return false;
    fprintf(file, "#include \"engine/pjrt/pjrt_abi.h\"\n#include <string.h>\n%s\n", body);
    fclose(file);
    const char *cc = getenv("CC");
    snprintf(command, sizeof command, "%s -std=c17 -w -shared -fPIC -Isrc %s -o %s 2>/dev/null", cc && *cc ? cc : "cc",
        source, path);
    if (system(command) == 0) return true;
    SKIP("no C compiler, or not in the root of the sources");
    return false;
}

/* A table whose slots are all filled with functions that fail, but for what `change` says; then it is opened. */
#define TABLE(change)                                                                                                  \
    "static const char text[] = \"out of luck.\";\n"                                                                   \
    "static PJRT_Error *fails(void *a) { return (PJRT_Error *)text; }\n"                                               \
    "static PJRT_Error *works(PJRT_Plugin_Initialize_Args *a) { return NULL; }\n"                                      \
    "static void destroy(PJRT_Error_Destroy_Args *a) {}\n"                                                             \
    "static void message(PJRT_Error_Message_Args *a) { a->message = text; a->message_size = strlen(text); }\n"         \
    "static PJRT_Error *code(PJRT_Error_GetCode_Args *a) { a->code = PJRT_Error_Code_INTERNAL; return NULL; }\n"       \
    "const PJRT_Api *GetPjrtApi(void) {\n"                                                                             \
    "    static PJRT_Api api;\n"                                                                                       \
    "    for (void **s = (void **)&api.PJRT_Error_Destroy; s < (void **)(&api + 1); s++) *s = (void *)fails;\n"        \
    "    api.struct_size = sizeof api; api.pjrt_api_version.minor_version = 81;\n"                                     \
    "    api.PJRT_Error_Destroy = destroy; api.PJRT_Error_Message = message; api.PJRT_Error_GetCode = code;\n"         \
    "    " change "\n    return &api;\n}\n"

static void refused(const char *name, const char *body, const char *what) {
    char path[PATH_MAX];
    mth__plugin *plugin;
    if (!make_library(name, body, path)) return;
    for (int i = 0; i < 2; i++) CHECK_FAILS(mth__plugin_open(path, &plugin), MTH_ERROR_IO, what);
}

TEST(libraries_that_are_no_plugins) {
    mth__plugin *plugin;
    CHECK_FAILS(
        mth__plugin_open("/no/such/plugin.so", &plugin), MTH_ERROR_IO, "there is no plugin at /no/such/plugin.so");
    CHECK_FAILS(mth__plugin_open("", &plugin), MTH_ERROR_IO, "there is no plugin at");
    CHECK_FAILS(mth__plugin_open("/tmp", &plugin), MTH_ERROR_IO, "is no file");
    CHECK_FAILS(mth__plugin_open("tests/c/test_pjrt_client.c", &plugin), MTH_ERROR_IO, "");
    refused("plain", "int f(void) { return 1; }", "no function GetPjrtApi");
    refused("nothing", "const PJRT_Api *GetPjrtApi(void) { return NULL; }", "returns nothing");
}

TEST(broken_and_old_plugins) {
    refused("tiny", TABLE("api.struct_size = 16;"), "no usable PJRT plugin");
    refused("major", TABLE("api.pjrt_api_version.major_version = 1;"), "has version 1.81 of the PJRT API");
    refused("old", TABLE("api.struct_size = offsetof(PJRT_Api, PJRT_Compile); api.pjrt_api_version.minor_version = 9;"),
        "its version 0.9 of the PJRT API has no PJRT_Compile");
    refused("hole", TABLE("api.PJRT_Buffer_Destroy = NULL;"), "has no PJRT_Buffer_Destroy");
    refused("unwilling", TABLE(""), "can't start: out of luck");
}

TEST(a_plugin_that_opens_nothing) {
    char path[PATH_MAX];
    mth_backend *backend;
    if (!make_library("shut", TABLE("api.PJRT_Plugin_Initialize = works;"), path)) return;
    CHECK_FAILS(
        mth_backend_create("pjrt", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}, {"plugin", mth_string(path)}), &backend),
        MTH_ERROR_IO, "can't open its devices: out of luck");
    CHECK_FAILS(
        mth_backend_create("pjrt",
            MTH_OPTIONS({"device_mesh", MTH_INTS(2)}, {"plugin", mth_string(path)}, {"backend", mth_string("tpu")}),
            &backend),
        MTH_ERROR_UNSUPPORTED, "topology='v5p:2x4x8'");
    CHECK_FAILS(
        mth_backend_create("pjrt",
            MTH_OPTIONS({"device_mesh", MTH_INTS(2)}, {"plugin", mth_string(path)}, {"backend", mth_string("cuda")}),
            &backend),
        MTH_ERROR_UNSUPPORTED, "NVIDIA GPU");
}

static void with_flags(const char *path, const char *flags, mth_error_code code, const char *what) {
    mth__plugin *plugin;
    setenv("XLA_FLAGS", flags, 1);
    CHECK_FAILS(mth__plugin_open(path, &plugin), code, what);
}

TEST(flags_of_the_environment) {
    char path[PATH_MAX], file[PATH_MAX], *before = getenv("XLA_FLAGS") ? strdup(getenv("XLA_FLAGS")) : NULL;
    if (make_library("flags", TABLE("") "const char known[] = \"xla_known\", other[] = \"xla_other\";", path)) {
        with_flags(path, "--xla_known=1 --xla_unknown", MTH_ERROR_VALUE, "has '--xla_unknown'");
        with_flags(path, " --xla_know=1", MTH_ERROR_VALUE, "has '--xla_know'");
        with_flags(path, "--noxla_known", MTH_ERROR_VALUE, "has '--noxla_known'");
        with_flags(path, "--xla_known 3", MTH_ERROR_VALUE, "has '3'");
        with_flags(path, "/no/such/file", MTH_ERROR_IO, "XLA_FLAGS is no list of flags");
        /* these pass, and the plugin fails to start, as it always does */
        with_flags(path, "--xla_known=\"a --b\" --xla_other='c d'\t--xla_known", MTH_ERROR_IO, "out of luck");
        with_flags(path, "", MTH_ERROR_IO, "out of luck");
        snprintf(file, sizeof file, "%s/flags.txt", folder);
        FILE *f = fopen(file, "w");
        fputs("--xla_known=1\n--xla_strange=2\n", f);
        fclose(f);
        with_flags(path, file, MTH_ERROR_VALUE, "has '--xla_strange'");
    }
    if (before)
        setenv("XLA_FLAGS", before, 1);
    else
        unsetenv("XLA_FLAGS");
    free(before);
}

TEST(an_empty_variable_hides_what_is_installed) {
    static const char variable[] = "MITHRIL_PJRT_PLUGIN_CPU";
    char *before = getenv(variable) ? strdup(getenv(variable)) : NULL;
    mth_backend *backend;
    setenv(variable, "", 1);
    CHECK_FAILS(mth_backend_create("pjrt", MTH_OPTIONS({"device_mesh", MTH_INTS(1)}), &backend), MTH_ERROR_IO,
        "MITHRIL_PJRT_PLUGIN_CPU is empty");
    if (before)
        setenv(variable, before, 1);
    else
        unsetenv(variable);
    free(before);
}

/* ---------------------------------------------------------------- CPU plugins */
static const char *plugins(void) {
    const char *said = getenv("MITHRIL_TEST_PLUGINS");
    static char found[PATH_MAX];
    if (said && *said) return said;
    mth_backend *backend = open_or_skip("pjrt", 1);
    if (!backend) return NULL;
    char *text;
    CHECK_STATUS(mth_backend_describe(backend, &text));
    const char *at = strstr(text, ": /");
    if (at) snprintf(found, sizeof found, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
    mth_text_free(text);
    mth_backend_free(backend);
    return found;
}

static void each_plugin(void (*body)(const char *path)) {
    char path[PATH_MAX];
    for (const char *list = plugins(); list && *list; list += list[strlen(path)] ? strlen(path) + 1 : strlen(path)) {
        snprintf(path, sizeof path, "%.*s", (int)strcspn(list, ":"), list);
        body(path);
    }
}

static mth_status open_on(const char *path, int devices, mth_backend **out) {
    return mth_backend_create(
        "pjrt", MTH_OPTIONS({"device_mesh", MTH_INTS(devices)}, {"plugin", mth_string(path)}), out);
}

static void opens_and_closes(const char *path) {
    static const int count[] = {1, 3, 8, 2};
    mth_backend *backend[4];
    for (int i = 0; i < 20; i++) {
        CHECK_STATUS(open_on(path, 1 + i % 5, &backend[0]));
        mth_backend_free(backend[0]);
    }
    for (int i = 0; i < 4; i++) CHECK_STATUS(open_on(path, count[i], &backend[i]));
    for (int i = 0; i < 4; i++) {
        char *text, want[64];
        CHECK_STATUS(mth_backend_describe(backend[i], &text));
        snprintf(want, sizeof want, count[i] == 1 ? "device 0: " : "devices 0 to %d: ", count[i] - 1);
        CHECK(strstr(text, want));
        CHECK(strstr(text, "platform cpu"));
        CHECK(strstr(text, "(default)"));
        CHECK(strstr(text, path));
        mth_text_free(text);
    }
    for (int i = 0; i < 4; i++) mth_backend_free(backend[i]);
}

TEST(clients) { each_plugin(opens_and_closes); }

static void *opens_in_a_thread(void *path) {
    mth_backend *backend;
    for (int i = 0; i < 4; i++) {
        mth_status status = open_on(path, 2, &backend);
        if (status) return status;
        mth_backend_free(backend);
    }
    return NULL;
}
static void opens_in_threads(const char *path) {
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) CHECK(!pthread_create(&thread[i], NULL, opens_in_a_thread, (void *)path));
    for (int i = 0; i < 4; i++) {
        void *s;
        pthread_join(thread[i], &s);
        CHECK_STATUS(s);
    }
}
TEST(clients_of_several_threads) { each_plugin(opens_in_threads); }

/* ---------------------------------------------------------------- options */
#define OPEN(...) mth_backend_create("pjrt", MTH_OPTIONS(__VA_ARGS__), &backend)
#define MESH {"device_mesh", MTH_INTS(2, 4)}
#define DICT(key, ...) mth_dict(1, (const char *const[]){key}, (mth_arg[]){__VA_ARGS__})

TEST(options_that_contradict) {
    mth_backend *backend = NULL;
    CHECK_FAILS(OPEN(MESH, {"topology", mth_string("v5p:2x2x2")}), MTH_ERROR_VALUE, "give backend='tpu'");
    CHECK_FAILS(OPEN(MESH, {"backend", mth_string("rocm")}), MTH_ERROR_VALUE, "backend='rocm' is none of cpu|cuda|tpu");
    CHECK_FAILS(OPEN(MESH, {"spmd_mesh_shape", MTH_INTS(2, 2, 2)}), MTH_ERROR_VALUE, "give mesh_context='spmd'");
    CHECK_FAILS(OPEN(MESH, {"spmd_partition_dims", mth_int(1)}), MTH_ERROR_VALUE, "give auto_sharding=True");
    CHECK_FAILS(OPEN(MESH, {"spmd_partition_dims", mth_int(3)}, {"auto_sharding", mth_bool(true)}), MTH_ERROR_VALUE,
        "from 1 to 2");
    CHECK_FAILS(OPEN(MESH, {"spmd_partition_dims", mth_int(0)}, {"auto_sharding", mth_bool(true)}), MTH_ERROR_VALUE,
        "is below 1");
    static const int64_t wrong[][3] = {
        {4, 2, 1}, {8, 1, 1}, {2, 3, 1}, {2, 4, 2}, {2, 2, 1}, {1, 8, 1}, {2, INT64_C(1) << 33, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_FAILS(OPEN(MESH, {"mesh_context", mth_string("spmd")},
                        {"spmd_mesh_shape", MTH_INTS(wrong[i][0], wrong[i][1], wrong[i][2])}),
            MTH_ERROR_VALUE, "doesn't cut the axes of device_mesh=(2, 4) into factors");
    CHECK_FAILS(OPEN(MESH, {"compile_options", DICT("xla_cpu_parallel_codegen_split_count", mth_int(-1))}),
        MTH_ERROR_VALUE, "is below 0");
    CHECK_FAILS(OPEN(MESH, {"compile_options", DICT("xla_dump_to", MTH_NONE)}), MTH_ERROR_TYPE,
        "compile_options: 'xla_dump_to' is None");
}

static void takes_options(const char *path) {
    mth_backend *backend = NULL;
    const mth_option plugin = {"plugin", mth_string(path)}, spmd = {"mesh_context", mth_string("spmd")};
    static const int64_t right[][3] = {{2, 4, 1}, {2, 2, 2}, {1, 2, 4}};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        CHECK_STATUS(OPEN(MESH, plugin, spmd, {"spmd_mesh_shape", MTH_INTS(right[i][0], right[i][1], right[i][2])},
            {"auto_sharding", mth_bool(true)}, {"spmd_partition_dims", mth_int(3)}));
        mth_backend_free(backend);
    }
    CHECK_STATUS(OPEN(MESH, plugin, {"compile_options", DICT("xla_backend_optimization_level", mth_int(0))}));
    mth_backend_free(backend);
    mth_status status = OPEN(MESH, plugin, {"platform_options", DICT("asynchronous", mth_bool(false))});
    if (!status)
        mth_backend_free(backend);
    else
        CHECK_FAILS(status, MTH_ERROR_UNSUPPORTED, "has no 'asynchronous'");
    CHECK_FAILS(OPEN(MESH, plugin, {"platform_options", DICT("cpu_device_count", mth_int(3))}), MTH_ERROR_VALUE,
        "give device_mesh=(n,)");
    CHECK_FAILS(
        OPEN(MESH, plugin, {"platform_options", DICT("wings", mth_int(3))}), MTH_ERROR_VALUE, "no option 'wings'");
    CHECK_FAILS(
        OPEN(MESH, plugin, {"platform_options", DICT("asynchronous", mth_int(0))}), MTH_ERROR_VALUE, "True or False");
    CHECK_FAILS(OPEN(MESH, plugin, {"backend", mth_string("cuda")}), MTH_ERROR_VALUE,
        "is for the platform 'cpu', not for backend='cuda'");
    CHECK_FAILS(OPEN(MESH, plugin, {"backend", mth_string("tpu")}), MTH_ERROR_VALUE, "give backend='cpu'");
}
TEST(options_of_a_client) { each_plugin(takes_options); }

/* The plugin's own memory apart, every allocation may fail: nothing stays behind, and the next try goes well. */
static void survives_failing_allocations(const char *path) {
    const mth_option plugin = {"plugin", mth_string(path)};
    mth_backend *backend;
    bool done = false;
    int64_t n = 0;
    for (; !done && n < 500; n++) {
        mth_debug_fail_allocation(n);
        mth_status status = OPEN(MESH, plugin, {"mesh_context", mth_string("spmd")},
            {"spmd_mesh_shape", MTH_INTS(2, 2, 2)}, {"compile_options", DICT("xla_dump_to", mth_string("/tmp"))});
        mth_debug_fail_allocation(-1);
        done = !status;
        CHECK(!status || mth_error_get_code(status) == MTH_ERROR_MEMORY);
        mth_error_free(status);
    }
    CHECK(done && n > 1);
    if (done) mth_backend_free(backend);
}
TEST(failing_allocations) { each_plugin(survives_failing_allocations); }

/* ---------------------------------------------------------------- topologies */
static mth_status open_topology(int devices, const char *topology, mth_backend **out) {
    return mth_backend_create("pjrt",
        MTH_OPTIONS(
            {"device_mesh", MTH_INTS(devices)}, {"backend", mth_string("tpu")}, {"topology", mth_string(topology)}),
        out);
}

static void describes(int devices, const char *topology, const char *first, const char *second) {
    mth_backend *backend;
    char *text;
    mth_status status = open_topology(devices, topology, &backend);
    CHECK_STATUS(status);
    if (status) return;
    CHECK_STATUS(mth_backend_describe(backend, &text));
    CHECK(strstr(text, first) && strstr(text, second) && strstr(text, "can't run"));
    if (!strstr(text, first) || !strstr(text, second)) puts(text);
    mth_text_free(text);
    mth_backend_free(backend);
}

TEST(topologies) {
    mth_backend *backend;
    mth_status status = open_topology(4, "v5p:2x2x1", &backend);
    if (status && strstr(mth_error_get_message(status), "pip install libtpu")) {
        SKIP("%s", mth_error_get_what(status));
        mth_error_free(status);
        return;
    }
    CHECK_STATUS(status);
    if (!status) mth_backend_free(backend);
    describes(8, "2x4x8", "topology v5p:2x4x8: 64 chips of TPU v5, the mesh takes the first 8 of 64 chips, in order",
        "102.8 GB");
    describes(4, "v5p:2x2x1", "topology v5p:2x2x1: 4 chips of TPU v5, the mesh takes all of them, in order", "a chip");
    describes(8, "v4:2x2x1", "4 chips of TPU v4 with 8 cores, the mesh takes all of them", "a core");
    describes(256, "v6e:16x16", "256 chips of TPU v6 lite", "33.5 GB");
    describes(2048, "v5p:8x16x16", "2048 chips of TPU v5", "102.8 GB");
    CHECK_FAILS(
        open_topology(65, "2x4x8", &backend), MTH_ERROR_VALUE, "takes 65 devices, the topology v5p:2x4x8 has 64");
    static const char *const wrong[] = {"v5p-256", "v5litepod-16", "v5e:3x3", "", "v5p:", ":", "v5p:0x0x0", "v5p:2x2x",
        "x", "7", "v9z:2x2x1", "v5p:99999999999999999999x1x1", "v5p:1x1x1x1x1x1", "v5p:2x2x1_twisted_twisted",
        "v5p:-1x2x2", "v5p:1000x1000x1000"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_FAILS(open_topology(1, wrong[i], &backend), MTH_ERROR_VALUE, "there is no topology");
}

RUN()
