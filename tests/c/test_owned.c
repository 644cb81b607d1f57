/* Results that the engine's library allocates: what of them emission makes the engine's own, that it runs, and what it
 * is reported to take. */
#include "emit/uses.h"
#include "engine/engine.h"
#include "observe/report.h"
#include "plain_verify.h"
#include "random_plan.h"
#include "run_program.h"
#include "guarded.h"

static const mth__engine_vtable *const engines[] = {&mth__engine_native, &mth__engine_reference};

/* ---------------------------------------------------------------- by definition */
/* The instruction behind which what this one touches is left alone: its WAIT, or itself. */
static int released(const mth__role *role, int at) {
    const mth__instr *by = &role->instr.at[at];
    if (!mth__is_started(by) && by->kind != MTH__SEND) return at;
    for (int i = at + 1; i < (int)role->instr.n; i++) {
        const mth__instr *wait = &role->instr.at[i];
        if (wait->kind == MTH__WAIT &&
            (by->channel >= 0 ? wait->channel == by->channel : wait->channel < 0 && wait->awaited == by->out[0]))
            return i;
    }
    return -1;
}

static bool touches(const mth__role *role, const mth__instr *instruction, int base) {
    bool found = instruction->scratch == base;
    for (int j = 0; j < instruction->nin; j++) found |= mth__base_of(role, instruction->in[j]) == base;
    for (int j = 0; j < instruction->nout; j++) found |= mth__base_of(role, instruction->out[j]) == base;
    return found;
}

/* By value: its writer, or -1, and the end of its memory. */
static void find_lives(const mth__role *role, int *writer, int *end) {
    for (int number = 0; number < (int)role->value.n; number++) {
        writer[number] = end[number] = -1;
        for (int i = 0; i < (int)role->instr.n; i++) {
            const mth__instr *instruction = &role->instr.at[i];
            if (!touches(role, instruction, mth__base_of(role, number))) continue;
            if (released(role, i) > end[number]) end[number] = released(role, i);
            for (int j = 0; j < instruction->nout; j++)
                if (instruction->out[j] == number) writer[number] = i;
        }
    }
}

/* The number of own results that an instruction adds to sums, whose memory they take over. */
static int own_sums(const mth__role *role, const mth__instr *instruction, int64_t *bytes) {
    int count = 0;
    for (int k = 0; instruction->accumulates && k < instruction->nout; k++) {
        const int sum = mth__accumulator(instruction->op, instruction->nin, k);
        if (sum < 0) continue;
        const mth__program_value *result = &role->value.at[instruction->out[k]];
        const mth__program_value *below = &role->value.at[instruction->in[sum]];
        CHECK((result->storage == MTH__IN_OWN) == (below->storage == MTH__IN_OWN));
        if (result->storage != MTH__IN_OWN) continue;
        *bytes += result->bytes;
        count++;
    }
    return count;
}

/* Bytes of exits of which no value is written up to instruction `last`. */
static int64_t exits_after(const mth__program *program, const mth__role *role, int last) {
    int64_t bytes = 0;
    for (size_t exit_number = 0; exit_number < program->exit.n; exit_number++) {
        int64_t of_exit = 0;
        bool written = program->exit.at[exit_number].kind == MTH__EXIT_SUCCESSOR;
        for (int i = 0; i < (int)role->instr.n; i++)
            for (int k = 0; k < role->instr.at[i].nout; k++) {
                const mth__program_value *value = &role->value.at[role->instr.at[i].out[k]];
                if (value->storage != MTH__IN_EXIT || value->index != (int)exit_number) continue;
                of_exit = value->bytes;
                written |= i <= last;
            }
        if (!written) bytes += of_exit;
    }
    return bytes;
}

/* Whether the lives and the report are right; returns how many own values are sums that were added to. */
static int check_role(const mth__program *program, const mth__role *role, const mth_memory_usage *usage) {
    int *writer = NEW_ARRAY(arena, int, role->value.n), *end = NEW_ARRAY(arena, int, role->value.n), sums = 0;
    int *last = NEW_ARRAY(arena, int, role->value.n);
    int64_t peak = 0, beyond = 0, entries_and_exits = 0;
    find_lives(role, writer, end);
    mth__last_uses(arena, program, role, last);
    for (size_t number = 0; number < role->value.n; number++) CHECK(last[number] == end[number]);
    for (int i = 0; i < (int)role->instr.n; i++) {
        int64_t live = 0, twice = 0;
        for (size_t number = 0; number < role->value.n; number++) {
            const mth__program_value *value = &role->value.at[number];
            if (value->storage == MTH__IN_OWN && writer[number] <= i && i <= end[number]) live += value->bytes;
        }
        sums += own_sums(role, &role->instr.at[i], &twice);
        if (live - twice > peak) peak = live - twice;
        const int64_t later = exits_after(program, role, i);
        if (live - twice - later > beyond) beyond = live - twice - later;
    }
    CHECK(mth__own_peak(program, role, MTH__DEVICE, false) == peak &&
        mth__own_peak(program, role, MTH__HOST, false) == 0);
    bool *counted = NEW_ARRAY(arena, bool, program->exit.n);
    for (size_t number = 0; number < role->value.n; number++) {
        const mth__program_value *value = &role->value.at[number];
        if (value->storage == MTH__IN_ENTRY) entries_and_exits += value->bytes;
        if (value->storage != MTH__IN_EXIT || counted[value->index]) continue;
        counted[value->index] = true;
        entries_and_exits += value->bytes;
    }
    for (int k = 0; k < role->ndevice; k++)
        CHECK(usage[role->device[k]].total == entries_and_exits + role->slab[MTH__DEVICE] + beyond);
    return sums;
}

/* ---------------------------------------------------------------- at random */
/* What leaves, one exit behind the other. */
static char *exits_of(const mth__engine_vtable *vt, const mth__program *program, size_t *bytes) {
    const mth__offsets offset = mth__buffer_offsets(arena, program);
    const size_t entries = (size_t)offset.entry[program->entry.n], exits = (size_t)offset.exit[program->exit.n];
    mth__buffer **entry = NEW_ARRAY(arena, mth__buffer *, entries + 1),
                **exit = NEW_ARRAY(arena, mth__buffer *, exits + 1);
    mth__engine *engine;
    mth__executable *executable;
    VEC(char) all = {0};
    CHECK_STATUS(open_engine(vt, program->mesh, &engine));
    CHECK_STATUS(vt->load(engine, program, NULL, &executable));
    CHECK_STATUS(make_entries(vt, engine, program, entry));
    CHECK_STATUS(vt->run(executable, entry, exit, NULL));
    for (size_t exit_number = 0; exit_number < program->exit.n; exit_number++) {
        const mth__exit *described = &program->exit.at[exit_number];
        for (int rank = 0; rank < described->sharding.on->count; rank++) {
            const char *data = vt->memory.host(exit[offset.exit[exit_number] + rank]);
            const int64_t part =
                mth__shape_size(mth__local_shape(described->shape, &described->sharding, rank, NULL, NULL)) *
                (int64_t)mth_dtype_size(described->dtype);
            for (int64_t i = 0; i < part; i++) PUSH(arena, all, data[i]);
        }
    }
    let_go(vt, exit, exits);
    let_go(vt, entry, entries);
    vt->unload(executable);
    vt->close(engine);
    *bytes = all.n;
    return all.at;
}

static bool owns_all(const mth__node *node, int result) {
    (void)node, (void)result;
    return true;
}

static mth__program *emit_owned(const mth__graph *graph, unsigned seed, mth__owns *owns, int64_t least_lent) {
    mth__emit_options options = random_emit_options(seed);
    mth__program *program = NULL;
    options.owns = owns;
    owned_salt = seed;
    CHECK_STATUS(mth__emit(arena, graph, &options, &program));
    CHECK_STATUS(mth__emit_memory(program, least_lent));
    CHECK_STATUS(mth__program_verify(program));
    return program;
}

static int check_owned(const mth__program *program, int *owned) {
    mth_memory_usage *usage = NEW_ARRAY(arena, mth_memory_usage, program->mesh->count);
    int sums = 0;
    CHECK_STATUS(mth__report_memory(program, false, NULL, NULL, NULL, usage));
    for (size_t role_number = 0; role_number < program->role.n; role_number++) {
        const mth__role *role = &program->role.at[role_number];
        sums += check_role(program, role, usage);
        for (size_t i = 0; i < role->instr.n; i++)
            for (int k = 0; k < role->instr.at[i].nout; k++) {
                const mth__program_value *value = &role->value.at[role->instr.at[i].out[k]];
                if (value->storage != MTH__IN_OWN) continue;
                CHECK(role->instr.at[i].kind == MTH__COMPUTE && value->space == MTH__DEVICE);
                ++*owned;
            }
    }
    return sums;
}

GUARDED(random_plans_run_with_what_the_library_allocates) {
    mth__arena *outer = arena;
    int owned[2] = {0}, sums[2] = {0};
    for (unsigned seed = 0; seed < 300 && unit_failures < 3; seed++) {
        arena = mth__arena_new();
        const int before = unit_failures;
        const mth__graph *graph = random_graph(arena, seed);
        const mth__program *without = emit_owned(graph, seed, NULL, 1);
        for (int k = 0; k < 2; k++) {
            const mth__program *program = emit_owned(graph, seed, k ? owns_all : owns_some, seed % 2);
            const char *fault = plain_verify(arena, program, seed);
            CHECK(fault == NULL);
            sums[k] += check_owned(program, &owned[k]);
            mth__program *again = NULL;
            CHECK_STATUS(mth__program_parse(arena, plan_text(program), &again));
            CHECK(again && !strcmp(plan_text(again), plan_text(program)));
            for (int e = 0; e < 2 && seed % 3 == 0; e++) {
                size_t bytes, expected_bytes;
                const char *expected = exits_of(engines[e], without, &expected_bytes);
                const char *given = exits_of(engines[e], program, &bytes);
                CHECK(bytes == expected_bytes && !memcmp(given, expected, bytes));
            }
            if (unit_failures > before) printf("seed %u: %s\n%s\n", seed, fault ? fault : "", plan_text(program));
        }
        mth__arena_free(arena);
    }
    arena = outer;
    CHECK(owned[0] > 1000 && owned[1] > owned[0] + 1000 && sums[0] > 20 && sums[1] > 20);
}

/* ---------------------------------------------------------------- sums */
/* s = x' x, twice added to, is what leaves, or its square is. */
static mth__graph *sums_of_products(bool sum_leaves) {
    mth__graph *graph = mth__graph_new(arena, MESH(arena, 1));
    mth__builder b = builder(graph);
    const mth__placement *on = mth__place_whole(graph->mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(8, 16), on, NULL), *sum = NULL;
    b.label.phase = MTH__BACKWARD;
    for (int k = 0; k < 3; k++) {
        mth__value *term = contract(&b, "bi,bo->io", x, x, on, NULL, 0);
        sum = sum ? node2(&b, "add", NULL, sum, term, on, NULL, 0) : term;
    }
    output(graph, "y", sum_leaves ? sum : node1(&b, "square", NULL, sum, on, NULL, 0));
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        node->need = NEW_ARRAY(arena, mth__sharding, node->nin);
        for (int j = 0; j < node->nin; j++) node->need[j] = node->in[j]->sharding;
    }
    CHECK_STATUS(mth__accumulate(graph));
    return graph;
}
static bool owns_first_terms(const mth__node *node, int result) {
    (void)result;
    return !node->accumulates;
}
static bool owns_later_terms(const mth__node *node, int result) { return !owns_first_terms(node, result); }

/* All terms of a sum lie in one memory, the first one's. The square may lie on what it squares: so where the library
 * allocates nothing the sum lies in the exit, too. */
GUARDED(a_sum_is_the_librarys_where_its_first_term_is) {
    static const struct {
        bool leaves;
        mth__owns *owns;
        mth__storage storage;
        int64_t own;
    } all[] = {{false, owns_all, MTH__IN_OWN, 16 * 16 * 4}, {false, owns_first_terms, MTH__IN_OWN, 16 * 16 * 4},
        {false, owns_later_terms, MTH__IN_EXIT, 0}, {true, owns_all, MTH__IN_EXIT, 0},
        {true, owns_later_terms, MTH__IN_EXIT, 0}, {false, NULL, MTH__IN_EXIT, 0}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        mth__graph *graph = sums_of_products(all[i].leaves);
        mth__program *program = NULL;
        CHECK_STATUS(mth__emit(arena, graph, &(mth__emit_options){.owns = all[i].owns}, &program));
        CHECK_STATUS(mth__emit_memory(program, 0));
        CHECK_STATUS(mth__program_verify(program));
        const mth__role *role = &program->role.at[0];
        for (size_t k = 0; k < 3; k++) {
            const mth__storage storage = role->value.at[role->instr.at[k].out[0]].storage;
            CHECK(storage == all[i].storage);
            CHECK(k == 0 || role->instr.at[k].accumulates);
        }
        CHECK(role->slab[MTH__DEVICE] == 0);
        CHECK(mth__own_peak(program, role, MTH__DEVICE, false) == all[i].own);
        size_t bytes;
        const char *given = exits_of(&mth__engine_native, program, &bytes);
        float first;
        memcpy(&first, given, sizeof first);
        /* entry i is i mod 5 - 2: column 0 of 8 rows of 16 is -2, -1, 0, 1, 2, -2, -1, 0, whose squares add up to 15 */
        CHECK(bytes == 16 * 16 * 4 && first == (all[i].leaves ? 45.0f : 45.0f * 45.0f));
    }
}
RUN()
