#include "emit/collective.h"
#include "plain_verify.h"
#include "random_plan.h"
#include "guarded.h"
#include "pick.h"

GUARDED(random_programs_verify_both_ways) {
    mth__arena *outer = arena;
    for (unsigned seed = 0; seed < 400; seed++) {
        arena = mth__arena_new();
        mth__emit_options options = random_emit_options(seed);
        mth__program *program = emit_plan(random_graph(arena, seed), &options), *again = NULL;
        int before = unit_failures;
        CHECK_STATUS(mth__program_verify(program));
        const char *fault = plain_verify(arena, program, seed);
        CHECK(fault == NULL);
        const char *text = plan_text(program);
        CHECK_STATUS(mth__program_parse(arena, text, &again));
        if (again) {
            CHECK_STATUS(mth__program_verify(again));
            CHECK(strcmp(text, plan_text(again)) == 0);
        }
        if (unit_failures != before) {
            printf("seed %u: %s\n%s\n", seed, fault ? fault : "", text);
            break;
        }
        mth__arena_free(arena);
    }
    arena = outer;
}

/* ---------------------------------------------------------------- mutants */
static mth__program *mutated;

static bool is_channel(const mth__instr *instruction) { return mth__has_channel(instruction); }
static bool is_wait(const mth__instr *instruction) { return instruction->kind == MTH__WAIT; }
static bool has_operand(const mth__instr *instruction) { return instruction->nin > 0; }
static bool is_accumulating(const mth__instr *instruction) { return instruction->accumulates; }
static bool is_any(const mth__instr *instruction) { return instruction != NULL; }

/* A random instruction of the kind, or -1. */
static int pick_instr(const mth__role *role, bool (*kind)(const mth__instr *)) {
    for (int tries = 0; role->instr.n && tries < 40; tries++) {
        int i = pick(role->instr.n);
        if (kind(&role->instr.at[i])) return i;
    }
    return -1;
}
static void remove_instr(mth__role *role, int i) {
    memmove(&role->instr.at[i], &role->instr.at[i + 1], (role->instr.n - (size_t)i - 1) * sizeof *role->instr.at);
    role->instr.n--;
}
static void swap_instrs(mth__role *role, int i, int j) {
    mth__instr instruction = role->instr.at[i];
    role->instr.at[i] = role->instr.at[j];
    role->instr.at[j] = instruction;
}
static int writer_of(const mth__role *role, int v) {
    for (size_t i = 0; i < role->instr.n; i++)
        for (int j = 0; j < role->instr.at[i].nout; j++)
            if (role->instr.at[i].out[j] == v) return (int)i;
    return -1;
}
static int pick_value(const mth__role *role, mth__storage storage) {
    for (int tries = 0; role->value.n && tries < 40; tries++) {
        int number = pick(role->value.n);
        if (role->value.at[number].storage == storage && role->value.at[number].bytes) return number;
    }
    return -1;
}

/* Each changes the role, or returns false. `certain`: whatever it does must be refused; else the plain walk says
 * whether it must. */
static bool drop(mth__role *role, bool (*kind)(const mth__instr *)) {
    int i = pick_instr(role, kind);
    if (i >= 0) remove_instr(role, i);
    return i >= 0;
}
static bool swap(mth__role *role, bool (*kind)(const mth__instr *)) {
    int i = pick_instr(role, kind), j = pick_instr(role, kind);
    if (i >= 0 && j >= 0) swap_instrs(role, i, j);
    return i >= 0 && j >= 0;
}
static bool drop_channel(mth__role *role) { return drop(role, is_channel); }
static bool drop_wait(mth__role *role) { return drop(role, is_wait); }
static bool drop_any(mth__role *role) { return drop(role, is_any); }
static bool swap_any(mth__role *role) { return swap(role, is_any); }
static bool swap_channels(mth__role *role) { return swap(role, is_channel); }
static bool rename_channel(mth__role *role) {
    int i = pick_instr(role, is_channel);
    if (i < 0 || mutated->channel.n < 2) return false;
    role->instr.at[i].channel =
        (role->instr.at[i].channel + 1 + pick(mutated->channel.n - 1)) % (int)mutated->channel.n;
    return true;
}
static bool repeat_instr(mth__role *role) {
    int i = pick_instr(role, is_any);
    if (i < 0) return false;
    mth__instr instruction = role->instr.at[i];
    PUSH(arena, role->instr, instruction);
    return true;
}
static bool overlap_ranges(mth__role *role) {
    int v = pick_value(role, MTH__IN_SLAB), w = pick_value(role, MTH__IN_SLAB);
    if (v < 0 || role->value.at[v].offset == role->value.at[w].offset ||
        role->value.at[w].offset + role->value.at[v].bytes > role->slab[MTH__DEVICE])
        return false;
    role->value.at[v].offset = role->value.at[w].offset;
    return true;
}
/* A value of the slab goes into an exit, where its time may be over too late or its bytes too many. */
static bool lend_exit(mth__role *role) {
    int v = pick_value(role, MTH__IN_SLAB), e = v < 0 ? -1 : pick_value(role, MTH__IN_EXIT);
    if (e < 0 || role->value.at[v].bytes == 0) return false;
    role->value.at[v].storage = MTH__IN_LENT;
    role->value.at[v].index = role->value.at[e].index;
    role->value.at[v].offset = pick(2) ? 0 : 64;
    return true;
}
static bool move_borrower(mth__role *role) {
    int v = pick_value(role, MTH__IN_LENT), e = v < 0 ? -1 : pick_value(role, MTH__IN_EXIT);
    if (e < 0 || role->value.at[v].bytes == 0 || role->value.at[v].index == role->value.at[e].index) return false;
    role->value.at[v].index = role->value.at[e].index;
    return true;
}
static bool misplace_borrower(mth__role *role) {
    int v = pick_value(role, MTH__IN_LENT);
    if (v < 0) return false;
    const int64_t wrong[] = {-64, 32, 1 << 20};
    role->value.at[v].offset = wrong[pick(3)];
    return role->value.at[v].bytes > 0;
}
static bool read_later_value(mth__role *role) {
    int i = pick_instr(role, has_operand), number = i < 0 ? -1 : pick(role->value.n),
        w = number < 0 ? -1 : writer_of(role, number);
    if (i < 0 || w < i) return false;
    role->instr.at[i].in[pick((size_t)role->instr.at[i].nin)] = number;
    return true;
}
static bool read_other_value(mth__role *role) {
    int i = pick_instr(role, has_operand);
    if (i >= 0) role->instr.at[i].in[pick((size_t)role->instr.at[i].nin)] = pick(role->value.n);
    return i >= 0;
}
static bool wrong_local_shape(mth__role *role) {
    int number = pick(role->value.n);
    if (number < 0 || role->value.at[number].local.rank == 0) return false;
    mth__program_value *value = &role->value.at[number];
    value->local.dim[pick((size_t)value->local.rank)]++;
    value->bytes = mth__shape_size(value->local) * (int64_t)mth_dtype_size(value->dtype);
    return true;
}
static bool partial_as_value(mth__role *role) {
    for (size_t number = 0; number < role->value.n; number++)
        if (role->value.at[number].sharding.partial) {
            role->value.at[number].sharding.partial = 0;
            return true;
        }
    return false;
}
static bool value_as_partial(mth__role *role) {
    for (size_t number = 0; number < role->value.n; number++)
        if (role->value.at[number].memory != MTH__MEMORY_COMMUNICATION &&
            !mth__sharding_axes(&role->value.at[number].sharding, role->value.at[number].shape.rank) &&
            role->value.at[number].sharding.on->naxes && !role->value.at[number].sharding.partial) {
            role->value.at[number].sharding.partial = 1;
            return true;
        }
    return false;
}
static int pick_split_view(const mth__role *role, int *d) {
    int v = pick_value(role, MTH__IN_ALIAS);
    for (*d = 0; v >= 0 && *d < role->value.at[v].shape.rank; ++*d)
        if (role->value.at[v].sharding.dim[*d].naxes) return v;
    return -1;
}
static bool unsplit_view(mth__role *role) { /* every device's part said to be the whole */
    int d, v = pick_split_view(role, &d);
    if (v < 0) return false;
    role->value.at[v].shape.dim[d] = role->value.at[v].local.dim[d];
    role->value.at[v].sharding.dim[d] = (mth__split){0};
    return true;
}
static bool shift_view(mth__role *role) { /* the ends of rows and the beginnings of the next */
    int d, v = pick_split_view(role, &d);
    if (v < 0) return false;
    mth__program_value *value = &role->value.at[v];
    const int64_t element = (int64_t)mth_dtype_size(value->dtype),
                  room = role->value.at[value->index].bytes - value->bytes;
    if (value->local.dim[d] < 2 || room == 0) return false;
    value->offset += value->offset < room ? element : -element;
    return true;
}
static bool shrink_slab(mth__role *role) {
    if (!role->slab[MTH__DEVICE]) return false;
    role->slab[MTH__DEVICE] -= 64;
    return role->slab[MTH__DEVICE] > 0;
}
static bool lose_exit(mth__role *role) {
    int v = pick_value(role, MTH__IN_EXIT);
    if (v < 0) return false;
    role->value.at[v].storage = MTH__IN_SLAB;
    role->value.at[v].offset = (role->slab[MTH__DEVICE] + 63) / 64 * 64;
    role->slab[MTH__DEVICE] = role->value.at[v].offset + role->value.at[v].bytes;
    return true;
}

/* Sums so far: their instruction, and the value; -1 where the role has none with bytes. */
static int pick_sum(const mth__role *role, int *sum) {
    int i = pick_instr(role, is_accumulating);
    if (i < 0) return -1;
    const mth__instr *instruction = &role->instr.at[i];
    *sum = instruction->in[mth__accumulator(instruction->op, instruction->nin, 0)];
    return role->value.at[*sum].bytes ? i : -1;
}
static bool unwritten_sum(mth__role *role) {
    int sum, i = pick_sum(role, &sum);
    if (i >= 0) remove_instr(role, writer_of(role, sum));
    return i >= 0;
}
static bool read_sum_later(mth__role *role) {
    int sum, i = pick_sum(role, &sum), j = pick_instr(role, has_operand);
    if (i < 0 || j <= i) return false;
    role->instr.at[j].in[pick((size_t)role->instr.at[j].nin)] = sum;
    return true;
}
static bool read_sum_beside(mth__role *role) {
    int sum, i = pick_sum(role, &sum);
    if (i >= 0) role->instr.at[i].in[pick(2)] = sum;
    return i >= 0;
}
static bool sum_elsewhere(mth__role *role) {
    int sum, i = pick_sum(role, &sum);
    if (i < 0) return false;
    mth__program_value *to = &role->value.at[role->instr.at[i].out[0]];
    if (to->storage != MTH__IN_SLAB) return false;
    to->offset = (role->slab[MTH__DEVICE] + 63) / 64 * 64;
    role->slab[MTH__DEVICE] = to->offset + to->bytes;
    return true;
}
static bool forget_sum(mth__role *role) {
    int i = pick_instr(role, is_accumulating);
    if (i >= 0) role->instr.at[i].accumulates = false;
    return i >= 0;
}
static bool claim_sum(mth__role *role) { /* an operand said to be a sum */
    int i = pick_instr(role, has_operand);
    if (i < 0 || role->instr.at[i].accumulates) return false;
    role->instr.at[i].accumulates = true;
    return true;
}

static const struct {
    const char *name;
    bool (*change)(mth__role *);
    bool certain;
} mutations[] = {{"unwritten_sum", unwritten_sum, true}, {"read_sum_later", read_sum_later, true},
    {"read_sum_beside", read_sum_beside, true}, {"sum_elsewhere", sum_elsewhere, true},
    {"forget_sum", forget_sum, true}, {"claim_sum", claim_sum, true}, {"drop_channel", drop_channel, true},
    {"drop_wait", drop_wait, true}, {"drop_any", drop_any, false}, {"swap_any", swap_any, false},
    {"swap_channels", swap_channels, false}, {"rename_channel", rename_channel, true},
    {"repeat_instr", repeat_instr, true}, {"overlap_ranges", overlap_ranges, false},
    {"read_later_value", read_later_value, true}, {"read_other_value", read_other_value, false},
    {"wrong_local_shape", wrong_local_shape, true}, {"partial_as_value", partial_as_value, true},
    {"value_as_partial", value_as_partial, true}, {"shrink_slab", shrink_slab, true}, {"lose_exit", lose_exit, false},
    {"lend_exit", lend_exit, false}, {"move_borrower", move_borrower, false},
    {"misplace_borrower", misplace_borrower, true}, {"unsplit_view", unsplit_view, true},
    {"shift_view", shift_view, true}};
enum { MUTATIONS = sizeof mutations / sizeof *mutations };

GUARDED(mutants_are_refused) {
    mth__arena *outer = arena;
    int made[MUTATIONS] = {0}, bad[MUTATIONS] = {0}, refused[MUTATIONS] = {0};
    for (unsigned seed = 0; seed < 400; seed++)
        for (int m = 0; m < MUTATIONS; m++) {
            arena = mth__arena_new();
            mth__emit_options options = random_emit_options(seed);
            mth__program *program = emit_plan(random_graph(arena, seed), &options);
            state = seed * 40503u + (unsigned)m;
            mutated = program;
            if (mutations[m].change(&program->role.at[pick(program->role.n)])) {
                made[m]++;
                mth_status status = mth__program_verify(program);
                refused[m] += status != NULL;
                const char *fault = status ? NULL : plain_verify(arena, program, seed);
                bad[m] += status != NULL || fault != NULL;
                if (!status && (mutations[m].certain || fault)) {
                    unit_failures++;
                    printf("seed %u, %s: %s, and verifies\n%s\n", seed, mutations[m].name, fault ? fault : "wrong",
                        plan_text(program));
                }
                if (status) {
                    const char *what = mth_error_get_message(status);
                    bool named = strstr(what, "role ") || strstr(what, "channel c") || strstr(what, "exit ");
                    CHECK(named);
                    if (!named) puts(what);
                    mth_error_free(status);
                }
            }
            mth__arena_free(arena);
            if (unit_failures > 3) seed = 1000, m = MUTATIONS;
        }
    arena = outer;
    for (int m = 0; m < MUTATIONS; m++) {
        CHECK(refused[m] > 10);
        if (getenv("SHOW")) printf("%-20s %4d made, %4d refused\n", mutations[m].name, made[m], refused[m]);
    }
}

/* ---------------------------------------------------------------- refusals by name */
static mth__graph *graph_of(mth__builder *b, int devices) {
    mth__graph *graph = mth__graph_new(arena, MESH(arena, devices));
    *b = builder(graph);
    return graph;
}
static void refused(const mth__graph *graph, const char *why) {
    mth__program *program = emit_plan(graph, &(mth__emit_options){.views = true});
    if (program) CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, why);
}

GUARDED(partial_sums_are_no_values) {
    mth__builder builder;
    for (int k = 0; k < 4; k++) {
        mth__graph *graph = graph_of(&builder, 2);
        const mth__placement *on = mth__place_whole(graph->mesh);
        mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(4, 8), on, SPLIT(-1, 0));
        mth__value *value = source(graph, MTH__VALUE_PARAMETER, "w", SHAPE(8, 4), on, SPLIT(0, -1));
        mth__value *bias = source(graph, MTH__VALUE_PARAMETER, "bias", SHAPE(4), on, NULL);
        mth__value *y = contract(&builder, "bi,io->bo", x, value, on, NULL, 1);
        if (k == 0) y = node1(&builder, "relu", NULL, y, on, NULL, 1);
        if (k == 1) y = node2(&builder, "add", NULL, y, bias, on, NULL, 1);
        if (k == 2) y = node2(&builder, "mul", NULL, y, y, on, NULL, 1);
        output(graph, "y", k == 3 ? y : node1(&builder, "all_reduce", &(mth__attrs){.axes = 1}, y, on, NULL, 0));
        static const char *const why[] = {"relu: uses %3, a partial sum, as a value",
            "add: bias and the other operands are partial sums over different axes",
            "mul: multiplies %3 with another partial sum", "exit 0, y, is a partial sum"};
        refused(graph, why[k]);
    }
}

/* Added to a sum that is whole, a partial sum would have that counted by every device. */
GUARDED(partial_sums_are_added_to_partial_sums) {
    mth__builder builder;
    for (int k = 0; k < 3; k++) {
        mth__graph *graph = graph_of(&builder, 2);
        const mth__placement *on = mth__place_whole(graph->mesh);
        const mth__attrs spec = {.spec = "bi,bo->io"}, axis = {.axes = 1};
        mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(4, 8), on, SPLIT(0, -1));
        if (k == 2) x->sharding = split_by(on, x->shape, NULL);
        mth__value *sum = contract(&builder, spec.spec, x, x, on, NULL, k < 2);
        if (k == 0) sum = node1(&builder, "all_reduce", &axis, sum, on, NULL, 0);
        mth__value *total = contract(&builder, spec.spec, x, x, on, NULL, k < 2);
        total->node->in = NEW_ARRAY(arena, mth__value *, 3);
        total->node->in[0] = total->node->in[1] = x;
        total->node->in[2] = sum;
        total->node->nin = 3;
        total->node->accumulates = true;
        output(graph, "y", k == 2 ? total : node1(&builder, "all_reduce", &axis, total, on, NULL, 0));
        if (k == 0)
            refused(graph, "which is a partial sum over other axes than");
        else
            CHECK_STATUS(mth__program_verify(emit_plan(graph, &(mth__emit_options){.views = true})));
    }
}

GUARDED(splits_must_agree) {
    mth__builder builder;
    for (int k = 0; k < 4; k++) {
        mth__graph *graph = graph_of(&builder, 2);
        const mth__placement *on = mth__place_whole(graph->mesh);
        mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(4, 8), on,
            k == 0       ? NULL
                : k == 3 ? SPLIT(-1, -1)
                         : SPLIT(-1, 0));
        mth__value *value = source(graph, MTH__VALUE_PARAMETER, "w", SHAPE(8, 4), on, SPLIT(0, -1));
        if (k < 2) x = contract(&builder, "bi,io->bo", x, value, on, NULL, 0);
        if (k == 2) x = node1(&builder, "softmax", &(mth__attrs){.dimension = 1}, x, on, SPLIT(-1, 0), 0);
        if (k == 3) x = node1(&builder, "exp", NULL, x, on, SPLIT(0, -1), 0);
        output(graph, "y", x);
        static const char *const why[] = {"dimension 0 of w is split otherwise", "%2 is said to be whole",
            "dimension 1 of x is split, and must be whole", "is split otherwise"};
        refused(graph, why[k]);
    }
}

/* 10 rows over 3 devices are 4, 4, 2, and 6, 4 and none by 6: the second device has as many either way, but others. */
GUARDED(equal_sizes_are_not_equal_parts) {
    mth__builder builder;
    mth__graph *graph = graph_of(&builder, 3);
    const mth__placement *on = mth__place_whole(graph->mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(10), on, SPLIT(0)),
               *y = node1(&builder, "exp", NULL, x, on, SPLIT(0), 0);
    output(graph, "y", y);
    mth__program *program = emit_plan(graph, &(mth__emit_options){.views = true});
    CHECK_STATUS(mth__program_verify(program));
    mth__role *role = &program->role.at[program->role_of[1]];
    for (size_t number = 0; number < role->value.n; number++)
        if (role->value.at[number].storage == MTH__IN_EXIT) role->value.at[number].sharding.dim[0].grain = 6;
    int32_t second = 1;
    role->device = &second; /* that of device 1 alone: checked before the other roles */
    role->ndevice = 1;
    program->role_of = (const int32_t[]){1, 0, 1};
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, "dimension 0 of");
}

/* A reshape of a split value: heads of 4 columns, two heads a device. The view's shardings and offsets that would show
 * other elements. */
GUARDED(views_show_what_they_say) {
    mth__builder builder;
    for (int k = 0; k < 5; k++) {
        mth__graph *graph = graph_of(&builder, 2);
        const mth__placement *on = mth__place_whole(graph->mesh);
        mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(6, 16), on, SPLIT(-1, 0));
        mth__value *rows = node1(&builder, "slice", &(mth__attrs){.start = 2, .stop = 5}, x, on, SPLIT(-1, 0), 0);
        mth__value *heads =
            node1(&builder, "reshape", &(mth__attrs){.rank = 3, .shape = {3, 4, 4}}, rows, on, SPLIT(-1, 0, -1), 0);
        output(graph, "y", node1(&builder, "exp", NULL, heads, on, SPLIT(-1, 0, -1), 0));
        mth__program *program = emit_plan(graph, &(mth__emit_options){.views = true});
        mth__program_value *value = NULL;
        for (size_t i = 0; i < program->role.at[0].value.n; i++)
            if (program->role.at[0].value.at[i].shape.rank == 3 &&
                program->role.at[0].value.at[i].storage == MTH__IN_ALIAS)
                value = &program->role.at[0].value.at[i];
        CHECK(value != NULL);
        if (!value) break;
        if (k == 1) value->offset += 16; /* half a row on */
        if (k == 2) value->offset += 32; /* a row on: the rows of another slice */
        if (k == 3) value->shape.dim[1] = 2, value->sharding.dim[1] = (mth__split){0};
        if (k == 4) { /* the right half of each head in place of the second half of the heads */
            value->shape = SHAPE(3, 2, 8);
            value->sharding.dim[2] = value->sharding.dim[1];
            value->sharding.dim[1] = (mth__split){0};
        }
        static const char *const why[] = {"", "shows rows of x that are not its own", "",
            "split over other axes than x", "shows rows of x that are not its own"};
        if (*why[k])
            CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, why[k]);
        else
            CHECK_STATUS(mth__program_verify(program));
    }
}

/* Rows 2 and 3 of the 8 that each device has: a reshape, a slice of each part, and a reshape. */
GUARDED(a_piece_of_each_part_is_a_view) {
    mth__builder builder;
    mth__graph *graph = graph_of(&builder, 2);
    const mth__placement *on = mth__place_whole(graph->mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(16, 3), on, SPLIT(0, -1));
    mth__value *parts =
        node1(&builder, "reshape", &(mth__attrs){.rank = 3, .shape = {2, 8, 3}}, x, on, SPLIT(0, -1, -1), 0);
    mth__value *piece =
        node1(&builder, "slice", &(mth__attrs){.dimension = 1, .start = 2, .stop = 4}, parts, on, SPLIT(0, -1, -1), 0);
    mth__value *rows =
        node1(&builder, "reshape", &(mth__attrs){.rank = 2, .shape = {4, 3}}, piece, on, SPLIT(0, -1), 0);
    output(graph, "y", node1(&builder, "exp", NULL, rows, on, SPLIT(0, -1), 0));
    CHECK_STATUS(mth__program_verify(emit_plan(graph, &(mth__emit_options){.views = true})));
}

GUARDED(a_deadlock_names_who_waits) {
    mth__builder builder;
    mth__graph *graph = graph_of(&builder, 2);
    const mth__placement *first = mth__place_device(graph->mesh, 0), *second = mth__place_device(graph->mesh, 1);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(4), first, NULL),
               *y = source(graph, MTH__VALUE_INPUT, "y", SHAPE(4), second, NULL);
    output(graph, "there", node1(&builder, "transfer", NULL, x, second, NULL, 0));
    output(graph, "here", node1(&builder, "transfer", NULL, y, first, NULL, 0));
    mth__program *program = emit_plan(graph, &(mth__emit_options){.views = true});
    CHECK_STATUS(mth__program_verify(program));
    swap_instrs(&program->role.at[0], 0, 1); /* receives before it sends, as the other does */
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE,
        "role 0 (from device 0), instruction 0, recv c1 (m: transfer): a deadlock: it waits for ever; so do role 1");
}

GUARDED(who_is_missing_is_named) {
    mth__program *program = emit_plan(pipeline(arena, MESH(arena, 2), 2, 2, 4, 8), &(mth__emit_options){.views = true});
    mth__role *role = &program->role.at[0];
    for (size_t i = 0; i < role->instr.n;)
        if (role->instr.at[i].kind == MTH__SEND || role->instr.at[i].kind == MTH__WAIT)
            remove_instr(role, (int)i);
        else
            i++;
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE,
        "channel c0, transfer: device 0 (role 0) must give its part and does not");
}

GUARDED(overlapping_values_are_named) {
    mth__mesh *mesh = MESH(arena, 1);
    mth__graph *graph = two_layers(arena, mesh, 8, 32, 64, 16);
    mth__program *program = emit_plan(graph, &(mth__emit_options){.views = true});
    mth__role *role = &program->role.at[0];
    role->value.at[role->instr.at[1].out[0]].offset += 64; /* relu beside its operand, not on it */
    role->slab[MTH__DEVICE] += 64;
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE,
        "instruction 1, relu: %4 overlaps %3, which lives until instruction 1");
}
RUN()
