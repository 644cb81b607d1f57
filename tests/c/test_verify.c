#include "emit/collective.h"
#include "plain_verify.h"
#include "random_plan.h"
#include "guarded.h"
#include "pick.h"

GUARDED(random_programs_verify_both_ways) {
    mth__arena *outer = a;
    for (unsigned seed = 0; seed < 400; seed++) {
        a = mth__arena_new();
        mth__emit_options o = random_emit_options(seed);
        mth__program *p = emit_plan(random_graph(a, seed), &o), *again = NULL;
        int before = unit_failures;
        CHECK_STATUS(mth__program_verify(p));
        const char *fault = plain_verify(a, p, seed);
        CHECK(fault == NULL);
        const char *text = plan_text(p);
        CHECK_STATUS(mth__program_parse(a, text, &again));
        if (again) {
            CHECK_STATUS(mth__program_verify(again));
            CHECK(strcmp(text, plan_text(again)) == 0);
        }
        if (unit_failures != before) {
            printf("seed %u: %s\n%s\n", seed, fault ? fault : "", text);
            break;
        }
        mth__arena_free(a);
    }
    a = outer;
}

/* ---------------------------------------------------------------- mutants */
static mth__program *mutated;

static bool is_channel(const mth__instr *k) { return mth__has_channel(k); }
static bool is_wait(const mth__instr *k) { return k->kind == MTH__WAIT; }
static bool has_operand(const mth__instr *k) { return k->nin > 0; }
static bool is_accumulating(const mth__instr *k) { return k->accumulates; }
static bool is_any(const mth__instr *k) { return k != NULL; }

/* A random instruction of the kind, or -1. */
static int pick_instr(const mth__role *r, bool (*kind)(const mth__instr *)) {
    for (int tries = 0; r->instr.n && tries < 40; tries++) {
        int i = pick(r->instr.n);
        if (kind(&r->instr.at[i])) return i;
    }
    return -1;
}
static void remove_instr(mth__role *r, int i) {
    memmove(&r->instr.at[i], &r->instr.at[i + 1], (r->instr.n - (size_t)i - 1) * sizeof *r->instr.at);
    r->instr.n--;
}
static void swap_instrs(mth__role *r, int i, int j) {
    mth__instr t = r->instr.at[i];
    r->instr.at[i] = r->instr.at[j];
    r->instr.at[j] = t;
}
static int writer_of(const mth__role *r, int v) {
    for (size_t i = 0; i < r->instr.n; i++)
        for (int j = 0; j < r->instr.at[i].nout; j++)
            if (r->instr.at[i].out[j] == v) return (int)i;
    return -1;
}
static int pick_value(const mth__role *r, mth__storage storage) {
    for (int tries = 0; r->value.n && tries < 40; tries++) {
        int v = pick(r->value.n);
        if (r->value.at[v].storage == storage && r->value.at[v].bytes) return v;
    }
    return -1;
}

/* Each changes the role, or returns false. `certain`: whatever it does must be refused; else the plain walk says
 * whether it must. */
static bool drop(mth__role *r, bool (*kind)(const mth__instr *)) {
    int i = pick_instr(r, kind);
    if (i >= 0) remove_instr(r, i);
    return i >= 0;
}
static bool swap(mth__role *r, bool (*kind)(const mth__instr *)) {
    int i = pick_instr(r, kind), j = pick_instr(r, kind);
    if (i >= 0 && j >= 0) swap_instrs(r, i, j);
    return i >= 0 && j >= 0;
}
static bool drop_channel(mth__role *r) { return drop(r, is_channel); }
static bool drop_wait(mth__role *r) { return drop(r, is_wait); }
static bool drop_any(mth__role *r) { return drop(r, is_any); }
static bool swap_any(mth__role *r) { return swap(r, is_any); }
static bool swap_channels(mth__role *r) { return swap(r, is_channel); }
static bool rename_channel(mth__role *r) {
    int i = pick_instr(r, is_channel);
    if (i < 0 || mutated->channel.n < 2) return false;
    r->instr.at[i].channel = (r->instr.at[i].channel + 1 + pick(mutated->channel.n - 1)) % (int)mutated->channel.n;
    return true;
}
static bool repeat_instr(mth__role *r) {
    int i = pick_instr(r, is_any);
    if (i < 0) return false;
    mth__instr k = r->instr.at[i];
    PUSH(a, r->instr, k);
    return true;
}
static bool overlap_ranges(mth__role *r) {
    int v = pick_value(r, MTH__IN_SLAB), w = pick_value(r, MTH__IN_SLAB);
    if (v < 0 || r->value.at[v].offset == r->value.at[w].offset ||
        r->value.at[w].offset + r->value.at[v].bytes > r->slab[MTH__DEVICE])
        return false;
    r->value.at[v].offset = r->value.at[w].offset;
    return true;
}
/* A value of the slab goes into an exit, where its time may be over too late or its bytes too many. */
static bool lend_exit(mth__role *r) {
    int v = pick_value(r, MTH__IN_SLAB), e = v < 0 ? -1 : pick_value(r, MTH__IN_EXIT);
    if (e < 0 || r->value.at[v].bytes == 0) return false;
    r->value.at[v].storage = MTH__IN_LENT;
    r->value.at[v].index = r->value.at[e].index;
    r->value.at[v].offset = pick(2) ? 0 : 64;
    return true;
}
static bool move_borrower(mth__role *r) {
    int v = pick_value(r, MTH__IN_LENT), e = v < 0 ? -1 : pick_value(r, MTH__IN_EXIT);
    if (e < 0 || r->value.at[v].bytes == 0 || r->value.at[v].index == r->value.at[e].index) return false;
    r->value.at[v].index = r->value.at[e].index;
    return true;
}
static bool misplace_borrower(mth__role *r) {
    int v = pick_value(r, MTH__IN_LENT);
    if (v < 0) return false;
    const int64_t wrong[] = {-64, 32, 1 << 20};
    r->value.at[v].offset = wrong[pick(3)];
    return r->value.at[v].bytes > 0;
}
static bool read_later_value(mth__role *r) {
    int i = pick_instr(r, has_operand), v = i < 0 ? -1 : pick(r->value.n), w = v < 0 ? -1 : writer_of(r, v);
    if (i < 0 || w < i) return false;
    r->instr.at[i].in[pick((size_t)r->instr.at[i].nin)] = v;
    return true;
}
static bool read_other_value(mth__role *r) {
    int i = pick_instr(r, has_operand);
    if (i >= 0) r->instr.at[i].in[pick((size_t)r->instr.at[i].nin)] = pick(r->value.n);
    return i >= 0;
}
static bool wrong_local_shape(mth__role *r) {
    int v = pick(r->value.n);
    if (v < 0 || r->value.at[v].local.rank == 0) return false;
    mth__program_value *x = &r->value.at[v];
    x->local.dim[pick((size_t)x->local.rank)]++;
    x->bytes = mth__shape_size(x->local) * (int64_t)mth_dtype_size(x->dtype);
    return true;
}
static bool partial_as_value(mth__role *r) {
    for (size_t v = 0; v < r->value.n; v++)
        if (r->value.at[v].sharding.partial) {
            r->value.at[v].sharding.partial = 0;
            return true;
        }
    return false;
}
static bool value_as_partial(mth__role *r) {
    for (size_t v = 0; v < r->value.n; v++)
        if (r->value.at[v].memory != MTH__MEMORY_COMMUNICATION &&
            !mth__sharding_axes(&r->value.at[v].sharding, r->value.at[v].shape.rank) &&
            r->value.at[v].sharding.on->naxes && !r->value.at[v].sharding.partial) {
            r->value.at[v].sharding.partial = 1;
            return true;
        }
    return false;
}
static int pick_split_view(const mth__role *r, int *d) {
    int v = pick_value(r, MTH__IN_ALIAS);
    for (*d = 0; v >= 0 && *d < r->value.at[v].shape.rank; ++*d)
        if (r->value.at[v].sharding.dim[*d].naxes) return v;
    return -1;
}
static bool unsplit_view(mth__role *r) { /* every device's part said to be the whole */
    int d, v = pick_split_view(r, &d);
    if (v < 0) return false;
    r->value.at[v].shape.dim[d] = r->value.at[v].local.dim[d];
    r->value.at[v].sharding.dim[d] = (mth__split){0};
    return true;
}
static bool shift_view(mth__role *r) { /* the ends of rows and the beginnings of the next */
    int d, v = pick_split_view(r, &d);
    if (v < 0) return false;
    mth__program_value *x = &r->value.at[v];
    const int64_t element = (int64_t)mth_dtype_size(x->dtype), room = r->value.at[x->index].bytes - x->bytes;
    if (x->local.dim[d] < 2 || room == 0) return false;
    x->offset += x->offset < room ? element : -element;
    return true;
}
static bool shrink_slab(mth__role *r) {
    if (!r->slab[MTH__DEVICE]) return false;
    r->slab[MTH__DEVICE] -= 64;
    return r->slab[MTH__DEVICE] > 0;
}
static bool lose_exit(mth__role *r) {
    int v = pick_value(r, MTH__IN_EXIT);
    if (v < 0) return false;
    r->value.at[v].storage = MTH__IN_SLAB;
    r->value.at[v].offset = (r->slab[MTH__DEVICE] + 63) / 64 * 64;
    r->slab[MTH__DEVICE] = r->value.at[v].offset + r->value.at[v].bytes;
    return true;
}

/* Sums so far: their instruction, and the value; -1 where the role has none with bytes. */
static int pick_sum(const mth__role *r, int *sum) {
    int i = pick_instr(r, is_accumulating);
    if (i < 0) return -1;
    const mth__instr *k = &r->instr.at[i];
    *sum = k->in[mth__accumulator(k->op, k->nin, 0)];
    return r->value.at[*sum].bytes ? i : -1;
}
static bool unwritten_sum(mth__role *r) {
    int sum, i = pick_sum(r, &sum);
    if (i >= 0) remove_instr(r, writer_of(r, sum));
    return i >= 0;
}
static bool read_sum_later(mth__role *r) {
    int sum, i = pick_sum(r, &sum), j = pick_instr(r, has_operand);
    if (i < 0 || j <= i) return false;
    r->instr.at[j].in[pick((size_t)r->instr.at[j].nin)] = sum;
    return true;
}
static bool read_sum_beside(mth__role *r) {
    int sum, i = pick_sum(r, &sum);
    if (i >= 0) r->instr.at[i].in[pick(2)] = sum;
    return i >= 0;
}
static bool sum_elsewhere(mth__role *r) {
    int sum, i = pick_sum(r, &sum);
    if (i < 0) return false;
    mth__program_value *to = &r->value.at[r->instr.at[i].out[0]];
    if (to->storage != MTH__IN_SLAB) return false;
    to->offset = (r->slab[MTH__DEVICE] + 63) / 64 * 64;
    r->slab[MTH__DEVICE] = to->offset + to->bytes;
    return true;
}
static bool forget_sum(mth__role *r) {
    int i = pick_instr(r, is_accumulating);
    if (i >= 0) r->instr.at[i].accumulates = false;
    return i >= 0;
}
static bool claim_sum(mth__role *r) { /* an operand said to be a sum */
    int i = pick_instr(r, has_operand);
    if (i < 0 || r->instr.at[i].accumulates) return false;
    r->instr.at[i].accumulates = true;
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
    mth__arena *outer = a;
    int made[MUTATIONS] = {0}, bad[MUTATIONS] = {0}, refused[MUTATIONS] = {0};
    for (unsigned seed = 0; seed < 400; seed++)
        for (int m = 0; m < MUTATIONS; m++) {
            a = mth__arena_new();
            mth__emit_options o = random_emit_options(seed);
            mth__program *p = emit_plan(random_graph(a, seed), &o);
            state = seed * 40503u + (unsigned)m;
            mutated = p;
            if (mutations[m].change(&p->role.at[pick(p->role.n)])) {
                made[m]++;
                mth_status s = mth__program_verify(p);
                refused[m] += s != NULL;
                const char *fault = s ? NULL : plain_verify(a, p, seed);
                bad[m] += s != NULL || fault != NULL;
                if (!s && (mutations[m].certain || fault)) {
                    unit_failures++;
                    printf("seed %u, %s: %s, and verifies\n%s\n", seed, mutations[m].name, fault ? fault : "wrong",
                        plan_text(p));
                }
                if (s) {
                    const char *what = mth_error_get_message(s);
                    bool named = strstr(what, "role ") || strstr(what, "channel c") || strstr(what, "exit ");
                    CHECK(named);
                    if (!named) puts(what);
                    mth_error_free(s);
                }
            }
            mth__arena_free(a);
            if (unit_failures > 3) seed = 1000, m = MUTATIONS;
        }
    a = outer;
    for (int m = 0; m < MUTATIONS; m++) {
        CHECK(refused[m] > 10);
        if (getenv("SHOW")) printf("%-20s %4d made, %4d refused\n", mutations[m].name, made[m], refused[m]);
    }
}

/* ---------------------------------------------------------------- refusals by name */
static mth__graph *graph_of(mth__builder *b, int devices) {
    mth__graph *g = mth__graph_new(a, MESH(a, devices));
    *b = builder(g);
    return g;
}
static void refused(const mth__graph *g, const char *why) {
    mth__program *p = emit_plan(g, &(mth__emit_options){.views = true});
    if (p) CHECK_FAILS(mth__program_verify(p), MTH_ERROR_VALUE, why);
}

GUARDED(partial_sums_are_no_values) {
    mth__builder b;
    for (int k = 0; k < 4; k++) {
        mth__graph *g = graph_of(&b, 2);
        const mth__placement *on = mth__place_whole(g->mesh);
        mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(4, 8), on, SPLIT(-1, 0));
        mth__value *w = source(g, MTH__VALUE_PARAMETER, "w", SHAPE(8, 4), on, SPLIT(0, -1));
        mth__value *bias = source(g, MTH__VALUE_PARAMETER, "bias", SHAPE(4), on, NULL);
        mth__value *y = contract(&b, "bi,io->bo", x, w, on, NULL, 1);
        if (k == 0) y = node1(&b, "relu", NULL, y, on, NULL, 1);
        if (k == 1) y = node2(&b, "add", NULL, y, bias, on, NULL, 1);
        if (k == 2) y = node2(&b, "mul", NULL, y, y, on, NULL, 1);
        output(g, "y", k == 3 ? y : node1(&b, "all_reduce", &(mth__attrs){.axes = 1}, y, on, NULL, 0));
        static const char *const why[] = {"relu: uses %3, a partial sum, as a value",
            "add: bias and the other operands are partial sums over different axes",
            "mul: multiplies %3 with another partial sum", "exit 0, y, is a partial sum"};
        refused(g, why[k]);
    }
}

/* Added to a sum that is whole, a partial sum would have that counted by every device. */
GUARDED(partial_sums_are_added_to_partial_sums) {
    mth__builder b;
    for (int k = 0; k < 3; k++) {
        mth__graph *g = graph_of(&b, 2);
        const mth__placement *on = mth__place_whole(g->mesh);
        const mth__attrs spec = {.spec = "bi,bo->io"}, axis = {.axes = 1};
        mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(4, 8), on, SPLIT(0, -1));
        if (k == 2) x->sharding = split_by(on, x->shape, NULL);
        mth__value *sum = contract(&b, spec.spec, x, x, on, NULL, k < 2);
        if (k == 0) sum = node1(&b, "all_reduce", &axis, sum, on, NULL, 0);
        mth__value *total = contract(&b, spec.spec, x, x, on, NULL, k < 2);
        total->node->in = NEW_ARRAY(a, mth__value *, 3);
        total->node->in[0] = total->node->in[1] = x;
        total->node->in[2] = sum;
        total->node->nin = 3;
        total->node->accumulates = true;
        output(g, "y", k == 2 ? total : node1(&b, "all_reduce", &axis, total, on, NULL, 0));
        if (k == 0)
            refused(g, "which is a partial sum over other axes than");
        else
            CHECK_STATUS(mth__program_verify(emit_plan(g, &(mth__emit_options){.views = true})));
    }
}

GUARDED(splits_must_agree) {
    mth__builder b;
    for (int k = 0; k < 4; k++) {
        mth__graph *g = graph_of(&b, 2);
        const mth__placement *on = mth__place_whole(g->mesh);
        mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(4, 8), on,
            k == 0       ? NULL
                : k == 3 ? SPLIT(-1, -1)
                         : SPLIT(-1, 0));
        mth__value *w = source(g, MTH__VALUE_PARAMETER, "w", SHAPE(8, 4), on, SPLIT(0, -1));
        if (k < 2) x = contract(&b, "bi,io->bo", x, w, on, NULL, 0);
        if (k == 2) x = node1(&b, "softmax", &(mth__attrs){.dimension = 1}, x, on, SPLIT(-1, 0), 0);
        if (k == 3) x = node1(&b, "exp", NULL, x, on, SPLIT(0, -1), 0);
        output(g, "y", x);
        static const char *const why[] = {"dimension 0 of w is split otherwise", "%2 is said to be whole",
            "dimension 1 of x is split, and must be whole", "is split otherwise"};
        refused(g, why[k]);
    }
}

/* 10 rows over 3 devices are 4, 4, 2, and 6, 4 and none by 6: the second device has as many either way, but others. */
GUARDED(equal_sizes_are_not_equal_parts) {
    mth__builder b;
    mth__graph *g = graph_of(&b, 3);
    const mth__placement *on = mth__place_whole(g->mesh);
    mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(10), on, SPLIT(0)),
               *y = node1(&b, "exp", NULL, x, on, SPLIT(0), 0);
    output(g, "y", y);
    mth__program *p = emit_plan(g, &(mth__emit_options){.views = true});
    CHECK_STATUS(mth__program_verify(p));
    mth__role *r = &p->role.at[p->role_of[1]];
    for (size_t v = 0; v < r->value.n; v++)
        if (r->value.at[v].storage == MTH__IN_EXIT) r->value.at[v].sharding.dim[0].grain = 6;
    int32_t second = 1;
    r->device = &second; /* that of device 1 alone: checked before the other roles */
    r->ndevice = 1;
    p->role_of = (const int32_t[]){1, 0, 1};
    CHECK_FAILS(mth__program_verify(p), MTH_ERROR_VALUE, "dimension 0 of");
}

/* A reshape of a split value: heads of 4 columns, two heads a device. The view's shardings and offsets that would show
 * other elements. */
GUARDED(views_show_what_they_say) {
    mth__builder b;
    for (int k = 0; k < 5; k++) {
        mth__graph *g = graph_of(&b, 2);
        const mth__placement *on = mth__place_whole(g->mesh);
        mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(6, 16), on, SPLIT(-1, 0));
        mth__value *rows = node1(&b, "slice", &(mth__attrs){.start = 2, .stop = 5}, x, on, SPLIT(-1, 0), 0);
        mth__value *heads =
            node1(&b, "reshape", &(mth__attrs){.rank = 3, .shape = {3, 4, 4}}, rows, on, SPLIT(-1, 0, -1), 0);
        output(g, "y", node1(&b, "exp", NULL, heads, on, SPLIT(-1, 0, -1), 0));
        mth__program *p = emit_plan(g, &(mth__emit_options){.views = true});
        mth__program_value *v = NULL;
        for (size_t i = 0; i < p->role.at[0].value.n; i++)
            if (p->role.at[0].value.at[i].shape.rank == 3 && p->role.at[0].value.at[i].storage == MTH__IN_ALIAS)
                v = &p->role.at[0].value.at[i];
        CHECK(v != NULL);
        if (!v) break;
        if (k == 1) v->offset += 16; /* half a row on */
        if (k == 2) v->offset += 32; /* a row on: the rows of another slice */
        if (k == 3) v->shape.dim[1] = 2, v->sharding.dim[1] = (mth__split){0};
        if (k == 4) { /* the right half of each head in place of the second half of the heads */
            v->shape = SHAPE(3, 2, 8);
            v->sharding.dim[2] = v->sharding.dim[1];
            v->sharding.dim[1] = (mth__split){0};
        }
        static const char *const why[] = {"", "shows rows of x that are not its own", "",
            "split over other axes than x", "shows rows of x that are not its own"};
        if (*why[k])
            CHECK_FAILS(mth__program_verify(p), MTH_ERROR_VALUE, why[k]);
        else
            CHECK_STATUS(mth__program_verify(p));
    }
}

/* Rows 2 and 3 of the 8 that each device has: a reshape, a slice of each part, and a reshape. */
GUARDED(a_piece_of_each_part_is_a_view) {
    mth__builder b;
    mth__graph *g = graph_of(&b, 2);
    const mth__placement *on = mth__place_whole(g->mesh);
    mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(16, 3), on, SPLIT(0, -1));
    mth__value *parts = node1(&b, "reshape", &(mth__attrs){.rank = 3, .shape = {2, 8, 3}}, x, on, SPLIT(0, -1, -1), 0);
    mth__value *piece =
        node1(&b, "slice", &(mth__attrs){.dimension = 1, .start = 2, .stop = 4}, parts, on, SPLIT(0, -1, -1), 0);
    mth__value *rows = node1(&b, "reshape", &(mth__attrs){.rank = 2, .shape = {4, 3}}, piece, on, SPLIT(0, -1), 0);
    output(g, "y", node1(&b, "exp", NULL, rows, on, SPLIT(0, -1), 0));
    CHECK_STATUS(mth__program_verify(emit_plan(g, &(mth__emit_options){.views = true})));
}

GUARDED(a_deadlock_names_who_waits) {
    mth__builder b;
    mth__graph *g = graph_of(&b, 2);
    const mth__placement *first = mth__place_device(g->mesh, 0), *second = mth__place_device(g->mesh, 1);
    mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(4), first, NULL),
               *y = source(g, MTH__VALUE_INPUT, "y", SHAPE(4), second, NULL);
    output(g, "there", node1(&b, "transfer", NULL, x, second, NULL, 0));
    output(g, "here", node1(&b, "transfer", NULL, y, first, NULL, 0));
    mth__program *p = emit_plan(g, &(mth__emit_options){.views = true});
    CHECK_STATUS(mth__program_verify(p));
    swap_instrs(&p->role.at[0], 0, 1); /* receives before it sends, as the other does */
    CHECK_FAILS(mth__program_verify(p), MTH_ERROR_VALUE,
        "role 0 (from device 0), instruction 0, recv c1 (m: transfer): a deadlock: it waits for ever; so do role 1");
}

GUARDED(who_is_missing_is_named) {
    mth__program *p = emit_plan(pipeline(a, MESH(a, 2), 2, 2, 4, 8), &(mth__emit_options){.views = true});
    mth__role *r = &p->role.at[0];
    for (size_t i = 0; i < r->instr.n;)
        if (r->instr.at[i].kind == MTH__SEND || r->instr.at[i].kind == MTH__WAIT)
            remove_instr(r, (int)i);
        else
            i++;
    CHECK_FAILS(mth__program_verify(p), MTH_ERROR_VALUE,
        "channel c0, transfer: device 0 (role 0) must give its part and does not");
}

GUARDED(overlapping_values_are_named) {
    mth__mesh *m = MESH(a, 1);
    mth__graph *g = two_layers(a, m, 8, 32, 64, 16);
    mth__program *p = emit_plan(g, &(mth__emit_options){.views = true});
    mth__role *r = &p->role.at[0];
    r->value.at[r->instr.at[1].out[0]].offset += 64; /* relu beside its operand, not on it */
    r->slab[MTH__DEVICE] += 64;
    CHECK_FAILS(mth__program_verify(p), MTH_ERROR_VALUE,
        "instruction 1, relu: %4 overlaps %3, which lives until instruction 1");
}
RUN()
