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
static bool read_varint(bytes *rest, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && rest->at < rest->end; shift += 7) {
        unsigned char byte = *rest->at++;
        *out |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return true;
    }
    return false;
}

/* 1: a field; 0: the end; -1: no message. */
static int read_field(bytes *rest, field *found) {
    uint64_t tag, n;
    if (rest->at == rest->end) return 0;
    if (!read_varint(rest, &tag) || !(tag >> 3)) return -1;
    *found = (field){.number = tag >> 3, .wire = tag & 7};
    switch (found->wire) {
    case VARINT: return read_varint(rest, &found->value) ? 1 : -1;
    case FIXED64: n = 8; break;
    case FIXED32: n = 4; break;
    case BYTES:
        if (!read_varint(rest, &n)) return -1;
        break;
    default: return -1; /* groups are not of this version of the wire */
    }
    if (n > (size_t)(rest->end - rest->at)) return -1;
    found->body = (bytes){rest->at, rest->at + n};
    rest->at += n;
    return 1;
}

static bool is(const field *found, unsigned number, int wire) { return found->number == number && found->wire == wire; }

/* Fields of a message that are one number each; those not met stay as they are. */
static bool read_numbers(bytes rest, unsigned first, uint64_t *first_value, unsigned second, uint64_t *second_value) {
    field found;
    int more;
    while ((more = read_field(&rest, &found)) > 0) {
        if (is(&found, first, VARINT)) *first_value = found.value;
        if (is(&found, second, VARINT)) *second_value = found.value;
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
static bool add_shape(bytes rest, int only, int depth, int64_t *sum) {
    uint64_t type = 0, dimension;
    int64_t size = 1, tuple = 0;
    field found;
    int more, index = 0;
    if (depth > DEPTH) return false;
    while ((more = read_field(&rest, &found)) > 0) {
        if (is(&found, SHAPE_TYPE, VARINT)) type = found.value;
        if (is(&found, SHAPE_DIMENSIONS, VARINT) && !times(&size, found.value)) return false;
        if (is(&found, SHAPE_DIMENSIONS, BYTES))
            while (found.body.at < found.body.end)
                if (!read_varint(&found.body, &dimension) || !times(&size, dimension)) return false;
        if (is(&found, SHAPE_TUPLE, BYTES) && (only < 0 || only == index++) &&
            !add_shape(found.body, -1, depth + 1, &tuple))
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

static void widen(instruction *parsed, int64_t group) { parsed->group = group > parsed->group ? group : parsed->group; }

static bool read_group(bytes rest, instruction *parsed) {
    field found;
    int more;
    int64_t n = 0;
    uint64_t id;
    while ((more = read_field(&rest, &found)) > 0) {
        if (is(&found, GROUP_IDS, VARINT)) n++;
        if (is(&found, GROUP_IDS, BYTES))
            for (; found.body.at < found.body.end; n++)
                if (!read_varint(&found.body, &id)) return false;
    }
    widen(parsed, n);
    return !more;
}

static bool read_iota(bytes rest, instruction *parsed) {
    uint64_t size = 0, none = 0;
    if (!read_numbers(rest, IOTA_GROUP_SIZE, &size, 0, &none) || size > (uint64_t)limit) return false;
    widen(parsed, (int64_t)size);
    return true;
}

/* A mesh, and those of its axes, or parts of axes, over which a group spans. */
static bool read_mesh(bytes rest, instruction *parsed) {
    uint64_t size[MESH_RANK] = {0}, none = 0;
    int axes = 0, more;
    int64_t group = 1;
    field found;
    for (bytes again = rest; (more = read_field(&again, &found)) > 0;) {
        if (!is(&found, MESH_MESH, BYTES)) continue;
        field axis;
        while ((more = read_field(&found.body, &axis)) > 0)
            if (is(&axis, MESH_AXIS, BYTES) &&
                (axes == MESH_RANK || !read_numbers(axis.body, AXIS_SIZE, &size[axes++], 0, &none)))
                return false;
        if (more) return false;
    }
    if (more) return false;
    while (read_field(&rest, &found) > 0) {
        if (!is(&found, MESH_AXES, BYTES)) continue;
        uint64_t axis = 0, part = 0;
        field reference;
        while ((more = read_field(&found.body, &reference)) > 0) {
            if (is(&reference, REF_AXIS, VARINT)) axis = reference.value;
            if (is(&reference, REF_PART, BYTES) && !read_numbers(reference.body, PART_SIZE, &part, 0, &none))
                return false;
        }
        if (more || axis >= (uint64_t)axes || !times(&group, part ? part : size[axis])) return false;
    }
    widen(parsed, group);
    return true;
}

static bool read_devices(bytes rest, instruction *parsed) {
    field found;
    int more;
    while ((more = read_field(&rest, &found)) > 0)
        if ((is(&found, DEVICES_GROUPS, BYTES) && !read_group(found.body, parsed)) ||
            (is(&found, DEVICES_IOTA, BYTES) && !read_iota(found.body, parsed)) ||
            (is(&found, DEVICES_MESH, BYTES) && !read_mesh(found.body, parsed)))
            return false;
    return !more;
}

static bool read_instruction(bytes rest, instruction *parsed) {
    field found;
    int more;
    *parsed = (instruction){.channel = 0};
    while ((more = read_field(&rest, &found)) > 0) {
        bool fine = true;
        if (found.wire == VARINT) {
            if (found.number == CHANNEL) parsed->channel = found.value;
            if (found.number == GLOBAL_IDS) parsed->global_ids = found.value;
        } else if (found.wire == BYTES) {
            switch (found.number) {
            case OPCODE: parsed->opcode = found.body; break;
            case SHAPE: parsed->shape = found.body; break;
            case GROUPS: fine = read_group(found.body, parsed); break;
            case DEVICES: fine = read_devices(found.body, parsed); break;
            case IOTA: fine = read_iota(found.body, parsed); break;
            case MESH: fine = read_mesh(found.body, parsed); break;
            case PAIRS: {
                uint64_t source = 0, target = 0;
                fine = read_numbers(found.body, PAIR_SOURCE, &source, PAIR_TARGET, &target);
                parsed->pairs = true;
                parsed->moves |= source != target;
            }
            }
        }
        if (!fine) return false;
    }
    return !more && parsed->opcode.at;
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
    kind which = 0;
    while (which < KINDS && (strlen(kinds[which].opcode) != n || memcmp(kinds[which].opcode, opcode.at, n))) which++;
    return which;
}

static bool received(const instruction *parsed, kind which, bool started, counts of, int64_t *out) {
    bool channel = parsed->channel && parsed->channel <= INT64_MAX; /* a negative one is none */
    int64_t n = parsed->group             ? parsed->group
        : channel && !kinds[which].across ? of.partitions
                                          : of.replicas,
            tensor = 0, twice;
    if (channel && kinds[which].across && !parsed->global_ids && !times(&n, (uint64_t)of.partitions)) return false;
    if (n < 1 || !parsed->shape.at || !add_shape(parsed->shape, started ? kinds[which].started : -1, 0, &tensor))
        return false;
    switch (which) {
    case ALL_REDUCE:
        twice = 2 * tensor;
        *out = twice - twice / n;
        return true;
    case ALL_GATHER:
    case ALL_TO_ALL: *out = tensor - tensor / n; return true;
    case REDUCE_SCATTER: *out = tensor; return times(out, (uint64_t)n - 1);
    case PERMUTE: *out = parsed->pairs && !parsed->moves ? 0 : tensor; return true;
    default: *out = n == 1 ? 0 : tensor; return true;
    }
}

static bool count_computation(bytes rest, counts of, mth__xla_collective *seen, int *instructions) {
    field found;
    int more;
    while ((more = read_field(&rest, &found)) > 0) {
        if (!is(&found, COMPUTATION_INSTRUCTIONS, BYTES)) continue;
        instruction parsed;
        bool started;
        int64_t got;
        if (!read_instruction(found.body, &parsed)) return false;
        ++*instructions;
        kind which = kind_of(parsed.opcode, &started);
        if (which == KINDS) continue;
        if (!received(&parsed, which, started, of, &got) || !plus(&seen[which].bytes, got)) return false;
        seen[which].count++;
    }
    return !more;
}

bool mth__hlo_proto_collectives(mth__arena *arena, const unsigned char *at, size_t count, mth__xla_facts *out) {
    mth__xla_collective seen[KINDS] = {{0}};
    bytes whole = {at, at + count}, module = {NULL, NULL};
    counts of = {1, 1};
    int instructions = 0, more;
    bool computations = false;
    field found;
    while ((more = read_field(&whole, &found)) > 0) {
        if (is(&found, PROGRAM_MODULE, BYTES)) module = found.body;
        if (is(&found, PROGRAM_CONFIG, BYTES)) {
            uint64_t replicas = 1, partitions = 1;
            if (!read_numbers(found.body, CONFIG_REPLICAS, &replicas, CONFIG_PARTITIONS, &partitions)) return false;
            if (replicas - 1 >= (uint64_t)limit || partitions - 1 >= (uint64_t)limit) return false;
            of = (counts){(int64_t)replicas, (int64_t)partitions};
        }
    }
    if (more || !module.at) return false;
    while ((more = read_field(&module, &found)) > 0) {
        if (!is(&found, MODULE_COMPUTATIONS, BYTES)) continue;
        computations = true;
        if (!count_computation(found.body, of, seen, &instructions)) return false;
    }
    if (more || !computations) return false;
    int n = 0;
    out->instructions = instructions;
    out->collective = NEW_ARRAY(arena, mth__xla_collective, KINDS);
    for (kind which = 0; which < KINDS; which++)
        if (seen[which].count)
            out->collective[n++] = (mth__xla_collective){kinds[which].name, seen[which].count, seen[which].bytes};
    out->collectives = n;
    return true;
}
