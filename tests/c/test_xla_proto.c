/* Options as bytes, and the reader of optimized programs: nothing here needs a plugin. */
#include "engine/pjrt/xla.h"
#include "unit.h"

static mth_status in_guard(void *body) {
    (*(void (**)(void))body)();
    return NULL;
}
static void guarded(void (*body)(void)) { CHECK_STATUS(mth__guard(in_guard, &body)); }

/* ---------------------------------------------------------------- options */
static bool encodes(const mth__xla_options *options, const mth__pjrt_env *env, const char *hex) {
    mth__arena *arena = mth__arena_new();
    const unsigned char *bytes;
    size_t n;
    mth__xla_options_encode(arena, options, env, &bytes, &n);
    mth__text text = mth__text_new(arena);
    for (size_t i = 0; i < n; i++) mth__text_add(&text, "%s%02x", i ? " " : "", bytes[i]);
    bool right = !strcmp(text.at, hex);
    if (!right) printf("  got  %s\n  want %s\n", text.at, hex);
    mth__arena_free(arena);
    return right;
}

static void options_body(void) {
    static const int32_t two[] = {2}, high[] = {4, 5, 6, 7}, grid[] = {0, 1, 300, 3};
    CHECK(encodes(&(mth__xla_options){.partitions = 1, .replicas = 1}, NULL, "1a 04 20 01 28 01 20 01"));
    CHECK(encodes(&(mth__xla_options){1, 1, two, false}, NULL, "1a 0f 20 01 28 01 4a 09 08 01 10 01 1a 03 0a 01 02"));
    CHECK(encodes(&(mth__xla_options){1, 4, NULL, false}, NULL, "1a 04 20 04 28 01"));
    CHECK(encodes(&(mth__xla_options){4, 1, NULL, false}, NULL, "1a 06 20 01 28 04 30 01"));
    CHECK(encodes(&(mth__xla_options){4, 1, NULL, true}, NULL, "1a 09 20 01 28 04 30 01 98 01 01"));
    CHECK(encodes(&(mth__xla_options){4, 1, high, true}, NULL,
        "1a 23 20 01 28 04 30 01 4a 18 08 01 10 04 1a 03 0a 01 04 1a 03 0a 01 05 "
        "1a 03 0a 01 06 1a 03 0a 01 07 98 01 01"));
    /* 2 replicas of 2 partitions: [replica][partition] becomes a list for each partition */
    CHECK(encodes(&(mth__xla_options){2, 2, grid, false}, NULL,
        "1a 19 20 02 28 02 30 01 4a 11 08 02 10 02 1a 05 0a 03 00 ac 02 "
        "1a 04 0a 02 01 03"));
    mth__pjrt_setting setting[] = {
        {"a", 's', "xy", 0, 0}, {"b", 'b', NULL, 1, 0}, {"c", 'i', NULL, -1, 0}, {"d", 'd', NULL, 0, 1.5}};
    CHECK(encodes(&(mth__xla_options){.partitions = 1, .replicas = 1}, &(mth__pjrt_env){setting, 4},
        "1a 04 20 01 28 01 20 01 "
        "3a 09 0a 01 61 12 04 0a 02 78 79 3a 07 0a 01 62 12 02 10 01 "
        "3a 10 0a 01 63 12 0b 18 ff ff ff ff ff ff ff ff ff 01 3a 0e 0a 01 64 12 09 21 00 00 00 00 00 00 f8 3f"));
}
TEST(options) { guarded(options_body); }

/* ---------------------------------------------------------------- programs */
typedef struct {
    unsigned char at[4096];
    size_t n;
} message; /* built from the inside to the outside */

static void put_varint(message *m, uint64_t v) {
    for (; v >= 128; v >>= 7) m->at[m->n++] = (unsigned char)(v | 128);
    m->at[m->n++] = (unsigned char)v;
}
static void put_int(message *m, unsigned number, uint64_t v) {
    put_varint(m, number << 3);
    put_varint(m, v);
}
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
    if (packed)
        put_in(&m, 3, &dimensions);
    else {
        put_int(&m, 3, rows);
        put_int(&m, 3, columns);
    }
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
    mth__arena *arena = mth__arena_new();
    message whole = program(of, 1);
    mth__xla_facts facts = {0};
    bool read = mth__hlo_proto_collectives(arena, whole.at, whole.n, &facts);
    bool right = read && facts.instructions == 1 && facts.collectives == (count > 0);
    if (right && count) {
        const mth__xla_collective *xla_collective = facts.collective;
        right = !strcmp(xla_collective->kind, kind) && xla_collective->count == count && xla_collective->bytes == bytes;
        if (!right)
            printf("  %s: got %s, %d, %lld bytes\n", kind, xla_collective->kind, xla_collective->count,
                (long long)xla_collective->bytes);
    }
    mth__arena_free(arena);
    return right;
}

static void reader_body(void) {
    message f32 = array(F32, 4, 8, true), large = array(F32, 16, 8, false), half = array(BF16, 4, 8, true),
            small = array(S4, 3, 3, true);
    message both = tuple(&f32, &half), started = tuple(&f32, &large), inner, outer, m;
    m = instruction("add", &f32);
    CHECK(one(&m, "", 0, 0));
    m = instruction("all-reduce-done", &f32);
    CHECK(one(&m, "", 0, 0));
    m = instruction("all-reduce", &f32);
    group(&m, 4);
    CHECK(one(&m, "all_reduce", 1, 2 * 128 * 3 / 4));
    m = instruction("all-reduce-start", &both);
    group(&m, 2); /* the tuple is of results */
    CHECK(one(&m, "all_reduce", 1, 2 * 192 / 2));
    m = instruction("all-gather", &large);
    group(&m, 4);
    CHECK(one(&m, "all_gather", 1, 384));
    m = instruction("all-gather-start", &started);
    group(&m, 4); /* the tuple is operand, result */
    CHECK(one(&m, "all_gather", 1, 384));
    m = instruction("reduce-scatter", &f32);
    group(&m, 4);
    CHECK(one(&m, "reduce_scatter", 1, 384));
    m = instruction("all-to-all", &both);
    group(&m, 4);
    CHECK(one(&m, "all_to_all", 1, 192 * 3 / 4));
    m = instruction("collective-broadcast", &f32);
    group(&m, 4);
    CHECK(one(&m, "broadcast", 1, 128));
    m = instruction("collective-permute", &small);
    pair(&m, 0, 1);
    CHECK(one(&m, "collective_permute", 1, 5)); /* 9 elements of 4 bits */
    m = instruction("collective-permute", &f32);
    pair(&m, 0, 0);
    pair(&m, 3, 3);
    CHECK(one(&m, "collective_permute", 1, 0));
    m = instruction("collective-permute-start", &started);
    pair(&m, 3, 3);
    pair(&m, 2, 0);
    CHECK(one(&m, "collective_permute", 1, 512));
    /* who takes part: 2 replicas, 4 partitions */
    m = instruction("all-gather", &large);
    CHECK(one(&m, "all_gather", 1, 256));
    m = instruction("all-gather", &large);
    put_int(&m, 26, 1);
    CHECK(one(&m, "all_gather", 1, 512 * 7 / 8));
    m = instruction("all-gather", &large);
    put_int(&m, 26, 1);
    put_int(&m, 71, 1);
    group(&m, 2);
    CHECK(one(&m, "all_gather", 1, 256));
    m = instruction("all-gather", &large);
    put_int(&m, 26, 1);
    group(&m, 1);
    CHECK(one(&m, "all_gather", 1, 384));
    m = instruction("all-to-all", &large);
    put_int(&m, 26, 1);
    CHECK(one(&m, "all_to_all", 1, 384));
    /* the other ways to write groups */
    inner = (message){.n = 0};
    put_int(&inner, 1, 1);
    put_int(&inner, 2, 8);
    m = instruction("all-gather", &large);
    put_in(&m, 92, &inner);
    CHECK(one(&m, "all_gather", 1, 448));
    outer = (message){.n = 0};
    put_in(&outer, 2, &inner);
    m = instruction("all-gather", &large);
    put_in(&m, 87, &outer);
    CHECK(one(&m, "all_gather", 1, 448));
    message mesh = {.n = 0}, axis = {.n = 0}, ref = {.n = 0}, part = {.n = 0}, list = {.n = 0};
    put_bytes(&axis, 1, "x", 1);
    put_int(&axis, 2, 2);
    put_in(&mesh, 1, &axis);
    axis.n = 0;
    put_bytes(&axis, 1, "y", 1);
    put_int(&axis, 2, 8);
    put_in(&mesh, 1, &axis);
    put_int(&part, 1, 1);
    put_int(&part, 2, 4);
    put_int(&ref, 1, 1);
    put_in(&ref, 2, &part); /* 4 of y's 8 */
    put_in(&list, 2, &ref);
    put_in(&list, 1, &mesh);
    m = instruction("all-gather", &large);
    put_in(&m, 93, &list);
    CHECK(one(&m, "all_gather", 1, 384));
    /* several, over two computations */
    message some[3] = {instruction("all-reduce", &f32), instruction("add", &f32), instruction("all-reduce", &f32)};
    group(&some[0], 4);
    group(&some[2], 2);
    message whole = program(some, 3);
    mth__arena *arena = mth__arena_new();
    mth__xla_facts facts = {0};
    CHECK(mth__hlo_proto_collectives(arena, whole.at, whole.n, &facts) && facts.instructions == 3 &&
        facts.collectives == 1);
    CHECK(facts.collective->count == 2 && facts.collective->bytes == 192 + 128);
    /* no message: nothing, noise, cut anywhere, absurd sizes */
    CHECK(!mth__hlo_proto_collectives(arena, whole.at, 0, &facts));
    CHECK(!mth__hlo_proto_collectives(arena, (const unsigned char *)"HloModule m", 11, &facts));
    int accepted = 0;
    /* each in memory of its own size, so that a sanitizer sees a byte read too far */
    for (size_t n = 0; n < whole.n; n++) {
        unsigned char *cut = malloc(n ? n : 1);
        memcpy(cut, whole.at, n);
        accepted += mth__hlo_proto_collectives(arena, cut, n, &facts);
        free(cut);
    }
    CHECK(accepted == 1); /* the one cut before the config, which may be missing */
    message huge = array(F32, UINT64_C(1) << 40, UINT64_C(1) << 40, true);
    m = instruction("all-gather", &huge);
    whole = program(&m, 1);
    CHECK(!mth__hlo_proto_collectives(arena, whole.at, whole.n, &facts));
    message deep = f32;
    for (int i = 0; i < 100; i++) {
        message up = {.n = 0};
        put_in(&up, 4, &deep);
        deep = up;
    }
    m = instruction("all-gather", &deep);
    whole = program(&m, 1);
    CHECK(!mth__hlo_proto_collectives(arena, whole.at, whole.n, &facts));
    mth__arena_free(arena);
}
TEST(reader) { guarded(reader_body); }
RUN()
