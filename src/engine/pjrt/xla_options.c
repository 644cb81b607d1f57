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

static void put_varint(mth__arena *a, message *m, uint64_t v) {
    for (; v >= 128; v >>= 7) PUSH(a, *m, (unsigned char)(v | 128));
    PUSH(a, *m, (unsigned char)v);
}

static void put_int(mth__arena *a, message *m, unsigned field, int64_t v) {
    put_varint(a, m, field << 3 | VARINT);
    put_varint(a, m, (uint64_t)v);
}

static void put_bytes(mth__arena *a, message *m, unsigned field, const void *bytes, size_t n) {
    put_varint(a, m, field << 3 | BYTES);
    put_varint(a, m, n);
    for (size_t i = 0; i < n; i++) PUSH(a, *m, ((const unsigned char *)bytes)[i]);
}

static void put_double(mth__arena *a, message *m, unsigned field, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(a, m, field << 3 | FIXED64);
    for (int i = 0; i < 8; i++) PUSH(a, *m, (unsigned char)(bits >> 8 * i));
}

/* A list of devices for each partition: one for each of its replicas. */
static message assignment(mth__arena *a, const mth__xla_options *o) {
    message m = {0};
    put_int(a, &m, ASSIGNMENT_REPLICAS, o->replicas);
    put_int(a, &m, ASSIGNMENT_COMPUTATIONS, o->partitions);
    for (int p = 0; p < o->partitions; p++) {
        message ids = {0}, one = {0};
        for (int r = 0; r < o->replicas; r++) put_varint(a, &ids, (uint64_t)o->device[r * o->partitions + p]);
        put_bytes(a, &one, DEVICES_IDS, ids.at, ids.n);
        put_bytes(a, &m, ASSIGNMENT_DEVICES, one.at, one.n);
    }
    return m;
}

static message override(mth__arena *a, const mth__pjrt_setting *s) {
    message value = {0}, entry = {0};
    switch (s->type) {
    case 's': put_bytes(a, &value, OVERRIDE_STRING, s->string, strlen(s->string)); break;
    case 'b': put_int(a, &value, OVERRIDE_BOOL, s->integer != 0); break;
    case 'i': put_int(a, &value, OVERRIDE_INT, s->integer); break;
    default: put_double(a, &value, OVERRIDE_DOUBLE, s->real);
    }
    put_bytes(a, &entry, ENTRY_KEY, s->name, strlen(s->name));
    put_bytes(a, &entry, ENTRY_VALUE, value.at, value.n);
    return entry;
}

void mth__xla_options_encode(
    mth__arena *a, const mth__xla_options *o, const mth__pjrt_env *env, const unsigned char **bytes, size_t *count) {
    message build = {0}, m = {0};
    put_int(a, &build, BUILD_REPLICAS, o->replicas);
    put_int(a, &build, BUILD_PARTITIONS, o->partitions);
    /* Manual modules too: XLA refuses several partitions without it, and finds nothing left to partition. */
    if (o->partitions > 1) put_int(a, &build, BUILD_SPMD, 1);
    if (o->device) {
        message devices = assignment(a, o);
        put_bytes(a, &build, BUILD_ASSIGNMENT, devices.at, devices.n);
    }
    if (o->spmd) put_int(a, &build, BUILD_SHARDY, 1);
    put_bytes(a, &m, OPTIONS_BUILD, build.at, build.n);
    if (!o->device && o->partitions == 1 && o->replicas == 1) put_int(a, &m, OPTIONS_PORTABLE, 1);
    for (int i = 0; env && i < env->count; i++) {
        message one = override(a, &env->setting[i]);
        put_bytes(a, &m, OPTIONS_OVERRIDES, one.at, one.n);
    }
    *bytes = m.at;
    *count = m.n;
}
