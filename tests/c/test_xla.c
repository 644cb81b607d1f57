/* Options as bytes, the reader of optimized programs, compiling, both caches. What needs a plugin is skipped where there is none. */
#include "engine/pjrt/xla.h"
#include "cpu_plugin.h"
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static mth_status in_guard(void *body) { (*(void (**)(void))body)(); return NULL; }
static void guarded(void (*body)(void)) { CHECK_STATUS(mth__guard(in_guard, &body)); }

/* ---------------------------------------------------------------- options */
static bool encodes(const mth__xla_options *o, const mth__pjrt_env *env, const char *hex) {
    mth__arena *a = mth__arena_new();
    const unsigned char *bytes;
    size_t n;
    mth__xla_options_encode(a, o, env, &bytes, &n);
    mth__text t = mth__text_new(a);
    for (size_t i = 0; i < n; i++) mth__text_add(&t, "%s%02x", i ? " " : "", bytes[i]);
    bool right = !strcmp(t.at, hex);
    if (!right) printf("  got  %s\n  want %s\n", t.at, hex);
    mth__arena_free(a);
    return right;
}

static void options_body(void) {
    static const int32_t two[] = {2}, high[] = {4, 5, 6, 7}, grid[] = {0, 1, 300, 3};
    CHECK(encodes(&(mth__xla_options){.partitions = 1, .replicas = 1}, NULL, "1a 04 20 01 28 01 20 01"));
    CHECK(encodes(&(mth__xla_options){1, 1, two, false}, NULL, "1a 0f 20 01 28 01 4a 09 08 01 10 01 1a 03 0a 01 02"));
    CHECK(encodes(&(mth__xla_options){1, 4, NULL, false}, NULL, "1a 04 20 04 28 01"));
    CHECK(encodes(&(mth__xla_options){4, 1, NULL, false}, NULL, "1a 06 20 01 28 04 30 01"));
    CHECK(encodes(&(mth__xla_options){4, 1, NULL, true}, NULL, "1a 09 20 01 28 04 30 01 98 01 01"));
    CHECK(encodes(&(mth__xla_options){4, 1, high, true}, NULL, "1a 23 20 01 28 04 30 01 4a 18 08 01 10 04 1a 03 0a 01 04 1a 03 0a 01 05 "
        "1a 03 0a 01 06 1a 03 0a 01 07 98 01 01"));
    /* 2 replicas of 2 partitions: [replica][partition] becomes a list for each partition */
    CHECK(encodes(&(mth__xla_options){2, 2, grid, false}, NULL, "1a 19 20 02 28 02 30 01 4a 11 08 02 10 02 1a 05 0a 03 00 ac 02 "
        "1a 04 0a 02 01 03"));
    mth__pjrt_setting setting[] = {{"a", 's', "xy", 0, 0}, {"b", 'b', NULL, 1, 0}, {"c", 'i', NULL, -1, 0}, {"d", 'd', NULL, 0, 1.5}};
    CHECK(encodes(&(mth__xla_options){.partitions = 1, .replicas = 1}, &(mth__pjrt_env){setting, 4}, "1a 04 20 01 28 01 20 01 "
        "3a 09 0a 01 61 12 04 0a 02 78 79 3a 07 0a 01 62 12 02 10 01 "
        "3a 10 0a 01 63 12 0b 18 ff ff ff ff ff ff ff ff ff 01 3a 0e 0a 01 64 12 09 21 00 00 00 00 00 00 f8 3f"));
}
TEST(options) { guarded(options_body); }

/* ---------------------------------------------------------------- programs */
typedef struct { unsigned char at[4096]; size_t n; } message; /* built from the inside to the outside */

static void put_varint(message *m, uint64_t v) {
    for (; v >= 128; v >>= 7) m->at[m->n++] = (unsigned char)(v | 128);
    m->at[m->n++] = (unsigned char)v;
}
static void put_int(message *m, unsigned number, uint64_t v) { put_varint(m, number << 3); put_varint(m, v); }
static void put_bytes(message *m, unsigned number, const void *bytes, size_t n) {
    put_varint(m, number << 3 | 2);
    put_varint(m, n);
    memcpy(m->at + m->n, bytes, n);
    m->n += n;
}
static void put_in(message *m, unsigned number, const message *inner) { put_bytes(m, number, inner->at, inner->n); }

enum { F32 = 11, BF16 = 16, S4 = 21, TUPLE = 13 };
static message array(int type, uint64_t rows, uint64_t columns, bool packed) {
    message m = {.n = 0}, dimensions = {.n = 0};
    put_int(&m, 2, (uint64_t)type);
    put_varint(&dimensions, rows);
    put_varint(&dimensions, columns);
    if (packed) put_in(&m, 3, &dimensions);
    else { put_int(&m, 3, rows); put_int(&m, 3, columns); }
    return m;
}
static message tuple(const message *first, const message *second) {
    message m = {.n = 0};
    put_int(&m, 2, TUPLE);
    put_in(&m, 4, first);
    put_in(&m, 4, second);
    return m;
}
static message instruction(const char *opcode, const message *shape) {
    message m = {.n = 0};
    put_bytes(&m, 1, "name", 4);
    put_bytes(&m, 2, opcode, strlen(opcode));
    put_in(&m, 3, shape);
    return m;
}
static void group(message *m, int devices) {
    message ids = {.n = 0}, g = {.n = 0};
    for (int i = 0; i < devices; i++) put_varint(&ids, (uint64_t)i);
    put_in(&g, 1, &ids);
    put_in(m, 49, &g);
}
static void pair(message *m, uint64_t source, uint64_t target) {
    message p = {.n = 0};
    if (source) put_int(&p, 1, source); /* zeros are not written */
    if (target) put_int(&p, 2, target);
    put_in(m, 52, &p);
}
/* A module of two computations with these instructions, 2 replicas of 4 partitions. */
static message program(const message *of, int count) {
    message computation[2] = {{.n = 0}}, module = {.n = 0}, config = {.n = 0}, whole = {.n = 0};
    for (int i = 0; i < count; i++) put_in(&computation[i % 2], 2, &of[i]);
    put_bytes(&module, 1, "m", 1);
    put_in(&module, 3, &computation[0]);
    put_in(&module, 3, &computation[1]);
    put_int(&config, 4, 2);
    put_int(&config, 5, 4);
    put_in(&whole, 1, &module);
    put_in(&whole, 2, &config);
    return whole;
}

static bool one(const message *of, const char *kind, int count, int64_t bytes) {
    mth__arena *a = mth__arena_new();
    message whole = program(of, 1);
    mth__xla_facts facts = {0};
    bool read = mth__hlo_proto_collectives(a, whole.at, whole.n, &facts);
    bool right = read && facts.instructions == 1 && facts.collectives == (count > 0);
    if (right && count) {
        const mth__xla_collective *c = facts.collective;
        right = !strcmp(c->kind, kind) && c->count == count && c->bytes == bytes;
        if (!right) printf("  %s: got %s, %d, %lld bytes\n", kind, c->kind, c->count, (long long)c->bytes);
    }
    mth__arena_free(a);
    return right;
}

static void reader_body(void) {
    message f32 = array(F32, 4, 8, true), large = array(F32, 16, 8, false), half = array(BF16, 4, 8, true), small = array(S4, 3, 3, true);
    message both = tuple(&f32, &half), started = tuple(&f32, &large), inner, outer, m;
    m = instruction("add", &f32);
    CHECK(one(&m, "", 0, 0));
    m = instruction("all-reduce-done", &f32);
    CHECK(one(&m, "", 0, 0));
    m = instruction("all-reduce", &f32); group(&m, 4);
    CHECK(one(&m, "all_reduce", 1, 2 * 128 * 3 / 4));
    m = instruction("all-reduce-start", &both); group(&m, 2); /* the tuple is of results */
    CHECK(one(&m, "all_reduce", 1, 2 * 192 / 2));
    m = instruction("all-gather", &large); group(&m, 4);
    CHECK(one(&m, "all_gather", 1, 384));
    m = instruction("all-gather-start", &started); group(&m, 4); /* the tuple is operand, result */
    CHECK(one(&m, "all_gather", 1, 384));
    m = instruction("reduce-scatter", &f32); group(&m, 4);
    CHECK(one(&m, "reduce_scatter", 1, 384));
    m = instruction("all-to-all", &both); group(&m, 4);
    CHECK(one(&m, "all_to_all", 1, 192 * 3 / 4));
    m = instruction("collective-broadcast", &f32); group(&m, 4);
    CHECK(one(&m, "broadcast", 1, 128));
    m = instruction("collective-permute", &small); pair(&m, 0, 1);
    CHECK(one(&m, "collective_permute", 1, 5)); /* 9 elements of 4 bits */
    m = instruction("collective-permute", &f32); pair(&m, 0, 0); pair(&m, 3, 3);
    CHECK(one(&m, "collective_permute", 1, 0));
    m = instruction("collective-permute-start", &started); pair(&m, 3, 3); pair(&m, 2, 0);
    CHECK(one(&m, "collective_permute", 1, 512));
    /* who takes part: 2 replicas, 4 partitions */
    m = instruction("all-gather", &large);
    CHECK(one(&m, "all_gather", 1, 256));
    m = instruction("all-gather", &large); put_int(&m, 26, 1);
    CHECK(one(&m, "all_gather", 1, 512 * 7 / 8));
    m = instruction("all-gather", &large); put_int(&m, 26, 1); put_int(&m, 71, 1); group(&m, 2);
    CHECK(one(&m, "all_gather", 1, 256));
    m = instruction("all-gather", &large); put_int(&m, 26, 1); group(&m, 1);
    CHECK(one(&m, "all_gather", 1, 384));
    m = instruction("all-to-all", &large); put_int(&m, 26, 1);
    CHECK(one(&m, "all_to_all", 1, 384));
    /* the other ways to write groups */
    inner = (message){.n = 0}; put_int(&inner, 1, 1); put_int(&inner, 2, 8);
    m = instruction("all-gather", &large); put_in(&m, 92, &inner);
    CHECK(one(&m, "all_gather", 1, 448));
    outer = (message){.n = 0}; put_in(&outer, 2, &inner);
    m = instruction("all-gather", &large); put_in(&m, 87, &outer);
    CHECK(one(&m, "all_gather", 1, 448));
    message mesh = {.n = 0}, axis = {.n = 0}, ref = {.n = 0}, part = {.n = 0}, list = {.n = 0};
    put_bytes(&axis, 1, "x", 1); put_int(&axis, 2, 2); put_in(&mesh, 1, &axis);
    axis.n = 0; put_bytes(&axis, 1, "y", 1); put_int(&axis, 2, 8); put_in(&mesh, 1, &axis);
    put_int(&part, 1, 1); put_int(&part, 2, 4); put_int(&ref, 1, 1); put_in(&ref, 2, &part); /* 4 of y's 8 */
    put_in(&list, 2, &ref); put_in(&list, 1, &mesh);
    m = instruction("all-gather", &large); put_in(&m, 93, &list);
    CHECK(one(&m, "all_gather", 1, 384));
    /* several, over two computations */
    message some[3] = {instruction("all-reduce", &f32), instruction("add", &f32), instruction("all-reduce", &f32)};
    group(&some[0], 4); group(&some[2], 2);
    message whole = program(some, 3);
    mth__arena *a = mth__arena_new();
    mth__xla_facts facts = {0};
    CHECK(mth__hlo_proto_collectives(a, whole.at, whole.n, &facts) && facts.instructions == 3 && facts.collectives == 1);
    CHECK(facts.collective->count == 2 && facts.collective->bytes == 192 + 128);
    /* no message: nothing, noise, cut anywhere, absurd sizes */
    CHECK(!mth__hlo_proto_collectives(a, whole.at, 0, &facts));
    CHECK(!mth__hlo_proto_collectives(a, (const unsigned char *)"HloModule m", 11, &facts));
    int accepted = 0;
    for (size_t n = 0; n < whole.n; n++) { /* each in memory of its own size, so that a sanitizer sees a byte read too far */
        unsigned char *cut = malloc(n ? n : 1);
        memcpy(cut, whole.at, n);
        accepted += mth__hlo_proto_collectives(a, cut, n, &facts);
        free(cut);
    }
    CHECK(accepted == 1); /* the one cut before the config, which may be missing */
    message huge = array(F32, UINT64_C(1) << 40, UINT64_C(1) << 40, true);
    m = instruction("all-gather", &huge);
    whole = program(&m, 1);
    CHECK(!mth__hlo_proto_collectives(a, whole.at, whole.n, &facts));
    message deep = f32;
    for (int i = 0; i < 100; i++) { message up = {.n = 0}; put_in(&up, 4, &deep); deep = up; }
    m = instruction("all-gather", &deep);
    whole = program(&m, 1);
    CHECK(!mth__hlo_proto_collectives(a, whole.at, whole.n, &facts));
    mth__arena_free(a);
}
TEST(reader) { guarded(reader_body); }

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

static mth_status compile(const char *text, const mth__xla_options *o, mth__xla **out) {
    int line;
    return mth__xla_compile(&engine, text, strlen(text), o, out, &line);
}

static const char *scale(int factor) {
    static _Thread_local char text[512];
    snprintf(text, sizeof text, "module @scale {\nfunc.func public @main(%%a: tensor<4x8xf32>) -> tensor<4x8xf32> {\n"
        "  %%c = stablehlo.constant dense<%d.0> : tensor<4x8xf32>\n  %%r = stablehlo.multiply %%a, %%c : tensor<4x8xf32>\n"
        "  return %%r : tensor<4x8xf32>\n}\n}\n", factor);
    return text;
}

#define CHANNEL(n) "channel_handle = #stablehlo.channel_handle<handle = " #n ", type = 1>"
#define GROUPS "replica_groups = dense<[[0, 1, 2, 3]]> : tensor<1x4xi64>"
#define SUM " ({\n  ^bb0(%x: tensor<f32>, %y: tensor<f32>):\n    %s = stablehlo.add %x, %y : tensor<f32>\n" \
            "    stablehlo.return %s : tensor<f32>\n  })"
static const char collectives[] =
    "module @five attributes {mhlo.num_partitions = 4 : i32} {\n"
    "func.func public @main(%a: tensor<4x8xf32>, %b: tensor<4x8xf32>, %c: tensor<16x8xf32>, %d: tensor<4x8xf32>, %e: tensor<4x8xf32>)\n"
    "  -> (tensor<4x8xf32>, tensor<16x8xf32>, tensor<4x8xf32>, tensor<1x32xf32>, tensor<4x8xf32>) {\n"
    "  %0 = \"stablehlo.all_reduce\"(%a) <{" GROUPS ", use_global_device_ids, " CHANNEL(1) "}>" SUM "\n"
    "    : (tensor<4x8xf32>) -> tensor<4x8xf32>\n"
    "  %1 = \"stablehlo.all_gather\"(%b) <{all_gather_dim = 0 : i64, " GROUPS ", use_global_device_ids, " CHANNEL(2) "}>\n"
    "    : (tensor<4x8xf32>) -> tensor<16x8xf32>\n"
    "  %2 = \"stablehlo.reduce_scatter\"(%c) <{scatter_dimension = 0 : i64, " GROUPS ", use_global_device_ids, " CHANNEL(3) "}>" SUM "\n"
    "    : (tensor<16x8xf32>) -> tensor<4x8xf32>\n"
    "  %3 = \"stablehlo.all_to_all\"(%d) <{split_dimension = 0 : i64, concat_dimension = 1 : i64, split_count = 4 : i64, " GROUPS ", "
    CHANNEL(4) "}>\n    : (tensor<4x8xf32>) -> tensor<1x32xf32>\n"
    "  %4 = \"stablehlo.collective_permute\"(%e) <{source_target_pairs = dense<[[0, 1], [1, 2], [2, 3], [3, 0]]> : tensor<4x2xi64>, "
    CHANNEL(5) "}>\n    : (tensor<4x8xf32>) -> tensor<4x8xf32>\n"
    "  return %0, %1, %2, %3, %4 : tensor<4x8xf32>, tensor<16x8xf32>, tensor<4x8xf32>, tensor<1x32xf32>, tensor<4x8xf32>\n}\n}\n";

static void inspect_stored(void) { /* an executable from disk tells the same */
    mth__xla *x;
    mth__xla_facts facts;
    mth__arena *a = mth__arena_new();
    CHECK_STATUS(compile(collectives, &four, &x));
    CHECK(x->from_disk && x->results == 5);
    CHECK_STATUS(mth__xla_inspect(a, x, &facts));
    CHECK(facts.arguments == 128 * 4 + 512 && facts.collectives == 5);
    mth__xla_release(x);
    mth__arena_free(a);
}

static void facts_body(void) {
    mth__xla *x, *again;
    mth__xla_facts facts;
    mth__arena *a = mth__arena_new();
    CHECK_STATUS(compile(collectives, &four, &x));
    CHECK(x->seconds > 0 && !x->from_disk && x->results == 5 && x->loaded && x->executable && x->bytes == sizeof collectives - 1);
    CHECK(!strcmp(x->text, collectives));
    CHECK_STATUS(mth__xla_inspect(a, x, &facts));
    CHECK(facts.arguments == 128 * 4 + 512 && facts.outputs >= 128 * 4 + 512 && facts.temporaries >= 0 && facts.instructions > 10);
    static const struct { const char *kind; int64_t bytes; } want[] = {
        {"all_reduce", 192}, {"all_gather", 384}, {"reduce_scatter", 384}, {"all_to_all", 96}, {"collective_permute", 128}
    };
    CHECK(facts.collectives == 5);
    for (int i = 0; i < 5 && i < facts.collectives; i++) {
        const mth__xla_collective *c = &facts.collective[i];
        CHECK(!strcmp(c->kind, want[i].kind) && c->count == 1 && c->bytes == want[i].bytes);
    }
    CHECK_STATUS(compile(collectives, &four, &again));
    CHECK(again->seconds == 0 && again->executable == x->executable && again->results == 5);
    mth__xla_release(again);
    mth__xla_release(x);
    CHECK_STATUS(compile(collectives, &four, &again)); /* released, but still there */
    CHECK(again->seconds == 0);
    mth__xla_release(again);
    CHECK_STATUS(compile(scale(2), &any, &x));
    CHECK_STATUS(mth__xla_inspect(a, x, &facts));
    CHECK(facts.collectives == 0 && facts.arguments == 128 && facts.outputs == 128);
    CHECK(facts.flops == -1 || facts.flops == 32); /* one plugin tells */
    static const int32_t two[] = {2}; /* the same text with other options is another executable */
    CHECK_STATUS(compile(scale(2), &(mth__xla_options){1, 1, two, false}, &again));
    CHECK(again->seconds > 0 && again->executable != x->executable);
    mth__xla_release(again);
    mth__xla_release(x);
    mth__xla_release(NULL);
    mth__arena_free(a);
}
TEST(facts) {
    if (!open_engine(NULL)) return;
    guarded(facts_body);
    close_engine();
}

TEST(bad_texts) {
    static const struct { const char *body; int line; } bad[] = {
        {"  %r = stablehlo.add %a %a : tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n", 3},
        {"  %r = stablehlo.add %a, %a : tensor<4x9xf32>\n  return %r : tensor<4x8xf32>\n", 3},
        {"\n\n  %r = stablehlo.nosuch %a : tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n", 5},
        {"\n  %r = \"stablehlo.transpose\"(%a) {permutation = array<i64: 0, 0>} : (tensor<4x8xf32>) -> tensor<4x8xf32>\n"
         "  return %r : tensor<4x8xf32>\n", 4},
        {"  %r = stablehlo.add %a, %a : tensor<4x8xf32>\n  return %r, %r : tensor<4x8xf32>, tensor<4x8xf32>\n", 4},
        {"  %r = \"stablehlo.all_gather\"(%a) <{all_gather_dim = 0 : i64, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>, "
         "use_global_device_ids, " CHANNEL(1) "}> : (tensor<4x8xf32>) -> tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n", 3},
        {"  %r = stablehlo.custom_call @nosuch(%a) : (tensor<4x8xf32>) -> tensor<4x8xf32>\n  return %r : tensor<4x8xf32>\n", 0},
    };
    if (!open_engine(NULL)) return;
    mth__xla *x;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[1024];
        int line = -1;
        snprintf(text, sizeof text, "module @m {\nfunc.func public @main(%%a: tensor<4x8xf32>) -> tensor<4x8xf32> {\n%s}\n}\n",
            bad[i].body);
        CHECK_FAILS(mth__xla_compile(&engine, text, strlen(text), &any, &x, &line), MTH_ERROR_INTERNAL, "compile a module");
        if (line != bad[i].line) printf("  text %zu: line %d, want %d\n", i, line, bad[i].line);
        CHECK(line == bad[i].line);
    }
    int line = -1;
    CHECK_FAILS(mth__xla_compile(&engine, "", 0, &any, &x, &line), MTH_ERROR_INTERNAL, "0 bytes");
    CHECK_FAILS(mth__xla_compile(&engine, scale(2), 10, &(mth__xla_options){0}, &x, &line), MTH_ERROR_INTERNAL, "0 partitions");
    CHECK(!engine.compiled);
    mth__pjrt_setting setting = {.name = "xla_no_such_option", .type = 'b', .integer = 1};
    engine.env = (mth__pjrt_env){&setting, 1};
    CHECK_FAILS(compile(scale(2), &any, &x), MTH_ERROR_VALUE, "xla_no_such_option");
    setting = (mth__pjrt_setting){.name = "xla_backend_optimization_level", .type = 'i', .integer = 0};
    CHECK_STATUS(compile(scale(2), &any, &x));
    mth__xla_release(x);
    close_engine();
}

/* Many modules: those that nobody holds are dropped but for the last; those that are held stay. */
TEST(many_modules) {
    if (!open_engine(NULL)) return;
    enum { N = 100 };
    mth__xla *x, *held;
    CHECK_STATUS(compile(scale(1), &any, &held));
    for (int i = 1; i <= N; i++) {
        CHECK_STATUS(compile(scale(i + 1), &any, &x));
        mth__xla_release(x);
    }
    CHECK_STATUS(compile(scale(N + 1), &any, &x));
    CHECK(x->seconds == 0);
    mth__xla_release(x);
    CHECK_STATUS(compile(scale(2), &any, &x));
    CHECK(x->seconds > 0); /* dropped long ago */
    mth__xla_release(x);
    CHECK_STATUS(compile(scale(1), &any, &x));
    CHECK(x->seconds == 0 && x->executable == held->executable);
    mth__xla_release(x);
    mth__xla_release(held);
    close_engine();
}

static void *compile_several(void *argument) {
    int *failures = argument, line;
    for (int i = 0; i < 6; i++) {
        mth__xla *x = NULL;
        const char *text = i == 3 ? "module {\nnonsense\n}\n" : scale(10 + i);
        mth_status s = mth__xla_compile(&engine, text, strlen(text), &any, &x, &line);
        *failures += (s != NULL) != (i == 3) || (i == 3 && line != 2) || (!s && !x->loaded);
        mth_error_free(s);
        mth__xla_release(x);
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
        mth__xla *x = NULL;
        mth_debug_fail_allocation(i);
        mth_status s = compile(scale(3), &any, &x);
        mth_debug_fail_allocation(-1);
        done = !s;
        CHECK(!s || mth_error_get_code(s) == MTH_ERROR_MEMORY);
        mth_error_free(s);
        mth__xla_release(x);
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
    mth__xla *x = NULL;
    if (!open_engine(folder)) return false;
    CHECK_STATUS(compile(scale(7), &any, &x));
    bool right = x && x->from_disk == from_disk && (x->seconds == 0) == from_disk && x->results == 1 && x->loaded;
    mth__xla_release(x);
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
    mth__xla *x;
    CHECK_STATUS(compile(scale(7), &any, &x));
    CHECK(!x->from_disk && files() == 2);
    mth__xla_release(x);
    CHECK_STATUS(compile(collectives, &four, &x));
    mth__xla_release(x);
    mth__xla_cache_free(&engine);
    guarded(inspect_stored);
    close_engine();
    /* folders that can't be written */
    static const char *const bad[] = {"/proc/no/such/folder", NULL};
    for (int i = 0; i < 2; i++) {
        if (!open_engine(bad[i] ? bad[i] : file)) return; /* a file in place of the folder */
        CHECK_FAILS(compile(scale(7), &any, &x), MTH_ERROR_IO, "cache_dir");
        CHECK(!engine.compiled);
        close_engine();
    }
    while (files()) unlink(file);
    rmdir(folder);
    for (int i = 0; i < 2; i++) { *strrchr(folder, '/') = 0; rmdir(folder); }
}
RUN()
