#include "observe/partition_trace.h"
#include "base/names.h"
#include "emit/traffic.h"
#include <inttypes.h>
#include <string.h>

/* Devices are listed pair by pair where a channel has no more of them. */
enum { MOST_PAIRS = 4096 };

typedef struct {
    uint64_t *device; /* bits: those that run it */
    VEC(mth_traced_crossing) crossing;
} traced_module;
typedef struct {
    mth__arena *arena;
    const mth__program *program;
    mth__templates templates;
    mth__names name;
    VEC(traced_module) module; /* by number of the name */
    int64_t *bytes;            /* by device, of one that takes: what it is given */
} tracing;

static size_t words_of(const mth__program *program) { return ((size_t)program->mesh->count + 63) / 64; }

static traced_module *add_module(tracing *trace, const char *name) {
    const int number = mth__names_add(trace->arena, &trace->name, name);
    if ((size_t)number == trace->module.n)
        PUSH(trace->arena, trace->module,
            (traced_module){.device = NEW_ARRAY(trace->arena, uint64_t, words_of(trace->program))});
    return &trace->module.at[number];
}

/* The module of a label. Labels of gradients name a part of a module, "moe_0.experts.up", or an input, which is no
 * module's. */
static traced_module *module_of(tracing *trace, const mth__label *label) {
    static const char none[] = "(model)"; /* no name of a module has parentheses */
    char *name = label->module ? mth__copy_text(trace->arena, label->module) : NULL;
    while (name && mth__names_find(&trace->name, name) < 0) {
        char *dot = strrchr(name, '.');
        if (dot) *dot = 0;
        if (!dot) name = NULL;
    }
    return add_module(trace, name ? name : none);
}

/* ---------------------------------------------------------------- what crosses */
/* One more of the module's crossings. Channels of one label, those of all microbatches, are counted together; they are
 * alike, so that the next crossing is found where the last one was. */
static void add_crossing(tracing *trace, traced_module *module, size_t *last, mth_traced_crossing crossing) {
    for (size_t k = 0; k < module->crossing.n; k++) {
        const size_t at = (*last + 1 + k) % module->crossing.n;
        mth_traced_crossing *known = &module->crossing.at[at];
        if (known->backward != crossing.backward || known->from_device != crossing.from_device ||
            known->to_device != crossing.to_device || strcmp(known->label, crossing.label))
            continue;
        known->bytes = mth__size_sum(known->bytes, crossing.bytes);
        *last = at;
        return;
    }
    *last = module->crossing.n;
    PUSH(trace->arena, module->crossing, crossing);
}

static mth_status add_pairs(tracing *trace, const mth__channel *channel, traced_module *module, bool backward) {
    size_t last = 0;
    for (int i = 0; i < channel->to.on->count; i++) {
        const int device = channel->to.on->device[i];
        mth__arena *scratch = mth__arena_new();
        mth__channel_part part;
        TRY(mth__channel_moves(scratch, &trace->templates, channel, device, &part));
        for (int k = 0; k < part.count; k++)
            if (part.move[k].peer != device)
                trace->bytes[part.move[k].peer] += mth__channel_move_bytes(channel, &part.move[k]);
        for (int k = 0; k < part.count; k++) {
            int64_t *bytes = &trace->bytes[part.move[k].peer];
            if (*bytes)
                add_crossing(trace, module, &last,
                    (mth_traced_crossing){channel->label, backward, part.move[k].peer, device, *bytes});
            *bytes = 0;
        }
        mth__arena_free(scratch);
    }
    return NULL;
}

static mth_status add_channel(tracing *trace, const mth__channel *channel, const mth__label *label) {
    traced_module *module = module_of(trace, label);
    const bool backward = mth__is_backward_time(label->phase);
    const int devices = trace->program->mesh->count;
    if ((int64_t)channel->from.on->count * channel->to.on->count <= MOST_PAIRS)
        return add_pairs(trace, channel, module, backward);
    mth__traffic *traffic = NEW_ARRAY(trace->arena, mth__traffic, devices);
    mth_traced_crossing all = {channel->label, backward, -1, -1, 0};
    size_t last = 0;
    TRY(mth__channel_traffic(channel, traffic));
    for (int d = 0; d < devices; d++) all.bytes = mth__size_sum(all.bytes, traffic[d].received);
    if (all.bytes) add_crossing(trace, module, &last, all);
    return NULL;
}

static mth_status read_program(tracing *trace) {
    const mth__program *program = trace->program;
    bool *met = NEW_ARRAY(trace->arena, bool, program->channel.n);
    for (size_t k = 0; k < program->role.n; k++) {
        const mth__role *role = &program->role.at[k];
        for (size_t i = 0; i < role->instr.n; i++) {
            const mth__instr *instruction = &role->instr.at[i];
            if (mth__has_channel(instruction) && !met[instruction->channel]) {
                met[instruction->channel] = true;
                TRY(add_channel(trace, &program->channel.at[instruction->channel], &instruction->label));
            }
            if (instruction->kind != MTH__COMPUTE || mth__follows_forward(instruction->label.phase)) continue;
            traced_module *module = module_of(trace, &instruction->label);
            for (int d = 0; d < role->ndevice; d++)
                module->device[role->device[d] / 64] |= 1ull << role->device[d] % 64;
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- rows */
/* Those that run it; of a module that nothing is computed for, a view or what is copied, those it is placed on. */
static void set_devices(
    const tracing *trace, const traced_module *module, const mth__placement *on, mth_traced_operator *row) {
    const int devices = trace->program->mesh->count;
    int64_t *device = NEW_ARRAY(trace->arena, int64_t, devices);
    row->devices = device;
    for (int d = 0; d < devices; d++)
        if (module->device[d / 64] >> d % 64 & 1) device[row->device_count++] = d;
    if (row->device_count || !on) return;
    for (int d = 0; d < devices; d++)
        if (on->rank_of[d] >= 0) device[row->device_count++] = d;
}

mth_status mth__trace_program(mth__arena *arena, int64_t number, const mth__module_place *place, size_t modules,
    const mth__program *program, mth_traced_operator **out, size_t *count) {
    tracing trace = {.arena = arena,
        .program = program,
        .templates = {.arena = arena},
        .bytes = NEW_ARRAY(arena, int64_t, program->mesh->count)};
    for (size_t k = 0; k < modules; k++) add_module(&trace, place[k].module);
    TRY(read_program(&trace));
    mth_traced_operator *row = NEW_ARRAY(arena, mth_traced_operator, trace.module.n);
    for (size_t k = 0; k < trace.module.n; k++) {
        const mth__module_place *of = k < modules ? &place[k] : NULL;
        const traced_module *module = &trace.module.at[k];
        mth_traced_crossing *crossing = NEW_ARRAY(arena, mth_traced_crossing, module->crossing.n);
        for (size_t i = 0; i < module->crossing.n; i++) {
            crossing[i] = module->crossing.at[i];
            crossing[i].label = mth__copy_text(arena, crossing[i].label);
        }
        row[k] = (mth_traced_operator){.model = number,
            .name = mth__copy_text(arena, trace.name.name.at[k]),
            .policy = mth__copy_text(arena, of && of->policy ? of->policy : "none"),
            .reason = mth__copy_text(arena, of && of->reason ? of->reason : "computes nothing of an operator"),
            .crossings = crossing,
            .crossing_count = module->crossing.n};
        set_devices(&trace, module, of ? of->on : NULL, &row[k]);
    }
    *out = row;
    *count = trace.module.n;
    return NULL;
}

/* ---------------------------------------------------------------- the table */
enum { COLUMNS = 6, PAIRS_SHOWN = 4 };

/* "0..3,6" */
static const char *devices_text(mth__arena *arena, const mth_traced_operator *row) {
    mth__text text = mth__text_new(arena);
    for (size_t first = 0, end; first < row->device_count; first = end) {
        for (end = first + 1; end < row->device_count && row->devices[end] == row->devices[end - 1] + 1; end++)
            continue;
        mth__text_add(&text, "%s%" PRId64, first ? "," : "", row->devices[first]);
        if (end - first > 1) mth__text_add(&text, "%s%" PRId64, end - first > 2 ? ".." : ",", row->devices[end - 1]);
    }
    return text.n ? text.at : "-";
}

/* "0 -> 1: 4096 bytes"; of more pairs, how many there are. */
static const char *crossings_text(mth__arena *arena, const mth_traced_operator *row, bool backward) {
    mth__text text = mth__text_new(arena);
    int64_t bytes = 0;
    size_t pairs = 0;
    bool unlisted = false;
    for (size_t i = 0; i < row->crossing_count; i++) {
        if (row->crossings[i].backward != backward) continue;
        bytes = mth__size_sum(bytes, row->crossings[i].bytes);
        pairs++;
        unlisted |= row->crossings[i].from_device < 0;
    }
    if (!pairs) return "-";
    if (unlisted) return mth__format(arena, "%" PRId64 " bytes between many devices", bytes);
    if (pairs > PAIRS_SHOWN) return mth__format(arena, "%" PRId64 " bytes between %zu pairs of devices", bytes, pairs);
    for (size_t i = 0; i < row->crossing_count; i++) {
        const mth_traced_crossing *crossing = &row->crossings[i];
        if (crossing->backward == backward)
            mth__text_add(&text, "%s%" PRId64 " -> %" PRId64 ": %" PRId64 " bytes", text.n ? ", " : "",
                crossing->from_device, crossing->to_device, crossing->bytes);
    }
    return text.at;
}

void mth__trace_print(mth__text *text, const mth_traced_operator *row, size_t count, bool gradients) {
    static const char *const titles[COLUMNS] = {"operator", "devices", "policy", "reason", "forward", "backward"};
    const size_t columns = gradients ? COLUMNS : COLUMNS - 1;
    const char *(*cell)[COLUMNS] = mth__alloc_array(text->arena, count + 1, sizeof *cell);
    size_t width[COLUMNS] = {0};
    for (size_t k = 0; k <= count; k++) {
        const mth_traced_operator *of = k ? &row[k - 1] : NULL;
        const char *cells[COLUMNS] = {of ? of->name : titles[0], of ? devices_text(text->arena, of) : titles[1],
            of ? of->policy : titles[2], of ? of->reason : titles[3],
            of ? crossings_text(text->arena, of, false) : titles[4],
            of ? crossings_text(text->arena, of, true) : titles[5]};
        memcpy(cell[k], cells, sizeof cells);
        for (size_t c = 0; c < columns; c++)
            if (strlen(cells[c]) > width[c]) width[c] = strlen(cells[c]);
    }
    for (size_t k = 0; k <= count; k++) {
        for (size_t c = 0, column = 0; c < columns; column += width[c++] + 2) {
            mth__text_pad(text, column);
            mth__text_add(text, "%s", cell[k][c]);
        }
        mth__text_add(text, "\n");
    }
}
