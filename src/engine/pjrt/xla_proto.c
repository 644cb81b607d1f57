/* The collectives of an optimized program. The message is read in place by the field numbers of xla/service/hlo.proto
   and xla/xla_data.proto; fields that are not asked for are skipped by their length, so newer versions read as well. */
#include "engine/pjrt/xla.h"
#include <string.h>

enum {
    PROGRAM_MODULE = 1,
    PROGRAM_CONFIG = 2,
    CONFIG_REPLICAS = 4,
    CONFIG_PARTITIONS = 5,
    MODULE_COMPUTATIONS = 3,
    COMPUTATION_INSTRUCTIONS = 2,
    /* of an instruction */
    OPCODE = 2,
    SHAPE = 3,
    CHANNEL = 26,
    GROUPS = 49,
    PAIRS = 52,
    GLOBAL_IDS = 71,
    DEVICES = 87,
    IOTA = 92,
    MESH = 93,
    SHAPE_TYPE = 2,
    SHAPE_DIMENSIONS = 3,
    SHAPE_TUPLE = 4,
    GROUP_IDS = 1,
    PAIR_SOURCE = 1,
    PAIR_TARGET = 2,
    DEVICES_GROUPS = 1,
    DEVICES_IOTA = 2,
    DEVICES_MESH = 3,
    IOTA_GROUP_SIZE = 2,
    MESH_MESH = 1,
    MESH_AXES = 2,
    MESH_AXIS = 1,
    AXIS_SIZE = 2,
    REF_AXIS = 1,
    REF_PART = 2,
    PART_SIZE = 2
};
enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
enum { DEPTH = 16 /* of tuples in tuples */, MESH_RANK = 64 };
static const int64_t limit = (int64_t)1 << 60; /* bytes, devices: more is nonsense */

typedef struct {
    const unsigned char *at, *end;
} bytes;
typedef struct {
    uint64_t number;
    int wire;
    uint64_t value;
    bytes body;
} field;

/* ---------------------------------------------------------------- the wire */
static bool read_varint(bytes *b, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && b->at < b->end; shift += 7) {
        unsigned char c = *b->at++;
        *out |= (uint64_t)(c & 127) << shift;
        if (c < 128) return true;
    }
    return false;
}

/* 1: a field; 0: the end; -1: no message. */
static int read_field(bytes *b, field *f) {
    uint64_t tag, n;
    if (b->at == b->end) return 0;
    if (!read_varint(b, &tag) || !(tag >> 3)) return -1;
    *f = (field){.number = tag >> 3, .wire = tag & 7};
    switch (f->wire) {
    case VARINT: return read_varint(b, &f->value) ? 1 : -1;
    case FIXED64: n = 8; break;
    case FIXED32: n = 4; break;
    case BYTES:
        if (!read_varint(b, &n)) return -1;
        break;
    default: return -1; /* groups are not of this version of the wire */
    }
    if (n > (size_t)(b->end - b->at)) return -1;
    f->body = (bytes){b->at, b->at + n};
    b->at += n;
    return 1;
}

static bool is(const field *f, unsigned number, int wire) { return f->number == number && f->wire == wire; }

/* Fields of a message that are one number each; those not met stay as they are. */
static bool read_numbers(bytes b, unsigned first, uint64_t *a, unsigned second, uint64_t *c) {
    field f;
    int more;
    while ((more = read_field(&b, &f)) > 0) {
        if (is(&f, first, VARINT)) *a = f.value;
        if (is(&f, second, VARINT)) *c = f.value;
    }
    return !more;
}

static bool times(int64_t *product, uint64_t factor) {
    return factor <= (uint64_t)limit && !__builtin_mul_overflow(*product, (int64_t)factor, product) &&
        *product <= limit;
}

static bool plus(int64_t *sum, int64_t term) { return !__builtin_add_overflow(*sum, term, sum) && *sum <= limit; }

/* ---------------------------------------------------------------- shapes */
/* Bits of an element by xla::PrimitiveType; tokens, tuples and what is not known: 0. */
static int element_bits(uint64_t type) {
    static const unsigned char bits[] = {[1] = 8,
        [2] = 8,
        [3] = 16,
        [4] = 32,
        [5] = 64,
        [6] = 8,
        [7] = 16,
        [8] = 32,
        [9] = 64,
        [10] = 16,
        [11] = 32,
        [12] = 64,
        [15] = 64,
        [16] = 16,
        [18] = 128,
        [19] = 8,
        [20] = 8,
        [21] = 4,
        [22] = 4,
        [23] = 8,
        [24] = 8,
        [25] = 8,
        [26] = 2,
        [27] = 2,
        [28] = 8,
        [29] = 8,
        [30] = 1,
        [31] = 1,
        [32] = 4,
        [33] = 8,
        [35] = 6,
        [36] = 6};
    return type < sizeof bits ? bits[type] : 0;
}

/* Adds the bytes of an array, or of a tuple's elements: all, or the one of that index alone. */
static bool add_shape(bytes b, int only, int depth, int64_t *sum) {
    uint64_t type = 0, dimension;
    int64_t size = 1, tuple = 0;
    field f;
    int more, index = 0;
    if (depth > DEPTH) return false;
    while ((more = read_field(&b, &f)) > 0) {
        if (is(&f, SHAPE_TYPE, VARINT)) type = f.value;
        if (is(&f, SHAPE_DIMENSIONS, VARINT) && !times(&size, f.value)) return false;
        if (is(&f, SHAPE_DIMENSIONS, BYTES))
            while (f.body.at < f.body.end)
                if (!read_varint(&f.body, &dimension) || !times(&size, dimension)) return false;
        if (is(&f, SHAPE_TUPLE, BYTES) && (only < 0 || only == index++) && !add_shape(f.body, -1, depth + 1, &tuple))
            return false;
    }
    return !more && times(&size, (uint64_t)element_bits(type)) && plus(sum, size / 8 + (size % 8 != 0)) &&
        plus(sum, tuple);
}

/* ---------------------------------------------------------------- who takes part */
typedef struct {
    int64_t replicas, partitions;
} counts;
typedef struct {
    bytes opcode, shape;
    uint64_t channel, global_ids;
    int64_t group;     /* devices of the largest group; 0: none is listed */
    bool moves, pairs; /* some pair is of two devices */
} instruction;

static void widen(instruction *o, int64_t group) { o->group = group > o->group ? group : o->group; }

static bool read_group(bytes b, instruction *o) {
    field f;
    int more;
    int64_t n = 0;
    uint64_t id;
    while ((more = read_field(&b, &f)) > 0) {
        if (is(&f, GROUP_IDS, VARINT)) n++;
        if (is(&f, GROUP_IDS, BYTES))
            for (; f.body.at < f.body.end; n++)
                if (!read_varint(&f.body, &id)) return false;
    }
    widen(o, n);
    return !more;
}

static bool read_iota(bytes b, instruction *o) {
    uint64_t size = 0, none = 0;
    if (!read_numbers(b, IOTA_GROUP_SIZE, &size, 0, &none) || size > (uint64_t)limit) return false;
    widen(o, (int64_t)size);
    return true;
}

/* A mesh, and those of its axes, or parts of axes, over which a group spans. */
static bool read_mesh(bytes b, instruction *o) {
    uint64_t size[MESH_RANK] = {0}, none = 0;
    int axes = 0, more;
    int64_t group = 1;
    field f;
    for (bytes again = b; (more = read_field(&again, &f)) > 0;) {
        if (!is(&f, MESH_MESH, BYTES)) continue;
        field axis;
        while ((more = read_field(&f.body, &axis)) > 0)
            if (is(&axis, MESH_AXIS, BYTES) &&
                (axes == MESH_RANK || !read_numbers(axis.body, AXIS_SIZE, &size[axes++], 0, &none)))
                return false;
        if (more) return false;
    }
    if (more) return false;
    while (read_field(&b, &f) > 0) {
        if (!is(&f, MESH_AXES, BYTES)) continue;
        uint64_t axis = 0, part = 0;
        field r;
        while ((more = read_field(&f.body, &r)) > 0) {
            if (is(&r, REF_AXIS, VARINT)) axis = r.value;
            if (is(&r, REF_PART, BYTES) && !read_numbers(r.body, PART_SIZE, &part, 0, &none)) return false;
        }
        if (more || axis >= (uint64_t)axes || !times(&group, part ? part : size[axis])) return false;
    }
    widen(o, group);
    return true;
}

static bool read_devices(bytes b, instruction *o) {
    field f;
    int more;
    while ((more = read_field(&b, &f)) > 0)
        if ((is(&f, DEVICES_GROUPS, BYTES) && !read_group(f.body, o)) ||
            (is(&f, DEVICES_IOTA, BYTES) && !read_iota(f.body, o)) ||
            (is(&f, DEVICES_MESH, BYTES) && !read_mesh(f.body, o)))
            return false;
    return !more;
}

static bool read_instruction(bytes b, instruction *o) {
    field f;
    int more;
    *o = (instruction){.channel = 0};
    while ((more = read_field(&b, &f)) > 0) {
        bool fine = true;
        if (f.wire == VARINT) {
            if (f.number == CHANNEL) o->channel = f.value;
            if (f.number == GLOBAL_IDS) o->global_ids = f.value;
        } else if (f.wire == BYTES) {
            switch (f.number) {
            case OPCODE: o->opcode = f.body; break;
            case SHAPE: o->shape = f.body; break;
            case GROUPS: fine = read_group(f.body, o); break;
            case DEVICES: fine = read_devices(f.body, o); break;
            case IOTA: fine = read_iota(f.body, o); break;
            case MESH: fine = read_mesh(f.body, o); break;
            case PAIRS: {
                uint64_t source = 0, target = 0;
                fine = read_numbers(f.body, PAIR_SOURCE, &source, PAIR_TARGET, &target);
                o->pairs = true;
                o->moves |= source != target;
            }
            }
        }
        if (!fine) return false;
    }
    return !more && o->opcode.at;
}

/* ---------------------------------------------------------------- the program */
/* With a channel, ids count partitions, or replicas on all partitions together; global ids count devices; without, ids
 * count replicas. */
typedef enum { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE, BROADCAST, KINDS } kind;
static const struct {
    const char *opcode, *name;
    bool across;
    int started;
} kinds[KINDS] = {
    /* across: a channel joins the partitions of the replicas named; started: the element of the tuple of a "-start",
     * -1: it is none */
    [ALL_REDUCE] = {"all-reduce", "all_reduce", true, -1},
    [ALL_GATHER] = {"all-gather", "all_gather", true, 1},
    [REDUCE_SCATTER] = {"reduce-scatter", "reduce_scatter", true, -1},
    [ALL_TO_ALL] = {"all-to-all", "all_to_all", false, -1},
    [PERMUTE] = {"collective-permute", "collective_permute", false, 1},
    [BROADCAST] = {"collective-broadcast", "broadcast", false, -1}};

static kind kind_of(bytes opcode, bool *started) {
    size_t n = (size_t)(opcode.end - opcode.at);
    *started = n > 6 && !memcmp(opcode.end - 6, "-start", 6);
    if (*started) n -= 6;
    kind k = 0;
    while (k < KINDS && (strlen(kinds[k].opcode) != n || memcmp(kinds[k].opcode, opcode.at, n))) k++;
    return k;
}

static bool received(const instruction *o, kind k, bool started, counts of, int64_t *out) {
    bool channel = o->channel && o->channel <= INT64_MAX; /* a negative one is none */
    int64_t n = o->group ? o->group : channel && !kinds[k].across ? of.partitions : of.replicas, tensor = 0, twice;
    if (channel && kinds[k].across && !o->global_ids && !times(&n, (uint64_t)of.partitions)) return false;
    if (n < 1 || !o->shape.at || !add_shape(o->shape, started ? kinds[k].started : -1, 0, &tensor)) return false;
    switch (k) {
    case ALL_REDUCE:
        twice = 2 * tensor;
        *out = twice - twice / n;
        return true;
    case ALL_GATHER:
    case ALL_TO_ALL: *out = tensor - tensor / n; return true;
    case REDUCE_SCATTER: *out = tensor; return times(out, (uint64_t)n - 1);
    case PERMUTE: *out = o->pairs && !o->moves ? 0 : tensor; return true;
    default: *out = n == 1 ? 0 : tensor; return true;
    }
}

static bool count_computation(bytes b, counts of, mth__xla_collective *seen, int *instructions) {
    field f;
    int more;
    while ((more = read_field(&b, &f)) > 0) {
        if (!is(&f, COMPUTATION_INSTRUCTIONS, BYTES)) continue;
        instruction o;
        bool started;
        int64_t got;
        if (!read_instruction(f.body, &o)) return false;
        ++*instructions;
        kind k = kind_of(o.opcode, &started);
        if (k == KINDS) continue;
        if (!received(&o, k, started, of, &got) || !plus(&seen[k].bytes, got)) return false;
        seen[k].count++;
    }
    return !more;
}

bool mth__hlo_proto_collectives(mth__arena *a, const unsigned char *at, size_t count, mth__xla_facts *out) {
    mth__xla_collective seen[KINDS] = {{0}};
    bytes whole = {at, at + count}, module = {NULL, NULL};
    counts of = {1, 1};
    int instructions = 0, more;
    bool computations = false;
    field f;
    while ((more = read_field(&whole, &f)) > 0) {
        if (is(&f, PROGRAM_MODULE, BYTES)) module = f.body;
        if (is(&f, PROGRAM_CONFIG, BYTES)) {
            uint64_t replicas = 1, partitions = 1;
            if (!read_numbers(f.body, CONFIG_REPLICAS, &replicas, CONFIG_PARTITIONS, &partitions)) return false;
            if (replicas - 1 >= (uint64_t)limit || partitions - 1 >= (uint64_t)limit) return false;
            of = (counts){(int64_t)replicas, (int64_t)partitions};
        }
    }
    if (more || !module.at) return false;
    while ((more = read_field(&module, &f)) > 0) {
        if (!is(&f, MODULE_COMPUTATIONS, BYTES)) continue;
        computations = true;
        if (!count_computation(f.body, of, seen, &instructions)) return false;
    }
    if (more || !computations) return false;
    int n = 0;
    out->instructions = instructions;
    out->collective = NEW_ARRAY(a, mth__xla_collective, KINDS);
    for (kind k = 0; k < KINDS; k++)
        if (seen[k].count) out->collective[n++] = (mth__xla_collective){kinds[k].name, seen[k].count, seen[k].bytes};
    out->collectives = n;
    return true;
}
