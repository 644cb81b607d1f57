/* CompileOptionsProto as bytes. Fields go out in the order of their numbers: equal options are equal bytes, which the
 * caches count on. */
#include "engine/pjrt/xla.h"
#include <string.h>

typedef VEC(unsigned char) message;

/* Field numbers of xla/pjrt/proto/compile_options.proto and DeviceAssignmentProto. */
enum {
    OPTIONS_BUILD = 3,
    OPTIONS_PORTABLE = 4,
    OPTIONS_OVERRIDES = 7,
    BUILD_REPLICAS = 4,
    BUILD_PARTITIONS = 5,
    BUILD_SPMD = 6,
    BUILD_ASSIGNMENT = 9,
    BUILD_SHARDY = 19,
    ASSIGNMENT_REPLICAS = 1,
    ASSIGNMENT_COMPUTATIONS = 2,
    ASSIGNMENT_DEVICES = 3,
    DEVICES_IDS = 1,
    ENTRY_KEY = 1,
    ENTRY_VALUE = 2,
    OVERRIDE_STRING = 1,
    OVERRIDE_BOOL = 2,
    OVERRIDE_INT = 3,
    OVERRIDE_DOUBLE = 4
};
enum { VARINT = 0, FIXED64 = 1, BYTES = 2 };

static void put_varint(mth__arena *arena, message *to, uint64_t value) {
    for (; value >= 128; value >>= 7) PUSH(arena, *to, (unsigned char)(value | 128));
    PUSH(arena, *to, (unsigned char)value);
}

static void put_int(mth__arena *arena, message *to, unsigned field, int64_t value) {
    put_varint(arena, to, field << 3 | VARINT);
    put_varint(arena, to, (uint64_t)value);
}

static void put_bytes(mth__arena *arena, message *to, unsigned field, const void *bytes, size_t n) {
    put_varint(arena, to, field << 3 | BYTES);
    put_varint(arena, to, n);
    for (size_t i = 0; i < n; i++) PUSH(arena, *to, ((const unsigned char *)bytes)[i]);
}

static void put_double(mth__arena *arena, message *to, unsigned field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_varint(arena, to, field << 3 | FIXED64);
    for (int i = 0; i < 8; i++) PUSH(arena, *to, (unsigned char)(bits >> 8 * i));
}

/* A list of devices for each partition: one for each of its replicas. */
static message assignment(mth__arena *arena, const mth__xla_options *options) {
    message result = {0};
    put_int(arena, &result, ASSIGNMENT_REPLICAS, options->replicas);
    put_int(arena, &result, ASSIGNMENT_COMPUTATIONS, options->partitions);
    for (int partition = 0; partition < options->partitions; partition++) {
        message ids = {0}, one = {0};
        for (int replica = 0; replica < options->replicas; replica++)
            put_varint(arena, &ids, (uint64_t)options->device[replica * options->partitions + partition]);
        put_bytes(arena, &one, DEVICES_IDS, ids.at, ids.n);
        put_bytes(arena, &result, ASSIGNMENT_DEVICES, one.at, one.n);
    }
    return result;
}

static message override(mth__arena *arena, const mth__pjrt_setting *setting) {
    message value = {0}, entry = {0};
    switch (setting->type) {
    case 's': put_bytes(arena, &value, OVERRIDE_STRING, setting->string, strlen(setting->string)); break;
    case 'b': put_int(arena, &value, OVERRIDE_BOOL, setting->integer != 0); break;
    case 'i': put_int(arena, &value, OVERRIDE_INT, setting->integer); break;
    default: put_double(arena, &value, OVERRIDE_DOUBLE, setting->real);
    }
    put_bytes(arena, &entry, ENTRY_KEY, setting->name, strlen(setting->name));
    put_bytes(arena, &entry, ENTRY_VALUE, value.at, value.n);
    return entry;
}

void mth__xla_options_encode(mth__arena *arena, const mth__xla_options *options, const mth__pjrt_env *env,
    const unsigned char **bytes, size_t *count) {
    message build = {0}, all = {0};
    put_int(arena, &build, BUILD_REPLICAS, options->replicas);
    put_int(arena, &build, BUILD_PARTITIONS, options->partitions);
    /* Manual modules too: XLA refuses several partitions without it, and finds nothing left to partition. */
    if (options->partitions > 1) put_int(arena, &build, BUILD_SPMD, 1);
    if (options->device) {
        message devices = assignment(arena, options);
        put_bytes(arena, &build, BUILD_ASSIGNMENT, devices.at, devices.n);
    }
    if (options->spmd) put_int(arena, &build, BUILD_SHARDY, 1);
    put_bytes(arena, &all, OPTIONS_BUILD, build.at, build.n);
    if (!options->device && options->partitions == 1 && options->replicas == 1)
        put_int(arena, &all, OPTIONS_PORTABLE, 1);
    for (int i = 0; env && i < env->count; i++) {
        message one = override(arena, &env->setting[i]);
        put_bytes(arena, &all, OPTIONS_OVERRIDES, one.at, one.n);
    }
    *bytes = all.at;
    *count = all.n;
}
